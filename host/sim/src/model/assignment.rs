//! Addresses and prefixes of an interface: assign and unassign, all or nothing (spec 03 §16.2).

use std::net::{Ipv4Addr, Ipv6Addr};

use reservoir_core::ip::{IpNet, Ipv4Net};

use super::aws::{Aws, Effect, Eni, Subnet};
use super::ops::{Create, Reply};
use super::refusal::Refusal;
use super::subnet::AddressPool;
use super::subnet6::Ipv6Pool;

/// Addresses of an interface that no instance type bounds yet.
const MOST_ADDRESSES: u32 = 50;

/// What a new interface begins with.
pub(super) struct Taken {
    pub addresses: Vec<Ipv4Addr>,
    pub prefixes: Vec<Ipv4Net>,
    pub ipv6: Vec<Ipv6Addr>,
    pub ipv6_prefixes: Vec<IpNet>,
}

impl Subnet {
    /// Everything that `create` asks for, `own` IPv4 addresses (0 or 1) of the interface itself first; or nothing.
    pub(super) fn take_for(
        &mut self,
        create: &Create,
        own: u32,
        random: &mut super::delays::Random,
    ) -> Result<Taken, Refusal> {
        let pool = &mut self.pool;
        let addresses = pool.take_addresses(own + create.addresses, random).ok_or_else(|| no_address(&self.id))?;
        let give_back = |pool: &mut AddressPool| addresses.iter().for_each(|&a| pool.release(a));
        let Some(prefixes) = pool.take_prefixes(create.prefixes, random) else {
            give_back(pool);
            return Err(no_block());
        };
        match take_ipv6(&self.id, self.ipv6.as_mut(), create.ipv6_addresses, create.ipv6_prefixes, random) {
            Ok((ipv6, ipv6_prefixes)) => Ok(Taken { addresses, prefixes, ipv6, ipv6_prefixes }),
            Err(refusal) => {
                give_back(pool);
                prefixes.iter().for_each(|&p| pool.release_prefix(p));
                Err(refusal)
            }
        }
    }
}

fn take_ipv6(
    subnet: &str,
    pool: Option<&mut Ipv6Pool>,
    addresses: u32,
    prefixes: u32,
    random: &mut super::delays::Random,
) -> Result<(Vec<Ipv6Addr>, Vec<IpNet>), Refusal> {
    if addresses == 0 && prefixes == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let message = || format!("The subnet '{subnet}' has no IPv6 CIDR block associated with it.");
    let pool = pool.ok_or_else(|| Refusal::invalid(message()))?;
    let singles = pool.take_addresses(addresses, random).ok_or_else(|| no_address(subnet))?;
    let Some(blocks) = pool.take_prefixes(prefixes, random) else {
        singles.into_iter().for_each(|a| pool.release(a));
        return Err(no_block());
    };
    Ok((singles, blocks))
}

impl Aws {
    /// What the instance type lets `eni` hold of each family.
    fn slots(&self, eni: &Eni) -> u32 {
        let instance = eni.attachment.as_ref().and_then(|a| self.instances.get(&a.instance));
        instance.map_or(MOST_ADDRESSES, |i| i.limits.ipv4_per_eni)
    }

    pub(super) fn assign(&mut self, id: &str, addresses: u32, prefixes: u32) -> Result<Reply, Refusal> {
        let eni = self.enis.get(id).ok_or_else(|| Refusal::no_interface(id))?;
        if addresses > 0 && prefixes > 0 {
            return Err(exclusive());
        }
        let wanted = addresses.max(prefixes);
        if wanted == 0 {
            return Err(Refusal::new(
                "MissingParameter",
                "Give SecondaryPrivateIpAddressCount or Ipv4PrefixCount, one or more",
            ));
        }
        if eni.primary.is_none() {
            return Err(Refusal::invalid(format!("Network interface '{id}' has no IPv4 address of its own")));
        }
        let total = eni.slots_taken().saturating_add(wanted);
        if total > self.slots(eni) {
            return Err(too_many_addresses(total));
        }
        let Some(eni) = self.enis.get_mut(id) else { return Err(Refusal::no_interface(id)) };
        let subnet = self.subnets.iter_mut().find(|s| s.id == eni.subnet);
        let pool = &mut subnet.ok_or_else(|| Refusal::no_subnet(&eni.subnet))?.pool;
        let new_addresses = pool.take_addresses(addresses, &mut self.random).ok_or_else(|| no_address(&eni.subnet))?;
        let new_prefixes = pool.take_prefixes(prefixes, &mut self.random).ok_or_else(no_block)?;
        eni.secondary.extend(&new_addresses);
        eni.prefixes.extend(&new_prefixes);
        self.effects.push(Effect::Addresses(id.to_owned()));
        Ok(Reply::Assigned { eni: id.to_owned(), addresses: new_addresses, prefixes: new_prefixes })
    }

    pub(super) fn unassign(
        &mut self,
        id: &str,
        addresses: &[Ipv4Addr],
        prefixes: &[Ipv4Net],
    ) -> Result<Reply, Refusal> {
        let eni = self.enis.get_mut(id).ok_or_else(|| Refusal::no_interface(id))?;
        if addresses.is_empty() && prefixes.is_empty() {
            return Err(Refusal::new("MissingParameter", "Give PrivateIpAddresses or Ipv4Prefixes, one or more"));
        }
        if let Some(address) = addresses.iter().find(|&&a| eni.primary == Some(a)) {
            return Err(Refusal::invalid(format!("The primary private IP address {address} cannot be unassigned")));
        }
        if let Some(address) = addresses.iter().find(|a| !eni.secondary.contains(a)) {
            return Err(not_assigned(address, id));
        }
        if let Some(prefix) = prefixes.iter().find(|p| !eni.prefixes.contains(p)) {
            return Err(not_assigned(prefix, id));
        }
        eni.secondary.retain(|a| !addresses.contains(a));
        eni.prefixes.retain(|p| !prefixes.contains(p));
        if let Some(subnet) = self.subnets.iter_mut().find(|s| s.id == eni.subnet) {
            addresses.iter().for_each(|&a| subnet.pool.release(a));
            prefixes.iter().for_each(|&p| subnet.pool.release_prefix(p));
        }
        self.effects.push(Effect::Addresses(id.to_owned()));
        Ok(Reply::Done)
    }

    pub(super) fn assign_ipv6(&mut self, id: &str, addresses: u32, prefixes: u32) -> Result<Reply, Refusal> {
        let eni = self.enis.get(id).ok_or_else(|| Refusal::no_interface(id))?;
        if addresses > 0 && prefixes > 0 {
            return Err(exclusive());
        }
        if addresses == 0 && prefixes == 0 {
            return Err(Refusal::new("MissingParameter", "Give Ipv6AddressCount or Ipv6PrefixCount, one or more"));
        }
        let total = eni.ipv6_slots_taken().saturating_add(addresses.max(prefixes));
        if total > self.slots(eni) {
            return Err(too_many_addresses(total));
        }
        let Some(eni) = self.enis.get_mut(id) else { return Err(Refusal::no_interface(id)) };
        let subnet = self.subnets.iter_mut().find(|s| s.id == eni.subnet);
        let subnet = subnet.ok_or_else(|| Refusal::no_subnet(&eni.subnet))?;
        let (addresses, prefixes) = take_ipv6(&subnet.id, subnet.ipv6.as_mut(), addresses, prefixes, &mut self.random)?;
        eni.ipv6.extend(&addresses);
        eni.ipv6_prefixes.extend(&prefixes);
        self.effects.push(Effect::Addresses(id.to_owned()));
        Ok(Reply::AssignedIpv6 { eni: id.to_owned(), addresses, prefixes })
    }

    pub(super) fn unassign_ipv6(
        &mut self,
        id: &str,
        addresses: &[Ipv6Addr],
        prefixes: &[IpNet],
    ) -> Result<Reply, Refusal> {
        let eni = self.enis.get_mut(id).ok_or_else(|| Refusal::no_interface(id))?;
        if addresses.is_empty() && prefixes.is_empty() {
            return Err(Refusal::new("MissingParameter", "Give Ipv6Addresses or Ipv6Prefixes, one or more"));
        }
        if let Some(address) = addresses.iter().find(|a| !eni.ipv6.contains(a)) {
            return Err(not_assigned(address, id));
        }
        if let Some(prefix) = prefixes.iter().find(|p| !eni.ipv6_prefixes.contains(p)) {
            return Err(not_assigned(prefix, id));
        }
        eni.ipv6.retain(|a| !addresses.contains(a));
        eni.ipv6_prefixes.retain(|p| !prefixes.contains(p));
        let subnet = self.subnets.iter_mut().find(|s| s.id == eni.subnet);
        if let Some(pool) = subnet.and_then(|s| s.ipv6.as_mut()) {
            addresses.iter().for_each(|&a| pool.release(a));
            prefixes.iter().for_each(|&p| pool.release_prefix(p));
        }
        self.effects.push(Effect::Addresses(id.to_owned()));
        Ok(Reply::UnassignedIpv6 { eni: id.to_owned(), addresses: addresses.to_vec(), prefixes: prefixes.to_vec() })
    }
}

/// Whether a request to create asks for a sensible number of everything.
pub(super) fn check_counts(create: &Create, own: u32) -> Result<(), Refusal> {
    if (create.addresses > 0 && create.prefixes > 0) || (create.ipv6_addresses > 0 && create.ipv6_prefixes > 0) {
        return Err(exclusive());
    }
    let ipv4 = own.saturating_add(create.addresses).saturating_add(create.prefixes);
    let total = ipv4.max(create.ipv6_addresses.saturating_add(create.ipv6_prefixes));
    if total > MOST_ADDRESSES { Err(too_many_addresses(total)) } else { Ok(()) }
}

fn not_assigned(what: impl std::fmt::Display, id: &str) -> Refusal {
    Refusal::invalid(format!("Some of [{what}] are not assigned to interface {id}"))
}

fn exclusive() -> Refusal {
    Refusal::new("InvalidParameterCombination", "A count of addresses and a count of prefixes cannot be given together")
}

pub(super) fn too_many_addresses(count: u32) -> Refusal {
    let message = format!("Number of private addresses will exceed limit: {count}");
    Refusal::new("PrivateIpAddressLimitExceeded", message)
}

fn no_address(subnet: &str) -> Refusal {
    let message = format!("The specified subnet {subnet} does not have enough free addresses to satisfy the request.");
    Refusal::new("InsufficientFreeAddressesInSubnet", message)
}

fn no_block() -> Refusal {
    Refusal::new(
        "InsufficientCidrBlocks",
        "The specified subnet does not have enough free cidr blocks to satisfy the request",
    )
}
