//! What becomes of an answer of the policy, and when to ask for the next.

use std::time::Duration;

use super::{Command, Counter, Decided, Manager, Now, Record};
use crate::policy::{EniTrait, Gate};
use crate::validate::{self, UnderWay};

impl Manager {
    pub(super) fn decided(&mut self, now: Now, decided: Decided) {
        self.deciding = false;
        self.decided = true;
        let Decided { node, plan, reason, wake_after, refresh_subnets, .. } = decided;
        self.last_reason = reason;
        self.subnets_wanted |= refresh_subnets;
        // What was asked before the end was told, is not begun after it (I7, I8).
        let plan = plan.filter(|_| !self.terminating).unwrap_or_default();
        let asked_to_grow = !plan.grow.is_empty();
        let under_way = UnderWay { slots: self.slots_under_way() };
        let checked = validate::check(&node, &plan, &under_way);
        for _ in &checked.dropped {
            self.count(Counter::PlanActionDropped);
        }
        let mut started = Vec::new();
        let mut dropped = checked.dropped;
        // On each card the first way to grow is taken; when EC2 refuses it, the next decision knows and takes another.
        let mut grown = Vec::new();
        for growth in &checked.grow {
            let Some(card) = validate::card_of(&node, growth) else { continue };
            if grown.contains(&card) {
                continue;
            }
            match self.start_growth(now, growth) {
                Ok(()) => {
                    grown.push(card);
                    started.push(validate::describe(growth));
                }
                Err(reason) => {
                    dropped.push(validate::Dropped { action: validate::describe(growth), reason });
                }
            }
        }
        started.extend(self.start_releases(now, &checked.release, &mut dropped));
        for id in &checked.remove {
            match self.start_removal(now, id) {
                Ok(()) => started.push(format!("remove {id}")),
                Err(error) => {
                    dropped.push(validate::Dropped { action: format!("remove {id}"), reason: format!("I2: {error}") });
                }
            }
        }
        self.apply_drain(&checked.drain);
        self.list_subnets_if_wanted(now);
        if !grown.is_empty() {
            // What is under way now counts; there may be more to do.
            self.ask(now.mono);
        }
        let refused = dropped.first().map(|d| format!(" (the host: {}: {})", d.action, d.reason)).unwrap_or_default();
        self.out.push(Command::Record(Box::new(Record { node: node.clone(), started, dropped })));
        if let Some(seconds) = wake_after {
            self.ask(now.mono + Duration::from_secs(u64::from(seconds.max(1))));
        }
        self.wake_for(now, &node);
        if asked_to_grow && grown.is_empty() {
            // It asked, and the host refused: a pod that waits is told so.
            self.last_reason.push_str(&refused);
        }
        if grown.is_empty() {
            self.fail_hopeless(now);
        }
    }

    /// The deadlines that the host knows itself: a gate that opens, an address that has cooled, an interface that turns
    /// a minute, a subnet that may be asked again.
    fn wake_for(&mut self, now: Now, node: &crate::policy::Node) {
        for gate in [node.gates.grow, node.gates.release, node.gates.remove] {
            if let Gate::OpensIn(seconds) = gate {
                self.ask(now.mono + Duration::from_secs(u64::from(seconds)));
            }
        }
        let calls = self.minute(now).ec2_calls;
        if node.gates.grow != Gate::Open && self.gates(now, calls).grow == Gate::Open {
            // It has opened since the policy was asked.
            self.ask(now.mono);
        }
        if let Some(at) = self.cards.next_cooled(now.mono) {
            self.ask(at + Duration::from_millis(1));
        }
        let min_age = validate::MIN_ENI_AGE_SECONDS;
        let young = node.enis.iter().filter(|e| e.age_seconds < min_age && !e.traits.has(EniTrait::Primary));
        if let Some(seconds) = young.map(|e| min_age - e.age_seconds).min() {
            self.ask(now.mono + Duration::from_secs(u64::from(seconds)));
        }
        if let Some(at) = self.refused.next(now.mono) {
            self.ask(at);
        }
        if let Some(at) = self.growth.next(now.mono) {
            self.ask(at);
        }
    }

    /// Those who wait while nothing is under way, nothing cools in time and no gate opens in time wait for nothing.
    fn fail_hopeless(&mut self, now: Now) {
        // What is being given back makes room for what is needed.
        if self.waiters.is_empty()
            || self.growing() > 0
            || self.shrinking()
            || self.verifying()
            || self.cooled_in_time(now)
        {
            return;
        }
        // The decision may be older than the newest pod, or than what has failed meanwhile.
        if self.decide_at.is_some_and(|at| at <= now.mono) {
            return;
        }
        let last = self.waiters.iter().map(|w| w.deadline).max().unwrap_or_default();
        let calls = self.minute(now).ec2_calls;
        if let Gate::OpensIn(seconds) = self.gates(now, calls).grow
            && now.mono + Duration::from_secs(u64::from(seconds)) < last
        {
            return;
        }
        if self.growth.next(now.mono).is_some_and(|at| at < last) {
            return;
        }
        for waiter in std::mem::take(&mut self.waiters) {
            let refusal = self.why(now, waiter.wanted);
            self.out.push(Command::Resolve { waiter: waiter.id, outcome: Err(refusal) });
        }
    }
}
