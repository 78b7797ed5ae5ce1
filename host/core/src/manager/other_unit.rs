//! Blocks of which new pods get nothing, so that they go back to EC2 as soon as no pod has them: those of the other unit
//! than the node's, left when prefix delegation was switched on or off (spec 01 §2.3 step 13, spec 02 §4.3, W24, W25), and
//! those of interfaces whose subnet is tagged out of pod use (spec 01 §6.4, W14, W15).
//!
//! A block that a plan asked for in the other unit serves pods and is none (spec 01 §15); after a restart nobody
//! remembers who asked, and it is.

use std::time::Duration;

use super::types::Block;
use super::{Manager, Now, jobs::Job};
use crate::ip::IpNet;
use crate::policy::{Gate, Unit};
use crate::store::Time;

/// An interface whose addresses are being asked for is looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// After so long a start the node grows although such blocks still take slots.
const PATIENCE: Duration = Duration::from_secs(30);

impl Manager {
    /// Whether slots are about to be free because the daemon has just started in another mode. An interface made meanwhile
    /// would be one too many: the reference too gives back first and grows then (spec 01 §2.3).
    pub(super) fn is_tidying(&self, now: Now) -> bool {
        let young = now.mono.saturating_sub(self.booted_at.mono) < PATIENCE;
        let asks_ec2 = self.settings.provisioning && self.settings.ec2 && !self.terminating;
        if !young || !asks_ec2 || self.is_ipv6() {
            return false;
        }
        let of_other_unit = |net: IpNet| net.is_host() != (self.settings.unit == Unit::Ip);
        let going = |job: &Job| matches!(job, Job::Release(r) if r.nets().any(of_other_unit));
        self.jobs.values().any(going) || !self.of_other_unit(now).0.is_empty()
    }

    /// Looks for such blocks when [`Manager::tick`] is next called.
    pub(super) fn sweep_soon(&mut self, now: Now) {
        if !self.is_ipv6() {
            self.sweep_at = Some(now.mono);
        }
    }

    /// Gives back what no pod has, once EC2 has told what is there. It takes its turn with the policy's releases: one run in half a minute (I11). With
    /// provisioning off it is never done, unlike by the reference (spec 01 §2.3): an operator who says "no calls" means it.
    pub(super) fn sweep(&mut self, now: Now) {
        if self.sweep_at.is_none_or(|at| at > now.mono) {
            return;
        }
        self.sweep_at = None;
        if self.jobs.values().any(|j| matches!(j, Job::Verify(_))) {
            // Its end asks again.
            return;
        }
        let (blocks, next) = self.of_other_unit(now);
        if !blocks.is_empty() {
            let calls = self.minute(now).ec2_calls;
            match self.gates(now, calls).release {
                Gate::Open => {
                    // One that cannot be taken is passed over, the others go (W25).
                    self.give_back(now, blocks, &mut Vec::new());
                }
                Gate::OpensIn(seconds) => {
                    self.sweep_at = Some(now.mono + Duration::from_secs(u64::from(seconds)));
                    return;
                }
                Gate::Closed => return,
            }
        }
        self.sweep_at = next;
    }

    /// Those that can go now, and when the next of them has cooled (I4). What EC2 has not confirmed as ours stays, and what
    /// is about to change.
    fn of_other_unit(&self, now: Now) -> (Vec<Block>, Option<Time>) {
        let mut next: Option<Time> = None;
        let mut blocks = Vec::new();
        let just_after = Duration::from_millis(1);
        let mut again = |at: Time| next = Some(next.map_or(at, |next| next.min(at)));
        let changing = |eni: &str| self.jobs.values().any(|j| matches!(j, Job::Assign(a) if a.eni == eni));
        for (card, eni) in self.cards.iter().flat_map(|c| c.store.enis().map(move |(e, _)| (c, e))) {
            if self.unconfirmed.contains(&eni.id) {
                continue;
            }
            if changing(&eni.id) {
                again(now.mono + LOOK_AGAIN);
                continue;
            }
            let out = self.tagged_out.contains(&eni.id);
            for cidr in card.store.cidrs(&eni.id, now.mono).filter(|c| (c.left_over || out) && c.assigned == 0) {
                match cidr.cooled_at {
                    Some(at) => again(at + just_after),
                    None => blocks.push(Block { eni: eni.id.clone(), net: cidr.net }),
                }
            }
        }
        (blocks, next)
    }
}
