//! The part of the network configuration on stdin that every plugin has. The protocol has error codes of its own for it.

use serde_json::{Map, Value};

use crate::error::Error;
use crate::inputs::{Command, is_identifier};
use crate::json::{clip, text};
use crate::version::CniVersion;

/// A configuration with a name, of a version not yet looked at.
#[derive(Clone, Debug)]
pub struct Header {
    /// `name`: the network.
    pub name: String,
    /// The whole configuration; [`crate::json`] reads its keys.
    pub object: Map<String, Value>,
    version: String,
}

impl Header {
    /// Reads stdin.
    ///
    /// # Errors
    /// Codes 6 and 7.
    pub fn parse(stdin: &[u8]) -> Result<Self, Error> {
        let value: Value = serde_json::from_slice(stdin).map_err(|error| Error::Decode(error.to_string()))?;
        let Value::Object(object) = value else {
            return Err(Error::Decode(format!("it must be a JSON object, but is {}", clip(&value.to_string(), 200))));
        };
        let string = |key| text(&object, key).map(Option::unwrap_or_default).map(str::to_owned).map_err(Error::Decode);
        let (name, version) = (string("name")?, string("cniVersion")?);
        if name.is_empty() {
            return Err(Error::NoNetworkName);
        }
        if !is_identifier(&name) {
            return Err(Error::NetworkName(name));
        }
        Ok(Self { name, object, version })
    }

    /// The protocol version asked for.
    ///
    /// # Errors
    /// Code 1 for one we do not speak.
    pub fn version(&self) -> Result<CniVersion, Error> {
        CniVersion::parse(&self.version).ok_or_else(|| Error::IncompatibleVersion(self.version.clone()))
    }

    /// The same for a command that came into the protocol with `since`.
    ///
    /// # Errors
    /// Code 1, also when the version is older.
    pub fn version_from(&self, since: CniVersion, command: Command) -> Result<CniVersion, Error> {
        let version = self.version()?;
        if version < since { Err(Error::NotInThisVersion(command)) } else { Ok(version) }
    }
}
