//! Names, tables, gateways.

use std::net::IpAddr;

use reservoir_core::ip::IpNet;
use reservoir_net::branch::EnforcingMode;
use reservoir_net::rule::{Family, Rule};
use reservoir_net::{IpPrefix, eni, names, pod, table};
use serde_json::{Value, json};

use super::{Case, skip};
use crate::Outcome;

pub(super) fn name(case: &Case) -> Outcome {
    let expected = case.expected;
    let index = case.number("index") as usize;
    if expected["host_veth"].is_string() {
        let name = names::host_veth(case.text("prefix"), case.text("namespace"), case.text("pod"), index);
        case.compared(expected, json!({"host_veth": name, "length": name.len()}))
    } else if expected["container_interface"].is_string() {
        let name = names::container_interface(case.text("cni_ifname"), index);
        case.compared(expected, json!({"container_interface": name}))
    } else if expected["chain"].is_string() {
        super::egress::name(case)
    } else if expected["vlan_device"].is_string() {
        let device = u16::try_from(case.number("vlan_id")).map(names::vlan_device).unwrap_or_default();
        case.compared(expected, json!({"vlan_device": device}))
    } else {
        let mode = EnforcingMode::parse(case.text("enforcing_mode"));
        case.compared(expected, json!({"prefix": mode.veth_prefix(case.text("veth_prefix"))}))
    }
}

pub(super) fn table(case: &Case) -> Outcome {
    let (card, device) = (case.number("card"), case.number("device"));
    if case.inputs["vlan_id"].is_number() {
        let table = u16::try_from(case.number("vlan_id")).ok().and_then(table::of_branch);
        return case.compared(case.expected, json!({"table": table}));
    }
    let got = if case.expected["old_table"].is_number() {
        json!({"old_table": table::of_interface_before_1_19(card, device, case.number("max_enis_per_card"))})
    } else if let Ok(primary) = case.text("primary_ip").parse::<IpAddr>() {
        let rules = rules(&case.inputs["existing_rules"]);
        let choice = table::choose(card, device, primary, case.number("max_enis"), &rules);
        json!({"table": choice.table, "rule_configured": choice.rule_configured})
    } else {
        json!({"table": table::of_interface(card, device)})
    };
    case.compared(case.expected, got)
}

pub(super) fn gateway(case: &Case) -> Outcome {
    if case.inputs["subnet_cidr"].is_string() {
        return match case.text("subnet_cidr").parse::<IpNet>() {
            Ok(subnet) => case.compared(case.expected, json!({"gateway": eni::gateway(subnet)})),
            Err(_) => skip("the subnet cannot be read"),
        };
    }
    let index = case.number("index") as usize;
    case.compared(case.expected, json!({"v4": pod::gateway(index, true), "v6": pod::gateway(index, false)}))
}

/// Rules as the vectors write them.
pub(super) fn rules(list: &Value) -> Vec<Rule> {
    list.as_array().into_iter().flatten().filter_map(rule).collect()
}

pub(super) fn rule(value: &Value) -> Option<Rule> {
    let prefix = |key: &str| value[key].as_str().and_then(|text| text.parse::<IpPrefix>().ok());
    let number = |key: &str| value[key].as_u64().and_then(|n| u32::try_from(n).ok());
    let (priority, table) = (number("priority")?, number("table")?);
    let mut rule = match (prefix("from"), prefix("to")) {
        (Some(from), to) => Rule { to, ..Rule::from(priority, from, table) },
        (None, Some(to)) => Rule::to(priority, to, table),
        (None, None) => Rule { priority, table, fwmark: None, ..Rule::marked(0) },
    };
    if value["family"] == 6 {
        rule.family = Family::V6;
    }
    if let Some(protocol) = value["ipproto"].as_u64() {
        rule.ip_protocol = u8::try_from(protocol).ok();
    }
    if let Some((mark, _)) = value["fwmark"].as_str().and_then(|text| text.split_once('/')) {
        rule.fwmark = Rule::marked(u32::from_str_radix(mark.strip_prefix("0x")?, 16).ok()?).fwmark;
    }
    Some(rule)
}
