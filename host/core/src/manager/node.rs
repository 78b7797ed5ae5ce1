//! What Kubernetes says of the node, and what the node wants of it: the Node's facts, the trunk (spec 01 §11).

use std::time::Duration;

use super::pace::retry_delay;
use super::{Command, Counter, Level, Manager, Now};
use crate::kube::{DEFAULT_ENI_CONFIG, Feature, NodeFacts, eni_config_name};
use crate::policy::Family;
use crate::store::EniSpec;

/// Until a trunk is there the wish is told again, and what is attached looked at (spec 01 W17).
const TRUNK_EVERY: Duration = Duration::from_secs(60);

impl Manager {
    /// The Node object as it is now.
    pub(super) fn node_changed(&mut self, now: Now, facts: NodeFacts) {
        let first = self.node.is_none();
        self.node = Some(facts);
        if first && self.announce_at.is_some() {
            self.announce_at = Some(now.mono);
        }
        self.ask(now.mono);
    }

    /// Pods that the node may run: what the Node says, else what the daemon was started with (spec 01 W28).
    pub(super) fn max_pods(&self) -> u32 {
        let told = self.node.as_ref().and_then(|n| n.max_pods).filter(|pods| *pods > 0);
        told.unwrap_or(self.settings.max_pods).max(1)
    }

    /// The node takes no new pods.
    pub(super) fn is_draining(&self) -> bool {
        self.terminating || self.node.as_ref().is_some_and(|n| n.unschedulable)
    }

    /// The node is unschedulable and not to be managed then: no growth, no removal (I7, I8).
    pub(super) fn cordoned(&self) -> bool {
        !self.settings.manage_non_schedulable && self.node.as_ref().is_some_and(|n| n.unschedulable)
    }

    /// The host assigns nothing more to it (I5).
    pub(super) fn is_closed(&self, eni: &EniSpec) -> bool {
        eni.trunk || eni.excluded || (eni.primary && self.settings.custom_networking)
    }

    /// A place kept for the trunk until it is there (spec 01 §3.6).
    pub(super) fn trunk_reserve(&self, card: u32) -> u32 {
        let wanted = card == 0 && self.settings.pod_eni && self.settings.trunk_compatible;
        u32::from(wanted && !self.has_trunk())
    }

    fn has_trunk(&self) -> bool {
        self.trunk().is_some()
    }

    /// The interface that carries branch interfaces, once EC2 has told which it is and it is programmed.
    #[must_use]
    pub fn trunk(&self) -> Option<&EniSpec> {
        self.cards.get(0)?.store.enis().map(|(e, _)| e).find(|e| e.trunk)
    }

    /// Tells the node's wishes where a trunk is wanted and not there, and looks whether it has come.
    pub(super) fn announce(&mut self, now: Now) {
        if self.announce_at.is_none_or(|at| at > now.mono) {
            return;
        }
        if self.has_trunk() || self.terminating {
            self.announce_at = None;
            return;
        }
        // None will come to a type that has no trunk; the wish is told all the same (spec 01 §11.1).
        let every = if self.settings.trunk_compatible { TRUNK_EVERY } else { super::SLOW };
        self.announce_at = Some(now.mono + every);
        if self.settings.custom_networking {
            // Which one applies is known once the Node was read; then it is told first (spec 05 §3.2).
            let Some(node) = &self.node else { return };
            let name = eni_config_name(node, &self.settings.eni_config_keys);
            if name == DEFAULT_ENI_CONFIG {
                let text = "the node names no ENIConfig: CustomNetworking is not announced in its CNINode".to_owned();
                self.log(Level::Error, text);
            } else {
                let feature = Feature::CustomNetworking { eni_config: name.to_owned() };
                self.out.push(Command::Announce(feature));
            }
        }
        let room = self.cards.get(0).is_some_and(|c| {
            let held = u32::try_from(c.store.enis().count()).unwrap_or(u32::MAX);
            held < self.settings.max_enis.saturating_sub(c.unmanaged)
        });
        if self.settings.family == Family::Ipv6 || room {
            self.out.push(Command::Announce(Feature::SecurityGroupsForPods));
        } else {
            self.log(Level::Error, "no interface place is free for a trunk: none is asked for".to_owned());
        }
        self.look(now);
    }

    pub(super) fn announced(&mut self, now: Now, feature: &Feature, result: Result<(), String>) {
        let Err(error) = result else {
            self.announce_failures = 0;
            return;
        };
        self.announce_failures += 1;
        let delay = retry_delay(Duration::from_secs(5), self.announce_failures, &mut self.random);
        self.announce_at = self.announce_at.map(|_| now.mono + delay);
        self.count(match feature {
            Feature::SecurityGroupsForPods => Counter::TrunkWishFailed,
            Feature::CustomNetworking { .. } => Counter::NodeInitFailed,
        });
        self.log(Level::Warn, format!("the CNINode does not tell of {}: {error}", feature.name()));
    }
}
