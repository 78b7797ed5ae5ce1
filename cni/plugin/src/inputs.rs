//! What the runtime says through the environment, and what it must say for which command (spec 04 §2.1).

use std::ffi::OsString;

use reservoir_net::names::{self, InvalidName};

use crate::error::Error;

/// A command of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
    /// None of them.
    Unknown,
}

impl Command {
    /// Reads `CNI_COMMAND`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc, Self::Version]
            .into_iter()
            .find(|command| command.as_str() == text)
            .unwrap_or(Self::Unknown)
    }

    /// As in `CNI_COMMAND`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
            Self::Unknown => "",
        }
    }
}

/// The protocol's environment variables; an absent one is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`
    pub command: String,
    /// `CNI_CONTAINERID`
    pub container_id: String,
    /// `CNI_NETNS`, a path
    pub netns: String,
    /// `CNI_IFNAME`
    pub ifname: String,
    /// `CNI_ARGS`
    pub args: String,
    /// `CNI_PATH`
    pub path: String,
    /// `CNI_NETNS_OVERRIDE`: the plugin's own namespace is meant.
    pub netns_override: bool,
}

impl Environment {
    /// Reads the variables through `get`.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |name| get(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
        let netns_override = text("CNI_NETNS_OVERRIDE");
        Self {
            command: text("CNI_COMMAND"),
            container_id: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            ifname: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
            path: text("CNI_PATH"),
            netns_override: netns_override == "1" || netns_override.eq_ignore_ascii_case("true"),
        }
    }

    /// Whether everything `command` needs is there and well-formed. What is absent is reported together, what is
    /// malformed at once.
    ///
    /// # Errors
    /// Code 4.
    pub fn validate(&self, command: Command) -> Result<(), Error> {
        let pod = matches!(command, Command::Add | Command::Del | Command::Check);
        let netns = matches!(command, Command::Add | Command::Check);
        let path = pod || matches!(command, Command::Status | Command::Gc);
        let mut missing = Vec::new();
        if pod && self.container_id.is_empty() {
            missing.push("CNI_CONTAINERID");
        } else if pod && !is_identifier(&self.container_id) {
            return Err(Error::ContainerId(self.container_id.clone()));
        }
        if netns && self.netns.is_empty() {
            missing.push("CNI_NETNS");
        }
        if pod && self.ifname.is_empty() {
            missing.push("CNI_IFNAME");
        } else if pod {
            validate_interface_name(&self.ifname)?;
        }
        if path && self.path.is_empty() {
            missing.push("CNI_PATH");
        }
        if missing.is_empty() { Ok(()) } else { Err(Error::MissingVariables(missing)) }
    }
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`: container ids and network names.
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn validate_interface_name(name: &str) -> Result<(), Error> {
    let (msg, details) = match names::validate(name) {
        Ok(()) => return Ok(()),
        Err(InvalidName::Empty) => ("interface name is empty", ""),
        Err(InvalidName::TooLong) => ("interface name is too long", "interface name should be less than 16 characters"),
        Err(InvalidName::Dots) => ("interface name is . or ..", ""),
        Err(InvalidName::NotText) => ("interface name is not UTF-8", ""),
        Err(InvalidName::Pattern) => ("interface name contains %", "the kernel would replace it by a number"),
        Err(InvalidName::Characters) => ("interface name contains / or : or whitespace characters", ""),
    };
    Err(Error::InterfaceName { msg, details })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add() -> Environment {
        let values = [
            ("CNI_CONTAINERID", "abc"),
            ("CNI_NETNS", "/n"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/p"),
            ("CNI_NETNS_OVERRIDE", "True"),
        ];
        Environment::read(|name| values.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn missing_variables_are_reported_together_and_in_order() {
        let error = Environment::default().validate(Command::Add).unwrap_err();
        assert_eq!(error.to_string(), "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing");
        let error = Environment::default().validate(Command::Del).unwrap_err();
        assert_eq!(error.to_string(), "required env variables [CNI_CONTAINERID,CNI_IFNAME,CNI_PATH] missing");
        let error = Environment::default().validate(Command::Gc).unwrap_err();
        assert_eq!(error.to_string(), "required env variables [CNI_PATH] missing");
        assert!(Environment::default().validate(Command::Version).is_ok());
        assert!(Environment::default().validate(Command::Unknown).is_ok());
    }

    #[test]
    fn a_malformed_container_id_comes_before_what_is_missing() {
        for id in ["../etc", "-a", "_a", "a b", "a/b", "a\u{e9}"] {
            let env = Environment { container_id: id.to_owned(), netns: String::new(), ..add() };
            let error = env.validate(Command::Add).unwrap_err();
            assert!(matches!(&error, Error::ContainerId(value) if value == id), "{id}: {error}");
            assert_eq!(error.code(), 4);
        }
        assert!(Environment { container_id: "0A_.-z".to_owned(), ..add() }.validate(Command::Add).is_ok());
    }

    #[test]
    fn interface_names_end_at_fifteen_bytes() {
        let named = |name: &str| Environment { ifname: name.to_owned(), ..add() }.validate(Command::Add);
        assert!(named("abcdefghijklmno").is_ok());
        for (name, msg) in [
            ("abcdefghijklmnop", "interface name is too long"),
            ("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", "interface name is too long"),
            (".", "interface name is . or .."),
            ("..", "interface name is . or .."),
            ("a/b", "interface name contains / or : or whitespace characters"),
            ("a:b", "interface name contains / or : or whitespace characters"),
            ("a\tb", "interface name contains / or : or whitespace characters"),
        ] {
            let error = named(name).unwrap_err();
            assert_eq!((error.code(), error.to_string().as_str()), (4, msg), "{name}");
        }
    }

    #[test]
    fn the_override_is_true_in_any_case_or_one() {
        assert!(add().netns_override);
        assert!(!Environment::read(|_| Some("yes".into())).netns_override);
    }
}
