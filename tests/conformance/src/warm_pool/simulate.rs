//! Many decisions in a row on a node where EC2 grants everything at once: `trace`, `steady_state`, `doc_steady_state`.

use reservoir_core::policy::{Context, Unit};
use serde_json::{Map, Value, json};

use super::Answer;
use super::case::{Case, EniState, IPS_PER_PREFIX, PoolState, Prefix};
use super::tick::{self, Action, action_agrees, decide};
use crate::Outcome;

/// Seconds between two decisions, as the reference ticks.
const TICK_SECONDS: u32 = 5;
/// So many decisions without an action are the end: every age and gap of the rule is over by then.
const QUIET_TICKS: u32 = 30;
/// More than any pool takes to settle.
const MOST_TICKS: u32 = 3000;

/// A node in the making.
struct Run<'a> {
    case: Case,
    original: &'a Case,
    context: Context,
    pool: PoolState,
    /// Pods without an IP.
    pending: u32,
    created: u32,
}

impl<'a> Run<'a> {
    fn new(case: &'a Case) -> Result<Self, Outcome> {
        let mut pool = case.pool()?;
        if pool.enis.is_empty() {
            let primary = EniState { id: "eni-0".to_owned(), primary: Value::Bool(true), ..EniState::default() };
            pool.enis.push(primary);
        }
        let context = case.context();
        Ok(Self { case: case.clone(), original: case, context, pool, pending: case.pods, created: 0 })
    }

    /// Pods take free IPs in the order of the interfaces.
    fn start_pods(&mut self) {
        let serving = self.case.unit();
        for eni in self.pool.enis.iter_mut().filter(|eni| !eni.excluded) {
            match serving {
                Unit::Ip => {
                    let taken = self.pending.min(eni.ips.total - eni.ips.assigned - eni.ips.cooldown);
                    eni.ips.assigned += taken;
                    self.pending -= taken;
                }
                Unit::Prefix => {
                    for prefix in &mut eni.prefixes {
                        let taken = self.pending.min(IPS_PER_PREFIX - prefix.used - prefix.cooldown);
                        prefix.used += taken;
                        self.pending -= taken;
                    }
                }
            }
        }
    }

    /// One decision and its effects; then time passes.
    fn tick(&mut self) -> Result<Vec<Action>, String> {
        self.start_pods();
        let actions = decide(&self.case.node(&self.pool), &self.context, self.original.growth_shut())?;
        for action in &actions {
            self.apply(action)?;
        }
        self.start_pods();
        self.pool.enis.iter_mut().for_each(|eni| eni.age_s += TICK_SECONDS);
        if actions.iter().any(|action| matches!(action, Action::Free { .. })) {
            self.case.node.since_last_decrease_s = Some(0);
        }
        if let Some(seconds) = &mut self.case.node.since_last_decrease_s {
            *seconds += TICK_SECONDS;
        }
        Ok(actions)
    }

    fn apply(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Assign { eni, unit, count } => {
                let eni = self.pool.enis.iter_mut().find(|e| e.id == *eni).ok_or(format!("no interface {eni}"))?;
                give(eni, *unit, *count);
            }
            Action::Create { card, unit, count } => {
                self.created += 1;
                let id = format!("eni-new-{}", self.created);
                let mut eni = EniState { id, network_card: *card, ..EniState::default() };
                give(&mut eni, *unit, *count);
                self.pool.enis.push(eni);
            }
            Action::Free { unit, from, .. } => {
                for eni in &mut self.pool.enis {
                    let count = from.get(&eni.id).copied().unwrap_or(0);
                    match unit {
                        Unit::Ip => eni.ips.total -= count,
                        Unit::Prefix => {
                            for _ in 0..count {
                                let free = eni.prefixes.iter().position(|prefix| prefix.used == 0);
                                eni.prefixes.remove(free.ok_or("a prefix with pods was given back")?);
                            }
                        }
                    }
                }
            }
            Action::Remove { eni } => self.pool.enis.retain(|e| e.id != *eni),
            Action::Blocked { .. } => {}
        }
        Ok(())
    }

    /// Counts of the node, as the vectors name them.
    fn counts(&self) -> Map<String, Value> {
        let enis = &self.pool.enis;
        let prefixes = || enis.iter().flat_map(|eni| &eni.prefixes);
        let singles = |eni: &EniState| if self.case.unit() == Unit::Ip { eni.ips.total } else { 0 };
        let held = |eni: &EniState| singles(eni) + IPS_PER_PREFIX * eni.prefixes.len() as u32;
        let used = |eni: &EniState| eni.ips.assigned + eni.prefixes.iter().map(|prefix| prefix.used).sum::<u32>();
        let total: u32 = enis.iter().map(held).sum();
        let assigned: u32 = enis.iter().map(used).sum();
        let counts = json!({
            "enis": enis.len(),
            "secondary_ips": enis.iter().map(singles).sum::<u32>(),
            "unused_ips": total - assigned,
            "ips_per_eni": enis.iter().map(singles).collect::<Vec<_>>(),
            "pods_per_eni": enis.iter().map(used).collect::<Vec<_>>(),
            "prefixes": prefixes().count(),
            "unused_prefixes": prefixes().filter(|prefix| prefix.used == 0).count(),
            "prefixes_per_eni": enis.iter().map(|eni| eni.prefixes.len()).collect::<Vec<_>>(),
            "pending_pods": self.pending,
        });
        if let Value::Object(counts) = counts { counts } else { Map::new() }
    }
}

fn give(eni: &mut EniState, unit: Unit, count: u32) {
    match unit {
        Unit::Ip => eni.ips.total += count,
        Unit::Prefix => eni.prefixes.extend((0..count).map(|_| Prefix { used: 0, cooldown: 0 })),
    }
}

/// Runs until nothing changes any more and compares the counts that the case names.
pub(super) fn steady(case: &Case) -> Answer {
    let mut run = Run::new(case)?;
    let (mut quiet, mut ticks) = (0, 0);
    while quiet < QUIET_TICKS {
        let actions = run.tick()?;
        let nothing = actions.iter().all(|action| matches!(action, Action::Blocked { .. }));
        quiet = if nothing { quiet + 1 } else { 0 };
        ticks += 1;
        if ticks > MOST_TICKS {
            return Err(
                format!("it does not settle: after {ticks} ticks it still does {}", tick::told(&actions)).into()
            );
        }
    }
    let counts = run.counts();
    let named = case.expected.as_object().ok_or("expected is no object")?;
    let got: Map<String, Value> =
        named.keys().map(|key| (key.clone(), counts.get(key).cloned().unwrap_or(Value::Null))).collect();
    Ok(Outcome::of(&case.expected, Value::Object(got)))
}

/// Compares the actions tick by tick.
pub(super) fn trace(case: &Case) -> Answer {
    let mut run = Run::new(case)?;
    let by_tick = case.expected["actions_by_tick"].as_array().ok_or("expected has no actions_by_tick")?;
    let mut agreed = true;
    let mut told = Vec::new();
    for number in 0..case.ticks {
        let actions = run.tick()?;
        let expected =
            by_tick.iter().find(|entry| entry["tick"] == number).and_then(|entry| entry["actions"].as_array());
        agreed &= match expected {
            None => actions.is_empty(),
            Some(expected) => {
                expected.len() == actions.len() && expected.iter().zip(&actions).all(|(e, a)| action_agrees(e, a))
            }
        };
        if !actions.is_empty() {
            let actions: Vec<Value> = actions.iter().map(Action::as_json).collect();
            told.push(json!({"tick": number, "actions": actions}));
        }
    }
    let outcome = if agreed {
        Outcome::Passed
    } else {
        Outcome::Failed { expected: Value::from(by_tick.clone()).to_string(), got: Value::from(told).to_string() }
    };
    Ok(outcome)
}
