//! The network list of a node (spec 04 §15), rendered from the shipped template.

use reservoir_ipamd::config::{Config, Environment};
use reservoir_ipamd::conflist::{NodeAddresses, render};
use serde_json::Value;

use super::{Case, skip};
use crate::Outcome;

const TEMPLATE: &str = include_str!("../../../../deploy/10-aws.conflist");

pub(super) fn rendered(case: &Case) -> Outcome {
    let mut settings: Vec<_> =
        case.config.as_object().into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))).collect();
    if case.setting("ENABLE_IPv6").is_none() {
        settings.push(("ENABLE_IPv4", "true"));
    }
    let (config, _) = Config::read(&Environment::from_iter(settings));
    let address = |key: &str| case.inputs["imds"][key].as_str();
    let node = NodeAddresses {
        ipv4: address("local-ipv4").and_then(|text| text.parse().ok()),
        ipv6: address("ipv6").and_then(|text| text.parse().ok()),
    };
    let Some(expected) = case.expected.get("conflist") else { return skip("it expects no conflist") };
    match render(TEMPLATE, &config, &node) {
        Ok(text) => match serde_json::from_str::<Value>(&text) {
            Ok(got) => case.compared(expected, got),
            Err(error) => Outcome::Failed { expected: expected.to_string(), got: format!("no JSON ({error}): {text}") },
        },
        Err(error) => Outcome::Failed { expected: expected.to_string(), got: error.to_string() },
    }
}
