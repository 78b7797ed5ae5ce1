//! How much: the targets, and how far the pool is from them (spec 01 §1.3, §1.8, §3.3, §3.4).

use std::fmt::Write as _;

use reservoir_policy_sdk::{Node, Note, Sizes, Targets, Unit};

use crate::settings::Defects;
use crate::stats::{Pool, Stats};

/// The configured targets, unchanged.
#[must_use]
pub fn decide(node: &Node) -> Sizes {
    let mut reason = String::from("configured:");
    for card in &node.cards {
        let Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips } = card.configured;
        // Writing to a string cannot fail.
        let _ = write!(
            reason,
            " card {} warm-enis {warm_enis} warm-ips {warm_ips} warm-prefixes {warm_prefixes} minimum-ips {minimum_ips};",
            card.index
        );
    }
    reason.pop();
    Sizes { targets: node.cards.iter().map(|card| card.configured).collect(), note: Note::because(reason) }
}

/// The warm-IP targets are defined: the two others play no part (spec 01 §1.3).
#[must_use]
pub fn ip_targets(targets: &Targets) -> bool {
    targets.warm_ips != 0 || targets.minimum_ips != 0
}

impl Pool<'_> {
    /// IPs that waiting pods need beyond those that can be given out now and those on their way: cooling ones come too
    /// late for them.
    #[must_use]
    pub fn starved(&self, stats: &Stats) -> i64 {
        (self.waiting() - (stats.available() - stats.cooling) - self.in_flight()).max(0)
    }

    /// IPs that miss to the warm-IP targets, and to what pods wait for (spec 01 §1.8). Never negative.
    #[must_use]
    pub fn short(&self, stats: &Stats) -> i64 {
        let warm = i64::from(self.targets.warm_ips) - self.free(stats);
        let minimum = i64::from(self.targets.minimum_ips) - stats.total - self.in_flight();
        if ip_targets(&self.targets) { warm.max(minimum).max(0).max(self.starved(stats)) } else { self.starved(stats) }
    }

    /// The same in units: what EC2 would be asked for.
    #[must_use]
    pub fn short_units(&self, stats: &Stats) -> i64 {
        match self.unit {
            Unit::Ip => self.short(stats),
            Unit::Prefix => div_ceil(self.short(stats), self.ips_per_prefix),
        }
    }

    /// The card has too little (spec 01 §3.3), or pods wait for more than is on its way (§15).
    #[must_use]
    pub fn low(&self, stats: &Stats) -> bool {
        if stats.total + self.in_flight() >= self.max_pods {
            return false;
        }
        if ip_targets(&self.targets) || self.starved(stats) > 0 {
            return self.short(stats) > 0;
        }
        let wanted = self.warm_ips_wanted();
        let free = self.free(stats);
        free < wanted || (wanted == 0 && free <= 0)
    }

    /// Free IPs that WARM_ENI_TARGET or WARM_PREFIX_TARGET ask for.
    #[must_use]
    pub fn warm_ips_wanted(&self) -> i64 {
        match self.unit {
            Unit::Ip => i64::from(self.targets.warm_enis).saturating_mul(self.slots),
            Unit::Prefix => i64::from(self.targets.warm_prefixes).saturating_mul(self.ips_per_prefix),
        }
    }

    /// Units to ask for where the card is low (spec 01 §3.5), not yet cut to what an interface takes.
    #[must_use]
    pub fn need(&self, stats: &Stats) -> i64 {
        match (self.unit, ip_targets(&self.targets)) {
            (Unit::Ip, true) => self.short(stats),
            (Unit::Ip, false) => self.slots,
            (Unit::Prefix, true) => self.short_units(stats).max(1),
            (Unit::Prefix, false) => {
                let coming = self.in_flight() / self.ips_per_prefix;
                let missing = i64::from(self.targets.warm_prefixes) - stats.free_prefixes - coming;
                missing.max(self.short_units(stats)).max(1)
            }
        }
    }

    /// Units that the card has too many (spec 01 §1.8 `over`, §3.4, §5). 0: it is not high.
    #[must_use]
    pub fn over_units(&self, stats: &Stats) -> i64 {
        let Targets { warm_ips, minimum_ips, .. } = self.targets;
        let over = match (self.unit, ip_targets(&self.targets)) {
            (Unit::Ip, true) => self.spare_ips(stats),
            (Unit::Ip, false) => 0,
            // On every card in prefixes: the reference does so on card 0 only (W1).
            (Unit::Prefix, true) => {
                // What single IPs hold, prefixes need not.
                let prefixes = |ips: i64| div_ceil((ips - stats.other_unit).max(0), self.ips_per_prefix);
                let for_warm = prefixes(stats.assigned + self.waiting() + i64::from(warm_ips));
                let for_minimum = prefixes(minimum_ips.into());
                stats.free_prefixes.min(stats.total_prefixes - for_warm.max(for_minimum)).max(0)
            }
            (Unit::Prefix, false) => (stats.free_prefixes - self.prefixes_kept()).max(0),
        };
        // Where cooling IPs are not counted they are not surplus either: what went would be asked for again at once.
        let spare = if self.settings.count_cooling { self.beside_waiting(stats) } else { self.spare_ips(stats) };
        let unit_ips = if self.unit == Unit::Prefix { self.ips_per_prefix } else { 1 };
        over.min(spare / unit_ips)
    }

    /// IPs that can go without a pod that waits losing the one that it is about to get. Nothing that cools serves it.
    fn beside_waiting(&self, stats: &Stats) -> i64 {
        match self.waiting() {
            0 => i64::MAX,
            waiting => (stats.available() - stats.cooling + self.in_flight() - waiting).max(0),
        }
    }

    /// IPs to ask for one by one, where EC2 has no prefix.
    #[must_use]
    pub fn need_ips(&self, stats: &Stats) -> i64 {
        let short = self.short(stats).max(1);
        if ip_targets(&self.targets) { short } else { short.max(self.warm_ips_wanted().max(1) - self.free(stats)) }
    }

    /// IPs that the card could lose and still not be low.
    #[must_use]
    pub fn spare_ips(&self, stats: &Stats) -> i64 {
        let Targets { warm_ips, minimum_ips, .. } = self.targets;
        let spare = if ip_targets(&self.targets) {
            let minimum = stats.total + self.in_flight() - i64::from(minimum_ips);
            (self.free(stats) - i64::from(warm_ips)).min(minimum)
        } else {
            self.free(stats) - self.warm_ips_wanted().max(1)
        };
        spare.max(0).min(self.beside_waiting(stats))
    }

    /// Wholly free prefixes that trimming leaves (WARM_PREFIX_TARGET). At least one: the reference trims to none where
    /// the target is 0, and asks for one again at once (W2).
    #[must_use]
    pub fn prefixes_kept(&self) -> i64 {
        let least = if self.settings.defects == Defects::Reference { 0 } else { 1 };
        i64::from(self.targets.warm_prefixes).max(least)
    }
}

/// ⌈x / y⌉ for x ≥ 0, y ≥ 1.
#[must_use]
pub fn div_ceil(x: i64, y: i64) -> i64 {
    x.saturating_add(y - 1) / y
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Fixture, eni, ips, prefix};

    fn state(fixture: Fixture) -> (i64, i64) {
        let node = fixture.node();
        let pool = node.pool(0);
        let stats = pool.stats();
        (pool.short_units(&stats), pool.over_units(&stats))
    }

    #[test]
    fn both_ip_targets_must_be_met() {
        let with = |held| Fixture::ips(14).warm_ips(2).minimum_ips(5).eni(eni("a").primary().with(held));
        assert_eq!(state(with(ips(3, 0, 0))), (2, 0), "the minimum speaks");
        assert_eq!(state(with(ips(6, 6, 0))), (2, 0), "the warm target speaks");
        assert_eq!(state(with(ips(9, 2, 0))), (0, 4), "trimmed to the minimum");
        assert_eq!(state(with(ips(9, 6, 0))), (0, 1), "trimmed to the warm target");
    }

    #[test]
    fn minimum_alone_asks_for_nothing_when_used_up_but_pods_that_wait_do() {
        let mut node = Fixture::ips(14).minimum_ips(5).eni(eni("a").primary().with(ips(5, 5, 0))).node();
        assert!(!node.pool(0).low(&node.pool(0).stats()));
        node.node.cards[0].waiting = 3;
        let pool = node.pool(0);
        assert!(pool.low(&pool.stats()));
        assert_eq!(pool.need(&pool.stats()), 3);
    }

    #[test]
    fn cooling_ips_are_free_for_the_targets_and_not_for_who_waits() {
        let mut node = Fixture::ips(14).warm_ips(2).eni(eni("a").primary().with(ips(6, 1, 5))).node();
        assert_eq!(node.pool(0).short(&node.pool(0).stats()), 0);
        node.node.cards[0].waiting = 2;
        assert_eq!(node.pool(0).short(&node.pool(0).stats()), 2);
        node.node.cards[0].ips_in_flight = 2;
        assert_eq!(node.pool(0).short(&node.pool(0).stats()), 0, "asked for once");
    }

    #[test]
    fn no_more_than_max_pods_even_for_who_waits() {
        let mut node = Fixture::ips(14).max_pods(9).eni(eni("a").primary().with(ips(9, 6, 3))).node();
        node.node.cards[0].waiting = 2;
        assert!(!node.pool(0).low(&node.pool(0).stats()));
    }

    #[test]
    fn warm_enis_ask_for_free_ips_anywhere() {
        let low = |fixture: Fixture| fixture.node().pool(0).low(&fixture.node().pool(0).stats());
        let two = |a, b| Fixture::ips(9).eni(eni("a").primary().with(ips(9, a, 0))).eni(eni("b").with(ips(9, b, 0)));
        assert!(!low(two(5, 4)), "9 free, scattered");
        assert!(low(two(5, 5)), "8 free");
        assert!(low(two(9, 9).warm_enis(0)), "none free");
        assert!(!low(two(9, 8).warm_enis(0)), "one free");
    }

    #[test]
    fn prefixes_are_rounded_up_and_trimmed_whole() {
        let one = |used| Fixture::prefixes(14).warm_ips(13).eni(eni("a").primary().with(prefix(used, 0)));
        assert_eq!(state(one(3)), (0, 0));
        assert_eq!(state(one(4)), (1, 0));
        let three = one(4).eni(eni("b").with(prefix(0, 0)).with(prefix(0, 0)));
        assert_eq!(state(three), (0, 1), "4 + 13 need two prefixes");
    }

    #[test]
    fn pods_that_wait_keep_what_they_are_about_to_get() {
        // Two free prefixes beside one that is taken up, half of it cooling.
        let with = |fixture: Fixture| {
            fixture.eni(eni("a").primary().with(prefix(8, 8)).with(prefix(0, 0)).with(prefix(0, 0))).node()
        };
        let over = |fixture: Fixture, waiting| {
            let mut node = with(fixture);
            node.node.cards[0].waiting = waiting;
            let pool = node.pool(0);
            pool.over_units(&pool.stats())
        };
        let kept = Fixture::prefixes(14).warm_prefixes(1);
        assert_eq!(over(kept.clone(), 0), 1, "WARM_PREFIX_TARGET alone");
        assert_eq!(over(kept.clone(), 16), 1, "the other takes all that wait");
        assert_eq!(over(kept, 17), 0);
        // 8 + 7 + 1 fit in one prefix, so the targets want no second: what cools is no use to seven pods.
        let counted = Fixture::prefixes(14).warm_ips(1);
        assert_eq!(over(counted.clone(), 7), 1);
        assert_eq!(over(counted.clone(), 16), 1);
        assert_eq!(over(counted, 17), 0);
        let ips = |waiting| {
            let mut node = Fixture::ips(14).warm_ips(1).eni(eni("a").primary().with(ips(9, 2, 4))).node();
            node.node.cards[0].waiting = waiting;
            let pool = node.pool(0);
            pool.over_units(&pool.stats())
        };
        assert_eq!((ips(0), ips(1), ips(2), ips(3)), (6, 2, 1, 0));
    }

    #[test]
    fn a_prefix_target_of_zero_keeps_one_free_prefix() {
        let idle = Fixture::prefixes(9).warm_prefixes(0).eni(eni("a").primary().with(prefix(0, 0)));
        assert_eq!(state(idle.clone()), (0, 0));
        assert_eq!(state(idle.setting("defects", "reference")), (0, 1));
    }

    #[test]
    fn huge_targets_do_not_overflow() {
        let node = Fixture::ips(u32::MAX).warm_enis(u32::MAX).max_pods(u32::MAX).eni(eni("a").primary()).node();
        let pool = node.pool(0);
        assert!(pool.low(&pool.stats()));
    }
}
