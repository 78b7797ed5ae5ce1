//! Pods as the host shows them: by their rules, routes and interfaces. What nobody else remembers can be read here, and
//! what pods that are no more have left can be removed.

pub mod stale;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use rustix::io::Errno;

use crate::error::Error;
use crate::kernel::Kernel;
use crate::netns::Netns;
use crate::plan::{OnFailure, Op, Side, Step, apply};
use crate::prefix::IpPrefix;
use crate::rule::{Family, PRIORITY_FROM_POD, PRIORITY_TO_POD, Rule};
use crate::{names, table};

pub use stale::remove_stale;

/// What the host shows of a pod; the source from which a lost checkpoint is rebuilt (spec 02 §6.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPod {
    pub address: IpAddr,
    /// The interface the pod's route leads to; without one the pod is not running here.
    pub host_veth: Option<String>,
    /// The table its traffic leaves by: the main one unless a rule says otherwise.
    pub table: u32,
}

/// All pods of a family that the host shows, in order of their addresses. Those with a branch interface are not among
/// them: their addresses are none of the pool's, and which rules are theirs the vlan tells.
///
/// # Errors
/// The kernel's.
pub fn shown(family: Family) -> Result<Vec<HostPod>, Error> {
    let mut kernel = Kernel::host()?;
    let rules = kernel.rules(Side::Host, family)?;
    let names: BTreeMap<u32, String> = kernel.links(Side::Host)?.into_iter().map(|l| (l.index, l.name)).collect();
    let routes = kernel.routes(Side::Host, family, table::MAIN, None)?;
    let devices: BTreeMap<IpPrefix, String> = routes
        .into_iter()
        .filter(|r| r.on_link && r.destination.is_host())
        .filter_map(|r| Some((r.destination, names.get(&r.device_index?)?.clone())))
        .collect();
    Ok(find(&rules, &devices))
}

/// Whether the rules are those of a pod with a branch interface in standard mode (spec 04 §6.2): what it sends takes the
/// table of a branch interface, to which no other interface's rule leads.
#[must_use]
pub fn is_branch(address: IpAddr, rules: &[Rule]) -> bool {
    let pod = Some(IpPrefix::host(address));
    let from_pod = rules.iter().filter(|r| r.priority == PRIORITY_FROM_POD && r.from == pod);
    let interface =
        |table| rules.iter().any(|r| r.priority != PRIORITY_FROM_POD && r.from.is_some() && r.table == table);
    from_pod.clone().count() > 0
        && from_pod.map(|r| r.table).all(|t| table::vlan_of_branch(t).is_some() && !interface(t))
}

/// Pods by the rules to them, but for those with a branch interface; `devices` tells where host routes lead.
#[must_use]
pub fn find(rules: &[Rule], devices: &BTreeMap<IpPrefix, String>) -> Vec<HostPod> {
    let is_to_pod = |r: &&Rule| r.priority == PRIORITY_TO_POD && r.table == table::MAIN;
    let addresses = rules.iter().filter(is_to_pod).filter_map(|r| r.to).filter(|to| to.is_host());
    let mut pods = BTreeMap::new();
    for to in addresses {
        let address = to.address();
        if is_branch(address, rules) {
            continue;
        }
        let from = rules.iter().find(|r| r.priority == PRIORITY_FROM_POD && r.from == Some(to));
        let table = from.map_or(table::MAIN, |r| r.table);
        pods.insert(address, HostPod { address, host_veth: devices.get(&to).cloned(), table });
    }
    pods.into_values().collect()
}

/// Everything on the host that names a pod's address, one line each: nothing after a complete DEL.
///
/// # Errors
/// The kernel's.
pub fn traces(address: impl Into<IpAddr>) -> Result<Vec<String>, Error> {
    let mut kernel = Kernel::host()?;
    let address = address.into();
    let (family, pod) = (Family::of(address), Some(address));
    let names = |prefix: Option<IpPrefix>| prefix.map(IpPrefix::address) == pod;
    let rules = kernel.rules(Side::Host, family)?;
    let mut traces: Vec<String> =
        rules.iter().filter(|r| names(r.from) || names(r.to)).map(|r| format!("rule {r}")).collect();
    let routes = kernel.routes(Side::Host, family, table::MAIN, None)?;
    let to_pod = routes.iter().filter(|r| names(Some(r.destination)));
    traces.extend(to_pod.map(|r| format!("route {} over interface {:?}", r.destination, r.device_index)));
    Ok(traces)
}

/// An address that the interfaces of a pod lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub address: IpAddr,
    /// The table the pod's traffic leaves by.
    pub table: u32,
    /// Of the branch interface, if it has one.
    pub vlan: Option<u16>,
}

/// What the host shows of the pod in `netns`, when neither ipamd nor a saved result knows it. `pairs` are the names its
/// interfaces would have, inside and on the host; a pair counts only if both ends are there and are each other's, so
/// that a pod of the same name in another namespace is left alone.
///
/// # Errors
/// The kernel's. A path that leads to no namespace (any more) shows nothing, and is no error.
pub fn behind(netns: &Path, pairs: &[(String, String)]) -> Result<Vec<Found>, Error> {
    let Ok(netns) = Netns::open(netns) else { return Ok(Vec::new()) };
    let mut kernel = Kernel::host()?;
    match kernel.enter(&netns) {
        Err(error) if matches!(error.root(), Error::NotANamespace { .. }) => return Ok(Vec::new()),
        entered => entered?,
    }
    let mut found = Vec::new();
    for (inside, outside) in pairs {
        let mut end = |side, name: &str| match kernel.link(side, name) {
            Ok(link) => Ok(Some(link)),
            Err(Error::LinkNotFound { .. }) => Ok(None),
            Err(other) => Err(other),
        };
        let (Some(pod), Some(host)) = (end(Side::Container, inside)?, end(Side::Host, outside)?) else { continue };
        if pod.peer_index != Some(host.index) || host.peer_index != Some(pod.index) {
            continue;
        }
        for family in [Family::V4, Family::V6] {
            let rules = kernel.rules(Side::Host, family)?;
            for route in kernel.all_routes(Side::Host, family)? {
                let destination = route.destination;
                let to_pod = route.on_link && destination.is_host() && route.device_index == Some(host.index);
                if to_pod && route.table != table::LOCAL && !destination.address().is_multicast() {
                    found.push(leads_to(destination, route.table, &rules));
                }
            }
        }
    }
    // The vlan of a pod whose traffic leaves by a table is known by its device.
    for pod in found.iter_mut().filter(|pod| pod.vlan.is_none()) {
        if let Some(vlan) = table::vlan_of_branch(pod.table)
            && kernel.link(Side::Host, &names::vlan_device(vlan)).is_ok()
        {
            pod.vlan = Some(vlan);
        }
    }
    Ok(found)
}

/// Only strict branch pods have their route in another table than the main one (spec 04 §6.2 step 9).
fn leads_to(pod: IpPrefix, of_route: u32, rules: &[Rule]) -> Found {
    let address = pod.address();
    if of_route != table::MAIN {
        return Found { address, table: of_route, vlan: table::vlan_of_branch(of_route) };
    }
    let from = rules.iter().find(|r| r.priority == PRIORITY_FROM_POD && r.from == Some(pod));
    Found { address, table: from.map_or(table::MAIN, |r| r.table), vlan: None }
}

/// Removes the rules of a pod of the pool that is gone (spec 02 §7.2). The route went with the pod's interface. The
/// caller makes sure that no other pod of the pool has the address; a pod with a branch interface, to which EC2 may have
/// given it since, keeps its rules.
///
/// # Errors
/// Everything that could not be removed.
pub fn prune(address: impl Into<IpAddr>) -> Result<(), Error> {
    let address = address.into();
    let mut kernel = Kernel::host()?;
    if is_branch(address, &kernel.rules(Side::Host, Family::of(address))?) {
        return Ok(());
    }
    apply(&plan_prune(address), &mut kernel, OnFailure::Continue)
}

/// The steps of [`prune`].
#[must_use]
pub fn plan_prune(address: IpAddr) -> Vec<Step> {
    let pod = IpPrefix::host(address);
    [Rule::to_pod(pod), Rule::from_pod(pod, table::UNSPECIFIED)]
        .into_iter()
        .map(|rule| Step::host(Op::RuleDel(rule)).until_absent().context("failed to delete rule of a stale pod"))
        .collect()
}

/// Brings the from-rules of living pods into today's form (spec 02 §7.3, 04 §12.2): one per address.
///
/// # Errors
/// Everything that could not be changed; the pods concerned keep the rules they had.
pub fn refresh_from_rules<A: Copy + Into<IpAddr>>(addresses: &[A]) -> Result<(), Error> {
    let addresses: Vec<IpAddr> = addresses.iter().map(|&a| a.into()).collect();
    let mut kernel = Kernel::host()?;
    let mut steps: Vec<Step> = Vec::new();
    for family in [Family::V4, Family::V6] {
        let of_family: Vec<IpAddr> = addresses.iter().copied().filter(|&a| Family::of(a) == family).collect();
        if !of_family.is_empty() {
            let rules = kernel.rules(Side::Host, family)?;
            steps.extend(of_family.into_iter().flat_map(|a| plan_refresh(a, &rules)));
        }
    }
    apply(&steps, &mut kernel, OnFailure::Continue)
}

/// The steps of [`refresh_from_rules`] for one address; none if all is right.
///
/// Deletes come first: to the kernel a rule with fewer selectors exists already while a narrower one is there. All go in
/// one message, so the pod is without a rule for microseconds.
#[must_use]
pub fn plan_refresh(address: IpAddr, rules: &[Rule]) -> Vec<Step> {
    let pod = IpPrefix::host(address);
    let is_ours = |r: &&Rule| r.from.is_some_and(|f| f.address() == address) && r.iif.is_none() && !r.foreign;
    let existing: Vec<&Rule> = rules.iter().filter(is_ours).collect();
    let Some(last) = existing.last() else { return Vec::new() };
    let wanted = Rule::from_pod(pod, last.table);
    let mut kept = false;
    let mut steps = Vec::new();
    for rule in existing {
        if *rule == wanted && !std::mem::replace(&mut kept, true) {
            continue;
        }
        let delete = Step::host(Op::RuleDel(rule.clone())).tolerate(&[Errno::NOENT]);
        steps.push(delete.context(format!("failed to delete rule from {pod}")));
    }
    if !kept {
        let add = Step::host(Op::RuleAdd(wanted)).tolerate(&[Errno::EXIST]);
        steps.push(add.context(format!("failed to add rule from {pod}")));
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn pods_are_recognised_by_their_rules() {
        let pod = |last| IpPrefix::host(Ipv4Addr::new(10, 0, 97, last));
        let rules = [
            Rule::to_pod(pod(31)),
            Rule::to_pod(pod(30)),
            Rule::from_pod(pod(31), 2),
            Rule::to(PRIORITY_TO_POD, "10.0.0.0/16".parse().unwrap(), table::MAIN),
            Rule::from(PRIORITY_TO_POD, pod(9), table::MAIN),
        ];
        let devices = BTreeMap::from([(pod(31), "eni31".to_owned())]);
        let found = find(&rules, &devices);
        let pod = |last, host_veth: Option<&str>, table| HostPod {
            address: Ipv4Addr::new(10, 0, 97, last).into(),
            host_veth: host_veth.map(str::to_owned),
            table,
        };
        assert_eq!(found, [pod(30, None, table::MAIN), pod(31, Some("eni31"), 2)]);
    }

    #[test]
    fn pods_with_a_branch_interface_are_not_the_pool_s() {
        let pod = |last| IpPrefix::host(Ipv4Addr::new(10, 0, 120, last));
        let address = |last| pod(last).address();
        let mut rules = vec![Rule::to_pod(pod(77)), Rule::from_pod(pod(77), 107)];
        assert!(is_branch(address(77), &rules) && find(&rules, &BTreeMap::new()).is_empty());
        assert!(!is_branch(address(78), &rules), "without any rule it is nobody's");
        // An interface of another card that an old version set up may have a table of such a number.
        rules.push(Rule::from(32765, "10.0.100.20/32".parse().unwrap(), 107));
        assert!(!is_branch(address(77), &rules));
        assert_eq!(find(&rules, &BTreeMap::new()).len(), 1);
        for table in [2, 254, 10_101] {
            assert!(!is_branch(address(1), &[Rule::to_pod(pod(1)), Rule::from_pod(pod(1), table)]), "{table}");
        }
        // What a pod of the pool left behind beside it: not certain to be the branch pod's alone.
        let both = [Rule::from_pod(pod(77), 107), Rule::from_pod(pod(77), 2)];
        assert!(!is_branch(address(77), &both));
    }

    #[test]
    fn a_right_from_rule_is_left_alone() {
        let pod = IpPrefix::host(Ipv4Addr::new(10, 0, 97, 31));
        assert!(plan_refresh(pod.address(), &[Rule::from_pod(pod, 2)]).is_empty());
        let legacy = Rule { to: Some("10.0.0.0/16".parse().unwrap()), ..Rule::from_pod(pod, 2) };
        let steps: Vec<_> = plan_refresh(pod.address(), &[legacy]).iter().map(|s| s.op.to_string()).collect();
        assert_eq!(
            steps,
            [
                "rule delete 1536: from 10.0.97.31/32 to 10.0.0.0/16 lookup 2",
                "rule add 1536: from 10.0.97.31/32 lookup 2"
            ]
        );
    }
}
