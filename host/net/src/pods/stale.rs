//! What pods left on the host that are no more: rules of an address without a route, rules and vlans of branch pods
//! without an interface.
//!
//! Every ADD makes interface and route before any rule, so by its rules a pod that is just coming is never taken for a
//! dead one. A vlan comes before the rules of its pod, though, and with the rules that a dead pod left it looks like that
//! one's. So branch pods are looked at while none of them is being wired: [`crate::branch::set_up`] shares the lock of the
//! host's namespace that is taken here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use rustix::io::Errno;

use crate::error::Error;
use crate::kernel::Kernel;
use crate::netlink::reply::RouteInfo;
use crate::netns::Netns;
use crate::plan::{OnFailure, Op, Side, Step, apply_telling};
use crate::prefix::IpPrefix;
use crate::rule::{Family, PRIORITY_BRANCH, PRIORITY_FROM_POD, PRIORITY_TO_POD, Rule};
use crate::{names, table};

/// How long branch pods may be wired one after the other until their left-overs are left to the next time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the host shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Of both families.
    pub rules: Vec<Rule>,
    /// Addresses with a route of their own in the main table.
    pub routed: BTreeSet<IpAddr>,
    /// Vlans in whose tables there is a route to a pod: one over another interface than the vlan's.
    pub leading: BTreeSet<u16>,
    /// Names of the host's interfaces.
    pub links: BTreeSet<String>,
}

impl Shown {
    fn take(kernel: &mut Kernel) -> Result<Self, Error> {
        let mut shown = Self::default();
        // Rules first: what they stood for when they were read is looked at afterwards.
        for family in [Family::V4, Family::V6] {
            shown.rules.extend(kernel.rules(Side::Host, family)?);
        }
        let mut routes: Vec<RouteInfo> = Vec::new();
        for family in [Family::V4, Family::V6] {
            routes.extend(kernel.all_routes(Side::Host, family)?);
        }
        let links = kernel.links(Side::Host)?;
        for route in routes.iter().filter(|r| r.on_link && r.destination.is_host()) {
            if route.table == table::MAIN {
                shown.routed.insert(route.destination.address());
            } else if let Some(vlan) = table::vlan_of_branch(route.table) {
                let device = names::vlan_device(vlan);
                let is_vlan = links.iter().any(|link| Some(link.index) == route.device_index && link.name == device);
                if !is_vlan {
                    shown.leading.insert(vlan);
                }
            }
        }
        shown.links = links.into_iter().map(|link| link.name).collect();
        Ok(shown)
    }
}

/// Removes what pods left whose interfaces are gone, and tells what it was, one line each.
///
/// # Errors
/// Everything that could not be removed; the kernel's when it does not tell.
pub fn remove_stale() -> Result<Vec<String>, Error> {
    let mut kernel = Kernel::host()?;
    let mut removed = Vec::new();
    let mut failures = Vec::new();
    let mut remove = |steps: &[Step], kernel: &mut Kernel| {
        let telling = |step: &Step| removed.push(step.op.to_string());
        failures.extend(apply_telling(steps, kernel, OnFailure::Continue, telling).err());
    };
    let shown = Shown::take(&mut kernel)?;
    remove(&plan_stale(&shown), &mut kernel);
    // A node without such left-overs, as most are, waits for nobody.
    if !plan_stale_branches(&shown).is_empty() {
        let alone = Netns::current().and_then(|host| host.lock_within(PATIENCE));
        match alone {
            Ok(_alone) => remove(&plan_stale_branches(&Shown::take(&mut kernel)?), &mut kernel),
            Err(error) => failures.push(error.within("pods with branch interfaces are being wired all the time")),
        }
    }
    Error::collect(failures).map(|()| removed)
}

fn delete(rule: &Rule) -> Step {
    Step::host(Op::RuleDel(rule.clone()))
        .tolerate(&[Errno::NOENT])
        .context("failed to delete rule of a pod that is gone")
}

/// Whether it has no selectors but addresses.
fn is_plain(rule: &Rule) -> bool {
    !rule.foreign && rule.iif.is_none() && rule.fwmark.is_none() && rule.ip_protocol.is_none()
}

/// The pod whose packets this rule leads out.
fn from_pod(rule: &Rule) -> Option<IpPrefix> {
    let is_from = rule.priority == PRIORITY_FROM_POD && rule.table != table::MAIN && rule.to.is_none();
    rule.from.filter(|from| is_from && is_plain(rule) && from.is_host())
}

/// The vlan to whose table a rule leads.
fn vlan_of(rule: &Rule) -> Option<u16> {
    table::vlan_of_branch(rule.table).filter(|_| !rule.foreign)
}

/// Whether the table is a branch interface's, and not that of another card's interface.
fn tells_of_vlan(rule: &Rule, shown: &Shown) -> bool {
    vlan_of(rule).is_some_and(|vlan| shown.links.contains(&names::vlan_device(vlan)))
}

/// The rules of pods that are gone, as far as they do not tell of a vlan.
#[must_use]
pub fn plan_stale(shown: &Shown) -> Vec<Step> {
    let is_dead = |pod: IpPrefix| !shown.routed.contains(&pod.address());
    let is_stale = |rule: &&Rule| {
        let is_to = rule.priority == PRIORITY_TO_POD && rule.table == table::MAIN && rule.from.is_none();
        let to = rule.to.filter(|to| is_to && is_plain(rule) && to.is_host());
        to.is_some_and(is_dead) || (from_pod(rule).is_some_and(is_dead) && !tells_of_vlan(rule, shown))
    };
    shown.rules.iter().filter(is_stale).map(delete).collect()
}

/// What branch pods left, in either mode. Only while none is being wired.
#[must_use]
pub fn plan_stale_branches(shown: &Shown) -> Vec<Step> {
    let mut dead: BTreeMap<u16, Vec<&Rule>> = BTreeMap::new();
    let mut living = shown.leading.clone();
    for rule in &shown.rules {
        let Some(vlan) = vlan_of(rule) else { continue };
        // Strict: the rule of its host veth; that of the vlan device is for the other direction.
        let veth =
            rule.iif.as_ref().filter(|iif| rule.priority == PRIORITY_BRANCH && **iif != names::vlan_device(vlan));
        let is_alive = match (veth, from_pod(rule)) {
            (Some(veth), _) => shown.links.contains(veth),
            (None, Some(pod)) if tells_of_vlan(rule, shown) => shown.routed.contains(&pod.address()),
            _ => continue,
        };
        if is_alive {
            living.insert(vlan);
        } else {
            dead.entry(vlan).or_default().push(rule);
        }
    }
    let mut steps = Vec::new();
    for (vlan, rules) in dead {
        steps.extend(rules.into_iter().map(delete));
        // The vlan may be another pod's by now.
        if living.contains(&vlan) {
            continue;
        }
        let device = names::vlan_device(vlan);
        let of_vlan = |rule: &&Rule| {
            vlan_of(rule) == Some(vlan) && rule.priority == PRIORITY_BRANCH && rule.iif.as_ref() == Some(&device)
        };
        steps.extend(shown.rules.iter().filter(of_vlan).map(delete));
        if shown.links.contains(&device) {
            let step = Step::host(Op::LinkDel { device }).tolerate(&[Errno::NODEV]);
            steps.push(step.context("failed to delete vlan of a pod that is gone"));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::rule::FwMark;

    fn pod(last: u8) -> IpPrefix {
        IpPrefix::host(Ipv4Addr::new(10, 0, 97, last))
    }

    fn iif(name: &str, table: u32) -> Rule {
        Rule::of_branch(Family::V4, name, table)
    }

    fn shown(rules: &[Rule], routed: &[u8], links: &[&str]) -> Shown {
        Shown {
            rules: rules.to_vec(),
            routed: routed.iter().map(|last| pod(*last).address()).collect(),
            leading: BTreeSet::new(),
            links: links.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn ops(steps: &[Step]) -> Vec<String> {
        steps.iter().map(|s| s.op.to_string()).collect()
    }

    #[test]
    fn only_rules_without_a_pod_are_stale() {
        let rules = [
            // Alive: a route, an interface.
            Rule::to_pod(pod(31)),
            Rule::from_pod(pod(31), 2),
            iif("vlanaaaaaaaaaaa", 107),
            iif("vlan.eth.7", 107),
            // Dead: neither.
            Rule::to_pod(pod(32)),
            Rule::from_pod(pod(33), 3),
            iif("vlanbbbbbbbbbbb", 107),
            iif("vlanccccccccccc", 108),
            iif("vlan.eth.8", 108),
            // Others': not the form of ours.
            Rule::to(PRIORITY_TO_POD, "10.0.0.0/16".parse().unwrap(), table::MAIN),
            Rule::from_pod(pod(34), table::MAIN),
            Rule { foreign: true, ..Rule::to_pod(pod(35)) },
            Rule { foreign: true, ..Rule::from_pod(pod(35), 108) },
            Rule { fwmark: Some(FwMark { mark: 1, mask: 1 }), ..Rule::to_pod(pod(36)) },
            Rule::to(1535, pod(37), table::MAIN),
            iif("gone", 7),
        ];
        let shown = shown(&rules, &[31], &["lo", "eth0", "vlanaaaaaaaaaaa", "vlan.eth.7", "vlan.eth.8"]);
        assert_eq!(
            ops(&plan_stale(&shown)),
            ["rule delete 512: from all to 10.0.97.32/32 lookup 254", "rule delete 1536: from 10.0.97.33/32 lookup 3"]
        );
        assert_eq!(
            ops(&plan_stale_branches(&shown)),
            [
                "rule delete 10: from all iif vlanbbbbbbbbbbb lookup 107",
                "rule delete 10: from all iif vlanccccccccccc lookup 108",
                "rule delete 10: from all iif vlan.eth.8 lookup 108",
                "link delete vlan.eth.8",
            ]
        );
    }

    #[test]
    fn the_vlan_of_a_standard_pod_goes_with_its_rules() {
        let rules = [
            Rule::to_pod(pod(77)),
            Rule::from_pod(pod(77), 107),
            Rule::to_pod(pod(78)),
            Rule::from_pod(pod(78), 108),
            // The table of another card's interface: there is no such vlan.
            Rule::from_pod(pod(79), 109),
        ];
        let shown = shown(&rules, &[78], &["vlan.eth.7", "vlan.eth.8"]);
        assert_eq!(
            ops(&plan_stale(&shown)),
            [
                "rule delete 512: from all to 10.0.97.77/32 lookup 254",
                "rule delete 1536: from 10.0.97.79/32 lookup 109"
            ]
        );
        assert_eq!(
            ops(&plan_stale_branches(&shown)),
            ["rule delete 1536: from 10.0.97.77/32 lookup 107", "link delete vlan.eth.7"]
        );
    }

    #[test]
    fn a_vlan_that_another_pod_has_by_now_stays() {
        let v6 = "2600::7/128".parse().unwrap();
        let dead = [iif("vlanbbbbbbbbbbb", 107), Rule::from_pod(pod(77), 107)];
        let living = [iif("vlanaaaaaaaaaaa", 107), Rule::from_pod(pod(78), 107), Rule::from_pod(v6, 107)];
        for living in living {
            let mut shown = shown(&[dead[0].clone(), living], &[78], &["vlan.eth.7", "vlanaaaaaaaaaaa"]);
            shown.rules.push(dead[1].clone());
            shown.routed.insert(v6.address());
            let expected = [
                "rule delete 10: from all iif vlanbbbbbbbbbbb lookup 107",
                "rule delete 1536: from 10.0.97.77/32 lookup 107",
            ];
            assert_eq!(ops(&plan_stale_branches(&shown)), expected, "{:?}", shown.rules);
        }
        // Somebody has taken the living pod's rules away: it has a route still.
        let mut shown = shown(&dead[..1], &[], &["vlan.eth.7"]);
        shown.leading.insert(7);
        assert_eq!(ops(&plan_stale_branches(&shown)), ["rule delete 10: from all iif vlanbbbbbbbbbbb lookup 107"]);
    }
}
