//! The pool manager's vocabulary: what it is told, what it asks to be done, what it answers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::intents::Making;
use super::{Counter, NotReady};
use crate::cloud::{Answer, CloudError, Instance, Request};
use crate::ip::{IpNet, Ipv4Net};
use crate::kube::{EniConfig, EniConfigKeys, Feature, NodeFacts};
use crate::limits::InstanceLimits;
use crate::policy::{CreateEni, Family, Node, Pairs, Plan, Targets, Unit};
use crate::store::{Assigned, Change, EniSpec};
use crate::validate::Dropped;

/// One instant on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the daemon's start, never jumps. All distances are taken from it.
    pub mono: Duration,
    /// Since the Unix epoch: for what people and files are told.
    pub unix: Duration,
}

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct Settings {
    pub instance: Instance,
    pub limits: InstanceLimits,
    /// The managed network cards ([`super::managed_cards`]).
    pub cards: Vec<u32>,
    /// Interfaces per card, each alike: the instance type's limit or MAX_ENI, the smaller (spec 01 §1.5).
    pub max_enis: u32,
    /// Until the Node object tells (spec 01 §1.6).
    pub max_pods: u32,
    /// What pods are given.
    pub family: Family,
    pub unit: Unit,
    /// AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG: new interfaces are made where the node's ENIConfig says, and the primary one
    /// gets no more addresses (spec 01 §7).
    pub custom_networking: bool,
    /// ENI_CONFIG_ANNOTATION_DEF and ENI_CONFIG_LABEL_DEF.
    pub eni_config_keys: EniConfigKeys,
    /// ENABLE_POD_ENI: a trunk is wished for and a place kept for it (spec 01 §11).
    pub pod_eni: bool,
    /// The instance type may have a trunk (spec 03 §10.4).
    pub trunk_compatible: bool,
    /// AWS_MANAGE_ENIS_NON_SCHEDULABLE: grow and remove on an unschedulable node too.
    pub manage_non_schedulable: bool,
    /// From the environment, for card 0. The others follow the pods with one spare address (spec 01 §10.2).
    pub targets: Targets,
    /// IP_COOLDOWN_PERIOD.
    pub cooldown: Duration,
    pub node_name: String,
    /// CLUSTER_NAME; empty if not set.
    pub cluster_name: String,
    /// ADDITIONAL_ENI_TAGS, checked.
    pub additional_tags: Pairs,
    /// MANAGE_UNTAGGED_ENI.
    pub manage_untagged: bool,
    /// ENABLE_SUBNET_DISCOVERY.
    pub subnet_discovery: bool,
    /// False: assign, create, release and remove nothing (DISABLE_NETWORK_RESOURCE_PROVISIONING).
    pub provisioning: bool,
    /// False: interfaces that were made and never attached are left (DISABLE_LEAKED_ENI_CLEANUP).
    pub clean_up: bool,
    /// False: EC2 is never called (ENABLE_IMDS_ONLY_MODE).
    pub ec2: bool,
    /// How long an ADD waits for an address at most.
    pub add_wait: Duration,
    /// For jitter and idempotency tokens: the same seed gives the same run.
    pub seed: u64,
    /// How long the machine had been up at the daemon's start.
    pub booted: Duration,
}

/// One job of the manager: a chain of calls with one outcome.
pub type JobId = u64;
/// One ADD that waits.
pub type WaiterId = u64;

/// What a pod asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// One address, of the lowest card that has one (spec 01 §10.6).
    One,
    /// One address of every managed card, or none at all.
    EveryCard,
}

/// What the manager is told.
#[derive(Debug)]
pub enum Event {
    /// The answer to [`Command::Decide`].
    Decided(Box<Decided>),
    /// The answer to [`Command::Rank`].
    Ranked { job: JobId, subnets: Result<Vec<String>, String> },
    /// The answer to [`Command::Cloud`].
    Cloud { job: JobId, result: Result<Answer, CloudError> },
    /// The routes of an interface are in another table than its place says: the rules that the host had from before decide
    /// (spec 04 §7.3). Told before the interface is ready.
    EniTable { eni: String, table: u32 },
    /// The answer to [`Command::SetUpEni`].
    EniReady { job: JobId, result: Result<(), NotReady> },
    /// The Node object, when it was first read and whenever it has changed.
    Node(NodeFacts),
    /// The answer to [`Command::EniConfig`]: the reason in words where it could not be had.
    EniConfig { job: JobId, result: Result<EniConfig, String> },
    /// The answer to [`Command::Announce`].
    Announced { feature: Feature, result: Result<(), String> },
    /// A pod needs an interface whose link the kernel does not show: another may be attached by now. Sources are read again
    /// (spec 02 §3.2), within the node's budget of calls.
    LinkMissing,
    /// A link that may be an interface of the instance has come, or has told of itself again.
    LinkCame { mac: String },
    /// A link has gone, of whatever kind.
    LinkWent { mac: String },
    /// News of links were lost: any may have come or gone.
    LinksMissed,
    /// Component or settings of the policy have changed.
    PolicyChanged,
    /// SIGTERM: no growth, no removal from now on.
    Terminating,
}

/// A decision, whoever made it.
#[derive(Debug, Clone)]
pub struct Decided {
    /// What it was made on.
    pub node: Arc<Node>,
    /// None: nobody answered; the reason tells why.
    pub plan: Option<Plan>,
    pub targets: Vec<Targets>,
    /// One line: the rule that spoke, or why there is no answer.
    pub reason: String,
    /// The soonest that sizing and planning asked for.
    pub wake_after: Option<u32>,
    pub refresh_subnets: bool,
}

/// What the manager asks to be done, in this order.
#[derive(Debug)]
pub enum Command {
    Decide {
        node: Arc<Node>,
    },
    Rank {
        job: JobId,
        node: Arc<Node>,
        request: CreateEni,
    },
    Cloud {
        job: JobId,
        request: Request,
    },
    /// Wait until the kernel shows the interface, then program its link, route table and rules (spec 04 §9).
    SetUpEni {
        job: JobId,
        eni: EniSpec,
        /// Of the pods' family.
        subnet_cidr: IpNet,
    },
    /// Delete the rules of an interface that is gone (spec 01 §4.3 step 7). Nothing waits for it.
    TearDownEni {
        eni: EniSpec,
    },
    /// Delete the rule that was made for an interface which is not ours any more and stays attached. Nothing waits for it.
    LeaveEni {
        eni: EniSpec,
    },
    /// Read the ENIConfig that applies to the node now (spec 01 §7.1): the Node, the name ([`crate::kube::eni_config_name`]),
    /// the object. A failed read of either is a failure (W21).
    EniConfig {
        job: JobId,
    },
    /// Put the wish into the node's CNINode, if it is not there ([`Feature::added_to`]).
    Announce(Feature),
    /// End a wait; by card.
    Resolve {
        waiter: WaiterId,
        outcome: Result<Vec<Assigned>, Refusal>,
    },
    /// Make this the journal's content before any later command is carried out.
    Journal(Journal),
    /// Write the checkpoints of these cards anew; nobody waits for it.
    Changed(Vec<Change>),
    /// What the listings of EC2 and IMDS led to, under the reference's names (spec 01 §3.9).
    Reconciled {
        what: Reconciled,
        items: u64,
    },
    /// What became of a decision.
    Record(Box<Record>),
    Count(Counter),
    Log {
        level: Level,
        text: String,
    },
}

/// How the host dealt with one plan.
#[derive(Debug, Clone)]
pub struct Record {
    pub node: Arc<Node>,
    pub started: Vec<String>,
    pub dropped: Vec<Dropped>,
}

/// What must outlive the daemon beside the checkpoint (architecture §4).
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Journal {
    /// Interfaces known to be managed: their addresses are served at a restart before EC2 has confirmed them.
    pub managed: Vec<String>,
    /// CIDRs being given back, by interface: IMDS may show them for a minute more.
    pub returning: Vec<(String, String)>,
    /// Interfaces being removed.
    pub removing: Vec<String>,
    /// Interfaces that EC2 was asked for and that are not attached yet.
    pub making: Vec<Making>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// What a listing led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reconciled {
    /// An interface that was attached by others, or left by a failure.
    EniAdded,
    EniRemoved,
    /// Addresses and prefixes.
    BlockRemoved,
    /// Listed, known before or not.
    BlockConfirmed,
    /// An interface that vanished with pods on it.
    EniLost,
    /// Addresses of pods that vanished.
    AddressLost,
}

/// What an ADD gets at once.
#[derive(Debug)]
pub enum Add {
    /// By card; at least one.
    Assigned(Vec<Assigned>),
    /// [`Command::Resolve`] will tell.
    Waiting(WaiterId),
    Refused(Refusal),
}

/// Why a pod gets no address, in the operator's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Every subnet that may be used has no address left.
    SubnetFull { subnets: Vec<String> },
    /// The node holds all the interfaces and addresses that it can.
    EniLimit { enis: u32, ips: u32 },
    /// EC2 throttles; nothing came within the wait.
    Throttled,
    /// Free addresses exist and rest after their last pod.
    Cooling { count: u32, seconds: u64 },
    /// A new interface is needed and no subnet may have it (spec 01 §6.3).
    NoSubnet(String),
    /// EC2 refuses.
    Cloud(String),
    /// The policy asks for nothing.
    Policy(String),
    /// Growth is switched off on this node.
    Off(&'static str),
    /// Addresses were on their way and did not arrive in time.
    Late { seconds: u64 },
    /// The pod was deleted while it waited.
    Deleted,
    /// Too many wait already.
    Crowded(usize),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SubnetFull { subnets } => {
                write!(f, "no free IP address left in subnet {} (add a subnet or free addresses)", subnets.join(", "))
            }
            Self::EniLimit { enis, ips } => write!(
                f,
                "the node holds its limit of {enis} network interfaces with {ips} IP addresses (ENI limit; use a larger \
                 instance type, MAX_ENI or fewer pods)"
            ),
            Self::Throttled => write!(f, "EC2 throttles this account's requests (throttled)"),
            Self::Cooling { count, seconds } => {
                write!(f, "{count} IP addresses are cooling, the first is free in {seconds} s (IP_COOLDOWN_PERIOD)")
            }
            Self::NoSubnet(why) => f.write_str(why),
            Self::Cloud(error) => write!(f, "EC2 gives no address: {error}"),
            Self::Policy(reason) => write!(f, "the policy asks for no more addresses: {reason}"),
            Self::Off(why) => write!(f, "no addresses are requested: {why}"),
            Self::Late { seconds } => write!(f, "addresses were requested and did not arrive within {seconds} s"),
            Self::Deleted => write!(f, "the pod was deleted while it waited for an address"),
            Self::Crowded(n) => write!(f, "{n} pods wait for an address already"),
        }
    }
}

impl Refusal {
    /// One word of a fixed set, for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SubnetFull { .. } => "subnet_full",
            Self::EniLimit { .. } => "eni_limit",
            Self::Throttled => "throttled",
            Self::Cooling { .. } => "cooling",
            Self::NoSubnet(_) => "no_subnet",
            Self::Cloud(_) => "ec2",
            Self::Policy(_) => "policy",
            Self::Off(_) => "off",
            Self::Late { .. } => "late",
            Self::Deleted => "deleted",
            Self::Crowded(_) => "crowded",
        }
    }
}

/// An address block being asked for or given back, as the store names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub eni: String,
    pub net: IpNet,
}

/// The blocks of an interface as EC2 or IMDS list them.
pub(super) fn blocks(secondary: &[std::net::Ipv4Addr], prefixes: &[Ipv4Net]) -> Vec<IpNet> {
    let singles = secondary.iter().map(|a| IpNet::new(IpAddr::V4(*a), 32));
    singles.chain(prefixes.iter().map(|p| IpNet::from(*p))).collect()
}
