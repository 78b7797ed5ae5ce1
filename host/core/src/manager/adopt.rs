//! An interface that was attached before: programmed, then it serves pods.

use std::time::Duration;

use super::jobs::Job;
use super::{Command, Counter, JobId, Level, Manager, NotReady, Now};
use crate::ip::IpNet;
use crate::store::{EniSpec, Time};

/// An attached interface being programmed before it serves pods.
#[derive(Debug)]
pub(super) struct Adopt {
    pub eni: EniSpec,
    nets: Vec<IpNet>,
}

/// Set-ups of an attached interface, one after the other (spec 01 §1.9); then the next look brings it up again.
const TRIES: u32 = 6;
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// A set-up to be tried again.
#[derive(Debug)]
pub(super) struct Again {
    at: Time,
    job: Adopt,
}

impl Again {
    pub fn at(&self) -> Time {
        self.at
    }
}

impl Manager {
    pub(super) fn adopt_again(&mut self, now: Now) {
        let (due, rest) = std::mem::take(&mut self.adoptions_due).into_iter().partition(|a| a.at <= now.mono);
        self.adoptions_due = rest;
        for Again { job, .. } in due {
            self.adopt(job.eni, job.nets);
        }
    }

    pub(super) fn adopt(&mut self, eni: EniSpec, nets: Vec<IpNet>) {
        if self.jobs.values().any(|j| matches!(j, Job::Adopt(a) if a.eni.id == eni.id)) {
            return;
        }
        let Some(cidr) = self.subnet_cidrs.get(&eni.subnet).copied() else {
            return self.log(Level::Error, format!("{}: the block of {} is not known", eni.id, eni.subnet));
        };
        let job = self.start(Job::Adopt(Box::new(Adopt { eni: eni.clone(), nets })));
        self.out.push(Command::SetUpEni { job, eni, subnet_cidr: cidr });
    }

    /// The interface goes: that its set-up ends must not bring it back. The set-up that is under way, if there is one.
    pub(super) fn forget_adoption(&mut self, eni: &str) -> Option<(JobId, EniSpec)> {
        let is_it = |job: &Job| matches!(job, Job::Adopt(a) if a.eni.id == eni);
        let under_way = self.jobs.iter().find(|(_, job)| is_it(job)).map(|(id, _)| *id);
        let under_way = under_way.and_then(|id| match self.jobs.remove(&id) {
            Some(Job::Adopt(adopt)) => Some((id, adopt.eni)),
            _ => None,
        });
        self.adoptions_due.retain(|a| a.job.eni.id != eni);
        self.adoption_tries.remove(eni);
        under_way
    }

    /// The set-up has ended of an interface that was left alone meanwhile: what it made goes, unless pods rest on it, or
    /// the interface is ours again.
    pub(super) fn adopted_in_vain(&mut self, id: JobId) {
        let Some(mut eni) = self.in_vain.remove(&id) else { return };
        if self.cards.eni(&eni.id).is_some() {
            self.programmed.insert(eni.id);
        } else if !self.is_being_made(&eni.id) {
            eni.table = self.table(&eni.id, eni.card, eni.device_index);
            self.out.push(Command::LeaveEni { eni });
        }
    }

    pub(super) fn adopted(&mut self, now: Now, mut job: Adopt, result: Result<(), NotReady>) {
        let id = job.eni.id.clone();
        match result {
            Ok(()) => {
                // Its set-up may have told of another one (spec 04 §7.3).
                job.eni.table = self.table(&id, job.eni.card, job.eni.device_index);
                self.unconfirmed.remove(&id);
                self.adoption_tries.remove(&id);
                self.settle_service(&id);
                // What is in the store has been compared with EC2 meanwhile; what was told before is old.
                let nets = if self.cards.eni(&id).is_some() { Vec::new() } else { job.nets };
                self.take_in(now, job.eni, self.settings.unit, &nets);
            }
            Err(error) => {
                self.count(Counter::ReconcileEniAddFailed);
                self.unconfirmed.insert(id.clone());
                self.settle_service(&id);
                self.log(Level::Error, format!("{id} is attached and cannot be used: {error}"));
                let tries = self.adoption_tries.entry(id).or_default();
                *tries += 1;
                if *tries < TRIES {
                    self.adoptions_due.push(Again { at: now.mono + TRY_AGAIN, job });
                } else if *tries == TRIES {
                    self.count(Counter::AdoptionGivenUp);
                }
            }
        }
    }

    pub(super) fn subnet_block(&self, subnet: &str) -> Option<IpNet> {
        self.subnet_cidrs.get(subnet).copied()
    }
}
