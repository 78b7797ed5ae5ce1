//! The event queue: nodes, their pods, EC2's answers, deadlines, kills.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use reservoir_core::cloud::{Answer, AttachedInterface, Instance, Request};
use reservoir_core::ip::IpNet;
use reservoir_core::kube::{EniConfig, NodeFacts};
use reservoir_core::limits::InstanceLimits;
use reservoir_core::manager::Level as LogLevel;
use reservoir_core::policy::{Family, Node, Targets, Unit};

use super::daemon::{Begun, Daemon, Disk, Reply, Work, limits_of};
use super::policy::{Decision, Policy};
use super::score::{Level, Meter, Score};
use super::workload::{Pod, Shape};
use crate::model::config::{Config, ConfigError};
use crate::model::links::LinkChange;
use crate::model::sim::Sim;

/// Asking a policy and hearing its answer.
const DECISION: Duration = Duration::from_millis(1);
/// Programming an interface that the kernel shows.
const SET_UP: Duration = Duration::from_millis(30);
/// How long an attached interface may take to show in the kernel.
const APPEARANCE: Duration = Duration::from_secs(60);
/// A call to the API server.
const API_SERVER: Duration = Duration::from_millis(10);
/// Between two tries of a daemon that cannot start.
const START_AGAIN: Duration = Duration::from_secs(2);

/// One node of the account.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// An instance of the simulation's configuration.
    pub instance: String,
    pub limits: InstanceLimits,
    pub max_pods: u32,
    pub family: Family,
    pub unit: Unit,
    /// The managed network cards.
    pub cards: Vec<u32>,
    /// Pods want an address of every card instead of one.
    pub every_card: bool,
    /// The documented targets, as the environment would set them.
    pub targets: Targets,
    /// IP_COOLDOWN_PERIOD.
    pub cooldown: Duration,
    /// RESERVOIR_ADD_WAIT_SECONDS.
    pub add_wait: Duration,
    /// Between a refused ADD and the kubelet's next try.
    pub retry: Duration,
    /// The world's zero, since the Unix epoch.
    pub epoch: Duration,
    /// Custom networking with this ENIConfig.
    pub eni_config: Option<EniConfig>,
    /// For the daemon's jitter and tokens.
    pub seed: u64,
}

impl NodeConfig {
    /// The documented defaults for `instance` of `instance_type`: WARM_ENI_TARGET=1, single addresses, as many pods as
    /// the type's addresses allow, 110 at most. The world begins on a Monday at midnight, UTC.
    ///
    /// # Errors
    /// The table of limits does not know the type.
    pub fn new(instance: &str, instance_type: &str) -> Result<Self, WorldError> {
        let limits = limits_of(instance_type).ok_or_else(|| WorldError::Type(instance_type.to_owned()))?;
        let max_pods = (limits.enis.saturating_mul(limits.slots_per_eni()) + 2).min(110);
        Ok(Self {
            instance: instance.to_owned(),
            limits,
            max_pods,
            family: Family::Ipv4,
            unit: Unit::Ip,
            cards: vec![0],
            every_card: false,
            targets: Targets { warm_enis: 1, warm_ips: 0, warm_prefixes: 1, minimum_ips: 0 },
            cooldown: Duration::from_secs(30),
            add_wait: Duration::from_secs(30),
            retry: Duration::from_secs(10),
            epoch: Duration::from_secs(1_767_571_200),
            eni_config: None,
            seed: 1,
        })
    }

    /// For whom pods are made: nine tenths of the addresses that the node can hold, so that what differs is the policy and
    /// not the limit of the instance type.
    #[must_use]
    pub fn shape(&self, length: Duration) -> Shape {
        let slots = self.limits.slots_per_eni();
        let addresses = match self.unit {
            Unit::Ip => self.limits.enis.saturating_mul(slots),
            Unit::Prefix => self.limits.enis.saturating_mul(slots).saturating_mul(16),
        };
        Shape { length, capacity: (addresses.saturating_mul(9) / 10).min(self.max_pods.saturating_sub(2)), slots }
    }
}

/// A node of a [`World`], in the order in which they were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(usize);

/// Why a world cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("instance type {0:?} is not in the table of limits; give one that is, such as m5.xlarge")]
    Type(String),
}

/// One decision, for who asked for a trace.
#[derive(Debug, Clone)]
pub struct Traced {
    pub at: Duration,
    pub node: NodeId,
    pub snapshot: Arc<Node>,
    pub decision: Decision,
}

/// Nodes on one simulated account, under virtual time.
pub struct World {
    sim: Sim,
    now: Duration,
    sequence: u64,
    queue: BinaryHeap<Reverse<Due>>,
    nodes: Vec<Machine>,
    by_instance: HashMap<String, usize>,
    trace: Option<Vec<Traced>>,
    log: Vec<(Duration, NodeId, LogLevel, String)>,
    findings: Vec<String>,
}

struct Machine {
    config: NodeConfig,
    policy: Box<dyn Policy>,
    daemon: Option<Daemon>,
    disk: Disk,
    /// Counts starts and kills: what was meant for an earlier daemon is not delivered.
    life: u64,
    armed: Option<Duration>,
    pods: Vec<PodState>,
    /// Containers that run, by name, with their pod's place.
    running: HashMap<String, usize>,
    waiting: HashMap<u64, usize>,
    /// Interfaces that the kernel shows.
    links: HashSet<String>,
    /// Set-ups that wait for the link.
    appearing: BTreeMap<u64, String>,
    refusal: Option<String>,
    /// What the Node object says, once it is there.
    facts: Option<NodeFacts>,
    score: Score,
    meter: Meter,
}

struct PodState {
    pod: Pod,
    tries: u32,
    asked: Option<Duration>,
    address: Option<String>,
    starved: bool,
    gone: bool,
}

#[derive(Debug)]
enum Happening {
    Start,
    Kill {
        down: Duration,
    },
    Terminate,
    Facts(Box<NodeFacts>),
    Add(usize),
    Del {
        pod: usize,
    },
    Reply {
        life: u64,
        reply: Box<Reply>,
    },
    /// The link of a set-up did not appear in time.
    NoLink {
        life: u64,
        job: u64,
    },
    Tick {
        life: u64,
    },
}

#[derive(Debug)]
struct Due {
    at: Duration,
    sequence: u64,
    node: usize,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl World {
    /// An account without daemons.
    ///
    /// # Errors
    /// What in the configuration makes no sense.
    pub fn new(config: &Config) -> Result<Self, WorldError> {
        Ok(Self {
            sim: Sim::new(config)?,
            now: Duration::ZERO,
            sequence: 0,
            queue: BinaryHeap::new(),
            nodes: Vec::new(),
            by_instance: HashMap::new(),
            trace: None,
            log: Vec::new(),
            findings: Vec::new(),
        })
    }

    /// Starts a daemon on an instance, at `at`.
    pub fn add_node(&mut self, at: Duration, config: NodeConfig, policy: Box<dyn Policy>) -> NodeId {
        let id = self.nodes.len();
        self.by_instance.insert(config.instance.clone(), id);
        self.nodes.push(Machine {
            config,
            policy,
            daemon: None,
            disk: Disk::default(),
            life: 0,
            armed: None,
            pods: Vec::new(),
            running: HashMap::new(),
            waiting: HashMap::new(),
            links: HashSet::new(),
            appearing: BTreeMap::new(),
            refusal: None,
            facts: None,
            score: Score::default(),
            meter: Meter::starting(at),
        });
        self.schedule(at, id, Happening::Start);
        NodeId(id)
    }

    /// Gives a node pods to run.
    pub fn add_pods(&mut self, node: NodeId, pods: impl IntoIterator<Item = Pod>) {
        for pod in pods {
            let place = self.nodes[node.0].pods.len();
            self.schedule(pod.start, node.0, Happening::Add(place));
            self.schedule(pod.stop, node.0, Happening::Del { pod: place });
            let state = PodState { pod, tries: 0, asked: None, address: None, starved: false, gone: false };
            self.nodes[node.0].pods.push(state);
        }
    }

    /// SIGKILL at `at`: nothing is finished, calls under way have their effect and nobody hears of it. The daemon starts
    /// again `down` later. `Duration::MAX` as `down`: it does not.
    pub fn kill(&mut self, at: Duration, node: NodeId, down: Duration) {
        self.schedule(at, node.0, Happening::Kill { down });
    }

    /// SIGTERM at `at`, without an end of the process.
    pub fn terminate(&mut self, at: Duration, node: NodeId) {
        self.schedule(at, node.0, Happening::Terminate);
    }

    /// From `at` on the Node object says this: labels, the taint of a cordoned node.
    pub fn node_object(&mut self, at: Duration, node: NodeId, facts: NodeFacts) {
        self.schedule(at, node.0, Happening::Facts(Box::new(facts)));
    }

    /// Keeps every decision from now on, for [`World::take_trace`].
    pub fn trace(&mut self) {
        self.trace.get_or_insert_default();
    }

    /// The decisions since the last time.
    pub fn take_trace(&mut self) -> Vec<Traced> {
        self.trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What the daemons have logged since the last time, while decisions are kept.
    pub fn take_log(&mut self) -> Vec<(Duration, NodeId, LogLevel, String)> {
        std::mem::take(&mut self.log)
    }

    /// Why the node's daemon last refused a pod.
    #[must_use]
    pub fn last_refusal(&self, node: NodeId) -> Option<&str> {
        self.nodes[node.0].refusal.as_deref()
    }

    /// The account: to inject faults, to look at the truth, to audit.
    pub fn sim(&mut self) -> &mut Sim {
        &mut self.sim
    }

    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// What should never be, in words: an address with two pods, or one that the node's interfaces do not hold.
    #[must_use]
    pub fn findings(&self) -> &[String] {
        &self.findings
    }

    /// Pods of a node that have an address, with it.
    pub fn addresses(&self, node: NodeId) -> impl Iterator<Item = (&str, &str)> {
        let machine = &self.nodes[node.0];
        machine
            .running
            .iter()
            .filter_map(|(name, &place)| Some((name.as_str(), machine.pods[place].address.as_deref()?)))
    }

    /// Pods of a node that wait for one.
    #[must_use]
    pub fn waiting(&self, node: NodeId) -> usize {
        let waits = |p: &&PodState| p.asked.is_some() && p.address.is_none() && !p.gone;
        self.nodes[node.0].pods.iter().filter(waits).count()
    }

    /// Whether the node's daemon has a chain of calls or a decision under way.
    #[must_use]
    pub fn busy(&self, node: NodeId) -> bool {
        self.nodes[node.0].daemon.as_ref().is_some_and(Daemon::busy)
    }

    /// What a policy would see on the node now; none while its daemon is down.
    pub fn snapshot(&mut self, node: NodeId) -> Option<Node> {
        let now = self.now;
        self.nodes[node.0].daemon.as_mut().map(|d| d.snapshot(now))
    }

    /// The node's figures so far. Pods that still wait have waited until now.
    pub fn score(&mut self, node: NodeId) -> Score {
        self.measure(node.0);
        let machine = &self.nodes[node.0];
        let mut score = machine.score.clone();
        for pod in machine.pods.iter().filter(|p| p.address.is_none() && !p.gone) {
            if let Some(asked) = pod.asked {
                score.waits.push(self.now.saturating_sub(asked));
                score.never_served += 1;
            }
        }
        score.waits.sort_unstable();
        score
    }

    /// Lets everything happen that is due by `until`.
    pub fn run_until(&mut self, until: Duration) {
        loop {
            let queued = self.queue.peek().map(|Reverse(due)| due.at);
            let awaited = self.nodes.iter().any(|m| !m.appearing.is_empty());
            let linked = if awaited { self.sim.next_event() } else { None };
            let Some(next) = queued.into_iter().chain(linked).min().filter(|at| *at <= until) else { break };
            self.now = self.now.max(next);
            self.follow_links();
            if queued.is_some_and(|at| at <= self.now)
                && let Some(Reverse(Due { node, what, .. })) = self.queue.pop()
            {
                self.happen(node, what);
                self.after(node);
            }
        }
        self.now = self.now.max(until);
        self.follow_links();
    }

    fn schedule(&mut self, at: Duration, node: usize, what: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse(Due { at: at.max(self.now), sequence: self.sequence, node, what }));
    }

    fn happen(&mut self, node: usize, what: Happening) {
        let now = self.now;
        let machine = &mut self.nodes[node];
        let life = machine.life;
        match what {
            Happening::Start => self.start(node),
            Happening::Kill { down } => {
                if let Some(daemon) = machine.daemon.take() {
                    machine.disk = daemon.disk();
                }
                machine.life += 1;
                machine.armed = None;
                machine.appearing.clear();
                // Their plugin finds the socket closed.
                let cut: Vec<usize> = std::mem::take(&mut machine.waiting).into_values().collect();
                for place in cut {
                    self.again(node, place);
                }
                if down < Duration::MAX {
                    self.schedule(now.saturating_add(down), node, Happening::Start);
                }
            }
            Happening::Terminate => {
                if let Some(daemon) = &mut machine.daemon {
                    daemon.reply(now, Reply::Terminate);
                }
            }
            Happening::Facts(facts) => {
                if let Some(daemon) = &mut machine.daemon {
                    daemon.reply(now, Reply::Node((*facts).clone()));
                }
                machine.facts = Some(*facts);
            }
            Happening::Add(place) => self.add(node, place),
            Happening::Del { pod } => self.del(node, pod),
            Happening::Reply { life: meant, reply } => {
                if let Some(daemon) = machine.daemon.as_mut().filter(|_| meant == life) {
                    daemon.reply(now, *reply);
                }
            }
            Happening::NoLink { life: meant, job } => {
                if meant == life && machine.appearing.remove(&job).is_some() {
                    let result = Err(format!("no link after {} s", APPEARANCE.as_secs()));
                    if let Some(daemon) = &mut machine.daemon {
                        daemon.reply(now, Reply::SetUp { job, result });
                    }
                }
            }
            Happening::Tick { life: meant } => {
                if meant == life && machine.armed.is_some_and(|at| at <= now) {
                    machine.armed = None;
                    if let Some(daemon) = &mut machine.daemon {
                        daemon.tick(now);
                    }
                }
            }
        }
    }

    /// Carries out what the node's daemon wants, sets its alarm, measures.
    fn after(&mut self, node: usize) {
        let now = self.now;
        while let Some(daemon) = &mut self.nodes[node].daemon {
            let work = daemon.work();
            if work.is_empty() {
                break;
            }
            for work in work {
                self.carry_out(node, work);
            }
        }
        let machine = &mut self.nodes[node];
        if let Some(daemon) = &machine.daemon {
            // A deadline that has passed is for the next instant: time must go on.
            let at = daemon.next_deadline(now).max(now + Duration::from_micros(1));
            if machine.armed.is_none_or(|armed| at < armed) {
                machine.armed = Some(at);
                let life = machine.life;
                self.schedule(at, node, Happening::Tick { life });
            }
        }
        self.measure(node);
    }

    fn carry_out(&mut self, node: usize, work: Work) {
        let now = self.now;
        let machine = &mut self.nodes[node];
        let life = machine.life;
        match work {
            Work::Decide(snapshot) => {
                let decision = machine.policy.decide(&snapshot);
                machine.score.decisions += 1;
                if let Some(trace) = &mut self.trace {
                    let (snapshot, decision) = (snapshot.clone(), decision.clone());
                    trace.push(Traced { at: now, node: NodeId(node), snapshot, decision });
                }
                self.reply(now + DECISION, node, Reply::Decided(snapshot, decision));
            }
            Work::Rank { job, node: snapshot, request } => {
                let subnets = machine.policy.rank(&snapshot, &request);
                self.reply(now + DECISION, node, Reply::Ranked { job, subnets });
            }
            Work::Call { job, request } => {
                let instance = machine.config.instance.clone();
                let (ec2, api) = (request.is_ec2(), request.api());
                let made = matches!(request, Request::CreateNetworkInterface(_));
                let removed = matches!(request, Request::DeleteNetworkInterface { .. });
                let (due, result) = self.sim.call(now, &instance, request);
                let score = &mut self.nodes[node].score;
                if ec2 {
                    *score.calls.entry(api).or_default() += 1;
                }
                match &result {
                    Ok(_) => {
                        score.created += u64::from(made);
                        score.removed += u64::from(removed);
                    }
                    Err(e) => score.throttled += u64::from(e.kind == reservoir_core::cloud::ErrorKind::Throttled),
                }
                self.reply(due, node, Reply::Cloud { job, result });
                self.follow_links();
            }
            Work::SetUp { job, eni } => {
                if machine.links.contains(&eni) {
                    self.reply(now + SET_UP, node, Reply::SetUp { job, result: Ok(()) });
                } else {
                    machine.appearing.insert(job, eni);
                    self.schedule(now + APPEARANCE, node, Happening::NoLink { life, job });
                }
            }
            Work::EniConfig { job } => {
                let result = machine.config.eni_config.clone().ok_or_else(|| "the node has no ENIConfig".to_owned());
                self.reply(now + API_SERVER, node, Reply::EniConfig { job, result });
            }
            Work::Announce(feature) => self.reply(now + API_SERVER, node, Reply::Announced(feature)),
            Work::Told { waiter, outcome } => {
                let Some(place) = machine.waiting.remove(&waiter) else { return };
                match outcome {
                    Ok(address) => self.has(node, place, address),
                    Err(refusal) => self.refused(node, place, refusal),
                }
            }
            Work::Lost(addresses) => machine.score.lost_addresses += addresses,
            Work::Dropped(actions) => machine.score.dropped_actions += actions,
            Work::Log(level, text) => {
                if self.trace.is_some() {
                    self.log.push((now, NodeId(node), level, text));
                }
            }
        }
    }

    fn reply(&mut self, at: Duration, node: usize, reply: Reply) {
        let life = self.nodes[node].life;
        self.schedule(at, node, Happening::Reply { life, reply: Box::new(reply) });
    }

    /// What the kernels have shown since the last look.
    fn follow_links(&mut self) {
        for event in self.sim.links(self.now) {
            let Some(&node) = self.by_instance.get(&event.instance) else { continue };
            let machine = &mut self.nodes[node];
            match event.change {
                LinkChange::Up(_) => {
                    machine.links.insert(event.eni.clone());
                    let jobs: Vec<u64> =
                        machine.appearing.iter().filter(|(_, eni)| **eni == event.eni).map(|(job, _)| *job).collect();
                    for job in jobs {
                        self.nodes[node].appearing.remove(&job);
                        self.reply(event.at.max(self.now) + SET_UP, node, Reply::SetUp { job, result: Ok(()) });
                    }
                }
                LinkChange::Down => {
                    machine.links.remove(&event.eni);
                }
                LinkChange::Changed(_) => {}
            }
        }
    }

    fn measure(&mut self, node: usize) {
        let machine = &mut self.nodes[node];
        let mut level = Level { used: machine.running.len() as u64, ..Level::default() };
        for eni in self.sim.attached(&machine.config.instance) {
            level.held += eni.secondary.len() as u64 + 16 * eni.prefixes.len() as u64;
            level.interfaces += 1;
        }
        level.interfaces = level.interfaces.saturating_sub(1);
        machine.meter.set(self.now, level, &mut machine.score);
    }

    // ---- the daemon ------------------------------------------------------------------------------------------------

    /// Reads IMDS and begins, or tries again.
    fn start(&mut self, node: usize) {
        if self.nodes[node].daemon.is_some() {
            // Killed while it was down: it was to start twice.
            return;
        }
        let instance = self.nodes[node].config.instance.clone();
        let Some((ready, facts, attached)) = self.read_metadata(&instance) else {
            return self.schedule(self.now + START_AGAIN, node, Happening::Start);
        };
        let machine = &mut self.nodes[node];
        let disk = std::mem::take(&mut machine.disk);
        // The kernel shows which pods live: their veths.
        let lives = |container: &str| machine.running.contains_key(container);
        machine.daemon = Some(Daemon::start(ready, &machine.config, facts, &attached, disk, lives));
        if let (Some(daemon), Some(facts)) = (&mut machine.daemon, machine.facts.clone()) {
            daemon.reply(ready, Reply::Node(facts));
        }
        machine.life += 1;
        machine.armed = None;
    }

    fn read_metadata(&mut self, instance: &str) -> Option<(Duration, Instance, Vec<AttachedInterface>)> {
        let (_, facts) = self.sim.call(self.now, instance, Request::Instance);
        let (_, attached) = self.sim.call(self.now, instance, Request::AttachedInterfaces);
        match (facts, attached) {
            (Ok(Answer::Instance(facts)), Ok(Answer::Attached(attached))) => Some((self.now, facts, attached)),
            _ => None,
        }
    }

    // ---- pods ------------------------------------------------------------------------------------------------------

    fn add(&mut self, node: usize, place: usize) {
        let now = self.now;
        let machine = &mut self.nodes[node];
        let pod = &mut machine.pods[place];
        if pod.gone || pod.address.is_some() {
            return;
        }
        if pod.asked.is_none() {
            pod.asked = Some(now);
            machine.score.pods += 1;
        }
        pod.tries += 1;
        let container = pod.container();
        let begun = match &mut machine.daemon {
            Some(daemon) => daemon.add(now, &container),
            None => Begun::Refused("connection refused".to_owned()),
        };
        match begun {
            Begun::Has(address) => self.has(node, place, address),
            Begun::Waits(waiter) => {
                machine.waiting.insert(waiter, place);
                self.starves(node, place);
            }
            Begun::Refused(refusal) => {
                self.starves(node, place);
                self.refused(node, place, refusal);
            }
        }
    }

    fn starves(&mut self, node: usize, place: usize) {
        let machine = &mut self.nodes[node];
        if !std::mem::replace(&mut machine.pods[place].starved, true) {
            machine.score.starved_pods += 1;
        }
    }

    fn refused(&mut self, node: usize, place: usize, refusal: String) {
        self.nodes[node].refusal = Some(refusal);
        self.again(node, place);
    }

    /// The kubelet makes another sandbox later.
    fn again(&mut self, node: usize, place: usize) {
        let retry = self.nodes[node].config.retry;
        self.schedule(self.now + retry, node, Happening::Add(place));
    }

    fn has(&mut self, node: usize, place: usize, address: String) {
        let now = self.now;
        let machine = &mut self.nodes[node];
        // One on each card, where pods want that.
        for address in address.split(' ') {
            let has =
                |p: &&usize| machine.pods[**p].address.as_deref().is_some_and(|a| a.split(' ').any(|a| a == address));
            if let Some(other) = machine.running.values().find(has) {
                let other = machine.pods[*other].container();
                self.findings
                    .push(format!("{address} of {} was given to a pod while {other} has it", machine.config.instance));
            }
            let holds = |e: &crate::model::aws::Eni| {
                let addresses = e.addresses();
                let mut blocks = addresses.blocks().map(IpNet::from).chain(addresses.ipv6_blocks());
                blocks.any(|b| address.parse().is_ok_and(|a| b.contains(a)))
            };
            if !self.sim.attached(&machine.config.instance).any(holds) {
                self.findings.push(format!(
                    "{address} was given to a pod of {}, which does not hold it",
                    machine.config.instance
                ));
            }
        }
        let pod = &mut machine.pods[place];
        let container = pod.container();
        pod.address = Some(address);
        if pod.starved
            && let Some(asked) = pod.asked
        {
            machine.score.waits.push(now.saturating_sub(asked));
        }
        machine.running.insert(container, place);
    }

    fn del(&mut self, node: usize, place: usize) {
        let now = self.now;
        let machine = &mut self.nodes[node];
        let pod = &mut machine.pods[place];
        let container = pod.container();
        if !std::mem::replace(&mut pod.gone, true)
            && pod.address.is_none()
            && let Some(asked) = pod.asked
        {
            machine.score.waits.push(now.saturating_sub(asked));
            machine.score.never_served += 1;
        }
        machine.running.remove(&container);
        match &mut machine.daemon {
            Some(daemon) => {
                daemon.del(now, &container);
            }
            // The kubelet deletes until it succeeds.
            None => {
                let again = now + machine.config.retry;
                self.schedule(again, node, Happening::Del { pod: place });
            }
        }
    }
}

impl PodState {
    /// Each try makes a new sandbox.
    fn container(&self) -> String {
        format!("{}-{}", self.pod.name, self.tries)
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now", &self.now).field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}
