//! Errors in the words and codes of the protocol (CNI specification, "Error"; spec 04 §2.1, §2.6).

use std::io;

use serde::Serialize;

use crate::inputs::Command;
use crate::json::{clip, to_indented};
use crate::version::CniVersion;

/// Why the plugin exits with 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration's `cniVersion` is none of ours.
    #[error("incompatible CNI versions")]
    IncompatibleVersion(String),
    /// The command is younger than the configuration's `cniVersion`.
    #[error("config version does not allow {}", .0.as_str())]
    NotInThisVersion(Command),
    /// `CNI_COMMAND` is none of ours.
    #[error("unknown CNI_COMMAND: {0}")]
    UnknownCommand(String),
    /// Parameters the command needs are absent.
    #[error("required env variables [{}] missing", .0.join(","))]
    MissingVariables(Vec<&'static str>),
    /// `CNI_CONTAINERID` has characters that are not allowed.
    #[error("invalid characters in containerID")]
    ContainerId(String),
    /// `CNI_IFNAME` is no name the kernel takes.
    #[error("{msg}")]
    InterfaceName {
        /// What is wrong with it.
        msg: &'static str,
        /// More about it.
        details: &'static str,
    },
    /// Stdin cannot be read.
    #[error("error reading from stdin: {0}")]
    Stdin(io::Error),
    /// Stdin is not a network configuration.
    #[error("error unmarshall network config: {0}")]
    Decode(String),
    /// The configuration has no `name`.
    #[error("missing network name")]
    NoNetworkName,
    /// The configuration's `name` has characters that are not allowed.
    #[error("invalid characters found in network name")]
    NetworkName(String),
    /// `CNI_NETNS` is the namespace the plugin runs in.
    #[error("plugin's netns and netns from CNI_NETNS should not be the same")]
    SameNamespace,
    /// STATUS: an ADD would fail.
    #[error("the plugin is not available: {msg}")]
    NotAvailable {
        /// What it lacks.
        msg: &'static str,
        /// More about it.
        details: String,
    },
    /// Whatever the plugin's own work runs into; the text is complete.
    #[error("{0}")]
    Plugin(String),
    /// The same, with a reason that is not part of the text operators search for.
    #[error("{msg}")]
    Explained {
        /// The text.
        msg: String,
        /// The reason.
        details: String,
    },
}

/// The longest text in an error object.
const MAX_TEXT_BYTES: usize = 16 * 1024;

#[derive(Serialize)]
struct ErrorJson<'a> {
    code: u32,
    msg: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

impl Error {
    /// The protocol's number for it; 999 for everything of the plugin's own.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::IncompatibleVersion(_) | Self::NotInThisVersion(_) => 1,
            Self::UnknownCommand(_) | Self::MissingVariables(_) | Self::ContainerId(_) | Self::InterfaceName { .. } => {
                4
            }
            Self::Stdin(_) => 5,
            Self::Decode(_) => 6,
            Self::NoNetworkName | Self::NetworkName(_) => 7,
            Self::SameNamespace => 8,
            Self::NotAvailable { .. } => 50,
            Self::Plugin(_) | Self::Explained { .. } => 999,
        }
    }

    fn details(&self) -> String {
        match self {
            Self::IncompatibleVersion(config) => {
                let ours = CniVersion::ALL.map(|version| format!("{:?}", version.as_str())).join(" ");
                format!("config is {config:?}, plugin supports [{ours}]")
            }
            Self::ContainerId(value) | Self::NetworkName(value) => value.clone(),
            Self::InterfaceName { details, .. } => (*details).to_owned(),
            Self::NotAvailable { details, .. } | Self::Explained { details, .. } => details.clone(),
            Self::NotInThisVersion(_)
            | Self::UnknownCommand(_)
            | Self::MissingVariables(_)
            | Self::Stdin(_)
            | Self::Decode(_)
            | Self::NoNetworkName
            | Self::SameNamespace
            | Self::Plugin(_) => String::new(),
        }
    }

    /// As printed on stdout.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Whatever went into them: a runtime puts both into events and logs.
        let (msg, details) = (self.to_string(), self.details());
        let msg = clip(&msg, MAX_TEXT_BYTES).into_owned();
        to_indented(&ErrorJson { code: self.code(), msg, details: &clip(&details, MAX_TEXT_BYTES) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_as_the_protocol_wants() {
        let text = Error::Plugin("add cmd: failed to assign an IP address to container".to_owned()).to_json();
        let expected =
            "{\n    \"code\": 999,\n    \"msg\": \"add cmd: failed to assign an IP address to container\"\n}";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_foreign_version_is_told_what_we_speak() {
        let json = Error::IncompatibleVersion("9.9.9".to_owned()).to_json();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["code"], 1);
        let details = r#"config is "9.9.9", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#;
        assert_eq!(value["details"], details);
    }
}
