//! Asks the policy on a thread of its own: one question after another, each with an answer for the manager.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use reservoir_core::manager::{Decided, Event, JobId, Record};
use reservoir_core::policy::{CreateEni, Node};
use reservoir_core::validate::INVARIANTS;
use reservoir_policy::{
    Answer, Asked, Called, Decision, Digest, Loaded, Options, Policies, PolicyError, ReloadError, Shadow, Shadowed,
    Status, Watch,
};
use tokio::sync::Notify;

use crate::decisions::Decisions;
use crate::metrics::Metrics;
use crate::pool::Pool;

const PANIC: &str = "the policy runtime panicked; this is a defect of ours";

/// Where policies come from. Both directories are read and watched once the driver runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Of the policy in force.
    pub dir: PathBuf,
    /// Of one that is asked the same and changes nothing.
    pub shadow_dir: Option<PathBuf>,
    /// The component in force must have this SHA-256.
    pub pin: Option<Digest>,
    /// Where compiled code is kept.
    pub cache: Option<PathBuf>,
}

/// Who decides, and what was decided.
#[derive(Debug)]
pub struct Policy {
    sources: Sources,
    metrics: Metrics,
    decisions: Decisions,
    policies: OnceLock<Arc<Policies>>,
    shadow: OnceLock<(Shadow, Option<Watch>)>,
    /// The policy runtime cannot work.
    failed: Notify,
}

/// What the manager asks.
#[derive(Debug)]
pub(crate) enum Question {
    Decide(Arc<Node>),
    Rank { job: JobId, node: Arc<Node>, request: CreateEni },
}

/// Takes questions in order; a component that hangs holds up nothing but the next decision.
#[derive(Debug)]
pub(crate) struct PolicyThread(std::sync::mpsc::Sender<Question>);

impl PolicyThread {
    pub(crate) fn start(pool: &Arc<Pool>) -> Self {
        let (sender, questions) = std::sync::mpsc::channel();
        let weak = Arc::downgrade(pool);
        let run = move || {
            // Compiling takes longer than all else at the start, and pods of the last run do not need it.
            let opened = match weak.upgrade() {
                Some(pool) => pool.policy().open(&pool),
                None => return,
            };
            let (policies, _watch) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    tracing::error!("the policy runtime cannot be started: {error}");
                    if let Some(pool) = weak.upgrade() {
                        pool.policy().failed.notify_one();
                    }
                    return;
                }
            };
            while let Ok(question) = questions.recv() {
                let Some(pool) = weak.upgrade() else { return };
                let event = pool.policy().answer(&policies, question);
                pool.tell(event);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("policy".to_owned()).spawn(run) {
            tracing::error!("no thread for the policy: {error}");
            pool.policy().failed.notify_one();
        }
        Self(sender)
    }

    pub(crate) fn ask(&self, question: Question) {
        if self.0.send(question).is_err() {
            tracing::error!("the policy thread is gone, the pool stays as it is");
        }
    }
}

impl Policy {
    #[must_use]
    pub fn new(sources: Sources, metrics: Metrics) -> Self {
        Self {
            sources,
            metrics,
            decisions: Decisions::default(),
            policies: OnceLock::new(),
            shadow: OnceLock::new(),
            failed: Notify::new(),
        }
    }

    #[must_use]
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// The host has dealt with an answer: counts what it dropped, and keeps it for the record.
    pub(crate) fn done(&self, record: Record) {
        for dropped in &record.dropped {
            self.metrics.policy_refused(invariant(&dropped.reason));
        }
        self.decisions.done(record);
    }

    /// The components in force; none while the built-in one is still being compiled.
    #[must_use]
    pub fn policies(&self) -> Option<&Arc<Policies>> {
        self.policies.get()
    }

    /// The components that are asked the same without effect, if there are to be any.
    #[must_use]
    pub fn shadow(&self) -> Option<&Arc<Policies>> {
        self.shadow.get().map(|(shadow, _)| shadow.policies())
    }

    /// Ends when the policy runtime cannot be started: there is no daemon without it.
    pub async fn failed(&self) {
        self.failed.notified().await;
    }

    /// Compiles the built-in component, loads what the policy directory holds and watches it; the same for the shadow.
    fn open(&self, pool: &Arc<Pool>) -> Result<(Arc<Policies>, Option<Watch>), PolicyError> {
        let Sources { pin, cache, .. } = self.sources.clone();
        let policies = Arc::new(Policies::new(Options { pin, cache, ..Options::default() })?);
        let (weak, theirs) = (Arc::downgrade(pool), Arc::downgrade(&policies));
        let watch = watch(pool, &policies, &self.sources.dir, move |result| {
            let Some(pool) = weak.upgrade() else { return };
            pool.metrics().policy_load(word(result));
            if let Some(policies) = theirs.upgrade() {
                pool.metrics().policy_taken_over(policies.taken_over());
            }
            if result.is_ok() {
                pool.tell(Event::PolicyChanged);
            }
        });
        // Set once: this is the only caller.
        let _ = self.policies.set(policies.clone());
        if let Some(dir) = self.sources.shadow_dir.clone() {
            let (pool, policies) = (pool.clone(), policies.clone());
            // Compiling it must not hold up the first decision.
            let open = move || pool.policy().open_shadow(&pool, &policies, &dir);
            if let Err(error) = std::thread::Builder::new().name("policy-shadow".to_owned()).spawn(open) {
                tracing::error!("no thread for the shadow policy, it is not asked: {error}");
            }
        }
        Ok((policies, watch))
    }

    /// Nothing that goes wrong with a shadow is a reason not to serve.
    fn open_shadow(&self, pool: &Arc<Pool>, policies: &Policies, dir: &Path) {
        let name = dir.display().to_string();
        let (for_answers, for_news) = (Arc::downgrade(pool), Arc::downgrade(pool));
        let heard = move |node: &Arc<Node>, shadowed: Shadowed| {
            let Some(pool) = for_answers.upgrade() else { return };
            pool.metrics().shadow_answer(&shadowed.differs);
            pool.policy().decisions.shadowed(node, shadowed);
        };
        let shadow = match Shadow::start(policies, heard) {
            Ok(shadow) => shadow,
            Err(error) => {
                tracing::error!("no thread for the shadow policy, it is not asked: {error}");
                return;
            }
        };
        // Loaded before it is asked, or it would differ as the built-in policy does.
        let theirs = Arc::downgrade(shadow.policies());
        let watch = watch(pool, shadow.policies(), dir, move |result| {
            if let Some(pool) = for_news.upgrade() {
                pool.metrics().shadow_load(word(result));
            }
            if result.is_ok() && theirs.upgrade().is_some_and(|policies| has_nothing_of_its_own(&policies.status())) {
                tracing::warn!(
                    "RESERVOIR_SHADOW_POLICY_DIR={name:?}: neither policy.wasm nor a setting is there, so the shadow is \
                     the built-in policy; correct the name or copy a policy there"
                );
            }
        });
        // Set once: this is the only caller.
        let _ = self.shadow.set((shadow, watch));
    }

    /// Hands a question with its answer to the shadow, if there is one.
    fn shadow_asked(&self, ask: impl FnOnce(&Shadow) -> bool) {
        if let Some((shadow, _)) = self.shadow.get()
            && !ask(shadow)
        {
            self.metrics.shadow_skipped();
        }
    }

    /// Answers one question. Whatever happens inside, the manager is told something.
    fn answer(&self, policies: &Policies, question: Question) -> Event {
        match question {
            Question::Decide(node) => {
                let made = catch_unwind(AssertUnwindSafe(|| self.decide(policies, node.clone())));
                let decided = made.unwrap_or_else(|_| Decided {
                    node,
                    plan: None,
                    targets: Vec::new(),
                    reason: PANIC.to_owned(),
                    wake_after: None,
                    refresh_subnets: false,
                });
                Event::Decided(Box::new(decided))
            }
            Question::Rank { job, node, request } => {
                let ranked = catch_unwind(AssertUnwindSafe(|| self.rank(policies, node, request)));
                Event::Ranked { job, subnets: ranked.unwrap_or_else(|_| Err(PANIC.to_owned())) }
            }
        }
    }

    fn decide(&self, policies: &Policies, node: Arc<Node>) -> Decided {
        let started = Instant::now();
        let decision = Arc::new(policies.decide(&node));
        let took = started.elapsed();
        self.count_calls(policies, &decision.calls);
        let fuel = decision.calls.iter().map(|c| c.fuel).sum();
        let nothing =
            decision.plan.grow.is_empty() && decision.plan.release.is_empty() && decision.plan.remove.is_empty();
        let outcome = match decision.by {
            None => "failed",
            Some(_) if nothing => "nothing",
            Some(_) => "planned",
        };
        let by = decision.by.map_or("nobody", reservoir_policy::By::label);
        self.metrics.decision(by, outcome, took, fuel);
        let decided = Decided {
            node: node.clone(),
            plan: decision.by.is_some().then(|| decision.plan.clone()),
            targets: decision.targets.clone().unwrap_or_default(),
            reason: reason(&decision),
            wake_after: decision.wake_after_seconds,
            refresh_subnets: decision.refresh_subnets,
        };
        self.decisions.made(node.clone(), Asked::Decision(decision.clone()));
        self.shadow_asked(|shadow| shadow.decide(node, decision));
        decided
    }

    fn rank(&self, policies: &Policies, node: Arc<Node>, request: CreateEni) -> Result<Vec<String>, String> {
        let ranking = Arc::new(policies.rank(&node, &request));
        self.count_calls(policies, &ranking.calls);
        let subnets = match (&ranking.by, ranking.failure()) {
            (None, Some((_, failure))) => Err(failure.to_string()),
            _ => Ok(ranking.subnets.clone()),
        };
        self.decisions.made(node.clone(), Asked::Ranking(ranking.clone()));
        self.shadow_asked(|shadow| shadow.rank(node, request, ranking));
        subnets
    }

    fn count_calls(&self, policies: &Policies, calls: &[Called]) {
        self.metrics.policy_taken_over(policies.taken_over());
        for call in calls {
            if let Err(failure) = &call.result {
                self.metrics.policy_failure(failure.label());
            }
        }
    }
}

/// A policy directory that is not there looks just like this one.
fn has_nothing_of_its_own(status: &Status) -> bool {
    status.custom.is_none() && status.built_in.settings.is_empty()
}

/// The invariant that a reason names, such as `I5` of `I5: no free slot` (spec 01 §12.2).
fn invariant(reason: &str) -> &'static str {
    let name = reason.split(':').next().unwrap_or_default();
    INVARIANTS.iter().map(|(one, _)| *one).find(|one| *one == name).unwrap_or("other")
}

/// Watches `dir` for `policies`. What is in force stays if that does not work.
fn watch(
    pool: &Arc<Pool>,
    policies: &Arc<Policies>,
    dir: &Path,
    after: impl Fn(&Result<Loaded, ReloadError>) + Send + 'static,
) -> Option<Watch> {
    let weak = Arc::downgrade(pool);
    let snapshot = move || Some(weak.upgrade()?.look(|manager, now| manager.snapshot(now)));
    let watch = reservoir_policy::watch(policies.clone(), dir, snapshot, after);
    watch.inspect_err(|error| tracing::error!("{error}; what is in force stays")).ok()
}

/// How a load went, for a metric.
fn word(result: &Result<Loaded, ReloadError>) -> &'static str {
    if result.is_ok() { "loaded" } else { "refused" }
}

/// Sizing says what is wanted, planning what is done: the planner's line tells more to a pod that waits.
fn reason(decision: &Decision) -> String {
    if let (None, Some((call, failure))) = (decision.by, decision.failure()) {
        return format!("the {} component failed: {failure}", call.by.label());
    }
    let mut said = decision.calls.iter().rev().filter_map(|call| match &call.result {
        Ok(Answer::Planning(plan)) => Some(&plan.note.reason),
        Ok(Answer::Sizing(sizes)) => Some(&sizes.note.reason),
        Ok(Answer::Subnets(_)) | Err(_) => None,
    });
    said.find(|reason| !reason.is_empty()).cloned().unwrap_or_else(|| "it gives no reason".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shadow_directory_that_is_not_there_is_noticed() {
        let tmp = tempfile::tempdir().unwrap();
        let policies = Policies::new(Options::default()).unwrap();
        let nothing = |dir: &Path| {
            reservoir_policy::load_dir(&policies, dir, None).unwrap();
            has_nothing_of_its_own(&policies.status())
        };
        assert!(nothing(&tmp.path().join("mistyped")));
        // The built-in policy under other settings is something to compare with.
        std::fs::write(tmp.path().join("defects"), "reference").unwrap();
        assert!(!nothing(tmp.path()));
        std::fs::remove_file(tmp.path().join("defects")).unwrap();
        let adaptive = concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies/adaptive/policy.wasm");
        std::fs::copy(adaptive, tmp.path().join("policy.wasm")).unwrap();
        assert!(!nothing(tmp.path()));
    }

    #[test]
    fn a_dropped_action_is_counted_by_its_invariant() {
        assert_eq!(invariant("I5: no free slot"), "I5");
        assert_eq!(invariant("I15: the card grows"), "I15");
        assert_eq!(invariant("I99: what is this"), "other");
        assert_eq!(invariant(""), "other");
    }
}
