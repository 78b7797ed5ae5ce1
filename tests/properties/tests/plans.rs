//! The check of plans, and what this repository's policies answer to any node.

use std::collections::{BTreeSet, HashMap};

use properties::{nodes, property};
use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use reservoir_core::policy::{Cidr, Eni, EniTrait, Gate, Growth, Node, Plan, Unit};
use reservoir_core::validate::{Checked, MAX_ACTIONS, MIN_ENI_AGE_SECONDS, UnderWay, check};
use reservoir_policy_native::Native;
use reservoir_sim::node::Policy;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// Held to each invariant by its words in spec 01 §12.2, not by the code that enforces it.
fn holds(node: &Node, under_way: &UnderWay, checked: &Checked) -> Result<(), String> {
    let eni = |id: &str| node.enis.iter().find(|e| e.id == id).ok_or_else(|| format!("I12: no {id}"));
    let mut growing = BTreeSet::new();
    for growth in &checked.grow {
        ensure(node.gates.grow == Gate::Open, || "I7: growth while the gate is shut".to_owned())?;
        match growth {
            Growth::Assign(a) => {
                let eni = eni(&a.eni)?;
                let closed = [EniTrait::Closed, EniTrait::Trunk, EniTrait::Excluded].iter().any(|t| eni.traits.has(*t));
                ensure(!closed, || format!("I5: {} is closed", eni.id))?;
                let going = u64::from(under_way.slots.get(&eni.id).copied().unwrap_or(0));
                let after = eni.cidrs.len() as u64 + going + u64::from(a.count);
                ensure(a.count > 0 && after <= u64::from(node.limits.slots_per_eni), || format!("I5: {a:?}"))?;
                growing.insert(eni.card);
            }
            Growth::CreateEni(c) => {
                let card = node.cards.iter().find(|k| k.index == c.card).ok_or("I12: no such card")?;
                let held = node.enis.iter().filter(|e| e.card == c.card).count() as u64;
                let after = held + u64::from(card.enis_in_flight) + 1;
                ensure(after <= u64::from(card.max_enis), || format!("I6: {c:?}"))?;
                ensure(c.count > 0 && c.count <= node.limits.slots_per_eni, || format!("I12: {c:?}"))?;
                growing.insert(c.card);
            }
        }
    }
    let cidr = |id: u32| -> Result<(&Eni, &Cidr), String> {
        // Where a snapshot uses a number twice, the host knows the one it used last.
        let all = node.enis.iter().flat_map(|e| e.cidrs.iter().map(move |c| (e, c)));
        all.rev().find(|(_, c)| c.id == id).ok_or_else(|| format!("I12: no cidr {id}"))
    };
    let mut seen = BTreeSet::new();
    for id in &checked.release {
        let (eni, cidr) = cidr(*id)?;
        ensure(seen.insert(*id), || format!("I12: {id} twice"))?;
        ensure(cidr.assigned == 0, || format!("I3: {id}"))?;
        ensure(cidr.cooling == 0, || format!("I4: {id}"))?;
        ensure(!growing.contains(&eni.card), || format!("I15: {id}"))?;
        ensure(node.gates.release == Gate::Open, || format!("I11: {id}"))?;
    }
    let mut removing = BTreeSet::new();
    for id in &checked.remove {
        let eni = eni(id)?;
        let kept = [EniTrait::Primary, EniTrait::Trunk, EniTrait::Efa].iter().any(|t| eni.traits.has(*t));
        ensure(!kept, || format!("I1: {id}"))?;
        let used = eni.cidrs.iter().any(|c| c.assigned > 0 || c.cooling > 0);
        ensure(!used && eni.age_seconds >= MIN_ENI_AGE_SECONDS, || format!("I2: {id}"))?;
        ensure(!under_way.slots.contains_key(id), || format!("I2: {id} changes"))?;
        let grows = checked.grow.iter().any(|g| matches!(g, Growth::Assign(a) if a.eni == *id));
        ensure(!grows, || format!("I2: {id} grows"))?;
        ensure(removing.insert(eni.card), || format!("I11: {id} is the second of its card"))?;
        ensure(node.gates.remove == Gate::Open, || format!("I8: {id}"))?;
    }
    checked.drain.iter().try_for_each(|id| cidr(*id).map(drop))
}

fn under_way() -> impl Strategy<Value = UnderWay> {
    let eni = (0u32..2, 0u32..5).prop_map(|(card, device)| format!("eni-{card}-{device}"));
    hash_map(eni, prop_oneof![5 => 1u32..4, 1 => Just(u32::MAX)], 0..3).prop_map(|slots| UnderWay { slots })
}

#[test]
fn what_the_check_lets_pass_breaks_no_invariant() {
    let any_node = prop_oneof![3 => nodes::consistent().boxed(), 1 => nodes::nonsense().boxed()];
    property(2000, &(any_node, nodes::plan(), under_way()), |(node, plan, under_way)| {
        let checked = check(&node, &plan, &under_way);
        holds(&node, &under_way, &checked)?;
        let asked = plan.grow.len() + plan.release.len() + plan.remove.len() + plan.drain.len();
        let kept = checked.grow.len() + checked.release.len() + checked.remove.len() + checked.drain.len();
        ensure(kept + checked.dropped.len() == asked, || {
            format!("{asked} actions, {kept} kept: {:?}", checked.dropped)
        })?;
        // What passed once passes again, whole.
        let Checked { grow, release, remove, drain, .. } = checked.clone();
        let again = check(&node, &Plan { grow, release, remove, drain, ..Plan::default() }, &under_way);
        ensure(again == Checked { dropped: vec![], ..checked }, || format!("again: {again:?}"))
    });
}

#[test]
fn lists_without_end_are_cut() {
    let long = vec(0u32..40, MAX_ACTIONS..3 * MAX_ACTIONS);
    property(8, &(nodes::consistent(), long), |(node, ids)| {
        let remove = ids.iter().map(|id| format!("eni-0-{id}")).collect();
        let plan = Plan { release: ids.clone(), drain: ids, remove, ..Plan::default() };
        let checked = check(&node, &plan, &UnderWay::default());
        holds(&node, &UnderWay::default(), &checked)?;
        ensure(checked.drain.len() <= MAX_ACTIONS, || checked.drain.len().to_string())?;
        ensure(checked.dropped.len() <= 3 * MAX_ACTIONS + 3, || checked.dropped.len().to_string())
    });
}

fn policies() -> [(&'static str, Native); 4] {
    [
        ("built-in", Native::built_in(&[])),
        ("reference", Native::built_in(&[("defects", "reference")])),
        ("other settings", Native::built_in(&[("count-cooling", "false"), ("fall-back-to-ips", "true")])),
        ("adaptive", Native::adaptive()),
    ]
}

#[test]
fn a_policy_answers_any_node_and_the_host_finds_nothing_to_drop() {
    property(1500, &nodes::consistent(), |node| {
        for (name, mut policy) in policies() {
            let plan = policy.answer(&node)?.plan.ok_or("no plan")?;
            let checked = check(&node, &plan, &UnderWay::default());
            // The reference gives cooling addresses back (spec 01 W13) and looks at no subnet.
            let known =
                |reason: &str| reason.starts_with("I4: ") && name == "reference" || reason.starts_with("I7: subnet");
            if let Some(dropped) = checked.dropped.iter().find(|d| !known(&d.reason)) {
                return Err(format!("{name}: {dropped:?} of {plan:?}"));
            }
        }
        Ok(())
    });
}

#[test]
fn no_node_however_wrong_makes_a_policy_panic() {
    property(1500, &nodes::nonsense(), |node| {
        for (_, mut policy) in policies() {
            // An answer or a reason, the host takes either.
            let _ = policy.answer(&node).map(drop);
            for unit in [Unit::Ip, Unit::Prefix] {
                let request = reservoir_core::policy::CreateEni { card: 0, unit, count: 1 };
                let _ = policy.rank(&node, &request).map(drop);
            }
        }
        Ok(())
    });
}

/// Pods wait, a slot is free or there is room for an interface, the gate is open and no subnet has refused: then there is a
/// way to grow.
#[test]
fn demand_with_capacity_left_always_grows() {
    property(2000, &nodes::consistent(), |mut node| {
        node.gates.grow = Gate::Open;
        node.limits.max_pods = 10_000;
        for subnet in &mut node.subnets {
            (subnet.ips_refused_seconds, subnet.prefixes_refused_seconds) = (0, 0);
        }
        if node.families != [reservoir_core::policy::Family::Ipv4] {
            return Ok(());
        }
        let mut hungry: HashMap<u32, bool> = HashMap::new();
        for card in &mut node.cards {
            let enis = || node.enis.iter().filter(|e| e.card == card.index);
            let open =
                |e: &&Eni| ![EniTrait::Closed, EniTrait::Trunk, EniTrait::Excluded].iter().any(|t| e.traits.has(*t));
            let slot = enis().filter(open).any(|e| (e.cidrs.len() as u32) < node.limits.slots_per_eni);
            let room = enis().count() as u32 + card.enis_in_flight < card.max_enis;
            let serving = enis().flat_map(|e| &e.cidrs).filter(|c| c.serving);
            let free: u32 = serving.map(|c| c.size - c.assigned - c.cooling).sum::<u32>() + card.ips_in_flight;
            // More wait than are there or on their way.
            card.waiting += free + 1;
            hungry.insert(card.index, slot || room);
        }
        for (name, mut policy) in policies() {
            if name == "reference" {
                // It knows of no pods that wait.
                continue;
            }
            let plan = policy.answer(&node)?.plan.ok_or("no plan")?;
            let checked = check(&node, &plan, &UnderWay::default());
            let grows: BTreeSet<u32> =
                checked.grow.iter().filter_map(|g| reservoir_core::validate::card_of(&node, g)).collect();
            if let Some((card, _)) = hungry.iter().find(|(card, hungry)| **hungry && !grows.contains(card)) {
                return Err(format!("{name}: card {card} does not grow: {plan:?}"));
            }
        }
        Ok(())
    });
}
