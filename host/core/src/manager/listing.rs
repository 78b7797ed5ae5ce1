//! EC2's view of what is attached, call by call (spec 03 §7.5), and when it is asked for. What is done with it:
//! `reconcile.rs`, `left_overs.rs`.

use std::collections::HashSet;
use std::time::Duration;

use super::cards::CardPool;
use super::jobs::Job;
use super::pace::retry_delay;
use super::{CALLS_PER_MINUTE, Counter, JobId, Level, Manager, Now, SLOW};
use crate::cloud::{Answer, CloudError, Device, ErrorKind, Interface, Request, SubnetFacts};
use crate::ip::IpNet;
use crate::policy::Standing;
use crate::store::Time;

/// So long after a start EC2's word is waited for before anything is asked of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a listing that left out what pods have, EC2 is asked again after so long, then after twice that.
const DOUBT_PAUSE: Duration = Duration::from_secs(60);

/// EC2's view being read.
#[derive(Debug)]
pub(super) struct Verify {
    stage: VerifyStage,
    /// When the listing began: what is younger may not be in it.
    pub started: Time,
    devices: Vec<Device>,
    pub interfaces: Vec<Interface>,
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

impl Verify {
    pub fn device_ids(&self) -> impl Iterator<Item = &String> {
        self.devices.iter().map(|d| &d.eni)
    }

    pub fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }
}

impl Manager {
    pub(super) fn subnet_standing(&self, subnet: &SubnetFacts) -> Standing {
        self.standing(&subnet.id, &subnet.tags)
    }

    /// Growth waits a moment for EC2's word after a start where it matters: what is attached and not known as ours yet may
    /// be all that is needed, and the node's own subnet may be tagged out of use.
    pub(super) fn is_new_here(&self, now: Now) -> bool {
        let young = now.mono.saturating_sub(self.booted_at.mono) < PATIENCE;
        if !young || !self.settings.ec2 || !self.settings.provisioning {
            return false;
        }
        let unheard = !self.listed && (self.tags_matter() || !self.unconfirmed.is_empty());
        let adopting =
            |job: &Job| matches!(job, Job::Adopt(a) if self.cards.eni(&a.eni.id).is_some_and(|e| e.excluded));
        unheard || self.jobs.values().any(adopting)
    }

    /// How often IMDS is compared with the store. Where others give the addresses, theirs is the pace (spec 01 §8.1).
    pub(super) fn look_every(&self) -> Duration {
        if self.settings.provisioning && self.settings.ec2 { SLOW } else { Duration::from_secs(60) }
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
        self.start_listing(now, VerifyStage::Devices);
    }

    fn start_listing(&mut self, now: Now, stage: VerifyStage) {
        let id = self.start(Job::Verify(Verify {
            stage,
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
            VerifyStage::Subnets => self.subnets_request(),
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
                self.count(Counter::ListingFailed);
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
                let unknown = unknown || self.tags_due(now);
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
                self.clear_left_overs(now, &job, list);
                return self.verify_done(now, &job);
            }
            (VerifyStage::Subnets, Err(error)) if !matches!(error.kind, ErrorKind::Throttled | ErrorKind::Unknown) => {
                // Not allowed to: then no tag takes anything out of use (W10), and what IMDS tells of the subnets is enough.
                self.log(Level::Warn, format!("the subnets' tags cannot be read, none is taken out of use: {error}"));
                self.apply(now, &job);
                job.stage = VerifyStage::LeftOvers;
            }
            (stage, Err(error)) => {
                // Something was removed between two calls: from the start, soon.
                let moved = error.kind == ErrorKind::NotFound && job.attempt < 10;
                let first = Duration::from_secs(if moved { 1 } else { 5 });
                job.retry_at = Some(now.mono + retry_delay(first, job.attempt, &mut self.random));
                job.attempt += 1;
                if stage != VerifyStage::LeftOvers {
                    self.count(Counter::ListingFailed);
                    job.stage = VerifyStage::Devices;
                }
                self.log(Level::Warn, format!("EC2's view of the interfaces is read again later: {error}"));
                if stage != VerifyStage::LeftOvers {
                    self.unlisted = Some(error);
                }
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
        } else if self.doubted.any() {
            // The other source decides, and EC2 is asked again before long.
            self.settling = true;
            self.look(now);
            let pause = (DOUBT_PAUSE * 2u32.saturating_pow(self.doubt_rounds.min(10))).min(SLOW);
            self.doubt_rounds += 1;
            self.next_look = self.next_look.min(now.mono + pause);
            self.listing_wanted = true;
        } else {
            self.doubt_rounds = 0;
        }
        self.sweep_soon(now);
        self.ask(now.mono);
    }

    pub(super) fn note_subnets(&mut self, now: Now, list: Vec<SubnetFacts>) {
        for subnet in &list {
            if let Some(cidr) = self.subnet_net(subnet) {
                self.subnet_cidrs.insert(subnet.id.clone(), cidr);
            }
        }
        self.subnets = list;
        self.subnets_seen = Some(now.mono);
        self.subnets_wanted = false;
        self.exclude(now);
    }

    /// Has the subnets listed by themselves: a policy wants them fresh, or their tags are due.
    pub(super) fn list_subnets(&mut self, now: Now) {
        if self.settings.ec2 && !self.jobs.values().any(|j| matches!(j, Job::Subnets)) {
            let id = self.start(Job::Subnets);
            self.call(now, id, self.subnets_request());
        }
    }

    pub(super) fn subnets_listed(&mut self, now: Now, result: Result<Answer, CloudError>) {
        match result {
            Ok(Answer::Subnets(list)) => {
                self.note_subnets(now, list);
                self.ask(now.mono);
            }
            Ok(other) => self.unexpected("DescribeSubnets", &other),
            // What is known stays; the next look asks again.
            Err(error) => self.log(Level::Warn, format!("the subnets cannot be listed: {error}")),
        }
    }

    /// Remembers which device indexes others have.
    pub(super) fn note_devices(&mut self, devices: &[Device]) {
        for card in self.cards.iter_mut() {
            let foreign = devices.iter().filter(|d| d.card == card.index && card.store.eni(&d.eni).is_none());
            card.foreign_devices = foreign.map(|d| d.device_index).collect();
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

    /// Reads both sources, as something speaks for a change of what is attached.
    pub(super) fn look_for_change(&mut self, now: Now) {
        if self.minute(now).ec2_calls < CALLS_PER_MINUTE {
            self.listing_wanted = true;
            self.look(now);
        }
    }

    pub(super) fn looked(&mut self, now: Now, result: Result<Answer, CloudError>) {
        let settling = std::mem::take(&mut self.settling);
        let list = match result {
            Ok(Answer::Attached(list)) if !list.is_empty() => list,
            other => {
                self.count(Counter::ListingFailed);
                return self.log(
                    Level::Warn,
                    match other {
                        Ok(_) => "IMDS lists no interface: ignored".to_owned(),
                        Err(error) => format!("IMDS cannot be read: {error}"),
                    },
                );
            }
        };
        for interface in &list {
            self.links.know(&interface.mac);
        }
        self.note_blocks(&list);
        self.settle_doubts(now, &list);
        if settling {
            return;
        }
        if !self.settings.ec2 {
            return self.follow_imds(now, &list);
        }
        let wanted = std::mem::take(&mut self.listing_wanted);
        let shown: HashSet<(String, IpNet)> = list
            .iter()
            .filter(|i| self.cards.eni(&i.eni).is_some())
            .flat_map(|i| self.blocks_shown(i).into_iter().map(|net| (i.eni.clone(), net)))
            .collect();
        let held: HashSet<(String, IpNet)> = self
            .cards
            .iter()
            .flat_map(|card| card.store.enis().map(move |(e, _)| (card, e)))
            .flat_map(|(card, e)| card.store.cidrs(&e.id, now.mono).map(|c| (e.id.clone(), c.net)))
            .collect();
        let foreign =
            |card: &CardPool| list.iter().filter(|i| i.card == card.index && card.store.eni(&i.eni).is_none()).count();
        let others_came = self.cards.iter().any(|card| foreign(card) != card.unmanaged as usize);
        // One that was taken away without a block on it.
        let went = self.cards.enis().any(|(e, _)| !list.iter().any(|i| i.eni == e.id));
        // One that could not be programmed gets another try.
        let unusable = self.unconfirmed.iter().any(|id| self.cards.eni(id).is_some());
        if shown != held || others_came || went || unusable || wanted {
            return self.verify(now);
        }
        if self.left_overs_due(now) && self.settings.ec2 {
            self.start_listing(now, VerifyStage::LeftOvers);
        }
        if self.tags_due(now) {
            self.list_subnets(now);
        }
    }
}
