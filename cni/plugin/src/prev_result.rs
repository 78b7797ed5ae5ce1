//! `prevResult`: what the plugins before this one returned, or in DEL and CHECK what ADD did.

use serde_json::{Map, Value};

use crate::json::{object, text};
use crate::version::{CniVersion, ResultFormat};

/// Why a previous result cannot be read. The doubled words are the ones operators know.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrevResultError {
    #[error("could not parse prevResult: result type supports [{supported}] but unmarshalled CNIVersion is {got:?}")]
    Version {
        /// What the configuration's version can hold.
        supported: &'static str,
        /// What was found.
        got: String,
    },
    #[error("could not parse prevResult: {0}")]
    Decode(String),
}

/// The previous result in a configuration, if there is one.
///
/// # Errors
/// It is something else than an object.
pub fn of(conf: &Map<String, Value>) -> Result<Option<&Map<String, Value>>, String> {
    object(conf, "prevResult")
}

/// Whether a configuration of `version` can hold this result, that is, whether both have the same form. A result without
/// version has the configuration's.
///
/// # Errors
/// It cannot.
pub fn check_version(result: &Map<String, Value>, version: CniVersion) -> Result<(), PrevResultError> {
    let own = text(result, "cniVersion").map_err(PrevResultError::Decode)?.unwrap_or_default();
    if own.is_empty() || CniVersion::parse(own).map(CniVersion::format) == Some(version.format()) {
        return Ok(());
    }
    let supported = match version.format() {
        ResultFormat::Addresses => " 0.1.0 0.2.0",
        ResultFormat::Interfaces => "0.3.0 0.3.1 0.4.0",
        ResultFormat::Current => "1.0.0 1.1.0",
    };
    Err(PrevResultError::Version { supported, got: own.to_owned() })
}
