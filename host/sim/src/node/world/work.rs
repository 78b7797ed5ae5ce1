//! What a daemon wants done: asking its policy, calling EC2, programming interfaces; and how long that takes.

use std::time::Duration;

use reservoir_core::cloud::Request;

use super::{Happening, NodeId, Traced, World};
use crate::model::links::LinkChange;
use crate::node::daemon::{Reply, Work};

/// Asking a policy and hearing its answer.
const DECISION: Duration = Duration::from_millis(1);
/// Programming an interface that the kernel shows.
const SET_UP: Duration = Duration::from_millis(30);
/// How long an attached interface may take to show in the kernel.
pub(super) const APPEARANCE: Duration = Duration::from_secs(60);
/// A call to the API server.
const API_SERVER: Duration = Duration::from_millis(10);

impl World {
    pub(super) fn carry_out(&mut self, node: usize, work: Work) {
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
    pub(super) fn follow_links(&mut self) {
        for event in self.sim.links(self.now) {
            let Some(&node) = self.by_instance.get(&event.instance) else { continue };
            let machine = &mut self.nodes[node];
            match event.change {
                LinkChange::Up(_) => {
                    machine.links.insert(event.eni.clone());
                    let came = Reply::LinkCame(event.mac.clone());
                    let jobs: Vec<u64> =
                        machine.appearing.iter().filter(|(_, eni)| **eni == event.eni).map(|(job, _)| *job).collect();
                    for job in jobs {
                        self.nodes[node].appearing.remove(&job);
                        self.reply(event.at.max(self.now) + SET_UP, node, Reply::SetUp { job, result: Ok(()) });
                    }
                    self.reply(event.at.max(self.now), node, came);
                }
                LinkChange::Down => {
                    machine.links.remove(&event.eni);
                    self.reply(event.at.max(self.now), node, Reply::LinkWent(event.mac.clone()));
                }
                LinkChange::Changed(_) => {}
            }
        }
    }
}
