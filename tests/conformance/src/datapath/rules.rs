//! Rules and settings of the host.

use std::net::IpAddr;
use std::time::Duration;

use reservoir_core::ip::Ipv4Net;
use reservoir_net::host::{self, HostConfig};
use reservoir_net::iptables::ruleset as iptables;
use reservoir_net::iptables::{desired, diff};
use reservoir_net::netlink::retry_dump;
use reservoir_net::plan::{Op, Step};
use reservoir_net::rule::{Family, Rule};
use reservoir_net::{Errno, pods};
use serde_json::{Map, Value};

use super::{Case, claims, plain, skip};
use crate::Outcome;

/// What ipamd sets the host up with, by the case's variables.
pub(super) fn config(case: &Case) -> HostConfig {
    let on = |name: &str| case.setting(name) == Some("true");
    HostConfig {
        node_port: case.setting("AWS_VPC_CNI_NODE_PORT_SUPPORT") != Some("false"),
        external_snat: on("AWS_VPC_K8S_CNI_EXTERNALSNAT"),
        mark: mark(case),
        disable_tcp_early_demux: on("DISABLE_TCP_EARLY_DEMUX"),
        family: if on("ENABLE_IPv6") { Family::V6 } else { Family::V4 },
        v6_egress: on("ENABLE_V6_EGRESS"),
        strict_branches: on("ENABLE_POD_ENI") && case.setting("POD_SECURITY_GROUP_ENFORCING_MODE") != Some("standard"),
        ..HostConfig::DOCUMENTED
    }
}

pub(super) fn host_rules(case: &Case) -> Outcome {
    if case.expected["chain"].is_string() || case.expected["inserted"].is_boolean() {
        return node_local(case);
    }
    let config = config(case);
    let family = config.family;
    if case.expected["sysctls"].is_object() {
        return settings(case, &config);
    }
    // The reference deletes and adds; ours looks. Both must lead to the same rules from either start.
    let kernels = Rule::local(family, 0);
    for before in [vec![kernels.clone()], vec![kernels, Rule::marked_in(family, config.mark)]] {
        let ours = after(before.clone(), &host::plan_rules(&config, &before));
        let theirs = replay(before, &case.expected["ops"]);
        if ours != theirs {
            return Outcome::Failed { expected: format!("{theirs:?}"), got: format!("{ours:?}") };
        }
    }
    Outcome::Passed
}

/// The rule that keeps others away from the addresses which pods use for egress in the other family (spec 04 §8.3).
fn node_local(case: &Case) -> Outcome {
    let (family, tool) = match case.setting("ENABLE_IPv6") {
        Some("true") => (Family::V4, "iptables"),
        _ => (Family::V6, "ip6tables"),
    };
    let wanted = desired::node_local_block(family, true);
    let other = iptables::Rule::parse("-j KUBE-FORWARD");
    let chain = iptables::Chain { name: "FORWARD".to_owned(), rules: vec![other] };
    let mut filter = iptables::Table { name: "filter".to_owned(), chains: vec![chain] };
    let insert = |table: &iptables::Table| diff::diff(std::slice::from_ref(&wanted), table);
    if case.inputs["rule_present"] == true {
        let edits = insert(&filter);
        diff::apply(&mut filter, &edits);
    }
    let edits = insert(&filter);
    if case.expected["inserted"].is_boolean() {
        return case.compared(&case.expected["inserted"], !edits.is_empty());
    }
    let [diff::Edit::Insert(chain, rule)] = edits.as_slice() else {
        return Outcome::Failed { expected: "one rule inserted".to_owned(), got: format!("{edits:?}") };
    };
    let words = case.expected["rule"].as_array().into_iter().flatten().filter_map(|w| w.as_str().map(str::to_owned));
    let theirs = iptables::Rule::new(words.collect());
    claims(&[
        ("the program", case.expected["tool"] == tool, tool.to_owned()),
        ("the table", case.expected["table"] == wanted.table, wanted.table.to_owned()),
        ("the chain", case.expected["chain"] == chain.as_str(), chain.clone()),
        ("the place", case.expected["position"] == 1, "1".to_owned()),
        ("the rule", theirs.canonical() == rule.canonical(), rule.to_string()),
    ])
}

pub(super) fn mark(case: &Case) -> u32 {
    let text = case.setting("AWS_VPC_K8S_CNI_CONNMARK").unwrap_or("0x80");
    text.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0x80)
}

fn settings(case: &Case, config: &HostConfig) -> Outcome {
    let missing = case.inputs["missing_files"].as_array();
    let got: Map<String, Value> = host::plan_settings(config, case.text("primary_interface"))
        .into_iter()
        .filter_map(|step| match step.op {
            Op::Sysctl { key, value } => {
                let absent = missing.is_some_and(|list| list.contains(&Value::from(key.as_str())));
                (!absent).then(|| (key, Value::from(value)))
            }
            _ => None,
        })
        .collect();
    case.compared(&case.expected["sysctls"], Value::from(got))
}

/// The rules after our steps, sorted.
fn after(mut rules: Vec<Rule>, steps: &[Step]) -> Vec<String> {
    for step in steps {
        match &step.op {
            Op::RuleAdd(rule) if !rules.contains(rule) => rules.push(rule.clone()),
            Op::RuleDel(rule) => remove(&mut rules, rule),
            _ => {}
        }
    }
    sorted(&rules)
}

/// The rules after the reference's operations, sorted.
fn replay(mut rules: Vec<Rule>, ops: &Value) -> Vec<String> {
    for op in ops.as_array().into_iter().flatten() {
        match (op["op"].as_str(), plain::rule(op)) {
            (Some("rule_add"), Some(rule)) if !rules.contains(&rule) => rules.push(rule),
            (Some("rule_del"), Some(rule)) => remove(&mut rules, &rule),
            _ => {}
        }
    }
    sorted(&rules)
}

fn remove(rules: &mut Vec<Rule>, rule: &Rule) {
    if let Some(at) = rules.iter().position(|r| r == rule) {
        rules.remove(at);
    }
}

fn sorted(rules: &[Rule]) -> Vec<String> {
    let mut lines: Vec<String> = rules.iter().map(ToString::to_string).collect();
    lines.sort_unstable();
    lines
}

pub(super) fn rule_update(case: &Case) -> Outcome {
    if let Some(results) = case.inputs["dump_results"].as_array() {
        return dump(case, results);
    }
    let existing = plain::rules(&case.inputs["existing_rules"]);
    let steps = if let Ok(address) = case.text("allocated_ip").parse::<IpAddr>() {
        pods::plan_refresh(address, &existing)
    } else if let Some(list) = case.setting("AWS_EXTERNAL_SERVICE_CIDRS") {
        let cidrs: Vec<Ipv4Net> = list.split(',').filter_map(|cidr| cidr.trim().parse().ok()).collect();
        host::plan_external_services(&cidrs, &existing)
    } else {
        return skip("this update is not known here");
    };
    // The same rules in the end; ours leaves right ones alone.
    let mut theirs = existing.clone();
    for rule in plain::rules(&case.expected["rules_deleted"]) {
        remove(&mut theirs, &rule);
    }
    theirs.extend(plain::rules(&case.expected["rules_added"]));
    case.compared(format!("{:?}", sorted(&theirs)), format!("{:?}", after(existing, &steps)))
}

fn dump(case: &Case, results: &[Value]) -> Outcome {
    let mut attempts = 0_usize;
    let mut waits: Vec<Duration> = Vec::new();
    let outcome = retry_dump(
        || {
            attempts += 1;
            match results.get(attempts - 1).and_then(Value::as_str) {
                Some("interrupted") => Err(Errno::INTR),
                Some("ok") | None => Ok(()),
                Some(_) => Err(Errno::IO),
            }
        },
        |wait| waits.push(wait),
    );
    // A retry at once is a wait of nothing.
    let mut all = vec![Duration::ZERO; attempts.saturating_sub(1).saturating_sub(waits.len())];
    all.extend(waits);
    let min = case.expected["waits_ms_min"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    let long_enough = all.iter().zip(min).all(|(wait, min)| wait.as_millis() >= min.into());
    let first = case.expected["first_wait_ms_max"].as_u64().map_or(u128::MAX, u128::from);
    let fails = case.expected["error_contains"].is_string();
    claims(&[
        ("the attempts", case.expected["attempts"] == attempts, attempts.to_string()),
        ("the error", outcome.is_err() == fails, format!("{outcome:?}")),
        ("the waits", long_enough && all.first().is_none_or(|w| w.as_millis() <= first), format!("{all:?}")),
    ])
}
