//! Who decides.

use reservoir_core::policy::{Assign, CreateEni, EniTrait, Gate, Growth, Node, Plan, Standing, Targets};

/// What a policy says of one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// None: nobody answered.
    pub plan: Option<Plan>,
    /// One per card; for the record.
    pub targets: Vec<Targets>,
    pub reason: String,
    pub wake_after_seconds: Option<u32>,
    pub refresh_subnets: bool,
}

/// The policy of one node: native code, or a component behind `host/policy`. It must be a function of what it was asked
/// since it was made, or runs do not repeat.
pub trait Policy {
    /// How much to keep and how to get there.
    fn decide(&mut self, node: &Node) -> Decision;

    /// Subnets to try for a new interface, best first.
    ///
    /// # Errors
    /// Why there is no answer.
    fn rank(&mut self, node: &Node, request: &CreateEni) -> Result<Vec<String>, String>;
}

/// The simplest policy that works: so many addresses free on each card, given back when there are more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep(pub u32);

impl Policy for Keep {
    fn decide(&mut self, node: &Node) -> Decision {
        let mut plan = Plan::default();
        for card in &node.cards {
            let enis = || node.enis.iter().filter(|e| e.card == card.index);
            let serving = || enis().flat_map(|e| &e.cidrs).filter(|c| c.serving);
            let ready: u32 = serving().map(|c| c.size - c.assigned - c.cooling).sum();
            let (have, want) = (ready + card.ips_in_flight, card.waiting + self.0);
            if have < want && node.gates.grow == Gate::Open {
                let slots = node.limits.slots_per_eni;
                for eni in enis().filter(|e| !e.traits.has(EniTrait::Closed)) {
                    let used = u32::try_from(eni.cidrs.len()).unwrap_or(u32::MAX);
                    let count = (want - have).min(slots.saturating_sub(used));
                    if count > 0 {
                        plan.grow.push(Growth::Assign(Assign { eni: eni.id.clone(), unit: node.unit, count }));
                    }
                }
                let count = (want - have).min(slots);
                plan.grow.push(Growth::CreateEni(CreateEni { card: card.index, unit: node.unit, count }));
            } else if node.gates.release == Gate::Open {
                let idle = serving().filter(|c| c.assigned + c.cooling == 0).map(|c| c.id);
                plan.release.extend(idle.take(have.saturating_sub(want) as usize));
            }
        }
        let reason = format!("keep {} free", self.0);
        Decision { plan: Some(plan), reason, ..Decision::default() }
    }

    fn rank(&mut self, node: &Node, _: &CreateEni) -> Result<Vec<String>, String> {
        let mut eligible: Vec<_> = node.subnets.iter().filter(|s| s.standing == Standing::Eligible).collect();
        eligible.sort_by_key(|s| std::cmp::Reverse(s.free_ips));
        Ok(eligible.into_iter().map(|s| s.id.clone()).collect())
    }
}
