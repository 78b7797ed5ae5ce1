//! Which interface to remove (spec 01 §4), in the order of §12.4.

use std::cmp::Reverse;

use reservoir_policy_sdk::{CidrId, Eni, EniTraits, Unit};

use crate::settings::Defects;
use crate::sizing::{div_ceil, ip_targets};
use crate::stats::{Pool, Stats};

/// Seconds for which an interface must have been known before it is removed (spec 01 §4.2 rule 4).
pub const LEAST_AGE_SECONDS: u32 = 60;

/// The interface to remove, if one may go, once the CIDRs of `released` (sorted) are given back. `before` is the state
/// before that.
#[must_use]
pub fn choose<'a>(pool: &Pool<'a>, before: &Stats, released: &[CidrId]) -> Option<&'a Eni> {
    let considered = considered(pool, before);
    pool.enis
        .iter()
        .copied()
        .filter(|eni| considered || useless(pool, eni))
        .filter(|eni| removable(pool, eni, released))
        .min_by_key(|eni| {
            let counted: i64 = eni.cidrs.iter().filter(|cidr| cidr.serving).map(|cidr| i64::from(cidr.size)).sum();
            (!eni.has(EniTraits::EXCLUDED), counted, Reverse(eni.device_index))
        })
}

/// Whether the documented rule looks for one at all (spec 01 §4.1).
#[must_use]
pub fn considered(pool: &Pool<'_>, stats: &Stats) -> bool {
    if ip_targets(&pool.targets) {
        return true;
    }
    match pool.unit {
        Unit::Ip => pool.free(stats) >= pool.warm_ips_wanted().saturating_add(pool.slots),
        Unit::Prefix => {
            let full = pool.slots.saturating_mul(pool.ips_per_prefix);
            let spare = i64::from(pool.targets.warm_prefixes).saturating_add(1).saturating_mul(full);
            pool.free(stats) >= spare || pool.enis.iter().any(|eni| freeable(eni))
        }
    }
}

/// Not the node's own, no trunk, no EFA, and no pod on it: one that could be removed some day.
#[must_use]
pub fn freeable(eni: &Eni) -> bool {
    let kept = EniTraits::PRIMARY | EniTraits::TRUNK | EniTraits::EFA;
    !eni.traits.intersects(kept) && eni.cidrs.iter().all(|cidr| cidr.assigned == 0)
}

/// Whether `eni` may be removed (spec 01 §4.2). Mended (W3, W4): if the pool would not be low without it, in the same
/// numbers as for growth and trimming.
#[must_use]
pub fn removable(pool: &Pool<'_>, eni: &Eni, released: &[CidrId]) -> bool {
    let settled = eni.age_seconds >= LEAST_AGE_SECONDS && eni.cidrs.iter().all(|cidr| cidr.cooling == 0);
    if !freeable(eni) || !settled {
        return false;
    }
    let others = pool.stats_without(Some(eni), released);
    match pool.settings.defects {
        Defects::Reference => spared_by_the_reference(pool, &others),
        Defects::Fixed => useless(pool, eni) || spared(pool, &others, &pool.stats_without(None, released)),
    }
}

/// An excluded interface serves nobody and takes the place of one that would.
fn useless(pool: &Pool<'_>, eni: &Eni) -> bool {
    pool.settings.defects == Defects::Fixed && eni.has(EniTraits::EXCLUDED)
}

fn spared(pool: &Pool<'_>, others: &Stats, before: &Stats) -> bool {
    if pool.low(others) {
        return false;
    }
    if pool.unit == Unit::Ip || ip_targets(&pool.targets) {
        return true;
    }
    let wanted = i64::from(pool.targets.warm_prefixes);
    // Where single IPs stand in for prefixes, no more of these can be asked of the others than there are.
    let wanted = if pool.settings.fall_back_to_ips { wanted.min(before.free_prefixes) } else { wanted };
    others.free_prefixes >= wanted
}

/// Rules 7 to 9 of spec 01 §4.2.
fn spared_by_the_reference(pool: &Pool<'_>, others: &Stats) -> bool {
    let whole = |ips: u32| match pool.unit {
        Unit::Ip => i64::from(ips),
        Unit::Prefix => div_ceil(ips.into(), pool.ips_per_prefix).saturating_mul(pool.ips_per_prefix),
    };
    let targets = &pool.targets;
    (targets.warm_ips == 0 || pool.free(others) >= whole(targets.warm_ips))
        && (targets.minimum_ips == 0 || others.total + pool.in_flight() >= whole(targets.minimum_ips))
        && (pool.unit == Unit::Ip
            || targets.warm_prefixes == 0
            || others.free_cidrs >= i64::from(targets.warm_prefixes))
        && pool.starved(others) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, eni, ips, prefix};

    fn chosen(fixture: &Fixture) -> Option<String> {
        let node = fixture.node();
        let pool = node.pool(0);
        choose(&pool, &pool.stats(), &[]).map(|eni| eni.id.clone())
    }

    fn two(spare: crate::fixture::EniFixture) -> Fixture {
        Fixture::ips(3).eni(eni("a").primary().with(ips(3, 0, 0))).eni(spare)
    }

    #[test]
    fn a_whole_spare_interface_goes() {
        assert_eq!(chosen(&two(eni("b").with(ips(3, 0, 0)))).as_deref(), Some("b"));
        assert_eq!(chosen(&two(eni("b").with(ips(3, 1, 0)))), None, "a pod is on it");
        assert_eq!(chosen(&two(eni("b").with(ips(3, 0, 1)))), None, "an IP of it cools");
        assert_eq!(chosen(&two(eni("b").age(59).with(ips(3, 0, 0)))), None, "too young");
        assert_eq!(chosen(&two(eni("b").trunk().with(ips(3, 0, 0)))), None);
        assert_eq!(chosen(&two(eni("b").efa().with(ips(3, 0, 0)))), None);
        let used = Fixture::ips(3).eni(eni("a").primary().with(ips(3, 1, 0))).eni(eni("b").with(ips(3, 0, 0)));
        assert_eq!(chosen(&used), None, "5 free, and 6 are needed before one may go");
    }

    #[test]
    fn not_while_pods_wait_for_it() {
        let fixture = two(eni("b").with(ips(3, 0, 0)));
        let mut node = fixture.node();
        node.node.cards[0].waiting = 1;
        let pool = node.pool(0);
        assert!(choose(&pool, &pool.stats(), &[]).is_none());
    }

    #[test]
    fn warm_eni_target_zero_keeps_the_last_free_ips() {
        let full =
            Fixture::ips(3).warm_enis(0).eni(eni("a").primary().with(ips(3, 3, 0))).eni(eni("b").with(ips(3, 0, 0)));
        assert_eq!(chosen(&full), None);
        assert_eq!(chosen(&full.setting("defects", "reference")).as_deref(), Some("b"));
    }

    #[test]
    fn an_excluded_one_goes_first_and_whatever_the_targets() {
        let fixture = two(eni("b").with(ips(3, 0, 0))).eni(eni("x").excluded());
        assert_eq!(chosen(&fixture).as_deref(), Some("x"));
        let lone = two(eni("x").excluded());
        assert_eq!(chosen(&lone).as_deref(), Some("x"));
        assert_eq!(chosen(&lone.setting("defects", "reference")), None);
    }

    #[test]
    fn the_emptiest_then_the_last() {
        let fixture = Fixture::ips(3)
            .eni(eni("a").primary().with(ips(3, 0, 0)))
            .eni(eni("b").with(ips(3, 0, 0)))
            .eni(eni("c").with(ips(2, 0, 0)))
            .eni(eni("d").with(ips(3, 0, 0)));
        assert_eq!(chosen(&fixture).as_deref(), Some("c"));
        let fixture = two(eni("b").with(ips(3, 0, 0))).eni(eni("c").with(ips(3, 0, 0)));
        assert_eq!(chosen(&fixture).as_deref(), Some("c"));
    }

    #[test]
    fn prefix_targets_without_and_with_the_rounding_of_the_reference() {
        let fixture = Fixture::prefixes(9).warm_ips(1).eni(eni("a").primary().with(prefix(3, 0))).eni(eni("b"));
        assert_eq!(chosen(&fixture).as_deref(), Some("b"), "13 free are enough for 1");
        assert_eq!(chosen(&fixture.setting("defects", "reference")), None);
    }
}
