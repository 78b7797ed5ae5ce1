//! Programs as independent witnesses.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a program and returns what it printed.
///
/// # Errors
/// It cannot be run, or it fails: with what it said.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} cannot be run"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The same inside a named network namespace.
///
/// # Errors
/// As [`run`].
pub fn in_netns(netns: &str, program: &str, arguments: &[&str]) -> Result<String> {
    let mut all = vec!["netns", "exec", netns, program];
    all.extend(arguments);
    run("ip", &all)
}

/// One HTTP GET inside a namespace.
///
/// # Errors
/// As [`run`]; also for a status other than 2xx.
pub fn get(netns: &str, url: &str) -> Result<String> {
    in_netns(netns, "curl", &["--silent", "--show-error", "--fail", "--max-time", "10", url])
}
