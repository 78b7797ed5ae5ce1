//! News of the kernel's links. An interface that others attach or detach is looked for at once instead of by the slow timer
//! (spec 01 §8.1: within a minute), and a node where nothing happens reads nothing.

use std::collections::HashSet;
use std::time::Duration;

use super::jobs::Job;
use super::{Manager, Now};
use crate::store::Time;

/// From news to the look: several interfaces may come together.
const SETTLE: Duration = Duration::from_secs(3);
/// EC2 and IMDS may be behind: a second look, so long after the news.
const AGAIN: Duration = Duration::from_secs(45);
/// Between looks that news lead to, however many there are.
const GAP: Duration = Duration::from_secs(30);
/// MAC addresses that are remembered; more than any instance has.
const MOST: usize = 1024;

/// What the kernel and IMDS have shown of links.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// MAC addresses whose coming is no news: of attached interfaces, ours or not, and of what has been looked for.
    known: HashSet<String>,
    looked: Option<Time>,
    again: Option<Time>,
}

impl Links {
    /// A look is begun; when the next is due, `every` after this one or sooner.
    pub fn look(&mut self, now: Time, every: Duration) -> Time {
        self.looked = Some(now);
        let again = self.again.take().filter(|at| *at > now);
        again.map_or(now + every, |at| at.min(now + every))
    }

    pub fn know(&mut self, mac: &str) -> bool {
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(mac.to_owned())
    }
}

impl Manager {
    /// A link that may be an interface of the instance has come, or told of itself.
    pub(super) fn link_came(&mut self, now: Now, mac: &str) {
        let ours = self.cards.enis().any(|(eni, _)| eni.mac == mac);
        let expected = self.jobs.values().any(|job| match job {
            Job::Create(create) => create.has_mac(mac),
            Job::Adopt(adopt) => adopt.eni.mac == mac,
            _ => false,
        });
        if self.links.know(mac) && !ours && !expected {
            self.look_for_interfaces(now);
        }
    }

    /// A link has gone, of whatever kind.
    pub(super) fn link_went(&mut self, now: Now, mac: &str) {
        let known = self.links.known.remove(mac);
        let removed = self.jobs.values().any(|job| matches!(job, Job::Remove(remove) if remove.eni.mac == mac));
        if !removed && (known || self.cards.enis().any(|(eni, _)| eni.mac == mac)) {
            self.look_for_interfaces(now);
        }
    }

    /// Has EC2 asked what is attached, soon.
    pub(super) fn look_for_interfaces(&mut self, now: Now) {
        let soonest = self.links.looked.map_or(Time::ZERO, |at| at + GAP);
        self.next_look = self.next_look.min((now.mono + SETTLE).max(soonest));
        self.links.again = Some(now.mono + AGAIN);
        self.listing_wanted = true;
    }
}
