//! What the daemon holds: the components, who answers, and what happens when one does not.

use std::{
    fmt, io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use reservoir_core::policy::{CreateEni, Function, Node, Note, Plan, Targets};
use reservoir_core::validate::cut_targets;
use rustix::event::{EventfdFlags, eventfd};
use serde::Serialize;
use tracing::{info, warn};

use crate::{
    active::{Active, Failed, failure},
    again::Pauses,
    bundle::{Bundle, Settings},
    call::{Answer, By, Called, Facts, Failure},
    digest::Digest,
    guest::LogLine,
    limits::Limits,
    load::{Component, LoadError},
    report::Report,
    runtime::{Runtime, RuntimeError},
    sample,
    status::{LoadFailed, Records, Status},
};

/// The built-in component, from `policies/default`.
const BUILT_IN: &[u8] = include_bytes!("../../../policies/default/policy.wasm");

/// How policies are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub limits: Limits,
    /// After so many failures in a row of one function the built-in component takes over, until the next load or until
    /// the component is tried again and answers.
    pub failures_in_a_row: u32,
    /// How soon a watched directory's policy that is not in force is tried again.
    pub pauses: Pauses,
    /// A custom component must have this SHA-256, whatever its directory says.
    pub pin: Option<Digest>,
    /// Compiled code is kept in this directory, so that a restart need not compile again. It and its files must be of the
    /// user that runs this program and writable by nobody else; what is not is not used.
    pub cache: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options { limits: Limits::default(), failures_in_a_row: 5, pauses: Pauses::default(), pin: None, cache: None }
    }
}

/// A bundle was not put in force; what was in force still is.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It loads, but a try on the current snapshot failed, often by a setting that makes no sense to it.
    #[error("tried on a snapshot, {} of the {} component failed: {failure}", name(*function), by.label())]
    Trial { by: By, function: Function, failure: Failure, log: Vec<LogLine> },
}

pub(crate) fn name(function: Function) -> &'static str {
    match function {
        Function::Sizing => "sizing",
        Function::Planning => "planning",
        Function::Subnets => "subnets",
    }
}

/// How much and how, for one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// In order. Where the built-in component answered for a custom one that failed, the failed call comes first.
    pub calls: Vec<Called>,
    /// One per card, cut to what it can hold. None if nobody said.
    pub targets: Option<Vec<Targets>>,
    /// Empty if nobody answered: no action.
    pub plan: Plan,
    /// Who made the plan. None: nobody, and the failure is in `calls`.
    pub by: Option<By>,
    /// The custom component failed and the built-in one answered this decision for it.
    pub fell_back: bool,
    /// With this decision the built-in component takes over.
    pub took_over: bool,
    /// The soonest wish of any answer, at least 1.
    pub wake_after_seconds: Option<u32>,
    /// Some answer wishes for fresh subnets.
    pub refresh_subnets: bool,
}

impl Decision {
    /// The call that failed, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<(&Called, &Failure)> {
        failure(&self.calls)
    }
}

/// Where one new interface goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ranking {
    pub calls: Vec<Called>,
    /// Subnets to try, best first. Empty if nobody answered.
    pub subnets: Vec<String>,
    /// Who ranked. None: nobody, and the failure is in `calls`.
    pub by: Option<By>,
    pub fell_back: bool,
    pub took_over: bool,
}

impl Ranking {
    /// The call that failed, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<(&Called, &Failure)> {
        failure(&self.calls)
    }
}

/// What a bundle turned into.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Of the custom component, if there is one.
    pub digest: Option<Digest>,
    /// The calls of the trial.
    pub trial: Vec<Called>,
}

/// The components in force. Any thread may ask at any time; a load in progress holds nobody up.
pub struct Policies {
    runtime: Runtime,
    options: Options,
    report: Report,
    active: ArcSwap<Active>,
    records: Mutex<Records>,
    /// One load at a time; what the last one compiled and refused, so that another try need not compile it.
    loading: Mutex<Option<Arc<Component>>>,
    /// The last load was refused on a snapshot without labels: it deserves another try on one that has them.
    refused_unlabelled: AtomicBool,
    /// Another try is to be made at once.
    again: AtomicBool,
    /// Readable when something happened that who watches a directory wants to know.
    bell: OnceLock<Arc<OwnedFd>>,
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies").field("active", &self.active.load()).field("options", &self.options).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Policies {
    /// Starts the runtime with the built-in component alone.
    pub fn new(options: Options) -> Result<Policies, PolicyError> {
        let runtime = Runtime::with_cache(&options.limits, options.cache.as_deref())?;
        let built_in = Arc::new(runtime.load(BUILT_IN, None)?);
        Ok(Policies::with(runtime, options, built_in, "policy"))
    }

    fn with(runtime: Runtime, options: Options, built_in: Arc<Component>, role: &'static str) -> Policies {
        let active = ArcSwap::from_pointee(Active::new(built_in, None, Settings::default()));
        let report = Report::new(role);
        Policies {
            runtime,
            options,
            report,
            active,
            records: Mutex::default(),
            loading: Mutex::default(),
            refused_unlabelled: AtomicBool::default(),
            again: AtomicBool::default(),
            bell: OnceLock::new(),
        }
    }

    /// Others beside these, in the same runtime, with the built-in component alone. The pin is of what is in force, so
    /// they have none.
    pub(crate) fn shadow(&self) -> Policies {
        let options = Options { pin: None, ..self.options.clone() };
        Policies::with(self.runtime.clone(), options, self.active.load().built_in.clone(), "shadow policy")
    }

    /// How its log lines begin.
    pub(crate) fn role(&self) -> &'static str {
        self.report.role()
    }

    pub(crate) fn pauses(&self) -> &Pauses {
        &self.options.pauses
    }

    /// Becomes readable when the built-in component takes over, and when a refused policy is worth another try.
    pub(crate) fn bell(&self) -> io::Result<Arc<OwnedFd>> {
        if let Some(bell) = self.bell.get() {
            return Ok(bell.clone());
        }
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(self.bell.get_or_init(|| bell).clone())
    }

    fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            // It can fail only where it was rung 2^64 times and nobody listens.
            let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
    }

    /// Whether a refused policy is worth another try at once. Asking takes the wish away.
    pub(crate) fn take_again(&self) -> bool {
        self.again.swap(false, Relaxed)
    }

    /// The runtime, to load components beside those in force.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Puts `bundle` in force: compiles its component unless it is the one in force already, tries every function on
    /// `snapshot` (a made-up node without one), then swaps. On an error nothing has changed. Memos start anew, a
    /// take-over ends. May take seconds: not for the thread that decides.
    pub fn load(&self, bundle: &Bundle, snapshot: Option<&Node>) -> Result<Loaded, PolicyError> {
        let mut spare = lock(&self.loading);
        let result = self.prepare(bundle, snapshot, &mut spare);
        let unlabelled = snapshot.is_none_or(|node| node.labels.is_empty());
        let refused_unlabelled = unlabelled && matches!(&result, Err(PolicyError::Trial { .. }));
        self.refused_unlabelled.store(refused_unlabelled, Relaxed);
        let mut records = lock(&self.records);
        match result {
            Ok((active, trial)) => {
                let digest = active.custom.as_ref().map(|c| c.digest());
                let custom = digest.map_or_else(|| "none".to_owned(), |d| d.short());
                info!(custom, settings = bundle.settings.len(), "{} loaded", self.role());
                self.active.store(Arc::new(active));
                *spare = None;
                records.counts.loads += 1;
                records.last_failed = None;
                Ok(Loaded { digest, trial })
            }
            Err(error) => {
                records.counts.loads_failed += 1;
                records.last_failed = Some(LoadFailed::now(&error));
                Err(error)
            }
        }
    }

    /// Notes that a bundle could not even be read, for [`Policies::status`].
    pub fn load_failed(&self, why: &dyn std::error::Error) {
        let mut records = lock(&self.records);
        records.counts.loads_failed += 1;
        records.last_failed = Some(LoadFailed::now(why));
    }

    fn prepare(
        &self,
        bundle: &Bundle,
        snapshot: Option<&Node>,
        spare: &mut Option<Arc<Component>>,
    ) -> Result<(Active, Vec<Called>), PolicyError> {
        let current = self.active.load_full();
        let custom = match &bundle.component {
            None => None,
            Some(bytes) => {
                let found = Digest::of(bytes);
                if let Some(wanted) = [self.options.pin, bundle.pin].into_iter().flatten().find(|pin| *pin != found) {
                    return Err(LoadError::WrongDigest { found, wanted }.into());
                }
                let known = [&current.custom, &*spare].into_iter().flatten().find(|c| c.digest() == found).cloned();
                Some(match known {
                    Some(component) => component,
                    None => {
                        let start = Instant::now();
                        let component = Arc::new(self.runtime.load(bytes, None)?);
                        let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                        info!(digest = found.short(), bytes = bytes.len(), took_ms, "{} compiled", self.role());
                        *spare = Some(component.clone());
                        component
                    }
                })
            }
        };
        let settings = Settings::of(&bundle.settings, custom.is_some());
        let tried = Active::new(current.built_in.clone(), custom.clone(), settings.clone());
        let trial = try_out(&tried, snapshot, &self.report)?;
        // Anew, without the memos of the trial.
        Ok((Active::new(current.built_in.clone(), custom, settings), trial))
    }

    /// Decides how much to keep and how to get there. Takes tens of microseconds, and a few times [`Limits::deadline`]
    /// at most if a component hangs.
    #[must_use]
    pub fn decide(&self, node: &Node) -> Decision {
        let facts = Facts::of(node);
        let (value, asked) =
            self.ask(node, Function::Planning, |active, custom, calls| active.decide(&facts, custom, calls));
        // Where planning failed, what sizing said still tells what is wanted.
        let said = asked.calls.iter().rev().find_map(|call| match &call.result {
            Ok(Answer::Sizing(sizes)) => Some(cut_targets(node, &sizes.targets)),
            _ => None,
        });
        let (targets, plan) = value.map_or((said, Plan::default()), |(targets, plan)| (Some(targets), plan));
        let notes = || asked.calls.iter().filter_map(note);
        Decision {
            targets,
            plan,
            wake_after_seconds: notes().filter_map(|n| n.wake_after_seconds).min(),
            refresh_subnets: notes().any(|n| n.refresh_subnets),
            by: asked.by,
            fell_back: asked.fell_back,
            took_over: asked.took_over,
            calls: asked.calls,
        }
    }

    /// Decides where the interface of `request` is made.
    #[must_use]
    pub fn rank(&self, node: &Node, request: &CreateEni) -> Ranking {
        let facts = Facts::of(node);
        let (value, asked) =
            self.ask(node, Function::Subnets, |active, custom, calls| active.rank(&facts, custom, request, calls));
        let Asked { calls, by, fell_back, took_over } = asked;
        Ranking { calls, subnets: value.unwrap_or_default(), by, fell_back, took_over }
    }

    /// Asks whoever answers now; where the custom component fails and the answer cannot wait, the built-in one.
    fn ask<T>(
        &self,
        node: &Node,
        function: Function,
        question: impl Fn(&Active, bool, &mut Vec<Called>) -> Result<T, Failed>,
    ) -> (Option<T>, Asked) {
        if !node.labels.is_empty() && self.refused_unlabelled.swap(false, Relaxed) {
            self.again.store(true, Relaxed);
            self.ring();
        }
        let active = self.active.load_full();
        let mut calls = Vec::new();
        let custom = active.custom.is_some() && active.health().taken_over.is_none();
        let mut value = question(&active, custom, &mut calls).ok();
        let mut by = value.is_some().then(|| active.owner(function, custom));

        let took_over = custom && active.count(&calls, self.options.failures_in_a_row);
        let custom_failed = failure(&calls).is_some_and(|(call, _)| call.by == By::Custom);
        let urgent = took_over || node.cards.iter().any(|card| card.waiting > 0);
        let fell_back = custom_failed && urgent;
        if fell_back {
            value = question(&active, false, &mut calls).ok();
            by = value.is_some().then_some(By::BuiltIn);
        }
        self.report.calls(&calls);
        if took_over {
            let role = self.role();
            warn!(
                failures_in_a_row = self.options.failures_in_a_row,
                "{role}: the built-in policy takes over until one is loaded or this one is tried again and answers"
            );
            self.ring();
        }
        lock(&self.records).counts.add(&calls, fell_back, took_over);
        (value, Asked { calls, by, fell_back, took_over })
    }

    /// Whether the built-in component answers because the custom one failed too often.
    #[must_use]
    pub fn taken_over(&self) -> bool {
        self.active.load().health().taken_over.is_some()
    }

    /// What is loaded and how it fares.
    #[must_use]
    pub fn status(&self) -> Status {
        let active = self.active.load_full();
        let records = lock(&self.records).clone();
        Status::of(&active, self.options.failures_in_a_row, records)
    }

    /// For [`Status::next_try_at`].
    pub(crate) fn next_try(&self, at: Option<Instant>) {
        lock(&self.records).next_try = at;
    }
}

/// How a question was answered.
struct Asked {
    calls: Vec<Called>,
    by: Option<By>,
    fell_back: bool,
    took_over: bool,
}

fn note(call: &Called) -> Option<&Note> {
    match &call.result {
        Ok(Answer::Sizing(sizes)) => Some(&sizes.note),
        Ok(Answer::Planning(plan)) => Some(&plan.note),
        Ok(Answer::Subnets(_)) | Err(_) => None,
    }
}

/// Asks every function of what is about to be put in force, and the built-in component with its settings too: it must
/// be able to step in.
fn try_out(active: &Active, snapshot: Option<&Node>, report: &Report) -> Result<Vec<Called>, PolicyError> {
    let made_up;
    let node = match snapshot {
        Some(node) => node,
        None => {
            made_up = sample::node(2, 29);
            &made_up
        }
    };
    let card = node.cards.first().map_or(0, |card| card.index);
    let request = CreateEni { card, unit: node.unit, count: 1 };
    let facts = Facts::of(node);
    let mut calls = Vec::new();
    for custom in [true, false] {
        if custom && active.custom.is_none() {
            continue;
        }
        let answered =
            active.decide(&facts, custom, &mut calls).and_then(|_| active.rank(&facts, custom, &request, &mut calls));
        if let (Err(Failed), Some((call, failure))) = (answered, failure(&calls)) {
            report.calls(&calls);
            return Err(PolicyError::Trial {
                by: call.by,
                function: call.function,
                failure: failure.clone(),
                log: call.log.clone(),
            });
        }
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_component_is_freed_and_an_equal_one_kept() {
        let policies = Policies::new(Options::default()).unwrap();
        let bundle = Bundle { component: Some(BUILT_IN.to_vec()), ..Bundle::default() };
        policies.load(&bundle, None).unwrap();
        let loaded = |p: &Policies| Arc::downgrade(p.active.load().custom.as_ref().unwrap());
        let first = loaded(&policies);
        policies.load(&bundle, None).unwrap();
        assert!(first.ptr_eq(&loaded(&policies)), "the same bytes are not compiled again");
        policies.load(&Bundle::default(), None).unwrap();
        assert_eq!(first.strong_count(), 0, "its code is freed once nothing runs it");
    }
}
