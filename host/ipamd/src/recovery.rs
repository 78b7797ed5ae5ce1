//! What the last run left: the checkpoint, or, where that is damaged, what the host shows (spec 02 §6.5–§6.7).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reservoir_core::checkpoint::{self, Allocation, DropReason, ParseError};
use reservoir_core::store::{Key, PodMeta};

use crate::files;
use crate::network::HostNetwork;
use crate::pool::Pool;

/// Network name of entries that were rebuilt from the host; the container id is then the suffix of the pod's veth.
const RECOVERED: &str = "_recovered-from-host";

/// An address is answered before the plugin has made the pod's veth: an entry so young is kept without one. The plugin
/// wires a pod in milliseconds, on an overloaded node in seconds. After as long the host is looked at once more: the veth
/// of a pod that is gone may have been about to go when the daemon started.
pub const SETTLED: Duration = Duration::from_secs(30);

/// Why the daemon must not start: it would have to guess.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("Error while reading datastore: {0}")]
    Version(ParseError),
    #[error("Error while reading datastore: failed ipam state recovery from backing store: {path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("Error while reading datastore: the links of the host cannot be listed: {0}")]
    Links(String),
    #[error(
        "Error while reading datastore: {path} is damaged ({reason}) and the host does not show its pods ({error}); \
         remove the file if no pod runs"
    )]
    Unprovable { path: String, reason: String, error: String },
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub kept: Vec<(Allocation, IpAddr)>,
    /// Entries that were not taken over, each of them logged.
    pub dropped: Vec<(Allocation, DropReason)>,
    /// There was a file: it is written again, less what was dropped.
    pub rewrite: bool,
    /// Rules to be removed.
    pub prune: Vec<IpAddr>,
    /// Those of `kept` whose veth can tell whether they live: to be looked at again after [`SETTLED`].
    pub unproven: Vec<Unproven>,
}

/// A pod of the last run that may be gone by now, or that shows no veth yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unproven {
    pub key: Key,
    pub address: IpAddr,
    suffix: String,
}

impl Unproven {
    /// A pod by its entry; `pod` is empty for an entry that was rebuilt from the host.
    #[must_use]
    pub fn of(key: &Key, address: IpAddr, namespace: &str, name: &str) -> Self {
        Self { key: key.clone(), address, suffix: reservoir_net::names::suffix(namespace, name, 0) }
    }
}

/// Those without a veth: their ADD failed, or they were deleted while the daemon was down.
///
/// # Errors
/// The links cannot be listed.
pub fn without_veth(mut pods: Vec<Unproven>, network: &dyn HostNetwork) -> Result<Vec<Unproven>, String> {
    let links = network.links()?;
    pods.retain(|pod| !links.iter().any(|link| link.ends_with(&pod.suffix)));
    Ok(pods)
}

/// Frees what pods held that are gone or never came, once it is certain that no plugin is still at work on them.
pub fn look_again(pool: &Arc<Pool>, unproven: Vec<Unproven>) {
    if unproven.is_empty() {
        return;
    }
    let pool = Arc::downgrade(pool);
    tokio::spawn(async move {
        tokio::time::sleep(SETTLED).await;
        let Some(pool) = pool.upgrade() else { return };
        let network = pool.network().clone();
        let looked = tokio::task::spawn_blocking(move || without_veth(unproven, &*network)).await;
        let gone = match looked {
            Ok(Ok(gone)) => gone,
            Ok(Err(error)) => return tracing::warn!("pods without a veth were not looked for: {error}"),
            Err(error) => return tracing::warn!("pods without a veth were not looked for: {error}"),
        };
        for Unproven { key, address, .. } in gone {
            // Deleted meanwhile, the address may be another pod's by now.
            if !pool.look(|manager, _| manager.lookup(&key)).iter().any(|held| held.ip == address) {
                continue;
            }
            let network = pool.network().clone();
            // Rules are removed as far as they are there; what fails is logged.
            let _ = tokio::task::spawn_blocking(move || network.prune(&[address])).await;
            match pool.del(&key).await {
                Ok(_) => tracing::info!(ip = %address, sandbox = key.container, "the pod is gone: address released"),
                Err(error) => tracing::warn!(ip = %address, "the address of a pod that is gone stays: {error}"),
            }
        }
    });
}

/// The end of the veth's name of a pod whose entry was rebuilt from the host.
#[must_use]
pub(crate) fn recovered_suffix(key: &Key) -> Option<String> {
    (key.network == RECOVERED).then(|| key.container.clone())
}

/// The key under which a rebuilt entry of this pod stands.
#[must_use]
pub fn key(namespace: &str, name: &str) -> Key {
    key_of(namespace, name, 0)
}

/// The keys under which rebuilt entries of this pod stand if it has so many interfaces: each has a veth with a name of its
/// own (spec 04 §3.1), and the host does not show which belong together.
#[must_use]
pub fn keys(namespace: &str, name: &str, interfaces: usize) -> Vec<Key> {
    (0..interfaces).map(|index| key_of(namespace, name, index)).collect()
}

fn key_of(namespace: &str, name: &str, index: usize) -> Key {
    Key::new(RECOVERED, reservoir_net::names::suffix(namespace, name, index), "unknown")
}

/// Reads the checkpoints of these cards, each with its own file beside that of card 0 (spec 02 §6.1). A card's file may be
/// missing because the card held nothing, or was not managed, when the last run wrote; only an address that the host shows
/// and that no file tells of says that one was lost.
///
/// # Errors
/// [`RecoveryError`]: nothing has been changed, but for damaged files set aside.
pub fn read_cards(
    of_card_0: &Path,
    cards: &[u32],
    network: &dyn HostNetwork,
    unix_seconds: u64,
    ipv6: bool,
) -> Result<Vec<(u32, Found)>, RecoveryError> {
    let mut all = Vec::with_capacity(cards.len());
    let mut missing = None;
    for &card in cards {
        let path = checkpoint::path(of_card_0, card);
        let found = read_file(&path, network, unix_seconds, ipv6)?.unwrap_or_else(|| {
            missing.get_or_insert((all.len(), path));
            Found::default()
        });
        all.push((card, found));
    }
    if let Some((at, path)) = missing {
        let told = all.iter().flat_map(|(_, found)| &found.kept).map(|(_, ip)| *ip).collect();
        // Whichever card they are on: the pool knows once it has its interfaces.
        all[at].1 = lost(&path, network, &told)?;
    }
    Ok(all)
}

/// There is no checkpoint: a fresh boot, the directory being a tmpfs; or the file was lost while pods run, and the host
/// shows which. Those `told` of elsewhere are no loss.
fn lost(path: &Path, network: &dyn HostNetwork, told: &HashSet<IpAddr>) -> Result<Found, RecoveryError> {
    let mut kept = network.pods().map(in_use).map_err(RecoveryError::Links)?;
    kept.retain(|(_, address)| !told.contains(address));
    if !kept.is_empty() {
        tracing::error!(file = %path.display(), pods = kept.len(), "there is no checkpoint, but the host shows pods: \
            their addresses are kept in use");
    }
    Ok(Found { rewrite: !kept.is_empty(), unproven: unproven(&kept), kept, ..Found::default() })
}

/// Reads the checkpoint and sorts it by what the host shows.
///
/// # Errors
/// [`RecoveryError`]: nothing has been changed.
pub fn read(path: &Path, network: &dyn HostNetwork, unix_seconds: u64) -> Result<Found, RecoveryError> {
    read_for(path, network, unix_seconds, false)
}

/// The same for a node of either family.
///
/// # Errors
/// As [`read`].
pub fn read_for(path: &Path, network: &dyn HostNetwork, unix_seconds: u64, ipv6: bool) -> Result<Found, RecoveryError> {
    let found = read_file(path, network, unix_seconds, ipv6)?;
    found.map_or_else(|| lost(path, network, &HashSet::new()), Ok)
}

/// None: there is no such file.
fn read_file(
    path: &Path,
    network: &dyn HostNetwork,
    unix_seconds: u64,
    ipv6: bool,
) -> Result<Option<Found>, RecoveryError> {
    files::remove_stale(path);
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RecoveryError::Io { path: path.display().to_string(), source }),
    };
    let allocations = match checkpoint::parse(&text) {
        Ok(allocations) => allocations,
        Err(error @ ParseError::Version(_)) => return Err(RecoveryError::Version(error)),
        Err(ParseError::Malformed(reason)) => return rebuild(path, network, unix_seconds, reason).map(Some),
    };
    let links = network.links().map_err(RecoveryError::Links)?;
    let suffixes: HashSet<&str> = links.iter().filter_map(|l| l.get(l.len().checked_sub(11)?..)).collect();
    let no_links = links.is_empty();
    let (rebuilt, allocations): (Vec<_>, Vec<_>) = allocations.into_iter().partition(|a| a.key.network == RECOVERED);
    // Without a kernel (RESERVOIR_HOST_NETWORK=none) there are no links to tell the living from the dead.
    let live = |suffix: &str| no_links || suffixes.contains(suffix);
    let since = i128::from(unix_seconds.saturating_sub(SETTLED.as_secs())) * 1_000_000_000;
    let young: HashSet<String> =
        allocations.iter().filter(|a| i128::from(a.timestamp) > since).map(|a| suffix(&a.pod)).collect();
    let mut sorted = checkpoint::sort(allocations, ipv6, |namespace, name| {
        let suffix = reservoir_net::names::suffix(namespace, name, 0);
        live(&suffix) || young.contains(&suffix)
    });
    let mut stale = Vec::new();
    for allocation in rebuilt {
        match allocation.address(ipv6) {
            Some(address) if live(&allocation.key.container) => sorted.kept.push((allocation, address)),
            _ => stale.push(allocation),
        }
    }
    // Their rules go as those of any other pod that is gone (spec 02 §7.2), unless a living one has the address.
    let addresses = stale.iter().flat_map(|a| [a.address(false), a.address(true)]).flatten();
    sorted.prune.extend(addresses.filter(|ip| !sorted.kept.iter().any(|(_, kept)| kept == ip)));
    sorted.dropped.extend(stale.into_iter().map(|allocation| (allocation, DropReason::StaleVeth)));
    for (allocation, reason) in &sorted.dropped {
        tracing::warn!(
            namespace = allocation.pod.namespace,
            pod = allocation.pod.name,
            ip = allocation.ipv4,
            ?reason,
            "an entry of the checkpoint is dropped"
        );
    }
    let unproven = if no_links { Vec::new() } else { unproven(&sorted.kept) };
    Ok(Some(Found { kept: sorted.kept, dropped: sorted.dropped, rewrite: true, prune: sorted.prune, unproven }))
}

fn unproven(kept: &[(Allocation, IpAddr)]) -> Vec<Unproven> {
    let unproven = |(a, address): &(Allocation, IpAddr)| {
        let suffix = if a.key.network == RECOVERED {
            a.key.container.clone()
        } else if a.pod.namespace.is_empty() || a.pod.name.is_empty() {
            return None;
        } else {
            suffix(&a.pod)
        };
        Some(Unproven { key: a.key.clone(), address: *address, suffix })
    };
    kept.iter().filter_map(unproven).collect()
}

fn suffix(pod: &PodMeta) -> String {
    reservoir_net::names::suffix(&pod.namespace, &pod.name, 0)
}

/// The checkpoint is damaged: it is set aside, and the addresses that the host shows in use are marked so.
fn rebuild(path: &Path, network: &dyn HostNetwork, unix_seconds: u64, reason: String) -> Result<Found, RecoveryError> {
    let shown = path.display().to_string();
    let pods = match network.pods() {
        Ok(pods) => pods,
        Err(error) => return Err(RecoveryError::Unprovable { path: shown, reason, error }),
    };
    let aside = files::set_aside(path, unix_seconds).map_err(|source| RecoveryError::Io { path: shown, source })?;
    let kept = in_use(pods);
    tracing::error!(
        file = %path.display(),
        aside = %aside.display(),
        pods = kept.len(),
        "the checkpoint is damaged ({reason}): it was set aside, and the addresses of the pods that the host shows are \
         kept in use"
    );
    let unproven = unproven(&kept);
    Ok(Found { kept, rewrite: true, unproven, ..Found::default() })
}

/// Entries for the addresses that the host shows in use.
fn in_use(pods: Vec<(IpAddr, Option<String>)>) -> Vec<(Allocation, IpAddr)> {
    let mut kept = Vec::new();
    for (address, veth) in pods {
        // Without a veth nobody can use the address, whatever rules are left.
        let Some(veth) = veth else { continue };
        let Some(suffix) = veth.len().checked_sub(11).and_then(|at| veth.get(at..)) else { continue };
        let (ipv4, ipv6) = match address {
            IpAddr::V4(v4) => (v4.to_string(), String::new()),
            IpAddr::V6(v6) => (String::new(), v6.to_string()),
        };
        let allocation = Allocation {
            key: Key::new(RECOVERED, suffix, "unknown"),
            ipv4,
            ipv6,
            timestamp: 0,
            pod: PodMeta::default(),
        };
        kept.push((allocation, address));
    }
    kept
}

#[cfg(test)]
mod tests;
