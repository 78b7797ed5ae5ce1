//! EC2's mutating operations and what they refuse (spec 03 §16.1, §16.2).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use reservoir_core::ip::Ipv4Net;

use super::audit::{INSTANCE_TAG, Violation};
use super::aws::{Attachment, AttachmentStatus, Aws, Effect, Instance};
use super::ops::{Create, Op, Reply};
use super::refusal::Refusal;

/// Addresses of an interface that no instance type bounds yet.
const MOST_ADDRESSES: u32 = 50;
const MOST_TAGS: usize = 50;
const MOST_GROUPS: usize = 16;

impl Aws {
    /// One mutating operation. Describe calls are in [`super::describe`].
    pub(super) fn apply(&mut self, op: &Op, now: Duration) -> Result<Reply, Refusal> {
        self.watch_unmanaged(op);
        match op {
            Op::CreateNetworkInterface(create) => self.create(create, now),
            Op::AttachNetworkInterface { eni, instance, device_index, card } => {
                self.attach(eni, instance, *device_index, *card, now)
            }
            Op::ModifyNetworkInterfaceAttribute { eni, attachment, groups } => {
                self.modify(eni, attachment.as_ref(), groups.as_deref())
            }
            Op::DetachNetworkInterface { attachment } => self.detach(attachment),
            Op::DeleteNetworkInterface { eni } => self.delete(eni),
            Op::AssignPrivateIpAddresses { eni, addresses, prefixes } => self.assign(eni, *addresses, *prefixes),
            Op::UnassignPrivateIpAddresses { eni, addresses, prefixes } => self.unassign(eni, addresses, prefixes),
            Op::CreateTags { resources, tags } => self.tag(resources, tags),
            Op::DescribeNetworkInterfaces(_)
            | Op::DescribeInstances(_)
            | Op::DescribeSubnets(_)
            | Op::DescribeInstanceTypes(_) => self.describe(op, now),
        }
    }

    fn create(&mut self, create: &Create, now: Duration) -> Result<Reply, Refusal> {
        if let Some((first, made)) = create.client_token.as_ref().and_then(|t| self.tokens.get(t)) {
            if first != create {
                return Err(Refusal::new(
                    "IdempotentParameterMismatch",
                    "The specified client token was used before with other parameters",
                ));
            }
            if let Some(id) = made {
                let eni = self.enis.get(id).ok_or_else(|| Refusal::no_interface(id))?;
                return Ok(Reply::Created(Box::new(eni.clone())));
            }
        }
        let made = self.make(create, now);
        if let Some(token) = &create.client_token
            && (made.is_ok() || self.failed_token_binds)
        {
            self.tokens.insert(token.clone(), (create.clone(), made.as_ref().ok().cloned()));
        }
        let id = made?;
        if !create.tags.iter().any(|(key, _)| key == INSTANCE_TAG) {
            self.violations.push(Violation::Untagged { eni: id.clone() });
        }
        let eni = self.enis.get(&id).ok_or_else(|| Refusal::no_interface(&id))?;
        Ok(Reply::Created(Box::new(eni.clone())))
    }

    pub(super) fn make(&mut self, create: &Create, now: Duration) -> Result<String, Refusal> {
        self.check_groups(&create.groups)?;
        check_tags(&BTreeMap::new(), &create.tags)?;
        if create.addresses > 0 && create.prefixes > 0 {
            return Err(exclusive());
        }
        let at = self.subnets.iter().position(|s| s.id == create.subnet);
        let at = at.ok_or_else(|| Refusal::no_subnet(&create.subnet))?;
        if self.enis.len() >= self.eni_quota as usize {
            return Err(Refusal::new(
                "NetworkInterfaceLimitExceeded",
                format!("The maximum number of network interfaces has been reached: {}", self.eni_quota),
            ));
        }
        if create.addresses.saturating_add(create.prefixes) >= MOST_ADDRESSES {
            return Err(too_many_addresses(create.addresses.saturating_add(create.prefixes)));
        }
        let pool = &mut self.subnets[at].pool;
        let mut addresses =
            pool.take_addresses(1 + create.addresses, &mut self.random).ok_or_else(|| no_address(&create.subnet))?;
        let Some(prefixes) = pool.take_prefixes(create.prefixes, &mut self.random) else {
            addresses.into_iter().for_each(|a| pool.release(a));
            return Err(no_block());
        };
        let zone = self.subnets[at].availability_zone.clone();
        let mut eni = self.blank_eni(&create.subnet, &zone, now);
        eni.primary = Some(addresses.remove(0));
        eni.secondary = addresses;
        eni.prefixes = prefixes;
        eni.description = create.description.clone();
        eni.groups = if create.groups.is_empty() { self.groups[..1].to_vec() } else { create.groups.clone() };
        eni.tags = create.tags.iter().cloned().collect();
        eni.tracking = create.tracking;
        eni.created = true;
        let id = eni.id.clone();
        self.insert(eni);
        self.effects.push(Effect::Created(id.clone()));
        Ok(id)
    }

    pub(super) fn attach(
        &mut self,
        id: &str,
        instance: &str,
        device_index: u32,
        card: u32,
        now: Duration,
    ) -> Result<Reply, Refusal> {
        let eni = self.enis.get(id).filter(|e| e.visible_from <= now).ok_or_else(|| Refusal::no_interface(id))?;
        let machine =
            self.instances.get(instance).filter(|i| !i.terminated).ok_or_else(|| Refusal::no_instance(instance))?;
        if eni.attachment.is_some() {
            return Err(Refusal::invalid(format!("Network interface '{id}' is currently in use.")));
        }
        if eni.availability_zone != machine.availability_zone {
            return Err(Refusal::invalid(format!(
                "Instance '{instance}' and network interface '{id}' are not in the same availability zone"
            )));
        }
        let Some(limit) = machine.limits.cards.iter().find(|c| c.index == card) else {
            return Err(Refusal::invalid(format!(
                "Network card index {card} exceeds the limit for {}",
                machine.instance_type
            )));
        };
        let on_card = machine.enis.iter().filter_map(|e| self.enis.get(e)?.attachment.as_ref());
        let count = on_card.filter(|a| a.card == card).count() as u32;
        if count >= limit.max_enis {
            let kind = &machine.instance_type;
            let message = format!("Interface count {} exceeds the limit for {kind}", count + 1);
            return Err(Refusal::new("AttachmentLimitExceeded", message));
        }
        if self.index_taken(machine, device_index, card) {
            return Err(Refusal::invalid(format!(
                "Instance '{instance}' already has an interface attached at device index '{device_index}'."
            )));
        }
        if eni.slots_taken() > machine.limits.ipv4_per_eni {
            return Err(too_many_addresses(eni.slots_taken()));
        }
        let attachment = self.fresh_id("eni-attach");
        if let (Some(eni), Some(machine)) = (self.enis.get_mut(id), self.instances.get_mut(instance)) {
            machine.enis.push(id.to_owned());
            eni.since = now;
            eni.attachment = Some(Attachment {
                id: attachment.clone(),
                instance: instance.to_owned(),
                device_index,
                card,
                status: AttachmentStatus::Attaching,
                delete_on_termination: false,
                link: false,
            });
        }
        self.available.remove(id);
        self.attachments.insert(attachment.clone(), id.to_owned());
        self.effects.push(Effect::Attaching(id.to_owned()));
        Ok(Reply::Attached { attachment, card })
    }

    fn modify(
        &mut self,
        id: &str,
        attachment: Option<&(String, bool)>,
        groups: Option<&[String]>,
    ) -> Result<Reply, Refusal> {
        if attachment.is_some() == groups.is_some() {
            return Err(Refusal::new(
                "InvalidParameterCombination",
                "Give exactly one attribute to modify: Attachment or Groups",
            ));
        }
        if let Some(groups) = groups {
            self.check_groups(groups)?;
        }
        let eni = self.enis.get_mut(id).ok_or_else(|| Refusal::no_interface(id))?;
        if let Some((attachment, flag)) = attachment {
            match eni.attachment.as_mut().filter(|a| a.id == *attachment) {
                Some(own) => own.delete_on_termination = *flag,
                None => return Err(Refusal::no_attachment(attachment)),
            }
            self.effects.push(Effect::Touched(id.to_owned()));
        }
        if let Some(groups) = groups {
            if groups.is_empty() {
                return Err(Refusal::invalid("A network interface needs at least one security group"));
            }
            eni.groups = groups.to_vec();
            self.effects.push(Effect::Groups(id.to_owned()));
        }
        Ok(Reply::Done)
    }

    fn detach(&mut self, attachment: &str) -> Result<Reply, Refusal> {
        let unknown = || Refusal::no_attachment(attachment);
        let id = self.attachments.get(attachment).ok_or_else(unknown)?;
        let eni = self.enis.get_mut(id).ok_or_else(unknown)?;
        let own = eni.attachment.as_mut().ok_or_else(unknown)?;
        if own.device_index == 0 && own.card == 0 {
            return Err(Refusal::new(
                "OperationNotPermitted",
                "The network interface at device index 0 and networkCard index 0 cannot be detached.",
            ));
        }
        if own.status != AttachmentStatus::Detaching {
            own.status = AttachmentStatus::Detaching;
            self.effects.push(Effect::Detaching(id.clone()));
        }
        Ok(Reply::Done)
    }

    fn delete(&mut self, id: &str) -> Result<Reply, Refusal> {
        let eni = self.enis.get(id).ok_or_else(|| Refusal::no_interface(id))?;
        if eni.attachment.is_some() {
            return Err(Refusal::invalid(format!("Network interface '{id}' is currently in use.")));
        }
        self.remove(id);
        Ok(Reply::Done)
    }

    fn assign(&mut self, id: &str, addresses: u32, prefixes: u32) -> Result<Reply, Refusal> {
        let eni = self.enis.get_mut(id).ok_or_else(|| Refusal::no_interface(id))?;
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
        let instance = eni.attachment.as_ref().and_then(|a| self.instances.get(&a.instance));
        let most = instance.map_or(MOST_ADDRESSES, |i| i.limits.ipv4_per_eni);
        if eni.slots_taken().saturating_add(wanted) > most {
            return Err(too_many_addresses(eni.slots_taken().saturating_add(wanted)));
        }
        let subnet = self.subnets.iter_mut().find(|s| s.id == eni.subnet);
        let pool = &mut subnet.ok_or_else(|| Refusal::no_subnet(&eni.subnet))?.pool;
        let new_addresses = pool.take_addresses(addresses, &mut self.random).ok_or_else(|| no_address(&eni.subnet))?;
        let new_prefixes = pool.take_prefixes(prefixes, &mut self.random).ok_or_else(no_block)?;
        eni.secondary.extend(&new_addresses);
        eni.prefixes.extend(&new_prefixes);
        self.effects.push(Effect::Addresses(id.to_owned()));
        Ok(Reply::Assigned { eni: id.to_owned(), addresses: new_addresses, prefixes: new_prefixes })
    }

    fn unassign(&mut self, id: &str, addresses: &[Ipv4Addr], prefixes: &[Ipv4Net]) -> Result<Reply, Refusal> {
        let eni = self.enis.get_mut(id).ok_or_else(|| Refusal::no_interface(id))?;
        if addresses.is_empty() && prefixes.is_empty() {
            return Err(Refusal::new("MissingParameter", "Give PrivateIpAddresses or Ipv4Prefixes, one or more"));
        }
        if let Some(address) = addresses.iter().find(|&&a| eni.primary == Some(a)) {
            return Err(Refusal::invalid(format!("The primary private IP address {address} cannot be unassigned")));
        }
        if let Some(address) = addresses.iter().find(|a| !eni.secondary.contains(a)) {
            return Err(Refusal::invalid(format!("Some of [{address}] are not assigned to interface {id}")));
        }
        if let Some(prefix) = prefixes.iter().find(|p| !eni.prefixes.contains(p)) {
            return Err(Refusal::invalid(format!("Some of [{prefix}] are not assigned to interface {id}")));
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

    fn tag(&mut self, resources: &[String], tags: &[(String, String)]) -> Result<Reply, Refusal> {
        if resources.is_empty() || tags.is_empty() {
            return Err(Refusal::new("MissingParameter", "Give ResourceId and Tag, one or more of each"));
        }
        for id in resources {
            check_tags(self.tags_of(id)?, tags)?;
        }
        for id in resources {
            self.tags_of(id)?.extend(tags.iter().cloned());
            if self.enis.contains_key(id) {
                self.effects.push(Effect::Touched(id.clone()));
            }
        }
        Ok(Reply::Done)
    }

    fn tags_of(&mut self, id: &str) -> Result<&mut BTreeMap<String, String>, Refusal> {
        if id.starts_with("subnet-") {
            let subnet = self.subnets.iter_mut().find(|s| s.id == id);
            return subnet.map(|s| &mut s.tags).ok_or_else(|| Refusal::no_subnet(id));
        }
        self.enis.get_mut(id).map(|e| &mut e.tags).ok_or_else(|| Refusal::no_interface(id))
    }

    pub(super) fn index_taken(&self, instance: &Instance, device_index: u32, card: u32) -> bool {
        let attachments = instance.enis.iter().filter_map(|e| self.enis.get(e)?.attachment.as_ref());
        attachments.into_iter().any(|a| a.device_index == device_index && a.card == card)
    }

    fn check_groups(&self, groups: &[String]) -> Result<(), Refusal> {
        if let Some(group) = groups.iter().find(|g| !self.groups.contains(g)) {
            return Err(Refusal::new("InvalidGroup.NotFound", format!("The security group '{group}' does not exist")));
        }
        if groups.len() > MOST_GROUPS {
            return Err(Refusal::new(
                "SecurityGroupsPerInterfaceLimitExceeded",
                format!("{} security groups; an interface takes {MOST_GROUPS}", groups.len()),
            ));
        }
        Ok(())
    }
}

fn check_tags(own: &BTreeMap<String, String>, tags: &[(String, String)]) -> Result<(), Refusal> {
    if let Some((key, _)) = tags.iter().find(|(key, _)| key.to_ascii_lowercase().starts_with("aws:")) {
        return Err(Refusal::invalid(format!("Tag keys starting with 'aws:' are reserved for internal use: {key}")));
    }
    let new: BTreeSet<_> = tags.iter().map(|(key, _)| key).filter(|key| !own.contains_key(*key)).collect();
    if own.len() + new.len() > MOST_TAGS {
        let message = format!("{} tags; a resource takes {MOST_TAGS}", own.len() + new.len());
        return Err(Refusal::new("TagLimitExceeded", message));
    }
    Ok(())
}

fn exclusive() -> Refusal {
    Refusal::new(
        "InvalidParameterCombination",
        "SecondaryPrivateIpAddressCount and Ipv4PrefixCount cannot be given together",
    )
}

fn too_many_addresses(count: u32) -> Refusal {
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
