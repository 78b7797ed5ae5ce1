//! Jobs: assign, create, release, remove. Each is a chain of calls; the answer to one decides the next.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use super::pace::retry_delay;
use super::types::{Block, blocks};
use super::verify::Adopt;
use super::{Command, Counter, JobId, Level, Manager, Now};
use crate::cloud::{Answer, CloudError, CreateInterface, ErrorKind, Interface, Request};
use crate::ip::{IpNet, Ipv4Net};
use crate::policy::{CreateEni, Growth, Standing, Unit};
use crate::store::{EniSpec, Error as StoreError, MAIN_TABLE, Time};
use crate::validate::Dropped;

/// Seconds for which a subnet listing is good enough to create an interface by.
const SUBNETS_FRESH: Duration = Duration::from_secs(30);
/// Seconds for which the primary interface's security groups are.
const GROUPS_FRESH: Duration = Duration::from_secs(30);
/// Tries of a detach or a delete (spec 03 §8).
const REMOVE_TRIES: u32 = 12;
/// Between detach and delete (spec 03 §7.6).
const DETACH_PAUSE: Duration = Duration::from_secs(2);
/// Highest usable device index (spec 01 §1.9).
const MAX_DEVICE: u32 = 99;

/// A chain of calls under way.
#[derive(Debug)]
pub(super) enum Job {
    Assign(Assign),
    Create(Box<Create>),
    Release(Release),
    Remove(Remove),
    Adopt(Box<Adopt>),
    Verify(super::verify::Verify),
    /// Listing what IMDS shows, by the slow timer.
    Look,
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

#[derive(Debug)]
pub(super) struct Assign {
    pub eni: String,
    pub subnet: String,
    pub unit: Unit,
    pub count: u32,
    /// The try with 1 after the try with all (spec 01 §3.5).
    last_try: bool,
    /// EC2 said that the interface is fuller than we knew: its real addresses are being read.
    resync: bool,
}

#[derive(Debug)]
pub(super) struct Create {
    pub unit: Unit,
    pub count: u32,
    stage: Stage,
    candidates: VecDeque<String>,
    exhausted: bool,
    token: String,
    tries: u32,
    made: Option<Interface>,
    pub device: Option<u32>,
    attachment: Option<String>,
    retry_at: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Groups,
    Subnets,
    Rank,
    Create,
    Attach,
    /// An attach failed in a way that leaves open whether it happened, or on which index it may.
    Look,
    SetUp,
}

#[derive(Debug)]
pub(super) struct Release {
    blocks: Vec<Block>,
    retry: Retry,
}

#[derive(Debug)]
pub(super) struct Remove {
    eni: EniSpec,
    /// Whether it still takes a place on the instance.
    pub attached: bool,
    stage: RemoveStage,
    retry: Retry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RemoveStage {
    Find,
    Detach,
    Delete,
}

impl Job {
    /// When the job goes on by itself.
    pub fn retry_at(&self) -> Option<Time> {
        match self {
            Self::Create(c) => c.retry_at,
            Self::Release(r) => r.retry.at,
            Self::Remove(r) => r.retry.at,
            Self::Verify(v) => v.retry_at(),
            Self::Minor { retry, .. } => retry.as_ref().and_then(|r| r.at),
            Self::Assign(_) | Self::Adopt(_) | Self::Look => None,
        }
    }
}

impl Create {
    pub fn is_for(&self, eni: &str) -> bool {
        self.made.as_ref().is_some_and(|m| m.eni == eni)
    }
}

impl Release {
    pub fn holds(&self, eni: &str, net: &str) -> bool {
        self.blocks.iter().any(|b| b.eni == eni && b.net.to_string() == net)
    }
}

impl Remove {
    pub fn is_for(&self, eni: &str) -> bool {
        self.eni.id == eni
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
            Job::Verify(verify) => self.verified(now, id, verify, result),
            Job::Adopt(adopt) => {
                self.jobs.insert(id, Job::Adopt(adopt));
            }
            Job::Look => self.looked(now, result),
            Job::Minor { what, retry } => self.minor(now, id, what, retry, result),
        }
    }

    /// A growth step failed: holds back, unless only a subnet is empty, which is remembered by itself.
    fn growth_failed(&mut self, now: Now, error: CloudError) {
        self.log(Level::Warn, format!("more addresses could not be had: {error}"));
        if !error.kind.is_exhausted() {
            if matches!(error.kind, ErrorKind::AddressLimit | ErrorKind::InterfaceLimit | ErrorKind::NotFound) {
                self.verify(now);
            }
            self.growth.fail(now.mono, error, &mut self.random);
        }
        self.ask(now.mono);
    }

    pub(super) fn start_growth(&mut self, now: Now, growth: &Growth) -> Result<(), String> {
        match growth {
            Growth::Assign(a) => {
                let eni = self.store.eni(&a.eni).ok_or("I12: it is gone")?;
                let subnet = eni.subnet.clone();
                let count = self.within_free(now, &subnet, a.unit, a.count, 0);
                let request = Request::AssignPrivateIpAddresses { eni: a.eni.clone(), unit: a.unit, count };
                let eni = a.eni.clone();
                let job = Assign { eni, subnet, unit: a.unit, count, last_try: count == 1, resync: false };
                let id = self.start(Job::Assign(job));
                self.call(now, id, request);
            }
            Growth::CreateEni(c) => {
                if !self.room() {
                    return Err("I6: no room".to_owned());
                }
                let usable = self.usable_subnets();
                if !usable.is_empty() && usable.iter().all(|s| self.refused.until(s, c.unit, now.mono).is_some()) {
                    return Err("I7: no subnet has any left".to_owned());
                }
                let token = self.random.token();
                let id = self.start(Job::Create(Box::new(Create {
                    unit: c.unit,
                    count: c.count,
                    stage: Stage::Groups,
                    candidates: VecDeque::new(),
                    exhausted: false,
                    token,
                    tries: 0,
                    made: None,
                    device: None,
                    attachment: None,
                    retry_at: None,
                })));
                self.create_step(now, id);
            }
        }
        Ok(())
    }

    /// `count`, or what EC2 said moments ago that the subnet still has, less `own` for the interface itself; never 0.
    fn within_free(&self, now: Now, subnet: &str, unit: Unit, count: u32, own: u32) -> u32 {
        let fresh = self.subnets_seen.is_some_and(|at| now.mono.saturating_sub(at) < SUBNETS_FRESH);
        let free = self.subnets.iter().find(|s| s.id == subnet).map(|s| s.free_ips.saturating_sub(own));
        match free {
            Some(free) if fresh && unit == Unit::Ip => count.min(free).max(1),
            _ => count,
        }
    }

    // ---- assign ----------------------------------------------------------------------------------------------------

    fn assigned(&mut self, now: Now, id: JobId, mut job: Assign, result: Result<Answer, CloudError>) {
        match result {
            Ok(Answer::Assigned { addresses, prefixes }) => {
                self.growth.succeed();
                self.add_blocks(now, &job.eni, job.unit, &blocks(&addresses, &prefixes));
                if job.last_try {
                    // The subnet runs dry: what it still has is worth knowing before the next request.
                    self.subnets_wanted = true;
                }
            }
            Ok(Answer::Interfaces(list)) if job.resync => match list.first() {
                Some(i) => self.add_blocks(now, &job.eni, job.unit, &blocks(&i.secondary, &i.prefixes)),
                None => self.out.push(Command::Count(Counter::GetEniAddressesFailed)),
            },
            Ok(other) => self.unexpected("AssignPrivateIpAddresses", &other),
            Err(error) if job.resync => {
                self.out.push(Command::Count(Counter::GetEniAddressesFailed));
                self.growth_failed(now, error);
            }
            Err(error) => match error.kind {
                ErrorKind::AddressLimit => {
                    job.resync = true;
                    let ids = vec![job.eni.clone()];
                    self.jobs.insert(id, Job::Assign(job));
                    return self.call(now, id, Request::DescribeNetworkInterfaces { ids });
                }
                // The ladder serves exhaustion; a call that EC2 throttles or does not answer is not made twice.
                ErrorKind::NoFreeAddress | ErrorKind::NoFreePrefix | ErrorKind::Refused if !job.last_try => {
                    job.last_try = true;
                    job.count = 1;
                    let request = Request::AssignPrivateIpAddresses { eni: job.eni.clone(), unit: job.unit, count: 1 };
                    self.jobs.insert(id, Job::Assign(job));
                    return self.call(now, id, request);
                }
                kind => {
                    self.out.push(Command::Count(Counter::AllocAddressesFailed));
                    if kind.is_exhausted() {
                        self.refused.refuse(&job.subnet, job.unit, now.mono);
                    }
                    self.growth_failed(now, error);
                }
            },
        }
        self.ask(now.mono);
    }

    /// Puts blocks of an interface into the store and gives them to those who wait. Known ones are passed over.
    pub(super) fn add_blocks(&mut self, now: Now, eni: &str, unit: Unit, nets: &[IpNet]) {
        let wanted = unit != self.settings.unit;
        for net in nets {
            match self.store.add_cidr(eni, *net, wanted, now.mono) {
                Ok(()) | Err(StoreError::DuplicateCidr) => {}
                Err(error) => {
                    self.out.push(Command::Count(Counter::AddAddressesFailed));
                    self.log(Level::Warn, format!("{net} of {eni} cannot be used: {error}"));
                }
            }
        }
        self.serve_waiters(now);
    }

    // ---- create ----------------------------------------------------------------------------------------------------

    /// Makes the call that the stage of a creation stands for.
    fn create_step(&mut self, now: Now, id: JobId) {
        let Some(Job::Create(mut job)) = self.jobs.remove(&id) else { return };
        let request = loop {
            match job.stage {
                Stage::Groups => {
                    let fresh = |at: Time| now.mono.saturating_sub(at) < GROUPS_FRESH;
                    if self.security_groups.as_ref().is_some_and(|(_, at)| fresh(*at)) {
                        job.stage = Stage::Subnets;
                        continue;
                    }
                    break Some(Request::PrimarySecurityGroups { mac: self.settings.instance.mac.clone() });
                }
                Stage::Subnets => {
                    let fresh = self.subnets_seen.is_some_and(|at| now.mono.saturating_sub(at) < SUBNETS_FRESH);
                    if fresh && !self.subnets_wanted {
                        job.stage = Stage::Rank;
                        continue;
                    }
                    let Self { settings, .. } = self;
                    let vpc = settings.instance.vpc.clone();
                    let availability_zone = settings.instance.availability_zone.clone();
                    break Some(Request::DescribeSubnets { vpc, availability_zone });
                }
                Stage::Rank => {
                    let node = std::sync::Arc::new(self.snapshot(now));
                    let request = CreateEni { card: 0, unit: job.unit, count: job.count };
                    self.out.push(Command::Rank { job: id, node, request });
                    break None;
                }
                Stage::Create => match job.candidates.front() {
                    Some(subnet) => break Some(self.create_request(now, &job, &subnet.clone())),
                    None => {
                        let code = if job.exhausted { "InsufficientFreeAddressesInSubnet" } else { "" };
                        let kind = if job.exhausted { ErrorKind::NoFreeAddress } else { ErrorKind::Refused };
                        let message = "no subnet could take the interface".to_owned();
                        let error = CloudError { api: "CreateNetworkInterface", kind, code: code.to_owned(), message };
                        return self.create_failed(now, *job, error);
                    }
                },
                Stage::Attach => {
                    let Some(made) = &job.made else { return };
                    let eni = made.eni.clone();
                    let Some(device_index) = job.device.or_else(|| self.free_device()) else {
                        let message = format!("all device indexes up to {MAX_DEVICE} are in use");
                        let (kind, code) = (ErrorKind::InterfaceLimit, String::new());
                        let error = CloudError { api: "AttachNetworkInterface", kind, code, message };
                        return self.create_failed(now, *job, error);
                    };
                    job.device = Some(device_index);
                    let instance = self.settings.instance.instance_id.clone();
                    break Some(Request::AttachNetworkInterface { eni, instance, device_index, card: 0 });
                }
                Stage::Look => {
                    break Some(Request::DescribeInstance { instance: self.settings.instance.instance_id.clone() });
                }
                Stage::SetUp => break None,
            }
        };
        self.jobs.insert(id, Job::Create(job));
        if let Some(request) = request {
            self.call(now, id, request);
        }
    }

    fn create_request(&self, now: Now, job: &Create, subnet: &str) -> Request {
        let instance = &self.settings.instance.instance_id;
        let mut tags = self.wanted_tags();
        tags.push(("node.k8s.amazonaws.com/createdAt".to_owned(), crate::time::rfc3339(now.unix.as_secs())));
        tags.sort();
        Request::CreateNetworkInterface(CreateInterface {
            subnet: subnet.to_owned(),
            description: format!("aws-K8S-{instance}"),
            security_groups: self.security_groups.as_ref().map(|(g, _)| g.clone()).unwrap_or_default(),
            tags,
            unit: job.unit,
            // Its own address comes out of the same subnet.
            count: self.within_free(now, subnet, job.unit, job.count, 1),
            connection_tracking: self.connection_tracking,
            client_token: job.token.clone(),
        })
    }

    /// The tags of a managed interface, but for `createdAt` (spec 03 §7.8), sorted by key.
    pub(super) fn wanted_tags(&self) -> Vec<(String, String)> {
        let settings = &self.settings;
        let mut tags = std::collections::BTreeMap::new();
        tags.insert("node.k8s.amazonaws.com/instance_id".to_owned(), settings.instance.instance_id.clone());
        if !settings.cluster_name.is_empty() {
            tags.insert("cluster.k8s.amazonaws.com/name".to_owned(), settings.cluster_name.clone());
            tags.insert("eks:eni:owner".to_owned(), "amazon-vpc-cni".to_owned());
        }
        tags.extend(settings.additional_tags.iter().cloned());
        tags.into_iter().collect()
    }

    /// The lowest device index that nothing on the instance has or is about to have.
    fn free_device(&self) -> Option<u32> {
        let held = |index: u32| {
            self.store.enis().any(|(e, _)| e.device_index == index)
                || self.foreign_devices.contains(&index)
                || self.jobs.values().any(|j| match j {
                    Job::Create(c) => c.device == Some(index),
                    Job::Remove(r) => r.attached && r.eni.device_index == index,
                    Job::Adopt(a) => a.eni.device_index == index,
                    _ => false,
                })
        };
        (0..=MAX_DEVICE).find(|index| !held(*index))
    }

    pub(super) fn ranked(&mut self, now: Now, id: JobId, ranked: Result<Vec<String>, String>) {
        let usable = |m: &Self, unit: Unit, s: &str| {
            let allowed = m.subnets.is_empty() && s == m.settings.instance.subnet
                || m.subnets.iter().any(|f| f.id == s && m.subnet_standing(f) != Standing::Forbidden);
            allowed && m.refused.until(s, unit, now.mono).is_none()
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
        // An empty list because every subnet is empty is exhaustion; any other is a refusal.
        let usable_subnets = self.usable_subnets();
        let exhausted = !usable_subnets.is_empty()
            && usable_subnets.iter().all(|s| self.refused.until(s, unit, now.mono).is_some());
        if let Some(Job::Create(job)) = self.jobs.get_mut(&id) {
            job.stage = Stage::Create;
            job.exhausted = candidates.is_empty() && exhausted;
            job.candidates = candidates;
        }
        self.create_step(now, id);
    }

    fn create_answer(&mut self, now: Now, id: JobId, mut job: Box<Create>, result: Result<Answer, CloudError>) {
        match (job.stage, result) {
            (Stage::Groups, Ok(Answer::SecurityGroups(mut groups))) => {
                groups.sort();
                self.security_groups = Some((groups, now.mono));
                job.stage = Stage::Subnets;
            }
            (Stage::Groups, Err(error)) if self.security_groups.is_some() => {
                self.log(Level::Warn, format!("the security groups read last are used: {error}"));
                job.stage = Stage::Subnets;
            }
            (Stage::Subnets, Ok(Answer::Subnets(list))) => {
                self.note_subnets(now, list);
                job.stage = Stage::Rank;
            }
            (Stage::Subnets, Err(error)) if error.kind != ErrorKind::Throttled => {
                // The documented fall-back (spec 01 §6.3, W10): what is known, or the node's own subnet.
                self.log(Level::Warn, format!("subnets cannot be listed, the node's own is used: {error}"));
                self.subnets_wanted = false;
                job.stage = Stage::Rank;
            }
            (Stage::Create, Ok(Answer::Interfaces(list))) if !list.is_empty() => {
                job.made = list.into_iter().next();
                job.tries = 0;
                job.stage = Stage::Attach;
            }
            (Stage::Create, Err(error)) => match error.kind {
                // It may have been made: the same token finds it again.
                ErrorKind::Unknown if job.tries < 3 => {
                    job.tries += 1;
                    job.retry_at = Some(now.mono + retry_delay(Duration::from_secs(1), job.tries, &mut self.random));
                    self.jobs.insert(id, Job::Create(job));
                    return;
                }
                ErrorKind::Unknown | ErrorKind::Throttled | ErrorKind::Unauthorized | ErrorKind::InterfaceLimit => {
                    return self.create_failed(now, *job, error);
                }
                kind => {
                    let Some(subnet) = job.candidates.pop_front() else { return };
                    if kind.is_exhausted() {
                        self.refused.refuse(&subnet, job.unit, now.mono);
                    }
                    self.log(Level::Warn, format!("no interface in {subnet}: {error}"));
                    job.exhausted = kind.is_exhausted();
                    if job.candidates.is_empty() {
                        return self.create_failed(now, *job, error);
                    }
                    job.token = self.random.token();
                }
            },
            (Stage::Attach, Ok(Answer::Attachment { id: attachment })) => {
                return self.attached(now, id, job, attachment);
            }
            (Stage::Attach, Err(error)) => match error.kind {
                ErrorKind::InUse | ErrorKind::Unknown | ErrorKind::Refused | ErrorKind::NotFound if job.tries < 5 => {
                    job.tries += 1;
                    job.stage = Stage::Look;
                    if error.kind != ErrorKind::InUse {
                        let delay = retry_delay(Duration::from_millis(500), job.tries, &mut self.random);
                        job.retry_at = Some(now.mono + delay);
                        self.jobs.insert(id, Job::Create(job));
                        return;
                    }
                }
                _ => return self.create_failed(now, *job, error),
            },
            (Stage::Look, Ok(Answer::Devices(devices))) => {
                self.note_devices(&devices);
                let Some(made) = &job.made else { return };
                // The interface may have been attached by the call that was not answered.
                job.device = devices.iter().find(|d| d.eni == made.eni).map(|d| d.device_index);
                if job.device.is_some() {
                    return self.attached(now, id, job, String::new());
                }
                job.stage = Stage::Attach;
            }
            (Stage::Look, Err(error)) => return self.create_failed(now, *job, error),
            (_, Err(error)) => return self.create_failed(now, *job, error),
            (_, Ok(other)) => {
                self.unexpected("CreateNetworkInterface", &other);
                let message = "EC2's answer was not understood".to_owned();
                let (kind, code) = (ErrorKind::Refused, String::new());
                let error = CloudError { api: "CreateNetworkInterface", kind, code, message };
                return self.create_failed(now, *job, error);
            }
        }
        self.jobs.insert(id, Job::Create(job));
        self.create_step(now, id);
    }

    /// EC2 has taken the attachment: the kernel shows the rest.
    fn attached(&mut self, now: Now, id: JobId, mut job: Box<Create>, attachment: String) {
        let (Some(made), Some(device)) = (job.made.clone(), job.device) else { return };
        job.stage = Stage::SetUp;
        if attachment.is_empty() {
            self.verify(now);
        } else {
            self.attachments.insert(made.eni.clone(), attachment.clone());
            let request = Request::SetDeleteOnTermination { eni: made.eni.clone(), attachment: attachment.clone() };
            job.attachment = Some(attachment);
            self.start_minor(now, "delete on termination", request);
        }
        let eni = spec_of(&made, device);
        let Some(subnet_cidr) = self.subnet_block(&made.subnet) else {
            let message = format!("the address block of {} is not known", made.subnet);
            let (kind, code) = (ErrorKind::Refused, String::new());
            return self.create_failed(now, *job, CloudError { api: "DescribeSubnets", kind, code, message });
        };
        self.jobs.insert(id, Job::Create(job));
        self.out.push(Command::SetUpEni { job: id, eni, subnet_cidr });
    }

    /// A new or adopted interface is programmed, or could not be.
    pub(super) fn eni_ready(&mut self, now: Now, id: JobId, result: Result<(), String>) {
        match self.jobs.remove(&id) {
            Some(Job::Create(job)) => {
                let (Some(made), Some(device)) = (job.made, job.device) else { return };
                match result {
                    Ok(()) => {
                        self.growth.succeed();
                        self.take_in(now, spec_of(&made, device), job.unit, &blocks(&made.secondary, &made.prefixes));
                    }
                    Err(error) => {
                        self.out.push(Command::Count(Counter::SetUpEniFailed));
                        self.log(Level::Error, format!("{} cannot be used and is removed: {error}", made.eni));
                        let message = format!("{}: {error}", made.eni);
                        let (kind, code) = (ErrorKind::Refused, String::new());
                        self.growth.fail(now.mono, CloudError { api: "set-up", kind, code, message }, &mut self.random);
                        self.dispose(now, spec_of(&made, device), true);
                    }
                }
            }
            Some(Job::Adopt(adopt)) => self.adopted(now, *adopt, result),
            Some(other) => {
                self.jobs.insert(id, other);
            }
            None => {}
        }
        self.ask(now.mono);
    }

    /// Puts a programmed interface into the store, with its blocks, and remembers that it is ours.
    pub(super) fn take_in(&mut self, now: Now, spec: EniSpec, unit: Unit, nets: &[IpNet]) {
        let id = spec.id.clone();
        self.journal.removing.retain(|e| *e != id);
        if !self.journal.managed.contains(&id) {
            self.journal.managed.push(id.clone());
        }
        self.write_journal();
        if let Err(error) = self.store.add_eni(spec, now.mono) {
            self.log(Level::Debug, format!("{id}: {error}"));
        }
        let nets: Vec<IpNet> = nets.iter().copied().filter(|net| !self.is_returning(&id, *net)).collect();
        self.log(Level::Info, format!("{id} serves {} addresses or prefixes", nets.len()));
        self.add_blocks(now, &id, unit, &nets);
    }

    fn create_failed(&mut self, now: Now, job: Create, error: CloudError) {
        self.out.push(Command::Count(Counter::AllocEniFailed));
        if error.kind.is_exhausted() {
            self.out.push(Command::Count(Counter::AllocAddressesFailed));
        }
        if let Some(made) = &job.made {
            // Made and not attached: it goes again.
            let spec = spec_of(made, job.device.unwrap_or(0));
            self.dispose(now, spec, job.attachment.is_some());
        }
        self.growth_failed(now, error);
    }

    // ---- release ---------------------------------------------------------------------------------------------------

    /// Takes the blocks out of the store, then tells EC2.
    pub(super) fn start_releases(&mut self, now: Now, ids: &[u32], dropped: &mut Vec<Dropped>) -> Vec<String> {
        let mut by_eni: Vec<(String, Vec<Block>)> = Vec::new();
        for id in ids {
            let action = || format!("release cidr {id}");
            let Some(block) = self.numbered.get(*id as usize).cloned() else {
                dropped.push(Dropped { action: action(), reason: "I12: unknown id".to_owned() });
                continue;
            };
            if let Err(error) = self.store.take_cidr(&block.eni, block.net, now.mono) {
                dropped.push(Dropped { action: action(), reason: format!("I3: {error}") });
                continue;
            }
            self.journal.returning.push((block.eni.clone(), block.net.to_string()));
            match by_eni.iter_mut().find(|(e, _)| *e == block.eni) {
                Some((_, list)) => list.push(block),
                None => by_eni.push((block.eni.clone(), vec![block])),
            }
        }
        if by_eni.is_empty() {
            return Vec::new();
        }
        self.last_trim = Some(now.mono);
        self.write_journal();
        let mut started = Vec::new();
        for (eni, list) in by_eni {
            let nets: Vec<Ipv4Net> = list.iter().filter_map(|b| b.net.as_ipv4()).collect();
            let (singles, prefixes): (Vec<_>, Vec<_>) = nets.iter().partition(|n| n.length() == 32);
            started.push(format!("release {} of {eni}", list.len()));
            // One call for each kind (spec 01 §5).
            for (addresses, prefixes) in [(Vec::new(), prefixes), (singles, Vec::new())] {
                if addresses.is_empty() && prefixes.is_empty() {
                    continue;
                }
                let nets: Vec<Ipv4Net> = addresses.iter().chain(&prefixes).copied().collect();
                let blocks = list.iter().filter(|b| b.net.as_ipv4().is_some_and(|n| nets.contains(&n))).cloned();
                let request = Request::UnassignPrivateIpAddresses {
                    eni: eni.clone(),
                    addresses: addresses.iter().map(|n| n.network()).collect(),
                    prefixes,
                };
                let retry = Retry { at: None, attempt: 1, request: request.clone() };
                let id = self.start(Job::Release(Release { blocks: blocks.collect(), retry }));
                self.call(now, id, request);
            }
        }
        started
    }

    fn released(&mut self, now: Now, id: JobId, mut job: Release, result: Result<Answer, CloudError>) {
        match result {
            Ok(_) => self.returned(&job.blocks),
            Err(error) if matches!(error.kind, ErrorKind::Throttled | ErrorKind::Unknown) => {
                job.retry.attempt += 1;
                let delay = retry_delay(Duration::from_secs(5), job.retry.attempt - 1, &mut self.random);
                job.retry.at = Some(now.mono + delay);
                self.log(Level::Warn, format!("addresses are given back later: {error}"));
                self.jobs.insert(id, Job::Release(job));
                return;
            }
            Err(error) => {
                // EC2 has another view of the interface: what is there is looked at, not guessed.
                self.log(Level::Warn, format!("addresses could not be given back: {error}"));
                self.returned(&job.blocks);
                self.verify(now);
            }
        }
        self.ask(now.mono);
    }

    fn returned(&mut self, blocks: &[Block]) {
        let gone = |eni: &str, net: &str| blocks.iter().any(|b| b.eni == eni && b.net.to_string() == net);
        self.journal.returning.retain(|(eni, net)| !gone(eni, net));
        self.write_journal();
    }

    pub(super) fn is_returning(&self, eni: &str, net: IpNet) -> bool {
        let text = net.to_string();
        self.journal.returning.iter().any(|(e, n)| e == eni && *n == text)
    }

    pub(super) fn write_journal(&mut self) {
        self.out.push(Command::Journal(self.journal.clone()));
    }

    pub(super) fn apply_drain(&mut self, ids: &[u32]) {
        let blocks: Vec<Block> = ids.iter().filter_map(|id| self.numbered.get(*id as usize).cloned()).collect();
        self.store.drain(|eni, net| blocks.iter().any(|b| b.eni == eni && b.net == net));
    }

    // ---- remove ----------------------------------------------------------------------------------------------------

    pub(super) fn start_removal(&mut self, now: Now, id: &str) -> Result<(), StoreError> {
        let eni = self.store.take_eni(id, now.mono)?;
        self.last_removal = Some(now.mono);
        self.dispose(now, eni, true);
        Ok(())
    }

    /// Detaches and deletes an interface that is in no store.
    pub(super) fn dispose(&mut self, now: Now, eni: EniSpec, attached: bool) {
        self.journal.managed.retain(|e| *e != eni.id);
        if !self.journal.removing.contains(&eni.id) {
            self.journal.removing.push(eni.id.clone());
        }
        self.write_journal();
        let attachment = self.attachments.get(&eni.id).cloned();
        let (stage, request) = match attachment {
            _ if !attached => (RemoveStage::Delete, Request::DeleteNetworkInterface { eni: eni.id.clone() }),
            Some(attachment) => (RemoveStage::Detach, Request::DetachNetworkInterface { attachment }),
            None => (RemoveStage::Find, Request::DescribeNetworkInterfaces { ids: vec![eni.id.clone()] }),
        };
        let retry = Retry { at: None, attempt: 1, request: request.clone() };
        let id = self.start(Job::Remove(Remove { eni, attached, stage, retry }));
        self.call(now, id, request);
    }

    fn removed(&mut self, now: Now, id: JobId, mut job: Remove, result: Result<Answer, CloudError>) {
        let delete = Request::DeleteNetworkInterface { eni: job.eni.id.clone() };
        match (job.stage, result) {
            (RemoveStage::Find, Ok(Answer::Interfaces(list))) => {
                match list.into_iter().next().and_then(|i| i.attachment) {
                    Some(attachment) => {
                        let request = Request::DetachNetworkInterface { attachment: attachment.id };
                        job.stage = RemoveStage::Detach;
                        job.retry = Retry { at: None, attempt: 1, request };
                    }
                    // No attachment: straight to the delete (spec 01 W12).
                    None => self.detached(now, &mut job, delete, Duration::ZERO),
                }
            }
            (RemoveStage::Find | RemoveStage::Delete, Err(e)) if e.kind == ErrorKind::NotFound => {
                return self.gone(now, job);
            }
            (RemoveStage::Detach, Ok(_)) => self.detached(now, &mut job, delete, DETACH_PAUSE),
            (RemoveStage::Detach, Err(e)) if e.kind == ErrorKind::NotFound => {
                self.detached(now, &mut job, delete, Duration::ZERO);
            }
            (RemoveStage::Delete, Ok(_)) => return self.gone(now, job),
            (_, Ok(other)) => {
                self.unexpected("DeleteNetworkInterface", &other);
                return self.gone(now, job);
            }
            (stage, Err(error)) => {
                let hopeless = matches!(error.kind, ErrorKind::Unauthorized);
                if job.retry.attempt >= REMOVE_TRIES || hopeless {
                    self.out.push(Command::Count(Counter::FreeEniFailed));
                    self.log(Level::Error, format!("{} is left behind: {error}", job.eni.id));
                    self.journal.removing.retain(|e| *e != job.eni.id);
                    self.write_journal();
                    if stage != RemoveStage::Delete {
                        // Still attached: EC2 is asked, and it is used again.
                        self.verify(now);
                    }
                    return self.ask(now.mono);
                }
                let first = Duration::from_millis(if stage == RemoveStage::Delete { 500 } else { 200 });
                let delay = retry_delay(first, job.retry.attempt, &mut self.random);
                job.retry.attempt += 1;
                job.retry.at = Some(now.mono + delay);
            }
        }
        let due = job.retry.at.is_none();
        let request = job.retry.request.clone();
        self.jobs.insert(id, Job::Remove(job));
        if due {
            self.call(now, id, request);
        }
    }

    fn detached(&mut self, now: Now, job: &mut Remove, delete: Request, pause: Duration) {
        self.attachments.remove(&job.eni.id);
        self.out.push(Command::TearDownEni { eni: job.eni.clone() });
        job.stage = RemoveStage::Delete;
        let at = (pause > Duration::ZERO).then(|| now.mono + pause);
        job.retry = Retry { at, attempt: 1, request: delete };
    }

    fn gone(&mut self, now: Now, job: Remove) {
        self.log(Level::Info, format!("{} is removed", job.eni.id));
        self.journal.removing.retain(|e| *e != job.eni.id);
        self.write_journal();
        self.ask(now.mono);
    }

    // ---- small things ----------------------------------------------------------------------------------------------

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
            return self.log(Level::Warn, format!("{what} could not be set: {error}"));
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

/// The store's record of an interface that EC2 has described.
pub(super) fn spec_of(made: &Interface, device_index: u32) -> EniSpec {
    EniSpec {
        id: made.eni.clone(),
        mac: made.mac.clone(),
        device_index,
        subnet: made.subnet.clone(),
        table: table_of(device_index),
        address: made.primary.map(IpAddr::V4),
        primary: false,
        trunk: made.interface_type == "trunk",
        efa: made.interface_type == "efa",
        excluded: false,
    }
}

/// The routing table of an interface on card 0 (spec 04 §7.2).
pub(super) fn table_of(device_index: u32) -> u32 {
    if device_index == 0 { MAIN_TABLE } else { device_index + 1 }
}
