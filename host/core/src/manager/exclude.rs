//! Interfaces in subnets that are tagged out of pod use (spec 01 §6.4): pods on them live on, new ones go elsewhere, what no
//! pod has goes back to EC2. Looked at again whenever the subnets are listed, so that a tag works without a restart and
//! one that is taken away too (W16).

use std::time::Duration;

use super::jobs::SUBNETS_FRESH;
use super::{CALLS_PER_MINUTE, Level, Manager, Now};
use crate::cloud::{Request, SubnetFacts};
use crate::policy::Standing;
use crate::subnets::{self, Blame};

/// Nothing else having listed the subnets, their tags are read again after so long: two calls an hour.
const TAGS_EVERY: Duration = Duration::from_secs(1800);

impl Manager {
    /// Whether tags of subnets decide about attached interfaces. Under custom networking the ENIConfig decides.
    pub(super) fn tags_matter(&self) -> bool {
        self.settings.subnet_discovery && !self.settings.custom_networking && self.settings.ec2
    }

    /// Whether the subnets' tags are to be read again. A listing that fails excludes nothing (W10).
    pub(super) fn tags_due(&self, now: Now) -> bool {
        self.tags_matter() && self.subnets_seen.is_none_or(|at| now.mono.saturating_sub(at) >= TAGS_EVERY)
    }

    pub(super) fn subnets_request(&self) -> Request {
        let instance = &self.settings.instance;
        let (vpc, availability_zone) = (instance.vpc.clone(), instance.availability_zone.clone());
        Request::DescribeSubnets { vpc, availability_zone }
    }

    /// A policy asked for fresh numbers of the subnets (`note.refresh-subnets`): at most every half minute, and only within
    /// the node's budget of calls.
    pub(super) fn list_subnets_if_wanted(&mut self, now: Now) {
        let fresh = self.subnets_seen.is_some_and(|at| now.mono.saturating_sub(at) < SUBNETS_FRESH);
        if self.subnets_wanted && !fresh && self.minute(now).ec2_calls < CALLS_PER_MINUTE {
            self.list_subnets(now);
        }
    }

    /// Judges every attached interface by what the subnets are tagged with now.
    pub(super) fn exclude(&mut self, now: Now) {
        if !self.tags_matter() || self.subnets_seen.is_none() {
            return;
        }
        let tagged_out = |subnet: &str| {
            let tags = self.subnets.iter().find(|s| s.id == subnet).map(|s| &s.tags);
            subnets::excluded(tags, &self.settings.cluster_name)
        };
        let judged: Vec<(String, String, bool)> =
            self.cards.enis().map(|(e, _)| (e.id.clone(), e.subnet.clone(), tagged_out(&e.subnet))).collect();
        self.tagged_out.retain(|id| judged.iter().any(|(known, ..)| known == id));
        let mut changed = false;
        for (id, subnet, out) in judged {
            let was = if out { !self.tagged_out.insert(id.clone()) } else { self.tagged_out.remove(&id) };
            if was == out {
                continue;
            }
            changed = true;
            self.settle_service(&id);
            let now_it = if out { "is tagged out of pod use: new pods go elsewhere" } else { "is in pod use again" };
            self.log(Level::Info, format!("{id}: subnet {subnet} {now_it}"));
        }
        if changed {
            self.sweep_soon(now);
            self.ask(now.mono);
        }
    }

    /// Why no subnet may have a new interface, with what is to blame of each.
    pub(super) fn none_eligible(&self) -> String {
        let super::Settings { cluster_name, subnet_discovery, instance, .. } = &self.settings;
        let why = |s: &SubnetFacts| {
            let blame = subnets::blame(&s.tags, s.id == instance.subnet, cluster_name, *subnet_discovery);
            blame.or_else(|| (!self.of_family(&s.id)).then_some(Blame::NoIpv6Block))
        };
        let blamed: Vec<(&str, Blame)> = self.subnets.iter().filter_map(|s| Some((s.id.as_str(), why(s)?))).collect();
        let primary = self.subnets.iter().find(|s| s.id == instance.subnet);
        let primary_excluded = primary.is_some_and(|s| self.subnet_standing(s) == Standing::Forbidden);
        subnets::none_eligible(*subnet_discovery, !self.subnets.is_empty(), primary_excluded, &blamed)
    }

    /// An interface serves new pods unless its subnet is tagged out, or EC2 has not confirmed it as ours, or it could not be
    /// programmed.
    pub(super) fn settle_service(&mut self, eni: &str) {
        let out = self.tagged_out.contains(eni) || self.unconfirmed.contains(eni);
        if let Some(store) = self.cards.store_of(eni) {
            store.update_eni(eni, |spec| spec.excluded = out);
        }
    }

    /// Whether the interface is none of the policy's: not confirmed as ours, or not programmed (I1).
    pub(super) fn is_held_back(&self, eni: &str) -> bool {
        self.unconfirmed.contains(eni)
    }
}
