//! Single questions of the rule: those that a plan answers are put to the component, the others to the functions that it
//! is made of.

use reservoir_core::policy::{Assign, Context, Growth, Plan, Unit};
use reservoir_core::validate::{UnderWay, check};
use reservoir_policy_default::settings::Settings;
use reservoir_policy_default::stats::Pool;
use reservoir_policy_default::{removal, sizing};
use serde_json::{Map, Value, json};

use super::case::{Case, reference};
use super::{component, native, tick};
use crate::CaseResult;

type Answer = Result<CaseResult, String>;

fn compared(case: &Case, expected: &Value, got: Value) -> CaseResult {
    CaseResult::compared(&case.kind, &case.name, expected, got)
}

/// The fields of `got` that `expected` names.
pub(super) fn named(expected: &Value, got: &Value) -> Value {
    let keys = expected.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    Value::Object(keys.into_iter().map(|key| (key.clone(), got[&key].clone())).collect::<Map<_, _>>())
}

/// Asks the built-in policy's functions about the card that the case is about.
fn ask<T>(case: &Case, context: &Context, question: impl FnOnce(&Pool<'_>) -> T) -> Result<T, String> {
    let node = native::node(&case.node(&case.pool().map_err(|e| e.to_string())?));
    let settings = Settings::parse(&context.settings)?;
    let card = node.cards.iter().find(|card| card.index == case.network_card).ok_or("no such card")?;
    Ok(question(&Pool::new(&node, card, card.configured, settings)))
}

pub(super) fn stats(case: &Case) -> Answer {
    let stats = ask(case, &case.context(), |pool| pool.stats())?;
    let got = json!({
        "total": stats.total,
        "assigned": stats.assigned,
        "available": stats.available(),
        "cooldown": stats.cooling,
        "total_prefixes": stats.total_prefixes,
        "free_prefixes": stats.free_prefixes,
    });
    // Prefixes that the mode does not count serve nobody: they are the reference's running counters (W5).
    if case.unit() == Unit::Ip && case.expected["total_prefixes"].as_u64().is_some_and(|n| n > 0) {
        let stats = ask(case, &reference(), |pool| pool.stats())?;
        let mut got = got;
        got["total_prefixes"] = stats.total_prefixes.into();
        got["free_prefixes"] = stats.free_prefixes.into();
        return Ok(compared(case, &case.expected, named(&case.expected, &got)));
    }
    Ok(compared(case, &case.expected, named(&case.expected, &got)))
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
    Ok(compared(case, expected, got))
}

pub(super) fn pool_low(case: &Case) -> Answer {
    let node = case.node(&case.pool().map_err(|e| e.to_string())?);
    let low = tick::grows_unhindered(&node, &case.context(), case.network_card)?;
    Ok(compared(case, &case.expected, json!({"low": low})))
}

pub(super) fn pool_high(case: &Case) -> Answer {
    let node = case.node(&case.pool().map_err(|e| e.to_string())?);
    let freed = component::plan(&node, &case.context())?.release.len();
    Ok(compared(case, &case.expected, json!({"high": freed > 0, "cidrs_to_free": freed})))
}

/// Which interfaces the rules of spec 01 §4.2 let go. In prefix mode those rules differ from the built-in policy's, which
/// mends W4; there they are asked for as they are.
pub(super) fn eni_removal(case: &Case) -> Answer {
    let context = if case.prefixes() { reference() } else { case.context() };
    let removable: Vec<String> = ask(case, &context, |pool| {
        let goes = |eni: &&_| removal::removable(pool, eni, &[]);
        pool.enis.iter().copied().filter(goes).map(|eni| eni.id.clone()).collect()
    })?;
    Ok(compared(case, &case.expected, json!({"removable": removable})))
}

pub(super) fn freeable_eni_exists(case: &Case) -> Answer {
    let exists = ask(case, &case.context(), |pool| pool.enis.iter().any(|eni| removal::freeable(eni)))?;
    Ok(compared(case, &case.expected, json!({"exists": exists})))
}

/// What the component would do for more pods than the node can hold.
fn plan_for_many(case: &Case) -> Result<Plan, String> {
    let mut node = case.node(&case.pool().map_err(|e| e.to_string())?);
    node.limits.max_pods = u32::MAX;
    node.cards.iter_mut().for_each(|card| card.waiting = 1_000_000);
    component::plan(&node, &case.context())
}

pub(super) fn allocatable_enis(case: &Case) -> Answer {
    let ways = plan_for_many(case)?.grow;
    let enis = ways.iter().filter_map(|way| if let Growth::Assign(way) = way { Some(&way.eni) } else { None });
    Ok(compared(case, &case.expected, json!({"allocatable": enis.collect::<Vec<_>>()})))
}

pub(super) fn eni_room(case: &Case) -> Answer {
    let room = plan_for_many(case)?.grow.iter().any(|way| matches!(way, Growth::CreateEni(_)));
    Ok(compared(case, &case.expected, json!({"room": room})))
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
    let mut node = described.node(&described.pool().map_err(|e| e.to_string())?);
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
    Ok(compared(case, &case.expected, json!({"calls": calls, "remaining": remaining})))
}

/// How many are asked for at once: the host cuts a plan to what an interface takes.
pub(super) fn assign_request(case: &Case) -> Answer {
    let mut described = case.clone();
    described.state = json!({"enis": [{"id": "eni-0", "primary": true}]});
    let node = described.node(&described.pool().map_err(|e| e.to_string())?);
    let count = case.state["requested"].as_u64().and_then(|n| u32::try_from(n).ok()).ok_or("requested is no number")?;
    let asked = Growth::Assign(Assign { eni: "eni-0".to_owned(), unit: case.unit(), count });
    let plan = Plan { grow: vec![asked], ..Plan::default() };
    let (parameter, count) = match check(&node, &plan, &UnderWay::default()).grow.first() {
        Some(Growth::Assign(way)) if way.unit == Unit::Ip => ("SecondaryPrivateIpAddressCount", way.count),
        Some(Growth::Assign(way)) => ("Ipv4PrefixCount", way.count),
        other => return Err(format!("the host makes {other:?} of it")),
    };
    Ok(compared(case, &case.expected, json!({"parameter": parameter, "count": count})))
}

pub(super) fn div_ceil(case: &Case) -> Answer {
    let number = |key: &str| case.state[key].as_i64().ok_or(format!("{key} is no number"));
    Ok(compared(case, &case.expected, json!({"value": sizing::div_ceil(number("x")?, number("y")?)})))
}
