//! In which subnet a new interface is made: what may be asked of which, and what the policy chose.

use std::collections::VecDeque;
use std::time::Duration;

use super::Stage;
use crate::cloud::{CloudError, ErrorKind};
use crate::kube::EniConfig;
use crate::manager::jobs::Job;
use crate::manager::pace::Way;
use crate::manager::{JobId, Level, Manager, Now};
use crate::policy::{Standing, Unit};
use crate::store::Time;

impl Manager {
    /// Every subnet that is known and may be used has refused of late.
    pub(super) fn no_subnet_has_any(&self, now: Now, unit: Unit) -> bool {
        let usable = self.usable_subnets();
        !usable.is_empty() && usable.iter().all(|s| self.refused.until(s, unit, now.mono).is_some())
    }

    /// EC2 had nothing of the subnet, and a call under way finds out whether it has again: who else wants of it waits for
    /// that, so that an empty subnet costs one call at a time.
    pub(in crate::manager) fn is_probed(&self, now: Now, subnet: &str, unit: Unit) -> bool {
        let lapsed = self.refused.lapsed(subnet, unit, now.mono);
        self.jobs.values().any(|job| match job {
            Job::Assign(assign) => assign.probes(subnet, unit, lapsed),
            Job::Create(create) => lapsed && create.probes(subnet, unit, false),
            _ => false,
        })
    }

    /// An interface that is begun now could only wait for what others find out: each subnet that may be used has refused,
    /// and others are about to ask it.
    pub(super) fn others_find_out(&self, now: Now, unit: Unit) -> bool {
        let asked = |subnet: &String| {
            self.is_probed(now, subnet, unit)
                || self.jobs.values().any(|job| matches!(job, Job::Create(c) if c.probes(subnet, unit, true)))
        };
        let closed = |subnet: &String| {
            self.refused.until(subnet, unit, now.mono).is_some()
                || self.refused.lapsed(subnet, unit, now.mono) && asked(subnet)
        };
        let usable = self.usable_subnets();
        !usable.is_empty() && usable.iter().all(closed)
    }

    /// Whether others may have taken from the subnets since their free addresses were counted.
    pub(super) fn count_is_old(&self, now: Now) -> bool {
        let old = |at: Time| now.mono.saturating_sub(at) > Duration::from_secs(1);
        !self.settings.custom_networking && self.subnets_seen.is_some_and(old)
    }

    /// Why no subnet is tried for a new interface. `exhausted`: each that may be used had nothing left.
    pub(super) fn no_subnet(&self, exhausted: bool) -> CloudError {
        let usable = self.usable_subnets();
        let (kind, code, message) = if exhausted {
            (
                ErrorKind::NoFreeAddress,
                "InsufficientFreeAddressesInSubnet",
                "no subnet could take the interface".to_owned(),
            )
        } else if usable.is_empty() {
            (ErrorKind::NoSubnet, "", self.none_eligible())
        } else {
            (ErrorKind::Refused, "", format!("the policy wants none of the subnets {}", usable.join(", ")))
        };
        CloudError { api: "CreateNetworkInterface", kind, code: code.to_owned(), message }
    }

    /// The answer to [`Command::EniConfig`](crate::manager::Command::EniConfig). A failure ends the creation (spec 01 §3.8): nothing is guessed (W21).
    pub(in crate::manager) fn eni_config_answer(&mut self, now: Now, id: JobId, result: Result<EniConfig, String>) {
        let mut job = match self.jobs.remove(&id) {
            Some(Job::Create(job)) if job.stage == Stage::EniConfig => job,
            Some(other) => {
                self.jobs.insert(id, other);
                return;
            }
            None => return,
        };
        match result {
            Ok(config) => {
                self.eni_config = Some(config.clone());
                job.eni_config = Some(config);
                job.stage = Stage::Groups;
                self.jobs.insert(id, Job::Create(job));
                self.create_step(now, id);
            }
            Err(message) => {
                // It costs EC2 nothing to ask again soon: the wait does not grow.
                self.growth.reopen(job.card, Way::Create);
                let (kind, code) = (ErrorKind::Refused, String::new());
                self.create_failed(now, *job, CloudError { api: "ENIConfig", kind, code, message });
            }
        }
    }

    pub(in crate::manager) fn ranked(&mut self, now: Now, id: JobId, ranked: Result<Vec<String>, String>) {
        let usable = |m: &Self, unit: Unit, s: &str| {
            let allowed = m.subnets.is_empty() && s == m.settings.instance.subnet
                || m.subnets.iter().any(|f| f.id == s && m.subnet_standing(f) != Standing::Forbidden) && m.of_family(s);
            allowed && m.refused.until(s, unit, now.mono).is_none() && !m.is_probed(now, s, unit)
        };
        let Some(Job::Create(job)) = self.jobs.get(&id) else { return };
        let unit = job.unit;
        let mut candidates: VecDeque<String> = VecDeque::new();
        match ranked {
            Ok(list) => {
                for subnet in list {
                    if !candidates.contains(&subnet) && usable(self, unit, &subnet) {
                        candidates.push_back(subnet);
                    }
                }
            }
            Err(reason) => self.log(Level::Warn, format!("no subnet was chosen for a new interface: {reason}")),
        }
        // An empty list because every subnet is empty, or is being asked whether it still is, is exhaustion; any other is
        // a refusal.
        let usable = self.usable_subnets();
        let none = |s: &String| self.refused.until(s, unit, now.mono).is_some() || self.is_probed(now, s, unit);
        let exhausted = !usable.is_empty() && usable.iter().all(none);
        if let Some(Job::Create(job)) = self.jobs.get_mut(&id) {
            job.stage = Stage::Create;
            job.exhausted = candidates.is_empty() && exhausted;
            job.candidates = candidates;
        }
        self.create_step(now, id);
    }
}
