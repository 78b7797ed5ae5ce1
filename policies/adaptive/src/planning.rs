//! How to get there: what is missing on attached interfaces first, what is too many from the emptiest, an interface only
//! when it was not needed for an hour.

use std::cmp::Reverse;

use reservoir_policy_sdk::{
    Assign, Cidr, CidrId, CreateEni, Eni, EniTraits, Gate, Growth, Node, Note, Plan, Standing, Targets,
};

use crate::pool::{Pool, idle_seconds, refused, spare};
use crate::sizing::{SPARED_CALLS, div_ceil};

/// Seconds for which an interface must have been of no use before it is removed.
const USELESS_SECONDS: u32 = 3600;
/// Minutes whose most pods the other interfaces must be able to hold.
const LOOK_BACK: usize = 60;

/// The plan for `node`: hold `minimum-ips` addresses on each card, no fewer and no more, and `warm-enis` interfaces.
///
/// # Errors
/// Fewer or more targets than cards.
pub fn decide(node: &Node, targets: &[Targets]) -> Result<Plan, String> {
    if targets.len() != node.cards.len() {
        return Err("one target per card is needed".to_owned());
    }
    let mut plan = Plan { grow: vec![], release: vec![], remove: vec![], drain: vec![], note: Note::because("") };
    let mut reasons = Vec::with_capacity(node.cards.len());
    for (card, target) in node.cards.iter().zip(targets) {
        let pool = Pool::new(node, card);
        reasons.push(["card ", &card.index.to_string(), ": ", &plan_card(node, &pool, target, &mut plan)].concat());
    }
    plan.note.reason = reasons.join("; ");
    Ok(plan)
}

/// Adds one card's part and says why.
fn plan_card(node: &Node, pool: &Pool<'_>, target: &Targets, plan: &mut Plan) -> String {
    let held = pool.total + pool.in_flight();
    // What cools comes too late for who waits.
    let wanted = i64::from(target.minimum_ips).max(pool.needed());
    let short = pool.interfaces() < i64::from(target.warm_enis) && pool.room();
    if wanted > held {
        let missing = div_ceil(wanted - held, pool.unit_ips);
        let mut ways = grow(node, pool, missing);
        let dry = ways.first().is_some_and(|way| matches!(way, Growth::Assign(a) if is_dry(node, &a.eni)));
        // An interface takes seconds to come, and then has slots: meanwhile one more is made for pods alone.
        let another = pool.room() && (pool.card.enis_in_flight == 0 || pool.needed() > held);
        if dry && another && has_another(node) {
            // EC2 has just had nothing where the interfaces are: what is missing comes with one elsewhere.
            ways.insert(0, create(node, pool));
        } else if short || (ways.is_empty() && another) {
            // Slots for what a minute may bring: an interface takes seconds to come.
            // Closed interfaces count as held and bring nothing: pods must not wait for their slots.
            ways.push(create(node, pool));
        }
        let reason = match (ways.first(), node.gates.grow) {
            (None, _) => "no free slots",
            (_, Gate::Open) => "more",
            _ => "more, growth is held up",
        };
        if node.gates.grow == Gate::Open {
            plan.grow.extend(ways);
        }
        return [reason, ": ", &missing.to_string()].concat();
    }
    if short && node.gates.grow == Gate::Open {
        plan.grow.push(create(node, pool));
        return "one interface more".to_owned();
    }
    let over = (held - wanted) / pool.unit_ips;
    if over > 0 && node.gates.release == Gate::Open {
        let ids = release(node, pool, usize::try_from(over).unwrap_or(usize::MAX));
        let reason = ["give back: ", &ids.len().to_string()].concat();
        plan.release.extend(ids);
        return reason;
    }
    if node.gates.remove == Gate::Open
        && node.gates.ec2_calls_left >= SPARED_CALLS
        && let Some(eni) = useless(node, pool, target)
    {
        plan.remove.push(eni.id.clone());
        return ["remove ", &eni.id].concat();
    }
    "enough".to_owned()
}

/// Ways to have `missing` units more, best first: one call that brings all of them, then the largest step.
fn grow(node: &Node, pool: &Pool<'_>, missing: i64) -> Vec<Growth> {
    let mut enis: Vec<(&Eni, i64)> =
        pool.enis.iter().map(|e| (*e, pool.free_slots(e))).filter(|(_, n)| *n > 0).collect();
    // The fullest that takes all of it; else the emptiest. Where EC2 has just had nothing, last.
    enis.sort_by_key(|(eni, free)| {
        let (small, rank) = if *free >= missing { (false, *free) } else { (true, -free) };
        (is_dry(node, &eni.id), small, rank)
    });
    let units = |n: i64| u32::try_from(n.min(missing)).unwrap_or(u32::MAX);
    enis.into_iter()
        .map(|(eni, free)| Growth::Assign(Assign { eni: eni.id.clone(), unit: node.unit, count: units(free) }))
        .collect()
}

/// Whether EC2 has just had nothing in the subnet of an interface.
fn is_dry(node: &Node, eni: &str) -> bool {
    let subnet = node.enis.iter().find(|e| e.id == eni).map(|e| &e.subnet);
    node.subnets.iter().any(|s| subnet == Some(&s.id) && refused(node, s))
}

/// Whether there is a subnet for a new interface that EC2 has not just refused.
fn has_another(node: &Node) -> bool {
    node.subnets.iter().any(|s| s.standing == Standing::Eligible && !refused(node, s))
}

fn create(node: &Node, pool: &Pool<'_>) -> Growth {
    let count = u32::try_from(pool.with_interface()).unwrap_or(u32::MAX);
    Growth::CreateEni(CreateEni { card: pool.card.index, unit: node.unit, count })
}

/// Up to `most` CIDRs to give back: from the interface with the fewest pods, so that it runs empty, and those that were
/// used longest ago.
fn release(node: &Node, pool: &Pool<'_>, most: usize) -> Vec<CidrId> {
    let mut spares: Vec<(&Eni, &Cidr)> =
        pool.enis.iter().flat_map(|e| e.cidrs.iter().map(move |c| (*e, c))).filter(|(_, c)| spare(node, c)).collect();
    spares.sort_by_key(|(eni, cidr)| {
        (eni.has(EniTraits::PRIMARY), pods(eni), Reverse(eni.device_index), Reverse(idle_seconds(cidr)))
    });
    let left_over = pool.enis.iter().flat_map(|e| &e.cidrs).filter(|c| !c.serving && c.idle()).map(|c| c.id);
    left_over.chain(spares.into_iter().take(most).map(|(_, c)| c.id)).collect()
}

fn pods(eni: &Eni) -> u32 {
    eni.cidrs.iter().fold(0, |sum, c| sum.saturating_add(c.assigned))
}

/// An interface without which the node would have had enough slots for an hour, and has enough now.
fn useless<'a>(node: &Node, pool: &Pool<'a>, target: &Targets) -> Option<&'a Eni> {
    let kept = EniTraits::PRIMARY | EniTraits::TRUNK | EniTraits::EFA;
    let peak = node.history.iter().take(LOOK_BACK).map(|m| m.peak_assigned).max().unwrap_or(0);
    let open: i64 =
        pool.enis.iter().filter(|e| !e.traits.intersects(EniTraits::CLOSED)).count().try_into().unwrap_or(0);
    let capacity = (open - 1).saturating_mul(pool.slots).saturating_mul(pool.unit_ips);
    pool.enis
        .iter()
        .copied()
        .filter(|e| !e.traits.intersects(kept) && e.age_seconds >= 60 && pods(e) == 0)
        .filter(|e| e.cidrs.iter().all(Cidr::idle))
        .filter(|e| {
            if e.has(EniTraits::EXCLUDED) {
                return true;
            }
            let held: i64 = e.cidrs.iter().filter(|c| c.serving).map(|c| i64::from(c.size)).sum();
            let long = e.age_seconds >= USELESS_SECONDS && e.cidrs.iter().all(|c| idle_seconds(c) >= USELESS_SECONDS);
            let enough = pool.total + pool.in_flight() - held >= i64::from(target.minimum_ips);
            long && enough && open > i64::from(target.warm_enis) && i64::from(peak) <= capacity
        })
        .min_by_key(|e| (!e.has(EniTraits::EXCLUDED), e.cidrs.len(), Reverse(e.device_index)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reservoir_policy_sdk::{Minute, Unit, sample};

    const LONG: u32 = 100_000;

    /// Interfaces of nine slots, each with as many addresses and pods.
    fn node(enis: &[(u32, u32)]) -> Node {
        let mut node = sample::node();
        let mut id = 0;
        let make = |(index, &(held, pods)): (u32, &(u32, u32))| {
            let cidrs = (0..held).map(|i| {
                id += 1;
                let taken = i < pods;
                let idle_seconds = Some(if taken { 0 } else { LONG });
                Cidr { assigned: taken.into(), idle_seconds, ..sample::ip(id - 1) }
            });
            Eni {
                id: ["eni-", &index.to_string()].concat(),
                device_index: index,
                traits: if index == 0 { EniTraits::PRIMARY } else { EniTraits::empty() },
                age_seconds: LONG,
                cidrs: cidrs.collect(),
                ..node.enis[0].clone()
            }
        };
        node.enis = (0..).zip(enis).map(make).collect();
        node
    }

    fn plan(node: &Node, hold: u32, interfaces: u32) -> Plan {
        decide(node, &[Targets { warm_enis: interfaces, ..Targets::hold(hold) }]).unwrap()
    }

    fn assign(eni: u32, count: u32) -> Growth {
        Growth::Assign(Assign { eni: ["eni-", &eni.to_string()].concat(), unit: Unit::Ip, count })
    }

    #[test]
    fn one_call_that_brings_all_before_a_larger_one_that_does_not() {
        // Free slots: 2, 6, 4.
        let node = node(&[(7, 7), (3, 3), (5, 5)]);
        assert_eq!(plan(&node, 18, 3).grow, [assign(2, 3), assign(1, 3), assign(0, 2)]);
        assert_eq!(plan(&node, 22, 3).grow, [assign(1, 6), assign(2, 4), assign(0, 2)]);
    }

    #[test]
    fn where_ec2_has_just_had_nothing_another_subnet_is_tried_before() {
        let create = Growth::CreateEni(CreateEni { card: 0, unit: Unit::Ip, count: 4 });
        let mut node = node(&[(7, 7), (3, 3)]);
        node.subnets[0].ips_refused_seconds = 90;
        assert_eq!(plan(&node, 12, 2).grow, [assign(0, 2), assign(1, 2)], "there is no other: the host says when");
        node.subnets.push(sample::subnet("subnet-b"));
        assert_eq!(plan(&node, 12, 2).grow, [create, assign(0, 2), assign(1, 2)]);
        node.enis[1].subnet = "subnet-b".to_owned();
        assert_eq!(plan(&node, 12, 2).grow, [assign(1, 2), assign(0, 2)], "an interface is there already");
        node.subnets[1].ips_refused_seconds = 90;
        assert_eq!(plan(&node, 12, 2).grow, [assign(0, 2), assign(1, 2)]);
    }

    #[test]
    fn an_interface_more_comes_after_what_is_missing_now() {
        let node = node(&[(7, 7)]);
        let create = Growth::CreateEni(CreateEni { card: 0, unit: Unit::Ip, count: 4 });
        assert_eq!(plan(&node, 8, 2).grow, [assign(0, 1), create.clone()]);
        assert_eq!(plan(&node, 7, 2).grow, [create]);
        assert_eq!(plan(&node, 7, 1).grow, []);
        let full = self::node(&[(7, 7), (9, 9), (9, 9)]);
        assert_eq!(plan(&full, 25, 4).grow, [], "three is all that the card takes");
    }

    #[test]
    fn one_interface_is_made_at_a_time_unless_more_pods_wait_than_it_brings_addresses() {
        let create = Growth::CreateEni(CreateEni { card: 0, unit: Unit::Ip, count: 4 });
        let mut node = node(&[(9, 9)]);
        node.cards[0].waiting = 4;
        assert_eq!(plan(&node, 16, 2).grow, std::slice::from_ref(&create));
        (node.cards[0].enis_in_flight, node.cards[0].ips_in_flight) = (1, 4);
        assert_eq!(plan(&node, 20, 2).grow, [], "what is kept ready comes when its slots are there");
        node.cards[0].waiting = 5;
        assert_eq!(plan(&node, 21, 2).grow, [create]);
    }

    #[test]
    fn the_emptiest_interface_gives_back_first_and_the_primary_last() {
        let node = node(&[(9, 0), (4, 2), (5, 1)]);
        assert_eq!(plan(&node, 17, 3).release, [14]);
        assert_eq!(plan(&node, 12, 3).release, [14, 15, 16, 17, 11, 12]);
    }

    #[test]
    fn an_interface_goes_when_the_last_hour_did_not_need_it() {
        let mut node = node(&[(9, 5), (0, 0)]);
        assert_eq!(plan(&node, 9, 1).remove, ["eni-1"]);
        assert_eq!(plan(&node, 9, 2).remove, [""; 0], "wanted for what a minute may bring");
        node.history = vec![Minute { peak_assigned: 10, ..crate::memory::QUIET }];
        assert_eq!(plan(&node, 9, 1).remove, [""; 0], "ten pods at one time");
        node.history.clear();
        node.enis[1].age_seconds = USELESS_SECONDS - 1;
        assert_eq!(plan(&node, 9, 1).remove, [""; 0]);
    }

    #[test]
    fn an_excluded_interface_goes_as_soon_as_it_is_empty() {
        let mut node = node(&[(9, 5), (0, 0)]);
        node.enis[1].traits = EniTraits::EXCLUDED | EniTraits::CLOSED;
        node.enis[1].age_seconds = 61;
        assert_eq!(plan(&node, 9, 2).remove, ["eni-1"]);
    }

    #[test]
    fn shut_gates_are_heeded() {
        let mut node = node(&[(7, 5), (0, 0)]);
        node.gates.grow = Gate::Closed;
        node.gates.release = Gate::Closed;
        node.gates.remove = Gate::Closed;
        for hold in [5, 7, 9] {
            let plan = plan(&node, hold, 1);
            assert!(plan.grow.is_empty() && plan.release.is_empty() && plan.remove.is_empty(), "{plan:?}");
        }
        assert_eq!(decide(&node, &[]).unwrap_err(), "one target per card is needed");
    }
}
