//! What is attached: at the start from IMDS and the journal, later from EC2 (spec 01 §2.3, §8; spec 03 §7.5).
//!
//! At the start IMDS is believed for the primary interface and for those that the journal knows as managed, so that
//! pods are served before EC2 has said a word. All else waits for EC2's tags. Nothing that a pod holds is dropped, and
//! no block or interface goes on the word of one source before it is a minute old.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use super::jobs::{Job, spec_of, table_of};
use super::pace::retry_delay;
use super::types::blocks;
use super::{Command, JobId, Journal, Level, Manager, Now};
use crate::cloud::{Answer, AttachedInterface, CloudError, Device, ErrorKind, Interface, Request, SubnetFacts};
use crate::ip::{IpNet, Ipv4Net};
use crate::policy::Standing;
use crate::store::{EniSpec, Time};

/// EC2 may be behind by so much: younger things are not dropped on its word.
const SETTLED: Duration = Duration::from_secs(60);
/// Between two searches for interfaces that were made and never attached.
const LEFT_OVERS_EVERY: Duration = Duration::from_secs(3600);
/// One of this run is a left-over when it is as old and no job is about it.
const LEFT_OVER_AGE: Duration = Duration::from_secs(300);
const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";
const NO_MANAGE_TAG: &str = "node.k8s.amazonaws.com/no_manage";
const CREATED_TAG: &str = "node.k8s.amazonaws.com/createdAt";

/// EC2's view being read.
#[derive(Debug)]
pub(super) struct Verify {
    stage: VerifyStage,
    started: Time,
    devices: Vec<Device>,
    interfaces: Vec<Interface>,
    attempt: u32,
    retry_at: Option<Time>,
    /// Asked for again meanwhile.
    again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VerifyStage {
    Devices,
    Interfaces,
    Subnets,
    LeftOvers,
}

/// An attached interface being programmed before it serves pods.
#[derive(Debug)]
pub(super) struct Adopt {
    pub eni: EniSpec,
    nets: Vec<IpNet>,
}

impl Verify {
    pub fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }
}

impl Manager {
    /// Takes in what IMDS shows and what the journal remembers of the last run, and has EC2 asked. Called once, first.
    pub fn boot(&mut self, now: Now, attached: &[AttachedInterface], journal: Journal) {
        self.journal = journal;
        self.booted_at = now;
        self.next_look = now.mono + super::SLOW;
        for interface in attached {
            if let Some(cidr) = interface.subnet_cidr {
                self.subnet_cidrs.insert(interface.subnet.clone(), cidr);
            }
            let id = &interface.eni;
            if self.journal.removing.contains(id) {
                continue;
            }
            let primary = *id == self.settings.instance.primary_eni;
            let known = primary || self.journal.managed.contains(id);
            let spec = EniSpec {
                id: id.clone(),
                mac: interface.mac.clone(),
                device_index: interface.device_index,
                subnet: interface.subnet.clone(),
                table: table_of(interface.device_index),
                address: interface.primary.map(IpAddr::V4),
                primary,
                trunk: false,
                efa: false,
                excluded: !known,
            };
            if interface.card != 0 || interface.primary.is_none() {
                // Other cards and interfaces without IPv4 are not pods' business here.
                self.foreign_devices.push(interface.device_index);
                continue;
            }
            let nets: Vec<IpNet> = blocks(&interface.secondary, &interface.prefixes)
                .into_iter()
                .filter(|net| !self.is_returning(id, *net))
                .collect();
            if self.store.add_eni(spec.clone(), now.mono).is_err() {
                continue;
            }
            self.add_blocks(now, id, self.settings.unit, &nets);
            if !known {
                self.unconfirmed.insert(id.clone());
            } else if !primary {
                self.adopt(spec, nets);
            }
        }
        let attached_ids: HashSet<&str> = attached.iter().map(|i| i.eni.as_str()).collect();
        self.journal.managed.retain(|id| attached_ids.contains(id.as_str()));
        self.write_journal();
        self.verify(now);
        self.ask(now.mono);
    }

    /// Takes over the pods that the checkpoint tells of. After [`Manager::boot`].
    pub fn restore(&mut self, kept: Vec<(crate::checkpoint::Allocation, IpAddr)>) {
        self.store.restore(kept);
    }

    pub(super) fn subnet_standing(&self, subnet: &SubnetFacts) -> Standing {
        self.standing(&subnet.id, &subnet.tags)
    }

    /// Whether EC2 is being asked.
    pub(super) fn verifying(&self) -> bool {
        self.jobs.values().any(|j| matches!(j, Job::Verify(v) if v.retry_at.is_none()))
    }

    /// Reads EC2's view of all that is attached and brings the store in step.
    pub(super) fn verify(&mut self, now: Now) {
        if !self.settings.ec2 {
            return;
        }
        for job in self.jobs.values_mut() {
            if let Job::Verify(verify) = job {
                verify.again = true;
                return;
            }
        }
        let id = self.start(Job::Verify(Verify {
            stage: VerifyStage::Devices,
            started: now.mono,
            devices: Vec::new(),
            interfaces: Vec::new(),
            attempt: 1,
            retry_at: None,
            again: false,
        }));
        self.verify_again(now, id);
    }

    /// Makes the call of the stage that a verification is in.
    pub(super) fn verify_again(&mut self, now: Now, id: JobId) {
        let Some(Job::Verify(verify)) = self.jobs.get_mut(&id) else { return };
        verify.retry_at = None;
        let instance = &self.settings.instance;
        let request = match verify.stage {
            VerifyStage::Devices => {
                verify.started = now.mono;
                Request::DescribeInstance { instance: instance.instance_id.clone() }
            }
            VerifyStage::Interfaces => {
                let ids = verify.devices.iter().map(|d| d.eni.clone()).collect();
                Request::DescribeNetworkInterfaces { ids }
            }
            VerifyStage::Subnets => Request::DescribeSubnets {
                vpc: instance.vpc.clone(),
                availability_zone: instance.availability_zone.clone(),
            },
            VerifyStage::LeftOvers => Request::DescribeDetachedInterfaces { instance: instance.instance_id.clone() },
        };
        self.call(now, id, request);
    }

    pub(super) fn verified(&mut self, now: Now, id: JobId, mut job: Verify, result: Result<Answer, CloudError>) {
        match (job.stage, result) {
            (VerifyStage::Devices, Ok(Answer::Devices(devices)))
                if !devices.iter().any(|d| d.eni == self.settings.instance.primary_eni) =>
            {
                // An instance without its own interface: EC2 is behind, and nothing is dropped on such a word.
                self.log(Level::Warn, "EC2 does not list the node's own interface: read again later".to_owned());
                job.retry_at = Some(now.mono + retry_delay(Duration::from_secs(5), job.attempt, &mut self.random));
                job.attempt += 1;
                self.jobs.insert(id, Job::Verify(job));
                return;
            }
            (VerifyStage::Devices, Ok(Answer::Devices(devices))) => {
                self.note_devices(&devices);
                job.devices = devices;
                job.stage = VerifyStage::Interfaces;
            }
            (VerifyStage::Interfaces, Ok(Answer::Interfaces(list))) => {
                job.interfaces = list;
                let unknown = job.interfaces.iter().any(|i| !self.subnet_cidrs.contains_key(&i.subnet));
                job.stage = if unknown { VerifyStage::Subnets } else { VerifyStage::LeftOvers };
                if !unknown {
                    self.apply(now, &job);
                }
            }
            (VerifyStage::Subnets, Ok(Answer::Subnets(list))) => {
                self.note_subnets(now, list);
                self.apply(now, &job);
                job.stage = VerifyStage::LeftOvers;
            }
            (VerifyStage::LeftOvers, Ok(Answer::Interfaces(list))) => {
                self.left_overs_seen = Some(now.mono);
                self.clear_left_overs(now, list);
                return self.verify_done(now, &job);
            }
            (stage, Err(error)) => {
                // Something was removed between two calls: from the start, soon.
                let moved = error.kind == ErrorKind::NotFound && job.attempt < 10;
                let first = Duration::from_secs(if moved { 1 } else { 5 });
                job.retry_at = Some(now.mono + retry_delay(first, job.attempt, &mut self.random));
                job.attempt += 1;
                if stage != VerifyStage::LeftOvers {
                    job.stage = VerifyStage::Devices;
                }
                self.log(Level::Warn, format!("EC2's view of the interfaces is read again later: {error}"));
                self.jobs.insert(id, Job::Verify(job));
                return self.ask(now.mono);
            }
            (_, Ok(other)) => {
                self.unexpected("DescribeNetworkInterfaces", &other);
                return self.verify_done(now, &job);
            }
        }
        if job.stage == VerifyStage::LeftOvers && !self.left_overs_due(now) {
            return self.verify_done(now, &job);
        }
        self.jobs.insert(id, Job::Verify(job));
        self.verify_again(now, id);
    }

    fn verify_done(&mut self, now: Now, job: &Verify) {
        if job.again {
            self.verify(now);
        }
        self.ask(now.mono);
    }

    pub(super) fn note_subnets(&mut self, now: Now, list: Vec<SubnetFacts>) {
        for subnet in &list {
            if let Some(cidr) = subnet.cidr {
                self.subnet_cidrs.insert(subnet.id.clone(), cidr);
            }
        }
        self.subnets = list;
        self.subnets_seen = Some(now.mono);
        self.subnets_wanted = false;
    }

    /// Remembers which device indexes others have.
    pub(super) fn note_devices(&mut self, devices: &[Device]) {
        self.foreign_devices = devices
            .iter()
            .filter(|d| d.card == 0 && self.store.eni(&d.eni).is_none())
            .map(|d| d.device_index)
            .collect();
    }

    /// Brings the store in step with what EC2 says.
    fn apply(&mut self, now: Now, job: &Verify) {
        let mut unmanaged = 0;
        for interface in &job.interfaces {
            let Some(attachment) = &interface.attachment else { continue };
            if attachment.card != 0 || self.is_being_made(&interface.eni) || self.is_being_removed(&interface.eni) {
                continue;
            }
            let id = interface.eni.clone();
            let primary = id == self.settings.instance.primary_eni;
            self.attachments.insert(id.clone(), attachment.id.clone());
            if self.is_given_back(&id, None) {
                continue;
            }
            if self.journal.removing.contains(&id) {
                // A removal that the last run did not finish.
                let spec = spec_of(interface, attachment.device_index);
                self.dispose(now, spec, true);
                continue;
            }
            if !primary && (interface.interface_type == "efa-only" || !self.is_managed(interface)) {
                self.leave_alone(now, &id);
                // With pods on it, it stays and counts as held.
                unmanaged += u32::from(self.store.eni(&id).is_none());
                continue;
            }
            if primary {
                self.connection_tracking = interface.connection_tracking;
                if self.security_groups.is_none() {
                    let mut groups = interface.security_groups.clone();
                    groups.sort();
                    self.security_groups = Some((groups, now.mono));
                }
            }
            self.put_right(now, interface);
            let nets = blocks(&interface.secondary, &interface.prefixes);
            let known = self.store.eni(&id).is_some();
            if known {
                let (trunk, efa) = (interface.interface_type == "trunk", interface.interface_type == "efa");
                self.store.update_eni(&id, |spec| {
                    spec.trunk = trunk;
                    spec.efa = efa;
                });
                self.sync_blocks(now, job.started, &id, &nets);
            }
            if !known || self.unconfirmed.contains(&id) {
                let spec = spec_of(interface, attachment.device_index);
                self.adopt(spec, nets);
            }
        }
        self.unmanaged = unmanaged;
        self.drop_missing(now, job);
    }

    fn is_being_made(&self, id: &str) -> bool {
        self.jobs.values().any(|j| match j {
            Job::Create(c) => c.is_for(id),
            Job::Adopt(a) => a.eni.id == id && self.store.eni(id).is_none(),
            _ => false,
        })
    }

    fn is_being_removed(&self, id: &str) -> bool {
        self.jobs.values().any(|j| matches!(j, Job::Remove(r) if r.is_for(id)))
    }

    /// Spec 01 §8.6.
    fn is_managed(&self, interface: &Interface) -> bool {
        let tag = |key: &str| interface.tags.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        match tag(NO_MANAGE_TAG) {
            Some("true") => false,
            Some(_) => true,
            None => tag(INSTANCE_TAG) == Some(&self.settings.instance.instance_id) || self.settings.manage_untagged,
        }
    }

    /// An interface that is not ours: its pods, if any, live on, and nothing else happens to it.
    fn leave_alone(&mut self, now: Now, id: &str) {
        self.unconfirmed.remove(id);
        self.journal.managed.retain(|e| e != id);
        self.forget_adoption(id);
        if self.store.eni(id).is_none() {
            return;
        }
        match self.store.take_eni(id, now.mono) {
            Ok(spec) => self.foreign_devices.push(spec.device_index),
            Err(error) => {
                self.store.update_eni(id, |spec| spec.excluded = true);
                self.log(Level::Warn, format!("{id} is not managed, but pods use it: {error}"));
            }
        }
    }

    /// Missing tags and delete-on-termination (spec 03 §7.1 step 4, §7.8).
    fn put_right(&mut self, now: Now, interface: &Interface) {
        if !self.settings.provisioning || interface.interface_type == "trunk" {
            return;
        }
        let has = |tag: &(String, String)| interface.tags.contains(tag);
        let missing: Vec<_> = self.wanted_tags().into_iter().filter(|t| !has(t)).collect();
        if !missing.is_empty() {
            let request = Request::CreateTags { resource: interface.eni.clone(), tags: missing };
            self.start_minor(now, "tags", request);
        }
        let ours = interface.tags.iter().any(|(k, v)| k == INSTANCE_TAG && *v == self.settings.instance.instance_id);
        if let Some(attachment) = &interface.attachment
            && ours
            && !attachment.delete_on_termination
            && attachment.device_index != 0
        {
            let (eni, attachment) = (interface.eni.clone(), attachment.id.clone());
            self.start_minor(now, "delete on termination", Request::SetDeleteOnTermination { eni, attachment });
        }
    }

    fn sync_blocks(&mut self, now: Now, started: Time, id: &str, listed: &[IpNet]) {
        let held: Vec<(IpNet, u32, Time)> =
            self.store.cidrs(id, now.mono).map(|c| (c.net, c.assigned, c.since)).collect();
        for (net, assigned, since) in held {
            if listed.contains(&net) {
                continue;
            }
            if assigned > 0 {
                self.log(Level::Warn, format!("EC2 does not list {net} of {id}, but a pod has it: it is kept"));
            } else if since + SETTLED < started && self.store.take_cidr(id, net, now.mono).is_ok() {
                self.log(Level::Warn, format!("EC2 does not list {net} of {id}: no pod gets it any more"));
            }
        }
        let returning: Vec<(String, String)> = self.journal.returning.clone();
        for (eni, text) in returning {
            if eni != id || self.is_release_under_way(&eni, &text) || self.is_given_back(&eni, Some(&text)) {
                continue;
            }
            // Left from the last run: gone by now, or still here and used again.
            self.journal.returning.retain(|entry| *entry != (eni.clone(), text.clone()));
        }
        self.write_journal();
        let fresh: Vec<IpNet> = listed.iter().copied().filter(|net| !self.is_returning(id, *net)).collect();
        self.add_blocks(now, id, self.settings.unit, &fresh);
    }

    pub(super) fn is_release_under_way(&self, eni: &str, net: &str) -> bool {
        self.jobs.values().any(|j| matches!(j, Job::Release(r) if r.holds(eni, net)))
    }

    /// Interfaces of the store that EC2 does not list.
    fn drop_missing(&mut self, now: Now, job: &Verify) {
        let listed: HashSet<&str> = job.interfaces.iter().map(|i| i.eni.as_str()).collect();
        let missing: Vec<String> = self
            .store
            .enis()
            .filter(|(e, since)| !listed.contains(e.id.as_str()) && *since + SETTLED < job.started && !e.primary)
            .map(|(e, _)| e.id.clone())
            .collect();
        for id in missing {
            match self.store.take_eni(&id, now.mono) {
                Ok(eni) => {
                    self.forget_adoption(&id);
                    self.journal.managed.retain(|e| *e != id);
                    self.unconfirmed.remove(&id);
                    self.write_journal();
                    self.log(Level::Warn, format!("EC2 does not list {id}: it is dropped"));
                    self.out.push(Command::TearDownEni { eni });
                }
                Err(error) => self.log(Level::Warn, format!("EC2 does not list {id}: {error}")),
            }
        }
    }

    fn left_overs_due(&self, now: Now) -> bool {
        self.left_overs_seen.is_none_or(|at| now.mono.saturating_sub(at) >= LEFT_OVERS_EVERY)
    }

    /// What an earlier run made and never attached, or this one, when EC2's answer was lost (spec 03 §7.10).
    fn clear_left_overs(&mut self, now: Now, list: Vec<Interface>) {
        let settled = now.unix.saturating_sub(LEFT_OVER_AGE).max(self.booted_at.unix);
        let before = crate::time::rfc3339(settled.as_secs());
        for interface in list {
            let created = interface.tags.iter().find(|(k, _)| k == CREATED_TAG).map(|(_, v)| v.as_str());
            // UTC texts of one length compare as times; what is not of that form is left alone.
            let old = created.is_some_and(|at| at.len() == before.len() && at.ends_with('Z') && at < before.as_str());
            let ours = interface.description.starts_with("aws-K8S-");
            let busy = self.is_being_removed(&interface.eni) || self.is_being_made(&interface.eni);
            if old && ours && self.settings.provisioning && self.settings.clean_up && !busy {
                self.log(Level::Info, format!("{} was never attached and is deleted", interface.eni));
                self.dispose(now, spec_of(&interface, 0), false);
            }
        }
        let over = |e: &&String| !self.is_being_removed(e) && !self.is_given_back(e, None);
        let removing: Vec<String> = self.journal.removing.iter().filter(over).cloned().collect();
        // Neither attached nor left over: they are gone.
        self.journal.removing.retain(|e| !removing.contains(e));
        self.write_journal();
    }

    fn adopt(&mut self, eni: EniSpec, nets: Vec<IpNet>) {
        if self.jobs.values().any(|j| matches!(j, Job::Adopt(a) if a.eni.id == eni.id)) {
            return;
        }
        let Some(cidr) = self.subnet_cidrs.get(&eni.subnet).copied() else {
            return self.log(Level::Error, format!("{}: the block of {} is not known", eni.id, eni.subnet));
        };
        let job = self.start(Job::Adopt(Box::new(Adopt { eni: eni.clone(), nets })));
        self.out.push(Command::SetUpEni { job, eni, subnet_cidr: cidr });
    }

    /// The interface goes: that its set-up ends must not bring it back.
    pub(super) fn forget_adoption(&mut self, eni: &str) {
        self.jobs.retain(|_, job| !matches!(job, Job::Adopt(a) if a.eni.id == eni));
    }

    pub(super) fn adopted(&mut self, now: Now, job: Adopt, result: Result<(), String>) {
        let id = job.eni.id.clone();
        match result {
            Ok(()) => {
                self.unconfirmed.remove(&id);
                self.store.update_eni(&id, |spec| spec.excluded = false);
                self.take_in(now, job.eni, self.settings.unit, &job.nets);
            }
            Err(error) => {
                self.out.push(Command::Count(super::Counter::SetUpEniFailed));
                self.store.update_eni(&id, |spec| spec.excluded = true);
                self.unconfirmed.insert(id.clone());
                self.log(Level::Error, format!("{id} is attached and cannot be used: {error}"));
            }
        }
    }

    /// Has IMDS asked whether anything changed behind our back.
    pub(super) fn look(&mut self, now: Now) {
        if self.jobs.values().any(|j| matches!(j, Job::Look | Job::Verify(_))) {
            return;
        }
        let id = self.start(Job::Look);
        self.call(now, id, Request::AttachedInterfaces);
    }

    pub(super) fn looked(&mut self, now: Now, result: Result<Answer, CloudError>) {
        let list = match result {
            Ok(Answer::Attached(list)) if !list.is_empty() => list,
            Ok(_) => return self.log(Level::Warn, "IMDS lists no interface: ignored".to_owned()),
            Err(error) => return self.log(Level::Warn, format!("IMDS cannot be read: {error}")),
        };
        let shown: HashSet<(String, IpNet)> = list
            .iter()
            .filter(|i| i.card == 0 && self.store.eni(&i.eni).is_some())
            .flat_map(|i| blocks(&i.secondary, &i.prefixes).into_iter().map(|net| (i.eni.clone(), net)))
            .collect();
        let held: HashSet<(String, IpNet)> = self
            .store
            .enis()
            .flat_map(|(e, _)| self.store.cidrs(&e.id, now.mono).map(|c| (e.id.clone(), c.net)))
            .collect();
        let foreign = list.iter().filter(|i| i.card == 0 && self.store.eni(&i.eni).is_none()).count();
        // One that could not be programmed gets another try.
        let unusable = self.unconfirmed.iter().any(|id| self.store.eni(id).is_some());
        if shown != held || foreign != self.unmanaged as usize || unusable || self.left_overs_due(now) {
            self.verify(now);
        }
    }

    pub(super) fn subnet_block(&self, subnet: &str) -> Option<Ipv4Net> {
        self.subnet_cidrs.get(subnet).copied()
    }
}
