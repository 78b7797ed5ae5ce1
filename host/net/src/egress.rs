//! A way out in the other address family (spec 04 §14): IPv4 for the pods of an IPv6 cluster, IPv6 for those of an IPv4
//! cluster. A second veth pair with an address that means something on this node only, and SNAT to the node's own.

pub mod firewall;
mod plan;

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::Error;
use crate::kernel::Kernel;
use crate::mac::MacAddr;
use crate::names;
use crate::netns::Netns;
use crate::plan::{Executor, OnFailure, Op, Side, Step, apply};
use crate::pod::MIN_MTU_V6;
use crate::prefix::IpPrefix;
use crate::rule::Family;

/// The smallest MTU with which the kernel speaks IPv4, and the largest of a veth.
const MIN_MTU_V4: u32 = 68;
const MAX_MTU: u32 = 65_535;
/// Host names that are tried until one is free.
const NAMES: u32 = 10;
/// How often the pod's route on the host is tried: the interface of the pod that had the address before may not be gone
/// yet.
const ROUTE_ATTEMPTS: u32 = 5;
const ROUTE_WAIT: Duration = Duration::from_millis(100);
/// The kernel gives the host's end its link-local address as soon as the pod's end is up, in its own time.
const LINK_LOCAL_WAIT: Duration = Duration::from_secs(1);
const LINK_LOCAL_POLL: Duration = Duration::from_millis(20);

/// What a pod is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressSetup {
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// `CNI_IFNAME`: the pod's first interface. It must not speak IPv6 where this one is for IPv6.
    pub ifname: String,
    /// Of both ends.
    pub mtu: u32,
    /// The pod's address, with the length of the range it is from. Its family decides everything.
    pub address: IpPrefix,
    /// The range's gateway, which is every host end (IPv4) or nobody (IPv6).
    pub gateway: IpAddr,
    /// Where packets to these destinations go; the range's gateway if none is named.
    pub routes: Vec<(IpPrefix, Option<IpAddr>)>,
}

/// One end of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub name: String,
    pub mac: MacAddr,
}

/// A wired pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressLink {
    pub host: End,
    pub pod: End,
}

/// The name of the pod's end.
#[must_use]
pub fn interface(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4if0",
        Family::V6 => "v6if0",
    }
}

/// Wires a pod. What an earlier attempt left in the pod is replaced; when anything fails, everything done is undone.
///
/// # Errors
/// [`Error::Invalid`] for what cannot be right, [`Error::NoSuchNamespace`], or the kernel's error within what was being
/// done.
pub fn set_up(setup: &EgressSetup) -> Result<EgressLink, Error> {
    let mut kernel = Kernel::host()?;
    let enter = |kernel: &mut Kernel| kernel.enter(&Netns::open(&setup.netns)?);
    let host = wire(setup, &mut kernel, random_end, enter, link_local)?;
    let name = interface(setup.address.family()).to_owned();
    let mac = match kernel.known(Side::Container, &name) {
        Some((_, mac)) => mac,
        None => kernel.link(Side::Container, &name)?.mac,
    };
    let mac = mac.ok_or_else(|| Error::LinkNotFound { key: format!("MAC address of {name}") })?;
    Ok(EgressLink { host, pod: End { name, mac } })
}

/// The whole of [`set_up`] on any executor, and the host's end. `enter` is called when the pod's side is about to be
/// needed, `host_end` for each name that is tried, `link_local` for the link-local address of the host's end.
///
/// # Errors
/// As `set_up`.
pub fn wire<E: Executor>(
    setup: &EgressSetup,
    executor: &mut E,
    mut host_end: impl FnMut() -> Result<End, Error>,
    enter: impl FnOnce(&mut E) -> Result<(), Error>,
    link_local: impl FnOnce(&mut E, &str) -> Result<Ipv6Addr, Error>,
) -> Result<End, Error> {
    validate(setup)?;
    let mut host = host_end()?;
    let plan = plan::plan(setup, &host);
    apply(&plan.host, executor, OnFailure::Stop)?;
    enter(executor)?;
    apply(&plan.prepare, executor, OnFailure::Stop)?;
    let mut failed = 0;
    loop {
        match apply(&plan::create(setup, &host), executor, OnFailure::Stop) {
            Ok(()) => break,
            Err(error) if error.errno() == Some(Errno::EXIST) && failed + 1 < NAMES => {
                failed += 1;
                host = host_end()?;
            }
            Err(error) => return Err(error),
        }
    }
    match connect(setup, &host, executor, link_local) {
        Ok(()) => Ok(host),
        Err(error) => match unwire(&host.name, executor) {
            Ok(()) => Err(error),
            Err(left) => Err(Error::Several(vec![error, left.within("undoing it")])),
        },
    }
}

/// Everything after the pair is there.
fn connect<E: Executor>(
    setup: &EgressSetup,
    host: &End,
    executor: &mut E,
    link_local: impl FnOnce(&mut E, &str) -> Result<Ipv6Addr, Error>,
) -> Result<(), Error> {
    let plan = plan::plan(setup, host);
    apply(&plan.connect, executor, OnFailure::Stop)?;
    if setup.address.family() == Family::V6 {
        let gateway = link_local(executor, &host.name)?;
        apply(&[plan::default_route(gateway)], executor, OnFailure::Stop)?;
    }
    apply(&plan.host_address, executor, OnFailure::Stop)?;
    add_host_route(&plan.host_route, executor)
}

fn add_host_route(step: &Step, executor: &mut impl Executor) -> Result<(), Error> {
    const FAILED: &str = "failed to add route on host";
    for attempt in 1..=ROUTE_ATTEMPTS {
        match apply(std::slice::from_ref(step), executor, OnFailure::Stop) {
            Ok(()) => return Ok(()),
            Err(error) if error.errno() != Some(Errno::EXIST) => return Err(error.within(FAILED)),
            Err(error) if attempt == ROUTE_ATTEMPTS => {
                let stale = format!("stale route still exists after {ROUTE_ATTEMPTS} attempts");
                return Err(error.within(stale).within(FAILED));
            }
            Err(_) => executor.sleep(ROUTE_WAIT),
        }
    }
    Ok(())
}

/// Removes the pair by its host end, and with it all its addresses and routes. That it is gone already is fine.
///
/// # Errors
/// The kernel's.
pub fn undo(host_veth: &str) -> Result<(), Error> {
    unwire(host_veth, &mut Kernel::host()?)
}

fn unwire(host_veth: &str, executor: &mut impl Executor) -> Result<(), Error> {
    let step = Step::host(Op::LinkDel { device: host_veth.to_owned() }).tolerate(&[Errno::NODEV]);
    apply(&[step], executor, OnFailure::Continue)
}

/// Removes the pair by the pod's end. A namespace that is gone took it along.
///
/// # Errors
/// The kernel's.
pub fn tear_down(netns: &Path, family: Family) -> Result<(), Error> {
    let netns = match Netns::open(netns) {
        Ok(netns) => netns,
        Err(Error::NoSuchNamespace { .. } | Error::NotANamespace { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut kernel = Kernel::host()?;
    match kernel.enter(&netns) {
        // What remains of a namespace's file after its end.
        Err(Error::NotANamespace { .. }) => return Ok(()),
        other => other?,
    }
    let device = interface(family).to_owned();
    let step = Step::container(Op::LinkDel { device }).tolerate(&[Errno::NODEV]);
    apply(&[step], &mut kernel, OnFailure::Continue)
}

fn validate(setup: &EgressSetup) -> Result<(), Error> {
    let family = setup.address.family();
    if Family::of(setup.gateway) != family {
        return Err(Error::Invalid(format!("gateway {} is of another family than {}", setup.gateway, setup.address)));
    }
    if setup.address.is_host() {
        let text =
            format!("egress address {} has the length of a single address; give ipam.ranges a subnet", setup.address);
        return Err(Error::Invalid(text));
    }
    let min = match family {
        Family::V4 => MIN_MTU_V4,
        Family::V6 => MIN_MTU_V6,
    };
    if !(min..=MAX_MTU).contains(&setup.mtu) {
        return Err(Error::Invalid(format!("MTU {} is not between {min} and {MAX_MTU}; set POD_MTU", setup.mtu)));
    }
    if let Err(error) = names::validate(&setup.ifname) {
        return Err(Error::Invalid(format!("{error}: {:?}", setup.ifname)));
    }
    Ok(())
}

/// A random name, and an address set at creation, which udev leaves alone.
fn random_end() -> Result<End, Error> {
    let failed = |errno| Error::from_kernel("generating a name and a MAC address".to_owned(), errno);
    let mut bytes = [0; 4];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(failed)?;
    Ok(End { name: names::egress_veth(bytes), mac: MacAddr::random().map_err(failed)? })
}

/// The first link-local address of the host's end.
fn link_local(kernel: &mut Kernel, device: &str) -> Result<Ipv6Addr, Error> {
    let index = kernel.link(Side::Host, device)?.index;
    let deadline = Instant::now() + LINK_LOCAL_WAIT;
    loop {
        let addresses = kernel.addresses(Side::Host, Family::V6, index)?;
        let found = addresses.iter().find_map(|a| match a.address.address() {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
            _ => None,
        });
        match found {
            Some(address) => return Ok(address),
            None if Instant::now() >= deadline => return Err(no_link_local(device)),
            None => thread::sleep(LINK_LOCAL_POLL),
        }
    }
}

/// What [`wire`]'s `link_local` says when there is none.
#[must_use]
pub fn no_link_local(device: &str) -> Error {
    Error::Invalid(format!("link-local IPv6 address not found on host interface {device}"))
}

#[cfg(test)]
mod tests;
