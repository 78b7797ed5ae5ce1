//! What must hold whatever the clients do, and what they must not do (spec 03 §16.7).

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::Serialize;

use super::aws::{AttachmentStatus, Aws, InterfaceType};
use super::ops::{Op, Reply};

pub(super) const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";
const NO_MANAGE_TAG: &str = "node.k8s.amazonaws.com/no_manage";

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Violation {
    /// One address on two interfaces, or one interface's address twice.
    SharedAddress { address: Ipv4Addr, enis: Vec<String> },
    /// The subnet's count and the interfaces' addresses disagree: a defect of the simulator itself.
    Accounting { subnet: String, free: u32, counted: u32 },
    /// Made or detached, and then neither attached nor deleted.
    Leaked { eni: String, since_seconds: f64 },
    /// Attached through the API, and never made delete-on-termination.
    SurvivesTermination { eni: String, since_seconds: f64 },
    /// Changed although it is tagged `no_manage`, or a trunk, or EFA-only.
    UnmanagedChanged { eni: String, action: &'static str },
    /// Created without the instance's tag.
    Untagged { eni: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedAddress { address, enis } => write!(f, "{address} is on {}", enis.join(" and ")),
            Self::Accounting { subnet, free, counted } => write!(f, "{subnet} says {free} free, counted {counted}"),
            Self::Leaked { eni, since_seconds } => {
                write!(f, "{eni} is neither attached nor deleted since {since_seconds} s")
            }
            Self::SurvivesTermination { eni, since_seconds } => {
                write!(f, "{eni} is attached since {since_seconds} s and not delete-on-termination")
            }
            Self::UnmanagedChanged { eni, action } => write!(f, "{action} on {eni}, which is not managed"),
            Self::Untagged { eni } => write!(f, "{eni} was created without the tag {INSTANCE_TAG}"),
        }
    }
}

impl Aws {
    pub(super) fn watch_unmanaged(&mut self, op: &Op) {
        let ids: Vec<&str> = match op {
            Op::DetachNetworkInterface { attachment } => {
                self.attachments.get(attachment).map(String::as_str).into_iter().collect()
            }
            Op::CreateTags { resources, .. } => resources.iter().map(String::as_str).collect(),
            _ => op.mutated_interface().into_iter().collect(),
        };
        let unmanaged = |id: &&str| {
            self.enis.get(*id).is_some_and(|e| {
                e.tags.get(NO_MANAGE_TAG).is_some_and(|v| v == "true")
                    || matches!(e.interface_type, InterfaceType::Trunk | InterfaceType::EfaOnly)
            })
        };
        let found = ids.into_iter().filter(unmanaged);
        let new: Vec<_> =
            found.map(|id| Violation::UnmanagedChanged { eni: id.to_owned(), action: op.api() }).collect();
        self.violations.extend(new);
    }

    pub(super) fn watch_created(&mut self, op: &Op, reply: &Reply) {
        if let (Op::CreateNetworkInterface(create), Reply::Created(eni)) = (op, reply)
            && !create.tags.iter().any(|(key, _)| key == INSTANCE_TAG)
        {
            self.violations.push(Violation::Untagged { eni: eni.id.clone() });
        }
    }

    pub(super) fn audit(&self, now: Duration, grace: Duration) -> Vec<Violation> {
        let mut out = self.violations.clone();
        let mut holders: BTreeMap<Ipv4Addr, Vec<String>> = BTreeMap::new();
        let mut used: BTreeMap<&str, u32> = BTreeMap::new();
        for eni in self.enis.values() {
            for block in eni.addresses().blocks() {
                *used.entry(&eni.subnet).or_default() += block.size();
                for address in (0..block.size()).filter_map(|n| block.nth(n)) {
                    holders.entry(address).or_default().push(eni.id.clone());
                }
            }
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
        let shared = holders.into_iter().filter(|(_, enis)| enis.len() > 1);
        out.extend(shared.map(|(address, enis)| Violation::SharedAddress { address, enis }));
        for subnet in &self.subnets {
            let reserved = 5 + subnet.taken.len() as u32;
            let taken = used.get(subnet.id.as_str()).copied().unwrap_or(0) + reserved;
            let counted = subnet.pool.cidr().size().saturating_sub(taken);
            if counted != subnet.pool.free() {
                let free = subnet.pool.free();
                out.push(Violation::Accounting { subnet: subnet.id.clone(), free, counted });
            }
        }
        out
    }
}
