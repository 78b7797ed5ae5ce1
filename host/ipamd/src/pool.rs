//! Drives the pool manager: one short lock around it, one task that carries its commands out, one thread that asks the
//! policy, one that writes the checkpoint.
//!
//! ```text
//! gRPC ── add, del ──▶ [ lock: Manager ] ── commands ──▶ driver task ──▶ Cloud, HostNetwork, policy thread
//!                             │   ▲                                              │
//!                     changes ▼   └──────────────── events ◀─────────────────────┘
//!                      checkpoint thread ──▶ answers
//! ```
//!
//! No I/O happens under the lock. A change is answered when the checkpoint holds it; the writer takes all changes since
//! its last write together, and undoes them together when it cannot write.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use reservoir_cloud::Cloud;
use reservoir_core::cloud::{CloudError, ErrorKind};
use reservoir_core::manager::{Add, Command, Counter, Decided, Event, JobId, Level, Manager, Now, Refusal, WaiterId};
use reservoir_core::policy::{CreateEni, Node};
use reservoir_core::store::{Assigned, Change, Error as StoreError, Key, PodMeta, Released, Time};
use reservoir_policy::{Options, Policies, PolicyError, Watch};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::clock::Clock;
use crate::decisions::Decisions;
use crate::files;
use crate::metrics::{IpamdError, Metrics, Outcome, Waited};
use crate::network::HostNetwork;

/// What the pool works with.
pub struct Edges {
    pub cloud: Arc<dyn Cloud>,
    pub network: Arc<dyn HostNetwork>,
    /// The policy directory, read and watched once the driver runs.
    pub policy_dir: PathBuf,
    pub metrics: Metrics,
    pub clock: Clock,
    pub checkpoint: PathBuf,
}

/// The pool of one node. Cheap to share.
pub struct Pool {
    inner: Mutex<Inner>,
    /// There is something to write.
    dirty: Condvar,
    /// The next deadline came nearer.
    nearer: Notify,
    commands: mpsc::UnboundedSender<Command>,
    edges: Edges,
    decisions: Arc<Decisions>,
    policies: OnceLock<Arc<Policies>>,
    /// The policy runtime cannot work.
    failed: Notify,
}

struct Inner {
    manager: Manager,
    waiters: HashMap<WaiterId, oneshot::Sender<Answer>>,
    /// Changes that no checkpoint tells of yet, oldest first.
    pending: Vec<Pending>,
    /// The writer is at work on earlier ones.
    writing: bool,
    stopping: bool,
    armed: Option<Time>,
}

struct Pending {
    change: Option<Change>,
    done: oneshot::Sender<io::Result<()>>,
}

/// Tells when the checkpoint holds a change.
type Written = oneshot::Receiver<io::Result<()>>;
type Answer = Result<(Assigned, Option<Written>), Refusal>;

enum Begun {
    Done(Assigned, Option<Written>),
    Waits(WaiterId, oneshot::Receiver<Answer>),
}

/// Why an ADD gets no address.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    #[error("{0}")]
    Refused(Refusal),
    /// The assignment was undone.
    #[error("the checkpoint cannot be written: {0}")]
    Checkpoint(io::Error),
}

/// Why a DEL released nothing.
#[derive(Debug, thiserror::Error)]
pub enum DelError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The release was undone.
    #[error("the checkpoint cannot be written: {0}")]
    Checkpoint(io::Error),
}

impl Pool {
    /// Puts the manager in its place. [`Pool::run`] and [`Pool::write_checkpoints`] make it live.
    #[must_use]
    pub fn new(manager: Manager, edges: Edges) -> (Arc<Self>, mpsc::UnboundedReceiver<Command>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let inner = Inner {
            manager,
            waiters: HashMap::new(),
            pending: Vec::new(),
            writing: false,
            stopping: false,
            armed: None,
        };
        let pool = Self {
            inner: Mutex::new(inner),
            dirty: Condvar::new(),
            nearer: Notify::new(),
            commands,
            edges,
            decisions: Arc::default(),
            policies: OnceLock::new(),
            failed: Notify::new(),
        };
        let pool = Arc::new(pool);
        pool.drain(&mut pool.lock());
        (pool, receiver)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is behind the lock is whole after every statement.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the manager.
    pub fn look<T>(&self, f: impl FnOnce(&mut Manager, Now) -> T) -> T {
        let now = self.edges.clock.now();
        f(&mut self.lock().manager, now)
    }

    #[must_use]
    pub fn decisions(&self) -> &Arc<Decisions> {
        &self.decisions
    }

    /// The components in force; none while the built-in one is still being compiled.
    #[must_use]
    pub fn policies(&self) -> Option<&Arc<Policies>> {
        self.policies.get()
    }

    /// Ends when the policy runtime cannot be started: there is no daemon without it.
    pub async fn failed(&self) {
        self.failed.notified().await;
    }

    #[must_use]
    pub fn network(&self) -> &Arc<dyn HostNetwork> {
        &self.edges.network
    }

    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.edges.metrics
    }

    // ---- pods ------------------------------------------------------------------------------------------------------

    /// Gives a pod an address; waits for one while one can come. Dropping the future ends the wait.
    ///
    /// # Errors
    /// [`AddError`].
    pub async fn add(self: &Arc<Self>, key: &Key, pod: &PodMeta) -> Result<Assigned, AddError> {
        let now = self.edges.clock.now();
        let (assigned, written) = match self.begin(now, key, pod)? {
            Begun::Done(assigned, written) => (assigned, written),
            Begun::Waits(id, receiver) => self.wait(id, receiver).await?,
        };
        if let Some(written) = written {
            wait_written(written).await.map_err(AddError::Checkpoint)?;
        }
        Ok(assigned)
    }

    /// The part of an ADD that is done under the lock.
    fn begin(&self, now: Now, key: &Key, pod: &PodMeta) -> Result<Begun, AddError> {
        let mut inner = self.lock();
        let begun = match inner.manager.add(now, key, pod) {
            Add::Assigned(assigned) => {
                let written = self.note(&mut inner, assigned.change.clone());
                Ok(Begun::Done(assigned, written))
            }
            Add::Refused(refusal) => Err(AddError::Refused(refusal)),
            Add::Waiting(id) => {
                let (sender, receiver) = oneshot::channel();
                inner.waiters.insert(id, sender);
                Ok(Begun::Waits(id, receiver))
            }
        };
        self.drain(&mut inner);
        begun
    }

    async fn wait(
        self: &Arc<Self>,
        id: WaiterId,
        receiver: oneshot::Receiver<Answer>,
    ) -> Result<(Assigned, Option<Written>), AddError> {
        let started = Instant::now();
        let guard = WaitGuard { pool: self, id };
        let answer = receiver.await.unwrap_or(Err(Refusal::Off("the daemon is stopping")));
        drop(guard);
        let how = match &answer {
            Ok(_) => Waited::Served,
            Err(Refusal::Deleted) => Waited::CallerLeft,
            Err(Refusal::Late { .. }) => Waited::TimedOut,
            Err(_) => Waited::GaveUp,
        };
        self.edges.metrics.add_waited(how, started.elapsed());
        answer.map_err(AddError::Refused)
    }

    /// Takes a pod's address back.
    ///
    /// # Errors
    /// [`DelError`].
    pub async fn del(&self, key: &Key) -> Result<Released, DelError> {
        let now = self.edges.clock.now();
        let (released, written) = {
            let mut inner = self.lock();
            let result = inner.manager.del(now, key);
            let written = match &result {
                Ok(released) => self.note(&mut inner, Some(released.change.clone())),
                Err(_) => None,
            };
            self.drain(&mut inner);
            (result?, written)
        };
        if let Some(written) = written {
            wait_written(written).await.map_err(DelError::Checkpoint)?;
        }
        Ok(released)
    }

    /// Puts a change where the writer finds it. Without one, waits for those that are on their way: a repeated ADD must
    /// not be answered before the first one's checkpoint.
    fn note(&self, inner: &mut Inner, change: Option<Change>) -> Option<Written> {
        if change.is_none() && inner.pending.is_empty() && !inner.writing {
            return None;
        }
        let (done, written) = oneshot::channel();
        inner.pending.push(Pending { change, done });
        self.dirty.notify_one();
        Some(written)
    }

    // ---- events and commands ---------------------------------------------------------------------------------------

    /// Tells the manager that something happened.
    pub fn tell(&self, event: Event) {
        let now = self.edges.clock.now();
        let mut inner = self.lock();
        inner.manager.handle(now, event);
        self.drain(&mut inner);
    }

    /// Sorts the manager's commands: what concerns the lock's content is done now, the rest goes to the driver in order.
    fn drain(&self, inner: &mut Inner) {
        // Two calls may wait under one key: what one of them was told is not undone because the other went away.
        let mut untold = Vec::new();
        let mut told = Vec::new();
        for command in inner.manager.take_commands() {
            match command {
                Command::Resolve { waiter, outcome } => {
                    let Some(sender) = inner.waiters.remove(&waiter) else { continue };
                    let answer = match outcome {
                        Ok(assigned) if sender.is_closed() => {
                            untold.push(assigned);
                            continue;
                        }
                        Ok(assigned) => {
                            told.push(assigned.ip);
                            let written = self.note(inner, assigned.change.clone());
                            Ok((assigned, written))
                        }
                        Err(refusal) => Err(refusal),
                    };
                    // A receiver that went away meanwhile will DEL, or ADD again under the same key.
                    let _ = sender.send(answer);
                }
                Command::Count(counter) => self.count(counter),
                Command::Log { level, text } => {
                    self.decisions.event(&text);
                    log(level, &text);
                }
                Command::Record(record) => self.decisions.done(*record),
                other => {
                    // The driver lives as long as the pool; after it nothing is to be done.
                    let _ = self.commands.send(other);
                }
            }
        }
        for assigned in untold {
            if told.contains(&assigned.ip) {
                self.note(inner, assigned.change);
            } else {
                // Nobody is there to be told: as if it had never been given.
                inner.manager.undo(self.edges.clock.now(), assigned.change.into_iter());
            }
        }
        let next = inner.manager.next_deadline(self.edges.clock.now());
        if inner.armed.is_some_and(|armed| next < armed) {
            inner.armed = Some(next);
            self.nearer.notify_one();
        }
    }

    fn count(&self, counter: Counter) {
        let metrics = &self.edges.metrics;
        metrics.error(match counter {
            Counter::NoAddress => return metrics.no_available_address(),
            Counter::PlanActionDropped => return,
            Counter::AllocEniFailed => IpamdError::IncreaseIpPoolAllocEni,
            Counter::AllocAddressesFailed => IpamdError::IncreaseIpPoolAllocIpAddressesFailed,
            Counter::SetUpEniFailed => IpamdError::IncreaseIpPoolSetupEniFailed,
            Counter::GetEniAddressesFailed => IpamdError::IncreaseIpPoolGetEniAddressesFailed,
            Counter::AddAddressesFailed => IpamdError::AddEniSecondaryIpsToDataStoreFailed,
            Counter::FreeEniFailed => IpamdError::DecreaseIpPoolFreeEniFailed,
            Counter::DeleteRulesFailed => IpamdError::FreeEniDeleteRulesFailed,
        });
    }

    /// Carries commands out until the pool is stopped.
    pub async fn run(self: Arc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        let policy = PolicyThread::start(&self);
        loop {
            let deadline = {
                let now = self.edges.clock.now();
                let mut inner = self.lock();
                if inner.stopping {
                    return;
                }
                let next = inner.manager.next_deadline(now);
                inner.armed = Some(next);
                self.edges.clock.instant(next)
            };
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.carry_out(command, &policy).await,
                    None => return,
                },
                () = self.nearer.notified() => {}
                () = tokio::time::sleep_until(deadline.into()) => {
                    let now = self.edges.clock.now();
                    let mut inner = self.lock();
                    inner.manager.tick(now);
                    self.drain(&mut inner);
                }
            }
        }
    }

    async fn carry_out(self: &Arc<Self>, command: Command, policy: &PolicyThread) {
        match command {
            Command::Decide { node } => policy.ask(Question::Decide(node)),
            Command::Rank { job, node, request } => policy.ask(Question::Rank { job, node, request }),
            Command::Cloud { job, request } => {
                let pool = self.clone();
                tokio::spawn(async move {
                    let api = request.api();
                    let cloud = pool.edges.cloud.clone();
                    // A call that panics has not told what it did: the job goes on, it does not hang.
                    let call = tokio::spawn(async move { cloud.call(request).await });
                    let result = call.await.unwrap_or_else(|error| {
                        let (kind, code) = (ErrorKind::Unknown, String::new());
                        Err(CloudError { api, kind, code, message: error.to_string() })
                    });
                    pool.tell(Event::Cloud { job, result });
                });
            }
            Command::SetUpEni { job, eni, subnet_cidr } => {
                let pool = self.clone();
                let network = self.edges.network.clone();
                tokio::spawn(async move {
                    let set_up = tokio::task::spawn_blocking(move || network.set_up_eni(&eni, subnet_cidr));
                    let result = set_up.await.unwrap_or_else(|error| Err(error.to_string()));
                    pool.tell(Event::EniReady { job, result });
                });
            }
            Command::TearDownEni { eni } => {
                let pool = self.clone();
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = pool.edges.network.tear_down_eni(&eni) {
                        pool.count(Counter::DeleteRulesFailed);
                        tracing::warn!(eni = eni.id, "rules of a removed interface stay: {error}");
                    }
                });
            }
            Command::Journal(journal) => {
                let path = files::journal_path(&self.edges.checkpoint);
                // Later commands count on it.
                let written = tokio::task::spawn_blocking(move || files::write_journal(&path, &journal)).await;
                if let Err(error) = written {
                    tracing::error!("the journal was not written: {error}");
                }
            }
            // Done under the lock.
            Command::Resolve { .. } | Command::Record(_) | Command::Count(_) | Command::Log { .. } => {}
        }
    }

    // ---- the checkpoint --------------------------------------------------------------------------------------------

    /// Writes checkpoints until the pool is stopped; blocks, so it has a thread of its own.
    pub fn write_checkpoints(&self) {
        let mut inner = self.lock();
        loop {
            while inner.pending.is_empty() {
                if inner.stopping {
                    return;
                }
                inner = self.dirty.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            let batch = std::mem::take(&mut inner.pending);
            let content = inner.manager.store().checkpoint();
            inner.writing = true;
            drop(inner);
            let started = Instant::now();
            let result = files::replace(&self.edges.checkpoint, &content);
            let outcome = if result.is_ok() { Outcome::Success } else { Outcome::Error };
            self.edges.metrics.checkpoint_written(outcome, started.elapsed());
            inner = self.lock();
            inner.writing = false;
            match result {
                Ok(()) => {
                    for pending in batch {
                        // A caller that went away need not know.
                        let _ = pending.done.send(Ok(()));
                    }
                }
                Err(error) => {
                    tracing::error!(file = %self.edges.checkpoint.display(), "the checkpoint cannot be written, what it should have told is undone: {error}");
                    // Later changes may rest on these: all go, newest first.
                    let later = std::mem::take(&mut inner.pending);
                    let (changes, senders): (Vec<_>, Vec<_>) =
                        batch.into_iter().chain(later).map(|p| (p.change, p.done)).unzip();
                    inner
                        .manager
                        .undo(self.edges.clock.now(), changes.into_iter().flatten().collect::<Vec<_>>().into_iter());
                    self.drain(&mut inner);
                    for sender in senders {
                        let _ = sender.send(Err(io::Error::new(error.kind(), error.to_string())));
                    }
                }
            }
        }
    }

    /// Writes what the store holds now: after a restore (spec 02 §6.5 step 6).
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_now(&self) -> io::Result<()> {
        let content = self.lock().manager.store().checkpoint();
        files::replace(&self.edges.checkpoint, &content)
    }

    /// No growth and no removal from now on; pods that wait are told.
    pub fn terminate(&self) {
        self.tell(Event::Terminating);
    }

    /// Ends the driver and the writer, once all changes are written.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.dirty.notify_all();
        self.nearer.notify_one();
    }
}

impl std::fmt::Debug for Edges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edges").field("checkpoint", &self.checkpoint).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("checkpoint", &self.edges.checkpoint).finish_non_exhaustive()
    }
}

async fn wait_written(written: Written) -> io::Result<()> {
    written.await.unwrap_or_else(|_| Err(io::Error::other("the daemon is stopping")))
}

/// Ends a wait when its caller goes away.
struct WaitGuard<'a> {
    pool: &'a Arc<Pool>,
    id: WaiterId,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        let mut inner = self.pool.lock();
        if inner.waiters.remove(&self.id).is_some() {
            inner.manager.cancel(self.id);
        }
    }
}

fn log(level: Level, text: &str) {
    match level {
        Level::Debug => tracing::debug!("{text}"),
        Level::Info => tracing::info!("{text}"),
        Level::Warn => tracing::warn!("{text}"),
        Level::Error => tracing::error!("{text}"),
    }
}

// ---- the policy ----------------------------------------------------------------------------------------------------

enum Question {
    Decide(Arc<Node>),
    Rank { job: JobId, node: Arc<Node>, request: CreateEni },
}

/// Asks the policy, one question after another; a component that hangs holds up nothing but the next decision.
struct PolicyThread(std::sync::mpsc::Sender<Question>);

impl PolicyThread {
    fn start(pool: &Arc<Pool>) -> Self {
        let (sender, questions) = std::sync::mpsc::channel();
        let weak = Arc::downgrade(pool);
        let run = move || {
            // Compiling takes longer than all else at the start, and pods of the last run do not need it.
            let opened = match weak.upgrade() {
                Some(pool) => pool.open_policies(),
                None => return,
            };
            let (policies, _watch) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    tracing::error!("the policy runtime cannot be started: {error}");
                    if let Some(pool) = weak.upgrade() {
                        pool.failed.notify_one();
                    }
                    return;
                }
            };
            while let Ok(question) = questions.recv() {
                let Some(pool) = weak.upgrade() else { return };
                pool.answer(&policies, question);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("policy".to_owned()).spawn(run) {
            tracing::error!("no thread for the policy: {error}");
            pool.failed.notify_one();
        }
        Self(sender)
    }

    fn ask(&self, question: Question) {
        if self.0.send(question).is_err() {
            tracing::error!("the policy thread is gone, the pool stays as it is");
        }
    }
}

impl Pool {
    /// Compiles the built-in component, loads what the policy directory holds and watches it.
    fn open_policies(self: &Arc<Self>) -> Result<(Arc<Policies>, Option<Watch>), PolicyError> {
        let policies = Arc::new(Policies::new(Options::default())?);
        let (for_snapshot, for_news) = (Arc::downgrade(self), Arc::downgrade(self));
        let snapshot = move || Some(for_snapshot.upgrade()?.look(|manager, now| manager.snapshot(now)));
        let after = move |result: &Result<_, _>| {
            let Some(pool) = for_news.upgrade() else { return };
            pool.edges.metrics.policy_load(if result.is_ok() { "loaded" } else { "refused" });
            if result.is_ok() {
                pool.tell(Event::PolicyChanged);
            }
        };
        let watch = reservoir_policy::watch(policies.clone(), &self.edges.policy_dir, snapshot, after);
        let watch = watch.inspect_err(|error| tracing::error!("{error}; what is in force stays")).ok();
        // Set once: this is the only caller.
        let _ = self.policies.set(policies.clone());
        Ok((policies, watch))
    }

    /// Answers one question. Whatever happens inside, the manager is told something.
    fn answer(&self, policies: &Policies, question: Question) {
        const PANIC: &str = "the policy runtime panicked; this is a defect of ours";
        match question {
            Question::Decide(node) => {
                let made = catch_unwind(AssertUnwindSafe(|| self.decide(policies, node.clone())));
                if made.is_err() {
                    let plan = None;
                    let (targets, reason) = (Vec::new(), PANIC.to_owned());
                    let decided = Decided { node, plan, targets, reason, wake_after: None, refresh_subnets: false };
                    self.tell(Event::Decided(Box::new(decided)));
                }
            }
            Question::Rank { job, node, request } => {
                let ranked = catch_unwind(AssertUnwindSafe(|| {
                    let ranking = policies.rank(&node, &request);
                    self.count_calls(&ranking.calls);
                    match (&ranking.by, ranking.failure()) {
                        (None, Some((_, failure))) => Err(failure.to_string()),
                        _ => Ok(ranking.subnets),
                    }
                }));
                let subnets = ranked.unwrap_or_else(|_| Err(PANIC.to_owned()));
                self.tell(Event::Ranked { job, subnets });
            }
        }
    }

    fn decide(&self, policies: &Policies, node: Arc<Node>) {
        use reservoir_policy::Answer as Said;

        let started = Instant::now();
        let decision = policies.decide(&node);
        let took = started.elapsed();
        self.count_calls(&decision.calls);
        let fuel = decision.calls.iter().map(|c| c.fuel).sum();
        let nothing =
            decision.plan.grow.is_empty() && decision.plan.release.is_empty() && decision.plan.remove.is_empty();
        let outcome = match decision.by {
            None => "failed",
            Some(_) if nothing => "nothing",
            Some(_) => "planned",
        };
        let by = decision.by.map_or("nobody", reservoir_policy::By::label);
        self.edges.metrics.decision(by, outcome, took, fuel);
        // Sizing says what is wanted, planning what is done: the planner's line tells more to a pod that waits.
        let reason = match decision.failure() {
            Some((call, failure)) if decision.by.is_none() => {
                format!("the {} component failed: {failure}", call.by.label())
            }
            _ => decision
                .calls
                .iter()
                .rev()
                .filter_map(|c| match &c.result {
                    Ok(Said::Planning(plan)) => Some(&plan.note.reason),
                    Ok(Said::Sizing(sizes)) => Some(&sizes.note.reason),
                    _ => None,
                })
                .find(|reason| !reason.is_empty())
                .cloned()
                .unwrap_or_else(|| "it gives no reason".to_owned()),
        };
        let decided = Decided {
            node: node.clone(),
            plan: decision.by.is_some().then(|| decision.plan.clone()),
            targets: decision.targets.clone().unwrap_or_default(),
            reason,
            wake_after: decision.wake_after_seconds,
            refresh_subnets: decision.refresh_subnets,
        };
        self.decisions.made(node, decision);
        self.tell(Event::Decided(Box::new(decided)));
    }

    fn count_calls(&self, calls: &[reservoir_policy::Called]) {
        for call in calls {
            if let Err(failure) = &call.result {
                self.edges.metrics.policy_failure(failure.label());
            }
        }
    }
}
