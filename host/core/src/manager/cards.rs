//! The node's network cards, each with a pool of its own, and which of them are managed (spec 01 §10, spec 02 §5.7).

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::cloud::{AttachedInterface, Instance, Interface};
use crate::ip::IpNet;
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

    /// Whether the interface has the block in its store.
    pub(super) fn holds(&self, eni: &str, net: IpNet) -> bool {
        self.of_eni(eni).is_some_and(|c| c.store.blocks(eni).any(|held| held == net))
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

/// Tag that takes an interface out of management.
const NO_MANAGE_TAG: &str = "node.k8s.amazonaws.com/no_manage";
/// Tag that names the instance whose daemon manages an interface.
pub(super) const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";

/// Whether an interface that EC2 lists with these tags is the node's to use (spec 01 §8.6, spec 03 §10.1). Its primary one
/// is, whatever its tags, and so is one that EC2 does not list.
#[must_use]
pub(super) fn is_managed(tags: &[(String, String)], instance_id: &str, manage_untagged: bool) -> bool {
    let tag = |key: &str| tags.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    match tag(NO_MANAGE_TAG) {
        Some("true") => false,
        Some(_) => true,
        None => tag(INSTANCE_TAG) == Some(instance_id) || manage_untagged,
    }
}

/// What is attached, for [`managed_cards`]: by IMDS, and by EC2's types and tags of those that it has `told` of.
#[must_use]
pub fn on_cards(
    attached: &[AttachedInterface],
    told: &[Interface],
    instance: &Instance,
    manage_untagged: bool,
) -> Vec<OnCard> {
    let one = |i: &AttachedInterface| {
        let told = told.iter().find(|t| t.eni == i.eni);
        // To IMDS it is one without any address (spec 03 §5.2).
        let efa_only = told.map_or(i.primary.is_none() && i.ipv6.is_empty(), |t| t.interface_type == "efa-only");
        let managed = |t: &Interface| is_managed(&t.tags, &instance.instance_id, manage_untagged);
        OnCard { card: i.card, efa_only, unmanaged: i.eni != instance.primary_eni && told.is_some_and(|t| !managed(t)) }
    };
    attached.iter().map(one).collect()
}

/// Whether tags decide which cards are managed: another interface is beside an EFA-only one. EC2 is worth asking then,
/// before the cards are chosen for good.
#[must_use]
pub fn tags_decide(multi_nic: bool, attached: &[OnCard]) -> bool {
    let beside = |card: u32| attached.iter().any(|i| i.card == card && !i.efa_only);
    multi_nic && attached.iter().any(|i| i.efa_only && i.card != 0 && beside(i.card))
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
    fn tags_tell_whether_an_interface_beside_an_efa_only_one_is_managed() {
        let attached = |eni: &str, card, address: Option<&str>| AttachedInterface {
            eni: eni.to_owned(),
            mac: String::new(),
            device_index: 0,
            card,
            subnet: String::new(),
            subnet_cidr: None,
            primary: address.map(|a| a.parse().unwrap()),
            secondary: vec![],
            prefixes: vec![],
            subnet_ipv6_cidr: None,
            ipv6: vec![],
            ipv6_prefixes: vec![],
        };
        let told = |eni: &str, interface_type: &str, tags: &[(&str, &str)]| Interface {
            eni: eni.to_owned(),
            mac: String::new(),
            subnet: String::new(),
            interface_type: interface_type.to_owned(),
            description: String::new(),
            status: String::new(),
            tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            security_groups: vec![],
            primary: None,
            secondary: vec![],
            prefixes: vec![],
            ipv6: vec![],
            ipv6_prefixes: vec![],
            attachment: None,
            connection_tracking: None,
        };
        let instance = Instance {
            region: String::new(),
            availability_zone: String::new(),
            local_ipv4: [10, 0, 0, 1].into(),
            local_ipv6: None,
            instance_id: "i-1".to_owned(),
            instance_type: String::new(),
            mac: String::new(),
            primary_eni: "eni-0".to_owned(),
            subnet: String::new(),
            vpc: String::new(),
        };
        let imds = [attached("eni-0", 0, Some("10.0.0.1")), attached("eni-efa", 1, None), attached("eni-x", 1, None)];
        let shown = on_cards(&imds, &[], &instance, true);
        assert_eq!(shown.iter().map(|i| i.efa_only).collect::<Vec<_>>(), [false, true, true]);
        assert!(!tags_decide(true, &shown), "nothing is beside it");
        let imds = [imds[0].clone(), imds[1].clone(), attached("eni-x", 1, Some("10.0.0.9"))];
        let shown = on_cards(&imds, &[], &instance, true);
        assert!(tags_decide(true, &shown) && !tags_decide(false, &shown));
        let efa = told("eni-efa", "efa-only", &[]);
        for (tags, untagged, unmanaged) in [
            (vec![(NO_MANAGE_TAG, "true")], true, true),
            (vec![(NO_MANAGE_TAG, "false")], false, false),
            (vec![(INSTANCE_TAG, "i-1")], false, false),
            (vec![(INSTANCE_TAG, "i-2")], false, true),
            (vec![], true, false),
            (vec![("hi", "tag")], false, true),
            (vec![], false, true),
        ] {
            let list = [told("eni-0", "interface", &[]), efa.clone(), told("eni-x", "interface", &tags)];
            let told = on_cards(&imds, &list, &instance, untagged);
            let flags: Vec<_> = told.iter().map(|i| i.unmanaged).collect();
            assert_eq!((flags[0], flags[2]), (false, unmanaged), "spec 01 §8.6: {tags:?} {untagged}");
        }
    }

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
