//! How to get there: one plan for all cards (spec 01 §3.2, §3.5).

use reservoir_policy_sdk::{
    Assign, CreateEni, Eni, EniTraits, Families, Gate, Growth, Node, Note, Plan, Standing, Subnet, Targets, Unit,
};

use crate::settings::{Defects, Settings};
use crate::stats::{Pool, Stats};
use crate::{release, removal};

/// The plan for `node` under `targets`, one per card.
///
/// # Errors
/// Fewer or more targets than cards.
pub fn decide(node: &Node, targets: &[Targets], settings: Settings) -> Result<Plan, String> {
    if targets.len() != node.cards.len() {
        return Err(format!("{} targets for {} cards: give one per card", targets.len(), node.cards.len()));
    }
    let mut plan = Plan { grow: vec![], release: vec![], remove: vec![], drain: vec![], note: Note::because("") };
    if !node.families.contains(Families::IPV4) {
        plan.note.reason = "IPv6: each interface has its one prefix, there is nothing to decide".to_owned();
        return Ok(plan);
    }
    let mut reasons = Vec::with_capacity(node.cards.len());
    for (card, &targets) in node.cards.iter().zip(targets) {
        let pool = Pool::new(node, card, targets, settings);
        reasons.push(plan_card(node, &pool, &mut plan));
    }
    plan.note.reason = reasons.join("; ");
    Ok(plan)
}

/// Adds one card's part and says why.
fn plan_card(node: &Node, pool: &Pool<'_>, plan: &mut Plan) -> String {
    let stats = pool.stats();
    let mut reason = numbers(pool, &stats);
    let low = pool.low(&stats);
    if low {
        let ways = if node.gates.grow == Gate::Open { ways_to_grow(node, pool, &stats) } else { vec![] };
        reason += &match (ways.first(), shut(node.gates.grow)) {
            (_, Some(shut)) => format!("low, growth {shut}"),
            (None, None) => format!("low, {} of {} interfaces, all slots used", pool.enis.len(), pool.card.max_enis),
            (Some(Growth::Assign(way)), None) => {
                format!("low: {}{} more on {}", way.count, instead(pool, way.unit), way.eni)
            }
            (Some(Growth::CreateEni(way)), None) => {
                format!("low: one more interface with {}{}", way.count, instead(pool, way.unit))
            }
        };
        plan.grow.extend(ways);
    }

    // What a card gives back while it grows, the host drops.
    let mut released = vec![];
    if !low {
        released = release::choose(pool, &stats);
        reason += &match (released.len(), shut(node.gates.release)) {
            (0, _) => "enough".to_owned(),
            (n, Some(shut)) => format!("{n} too many, release {shut}"),
            (n, None) => format!("{n} too many"),
        };
        if node.gates.release != Gate::Open {
            released.clear();
        }
    }
    let mut by_id = released.clone();
    by_id.sort_unstable();
    if let Some(eni) = removal::choose(pool, &stats, &by_id) {
        match shut(node.gates.remove) {
            Some(shut) => reason += &format!(", {} not needed, removal {shut}", eni.id),
            None => {
                reason += &format!(", {} not needed", eni.id);
                // What serves nobody goes with the interface, without a call of its own.
                released.retain(|id| !eni.cidrs.iter().any(|cidr| cidr.id == *id && !cidr.serving));
                plan.remove.push(eni.id.clone());
            }
        }
    }
    plan.release.extend(released);
    if pool.settings.defects == Defects::Fixed {
        // What was asked for in the other unit is to run empty: its slots are for the node's own.
        let cidrs = pool.enis.iter().flat_map(|eni| &eni.cidrs);
        plan.drain.extend(cidrs.filter(|cidr| cidr.serving && cidr.unit != pool.unit).map(|cidr| cidr.id));
    }
    reason
}

/// Ways to grow, best first: top up what is attached, the primary first, or make one more (spec 01 §3.5). If the operator
/// wants it, single IPs come after all ways to a prefix, and only where EC2 has just had no prefix.
fn ways_to_grow(node: &Node, pool: &Pool<'_>, stats: &Stats) -> Vec<Growth> {
    let mut ways = Vec::new();
    if pool.unit == Unit::Ip || !pool.settings.fall_back_to_ips {
        add_ways(pool, pool.unit, pool.need(stats), |_| true, true, &mut ways);
        return ways;
    }
    let dry = |subnet: &Subnet| subnet.prefixes_refused_seconds > 0;
    let dry_under = |eni: &Eni| node.subnets.iter().any(|subnet| subnet.id == eni.subnet && dry(subnet));
    let mut eligible = node.subnets.iter().filter(|subnet| subnet.standing == Standing::Eligible).peekable();
    let all_dry = eligible.peek().is_some() && eligible.all(dry);
    add_ways(pool, Unit::Prefix, pool.need(stats), |eni| !dry_under(eni), !all_dry, &mut ways);
    add_ways(pool, Unit::Ip, pool.need_ips(stats), dry_under, all_dry, &mut ways);
    ways
}

/// Adds the ways to `need` of a unit: on the interfaces that `on` lets pass, and on one more if `create`.
fn add_ways(pool: &Pool<'_>, unit: Unit, need: i64, on: impl Fn(&Eni) -> bool, create: bool, ways: &mut Vec<Growth>) {
    for eni in pool.enis.iter().filter(|eni| on(eni)) {
        let count = need.min(pool.slots - i64::from(eni.slots_used()));
        if count > 0 && !eni.traits.intersects(EniTraits::CLOSED | EniTraits::TRUNK | EniTraits::EXCLUDED) {
            ways.push(Growth::Assign(Assign { eni: eni.id.clone(), unit, count: units(count) }));
        }
    }
    let count = need.min(pool.slots);
    if create && count > 0 && pool.room() {
        let card = pool.card.index;
        ways.push(Growth::CreateEni(CreateEni { card, unit, count: units(count) }));
    }
}

/// Says that a way is not in the unit of the node.
fn instead(pool: &Pool<'_>, unit: Unit) -> &'static str {
    if unit == pool.unit { "" } else { " single IPs instead of prefixes" }
}

fn units(count: i64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// In words, if it is shut.
fn shut(gate: Gate) -> Option<String> {
    match gate {
        Gate::Open => None,
        Gate::OpensIn(seconds) => Some(format!("opens in {seconds} s")),
        Gate::Closed => Some("closed".to_owned()),
    }
}

/// The card's numbers and the targets that speak.
fn numbers(pool: &Pool<'_>, stats: &Stats) -> String {
    let targets = &pool.targets;
    let target = match (pool.unit, crate::sizing::ip_targets(targets)) {
        (_, true) => format!("warm-ips {} minimum-ips {}", targets.warm_ips, targets.minimum_ips),
        (Unit::Ip, false) => format!("warm-enis {}", targets.warm_enis),
        (Unit::Prefix, false) => format!("warm-prefixes {}", targets.warm_prefixes),
    };
    let mut text = format!("card {}: {} IPs, {} used", pool.card.index, stats.total, stats.assigned);
    for (count, what) in [(stats.cooling, "cooling"), (pool.in_flight(), "on the way"), (pool.waiting(), "waited for")]
    {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text + ", " + &target + ": "
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, Given, eni, ips};

    fn plan(given: &Given) -> Plan {
        let targets: Vec<Targets> = given.node.cards.iter().map(|card| card.configured).collect();
        decide(&given.node, &targets, given.settings).unwrap()
    }

    fn assign(eni: &str, count: u32) -> Growth {
        Growth::Assign(Assign { eni: eni.to_owned(), unit: Unit::Ip, count })
    }

    fn create(count: u32) -> Growth {
        Growth::CreateEni(CreateEni { card: 0, unit: Unit::Ip, count })
    }

    #[test]
    fn a_fresh_node_fills_its_primary_or_makes_one_more() {
        let plan = plan(&Fixture::ips(9).eni(eni("a").primary()).node());
        assert_eq!(plan.grow, [assign("a", 9), create(9)]);
        assert_eq!(plan.note.reason, "card 0: 0 IPs, 0 used, warm-enis 1: low: 9 more on a");
    }

    #[test]
    fn no_way_left_is_said() {
        let plan = plan(&Fixture::ips(9).max_enis(1).eni(eni("a").primary().with(ips(9, 9, 0))).node());
        assert_eq!(plan.grow, []);
        assert_eq!(plan.note.reason, "card 0: 9 IPs, 9 used, warm-enis 1: low, 1 of 1 interfaces, all slots used");
    }

    #[test]
    fn shut_gates_are_heeded_and_said() {
        let mut given = Fixture::ips(9).eni(eni("a").primary()).node();
        given.node.gates.grow = Gate::OpensIn(115);
        let held = plan(&given);
        assert_eq!(held.grow, []);
        assert!(held.note.reason.ends_with("low, growth opens in 115 s"), "{}", held.note.reason);

        let mut given = Fixture::ips(9).warm_ips(1).eni(eni("a").primary().with(ips(9, 2, 0))).node();
        assert_eq!(plan(&given).release.len(), 6);
        given.node.gates.release = Gate::Closed;
        let held = plan(&given);
        assert_eq!(held.release, []);
        assert!(held.note.reason.ends_with("6 too many, release closed"), "{}", held.note.reason);

        let spare = eni("b").with(ips(3, 0, 0));
        let mut given = Fixture::ips(3).eni(eni("a").primary().with(ips(3, 0, 0))).eni(spare).node();
        assert_eq!(plan(&given).remove, ["b"]);
        given.node.gates.remove = Gate::Closed;
        let held = plan(&given);
        assert_eq!(held.remove, [""; 0]);
        assert!(held.note.reason.ends_with("b not needed, removal closed"), "{}", held.note.reason);
    }

    #[test]
    fn closed_interfaces_are_not_grown() {
        let plan = plan(&Fixture::ips(9).eni(eni("a").primary().closed()).node());
        assert_eq!(plan.grow, [create(9)]);
    }

    #[test]
    fn emptied_by_trimming_then_removed() {
        let given = Fixture::ips(9)
            .warm_ips(1)
            .eni(eni("a").primary().with(ips(9, 8, 0)))
            .eni(eni("b").with(ips(4, 0, 0)))
            .node();
        let plan = plan(&given);
        assert_eq!(plan.release, [9, 10, 11, 12]);
        assert_eq!(plan.remove, ["b"]);
    }

    #[test]
    fn what_serves_nobody_goes_with_its_interface() {
        let excluded = eni("x").with(ips(4, 0, 0)).excluded();
        let given = Fixture::ips(3).eni(eni("a").primary().with(ips(3, 0, 0))).eni(excluded).node();
        let planned = plan(&given);
        assert_eq!((planned.release.len(), planned.remove.len()), (0, 1));
        let young = eni("x").age(10).with(ips(4, 0, 0)).excluded();
        let given = Fixture::ips(3).eni(eni("a").primary().with(ips(3, 0, 0))).eni(young).node();
        let planned = plan(&given);
        assert_eq!((planned.release.len(), planned.remove.len()), (4, 0));
    }

    /// The host starts the best way that fits, counts it as on its way and asks again: everything that 100 pods need is
    /// under way before anything has come back.
    #[test]
    fn a_burst_is_answered_at_once() {
        let mut given = Fixture::ips(29).max_enis(8).max_pods(234).eni(eni("a").primary()).node();
        given.node.cards[0].waiting = 100;
        let mut started = vec![];
        loop {
            let plan = plan(&given);
            // An assignment on "a" is cut to nothing while one is under way there.
            let fits = |way: &&Growth| matches!(way, Growth::CreateEni(_)) || started.is_empty();
            let Some(way) = plan.grow.iter().find(fits).cloned() else { break };
            let card = &mut given.node.cards[0];
            match &way {
                Growth::Assign(way) => card.ips_in_flight += way.count,
                Growth::CreateEni(way) => {
                    card.ips_in_flight += way.count;
                    card.enis_in_flight += 1;
                }
            }
            started.push(way);
        }
        // 145 IPs: 100 for who waits, and one full interface more stays free.
        assert_eq!(started, [assign("a", 29), create(29), create(29), create(29), create(29)]);
    }

    #[test]
    fn one_target_per_card() {
        let given = Fixture::ips(9).node();
        assert_eq!(decide(&given.node, &[], given.settings).unwrap_err(), "0 targets for 1 cards: give one per card");
    }
}
