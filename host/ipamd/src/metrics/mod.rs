//! Metrics of the daemon: the reference's names (spec 02 §9) and ours under `reservoir_`.
//!
//! [`Metrics`] has one method per thing that happens; nobody else spells a name. What happens per pod goes through
//! handles made once (one atomic addition); what the pool looks like is asked at each scrape. Crates below the daemon
//! count through the `metrics` facade, which ends here after [`Metrics::install`].

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

mod counted;
mod distribution;
pub mod docs;
pub mod family;
mod label;
mod pool;
mod process;
mod recorder;
mod text;

pub use label::{
    Action, Backend, CheckCause, DelReason, HostRepair, IpamdError, Label, NEVER, Outcome, PodEniError, Reconciled,
    StartFailure, UtilsError, Waited,
};
pub use pool::PoolFigures;

use family::Family;
use recorder::Recorder;

/// A recorder was already installed in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("metrics are already recorded elsewhere in this process")]
pub struct AlreadyInstalled;

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    recorder: Arc<Recorder>,
    pool: OnceLock<Box<dyn Fn() -> PoolFigures + Send + Sync>>,
    adds: Counter,
    dels: By<DelReason>,
    no_available: Counter,
    force_removed_enis: Counter,
    force_removed_ips: Counter,
    errors: By<IpamdError>,
    pod_eni_errors: By<PodEniError>,
    reconciled: By<Reconciled>,
    policy_taken_over: Gauge,
    policy_refused_load: Gauge,
    connmark: By<Outcome>,
    checkpoint_writes: By<Outcome>,
    host_checks: By<CheckCause>,
    checkpoint_seconds: Histogram,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("recorder", &self.recorder).finish_non_exhaustive()
    }
}

/// Counters of one label, each made when it is first counted.
struct By<L> {
    family: Family,
    recorder: Arc<Recorder>,
    cells: Box<[OnceLock<Counter>]>,
    label: std::marker::PhantomData<L>,
}

impl<L: Label> By<L> {
    fn new(recorder: &Arc<Recorder>, family: Family) -> Self {
        let cells = L::ALL.iter().map(|_| OnceLock::new()).collect();
        Self { family, recorder: Arc::clone(recorder), cells, label: std::marker::PhantomData }
    }

    fn get(&self, label: L) -> &Counter {
        self.cells[label.index()].get_or_init(|| self.recorder.counter(&self.family, &[label.text()]))
    }
}

impl Metrics {
    /// Metrics of their own, all unlabelled ones at 0. `version` is what `awscni_build_info` tells.
    #[must_use]
    pub fn new(version: &str) -> Self {
        use family as f;
        let recorder = Arc::new(Recorder::new());
        recorder.gauge(&f::BUILD_INFO, &[version, concat!("rust", env!("CARGO_PKG_RUST_VERSION"))]).set(1.0);
        let inner = Inner {
            pool: OnceLock::new(),
            adds: recorder.counter(&f::ADD_REQUESTS, &[]),
            dels: By::new(&recorder, f::DEL_REQUESTS),
            no_available: recorder.counter(&f::NO_AVAILABLE_IPS, &[]),
            force_removed_enis: recorder.counter(&f::FORCE_REMOVED_ENIS, &[]),
            force_removed_ips: recorder.counter(&f::FORCE_REMOVED_IPS, &[]),
            errors: By::new(&recorder, f::IPAMD_ERRORS),
            pod_eni_errors: By::new(&recorder, f::POD_ENI_ERRORS),
            reconciled: By::new(&recorder, f::RECONCILED),
            policy_taken_over: recorder.gauge(&f::POLICY_TAKEN_OVER, &[]),
            policy_refused_load: recorder.gauge(&f::POLICY_REFUSED_LOAD, &[]),
            connmark: By::new(&recorder, f::CONNMARK_RECONCILED),
            host_checks: By::new(&recorder, f::HOST_CHECKS),
            checkpoint_writes: By::new(&recorder, f::CHECKPOINT_WRITES),
            checkpoint_seconds: recorder.histogram(&f::CHECKPOINT_SECONDS, &[]),
            recorder,
        };
        for outcome in Outcome::ALL {
            inner.connmark.get(*outcome);
            inner.checkpoint_writes.get(*outcome);
        }
        for kind in HostRepair::ALL {
            let _zero = inner.recorder.counter(&f::HOST_REPAIRS, &[kind.text(), Outcome::Success.text()]);
        }
        Self(Arc::new(inner))
    }

    /// Makes this the recorder of the `metrics` facade, so that what other crates count is here too. Once per process.
    ///
    /// # Errors
    /// There is one already.
    pub fn install(&self) -> Result<(), AlreadyInstalled> {
        metrics::set_global_recorder(Arc::clone(&self.0.recorder)).map_err(|_| AlreadyInstalled)
    }

    /// Where the pool's gauges come from; asked at each scrape. Only the first call counts.
    pub fn set_pool_source(&self, source: impl Fn() -> PoolFigures + Send + Sync + 'static) {
        if self.0.pool.set(Box::new(source)).is_err() {
            tracing::warn!("the source of the pool's metrics was set twice; the first one stays");
        }
    }

    /// All series in the Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let figures = self.0.pool.get().map(|source| source());
        if let Some(figures) = &figures {
            self.show(figures.activity);
        }
        let mut out = self.0.recorder.render();
        figures.unwrap_or_default().write(&mut out);
        process::write(&mut out);
        out
    }

    /// AddNetwork was called.
    pub fn add_request(&self) {
        self.0.adds.increment(1);
    }

    /// DelNetwork was called.
    pub fn del_request(&self, reason: DelReason) {
        self.0.dels.get(reason).increment(1);
    }

    /// An assignment found the store exhausted.
    pub fn no_available_address(&self) {
        self.0.no_available.increment(1);
    }

    /// An ENI vanished that pods were using, with so many of their addresses.
    pub fn eni_force_removed(&self, addresses: u64) {
        self.0.force_removed_enis.increment(1);
        self.0.force_removed_ips.increment(addresses);
    }

    /// So many addresses vanished that pods were using; their ENI stays.
    pub fn addresses_force_removed(&self, addresses: u64) {
        self.0.force_removed_ips.increment(addresses);
    }

    pub fn error(&self, place: IpamdError) {
        self.0.errors.get(place).increment(1);
    }

    pub fn pod_eni_error(&self, place: PodEniError) {
        self.0.pod_eni_errors.get(place).increment(1);
    }

    /// Counts as in progress until the answer is dropped.
    #[must_use]
    pub fn action(&self, action: Action) -> InProgress {
        let gauge = self.0.recorder.gauge(&family::ACTIONS, &[action.text()]);
        gauge.increment(1.0);
        InProgress(gauge)
    }

    pub fn reconciled(&self, what: Reconciled, items: u64) {
        self.0.reconciled.get(what).increment(items);
    }

    /// A clean-up failed; `code` is EC2's error code.
    pub fn utils_error(&self, place: UtilsError, code: &str) {
        self.0.recorder.counter(&family::UTILS_ERRORS, &[place.text(), code]).increment(1);
    }

    /// The daemon serves, or gave up.
    pub fn started(&self, failure: StartFailure, with_api_server: bool, took: Duration) {
        let values = [truth(failure == StartFailure::None), truth(with_api_server), failure.text()];
        self.0.recorder.histogram(&family::STARTUP, &values).record(took);
    }

    pub fn node_initialised(&self, success: bool, took: Duration) {
        self.0.recorder.histogram(&family::NODE_INIT, &[truth(success)]).record(took);
    }

    /// Once, at start.
    pub fn connmark_backend(&self, backend: Backend) {
        self.0.recorder.gauge(&family::CONNMARK_BACKEND, &[backend.text()]).set(1.0);
    }

    pub fn connmark_reconciled(&self, outcome: Outcome) {
        self.0.connmark.get(outcome).increment(1);
    }

    /// So many things of the host's network were not as they must be.
    pub fn host_repaired(&self, kind: HostRepair, outcome: Outcome, things: u64) {
        let values = [kind.text(), outcome.text()];
        self.0.recorder.counter(&family::HOST_REPAIRS, &values).increment(things);
    }

    /// The host's network was compared with what it must be.
    pub fn host_checked(&self, cause: CheckCause) {
        self.0.host_checks.get(cause).increment(1);
    }

    /// A decision was taken. `by` and `outcome` are words of the program (`built_in`, `custom`, `nobody`; `planned`, `nothing`,
    /// `failed`), never text of a policy.
    pub fn decision(&self, by: &'static str, outcome: &'static str, took: Duration, fuel: u64) {
        let recorder = &self.0.recorder;
        recorder.counter(&family::DECISIONS, &[by, outcome]).increment(1);
        recorder.histogram(&family::DECISION_SECONDS, &[by]).record(took);
        #[expect(clippy::cast_precision_loss, reason = "fuel stays far below 2^53")]
        recorder.histogram(&family::DECISION_FUEL, &[by]).record(fuel as f64);
    }

    /// A call of the component gave no usable answer; `reason` is the runtime's short word for it.
    pub fn policy_failure(&self, reason: &'static str) {
        self.0.recorder.counter(&family::POLICY_FAILURES, &[reason]).increment(1);
    }

    /// An action was dropped or cut because of an invariant (`I1` … `I15`).
    pub fn policy_refused(&self, invariant: &'static str) {
        self.0.recorder.counter(&family::POLICY_REFUSED, &[invariant]).increment(1);
    }

    /// The policy directory was read; `result` is `loaded` or `refused`.
    pub fn policy_load(&self, result: &'static str) {
        self.0.recorder.counter(&family::POLICY_LOADS, &[result]).increment(1);
        self.0.policy_refused_load.set(if result == "refused" { 1.0 } else { 0.0 });
    }

    /// Whether the built-in policy answers because the custom one failed too often.
    pub fn policy_taken_over(&self, taken_over: bool) {
        self.0.policy_taken_over.set(if taken_over { 1.0 } else { 0.0 });
    }

    /// The shadow policy has answered; `differs` are the fields in which it differs, or `failed`.
    pub fn shadow_answer(&self, differs: &[&'static str]) {
        let recorder = &self.0.recorder;
        let outcome = match differs {
            [] => "same",
            _ if differs.contains(&"failed") => "failed",
            _ => "different",
        };
        recorder.counter(&family::SHADOW_ANSWERS, &[outcome]).increment(1);
        for field in differs {
            recorder.counter(&family::SHADOW_DIFFERENCES, &[*field]).increment(1);
        }
    }

    /// The shadow policy lags and was not asked.
    pub fn shadow_skipped(&self) {
        self.0.recorder.counter(&family::SHADOW_ANSWERS, &["skipped"]).increment(1);
    }

    /// The shadow policy's directory was read.
    pub fn shadow_load(&self, result: &'static str) {
        self.0.recorder.counter(&family::SHADOW_LOADS, &[result]).increment(1);
    }

    /// An ADD that had to wait has its end.
    pub fn add_waited(&self, how: Waited, waited: Duration) {
        self.0.recorder.histogram(&family::ADD_WAIT, &[how.text()]).record(waited);
    }

    pub fn checkpoint_written(&self, outcome: Outcome, took: Duration) {
        self.0.checkpoint_writes.get(outcome).increment(1);
        self.0.checkpoint_seconds.record(took);
    }
}

/// An action in progress; ends when dropped.
#[derive(Debug)]
pub struct InProgress(Gauge);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

const fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

#[cfg(test)]
mod tests;
