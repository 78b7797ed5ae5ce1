//! A second policy beside the one in force: it is asked the same and nothing follows from its answers.
//!
//! It has its own component, settings and memos, and a thread of its own with less claim to the processor. What it would
//! have done is compared with what was done. It falls back and is taken over as it would be in force.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use reservoir_core::policy::{CreateEni, Node};
use serde::Serialize;
use tracing::{info, warn};

use crate::{
    call::{Answer, Failure},
    policies::{Decision, Policies, Ranking},
    record::Asked,
};

/// Questions that may wait for the shadow. It takes tens of microseconds for one, so more than a few mean that it hangs:
/// those that come then are skipped.
const WAITING: usize = 16;
/// Differences are told in the log once in so long.
const BETWEEN_LINES: Duration = Duration::from_secs(60);

/// What the shadow would have done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shadowed {
    /// In what it differs, by the fields of an answer; `failed` if it had no answer of its own.
    pub differs: Vec<&'static str>,
    #[serde(flatten)]
    pub asked: Asked,
}

/// Takes questions that the policy in force has answered. Its thread ends when this is dropped.
#[derive(Debug)]
pub struct Shadow {
    policies: Arc<Policies>,
    questions: SyncSender<Question>,
}

#[derive(Debug)]
struct Question {
    node: Arc<Node>,
    request: Option<CreateEni>,
    real: Asked,
}

impl Shadow {
    /// Starts the thread. The shadow has the built-in component until something is loaded into [`Shadow::policies`].
    /// `heard` is told of every answer, from that thread.
    pub fn start(real: &Policies, heard: impl Fn(&Arc<Node>, Shadowed) + Send + 'static) -> Result<Shadow, io::Error> {
        let policies = Arc::new(real.shadow());
        let (questions, asked) = sync_channel(WAITING);
        let theirs = policies.clone();
        thread::Builder::new().name("policy-shadow".into()).spawn(move || run(&theirs, &asked, &heard))?;
        Ok(Shadow { policies, questions })
    }

    /// To load into, to watch a directory for, to ask for the status of.
    #[must_use]
    pub fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// Asks how much and how, as the policy in force was asked. Does not wait. False: the shadow lags and skips it.
    pub fn decide(&self, node: Arc<Node>, real: Arc<Decision>) -> bool {
        self.questions.try_send(Question { node, request: None, real: Asked::Decision(real) }).is_ok()
    }

    /// The same for where an interface of `request` goes.
    pub fn rank(&self, node: Arc<Node>, request: CreateEni, real: Arc<Ranking>) -> bool {
        self.questions.try_send(Question { node, request: Some(request), real: Asked::Ranking(real) }).is_ok()
    }
}

fn run(policies: &Policies, questions: &Receiver<Question>, heard: &impl Fn(&Arc<Node>, Shadowed)) {
    if let Err(error) = rustix::process::nice(10) {
        info!("the shadow policy runs with the priority of the rest: {error}");
    }
    let mut lines = Lines::default();
    while let Ok(Question { node, request, real }) = questions.recv() {
        let answered = catch_unwind(AssertUnwindSafe(|| match &request {
            None => Asked::Decision(Arc::new(policies.decide(&node))),
            Some(request) => Asked::Ranking(Arc::new(policies.rank(&node, request))),
        }));
        let Ok(asked) = answered else {
            warn!("the runtime panicked with the shadow policy; this is a defect of ours");
            continue;
        };
        let differs = differences(&real, &asked);
        lines.note(&differs, &asked, Instant::now());
        heard(&node, Shadowed { differs, asked });
    }
}

/// In which fields two answers to one question differ. Where the real one has no answer there is nothing to compare.
fn differences(real: &Asked, shadow: &Asked) -> Vec<&'static str> {
    let mut differs = Vec::new();
    match (real, shadow) {
        (Asked::Decision(real), Asked::Decision(shadow)) => {
            if shadow.failure().is_some() {
                differs.push("failed");
            }
            if real.by.is_none() || shadow.by.is_none() {
                return differs;
            }
            let (a, b) = (&real.plan, &shadow.plan);
            let same = [
                ("targets", real.targets == shadow.targets),
                // The order of ways to grow and of removals counts.
                ("grow", a.grow == b.grow),
                ("release", as_set(&a.release) == as_set(&b.release)),
                ("remove", a.remove == b.remove),
                ("drain", as_set(&a.drain) == as_set(&b.drain)),
            ];
            differs.extend(same.into_iter().filter_map(|(name, same)| (!same).then_some(name)));
        }
        (Asked::Ranking(real), Asked::Ranking(shadow)) => {
            if shadow.failure().is_some() {
                differs.push("failed");
            }
            if real.by.is_some() && shadow.by.is_some() && real.subnets != shadow.subnets {
                differs.push("subnets");
            }
        }
        // Each is asked what the other was asked.
        (Asked::Decision(_), Asked::Ranking(_)) | (Asked::Ranking(_), Asked::Decision(_)) => {}
    }
    differs
}

fn as_set(ids: &[u32]) -> std::collections::BTreeSet<u32> {
    ids.iter().copied().collect()
}

/// What of the differences goes to the log: a rollout is compared over hours, so a line a minute will do.
#[derive(Debug, Default)]
struct Lines {
    last: Option<Instant>,
    unsaid: u64,
}

impl Lines {
    fn note(&mut self, differs: &[&'static str], asked: &Asked, now: Instant) -> bool {
        if differs.is_empty() {
            return false;
        }
        self.unsaid += 1;
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < BETWEEN_LINES) {
            return false;
        }
        let times = std::mem::take(&mut self.unsaid);
        self.last = Some(now);
        info!(
            differs = differs.join(","),
            times,
            "the shadow policy would have done otherwise: {}; see /v1/decisions",
            reason(asked)
        );
        true
    }
}

/// What it says about it, in one line.
fn reason(asked: &Asked) -> String {
    let (calls, failure) = match asked {
        Asked::Decision(decision) => (&decision.calls, decision.failure()),
        Asked::Ranking(ranking) => (&ranking.calls, ranking.failure()),
    };
    if let Some((_, failure)) = failure {
        let failure: &Failure = failure;
        return format!("it failed, {failure}");
    }
    let notes = calls.iter().rev().filter_map(|call| match &call.result {
        Ok(Answer::Planning(plan)) => Some(&plan.note.reason),
        Ok(Answer::Sizing(sizes)) => Some(&sizes.note.reason),
        Ok(Answer::Subnets(_)) | Err(_) => None,
    });
    let said = notes.filter(|reason| !reason.is_empty()).map(String::as_str).next();
    said.unwrap_or("it gives no reason").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_tells_how_many() {
        let asked = Asked::Ranking(Arc::new(Ranking {
            calls: vec![],
            subnets: vec![],
            by: None,
            fell_back: false,
            took_over: false,
        }));
        let (mut lines, start) = (Lines::default(), Instant::now());
        assert!(!lines.note(&[], &asked, start));
        assert!(lines.note(&["grow"], &asked, start));
        for second in 1..60 {
            assert!(!lines.note(&["grow"], &asked, start + Duration::from_secs(second)));
        }
        assert_eq!(lines.unsaid, 59);
        assert!(lines.note(&["drain"], &asked, start + BETWEEN_LINES));
        assert_eq!(lines.unsaid, 0);
    }
}
