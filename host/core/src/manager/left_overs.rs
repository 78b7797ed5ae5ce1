//! Interfaces that were made and never attached (spec 03 §7.10).

use std::time::Duration;

use super::listing::Verify;
use super::{CleanUp, Level, Manager, Now};
use crate::cloud::{Interface, Request};

/// Between two searches for interfaces that were made and never attached.
pub(super) const LEFT_OVERS_EVERY: Duration = Duration::from_secs(3600);
/// One of this run is a left-over when it is as old and no job is about it.
pub(super) const LEFT_OVER_AGE: Duration = Duration::from_secs(300);
pub(super) const CREATED_TAG: &str = "node.k8s.amazonaws.com/createdAt";

/// What the tag says of when an interface was made.
pub(super) fn created_at(interface: &Interface) -> Option<&str> {
    interface.tags.iter().find(|(k, _)| k == CREATED_TAG).map(|(_, at)| at.as_str())
}

/// How long ago an unattached interface was made, as far as its tag tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// There is no tag, or it is not of our form: from now on it is to have one (spec 03 §7.10, W-19).
    Unknown,
    Young,
    /// Made before the time that was asked about.
    Old,
}

impl Age {
    /// `before`: since 1970.
    pub fn of(interface: &Interface, before: Duration) -> Self {
        let before = crate::time::rfc3339(before.as_secs());
        // UTC texts of one length compare as times.
        match created_at(interface).filter(|at| at.len() == before.len() && at.ends_with('Z')) {
            None => Self::Unknown,
            Some(at) if at < before.as_str() => Self::Old,
            Some(_) => Self::Young,
        }
    }
}

/// What gives an interface of unknown age one.
pub(super) fn tag_with_age(eni: String, now: Now) -> Request {
    Request::CreateTags {
        resource: eni,
        tags: vec![(CREATED_TAG.to_owned(), crate::time::rfc3339(now.unix.as_secs()))],
    }
}

impl Manager {
    pub(super) fn left_overs_due(&self, now: Now) -> bool {
        self.left_overs_due.is_none_or(|at| now.mono >= at)
    }

    /// What an earlier run made and never attached, or this one, when EC2's answer was lost (spec 03 §7.10).
    pub(super) fn clear_left_overs(&mut self, now: Now, job: &Verify, list: Vec<Interface>) {
        // With the look that is nearest to then.
        self.left_overs_due = Some(now.mono + LEFT_OVERS_EVERY - self.look_every() / 2);
        let settled = now.unix.saturating_sub(LEFT_OVER_AGE).max(self.booted_at.unix);
        for interface in list {
            let ours = interface.description.starts_with("aws-K8S-");
            if self.journal.removing.contains(&interface.eni) && self.settings.provisioning {
                // The last run was about to: whoever made it, and whether or not others are searched for.
                if !self.is_being_removed(&interface.eni) && !self.is_given_back(&interface.eni, None) {
                    self.dispose(now, self.spec_of(&interface, 0, 0), false, CleanUp::LeftOver);
                }
                continue;
            }
            let busy = self.is_being_removed(&interface.eni) || self.is_being_made(&interface.eni);
            if self.settings.provisioning && !busy && self.is_left_by_intent(job, &interface) {
                self.log(Level::Warn, format!("{} was made, never attached, and is deleted", interface.eni));
                self.dispose(now, self.spec_of(&interface, 0, 0), false, CleanUp::LeftOver);
                continue;
            }
            if !ours || busy || !self.settings.provisioning || !self.settings.clean_up {
                continue;
            }
            match Age::of(&interface, settled) {
                Age::Unknown => self.start_minor(now, "the time of creation", tag_with_age(interface.eni, now)),
                Age::Young => {}
                Age::Old => {
                    self.log(Level::Info, format!("{} was never attached and is deleted", interface.eni));
                    self.dispose(now, self.spec_of(&interface, 0, 0), false, CleanUp::LeftOver);
                }
            }
        }
        if !self.settings.provisioning {
            // Whoever may change things again finds it there.
            return;
        }
        let before = self.journal.clone();
        let over = |e: &&String| !self.is_being_removed(e) && !self.is_given_back(e, None);
        let removing: Vec<String> = self.journal.removing.iter().filter(over).cloned().collect();
        if !removing.is_empty() && !self.may_be_hidden(job.started) {
            // Neither attached nor left over: they are gone.
            self.journal.removing.retain(|e| !removing.contains(e));
        }
        self.settle_intents(job.started);
        if self.journal != before {
            self.write_journal();
        }
    }
}
