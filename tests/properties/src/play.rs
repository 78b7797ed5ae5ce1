//! One scenario under virtual time, and what must hold on the way and at its end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use reservoir_core::policy::Unit;
use reservoir_sim::model::audit::Expect;
use reservoir_sim::model::aws::{Eni, InterfaceType};
use reservoir_sim::model::journal::Record;
use reservoir_sim::model::operator::Attach;
use reservoir_sim::model::ops::Op;
use reservoir_sim::model::refusal::Refusal;
use reservoir_sim::model::throttle::ThrottleConfig;
use reservoir_sim::node::{NodeConfig, NodeId, Pod, Switches, World};

use crate::books::{Seen, fair_calls_are_right, none_gives_back_what_cools};
use crate::scenario::{NODES, Others, PODS, PodPlan, QUIET, Scenario, Who};

const NO_MANAGE: &str = "node.k8s.amazonaws.com/no_manage";
const INSTANCE: &str = "node.k8s.amazonaws.com/instance_id";
/// Between two looks while things happen.
const LOOK: Duration = Duration::from_secs(2);
/// By when every pod has its address: the longest back-off (five minutes and a third), a refused subnet's two minutes, the
/// kubelet's next try.
const SERVED: Duration = Duration::from_secs(QUIET.as_secs() + 600);
/// By when nothing moves any more: left-overs are looked for once an hour.
const SETTLED: Duration = Duration::from_secs(QUIET.as_secs() + 2 * 3600);
/// Then a node is watched for so long.
const WATCHED: Duration = Duration::from_secs(3600 + 47);
/// Seconds in which a pod's coming or going has had all its effects.
const REACTION: f64 = 60.0;
/// Decisions and calls in that hour: six looks at IMDS, each answered by EC2 at worst, and what they wake.
const MOST_CALLS: u64 = 40;
const MOST_DECISIONS: u64 = 80;
/// Times as many where a subnet is empty.
const DRY: u64 = 8;
/// Changes in that hour by a policy that lets go of what it keeps little by little.
const MOST_CHANGES: usize = 4;

/// What a run came to, so that it can be told whether the scenarios reach what they should.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub served: usize,
    pub created: u64,
    pub removed: u64,
    pub released: u64,
    pub dropped: u64,
    pub refused: u64,
}

impl Outcome {
    /// What another run came to besides.
    pub fn add(&mut self, other: &Self) {
        self.served += other.served;
        self.created += other.created;
        self.removed += other.removed;
        self.released += other.released;
        self.dropped += other.dropped;
        self.refused += other.refused;
    }
}

struct Node {
    id: NodeId,
    config: NodeConfig,
}

/// Lets it happen.
///
/// # Errors
/// What does not hold, and when.
pub fn play(scenario: &Scenario) -> Result<Outcome, String> {
    let mut run = Run::new(scenario)?;
    let told = std::env::var_os("PROPERTIES_STORY").is_some();
    if told {
        run.world.trace();
    }
    act(scenario, &mut run).map_err(|what| if told { what + &run.story() } else { what })
}

fn act(scenario: &Scenario, run: &mut Run<'_>) -> Result<Outcome, String> {
    let mut others = scenario.others.clone();
    others.sort_by_key(|(at, _)| *at);
    let mut others = others.into_iter().peekable();
    while run.world.now() < QUIET {
        let next = run.world.now() + LOOK;
        while let Some((_, other)) = others.next_if(|(at, _)| Duration::from_secs(*at) <= next) {
            run.interfere(&other);
        }
        run.world.run_until(next);
        run.look()?;
    }
    run.calm()?;
    while run.world.now() < SERVED {
        run.step(Duration::from_secs(10))?;
    }
    run.all_are_served()?;
    while run.world.now() < SETTLED {
        run.step(Duration::from_secs(300))?;
    }
    run.nothing_moves()?;
    run.nothing_leaks()?;
    run.nothing_flaps()?;
    run.no_change_without_demand()?;
    if scenario.is_fair() {
        fair_calls_are_right(run.world.sim())?;
    }
    Ok(run.outcome())
}

struct Run<'a> {
    scenario: &'a Scenario,
    world: World,
    nodes: Vec<Node>,
    seen: Seen,
    /// Number of the last call that was looked at.
    looked: u64,
    cooldown: Option<Duration>,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario) -> Result<Self, String> {
        let mut world = World::new(&scenario.account()).map_err(|e| e.to_string())?;
        let mut nodes = Vec::new();
        for (i, instance) in scenario.instances().enumerate() {
            if scenario.foreign {
                let not_ours = Attach::to(instance).tag(NO_MANAGE, "true");
                world.sim().attach_interface(Duration::ZERO, &not_ours).map_err(|e| format!("{e:?}"))?;
            }
            let config = scenario.node(instance)?;
            let policy = scenario.policy(&config);
            let id = world.add_node(Duration::from_secs(i as u64), config.clone(), policy);
            nodes.push(Node { id, config });
        }
        for fault in &scenario.faults {
            world.sim().inject(fault.fault());
        }
        for (i, pod) in scenario.pods.iter().enumerate() {
            let start = Duration::from_millis(pod.start_ms);
            let stop = pod.life_s.map_or(Duration::MAX, |s| (start + Duration::from_secs(s)).min(QUIET));
            world.add_pods(nodes[pod.node].id, [Pod { name: format!("p{i}"), start, stop }]);
        }
        for kill in &scenario.kills {
            world.kill(Duration::from_millis(kill.at_ms), nodes[kill.node].id, Duration::from_millis(kill.down_ms));
        }
        for end in &scenario.ends {
            let (at, grace) = (Duration::from_millis(end.at_ms), Duration::from_millis(end.grace_ms));
            world.terminate(at, nodes[end.node].id);
            world.kill(at + grace, nodes[end.node].id, Duration::from_millis(end.down_ms));
        }
        for node in &nodes {
            let Switches { provisioning, manage_untagged, .. } = scenario.switches;
            let expect = Expect { read_only: !provisioning, only_tagged: !manage_untagged, ..Expect::default() };
            world.sim().expect(&node.config.instance, expect).map_err(|e| format!("{e:?}"))?;
        }
        // A daemon that is killed does not know what cools.
        let cooldown =
            (scenario.kills.is_empty() && scenario.ends.is_empty()).then(|| Duration::from_secs(scenario.cooldown_s));
        Ok(Self { scenario, world, nodes, seen: Seen::default(), looked: 0, cooldown })
    }

    fn interfere(&mut self, other: &Others) {
        // What cannot be taken is not: the subnet is full then.
        let _ = match other {
            Others::Occupy(subnet, count) => {
                let free = self.world.sim().subnets().find(|s| s.0 == *subnet).map_or(0, |s| s.2);
                self.world.sim().occupy(subnet, (*count).min(free))
            }
            Others::Fragment(subnet, leave) => self.world.sim().fragment(subnet, *leave),
            Others::Vacate(subnet) => self.world.sim().vacate(subnet),
            Others::Attach { node, addresses, managed } => {
                let now = self.world.now();
                // Whatever its tags, it is somebody's.
                let ipv6_addresses = u32::from(self.scenario.ipv6());
                let to = Attach::to(&self.nodes[*node].config.instance);
                let attach = Attach { addresses: *addresses, ipv6_addresses, ..to };
                let (key, value) = if *managed { ("owner", "another") } else { (NO_MANAGE, "true") };
                self.world.sim().attach_interface(now, &attach.tag(key, value)).map(drop)
            }
            Others::Detach { node } => self.detach(*node),
            Others::Trunk { node } if self.scenario.switches.pod_eni => {
                let (now, instance) = (self.world.now(), self.nodes[*node].config.instance.clone());
                let has = self.world.sim().attached(&instance).any(|e| e.interface_type == InterfaceType::Trunk);
                if has { Ok(()) } else { self.world.sim().attach_trunk(now, &instance).map(drop) }
            }
            Others::Trunk { .. } => Ok(()),
        };
    }

    /// Takes one away that is not the daemon's to manage, if there is one.
    fn detach(&mut self, node: usize) -> Result<(), Refusal> {
        let (now, instance) = (self.world.now(), self.nodes[node].config.instance.clone());
        let foreign = self.world.sim().attached(&instance).find(|e| e.tags.contains_key(NO_MANAGE));
        let Some(attachment) = foreign.and_then(|e| e.attachment.as_ref()).map(|a| a.id.clone()) else { return Ok(()) };
        self.world.sim().operate(now, &Op::DetachNetworkInterface { attachment }).map(drop)
    }

    /// Nothing goes wrong any more.
    fn calm(&mut self) -> Result<(), String> {
        let sim = self.world.sim();
        sim.clear_faults();
        sim.set_flaky(0.0);
        sim.set_throttle(ThrottleConfig::Off);
        for subnet in [NODES, PODS] {
            sim.vacate(subnet).map_err(|e| format!("{e:?}"))?;
        }
        Ok(())
    }

    fn step(&mut self, by: Duration) -> Result<(), String> {
        let next = self.world.now() + by;
        self.world.run_until(next);
        self.look()
    }

    /// What holds at every moment.
    fn look(&mut self) -> Result<(), String> {
        let (now, scenario) = (self.world.now(), self.scenario);
        if let Some(finding) = self.world.findings().first() {
            return Err(format!("{now:?}: {finding}"));
        }
        for node in &self.nodes {
            self.seen.look(now, &node.config.instance, self.world.addresses(node.id), self.cooldown)?;
        }
        if let Some(cooldown) = self.cooldown {
            self.looked = none_gives_back_what_cools(self.world.sim(), &self.seen, self.looked, cooldown)?;
        }
        for node in 0..self.nodes.len() {
            let (id, instance) = (self.nodes[node].id, self.nodes[node].config.instance.clone());
            let pods: Vec<IpAddr> = self
                .world
                .addresses(id)
                .flat_map(|(_, a)| a.split(' ').filter_map(|a| a.parse().ok()).collect::<Vec<_>>())
                .collect();
            // What is on its way may hang in the air for a moment; nothing else may be wrong.
            let passing = ["leaked", "survives_termination"];
            let found = self.world.sim().audit_pods(&instance, pods.iter().copied());
            if let Some(violation) = found.iter().find(|v| !passing.contains(&v.name())) {
                return Err(format!("{now:?}: {violation}"));
            }
            for eni in self.world.sim().attached(&instance) {
                if eni.subnet != NODES && !scenario.may_use(&eni.subnet) {
                    return Err(format!("I9: {now:?}: {} is in {}", eni.id, eni.subnet));
                }
                if let Some(own) = eni.primary.filter(|own| pods.contains(&IpAddr::V4(*own))) {
                    return Err(format!("I13: {now:?}: a pod has {own}, the own address of {}", eni.id));
                }
            }
        }
        Ok(())
    }

    /// Demand that could be met is met.
    fn all_are_served(&mut self) -> Result<(), String> {
        let counts_wrongly = matches!(self.scenario.who, Who::Keep(_)) && self.scenario.unit() == Unit::Prefix;
        // It counts addresses and asks for blocks; or nothing may be asked for.
        if counts_wrongly || !self.scenario.switches.provisioning {
            return Ok(());
        }
        for node in &self.nodes {
            let waiting = self.world.waiting(node.id);
            if waiting == 0 {
                continue;
            }
            let has = self.world.addresses(node.id).count();
            let full = has + waiting > self.scenario.capacity(&node.config) as usize;
            // One for the pod, and one for an interface; in blocks, room for none of them.
            let need = if self.scenario.unit() == Unit::Prefix { 16 * 4 } else { 2 };
            let dry = !self.world.sim().subnets().any(|(id, _, free)| self.scenario.grows_in(id) && free > need);
            if !full && !dry {
                let instance = &node.config.instance;
                let refusal = self.world.last_refusal(node.id).unwrap_or("none was refused").to_owned();
                return Err(format!("{waiting} pods of {instance} wait beside {has} that have one: {refusal}"));
            }
        }
        Ok(())
    }

    /// The pool has settled: for an hour nothing changes, and next to nothing is asked.
    fn nothing_moves(&mut self) -> Result<(), String> {
        let before: Vec<_> = self.nodes.iter().map(|n| n.id).collect::<Vec<_>>();
        let before: Vec<_> = before.into_iter().map(|id| (id, self.world.score(id))).collect();
        let changes = |world: &mut World| {
            let records = world.sim().journal().records();
            let done = records.filter(|r| r.op.is_mutating() && r.outcome == "ok");
            done.map(|r| format!("{:.0} s {}", r.at_seconds, r.op.api())).collect()
        };
        let changed: Vec<String> = changes(&mut self.world);
        self.step(WATCHED)?;
        let now: Vec<String> = changes(&mut self.world);
        for (id, before) in before {
            let after = self.world.score(id);
            let (calls, decisions) = (after.ec2_calls() - before.ec2_calls(), after.decisions - before.decisions);
            // A pod that cannot have an address asks again every ten seconds, a node whose subnet is empty every two minutes.
            let dry = if self.was_dry(id, SETTLED) { DRY } else { 1 };
            let many = calls > dry * MOST_CALLS || decisions > dry * MOST_DECISIONS;
            if self.is_steady() && many && self.world.waiting(id) == 0 {
                return Err(format!("{id:?} does not settle: {calls} calls and {decisions} decisions in an hour"));
            }
        }
        // Pods that wait for what is not there may be tried for.
        let waits = self.nodes.iter().any(|n| self.world.waiting(n.id) > 0);
        let pools = self.nodes.len() * self.scenario.cards() as usize;
        let most = if self.scenario.who == Who::Adaptive { MOST_CHANGES * pools } else { 0 };
        // Where a subnet is empty, one node has what another gives back.
        let ids: Vec<NodeId> = self.nodes.iter().map(|n| n.id).collect();
        let dry = ids.into_iter().any(|id| self.was_dry(id, SETTLED));
        if now.len() > changed.len() + most && !waits && !dry && self.is_steady() {
            return Err(format!("it does not settle: {:?}", &now[changed.len()..]));
        }
        Ok(())
    }

    /// Whether EC2 had no addresses for the node, since `from`.
    fn was_dry(&mut self, id: NodeId, from: Duration) -> bool {
        let Some(node) = self.nodes.iter().find(|n| n.id == id) else { return false };
        let mut since = self.world.sim().journal().records_of(&node.config.instance);
        since.any(|r| r.at_seconds >= from.as_secs_f64() && r.outcome.starts_with("Insufficient"))
    }

    /// Policies that want the same as long as nothing happens.
    fn is_steady(&self) -> bool {
        !(matches!(self.scenario.who, Who::Keep(_)) && self.scenario.unit() == Unit::Prefix)
    }

    /// Whatever was made is attached or deleted, and whatever EC2 holds for a node is in its pool.
    fn nothing_leaks(&mut self) -> Result<(), String> {
        if let Some(violation) = self.world.sim().audit().first() {
            return Err(violation.to_string());
        }
        for node in 0..self.nodes.len() {
            let (id, instance) = (self.nodes[node].id, self.nodes[node].config.instance.clone());
            // Nobody but the node itself takes anything from its interfaces here.
            let lost = self.world.score(id).lost_addresses;
            if lost > 0 {
                return Err(format!("{lost} pods of {instance} have lost their addresses"));
            }
            // A node whose subnet is empty may be asking just now.
            for _ in 0..60 {
                if self.world.busy(id) {
                    self.step(Duration::from_secs(1))?;
                }
            }
            if self.world.busy(id) {
                return Err(format!("{instance} is busy for ever"));
            }
            let Some(snapshot) = self.world.snapshot(id) else { return Err(format!("{instance} is down")) };
            let pool: BTreeMap<String, usize> = snapshot.enis.iter().map(|e| (e.id.clone(), e.cidrs.len())).collect();
            let untagged = self.scenario.switches.manage_untagged;
            let ipv6 = snapshot.families == [reservoir_core::policy::Family::Ipv6];
            let held: BTreeMap<String, usize> = self
                .world
                .sim()
                .attached(&instance)
                .filter(|e| !e.tags.contains_key(NO_MANAGE))
                .filter(|e| untagged || is_primary(e) || e.tags.contains_key(INSTANCE))
                .map(|e| {
                    (e.id.clone(), if ipv6 { e.ipv6_prefixes.len() } else { e.secondary.len() + e.prefixes.len() })
                })
                .collect();
            if pool != held {
                return Err(format!("{instance} has interfaces {held:?} (blocks), its pool has {pool:?}"));
            }
            let assigned: u32 = snapshot.enis.iter().flat_map(|e| &e.cidrs).map(|c| c.assigned).sum();
            let pods: usize = self.world.addresses(id).map(|(_, a)| a.split(' ').count()).sum();
            if assigned as usize != pods {
                return Err(format!("{pods} addresses of {instance} are with pods, its pool says {assigned}"));
            }
        }
        Ok(())
    }

    /// Since the last change of demand, nothing was given back and then asked for again.
    fn nothing_flaps(&mut self) -> Result<(), String> {
        if !self.is_steady() {
            return Ok(());
        }
        let scenario = self.scenario;
        for node in &self.nodes {
            let instance = node.config.instance.clone();
            if self.world.waiting(node.id) > 0 {
                continue;
            }
            let mut shrunk = Shrunk::of(scenario);
            for record in self.world.sim().journal().records_of(&instance) {
                if record.at_seconds < SERVED.as_secs_f64() || record.outcome != "ok" {
                    continue;
                }
                if let Some((before, api)) = shrunk.then(record) {
                    let (at, again) = (record.at_seconds, record.op.api());
                    return Err(format!("{instance} flaps: {api} at {before} s, {again} at {at} s"));
                }
            }
        }
        Ok(())
    }

    /// Where nothing goes wrong, every growth after something was given back has a pod that came or went as its cause.
    fn no_change_without_demand(&mut self) -> Result<(), String> {
        let scenario = self.scenario;
        if !self.is_steady() || !scenario.is_fair() || matches!(scenario.who, Who::Nonsense(_)) {
            return Ok(());
        }
        let dry: Vec<bool> = self
            .nodes
            .iter()
            .map(|n| n.id)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|id| self.was_dry(id, Duration::ZERO))
            .collect();
        for (place, node) in self.nodes.iter().enumerate().filter(|(place, _)| !dry[*place]) {
            let pods = || scenario.pods.iter().filter(|p| p.node == place);
            if pods().count() > scenario.capacity(&node.config) as usize {
                continue;
            }
            let start = |p: &PodPlan| p.start_ms as f64 / 1000.0;
            // As in Run::new: nobody stays longer.
            let stop = |p: &PodPlan| p.life_s.map(|life| (start(p) + life as f64).min(QUIET.as_secs_f64()));
            let events: Vec<f64> = pods().map(start).chain(pods().filter_map(stop)).collect();
            let mut shrunk = Shrunk::of(scenario);
            for record in self.world.sim().journal().records_of(&node.config.instance) {
                let at = record.at_seconds;
                // What a pod began may end, with an interface, half a minute later.
                let caused = |since: f64| events.iter().any(|event| (since - REACTION..=at).contains(event));
                if let Some((before, api)) = shrunk.then(record).filter(|(before, _)| !caused(*before)) {
                    let again = record.op.api();
                    return Err(format!("no pod came or went: {api} at {before} s, {again} at {at} s"));
                }
            }
        }
        Ok(())
    }

    /// What the daemons said and EC2 was asked, in order of time.
    fn story(&mut self) -> String {
        let log = self.world.take_log().into_iter();
        let mut lines: Vec<(Duration, String)> =
            log.map(|(at, node, level, text)| (at, format!("{node:?} {level:?} {text}"))).collect();
        for record in self.world.sim().journal().records() {
            let call = serde_json::to_string(&record).unwrap_or_default();
            lines.push((Duration::from_secs_f64(record.at_seconds), call));
        }
        for decision in self.world.take_trace() {
            let (plan, enis) = (&decision.decision.plan, &decision.snapshot.enis);
            let enis: Vec<_> = enis.iter().map(|e| (&e.id, e.cidrs.len())).collect();
            lines.push((decision.at, format!("{:?} {enis:?} {} {plan:?}", decision.node, decision.decision.reason)));
        }
        lines.sort_by_key(|(at, _)| *at);
        lines.iter().map(|(at, line)| format!("\n{at:?} {line}")).collect()
    }

    fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        for node in 0..self.nodes.len() {
            let id = self.nodes[node].id;
            let score = self.world.score(id);
            outcome.served += self.world.addresses(id).count();
            outcome.created += score.created;
            outcome.removed += score.removed;
            outcome.dropped += score.dropped_actions;
            outcome.released += score.calls.get("UnassignPrivateIpAddresses").copied().unwrap_or(0);
        }
        outcome.refused = self.world.sim().journal().counts().values().flat_map(|c| c.errors.values()).sum();
        outcome
    }
}

fn is_primary(eni: &Eni) -> bool {
    eni.attachment.as_ref().is_some_and(|a| (a.card, a.device_index) == (0, 0))
}

/// What was given back last: on the node, or, where one card may grow while another gives back, by interface.
struct Shrunk {
    by_interface: bool,
    last: BTreeMap<String, (f64, &'static str)>,
}

impl Shrunk {
    fn of(scenario: &Scenario) -> Self {
        Self { by_interface: scenario.cards() > 1, last: BTreeMap::new() }
    }

    /// When something was given back before this call, if it asks for more.
    fn then(&mut self, record: &Record) -> Option<(f64, &'static str)> {
        let place = |eni: &str| if self.by_interface { eni.to_owned() } else { String::new() };
        match &record.op {
            Op::UnassignPrivateIpAddresses { eni, .. } => {
                self.last.insert(place(eni), (record.at_seconds, record.op.api()));
                None
            }
            Op::DetachNetworkInterface { .. } => {
                self.last.insert(place(""), (record.at_seconds, record.op.api()));
                None
            }
            Op::AssignPrivateIpAddresses { eni, .. } => self.last.get(&place(eni)).copied(),
            Op::CreateNetworkInterface(_) if !self.by_interface => self.last.get("").copied(),
            _ => None,
        }
    }
}
