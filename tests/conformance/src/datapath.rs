//! `datapath.json`: names, tables, routes, rules and iptables of `reservoir-net` (spec 04 §20).
//!
//! Plans run on a [`fake::Fake`] kernel through the same code that runs them in the real one, so that tolerated errors,
//! retries, order and error texts are those of the program.

mod branch;
mod conflist;
mod egress;
mod fake;
mod iptables;
mod nft;
mod ops;
mod parse;
mod plain;
mod rules;
mod snapshot;
mod wiring;

use serde_json::Value;

use crate::{CaseResult, Outcome};

/// One case.
struct Case<'a> {
    name: &'a str,
    category: &'a str,
    /// Its answer is a defect of the reference; ours is in `better`.
    is_quirk: bool,
    config: &'a Value,
    inputs: &'a Value,
    expected: &'a Value,
}

impl Case<'_> {
    fn compared(&self, expected: impl ToString, got: impl ToString) -> Outcome {
        CaseResult::compared(self.category, self.name, expected, got).outcome
    }

    /// A setting as the environment has it.
    fn setting(&self, name: &str) -> Option<&str> {
        self.config[name].as_str()
    }

    fn text(&self, key: &str) -> &str {
        self.inputs[key].as_str().unwrap_or_default()
    }

    fn number(&self, key: &str) -> u32 {
        self.inputs[key].as_u64().and_then(|n| n.try_into().ok()).unwrap_or_default()
    }
}

fn skip(reason: &str) -> Outcome {
    Outcome::Skipped(reason.to_owned())
}

/// A case that passed because ours is the better answer.
fn better(reason: &str, outcome: Outcome) -> Outcome {
    if outcome == Outcome::Passed { Outcome::Better(reason.to_owned()) } else { outcome }
}

/// Passed if every claim holds; otherwise the first that does not.
fn claims(claims: &[(&str, bool, String)]) -> Outcome {
    match claims.iter().find(|(_, holds, _)| !holds) {
        None => Outcome::Passed,
        Some((claim, _, got)) => Outcome::Failed { expected: (*claim).to_owned(), got: got.clone() },
    }
}

/// Runs a file of datapath vectors; `None` for any other file.
#[must_use]
pub fn run(file: &Value) -> Option<Vec<CaseResult>> {
    let cases = file["cases"].as_array()?;
    if !file["conventions"]["ops"].is_string() || !cases.iter().any(|case| case["category"].is_string()) {
        return None;
    }
    Some((1usize..).zip(cases).map(|(number, case)| checked(number, case)).collect())
}

/// Runs a case that has what each must have.
fn checked(number: usize, case: &Value) -> CaseResult {
    let name = case["name"].as_str().map_or_else(|| format!("(case {number})"), str::to_owned);
    let Some(category) = case["category"].as_str() else {
        return CaseResult::new("(no category)", &name, Outcome::Malformed("it has no category".to_owned()));
    };
    if !case["expected"].is_object() {
        return CaseResult::new(category, &name, Outcome::Malformed("expected is no object".to_owned()));
    }
    run_case(case)
}

fn run_case(value: &Value) -> CaseResult {
    if let Some(result) = crate::cni::run_case(value) {
        return result;
    }
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let case = Case {
        name: text("name"),
        category: text("category"),
        is_quirk: value["requirement"] == "reference_quirk",
        config: &value["config"],
        inputs: &value["inputs"],
        expected: &value["expected"],
    };
    CaseResult::new(case.category, case.name, outcome(&case))
}

fn outcome(case: &Case) -> Outcome {
    match case.category {
        "name" => plain::name(case),
        "table" => plain::table(case),
        "gateway" => plain::gateway(case),
        "parse" => parse::parse(case),
        "pod_setup" => wiring::pod_setup(case),
        "pod_teardown" => wiring::pod_teardown(case),
        "eni_setup" => wiring::eni_setup(case),
        "host_rules" => rules::host_rules(case),
        "rule_update" => rules::rule_update(case),
        "iptables_host" => iptables::host(case),
        "connmark_iptables" => iptables::connmark(case),
        "branch_setup" => branch::setup(case),
        "branch_teardown" => branch::teardown(case),
        "connmark_nft" => nft::connmark(case),
        "egress" => egress::egress(case),
        "conflist" => conflist::rendered(case),
        "snapshot" => snapshot::snapshot(case),
        category => skip(&format!("no suite here knows the category {category:?}")),
    }
}
