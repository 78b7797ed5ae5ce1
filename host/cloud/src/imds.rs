//! The instance metadata service: a client ([`Imds`], spec 03 §2) and what the daemon reads through it (§3 to §5).

mod client;
mod metadata;
#[cfg(test)]
mod tests;
mod token;

pub(crate) use client::chain;
pub use client::{Imds, ImdsError};
pub(crate) use metadata::Metadata;

use crate::config::ConfigError;

/// How to reach the metadata service (spec 03 §1.2).
#[derive(Debug, Clone, Default)]
pub struct ImdsConfig {
    /// `AWS_EC2_METADATA_SERVICE_ENDPOINT`; wins over `mode`. Empty is unset.
    pub endpoint: Option<String>,
    /// `AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE`.
    pub mode: EndpointMode,
    /// `AWS_EC2_METADATA_DISABLED`: every read fails.
    pub disabled: bool,
    /// `AWS_EC2_METADATA_V1_DISABLED`: no read without a token.
    pub v1_disabled: bool,
}

/// Which of the two well-known addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EndpointMode {
    #[default]
    Ipv4,
    Ipv6,
}

impl std::str::FromStr for EndpointMode {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "ipv4" | "" => Ok(Self::Ipv4),
            "ipv6" => Ok(Self::Ipv6),
            _ => Err(ConfigError::Value {
                variable: "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
                value: text.to_owned(),
                expected: "IPv4 or IPv6",
            }),
        }
    }
}
