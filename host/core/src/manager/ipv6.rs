//! IPv6 mode (spec 01 §9): each interface gets one prefix, once; a card without an interface gets one. There is nothing to
//! decide, so no policy is asked. What fails is tried again as other growth is.

use std::time::Duration;

use super::jobs::Job;
use super::pace::Way;
use super::{CALLS_PER_MINUTE, Counter, JobId, Level, Manager, Now};
use crate::cloud::{Answer, CloudError, ErrorKind, Request};
use crate::ip::IpNet;
use crate::policy::{CreateEni, Unit};

/// An interface's prefix being looked up, or asked for.
#[derive(Debug)]
pub(super) struct Prefix {
    pub eni: String,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It may have one: from an earlier run, or by an answer that was lost.
    Look,
    Assign,
}

impl Manager {
    /// Sees to it that every interface for pods has its prefix, and every card such an interface.
    pub(super) fn keep_ipv6(&mut self, now: Now) {
        if self.terminating || !self.settings.provisioning || !self.settings.ec2 {
            return;
        }
        if let Some(at) = self.growth.next(now.mono) {
            self.ask(at);
        }
        if self.is_new_here(now) {
            return self.ask(now.mono + Duration::from_secs(1));
        }
        if self.minute(now).ec2_calls >= CALLS_PER_MINUTE {
            return self.ask(now.mono + Duration::from_secs(u64::from(self.rest_of_minute(now))));
        }
        for (card, eni) in self.without_prefix() {
            if self.growth.shut(now.mono, card, Way::Assign).is_some() {
                continue;
            }
            let request = Request::DescribeNetworkInterfaces { ids: vec![eni.clone()] };
            let id = self.start(Job::Prefix(Prefix { eni, stage: Stage::Look }));
            self.call(now, id, request);
        }
        // What is attached, and in which subnets, is known when EC2 was heard; its end asks again.
        if self.cordoned() || self.jobs.values().any(|j| matches!(j, Job::Verify(_))) {
            return;
        }
        for card in self.without_interface() {
            if self.growth.shut(now.mono, card, Way::Create).is_some() {
                continue;
            }
            // Its prefix comes when it is there (spec 03 §7.12).
            if let Err(reason) = self.start_create(now, &CreateEni { card, unit: Unit::Prefix, count: 0 }) {
                self.log(Level::Debug, format!("card {card} gets no interface: {reason}"));
                if let Some(at) = self.refused.next(now.mono) {
                    self.ask(at);
                }
            }
        }
    }

    /// Interfaces that should have a prefix, and have none under way, with their cards.
    fn without_prefix(&self) -> Vec<(u32, String)> {
        let under_way = |eni: &str| self.jobs.values().any(|j| matches!(j, Job::Prefix(p) if p.eni == eni));
        let enis = self.cards.iter().flat_map(|c| c.store.enis().map(move |(e, _)| (c, e)));
        let lacking = enis.filter(|(c, e)| !e.trunk && !e.excluded && c.store.slots_used(&e.id) == Some(0));
        lacking.map(|(_, e)| (e.card, e.id.clone())).filter(|(_, id)| !under_way(id)).collect()
    }

    /// Cards without any interface that pods could use, or that is about to be: those that were never used (spec 01 §9.2),
    /// and card 0 where the primary interface's subnet is out of use (spec 01 §9.3).
    fn without_interface(&self) -> Vec<u32> {
        let coming = |card: u32| {
            self.jobs.values().any(|j| match j {
                Job::Create(c) => c.card == card,
                Job::Adopt(a) => a.eni.card == card,
                Job::Remove(r) => r.attached && r.eni.card == card,
                _ => false,
            })
        };
        let usable = |id: &str, trunk: bool, excluded: bool| !trunk && (!excluded || self.unconfirmed.contains(id));
        let empty = self.cards.iter().filter(|c| !c.store.enis().any(|(e, _)| usable(&e.id, e.trunk, e.excluded)));
        empty.map(super::CardPool::index).filter(|card| !coming(*card) && self.room(*card)).collect()
    }

    pub(super) fn prefix_answer(&mut self, now: Now, id: JobId, mut job: Prefix, result: Result<Answer, CloudError>) {
        match (job.stage, result) {
            (Stage::Look, Ok(Answer::Interfaces(list))) if list.iter().any(|i| i.eni == job.eni) => {
                let told = list.iter().find(|i| i.eni == job.eni);
                if let Some(told) = told.filter(|i| !i.ipv6_prefixes.is_empty()) {
                    let nets = self.blocks_told(told);
                    self.got_prefix(now, &job.eni, &nets);
                } else if told.is_some_and(|i| i.interface_type != "trunk") && !self.terminating {
                    job.stage = Stage::Assign;
                    let request = Request::AssignIpv6Prefix { eni: job.eni.clone() };
                    self.jobs.insert(id, Job::Prefix(job));
                    return self.call(now, id, request);
                }
            }
            (Stage::Assign, Ok(Answer::Ipv6Prefixes(list))) if !list.is_empty() => {
                let nets = self.one_prefix(&job.eni, &list);
                self.got_prefix(now, &job.eni, &nets);
            }
            (_, Ok(other)) => {
                self.unexpected("AssignIpv6Addresses", &other);
                let (kind, code) = (ErrorKind::Unknown, String::new());
                let message = format!("no prefix for {} was answered", job.eni);
                self.prefix_failed(now, &job.eni, CloudError { api: "AssignIpv6Addresses", kind, code, message });
            }
            (_, Err(error)) => self.prefix_failed(now, &job.eni, error),
        }
        self.ask(now.mono);
    }

    fn got_prefix(&mut self, now: Now, eni: &str, nets: &[IpNet]) {
        self.growth.succeed(self.card_of(eni), Way::Assign);
        for net in nets {
            self.log(Level::Info, format!("pods get addresses of {net} on {eni}"));
        }
        self.add_blocks(now, eni, Unit::Prefix, nets);
    }

    fn prefix_failed(&mut self, now: Now, eni: &str, error: CloudError) {
        self.count(Counter::AllocAddressesFailed);
        self.log(Level::Warn, format!("an interface has no IPv6 prefix: {error}"));
        if error.kind == ErrorKind::NotFound {
            self.verify(now);
        }
        self.growth.fail(now.mono, self.card_of(eni), Way::Assign, error, &mut self.random);
    }

    /// The card of an interface; that of the primary where it is gone.
    fn card_of(&self, eni: &str) -> u32 {
        self.cards.eni(eni).map_or(0, |e| e.card)
    }
}
