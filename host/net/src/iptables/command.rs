//! The programs `iptables`, `iptables-save` and `iptables-restore`.

use std::process::{Command, Output};
use std::time::Duration;

use super::child;
use crate::error::Error;
use crate::writes;

/// How long the programs may take. What a program was to change when its time was over is changed as a whole or not at
/// all: it is one step to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// To wait for another program that holds the lock of iptables, in seconds. kube-proxy holds it for seconds on a node
    /// with thousands of services.
    pub lock: u32,
    /// In all; whoever takes longer is killed.
    pub end: Duration,
}

impl Default for Bound {
    fn default() -> Self {
        Self { lock: 20, end: Duration::from_secs(30) }
    }
}

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

/// `iptables` or one like it, and its `-save` and `-restore`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Programs {
    iptables: String,
    bound: Bound,
}

impl Programs {
    pub(crate) fn new(iptables: &str) -> Self {
        Self { iptables: iptables.to_owned(), bound: Bound::default() }
    }

    pub(crate) fn within(self, bound: Bound) -> Self {
        Self { bound, ..self }
    }

    pub(crate) fn version(&self) -> Result<Version, Error> {
        let text = self.run("", &["--version"], None)?;
        Version::parse(&text).ok_or_else(|| Error::Command {
            program: self.iptables.clone(),
            message: format!("--version says {:?}, which names no version", text.trim()),
        })
    }

    pub(super) fn save(&self, table: &str) -> Result<String, Error> {
        self.run("-save", &["-t", table], None)
    }

    /// All tables that there are; unlike [`Programs::save`] it makes none by looking.
    pub(super) fn save_present(&self) -> Result<String, Error> {
        self.run("-save", &[], None)
    }

    /// The rules of one chain, as `-S` shows them; none where there is no such chain.
    pub(crate) fn rules(&self, table: &str, chain: &str) -> Result<Option<String>, Error> {
        let output = self.output("", &["-t", table, "-S", chain, "--wait", &self.bound.lock.to_string()], None)?;
        // What iptables says of what is not there.
        if output.status.code() == Some(1) { Ok(None) } else { self.printed("", output).map(Some) }
    }

    pub(crate) fn restore(&self, script: &str) -> Result<(), Error> {
        writes::count(|w| w.firewall += 1);
        let arguments = ["--noflush", "--wait", &self.bound.lock.to_string()];
        self.run("-restore", &arguments, Some(script)).map(drop)
    }

    /// Runs a program to its end and returns what it printed.
    fn run(&self, suffix: &str, arguments: &[&str], input: Option<&str>) -> Result<String, Error> {
        self.printed(suffix, self.output(suffix, arguments, input)?)
    }

    fn output(&self, suffix: &str, arguments: &[&str], input: Option<&str>) -> Result<Output, Error> {
        let program = format!("{}{suffix}", self.iptables);
        let mut command = Command::new(&program);
        command.args(arguments).env("LC_ALL", "C");
        match child::run(&mut command, input, self.bound.end) {
            Ok(Some(output)) => Ok(output),
            Ok(None) => {
                let seconds = self.bound.end.as_secs_f64();
                let message = format!("did not end within {seconds} s and was killed; {}", who_holds());
                Err(Error::Held { program, message })
            }
            Err(error) => {
                let message = format!("cannot be run: {error}; is iptables installed?");
                Err(Error::Command { program, message })
            }
        }
    }

    fn printed(&self, suffix: &str, output: Output) -> Result<String, Error> {
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let program = format!("{}{suffix}", self.iptables);
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains("xtables lock") {
            let seconds = self.bound.lock;
            let message = format!("waited {seconds} s for another program's lock in vain; {}", who_holds());
            return Err(Error::Held { program, message });
        }
        let message = format!("{}: {}", output.status, stderr.trim());
        Err(Error::Command { program, message })
    }
}

fn who_holds() -> String {
    let lock = std::env::var("XTABLES_LOCKFILE").unwrap_or_else(|_| "/run/xtables.lock".to_owned());
    format!("the program that holds the lock of iptables must end: `lsof {lock}` names it")
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
