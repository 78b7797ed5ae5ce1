//! One daemon: the pool manager and what it leaves behind. The only file here that speaks the manager's language.

use std::sync::Arc;
use std::time::Duration;

use reservoir_core::checkpoint;
use reservoir_core::cloud::{Answer, AttachedInterface, CloudError, Instance, Request};
use reservoir_core::kube::{EniConfig, EniConfigKeys, Feature, NodeFacts};
use reservoir_core::limits::InstanceLimits;
use reservoir_core::manager::{
    Add, Command, Decided, Event, Journal, Level, Manager, Now, Reconciled, Settings, Wanted,
};
use reservoir_core::policy::{CreateEni, Family, Node};
use reservoir_core::store::{Assigned, Key, PodMeta};

use super::config::NodeConfig;
use super::policy::Decision;

/// What survives a kill.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    journal: Journal,
    /// By card.
    checkpoints: Vec<(u32, Vec<u8>)>,
}

/// Something for the world to do.
#[derive(Debug)]
pub(super) enum Work {
    Decide(Arc<Node>),
    Rank {
        job: u64,
        node: Arc<Node>,
        request: CreateEni,
    },
    Call {
        job: u64,
        request: Request,
    },
    /// Tell when the kernel shows the interface and it is programmed.
    SetUp {
        job: u64,
        eni: String,
    },
    /// Read the node's ENIConfig.
    EniConfig {
        job: u64,
    },
    /// Put a wish into the node's CNINode.
    Announce(Feature),
    /// The end of a wait.
    Told {
        waiter: u64,
        outcome: Result<String, String>,
    },
    /// EC2 and IMDS agree that addresses of so many pods are gone.
    Lost(u64),
    /// The host dropped so many actions of a plan.
    Dropped(u64),
    Log(Level, String),
}

/// What a pod is told at once.
#[derive(Debug)]
pub(super) enum Begun {
    Has(String),
    Waits(u64),
    Refused(String),
}

/// An answer for the manager.
#[derive(Debug)]
pub(super) enum Reply {
    Decided(Arc<Node>, Decision),
    Ranked { job: u64, subnets: Result<Vec<String>, String> },
    Cloud { job: u64, result: Result<Answer, CloudError> },
    SetUp { job: u64, result: Result<(), String> },
    EniConfig { job: u64, result: Result<EniConfig, String> },
    Announced(Feature),
    Node(NodeFacts),
    LinkCame(String),
    LinkWent(String),
    Terminate,
}

#[derive(Debug)]
pub(super) struct Daemon {
    manager: Manager,
    /// On the world's clock.
    started: Duration,
    /// The world's zero, since the Unix epoch.
    epoch: Duration,
    wanted: Wanted,
    disk: Disk,
}

impl Daemon {
    /// Starts it on what IMDS shows and what the last run left; `lives` tells which pods of the checkpoint still run.
    pub fn start(
        now: Duration,
        config: &NodeConfig,
        instance: Instance,
        attached: &[AttachedInterface],
        disk: Disk,
        lives: impl Fn(&str) -> bool,
    ) -> Self {
        let settings = settings(now, config, instance);
        let ipv6 = settings.family == Family::Ipv6;
        let wanted = if config.every_card { Wanted::EveryCard } else { Wanted::One };
        let mut daemon = Self { manager: Manager::new(settings), started: now, epoch: config.epoch, wanted, disk };
        let at = daemon.now(now);
        daemon.manager.boot(at, attached, daemon.disk.journal.clone());
        // A file that this daemon wrote parses; none is there at a first start.
        let kept = daemon.disk.checkpoints.iter().map(|(card, file)| {
            let entries = checkpoint::parse(file).unwrap_or_default().into_iter();
            let living = entries.filter(|a| lives(&a.key.container));
            (*card, living.filter_map(|a| Some((a.address(ipv6)?, a))).map(|(ip, a)| (a, ip)).collect())
        });
        daemon.manager.restore(kept.collect());
        daemon
    }

    pub fn add(&mut self, now: Duration, container: &str) -> Begun {
        let (key, pod) = names(container);
        match self.manager.add(self.now(now), &key, &pod, self.wanted) {
            Add::Assigned(assigned) => Begun::Has(shown(&assigned)),
            Add::Waiting(waiter) => Begun::Waits(waiter),
            Add::Refused(refusal) => Begun::Refused(refusal.to_string()),
        }
    }

    /// False: it knows no such pod.
    pub fn del(&mut self, now: Duration, container: &str) -> bool {
        let (key, _) = names(container);
        self.manager.del(self.now(now), &key).is_ok()
    }

    pub fn reply(&mut self, now: Duration, reply: Reply) {
        let event = match reply {
            Reply::Decided(node, d) => Event::Decided(Box::new(Decided {
                node,
                plan: d.plan,
                targets: d.targets,
                reason: d.reason,
                wake_after: d.wake_after_seconds,
                refresh_subnets: d.refresh_subnets,
            })),
            Reply::Ranked { job, subnets } => Event::Ranked { job, subnets },
            Reply::Cloud { job, result } => Event::Cloud { job, result },
            Reply::SetUp { job, result } => Event::EniReady { job, result: result.map_err(Into::into) },
            Reply::EniConfig { job, result } => Event::EniConfig { job, result },
            Reply::Announced(feature) => Event::Announced { feature, result: Ok(()) },
            Reply::Node(facts) => Event::Node(facts),
            Reply::LinkCame(mac) => Event::LinkCame { mac },
            Reply::LinkWent(mac) => Event::LinkWent { mac },
            Reply::Terminate => Event::Terminating,
        };
        self.manager.handle(self.now(now), event);
    }

    pub fn tick(&mut self, now: Duration) {
        self.manager.tick(self.now(now));
    }

    /// When it wants to be ticked, on the world's clock.
    pub fn next_deadline(&self, now: Duration) -> Duration {
        self.started + self.manager.next_deadline(self.now(now))
    }

    /// What it wants done since it was last asked, in order.
    pub fn work(&mut self) -> Vec<Work> {
        let mut work = Vec::new();
        for command in self.manager.take_commands() {
            work.push(match command {
                Command::Decide { node } => Work::Decide(node),
                Command::Rank { job, node, request } => Work::Rank { job, node, request },
                Command::Cloud { job, request } => Work::Call { job, request },
                Command::SetUpEni { job, eni, .. } => Work::SetUp { job, eni: eni.id },
                Command::EniConfig { job } => Work::EniConfig { job },
                Command::Announce(feature) => Work::Announce(feature),
                Command::Resolve { waiter, outcome } => {
                    let outcome = outcome.map(|a| shown(&a)).map_err(|refusal| refusal.to_string());
                    Work::Told { waiter, outcome }
                }
                Command::Journal(journal) => {
                    self.disk.journal = journal;
                    continue;
                }
                Command::Record(record) => Work::Dropped(record.dropped.len() as u64),
                Command::Log { level, text } => Work::Log(level, text),
                Command::Reconciled { what: Reconciled::AddressLost, items } => Work::Lost(items),
                // What nobody answers and nothing here depends on: metrics, rules of interfaces that are gone, files that a
                // kill reads from the manager itself.
                Command::Reconciled { .. }
                | Command::Count(_)
                | Command::TearDownEni { .. }
                | Command::LeaveEni { .. }
                | Command::Changed(_) => continue,
            });
        }
        work
    }

    /// What a kill now would leave. Writing takes no virtual time: whoever was told of a change finds it there.
    pub fn disk(&self) -> Disk {
        let checkpoints = self.manager.cards().iter().map(|card| (card.index(), card.store().checkpoint()));
        Disk { journal: self.disk.journal.clone(), checkpoints: checkpoints.collect() }
    }

    /// Chains of calls under way, or a decision.
    pub fn busy(&self) -> bool {
        self.manager.busy()
    }

    /// The snapshot that a policy would see now.
    pub fn snapshot(&mut self, now: Duration) -> Node {
        let now = self.now(now);
        self.manager.snapshot(now)
    }

    fn now(&self, world: Duration) -> Now {
        Now { mono: world.saturating_sub(self.started), unix: self.epoch + world }
    }
}

fn names(container: &str) -> (Key, PodMeta) {
    let pod = PodMeta { namespace: "sim".to_owned(), name: container.to_owned(), interfaces: 1 };
    (Key::new("aws-cni", container, "eth0"), pod)
}

/// The addresses of a pod, by card.
fn shown(assigned: &[Assigned]) -> String {
    assigned.iter().map(|a| a.ip.to_string()).collect::<Vec<_>>().join(" ")
}

fn settings(now: Duration, config: &NodeConfig, instance: Instance) -> Settings {
    let limits = config.limits.clone();
    Settings {
        cards: config.cards.clone(),
        max_enis: limits.enis,
        limits,
        max_pods: config.max_pods,
        family: config.family,
        unit: config.unit,
        custom_networking: config.eni_config.is_some(),
        eni_config_keys: EniConfigKeys::default(),
        pod_eni: config.switches.pod_eni,
        trunk_compatible: true,
        manage_non_schedulable: false,
        targets: config.targets,
        cooldown: config.cooldown,
        node_name: instance.instance_id.clone(),
        instance,
        cluster_name: String::new(),
        additional_tags: Vec::new(),
        manage_untagged: config.switches.manage_untagged,
        subnet_discovery: config.switches.subnet_discovery,
        provisioning: config.switches.provisioning,
        // As the daemon has it: never by tags in IPv6 mode.
        clean_up: config.switches.clean_up && config.family != Family::Ipv6,
        ec2: true,
        add_wait: config.add_wait,
        seed: config.seed ^ now.as_micros() as u64,
        booted: now,
    }
}

/// Limits of an instance type that the table knows.
pub(super) fn limits_of(instance_type: &str) -> Option<InstanceLimits> {
    InstanceLimits::of(instance_type)
}
