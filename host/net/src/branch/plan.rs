//! What is done for a branch pod, as plain values.

use std::net::IpAddr;

use rustix::io::Errno;

use super::{BranchPod, BranchSetup, EnforcingMode};
use crate::mac::MacAddr;
use crate::names;
use crate::plan::{Op, Route, Step, VlanDevice};
use crate::pod::{InterfacePlan, PodAddress, PodInterface, plan_interface, plan_teardown as plan_pod_teardown};
use crate::prefix::IpPrefix;
use crate::rule::{Family, Rule};
use crate::table;

/// The steps for a branch pod, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchPlan {
    /// The veth pair and the pod's inside; its `host` steps are not for branch pods.
    pub veth: InterfacePlan,
    /// The vlan device and the routes of its table (spec 04 §6.2 steps 2 to 8).
    pub vlan: Vec<Step>,
    /// The way to and from the pod (step 9).
    pub pod: Vec<Step>,
    /// What a failure of the last was about.
    pub pod_context: &'static str,
}

/// The plan for a pod; `host_mac` becomes the address of the veth's host end.
#[must_use]
pub fn plan(setup: &BranchSetup, interface: &PodInterface, host_mac: MacAddr) -> BranchPlan {
    let BranchSetup { pod, mtu, .. } = setup;
    let veth = plan_interface(interface, 0, *mtu, host_mac);
    let table = interface.table;
    let (steps, pod_context) = match pod.mode {
        EnforcingMode::Strict => (plan_strict(pod, table), "unable to setup IIF based container routes and rules"),
        EnforcingMode::Standard => (veth.host.clone(), "unable to setup IP based container routes and rules"),
    };
    BranchPlan { veth, vlan: plan_vlan(setup, table), pod: steps, pod_context }
}

fn plan_vlan(setup: &BranchSetup, table: u32) -> Vec<Step> {
    let BranchSetup { pod, mac, trunk, .. } = setup;
    let device = names::vlan_device(pod.vlan);
    let family = Family::of(pod.address);
    let left_over = Rule { iif: Some(pod.host_veth.clone()), ..Rule::of_branches(family, table::UNSPECIFIED) };
    let in_vlan = |what: &str| format!("failed to setup vlan: {what} vlan link {device}");
    let setting = |key: &str, value| {
        let key = format!("net/ipv6/conf/{device}/{key}");
        let context = format!("failed to setup vlan: failed to set {key}");
        Step::host(Op::Sysctl { key, value }).tolerate(&[Errno::NOENT]).context(context)
    };
    let gateway = IpPrefix::host(pod.gateway);
    let default = IpPrefix::default_of(family);
    let route = |destination: IpPrefix, route: Route| {
        let context = format!("failed to replace route entry {destination} via {}", pod.gateway);
        Step::host(Op::RouteReplace(route)).context(context)
    };
    vec![
        Step::host(Op::RuleDel(left_over))
            .until_absent()
            .context(format!("failed to delete hostVeth rule for {}", pod.host_veth)),
        // The vlan of an earlier pod may hang on an earlier trunk.
        Step::host(Op::LinkDel { device: device.clone() })
            .tolerate(&[Errno::NODEV])
            .context(in_vlan("failed to delete old")),
        Step::host(Op::LinkAddVlan(VlanDevice { name: device.clone(), id: pod.vlan, mac: *mac, parent: *trunk }))
            .context(in_vlan("failed to add")),
        setting("accept_ra", "0"),
        setting("accept_redirects", "1"),
        setting("forwarding", "0"),
        Step::host(Op::LinkUp { device: device.clone() }).context(in_vlan("failed to setUp")),
        route(gateway, Route::on_link(gateway, &device, table)),
        route(default, Route::default_via(pod.gateway, &device, table)),
    ]
}

fn plan_strict(pod: &BranchPod, table: u32) -> Vec<Step> {
    let address = IpPrefix::host(pod.address);
    let to_pod = Step::host(Op::RouteReplace(Route::on_link(address, &pod.host_veth, table))).context(format!(
        "failed to setup container route, containerAddr={address}, hostVeth={}, rtTable={table}",
        pod.host_veth
    ));
    let rule = |iif: &str| {
        Step::host(Op::RuleAdd(Rule::of_branch(Family::of(pod.address), iif, table)))
            .tolerate(&[Errno::EXIST])
            .context(format!("failed to setup IIF based rule, iif={iif}, rtTable={table}"))
    };
    vec![to_pod, rule(&names::vlan_device(pod.vlan)), rule(&pod.host_veth)]
}

/// Undoes a set-up that failed: the pair goes with its host end, and with it all routes over it.
#[must_use]
pub fn plan_rollback(pod: &BranchPod, table: u32) -> Vec<Step> {
    let veth = Step::host(Op::LinkDel { device: pod.host_veth.clone() }).tolerate(&[Errno::NODEV]);
    std::iter::once(veth).chain(plan_teardown(pod.vlan, table, Some(pod.address))).collect()
}

/// Removes a branch pod, in whichever mode it was set up (spec 04 §6.4). The kernel drops the routes over the vlan with
/// its device.
#[must_use]
pub fn plan_teardown(vlan: u16, table: u32, address: Option<IpAddr>) -> Vec<Step> {
    let device = names::vlan_device(vlan);
    let mut steps = vec![
        Step::host(Op::LinkDel { device: device.clone() })
            .tolerate(&[Errno::NODEV])
            .context(format!("failed to teardown vlan: failed to delete vlan link {device}")),
    ];
    let families = match address {
        Some(address) => vec![Family::of(address)],
        None => vec![Family::V4, Family::V6],
    };
    for family in families {
        steps.push(Step::host(Op::RuleDel(Rule::of_branches(family, table))).until_absent().context(format!(
            "unable to teardown IIF based container routes and rules: failed to delete IIF based rules, rtTable={table}"
        )));
    }
    for step in address.into_iter().flat_map(|address| plan_pod_teardown(&PodAddress { address, table })) {
        let context = format!("unable to teardown IP based container routes and rules: {}", step.context);
        steps.push(step.context(context));
    }
    steps
}
