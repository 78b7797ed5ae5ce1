//! One interface more: ENIConfig, groups, subnets, rank, create, attach, set-up. Whatever fails on the way, nothing is left behind.

use std::collections::VecDeque;
use std::time::Duration;

use super::jobs::{Job, SUBNETS_FRESH};
use super::left_overs::CREATED_TAG;
use super::pace::{Way, retry_delay};
use super::{CleanUp, Command, Counter, JobId, Level, Manager, NotReady, Now};
use crate::cloud::{Answer, CloudError, CreateInterface, ErrorKind, Interface, Request};
use crate::ip::IpNet;
use crate::kube::EniConfig;
use crate::policy::{CreateEni, Standing, Unit};
use crate::store::{EniSpec, Time};

/// Seconds for which the primary interface's security groups are.
const GROUPS_FRESH: Duration = Duration::from_secs(30);
/// Times that IMDS is asked for the block of a subnet that EC2 does not list: half a minute in all.
const BLOCK_TRIES: u32 = 5;
/// Highest usable device index (spec 01 §1.9).
const MAX_DEVICE: u32 = 99;

#[derive(Debug)]
pub(super) struct Create {
    pub card: u32,
    pub unit: Unit,
    pub count: u32,
    stage: Stage,
    /// What custom networking names, once it is resolved: for each interface anew (spec 01 §7.1).
    eni_config: Option<EniConfig>,
    candidates: VecDeque<String>,
    exhausted: bool,
    token: String,
    /// What the subnet in turn was asked: a repeated call must be the same to the letter, or EC2 refuses its token.
    request: Option<Request>,
    /// EC2 was asked what the subnets have left since it said that one has too few.
    recounted: bool,
    tries: u32,
    made: Option<Interface>,
    pub device: Option<u32>,
    attachment: Option<String>,
    /// Since when EC2 says that it is attached.
    attached_at: Option<Time>,
    pub retry_at: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    EniConfig,
    Groups,
    Subnets,
    Rank,
    Create,
    Attach,
    /// An attach failed in a way that leaves open whether it happened, or on which index it may.
    Look,
    /// EC2 does not list the subnet (it is of another account, or may not be listed): IMDS tells its block.
    Block,
    SetUp,
}

impl Stage {
    /// Whether its call, or one that follows, makes or attaches an interface.
    fn grows(self) -> bool {
        matches!(self, Self::EniConfig | Self::Groups | Self::Subnets | Self::Rank | Self::Create | Self::Attach)
    }
}

impl Create {
    /// IPs that the subnet is being asked for, the interface's own among them.
    pub fn asks_of(&self, subnet: &str) -> u32 {
        let asked =
            self.made.is_none() && self.stage == Stage::Create && self.candidates.front().is_some_and(|s| s == subnet);
        if asked && self.unit == Unit::Ip { self.count + 1 } else { 0 }
    }

    /// Whether its answer tells what the subnet has. `may`: or may come to tell it.
    pub fn probes(&self, subnet: &str, unit: Unit, may: bool) -> bool {
        let chosen = self.stage == Stage::Create;
        let this = if chosen { self.candidates.front().is_some_and(|s| s == subnet) } else { may };
        self.made.is_none() && self.unit == unit && this
    }

    /// EC2 may have made it, and it is not attached yet.
    pub fn is_half_done(&self) -> bool {
        matches!(self.stage, Stage::Create | Stage::Attach | Stage::Look)
    }

    pub fn has_mac(&self, mac: &str) -> bool {
        self.made.as_ref().is_some_and(|m| m.mac == mac)
    }

    pub fn is_for(&self, eni: &str) -> bool {
        self.made.as_ref().is_some_and(|m| m.eni == eni)
    }
}

impl Manager {
    /// Begins with an interface more.
    pub(super) fn start_create(&mut self, now: Now, c: &CreateEni) -> Result<(), String> {
        if !self.room(c.card) {
            return Err("I6: no room".to_owned());
        }
        // Which other subnets there are is not known before they were listed.
        let others = self.settings.subnet_discovery && !self.settings.custom_networking && self.subnets_seen.is_none();
        if !others && self.no_subnet_has_any(now, c.unit) {
            return Err("I7: no subnet has any left".to_owned());
        }
        if !others && self.others_find_out(now, c.unit) {
            return Err("I7: every subnet has refused, one call finds out what there is again".to_owned());
        }
        let token = self.random.token();
        let id = self.start(Job::Create(Box::new(Create {
            card: c.card,
            unit: c.unit,
            count: c.count,
            stage: if self.settings.custom_networking { Stage::EniConfig } else { Stage::Groups },
            eni_config: None,
            candidates: VecDeque::new(),
            exhausted: false,
            token,
            request: None,
            recounted: false,
            tries: 0,
            made: None,
            device: None,
            attachment: None,
            attached_at: None,
            retry_at: None,
        })));
        self.create_step(now, id);
        Ok(())
    }

    /// Every subnet that is known and may be used has refused of late.
    fn no_subnet_has_any(&self, now: Now, unit: Unit) -> bool {
        let usable = self.usable_subnets();
        !usable.is_empty() && usable.iter().all(|s| self.refused.until(s, unit, now.mono).is_some())
    }

    /// EC2 had nothing of the subnet, and a call under way finds out whether it has again: who else wants of it waits for
    /// that, so that an empty subnet costs one call at a time.
    pub(super) fn is_probed(&self, now: Now, subnet: &str, unit: Unit) -> bool {
        let lapsed = self.refused.lapsed(subnet, unit, now.mono);
        self.jobs.values().any(|job| match job {
            Job::Assign(assign) => assign.probes(subnet, unit, lapsed),
            Job::Create(create) => lapsed && create.probes(subnet, unit, false),
            _ => false,
        })
    }

    /// An interface that is begun now could only wait for what others find out: each subnet that may be used has refused,
    /// and others are about to ask it.
    fn others_find_out(&self, now: Now, unit: Unit) -> bool {
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
    fn count_is_old(&self, now: Now) -> bool {
        let old = |at: Time| now.mono.saturating_sub(at) > Duration::from_secs(1);
        !self.settings.custom_networking && self.subnets_seen.is_some_and(old)
    }

    /// Makes the call that the stage of a creation stands for.
    pub(super) fn create_step(&mut self, now: Now, id: JobId) {
        let Some(Job::Create(mut job)) = self.jobs.remove(&id) else { return };
        if self.terminating && job.stage.grows() {
            return self.abandon(now, *job);
        }
        let request = loop {
            match job.stage {
                Stage::EniConfig => {
                    self.out.push(Command::EniConfig { job: id });
                    break None;
                }
                Stage::Groups if job.eni_config.as_ref().is_some_and(|c| !c.security_groups.is_empty()) => {
                    job.stage = Stage::Subnets;
                    continue;
                }
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
                    break Some(self.subnets_request());
                }
                Stage::Rank if let Some(config) = &job.eni_config => {
                    // There is nothing to choose (spec 01 §6.3).
                    job.candidates = [config.subnet.clone()].into();
                    job.stage = Stage::Create;
                    continue;
                }
                Stage::Rank => {
                    let node = std::sync::Arc::new(self.snapshot(now));
                    let request = CreateEni { card: job.card, unit: job.unit, count: job.count };
                    self.out.push(Command::Rank { job: id, node, request });
                    break None;
                }
                Stage::Create => match job.candidates.front() {
                    Some(subnet) => {
                        if let Some(request) = &job.request {
                            break Some(request.clone());
                        }
                        let created_at = crate::time::rfc3339(now.unix.as_secs());
                        let request = self.create_request(now, &job, subnet, &created_at);
                        self.intend(&job.token, &created_at);
                        job.request = Some(request.clone());
                        break Some(request);
                    }
                    None => {
                        let error = self.no_subnet(job.exhausted);
                        return self.create_failed(now, *job, error);
                    }
                },
                Stage::Attach => {
                    let Some(made) = &job.made else { return };
                    let eni = made.eni.clone();
                    if job.device.is_none() && !self.still_fits(job.card) {
                        let spec = self.spec_of(made, job.card, 0);
                        self.log(Level::Warn, format!("{eni} is deleted again: card {} has no place left", job.card));
                        self.dispose(now, spec, false, CleanUp::NewEni);
                        return self.ask(now.mono);
                    }
                    let Some(device_index) = job.device.or_else(|| self.free_device(job.card)) else {
                        let message = format!("all device indexes up to {MAX_DEVICE} are in use");
                        let (kind, code) = (ErrorKind::InterfaceLimit, String::new());
                        let error = CloudError { api: "AttachNetworkInterface", kind, code, message };
                        return self.create_failed(now, *job, error);
                    };
                    job.device = Some(device_index);
                    let instance = self.settings.instance.instance_id.clone();
                    break Some(Request::AttachNetworkInterface { eni, instance, device_index, card: job.card });
                }
                Stage::Look => {
                    break Some(Request::DescribeInstance { instance: self.settings.instance.instance_id.clone() });
                }
                Stage::Block => break Some(Request::AttachedInterfaces),
                Stage::SetUp => break None,
            }
        };
        self.jobs.insert(id, Job::Create(job));
        if let Some(request) = request {
            self.call(now, id, request);
        }
    }

    /// Why no subnet is tried for a new interface. `exhausted`: each that may be used had nothing left.
    fn no_subnet(&self, exhausted: bool) -> CloudError {
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

    /// What interfaces of this node are described as (spec 03 §7.2).
    pub(super) fn description(&self) -> String {
        format!("aws-K8S-{}", self.settings.instance.instance_id)
    }

    fn create_request(&self, now: Now, job: &Create, subnet: &str, created_at: &str) -> Request {
        let mut tags = self.wanted_tags();
        tags.push((CREATED_TAG.to_owned(), created_at.to_owned()));
        tags.sort();
        let own_groups = job.eni_config.as_ref().map(|c| &c.security_groups).filter(|g| !g.is_empty());
        let groups = own_groups.or(self.security_groups.as_ref().map(|(groups, _)| groups));
        Request::CreateNetworkInterface(CreateInterface {
            subnet: subnet.to_owned(),
            description: self.description(),
            security_groups: groups.cloned().unwrap_or_default(),
            tags,
            unit: job.unit,
            // Its own address comes out of the same subnet.
            count: if self.is_ipv6() { 0 } else { self.within_free(now, subnet, job.unit, job.count, 1) },
            ipv6_addresses: u32::from(self.is_ipv6()),
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

    /// Whether the card takes one interface more beside those that EC2 knows to be on it, or is about to: others may have
    /// been found there since the interface was begun.
    fn still_fits(&self, card: u32) -> bool {
        let held = self.cards.get(card).map_or(0, |c| c.store.enis().count());
        let coming = self.jobs.values().filter(|job| match job {
            Job::Create(c) => c.card == card && c.device.is_some(),
            Job::Remove(r) => r.attached && r.eni.card == card,
            Job::Adopt(a) => a.eni.card == card && self.cards.eni(&a.eni.id).is_none(),
            _ => false,
        });
        u32::try_from(held + coming.count()).unwrap_or(u32::MAX) < self.max_enis(card)
    }

    /// The lowest device index of the card that nothing has or is about to have.
    fn free_device(&self, card: u32) -> Option<u32> {
        let pool = self.cards.get(card)?;
        let held = |index: u32| {
            let is_here = |eni: &EniSpec| (eni.card, eni.device_index) == (card, index);
            pool.store.enis().any(|(e, _)| is_here(e))
                || pool.foreign_devices.contains(&index)
                || self.jobs.values().any(|j| match j {
                    Job::Create(c) => (c.card, c.device) == (card, Some(index)),
                    Job::Remove(r) => r.attached && is_here(&r.eni),
                    Job::Adopt(a) => is_here(&a.eni),
                    _ => false,
                })
        };
        (0..=MAX_DEVICE).find(|index| !held(*index))
    }

    /// The answer to [`Command::EniConfig`]. A failure ends the creation (spec 01 §3.8): nothing is guessed (W21).
    pub(super) fn eni_config_answer(&mut self, now: Now, id: JobId, result: Result<EniConfig, String>) {
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
                self.growth.succeed(job.card, Way::Create);
                let (kind, code) = (ErrorKind::Refused, String::new());
                self.create_failed(now, *job, CloudError { api: "ENIConfig", kind, code, message });
            }
        }
    }

    pub(super) fn ranked(&mut self, now: Now, id: JobId, ranked: Result<Vec<String>, String>) {
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

    pub(super) fn create_answer(
        &mut self,
        now: Now,
        id: JobId,
        mut job: Box<Create>,
        result: Result<Answer, CloudError>,
    ) {
        match (job.stage, result) {
            (Stage::Groups, Ok(Answer::SecurityGroups(groups))) => {
                self.note_groups(now, groups);
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
                self.subnets_wanted = false;
                if self.no_subnet_has_any(now, job.unit) {
                    return self.create_failed(now, *job, error);
                }
                self.log(Level::Warn, format!("subnets cannot be listed, the node's own is used: {error}"));
                job.stage = Stage::Rank;
            }
            (Stage::Create, Ok(Answer::Interfaces(list))) if !list.is_empty() => {
                job.made = list.into_iter().next();
                if let Some(made) = &job.made {
                    self.intent_is_made(&job.token, &made.eni);
                    let (addresses, prefixes) = (made.secondary.len() + 1, made.prefixes.len());
                    self.refused.granted(&made.subnet, job.unit);
                    self.took_from(&made.subnet.clone(), addresses, prefixes);
                }
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
                // What was known was old, and it may have some, if fewer: counted anew, once, what is left is asked for.
                ErrorKind::NoFreeAddress if job.count > 1 && !job.recounted && self.count_is_old(now) => {
                    job.recounted = true;
                    self.subnets_wanted = true;
                    self.intent_is_in_doubt(now, &job.token);
                    job.token = self.random.token();
                    job.request = None;
                    job.stage = Stage::Subnets;
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
                    self.intent_is_in_doubt(now, &job.token);
                    job.token = self.random.token();
                    job.request = None;
                }
            },
            (Stage::Attach, Ok(Answer::Attachment { id: attachment })) => {
                return self.attached(now, id, job, attachment);
            }
            (Stage::Attach, Err(error)) => match error.kind {
                // It was not looked at: undoing the creation would only cost more calls.
                ErrorKind::Throttled if job.tries < 5 => {
                    job.tries += 1;
                    job.retry_at = Some(now.mono + retry_delay(Duration::from_secs(1), job.tries, &mut self.random));
                    self.jobs.insert(id, Job::Create(job));
                    return;
                }
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
                let (Some(made), card) = (&job.made, job.card) else { return };
                // The interface may have been attached by the call that was not answered.
                job.device = devices.iter().find(|d| d.eni == made.eni && d.card == card).map(|d| d.device_index);
                if job.device.is_some() {
                    return self.attached(now, id, job, String::new());
                }
                job.stage = Stage::Attach;
            }
            (Stage::Look, Err(error)) => return self.create_failed(now, *job, error),
            (Stage::Block, answer) => {
                if let Ok(Answer::Attached(list)) = &answer {
                    self.note_blocks(list);
                }
                return self.set_up_made(now, id, job);
            }
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
        let Some(made) = &job.made else { return };
        // The journal is written when it is programmed, or removed again.
        self.intent_is_over(&made.eni);
        if attachment.is_empty() {
            self.verify(now);
        } else {
            self.attachments.insert(made.eni.clone(), attachment.clone());
            let request = Request::SetDeleteOnTermination { eni: made.eni.clone(), attachment: attachment.clone() };
            job.attachment = Some(attachment);
            self.start_minor(now, "delete on termination", request);
        }
        job.tries = 0;
        job.attached_at = Some(now.mono);
        self.set_up_made(now, id, job);
    }

    /// Has the new interface programmed, once the block of its subnet is known.
    fn set_up_made(&mut self, now: Now, id: JobId, mut job: Box<Create>) {
        let (Some(made), Some(device)) = (&job.made, job.device) else { return };
        let Some(subnet_cidr) = self.subnet_block(&made.subnet) else {
            if job.stage == Stage::Block && job.tries >= BLOCK_TRIES {
                let message = format!("the address block of {} is not known", made.subnet);
                self.count(Counter::WaitEniFailed);
                self.count_wait(now, &job, false);
                let (kind, code) = (ErrorKind::Refused, String::new());
                return self.create_failed(now, *job, CloudError { api: "DescribeSubnets", kind, code, message });
            }
            // IMDS shows what was attached a moment ago only after a while.
            job.stage = Stage::Block;
            job.tries += 1;
            job.retry_at = Some(now.mono + retry_delay(Duration::from_secs(1), job.tries, &mut self.random));
            self.jobs.insert(id, Job::Create(job));
            return;
        };
        let eni = self.spec_of(made, job.card, device);
        job.stage = Stage::SetUp;
        self.jobs.insert(id, Job::Create(job));
        self.out.push(Command::SetUpEni { job: id, eni, subnet_cidr });
    }

    /// A new or adopted interface is programmed, or could not be.
    pub(super) fn eni_ready(&mut self, now: Now, id: JobId, result: Result<(), NotReady>) {
        match self.jobs.remove(&id) {
            Some(Job::Create(job)) => {
                let (Some(made), Some(device)) = (job.made.clone(), job.device) else { return };
                self.count_wait(now, &job, result.is_ok());
                match result {
                    Ok(()) => {
                        self.growth.succeed(job.card, Way::Create);
                        // Attached by a call that was never answered: its attachment is still to be put right.
                        self.put_right_later |= job.attachment.is_none();
                        let (spec, nets) = (self.spec_of(&made, job.card, device), self.blocks_told(&made));
                        let mut groups = made.security_groups.clone();
                        groups.sort();
                        self.groups_of.insert(made.eni.clone(), groups);
                        self.take_in(now, spec, job.unit, &nets);
                        // They may have changed since it was begun.
                        self.apply_groups(now);
                    }
                    Err(error) => {
                        self.count(match error {
                            NotReady::Unseen(_) => Counter::WaitEniFailed,
                            NotReady::Failed(_) => Counter::SetUpEniFailed,
                        });
                        self.log(Level::Error, format!("{} cannot be used and is removed: {error}", made.eni));
                        let message = format!("{}: {error}", made.eni);
                        let (kind, code) = (ErrorKind::Refused, String::new());
                        let error = CloudError { api: "set-up", kind, code, message };
                        self.growth.fail(now.mono, job.card, Way::Create, error, &mut self.random);
                        let spec = self.spec_of(&made, job.card, device);
                        self.dispose(now, spec, true, CleanUp::NewEni);
                    }
                }
            }
            Some(Job::Adopt(adopt)) => self.adopted(now, *adopt, result),
            Some(other) => {
                self.jobs.insert(id, other);
            }
            None => self.adopted_in_vain(id),
        }
        self.ask(now.mono);
    }

    /// How long the interface took from EC2's word that it is attached.
    fn count_wait(&mut self, now: Now, job: &Create, usable: bool) {
        if let Some(at) = job.attached_at {
            self.count(Counter::EniAwaited { took: now.mono.saturating_sub(at), usable });
        }
    }

    /// Puts a programmed interface into the store, with its blocks, and remembers that it is ours.
    pub(super) fn take_in(&mut self, now: Now, spec: EniSpec, unit: Unit, nets: &[IpNet]) {
        let id = spec.id.clone();
        self.journal.removing.retain(|e| *e != id);
        self.intent_is_over(&id);
        self.programmed.insert(id.clone());
        // A trunk is known by EC2's word alone: a restart must not take it for an interface of the pool.
        if !spec.trunk && !self.journal.managed.contains(&id) {
            self.journal.managed.push(id.clone());
        }
        self.write_journal();
        let Some(card) = self.cards.get_mut(spec.card) else { return };
        if let Err(error) = card.store.add_eni(spec, now.mono) {
            self.log(Level::Debug, format!("{id}: {error}"));
        }
        self.exclude(now);
        let nets: Vec<IpNet> = nets.iter().copied().filter(|net| !self.is_returning(&id, *net)).collect();
        self.log(Level::Info, format!("{id} serves {} addresses or prefixes", nets.len()));
        self.add_blocks(now, &id, unit, &nets);
    }

    /// The daemon ends (I7). What was made goes again, while there is time: nothing would delete it with the instance. If the
    /// time is short, or EC2 has not said whether it was made, the journal has it.
    fn abandon(&mut self, now: Now, job: Create) {
        match &job.made {
            Some(made) => {
                let spec = self.spec_of(made, job.card, job.device.unwrap_or(0));
                self.dispose(now, spec, job.device.is_some(), CleanUp::NewEni);
            }
            None => self.intent_is_in_doubt(now, &job.token),
        }
    }

    fn create_failed(&mut self, now: Now, job: Create, error: CloudError) {
        self.count(Counter::AllocEniFailed);
        if error.kind.is_exhausted() {
            self.count(Counter::AllocAddressesFailed);
        }
        if job.made.is_none() {
            self.intent_is_in_doubt(now, &job.token);
        }
        if let Some(made) = &job.made {
            // It goes again. Once an attach was tried, EC2 is asked whether it happened: no answer is no refusal.
            let spec = self.spec_of(made, job.card, job.device.unwrap_or(0));
            self.dispose(now, spec, job.device.is_some(), CleanUp::NewEni);
        }
        self.growth_failed(now, job.card, Way::Create, error);
    }
}
