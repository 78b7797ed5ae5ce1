//! What is done for a pod's egress, as plain values (spec 04 §14.3, §14.4).

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use rustix::io::Errno;

use super::{EgressSetup, End, interface};
use crate::plan::{Op, Route, Scope, Step, VethPair};
use crate::prefix::IpPrefix;
use crate::rule::Family;
use crate::table;

/// How long duplicate address detection may take: after the address, and once more before the route is changed.
const DAD: Duration = Duration::from_secs(5);
const DAD_AGAIN: Duration = Duration::from_secs(10);

/// The steps besides the making of the pair, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EgressPlan {
    /// On the host, before the pod's namespace is entered.
    pub host: Vec<Step>,
    /// In the pod, before the pair is made.
    pub prepare: Vec<Step>,
    /// Both ends of the pair.
    pub connect: Vec<Step>,
    /// The host's end as a gateway (IPv4).
    pub host_address: Vec<Step>,
    /// The way to the pod.
    pub host_route: Step,
}

/// The plan for a pod.
pub(super) fn plan(setup: &EgressSetup, host: &End) -> EgressPlan {
    let family = setup.address.family();
    let device = interface(family);
    let scope = match family {
        Family::V4 => Scope::Link,
        Family::V6 => Scope::Host,
    };
    let to_pod = Route { scope, ..Route::on_link(IpPrefix::host(setup.address.address()), &host.name, table::MAIN) };
    let left_over = Step::container(Op::LinkDel { device: device.to_owned() })
        .tolerate(&[Errno::NODEV])
        .context(format!("failed to delete old {device}"));
    let mut plan = EgressPlan {
        host: Vec::new(),
        prepare: vec![left_over],
        connect: host_up(&host.name),
        host_address: Vec::new(),
        host_route: Step::host(Op::RouteAdd(to_pod)),
    };
    match family {
        Family::V4 => {
            let forward = Op::Sysctl { key: "net/ipv4/ip_forward".to_owned(), value: "1" };
            plan.host.push(Step::host(forward).context("could not enable IPv4 forwarding"));
            plan.connect.extend(pod_v4(setup, device));
            let gateway = IpPrefix::host(setup.gateway);
            let address =
                Op::AddressAdd { device: host.name.clone(), address: gateway, scope: Scope::Link, broadcast: None };
            plan.host_address
                .push(Step::host(address).context(format!("failed to add IP addr {gateway} to {}", host.name)));
        }
        Family::V6 => {
            let key = format!("net/ipv6/conf/{}/disable_ipv6", setup.ifname);
            let quiet = Step::container(Op::Sysctl { key, value: "1" });
            plan.prepare.push(quiet.context(format!("failed to disable IPv6 on container interface {}", setup.ifname)));
            plan.connect.extend(pod_v6(setup, device));
        }
    }
    plan
}

/// The pair.
pub(super) fn create(setup: &EgressSetup, host: &End) -> [Step; 1] {
    let name = interface(setup.address.family()).to_owned();
    let pair = VethPair { name, peer: host.name.clone(), peer_mac: host.mac, mtu: setup.mtu };
    [Step::container(Op::LinkAddVeth(pair)).context("failed to make the egress veth pair")]
}

/// The host must never accept a pod's router advertisements: settings first, then up.
fn host_up(host_veth: &str) -> Vec<Step> {
    let key = format!("net/ipv6/conf/{host_veth}/accept_ra");
    vec![
        Step::host(Op::Sysctl { key, value: "0" })
            .tolerate(&[Errno::NOENT])
            .context("failed to disable IPv6 router advertisements"),
        Step::host(Op::LinkUp { device: host_veth.to_owned() })
            .context(format!("failed to set host link {host_veth:?} up")),
    ]
}

/// Pods do not talk to each other here: even their own range leads through the gateway.
fn pod_v4(setup: &EgressSetup, device: &str) -> Vec<Step> {
    let source = Some(setup.address.address());
    let range = setup.address.network();
    let connected = Route { scope: Scope::Nowhere, ..Route::on_link(range, device, table::MAIN) };
    let gateway = Route { source, ..Route::on_link(IpPrefix::host(setup.gateway), device, table::MAIN) };
    let via = Route { destination: range, source, ..Route::default_via(setup.gateway, device, table::MAIN) };
    let mut steps = vec![add_address(setup, device), up(device)];
    steps.extend(routes(setup, device));
    steps.extend([
        Step::container(Op::RouteDel(connected)).context(format!("failed to delete route {range}")),
        Step::container(Op::RouteAdd(gateway)).context("failed to add the gateway's route"),
        Step::container(Op::RouteAdd(via)).context(format!("failed to add route {range}")),
    ]);
    steps
}

fn pod_v6(setup: &EgressSetup, device: &str) -> Vec<Step> {
    let settled = |timeout| {
        Step::container(Op::WaitDad { device: device.to_owned(), timeout })
            .context("failed while waiting for v6 addresses to be stable")
    };
    let setting = |device: &str, key: &str, value| {
        Step::container(Op::Sysctl { key: format!("net/ipv6/conf/{device}/{key}"), value })
    };
    let mut steps = vec![
        // Runtimes turn IPv6 off in new namespaces.
        setting("lo", "disable_ipv6", "0").tolerate(&[Errno::NOENT]).context("failed to enable IPv6 on lo"),
        setting(device, "disable_ipv6", "0").context(format!("failed to enable IPv6 on {device}")),
        setting(device, "keep_addr_on_down", "1").context(format!("failed to keep the addresses of {device}")),
        add_address(setup, device),
        up(device),
        settled(DAD),
    ];
    steps.extend(routes(setup, device));
    steps.push(settled(DAD_AGAIN));
    steps
}

fn add_address(setup: &EgressSetup, device: &str) -> Step {
    let address = setup.address;
    let broadcast = match address.address() {
        IpAddr::V4(own) => Some((u32::from(own) | u32::MAX >> address.length()).into()),
        IpAddr::V6(_) => None,
    };
    Step::container(Op::AddressAdd { device: device.to_owned(), address, scope: Scope::Universe, broadcast })
        .context(format!("failed to add IP addr {address} to {device:?}"))
}

fn up(device: &str) -> Step {
    Step::container(Op::LinkUp { device: device.to_owned() }).context(format!("failed to set {device:?} up"))
}

/// What the IPAM plugin wants, as far as it is of this family.
fn routes<'a>(setup: &'a EgressSetup, device: &'a str) -> impl Iterator<Item = Step> + 'a {
    let family = setup.address.family();
    setup.routes.iter().filter(move |(destination, _)| destination.family() == family).map(|(destination, gateway)| {
        let gateway = gateway.unwrap_or(setup.gateway);
        let route = Route { destination: *destination, ..Route::default_via(gateway, device, table::MAIN) };
        Step::container(Op::RouteAdd(route)).context(format!("failed to add route {destination} via {gateway}"))
    })
}

/// In the pod, through the host's end: nobody has the range's gateway.
pub(super) fn default_route(gateway: Ipv6Addr) -> Step {
    let route = Route::default_via(IpAddr::V6(gateway), interface(Family::V6), table::MAIN);
    Step::container(Op::RouteReplace(route)).context("failed to replace the default route")
}
