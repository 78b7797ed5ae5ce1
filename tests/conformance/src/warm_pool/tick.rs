//! One decision, told as the actions of one tick of the reference: `tick`, and a step of `trace` and the steady states.

use std::collections::BTreeMap;

use reservoir_core::policy::{Context, Gate, Growth, Node, Plan, Unit};
use serde_json::{Value, json};

use super::case::{Case, reference};
use super::{Answer, component};
use crate::Outcome;

/// What one decision does on a node where EC2 grants everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Assign { eni: String, unit: Unit, count: u32 },
    Create { card: u32, unit: Unit, count: u32 },
    Free { unit: Unit, from: BTreeMap<String, u32>, cidrs: Vec<u32> },
    Remove { eni: String },
    Blocked { reason: &'static str },
}

/// The plan of the component as actions: per card the first way to grow, or what it gives back; then one removal.
pub(super) fn decide(node: &Node, context: &Context, shut: Option<&'static str>) -> Result<Vec<Action>, String> {
    let plan = component::plan(node, context)?;
    let mut actions = Vec::new();
    for card in &node.cards {
        let growth = plan.grow.iter().find(|way| card_of(node, way) == Some(card.index));
        match growth {
            Some(Growth::Assign(way)) => {
                actions.push(Action::Assign { eni: way.eni.clone(), unit: way.unit, count: way.count });
            }
            Some(Growth::CreateEni(way)) => {
                actions.push(Action::Create { card: way.card, unit: way.unit, count: way.count });
            }
            None if grows_unhindered(node, context, card.index)? => {
                actions.push(Action::Blocked { reason: shut.unwrap_or("max_enis") });
            }
            None => {
                actions.extend([Unit::Ip, Unit::Prefix].into_iter().filter_map(|u| freed(node, &plan, card.index, u)));
            }
        }
        let removed = plan.remove.iter().find(|id| node.enis.iter().any(|e| e.id == **id && e.card == card.index));
        actions.extend(removed.map(|id| Action::Remove { eni: id.clone() }));
    }
    Ok(actions)
}

fn card_of(node: &Node, way: &Growth) -> Option<u32> {
    match way {
        Growth::Assign(way) => node.enis.iter().find(|eni| eni.id == way.eni).map(|eni| eni.card),
        Growth::CreateEni(way) => Some(way.card),
    }
}

/// Whether the card is low: it would grow if nothing stood in the way.
pub(super) fn grows_unhindered(node: &Node, context: &Context, card: u32) -> Result<bool, String> {
    let mut free = node.clone();
    free.gates.grow = Gate::Open;
    free.cards.iter_mut().for_each(|card| card.max_enis = u32::MAX);
    let plan = component::plan(&free, context)?;
    Ok(plan.grow.iter().any(|way| card_of(&free, way) == Some(card)))
}

fn freed(node: &Node, plan: &Plan, card: u32, unit: Unit) -> Option<Action> {
    let mut from = BTreeMap::new();
    let mut cidrs = Vec::new();
    for eni in node.enis.iter().filter(|eni| eni.card == card) {
        for cidr in eni.cidrs.iter().filter(|cidr| cidr.unit == unit && plan.release.contains(&cidr.id)) {
            *from.entry(eni.id.clone()).or_default() += 1;
            cidrs.push(cidr.id);
        }
    }
    (!cidrs.is_empty()).then_some(Action::Free { unit, from, cidrs })
}

impl Action {
    /// As the vectors write it.
    pub fn as_json(&self) -> Value {
        match self {
            Self::Assign { eni, unit, count } => {
                json!({"kind": format!("assign_{}", plural(*unit)), "count": count, "eni": eni})
            }
            Self::Create { card, unit, count } => {
                json!({"kind": "create_eni", "count": count, "unit": plural(*unit), "network_card": card})
            }
            Self::Free { unit, from, cidrs } => {
                json!({"kind": format!("free_{}", plural(*unit)), "count": cidrs.len(), "from": from})
            }
            Self::Remove { eni } => json!({"kind": "remove_eni", "eni": eni}),
            Self::Blocked { reason } => json!({"kind": "blocked", "reason": reason}),
        }
    }
}

fn plural(unit: Unit) -> &'static str {
    match unit {
        Unit::Ip => "ips",
        Unit::Prefix => "prefixes",
    }
}

/// Whether `got` is what `expected` asks for: every field the same, `eni_any_of` naming the interface; an empty list is
/// the action `none`.
pub(super) fn agrees(expected: &Value, got: &[Action]) -> bool {
    let Some(expected) = expected.as_array() else { return false };
    if got.is_empty() {
        return matches!(expected.as_slice(), [only] if only["kind"] == "none");
    }
    expected.len() == got.len() && expected.iter().zip(got).all(|(expected, got)| action_agrees(expected, got))
}

pub(super) fn action_agrees(expected: &Value, got: &Action) -> bool {
    let got = got.as_json();
    let Some(fields) = expected.as_object() else { return false };
    fields.iter().all(|(key, value)| match key.as_str() {
        "eni_any_of" => value.as_array().is_some_and(|enis| enis.contains(&got["eni"])),
        _ => got.get(key) == Some(value),
    })
}

/// As the vectors would write it.
pub(super) fn told(actions: &[Action]) -> String {
    if actions.is_empty() {
        return json!([{"kind": "none"}]).to_string();
    }
    Value::from(actions.iter().map(Action::as_json).collect::<Vec<_>>()).to_string()
}

pub(super) fn tick(case: &Case) -> Answer {
    let node = case.node(&case.pool()?);
    let mut accepted = vec![case.recommended.as_ref().unwrap_or(&case.expected["actions"])];
    if case.recommended.is_none() {
        accepted.extend(case.alternatives.iter().flatten());
    }
    let accepts = |got: &[Action]| accepted.iter().any(|expected| agrees(expected, got));
    let got = decide(&node, &case.context(), case.growth_shut())?;
    if accepts(&got) {
        return Ok(Outcome::Passed);
    }
    // Cooling addresses that the reference gives back (spec 01 §15): so does the component, if it is told to. By itself
    // it gives back the same, these left out.
    let cooling = |id: &u32| node.enis.iter().flat_map(|eni| &eni.cidrs).any(|cidr| cidr.id == *id && cidr.cooling > 0);
    let as_the_reference = decide(&node, &reference(), case.growth_shut())?;
    let frees_cooling = |action: &Action| matches!(action, Action::Free { cidrs, .. } if cidrs.iter().any(cooling));
    if accepts(&as_the_reference) && as_the_reference.iter().any(frees_cooling) && !got.iter().any(frees_cooling) {
        return Ok(Outcome::Better(
            "cooling addresses are kept (W13, I4); `defects = reference` gives them back".to_owned(),
        ));
    }
    Ok(Outcome::Failed { expected: accepted[0].to_string(), got: told(&got) })
}
