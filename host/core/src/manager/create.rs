//! One interface more: ENIConfig, groups, subnets, rank, create, attach, set-up. Whatever fails on the way, nothing is left behind.

mod end;
mod place;
mod request;

use std::collections::VecDeque;
use std::time::Duration;

use super::jobs::{Job, SUBNETS_FRESH};
use super::pace::retry_delay;
use super::{CleanUp, Command, JobId, Level, Manager, Now};
use crate::cloud::{Answer, CloudError, ErrorKind, Interface, Request};
use crate::kube::EniConfig;
use crate::policy::{CreateEni, Unit};
use crate::store::Time;

/// Seconds for which the primary interface's security groups are.
const GROUPS_FRESH: Duration = Duration::from_secs(30);
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
}
