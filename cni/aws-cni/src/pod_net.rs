//! What the plugin does to the kernel. [`KernelNet`] is the real thing.

use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use reservoir_net::branch::{self, BranchPod, BranchSetup};
use reservoir_net::error::Error;
use reservoir_net::kernel::Kernel;
use reservoir_net::netns::{Netns, Turn};
use reservoir_net::plan::Side;
use reservoir_net::pod::{self, PodAddress, PodSetup};
use reservoir_net::pods::{self, Found};
use reservoir_net::prefix::IpPrefix;
use reservoir_net::rule::Family;
use reservoir_net::table;

/// How long the kernel may take to remove the interfaces of a namespace that is gone; usually some tens of milliseconds.
const DISMANTLING: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// Wiring of pods.
pub trait PodNet {
    /// Wires a pod, or leaves nothing behind.
    ///
    /// # Errors
    /// As [`pod::set_up`].
    fn set_up(&self, setup: &PodSetup) -> Result<(), Error>;

    /// Compares the kernel's state with what `set_up` made.
    ///
    /// # Errors
    /// As [`pod::check`].
    fn check(&self, setup: &PodSetup) -> Result<(), Error>;

    /// Removes a pod's rules and routes from the host.
    ///
    /// # Errors
    /// As [`pod::tear_down`].
    fn tear_down(&self, addresses: &[PodAddress]) -> Result<(), Error>;

    /// Wires a pod with a branch interface, or leaves nothing behind.
    ///
    /// # Errors
    /// As [`branch::set_up`].
    fn set_up_branch(&self, setup: &BranchSetup) -> Result<(), Error>;

    /// Compares the kernel's state with what `set_up_branch` made.
    ///
    /// # Errors
    /// As [`branch::check`].
    fn check_branch(&self, pod: &BranchPod) -> Result<(), Error>;

    /// Removes a branch pod from the host.
    ///
    /// # Errors
    /// As [`branch::tear_down`].
    fn tear_down_branch(&self, vlan: u16, address: Option<IpAddr>) -> Result<(), Error>;

    /// Waits until no other plugin wires this pod, and keeps others from it as long as the answer lives. Without a
    /// namespace there is nobody to wait for.
    fn turn(&self, _netns: &Path) -> Option<Turn> {
        None
    }

    /// The addresses that the pod's interfaces lead to, by their names inside and on the host.
    ///
    /// # Errors
    /// As [`pods::behind`].
    fn behind(&self, _netns: &Path, _pairs: &[(String, String)]) -> Result<Vec<Found>, Error> {
        Ok(Vec::new())
    }

    /// Removes what pods left whose interfaces are gone; tells what it was.
    ///
    /// # Errors
    /// As [`pods::remove_stale`].
    fn remove_stale(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// The host interface by which `address` is reached as a pod's, if there is one.
    ///
    /// # Errors
    /// The kernel does not say.
    fn route_device(&self, address: IpAddr) -> Result<Option<String>, Error>;

    /// Whether `netns` is the namespace of this process. A path that cannot be looked at is not.
    fn is_own_namespace(&self, netns: &Path) -> bool {
        cni_plugin::is_own_namespace(netns)
    }

    /// Waits, but not for ever, until the host interface `name` is gone: the kernel takes a namespace and its interfaces
    /// apart in its own time.
    fn wait_until_gone(&self, _name: &str) {}

    /// Whether there is anything at the path `netns`.
    fn namespace_exists(&self, netns: &Path) -> bool {
        netns.exists()
    }
}

/// The kernel, through `reservoir_net`.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelNet;

impl PodNet for KernelNet {
    fn set_up(&self, setup: &PodSetup) -> Result<(), Error> {
        pod::set_up(setup).map(|_| ())
    }

    fn check(&self, setup: &PodSetup) -> Result<(), Error> {
        pod::check(setup)
    }

    fn tear_down(&self, addresses: &[PodAddress]) -> Result<(), Error> {
        pod::tear_down(addresses)
    }

    fn set_up_branch(&self, setup: &BranchSetup) -> Result<(), Error> {
        branch::set_up(setup)
    }

    fn check_branch(&self, pod: &BranchPod) -> Result<(), Error> {
        branch::check(pod)
    }

    fn tear_down_branch(&self, vlan: u16, address: Option<IpAddr>) -> Result<(), Error> {
        branch::tear_down(vlan, address)
    }

    fn turn(&self, netns: &Path) -> Option<Turn> {
        Netns::open(netns).and_then(Netns::lock).ok()
    }

    fn wait_until_gone(&self, name: &str) {
        let deadline = Instant::now() + DISMANTLING;
        let is_there = || Kernel::host().and_then(|mut kernel| kernel.link(Side::Host, name)).is_ok();
        while is_there() && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
    }

    fn behind(&self, netns: &Path, pairs: &[(String, String)]) -> Result<Vec<Found>, Error> {
        pods::behind(netns, pairs)
    }

    fn remove_stale(&self) -> Result<Vec<String>, Error> {
        pods::remove_stale()
    }

    fn route_device(&self, address: IpAddr) -> Result<Option<String>, Error> {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let own = IpPrefix::host(address);
        let mut kernel = Kernel::host()?;
        let routes = kernel.routes(Side::Host, family, table::MAIN, None)?;
        let index = routes.into_iter().find(|route| route.destination == own).and_then(|route| route.device_index);
        let Some(index) = index else { return Ok(None) };
        Ok(kernel.links(Side::Host)?.into_iter().find(|link| link.index == index).map(|link| link.name))
    }
}
