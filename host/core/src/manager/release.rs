//! Addresses and prefixes given back: out of the store and into the journal first, then EC2 is told.

use std::time::Duration;

use super::jobs::{Job, Retry};
use super::pace::retry_delay;
use super::types::Block;
use super::{Command, Counter, JobId, Level, Manager, Now};
use crate::cloud::{Answer, CloudError, ErrorKind, Request};
use crate::ip::{IpNet, Ipv4Net};
use crate::store::{Error as StoreError, Time};
use crate::validate::Dropped;

#[derive(Debug)]
pub(super) struct Release {
    blocks: Vec<Block>,
    pub retry: Retry,
}

impl Release {
    /// The interface of each block.
    pub fn enis(&self) -> impl Iterator<Item = &str> {
        self.blocks.iter().map(|b| b.eni.as_str())
    }

    pub fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.blocks.iter().map(|b| b.net)
    }

    /// The call is under way for the first time.
    pub fn is_first_try(&self) -> bool {
        self.retry.attempt == 1 && self.retry.at.is_none()
    }

    /// EC2 has taken it back and given it anew: it is not asked to take it back again.
    pub fn done_with(&mut self, net: IpNet) {
        self.blocks.retain(|b| b.net != net);
        if let Request::UnassignPrivateIpAddresses { addresses, prefixes, .. } = &mut self.retry.request {
            addresses.retain(|a| IpNet::from(Ipv4Net::host(*a)) != net);
            prefixes.retain(|p| IpNet::from(*p) != net);
        }
    }

    pub fn holds(&self, eni: &str, net: &str) -> bool {
        self.blocks.iter().any(|b| b.eni == eni && b.net.to_string() == net)
    }
}

/// IMDS may show what was given back for so long: half a minute as a rule, more than one now and then (spec 03 §16.3). A
/// daemon that starts in that time must not hand it out: what EC2 has taken back may be another node's by then.
const IMDS_BEHIND: Duration = Duration::from_secs(180);

/// The same of EC2's own listings (spec 01 §1.9).
pub(super) const EC2_BEHIND: Duration = Duration::from_secs(60);

/// Gone at EC2, and still in the journal.
#[derive(Debug)]
pub(super) struct GivenBack {
    at: Time,
    eni: String,
    /// None: the whole interface.
    net: Option<String>,
}

impl GivenBack {
    pub fn is(&self, eni: &str, net: Option<&str>) -> bool {
        self.eni == eni && self.net.as_deref() == net
    }

    pub fn net(&self) -> Option<&str> {
        self.net.as_deref()
    }

    /// What EC2 lists by now is no echo.
    pub fn is_settled(&self, now: Time) -> bool {
        self.at + EC2_BEHIND < now
    }

    pub fn forgotten_at(&self) -> Time {
        self.at + IMDS_BEHIND
    }
}

impl Manager {
    /// EC2 has deleted the interface; the journal knows it for a minute more.
    pub(super) fn eni_given_back(&mut self, now: Now, eni: &str) {
        self.given_back.push_back(GivenBack { at: now.mono, eni: eni.to_owned(), net: None });
    }

    /// Takes out of the journal what IMDS does not show any more either.
    pub(super) fn forget_given_back(&mut self, now: Now) {
        let mut forgotten = false;
        while let Some(old) = self.given_back.pop_front_if(|g| g.forgotten_at() <= now.mono) {
            match &old.net {
                Some(net) => self.journal.returning.retain(|(e, n)| *e != old.eni || n != net),
                None => {
                    self.journal.removing.retain(|e| *e != old.eni);
                    self.journal.returning.retain(|(e, _)| *e != old.eni);
                }
            }
            forgotten = true;
        }
        if forgotten {
            self.write_journal();
        }
    }

    /// EC2 has taken it back, and whoever still shows it is behind.
    pub(super) fn is_given_back(&self, eni: &str, net: Option<&str>) -> bool {
        self.given_back.iter().any(|g| g.is(eni, net))
    }

    /// EC2 has given the address anew.
    pub(super) fn got_again(&mut self, eni: &str, net: IpNet) {
        if self.is_returning(eni, net) {
            let text = net.to_string();
            self.given_back.retain(|g| g.eni != eni || g.net.as_deref() != Some(&*text));
            self.journal.returning.retain(|(e, n)| e != eni || *n != text);
            self.write_journal();
        }
    }

    /// Takes the blocks out of the store, then tells EC2.
    pub(super) fn start_releases(&mut self, now: Now, ids: &[u32], dropped: &mut Vec<Dropped>) -> Vec<String> {
        let mut blocks = Vec::with_capacity(ids.len());
        for id in ids {
            match self.numbered.get(*id as usize) {
                Some(block) => blocks.push(block.clone()),
                None => {
                    let (action, reason) = (format!("release cidr {id}"), "I12: unknown id".to_owned());
                    dropped.push(Dropped { action, reason });
                }
            }
        }
        self.give_back(now, blocks, dropped)
    }

    /// Takes those of the blocks that nobody has out of the store, then tells EC2; in words, what was begun.
    pub(super) fn give_back(&mut self, now: Now, blocks: Vec<Block>, dropped: &mut Vec<Dropped>) -> Vec<String> {
        let mut by_eni: Vec<(String, Vec<Block>)> = Vec::new();
        for block in blocks {
            if self.is_held_back(&block.eni) {
                let (action, reason) = (format!("release {} of {}", block.net, block.eni), "I1: not confirmed as ours");
                dropped.push(Dropped { action, reason: reason.to_owned() });
                continue;
            }
            let store = self.cards.store_of(&block.eni);
            let taken = store.map_or(Err(StoreError::UnknownEni), |s| s.take_cidr(&block.eni, block.net, now.mono));
            if let Err(error) = taken {
                self.count(Counter::ReleaseFailed);
                let (action, reason) = (format!("release {} of {}", block.net, block.eni), format!("I3: {error}"));
                dropped.push(Dropped { action, reason });
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
            started.push(format!("release {} of {eni}", list.len()));
            self.tell_ec2_of(now, &eni, &list);
        }
        started
    }

    /// Has blocks of an interface taken back that are in the journal and in no store: one call for each kind (spec 01 §5).
    pub(super) fn tell_ec2_of(&mut self, now: Now, eni: &str, list: &[Block]) {
        let nets: Vec<Ipv4Net> = list.iter().filter_map(|b| b.net.as_ipv4()).collect();
        let (singles, prefixes): (Vec<_>, Vec<_>) = nets.iter().partition(|n| n.length() == 32);
        for (addresses, prefixes) in [(Vec::new(), prefixes), (singles, Vec::new())] {
            if addresses.is_empty() && prefixes.is_empty() {
                continue;
            }
            let nets: Vec<Ipv4Net> = addresses.iter().chain(&prefixes).copied().collect();
            let blocks = list.iter().filter(|b| b.net.as_ipv4().is_some_and(|n| nets.contains(&n))).cloned();
            let request = Request::UnassignPrivateIpAddresses {
                eni: eni.to_owned(),
                addresses: addresses.iter().map(|n| n.network()).collect(),
                prefixes,
            };
            let retry = Retry { at: None, attempt: 1, request: request.clone() };
            let id = self.start(Job::Release(Release { blocks: blocks.collect(), retry }));
            self.call(now, id, request);
        }
    }

    pub(super) fn released(&mut self, now: Now, id: JobId, mut job: Release, result: Result<Answer, CloudError>) {
        match result {
            Ok(_) => {
                self.giving.succeed();
                self.blocks_given_back(now, &job.blocks);
            }
            Err(_) if job.blocks.is_empty() => {}
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
                if error.kind == ErrorKind::Unauthorized {
                    self.giving.fail(now.mono, error, &mut self.random);
                    self.returned(&job.blocks);
                } else {
                    // Some of them may be gone, by a call that was not heard of: what EC2 lists once it cannot be behind
                    // any more is ours again.
                    self.blocks_given_back(now, &job.blocks);
                    self.next_look = self.next_look.min(now.mono + EC2_BEHIND + Duration::from_secs(1));
                    self.listing_wanted = true;
                }
                self.verify(now);
            }
        }
        self.ask(now.mono);
    }

    /// They stay in the journal for as long as a listing may be behind.
    fn blocks_given_back(&mut self, now: Now, blocks: &[Block]) {
        let entry = |b: &Block| GivenBack { at: now.mono, eni: b.eni.clone(), net: Some(b.net.to_string()) };
        self.given_back.extend(blocks.iter().map(entry));
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
        for card in self.cards.iter_mut() {
            card.store.drain(|eni, net| blocks.iter().any(|b| b.eni == eni && b.net == net));
        }
    }
}
