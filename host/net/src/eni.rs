//! Secondary interfaces (spec 04 §9): their address, their route table, the rule that leads there.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use reservoir_core::ip::Ipv4Net;
use rustix::io::Errno;

use crate::error::Error;
use crate::kernel::Kernel;
use crate::links;
use crate::mac::MacAddr;
use crate::netlink::reply::{AddressInfo, LinkInfo};
use crate::plan::{Executor, OnFailure, Op, Route, Side, Step, apply};
use crate::prefix::IpPrefix;
use crate::rule::{Family, PRIORITY_FROM_INTERFACE, Rule};
use crate::table;

/// How often a route is tried (spec 04 §1).
const ROUTE_ATTEMPTS: u32 = 5;
const WHAT: &str = "setupENINetwork";

/// What a secondary interface is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniSetup {
    pub mac: MacAddr,
    /// Its primary private address.
    pub primary_ip: Ipv4Addr,
    pub subnet: Ipv4Net,
    /// `AWS_VPC_ENI_MTU`.
    pub mtu: u32,
    /// See [`table::of_interface`] and [`table::choose`].
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
    /// Its IPv4 addresses.
    pub addresses: Vec<AddressInfo>,
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
    let addresses = kernel.addresses(Side::Host, Family::V4, link.index)?;
    let facts = EniFacts { link, addresses };
    carry_out(setup, &facts, &mut kernel)?;
    Ok(facts.link)
}

/// Carries the plan out on any executor.
///
/// # Errors
/// As [`set_up`], without the wait.
pub fn carry_out(setup: &EniSetup, facts: &EniFacts, executor: &mut impl Executor) -> Result<(), Error> {
    apply(&plan(setup, facts)?, executor, OnFailure::Stop).map_err(|e| e.within(WHAT))
}

/// The steps of [`set_up`].
///
/// # Errors
/// [`Error::Invalid`] for the primary interface.
pub fn plan(setup: &EniSetup, facts: &EniFacts) -> Result<Vec<Step>, Error> {
    validate(setup)?;
    let device = &facts.link.name;
    let table = setup.table;
    let gateway = IpAddr::from(setup.subnet.gateway());
    let own = IpPrefix::new(setup.primary_ip, setup.subnet.length());
    let mut steps = Vec::new();

    if facts.link.mtu != setup.mtu {
        let op = Op::LinkMtu { device: device.clone(), mtu: setup.mtu };
        steps.push(Step::host(op).context(format!("failed to set MTU of {device}")));
    }
    if !facts.link.up {
        let op = Op::LinkUp { device: device.clone() };
        steps.push(Step::host(op).context(format!("failed to bring up {device}")));
    }
    steps.extend(plan_addresses(device, own, &facts.addresses));
    for route in [Route::on_link(IpPrefix::host(gateway), device, table), Route::default_via(gateway, device, table)] {
        let context = format!("unable to replace route entry {}", route.destination);
        steps.push(Step::host(Op::RouteReplace(route)).attempts(ROUTE_ATTEMPTS).context(context));
    }
    // The kernel's own: two interfaces in one subnet, and the wrong one might carry the host's traffic.
    let connected = Route {
        device: None,
        source: Some(setup.primary_ip.into()),
        ..Route::on_link(setup.subnet.into(), "", table::MAIN)
    };
    steps.push(
        Step::host(Op::RouteDel(connected))
            .tolerate(&[Errno::SRCH])
            .context(format!("unable to delete default route {} for source IP {}", setup.subnet, setup.primary_ip)),
    );
    if !setup.trunk && !setup.rule_configured {
        let rule = Rule::from(PRIORITY_FROM_INTERFACE, IpPrefix::host(setup.primary_ip), table);
        steps.push(
            Step::host(Op::RuleAdd(rule)).tolerate(&[Errno::EXIST]).context("unable to add rule for the primary IP"),
        );
    }
    Ok(steps)
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
        let op = Op::AddressAdd { device: device.to_owned(), address: own };
        steps
            .push(Step::host(op).tolerate(&[Errno::EXIST]).context(format!("failed to add IP addr {own} to {device}")));
    }
    steps
}

fn is_global_unicast(address: IpAddr) -> bool {
    let outside = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    match address {
        IpAddr::V4(v4) => !outside && !v4.is_link_local() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !outside && !v6.is_unicast_link_local(),
    }
}

fn validate(setup: &EniSetup) -> Result<(), Error> {
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
pub fn tear_down(primary_ip: Ipv4Addr) -> Result<(), Error> {
    let mut kernel = Kernel::host()?;
    let existing = kernel.rules(Side::Host, Family::V4)?;
    apply(&plan_tear_down(primary_ip.into(), &existing), &mut kernel, OnFailure::Continue)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn info(address: &str, secondary: bool) -> AddressInfo {
        AddressInfo { index: 3, address: address.parse().unwrap(), secondary }
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

    #[test]
    fn rules_are_never_deleted_without_an_address() {
        let rules = [Rule::marked(0x80), Rule::from(32765, "10.0.100.20/32".parse().unwrap(), 2)];
        assert!(plan_tear_down(Ipv4Addr::UNSPECIFIED.into(), &rules).is_empty());
        assert_eq!(plan_tear_down(Ipv4Addr::new(10, 0, 100, 20).into(), &rules).len(), 1);
    }
}
