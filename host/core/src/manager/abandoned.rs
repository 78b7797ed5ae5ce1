//! What instances that are gone have left: interfaces made for them, never attached or not deleted with them (spec 03 §7.10).
//! Nobody else collects those, for the daemons that made them are gone as well. Of instances that live nothing is touched:
//! theirs may be on their way from creation to attachment.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cards::INSTANCE_TAG;
use super::jobs::Job;
use super::left_overs::{Age, LEFT_OVER_AGE, LEFT_OVERS_EVERY, tag_with_age};
use super::{CALLS_PER_MINUTE, CleanUp, Counter, JobId, Level, Manager, Now};
use crate::cloud::{Answer, CloudError, ErrorKind, Interface, Request};
use crate::store::Time;

/// Interfaces of one search that are dealt with, and instances that are asked about; the next search finds the rest.
const MOST: usize = 50;
/// Calls of a minute after which others' left-overs wait for the next search: the rest is for the node's own pods.
const BUSY: u32 = CALLS_PER_MINUTE / 2;
/// From the daemon's start to its first search, at least.
const FIRST: Duration = Duration::from_secs(600);

/// A search under way.
#[derive(Debug)]
pub(super) enum Search {
    /// Which interfaces of others are attached to nothing.
    List,
    /// Which of their instances are still there.
    Owners(Vec<Interface>),
    /// What is asked about one of them, and those whose turn comes after it.
    Clear { request: Request, rest: Vec<Interface> },
}

fn owner(interface: &Interface) -> Option<&str> {
    interface.tags.iter().find(|(key, _)| key == INSTANCE_TAG).map(|(_, id)| id.as_str())
}

impl Manager {
    /// When others' left-overs are searched for first: some minutes after the start, so that what is young has become
    /// attached.
    pub(super) fn first_search(&mut self, now: Now) -> Time {
        now.mono + FIRST + jitter(&mut self.random)
    }

    /// Has others' left-overs searched for when it is time: each hour, not all nodes of a cluster in the same second.
    pub(super) fn search_abandoned(&mut self, now: Now) {
        if now.mono < self.abandoned_due {
            return;
        }
        self.abandoned_due = now.mono + LEFT_OVERS_EVERY + jitter(&mut self.random);
        let may = self.settings.clean_up && self.settings.provisioning && self.settings.ec2 && !self.terminating;
        if !may || self.jobs.values().any(|job| matches!(job, Job::Abandoned(_))) {
            return;
        }
        let (vpc, cluster) = (self.settings.instance.vpc.clone(), self.settings.cluster_name.clone());
        let id = self.start(Job::Abandoned(Search::List));
        self.call(now, id, Request::DescribeAbandonedInterfaces { vpc, cluster });
    }

    pub(super) fn abandoned_answer(&mut self, now: Now, id: JobId, search: Search, result: Result<Answer, CloudError>) {
        match (search, result) {
            (Search::List, Ok(Answer::Interfaces(list))) => {
                let own = self.settings.instance.instance_id.as_str();
                let others = list.into_iter().filter(|i| {
                    let foreign = owner(i).is_some_and(|id| !id.is_empty() && id != own);
                    foreign && i.description.starts_with("aws-K8S-") && i.attachment.is_none()
                });
                let mut others: Vec<Interface> = others.collect();
                if !others.is_empty() {
                    // Not the same ones each time, if they are many and their instances live.
                    let from = usize::try_from(self.random.next()).unwrap_or(0) % others.len();
                    others.rotate_left(from);
                    others.truncate(MOST);
                    // This one lives: an answer without it proves nothing of the others.
                    let own = [self.settings.instance.instance_id.clone()];
                    let ids: BTreeSet<String> = others.iter().filter_map(owner).map(str::to_owned).chain(own).collect();
                    self.jobs.insert(id, Job::Abandoned(Search::Owners(others)));
                    self.call(now, id, Request::DescribeLivingInstances { ids: ids.into_iter().collect() });
                }
            }
            (Search::Owners(_), Ok(Answer::Instances(living)))
                if !living.contains(&self.settings.instance.instance_id) =>
            {
                let why = "EC2 does not list this instance, so others' left-overs are searched for later";
                self.log(Level::Warn, why.to_owned());
            }
            (Search::Owners(mut list), Ok(Answer::Instances(living))) => {
                list.retain(|i| owner(i).is_some_and(|id| !living.iter().any(|l| l == id)));
                self.clear_abandoned(now, id, list);
            }
            (Search::Clear { rest, .. }, Ok(Answer::Done)) => self.clear_abandoned(now, id, rest),
            (Search::Clear { request, rest }, Err(error)) => {
                let deletes = matches!(request, Request::DeleteNetworkInterface { .. });
                if error.kind != ErrorKind::NotFound {
                    let what = if deletes { "deleted" } else { "given a time of creation" };
                    self.log(Level::Warn, format!("another's left-over was not {what}: {error}"));
                    if deletes {
                        self.count(Counter::CleanUpFailed(CleanUp::LeftOver, error.code.clone()));
                    }
                }
                let others_too = match error.kind {
                    ErrorKind::Throttled | ErrorKind::Unknown => true,
                    ErrorKind::Unauthorized => deletes,
                    _ => false,
                };
                if !others_too {
                    self.clear_abandoned(now, id, rest);
                }
            }
            (_, Ok(other)) => self.unexpected("a search for others' left-overs", &other),
            // The next one is soon enough.
            (_, Err(error)) => self.log(Level::Warn, format!("others' left-overs are searched for later: {error}")),
        }
    }

    /// Deals with one after another (spec 03 §7.10 step 4).
    fn clear_abandoned(&mut self, now: Now, id: JobId, mut rest: Vec<Interface>) {
        if self.terminating || self.minute(now).ec2_calls >= BUSY {
            return;
        }
        while let Some(interface) = rest.pop() {
            let of = owner(&interface).unwrap_or_default();
            let request = match Age::of(&interface, now.unix.saturating_sub(LEFT_OVER_AGE)) {
                Age::Unknown => tag_with_age(interface.eni, now),
                // An instance that is just being started may not be listed yet.
                Age::Young => continue,
                Age::Old => {
                    let eni = interface.eni.clone();
                    self.log(Level::Info, format!("{eni} was left behind by {of}, which is gone, and is deleted"));
                    Request::DeleteNetworkInterface { eni }
                }
            };
            self.jobs.insert(id, Job::Abandoned(Search::Clear { request: request.clone(), rest }));
            return self.call(now, id, request);
        }
    }
}

/// Up to five minutes.
fn jitter(random: &mut super::pace::Random) -> Time {
    Duration::from_secs(random.next() % 300)
}
