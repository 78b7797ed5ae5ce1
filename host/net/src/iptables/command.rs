//! The programs `iptables`, `iptables-save` and `iptables-restore`.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use crate::error::Error;
use crate::writes;

/// Which kernel interface the programs use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Legacy,
    Nft,
}

/// What `iptables --version` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Major, minor, patch.
    pub number: (u32, u32, u32),
    pub mode: Mode,
}

/// The form of the connmark rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Chains of `iptables` (spec 04 §11.2).
    Iptables,
    /// A table of nftables (spec 04 §11.3).
    Nftables,
}

impl Version {
    /// Reads `iptables v1.8.9 (nf_tables)`. Without a mode it is older than 1.8 and legacy (spec 04 §11.1, DW-20).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mode = if text.contains("nf_tables") { Mode::Nft } else { Mode::Legacy };
        let digits = text.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
        let mut parts = digits.split('.').map(|part| part.parse().ok());
        let number = (parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0));
        Some(Self { number, mode })
    }

    /// The form of the connmark rules that goes with it (spec 04 §11.1).
    #[must_use]
    pub fn backend(self) -> Backend {
        match self.mode {
            Mode::Legacy => Backend::Iptables,
            Mode::Nft => Backend::Nftables,
        }
    }

    /// Whether `--random-fully` is known (spec 04 §10.3).
    #[must_use]
    pub fn has_random_fully(self) -> bool {
        self.number >= (1, 6, 2)
    }
}

#[derive(Debug)]
pub(super) struct Programs {
    iptables: String,
}

impl Programs {
    pub(super) fn new(iptables: &str) -> Self {
        Self { iptables: iptables.to_owned() }
    }

    pub(super) fn version(&self) -> Result<Version, Error> {
        let text = run(&self.iptables, &["--version"], None)?;
        Version::parse(&text).ok_or_else(|| Error::Command {
            program: self.iptables.clone(),
            message: format!("--version says {:?}, which names no version", text.trim()),
        })
    }

    pub(super) fn save(&self, table: &str) -> Result<String, Error> {
        run(&format!("{}-save", self.iptables), &["-t", table], None)
    }

    /// All tables that there are; unlike [`Programs::save`] it makes none by looking.
    pub(super) fn save_present(&self) -> Result<String, Error> {
        run(&format!("{}-save", self.iptables), &[], None)
    }

    pub(super) fn restore(&self, script: &str) -> Result<(), Error> {
        writes::count(|w| w.firewall += 1);
        run(&format!("{}-restore", self.iptables), &["--noflush", "--wait"], Some(script)).map(drop)
    }
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// [`Error::Command`], with what it said on stderr.
pub(crate) fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, Error> {
    printed(program, output(program, arguments, input)?)
}

/// As [`run`], for a question about something that may be absent: what iptables says with exit code 1.
///
/// # Errors
/// As `run`.
pub(crate) fn look(program: &str, arguments: &[&str]) -> Result<Option<String>, Error> {
    let output = output(program, arguments, None)?;
    if output.status.code() == Some(1) { Ok(None) } else { printed(program, output).map(Some) }
}

fn output(program: &str, arguments: &[&str], input: Option<&str>) -> Result<Output, Error> {
    let cannot = |error: std::io::Error| Error::Command {
        program: program.to_owned(),
        message: format!("cannot be run: {error}; is iptables installed?"),
    };
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    // Our scripts are far smaller than what the program reads before it answers. If it dies first, its exit tells more
    // than the broken pipe.
    let _broken_pipe = input.zip(child.stdin.take()).map(|(text, mut pipe)| pipe.write_all(text.as_bytes()));
    child.wait_with_output().map_err(cannot)
}

fn printed(program: &str, output: Output) -> Result<String, Error> {
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let message = format!("{}: {}", output.status, stderr.trim());
        return Err(Error::Command { program: program.to_owned(), message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let nft = Version::parse("iptables v1.8.9 (nf_tables)\n").unwrap();
        assert_eq!(nft, Version { number: (1, 8, 9), mode: Mode::Nft });
        let old = Version::parse("iptables v1.6.1").unwrap();
        assert_eq!(old.mode, Mode::Legacy);
        assert!(!old.has_random_fully());
        assert!(Version::parse("iptables v1.6.2").unwrap().has_random_fully());
        assert_eq!(Version::parse("not iptables"), None);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Programs::new("iptables-of-nowhere").version().unwrap_err().to_string();
        assert!(error.starts_with("iptables-of-nowhere: cannot be run"), "{error}");
    }
}
