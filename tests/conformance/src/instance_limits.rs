//! `instance-limits.json`: the built-in table of instance types, type by type.

use reservoir_core::limits::{Hypervisor, InstanceLimits};
use serde_json::{Value, json};

use crate::CaseResult;

const KIND: &str = "instance_limits";

/// Known by its content: an object of instance types with their interfaces and cards.
pub(crate) fn run(file: &Value) -> Option<Vec<CaseResult>> {
    let types = file.as_object()?;
    let known = |limits: &Value| limits.get("ipv4_per_eni").is_some() && limits.get("network_cards").is_some();
    if types.is_empty() || !types.values().all(known) {
        return None;
    }
    Some(
        types
            .iter()
            .map(|(name, expected)| {
                let got = InstanceLimits::of(name).map_or(Value::Null, |limits| as_json(&limits));
                CaseResult::compared(KIND, name, expected, got)
            })
            .collect(),
    )
}

fn as_json(limits: &InstanceLimits) -> Value {
    let cards: Vec<Value> =
        limits.cards.iter().map(|card| json!({"index": card.index, "max_enis": card.max_enis})).collect();
    json!({
        "enis": limits.enis,
        "ipv4_per_eni": limits.ipv4_per_eni,
        "network_cards": cards,
        "default_card": limits.default_card,
        "hypervisor": match limits.hypervisor {
            Hypervisor::Nitro => "nitro",
            Hypervisor::Xen => "xen",
            Hypervisor::Unknown => "unknown",
        },
        "bare_metal": limits.bare_metal,
    })
}
