//! Secondary interfaces (spec 04 §9): their address, their route table, the rule that leads there.

use std::net::IpAddr;
use std::time::Duration;

use reservoir_core::ip::IpNet;
use rustix::io::Errno;

use crate::error::Error;
use crate::kernel::Kernel;
use crate::links;
use crate::mac::MacAddr;
use crate::netlink::reply::{AddressInfo, LinkInfo, RouteInfo};
use crate::plan::{Executor, OnFailure, Op, Route, Scope, Side, Step, apply};
use crate::prefix::IpPrefix;
use crate::rule::{Family, PRIORITY_FROM_INTERFACE, Rule, VPC_ROUTER_V6};
use crate::table::{self, TableChoice};

/// How often a route is tried (spec 04 §1).
const ROUTE_ATTEMPTS: u32 = 5;
const WHAT: &str = "setupENINetwork";

/// What a secondary interface is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniSetup {
    pub mac: MacAddr,
    /// Its primary private address; on a node with IPv6 pods its first IPv6 address.
    pub primary_ip: IpAddr,
    /// The block of that family of the subnet it is in. It need not be the primary interface's subnet, nor in the
    /// VPC's first block (custom networking).
    pub subnet: IpNet,
    /// `AWS_VPC_ENI_MTU`.
    pub mtu: u32,
    /// See [`choose_table`].
    pub table: u32,
    /// The rule from the primary address exists, perhaps with another priority.
    pub rule_configured: bool,
    /// A trunk gets no rule.
    pub trunk: bool,
}

/// What the kernel shows of the interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniFacts {
    pub link: LinkInfo,
    /// Its addresses of the family.
    pub addresses: Vec<AddressInfo>,
    /// Its routes of the family, in its own table and the main one.
    pub routes: Vec<RouteInfo>,
    /// The host's rules of the family.
    pub rules: Vec<Rule>,
}

/// Chooses the route table of the interface at device index `device` of network card `card` (spec 04 §7.3).
/// `max_interfaces` is the instance type's maximum.
///
/// # Errors
/// The kernel's.
pub fn choose_table(card: u32, device: u32, primary: IpAddr, max_interfaces: u32) -> Result<TableChoice, Error> {
    let rules = Kernel::host()?.rules(Side::Host, Family::of(primary))?;
    Ok(table::choose(card, device, primary, max_interfaces, &rules))
}

/// Waits for the interface and sets it up. What is right already is not touched: a restart takes no route away.
///
/// # Errors
/// [`Error::LinkNotFound`] if the interface does not appear within `patience` ([`links::APPEARANCE`] as the
/// reference): try again when it has; [`Error::Invalid`] for the primary interface; otherwise the kernel's.
pub fn set_up(setup: &EniSetup, patience: Duration) -> Result<LinkInfo, Error> {
    validate(setup)?;
    let link = links::wait_for_mac(setup.mac, patience).map_err(|e| e.within(WHAT))?;
    let mut kernel = Kernel::host()?;
    let facts = look(setup, link, &mut kernel)?;
    carry_out(setup, &facts, &mut kernel)?;
    Ok(facts.link)
}

/// Waits for the interface, sets its MTU and brings it up, and does no more: a trunk without an address of the pods'
/// family carries branch interfaces all the same.
///
/// # Errors
/// As [`set_up`].
pub fn bring_up(mac: MacAddr, mtu: u32, patience: Duration) -> Result<LinkInfo, Error> {
    let link = links::wait_for_mac(mac, patience).map_err(|e| e.within(WHAT))?;
    apply(&plan_link(&link, mtu), &mut Kernel::host()?, OnFailure::Stop).map_err(|e| e.within(WHAT))?;
    Ok(link)
}

pub(crate) fn look(setup: &EniSetup, link: LinkInfo, kernel: &mut Kernel) -> Result<EniFacts, Error> {
    let family = Family::of(setup.primary_ip);
    let addresses = kernel.addresses(Side::Host, family, link.index)?;
    let mut routes = kernel.routes(Side::Host, family, setup.table, Some(link.index))?;
    routes.extend(kernel.routes(Side::Host, family, table::MAIN, Some(link.index))?);
    let rules = kernel.rules(Side::Host, family)?;
    Ok(EniFacts { link, addresses, routes, rules })
}

/// Carries the plan out on any executor.
///
/// # Errors
/// As [`set_up`], without the wait.
pub fn carry_out(setup: &EniSetup, facts: &EniFacts, executor: &mut impl Executor) -> Result<(), Error> {
    apply(&plan(setup, facts)?, executor, OnFailure::Stop).map_err(|e| e.within(WHAT))
}

/// The steps of [`set_up`]; none if all is right.
///
/// # Errors
/// [`Error::Invalid`] for the primary interface, or a subnet of the other family.
pub fn plan(setup: &EniSetup, facts: &EniFacts) -> Result<Vec<Step>, Error> {
    validate(setup)?;
    let device = &facts.link.name;
    let table = setup.table;
    let gateway = gateway(setup.subnet);
    let own = IpPrefix::new(setup.primary_ip, setup.subnet.length());
    let mut steps = plan_link(&facts.link, setup.mtu);
    steps.extend(plan_addresses(device, own, &facts.addresses));
    // The kernel takes all routes of an interface away with an address.
    let routes_stay = !steps.iter().any(|s| matches!(s.op, Op::AddressDel { .. }));
    for route in [Route::on_link(IpPrefix::host(gateway), device, table), Route::default_via(gateway, device, table)] {
        if routes_stay && facts.routes.iter().any(|r| is_route(r, &route)) {
            continue;
        }
        let context = format!("unable to replace route entry {}", route.destination);
        steps.push(Step::host(Op::RouteReplace(route)).attempts(ROUTE_ATTEMPTS).context(context));
    }
    // With the address, or when the interface comes up, the kernel makes the connected route.
    let will_appear = steps.iter().any(|s| matches!(s.op, Op::AddressAdd { .. } | Op::LinkUp { .. }));
    let connected = connected(setup, device);
    // One with another source is another address's, and would not be found.
    let is_there = |r: &RouteInfo| {
        (r.table, r.destination) == (connected.table, connected.destination)
            && (connected.source.is_none() || (r.source == connected.source && r.on_link))
    };
    if will_appear || facts.routes.iter().any(is_there) {
        steps.push(
            Step::host(Op::RouteDel(connected))
                .tolerate(&[Errno::SRCH])
                .context(format!("unable to delete default route {} for source IP {}", setup.subnet, setup.primary_ip)),
        );
    }
    let rule = Rule::from(PRIORITY_FROM_INTERFACE, IpPrefix::host(setup.primary_ip), table);
    // A rule of the image or of an earlier run does as well (spec 04 §7.3), as long as it is there.
    let is_configured = setup.rule_configured && facts.rules.iter().any(|r| r.from == rule.from);
    if !setup.trunk && !is_configured && !facts.rules.contains(&rule) {
        steps.push(
            Step::host(Op::RuleAdd(rule)).tolerate(&[Errno::EXIST]).context("unable to add rule for the primary IP"),
        );
    }
    Ok(steps)
}

/// The steps of [`bring_up`].
pub(crate) fn plan_link(link: &LinkInfo, mtu: u32) -> Vec<Step> {
    let device = &link.name;
    let mut steps = Vec::new();
    if link.mtu != mtu {
        let op = Op::LinkMtu { device: device.clone(), mtu };
        steps.push(Step::host(op).context(format!("failed to set MTU of {device}")));
    }
    if !link.up {
        let op = Op::LinkUp { device: device.clone() };
        steps.push(Step::host(op).context(format!("failed to bring up {device}")));
    }
    steps
}

/// The router of a subnet: its second address, or for IPv6 the same link-local address everywhere (spec 04 §1).
#[must_use]
pub fn gateway(subnet: IpNet) -> IpAddr {
    subnet.as_ipv4().map_or(VPC_ROUTER_V6.into(), |v4| v4.gateway().into())
}

/// The kernel's own route to the subnet: two interfaces in one subnet, and the wrong one might carry the host's
/// traffic. IPv4 knows it by its source, IPv6 by its device (spec 04 §9 step 7).
fn connected(setup: &EniSetup, device: &str) -> Route {
    let subnet = IpPrefix::from(setup.subnet);
    match setup.primary_ip {
        IpAddr::V4(_) => {
            Route { device: None, source: Some(setup.primary_ip), ..Route::on_link(subnet, "", table::MAIN) }
        }
        IpAddr::V6(_) => Route { scope: Scope::Nowhere, ..Route::on_link(subnet, device, table::MAIN) },
    }
}

/// Whether the kernel shows this route, on the interface it is about.
fn is_route(shown: &RouteInfo, wanted: &Route) -> bool {
    (shown.table, shown.destination, shown.gateway) == (wanted.table, wanted.destination, wanted.gateway)
        && shown.on_link == (wanted.scope == Scope::Link)
}

/// Leaves the right address alone: without its last address an interface loses all routes (spec 04 §9, DW-16).
fn plan_addresses(device: &str, own: IpPrefix, existing: &[AddressInfo]) -> Vec<Step> {
    let foreign: Vec<&AddressInfo> =
        existing.iter().filter(|a| a.address != own && is_global_unicast(a.address.address())).collect();
    // With a first address of the subnet the kernel drops the second ones: ours may be among them.
    let missing = !foreign.is_empty() || !existing.iter().any(|a| a.address == own);
    let op = |address| Op::AddressDel { device: device.to_owned(), address };
    let mut steps: Vec<Step> = foreign
        .into_iter()
        .map(|a| {
            Step::host(op(a.address))
                .tolerate(&[Errno::ADDRNOTAVAIL])
                .context(format!("failed to delete IP addr {} from {device}", a.address))
        })
        .collect();
    if missing {
        let op = Op::AddressAdd { device: device.to_owned(), address: own, scope: Scope::Universe, broadcast: None };
        steps
            .push(Step::host(op).tolerate(&[Errno::EXIST]).context(format!("failed to add IP addr {own} to {device}")));
    }
    steps
}

pub(crate) fn is_global_unicast(address: IpAddr) -> bool {
    let outside = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    match address {
        IpAddr::V4(v4) => !outside && !v4.is_link_local() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !outside && !v6.is_unicast_link_local(),
    }
}

fn validate(setup: &EniSetup) -> Result<(), Error> {
    if setup.subnet.is_ipv4() != setup.primary_ip.is_ipv4() {
        return Err(Error::Invalid(format!(
            "interface {} has the address {}, but its subnet is {}: they must be of one family",
            setup.mac, setup.primary_ip, setup.subnet
        )));
    }
    match setup.table {
        table::MAIN => Err(Error::Invalid("setupENINetwork should never be called on the primary ENI".to_owned())),
        table::UNSPECIFIED | 253 | table::LOCAL => Err(Error::Invalid(format!(
            "route table {} for interface {} is the kernel's own; its number must come from its device index",
            setup.table, setup.mac
        ))),
        _ => Ok(()),
    }
}

/// Removes the rules from an interface's primary address, whatever their priority and table, after it was detached.
/// Routes go with the device.
///
/// # Errors
/// Everything that could not be removed.
pub fn tear_down(primary_ip: impl Into<IpAddr>) -> Result<(), Error> {
    let primary_ip = primary_ip.into();
    let mut kernel = Kernel::host()?;
    let existing = kernel.rules(Side::Host, Family::of(primary_ip))?;
    apply(&plan_tear_down(primary_ip, &existing), &mut kernel, OnFailure::Continue)
}

/// The steps of [`tear_down`].
#[must_use]
pub fn plan_tear_down(primary_ip: IpAddr, existing: &[Rule]) -> Vec<Step> {
    existing
        .iter()
        .filter(|r| r.from.is_some_and(|f| f.address() == primary_ip) && !primary_ip.is_unspecified())
        .map(|rule| Step::host(Op::RuleDel(rule.clone())).tolerate(&[Errno::NOENT]).context("failed to delete rule"))
        .collect()
}

/// Removes the rule that [`set_up`] made of an interface that is to be left alone from now on. Rules of whoever has it
/// now stay, and so do its address and routes.
///
/// # Errors
/// The kernel's.
pub fn leave(primary_ip: IpAddr, table: u32) -> Result<(), Error> {
    apply(&plan_leave(primary_ip, table), &mut Kernel::host()?, OnFailure::Continue)
}

/// The steps of [`leave`].
#[must_use]
pub fn plan_leave(primary_ip: IpAddr, table: u32) -> Vec<Step> {
    let rule = Rule::from(PRIORITY_FROM_INTERFACE, IpPrefix::host(primary_ip), table);
    vec![Step::host(Op::RuleDel(rule)).until_absent().context("failed to delete rule")]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn info(address: &str, secondary: bool) -> AddressInfo {
        AddressInfo { index: 3, address: address.parse().unwrap(), secondary, tentative: false }
    }

    fn ops(existing: &[AddressInfo]) -> Vec<String> {
        let own = "10.0.100.20/19".parse().unwrap();
        plan_addresses("eth1", own, existing).iter().map(|s| s.op.to_string()).collect()
    }

    #[test]
    fn a_right_address_is_left_alone() {
        assert!(ops(&[info("10.0.100.20/19", false), info("169.254.3.3/16", false)]).is_empty());
        assert_eq!(ops(&[]), ["address add 10.0.100.20/19 dev eth1"]);
    }

    #[test]
    fn an_address_that_goes_with_another_is_added_again() {
        assert_eq!(
            ops(&[info("10.0.100.99/19", false), info("10.0.100.20/19", true)]),
            ["address delete 10.0.100.99/19 dev eth1", "address add 10.0.100.20/19 dev eth1"]
        );
    }

    fn setup(primary: &str, subnet: &str, table: u32) -> EniSetup {
        EniSetup {
            mac: MacAddr([2, 0, 0, 0, 0, 9]),
            primary_ip: primary.parse().unwrap(),
            subnet: subnet.parse().unwrap(),
            mtu: 9001,
            table,
            rule_configured: false,
            trunk: false,
        }
    }

    fn facts(addresses: Vec<AddressInfo>) -> EniFacts {
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 9]));
        let link = LinkInfo {
            index: 3,
            name: "eth1".to_owned(),
            mac,
            mtu: 9001,
            up: true,
            peer_index: None,
            peer_elsewhere: false,
        };
        EniFacts { link, addresses, routes: Vec::new(), rules: Vec::new() }
    }

    fn route(destination: &str, gateway: Option<&str>, table: u32) -> RouteInfo {
        RouteInfo {
            destination: destination.parse().unwrap(),
            table,
            on_link: gateway.is_none(),
            device_index: Some(3),
            gateway: gateway.map(|g| g.parse().unwrap()),
            source: None,
        }
    }

    #[test]
    fn a_right_interface_is_not_written_to_and_what_is_missing_is() {
        let setup = setup("2600:1f14:abc:d00::20", "2600:1f14:abc:d00::/64", 10_101);
        let mut facts = facts(vec![info("2600:1f14:abc:d00::20/64", false), info("fe80::1/64", false)]);
        facts.routes = vec![route("fe80:ec2::1/128", None, 10_101), route("::/0", Some("fe80:ec2::1"), 10_101)];
        facts.rules = vec![Rule::from(32765, "2600:1f14:abc:d00::20/128".parse().unwrap(), 10_101)];
        assert_eq!(plan(&setup, &facts).unwrap(), []);

        facts.routes.push(route("2600:1f14:abc:d00::/64", None, table::MAIN));
        facts.routes.remove(1);
        let ops: Vec<String> = plan(&setup, &facts).unwrap().iter().map(|s| s.op.to_string()).collect();
        assert_eq!(
            ops,
            [
                "route replace ::/0 via fe80:ec2::1 dev eth1 scope universe table 10101",
                "route delete 2600:1f14:abc:d00::/64 dev eth1 scope nowhere table 254"
            ]
        );
    }

    /// Spec 04 §7.3: a rule that was there at the start is not made again, unless it has gone since.
    #[test]
    fn the_rule_of_another_card_is_put_back() {
        let setup = EniSetup { rule_configured: true, ..setup("10.0.100.20", "10.0.96.0/19", 10_101) };
        let rules_added = |rules: Vec<Rule>| {
            let plan = plan(&setup, &EniFacts { rules, ..facts(Vec::new()) }).unwrap();
            plan.iter().filter(|s| matches!(s.op, Op::RuleAdd(_))).count()
        };
        let own = IpPrefix::host("10.0.100.20".parse::<IpAddr>().unwrap());
        assert_eq!(rules_added(vec![Rule::from(100, own, 11)]), 0);
        assert_eq!(rules_added(Vec::new()), 1);
    }

    #[test]
    fn routes_that_go_with_an_address_are_made_again() {
        let setup = setup("10.0.100.20", "10.0.96.0/19", 2);
        let mut facts = facts(vec![info("10.0.100.20/19", false), info("10.0.100.99/19", true)]);
        facts.routes = vec![route("10.0.96.1/32", None, 2), route("0.0.0.0/0", Some("10.0.96.1"), 2)];
        let replaced = plan(&setup, &facts).unwrap();
        assert_eq!(replaced.iter().filter(|s| matches!(s.op, Op::RouteReplace(_))).count(), 2, "{replaced:?}");
    }

    #[test]
    fn a_subnet_of_the_other_family_is_refused() {
        let error = plan(&setup("10.0.100.20", "2600::/64", 2), &facts(Vec::new())).unwrap_err().to_string();
        assert!(error.contains("10.0.100.20") && error.contains("2600::/64"), "{error}");
    }

    #[test]
    fn rules_are_never_deleted_without_an_address() {
        let rules = [Rule::marked(0x80), Rule::from(32765, "10.0.100.20/32".parse().unwrap(), 2)];
        assert!(plan_tear_down(Ipv4Addr::UNSPECIFIED.into(), &rules).is_empty());
        assert_eq!(plan_tear_down(Ipv4Addr::new(10, 0, 100, 20).into(), &rules).len(), 1);
    }

    #[test]
    fn of_an_interface_that_is_left_alone_our_rule_goes_and_nothing_else() {
        let steps = plan_leave("10.0.100.20".parse().unwrap(), 2);
        let ops: Vec<String> = steps.iter().map(|s| s.op.to_string()).collect();
        assert_eq!(ops, ["rule delete 32765: from 10.0.100.20/32 lookup 2"]);
    }
}
