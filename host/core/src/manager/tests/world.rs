//! What is around the manager: the clock, the cloud, pods, and a policy of a few lines.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::super::*;
use super::ec2::Ec2;
use super::{SLOTS, ms};
use crate::cloud::{Instance, Request};
use crate::kube::{EniConfig, EniConfigKeys, Feature};
use crate::limits::InstanceLimits;
use crate::policy::{Assign, CreateEni, EniTrait, Family, Growth, Node, Plan, Targets, Unit};
use crate::store::{Assigned, Key, PodMeta};

/// Everything around the manager: a queue of events and the clock.
pub(super) struct World {
    pub(super) m: Manager,
    pub(super) at: Duration,
    pub(super) queue: BTreeMap<(Duration, u64), Event>,
    pub(super) sequence: u64,
    pub(super) ec2: Ec2,
    pub(super) warm: u32,
    pub(super) release_all: bool,
    pub(super) answers: BTreeMap<WaiterId, Result<String, Refusal>>,
    pub(super) calls: Vec<String>,
    pub(super) journal: Journal,
    pub(super) logs: Vec<String>,
    pub(super) policy_is_silent: bool,
    /// What the policy asks for where it is not the node's unit.
    pub(super) other_unit: Option<Unit>,
    pub(super) set_up_fails: bool,
    /// How it does.
    pub(super) not_ready: NotReady,
    pub(super) eni_config: Result<EniConfig, String>,
    pub(super) announcing: Result<(), String>,
    pub(super) announced: Vec<Feature>,
    pub(super) tagged: BTreeSet<String>,
    pub(super) decisions: u32,
    /// Blocks of the subnets of interfaces that were programmed.
    pub(super) programmed: Vec<String>,
    pub(super) torn_down: Vec<String>,
    /// Interfaces that were left to others, with their tables.
    pub(super) left: Vec<(String, u32)>,
    pub(super) reconciled: HashMap<Reconciled, u64>,
    pub(super) counted: Vec<Counter>,
    /// Checkpoints that were to be written without anybody waiting.
    pub(super) rewritten: usize,
}

pub(super) fn shown(list: &[Assigned]) -> String {
    list.iter().map(|a| a.ip.to_string()).collect::<Vec<_>>().join(" ")
}

pub(super) fn settings() -> Settings {
    let text = |s: &str| s.to_owned();
    Settings {
        instance: Instance {
            region: text("r"),
            availability_zone: text("ra"),
            local_ipv4: Ipv4Addr::new(10, 0, 9, 9),
            local_ipv6: None,
            instance_id: text("i-1"),
            instance_type: text("t"),
            mac: text("02:00:00:00:00:00"),
            primary_eni: text("eni-0"),
            subnet: text("subnet-1"),
            vpc: text("vpc-1"),
        },
        limits: InstanceLimits {
            enis: 3,
            ipv4_per_eni: SLOTS + 1,
            default_card: 0,
            hypervisor: crate::limits::Hypervisor::Nitro,
            bare_metal: false,
            cards: vec![],
        },
        cards: vec![0],
        max_enis: 3,
        max_pods: 110,
        family: Family::Ipv4,
        unit: Unit::Ip,
        custom_networking: false,
        eni_config_keys: EniConfigKeys::default(),
        pod_eni: false,
        trunk_compatible: true,
        manage_non_schedulable: false,
        targets: Targets::default(),
        cooldown: Duration::from_secs(30),
        node_name: String::new(),
        cluster_name: String::new(),
        additional_tags: vec![],
        manage_untagged: true,
        subnet_discovery: true,
        provisioning: true,
        ec2: true,
        clean_up: true,
        add_wait: Duration::from_secs(8),
        seed: 1,
        booted: Duration::ZERO,
    }
}

impl World {
    /// A fresh node: the primary interface alone, `free` addresses in the subnet.
    pub(super) fn new(free: u32, warm: u32) -> Self {
        let mut ec2 = Ec2 { free, ..Ec2::default() };
        ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
        Self::on(ec2, warm, Journal::default())
    }

    pub(super) fn on(ec2: Ec2, warm: u32, journal: Journal) -> Self {
        Self::with(settings(), ec2, warm, journal)
    }

    pub(super) fn with(settings: Settings, ec2: Ec2, warm: u32, journal: Journal) -> Self {
        let mut m = Manager::new(settings);
        m.boot(Now { mono: Duration::ZERO, unix: Duration::from_secs(960_000_000) }, &ec2.attached(), journal);
        let mut world = Self {
            m,
            at: Duration::ZERO,
            queue: BTreeMap::new(),
            sequence: 0,
            ec2,
            warm,
            release_all: false,
            answers: BTreeMap::new(),
            calls: vec![],
            journal: Journal::default(),
            logs: vec![],
            policy_is_silent: false,
            other_unit: None,
            set_up_fails: false,
            not_ready: NotReady::Failed("no link".to_owned()),
            eni_config: Err("eniconfig: eniconfig is not available".to_owned()),
            announcing: Ok(()),
            announced: vec![],
            tagged: BTreeSet::new(),
            decisions: 0,
            programmed: vec![],
            torn_down: vec![],
            left: vec![],
            reconciled: HashMap::new(),
            counted: vec![],
            rewritten: 0,
        };
        world.commands();
        world
    }

    pub(super) fn now(&self) -> Now {
        Now { mono: self.at, unix: Duration::from_secs(960_000_000) + self.at }
    }

    pub(super) fn later(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.at + ms(delay), self.sequence), event);
    }

    pub(super) fn commands(&mut self) {
        for command in self.m.take_commands() {
            match command {
                Command::Decide { node } => {
                    self.decisions += 1;
                    let plan = (!self.policy_is_silent).then(|| self.policy(&node));
                    let decided = Decided {
                        node,
                        plan,
                        targets: vec![],
                        reason: "test".to_owned(),
                        wake_after: None,
                        refresh_subnets: false,
                    };
                    self.later(1, Event::Decided(Box::new(decided)));
                }
                Command::Rank { job, node, .. } => {
                    let subnets = Ok(node.subnets.iter().map(|s| s.id.clone()).collect());
                    self.later(1, Event::Ranked { job, subnets });
                }
                Command::Cloud { job, request } => {
                    self.calls.push(request.api().to_owned());
                    if let Request::CreateTags { resource, .. } = &request {
                        self.tagged.insert(resource.clone());
                    }
                    let delay = match request {
                        Request::CreateNetworkInterface(_) => 500,
                        Request::AttachNetworkInterface { .. } => 1000,
                        Request::AssignPrivateIpAddresses { .. } => 300,
                        Request::UnassignPrivateIpAddresses { .. } => 2000,
                        _ => 10,
                    };
                    let result = self.ec2.call(&request);
                    self.later(delay, Event::Cloud { job, result });
                }
                Command::SetUpEni { job, subnet_cidr, .. } => {
                    self.programmed.push(subnet_cidr.to_string());
                    let result = if self.set_up_fails { Err(self.not_ready.clone()) } else { Ok(()) };
                    self.later(50, Event::EniReady { job, result });
                }
                Command::Resolve { waiter, outcome } => {
                    self.answers.insert(waiter, outcome.map(|list| shown(&list)));
                }
                Command::EniConfig { job } => {
                    let result = self.eni_config.clone();
                    self.later(5, Event::EniConfig { job, result });
                }
                Command::Announce(feature) => {
                    self.announced.push(feature.clone());
                    self.later(5, Event::Announced { feature, result: self.announcing.clone() });
                }
                Command::Journal(journal) => self.journal = journal,
                Command::Log { text, .. } => self.logs.push(text),
                Command::Reconciled { what, items } => *self.reconciled.entry(what).or_default() += items,
                Command::Changed(changes) => self.rewritten += changes.len(),
                Command::TearDownEni { eni } => self.torn_down.push(eni.id),
                Command::LeaveEni { eni } => self.left.push((eni.id, eni.table)),
                Command::Count(counter) => self.counted.push(counter),
                Command::Record(_) => {}
            }
        }
    }

    /// Grows each card by what is missing, on what is there before on something new; releases all that is free if told so.
    pub(super) fn policy(&self, node: &Node) -> Plan {
        let mut plan = Plan::default();
        let unit = self.other_unit.unwrap_or(node.unit);
        let size = if unit == Unit::Prefix { 16 } else { 1 };
        for card in &node.cards {
            let warm = if card.index == 0 { self.warm } else { card.configured.warm_ips };
            let enis = || node.enis.iter().filter(|e| e.card == card.index);
            let free: u32 = enis()
                .flat_map(|e| &e.cidrs)
                .filter(|c| c.serving || c.unit == node.unit)
                .map(|c| c.size - c.assigned - c.cooling)
                .sum();
            let wanted = card.waiting + warm;
            let missing = wanted.saturating_sub(free + card.ips_in_flight).div_ceil(size);
            if missing > 0 {
                for eni in enis().filter(|e| !e.traits.has(EniTrait::Closed)) {
                    let count = missing.min(SLOTS - eni.cidrs.len() as u32);
                    if count > 0 {
                        plan.grow.push(Growth::Assign(Assign { eni: eni.id.clone(), unit, count }));
                    }
                }
                let (card, count) = (card.index, missing.min(SLOTS));
                plan.grow.push(Growth::CreateEni(CreateEni { card, unit, count }));
            } else if self.release_all {
                plan.release.extend(enis().flat_map(|e| &e.cidrs).filter(|c| c.assigned == 0).map(|c| c.id));
                plan.remove.extend(enis().filter(|e| !e.traits.has(EniTrait::Primary)).map(|e| e.id.clone()));
            }
        }
        plan
    }

    /// Lets time pass until nothing more happens before `until`.
    pub(super) fn run(&mut self, seconds: u64) {
        self.run_ms(seconds * 1000);
    }

    pub(super) fn run_ms(&mut self, millis: u64) {
        let end = self.at + ms(millis);
        loop {
            let event = self.queue.keys().next().map(|(at, _)| *at);
            let next = self.m.next_deadline(self.now()).max(self.at).min(event.unwrap_or(end));
            if next >= end {
                self.at = end;
                return;
            }
            self.at = next;
            if event == Some(next) {
                let (_, event) = self.queue.pop_first().unwrap();
                self.m.handle(self.now(), event);
            } else {
                self.m.tick(self.now());
            }
            self.commands();
        }
    }

    pub(super) fn add(&mut self, pod: &str) -> Result<String, WaiterId> {
        self.add_wanting(pod, Wanted::One)
    }

    pub(super) fn add_wanting(&mut self, pod: &str, wanted: Wanted) -> Result<String, WaiterId> {
        let now = self.now();
        let added = self.m.add(now, &Key::new("n", pod, "eth0"), &PodMeta::default(), wanted);
        self.commands();
        match added {
            Add::Assigned(list) => Ok(shown(&list)),
            Add::Waiting(id) => Err(id),
            Add::Refused(refusal) => panic!("{refusal}"),
        }
    }

    pub(super) fn del(&mut self, pod: &str) {
        let now = self.now();
        self.m.del(now, &Key::new("n", pod, "eth0")).unwrap();
        self.commands();
    }

    /// What the pod holds.
    pub(super) fn lookup(&self, pod: &str) -> Option<String> {
        let held = self.m.lookup(&Key::new("n", pod, "eth0"));
        (!held.is_empty()).then(|| shown(&held))
    }

    pub(super) fn count(&self, api: &str) -> usize {
        self.calls.iter().filter(|c| *c == api).count()
    }

    /// What must hold whenever nothing is under way.
    pub(super) fn check(&self) {
        let attached = self.ec2.enis.iter().filter(|(_, (d, _))| d.is_some());
        let held: BTreeSet<String> =
            attached.flat_map(|(id, _)| self.ec2.blocks(id)).map(|net| net.to_string()).collect();
        let ours: BTreeSet<String> = self
            .m
            .cards()
            .enis()
            .flat_map(|(e, _)| self.m.cards().cidrs(&e.id, self.at).map(|c| c.net.to_string()))
            .collect();
        assert_eq!(ours, held, "the store and EC2 agree");
        assert!(self.ec2.enis.values().all(|(d, _)| d.is_some()), "nothing is left behind");
        let pods: Vec<_> = self.m.cards().assignments().map(|(ip, _)| ip).collect();
        assert_eq!(pods.iter().collect::<BTreeSet<_>>().len(), pods.len(), "no address twice");
    }
}
