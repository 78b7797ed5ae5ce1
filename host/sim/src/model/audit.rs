//! What must hold whatever the clients do, and what they must not do (spec 03 §16.7).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use reservoir_core::ip::IpNet;
use serde::{Deserialize, Serialize};

use super::aws::{AttachmentStatus, Aws, Eni, InterfaceType};
use super::journal::Journal;
use super::ops::{Op, Reply};
use super::refusal::Refusal;
use super::sim::Sim;

pub(super) const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";
const NO_MANAGE_TAG: &str = "node.k8s.amazonaws.com/no_manage";
/// Of events, more say no more.
const MOST_VIOLATIONS: usize = 1000;

/// Something that should not be. Its JSON form is `{"name": {…}}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Violation {
    /// One address on two interfaces, or one interface's address twice. Of a block that is shared, the first address.
    SharedAddress { address: IpAddr, enis: Vec<String> },
    /// The subnet's count and the interfaces' addresses disagree: a defect of the simulator itself.
    Accounting { subnet: String, free: u32, counted: u32 },
    /// The same for its IPv6 block: addresses and prefixes taken.
    AccountingIpv6 { subnet: String, taken: u32, counted: u32 },
    /// Made or detached, and then neither attached nor deleted.
    Leaked { eni: String, since_seconds: f64 },
    /// Attached through the API, and never made delete-on-termination.
    SurvivesTermination { eni: String, since_seconds: f64 },
    /// Changed although it is tagged `no_manage`, or a trunk, or EFA-only, or not ours where only ours are managed; or
    /// an EFA interface taken away.
    UnmanagedChanged { eni: String, action: &'static str },
    /// Created without the instance's tag.
    Untagged { eni: String },
    /// Created without a tag that the node is to set, or with another value.
    WrongTag { eni: String, tag: String },
    /// A call that the node's mode forbids.
    ForbiddenCall { instance: String, action: &'static str },
    /// More EC2 calls in one hour, counted from the start, than the node's budget.
    OverBudget { instance: String, hour: u32, calls: u32, budget: u32 },
    /// A pod has an address that no interface of its instance has.
    PodWithoutAddress { instance: String, address: IpAddr },
    /// Two pods have one address.
    SharedByPods { instance: String, address: IpAddr },
}

/// What a node is held to, beside what all are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// No mutating call: provisioning is disabled (spec 03 §13).
    pub read_only: bool,
    /// No EC2 call at all: IMDS-only mode.
    pub no_ec2: bool,
    /// EC2 calls in any one hour.
    pub calls_per_hour: Option<u32>,
    /// Tags that every interface is created with.
    pub tags: BTreeMap<String, String>,
    /// Interfaces without the instance's own tag are not managed, the primary one excepted (spec 03 §10.1).
    pub only_tagged: bool,
}

impl Violation {
    /// Its name, as in the JSON form.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::SharedAddress { .. } => "shared_address",
            Self::Accounting { .. } => "accounting",
            Self::AccountingIpv6 { .. } => "accounting_ipv6",
            Self::Leaked { .. } => "leaked",
            Self::SurvivesTermination { .. } => "survives_termination",
            Self::UnmanagedChanged { .. } => "unmanaged_changed",
            Self::Untagged { .. } => "untagged",
            Self::WrongTag { .. } => "wrong_tag",
            Self::ForbiddenCall { .. } => "forbidden_call",
            Self::OverBudget { .. } => "over_budget",
            Self::PodWithoutAddress { .. } => "pod_without_address",
            Self::SharedByPods { .. } => "shared_by_pods",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedAddress { address, enis } => write!(f, "{address} is on {}", enis.join(" and ")),
            Self::Accounting { subnet, free, counted } => write!(f, "{subnet} says {free} free, counted {counted}"),
            Self::AccountingIpv6 { subnet, taken, counted } => {
                write!(f, "{subnet} says {taken} IPv6 addresses and prefixes taken, counted {counted}")
            }
            Self::Leaked { eni, since_seconds } => {
                write!(f, "{eni} is neither attached nor deleted since {since_seconds} s")
            }
            Self::SurvivesTermination { eni, since_seconds } => {
                write!(f, "{eni} is attached since {since_seconds} s and not delete-on-termination")
            }
            Self::UnmanagedChanged { eni, action } => write!(f, "{action} on {eni}, which is not managed"),
            Self::Untagged { eni } => write!(f, "{eni} was created without the tag {INSTANCE_TAG}"),
            Self::WrongTag { eni, tag } => write!(f, "{eni} was created without the right tag {tag}"),
            Self::ForbiddenCall { instance, action } => write!(f, "{instance} called {action}, which its mode forbids"),
            Self::OverBudget { instance, hour, calls, budget } => {
                write!(f, "{instance} made {calls} calls in hour {hour}, its budget is {budget}")
            }
            Self::PodWithoutAddress { instance, address } => {
                write!(f, "a pod of {instance} has {address}, no interface of it has")
            }
            Self::SharedByPods { instance, address } => write!(f, "two pods of {instance} have {address}"),
        }
    }
}

impl Sim {
    /// Everything that should not be: what is wrong now, and what was done wrong since the start.
    #[must_use]
    pub fn audit(&self) -> Vec<Violation> {
        self.aws.audit(self.now, self.grace, &self.journal)
    }

    /// The same, and whether the pods' addresses are the instance's.
    pub fn audit_pods(&self, instance: &str, pods: impl IntoIterator<Item = IpAddr>) -> Vec<Violation> {
        let mut out = self.audit();
        let blocks: Vec<IpNet> = self.attached(instance).flat_map(blocks).collect();
        let mut seen = std::collections::BTreeSet::new();
        for address in pods {
            let instance = instance.to_owned();
            if !seen.insert(address) {
                out.push(Violation::SharedByPods { instance, address });
            } else if !blocks.iter().any(|b| b.contains(address)) {
                out.push(Violation::PodWithoutAddress { instance, address });
            }
        }
        out
    }

    /// Holds a node to more from now on.
    ///
    /// # Errors
    /// No such instance.
    pub fn expect(&mut self, instance: &str, expect: Expect) -> Result<(), Refusal> {
        let machine = self.aws.instances.get_mut(instance).ok_or_else(|| Refusal::no_instance(instance))?;
        machine.expect = expect;
        Ok(())
    }
}

/// All an interface owns.
fn blocks(eni: &Eni) -> impl Iterator<Item = IpNet> {
    let addresses = eni.addresses();
    let all: Vec<IpNet> = addresses.blocks().map(IpNet::from).chain(addresses.ipv6_blocks()).collect();
    all.into_iter()
}

impl Aws {
    fn blame(&mut self, violation: Violation) {
        if self.violations.len() < MOST_VIOLATIONS && !self.violations.contains(&violation) {
            self.violations.push(violation);
        }
    }

    pub(super) fn watch_unmanaged(&mut self, instance: &str, op: &Op) {
        let ids: Vec<&str> = match op {
            Op::DetachNetworkInterface { attachment } => {
                self.attachments.get(attachment).map(String::as_str).into_iter().collect()
            }
            Op::CreateTags { resources, .. } => resources.iter().map(String::as_str).collect(),
            _ => op.mutated_interface().into_iter().collect(),
        };
        let found = ids.into_iter().filter(|id| self.enis.get(*id).is_some_and(|e| !self.may_change(instance, e, op)));
        let new: Vec<_> =
            found.map(|id| Violation::UnmanagedChanged { eni: id.to_owned(), action: op.api() }).collect();
        new.into_iter().for_each(|v| self.blame(v));
    }

    fn may_change(&self, instance: &str, eni: &Eni, op: &Op) -> bool {
        let machine = self.instances.get(instance);
        if machine.is_some_and(|i| i.primary_eni == eni.id) {
            return true;
        }
        let takes_away = matches!(op, Op::DetachNetworkInterface { .. } | Op::DeleteNetworkInterface { .. });
        let by_type = match eni.interface_type {
            InterfaceType::Interface => true,
            InterfaceType::Efa => !takes_away,
            // The security groups of the node are the trunk's too (spec 03 §7.9).
            InterfaceType::Trunk => matches!(op, Op::ModifyNetworkInterfaceAttribute { groups: Some(_), .. }),
            InterfaceType::EfaOnly => false,
        };
        let own = eni.tags.get(INSTANCE_TAG).is_some_and(|v| v == instance);
        let by_tag = match eni.tags.get(NO_MANAGE_TAG) {
            Some(value) => value != "true",
            None => own || eni.created || !machine.is_some_and(|i| i.expect.only_tagged),
        };
        by_type && by_tag
    }

    pub(super) fn watch_created(&mut self, instance: &str, op: &Op, reply: &Reply) {
        let (Op::CreateNetworkInterface(create), Reply::Created(eni)) = (op, reply) else { return };
        let value = |key: &str| create.tags.iter().find(|(k, _)| k == key).map(|(_, v)| v);
        let mut new = Vec::new();
        if value(INSTANCE_TAG).is_none() {
            new.push(Violation::Untagged { eni: eni.id.clone() });
        }
        if let Some(machine) = self.instances.get(instance) {
            let wrong = machine.expect.tags.iter().filter(|(key, wanted)| value(key) != Some(*wanted));
            new.extend(wrong.map(|(key, _)| Violation::WrongTag { eni: eni.id.clone(), tag: key.clone() }));
        }
        new.into_iter().for_each(|v| self.blame(v));
    }

    pub(super) fn watch_mode(&mut self, instance: &str, op: &Op) {
        let Some(expect) = self.instances.get(instance).map(|i| &i.expect) else { return };
        if expect.no_ec2 || (expect.read_only && op.is_mutating()) {
            self.blame(Violation::ForbiddenCall { instance: instance.to_owned(), action: op.api() });
        }
    }

    fn audit(&self, now: Duration, grace: Duration, journal: &Journal) -> Vec<Violation> {
        let mut out = self.violations.clone();
        for eni in self.enis.values() {
            let since_seconds = eni.since.as_secs_f64();
            let old = now.saturating_sub(eni.since) > grace;
            match &eni.attachment {
                None if old && eni.created => out.push(Violation::Leaked { eni: eni.id.clone(), since_seconds }),
                Some(a) if old && !a.delete_on_termination && a.status == AttachmentStatus::Attached => {
                    out.push(Violation::SurvivesTermination { eni: eni.id.clone(), since_seconds });
                }
                _ => {}
            }
        }
        self.audit_addresses(&mut out);
        for (id, machine) in &self.instances {
            let Some(budget) = machine.expect.calls_per_hour else { continue };
            let hours = journal.node(id).map(|n| &n.hours).into_iter().flatten();
            out.extend(hours.filter(|(_, calls)| **calls > budget).map(|(&hour, &calls)| Violation::OverBudget {
                instance: id.clone(),
                hour,
                calls,
                budget,
            }));
        }
        out
    }

    fn audit_addresses(&self, out: &mut Vec<Violation>) {
        let mut held: Vec<(IpNet, &str)> = Vec::new();
        let mut used: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
        for eni in self.enis.values() {
            let (ipv4, ipv6) = used.entry(&eni.subnet).or_default();
            for block in blocks(eni) {
                if block.is_ipv4() {
                    *ipv4 += u32::try_from(block.size()).unwrap_or(u32::MAX);
                } else {
                    *ipv6 += 1;
                }
                held.push((block, &eni.id));
            }
        }
        // Sorted by first address, the larger block first: who overlaps anybody overlaps the last block that began before.
        held.sort_by_key(|(block, _)| (block.network(), block.length()));
        let mut before: Option<(IpNet, &str)> = None;
        for (block, eni) in held {
            match before {
                Some((outer, holder)) if outer.contains(block.network()) => {
                    let enis = vec![holder.to_owned(), eni.to_owned()];
                    out.push(Violation::SharedAddress { address: block.network(), enis });
                }
                _ => before = Some((block, eni)),
            }
        }
        for subnet in &self.subnets {
            let (ipv4, ipv6) = used.get(subnet.id.as_str()).copied().unwrap_or_default();
            let taken = ipv4 + 5 + subnet.taken.len() as u32;
            let (free, counted) = (subnet.pool.free(), subnet.pool.cidr().size().saturating_sub(taken));
            if counted != free {
                out.push(Violation::Accounting { subnet: subnet.id.clone(), free, counted });
            }
            let taken = subnet.ipv6.as_ref().map_or(0, |p| (p.taken().0 + p.taken().1) as u32);
            if taken != ipv6 {
                out.push(Violation::AccountingIpv6 { subnet: subnet.id.clone(), taken, counted: ipv6 });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::Config;

    /// Breaks the books by hand: no call of the API can.
    #[test]
    fn a_shared_address_and_wrong_books_are_seen() {
        let mut config = Config::preset("ipv6").unwrap();
        config.instances.push(crate::model::config::InstanceConfig::new("i-2", "c5.large", &config.subnets[0].id));
        let mut sim = Sim::new(&config).unwrap();
        assert_eq!(sim.audit(), []);
        let ids: Vec<String> = sim.aws.enis.keys().cloned().collect();
        let (stolen, ipv6) = (sim.aws.enis[&ids[0]].primary.unwrap(), sim.aws.enis[&ids[0]].ipv6[0]);
        let thief = sim.aws.enis.get_mut(&ids[1]).unwrap();
        thief.prefixes.push(reservoir_core::ip::Ipv4Net::new(stolen, 28));
        thief.ipv6_prefixes.push(IpNet::new(ipv6.into(), 80));
        let found = sim.audit();
        let names: Vec<&str> = found.iter().map(Violation::name).collect();
        assert_eq!(names, ["shared_address", "shared_address", "accounting", "accounting_ipv6"], "{found:?}");
        assert!(matches!(&found[0], Violation::SharedAddress { address, .. } if *address == IpAddr::V4(stolen)));
        let json = serde_json::to_value(&found[0]).unwrap();
        assert!(json[found[0].name()]["enis"].is_array(), "{json}");
        let pods = [IpAddr::V4(stolen), IpAddr::V4(stolen), IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let found = sim.audit_pods("i-2", pods);
        let names: Vec<&str> = found[4..].iter().map(Violation::name).collect();
        assert_eq!(names, ["shared_by_pods", "pod_without_address"]);
    }
}
