//! What the store is asked with and answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::ip::IpNet;
use crate::policy::Unit;

/// Time since the daemon's start, from a clock that never jumps.
pub type Time = Duration;

/// The kernel's main routing table.
pub const MAIN_TABLE: u32 = 254;

/// Who holds an address (spec 02 §5.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub network: String,
    pub container: String,
    pub interface: String,
}

impl Key {
    pub fn new(network: impl Into<String>, container: impl Into<String>, interface: impl Into<String>) -> Self {
        Self { network: network.into(), container: container.into(), interface: interface.into() }
    }

    /// All three empty: no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.network.is_empty() && self.container.is_empty() && self.interface.is_empty()
    }
}

/// What is remembered of a pod. `interfaces` is 0 in old checkpoints and counts as 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodMeta {
    pub namespace: String,
    pub name: String,
    pub interfaces: u32,
}

/// One pod's hold on one address.
#[derive(Debug, PartialEq, Eq)]
pub struct Assignment {
    pub key: Key,
    pub pod: PodMeta,
    /// Unix nanoseconds.
    pub timestamp: i64,
    /// Its text in the checkpoint, made once: the file is written far more often than an address is assigned.
    pub entry: String,
}

/// A pod whose address lies in no CIDR of the store (spec 02 W13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    pub address: IpAddr,
    pub assignment: Arc<Assignment>,
}

/// One attached interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniSpec {
    pub id: String,
    pub mac: String,
    /// Its network card; 0 is the one with the primary interface.
    pub card: u32,
    /// Its place on the card.
    pub device_index: u32,
    pub subnet: String,
    /// Routing table of its pods' traffic (spec 04 §7.2).
    pub table: u32,
    /// Its own address, never a pod's (invariant I13).
    pub address: Option<IpAddr>,
    pub primary: bool,
    pub trunk: bool,
    pub efa: bool,
    pub excluded: bool,
}

/// An address given to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    pub ip: IpAddr,
    pub card: u32,
    pub device_index: u32,
    pub table: u32,
    /// Empty for an orphan.
    pub eni: String,
    /// What to undo; none if the pod held it already.
    pub change: Option<Change>,
}

/// An address taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    pub ip: IpAddr,
    pub card: u32,
    pub device_index: u32,
    pub table: u32,
    /// Empty for an orphan.
    pub eni: String,
    /// Addresses that the pod was given in all, at least 1.
    pub interfaces: u32,
    pub change: Change,
}

/// One change that the card's checkpoint must tell before anyone is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Assigned {
        card: u32,
        key: Key,
        ip: IpAddr,
    },
    Released {
        card: u32,
        ip: IpAddr,
        assignment: Arc<Assignment>,
    },
    /// Pods lost their addresses because these are gone: there is nothing to go back to.
    Lost {
        card: u32,
    },
}

impl Change {
    /// The card whose checkpoint must tell it.
    #[must_use]
    pub fn card(&self) -> u32 {
        match self {
            Self::Assigned { card, .. } | Self::Released { card, .. } | Self::Lost { card } => *card,
        }
    }
}

/// What the store refuses, each a decision of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("data store: duplicate ENI")]
    DuplicateEni,
    #[error("datastore: unknown ENI")]
    UnknownEni,
    #[error("datastore: IP already in data store")]
    DuplicateCidr,
    #[error("datastore: unknown IP")]
    UnknownCidr,
    #[error("datastore: IP is used and can not be deleted")]
    InUse,
    #[error("datastore: an address of it is cooling")]
    Cooling,
    /// The text is a contract (spec 02 §5.2).
    #[error("AssignPodIPAddress: no available IP/Prefix addresses")]
    NoAddress,
    /// The text is a contract: the plugin looks for it (spec 02 §2.4).
    #[error("datastore: unknown pod")]
    UnknownPod,
}

/// One CIDR as others see it.
#[derive(Debug)]
pub struct CidrView<'a> {
    pub net: IpNet,
    pub unit: Unit,
    pub since: Time,
    pub serving: bool,
    /// Of the other unit than the node's, and no plan asked for it (spec 01 §15).
    pub left_over: bool,
    pub assigned: u32,
    pub cooling: u32,
    pub cooled_at: Option<Time>,
    pub last_used: Option<Time>,
    /// Of the addresses that were ever handed out, by address.
    pub records: Vec<Record<'a>>,
}

/// What is known of an address that was handed out (spec 02 §8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub ip: IpAddr,
    /// Who holds it.
    pub assignment: Option<&'a Assignment>,
    /// When it was given to who holds it, or to who held it last: Unix nanoseconds. What is below 1 is not known.
    pub given: Option<i64>,
    /// When it was given up; none while somebody holds it.
    pub released: Option<Time>,
}

/// The routing table of an interface's traffic (spec 04 §7.2).
#[must_use]
pub fn table_of(card: u32, device_index: u32) -> u32 {
    match (card, device_index) {
        (0, 0) => MAIN_TABLE,
        (0, device) => device.saturating_add(1),
        (card, device) => card.saturating_mul(100).saturating_add(device).saturating_add(10_000),
    }
}

/// Derived numbers of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub enis: usize,
    pub total: u64,
    pub assigned: u64,
    pub cooling: u64,
    pub prefixes: usize,
}

impl std::ops::Add for Stats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            enis: self.enis + other.enis,
            total: self.total.saturating_add(other.total),
            assigned: self.assigned + other.assigned,
            cooling: self.cooling + other.cooling,
            prefixes: self.prefixes + other.prefixes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_by_card_and_device() {
        // Spec 04 §7.2.
        let cases = [((0, 0), 254), ((0, 1), 2), ((0, 7), 8), ((1, 0), 10_100), ((1, 1), 10_101), ((3, 2), 10_302)];
        for ((card, device), table) in cases {
            assert_eq!(table_of(card, device), table, "card {card} device {device}");
        }
    }
}
