//! Our steps in the words of the vectors.

use reservoir_net::Errno;
use reservoir_net::plan::{Op, Route, Scope, Side, Step, Tolerate};
use reservoir_net::rule::{Family, Rule};
use serde_json::{Value, json};

/// The name of an operation.
pub(super) fn name(op: &Op) -> &'static str {
    match op {
        Op::LinkAddVeth(_) => "link_add_veth",
        Op::LinkAddVlan(_) => "link_add_vlan",
        Op::LinkDel { .. } => "link_del",
        Op::LinkUp { .. } => "link_up",
        Op::LinkMtu { .. } => "link_mtu",
        Op::LinkRename { .. } => "link_rename",
        Op::AddressAdd { .. } => "addr_add",
        Op::AddressDel { .. } => "addr_del",
        Op::RouteAdd(_) => "route_add",
        Op::RouteReplace(_) => "route_replace",
        Op::RouteDel(_) => "route_del",
        Op::RuleAdd(_) => "rule_add",
        Op::RuleDel(_) => "rule_del",
        Op::NeighbourAdd { .. } => "neigh_add",
        Op::Sysctl { .. } => "sysctl",
        Op::WaitDad { .. } => "wait_dad",
    }
}

/// One step. With `in_pod` host operations say so, as in cases about the pod's namespace.
pub(super) fn step(step: &Step, in_pod: bool) -> Value {
    let mut value = match &step.op {
        Op::LinkAddVeth(v) => json!({
            "name": v.name, "mtu": v.mtu, "txqlen": 0, "up": true,
            "peer": {"name": v.peer, "mtu": v.mtu, "txqlen": 0, "mac": v.peer_mac.to_string(), "netns": "host"},
        }),
        Op::LinkAddVlan(v) => {
            json!({"name": v.name, "vlan_id": v.id, "parent_index": v.parent, "mac": v.mac.to_string()})
        }
        Op::LinkDel { device } | Op::LinkUp { device } => json!({"dev": device}),
        Op::LinkMtu { device, mtu } => json!({"dev": device, "mtu": mtu}),
        Op::LinkRename { device, name } => json!({"dev": device, "name": name}),
        Op::AddressAdd { device, address, .. } | Op::AddressDel { device, address } => {
            json!({"dev": device, "address": address.to_string()})
        }
        Op::RouteAdd(r) | Op::RouteReplace(r) | Op::RouteDel(r) => route(r),
        Op::RuleAdd(r) | Op::RuleDel(r) => rule(r),
        Op::NeighbourAdd { device, address, mac } => {
            json!({"dev": device, "ip": address, "lladdr": mac.to_string(), "state": "permanent"})
        }
        Op::Sysctl { key, value } => json!({"key": key, "value": value}),
        Op::WaitDad { device, timeout } => {
            json!({"dev": device, "timeout_ms": u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)})
        }
    };
    value["op"] = name(&step.op).into();
    if in_pod && step.side == Side::Host {
        value["netns"] = "host".into();
    }
    if step.repeat {
        value["repeat_until"] = "ENOENT".into();
    } else if let (Some(tolerate), false) = (tolerated(step.tolerate), matches!(step.op, Op::LinkDel { .. })) {
        // The vectors look a link up before they delete it.
        value["tolerate"] = tolerate;
    }
    if step.attempts > 1 {
        value["retry"] = json!({"attempts": step.attempts});
    }
    value
}

fn tolerated(tolerate: Tolerate) -> Option<Value> {
    match tolerate {
        Tolerate::Nothing => None,
        Tolerate::Anything => Some(json!(["any"])),
        Tolerate::Errors(errors) => Some(errors.iter().map(|&e| Value::from(errno(e))).collect()),
    }
}

fn errno(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => "ENOENT",
        Errno::EXIST => "EEXIST",
        Errno::SRCH => "ESRCH",
        Errno::NODEV => "ENODEV",
        Errno::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        _ => "another",
    }
}

fn route(route: &Route) -> Value {
    let mut value = json!({"dst": route.destination.to_string(), "table": route.table});
    if route.scope != Scope::Nowhere {
        value["scope"] = route.scope.to_string().into();
    }
    if let Some(device) = &route.device {
        value["dev"] = device.as_str().into();
    }
    if let Some(gateway) = route.gateway {
        value["via"] = gateway.to_string().into();
    }
    if let Some(source) = route.source {
        value["src"] = source.to_string().into();
    }
    value
}

fn rule(rule: &Rule) -> Value {
    let family = match rule.family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let mut value = json!({"priority": rule.priority, "table": rule.table, "family": family});
    for (key, prefix) in [("from", rule.from), ("to", rule.to)] {
        if let Some(prefix) = prefix {
            value[key] = prefix.to_string().into();
        }
    }
    if let Some(iif) = &rule.iif {
        value["iif"] = iif.as_str().into();
    }
    if let Some(fwmark) = rule.fwmark {
        value["fwmark"] = format!("{:#x}/{:#x}", fwmark.mark, fwmark.mask).into();
    }
    value
}

/// The expected operations without those an implementation may leave out: a deletion directly before the replacement
/// of the same route (conventions, "ops tolerance").
pub(super) fn effective(expected: &Value) -> Vec<Value> {
    let all = expected.as_array().map(Vec::as_slice).unwrap_or_default();
    let replaced_at_once = |index: usize| {
        let (del, Some(next)) = (&all[index], all.get(index + 1)) else { return false };
        let same = |key: &str| del[key] == next[key];
        del["op"] == "route_del"
            && next["op"] == "route_replace"
            && ["dst", "table", "dev", "via"].into_iter().all(same)
    };
    (0..all.len()).filter(|&index| !replaced_at_once(index)).map(|index| all[index].clone()).collect()
}
