//! Whether a pod is wired as it should be.

use rustix::io::Errno;

use super::{PodInterface, PodSetup, gateway, validate};
use crate::error::Error;
use crate::kernel::Kernel;
use crate::netlink::reply::{LinkInfo, RouteInfo};
use crate::netns::Netns;
use crate::plan::Side;
use crate::prefix::IpPrefix;
use crate::rule::{Family, PRIORITY_FROM_POD, Rule};
use crate::{sysctl, table};

/// Compares the kernel's state with what [`super::set_up`] would have made.
///
/// # Errors
/// [`Error::Differs`] with every difference; otherwise as `set_up`.
pub fn check(setup: &PodSetup) -> Result<(), Error> {
    validate(&setup.interfaces)?;
    let mut kernel = Kernel::host()?;
    kernel.enter(&Netns::open(&setup.netns)?)?;
    let mut host_rules = kernel.rules(Side::Host, Family::V4)?;
    if setup.interfaces.iter().any(|i| i.address.is_ipv6()) {
        host_rules.extend(kernel.rules(Side::Host, Family::V6)?);
    }
    let mut differences = Vec::new();
    for (index, interface) in setup.interfaces.iter().enumerate() {
        if let Some(host) = check_pair(&mut kernel, interface, index, &mut differences)? {
            Look { kernel: &mut kernel, interface, differences: &mut differences }.host(&host, &host_rules)?;
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(Error::Differs(differences)) }
}

/// Compares a veth pair and what is inside the pod; returns the host's end if both ends are there.
pub(crate) fn check_pair(
    kernel: &mut Kernel,
    interface: &PodInterface,
    index: usize,
    differences: &mut Vec<String>,
) -> Result<Option<LinkInfo>, Error> {
    let mut look = Look { kernel, interface, differences };
    let Some((host, container)) = look.links()? else { return Ok(None) };
    look.container(index, &host, &container)?;
    Ok(Some(host))
}

struct Look<'a> {
    kernel: &'a mut Kernel,
    interface: &'a PodInterface,
    differences: &'a mut Vec<String>,
}

impl Look<'_> {
    fn expect(&mut self, holds: bool, difference: impl FnOnce(&PodInterface) -> String) {
        if !holds {
            self.differences.push(difference(self.interface));
        }
    }

    fn family(&self) -> Family {
        Family::of(self.interface.address)
    }

    /// Both ends, if both are there.
    fn links(&mut self) -> Result<Option<(LinkInfo, LinkInfo)>, Error> {
        let interface = self.interface;
        let mut ends = Vec::new();
        for (side, name) in [(Side::Host, &interface.host_veth), (Side::Container, &interface.name)] {
            match self.kernel.link(side, name) {
                Ok(link) => {
                    self.expect(link.up, |_| format!("interface {name} is down"));
                    ends.push(link);
                }
                Err(Error::LinkNotFound { .. }) => self.differences.push(format!("interface {name} is missing")),
                Err(other) => return Err(other),
            }
        }
        let Ok([host, container]) = <[LinkInfo; 2]>::try_from(ends) else { return Ok(None) };
        self.expect(container.peer_index == Some(host.index), |i| {
            format!("{} in the pod is not the other end of {}", i.name, i.host_veth)
        });
        // Which MTU is the configuration of another day; that both ends have the same is for ever.
        self.expect(container.mtu == host.mtu, |i| {
            format!("{} has MTU {}, but {} has {}", i.name, container.mtu, i.host_veth, host.mtu)
        });
        // The host must never accept a pod's router advertisements. `forwarding` is not looked at: whoever turns it on
        // for the node turns it on for every interface.
        let key = format!("net/ipv6/conf/{}/accept_ra", interface.host_veth);
        match sysctl::get(&key) {
            Ok(value) => self.expect(value == "0", |_| format!("setting {key} is {value}, not 0")),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::from_kernel(format!("reading {key}"), errno)),
        }
        Ok(Some((host, container)))
    }

    fn container(&mut self, index: usize, host: &LinkInfo, container: &LinkInfo) -> Result<(), Error> {
        let own = IpPrefix::host(self.interface.address);
        let family = self.family();
        let gateway = gateway(index, family == Family::V4);
        let own_table = u32::try_from(index).ok().filter(|&i| i > 0);
        let table = own_table.unwrap_or(table::MAIN);

        let addresses = self.kernel.addresses(Side::Container, family, container.index)?;
        let found = addresses.iter().find(|a| a.address == own);
        self.expect(found.is_some(), |i| format!("{} does not have address {own}", i.name));
        self.expect(found.is_none_or(|a| !a.tentative), |i| format!("address {own} of {} is a duplicate", i.name));

        let routes = self.kernel.routes(Side::Container, family, table, Some(container.index))?;
        let to_gateway = |r: &RouteInfo| r.destination == IpPrefix::host(gateway) && r.on_link;
        self.expect(routes.iter().any(to_gateway), |i| format!("{} has no route to its gateway {gateway}", i.name));
        let default = |r: &RouteInfo| r.destination == IpPrefix::default_of(family) && r.gateway == Some(gateway);
        self.expect(routes.iter().any(default), |i| format!("{} has no default route via {gateway}", i.name));

        let neighbours = self.kernel.neighbours(Side::Container, family)?;
        let entry = neighbours.iter().find(|n| n.device_index == container.index && n.address == gateway);
        self.expect(entry.is_some_and(|n| n.permanent && Some(n.mac) == host.mac), |i| {
            format!("{} has no permanent neighbour {gateway} with the address of {}", i.name, i.host_veth)
        });

        if let Some(table) = own_table {
            let rule = Rule::from(1, own, table);
            let rules = self.kernel.rules(Side::Container, family)?;
            self.expect(rules.contains(&rule), |_| format!("rule \"{rule}\" is missing in the pod"));
        }
        Ok(())
    }

    fn host(&mut self, host: &LinkInfo, rules: &[Rule]) -> Result<(), Error> {
        let own = IpPrefix::host(self.interface.address);
        let routes = self.kernel.routes(Side::Host, self.family(), table::MAIN, None)?;
        let mut to_pod = routes.iter().filter(|r| r.destination == own);
        let is_ours = |r: &RouteInfo| r.on_link && r.device_index == Some(host.index);
        let first = to_pod.next();
        self.expect(first.is_some_and(is_ours) || to_pod.any(is_ours), |i| {
            format!("the host has no route to {own} over {}", i.host_veth)
        });
        self.expect(first.is_none_or(is_ours), |i| {
            format!("another route of the host to {own} comes before that over {}", i.host_veth)
        });
        let table = table::of_pod(self.interface.table);
        // The first rule of an address decides: one that another pod left takes this pod's traffic elsewhere.
        let others = rules.iter().filter(|r| r.priority == PRIORITY_FROM_POD && r.from == Some(own) && !r.foreign);
        for other in others.filter(|r| r.table != table && r.to.is_none() && r.iif.is_none()) {
            self.expect(false, |_| format!("rule \"{other}\" on the host is of another pod"));
        }
        let mut wanted = vec![Rule::to_pod(own)];
        if table != table::MAIN {
            wanted.push(Rule::from_pod(own, table));
        }
        for rule in wanted {
            self.expect(rules.contains(&rule), |_| format!("rule \"{rule}\" is missing on the host"));
        }
        Ok(())
    }
}
