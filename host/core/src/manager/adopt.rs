//! An interface that was attached before: programmed, then it serves pods.

use super::jobs::Job;
use super::{Command, Level, Manager, Now};
use crate::ip::IpNet;
use crate::store::EniSpec;

/// An attached interface being programmed before it serves pods.
#[derive(Debug)]
pub(super) struct Adopt {
    pub eni: EniSpec,
    nets: Vec<IpNet>,
}

impl Manager {
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

    /// The interface goes: that its set-up ends must not bring it back.
    pub(super) fn forget_adoption(&mut self, eni: &str) {
        self.jobs.retain(|_, job| !matches!(job, Job::Adopt(a) if a.eni.id == eni));
    }

    pub(super) fn adopted(&mut self, now: Now, job: Adopt, result: Result<(), String>) {
        let id = job.eni.id.clone();
        match result {
            Ok(()) => {
                self.unconfirmed.remove(&id);
                self.settle_service(&id);
                self.take_in(now, job.eni, self.settings.unit, &job.nets);
            }
            Err(error) => {
                self.out.push(Command::Count(super::Counter::SetUpEniFailed));
                self.unconfirmed.insert(id.clone());
                self.settle_service(&id);
                self.log(Level::Error, format!("{id} is attached and cannot be used: {error}"));
            }
        }
    }

    pub(super) fn subnet_block(&self, subnet: &str) -> Option<IpNet> {
        self.subnet_cidrs.get(subnet).copied()
    }
}
