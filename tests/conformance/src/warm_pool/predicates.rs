//! Single questions of the rule: those that a plan answers are put to the component, the others to the functions that it
//! is made of.

use reservoir_core::policy::{Assign, Context, Growth, Plan, Unit};
use reservoir_core::validate::{UnderWay, check};
use reservoir_policy_default::settings::Settings;
use reservoir_policy_default::stats::Pool;
use reservoir_policy_default::{removal, sizing};
use reservoir_policy_native::node_of;
use serde_json::{Value, json};

use super::case::{Case, reference};
use super::{Answer, component, named, tick};
use crate::Outcome;

/// Asks the built-in policy's functions about the card that the case is about.
fn ask<T>(case: &Case, context: &Context, question: impl FnOnce(&Pool<'_>) -> T) -> Result<T, Outcome> {
    let node = node_of(&case.node(&case.pool()?));
    let settings = Settings::parse(&context.settings)?;
    let card = node.cards.iter().find(|card| card.index == case.network_card).ok_or("no such card")?;
    Ok(question(&Pool::new(&node, card, card.configured, settings)))
}

pub(super) fn stats(case: &Case) -> Answer {
    let stats = ask(case, &case.context(), |pool| pool.stats())?;
    let mut got = json!({
        "total": stats.total,
        "assigned": stats.assigned,
        "available": stats.available(),
        "cooldown": stats.cooling,
        "total_prefixes": stats.total_prefixes,
        "free_prefixes": stats.free_prefixes,
    });
    let expected = case.recommended.as_ref().unwrap_or(&case.expected);
    // Prefixes that serve nobody count for the reference alone: they are its running counters (W5).
    if case.recommended.is_none() {
        let stats = ask(case, &reference(), |pool| pool.stats())?;
        got["total_prefixes"] = stats.total_prefixes.into();
        got["free_prefixes"] = stats.free_prefixes.into();
    }
    Ok(Outcome::of(expected, named(expected, &got)))
}

pub(super) fn target_state(case: &Case) -> Answer {
    let got = ask(case, &case.context(), |pool| {
        let stats = pool.stats();
        json!({
            "targets_defined": sizing::ip_targets(&pool.targets),
            "short": pool.short_units(&stats),
            "over": pool.over_units(&stats),
            "unit": match case.unit() {
                Unit::Ip => "ips",
                Unit::Prefix => "prefixes",
            },
        })
    })?;
    let defined = got["targets_defined"] == true;
    let expected = case.recommended.as_ref().unwrap_or(&case.expected);
    let mut got = named(expected, &got);
    if !defined {
        // What a prefix target has too many is another question: `pool_high`.
        got["over"] = 0.into();
    }
    Ok(Outcome::of(expected, got))
}

pub(super) fn pool_low(case: &Case) -> Answer {
    let node = case.node(&case.pool()?);
    let low = tick::grows_unhindered(&node, &case.context(), case.network_card)?;
    Ok(Outcome::of(&case.expected, json!({"low": low})))
}

/// How much is handed to the trimming step; what of it may go is another question.
pub(super) fn pool_high(case: &Case) -> Answer {
    let over = ask(case, &case.context(), |pool| pool.over_units(&pool.stats()))?;
    Ok(Outcome::of(&case.expected, json!({"high": over > 0, "cidrs_to_free": over})))
}

/// Which interfaces the rules of spec 01 §4.2 let go: those rules as they are. The built-in policy mends W3 and W4.
pub(super) fn eni_removal(case: &Case) -> Answer {
    let context = if case.recommended.is_none() { reference() } else { case.context() };
    let expected = case.recommended.as_ref().unwrap_or(&case.expected);
    let removable: Vec<String> = ask(case, &context, |pool| {
        let goes = |eni: &&_| removal::removable(pool, eni, &[]);
        pool.enis.iter().copied().filter(goes).map(|eni| eni.id.clone()).collect()
    })?;
    Ok(Outcome::of(expected, json!({"removable": removable})))
}

pub(super) fn freeable_eni_exists(case: &Case) -> Answer {
    let exists = ask(case, &case.context(), |pool| pool.enis.iter().any(|eni| removal::freeable(eni)))?;
    Ok(Outcome::of(&case.expected, json!({"exists": exists})))
}

/// What the component would do for more pods than the node can hold.
fn plan_for_many(case: &Case) -> Result<Plan, Outcome> {
    let mut node = case.node(&case.pool()?);
    node.limits.max_pods = u32::MAX;
    node.cards.iter_mut().for_each(|card| card.waiting = 1_000_000);
    Ok(component::plan(&node, &case.context())?)
}

pub(super) fn allocatable_enis(case: &Case) -> Answer {
    let ways = plan_for_many(case)?.grow;
    let enis = ways.iter().filter_map(|way| if let Growth::Assign(way) = way { Some(&way.eni) } else { None });
    Ok(Outcome::of(&case.expected, json!({"allocatable": enis.collect::<Vec<_>>()})))
}

pub(super) fn eni_room(case: &Case) -> Answer {
    let room = plan_for_many(case)?.grow.iter().any(|way| matches!(way, Growth::CreateEni(_)));
    Ok(Outcome::of(&case.expected, json!({"room": room})))
}

/// What an excluded interface holds and no pod uses goes back.
pub(super) fn excluded_cleanup(case: &Case) -> Answer {
    let eni = &case.state["eni"];
    let list = |key: &str| eni[key].as_array().cloned().unwrap_or_default();
    let (ips, prefixes) = (list("ips"), list("prefixes"));
    let mut described = case.clone();
    let free = vec![json!({"used": 0, "cooldown": 0}); prefixes.len()];
    described.state = json!({"enis": [{
        "id": eni["id"], "primary": eni["primary"], "age_s": 0, "excluded": true, "prefixes": free,
        "ips": {"total": ips.len(), "assigned": 0, "cooldown": 0},
    }]});
    let mut node = described.node(&described.pool()?);
    // Enough is free elsewhere: what matters is what this one gives back.
    node.limits.max_pods = 0;
    let plan = component::plan(&node, &case.context())?;
    let held: Vec<(u32, Unit)> = node.enis.iter().flat_map(|e| &e.cidrs).map(|cidr| (cidr.id, cidr.unit)).collect();
    let names: Vec<&Value> = ips.iter().chain(&prefixes).collect();
    let (mut calls, mut remaining) = (Vec::new(), Vec::new());
    for (unit, call) in [(Unit::Prefix, "unassign_prefixes"), (Unit::Ip, "unassign_ips")] {
        let of_unit = held.iter().zip(&names).filter(|((_, u), _)| *u == unit);
        let (gone, kept): (Vec<_>, Vec<_>) = of_unit.partition(|((id, _), _)| plan.release.contains(id));
        if !gone.is_empty() {
            calls.push(json!({"call": call, "items": gone.iter().map(|(_, name)| name).collect::<Vec<_>>()}));
        }
        remaining.extend(kept.into_iter().map(|(_, name)| (*name).clone()));
    }
    Ok(Outcome::of(&case.expected, json!({"calls": calls, "remaining": remaining})))
}

/// How many are asked for at once: the host cuts a plan to what an interface takes.
pub(super) fn assign_request(case: &Case) -> Answer {
    let mut described = case.clone();
    described.state = json!({"enis": [{"id": "eni-0", "primary": true}]});
    let node = described.node(&described.pool()?);
    let count = case.state["requested"].as_u64().and_then(|n| u32::try_from(n).ok()).ok_or("requested is no number")?;
    let asked = Growth::Assign(Assign { eni: "eni-0".to_owned(), unit: case.unit(), count });
    let plan = Plan { grow: vec![asked], ..Plan::default() };
    let (parameter, count) = match check(&node, &plan, &UnderWay::default()).grow.first() {
        Some(Growth::Assign(way)) if way.unit == Unit::Ip => ("SecondaryPrivateIpAddressCount", way.count),
        Some(Growth::Assign(way)) => ("Ipv4PrefixCount", way.count),
        other => return Err(format!("the host makes {other:?} of it").into()),
    };
    Ok(Outcome::of(&case.expected, json!({"parameter": parameter, "count": count})))
}

pub(super) fn div_ceil(case: &Case) -> Answer {
    let number = |key: &str| case.state[key].as_i64().ok_or(format!("{key} is no number"));
    Ok(Outcome::of(&case.expected, json!({"value": sizing::div_ceil(number("x")?, number("y")?)})))
}
