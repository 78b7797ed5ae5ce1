//! What instances that are gone have left: interfaces made for them, never attached or not deleted with them (spec 03 §7.10).
//! Nobody else collects those, for the daemons that made them are gone as well. Of instances that live nothing is touched:
//! theirs may be on their way from creation to attachment.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cards::INSTANCE_TAG;
use super::jobs::Job;
use super::left_overs::{Age, LEFT_OVER_AGE, LEFT_OVERS_EVERY, tag_with_age};
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
        let (eni, of) = (interface.eni.clone(), owner(interface).unwrap_or_default());
        match Age::of(interface, now.unix.saturating_sub(LEFT_OVER_AGE)) {
            Age::Unknown => self.start_minor(now, "the time of creation", tag_with_age(eni, now)),
            // An instance that is just being started may not be listed yet.
            Age::Young => {}
            Age::Old => {
                self.log(Level::Info, format!("{eni} was left behind by {of}, which is gone, and is deleted"));
                self.start_minor(now, "the removal of another's left-over", Request::DeleteNetworkInterface { eni });
            }
        }
    }
}

/// Up to five minutes.
pub(super) fn jitter(random: &mut super::pace::Random) -> Time {
    Duration::from_secs(random.next() % 300)
}
