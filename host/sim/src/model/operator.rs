//! What somebody else does in the account: the cluster's controllers, an operator, other tenants of the subnet
//! (spec 03 §16.1 #7, §16.2 #7). Not throttled, not logged as a node's, no matter for the audit.

use std::collections::BTreeMap;
use std::time::Duration;

use reservoir_core::ip::{IpNet, Ipv4Net};
use serde::Deserialize;

use super::audit::INSTANCE_TAG;
use super::aws::InterfaceType;
use super::config::{ConfigError, SubnetConfig};
use super::groups::{self, Direction, GroupRule};
use super::ops::{Create, Op, Reply};
use super::refusal::Refusal;
use super::sim::Sim;

/// An interface that an operator or controller makes and attaches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    pub instance: String,
    #[serde(default, rename = "type")]
    pub interface_type: InterfaceType,
    #[serde(default)]
    pub card: u32,
    /// Without it a trunk gets the highest free index of the card, any other the lowest.
    #[serde(default)]
    pub device_index: Option<u32>,
    /// Without it the instance's own.
    #[serde(default)]
    pub subnet: Option<String>,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Without them those of the instance's primary interface.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// Secondary IPv4 addresses and prefixes, IPv6 addresses and prefixes it comes with.
    #[serde(default)]
    pub addresses: u32,
    #[serde(default)]
    pub prefixes: u32,
    #[serde(default)]
    pub ipv6_addresses: u32,
    #[serde(default)]
    pub ipv6_prefixes: u32,
    /// IPv6 alone.
    #[serde(default)]
    pub without_ipv4: bool,
}

impl Attach {
    /// A plain interface on card 0 of `instance`.
    #[must_use]
    pub fn to(instance: &str) -> Self {
        Self { instance: instance.to_owned(), ..Self::default() }
    }

    #[must_use]
    pub fn kind(self, interface_type: InterfaceType) -> Self {
        Self { interface_type, ..self }
    }

    #[must_use]
    pub fn card(self, card: u32) -> Self {
        Self { card, ..self }
    }

    #[must_use]
    pub fn tag(mut self, key: &str, value: &str) -> Self {
        self.tags.insert(key.to_owned(), value.to_owned());
        self
    }
}

impl Sim {
    /// Any EC2 call, done by somebody else than a node.
    ///
    /// # Errors
    /// EC2's refusal.
    pub fn operate(&mut self, now: Duration, op: &Op) -> Result<Reply, Refusal> {
        self.advance(now);
        let at = self.now();
        let reply = self.aws.apply(op, at)?;
        if let Reply::Created(eni) = &reply
            && let Some(eni) = self.aws.enis.get_mut(&eni.id)
        {
            eni.created = false;
        }
        self.settle(at);
        Ok(reply)
    }

    /// Makes an interface and attaches it, delete-on-termination. Its id.
    ///
    /// # Errors
    /// As `CreateNetworkInterface` and `AttachNetworkInterface`; then nothing is left behind.
    pub fn attach_interface(&mut self, now: Duration, attach: &Attach) -> Result<String, Refusal> {
        self.advance(now);
        let at = self.now();
        let unknown = || Refusal::no_instance(&attach.instance);
        let machine = self.aws.instances.get(&attach.instance).filter(|i| !i.terminated).ok_or_else(unknown)?;
        let primary = self.aws.enis.get(&machine.primary_eni).ok_or_else(unknown)?;
        let most = machine.limits.cards.iter().find(|c| c.index == attach.card).map_or(0, |c| c.max_enis);
        let mut free = (0..most).filter(|&index| !self.aws.index_taken(machine, index, attach.card));
        let found = match (attach.device_index, attach.interface_type) {
            (Some(index), _) => Some(index),
            (None, InterfaceType::Trunk) => free.next_back(),
            (None, _) => free.next(),
        };
        let device_index = found.ok_or_else(|| {
            let message = format!("Instance {} has no free device index on card {}", attach.instance, attach.card);
            Refusal::new("AttachmentLimitExceeded", message)
        })?;
        let groups = if attach.security_groups.is_empty() { &primary.groups } else { &attach.security_groups };
        let create = Create {
            subnet: attach.subnet.clone().unwrap_or_else(|| primary.subnet.clone()),
            description: attach.description.clone(),
            groups: groups.clone(),
            tags: attach.tags.clone().into_iter().collect(),
            addresses: attach.addresses,
            prefixes: attach.prefixes,
            ipv6_addresses: attach.ipv6_addresses,
            ipv6_prefixes: attach.ipv6_prefixes,
            interface_type: attach.interface_type,
            without_ipv4: attach.without_ipv4,
            ..Create::default()
        };
        let eni = self.aws.make(&create, at)?;
        if let Some(eni) = self.aws.enis.get_mut(&eni) {
            eni.created = false;
        }
        if let Err(refusal) = self.aws.attach(&eni, &attach.instance, device_index, attach.card, at) {
            self.aws.remove(&eni);
            self.settle(at);
            return Err(refusal);
        }
        if let Some(attachment) = self.aws.enis.get_mut(&eni).and_then(|e| e.attachment.as_mut()) {
            attachment.delete_on_termination = true;
        }
        self.settle(at);
        Ok(eni)
    }

    /// Attaches a trunk interface as the cluster's resource controller would, at the highest free device index.
    ///
    /// # Errors
    /// As [`Self::attach_interface`].
    pub fn attach_trunk(&mut self, now: Duration, instance: &str) -> Result<String, Refusal> {
        let trunk = Attach::to(instance)
            .kind(InterfaceType::Trunk)
            .tag("eks:eni:owner", "eks-vpc-resource-controller")
            .tag(INSTANCE_TAG, instance);
        self.attach_interface(now, &Attach { description: "aws-k8s-trunk-eni".to_owned(), ..trunk })
    }

    /// Sets tags of an interface or subnet; an empty list does nothing.
    ///
    /// # Errors
    /// As `CreateTags`.
    pub fn tag(&mut self, now: Duration, resource: &str, tags: &[(&str, &str)]) -> Result<(), Refusal> {
        if tags.is_empty() {
            return Ok(());
        }
        let tags = tags.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        self.operate(now, &Op::CreateTags { resources: vec![resource.to_owned()], tags }).map(|_| ())
    }

    /// Removes tags of an interface or subnet.
    ///
    /// # Errors
    /// No such resource.
    pub fn untag(&mut self, now: Duration, resource: &str, keys: &[String]) -> Result<(), Refusal> {
        self.advance(now);
        let at = self.now();
        self.aws.untag(resource, keys)?;
        self.settle(at);
        Ok(())
    }

    /// Others in the VPC take so many single addresses of a subnet.
    ///
    /// # Errors
    /// No such subnet, or not so many.
    pub fn occupy(&mut self, subnet: &str, count: u32) -> Result<(), Refusal> {
        self.aws.occupy(subnet, count)
    }

    /// Others in the VPC take one address of every free /28 but `leave` of them.
    ///
    /// # Errors
    /// No such subnet.
    pub fn fragment(&mut self, subnet: &str, leave: u32) -> Result<(), Refusal> {
        self.aws.fragment(subnet, leave)
    }

    /// Others in the VPC give all their addresses of a subnet back.
    ///
    /// # Errors
    /// No such subnet.
    pub fn vacate(&mut self, subnet: &str) -> Result<(), Refusal> {
        self.aws.vacate(subnet)
    }

    /// One more subnet.
    ///
    /// # Errors
    /// As for a subnet of the configuration.
    pub fn add_subnet(&mut self, config: &SubnetConfig) -> Result<(), ConfigError> {
        self.aws.add_subnet(config)
    }

    /// Replaces the VPC's IPv4 blocks as IMDS tells them.
    pub fn set_vpc_cidrs(&mut self, cidrs: Vec<Ipv4Net>) {
        self.aws.vpc_cidrs = cidrs;
    }

    /// Replaces the VPC's IPv6 blocks as IMDS tells them.
    pub fn set_vpc_ipv6_cidrs(&mut self, cidrs: Vec<IpNet>) {
        self.aws.vpc_ipv6_cidrs = cidrs;
    }

    /// Lets a security group's interfaces be talked to, or talk, by one rule more.
    ///
    /// # Errors
    /// No such group, a rule without sense, or one that is there.
    pub fn authorize(&mut self, group: &str, direction: Direction, rule: &GroupRule) -> Result<(), Refusal> {
        groups::authorize(&mut self.aws.groups, group, direction, rule)
    }

    /// Takes a rule of a security group away.
    ///
    /// # Errors
    /// No such group or rule.
    pub fn revoke(&mut self, group: &str, direction: Direction, rule: &GroupRule) -> Result<(), Refusal> {
        groups::revoke(&mut self.aws.groups, group, direction, rule)
    }

    /// Interfaces that the account may have.
    pub fn set_quota(&mut self, interfaces: u32) {
        self.aws.eni_quota = interfaces;
    }
}
