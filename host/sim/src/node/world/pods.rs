//! A node's pods: they come, ask until they have an address, and go.

use std::time::Duration;

use reservoir_core::ip::IpNet;

use super::{Happening, World};
use crate::node::daemon::Begun;
use crate::node::workload::Pod;

pub(super) struct PodState {
    pub(super) pod: Pod,
    pub(super) tries: u32,
    pub(super) asked: Option<Duration>,
    pub(super) address: Option<String>,
    pub(super) starved: bool,
    pub(super) gone: bool,
}

impl World {
    pub(super) fn add(&mut self, node: usize, place: usize) {
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

    pub(super) fn refused(&mut self, node: usize, place: usize, refusal: String) {
        self.nodes[node].refusal = Some(refusal);
        self.again(node, place);
    }

    /// The kubelet makes another sandbox later.
    pub(super) fn again(&mut self, node: usize, place: usize) {
        let retry = self.nodes[node].config.retry;
        self.schedule(self.now + retry, node, Happening::Add(place));
    }

    pub(super) fn has(&mut self, node: usize, place: usize, address: String) {
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

    pub(super) fn del(&mut self, node: usize, place: usize) {
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
    pub(super) fn new(pod: Pod) -> Self {
        Self { pod, tries: 0, asked: None, address: None, starved: false, gone: false }
    }

    /// Each try makes a new sandbox.
    pub(super) fn container(&self) -> String {
        format!("{}-{}", self.pod.name, self.tries)
    }
}
