//! What holds whatever anybody calls: addresses are neither lost nor given twice, a refused call changes nothing, and one
//! seed is one history. A failing run is cut down to the fewest calls that still fail before it is shown.

mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use common::{INSTANCE_TAG, SUBNET, creation, dual};
use reservoir_core::cloud::{Answer, CloudError, CreateInterface, Request};
use reservoir_core::policy::Unit;
use reservoir_sim::model::aws::InterfaceType;
use reservoir_sim::model::config::{DelaysConfig, InstanceConfig};
use reservoir_sim::model::delays::Random;
use reservoir_sim::model::operator::Attach;
use reservoir_sim::{Config, Sim, Violation};

const NODES: [&str; 3] = [common::NODE, "i-2", "i-3"];

/// One step, as numbers: what they mean depends on what there is when it is taken, so that any part of a run is a run.
#[derive(Debug, Clone, Copy)]
struct Step {
    what: u32,
    node: u32,
    pick: u32,
    count: u32,
    pause_ms: u32,
}

fn steps(seed: u64, n: usize) -> Vec<Step> {
    let mut r = Random::new(seed);
    let mut step = || Step {
        what: r.below(100),
        node: r.below(3),
        pick: r.below(1 << 20),
        count: r.below(6),
        pause_ms: r.below(1500),
    };
    (0..n).map(|_| step()).collect()
}

fn world(seed: u64) -> Sim {
    let delays: DelaysConfig = serde_json::from_str(
        r#"{"profile":"eventual","attached":1,"detached":2,"create_visible":[0,1],"imds_stuck_share":0.1}"#,
    )
    .unwrap();
    let mut config = Config { delays, seed, flaky: 0.03, eni_quota: 14, ..dual("c6in.32xlarge") };
    config.subnets[0].cidr = "10.0.32.0/25".parse().unwrap();
    config.subnets[0].reservations = serde_json::from_str(r#"[{"cidr":"10.0.32.96/28","type":"prefix"}]"#).unwrap();
    config.instances.push(InstanceConfig::new(NODES[1], "m5.xlarge", SUBNET));
    config.instances.push(InstanceConfig::new(NODES[2], "t3.small", SUBNET));
    Sim::new(&config).unwrap()
}

/// Takes one step; what came of it.
fn take(s: &mut Sim, now: &mut Duration, number: usize, step: Step) -> Option<Result<Answer, CloudError>> {
    *now += Duration::from_millis(u64::from(step.pause_ms));
    let (at, node) = (*now, NODES[step.node as usize]);
    let enis: Vec<_> = s.enis().cloned().collect();
    let eni = enis[step.pick as usize % enis.len()].clone();
    let unit = if step.pick.is_multiple_of(4) { Unit::Prefix } else { Unit::Ip };
    let count = step.count;
    let request = match step.what {
        0..15 => Request::CreateNetworkInterface(CreateInterface {
            unit,
            ipv6_addresses: step.pick % 3,
            tags: vec![(INSTANCE_TAG.into(), node.into())],
            // Some tokens come twice.
            ..creation(count, &format!("t{}", number - step.pick as usize % 2))
        }),
        15..30 => {
            let card = step.pick % 2;
            Request::AttachNetworkInterface { eni: eni.id, instance: node.into(), device_index: count, card }
        }
        30..40 => match eni.attachment {
            Some(a) => Request::DetachNetworkInterface { attachment: a.id },
            None => Request::DeleteNetworkInterface { eni: eni.id },
        },
        40..48 => Request::DeleteNetworkInterface { eni: eni.id },
        48..60 => Request::UnassignPrivateIpAddresses {
            eni: eni.id,
            addresses: eni.secondary.into_iter().take(count as usize).collect(),
            prefixes: eni.prefixes.into_iter().take(1).collect(),
        },
        60..66 => Request::AssignIpv6Prefix { eni: eni.id },
        66..72 => {
            Request::UnassignIpv6Prefixes { eni: eni.id, prefixes: eni.ipv6_prefixes.into_iter().take(1).collect() }
        }
        72..75 => Request::DescribeNetworkInterfaces { ids: vec![eni.id] },
        75..78 => Request::AttachedInterfaces,
        78 => {
            let _ = s.attach_trunk(at, node);
            return None;
        }
        79 => {
            let kind = if step.pick.is_multiple_of(2) { InterfaceType::EfaOnly } else { InterfaceType::Efa };
            let _ = s.attach_interface(at, &Attach { addresses: count, ..Attach::to(node).kind(kind) });
            return None;
        }
        80 => {
            let _ = s.fragment(SUBNET, count);
            return None;
        }
        81 | 82 => {
            let _ = s.vacate(SUBNET);
            return None;
        }
        83 if node == NODES[2] && step.pick.is_multiple_of(5) => {
            let _ = s.terminate(at, node);
            return None;
        }
        _ => Request::AssignPrivateIpAddresses { eni: eni.id, unit, count },
    };
    Some(s.call(at, node, request).1)
}

/// Everything that addresses depend on.
fn books(s: &Sim) -> String {
    let enis: Vec<_> = s.enis().map(|e| (&e.id, e.addresses(), e.status())).collect();
    format!("{enis:?} {:?}", s.subnets().collect::<Vec<_>>())
}

/// The first step after which something does not hold, and what.
fn run(seed: u64, steps: &[Step]) -> Result<(), (usize, String)> {
    let (mut s, mut now) = (world(seed), Duration::ZERO);
    for (number, &step) in steps.iter().enumerate() {
        let at = now + Duration::from_millis(u64::from(step.pause_ms));
        s.advance(at);
        let before = books(&s);
        let outcome = take(&mut s, &mut now, number + 1, step);
        check(&s, &before, outcome.as_ref()).map_err(|what| (number, what))?;
    }
    Ok(())
}

fn check(s: &Sim, before: &str, outcome: Option<&Result<Answer, CloudError>>) -> Result<(), String> {
    let books_and_sharing = |v: &Violation| matches!(v.name(), "accounting" | "accounting_ipv6" | "shared_address");
    if let Some(violation) = s.audit().into_iter().find(books_and_sharing) {
        return Err(violation.to_string());
    }
    if let Some(Err(error)) = outcome
        && books(s) != before
    {
        return Err(format!("refused with {error}, and changed something"));
    }
    let given = match outcome {
        Some(Ok(Answer::Assigned { addresses, prefixes })) => {
            let prefixes = prefixes.iter().map(|p| p.network());
            addresses.iter().copied().chain(prefixes).map(IpAddr::V4).collect()
        }
        Some(Ok(Answer::Ipv6Prefixes(prefixes))) => prefixes.iter().map(|p| p.network()).collect(),
        _ => Vec::new(),
    };
    let distinct: BTreeSet<_> = given.iter().collect();
    if distinct.len() != given.len() {
        return Err(format!("{given:?} names one twice"));
    }
    let holders = |a: &IpAddr| s.enis().filter(|e| owns(e, *a)).count();
    match given.iter().find(|a| holders(a) != 1) {
        Some(address) => Err(format!("{address} was given and is on {} interfaces", holders(address))),
        None => Ok(()),
    }
}

fn owns(eni: &reservoir_sim::model::aws::Eni, address: IpAddr) -> bool {
    let addresses = eni.addresses();
    match address {
        IpAddr::V4(a) => addresses.blocks().any(|b| b.contains(a)),
        IpAddr::V6(_) => addresses.ipv6_blocks().any(|b| b.contains(address)),
    }
}

/// Takes ever smaller pieces out as long as what is left still fails.
fn shrink(steps: Vec<Step>, fails: impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut steps = steps;
    let mut piece = steps.len() / 2;
    while piece > 0 {
        let mut from = 0;
        while from < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(from..(from + piece).min(steps.len()));
            if fails(&fewer) {
                steps = fewer;
            } else {
                from += piece;
            }
        }
        piece /= 2;
    }
    steps
}

#[test]
fn addresses_are_neither_lost_nor_given_twice_and_a_refusal_changes_nothing() {
    for seed in 0..12 {
        let all = steps(seed, 500);
        if let Err((number, what)) = run(seed, &all) {
            let fewest = shrink(all[..=number].to_vec(), |some| run(seed, some).is_err());
            panic!("seed {seed}, step {number}: {what}; fewest steps: {fewest:#?}: {:?}", run(seed, &fewest));
        }
    }
}

#[test]
fn the_random_runs_reach_all_kinds_of_ends() {
    let mut seen = BTreeSet::new();
    for seed in 0..12 {
        let (mut s, mut now) = (world(seed), Duration::ZERO);
        for (number, step) in steps(seed, 500).into_iter().enumerate() {
            take(&mut s, &mut now, number + 1, step);
        }
        for (api, count) in s.journal().counts() {
            let done = count.calls > count.errors.values().sum();
            seen.extend(done.then(|| format!("{api}: ok")));
            seen.extend(count.errors.keys().map(|code| format!("{api}: {code}")));
        }
    }
    for expected in [
        "CreateNetworkInterface: ok",
        "CreateNetworkInterface: InsufficientFreeAddressesInSubnet",
        "CreateNetworkInterface: InsufficientCidrBlocks",
        "CreateNetworkInterface: NetworkInterfaceLimitExceeded",
        "CreateNetworkInterface: IdempotentParameterMismatch",
        "AttachNetworkInterface: ok",
        "AttachNetworkInterface: InvalidParameterValue",
        "AttachNetworkInterface: AttachmentLimitExceeded",
        "DetachNetworkInterface: ok",
        "DetachNetworkInterface: OperationNotPermitted",
        "DeleteNetworkInterface: ok",
        "DeleteNetworkInterface: InvalidParameterValue",
        "AssignPrivateIpAddresses: ok",
        "AssignPrivateIpAddresses: PrivateIpAddressLimitExceeded",
        "AssignPrivateIpAddresses: InsufficientFreeAddressesInSubnet",
        "AssignPrivateIpAddresses: InsufficientCidrBlocks",
        "UnassignPrivateIpAddresses: ok",
        "AssignIpv6Addresses: ok",
        "UnassignIpv6Addresses: ok",
    ] {
        assert!(seen.contains(expected), "no {expected} in {seen:#?}");
    }
}

#[test]
fn one_seed_is_one_history() {
    let day = |seed| {
        let (mut s, mut now) = (world(seed), Duration::ZERO);
        let steps = steps(7, 400);
        let all: Vec<_> = steps.into_iter().enumerate().map(|(n, step)| take(&mut s, &mut now, n + 1, step)).collect();
        let log: Vec<String> = s.journal().records().map(|r| serde_json::to_string(r).unwrap()).collect();
        (format!("{all:?}"), log, books(&s), format!("{:?}", s.links(now)))
    };
    assert_eq!(day(1), day(1));
    assert_ne!(day(1).2, day(2).2);
}

#[test]
fn a_failing_run_is_cut_down_to_what_matters() {
    let all = steps(1, 200);
    let needed = [all[20].pick, all[150].pick];
    let fewest = shrink(all, |some| needed.iter().all(|n| some.iter().any(|s| s.pick == *n)));
    assert_eq!(fewest.iter().map(|s| s.pick).collect::<Vec<_>>(), needed);
}
