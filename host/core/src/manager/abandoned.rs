//! What instances that are gone have left: interfaces made for them, never attached or not deleted with them (spec 03 §7.10).
//! Nobody else collects those, for the daemons that made them are gone as well. Of instances that live nothing is touched:
//! theirs may be on their way from creation to attachment.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cards::INSTANCE_TAG;
use super::jobs::Job;
use super::left_overs::{CREATED_TAG, LEFT_OVER_AGE, LEFT_OVERS_EVERY, created_at};
use super::{JobId, Level, Manager, Now};
use crate::cloud::{Answer, CloudError, Interface, Request};
use crate::store::Time;

/// Interfaces of one search that are dealt with, and instances that are asked about; the next search finds the rest.
const MOST: usize = 50;
/// From the daemon's start to its first search, at least.
const FIRST: Duration = Duration::from_secs(300);

/// A search under way.
#[derive(Debug)]
pub(super) enum Search {
    /// Which interfaces of others are attached to nothing.
    List,
    /// Which of their instances are still there.
    Owners(Vec<Interface>),
}

fn owner(interface: &Interface) -> Option<&str> {
    interface.tags.iter().find(|(key, _)| key == INSTANCE_TAG).map(|(_, id)| id.as_str())
}

impl Manager {
    /// Has others' left-overs searched for when it is time: each hour, not all nodes of a cluster in the same second.
    pub(super) fn search_abandoned(&mut self, now: Now) {
        let due = *self.abandoned_due.get_or_insert(now.mono + FIRST + jitter(&mut self.random));
        let may = self.settings.clean_up && self.settings.provisioning && self.settings.ec2 && !self.terminating;
        if now.mono < due || !may || self.jobs.values().any(|job| matches!(job, Job::Abandoned(_))) {
            return;
        }
        self.abandoned_due = Some(now.mono + LEFT_OVERS_EVERY + jitter(&mut self.random));
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
                let others: Vec<Interface> = others.take(MOST).collect();
                if !others.is_empty() {
                    let ids: BTreeSet<String> = others.iter().filter_map(owner).map(str::to_owned).collect();
                    self.jobs.insert(id, Job::Abandoned(Search::Owners(others)));
                    self.call(now, id, Request::DescribeLivingInstances { ids: ids.into_iter().collect() });
                }
            }
            (Search::Owners(list), Ok(Answer::Instances(living))) => {
                let gone = |i: &Interface| owner(i).is_some_and(|id| !living.iter().any(|l| l == id));
                for interface in list.into_iter().filter(gone) {
                    self.clear_abandoned(now, &interface);
                }
            }
            (_, Ok(other)) => self.unexpected("DescribeInstances", &other),
            // The next one is soon enough.
            (_, Err(error)) => self.log(Level::Warn, format!("others' left-overs are searched for later: {error}")),
        }
    }

    fn clear_abandoned(&mut self, now: Now, interface: &Interface) {
        let before = crate::time::rfc3339(now.unix.saturating_sub(LEFT_OVER_AGE).as_secs());
        let (eni, of) = (interface.eni.clone(), owner(interface).unwrap_or_default());
        match created_at(interface).filter(|at| at.len() == before.len() && at.ends_with('Z')) {
            // UTC texts of one length compare as times. An instance that is just being started may not be listed yet.
            Some(at) if *at >= *before => {}
            Some(_) => {
                self.log(Level::Info, format!("{eni} was left behind by {of}, which is gone, and is deleted"));
                self.start_minor(now, "the removal of another's left-over", Request::DeleteNetworkInterface { eni });
            }
            // Its age is unknown: from now on it is known (spec 03 §7.10, W-19).
            None => {
                let tags = vec![(CREATED_TAG.to_owned(), crate::time::rfc3339(now.unix.as_secs()))];
                self.start_minor(now, "the time of creation", Request::CreateTags { resource: eni, tags });
            }
        }
    }
}

/// Up to five minutes.
pub(super) fn jitter(random: &mut super::pace::Random) -> Time {
    Duration::from_secs(random.next() % 300)
}
