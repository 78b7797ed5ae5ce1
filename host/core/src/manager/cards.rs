//! The node's network cards, each with a pool of its own, and which of them are managed (spec 01 §10, spec 02 §5.7).

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::limits::InstanceLimits;
use crate::store::{Assigned, Assignment, CidrView, EniSpec, Key, Stats, Store, Time};

/// The pool of one managed card.
#[derive(Debug)]
pub struct CardPool {
    pub(super) index: u32,
    pub(super) store: Store,
    /// Attached interfaces on it that are not ours to use; they take places.
    pub(super) unmanaged: u32,
    /// Device indexes in use by interfaces that are not in the store.
    pub(super) foreign_devices: Vec<u32>,
}

impl CardPool {
    /// EC2's index of the card.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Interfaces on the card that are not ours to use.
    #[must_use]
    pub fn unmanaged(&self) -> u32 {
        self.unmanaged
    }
}

/// All managed cards, by index; never none. What is asked without a card is answered for all of them.
#[derive(Debug)]
pub struct Cards(Vec<CardPool>);

impl Cards {
    pub(super) fn new(indexes: &[u32], store: impl Fn(u32) -> Store) -> Self {
        let indexes: BTreeSet<u32> = if indexes.is_empty() { [0].into() } else { indexes.iter().copied().collect() };
        let pool = |index| CardPool { index, store: store(index), unmanaged: 0, foreign_devices: Vec::new() };
        Self(indexes.into_iter().map(pool).collect())
    }

    pub fn iter(&self) -> std::slice::Iter<'_, CardPool> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, CardPool> {
        self.0.iter_mut()
    }

    /// Managed cards.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The card of EC2's index, if it is managed.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&CardPool> {
        self.0.iter().find(|c| c.index == index)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut CardPool> {
        self.0.iter_mut().find(|c| c.index == index)
    }

    /// The card that holds the interface.
    #[must_use]
    pub fn of_eni(&self, eni: &str) -> Option<&CardPool> {
        self.0.iter().find(|c| c.store.eni(eni).is_some())
    }

    /// The store that holds the interface.
    pub(super) fn store_of(&mut self, eni: &str) -> Option<&mut Store> {
        self.0.iter_mut().map(|c| &mut c.store).find(|s| s.eni(eni).is_some())
    }

    /// What a pod holds, by card; at most one address on each.
    #[must_use]
    pub fn lookup(&self, key: &Key) -> Vec<Assigned> {
        self.0.iter().filter_map(|c| c.store.lookup(key)).collect()
    }

    /// The interfaces, by card and device index, and since when each is there.
    pub fn enis(&self) -> impl Iterator<Item = (&EniSpec, Time)> {
        self.0.iter().flat_map(|c| c.store.enis())
    }

    /// One interface.
    #[must_use]
    pub fn eni(&self, id: &str) -> Option<&EniSpec> {
        self.0.iter().find_map(|c| c.store.eni(id))
    }

    /// The blocks of one interface, by network.
    pub fn cidrs(&self, eni: &str, now: Time) -> impl Iterator<Item = CidrView<'_>> {
        let eni = eni.to_owned();
        self.of_eni(&eni).into_iter().flat_map(move |c| c.store.cidrs(&eni, now).collect::<Vec<_>>())
    }

    /// Slots of an interface that are taken.
    #[must_use]
    pub fn slots_used(&self, eni: &str) -> Option<usize> {
        self.0.iter().find_map(|c| c.store.slots_used(eni))
    }

    /// Every pod's addresses, by card.
    pub fn assignments(&self) -> impl Iterator<Item = (IpAddr, &Assignment)> {
        self.0.iter().flat_map(|c| c.store.assignments()).map(|(ip, a)| (ip, &**a))
    }

    /// The sums of all cards (spec 01 W22).
    #[must_use]
    pub fn stats(&self, now: Time) -> Stats {
        self.0.iter().map(|c| c.store.stats(now)).fold(Stats::default(), |sum, stats| sum + stats)
    }

    /// When the next address has cooled, if any is cooling.
    #[must_use]
    pub fn next_cooled(&self, now: Time) -> Option<Time> {
        self.0.iter().filter_map(|c| c.store.next_cooled(now)).min()
    }
}

impl<'a> IntoIterator for &'a Cards {
    type Item = &'a CardPool;
    type IntoIter = std::slice::Iter<'a, CardPool>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// An attached interface, as far as it decides whether its card is managed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnCard {
    pub card: u32,
    /// It carries no addresses: EC2's type `efa-only`, or, where only IMDS is asked, one without any address.
    pub efa_only: bool,
    /// It is tagged out of management (spec 01 §8.6).
    pub unmanaged: bool,
}

/// The cards that get a pool, ascending: card 0 alone, or with ENABLE_MULTI_NIC every card of the type but those that
/// hold an EFA-only interface and no managed interface beside it (spec 01 §10.1). Fixed at the daemon's start.
#[must_use]
pub fn managed_cards(multi_nic: bool, limits: &InstanceLimits, attached: &[OnCard]) -> Vec<u32> {
    if !multi_nic {
        return vec![0];
    }
    let taken_by_efa = |card: u32| {
        let mut on = attached.iter().filter(|i| i.card == card);
        on.clone().any(|i| i.efa_only) && !on.any(|i| !i.efa_only && !i.unmanaged)
    };
    let cards: BTreeSet<u32> = limits.cards.iter().map(|c| c.index).chain([0]).collect();
    // The primary interface is on card 0, and it is always managed.
    cards.into_iter().filter(|card| *card == 0 || !taken_by_efa(*card)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{CardLimits, Hypervisor};

    #[test]
    fn an_efa_only_interface_takes_its_card_unless_a_managed_one_is_beside_it() {
        let limits = InstanceLimits {
            enis: 4,
            ipv4_per_eni: 10,
            default_card: 0,
            hypervisor: Hypervisor::Nitro,
            bare_metal: false,
            cards: [0, 1, 2].map(|index| CardLimits { index, max_enis: 4 }).to_vec(),
        };
        let on = |card, efa_only, unmanaged| OnCard { card, efa_only, unmanaged };
        let primary = on(0, false, false);
        assert_eq!(managed_cards(false, &limits, &[primary]), [0]);
        assert_eq!(managed_cards(true, &limits, &[primary]), [0, 1, 2]);
        assert_eq!(managed_cards(true, &limits, &[primary, on(1, true, false)]), [0, 2]);
        assert_eq!(managed_cards(true, &limits, &[primary, on(1, true, false), on(1, false, false)]), [0, 1, 2]);
        assert_eq!(managed_cards(true, &limits, &[primary, on(1, true, false), on(1, false, true)]), [0, 2]);
    }
}
