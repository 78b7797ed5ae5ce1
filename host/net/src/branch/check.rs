//! Whether a branch pod is wired as it should be.

use super::{BranchPod, EnforcingMode};
use crate::error::Error;
use crate::kernel::Kernel;
use crate::netlink::reply::{LinkInfo, RouteInfo};
use crate::netns::Netns;
use crate::plan::Side;
use crate::pod::check_pair;
use crate::prefix::IpPrefix;
use crate::rule::{Family, Rule};
use crate::{names, table};

/// Compares the kernel's state with what [`super::set_up`] would have made. Which interface the trunk is and which MAC
/// address the vlan has are not known any more.
///
/// # Errors
/// [`Error::Differs`] with every difference; otherwise as `set_up`.
pub fn check(pod: &BranchPod) -> Result<(), Error> {
    let interface = pod.interface()?;
    let mut kernel = Kernel::host()?;
    kernel.enter(&Netns::open(&pod.netns)?)?;
    let mut differences = Vec::new();
    let host = check_pair(&mut kernel, &interface, 0, &mut differences)?;
    let vlan = check_vlan(&mut kernel, pod, interface.table, &mut differences)?;
    if let (Some(host), Some(_)) = (host, vlan) {
        check_ways(&mut kernel, pod, interface.table, host.index, &mut differences)?;
    }
    if differences.is_empty() { Ok(()) } else { Err(Error::Differs(differences)) }
}

/// The vlan device and the way out over it.
fn check_vlan(
    kernel: &mut Kernel,
    pod: &BranchPod,
    table: u32,
    differences: &mut Vec<String>,
) -> Result<Option<LinkInfo>, Error> {
    let device = names::vlan_device(pod.vlan);
    let link = match kernel.link(Side::Host, &device) {
        Ok(link) => link,
        Err(Error::LinkNotFound { .. }) => {
            differences.push(format!("interface {device} is missing"));
            return Ok(None);
        }
        Err(other) => return Err(other),
    };
    if !link.up {
        differences.push(format!("interface {device} is down"));
    }
    let family = Family::of(pod.address);
    let routes = kernel.routes(Side::Host, family, table, Some(link.index))?;
    if !routes.iter().any(|r| r.destination == IpPrefix::host(pod.gateway) && r.on_link) {
        differences.push(format!("table {table} has no route to the gateway {} over {device}", pod.gateway));
    }
    let default = |r: &RouteInfo| r.destination == IpPrefix::default_of(family) && r.gateway == Some(pod.gateway);
    if !routes.iter().any(default) {
        differences.push(format!("table {table} has no default route via {}", pod.gateway));
    }
    Ok(Some(link))
}

/// The route to the pod and the rules.
fn check_ways(
    kernel: &mut Kernel,
    pod: &BranchPod,
    table: u32,
    host_veth: u32,
    differences: &mut Vec<String>,
) -> Result<(), Error> {
    let (own, family) = (IpPrefix::host(pod.address), Family::of(pod.address));
    let (home, wanted) = match pod.mode {
        EnforcingMode::Strict => {
            let by = |iif: &str| Rule::of_branch(family, iif, table);
            (table, [by(&names::vlan_device(pod.vlan)), by(&pod.host_veth)])
        }
        EnforcingMode::Standard => (table::MAIN, [Rule::to_pod(own), Rule::from_pod(own, table)]),
    };
    let routes = kernel.routes(Side::Host, family, home, Some(host_veth))?;
    if !routes.iter().any(|r| r.destination == own && r.on_link) {
        differences.push(format!("table {home} has no route to {own} over {}", pod.host_veth));
    }
    let rules = kernel.rules(Side::Host, family)?;
    for rule in wanted.iter().filter(|rule| !rules.contains(rule)) {
        differences.push(format!("rule \"{rule}\" is missing on the host"));
    }
    Ok(())
}
