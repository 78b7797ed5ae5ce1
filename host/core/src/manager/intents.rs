//! Interfaces that EC2 was asked for and that are not attached yet. The journal has each before the call is made, so that
//! none stays behind, whatever ends the daemon or swallows the answer, and whether or not left-overs are searched for
//! (DISABLE_LEAKED_ENI_CLEANUP, IPv6): what an entry names is ours to delete, and nothing else is.

use std::time::Duration;

use super::left_overs::created_at;
use super::listing::Verify;
use super::release::EC2_BEHIND;
use super::{Manager, Now};
use crate::cloud::Interface;
use crate::store::Time;

/// By then EC2 lists an interface whose making was not answered, whatever delayed the call.
const LOST_AGE: Duration = Duration::from_secs(360);

/// An interface that EC2 was asked for and that is not attached yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Making {
    /// The call's idempotency token.
    pub token: String,
    /// What its tag `createdAt` says: it is found by that if EC2's answer was not heard.
    pub created_at: String,
    /// Its id, once EC2 has told.
    pub eni: Option<String>,
    /// Since when nothing is under way that would attach it.
    #[serde(skip)]
    ended: Option<Time>,
}

impl Manager {
    /// EC2 is about to be asked for an interface with this tag.
    pub(super) fn intend(&mut self, token: &str, created_at: &str) {
        self.journal.making.push(Making {
            token: token.to_owned(),
            created_at: created_at.to_owned(),
            eni: None,
            ended: None,
        });
        self.write_journal();
    }

    /// EC2 has made it.
    pub(super) fn intent_is_made(&mut self, token: &str, eni: &str) {
        if let Some(making) = self.journal.making.iter_mut().find(|m| m.token == token) {
            making.eni = Some(eni.to_owned());
            self.write_journal();
        }
    }

    /// It is attached, or being deleted; the caller writes the journal.
    pub(super) fn intent_is_over(&mut self, eni: &str) {
        self.journal.making.retain(|m| m.eni.as_deref() != Some(eni));
    }

    /// EC2 did not say that it has made it. That it said no proves little: a call is repeated below us when its answer is
    /// lost. A search decides once EC2's lists cannot be behind any more.
    pub(super) fn intent_is_in_doubt(&mut self, now: Now, token: &str) {
        let Some(making) = self.journal.making.iter_mut().find(|m| m.token == token) else { return };
        making.ended = Some(now.mono);
        self.search_at(now.mono + LOST_AGE);
    }

    /// What the last run was about to make: nothing attaches it any more.
    pub(super) fn take_over_intents(&mut self, now: Now) {
        for making in &mut self.journal.making {
            making.ended = Some(now.mono);
        }
    }

    /// Has left-overs searched for at `at` at the latest.
    fn search_at(&mut self, at: Time) {
        self.left_overs_due = Some(self.left_overs_due.map_or(at, |due| due.min(at)));
        self.next_look = self.next_look.min(at);
    }

    /// Whether an unattached interface was asked for by a call that leads to nothing any more.
    pub(super) fn is_left_by_intent(&self, job: &Verify, interface: &Interface) -> bool {
        // A list of what is not attached may be behind.
        if self.cards.eni(&interface.eni).is_some() || job.device_ids().any(|id| *id == interface.eni) {
            return false;
        }
        let ours = interface.description == self.description();
        let created = created_at(interface).filter(|_| ours);
        let unanswered = |m: &&Making| m.eni.is_none() && created == Some(m.created_at.as_str());
        let making = &self.journal.making;
        // One of the same second may be the one that is being made.
        let may_be_wanted = making.iter().filter(unanswered).any(|m| m.ended.is_none());
        let named = |m: &Making| m.ended.is_some() && m.eni.as_ref() == Some(&interface.eni);
        making.iter().any(named) || (!may_be_wanted && making.iter().any(|m| unanswered(&m)))
    }

    /// Left-overs were searched for: of what was asked for long enough before, nothing is left.
    pub(super) fn settle_intents(&mut self, searched: Time) {
        let known = |ended: Time| ended + LOST_AGE <= searched;
        self.journal.making.retain(|m| !m.ended.is_some_and(known));
        // One search for all that is in doubt, and one more for what the last run left: as a rule EC2 shows that within a
        // minute.
        if let Some(last) = self.journal.making.iter().filter_map(|m| m.ended).max() {
            let soon = self.booted_at.mono + EC2_BEHIND;
            self.search_at(if searched < soon && last < soon { soon } else { last + LOST_AGE });
        }
    }

    /// Whether EC2's lists may not have shown yet, when `searched`, what the last run left.
    pub(super) fn may_be_hidden(&mut self, searched: Time) -> bool {
        let (soon, shown) = (self.booted_at.mono + EC2_BEHIND, self.booted_at.mono + LOST_AGE);
        if searched < shown {
            self.search_at(if searched < soon { soon } else { shown });
        }
        searched < shown
    }
}
