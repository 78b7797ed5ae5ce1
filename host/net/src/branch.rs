//! Pods with a branch interface: a vlan of the node's trunk interface with security groups of its own (spec 04 §6).
//!
//! ```text
//! pod eth0 ── veth ── host ── table 100+vlan ── vlan.eth.<vlan> ── trunk ── VPC
//! ```
//!
//! | mode | the host's lookups |
//! |---|---|
//! | strict | by the interface a packet comes in by, before all others: even pods of one node meet in the VPC |
//! | standard | as for any pod; only what leaves the node takes the branch interface |

mod check;
mod plan;

use std::net::IpAddr;
use std::path::PathBuf;

use crate::error::Error;
use crate::kernel::Kernel;
use crate::mac::MacAddr;
use crate::netns::Netns;
use crate::plan::{Executor, OnFailure, apply};
use crate::pod::{self, PodInterface};
use crate::{names, table};

pub use check::check;
pub use plan::{BranchPlan, plan, plan_rollback, plan_teardown};

/// How a branch pod is separated from its node: `POD_SECURITY_GROUP_ENFORCING_MODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnforcingMode {
    Strict,
    Standard,
}

impl EnforcingMode {
    /// Reads the setting. What is neither is strict: the reference leaves such a pod without routes (DW-2).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text == "standard" { Self::Standard } else { Self::Strict }
    }

    /// The prefix of the host veth; `configured` is that of ordinary pods (spec 04 §3.1).
    #[must_use]
    pub fn veth_prefix(self, configured: &str) -> &str {
        match self {
            Self::Strict => names::STRICT_BRANCH_PREFIX,
            Self::Standard => configured,
        }
    }
}

/// A branch pod on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchPod {
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// Name of the interface inside the pod.
    pub name: String,
    /// Name of its other end, on the host.
    pub host_veth: String,
    pub address: IpAddr,
    pub vlan: u16,
    /// Of the branch interface's subnet.
    pub gateway: IpAddr,
    pub mode: EnforcingMode,
}

impl BranchPod {
    /// The pod's end, and the table of its branch interface.
    fn interface(&self) -> Result<PodInterface, Error> {
        let table = table::of_branch(self.vlan).ok_or_else(|| Error::Invalid(unusable_vlan(self.vlan)))?;
        if self.address.is_ipv4() != self.gateway.is_ipv4() {
            let text =
                format!("gateway {} of the branch interface is not of the family of {}", self.gateway, self.address);
            return Err(Error::Invalid(text));
        }
        let (name, host_veth) = (self.name.clone(), self.host_veth.clone());
        Ok(PodInterface { name, host_veth, address: self.address, table })
    }
}

/// What a branch pod is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchSetup {
    pub pod: BranchPod,
    /// Of both ends of the veth pair; the vlan has the trunk's.
    pub mtu: u32,
    /// Of the branch interface.
    pub mac: MacAddr,
    /// Index of the trunk interface.
    pub trunk: u32,
}

const SETUP: &str = "SetupBranchENIPodNetwork";
const TEARDOWN: &str = "TeardownBranchENIPodNetwork";

fn unusable_vlan(vlan: u16) -> String {
    format!("vlan {vlan} is not between 1 and 4094, or is 153, 154 or 155, whose route tables are the kernel's own")
}

/// Wires a branch pod. When anything fails, everything done for the pod is undone.
///
/// # Errors
/// As [`pod::set_up`], within the texts of spec 04 §6.2; [`Error::Invalid`] for a vlan that cannot be.
pub fn set_up(setup: &BranchSetup) -> Result<(), Error> {
    let _turn = match Netns::open(&setup.pod.netns) {
        Ok(netns) => Some(netns.lock().map_err(|e| e.within(SETUP))?),
        Err(_) => None,
    };
    // From the vlan to the rules that tell whose it is: who removes what dead pods left waits meanwhile.
    let _wiring = Netns::current().and_then(Netns::share).map_err(|e| e.within(SETUP))?;
    let mut kernel = Kernel::host()?;
    let enter = |kernel: &mut Kernel| kernel.enter(&Netns::open(&setup.pod.netns)?);
    wire(setup, &mut kernel, enter)
}

/// The whole of [`set_up`] on any executor; `enter` is called when the pod's side is about to be needed.
///
/// # Errors
/// As `set_up`.
pub fn wire<E: Executor>(
    setup: &BranchSetup,
    executor: &mut E,
    enter: impl FnOnce(&mut E) -> Result<(), Error>,
) -> Result<(), Error> {
    let valid = setup.pod.interface().and_then(|interface| {
        pod::validate_interfaces(std::slice::from_ref(&interface), setup.mtu)?;
        Ok(interface)
    });
    let interface = valid.map_err(|e| e.within(SETUP))?;
    let mac = MacAddr::random()
        .map_err(|errno| Error::from_kernel("generating a MAC address".to_owned(), errno).within(SETUP))?;
    let plan = plan(setup, &interface, mac);
    let mut touched = false;
    let done = carry_out(&plan, executor, enter, &mut touched).map_err(|e| e.within(SETUP));
    match done {
        Err(error) if touched => {
            match apply(&plan_rollback(&setup.pod, interface.table), executor, OnFailure::Continue) {
                Ok(()) => Err(error),
                Err(left) => Err(Error::Several(vec![error, left.within("undoing it")])),
            }
        }
        other => other,
    }
}

fn carry_out<E: Executor>(
    plan: &BranchPlan,
    executor: &mut E,
    enter: impl FnOnce(&mut E) -> Result<(), Error>,
    touched: &mut bool,
) -> Result<(), Error> {
    const VETH: &str = "failed to setup veth pair";
    let in_veth = |error: Error| error.within("failed to setup veth network").within(VETH);
    apply(&plan.veth.prepare, executor, OnFailure::Stop).map_err(|e| e.within(VETH))?;
    enter(executor).map_err(in_veth)?;
    apply(&plan.veth.create, executor, OnFailure::Stop).map_err(in_veth)?;
    *touched = true;
    apply(&plan.veth.container, executor, OnFailure::Stop).map_err(in_veth)?;
    apply(&plan.vlan, executor, OnFailure::Stop)?;
    apply(&plan.pod, executor, OnFailure::Stop).map_err(|e| e.within(plan.pod_context))
}

/// Removes a branch pod from the host, in whichever mode it was set up. The veth pair goes with the pod's namespace.
/// Without an address only what the vlan tells is removed. What is gone already is fine.
///
/// # Errors
/// Everything that could not be removed; [`Error::Invalid`] for a vlan that cannot be.
pub fn tear_down(vlan: u16, address: Option<IpAddr>) -> Result<(), Error> {
    unwire(vlan, address, &mut Kernel::host()?)
}

/// The whole of [`tear_down`] on any executor.
///
/// # Errors
/// As `tear_down`.
pub fn unwire(vlan: u16, address: Option<IpAddr>, executor: &mut impl Executor) -> Result<(), Error> {
    let Some(table) = table::of_branch(vlan) else { return Err(Error::Invalid(unusable_vlan(vlan)).within(TEARDOWN)) };
    apply(&plan_teardown(vlan, table, address), executor, OnFailure::Continue).map_err(|e| e.within(TEARDOWN))
}
