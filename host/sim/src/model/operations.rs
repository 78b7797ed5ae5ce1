//! EC2's mutating operations and what they refuse (spec 03 §16.1, §16.2).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::assignment::{check_counts, too_many_addresses};
use super::aws::{Attachment, AttachmentStatus, Aws, Effect, Instance, InterfaceType, Subnet};
use super::config::{ConfigError, SubnetConfig};
use super::ops::{Create, Op, Reply};
use super::refusal::Refusal;

/// How long a client token is remembered.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
const MOST_TAGS: usize = 50;
const MOST_GROUPS: usize = 16;

impl Aws {
    /// One mutating operation. Describe calls are in [`super::describe`].
    pub(super) fn apply(&mut self, op: &Op, now: Duration) -> Result<Reply, Refusal> {
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
            Op::AssignIpv6Addresses { eni, addresses, prefixes } => self.assign_ipv6(eni, *addresses, *prefixes),
            Op::UnassignIpv6Addresses { eni, addresses, prefixes } => self.unassign_ipv6(eni, addresses, prefixes),
            Op::CreateTags { resources, tags } => self.tag(resources, tags),
            Op::DescribeNetworkInterfaces(_)
            | Op::DescribeInstances(_)
            | Op::DescribeSubnets(_)
            | Op::DescribeInstanceTypes(_)
            | Op::DescribeTags(_) => self.describe(op, now),
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
            self.token_times.push_back((now, token.clone()));
            while self.token_times.front().is_some_and(|(at, _)| now.saturating_sub(*at) > TOKEN_LIFE) {
                if let Some((_, old)) = self.token_times.pop_front() {
                    self.tokens.remove(&old);
                }
            }
        }
        let id = made?;
        let eni = self.enis.get(&id).ok_or_else(|| Refusal::no_interface(&id))?;
        Ok(Reply::Created(Box::new(eni.clone())))
    }

    pub(super) fn make(&mut self, create: &Create, now: Duration) -> Result<String, Refusal> {
        self.check_groups(&create.groups)?;
        check_tags(&BTreeMap::new(), &create.tags)?;
        let bare = create.interface_type == InterfaceType::EfaOnly;
        let own = u32::from(!bare && !create.without_ipv4);
        check_counts(create, own)?;
        let (ipv4, ipv6) = (create.addresses + create.prefixes, create.ipv6_addresses + create.ipv6_prefixes);
        if (own == 0 && ipv4 > 0) || (bare && ipv6 > 0) {
            let message = "An interface without an address of its own has no others";
            return Err(Refusal::new("InvalidParameterCombination", message));
        }
        let at = self.subnets.iter().position(|s| s.id == create.subnet);
        let at = at.ok_or_else(|| Refusal::no_subnet(&create.subnet))?;
        if self.enis.len() >= self.eni_quota as usize {
            return Err(Refusal::new(
                "NetworkInterfaceLimitExceeded",
                format!("The maximum number of network interfaces has been reached: {}", self.eni_quota),
            ));
        }
        let taken = self.subnets[at].take_for(create, own, &mut self.random)?;
        let zone = self.subnets[at].availability_zone.clone();
        let mut eni = self.blank_eni(&create.subnet, &zone, now);
        let mut addresses = taken.addresses.into_iter();
        eni.primary = if own > 0 { addresses.next() } else { None };
        eni.secondary = addresses.collect();
        eni.prefixes = taken.prefixes;
        eni.ipv6 = taken.ipv6;
        eni.ipv6_prefixes = taken.ipv6_prefixes;
        eni.interface_type = create.interface_type;
        eni.description = create.description.clone();
        eni.groups = if create.groups.is_empty() { self.default_groups() } else { create.groups.clone() };
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
        let slots = eni.slots_taken().max(eni.ipv6_slots_taken());
        if slots > machine.limits.ipv4_per_eni {
            return Err(too_many_addresses(slots));
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

    pub(super) fn untag(&mut self, id: &str, keys: &[String]) -> Result<(), Refusal> {
        self.tags_of(id)?.retain(|key, _| !keys.contains(key));
        self.effects.push(Effect::Touched(id.to_owned()));
        Ok(())
    }

    fn subnet_mut(&mut self, id: &str) -> Result<&mut Subnet, Refusal> {
        self.subnets.iter_mut().find(|s| s.id == id).ok_or_else(|| Refusal::no_subnet(id))
    }

    pub(super) fn occupy(&mut self, subnet: &str, count: u32) -> Result<(), Refusal> {
        let mut random = self.random.fork();
        let subnet = self.subnet_mut(subnet)?;
        let message = format!("The subnet has {} free addresses, not {count}", subnet.pool.free());
        let taken = subnet.pool.take_addresses(count, &mut random);
        subnet.taken.extend(taken.ok_or_else(|| Refusal::new("InsufficientFreeAddressesInSubnet", message))?);
        Ok(())
    }

    pub(super) fn fragment(&mut self, subnet: &str, leave: u32) -> Result<(), Refusal> {
        let mut random = self.random.fork();
        let subnet = self.subnet_mut(subnet)?;
        let taken = subnet.pool.fragment(leave, &mut random);
        subnet.taken.extend(taken);
        Ok(())
    }

    pub(super) fn vacate(&mut self, subnet: &str) -> Result<(), Refusal> {
        let subnet = self.subnet_mut(subnet)?;
        for address in std::mem::take(&mut subnet.taken) {
            subnet.pool.release(address);
        }
        Ok(())
    }

    pub(super) fn add_subnet(&mut self, config: &SubnetConfig) -> Result<(), ConfigError> {
        config.check(&self.vpc_cidrs, &self.vpc_ipv6_cidrs)?;
        for other in &self.subnets {
            if other.id == config.id {
                return Err(ConfigError::Twice { kind: "subnet", id: config.id.clone() });
            }
            let ipv6 = other.ipv6.as_ref().map(|p| p.cidr());
            config.check_apart(&other.id, other.pool.cidr(), ipv6)?;
        }
        let subnet = self.subnet(config)?;
        self.subnets.push(subnet);
        Ok(())
    }

    fn tags_of(&mut self, id: &str) -> Result<&mut BTreeMap<String, String>, Refusal> {
        if id.starts_with("i-") {
            return self.instances.get_mut(id).map(|i| &mut i.tags).ok_or_else(|| Refusal::no_instance(id));
        }
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
        if let Some(group) = groups.iter().find(|id| self.groups.iter().all(|g| g.id != **id)) {
            return Err(Refusal::no_group(group));
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
