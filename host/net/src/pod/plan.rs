//! What is done for a pod, as plain values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rustix::io::Errno;

use super::{PodAddress, PodInterface};
use crate::mac::MacAddr;
use crate::plan::{Op, Route, Scope, Step, VethPair};
use crate::prefix::IpPrefix;
use crate::rule::Rule;
use crate::table;

/// How long duplicate address detection may take (spec 04 §4.2 step 10); it takes one to two seconds.
const DAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The steps for one interface of a pod, in order. On a failure in `prepare` or `create` nothing is left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfacePlan {
    /// On the host, before the pod's namespace is entered.
    pub prepare: Vec<Step>,
    /// The veth pair.
    pub create: Vec<Step>,
    /// The host's end and the pod's inside (spec 04 §4.2 from step 2 on).
    pub container: Vec<Step>,
    /// Routes and rules on the host (spec 04 §4.3).
    pub host: Vec<Step>,
}

/// The pod's gateway of its `index`th interface: `169.254.1.(index+1)` or `fe80::(index+1)`. No such host exists; a
/// permanent neighbour entry leads to the host's end of the veth pair.
#[must_use]
pub fn gateway(index: usize, ipv4: bool) -> IpAddr {
    let host = u16::try_from(index).unwrap_or(u16::MAX).saturating_add(1);
    if ipv4 {
        let base = u32::from(Ipv4Addr::new(169, 254, 1, 0));
        Ipv4Addr::from(base + u32::from(host)).into()
    } else {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, host).into()
    }
}

/// The plan for a pod's `index`th interface; `host_mac` becomes the address of the host's end.
#[must_use]
pub fn plan_interface(interface: &PodInterface, index: usize, mtu: u32, host_mac: MacAddr) -> InterfacePlan {
    let PodInterface { name, host_veth, address, table } = interface;
    let delete_old = Step::host(Op::LinkDel { device: host_veth.clone() })
        .tolerate(&[Errno::NODEV])
        .context(format!("failed to delete old hostVeth {host_veth}"));
    let pair = VethPair { name: name.clone(), peer: host_veth.clone(), peer_mac: host_mac, mtu };
    InterfacePlan {
        prepare: vec![delete_old],
        create: vec![Step::container(Op::LinkAddVeth(pair))],
        container: container_steps(name, host_veth, *address, index, host_mac),
        host: host_steps(host_veth, IpPrefix::host(*address), table::of_pod(*table)),
    }
}

fn container_steps(name: &str, host_veth: &str, address: IpAddr, index: usize, host_mac: MacAddr) -> Vec<Step> {
    let device = || name.to_owned();
    let gateway = gateway(index, address.is_ipv4());
    let own = IpPrefix::host(address);
    // The first interface lives in the pod's main table; the others each have their own, found by source address.
    let own_table = u32::try_from(index).ok().filter(|&i| i > 0);
    let table = own_table.unwrap_or(table::MAIN);

    // The host must never accept a pod's router advertisements: settings first, then up. These keys exist for every
    // interface of a kernel with IPv6, whatever the pod's family.
    let setting = |key: &str, value, context: &str| {
        Step::host(Op::Sysctl { key: format!("net/ipv6/conf/{host_veth}/{key}"), value })
            .tolerate(&[Errno::NOENT])
            .context(context)
    };
    let mut steps = vec![
        setting("accept_ra", "0", "failed to disable IPv6 router advertisements"),
        setting("accept_redirects", "1", "failed to disable IPv6 ICMP redirects"),
        setting("forwarding", "0", "failed to disable IPv6 forwarding"),
        Step::host(Op::LinkUp { device: host_veth.to_owned() })
            .context(format!("setup NS network: failed to set host link {host_veth:?} up")),
        Step::container(Op::LinkUp { device: device() })
            .context(format!("setup NS network: failed to set link {name:?} up")),
    ];
    if !address.is_ipv4() {
        steps.extend(enable_ipv6(name));
    }
    steps.push(
        Step::container(Op::RouteReplace(Route::on_link(IpPrefix::host(gateway), name, table)))
            .context("setup NS network: failed to add default gateway"),
    );
    if let Some(table) = own_table {
        let rule = Rule::from(1, own, table);
        steps.push(
            Step::container(Op::RuleAdd(rule))
                .tolerate(&[Errno::EXIST])
                .context(format!("failed to setup fromInterface rule, containerAddr={own}, rtTable={table}")),
        );
    }
    steps.extend([
        Step::container(Op::RouteAdd(Route::default_via(gateway, name, table)))
            .context("setup NS network: failed to add default route"),
        Step::container(Op::AddressAdd { device: device(), address: own, scope: Scope::Universe, broadcast: None })
            .context(format!("setup NS network: failed to add IP addr to {name:?}")),
        Step::container(Op::NeighbourAdd { device: device(), address: gateway, mac: host_mac })
            .context("setup NS network: failed to add static ARP"),
    ]);
    if !address.is_ipv4() {
        steps.push(
            Step::container(Op::WaitDad { device: device(), timeout: DAD_TIMEOUT })
                .context("setup NS network: failed while waiting for v6 addresses to be stable"),
        );
    }
    steps
}

/// Runtimes turn IPv6 off in new namespaces (spec 04 §4.2 step 4).
fn enable_ipv6(name: &str) -> [Step; 2] {
    [(name, "container veth interface"), ("lo", "container's lo interface")].map(|(device, what)| {
        let key = format!("net/ipv6/conf/{device}/disable_ipv6");
        Step::container(Op::Sysctl { key, value: "0" })
            .tolerate(&[Errno::NOENT])
            .context(format!("setupVeth network: failed to enable IPv6 on {what}"))
    })
}

fn host_steps(host_veth: &str, address: IpPrefix, table: u32) -> Vec<Step> {
    let mut steps = vec![
        Step::host(Op::RouteReplace(Route::on_link(address, host_veth, table::MAIN))).context(format!(
            "failed to setup container route, containerAddr={address}, hostVeth={host_veth}, rtTable=main"
        )),
        Step::host(Op::RuleAdd(Rule::to_pod(address)))
            .tolerate(&[Errno::EXIST])
            .context(format!("failed to setup toContainer rule, containerAddr={address}, rtTable=main")),
    ];
    if table != table::MAIN {
        steps.push(
            Step::host(Op::RuleAdd(Rule::from_pod(address, table)))
                .tolerate(&[Errno::EXIST])
                .context(format!("failed to setup fromContainer rule, containerAddr={address}, rtTable={table}")),
        );
    }
    steps
}

/// Undoes an interface: the pair goes with its host end, and with it all routes over it.
#[must_use]
pub fn plan_rollback(interface: &PodInterface) -> Vec<Step> {
    let device = interface.host_veth.clone();
    let mut steps = vec![Step::host(Op::LinkDel { device }).tolerate(&[Errno::NODEV])];
    let table = table::of_pod(interface.table);
    steps.extend(plan_teardown(&PodAddress { address: interface.address, table }));
    steps
}

/// Removes one address of a pod from the host (spec 04 §5).
#[must_use]
pub fn plan_teardown(pod: &PodAddress) -> Vec<Step> {
    let address = IpPrefix::host(pod.address);
    let table = if pod.table == 1 { table::MAIN } else { pod.table };
    let mut steps = vec![
        Step::host(Op::RuleDel(Rule::to_pod(address)))
            .tolerate(&[Errno::NOENT])
            .context(format!("failed to delete toContainer rule, containerAddr={address}, rtTable=main")),
    ];
    if table != table::MAIN {
        let name = if table == table::UNSPECIFIED { "unspecified".to_owned() } else { table.to_string() };
        // Old versions installed one per VPC CIDR.
        steps.push(
            Step::host(Op::RuleDel(Rule::from_pod(address, table)))
                .until_absent()
                .context(format!("failed to delete fromContainer rule, containerAddr={address}, rtTable={name}")),
        );
    }
    let route = Route { device: None, ..Route::on_link(address, "", table::MAIN) };
    steps.push(Step::host(Op::RouteDel(route)).tolerate_anything());
    steps
}
