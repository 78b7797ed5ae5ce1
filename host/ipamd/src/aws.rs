//! The SDK's own variables that our clients honour too (spec 03 §1.2).

use std::path::PathBuf;

use reservoir_cloud::imds::{EndpointMode, ImdsConfig};
use reservoir_cloud::{CloudConfig, ConfigError};

use crate::config::{Config, Environment, Report};

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
        mode: mode.parse().unwrap_or_else(|error: ConfigError| {
            report.fatal(MODE, Some(mode), error.parts().2);
            EndpointMode::Ipv4
        }),
        disabled: truth("AWS_EC2_METADATA_DISABLED"),
        v1_disabled: truth("AWS_EC2_METADATA_V1_DISABLED"),
    };
    Sdk { imds, ca_bundle: text("AWS_CA_BUNDLE").map(PathBuf::from) }
}

/// What the cloud edge is made of.
#[must_use]
pub fn cloud_config(config: &Config, sdk: Sdk) -> CloudConfig {
    CloudConfig {
        imds: sdk.imds,
        ca_bundle: sdk.ca_bundle,
        ec2_endpoint: config.identity.ec2_endpoint.clone(),
        http_timeout: config.identity.http_timeout,
        version: config.identity.cni_version.clone(),
    }
}

/// Adds what cannot work to `report`: nothing of it changes while the daemon runs.
pub fn check(config: &Config, sdk: &Sdk, report: &mut Report) {
    for problem in cloud_config(config, sdk.clone()).problems() {
        let (variable, value, wrong) = problem.parts();
        report.fatal(variable, Some(&value), wrong);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_told_together() {
        let pairs = [
            ("ENABLE_IPv4", "true"),
            ("AWS_EC2_ENDPOINT", "foo"),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "169.254.169.254"),
            ("AWS_CA_BUNDLE", "/nonexistent/ca.pem"),
        ];
        let environment: Environment = pairs.into_iter().collect();
        let (read, mut report) = Config::read(&environment);
        let sdk = config(&environment, &mut report);
        assert!(!report.is_fatal(), "{report}");
        check(&read, &sdk, &mut report);
        let told: Vec<_> = report.problems().iter().map(|p| (p.variable.as_str(), p.value.as_deref())).collect();
        let pairs = pairs.map(|(name, value)| (name, Some(value)));
        assert_eq!(told, [pairs[2], pairs[1], pairs[3]], "{report}");
        assert!(report.is_fatal() && report.to_string().contains("https://ec2.us-west-2.amazonaws.com"), "{report}");
    }
}
