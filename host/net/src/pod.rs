//! Wiring of a pod: one veth pair per interface, a route and rules on the host (spec 04 §4, §5).

mod check;
mod plan;

use std::net::IpAddr;
use std::path::PathBuf;

use crate::error::Error;
use crate::kernel::Kernel;
use crate::mac::MacAddr;
use crate::names;
use crate::netns::Netns;
use crate::plan::{Executor, OnFailure, Side, apply};
use crate::table;

pub use check::check;
pub(crate) use check::check_pair;
pub use plan::{InterfacePlan, gateway, plan_interface, plan_rollback, plan_teardown};

/// The smallest MTU a pod may have (spec 04 §2.2).
pub const MIN_MTU: u32 = 576;
/// The largest MTU a pod may have, and the default.
pub const MAX_MTU: u32 = 9001;

/// The smallest MTU with which the kernel speaks IPv6.
pub const MIN_MTU_V6: u32 = 1280;

/// What a pod is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSetup {
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// Of both ends at creation. [`check()`] does not look at it: a pod keeps the MTU it was born with.
    pub mtu: u32,
    /// The first is the one the runtime asked for; see [`names`] for the names of the others.
    pub interfaces: Vec<PodInterface>,
}

/// One interface of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInterface {
    /// Name inside the pod.
    pub name: String,
    /// Name of the other end, on the host.
    pub host_veth: String,
    pub address: IpAddr,
    /// `RouteTableId` of the reply: 0 and 1 stand for the main table (spec 04 §4.3).
    pub table: u32,
}

/// One end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub index: u32,
    /// Of the container's end it is the kernel's choice.
    pub mac: Option<MacAddr>,
}

/// One wired interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    pub host: Link,
    pub container: Link,
}

/// Wires a pod, of either family and with any number of interfaces. A host veth of the same name (of an earlier
/// attempt) is replaced; rules that exist are left alone. When anything fails, everything done for the pod is undone.
///
/// # Errors
/// [`Error::Invalid`] for what cannot be right, [`Error::NoSuchNamespace`], [`Error::Exists`] (an interface of that
/// name is in the pod), or the kernel's error, each within what was being done (texts of spec 04 §4).
pub fn set_up(setup: &PodSetup) -> Result<Vec<PodLink>, Error> {
    validate_interfaces(&setup.interfaces, setup.mtu).map_err(|e| e.within("SetupPodNetwork"))?;
    // Two at once for the same pod would take each other's pairs away. What is wrong with the path, `enter` says.
    let _turn = match Netns::open(&setup.netns) {
        Ok(netns) => Some(netns.lock().map_err(|e| e.within("SetupPodNetwork"))?),
        Err(_) => None,
    };
    let mut kernel = Kernel::host()?;
    let enter = |kernel: &mut Kernel| kernel.enter(&Netns::open(&setup.netns)?);
    wire(setup, &mut kernel, enter)?;
    setup.interfaces.iter().map(|interface| pod_link(interface, &mut kernel)).collect()
}

/// The whole of [`set_up`] on any executor; `enter` is called when the pod's side is about to be needed.
///
/// # Errors
/// As `set_up`.
pub fn wire<E: Executor>(
    setup: &PodSetup,
    executor: &mut E,
    mut enter: impl FnMut(&mut E) -> Result<(), Error>,
) -> Result<(), Error> {
    for (index, interface) in setup.interfaces.iter().enumerate() {
        let mut touched = index;
        let done = wire_one(setup, index, interface, executor, &mut enter, &mut touched);
        if let Err(error) = done {
            let undo: Vec<_> = setup.interfaces.iter().take(touched).flat_map(plan_rollback).collect();
            return match apply(&undo, executor, OnFailure::Continue) {
                Ok(()) => Err(error),
                Err(left) => Err(Error::Several(vec![error, left.within("undoing it")])),
            };
        }
    }
    Ok(())
}

/// Counts the interface into `touched` as soon as something of it may have to be undone.
fn wire_one<E: Executor>(
    setup: &PodSetup,
    index: usize,
    interface: &PodInterface,
    executor: &mut E,
    enter: &mut impl FnMut(&mut E) -> Result<(), Error>,
    touched: &mut usize,
) -> Result<(), Error> {
    const VETH: &str = "SetupPodNetwork: failed to setup veth pair";
    let in_veth = |error: Error| error.within("failed to setup veth network").within(VETH);
    let mac = MacAddr::random()
        .map_err(|errno| Error::from_kernel("generating a MAC address".to_owned(), errno).within(VETH))?;
    let plan = plan_interface(interface, index, setup.mtu, mac);
    apply(&plan.prepare, executor, OnFailure::Stop).map_err(|e| e.within(VETH))?;
    if index == 0 {
        enter(executor).map_err(in_veth)?;
    }
    apply(&plan.create, executor, OnFailure::Stop).map_err(in_veth)?;
    *touched = index + 1;
    apply(&plan.container, executor, OnFailure::Stop).map_err(in_veth)?;
    apply(&plan.host, executor, OnFailure::Stop)
        .map_err(|e| e.within("SetupPodNetwork: unable to setup IP based container routes and rules"))
}

fn pod_link(interface: &PodInterface, kernel: &mut Kernel) -> Result<PodLink, Error> {
    let mut end = |side, name: &str| -> Result<Link, Error> {
        let (index, mac) = match kernel.known(side, name) {
            Some(known) => known,
            None => kernel.link(side, name).map(|l| (l.index, l.mac))?,
        };
        Ok(Link { name: name.to_owned(), index, mac })
    };
    Ok(PodLink { host: end(Side::Host, &interface.host_veth)?, container: end(Side::Container, &interface.name)? })
}

/// What of a pod is on the host, for teardown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodAddress {
    pub address: IpAddr,
    /// 1 stands for the main table; 0 removes the pod's rule whatever its table (spec 04 §5).
    pub table: u32,
}

/// Removes a pod's rules and routes from the host. The veth pair goes with the pod's namespace, which need not exist
/// any more. What is gone already is fine; every entry is processed whatever happens to the others.
///
/// # Errors
/// Everything that could not be removed.
pub fn tear_down(addresses: &[PodAddress]) -> Result<(), Error> {
    unwire(addresses, &mut Kernel::host()?)
}

/// The whole of [`tear_down`] on any executor.
///
/// # Errors
/// As `tear_down`.
pub fn unwire(addresses: &[PodAddress], executor: &mut impl Executor) -> Result<(), Error> {
    let steps: Vec<_> = addresses.iter().flat_map(plan_teardown).collect();
    apply(&steps, executor, OnFailure::Continue)
        .map_err(|error| error.within("TeardownPodNetwork: unable to teardown IP based container routes and rules"))
}

/// Whether this can be set up at all.
pub(crate) fn validate_interfaces(interfaces: &[PodInterface], mtu: u32) -> Result<(), Error> {
    validate(interfaces).and_then(|()| validate_mtu(interfaces, mtu))
}

fn validate(interfaces: &[PodInterface]) -> Result<(), Error> {
    let invalid = |text: String| Err(Error::Invalid(text));
    if interfaces.is_empty() {
        return invalid("the pod has no interface to set up".to_owned());
    }
    for interface in interfaces {
        for name in [&interface.name, &interface.host_veth] {
            if let Err(error) = names::validate(name) {
                return invalid(format!("{error}: {name:?}"));
            }
        }
        if interface.table == table::LOCAL {
            return invalid(format!("route table {} of {} is the kernel's own", interface.table, interface.address));
        }
    }
    Ok(())
}

fn validate_mtu(interfaces: &[PodInterface], mtu: u32) -> Result<(), Error> {
    let has_ipv6 = interfaces.iter().any(|i| i.address.is_ipv6());
    let min = if has_ipv6 { MIN_MTU_V6 } else { MIN_MTU };
    if (min..=MAX_MTU).contains(&mtu) {
        return Ok(());
    }
    let family = if has_ipv6 { " for IPv6" } else { "" };
    Err(Error::Invalid(format!("MTU {mtu} is not between {min} and {MAX_MTU}{family}; set POD_MTU")))
}
