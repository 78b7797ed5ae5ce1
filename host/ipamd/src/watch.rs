//! The host's network is kept as it was made: news of the kernel, and a slow timer, lead to a comparison of what must be
//! there with what is there, and only the difference is written.
//!
//! ```text
//! netlink ── concerns us? ──▶ Agenda ── due ──▶ node, interfaces ──▶ pods ── something missing? ──▶ hold replies,
//! timer ────────────────────────┘                                                                 compare again, write
//! ```
//!
//! The plugin works on the same rules. While something is written for pods no ADD and no DEL is answered
//! ([`Pool::hold_replies`]): a plugin that takes a pod's rules away was told to after our write, so nothing comes back
//! behind its back. The rest of the reasoning: `reservoir_net::repair::pods`.

mod agenda;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use reservoir_core::manager::Manager;
use reservoir_core::store::{Assignment, Key};
use reservoir_net::names;
use reservoir_net::news::{News, Watcher};
use reservoir_net::repair::pods::{Checked, Pod};
use reservoir_net::repair::{Outcome, concerns};

use crate::clock::Clock;
use crate::metrics::{self, CheckCause, Metrics};
use crate::pool::Pool;
use crate::recovery;
use agenda::{Agenda, Scope};

/// How long a plugin may be at work on a pod: it waits up to 10 s for the pod's IPv6 address.
const PLUGIN: Duration = Duration::from_secs(15);
/// So many repairs are logged one by one.
const LOGGED: usize = 20;

/// Watches as long as there is a pool.
pub async fn keep(pool: Weak<Pool>, clock: Clock) {
    let mut agenda = Agenda::new(clock.now().mono, jitter());
    let mut watcher = None;
    loop {
        let Some(strong) = pool.upgrade() else { return };
        if watcher.is_none() {
            watcher = match strong.network().watch() {
                Ok(Some(watcher)) => Some(watcher),
                // There is no network to be watched.
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!("the host's network is looked at by a timer only: {error}");
                    None
                }
            };
        }
        drop(strong);
        let next = clock.instant(agenda.next());
        tokio::select! {
            // However many news there are, what is due is done.
            biased;
            () = tokio::time::sleep_until(next.into()) => {
                let (Some(pool), Some(scope)) = (pool.upgrade(), agenda.due(clock.now().mono, jitter())) else { continue };
                let came_to = look(&pool, clock, scope).await;
                agenda.done(clock.now().mono, &came_to);
            }
            news = next_news(&mut watcher) => {
                let Some(pool) = pool.upgrade() else { return };
                if let Ok(news) = &news {
                    pool.network().hear(news);
                }
                match news {
                    Ok(News::Overrun) => agenda.overrun(clock.now().mono),
                    Ok(news) => {
                        let held = |ip| pool.look(|manager, _| is_held(manager, ip));
                        if concerns(&news, &pool.network().ours(), held) {
                            agenda.noticed(clock.now().mono);
                        }
                    }
                    Err(error) => {
                        tracing::warn!("news of the host's network ended: {error}");
                        watcher = None;
                        agenda.overrun(clock.now().mono);
                        // Not again and again.
                        tokio::time::sleep(agenda::SETTLE).await;
                    }
                }
            }
        }
    }
}

async fn next_news(watcher: &mut Option<Watcher>) -> Result<News, reservoir_net::Error> {
    match watcher {
        Some(watcher) => watcher.next().await,
        None => std::future::pending().await,
    }
}

fn is_held(manager: &Manager, ip: IpAddr) -> bool {
    manager.cards().assignments().any(|(held, _)| held == ip)
}

/// Between 0 and 1.
fn jitter() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // Nodes must not look in step; the standard library's hasher is seeded by the system.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    f64::from((random & 0xffff) as u16) / f64::from(u16::MAX)
}

/// What a look came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CameTo {
    /// Something was put right.
    repaired: bool,
    /// Something is to be looked at again although no news may tell.
    again: bool,
    /// And everything then: what gives no news may be among it.
    everything: bool,
}

/// One look at the host's network.
pub(crate) async fn look(pool: &Arc<Pool>, clock: Clock, scope: Scope) -> CameTo {
    let metrics = pool.metrics();
    metrics.host_checked(match scope {
        Scope::Network => CheckCause::News,
        Scope::Overrun => CheckCause::Overrun,
        Scope::Everything => CheckCause::Timer,
    });
    let mut came_to = CameTo::default();
    let network = pool.network().clone();
    let everything = scope != Scope::Network;
    match blocking(move || network.repair(everything)).await {
        Ok(outcome) => note(metrics, &outcome, &mut came_to),
        Err(error) => failed(&error, &mut came_to),
    }
    came_to.everything = everything && came_to.again;
    match look_at_pods(pool, clock).await {
        Ok(checked) => {
            note(metrics, &checked.outcome, &mut came_to);
            came_to.again |= checked.waits;
        }
        Err(error) => failed(&error, &mut came_to),
    }
    came_to
}

async fn look_at_pods(pool: &Arc<Pool>, clock: Clock) -> Result<Checked, String> {
    let checked = compare(pool, clock, false).await?;
    if checked.missing == 0 {
        return Ok(checked);
    }
    let held = pool.hold_replies().await;
    let checked = compare(pool, clock, true).await;
    drop(held);
    checked
}

async fn compare(pool: &Arc<Pool>, clock: Clock, write: bool) -> Result<Checked, String> {
    let held = pool.look(|manager, _| held(manager));
    let (network, unix) = (pool.network().clone(), clock.now().unix);
    blocking(move || network.check_pods(&pods(&held, unix), write)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

fn failed(error: &str, came_to: &mut CameTo) {
    tracing::warn!("the host's network could not be looked at: {error}");
    came_to.again = true;
}

fn note(metrics: &Metrics, outcome: &Outcome, came_to: &mut CameTo) {
    for repair in &outcome.done {
        metrics.host_repaired(repair.kind.into(), metrics::Outcome::Success, 1);
    }
    for repair in outcome.done.iter().take(LOGGED) {
        tracing::warn!("the host's network was not as it must be, put right: {repair}");
    }
    if let Some(more) = outcome.done.len().checked_sub(LOGGED).filter(|more| *more > 0) {
        tracing::warn!(more, "the host's network was not as it must be, and more was put right");
    }
    for (repair, error) in &outcome.failed {
        metrics.host_repaired(repair.kind.into(), metrics::Outcome::Error, 1);
        tracing::warn!("the host's network is not as it must be, and cannot be put right ({repair}): {error}");
    }
    came_to.repaired |= !outcome.done.is_empty();
    came_to.again |= !outcome.failed.is_empty();
}

/// An address that a pod holds, and its place among the pod's.
struct Held {
    address: IpAddr,
    table: u32,
    /// None where the pod had more addresses than it holds: which of its interfaces this one is cannot be told.
    interface: Option<usize>,
    by: Arc<Assignment>,
}

/// All of them. What takes time is left for when the lock is free.
fn held(manager: &Manager) -> Vec<Held> {
    let mut interfaces: HashMap<&Key, usize> = HashMap::new();
    let mut all = Vec::new();
    for card in manager.cards().iter() {
        for (address, by) in card.store().assignments() {
            let Some(place) = card.store().lookup(&by.key).filter(|place| place.ip == address) else { continue };
            let count = interfaces.entry(&by.key).or_default();
            all.push(Held { address, table: place.table, interface: Some(*count), by: by.clone() });
            *count += 1;
        }
    }
    for held in &mut all {
        let had = usize::try_from(held.by.pod.interfaces).unwrap_or(usize::MAX);
        if had > interfaces.get(&held.by.key).copied().unwrap_or_default().max(1) {
            held.interface = None;
        }
    }
    all
}

/// What the host must show of them. Where two sandboxes of one pod are known, the newer one has the veth.
fn pods(held: &[Held], unix: Duration) -> Vec<Pod> {
    let now = i64::try_from(unix.as_nanos()).unwrap_or(i64::MAX);
    let long = i64::try_from(PLUGIN.as_nanos()).unwrap_or(i64::MAX);
    let mut by_suffix: HashMap<String, Pod> = HashMap::new();
    let mut pods = Vec::new();
    for Held { address, table, interface, by } in held {
        let known = !by.pod.namespace.is_empty() && !by.pod.name.is_empty();
        let named = || interface.filter(|_| known).map(|n| names::suffix(&by.pod.namespace, &by.pod.name, n));
        let suffix = recovery::recovered_suffix(&by.key).or_else(named);
        // A clock that was set back must not make a pod young for ever.
        let settled = by.timestamp > now || now - by.timestamp >= long;
        let pod = Pod { address: *address, table: *table, suffix: suffix.clone(), since: by.timestamp, settled };
        match suffix {
            None => pods.push(pod),
            Some(suffix) => match by_suffix.get(&suffix) {
                Some(other) if other.since >= pod.since => {}
                _ => drop(by_suffix.insert(suffix, pod)),
            },
        }
    }
    pods.extend(by_suffix.into_values());
    pods.sort_by_key(|pod| pod.address);
    pods
}

#[cfg(test)]
mod tests;
