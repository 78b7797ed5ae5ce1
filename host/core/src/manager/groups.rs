//! Security groups: every managed interface has the primary's (spec 03 §7.9). They are read from IMDS once a minute; the
//! reference's half minute would by itself use up what a settled node may read (two reads a minute).

use std::time::Duration;

use super::jobs::Job;
use super::pace::retry_delay;
use super::{JobId, Level, Manager, Now};
use crate::cloud::{Answer, CloudError, ErrorKind, Request};
use crate::store::Time;

pub(super) const EVERY: Duration = Duration::from_secs(60);
/// Tries of one interface; then the next change or the next look at EC2 brings it up again (spec 03 W-18).
const TRIES: u32 = 5;

#[derive(Debug)]
pub(super) enum Groups {
    /// The primary's, being read.
    Read,
    /// An interface is being given these.
    Apply { eni: String, groups: Vec<String>, attempt: u32, retry_at: Option<Time> },
}

impl Groups {
    pub fn retry_at(&self) -> Option<Time> {
        match self {
            Self::Read => None,
            Self::Apply { retry_at, .. } => *retry_at,
        }
    }

    /// The call to make again, its time having come.
    pub fn again(&mut self) -> Option<Request> {
        let Self::Apply { eni, groups, retry_at, .. } = self else { return None };
        *retry_at = None;
        Some(Request::SetSecurityGroups { eni: eni.clone(), groups: groups.clone() })
    }
}

impl Manager {
    /// Has the primary's groups read when it is time.
    pub(super) fn refresh_groups(&mut self, now: Now) {
        if now.mono < self.next_groups {
            return;
        }
        self.next_groups = now.mono + EVERY;
        let reading = self.jobs.values().any(|j| matches!(j, Job::Groups(Groups::Read)));
        if reading || !self.settings.provisioning || self.terminating {
            return;
        }
        let id = self.start(Job::Groups(Groups::Read));
        self.call(now, id, Request::PrimarySecurityGroups { mac: self.settings.instance.mac.clone() });
    }

    pub(super) fn groups_answer(&mut self, now: Now, id: JobId, job: Groups, result: Result<Answer, CloudError>) {
        match (job, result) {
            (Groups::Read, Ok(Answer::SecurityGroups(groups))) => self.note_groups(now, groups),
            (Groups::Read, Err(error)) => {
                self.log(Level::Warn, format!("the security groups are read again later: {error}"));
            }
            (Groups::Apply { eni, groups, .. }, Ok(Answer::Done)) => {
                self.log(Level::Info, format!("{eni} has the security groups {}", groups.join(", ")));
                self.groups_of.insert(eni, groups);
            }
            (Groups::Apply { eni, groups, attempt, .. }, Err(error)) => {
                let hopeless = matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::NotFound);
                if hopeless || attempt >= TRIES {
                    return self.log(Level::Warn, format!("{eni} keeps its old security groups: {error}"));
                }
                let delay = retry_delay(Duration::from_millis(500), attempt, &mut self.random);
                let retry_at = Some(now.mono + delay);
                let again = Groups::Apply { eni, groups, attempt: attempt + 1, retry_at };
                self.jobs.insert(id, Job::Groups(again));
            }
            (_, Ok(other)) => self.unexpected("ModifyNetworkInterfaceAttribute", &other),
        }
    }

    /// The primary's groups as they were told just now.
    pub(super) fn note_groups(&mut self, now: Now, mut groups: Vec<String>) {
        groups.sort();
        self.security_groups = Some((groups, now.mono));
        self.apply_groups(now);
    }

    /// Gives the groups to those that have others, as far as is known. Under custom networking they are the ENIConfig's,
    /// and never refreshed (spec 01 §6.5). The primary's own are the model, and not touched.
    pub(super) fn apply_groups(&mut self, now: Now) {
        if self.settings.custom_networking || !self.settings.provisioning || !self.settings.ec2 || self.terminating {
            return;
        }
        let Some((wanted, _)) = self.security_groups.clone() else { return };
        let under_way = |eni: &str| {
            self.jobs.values().any(
                |j| matches!(j, Job::Groups(Groups::Apply { eni: e, groups, .. }) if e == eni && *groups == wanted),
            )
        };
        let others: Vec<String> = self
            .cards
            .enis()
            .filter(|(e, _)| !e.primary && !self.is_held_back(&e.id))
            .filter(|(e, _)| self.groups_of.get(&e.id).is_some_and(|held| *held != wanted) && !under_way(&e.id))
            .map(|(e, _)| e.id.clone())
            .collect();
        for eni in others {
            let request = Request::SetSecurityGroups { eni: eni.clone(), groups: wanted.clone() };
            // One that is being given older ones must not end after this.
            self.jobs
                .retain(|_, j| !matches!(j, Job::Groups(Groups::Apply { eni: e, retry_at: Some(_), .. }) if *e == eni));
            let id = self.start(Job::Groups(Groups::Apply { eni, groups: wanted.clone(), attempt: 1, retry_at: None }));
            self.call(now, id, request);
        }
    }
}
