//! Pods with branch interfaces.

use reservoir_net::branch::{self, BranchPod, BranchSetup, EnforcingMode};
use reservoir_net::names;
use reservoir_net::plan::{Op, Side};
use reservoir_net::{Errno, Error};
use serde_json::Value;

use super::fake::Fake;
use super::wiring::{address, compare};
use super::{Case, better, claims, ops, skip};
use crate::Outcome;

pub(super) fn setup(case: &Case) -> Outcome {
    let Some(setup) = branch_setup(case) else { return skip("no address, MAC address, gateway or vlan") };
    let fails = !matches!(case.text("veth_setup"), "" | "ok");
    let mut fake = Fake::new(case.inputs);
    let outcome = branch::wire(&setup, &mut fake, |_| {
        if fails { Err(Error::Kernel { op: "vector".to_owned(), errno: Errno::IO }) } else { Ok(()) }
    });
    // How the pair is made, and what is inside the pod, is the business of the cases about pods.
    let is_pair = |op: &Op| match op {
        Op::LinkAddVeth(_) => true,
        Op::LinkUp { device } | Op::LinkDel { device } => *device == setup.pod.host_veth,
        Op::Sysctl { key, .. } => key.contains(&setup.pod.host_veth),
        _ => false,
    };
    let of_host = fake.asked.iter().filter(|s| s.side == Side::Host && !is_pair(&s.op));
    let asked: Vec<Value> = of_host.map(|s| ops::step(s, false)).collect();
    if case.is_quirk {
        // Ours takes an unknown mode for strict (DW-2).
        let table = case.number("vlan_id") + 100;
        let rules = asked.iter().filter(|op| op["op"] == "rule_add" && op["priority"] == 10 && op["table"] == table);
        let count = rules.count();
        let outcome = claims(&[
            ("no error", outcome.is_ok(), format!("{outcome:?}")),
            ("both rules of strict mode", count == 2, format!("{asked:?}")),
        ]);
        return better("an unknown mode is strict (DW-2)", outcome);
    }
    compare(case, &asked, &outcome)
}

fn branch_setup(case: &Case) -> Option<BranchSetup> {
    let pod = BranchPod {
        netns: "/var/run/netns/vector".into(),
        name: case.text("container_interface").to_owned(),
        host_veth: case.text("host_veth").to_owned(),
        address: address(&case.inputs["address"])?,
        vlan: case.number("vlan_id").try_into().ok()?,
        gateway: case.text("subnet_gateway").parse().ok()?,
        mode: EnforcingMode::parse(case.setting("enforcing_mode").unwrap_or_default()),
    };
    let (mac, trunk) = (case.text("eni_mac").parse().ok()?, case.number("parent_index"));
    Some(BranchSetup { pod, mtu: case.number("mtu"), mac, trunk })
}

pub(super) fn teardown(case: &Case) -> Outcome {
    let (Some(address), Ok(vlan)) = (address(&case.inputs["address"]), u16::try_from(case.number("vlan_id"))) else {
        return skip("no address or vlan");
    };
    let mut fake = Fake::new(case.inputs);
    if case.inputs["vlan_device_present"] == true {
        fake.links.push(names::vlan_device(vlan));
    }
    let outcome = branch::unwire(vlan, Some(address), &mut fake);
    let asked: Vec<Value> = fake.asked.iter().map(|s| ops::step(s, false)).collect();
    compare(case, &asked, &outcome)
}
