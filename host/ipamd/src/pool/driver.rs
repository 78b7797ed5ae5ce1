//! One task that carries the manager's commands out. Whatever takes time is a task of its own, and comes back as an event.

use std::sync::Arc;

use reservoir_core::cloud::{CloudError, ErrorKind};
use reservoir_core::manager::{Command, Counter, Event};
use reservoir_kube::Announced;
use tokio::sync::mpsc;

use super::Pool;
use crate::files;
use crate::journal::JournalThread;
use crate::policy::{PolicyThread, Question};

impl Pool {
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
}
