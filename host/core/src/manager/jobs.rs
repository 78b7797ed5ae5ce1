//! Jobs: assign, create, release, remove and the like. Each is a chain of calls; the answer to one decides the next. Here is what
//! they share: how one is begun, answered and tried again.

use std::time::Duration;

use super::abandoned::Search;
use super::adopt::Adopt;
use super::assign::Assign;
use super::create::Create;
use super::groups::Groups;
use super::ipv6::Prefix;
use super::listing::Verify;
use super::pace::{Way, retry_delay};
use super::release::Release;
use super::remove::Remove;
use super::{Command, Counter, JobId, Level, Manager, Now};
use crate::cloud::{Answer, CloudError, ErrorKind, Request};
use crate::limits::Hypervisor;
use crate::policy::{Growth, Unit};
use crate::store::Time;

/// For so long a subnet listing is good enough to create an interface by.
pub(super) const SUBNETS_FRESH: Duration = Duration::from_secs(30);

/// What a [`Job::Minor`] is called that puts missing tags on an interface.
pub(super) const TAGS: &str = "tags";

/// A chain of calls under way.
#[derive(Debug)]
pub(super) enum Job {
    Assign(Assign),
    Create(Box<Create>),
    Release(Release),
    Remove(Remove),
    Adopt(Box<Adopt>),
    Prefix(Prefix),
    Verify(Verify),
    /// Listing what IMDS shows, by the slow timer.
    Look,
    /// The subnets, listed for their tags and free addresses alone.
    Subnets,
    Groups(Groups),
    /// What instances that are gone have left, being searched for.
    Abandoned(Search),
    /// One call whose failure is only worth a line: tags, delete-on-termination.
    Minor {
        what: &'static str,
        retry: Option<Retry>,
    },
}

/// A call that is made again later.
#[derive(Debug, Clone)]
pub(super) struct Retry {
    pub at: Option<Time>,
    pub attempt: u32,
    pub request: Request,
}

impl Job {
    /// When the job goes on by itself.
    pub fn retry_at(&self) -> Option<Time> {
        match self {
            Self::Create(c) => c.retry_at,
            Self::Release(r) => r.retry.at,
            Self::Remove(r) => r.retry.at,
            Self::Verify(v) => v.retry_at(),
            Self::Groups(g) => g.retry_at(),
            Self::Minor { retry, .. } => retry.as_ref().and_then(|r| r.at),
            Self::Assign(_) | Self::Adopt(_) | Self::Prefix(_) | Self::Look | Self::Subnets | Self::Abandoned(_) => {
                None
            }
        }
    }
}

impl Manager {
    pub(super) fn start(&mut self, job: Job) -> JobId {
        let id = self.next_job;
        self.next_job += 1;
        self.jobs.insert(id, job);
        id
    }

    pub(super) fn call(&mut self, now: Now, job: JobId, request: Request) {
        if request.is_ec2() {
            self.minute(now).ec2_calls += 1;
        }
        self.out.push(Command::Cloud { job, request });
    }

    /// Makes calls again whose time has come.
    pub(super) fn retry_jobs(&mut self, now: Now) {
        let due = |job: &Job| job.retry_at().is_some_and(|at| at <= now.mono);
        let ids: Vec<JobId> = self.jobs.iter().filter(|(_, j)| due(j)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            let request = match job {
                Job::Create(create) => {
                    create.retry_at = None;
                    self.create_step(now, id);
                    continue;
                }
                Job::Release(Release { retry, .. })
                | Job::Remove(Remove { retry, .. })
                | Job::Minor { retry: Some(retry), .. } => {
                    retry.at = None;
                    retry.request.clone()
                }
                Job::Verify(_) => {
                    self.verify_again(now, id);
                    continue;
                }
                Job::Groups(groups) => match groups.again() {
                    Some(request) => request,
                    None => continue,
                },
                _ => continue,
            };
            self.call(now, id, request);
        }
    }

    /// The answer to a call of a job.
    pub(super) fn cloud(&mut self, now: Now, id: JobId, result: Result<Answer, CloudError>) {
        if let Err(error) = &result
            && error.kind == ErrorKind::Throttled
        {
            self.minute(now).ec2_throttled += 1;
        }
        let Some(job) = self.jobs.remove(&id) else { return };
        match job {
            Job::Assign(assign) => self.assigned(now, id, assign, result),
            Job::Create(create) => self.create_answer(now, id, create, result),
            Job::Release(release) => self.released(now, id, release, result),
            Job::Remove(remove) => self.removed(now, id, remove, result),
            Job::Prefix(prefix) => self.prefix_answer(now, id, prefix, result),
            Job::Verify(verify) => self.verified(now, id, verify, result),
            Job::Adopt(adopt) => {
                self.jobs.insert(id, Job::Adopt(adopt));
            }
            Job::Look => self.looked(now, result),
            Job::Subnets => self.subnets_listed(now, result),
            Job::Groups(groups) => self.groups_answer(now, id, groups, result),
            Job::Abandoned(search) => self.abandoned_answer(now, id, search, result),
            Job::Minor { what, retry } => self.minor(now, id, what, retry, result),
        }
    }

    /// A growth step failed: that way of the card is held back, unless only a subnet is empty, which is remembered by
    /// itself.
    pub(super) fn growth_failed(&mut self, now: Now, card: u32, way: Way, error: CloudError) {
        self.log(Level::Warn, format!("more addresses could not be had: {error}"));
        if !error.kind.is_exhausted() {
            if matches!(error.kind, ErrorKind::AddressLimit | ErrorKind::InterfaceLimit | ErrorKind::NotFound) {
                self.verify(now);
            }
            self.growth.fail(now.mono, card, way, error, &mut self.random);
        }
        self.ask(now.mono);
    }

    pub(super) fn start_growth(&mut self, now: Now, growth: &Growth) -> Result<(), String> {
        let unit = match growth {
            Growth::Assign(a) => a.unit,
            Growth::CreateEni(c) => c.unit,
        };
        let (card, way) = match growth {
            Growth::Assign(a) => (self.cards.eni(&a.eni).ok_or("I12: it is gone")?.card, Way::Assign),
            Growth::CreateEni(c) => (c.card, Way::Create),
        };
        if let Some((until, error)) = self.growth.shut(now.mono, card, way) {
            let seconds = until.saturating_sub(now.mono).as_secs() + 1;
            return Err(format!("I7: {error}; asked again in {seconds} s"));
        }
        let limits = &self.settings.limits;
        let has_prefixes = limits.hypervisor == Hypervisor::Nitro || limits.bare_metal;
        if unit == Unit::Prefix && unit != self.settings.unit && !has_prefixes {
            return Err("I5: the instance type has no prefixes".to_owned());
        }
        match growth {
            Growth::Assign(a) => self.start_assign(now, a),
            Growth::CreateEni(c) => self.start_create(now, c),
        }
    }

    /// `count`, or what EC2 said moments ago that the subnet still has, less `own` for the interface itself and what is
    /// being asked of it; never 0.
    pub(super) fn within_free(&self, now: Now, subnet: &str, unit: Unit, count: u32, own: u32) -> u32 {
        let fresh = self.subnets_seen.is_some_and(|at| now.mono.saturating_sub(at) < SUBNETS_FRESH);
        let asked: u32 = self
            .jobs
            .values()
            .map(|job| match job {
                Job::Assign(a) if a.subnet == subnet && a.unit == Unit::Ip => a.count,
                Job::Create(c) => c.asks_of(subnet),
                _ => 0,
            })
            .sum();
        let known = self.subnets.iter().find(|s| s.id == subnet);
        let free = known.map(|s| s.free_ips.saturating_sub(own).saturating_sub(asked));
        match free {
            Some(free) if fresh && unit == Unit::Ip => count.min(free).max(1),
            _ => count,
        }
    }

    /// What the subnet is known to have left is less by what it has just given us.
    pub(super) fn took_from(&mut self, subnet: &str, addresses: usize, prefixes: usize) {
        let taken = u32::try_from(addresses + 16 * prefixes).unwrap_or(u32::MAX);
        if let Some(known) = self.subnets.iter_mut().find(|s| s.id == subnet) {
            known.free_ips = known.free_ips.saturating_sub(taken);
        }
    }

    pub(super) fn start_minor(&mut self, now: Now, what: &'static str, request: Request) {
        let retry = Some(Retry { at: None, attempt: 1, request: request.clone() });
        let id = self.start(Job::Minor { what, retry });
        self.call(now, id, request);
    }

    fn minor(
        &mut self,
        now: Now,
        id: JobId,
        what: &'static str,
        retry: Option<Retry>,
        result: Result<Answer, CloudError>,
    ) {
        let (Err(error), Some(mut retry)) = (result, retry) else { return };
        // Spec 03 §8: five tries; what cannot succeed is not tried again.
        let hopeless = matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::NotFound);
        if retry.attempt >= 5 || hopeless {
            // Tags are looked at by themselves; an interface that outlives its instance must not wait for a restart.
            let request = retry.request;
            self.put_right_later |= matches!(&request, Request::SetDeleteOnTermination { .. });
            if matches!(request, Request::DeleteNetworkInterface { .. }) && error.kind == ErrorKind::NotFound {
                return;
            }
            if what == TAGS {
                self.count(Counter::ReconcileEniAddFailed);
            }
            return self.log(Level::Warn, format!("{what} was not done: {error}"));
        }
        let delay = retry_delay(Duration::from_millis(500), retry.attempt, &mut self.random);
        retry.at = Some(now.mono + delay);
        retry.attempt += 1;
        self.jobs.insert(id, Job::Minor { what, retry: Some(retry) });
    }

    pub(super) fn unexpected(&mut self, api: &str, answer: &Answer) {
        self.log(Level::Error, format!("{api} was answered with something else: {answer:?}"));
    }
}
