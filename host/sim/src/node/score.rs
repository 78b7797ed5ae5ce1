//! What a run cost and how long pods waited.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// One node's figures, or those of several added up.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Score {
    /// Pods that asked for an address.
    pub pods: u64,
    /// Pods that did not get one at once.
    pub starved_pods: u64,
    /// How long those waited, shortest first. A pod that was deleted before it had an address, or that still waits at the
    /// end, waited until then.
    #[serde(skip)]
    pub waits: Vec<Duration>,
    /// Pods that were deleted before they had an address, or have none at the end.
    pub never_served: u64,
    /// Σ over time of the addresses that the node's interfaces hold for pods and no pod has: those on their way and those
    /// that cool are among them, the interfaces' own are not.
    pub idle_address_seconds: f64,
    /// Σ over time of the interfaces beyond the primary one. Each takes one address that no pod can have.
    pub interface_seconds: f64,
    /// Addresses held for pods at the peak.
    pub addresses_at_peak: u64,
    /// Interfaces made and removed.
    pub created: u64,
    pub removed: u64,
    /// EC2 calls by API.
    pub calls: BTreeMap<&'static str, u64>,
    /// Those of them that EC2 throttled.
    pub throttled: u64,
    /// Times that the policy was asked.
    pub decisions: u64,
    /// Actions of plans that the host dropped.
    pub dropped_actions: u64,
    /// Addresses that pods had and lost, because EC2 and IMDS agreed that they are gone.
    pub lost_addresses: u64,
    /// Virtual time that was scored, over all nodes.
    pub node_seconds: f64,
}

/// Waits of the pods that waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl Score {
    /// Address-hours that no pod used.
    #[must_use]
    pub fn idle_address_hours(&self) -> f64 {
        self.idle_address_seconds / 3600.0
    }

    /// All waiting together.
    #[must_use]
    pub fn starved_pod_seconds(&self) -> f64 {
        self.waits.iter().fold(0.0, |sum, wait| sum + wait.as_secs_f64())
    }

    /// EC2 calls of any kind.
    #[must_use]
    pub fn ec2_calls(&self) -> u64 {
        self.calls.values().sum()
    }

    /// Zero where no pod waited.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        let at = |share: f64| {
            let last = self.waits.len().saturating_sub(1);
            // In range: a share of at most 1 of an index.
            self.waits.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
        };
        Percentiles { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }

    /// Adds another node's figures.
    pub fn add(&mut self, other: &Self) {
        self.pods += other.pods;
        self.starved_pods += other.starved_pods;
        self.waits.extend(&other.waits);
        self.waits.sort_unstable();
        self.never_served += other.never_served;
        self.idle_address_seconds += other.idle_address_seconds;
        self.interface_seconds += other.interface_seconds;
        self.addresses_at_peak += other.addresses_at_peak;
        self.created += other.created;
        self.removed += other.removed;
        for (api, n) in &other.calls {
            *self.calls.entry(api).or_default() += n;
        }
        self.throttled += other.throttled;
        self.decisions += other.decisions;
        self.dropped_actions += other.dropped_actions;
        self.lost_addresses += other.lost_addresses;
        self.node_seconds += other.node_seconds;
    }
}

/// What changes a score as time goes by.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Level {
    /// Addresses held for pods.
    pub held: u64,
    /// Those that pods have.
    pub used: u64,
    /// Interfaces beyond the primary one.
    pub interfaces: u64,
}

/// Adds up levels over time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meter {
    since: Duration,
    level: Level,
}

impl Meter {
    pub fn starting(since: Duration) -> Self {
        Self { since, level: Level::default() }
    }

    /// From `now` on the level is `level`.
    pub fn set(&mut self, now: Duration, level: Level, score: &mut Score) {
        let passed = now.saturating_sub(self.since).as_secs_f64();
        score.idle_address_seconds += passed * self.level.held.saturating_sub(self.level.used) as f64;
        score.interface_seconds += passed * self.level.interfaces as f64;
        score.node_seconds += passed;
        score.addresses_at_peak = score.addresses_at_peak.max(level.held);
        self.since = now.max(self.since);
        self.level = level;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_add_up_over_time() {
        let (mut meter, mut score) = (Meter::starting(Duration::from_secs(10)), Score::default());
        let s = Duration::from_secs;
        meter.set(s(10), Level { held: 5, used: 2, interfaces: 1 }, &mut score);
        meter.set(s(20), Level { held: 9, used: 9, interfaces: 0 }, &mut score);
        meter.set(s(30), Level::default(), &mut score);
        assert_eq!((score.idle_address_seconds, score.interface_seconds, score.node_seconds), (30.0, 10.0, 20.0));
        assert_eq!(score.addresses_at_peak, 9);
    }

    #[test]
    fn percentiles_are_waits_that_happened() {
        let waits = (1..=100).map(Duration::from_secs).collect();
        let score = Score { waits, ..Score::default() };
        let p = score.percentiles();
        assert_eq!((p.p50.as_secs(), p.p99.as_secs(), p.max.as_secs()), (51, 99, 100));
        assert_eq!(Score::default().percentiles(), Percentiles::default());
        assert_eq!(score.starved_pod_seconds(), 5050.0);
    }
}
