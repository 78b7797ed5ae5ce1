//! What the simulated account contains, from JSON or from defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::limits::InstanceLimits;
use serde::{Deserialize, Serialize};

use super::audit::Expect;
use super::delays::{Delays, Span};
use super::fault::Fault;
use super::groups::SecurityGroup;
use super::iam::Iam;
use super::imds::ImdsMode;
use super::subnet::Keep;
use super::throttle::ThrottleConfig;

/// A security group by its id, with the rules of a new one (the first group's: of a VPC's default group), or with its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = r#"a security group is its id, or an object such as {"id": "sg-…", "ingress": [{"protocol": "tcp", "ports": [80, 90], "peer": "10.0.0.0/16"}], "egress": []}"#
)]
pub enum GroupConfig {
    Id(String),
    Rules(SecurityGroup),
}

impl GroupConfig {
    fn id(&self) -> &str {
        match self {
            Self::Id(id) => id,
            Self::Rules(group) => &group.id,
        }
    }
}

/// The whole simulation. Every field has a default: one VPC, one subnet, one instance, no delays.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub region: String,
    pub account: String,
    pub vpc: Vpc,
    /// Security groups that exist. The first is the VPC's default group.
    pub security_groups: Vec<GroupConfig>,
    pub subnets: Vec<SubnetConfig>,
    pub instances: Vec<InstanceConfig>,
    pub delays: DelaysConfig,
    pub throttle: ThrottleConfig,
    pub faults: Vec<Fault>,
    /// Share of EC2 calls, 0 to 1, that fail with HTTP 500 or 503 before they have any effect.
    pub flaky: f64,
    pub seed: u64,
    /// Interfaces of the whole account.
    pub eni_quota: u32,
    /// Whether a failed create request binds its client token (spec 03 W-9).
    pub failed_token_binds: bool,
    /// What the nodes' role may do.
    pub iam: Iam,
    /// Several unknown interface ids in one describe call are all named in the error, in a form of which no single id can
    /// be taken; EC2 names the first alone.
    pub lists_unknown_ids: bool,
    /// Whether IMDS has the key `network-card`; older ones have not.
    pub imds_tells_cards: bool,
    /// How old an unattached, or attached but not delete-on-termination, interface may be before the audit names it.
    pub audit_grace_seconds: f64,
    /// Requests kept in the log; the oldest go first.
    pub log_limit: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vpc {
    pub id: String,
    pub cidrs: Vec<Ipv4Net>,
    /// /44 to /60.
    pub ipv6_cidrs: Vec<IpNet>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetConfig {
    pub id: String,
    pub cidr: Ipv4Net,
    /// A /64 of the VPC. Every instance of such a subnet has an IPv6 address.
    #[serde(default)]
    pub ipv6_cidr: Option<IpNet>,
    #[serde(default = "zone")]
    pub availability_zone: String,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Shared from another account: usable, but absent from `DescribeSubnets`.
    #[serde(default)]
    pub foreign: bool,
    /// Addresses somebody else in the VPC holds.
    #[serde(default)]
    pub taken: Vec<Ipv4Addr>,
    /// Others hold one address of every aligned /28 but so many.
    #[serde(default)]
    pub free_blocks: Option<u32>,
    /// Subnet CIDR reservations.
    #[serde(default)]
    pub reservations: Vec<ReservationConfig>,
}

/// A part of a subnet that is not given out freely.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReservationConfig {
    /// A /28 or shorter, or in the subnet's IPv6 block.
    pub cidr: IpNet,
    #[serde(rename = "type")]
    pub kind: Keep,
}

impl SubnetConfig {
    /// With defaults for all the rest.
    #[must_use]
    pub fn new(id: &str, cidr: Ipv4Net) -> Self {
        Self {
            id: id.to_owned(),
            cidr,
            ipv6_cidr: None,
            availability_zone: zone(),
            tags: BTreeMap::new(),
            foreign: false,
            taken: Vec::new(),
            free_blocks: None,
            reservations: Vec::new(),
        }
    }

    /// Whether its blocks lie in the VPC.
    pub(super) fn check(&self, vpc: &[Ipv4Net], vpc_ipv6: &[IpNet]) -> Result<(), ConfigError> {
        let inside = |vpc: &Ipv4Net| vpc.length() <= self.cidr.length() && vpc.contains(self.cidr.network());
        if !(16..=28).contains(&self.cidr.length()) || !vpc.iter().any(inside) {
            return Err(ConfigError::Subnet { subnet: self.id.clone(), cidr: self.cidr, vpc: list(vpc) });
        }
        if let Some(cidr) = self.ipv6_cidr {
            let inside = |vpc: &IpNet| vpc.length() <= 64 && vpc.contains(cidr.network());
            if cidr.is_ipv4() || cidr.length() != 64 || !vpc_ipv6.iter().any(inside) {
                return Err(ConfigError::SubnetIpv6 { subnet: self.id.clone(), cidr, vpc: list(vpc_ipv6) });
            }
        }
        Ok(())
    }

    /// Whether its blocks and another subnet's are apart.
    pub(super) fn check_apart(&self, id: &str, cidr: Ipv4Net, ipv6: Option<IpNet>) -> Result<(), ConfigError> {
        let overlap = cidr.contains(self.cidr.network()) || self.cidr.contains(cidr.network());
        if overlap || (ipv6.is_some() && ipv6 == self.ipv6_cidr) {
            return Err(ConfigError::Overlap(id.to_owned(), self.id.clone()));
        }
        Ok(())
    }

    /// With one more tag.
    #[must_use]
    pub fn tag(mut self, key: &str, value: &str) -> Self {
        self.tags.insert(key.to_owned(), value.to_owned());
        self
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceConfig {
    pub id: String,
    #[serde(rename = "type")]
    pub instance_type: String,
    pub subnet: String,
    /// Primary address; chosen by the subnet when absent.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// Primary IPv6 address; chosen by the subnet, where it has IPv6, when absent.
    #[serde(default)]
    pub ipv6_address: Option<Ipv6Addr>,
    /// Security groups of the primary interface; the default group when empty.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// Tags of the instance.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Tags of the primary interface.
    #[serde(default)]
    pub eni_tags: BTreeMap<String, String>,
    /// Where the HTTP face serves this instance's metadata.
    #[serde(default)]
    pub imds_listen: Option<SocketAddr>,
    #[serde(default)]
    pub imds: ImdsMode,
    /// What the audit holds this node to.
    #[serde(default)]
    pub expect: Expect,
}

/// A profile's name, or a profile with some delays replaced.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DelaysConfig {
    Profile(String),
    Custom {
        #[serde(default = "instant")]
        profile: String,
        #[serde(flatten)]
        overrides: BTreeMap<String, Span>,
    },
}

impl DelaysConfig {
    /// The delays meant.
    ///
    /// # Errors
    /// An unknown profile or delay.
    pub fn resolve(&self) -> Result<Delays, String> {
        let none = BTreeMap::new();
        let (name, overrides) = match self {
            Self::Profile(name) => (name, &none),
            Self::Custom { profile, overrides } => (profile, overrides),
        };
        let profile = Delays::profile(name).ok_or_else(|| {
            format!("delays profile {name:?} does not exist; there are instant, realistic and eventual")
        })?;
        profile.with(overrides)
    }
}

/// The default account's default group: its members talk to each other.
const NODES_GROUP: &str = "sg-0d4e1f6a7b8c9d0e1";
/// Another group of the default account.
const PODS_GROUP: &str = "sg-0f2a3b4c5d6e7f809";

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn zone() -> String {
    "us-west-2a".to_owned()
}

fn instant() -> String {
    "instant".to_owned()
}

impl Default for Vpc {
    fn default() -> Self {
        let cidrs = vec![Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), 16)];
        Self { id: "vpc-0b6c1d2e3f4a59687".to_owned(), cidrs, ipv6_cidrs: Vec::new() }
    }
}

impl Default for Config {
    fn default() -> Self {
        let subnet = "subnet-0a7c5e3b1d9f82464";
        // As for pods of custom networking: one another and the nodes may talk to them.
        let pods = SecurityGroup::new(PODS_GROUP).open_to(PODS_GROUP).open_to(NODES_GROUP);
        Self {
            region: "us-west-2".to_owned(),
            account: "111122223333".to_owned(),
            vpc: Vpc::default(),
            security_groups: vec![GroupConfig::Id(NODES_GROUP.to_owned()), GroupConfig::Rules(pods)],
            subnets: vec![SubnetConfig::new(subnet, Ipv4Net::new(Ipv4Addr::new(10, 0, 32, 0), 20))],
            instances: vec![InstanceConfig::new("i-0c3f1a9d27b6e4851", "c5.4xlarge", subnet)],
            delays: DelaysConfig::Profile(instant()),
            throttle: ThrottleConfig::Off,
            faults: Vec::new(),
            flaky: 0.0,
            seed: 1,
            eni_quota: 5000,
            failed_token_binds: true,
            iam: Iam::default(),
            lists_unknown_ids: false,
            imds_tells_cards: true,
            audit_grace_seconds: 30.0,
            log_limit: 10_000,
        }
    }
}

impl InstanceConfig {
    /// With defaults for all the rest.
    #[must_use]
    pub fn new(id: &str, instance_type: &str, subnet: &str) -> Self {
        Self {
            id: id.to_owned(),
            instance_type: instance_type.to_owned(),
            subnet: subnet.to_owned(),
            address: None,
            ipv6_address: None,
            security_groups: Vec::new(),
            tags: BTreeMap::new(),
            eni_tags: BTreeMap::new(),
            imds_listen: None,
            imds: ImdsMode::default(),
            expect: Expect::default(),
        }
    }
}

/// Why a configuration makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("not a simulator configuration: {0}")]
    Json(String),
    #[error("{0}")]
    Delays(String),
    #[error(
        "throttle of {action}: capacity {capacity}, refill {refill}; give a capacity of 1 or more and a refill of 0 or more"
    )]
    Throttle { action: String, capacity: String, refill: String },
    #[error("flaky = {0}: give a share of calls from 0 to 1")]
    Flaky(String),
    #[error("audit_grace_seconds = {0}: give seconds, zero or more")]
    Grace(String),
    #[error("security_groups is empty: give at least the VPC's default group")]
    NoGroup,
    #[error("security group {group}: {why}")]
    Group { group: String, why: String },
    #[error("subnet {subnet} {cidr}: EC2 takes a /16 to a /28 inside the VPC ({vpc})")]
    Subnet { subnet: String, cidr: Ipv4Net, vpc: String },
    #[error("VPC block {0}: an IPv6 block of a VPC is a /44 to a /60")]
    VpcIpv6(IpNet),
    #[error("subnet {subnet} {cidr}: an IPv6 block of a subnet is a /64 inside the VPC's ({vpc})")]
    SubnetIpv6 { subnet: String, cidr: IpNet, vpc: String },
    #[error("reservation {cidr} in subnet {subnet}: give a /28 or shorter inside it, or a part of its IPv6 block")]
    Reservation { subnet: String, cidr: IpNet },
    #[error("subnets {0} and {1} overlap: give each its own block")]
    Overlap(String, String),
    #[error("{kind} {id} appears twice: ids are unique")]
    Twice { kind: &'static str, id: String },
    #[error("address {address} cannot be taken in subnet {subnet}: outside, reserved by EC2 or taken before")]
    Address { subnet: String, address: IpAddr },
    #[error("instance {instance}: {what} {value:?} does not exist")]
    Unknown { instance: String, what: &'static str, value: String },
    #[error("subnet {subnet} has no address left for instance {instance}")]
    Full { subnet: String, instance: String },
}

impl Config {
    /// Reads the JSON form.
    ///
    /// # Errors
    /// What is wrong with the text; [`Self::check`] looks at the sense.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        serde_json::from_str(text).map_err(|e| ConfigError::Json(e.to_string()))
    }

    /// Looks at what can be seen without building the account.
    ///
    /// # Errors
    /// The first thing that makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.throttle.check()?;
        if !(0.0..=1.0).contains(&self.flaky) {
            return Err(ConfigError::Flaky(self.flaky.to_string()));
        }
        if !(self.audit_grace_seconds.is_finite() && self.audit_grace_seconds >= 0.0) {
            return Err(ConfigError::Grace(self.audit_grace_seconds.to_string()));
        }
        if self.security_groups.is_empty() {
            return Err(ConfigError::NoGroup);
        }
        self.check_groups()?;
        self.check_subnets()?;
        self.check_instances()
    }

    /// The security groups with their rules.
    pub(super) fn groups(&self) -> Vec<SecurityGroup> {
        let all = self.security_groups.iter().enumerate();
        let group = |(n, group): (usize, &GroupConfig)| match group {
            GroupConfig::Rules(group) => group.clone(),
            GroupConfig::Id(id) if n == 0 => SecurityGroup::default_of_vpc(id),
            GroupConfig::Id(id) => SecurityGroup::new(id),
        };
        all.map(group).collect()
    }

    fn check_groups(&self) -> Result<(), ConfigError> {
        let ids: Vec<&str> = self.security_groups.iter().map(GroupConfig::id).collect();
        if let Some(n) = (0..ids.len()).find(|&n| ids[..n].contains(&ids[n])) {
            return Err(ConfigError::Twice { kind: "security group", id: ids[n].to_owned() });
        }
        for group in self.groups() {
            for rule in group.ingress.iter().chain(&group.egress) {
                rule.check(&ids).map_err(|why| ConfigError::Group { group: group.id.clone(), why })?;
            }
        }
        Ok(())
    }

    fn check_subnets(&self) -> Result<(), ConfigError> {
        let fits = |block: &&IpNet| !block.is_ipv4() && (44..=60).contains(&block.length());
        if let Some(&block) = self.vpc.ipv6_cidrs.iter().find(|b| !fits(b)) {
            return Err(ConfigError::VpcIpv6(block));
        }
        for (i, subnet) in self.subnets.iter().enumerate() {
            subnet.check(&self.vpc.cidrs, &self.vpc.ipv6_cidrs)?;
            for other in &self.subnets[..i] {
                if other.id == subnet.id {
                    return Err(ConfigError::Twice { kind: "subnet", id: subnet.id.clone() });
                }
                subnet.check_apart(&other.id, other.cidr, other.ipv6_cidr)?;
            }
        }
        Ok(())
    }

    fn check_instances(&self) -> Result<(), ConfigError> {
        let mut seen = BTreeSet::new();
        for i in &self.instances {
            if !seen.insert(&i.id) {
                return Err(ConfigError::Twice { kind: "instance", id: i.id.clone() });
            }
            let unknown =
                |what, value: &str| Err(ConfigError::Unknown { instance: i.id.clone(), what, value: value.to_owned() });
            if InstanceLimits::of(&i.instance_type).is_none() {
                return unknown("type", &i.instance_type);
            }
            if !self.subnets.iter().any(|s| s.id == i.subnet) {
                return unknown("subnet", &i.subnet);
            }
            if let Some(group) = i.security_groups.iter().find(|id| self.security_groups.iter().all(|g| g.id() != **id))
            {
                return unknown("security group", group);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_makes_sense_and_survives_json() {
        let config = Config::default();
        config.check().unwrap();
        let again = Config::from_json(&serde_json::to_string(&config).unwrap()).unwrap();
        again.check().unwrap();
        assert_eq!(again.instances[0].instance_type, "c5.4xlarge");
        assert_eq!(again.delays.resolve(), Ok(Delays::instant()));
    }

    #[test]
    fn delays_by_name_or_with_changes() {
        let delays = |json: &str| Config::from_json(json).unwrap().delays.resolve();
        assert_eq!(delays(r#"{"delays":"realistic"}"#), Ok(Delays::realistic()));
        let changed = delays(r#"{"delays":{"profile":"realistic","attach":7}}"#).unwrap();
        assert_eq!((changed.attach, changed.create), (7.0.into(), 0.5.into()));
        assert!(delays(r#"{"delays":"fast"}"#).unwrap_err().contains("instant, realistic and eventual"));
    }

    #[test]
    fn nonsense_is_named() {
        let error = |json: &str| Config::from_json(json).and_then(|c| c.check()).unwrap_err().to_string();
        for (json, words) in [
            (r#"{"subnets":[{"id":"s","cidr":"10.0.0.0/29"}]}"#, "/16 to a /28"),
            (r#"{"subnets":[{"id":"s","cidr":"11.0.0.0/24"}]}"#, "11.0.0.0/24"),
            (r#"{"subnets":[{"id":"a","cidr":"10.0.0.0/24"},{"id":"b","cidr":"10.0.0.128/25"}]}"#, "a and b overlap"),
            (r#"{"instances":[{"id":"i-1","type":"c5.huge","subnet":"x"}]}"#, "c5.huge"),
            (r#"{"instances":[{"id":"i-1","type":"c5.large","subnet":"x"}]}"#, "\"x\""),
            (r#"{"vpc":{"ipv6_cidrs":["10.0.0.0/16"]}}"#, "/44 to a /60"),
            (r#"{"subnets":[{"id":"s","cidr":"10.0.0.0/24","ipv6_cidr":"2001:db8::/64"}]}"#, "2001:db8::/64"),
            (r#"{"flaky":2}"#, "flaky = 2"),
            (r#"{"security_groups":[]}"#, "default group"),
            (r#"{"sede":2}"#, "sede"),
            (r#"{"throttle":{"custom":{"CreateTags":{"capacity":0,"refill":1}}}}"#, "CreateTags"),
        ] {
            let text = error(json);
            assert!(text.contains(words), "{json}: {text}");
        }
    }
}
