//! What others removed is put back: what must be there is compared with what is there, and only the difference is
//! written. A comparison that finds all right writes nothing.
//!
//! What must be there is what the plans of the other modules make; nothing here knows a rule of its own. Interfaces are
//! found by their MAC address, whatever they are called today.

mod concern;
pub mod pods;

use std::fmt;

use reservoir_core::ip::Ipv4Net;
use rustix::io::Errno;

use crate::eni::{self, EniSetup};
use crate::error::Error;
use crate::host::{self, HostConfig};
use crate::kernel::Kernel;
use crate::links;
use crate::mac::MacAddr;
use crate::netlink::reply::LinkInfo;
use crate::plan::{Executor, OnFailure, Op, Side, Step, apply_telling};
use crate::rule::Family;
use crate::sysctl;

pub use concern::{Ours, concerns};

/// What kind of thing was not as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A policy routing rule.
    Rule,
    Route,
    /// Name, MTU or state of an interface.
    Link,
    /// Of an interface.
    Address,
    /// Under `/proc/sys`.
    Setting,
    /// A rule of iptables or nftables.
    Firewall,
}

impl Kind {
    fn of(op: &Op) -> Self {
        match op {
            Op::RuleAdd(_) | Op::RuleDel(_) => Self::Rule,
            // Neighbours are the pods' business: no plan for the host has one.
            Op::RouteAdd(_) | Op::RouteReplace(_) | Op::RouteDel(_) | Op::NeighbourAdd { .. } => Self::Route,
            Op::AddressAdd { .. } | Op::AddressDel { .. } | Op::WaitDad { .. } => Self::Address,
            Op::Sysctl { .. } => Self::Setting,
            Op::LinkAddVeth(_)
            | Op::LinkAddVlan(_)
            | Op::LinkDel { .. }
            | Op::LinkUp { .. }
            | Op::LinkMtu { .. }
            | Op::LinkRename { .. } => Self::Link,
        }
    }
}

/// One thing that was put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    pub kind: Kind,
    /// The change, as `ip` would spell it.
    pub what: String,
}

impl Repair {
    fn of(step: &Step) -> Self {
        Self { kind: Kind::of(&step.op), what: step.op.to_string() }
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// What a comparison came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub done: Vec<Repair>,
    /// What could not be put right, each to be tried again with the next comparison.
    pub failed: Vec<(Repair, Error)>,
    /// Why something could not be looked at.
    pub unseen: Vec<Error>,
}

impl Outcome {
    /// Both together.
    pub fn join(&mut self, other: Self) {
        self.done.extend(other.done);
        self.failed.extend(other.failed);
        self.unseen.extend(other.unseen);
    }

    /// Nothing was amiss.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.failed.is_empty() && self.unseen.is_empty()
    }
}

/// Carries steps out one by one: which of them were done must be told, and they are few. What turned out to be right
/// already, or gone, was no repair.
fn carry_out(steps: &[Step], executor: &mut impl Executor, on_failure: OnFailure) -> Outcome {
    let mut outcome = Outcome::default();
    for step in steps {
        let changed = |step: &Step| outcome.done.push(Repair::of(step));
        if let Err(error) = apply_telling(std::slice::from_ref(step), executor, OnFailure::Stop, changed) {
            outcome.failed.push((Repair::of(step), error));
            if on_failure == OnFailure::Stop {
                break;
            }
        }
    }
    outcome
}

/// The node itself: primary interface, kernel settings, the rules of no pod. `external` are the CIDRs of external
/// services, none where the node has no rules for them. Returns the primary interface as it is called now.
///
/// # Errors
/// [`Error::LinkNotFound`] if no interface has the primary MAC address; otherwise the kernel's.
pub fn host(
    config: &HostConfig,
    primary_mac: MacAddr,
    external: Option<&[Ipv4Net]>,
) -> Result<(LinkInfo, Outcome), Error> {
    let mut kernel = Kernel::host()?;
    let primary =
        links::find(&kernel.links(Side::Host)?, primary_mac).map_err(|error| error.within(host::NO_PRIMARY))?;
    let rules = kernel.rules(Side::Host, config.family)?;
    let mut steps = host::plan(config, &host::HostFacts { primary: primary.clone(), rules });
    if let Some(external) = external {
        let rules = kernel.rules(Side::Host, Family::V4)?;
        steps.extend(host::plan_external_services(external, &rules));
    }
    steps.retain(|step| !is_set(&step.op));
    let outcome = carry_out(&steps, &mut kernel, OnFailure::Continue);
    Ok((primary, outcome))
}

/// A setting that has its value, or that this kernel does not know.
fn is_set(op: &Op) -> bool {
    let Op::Sysctl { key, value } = op else { return false };
    match sysctl::get(key) {
        Ok(found) => found == *value,
        Err(errno) => errno == Errno::NOENT,
    }
}

/// A secondary interface as it must stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secondary {
    Programmed(EniSetup),
    /// A trunk without an address of the pods' family: up, with this MTU ([`eni::bring_up`]).
    Bare {
        mac: MacAddr,
        mtu: u32,
    },
}

impl Secondary {
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        match self {
            Self::Programmed(setup) => setup.mac,
            Self::Bare { mac, .. } => *mac,
        }
    }

    /// The table of its routes, if it has any.
    #[must_use]
    pub fn table(&self) -> Option<u32> {
        match self {
            Self::Programmed(setup) => Some(setup.table),
            Self::Bare { .. } => None,
        }
    }

    fn plan(&self, link: LinkInfo, kernel: &mut Kernel) -> Result<Vec<Step>, Error> {
        match self {
            Self::Programmed(setup) => eni::plan(setup, &eni::look(setup, link, kernel)?),
            Self::Bare { mtu, .. } => Ok(eni::plan_link(&link, *mtu)),
        }
    }
}

impl From<EniSetup> for Secondary {
    fn from(setup: EniSetup) -> Self {
        Self::Programmed(setup)
    }
}

/// Secondary interfaces. One that is not there (any more) has nothing to be repaired; that one cannot be looked at does
/// not keep the others from it.
///
/// # Errors
/// The kernel's, before anything was looked at.
pub fn interfaces<'a>(secondaries: impl IntoIterator<Item = &'a Secondary>) -> Result<Outcome, Error> {
    let mut kernel = Kernel::host()?;
    let links = kernel.links(Side::Host)?;
    let mut outcome = Outcome::default();
    for secondary in secondaries {
        let Ok(link) = links::find(&links, secondary.mac()) else { continue };
        let name = link.name.clone();
        match secondary.plan(link, &mut kernel) {
            // What comes later in the plan stands on what comes first.
            Ok(steps) => outcome.join(carry_out(&steps, &mut kernel, OnFailure::Stop)),
            Err(error) => outcome.unseen.push(error.within(name)),
        }
    }
    Ok(outcome)
}
