//! Tests that need root and programs say so when they cannot run; they never pass in silence.

/// Whether all of it is here. If not, one loud line says what is missing.
#[must_use]
pub fn can_run(test: &str, programs: &[&str]) -> bool {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    for program in programs {
        if !on_path(program) {
            missing.push(format!("the program {program}"));
        }
    }
    if missing.is_empty() {
        return true;
    }
    eprintln!("SKIPPED: {test}: needs {}", missing.join(", "));
    false
}

/// Whether the program can be found.
#[must_use]
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
