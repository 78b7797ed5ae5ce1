//! The real pool manager among stand-ins: EC2 and IMDS answer as a case says, the built-in component decides, all else
//! succeeds at once. Time is virtual.

mod ec2;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use reservoir_core::checkpoint::Allocation;
use reservoir_core::cloud::{Answer, CloudError, Instance, Request};
use reservoir_core::kube::{EniConfig, Feature, NodeFacts};
use reservoir_core::limits::{CardLimits, Hypervisor, InstanceLimits};
use reservoir_core::manager::{Command, Decided, Event, JobId, Journal, Manager, Now, Settings};
use reservoir_core::policy::{Context, Family, Node, Plan, Targets, Unit};
use reservoir_core::store::{Key, PodMeta};

use crate::Outcome;
use crate::warm_pool::component;
pub(crate) use ec2::{Ec2, NO_MANAGE_TAG, attached, interface, subnet};

pub(crate) const INSTANCE: &str = "i-1";
/// The node's own subnet, and one more that is eligible where a case needs it.
pub(crate) const SUBNET: &str = "subnet-p";
pub(crate) const OTHER_SUBNET: &str = "subnet-q";
/// When the daemon has long been running: nothing is young any more.
pub(crate) const SETTLED: Duration = Duration::from_secs(100);
/// A call takes so long: what follows from its beginning is done before its answer comes.
const CALL: Duration = Duration::from_millis(100);
/// When the manager looks for what changed behind its back.
pub(crate) const LOOK: Duration = Duration::from_secs(600);

/// Who decides.
pub(crate) enum Decider {
    /// Nobody: the pool stays as it is.
    Nobody,
    /// The built-in component, one growth at a time as in the steps of the reference.
    BuiltIn(Context),
    /// This plan, once; then nobody.
    Once(Box<dyn Fn(&Node) -> Plan>),
}

/// Everything around the manager.
pub(crate) struct World {
    pub manager: Manager,
    pub ec2: Ec2,
    pub decider: Decider,
    /// What custom networking finds; none: it cannot be had.
    pub eni_config: Option<EniConfig>,
    pub at: Duration,
    /// Every call to EC2 and IMDS, and the error code that it was answered with.
    pub calls: Vec<(Request, Option<String>)>,
    /// Interfaces programmed.
    pub set_up: Vec<String>,
    pub announced: Vec<Feature>,
    /// What the manager has logged.
    pub logs: Vec<String>,
    /// Answers on their way, in order, and when each comes.
    answers: VecDeque<(Duration, JobId, Result<Answer, CloudError>)>,
}

/// What is held when the daemon starts: addresses of pods, and those that pods have just given up.
#[derive(Default)]
pub(crate) struct Held {
    pub assigned: Vec<(u32, Ipv4Addr)>,
    pub cooling: Vec<(u32, Ipv4Addr)>,
}

/// Settings of a node in IP mode with the documented defaults.
pub(crate) fn settings(primary_eni: &str) -> Settings {
    let text = |s: &str| s.to_owned();
    Settings {
        instance: Instance {
            region: text("eu-west-1"),
            availability_zone: text("eu-west-1a"),
            local_ipv4: Ipv4Addr::new(10, 1, 255, 1),
            local_ipv6: None,
            instance_id: text(INSTANCE),
            instance_type: text("m5.large"),
            mac: text("02:00:00:00:00:01"),
            primary_eni: text(primary_eni),
            subnet: text(SUBNET),
            vpc: text("vpc-1"),
        },
        limits: limits(4, 14, &[0]),
        cards: vec![0],
        max_enis: 4,
        max_pods: 500,
        family: Family::Ipv4,
        unit: Unit::Ip,
        custom_networking: false,
        eni_config_keys: reservoir_core::kube::EniConfigKeys::default(),
        pod_eni: false,
        trunk_compatible: true,
        manage_non_schedulable: false,
        targets: Targets { warm_enis: 1, ..Targets::default() },
        cooldown: Duration::from_secs(30),
        node_name: text("node"),
        cluster_name: String::new(),
        additional_tags: vec![],
        manage_untagged: true,
        subnet_discovery: true,
        provisioning: true,
        clean_up: true,
        ec2: true,
        add_wait: Duration::from_secs(30),
        seed: 1,
        booted: Duration::from_secs(3600),
    }
}

/// Limits of an instance type with so many usable slots per interface.
pub(crate) fn limits(enis: u32, slots: u32, cards: &[u32]) -> InstanceLimits {
    InstanceLimits {
        enis,
        ipv4_per_eni: slots + 1,
        default_card: 0,
        hypervisor: Hypervisor::Nitro,
        bare_metal: false,
        cards: cards.iter().map(|index| CardLimits { index: *index, max_enis: enis }).collect(),
    }
}

impl World {
    /// A node whose daemon has just started and finds what `ec2` shows. Nobody decides yet.
    pub fn start(settings: Settings, ec2: Ec2, held: &Held) -> Self {
        let mut manager = Manager::new(settings);
        let journal = Journal { managed: ec2.ids(), ..Journal::default() };
        let now = now(Duration::ZERO);
        manager.boot(now, &ec2.imds(), journal);
        let pods = held.assigned.iter().chain(&held.cooling);
        manager.restore(
            pods.map(|(card, ip)| {
                let allocation = Allocation {
                    key: key(*ip),
                    ipv4: ip.to_string(),
                    ipv6: String::new(),
                    timestamp: 1,
                    pod: PodMeta::default(),
                };
                (*card, vec![(allocation, (*ip).into())])
            })
            .collect(),
        );
        manager.handle(now, Event::Node(NodeFacts::default()));
        Self {
            manager,
            ec2,
            decider: Decider::Nobody,
            eni_config: None,
            at: Duration::ZERO,
            calls: vec![],
            set_up: vec![],
            announced: vec![],
            logs: vec![],
            answers: VecDeque::new(),
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, until: Duration) -> Result<(), Outcome> {
        for _ in 0..100_000 {
            let commands = self.manager.take_commands();
            if !commands.is_empty() {
                for command in commands {
                    self.carry_out(command)?;
                }
                continue;
            }
            let deadline = self.manager.next_deadline(now(self.at)).max(self.at);
            let answered = self.answers.front().map(|(at, ..)| *at);
            let next = answered.map_or(deadline, |at| at.min(deadline));
            if next > until {
                self.at = until;
                return Ok(());
            }
            self.at = next;
            match self.answers.pop_front_if(|(at, ..)| *at <= next) {
                Some((_, job, result)) => self.happen(Event::Cloud { job, result }),
                None => self.manager.tick(now(next)),
            }
        }
        Err(format!("the manager does not come to rest at {:?}", self.at).into())
    }

    /// Something happens now.
    pub fn happen(&mut self, event: Event) {
        self.manager.handle(now(self.at), event);
    }

    /// From now on somebody else decides, beginning now.
    pub fn decide_by(&mut self, decider: Decider) {
        self.decider = decider;
        self.happen(Event::PolicyChanged);
    }

    /// A pod gives its address up.
    pub fn give_up(&mut self, ip: Ipv4Addr) -> Result<(), Outcome> {
        let done = self.manager.del(now(self.at), &key(ip));
        done.map(|_| ()).map_err(|e| format!("the pod of {ip} does not hold it: {e}").into())
    }

    /// The node as a policy sees it now.
    pub fn snapshot(&mut self) -> Node {
        self.manager.snapshot(now(self.at))
    }

    /// Addresses in all stores.
    pub fn total(&self) -> u64 {
        self.manager.cards().iter().map(|card| card.store().stats(self.at).total).sum()
    }

    /// Interfaces in all stores, sorted.
    pub fn enis(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.manager.cards().enis().map(|(eni, _)| eni.id.clone()).collect();
        ids.sort();
        ids
    }

    fn carry_out(&mut self, command: Command) -> Result<(), Outcome> {
        match command {
            Command::Decide { node } => {
                let plan = match std::mem::replace(&mut self.decider, Decider::Nobody) {
                    Decider::Nobody => Plan::default(),
                    Decider::Once(plan) => plan(&node),
                    Decider::BuiltIn(context) => {
                        let mut plan = component::plan(&node, &context)?;
                        if node.cards.iter().any(|card| card.ips_in_flight > 0 || card.enis_in_flight > 0) {
                            plan.grow.clear();
                        }
                        self.decider = Decider::BuiltIn(context);
                        plan
                    }
                };
                let reason = plan.note.reason.clone();
                let targets = node.cards.iter().map(|card| card.configured).collect();
                let (wake_after, refresh_subnets) = (plan.note.wake_after_seconds, plan.note.refresh_subnets);
                let decided = Decided { node, plan: Some(plan), targets, reason, wake_after, refresh_subnets };
                self.happen(Event::Decided(Box::new(decided)));
            }
            Command::Rank { job, node, request } => {
                let subnets = component::rank(&node, &Context::default(), &request);
                self.happen(Event::Ranked { job, subnets });
            }
            Command::Cloud { job, request } => {
                let result = self.ec2.call(&request);
                self.calls.push((request, result.as_ref().err().map(|error| error.code.clone())));
                self.answers.push_back((self.at + CALL, job, result));
            }
            Command::SetUpEni { job, eni, .. } => {
                self.set_up.push(eni.id);
                self.happen(Event::EniReady { job, result: Ok(()) });
            }
            Command::EniConfig { job } => {
                let found = self.eni_config.clone();
                let result = found.ok_or_else(|| "eniconfig: eniconfig is not available".to_owned());
                self.happen(Event::EniConfig { job, result });
            }
            Command::Announce(feature) => {
                self.announced.push(feature.clone());
                self.happen(Event::Announced { feature, result: Ok(()) });
            }
            Command::Log { text, .. } => self.logs.push(text),
            _ => {}
        }
        Ok(())
    }
}

fn now(at: Duration) -> Now {
    Now { mono: at, unix: Duration::from_secs(1_700_000_000) + at }
}

fn key(ip: Ipv4Addr) -> Key {
    Key::new("aws-cni", format!("sandbox-{ip}"), "eth0")
}
