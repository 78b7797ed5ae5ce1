//! Random accounts, nodes, pods, faults and kills, as plain data that shrinks.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use reservoir_core::kube::EniConfig;
use reservoir_core::policy::{Family, Targets, Unit};
use reservoir_policy_native::Native;
use reservoir_sim::Config;
use reservoir_sim::model::config::{DelaysConfig, InstanceConfig, SubnetConfig};
use reservoir_sim::model::fault::{Fault, FaultEffect};
use reservoir_sim::model::throttle::ThrottleConfig;
use reservoir_sim::node::{Keep, NodeConfig, Policy, Switches};

use crate::policies::Nonsense;

/// After so long nothing happens any more: pods, faults, kills and nonsense have ended.
pub const QUIET: Duration = Duration::from_secs(600);
/// The nodes' subnet.
pub const NODES: &str = "subnet-0aaaaaaaaaaaaaaaa";
/// A subnet for pods.
pub const PODS: &str = "subnet-0bbbbbbbbbbbbbbbb";
/// A subnet that nobody may use.
pub const FORBIDDEN: &str = "subnet-0cccccccccccccccc";

/// What the nodes give to pods, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Secondary,
    Prefix,
    /// Custom networking: interfaces in the pods' subnet.
    Custom,
    CustomPrefix,
    Ipv6,
    /// Two cards, pods with one address.
    Cards,
    /// Two cards, pods with an address of each.
    EveryCard,
    /// The same two, with prefixes.
    CardsPrefix,
    EveryCardPrefix,
    /// Two cards with an IPv6 prefix each.
    Ipv6Cards,
}

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    BuiltIn,
    /// With the settings that change most.
    BuiltInOther,
    Adaptive,
    Keep(u32),
    Nonsense(u64),
}

/// A pod: its node, when it comes, how long it stays. None: it is there at the end.
#[derive(Debug, Clone)]
pub struct PodPlan {
    pub node: usize,
    pub start_ms: u64,
    pub life_s: Option<u64>,
}

/// What goes wrong at one call.
#[derive(Debug, Clone)]
pub struct FaultPlan {
    pub api: &'static str,
    pub at: u64,
    pub times: u64,
    pub effect: FaultEffect,
}

/// SIGKILL.
#[derive(Debug, Clone)]
pub struct Kill {
    pub node: usize,
    pub at_ms: u64,
    pub down_ms: u64,
}

/// Others of the account.
#[derive(Debug, Clone)]
pub enum Others {
    /// Take so many addresses of a subnet.
    Occupy(&'static str, u32),
    /// Leave so many /28 of a subnet.
    Fragment(&'static str, u32),
    /// Give all back.
    Vacate(&'static str),
    /// Attach an interface to a node, with so many addresses: one that the node may manage, or one that it may not.
    Attach { node: usize, addresses: u32, managed: bool },
    /// Detach one that the node may not manage.
    Detach { node: usize },
    /// Attach the trunk that a node wishes for.
    Trunk { node: usize },
}

/// SIGTERM; the process ends when it is told to, or so much later.
#[derive(Debug, Clone)]
pub struct End {
    pub node: usize,
    pub at_ms: u64,
    pub grace_ms: u64,
    pub down_ms: u64,
}

/// One account with one or two nodes, and what happens to them.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub mode: Mode,
    pub who: Who,
    pub instance_type: &'static str,
    pub nodes: usize,
    /// Of the nodes' and of the pods' subnet.
    pub length: u8,
    /// The pods' subnet may be used without an ENIConfig too.
    pub discovery: bool,
    pub targets: Targets,
    pub cooldown_s: u64,
    pub delays: &'static str,
    pub throttled: bool,
    pub flaky: bool,
    /// An interface that is not to be managed is attached before the daemon starts.
    pub foreign: bool,
    pub pods: Vec<PodPlan>,
    pub faults: Vec<FaultPlan>,
    pub kills: Vec<Kill>,
    pub ends: Vec<End>,
    pub switches: Switches,
    pub others: Vec<(u64, Others)>,
    pub seed: u64,
}

impl Mode {
    #[must_use]
    pub fn has_cards(self) -> bool {
        matches!(self, Self::Cards | Self::EveryCard | Self::CardsPrefix | Self::EveryCardPrefix | Self::Ipv6Cards)
    }
}

impl Scenario {
    #[must_use]
    pub fn unit(&self) -> Unit {
        match self.mode {
            Mode::Prefix | Mode::CustomPrefix | Mode::CardsPrefix | Mode::EveryCardPrefix => Unit::Prefix,
            _ => Unit::Ip,
        }
    }

    #[must_use]
    pub fn custom(&self) -> bool {
        matches!(self.mode, Mode::Custom | Mode::CustomPrefix)
    }

    #[must_use]
    pub fn ipv6(&self) -> bool {
        matches!(self.mode, Mode::Ipv6 | Mode::Ipv6Cards)
    }

    /// Interfaces that others may attach to one node, and that take a place without serving.
    fn attached_by_others(&self) -> u32 {
        let attach = |o: &&(u64, Others)| matches!(o.1, Others::Attach { .. });
        u32::try_from(self.others.iter().filter(attach).count()).unwrap_or(u32::MAX)
    }

    /// Whether new interfaces may be made in a subnet (I9).
    #[must_use]
    pub fn may_use(&self, subnet: &str) -> bool {
        match subnet {
            NODES => !self.custom(),
            // Without discovery it is possible to choose it, and the built-in policy does not (spec 01 §15).
            PODS => self.custom() || self.discovery,
            _ => false,
        }
    }

    /// Whether policies that make sense make new interfaces in it.
    #[must_use]
    pub fn grows_in(&self, subnet: &str) -> bool {
        self.may_use(subnet) && (subnet != PODS || self.custom() || self.switches.subnet_discovery)
    }

    #[must_use]
    pub fn cards(&self) -> u32 {
        if self.mode.has_cards() { 2 } else { 1 }
    }

    /// Nothing goes wrong by itself.
    #[must_use]
    pub fn is_fair(&self) -> bool {
        self.kills.is_empty()
            && self.ends.is_empty()
            && self.faults.is_empty()
            && self.others.is_empty()
            && !self.throttled
            && !self.flaky
            && self.delays != "eventual"
    }

    /// The account.
    #[must_use]
    pub fn account(&self) -> Config {
        let net = |third: u8| reservoir_core::ip::Ipv4Net::new([10, 0, third, 0].into(), self.length);
        let mut nodes = SubnetConfig::new(NODES, net(16));
        let mut config = Config {
            delays: DelaysConfig::Profile(self.delays.to_owned()),
            throttle: if self.throttled { ThrottleConfig::Published } else { ThrottleConfig::Off },
            flaky: if self.flaky { 0.08 } else { 0.0 },
            seed: self.seed,
            log_limit: 1_000_000,
            ..Config::default()
        };
        if self.ipv6() {
            config.vpc.ipv6_cidrs = ["2600:1f14:abc:d00::/56".parse()].into_iter().flatten().collect();
            nodes.ipv6_cidr = "2600:1f14:abc:d00::/64".parse().ok();
        }
        let role = if self.discovery { "1" } else { "0" };
        config.subnets = vec![
            nodes,
            SubnetConfig::new(PODS, net(32)).tag("kubernetes.io/role/cni", role),
            SubnetConfig::new(FORBIDDEN, net(64)).tag("kubernetes.io/role/cni", "0"),
        ];
        config.instances = self.instances().map(|id| InstanceConfig::new(id, self.instance_type, NODES)).collect();
        config
    }

    /// The nodes' instances.
    pub fn instances(&self) -> impl Iterator<Item = &'static str> {
        ["i-1", "i-2"].into_iter().take(self.nodes)
    }

    /// One node's daemon.
    ///
    /// # Errors
    /// An instance type that no table knows.
    pub fn node(&self, instance: &str) -> Result<NodeConfig, String> {
        let mut node = NodeConfig::new(instance, self.instance_type).map_err(|e| e.to_string())?;
        node.unit = self.unit();
        node.family = if self.ipv6() { Family::Ipv6 } else { Family::Ipv4 };
        node.cards = (0..self.cards()).collect();
        node.every_card = matches!(self.mode, Mode::EveryCard | Mode::EveryCardPrefix);
        node.switches = self.switches;
        node.targets = self.targets;
        node.cooldown = Duration::from_secs(self.cooldown_s);
        node.seed = self.seed;
        if node.unit == Unit::Prefix {
            node.max_pods = 110;
        }
        if self.custom() {
            let security_groups = Vec::new();
            node.eni_config = Some(EniConfig { name: "a".to_owned(), subnet: PODS.to_owned(), security_groups });
        }
        Ok(node)
    }

    /// Pods that one node can hold, whatever else: addresses of its interfaces, less what a pod too many would need.
    #[must_use]
    pub fn capacity(&self, node: &NodeConfig) -> u32 {
        if self.ipv6() {
            return 1000;
        }
        let closed = u32::from(self.custom()) + u32::from(self.foreign) + u32::from(self.switches.pod_eni);
        let closed = closed + self.attached_by_others();
        let size = if self.unit() == Unit::Prefix { 16 } else { 1 };
        let held = node.limits.enis.saturating_sub(closed) * node.limits.slots_per_eni() * size;
        held.min(node.max_pods.saturating_sub(2))
    }

    /// The policy of a node.
    #[must_use]
    pub fn policy(&self, node: &NodeConfig) -> Box<dyn Policy> {
        let other = [("count-cooling", "false"), ("fall-back-to-ips", "true")];
        match self.who {
            Who::BuiltIn => Box::new(Native::built_in(&[])),
            Who::BuiltInOther => Box::new(Native::built_in(&other)),
            Who::Adaptive => Box::new(Native::adaptive()),
            Who::Keep(n) => Box::new(Keep(n)),
            Who::Nonsense(seed) => Box::new(Nonsense::new(seed, (node.epoch + QUIET).as_secs())),
        }
    }
}

impl FaultPlan {
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::new(self.api, self.effect.clone()).at(self.at).times(self.times)
    }
}

/// Calls that can go wrong.
const APIS: &[&str] = &[
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "DescribeNetworkInterfaces",
    "DescribeInstances",
    "DescribeSubnets",
    "AssignIpv6Addresses",
];
const CODES: &[&str] = &[
    "RequestLimitExceeded",
    "InternalError",
    "InsufficientFreeAddressesInSubnet",
    "InsufficientCidrBlocks",
    "PrivateIpAddressLimitExceeded",
    "AttachmentLimitExceeded",
    "InvalidNetworkInterfaceID.NotFound",
    "UnauthorizedOperation",
    "InvalidParameterValue",
];

fn effect() -> impl Strategy<Value = FaultEffect> {
    prop_oneof![
        4 => select(CODES).prop_map(FaultEffect::error),
        1 => (1u32..40).prop_map(|s| FaultEffect::Delay(f64::from(s))),
        2 => Just(FaultEffect::NoAnswer),
        1 => Just(FaultEffect::Lost),
        1 => Just(FaultEffect::Reset),
        2 => Just(FaultEffect::Cut),
        1 => select(CODES).prop_map(|code| FaultEffect::After { code: code.to_owned(), message: None }),
    ]
}

fn fault() -> impl Strategy<Value = FaultPlan> {
    (select(APIS), 1u64..6, 1u64..4, effect()).prop_map(|(api, at, times, effect)| FaultPlan { api, at, times, effect })
}

fn targets() -> impl Strategy<Value = Targets> {
    let ips = || prop_oneof![2 => Just(0u32), 3 => 1u32..8, 1 => 8u32..60];
    (0u32..3, ips(), 0u32..3, ips()).prop_map(|(warm_enis, warm_ips, warm_prefixes, minimum_ips)| Targets {
        warm_enis,
        warm_ips,
        warm_prefixes,
        minimum_ips,
    })
}

fn pod(most_nodes: usize) -> impl Strategy<Value = PodPlan> {
    // Many at one time, and many just after another.
    let start = prop_oneof![2 => 5_000u64..500_000, 1 => (0u64..5).prop_map(|i| 20_000 + i * 100_000)];
    (0..most_nodes, start, option::weighted(0.7, 1u64..300)).prop_map(|(node, start_ms, life_s)| PodPlan {
        node,
        start_ms,
        life_s,
    })
}

fn others() -> impl Strategy<Value = (u64, Others)> {
    let subnet = || select(&[NODES, PODS][..]);
    let what = prop_oneof![
        (subnet(), 1u32..200).prop_map(|(s, n)| Others::Occupy(s, n)),
        (subnet(), 0u32..4).prop_map(|(s, n)| Others::Fragment(s, n)),
        subnet().prop_map(Others::Vacate),
        (0usize..2, 0u32..4, any::<bool>()).prop_map(|(node, addresses, managed)| Others::Attach {
            node,
            addresses,
            managed
        }),
        (0usize..2).prop_map(|node| Others::Detach { node }),
        (0usize..2).prop_map(|node| Others::Trunk { node }),
    ];
    (1u64..580, what)
}

fn kill() -> impl Strategy<Value = Kill> {
    (0usize..2, 0u64..590_000, prop_oneof![Just(0u64), 0u64..20_000]).prop_map(|(node, at_ms, down_ms)| Kill {
        node,
        at_ms,
        down_ms,
    })
}

fn end() -> impl Strategy<Value = End> {
    (0usize..2, 0u64..580_000, 0u64..8_000, 0u64..10_000).prop_map(|(node, at_ms, grace_ms, down_ms)| End {
        node,
        at_ms,
        grace_ms,
        down_ms,
    })
}

fn switches() -> impl Strategy<Value = Switches> {
    let mostly = |value: bool| prop::bool::weighted(0.15).prop_map(move |other| value != other);
    let rarely = prop::bool::weighted(0.05).prop_map(|other| !other);
    (mostly(false), mostly(true), mostly(true), rarely, mostly(true)).prop_map(
        |(pod_eni, manage_untagged, subnet_discovery, provisioning, clean_up)| Switches {
            pod_eni,
            manage_untagged,
            subnet_discovery,
            provisioning,
            clean_up,
        },
    )
}

/// Who decides, if what they do is to make sense.
pub fn sensible() -> BoxedStrategy<Who> {
    let keep = (0u32..6).prop_map(Who::Keep);
    prop_oneof![4 => Just(Who::BuiltIn), 2 => Just(Who::BuiltInOther), 2 => Just(Who::Adaptive), 1 => keep].boxed()
}

/// Random and hostile answers.
pub fn nonsense() -> BoxedStrategy<Who> {
    any::<u64>().prop_map(Who::Nonsense).boxed()
}

/// Everything that can happen, decided upon by `who`. `fair`: nothing goes wrong.
pub fn scenarios(who: BoxedStrategy<Who>, fair: bool) -> impl Strategy<Value = Scenario> {
    let mode = select(
        &[
            Mode::Secondary,
            Mode::Secondary,
            Mode::Prefix,
            Mode::Custom,
            Mode::CustomPrefix,
            Mode::Ipv6,
            Mode::Cards,
            Mode::EveryCard,
            Mode::CardsPrefix,
            Mode::EveryCardPrefix,
            Mode::Ipv6Cards,
        ][..],
    );
    let types = select(&["t3.small", "m5.large", "m5.xlarge"][..]);
    let account = (mode, who, types, 1usize..3, 24u8..=26, any::<bool>(), prop::bool::weighted(0.15));
    let pool = (targets(), select(&[0u64, 5, 30][..]), any::<u64>(), switches());
    let delays =
        if fair { select(&["instant", "realistic"][..]) } else { select(&["instant", "realistic", "eventual"][..]) };
    let wrong = if fair {
        (
            Just(false).boxed(),
            Just(false).boxed(),
            Just(vec![]).boxed(),
            Just(vec![]).boxed(),
            Just(vec![]).boxed(),
            Just(vec![]).boxed(),
        )
    } else {
        (
            prop::bool::weighted(0.2).boxed(),
            prop::bool::weighted(0.2).boxed(),
            vec(fault(), 0..5).boxed(),
            vec(kill(), 0..4).boxed(),
            vec(others(), 0..4).boxed(),
            vec(end(), 0..2).boxed(),
        )
    };
    (account, pool, delays, vec(pod(2), 0..40), wrong).prop_map(|(account, pool, delays, mut pods, wrong)| {
        let (mode, who, mut instance_type, nodes, mut length, discovery, foreign) = account;
        let (targets, cooldown_s, seed, switches) = pool;
        let (throttled, flaky, faults, mut kills, mut others, mut ends) = wrong;
        if mode.has_cards() {
            instance_type = "c6in.32xlarge";
        }
        if matches!(mode, Mode::Prefix | Mode::CustomPrefix | Mode::CardsPrefix | Mode::EveryCardPrefix) {
            // Room for the blocks of two nodes.
            length -= 3;
        }
        for pod in &mut pods {
            pod.node %= nodes;
        }
        for kill in &mut kills {
            kill.node %= nodes;
        }
        for end in &mut ends {
            end.node %= nodes;
        }
        for (_, other) in &mut others {
            if let Others::Attach { node, .. } | Others::Detach { node } | Others::Trunk { node } = other {
                *node %= nodes;
            }
        }
        Scenario {
            mode,
            who,
            instance_type,
            nodes,
            length,
            discovery,
            targets,
            cooldown_s,
            delays,
            throttled,
            flaky,
            foreign: foreign && !mode.has_cards(),
            switches,
            ends,
            pods,
            faults,
            kills,
            others,
            seed,
        }
    })
}
