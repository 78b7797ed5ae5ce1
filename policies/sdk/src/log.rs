//! Lines in the node's log: all that a policy can reach outside itself. In a native build, such as a test, they go to
//! stderr.
//!
//! The host keeps 256 bytes of a line and 16 lines of a call, and writes 64 lines a minute.

pub use crate::bindings::sizing::reservoir::policy::log::Level;

/// Writes one line.
pub fn write(level: Level, line: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::sizing::reservoir::policy::log::write(level, line);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?}: {line}");
}

/// For the author.
pub fn debug(line: &str) {
    write(Level::Debug, line);
}

/// For the operator who looks.
pub fn info(line: &str) {
    write(Level::Info, line);
}

/// For the operator who should look.
pub fn warn(line: &str) {
    write(Level::Warn, line);
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_native_build_can_log() {
        super::debug("d");
        super::info("i");
        super::warn("w");
    }
}
