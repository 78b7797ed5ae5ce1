//! `warm-pool.json`: how much, how and where (spec 01 §14). Decisions are the built-in component's, run in the sandbox
//! like the daemon's; the rules that are the host's are the host's functions.

mod case;
pub(crate) mod component;
mod increase;
mod managed;
mod places;
mod predicates;
mod reconcile;
mod simulate;
mod tick;

use reservoir_core::cloud::ErrorKind;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{CaseResult, Outcome};
use case::Case;

/// How a case went, or what kept it from being run.
type Answer = Result<Outcome, Outcome>;

/// Something did not work that should have.
impl From<String> for Outcome {
    fn from(problem: String) -> Self {
        Self::Failed { expected: "an answer".to_owned(), got: problem }
    }
}

/// The case lacks something, in words that the source has ready.
impl From<&'static str> for Outcome {
    fn from(problem: &'static str) -> Self {
        Self::Malformed(problem.to_owned())
    }
}

impl From<serde_json::Error> for Outcome {
    fn from(problem: serde_json::Error) -> Self {
        Self::Malformed(problem.to_string())
    }
}

/// Known by its content: cases of which the first has a kind.
pub(crate) fn run(file: &Value) -> Option<Vec<CaseResult>> {
    let cases = file.get("cases")?.as_array()?;
    cases.first()?.get("kind")?;
    Some((1usize..).zip(cases).map(|(number, case)| run_case(number, case)).collect())
}

fn run_case(number: usize, value: &Value) -> CaseResult {
    let name = value["name"].as_str().map_or_else(|| format!("(case {number})"), str::to_owned);
    let Some(kind) = value["kind"].as_str() else {
        return CaseResult::new("(no kind)", &name, Outcome::Malformed("it has no kind".to_owned()));
    };
    let outcome = match crate::env::warm_pool_case(value) {
        Some(outcome) => outcome,
        None => Case::deserialize(value).map_err(Outcome::from).and_then(|case| decide(&case)),
    };
    CaseResult::new(kind, &name, outcome.unwrap_or_else(|problem| problem))
}

fn decide(case: &Case) -> Answer {
    match case.kind.as_str() {
        "tick" => tick::tick(case),
        "trace" => simulate::trace(case),
        "steady_state" | "doc_steady_state" => simulate::steady(case),
        "increase" => increase::run(case),
        "reconcile" => reconcile::run(case),
        "reconcile_cooldown" => reconcile::cooldown(case),
        "stats" => predicates::stats(case),
        "target_state" => predicates::target_state(case),
        "pool_low" => predicates::pool_low(case),
        "pool_high" => predicates::pool_high(case),
        "eni_removal" => predicates::eni_removal(case),
        "eni_room" => predicates::eni_room(case),
        "allocatable_enis" => predicates::allocatable_enis(case),
        "freeable_eni_exists" => predicates::freeable_eni_exists(case),
        "excluded_cleanup" => predicates::excluded_cleanup(case),
        "assign_request" => predicates::assign_request(case),
        "div_ceil" => predicates::div_ceil(case),
        "subnet_eligible" => Ok(places::eligible(case)),
        "cluster_tag_match" => Ok(places::cluster_tag_match(case)),
        "subnet_excluded" => Ok(places::subnet_excluded(case)),
        "create_eni_subnets" => places::create_eni_subnets(case),
        "unmanaged_enis" => managed::unmanaged_enis(case),
        "unmanaged_count" => managed::unmanaged_count(case),
        "network_cards" => managed::network_cards(case),
        "eniconfig" => Ok(managed::eniconfig(case)),
        "trunk_slot" => managed::trunk_slot(case),
        "wait_attached" => managed::wait_attached(case),
        "insufficient_cidr_cooldown" => managed::insufficient_cidr_cooldown(case),
        "stats_v6" => managed::stats_v6(case),
        "ec2_error_class" => Ok(ec2_error_class(case)),
        kind => Ok(Outcome::Skipped(format!("no suite here knows the kind {kind:?}"))),
    }
}

/// The fields of `got` that `expected` names.
fn named(expected: &Value, got: &Value) -> Value {
    let keys = expected.as_object().into_iter().flat_map(|fields| fields.keys());
    Value::Object(keys.map(|key| (key.clone(), got[key].clone())).collect::<Map<_, _>>())
}

fn ec2_error_class(case: &Case) -> Outcome {
    let code = case.state["code"].as_str().unwrap_or_default();
    let kind = ErrorKind::from_code(code, "");
    let all = json!({"subnet_exhausted": kind.is_exhausted(), "eni_limit_exceeded": kind == ErrorKind::AddressLimit});
    Outcome::of(&case.expected, named(&case.expected, &all))
}
