//! What the plugin does to the kernel. [`KernelNet`] is the real thing.

use std::net::IpAddr;
use std::path::Path;

use reservoir_net::branch::{self, BranchPod, BranchSetup};
use reservoir_net::error::Error;
use reservoir_net::kernel::Kernel;
use reservoir_net::plan::Side;
use reservoir_net::pod::{self, PodAddress, PodSetup};
use reservoir_net::prefix::IpPrefix;
use reservoir_net::rule::Family;
use reservoir_net::table;

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

    /// The host interface by which `address` is reached as a pod's, if there is one.
    ///
    /// # Errors
    /// The kernel does not say.
    fn route_device(&self, address: IpAddr) -> Result<Option<String>, Error>;

    /// Whether `netns` is the namespace of this process. A path that cannot be looked at is not.
    fn is_own_namespace(&self, netns: &Path) -> bool {
        cni_plugin::is_own_namespace(netns)
    }

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
