//! The recording of decisions: one JSON object a line, for people, and for programs that ask the same again
//! (docs/policy-contract.md, "Recordings").
//!
//! Written from what was kept, when somebody asks; nothing of it is done while a decision is made.

use std::sync::Arc;

use reservoir_core::{
    policy::{Context, CreateEni, Function, Node, Targets},
    validate::Dropped,
};
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    call::{Answer, By, Called, Failure, Session, inner},
    digest::Digest,
    policies::{Decision, Ranking},
    shadow::Shadowed,
};

/// One line as it is written. The node stands once; what each function was given and said stands in the calls.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    pub node: &'a Node,
    #[serde(flatten)]
    pub asked: &'a Asked,
    /// What the host began because of it, in words.
    pub started: &'a [String],
    /// What the host dropped of the plan, and why.
    #[serde(serialize_with = "refused")]
    pub refused: &'a [Dropped],
    /// What followed, such as how EC2's calls went, in words.
    pub outcome: &'a [String],
    /// What the shadow policy would have done.
    pub shadow: Option<&'a Shadowed>,
}

/// What the policy was asked, with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// How much to keep and how to get there.
    Decision(#[serde(serialize_with = "inner")] Arc<Decision>),
    /// Where one interface goes.
    Ranking(#[serde(serialize_with = "inner")] Arc<Ranking>),
}

fn refused<S: Serializer>(all: &[Dropped], s: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Refused<'a> {
        action: &'a str,
        reason: &'a str,
    }
    s.collect_seq(all.iter().map(|d| Refused { action: &d.action, reason: &d.reason }))
}

impl Line<'_> {
    /// The line, without its line break.
    #[must_use]
    pub fn json(&self) -> String {
        // Plain data with strings for keys: this does not fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// One line as it is read: what is needed to ask the same again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Recorded {
    pub node: Node,
    #[serde(rename = "decision", alias = "ranking")]
    asked: RecordedCalls,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct RecordedCalls {
    calls: Vec<RecordedCall>,
}

/// One call as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RecordedCall {
    pub function: Function,
    pub by: By,
    /// Of the component that answered.
    pub digest: Digest,
    pub context: Context,
    /// Of planning.
    #[serde(default)]
    pub targets: Option<Vec<Targets>>,
    /// Of subnets.
    #[serde(default)]
    pub request: Option<CreateEni>,
    pub fuel: u64,
    pub result: RecordedResult,
}

/// How a recorded call ended.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedResult {
    Ok(Answer),
    /// [`Failure::label`] and the failure in words.
    Failed {
        kind: String,
        text: String,
    },
}

/// A line that is no recording.
#[derive(Debug, thiserror::Error)]
#[error("this is not a recorded decision: {0}; give lines of /v1/decisions as they are")]
pub struct BadRecord(#[from] serde_json::Error);

impl Recorded {
    /// Reads one line of `/v1/decisions`.
    pub fn read(line: &str) -> Result<Recorded, BadRecord> {
        Ok(serde_json::from_str(line)?)
    }

    /// In the order in which they were made.
    #[must_use]
    pub fn calls(&self) -> &[RecordedCall] {
        &self.asked.calls
    }
}

impl RecordedCall {
    /// Asks the same again. The session must be of the recorded node.
    pub fn ask(&self, session: &mut Session<'_>) -> Called {
        match self.function {
            Function::Sizing => session.sizing(&self.context),
            Function::Planning => session.planning(&self.context, self.targets.as_deref().unwrap_or_default()),
            Function::Subnets => {
                let request =
                    self.request.clone().unwrap_or(CreateEni { card: 0, unit: session.node().unit, count: 1 });
                session.subnets(&self.context, &request)
            }
        }
    }

    /// Whether `result` is what was recorded.
    #[must_use]
    pub fn agrees(&self, result: &Result<Answer, Failure>) -> bool {
        match (&self.result, result) {
            (RecordedResult::Ok(recorded), Ok(answer)) => recorded == answer,
            (RecordedResult::Failed { kind, .. }, Err(failure)) => kind == failure.label(),
            _ => false,
        }
    }
}
