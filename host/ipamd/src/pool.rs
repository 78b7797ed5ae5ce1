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

mod driver;
mod writer;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use reservoir_cloud::Cloud;
use reservoir_core::kube::{EniConfig, NodeFacts, eni_config_name};
use reservoir_core::manager::{Add, Command, Event, Level, Manager, Now, Reconciled, Refusal, WaiterId, Wanted};
use reservoir_core::store::{Assigned, Change, Error as StoreError, Key, PodMeta, Released, Time};
use reservoir_kube::{KubeError, Kubernetes};
use tokio::sync::{Notify, OwnedRwLockWriteGuard, mpsc, oneshot};

use crate::clock::Clock;
use crate::metrics;
use crate::metrics::{Metrics, Waited};
use crate::network::HostNetwork;
use crate::policy::Policy;

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
