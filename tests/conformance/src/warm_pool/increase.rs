//! `increase`: the EC2 calls of one growth step. Which, in which order and for how many is the policy's; what is done
//! about EC2's errors is the pool manager's.

use reservoir_core::policy::Growth;
use serde_json::{Value, json};

use super::case::Case;
use super::component;
use crate::{CaseResult, Outcome};

pub(super) fn run(case: &Case) -> Result<CaseResult, String> {
    let node = case.node(&case.pool().map_err(|e| e.to_string())?);
    let plan = component::plan(&node, &case.context())?;
    let ways: Vec<Value> = plan.grow.iter().map(as_call).collect();
    let calls = case.expected["calls"].as_array().ok_or("expected has no calls")?;
    let first_tries: Vec<Value> = first_tries(calls);
    let agreed = first_tries.len() <= ways.len() && first_tries.iter().zip(&ways).all(|(call, way)| call == way);
    let outcome = if !agreed {
        Outcome::Failed { expected: Value::from(first_tries).to_string(), got: Value::from(ways).to_string() }
    } else if ["failed", "resync", "blocked"].iter().any(|kind| case.expected["action"]["kind"] == *kind) {
        Outcome::Skipped("what is done about EC2's error is the pool manager's (the plan's calls agree)".to_owned())
    } else {
        Outcome::Passed
    };
    Ok(CaseResult { kind: case.kind.clone(), name: case.name.clone(), outcome })
}

fn as_call(way: &Growth) -> Value {
    match way {
        Growth::Assign(way) => json!({"call": "assign", "eni": way.eni, "count": way.count}),
        Growth::CreateEni(way) => json!({"call": "create_eni", "count": way.count}),
    }
}

/// The calls of a plan's ways, each once: retries for one unit on the same interface and reads left out.
fn first_tries(calls: &[Value]) -> Vec<Value> {
    let mut tries: Vec<Value> = Vec::new();
    for call in calls {
        let again = tries.iter().any(|earlier| earlier["call"] == "assign" && earlier["eni"] == call["eni"]);
        match call["call"].as_str() {
            Some("assign") if !again => {
                tries.push(json!({"call": "assign", "eni": call["eni"], "count": call["count"]}));
            }
            Some("create_eni") => tries.push(json!({"call": "create_eni", "count": call["count"]})),
            _ => {}
        }
    }
    tries
}
