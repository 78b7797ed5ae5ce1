//! What an instance's metadata service shows: not the truth, but what has reached it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use reservoir_core::cloud::{AttachedInterface, Instance as InstanceFacts};
use reservoir_core::ip::{IpNet, Ipv4Net};

use serde::{Deserialize, Serialize};

use super::aws::{Aws, Eni};
use super::delays::Random;
use super::subnet6::Ipv6Pool;

/// One instance's metadata.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// By MAC: the listing's order has nothing to do with device indexes.
    pub interfaces: BTreeMap<String, MetadataInterface>,
}

/// One interface in the metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataInterface {
    pub facts: AttachedInterface,
    pub vpc: String,
    pub groups: Vec<String>,
}

impl MetadataInterface {
    /// `eni` as it is now; None while nothing is attached.
    pub(super) fn of(eni: &Eni, aws: &Aws) -> Option<Self> {
        let attachment = eni.attachment.as_ref()?;
        let subnet = aws.subnets.iter().find(|s| s.id == eni.subnet)?;
        Some(Self {
            facts: AttachedInterface {
                eni: eni.id.clone(),
                mac: eni.mac.clone(),
                device_index: attachment.device_index,
                card: attachment.card,
                subnet: eni.subnet.clone(),
                subnet_cidr: eni.primary.map(|_| subnet.pool.cidr()),
                primary: eni.primary,
                secondary: eni.secondary.clone(),
                prefixes: eni.prefixes.clone(),
                subnet_ipv6_cidr: subnet.ipv6.as_ref().filter(|_| !eni.ipv6.is_empty()).map(Ipv6Pool::cidr),
                ipv6: eni.ipv6.clone(),
                ipv6_prefixes: eni.ipv6_prefixes.clone(),
            },
            vpc: eni.vpc.clone(),
            groups: eni.groups.clone(),
        })
    }
}

impl MetadataInterface {
    /// On the way from `shown` to `self`: of each address that came or went since, chance says whether it has already.
    pub(super) fn in_part(&self, shown: Option<&Self>, random: &mut Random) -> Self {
        let none =
            AttachedInterface { secondary: vec![], prefixes: vec![], ipv6_prefixes: vec![], ..self.facts.clone() };
        let shown = shown.map_or(&none, |s| &s.facts);
        let mut part = self.clone();
        part.facts.secondary = mix(&shown.secondary, &self.facts.secondary, random);
        part.facts.prefixes = mix(&shown.prefixes, &self.facts.prefixes, random);
        part.facts.ipv6_prefixes = mix(&shown.ipv6_prefixes, &self.facts.ipv6_prefixes, random);
        part
    }
}

fn mix<T: Copy + PartialEq>(old: &[T], new: &[T], random: &mut Random) -> Vec<T> {
    let mut out: Vec<T> = new.iter().copied().filter(|t| old.contains(t) || random.below(2) == 0).collect();
    out.extend(old.iter().copied().filter(|t| !new.contains(t) && random.below(2) == 0));
    out
}

/// How a metadata service answers (spec 03 §16.6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImdsMode {
    /// With a session token only.
    #[default]
    V2,
    /// Without one too.
    V1,
    /// 403 to everything.
    Disabled,
    /// The hop limit is too low: no answer to the request for a token.
    Far,
}

/// The never-changing facts of an instance.
#[derive(Debug, Clone)]
pub struct Identity {
    pub facts: InstanceFacts,
    pub account: String,
    pub vpc_cidrs: Vec<Ipv4Net>,
    pub vpc_ipv6_cidrs: Vec<IpNet>,
    /// Whether IMDS has the key `network-card`.
    pub tells_cards: bool,
}

impl Identity {
    pub(super) fn of(aws: &Aws, instance: &str) -> Option<Self> {
        let machine = aws.instances.get(instance).filter(|i| !i.terminated)?;
        let eni = aws.enis.get(&machine.primary_eni)?;
        Some(Self {
            facts: InstanceFacts {
                region: aws.region.clone(),
                availability_zone: machine.availability_zone.clone(),
                local_ipv4: eni.primary.unwrap_or(Ipv4Addr::UNSPECIFIED),
                local_ipv6: eni.ipv6.first().copied(),
                instance_id: machine.id.clone(),
                instance_type: machine.instance_type.clone(),
                mac: eni.mac.clone(),
                primary_eni: eni.id.clone(),
                subnet: eni.subnet.clone(),
                vpc: eni.vpc.clone(),
            },
            account: aws.account.clone(),
            vpc_cidrs: aws.vpc_cidrs.clone(),
            vpc_ipv6_cidrs: aws.vpc_ipv6_cidrs.clone(),
            tells_cards: aws.imds_tells_cards,
        })
    }
}
