//! A host-network checker (spec 05 §18): what a host holds, and what it should hold with these pods.
//!
//! ```text
//! let before = Inventory::take()?;
//! … ADD …
//! before.with_pods(&pods).differences(&Inventory::take()?)   // nothing: all that must be there is, and nothing else
//! … DEL …
//! before.differences(&Inventory::take()?)                    // nothing: nothing is left
//! ```

mod namespace;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::branch::{BranchPod, EnforcingMode};
use crate::error::Error;
use crate::iptables::Iptables;
use crate::kernel::Kernel;
use crate::netlink::reply::RouteInfo;
use crate::plan::Side;
use crate::pod::PodInterface;
use crate::prefix::IpPrefix;
use crate::rule::{Family, Rule};
use crate::{names, table};

pub use namespace::{Namespace, skip};

/// Interfaces, rules, routes and permanent neighbours of the calling thread's namespace; firewall rules if asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Each thing as a line, and how often it is there.
    lines: BTreeMap<String, usize>,
}

impl Inventory {
    /// What is there now. What the kernel makes with every interface (link-local and local routes) is left out.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take() -> Result<Self, Error> {
        let mut kernel = Kernel::host()?;
        let mut inventory = Self::default();
        let links = kernel.links(Side::Host)?;
        let names: BTreeMap<u32, String> = links.into_iter().map(|l| (l.index, l.name)).collect();
        let name = |index: u32| names.get(&index).cloned().unwrap_or_else(|| format!("#{index}"));
        for link in names.values() {
            inventory.add(interface_line(link));
        }
        for family in [Family::V4, Family::V6] {
            for rule in kernel.rules(Side::Host, family)? {
                inventory.add(rule_line(&rule));
            }
            for route in kernel.all_routes(Side::Host, family)?.iter().filter(|r| !is_kernels(r)) {
                let device = route.device_index.map(name).unwrap_or_default();
                let gateway = route.gateway.map(|g| format!(" via {g}")).unwrap_or_default();
                inventory.add(route_line(route.destination, &gateway, &device, route.table));
            }
            for neighbour in kernel.neighbours(Side::Host, family)?.iter().filter(|n| n.permanent) {
                inventory.add(format!("neighbour {} dev {}", neighbour.address, name(neighbour.device_index)));
            }
        }
        Ok(inventory)
    }

    /// With the rules that these programs show.
    ///
    /// # Errors
    /// [`Error::Command`].
    pub fn with_firewall(mut self, programs: &Iptables) -> Result<Self, Error> {
        for line in programs.listing()? {
            self.add(format!("firewall {line}"));
        }
        Ok(self)
    }

    /// What it must be when these interfaces of pods are there besides (spec 04 §4.3).
    #[must_use]
    pub fn with_pods(&self, interfaces: &[PodInterface]) -> Self {
        let mut expected = self.clone();
        for interface in interfaces {
            let address = IpPrefix::host(interface.address);
            expected.add(interface_line(&interface.host_veth));
            expected.add(route_line(address, "", &interface.host_veth, table::MAIN));
            expected.add(rule_line(&Rule::to_pod(address)));
            let from = table::of_pod(interface.table);
            if from != table::MAIN {
                expected.add(rule_line(&Rule::from_pod(address, from)));
            }
        }
        expected
    }

    /// What it must be when these pods with branch interfaces are there besides (spec 04 §6.2).
    ///
    /// # Panics
    /// A vlan that cannot be.
    #[must_use]
    pub fn with_branches(&self, pods: &[BranchPod]) -> Self {
        let mut expected = self.clone();
        for pod in pods {
            let table = table::of_branch(pod.vlan).expect("a vlan of a branch interface");
            let (address, family) = (IpPrefix::host(pod.address), Family::of(pod.address));
            let vlan = names::vlan_device(pod.vlan);
            expected.add(interface_line(&pod.host_veth));
            expected.add(interface_line(&vlan));
            let via = format!(" via {}", pod.gateway);
            expected.add(route_line(IpPrefix::host(pod.gateway), "", &vlan, table));
            expected.add(route_line(IpPrefix::default_of(family), &via, &vlan, table));
            let (home, rules) = match pod.mode {
                EnforcingMode::Strict => {
                    let by = |iif: &str| Rule::of_branch(family, iif, table);
                    (table, [by(&vlan), by(&pod.host_veth)])
                }
                EnforcingMode::Standard => (table::MAIN, [Rule::to_pod(address), Rule::from_pod(address, table)]),
            };
            expected.add(route_line(address, "", &pod.host_veth, home));
            rules.iter().for_each(|rule| expected.add(rule_line(rule)));
        }
        expected
    }

    /// Less the lines that are nobody's business here.
    #[must_use]
    pub fn without(&self, is_left_out: impl Fn(&str) -> bool) -> Self {
        Self { lines: self.lines.iter().filter(|(line, _)| !is_left_out(line)).map(|(l, n)| (l.clone(), *n)).collect() }
    }

    /// What `actual` lacks and has too much, one line each; nothing if both are the same.
    #[must_use]
    pub fn differences(&self, actual: &Self) -> Vec<String> {
        let count = |side: &Self, line: &String| side.lines.get(line).copied().unwrap_or(0);
        let all: BTreeMap<&String, ()> = self.lines.keys().chain(actual.lines.keys()).map(|l| (l, ())).collect();
        let mut differences = Vec::new();
        for line in all.into_keys() {
            let (wanted, found) = (count(self, line), count(actual, line));
            differences.extend((found..wanted).map(|_| format!("missing: {line}")));
            differences.extend((wanted..found).map(|_| format!("left over: {line}")));
        }
        differences
    }

    /// Waits until `now` shows nothing else than this, after `what`: the kernel takes namespaces apart in its own time.
    ///
    /// # Panics
    /// What differs after a minute: one thread of the kernel does it for all namespaces.
    pub fn is_reached_by(&self, what: &str, now: impl Fn() -> Self) {
        let begun = Instant::now();
        loop {
            let differences = self.differences(&now());
            if differences.is_empty() {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {differences:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn add(&mut self, line: String) {
        *self.lines.entry(line).or_default() += 1;
    }
}

fn interface_line(name: &str) -> String {
    format!("interface {name}")
}

fn rule_line(rule: &Rule) -> String {
    let family = if rule.family == Family::V4 { "-4" } else { "-6" };
    let foreign = if rule.foreign { " and more" } else { "" };
    format!("rule {family} {rule}{foreign}")
}

fn route_line(destination: IpPrefix, gateway: &str, device: &str, table: u32) -> String {
    format!("route {destination}{gateway} dev {device} table {table}")
}

fn is_kernels(route: &RouteInfo) -> bool {
    let destination = route.destination;
    let link_local: IpPrefix = IpPrefix::new([0xfe80, 0, 0, 0, 0, 0, 0, 0], 64);
    route.table == table::LOCAL || destination == link_local || destination.address().is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_both_ways_and_each_copy_counts() {
        let inventory = |lines: &[&str]| {
            let mut inventory = Inventory::default();
            lines.iter().for_each(|l| inventory.add((*l).to_owned()));
            inventory
        };
        let (a, b) = (inventory(&["x", "x", "y"]), inventory(&["x", "z"]));
        assert_eq!(a.differences(&b), ["missing: x", "missing: y", "left over: z"]);
        assert!(a.differences(&a).is_empty());
    }

    #[test]
    fn a_branch_pod_is_two_interfaces_three_routes_and_two_rules() {
        let pod = |mode| BranchPod {
            netns: "/p".into(),
            name: "eth0".to_owned(),
            host_veth: "veth".to_owned(),
            address: [10, 0, 120, 77].into(),
            vlan: 7,
            gateway: [10, 0, 96, 1].into(),
            mode,
        };
        for (mode, home, rule) in [
            (EnforcingMode::Strict, 107, "rule -4 10: from all iif veth lookup 107"),
            (EnforcingMode::Standard, 254, "rule -4 1536: from 10.0.120.77/32 lookup 107"),
        ] {
            let lines = Inventory::default().with_branches(&[pod(mode)]).lines;
            assert_eq!(lines.len(), 7, "{lines:?}");
            for line in [rule, &format!("route 10.0.120.77/32 dev veth table {home}")] {
                assert!(lines.contains_key(line), "{line}: {lines:?}");
            }
        }
    }

    #[test]
    fn a_pod_is_an_interface_a_route_and_its_rules() {
        let pod = |table| PodInterface {
            name: "eth0".to_owned(),
            host_veth: "eni1".to_owned(),
            address: [10, 0, 97, 31].into(),
            table,
        };
        let nothing = Inventory::default();
        assert_eq!(nothing.with_pods(&[pod(1)]).lines.len(), 3);
        let lines = nothing.with_pods(&[pod(2)]).lines;
        assert_eq!(lines.len(), 4);
        assert!(lines.contains_key("rule -4 1536: from 10.0.97.31/32 lookup 2"), "{lines:?}");
    }
}
