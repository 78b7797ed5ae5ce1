//! The SDK's own variables that our clients honour too (spec 03 §1.2).

use std::path::PathBuf;

use reservoir_cloud::imds::{EndpointMode, ImdsConfig};

use crate::config::{Environment, Report};

/// How to reach AWS, as the SDK's variables say.
#[derive(Debug, Clone, Default)]
pub struct Sdk {
    pub imds: ImdsConfig,
    /// `AWS_CA_BUNDLE`.
    pub ca_bundle: Option<PathBuf>,
}

/// How to reach the metadata service and whom to trust. Values that cannot work are fatal: there is no node without it.
#[must_use]
pub fn config(environment: &Environment, report: &mut Report) -> Sdk {
    const MODE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE";
    let text = |name: &str| environment.get(name).filter(|v| !v.is_empty());
    let truth = |name: &str| text(name).is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let mode = text(MODE).unwrap_or_default();
    let imds = ImdsConfig {
        endpoint: text("AWS_EC2_METADATA_SERVICE_ENDPOINT").map(str::to_owned),
        mode: mode.parse().unwrap_or_else(|error| {
            report.fatal(MODE, Some(mode), format!("{error}"));
            EndpointMode::Ipv4
        }),
        disabled: truth("AWS_EC2_METADATA_DISABLED"),
        v1_disabled: truth("AWS_EC2_METADATA_V1_DISABLED"),
    };
    Sdk { imds, ca_bundle: text("AWS_CA_BUNDLE").map(PathBuf::from) }
}
