//! Policies that answer at random, and worse: whatever they say, the host's invariants hold.

use reservoir_core::policy::{Assign, CreateEni, Growth, Node, Plan, Unit};
use reservoir_policy_native::Native;
use reservoir_sim::model::delays::Random;
use reservoir_sim::node::{Decision, Policy};

/// Answers nonsense of all kinds until some moment, and then as the built-in policy does: as after a new load.
#[derive(Debug)]
pub struct Nonsense {
    random: Random,
    /// Of the Unix epoch, seconds.
    until: u64,
    after: Native,
}

impl Nonsense {
    /// Repeats with the seed.
    #[must_use]
    pub fn new(seed: u64, until: u64) -> Self {
        Self { random: Random::new(seed), until, after: Native::built_in(&[]) }
    }

    fn plan(&mut self, node: &Node) -> Plan {
        let mut plan = Plan::default();
        for _ in 0..self.random.below(4) {
            plan.grow.push(self.growth(node));
        }
        for _ in 0..self.random.below(6) {
            plan.release.push(self.cidr(node));
            plan.drain.push(self.cidr(node));
        }
        for _ in 0..self.random.below(3) {
            plan.remove.push(self.eni(node));
        }
        if self.random.below(8) == 0 {
            // All of it, twice.
            let all = node.enis.iter().flat_map(|e| &e.cidrs).map(|c| c.id);
            plan.release = all.clone().chain(all).collect();
            plan.remove = node.enis.iter().map(|e| e.id.clone()).collect();
            plan.grow.clear();
        }
        plan
    }

    fn growth(&mut self, node: &Node) -> Growth {
        let unit = if self.random.below(4) == 0 { Unit::Prefix } else { node.unit };
        let count = match self.random.below(5) {
            0 => 0,
            1 => u32::MAX,
            _ => self.random.below(12),
        };
        if self.random.below(2) == 0 {
            Growth::Assign(Assign { eni: self.eni(node), unit, count })
        } else {
            Growth::CreateEni(CreateEni { card: self.random.below(3), unit, count })
        }
    }

    fn eni(&mut self, node: &Node) -> String {
        match node.enis.len() {
            n if n > 0 && self.random.below(6) > 0 => {
                let at = self.random.below(u32::try_from(n).unwrap_or(1)) as usize;
                node.enis[at].id.clone()
            }
            _ => ["", "eni-0", "eni-\u{0}", "../../eni"][self.random.below(4) as usize].to_owned(),
        }
    }

    fn cidr(&mut self, node: &Node) -> u32 {
        let all = node.enis.iter().map(|e| e.cidrs.len()).sum::<usize>();
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        if all > 0 && self.random.below(6) > 0 { self.random.below(all) } else { u32::MAX - self.random.below(2) }
    }
}

impl Policy for Nonsense {
    fn decide(&mut self, node: &Node) -> Decision {
        if node.now >= self.until {
            return self.after.decide(node);
        }
        Decision {
            plan: (self.random.below(5) > 0).then(|| self.plan(node)),
            wake_after_seconds: [None, Some(0), Some(3), Some(u32::MAX)][self.random.below(4) as usize],
            refresh_subnets: self.random.below(4) == 0,
            ..Decision::default()
        }
    }

    fn rank(&mut self, node: &Node, request: &CreateEni) -> Result<Vec<String>, String> {
        if node.now >= self.until {
            return self.after.rank(node, request);
        }
        // Forbidden ones too, each twice, and one that does not exist.
        let known = node.subnets.iter().chain(&node.subnets).map(|s| s.id.clone());
        let all: Vec<String> = ["subnet-0".to_owned()].into_iter().chain(known).collect();
        match self.random.below(6) {
            0 => Err("no".to_owned()),
            1 => Ok(Vec::new()),
            2 => Ok(all.into_iter().rev().collect()),
            _ => Ok(all),
        }
    }
}
