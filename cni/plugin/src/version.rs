//! The versions of the CNI protocol the plugin speaks.

use serde_json::json;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// Also what a configuration without `cniVersion` means.
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// Versions that share one form of result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultFormat {
    /// 0.1.0, 0.2.0: one address per family, no interfaces.
    Addresses,
    /// 0.3.0 to 0.4.0.
    Interfaces,
    /// 1.0.0, 1.1.0: the addresses' family is no longer named.
    Current,
}

impl CniVersion {
    /// All of them, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// As written in `cniVersion`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Reads `cniVersion`; empty counts as 0.1.0.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = if text.is_empty() { "0.1.0" } else { text };
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// The form of results in this version.
    #[must_use]
    pub fn format(self) -> ResultFormat {
        match self {
            Self::V0_1_0 | Self::V0_2_0 => ResultFormat::Addresses,
            Self::V0_3_0 | Self::V0_3_1 | Self::V0_4_0 => ResultFormat::Interfaces,
            Self::V1_0_0 | Self::V1_1_0 => ResultFormat::Current,
        }
    }
}

/// The answer to VERSION.
#[must_use]
pub fn report() -> String {
    let newest = CniVersion::V1_1_0.as_str();
    json!({"cniVersion": newest, "supportedVersions": CniVersion::ALL.map(CniVersion::as_str)}).to_string()
}
