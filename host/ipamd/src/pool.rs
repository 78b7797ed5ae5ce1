//! Drives the pool manager: one short lock around it, one task that carries its commands out, one thread that asks the
//! policy, one that writes the checkpoint, one for the journal.
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

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use reservoir_cloud::Cloud;
use reservoir_core::checkpoint;
use reservoir_core::cloud::{CloudError, ErrorKind};
use reservoir_core::kube::{EniConfig, NodeFacts, eni_config_name};
use reservoir_core::manager::{
    Add, CardPool, Command, Counter, Event, Level, Manager, Now, Reconciled, Refusal, WaiterId, Wanted,
};
use reservoir_core::store::{Assigned, Change, Error as StoreError, Key, PodMeta, Released, Time};
use reservoir_kube::{Announced, KubeError, Kubernetes};
use tokio::sync::{Notify, OwnedRwLockWriteGuard, mpsc, oneshot};

use crate::clock::Clock;
use crate::files;
use crate::journal::JournalThread;
use crate::metrics;
use crate::metrics::{Metrics, Outcome, Waited};
use crate::network::HostNetwork;
use crate::policy::{Policy, PolicyThread, Question};

/// What the pool works with.
pub struct Edges {
    pub cloud: Arc<dyn Cloud>,
    pub network: Arc<dyn HostNetwork>,
    pub kubernetes: Arc<dyn Kubernetes>,
    pub policy: Policy,
    pub metrics: Metrics,
    pub clock: Clock,
    /// The file of card 0; the others lie beside it (spec 02 §6.1).
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
    /// Held by who writes pods' rules on the host: no ADD and no DEL is answered meanwhile.
    replies: Arc<tokio::sync::RwLock<()>>,
    edges: Edges,
}

struct Inner {
    manager: Manager,
    /// The Node as the manager was told last.
    node: Option<NodeFacts>,
    waiters: HashMap<WaiterId, oneshot::Sender<Answer>>,
    /// Changes that no checkpoint tells of yet, oldest first.
    pending: Vec<Pending>,
    /// Cards whose checkpoint is not what the store is: a write failed.
    unwritten: BTreeSet<u32>,
    /// The writer is at work on earlier ones.
    writing: bool,
    stopping: bool,
    armed: Option<Time>,
}

struct Pending {
    changes: Vec<Change>,
    done: oneshot::Sender<io::Result<()>>,
}

/// Tells when the checkpoint holds a change.
type Written = oneshot::Receiver<io::Result<()>>;
type Answer = Result<(Vec<Assigned>, Option<Written>), Refusal>;

enum Begun {
    Done(Vec<Assigned>, Option<Written>),
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
            node: None,
            waiters: HashMap::new(),
            pending: Vec::new(),
            unwritten: BTreeSet::new(),
            writing: false,
            stopping: false,
            armed: None,
        };
        let pool = Self {
            inner: Mutex::new(inner),
            dirty: Condvar::new(),
            nearer: Notify::new(),
            commands,
            replies: Arc::default(),
            edges,
        };
        let pool = Arc::new(pool);
        pool.drain(&mut pool.lock());
        (pool, receiver)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is behind the lock is whole after every statement.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, and the time: of this order, or an event could look older to the manager than the one before it, and an
    /// answer of the policy newer than a pod that it knew nothing of.
    fn lock_now(&self) -> (MutexGuard<'_, Inner>, Now) {
        let inner = self.lock();
        let now = self.edges.clock.now();
        (inner, now)
    }

    /// Looks at the manager.
    pub fn look<T>(&self, f: impl FnOnce(&mut Manager, Now) -> T) -> T {
        let (mut inner, now) = self.lock_now();
        f(&mut inner.manager, now)
    }

    /// Who decides, and what was decided.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.edges.policy
    }

    #[must_use]
    pub fn network(&self) -> &Arc<dyn HostNetwork> {
        &self.edges.network
    }

    #[must_use]
    pub fn kubernetes(&self) -> &Arc<dyn Kubernetes> {
        &self.edges.kubernetes
    }

    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.edges.metrics
    }

    // ---- pods ------------------------------------------------------------------------------------------------------

    /// Gives a pod its addresses, by card; waits for them while they can come. Dropping the future ends the wait.
    ///
    /// # Errors
    /// [`AddError`].
    pub async fn add(self: &Arc<Self>, key: &Key, pod: &PodMeta, wanted: Wanted) -> Result<Vec<Assigned>, AddError> {
        let (assigned, written) = match self.begin(key, pod, wanted)? {
            Begun::Done(assigned, written) => (assigned, written),
            Begun::Waits(id, receiver) => self.wait(id, receiver).await?,
        };
        if let Some(written) = written {
            wait_written(written).await.map_err(AddError::Checkpoint)?;
        }
        self.replies_allowed().await;
        Ok(assigned)
    }

    /// The part of an ADD that is done under the lock.
    fn begin(&self, key: &Key, pod: &PodMeta, wanted: Wanted) -> Result<Begun, AddError> {
        let (mut inner, now) = self.lock_now();
        let begun = match inner.manager.add(now, key, pod, wanted) {
            Add::Assigned(assigned) => {
                let written = self.note(&mut inner, changes(&assigned));
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
    ) -> Result<(Vec<Assigned>, Option<Written>), AddError> {
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

    /// Takes a pod's addresses back, by card.
    ///
    /// # Errors
    /// [`DelError`].
    pub async fn del(&self, key: &Key) -> Result<Vec<Released>, DelError> {
        let (released, written) = {
            let (mut inner, now) = self.lock_now();
            let result = inner.manager.del(now, key);
            let written = match &result {
                Ok(released) => self.note(&mut inner, released.iter().map(|r| r.change.clone()).collect()),
                Err(_) => None,
            };
            self.drain(&mut inner);
            (result?, written)
        };
        if let Some(written) = written {
            wait_written(written).await.map_err(DelError::Checkpoint)?;
        }
        self.replies_allowed().await;
        Ok(released)
    }

    /// Until the answer is dropped no ADD and no DEL is told of what it has changed. So who asks the pool for its pods
    /// now, and then writes for them on the host, is done before a plugin takes away what a pod had.
    pub async fn hold_replies(&self) -> OwnedRwLockWriteGuard<()> {
        self.replies.clone().write_owned().await
    }

    async fn replies_allowed(&self) {
        drop(self.replies.read().await);
    }

    /// Puts changes where the writer finds them. Without any, waits for those that are on their way: a repeated ADD must
    /// not be answered before the first one's checkpoint.
    fn note(&self, inner: &mut Inner, changes: Vec<Change>) -> Option<Written> {
        if changes.is_empty() && inner.pending.is_empty() && !inner.writing {
            return None;
        }
        let (done, written) = oneshot::channel();
        inner.pending.push(Pending { changes, done });
        self.dirty.notify_one();
        Some(written)
    }

    // ---- events and commands ---------------------------------------------------------------------------------------

    /// Tells the manager that something happened.
    pub fn tell(&self, event: Event) {
        let (mut inner, now) = self.lock_now();
        inner.manager.handle(now, event);
        self.drain(&mut inner);
    }

    /// Tells the manager what the Node object says now.
    pub fn node_changed(&self, facts: NodeFacts) {
        self.lock().node = Some(facts.clone());
        self.tell(Event::Node(facts));
    }

    /// Name of the ENIConfig that applies to this node; none while the Node is not known.
    #[must_use]
    pub fn eni_config(&self) -> Option<String> {
        let inner = self.lock();
        let node = inner.node.as_ref()?;
        Some(eni_config_name(node, &inner.manager.settings().eni_config_keys).to_owned())
    }

    /// Reads the ENIConfig that applies to this node now (spec 01 §7.1). A Node that cannot be read is a failure, not a
    /// node without a name (W21).
    pub(crate) async fn read_eni_config(&self) -> Result<EniConfig, KubeError> {
        let keys = self.lock().manager.settings().eni_config_keys.clone();
        let node = self.edges.kubernetes.node().await?;
        self.edges.kubernetes.eni_config(eni_config_name(&node, &keys)).await
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
                            untold.extend(assigned);
                            continue;
                        }
                        Ok(assigned) => {
                            told.extend(assigned.iter().map(|a| a.ip));
                            let written = self.note(inner, changes(&assigned));
                            Ok((assigned, written))
                        }
                        Err(refusal) => Err(refusal),
                    };
                    // A receiver that went away meanwhile will DEL, or ADD again under the same key.
                    let _ = sender.send(answer);
                }
                Command::Count(counter) => self.edges.metrics.count(&counter),
                Command::Reconciled { what, items } => self.reconciled(what, items),
                // Nobody waits for it.
                Command::Changed(changes) => drop(self.note(inner, changes)),
                Command::Log { level, text } => {
                    self.policy().decisions().event(&text);
                    log(level, &text);
                }
                Command::Record(record) => self.policy().done(*record),
                other => {
                    // The driver lives as long as the pool; after it nothing is to be done.
                    let _ = self.commands.send(other);
                }
            }
        }
        for assigned in untold {
            if told.contains(&assigned.ip) {
                self.note(inner, assigned.change.into_iter().collect());
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

    fn reconciled(&self, what: Reconciled, items: u64) {
        let metrics = &self.edges.metrics;
        match what {
            Reconciled::EniAdded => metrics.reconciled(metrics::Reconciled::EniAdded, items),
            Reconciled::EniRemoved => metrics.reconciled(metrics::Reconciled::EniDeleted, items),
            Reconciled::BlockRemoved => metrics.reconciled(metrics::Reconciled::IpDeleted, items),
            Reconciled::BlockConfirmed => metrics.reconciled(metrics::Reconciled::IpConfirmed, items),
            Reconciled::EniLost => metrics.eni_force_removed(0),
            Reconciled::AddressLost => metrics.addresses_force_removed(items),
        }
    }

    /// Carries commands out until the pool is stopped.
    pub async fn run(self: Arc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        let policy = PolicyThread::start(&self);
        let journals = JournalThread::start(files::journal_path(&self.edges.checkpoint));
        loop {
            let deadline = {
                let (mut inner, now) = self.lock_now();
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
                    Some(command) => self.carry_out(command, &policy, &journals).await,
                    None => return,
                },
                () = self.nearer.notified() => {}
                () = tokio::time::sleep_until(deadline.into()) => {
                    let (mut inner, now) = self.lock_now();
                    inner.manager.tick(now);
                    self.drain(&mut inner);
                }
            }
        }
    }

    async fn carry_out(self: &Arc<Self>, command: Command, policy: &PolicyThread, journals: &JournalThread) {
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
                    let (id, usual) = (eni.id.clone(), eni.table);
                    let set_up = tokio::task::spawn_blocking(move || network.set_up_eni(&eni, subnet_cidr));
                    let result = set_up.await.unwrap_or_else(|error| Err(error.to_string().into()));
                    if let Ok(table) = result
                        && table != usual
                    {
                        tracing::info!(eni = id, table, "rules of an earlier version choose the route table");
                        pool.tell(Event::EniTable { eni: id, table });
                    }
                    pool.tell(Event::EniReady { job, result: result.map(drop) });
                });
            }
            Command::EniConfig { job } => {
                let pool = self.clone();
                tokio::spawn(async move {
                    let result = pool.read_eni_config().await;
                    let result = result.map_err(|e| format!("eniconfig: eniconfig is not available: {e}"));
                    pool.tell(Event::EniConfig { job, result });
                });
            }
            Command::Announce(feature) => {
                let pool = self.clone();
                tokio::spawn(async move {
                    let result = pool.edges.kubernetes.announce(&feature).await;
                    if let Ok(Announced::Written) = result {
                        tracing::info!(feature = feature.name(), value = feature.value(), "written into the CNINode");
                    }
                    let result = result.map(drop).map_err(|e| e.to_string());
                    pool.tell(Event::Announced { feature, result });
                });
            }
            Command::TearDownEni { eni } => {
                let pool = self.clone();
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = pool.edges.network.tear_down_eni(&eni) {
                        pool.edges.metrics.count(&Counter::DeleteRulesFailed);
                        tracing::warn!(eni = eni.id, "rules of a removed interface stay: {error}");
                    }
                });
            }
            Command::LeaveEni { eni } => {
                let pool = self.clone();
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = pool.edges.network.leave_eni(&eni) {
                        pool.edges.metrics.count(&Counter::DeleteRulesFailed);
                        tracing::warn!(
                            eni = eni.id,
                            "the rule of an interface that is not ours any more stays: {error}"
                        );
                    }
                });
            }
            Command::Journal(journal) => {
                // Later commands count on it.
                journals.write(journal).await;
            }
            // Done under the lock.
            Command::Resolve { .. }
            | Command::Record(_)
            | Command::Count(_)
            | Command::Reconciled { .. }
            | Command::Changed(_)
            | Command::Log { .. } => {}
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
            let changed = batch.iter().flat_map(|p| &p.changes).map(Change::card);
            let cards: BTreeSet<u32> = changed.chain(std::mem::take(&mut inner.unwritten)).collect();
            let files = contents(&inner.manager, &cards);
            inner.writing = true;
            drop(inner);
            let (written, result) = self.replace(&files);
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
                        batch.into_iter().chain(later).map(|p| (p.changes, p.done)).unzip();
                    let changes: Vec<Change> = changes.into_iter().flatten().collect();
                    inner.manager.undo(self.edges.clock.now(), changes.into_iter());
                    self.drain(&mut inner);
                    // Files of other cards tell of what is undone now, and one whose write failed may do so too.
                    let files = contents(&inner.manager, &cards);
                    inner.unwritten = cards;
                    if written > 0 {
                        drop(inner);
                        let (again, _) = self.replace(&files[..written]);
                        inner = self.lock();
                        if inner.pending.is_empty() {
                            for (card, _) in &files[..again] {
                                inner.unwritten.remove(card);
                            }
                        }
                    }
                    for sender in senders {
                        let _ = sender.send(Err(io::Error::new(error.kind(), error.to_string())));
                    }
                }
            }
        }
    }

    /// Replaces files, up to the first that cannot be; tells how many were.
    fn replace(&self, files: &[(u32, Vec<u8>)]) -> (usize, io::Result<()>) {
        for (done, (card, content)) in files.iter().enumerate() {
            let started = Instant::now();
            let result = files::replace(&checkpoint::path(&self.edges.checkpoint, *card), content);
            let outcome = if result.is_ok() { Outcome::Success } else { Outcome::Error };
            self.edges.metrics.checkpoint_written(outcome, started.elapsed());
            if result.is_err() {
                return (done, result);
            }
        }
        (files.len(), Ok(()))
    }

    /// Writes what the stores hold now: after a restore (spec 02 §6.5 step 6).
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_now(&self) -> io::Result<()> {
        let inner = self.lock();
        let cards = inner.manager.cards().iter().map(CardPool::index).collect();
        let files = contents(&inner.manager, &cards);
        drop(inner);
        self.replace(&files).1
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

fn changes(assigned: &[Assigned]) -> Vec<Change> {
    assigned.iter().filter_map(|a| a.change.clone()).collect()
}

/// The checkpoints of cards, ascending.
fn contents(manager: &Manager, cards: &BTreeSet<u32>) -> Vec<(u32, Vec<u8>)> {
    let pools = manager.cards().iter().filter(|c| cards.contains(&c.index()));
    pools.map(|c| (c.index(), c.store().checkpoint())).collect()
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
