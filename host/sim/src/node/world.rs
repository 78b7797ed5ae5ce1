//! The event queue: nodes, their pods, EC2's answers, deadlines, kills.

mod pods;
mod work;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use reservoir_core::cloud::{Answer, AttachedInterface, Instance, Request};
use reservoir_core::kube::NodeFacts;
use reservoir_core::manager::Level as LogLevel;
use reservoir_core::policy::Node;

use self::pods::PodState;
use self::work::APPEARANCE;
use super::config::NodeConfig;
use super::daemon::{Daemon, Disk, Reply};
use super::policy::{Decision, Policy};
use super::score::{Level, Meter, Score};
use super::workload::Pod;
use crate::model::config::{Config, ConfigError};
use crate::model::sim::Sim;

/// Between two tries of a daemon that cannot start.
const START_AGAIN: Duration = Duration::from_secs(2);

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
            self.nodes[node.0].pods.push(PodState::new(pod));
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
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now", &self.now).field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}
