//! What to give back (spec 01 §5), in the order of §12.4.

use std::cmp::Reverse;

use reservoir_policy_sdk::{Cidr, CidrId, Eni, EniTraits};

use crate::order::sort_by_key;
use crate::settings::Defects;
use crate::stats::{Pool, Stats};

/// CIDRs that give themselves up best first, at most what the card has too many. With the reference's defects mended,
/// what serves nobody any more goes besides: it only takes a slot. So does, before anything of the node's own unit, what
/// was asked for in the other one and is not needed any more.
#[must_use]
pub fn choose(pool: &Pool<'_>, stats: &Stats) -> Vec<CidrId> {
    let mut enis = pool.enis.clone();
    sort_by_key(&mut enis, |eni| eni_rank(eni));
    let mut candidates: Vec<&Cidr> = Vec::new();
    for eni in enis {
        let mut freeable: Vec<&Cidr> = eni.cidrs.iter().filter(|cidr| freeable(pool, cidr)).collect();
        sort_by_key(&mut freeable, |cidr| cidr_rank(cidr));
        candidates.append(&mut freeable);
    }
    match pool.settings.defects {
        Defects::Reference => candidates.into_iter().take(over(pool, stats)).map(|cidr| cidr.id).collect(),
        Defects::Fixed => {
            let mut released: Vec<CidrId> =
                candidates.iter().filter(|cidr| !cidr.serving).map(|cidr| cidr.id).collect();
            let mut spare = pool.spare_ips(stats);
            let mut after = *stats;
            for cidr in candidates.iter().filter(|cidr| cidr.serving && cidr.unit != pool.unit) {
                let size = i64::from(cidr.size);
                if size <= spare {
                    spare -= size;
                    after.total -= size;
                    after.other_unit -= size;
                    released.push(cidr.id);
                }
            }
            let surplus = candidates.iter().filter(|cidr| cidr.serving && cidr.unit == pool.unit);
            released.extend(surplus.take(over(pool, &after)).map(|cidr| cidr.id));
            released
        }
    }
}

fn over(pool: &Pool<'_>, stats: &Stats) -> usize {
    usize::try_from(pool.over_units(stats)).unwrap_or(usize::MAX)
}

/// No pod holds an IP of it, and none cools: the reference gives cooling ones back too (W13).
fn freeable(pool: &Pool<'_>, cidr: &Cidr) -> bool {
    cidr.assigned == 0 && (cidr.cooling == 0 || pool.settings.defects == Defects::Reference)
}

/// Excluded interfaces first, then those without pods, youngest first, then the one with the fewest pods.
fn eni_rank(eni: &Eni) -> (bool, i64, u32, Reverse<u32>) {
    let assigned: i64 = eni.cidrs.iter().map(|cidr| i64::from(cidr.assigned)).sum();
    let age = if assigned == 0 { eni.age_seconds } else { 0 };
    (!eni.has(EniTraits::EXCLUDED), assigned, age, Reverse(eni.device_index))
}

/// What does not serve first, then what no pod ever held, then what was given up longest ago.
fn cidr_rank(cidr: &Cidr) -> (bool, bool, Reverse<u32>) {
    (cidr.serving, cidr.idle_seconds.is_some(), Reverse(cidr.idle_seconds.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, eni, ips, prefix};

    fn released(fixture: Fixture) -> Vec<String> {
        let node = fixture.node();
        let pool = node.pool(0);
        let ids = choose(&pool, &pool.stats());
        let home = |id| node.node.enis.iter().find(|eni| eni.cidrs.iter().any(|cidr| cidr.id == id));
        ids.into_iter().filter_map(home).map(|eni| eni.id.clone()).collect()
    }

    #[test]
    fn interfaces_without_pods_are_emptied_first_and_youngest_first() {
        let fixture = Fixture::ips(9)
            .warm_ips(1)
            .eni(eni("a").primary().with(ips(9, 8, 0)))
            .eni(eni("old").age(900).with(ips(2, 0, 0)))
            .eni(eni("young").age(90).with(ips(2, 0, 0)));
        assert_eq!(released(fixture), ["young", "young", "old", "old"]);
    }

    #[test]
    fn then_the_one_with_the_fewest_pods() {
        let fixture =
            Fixture::ips(9).warm_ips(1).eni(eni("a").primary().with(ips(9, 7, 0))).eni(eni("b").with(ips(3, 2, 0)));
        assert_eq!(released(fixture), ["b", "a"]);
    }

    #[test]
    fn cooling_ips_stay() {
        let fixture = Fixture::ips(9).warm_ips(1).eni(eni("a").primary().with(ips(4, 1, 3)));
        assert_eq!(released(fixture.clone()), [""; 0]);
        assert_eq!(released(fixture.setting("defects", "reference")).len(), 2);
    }

    #[test]
    fn never_used_before_longest_idle() {
        let ip = ips(1, 0, 0);
        let node = Fixture::ips(9)
            .minimum_ips(1)
            .eni(eni("a").primary().with(ip.idle(40)).with(ip.idle(400)).with(ip).with(ip.idle(90)))
            .node();
        let pool = node.pool(0);
        assert_eq!(choose(&pool, &pool.stats()), [2, 1, 3]);
    }

    #[test]
    fn what_serves_nobody_goes_whatever_the_targets() {
        let fixture = Fixture::ips(9)
            .eni(eni("a").primary().with(ips(2, 1, 0)).excluded())
            .eni(eni("b").with(ips(3, 3, 0)).with(prefix(0, 0)).with(prefix(1, 0)));
        assert_eq!(released(fixture.clone()), ["a", "b"]);
        assert_eq!(released(fixture.setting("defects", "reference")), [""; 0]);
    }
}
