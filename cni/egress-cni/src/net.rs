//! What the plugin does to the kernel and with iptables. [`KernelNet`] is the real thing.

use std::path::Path;

use reservoir_net::Error;
use reservoir_net::egress::firewall::{Firewall, SnatRules};
use reservoir_net::egress::{self, EgressLink, EgressSetup};
use reservoir_net::netns::{Netns, Turn};
use reservoir_net::rule::Family;

/// Wiring and SNAT of pods' egress.
pub trait EgressNet {
    /// Waits until no other plugin works on this pod, and keeps others from it as long as the answer lives. Without a
    /// namespace there is nobody to wait for.
    ///
    /// # Errors
    /// As [`Netns::lock`].
    fn turn(&self, _netns: &Path) -> Result<Option<Turn>, Error> {
        Ok(None)
    }

    /// Wires a pod, or leaves nothing behind.
    ///
    /// # Errors
    /// As [`egress::set_up`].
    fn set_up(&self, setup: &EgressSetup) -> Result<EgressLink, Error>;

    /// Takes back what `set_up` made.
    ///
    /// # Errors
    /// As [`egress::undo`].
    fn undo(&self, link: &EgressLink) -> Result<(), Error>;

    /// Removes a pod's pair, if its namespace is still there.
    ///
    /// # Errors
    /// As [`egress::tear_down`].
    fn tear_down(&self, netns: &Path, family: Family) -> Result<(), Error>;

    /// Makes a pod's SNAT rules.
    ///
    /// # Errors
    /// As [`Firewall::add`].
    fn add_rules(&self, rules: &SnatRules) -> Result<(), Error>;

    /// Removes a pod's SNAT rules.
    ///
    /// # Errors
    /// As [`Firewall::remove`].
    fn remove_rules(&self, family: Family, chain: &str) -> Result<(), Error>;

    /// Whether `netns` is the namespace of this process. A path that cannot be looked at is not.
    fn is_own_namespace(&self, netns: &Path) -> bool {
        cni_plugin::is_own_namespace(netns)
    }

    /// Whether there is a directory at this path.
    fn has_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }
}

/// The kernel, through `reservoir_net`.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelNet;

impl EgressNet for KernelNet {
    fn turn(&self, netns: &Path) -> Result<Option<Turn>, Error> {
        Netns::open(netns).map_or(Ok(None), |netns| netns.lock().map(Some))
    }

    fn set_up(&self, setup: &EgressSetup) -> Result<EgressLink, Error> {
        egress::set_up(setup)
    }

    fn undo(&self, link: &EgressLink) -> Result<(), Error> {
        egress::undo(&link.host.name)
    }

    fn tear_down(&self, netns: &Path, family: Family) -> Result<(), Error> {
        egress::tear_down(netns, family)
    }

    fn add_rules(&self, rules: &SnatRules) -> Result<(), Error> {
        Firewall::of(Family::of(rules.pod)).add(rules)
    }

    fn remove_rules(&self, family: Family, chain: &str) -> Result<(), Error> {
        Firewall::of(family).remove(chain)
    }
}
