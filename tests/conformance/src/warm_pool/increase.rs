//! `increase`: the EC2 calls of one growth step, by the component and the pool manager, with the failures that the case
//! scripts.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use reservoir_core::cloud::{ErrorKind, Interface, Request};
use reservoir_core::kube::{EniConfig, NodeFacts};
use reservoir_core::manager::{Event, Settings};
use reservoir_core::policy::{Standing, Unit};
use serde_json::{Value, json};

use super::Answer;
use super::case::{Case, PoolState};
use crate::Outcome;
use crate::world::{
    Decider, Ec2, Held, NO_MANAGE_TAG, OTHER_SUBNET, SETTLED, SUBNET, World, interface, limits, settings, subnet,
};

/// All that follows from one step without a pause; a failure shuts the gate for longer.
const STEP: Duration = Duration::from_secs(4);
/// Tagged out of pod use.
const EXCLUDED_SUBNET: &str = "subnet-x";

pub(super) fn run(case: &Case) -> Answer {
    let pool = case.pool()?;
    let (calls, skipped) = expected_calls(case)?;
    let (mut world, cooling) = build(case, &pool, &calls)?;
    world.run(SETTLED)?;
    for ip in cooling {
        world.give_up(ip)?;
    }
    shut_gates(case, &mut world)?;
    world.calls.clear();
    world.ec2.script = calls.iter().filter(|call| is_growth(call)).map(result).collect();
    world.decide_by(Decider::BuiltIn(case.context()));
    let until = world.at + STEP;
    world.run(until)?;

    let expected: Vec<Value> = calls.iter().map(asked).collect();
    let action = case.recommended.as_ref().unwrap_or(&case.expected["action"]);
    let over = matches!(action["kind"].as_str(), Some("failed" | "blocked"));
    let mut got = told(case, &world, &expected);
    if !over {
        // A step that grew is followed by the next one at once.
        got.truncate(expected.len());
    }
    let mut wanted = json!({"calls": expected});
    let mut had = json!({"calls": got});
    if let Some(armed) = action.get("arm_insufficient_cidr_cooldown") {
        wanted["armed"] = armed.clone();
        had["armed"] = json!(armed_for(case.unit(), &mut world));
    }
    if action["kind"] == "blocked" {
        wanted["reason"] = action["reason"].clone();
        had["reason"] = json!(case.growth_shut().unwrap_or("max_enis"));
    }
    if action["kind"] == "resync" {
        let eni = action["eni"].as_str().ok_or("the action names no eni")?;
        wanted["slots_used"] = json!(world.ec2.slots);
        had["slots_used"] = json!(world.manager.cards().slots_used(eni));
    }
    Ok(match skipped {
        Some(reason) => Outcome::better(reason, wanted, had),
        None => Outcome::of(wanted, had),
    })
}

fn is_growth(call: &Value) -> bool {
    matches!(call["call"].as_str(), Some("assign" | "create_eni"))
}

/// The error code that a call is answered with; empty for success.
fn result(call: &Value) -> String {
    call["result"].as_str().filter(|result| *result != "ok").unwrap_or_default().to_owned()
}

/// The calls of the case, without those that ours leaves out, and why it does.
fn expected_calls(case: &Case) -> Result<(Vec<Value>, Option<&'static str>), Outcome> {
    let listed = case.expected["calls"].as_array().ok_or("expected has no calls")?;
    let mut calls: Vec<Value> = Vec::new();
    let mut why = None;
    for call in listed {
        let last = calls.last().filter(|last| last["call"] == "assign" && last["eni"] == call["eni"]);
        if let Some(last) = last
            && call["call"] == "assign"
            && let failed = result(last)
            && !failed.is_empty()
        {
            if ErrorKind::from_code(&failed, "") == ErrorKind::Throttled {
                why = Some("a throttled call is not repeated at once for one unit (spec 01 §15)");
                continue;
            }
            if last["count"] == call["count"] {
                why = Some("what was refused is not asked for a second time at once");
                continue;
            }
        }
        calls.push(call.clone());
    }
    Ok((calls, why))
}

/// What a call of the case asks for.
fn asked(call: &Value) -> Value {
    let mut asked = call.clone();
    if let Some(fields) = asked.as_object_mut() {
        fields.remove("result");
        if fields.get("security_groups").is_some_and(Value::is_null) {
            fields.remove("security_groups");
        }
        if fields.get("subnet").is_some_and(|subnet| subnet == "") {
            fields.remove("subnet");
        }
    }
    asked
}

/// The manager's calls, with the fields that the case's calls at the same place have.
fn told(case: &Case, world: &World, expected: &[Value]) -> Vec<Value> {
    let mut told: Vec<Value> = Vec::new();
    let mut full: Option<&str> = None;
    for (request, code) in &world.calls {
        let call = match request {
            Request::AssignPrivateIpAddresses { eni, count, .. } => {
                full = code.as_deref().filter(|code| *code == "PrivateIpAddressLimitExceeded").map(|_| eni.as_str());
                json!({"call": "assign", "eni": eni, "count": count})
            }
            Request::CreateNetworkInterface(create) => json!({
                "call": "create_eni", "count": create.count, "security_groups": create.security_groups,
                "subnet": create.subnet,
            }),
            Request::DescribeNetworkInterfaces { ids } if full.is_some_and(|eni| *ids == [eni]) => {
                let what = if case.unit() == Unit::Prefix { "prefixes" } else { "ipv4s" };
                json!({"call": format!("describe_eni_{what}"), "eni": full.take()})
            }
            _ => continue,
        };
        let named = expected.get(told.len());
        told.push(named.filter(|e| e["call"] == call["call"]).map_or(call.clone(), |e| super::named(e, &call)));
    }
    told
}

/// Whether every subnet that may be used rests.
fn armed_for(unit: Unit, world: &mut World) -> bool {
    let node = world.snapshot();
    let usable = node.subnets.iter().filter(|subnet| subnet.standing == Standing::Eligible);
    let rest = |subnet: &reservoir_core::policy::Subnet| match unit {
        Unit::Ip => subnet.ips_refused_seconds,
        Unit::Prefix => subnet.prefixes_refused_seconds,
    };
    usable.map(rest).all(|seconds| seconds > 0)
}

/// What stands in the way of growth.
fn shut_gates(case: &Case, world: &mut World) -> Result<(), Outcome> {
    if let Some(seconds) = case.node.since_insufficient_cidr_s {
        world.ec2.script = ["InsufficientFreeAddressesInSubnet"; 4].map(str::to_owned).into();
        world.decide_by(Decider::BuiltIn(case.context()));
        let until = world.at + Duration::from_secs(seconds.into());
        world.run(until)?;
    }
    world.happen(Event::Node(NodeFacts { unschedulable: case.node.unschedulable, ..NodeFacts::default() }));
    if case.node.terminating {
        world.happen(Event::Terminating);
    }
    Ok(())
}

/// The node of the case, and the addresses that are to cool.
fn build(case: &Case, pool: &PoolState, calls: &[Value]) -> Result<(World, Vec<Ipv4Addr>), Outcome> {
    let mut interfaces = Vec::new();
    let mut held = Held::default();
    let mut devices: BTreeMap<u32, u32> = BTreeMap::new();
    let mut next_device = |card: u32| {
        let device = devices.entry(card).or_default();
        *device += 1;
        *device - 1
    };
    for (number, eni) in (0u8..).zip(&pool.enis) {
        let card = eni.network_card;
        let kind = if eni.trunk {
            "trunk"
        } else if eni.efa {
            "efa"
        } else {
            "interface"
        };
        let subnet = if eni.excluded { EXCLUDED_SUBNET } else { SUBNET };
        let mut made = Interface {
            interface_type: kind.to_owned(),
            subnet: subnet.to_owned(),
            ..interface(&eni.id, card, next_device(card))
        };
        let mut note = |ip: Ipv4Addr, nth: u32, assigned: u32, cooling: u32| {
            if nth < assigned {
                held.assigned.push((card, ip));
            } else if nth < assigned + cooling {
                held.cooling.push((card, ip));
            }
        };
        for nth in 0..eni.ips.total {
            let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, number, 0)) + nth);
            made.secondary.push(ip);
            note(ip, nth, eni.ips.assigned, eni.ips.cooldown);
        }
        for (place, prefix) in (0u32..).zip(&eni.prefixes) {
            let first = u32::from(Ipv4Addr::new(10, 1, 128 + number, 0)) + place * 16;
            let net = reservoir_core::ip::Ipv4Net::new(Ipv4Addr::from(first), 28);
            made.prefixes.push(net);
            (0..16).for_each(|nth| note(Ipv4Addr::from(first + nth), nth, prefix.used, prefix.cooldown));
        }
        interfaces.push(made);
    }
    for (card, count) in &pool.unmanaged_enis {
        let card: u32 = card.parse().map_err(|_| "unmanaged_enis: a key is no network card")?;
        for nth in 0..*count {
            let tags = vec![(NO_MANAGE_TAG.to_owned(), "true".to_owned())];
            interfaces.push(Interface { tags, ..interface(&format!("foreign-{card}-{nth}"), card, next_device(card)) });
        }
    }

    // A creation after an exhausted interface means that there is another subnet.
    let elsewhere = calls.iter().position(|call| call["call"] == "create_eni").is_some_and(|at| at > 0);
    let mut subnets = vec![subnet(SUBNET, 1, &[]), subnet(EXCLUDED_SUBNET, 3, &[("kubernetes.io/role/cni", "0")])];
    if elsewhere {
        subnets.push(subnet(OTHER_SUBNET, 2, &[("kubernetes.io/role/cni", "1")]));
    }
    let eni_config = case.node.eni_config.as_ref().map(|found| EniConfig {
        name: "default".to_owned(),
        subnet: found.subnet.clone(),
        security_groups: found.security_groups.clone(),
    });
    subnets.extend(eni_config.iter().map(|config| subnet(&config.subnet, 4, &[])));
    let slots = case.limits.map_or(14, |limits| limits.ips_per_eni);
    let ec2 = Ec2::of(interfaces, subnets, slots);
    let primary = pool.enis.iter().find(|eni| eni.primary == Value::Bool(true)).map_or("eni-0", |eni| eni.id.as_str());
    let mut world = World::start(settings_of(case, primary), ec2, &held);
    world.eni_config = eni_config;
    Ok((world, held.cooling.iter().map(|(_, ip)| *ip).collect()))
}

/// The manager's settings under the environment of the case.
pub(super) fn settings_of(case: &Case, primary: &str) -> Settings {
    let max_enis = case.limits.map_or(4, |limits| limits.max_enis);
    let slots = case.limits.map_or(14, |limits| limits.ips_per_eni);
    let cards = case.managed_cards.clone().unwrap_or_else(|| (0..=case.network_card).collect());
    Settings {
        limits: limits(max_enis, slots, &cards),
        cards,
        max_enis: case.most_enis(),
        max_pods: case.node.max_pods.unwrap_or(10_000),
        unit: case.unit(),
        custom_networking: case.flag("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", false),
        pod_eni: case.flag("ENABLE_POD_ENI", false),
        trunk_compatible: case.node.trunk_capable.unwrap_or(true),
        manage_non_schedulable: case.flag("AWS_MANAGE_ENIS_NON_SCHEDULABLE", false),
        manage_untagged: case.flag("MANAGE_UNTAGGED_ENI", true),
        subnet_discovery: case.flag("ENABLE_SUBNET_DISCOVERY", true),
        cluster_name: case.config.get("CLUSTER_NAME").cloned().unwrap_or_default(),
        targets: case.targets(0),
        ..settings(primary)
    }
}
