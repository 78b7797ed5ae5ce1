//! One card's pool and its numbers (spec 01 §1.7).

use reservoir_policy_sdk::{Card, Cidr, CidrId, Eni, EniTraits, Node, Targets, Unit};

use crate::settings::{Defects, Settings};

/// One card's pool as one decision sees it.
#[derive(Debug, Clone)]
pub struct Pool<'a> {
    /// The card.
    pub card: &'a Card,
    /// Its interfaces: the primary first, then by device index (spec 01 §12.4).
    pub enis: Vec<&'a Eni>,
    /// The targets in force for it.
    pub targets: Targets,
    /// What EC2 is asked for.
    pub unit: Unit,
    /// Slots of one interface.
    pub slots: i64,
    /// IPs of one prefix.
    pub ips_per_prefix: i64,
    /// Pods that the node may run.
    pub max_pods: i64,
    /// What the operator set.
    pub settings: Settings,
}

/// IPs, prefixes and interfaces of one card, in the words of spec 01 §1.7. Wide enough that nothing overflows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// IPs in counted CIDRs.
    pub total: i64,
    /// Those of them that pods hold.
    pub assigned: i64,
    /// Those of them that cool; they are part of `available`.
    pub cooling: i64,
    /// Prefixes: those that serve; with the reference's defects (W5) those of excluded interfaces too.
    pub total_prefixes: i64,
    /// Prefixes of which no pod holds an IP.
    pub free_prefixes: i64,
    /// CIDRs of either unit of which no pod holds an IP, on interfaces that are not excluded (§4.2 rule 9).
    pub free_cidrs: i64,
    /// IPs in CIDRs that serve and are not of the node's unit: what a plan asked for where EC2 had no prefix.
    pub other_unit: i64,
}

impl Stats {
    /// IPs that no pod holds, cooling ones included.
    #[must_use]
    pub fn available(&self) -> i64 {
        self.total - self.assigned
    }
}

impl<'a> Pool<'a> {
    /// The pool of `card`.
    #[must_use]
    pub fn new(node: &'a Node, card: &'a Card, targets: Targets, settings: Settings) -> Self {
        let mut enis: Vec<&Eni> = node.enis_of(card.index).collect();
        crate::order::sort_by_key(&mut enis, |eni| (!eni.has(EniTraits::PRIMARY), eni.device_index));
        Self {
            card,
            enis,
            targets,
            unit: node.unit,
            slots: node.limits.slots_per_eni.into(),
            ips_per_prefix: i64::from(node.limits.ips_per_prefix).max(1),
            max_pods: node.limits.max_pods.into(),
            settings,
        }
    }

    /// Its numbers now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats_without(None, &[])
    }

    /// Its numbers once `eni` is removed and the CIDRs of `released` (sorted) are given back.
    #[must_use]
    pub fn stats_without(&self, eni: Option<&Eni>, released: &[CidrId]) -> Stats {
        let mut stats = Stats::default();
        for &other in self.enis.iter().filter(|other| eni.is_none_or(|eni| eni.id != other.id)) {
            for cidr in other.cidrs.iter().filter(|cidr| released.binary_search(&cidr.id).is_err()) {
                self.count(&mut stats, other, cidr);
            }
        }
        stats
    }

    fn count(&self, stats: &mut Stats, eni: &Eni, cidr: &Cidr) {
        let free = cidr.assigned == 0;
        if cidr.serving {
            stats.total += i64::from(cidr.size);
            stats.assigned += i64::from(cidr.assigned);
            stats.cooling += i64::from(cidr.cooling);
            if cidr.unit != self.unit {
                stats.other_unit += i64::from(cidr.size);
            }
        }
        if cidr.unit == Unit::Prefix && (cidr.serving || self.settings.defects == Defects::Reference) {
            stats.total_prefixes += 1;
            stats.free_prefixes += i64::from(free);
        }
        if !eni.has(EniTraits::EXCLUDED) {
            stats.free_cidrs += i64::from(free);
        }
    }

    /// IPs on their way: they count as if they had come.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        self.card.ips_in_flight.into()
    }

    /// Pods that wait: each counts as if it held an IP.
    #[must_use]
    pub fn waiting(&self) -> i64 {
        self.card.waiting.into()
    }

    /// IPs that will be free once what is on its way has come and every waiting pod has one. Negative: so many are
    /// missing.
    #[must_use]
    pub fn free(&self, stats: &Stats) -> i64 {
        let cooling = if self.settings.count_cooling { 0 } else { stats.cooling };
        stats.available() - cooling + self.in_flight() - self.waiting()
    }

    /// Whether one more interface fits on the card (spec 01 §3.6).
    #[must_use]
    pub fn room(&self) -> bool {
        let held = i64::try_from(self.enis.len()).unwrap_or(i64::MAX);
        held.saturating_add(self.card.enis_in_flight.into()) < i64::from(self.card.max_enis)
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Fixture, eni, ips, prefix};

    #[test]
    fn counts_what_serves() {
        let node = Fixture::ips(9)
            .eni(eni("a").primary().with(ips(9, 3, 2)))
            .eni(eni("b").with(ips(4, 1, 0)).excluded())
            .node();
        let stats = node.pool(0).stats();
        assert_eq!((stats.total, stats.assigned, stats.cooling, stats.available()), (9, 3, 2, 6));
    }

    #[test]
    fn prefixes_of_excluded_interfaces_count_for_the_reference_only() {
        let fixture = Fixture::prefixes(9)
            .eni(eni("a").with(prefix(0, 0)).excluded())
            .eni(eni("b").with(prefix(3, 0)).with(prefix(0, 0)));
        let stats = fixture.node().pool(0).stats();
        assert_eq!((stats.total, stats.total_prefixes, stats.free_prefixes), (32, 2, 1));
        let stats = fixture.setting("defects", "reference").node().pool(0).stats();
        assert_eq!((stats.total, stats.total_prefixes, stats.free_prefixes), (32, 3, 2));
    }

    #[test]
    fn what_flies_counts_and_who_waits_counts() {
        let mut node = Fixture::ips(9).eni(eni("a").primary().with(ips(9, 7, 1))).node();
        assert_eq!(node.pool(0).free(&node.pool(0).stats()), 2);
        node.node.cards[0].ips_in_flight = 9;
        node.node.cards[0].waiting = 20;
        assert_eq!(node.pool(0).free(&node.pool(0).stats()), 2 + 9 - 20);
        node.settings.count_cooling = false;
        assert_eq!(node.pool(0).free(&node.pool(0).stats()), 1 + 9 - 20);
    }

    #[test]
    fn room_counts_interfaces_being_made() {
        let mut node = Fixture::ips(9).max_enis(3).eni(eni("a").primary()).eni(eni("b")).node();
        assert!(node.pool(0).room());
        node.node.cards[0].enis_in_flight = 1;
        assert!(!node.pool(0).room());
    }

    #[test]
    fn other_cards_do_not_count() {
        let node = Fixture::ips(9).cards(2).eni(eni("a").with(ips(3, 1, 0))).eni(eni("n").card(1).with(ips(5, 5, 0)));
        let node = node.node();
        assert_eq!(node.pool(0).stats().total, 3);
        assert_eq!(node.pool(1).stats().total, 5);
    }
}
