//! One case as it stands in the file, and the node that it describes in the words of the contract.

use std::collections::BTreeMap;

use reservoir_core::policy::{
    Card, Cidr, Context, Eni, EniTrait, EniTraits, Family, Gate, Gates, Limits, Node, Targets, Unit,
};
use serde::Deserialize;
use serde_json::Value;

/// One case. `conventions` in the file says what the fields mean.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Case {
    pub kind: String,
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    pub limits: Option<TypeLimits>,
    #[serde(default)]
    pub node: NodeFacts,
    #[serde(default)]
    pub state: Value,
    #[serde(default)]
    pub network_card: u32,
    pub managed_cards: Option<Vec<u32>>,
    #[serde(default)]
    pub pods: u32,
    #[serde(default)]
    pub ticks: u32,
    #[serde(default)]
    pub expected: Value,
    pub recommended: Option<Value>,
    pub doc_expected: Option<Value>,
    pub alternatives: Option<Vec<Value>>,
    pub reference_wart: Option<String>,
    /// Seconds since each block was given back.
    pub recently_freed: Option<BTreeMap<String, u32>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct TypeLimits {
    pub max_enis: u32,
    pub ips_per_eni: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct NodeFacts {
    pub max_pods: Option<u32>,
    #[serde(default)]
    pub unschedulable: bool,
    #[serde(default)]
    pub terminating: bool,
    pub trunk_capable: Option<bool>,
    pub prefix_delegation_supported: Option<bool>,
    pub since_insufficient_cidr_s: Option<u32>,
    pub since_last_decrease_s: Option<u32>,
    pub eni_config: Option<EniConfigFacts>,
}

/// The ENIConfig that applies to the node.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct EniConfigFacts {
    #[serde(default)]
    pub subnet: String,
    #[serde(default)]
    pub security_groups: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct PoolState {
    #[serde(default)]
    pub enis: Vec<EniState>,
    #[serde(default)]
    pub unmanaged_enis: BTreeMap<String, u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct EniState {
    pub id: String,
    /// Only `true` means true: some cases hold a number here by mistake.
    #[serde(default)]
    pub primary: Value,
    #[serde(default)]
    pub age_s: u32,
    #[serde(default)]
    pub trunk: bool,
    #[serde(default)]
    pub efa: bool,
    #[serde(default)]
    pub excluded: bool,
    #[serde(default)]
    pub network_card: u32,
    #[serde(default)]
    pub ips: Singles,
    #[serde(default)]
    pub prefixes: Vec<Prefix>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Singles {
    pub total: u32,
    pub assigned: u32,
    pub cooldown: u32,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Prefix {
    pub used: u32,
    pub cooldown: u32,
}

/// IPs of one prefix.
pub(super) const IPS_PER_PREFIX: u32 = 16;

impl Case {
    /// A boolean of the environment; anything that is none is the default (spec 01 §1.2).
    pub fn flag(&self, key: &str, default: bool) -> bool {
        match self.config.get(key).map(String::as_str) {
            Some("1" | "t" | "T" | "TRUE" | "true" | "True") => true,
            Some("0" | "f" | "F" | "FALSE" | "false" | "False") => false,
            _ => default,
        }
    }

    /// An integer of the environment, if it is set and one (spec 01 §1.2).
    fn integer(&self, key: &str) -> Option<i64> {
        let text = self.config.get(key)?;
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
    }

    /// Prefix mode, or IPv6, which needs it.
    pub fn prefixes(&self) -> bool {
        self.flag("ENABLE_PREFIX_DELEGATION", false) && self.node.prefix_delegation_supported.unwrap_or(true)
    }

    pub fn ipv6(&self) -> bool {
        self.flag("ENABLE_IPv6", false)
    }

    pub fn unit(&self) -> Unit {
        if self.prefixes() { Unit::Prefix } else { Unit::Ip }
    }

    /// The pool that the case describes.
    pub fn pool(&self) -> serde_json::Result<PoolState> {
        if self.state.is_null() { Ok(PoolState::default()) } else { PoolState::deserialize(&self.state) }
    }

    /// Asks the built-in component to keep the defects of the reference where the case shows one and recommends nothing
    /// else (spec 01 §15).
    pub fn context(&self) -> Context {
        let shows_one = self.reference_wart.is_some() && self.recommended.is_none();
        if shows_one { reference() } else { Context::default() }
    }

    /// The targets of one card (spec 01 §1.2, §1.3).
    pub fn targets(&self, card: u32) -> Targets {
        let number = |key, absent: u32| match self.integer(key) {
            None => absent,
            Some(value) => u32::try_from(value).unwrap_or(absent),
        };
        let warm_prefixes = number("WARM_PREFIX_TARGET", 0);
        if card > 0 {
            return Targets { warm_enis: 0, warm_ips: 1, warm_prefixes, minimum_ips: 1 };
        }
        Targets {
            warm_enis: number("WARM_ENI_TARGET", 1),
            warm_ips: number("WARM_IP_TARGET", 0),
            warm_prefixes,
            minimum_ips: number("MINIMUM_IP_TARGET", 0),
        }
    }

    /// Interfaces of each card: the type's limit or MAX_ENI (spec 01 §1.5).
    pub fn most_enis(&self) -> u32 {
        let limit = self.limits.map_or(4, |limits| limits.max_enis);
        let set = self.integer("MAX_ENI").and_then(|value| u32::try_from(value).ok()).filter(|&value| value >= 1);
        set.map_or(limit, |set| set.min(limit))
    }

    /// Interfaces that `card` may hold: spec 01 §3.6, all that the host knows taken off.
    fn max_enis(&self, card: u32, pool: &PoolState) -> u32 {
        let unmanaged = pool.unmanaged_enis.get(&card.to_string()).copied().unwrap_or(0);
        let trunk_wanted = card == 0
            && self.flag("ENABLE_POD_ENI", false)
            && self.node.trunk_capable.unwrap_or(true)
            && !pool.enis.iter().any(|eni| eni.network_card == 0 && eni.trunk);
        self.most_enis().saturating_sub(unmanaged).saturating_sub(trunk_wanted.into())
    }

    /// Which gate is shut for growth, in the words of the vectors.
    pub fn growth_shut(&self) -> Option<&'static str> {
        if self.node.terminating {
            Some("terminating")
        } else if self.unmanaged_unschedulable() {
            Some("unschedulable")
        } else if self.node.since_insufficient_cidr_s.is_some_and(|seconds| seconds <= 120) {
            Some("insufficient_cidr_cooldown")
        } else {
            None
        }
    }

    fn unmanaged_unschedulable(&self) -> bool {
        self.node.unschedulable && !self.flag("AWS_MANAGE_ENIS_NON_SCHEDULABLE", false)
    }

    fn gates(&self) -> Gates {
        let cordoned = self.node.terminating || self.unmanaged_unschedulable();
        let since = |event: Option<u32>, gap: u32| match event {
            Some(seconds) if seconds <= gap => Gate::OpensIn(gap + 1 - seconds),
            _ => Gate::Open,
        };
        Gates {
            grow: if cordoned { Gate::Closed } else { since(self.node.since_insufficient_cidr_s, 120) },
            release: since(self.node.since_last_decrease_s, 30),
            remove: if cordoned { Gate::Closed } else { Gate::Open },
            ec2_calls_left: 100,
        }
    }

    /// The node, its pool being `pool`.
    pub fn node(&self, pool: &PoolState) -> Node {
        let mut next_id = 0;
        let mut device_indexes: BTreeMap<u32, u32> = BTreeMap::new();
        let enis = pool.enis.iter().map(|eni| {
            let device_index = device_indexes.entry(eni.network_card).or_default();
            *device_index += 1;
            self.eni(eni, *device_index - 1, &mut next_id)
        });
        let mut enis: Vec<Eni> = enis.collect();
        enis.sort_by_key(|eni| (eni.card, eni.device_index));
        let cards = self.managed_cards.clone().unwrap_or_else(|| (0..=self.network_card).collect());
        Node {
            now: 1_700_000_000,
            name: "node".to_owned(),
            instance_type: "m5.large".to_owned(),
            availability_zone: "eu-west-1a".to_owned(),
            labels: vec![],
            families: vec![if self.ipv6() { Family::Ipv6 } else { Family::Ipv4 }],
            unit: self.unit(),
            limits: Limits {
                slots_per_eni: self.limits.map_or(14, |limits| limits.ips_per_eni),
                ips_per_prefix: IPS_PER_PREFIX,
                max_pods: self.node.max_pods.unwrap_or(10_000),
            },
            cards: cards
                .into_iter()
                .map(|index| Card {
                    index,
                    max_enis: self.max_enis(index, pool),
                    enis_in_flight: 0,
                    ips_in_flight: 0,
                    waiting: 0,
                    configured: self.targets(index),
                })
                .collect(),
            enis,
            subnets: vec![],
            gates: self.gates(),
            draining: self.node.unschedulable,
            booted_seconds: 3600,
            history: vec![],
            extra: vec![],
        }
    }

    fn eni(&self, eni: &EniState, device_index: u32, next_id: &mut u32) -> Eni {
        let primary = eni.primary == Value::Bool(true);
        let custom = self.flag("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", false);
        let traits = [
            (primary, EniTrait::Primary),
            (eni.trunk, EniTrait::Trunk),
            (eni.efa, EniTrait::Efa),
            (eni.excluded, EniTrait::Excluded),
            (eni.trunk || eni.excluded || (custom && primary), EniTrait::Closed),
        ];
        let mut cidr = |unit: Unit, size: u32, assigned: u32, cooling: u32| {
            *next_id += 1;
            Cidr {
                id: *next_id - 1,
                unit,
                size,
                serving: unit == self.unit() && !eni.excluded,
                assigned,
                cooling,
                cooled_in_seconds: if cooling > 0 { 10 } else { 0 },
                age_seconds: eni.age_s,
                idle_seconds: match (assigned, cooling) {
                    (0, 0) => None,
                    (0, _) => Some(20),
                    _ => Some(0),
                },
            }
        };
        let Singles { total, assigned, cooldown } = eni.ips;
        let mut cidrs: Vec<Cidr> = (0..total)
            .map(|i| cidr(Unit::Ip, 1, u32::from(i < assigned), u32::from(i >= assigned && i < assigned + cooldown)))
            .collect();
        cidrs.extend(eni.prefixes.iter().map(|p| cidr(Unit::Prefix, IPS_PER_PREFIX, p.used, p.cooldown)));
        Eni {
            id: eni.id.clone(),
            card: eni.network_card,
            device_index,
            subnet: "subnet-p".to_owned(),
            traits: EniTraits(traits.into_iter().filter(|(set, _)| *set).map(|(_, t)| t).collect()),
            age_seconds: eni.age_s,
            cidrs,
        }
    }
}

/// The built-in component's setting that keeps the defects of the reference.
pub(super) fn reference() -> Context {
    Context { settings: vec![("defects".to_owned(), "reference".to_owned())], memo: vec![] }
}
