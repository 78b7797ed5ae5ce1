//! Pods and secondary interfaces.

use std::net::IpAddr;

use reservoir_net::eni::{self, EniFacts, EniSetup};
use reservoir_net::links;
use reservoir_net::netlink::reply::{AddressInfo, LinkInfo};
use reservoir_net::plan::{OnFailure, Op, Side, Step, apply};
use reservoir_net::pod::{self, PodAddress, PodInterface, PodSetup, plan_interface};
use reservoir_net::rule::{PRIORITY_FROM_INTERFACE, Rule};
use reservoir_net::{Errno, Error, IpPrefix, MacAddr};
use serde_json::{Value, json};

use super::fake::Fake;
use super::{Case, better, claims, ops, plain, skip};
use crate::Outcome;

pub(super) fn pod_setup(case: &Case) -> Outcome {
    match case.text("scope") {
        "container_namespace" => in_container(case),
        "host" => on_host(case),
        other => skip(&format!("scope {other:?} is not known here")),
    }
}

/// `192.168.120.1/32` as an address.
pub(super) fn address(text: &Value) -> Option<IpAddr> {
    text.as_str()?.parse::<IpPrefix>().ok().map(IpPrefix::address)
}

/// From the creation of the pair to the last step inside the pod.
fn in_container(case: &Case) -> Outcome {
    let Some(address) = address(&case.inputs["address"]) else { return skip("no address") };
    let Ok(mac) = case.text("host_mac").parse::<MacAddr>() else { return skip("no MAC address") };
    let interface = PodInterface {
        name: case.text("container_interface").to_owned(),
        host_veth: case.text("host_veth").to_owned(),
        address,
        table: 0,
    };
    let plan = plan_interface(&interface, case.number("index") as usize, case.number("mtu"), mac);
    let mut fake = Fake::new(case.inputs);
    let steps = [plan.create, plan.container].concat();
    let outcome = apply(&steps, &mut fake, OnFailure::Stop);
    let asked: Vec<Value> = fake.asked.iter().map(|s| ops::step(s, true)).collect();
    compare(case, &asked, &outcome)
}

fn on_host(case: &Case) -> Outcome {
    let entries = case.inputs["entries"].as_array().into_iter().flatten();
    let interfaces: Vec<PodInterface> = entries
        .filter_map(|entry| {
            Some(PodInterface {
                name: entry["container_interface"].as_str()?.to_owned(),
                host_veth: entry["host_veth"].as_str()?.to_owned(),
                address: address(&entry["address"])?,
                table: entry["route_table"].as_u64()?.try_into().ok()?,
            })
        })
        .collect();
    let setup = PodSetup { netns: "/var/run/netns/vector".into(), mtu: pod::MAX_MTU, interfaces };
    let mut fake = Fake::new(case.inputs);
    let veth = case.text("veth_setup");
    let fails = !veth.is_empty() && veth != "ok";
    let outcome = pod::wire(&setup, &mut fake, |_| {
        if fails { Err(Error::Kernel { op: "vector".to_owned(), errno: Errno::IO }) } else { Ok(()) }
    });
    let all: Vec<Value> = fake.asked.iter().map(|s| ops::step(s, false)).collect();
    if case.expected["first_ops"].is_array() {
        let first = case.expected["first_ops"].as_array().map_or(0, Vec::len);
        return case.compared(&case.expected["first_ops"], Value::from_iter(all.into_iter().take(first)));
    }
    // These cases are about routes and rules on the host; how the pair is made is the other scope's.
    let is_routing = |s: &&Step| {
        s.side == Side::Host && matches!(s.op, Op::RouteReplace(_) | Op::RuleAdd(_) | Op::RouteDel(_) | Op::RuleDel(_))
    };
    let asked: Vec<Value> = fake.asked.iter().filter(is_routing).map(|s| ops::step(s, false)).collect();
    compare(case, &asked, &outcome)
}

/// Compares what the case fixes: operations, attempted operations, error.
pub(super) fn compare(case: &Case, asked: &[Value], outcome: &Result<(), Error>) -> Outcome {
    let expected = case.expected;
    let got = outcome.as_ref().err().map(ToString::to_string);
    let error = expected["error"].as_str();
    if !error_matches(error, outcome) {
        return Outcome::Failed { expected: format!("error {error:?}"), got: format!("error {got:?}") };
    }
    for key in ["ops", "ops_attempted"] {
        if expected[key].is_array() {
            return case.compared(Value::from(ops::effective(&expected[key])), Value::from(asked.to_vec()));
        }
    }
    Outcome::Passed
}

/// The stable part of an error is all up to the last `: <cause>` (conventions, "error").
fn error_matches(expected: Option<&str>, outcome: &Result<(), Error>) -> bool {
    match (expected, outcome) {
        (None, Ok(())) => true,
        (Some(expected), Err(error)) => match expected.rsplit_once(": ") {
            Some((stable, _)) => error.to_string().starts_with(&format!("{stable}: ")),
            None => match error {
                Error::Kernel { .. } | Error::Exists { .. } => true,
                other => other.to_string() == expected,
            },
        },
        _ => false,
    }
}

pub(super) fn pod_teardown(case: &Case) -> Outcome {
    let errno = |text: &Value| if text == "ok" { Ok(()) } else { Err(Errno::NOENT) };
    if let Some(results) = case.inputs["delete_results"].as_array() {
        let mut fake = Fake::new(case.inputs);
        fake.rules_left = results.iter().map(errno).collect();
        let pod = PodAddress { address: [10, 0, 97, 31].into(), table: 2 };
        let outcome = pod::unwire(&[pod], &mut fake);
        let calls = fake.asked.iter().filter(|s| s.repeat).count();
        return case
            .compared(case.expected, json!({"delete_calls": calls, "error": outcome.err().map(|e| e.to_string())}));
    }
    let entries = case.inputs["entries"].as_array().into_iter().flatten();
    let pods: Vec<PodAddress> = entries
        .filter_map(|entry| {
            let table = entry["route_table"].as_u64()?.try_into().ok()?;
            Some(PodAddress { address: address(&entry["address"])?, table })
        })
        .collect();
    let mut fake = Fake::new(case.inputs);
    let outcome = pod::unwire(&pods, &mut fake);
    if case.is_quirk {
        // Ours goes on with the other entries and then reports the error (DW-9).
        let last = pods.last().map(|p| IpPrefix::host(p.address).to_string()).unwrap_or_default();
        let processed = fake.asked.iter().any(|s| matches!(s.op, Op::RouteDel(_)) && s.op.to_string().contains(&last));
        let text = outcome.err().map(|e| e.to_string()).unwrap_or_default();
        let wanted = case.expected["error_contains"].as_str().unwrap_or_default();
        let outcome = claims(&[
            ("both entries processed", processed, format!("{:?}", fake.asked)),
            ("the error reported", text.contains(wanted), text.clone()),
        ]);
        return better("one entry that fails does not keep the others from being removed (DW-9)", outcome);
    }
    let asked: Vec<Value> = fake.asked.iter().map(|s| ops::step(s, false)).collect();
    compare(case, &asked, &outcome)
}

pub(super) fn eni_setup(case: &Case) -> Outcome {
    if case.text("action") == "free_eni" {
        let primary = case.text("primary_ip").parse::<IpAddr>();
        let existing = plain::rules(&case.inputs["existing_rules"]);
        // An interface without a primary address cannot even be asked for.
        let steps = primary.map(|ip| eni::plan_tear_down(ip, &existing)).unwrap_or_default();
        let deleted = Value::from_iter(steps.iter().map(|s| {
            let Op::RuleDel(rule) = &s.op else { return Value::Null };
            let from = rule.from.map(|f| f.to_string());
            json!({"from": from, "priority": rule.priority, "table": rule.table})
        }));
        return case.compared(&case.expected["rules_deleted"], deleted);
    }
    let (Ok(primary_ip), Ok(subnet)) = (case.text("primary_ip").parse(), case.text("subnet_cidr").parse()) else {
        return skip("no address or no subnet");
    };
    if case.expected["error_kind"] == "link_not_found" {
        let error = links::find(&[], MacAddr([2, 0, 0, 0, 0, 9])).err();
        let looks = case.expected["link_lists"].as_u64().unwrap_or_default();
        let wait = case.expected["wait_between_ms"].as_u64().unwrap_or_default() * looks.saturating_sub(1);
        let is_kind = matches!(error, Some(Error::LinkNotFound { .. }));
        // Ours is told by the kernel instead of looking again; it waits as long.
        let patient = links::APPEARANCE.as_millis() >= wait.into();
        return claims(&[
            ("a kind of error of its own", is_kind, format!("{error:?}")),
            ("as patient as the reference", patient, format!("{:?}", links::APPEARANCE)),
        ]);
    }
    let mtu = case.setting("AWS_VPC_ENI_MTU").and_then(|m| m.parse().ok()).unwrap_or(9001);
    let setup = EniSetup {
        mac: MacAddr([2, 0, 0, 0, 0, 9]),
        primary_ip,
        subnet,
        mtu,
        table: case.number("table"),
        rule_configured: case.inputs["rule_configured"] == true,
        trunk: case.inputs["trunk"] == true,
    };
    // As EC2 attaches one: down, with an MTU of its own.
    let link = LinkInfo {
        index: 3,
        name: case.text("link").to_owned(),
        mac: None,
        mtu: 0,
        up: false,
        peer_index: None,
        peer_elsewhere: false,
    };
    let existing = case.inputs["existing_addresses"].as_array().into_iter().flatten();
    let addresses = existing.filter_map(|a| a.as_str()?.parse().ok());
    let addresses =
        addresses.map(|address| AddressInfo { index: 3, address, secondary: false, tentative: false }).collect();
    let configured = Rule::from(PRIORITY_FROM_INTERFACE, IpPrefix::host(primary_ip), setup.table);
    let rules = if setup.rule_configured { vec![configured] } else { Vec::new() };
    let facts = EniFacts { link, addresses, routes: Vec::new(), rules };
    let mut fake = Fake::new(case.inputs);
    let outcome = eni::carry_out(&setup, &facts, &mut fake);
    if case.is_quirk {
        let touched = fake.asked.iter().find(|s| matches!(s.op, Op::AddressAdd { .. } | Op::AddressDel { .. }));
        let outcome = claims(&[
            ("the address left alone", touched.is_none(), format!("{touched:?}")),
            ("no error", outcome.is_ok(), format!("{outcome:?}")),
        ]);
        return better("an address that is already right is left alone", outcome);
    }
    if case.expected["route_replace_attempts"].is_number() {
        return retries(case, &fake, &outcome);
    }
    let asked: Vec<Value> = fake.asked.iter().map(|s| ops::step(s, false)).collect();
    let asked = asked.into_iter().map(without_address_tolerance).collect::<Vec<_>>();
    compare(case, &asked, &outcome)
}

/// An address that is there already is what was wanted.
fn without_address_tolerance(mut op: Value) -> Value {
    if op["op"] == "addr_add" || op["op"] == "addr_del" {
        op.as_object_mut().and_then(|o| o.remove("tolerate"));
    }
    op
}

fn retries(case: &Case, fake: &Fake, outcome: &Result<(), Error>) -> Outcome {
    let attempts = fake.asked.iter().filter(|s| matches!(s.op, Op::RouteReplace(_))).count();
    let bounds = |key: &str| -> Vec<u128> {
        case.expected[key].as_array().into_iter().flatten().filter_map(|v| v.as_u64().map(u128::from)).collect()
    };
    let waits: Vec<u128> = fake.waits.iter().map(|w| w.as_millis()).collect();
    let (min, max) = (bounds("waits_ms_min"), bounds("waits_ms_max"));
    let within = waits.len() == min.len() && waits.iter().zip(min.iter().zip(&max)).all(|(w, (a, b))| a <= w && w <= b);
    let text = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let wanted = case.expected["error_contains"].as_str().unwrap_or_default();
    claims(&[
        ("the attempts", case.expected["route_replace_attempts"] == attempts, attempts.to_string()),
        ("the waits", within, format!("{waits:?}")),
        ("the error", text.contains(wanted), text.clone()),
    ])
}
