//! EC2's truth. Time stands still here: an operation ([`super::operations`]) happens at once and says in [`Effect`]s
//! what must follow later; [`super::sim`] knows when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use reservoir_core::cloud::ConnectionTracking;
use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::limits::InstanceLimits;
use serde::{Deserialize, Serialize};

use super::audit::{Expect, Violation};
use super::config::{Config, ConfigError, InstanceConfig, SubnetConfig};
use super::delays::Random;
use super::groups::SecurityGroup;
use super::imds::ImdsMode;
use super::links::Addresses;
use super::ops::Create;
use super::refusal::Refusal;
use super::subnet::AddressPool;
use super::subnet6::Ipv6Pool;

/// The account in one region.
#[derive(Debug, Clone)]
pub struct Aws {
    pub region: String,
    pub account: String,
    pub vpc: String,
    pub vpc_cidrs: Vec<Ipv4Net>,
    pub vpc_ipv6_cidrs: Vec<IpNet>,
    /// The first is the VPC's default group.
    pub(super) groups: Vec<SecurityGroup>,
    pub(super) subnets: Vec<Subnet>,
    pub(super) instances: BTreeMap<String, Instance>,
    pub(super) enis: BTreeMap<String, Eni>,
    /// Interfaces in status `available`, so that looking for them does not look at all.
    pub(super) available: BTreeSet<String>,
    /// Attachment id → interface.
    pub(super) attachments: BTreeMap<String, String>,
    pub(super) violations: Vec<Violation>,
    pub(super) effects: Vec<Effect>,
    pub(super) tokens: BTreeMap<String, (Create, Option<String>)>,
    /// When each came to be known, oldest first.
    pub(super) token_times: VecDeque<(Duration, String)>,
    macs: BTreeSet<String>,
    pub(super) random: Random,
    pub(super) eni_quota: u32,
    pub(super) failed_token_binds: bool,
    pub(super) lists_unknown_ids: bool,
    pub(super) imds_tells_cards: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Subnet {
    pub id: String,
    pub availability_zone: String,
    pub tags: BTreeMap<String, String>,
    pub foreign: bool,
    pub pool: AddressPool,
    pub ipv6: Option<Ipv6Pool>,
    /// What others in the VPC hold.
    pub taken: Vec<Ipv4Addr>,
}

/// A machine.
#[derive(Debug, Clone)]
pub struct Instance {
    pub id: String,
    pub instance_type: String,
    pub availability_zone: String,
    pub primary_eni: String,
    pub terminated: bool,
    pub tags: BTreeMap<String, String>,
    /// Attached interfaces, those on the way included.
    pub enis: Vec<String>,
    pub(super) limits: InstanceLimits,
    pub(super) imds: ImdsMode,
    pub(super) expect: Expect,
}

/// An interface.
#[derive(Debug, Clone, PartialEq)]
pub struct Eni {
    pub id: String,
    pub mac: String,
    pub subnet: String,
    pub vpc: String,
    pub availability_zone: String,
    pub description: String,
    pub interface_type: InterfaceType,
    pub groups: Vec<String>,
    pub tags: BTreeMap<String, String>,
    pub primary: Option<Ipv4Addr>,
    pub secondary: Vec<Ipv4Addr>,
    pub prefixes: Vec<Ipv4Net>,
    /// The first is the interface's own.
    pub ipv6: Vec<Ipv6Addr>,
    pub ipv6_prefixes: Vec<IpNet>,
    pub tracking: Option<ConnectionTracking>,
    pub attachment: Option<Attachment>,
    /// When it came to be in its present state.
    pub(super) since: Duration,
    /// Not known to describe and attach before.
    pub(super) visible_from: Duration,
    /// Made through the API.
    pub(super) created: bool,
}

/// What kind of interface it is (spec 03 §10.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceType {
    #[default]
    Interface,
    Trunk,
    Efa,
    /// Has no address.
    EfaOnly,
}

impl InterfaceType {
    /// EC2's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Trunk => "trunk",
            Self::Efa => "efa",
            Self::EfaOnly => "efa-only",
        }
    }
}

impl std::str::FromStr for InterfaceType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Interface, Self::Trunk, Self::Efa, Self::EfaOnly];
        let found = all.into_iter().find(|t| t.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no interface type: interface, trunk, efa or efa-only"))
    }
}

/// How an interface hangs on an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    pub id: String,
    pub instance: String,
    pub device_index: u32,
    pub card: u32,
    pub status: AttachmentStatus,
    pub delete_on_termination: bool,
    /// The kernel link is there.
    pub(super) link: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachmentStatus {
    Attaching,
    Attached,
    Detaching,
}

impl AttachmentStatus {
    /// EC2's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
        }
    }
}

/// What an operation sets going.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Effect {
    Created(String),
    Attaching(String),
    Detaching(String),
    Addresses(String),
    Groups(String),
    /// Anything else that describe shows.
    Touched(String),
    Deleted(String),
}

impl Eni {
    /// EC2's word.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match &self.attachment {
            None => "available",
            Some(_) => "in-use",
        }
    }

    /// All it owns.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses {
            primary: self.primary,
            secondary: self.secondary.clone(),
            prefixes: self.prefixes.clone(),
            ipv6: self.ipv6.clone(),
            ipv6_prefixes: self.ipv6_prefixes.clone(),
        }
    }

    pub(super) fn ipv6_slots_taken(&self) -> u32 {
        (self.ipv6.len() + self.ipv6_prefixes.len()) as u32
    }

    pub(super) fn slots_taken(&self) -> u32 {
        (usize::from(self.primary.is_some()) + self.secondary.len() + self.prefixes.len()) as u32
    }
}

impl Aws {
    pub(super) fn new(config: &Config) -> Result<Self, ConfigError> {
        config.check()?;
        let mut aws = Self {
            region: config.region.clone(),
            account: config.account.clone(),
            vpc: config.vpc.id.clone(),
            vpc_cidrs: config.vpc.cidrs.clone(),
            vpc_ipv6_cidrs: config.vpc.ipv6_cidrs.clone(),
            groups: config.groups(),
            subnets: Vec::new(),
            instances: BTreeMap::new(),
            enis: BTreeMap::new(),
            available: BTreeSet::new(),
            attachments: BTreeMap::new(),
            violations: Vec::new(),
            effects: Vec::new(),
            tokens: BTreeMap::new(),
            macs: BTreeSet::new(),
            random: Random::new(config.seed),
            eni_quota: config.eni_quota,
            failed_token_binds: config.failed_token_binds,
            lists_unknown_ids: config.lists_unknown_ids,
            imds_tells_cards: config.imds_tells_cards,
            token_times: VecDeque::new(),
        };
        for subnet in &config.subnets {
            let subnet = aws.subnet(subnet)?;
            aws.subnets.push(subnet);
        }
        // Chosen addresses first, so that no drawn one takes them away.
        let (fixed, drawn): (Vec<_>, Vec<_>) = config.instances.iter().partition(|i| i.address.is_some());
        for instance in fixed.into_iter().chain(drawn) {
            aws.launch(instance, Duration::ZERO)?;
        }
        Ok(aws)
    }

    pub(super) fn subnet(&mut self, config: &SubnetConfig) -> Result<Subnet, ConfigError> {
        let mut pool = AddressPool::new(config.cidr);
        let mut ipv6 = config.ipv6_cidr.map(Ipv6Pool::new);
        for r in &config.reservations {
            let inside = match (r.cidr.as_ipv4(), &mut ipv6) {
                (Some(block), _) => pool.reserve(block, r.kind),
                (None, Some(ipv6)) if r.cidr.length() >= 64 && ipv6.cidr().contains(r.cidr.network()) => {
                    ipv6.reserve(r.cidr);
                    true
                }
                (None, _) => false,
            };
            if !inside {
                return Err(ConfigError::Reservation { subnet: config.id.clone(), cidr: r.cidr });
            }
        }
        for &address in &config.taken {
            if !pool.take(address) {
                return Err(ConfigError::Address { subnet: config.id.clone(), address: address.into() });
            }
        }
        let mut taken = config.taken.clone();
        if let Some(leave) = config.free_blocks {
            taken.extend(pool.fragment(leave, &mut self.random));
        }
        Ok(Subnet {
            id: config.id.clone(),
            availability_zone: config.availability_zone.clone(),
            tags: config.tags.clone(),
            foreign: config.foreign,
            pool,
            ipv6,
            taken,
        })
    }

    /// Starts an instance; it comes with its primary interface, attached and delete-on-termination.
    pub(super) fn launch(&mut self, config: &InstanceConfig, now: Duration) -> Result<(), ConfigError> {
        let unknown =
            |what, value: &str| ConfigError::Unknown { instance: config.id.clone(), what, value: value.to_owned() };
        if self.instances.contains_key(&config.id) {
            return Err(ConfigError::Twice { kind: "instance", id: config.id.clone() });
        }
        let limits = InstanceLimits::of(&config.instance_type).ok_or_else(|| unknown("type", &config.instance_type))?;
        let at = self.subnets.iter().position(|s| s.id == config.subnet);
        let subnet = &mut self.subnets[at.ok_or_else(|| unknown("subnet", &config.subnet))?];
        let zone = subnet.availability_zone.clone();
        let primary = match config.address {
            Some(address) if subnet.pool.take(address) => address,
            Some(address) => {
                return Err(ConfigError::Address { subnet: subnet.id.clone(), address: address.into() });
            }
            None => subnet
                .pool
                .take_addresses(1, &mut self.random)
                .and_then(|a| a.first().copied())
                .ok_or_else(|| ConfigError::Full { subnet: config.subnet.clone(), instance: config.id.clone() })?,
        };
        let mut ipv6 = Vec::new();
        if let Some(address) = config.ipv6_address {
            if !subnet.ipv6.as_mut().is_some_and(|pool| pool.take(address)) {
                return Err(ConfigError::Address { subnet: subnet.id.clone(), address: address.into() });
            }
            ipv6.push(address);
        } else if let Some(pool) = &mut subnet.ipv6 {
            // A subnet with IPv6 gives every machine its address, as EKS sets them up.
            ipv6.extend(pool.take_addresses(1, &mut self.random).into_iter().flatten());
        }
        let groups =
            if config.security_groups.is_empty() { self.default_groups() } else { config.security_groups.clone() };
        let mut eni = self.blank_eni(&config.subnet, &zone, now);
        eni.primary = Some(primary);
        eni.ipv6 = ipv6;
        eni.groups = groups;
        eni.tags = config.eni_tags.clone();
        eni.attachment = Some(Attachment {
            id: self.fresh_id("eni-attach"),
            instance: config.id.clone(),
            device_index: 0,
            card: 0,
            status: AttachmentStatus::Attaching,
            delete_on_termination: true,
            link: false,
        });
        let instance = Instance {
            id: config.id.clone(),
            instance_type: config.instance_type.clone(),
            availability_zone: zone,
            primary_eni: eni.id.clone(),
            terminated: false,
            tags: config.tags.clone(),
            enis: vec![eni.id.clone()],
            limits,
            imds: config.imds,
            expect: config.expect.clone(),
        };
        self.instances.insert(config.id.clone(), instance);
        self.insert(eni);
        Ok(())
    }

    /// Ends an instance: interfaces with delete-on-termination go with it, others are left behind, `available`.
    pub(super) fn terminate(&mut self, id: &str, now: Duration) -> Result<(), Refusal> {
        let instance = self.instances.get_mut(id).ok_or_else(|| Refusal::no_instance(id))?;
        instance.terminated = true;
        for id in std::mem::take(&mut instance.enis) {
            let Some(eni) = self.enis.get_mut(&id) else { continue };
            let Some(attachment) = eni.attachment.take() else { continue };
            self.attachments.remove(&attachment.id);
            eni.since = now;
            if attachment.delete_on_termination {
                self.remove(&id);
            } else {
                self.available.insert(id.clone());
                self.effects.push(Effect::Touched(id));
            }
        }
        Ok(())
    }

    /// Ends the attachment of `eni`: available, and off the instance.
    pub(super) fn detached(&mut self, id: &str, now: Duration) {
        let Some(eni) = self.enis.get_mut(id) else { return };
        eni.since = now;
        let Some(attachment) = eni.attachment.take() else { return };
        self.attachments.remove(&attachment.id);
        self.available.insert(id.to_owned());
        if let Some(instance) = self.instances.get_mut(&attachment.instance) {
            instance.enis.retain(|e| e != id);
        }
    }

    pub(super) fn insert(&mut self, eni: Eni) {
        match &eni.attachment {
            None => {
                self.available.insert(eni.id.clone());
            }
            Some(attachment) => {
                self.attachments.insert(attachment.id.clone(), eni.id.clone());
                self.effects.push(Effect::Attaching(eni.id.clone()));
            }
        }
        self.enis.insert(eni.id.clone(), eni);
    }

    pub(super) fn remove(&mut self, id: &str) {
        let Some(eni) = self.enis.remove(id) else { return };
        self.available.remove(id);
        self.macs.remove(&eni.mac);
        if let Some(subnet) = self.subnets.iter_mut().find(|s| s.id == eni.subnet) {
            eni.primary.iter().chain(&eni.secondary).for_each(|&a| subnet.pool.release(a));
            eni.prefixes.iter().for_each(|&p| subnet.pool.release_prefix(p));
            if let Some(pool) = &mut subnet.ipv6 {
                eni.ipv6.iter().for_each(|&a| pool.release(a));
                eni.ipv6_prefixes.iter().for_each(|&p| pool.release_prefix(p));
            }
        }
        self.effects.push(Effect::Deleted(id.to_owned()));
    }

    /// What an interface has that was given none.
    pub(super) fn default_groups(&self) -> Vec<String> {
        self.groups.iter().take(1).map(|g| g.id.clone()).collect()
    }

    pub(super) fn blank_eni(&mut self, subnet: &str, zone: &str, now: Duration) -> Eni {
        let mac = loop {
            let [.., a, b, c, d, e] = self.random.bits().to_be_bytes();
            let mac = format!("06:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}");
            if self.macs.insert(mac.clone()) {
                break mac;
            }
        };
        Eni {
            id: self.fresh_id("eni"),
            mac,
            subnet: subnet.to_owned(),
            vpc: self.vpc.clone(),
            availability_zone: zone.to_owned(),
            description: String::new(),
            interface_type: InterfaceType::Interface,
            groups: Vec::new(),
            tags: BTreeMap::new(),
            primary: None,
            secondary: Vec::new(),
            prefixes: Vec::new(),
            ipv6: Vec::new(),
            ipv6_prefixes: Vec::new(),
            tracking: None,
            attachment: None,
            since: now,
            visible_from: now,
            created: false,
        }
    }

    pub(super) fn fresh_id(&mut self, kind: &str) -> String {
        format!("{kind}-0{:016x}", self.random.bits())
    }
}
