//! The host's network is kept as it was made: news of the kernel, and a slow timer, lead to a comparison of what must be
//! there with what is there, and only the difference is written.
//!
//! ```text
//! netlink ── concerns us? ──▶ Agenda ── due ─┬▶ node, interfaces ──▶ pods ── something missing? ──▶ hold replies,
//! timer ────────────────────────┘            │                                                    compare again, write
//!                                            └▶ iptables, nftables: a task of its own
//! ```
//!
//! iptables is a program that waits while another one has its lock. That takes seconds at times, and once in a while
//! for ever (then it is killed): nothing else waits for it.
//!
//! The plugin works on the same rules. While something is written for pods no ADD and no DEL is answered
//! ([`Pool::hold_replies`]): a plugin that takes a pod's rules away was told to after our write, so nothing comes back
//! behind its back. The rest of the reasoning: `reservoir_net::repair::pods`.

mod agenda;
mod attached;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use reservoir_core::manager::{Event, Manager};
use reservoir_core::store::{Assignment, Key};
use reservoir_net::names;
use reservoir_net::news::{News, Watcher};
use reservoir_net::repair::pods::{Checked, Pod};
use reservoir_net::repair::{Outcome, concerns};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::metrics::{self, CheckCause, Metrics};
use crate::pool::Pool;
use crate::recovery;
use agenda::{Agenda, Listening, Scope};

/// How long a plugin may be at work on a pod: it waits up to 10 s for the pod's IPv6 address.
const PLUGIN: Duration = Duration::from_secs(15);
/// So many repairs are logged one by one.
const LOGGED: usize = 20;

/// Watches as long as there is a pool.
pub async fn keep(pool: Weak<Pool>, clock: Clock) {
    let mut agenda = Agenda::new(clock.now().mono, jitter());
    let mut listening = Listening::default();
    let mut watcher = None;
    let mut firewall = JoinSet::new();
    loop {
        let Some(strong) = pool.upgrade() else { return };
        let now = clock.now().mono;
        if watcher.is_none() && listening.is_due(now) {
            match strong.network().watch() {
                Ok(Some(made)) => {
                    watcher = Some(made);
                    if listening.has_failed() {
                        // Nobody has listened meanwhile.
                        strong.tell(Event::LinksMissed);
                        agenda.overrun(now);
                    }
                }
                // There is no network to be watched.
                Ok(None) => return,
                Err(error) => {
                    listening.failed(now);
                    tracing::warn!("the host's network is looked at by a timer only: {error}");
                }
            }
        }
        drop(strong);
        let next = agenda.next().min(if watcher.is_none() { listening.next() } else { Duration::MAX });
        tokio::select! {
            // However many news there are, what is due is done.
            biased;
            () = tokio::time::sleep_until(clock.instant(next).into()) => {
                let Some(pool) = pool.upgrade() else { return };
                if let Some(scope) = agenda.due(clock.now().mono, jitter()) {
                    let came_to = look(&pool, clock, scope).await;
                    agenda.done(clock.now().mono, &came_to);
                }
                if agenda.firewall_due(clock.now().mono) {
                    firewall.spawn(async move { look_at_firewall(&pool).await });
                }
            }
            Some(ended) = firewall.join_next() => {
                agenda.firewall_done(clock.now().mono, ended.unwrap_or(true));
            }
            news = next_news(&mut watcher) => {
                let Some(pool) = pool.upgrade() else { return };
                match news {
                    Ok(news) => {
                        listening.heard();
                        pool.network().hear(&news);
                        if let Some(event) = attached::tells(&news) {
                            pool.tell(event);
                        }
                        let held = |ip| pool.look(|manager, _| is_held(manager, ip));
                        match news {
                            News::Overrun => agenda.overrun(clock.now().mono),
                            news if concerns(&news, &pool.network().ours(), held) => agenda.noticed(clock.now().mono),
                            _ => {}
                        }
                    }
                    Err(error) => {
                        tracing::warn!("news of the host's network ended: {error}");
                        watcher = None;
                        listening.failed(clock.now().mono);
                        agenda.overrun(clock.now().mono);
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
    /// The rules of iptables are to be looked at, which give no news.
    firewall: bool,
}

/// One look at what gives news.
pub(crate) async fn look(pool: &Arc<Pool>, clock: Clock, scope: Scope) -> CameTo {
    let metrics = pool.metrics();
    metrics.host_checked(match scope {
        Scope::Network => CheckCause::News,
        Scope::Overrun => CheckCause::Overrun,
        Scope::Everything => CheckCause::Timer,
    });
    let mut came_to = CameTo { firewall: scope != Scope::Network, ..CameTo::default() };
    let network = pool.network().clone();
    match blocking(move || Ok(network.repair())).await {
        Ok(repaired) => {
            note(metrics, &repaired.outcome, &mut came_to);
            came_to.firewall |= repaired.renamed;
        }
        Err(error) => failed(&error, &mut came_to),
    }
    match look_at_pods(pool, clock).await {
        Ok(checked) => {
            note(metrics, &checked.outcome, &mut came_to);
            came_to.again |= checked.waits;
        }
        Err(error) => failed(&error, &mut came_to),
    }
    came_to
}

/// One look at iptables and nftables; true if it is to be taken again.
pub(crate) async fn look_at_firewall(pool: &Arc<Pool>) -> bool {
    let network = pool.network().clone();
    let mut came_to = CameTo::default();
    match blocking(move || Ok(network.repair_firewall())).await {
        Ok(outcome) => note(pool.metrics(), &outcome, &mut came_to),
        Err(error) => failed(&error, &mut came_to),
    }
    came_to.again
}

async fn look_at_pods(pool: &Arc<Pool>, clock: Clock) -> Result<Checked, String> {
    let reader = pool.clone();
    let checked = blocking(move || compare(&reader, clock, false)).await?;
    if checked.missing == 0 {
        return Ok(checked);
    }
    let writer = pool.clone();
    blocking(move || {
        // Not before there is a thread to do the work: plugins wait meanwhile.
        let _held = Handle::current().block_on(writer.hold_replies());
        compare(&writer, clock, true)
    })
    .await
}

fn compare(pool: &Pool, clock: Clock, write: bool) -> Result<Checked, String> {
    let held = pool.look(|manager, _| held(manager));
    pool.network().check_pods(&pods(&held, clock.now().unix), write)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

fn failed(error: impl std::fmt::Display, came_to: &mut CameTo) {
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
    for error in &outcome.unseen {
        failed(error, came_to);
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
