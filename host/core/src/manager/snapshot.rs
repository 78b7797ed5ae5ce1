//! The node as the policy sees it at one instant.

use std::collections::HashMap;
use std::time::Duration;

use super::cards::CardPool;
use super::pace::Way;
use super::types::Block;
use super::{CALLS_PER_MINUTE, Manager, Now, REMOVE_GAP, TRIM_GAP, jobs::Job};
use crate::policy::{
    Card, Cidr, Eni, EniTrait, EniTraits, Gate, Gates, Limits, Node, Pairs, Standing, Subnet, Targets, Unit,
};
use crate::store::{EniSpec, Time};
use crate::subnets;

/// Whole seconds gone by, rounded down.
fn since(now: Time, then: Time) -> u32 {
    u32::try_from(now.saturating_sub(then).as_secs()).unwrap_or(u32::MAX)
}

/// Whole seconds to come, rounded up.
fn until(now: Time, then: Time) -> u32 {
    let left = then.saturating_sub(now);
    u32::try_from(left.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
}

impl Manager {
    /// What there is to know now.
    #[must_use]
    pub fn snapshot(&mut self, now: Now) -> Node {
        self.numbered_snapshot(now).0
    }

    /// The same, and which block each `cidr-id` names: its place in the list.
    pub(super) fn numbered_snapshot(&mut self, now: Now) -> (Node, Vec<Block>) {
        let calls = self.minute(now).ec2_calls;
        let t = now.mono;
        let mut blocks = Vec::new();
        let mut enis = Vec::new();
        for (card, spec, added) in self.cards.iter().flat_map(|c| c.store.enis().map(move |(e, added)| (c, e, added))) {
            let mut traits = Vec::new();
            let closed = self.is_closed(spec);
            for (set, t) in [
                (spec.primary, EniTrait::Primary),
                (spec.trunk, EniTrait::Trunk),
                (spec.efa, EniTrait::Efa),
                (self.tagged_out.contains(&spec.id), EniTrait::Excluded),
                (closed, EniTrait::Closed),
            ] {
                if set {
                    traits.push(t);
                }
            }
            let cidrs = card
                .store
                .cidrs(&spec.id, t)
                .map(|c| {
                    let id = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
                    blocks.push(Block { eni: spec.id.clone(), net: c.net });
                    Cidr {
                        id,
                        unit: c.unit,
                        size: u32::try_from(c.net.size()).unwrap_or(u32::MAX),
                        serving: c.serving,
                        assigned: c.assigned,
                        cooling: c.cooling,
                        // Free strictly after the cool-down: a distance of 0 would say "now".
                        cooled_in_seconds: c.cooled_at.map_or(0, |at| until(t, at).max(1)),
                        age_seconds: since(t, c.since),
                        idle_seconds: if c.assigned > 0 { Some(0) } else { c.last_used.map(|at| since(t, at)) },
                    }
                })
                .collect();
            enis.push(Eni {
                id: spec.id.clone(),
                card: spec.card,
                device_index: spec.device_index,
                subnet: spec.subnet.clone(),
                traits: EniTraits(traits),
                age_seconds: since(t, added),
                cidrs,
            });
        }
        let instance = &self.settings.instance;
        let node = Node {
            now: now.unix.as_secs(),
            name: self.settings.node_name.clone(),
            instance_type: instance.instance_type.clone(),
            availability_zone: instance.availability_zone.clone(),
            labels: self.node.as_ref().map(|n| n.labels.clone()).unwrap_or_default(),
            families: vec![self.settings.family],
            unit: self.settings.unit,
            limits: Limits {
                slots_per_eni: self.settings.limits.slots_per_eni(),
                ips_per_prefix: 16,
                max_pods: self.max_pods(),
            },
            cards: self.cards.iter().map(|c| self.snapshot_card(c)).collect(),
            enis,
            subnets: self.snapshot_subnets(t),
            gates: self.gates(now, calls),
            draining: self.is_draining(),
            booted_seconds: since(self.settings.booted + t, Duration::ZERO),
            history: self.history.list(),
            extra: Vec::new(),
        };
        (node, blocks)
    }

    fn snapshot_card(&self, card: &CardPool) -> Card {
        let (enis_in_flight, ips_in_flight) = self.in_flight(card.index);
        Card {
            index: card.index,
            max_enis: self.max_enis(card.index),
            enis_in_flight,
            ips_in_flight,
            waiting: self.waiting_on(card),
            // Spec 01 §10.2: other cards follow the pods with one spare address.
            configured: match card.index {
                0 => self.settings.targets,
                _ => Targets { warm_ips: 1, minimum_ips: 1, ..Targets::default() },
            },
        }
    }

    fn snapshot_subnets(&self, t: Time) -> Vec<Subnet> {
        let seen = self.subnets_seen.map_or(0, |at| since(t, at));
        let refused = |id: &str, unit| self.refused.until(id, unit, t).map_or(0, |at| until(t, at).max(1));
        let mut list: Vec<Subnet> = self
            .subnets
            .iter()
            .map(|s| Subnet {
                id: s.id.clone(),
                cidr: s.cidr.map(|c| c.to_string()).unwrap_or_default(),
                ipv6: s.ipv6_cidr.is_some(),
                primary: s.id == self.settings.instance.subnet,
                standing: self.standing(s.id.as_str(), &s.tags),
                free_ips: Some(s.free_ips),
                seen_seconds: seen,
                ips_refused_seconds: refused(&s.id, Unit::Ip),
                prefixes_refused_seconds: refused(&s.id, Unit::Prefix),
                tags: s.tags.clone(),
            })
            .collect();
        // Those that interfaces are in, and the node's own, are there even before EC2 was asked.
        let attached = self.cards.enis().map(|(e, _)| e.subnet.clone());
        let named = self.eni_config.iter().map(|c| c.subnet.clone());
        for id in attached.chain(named).chain([self.settings.instance.subnet.clone()]) {
            if list.iter().any(|s| s.id == id) {
                continue;
            }
            let primary = id == self.settings.instance.subnet;
            list.push(Subnet {
                cidr: String::new(),
                ipv6: false,
                primary,
                standing: match self.named_subnet(&id) {
                    Some(standing) => standing,
                    None if primary => Standing::Eligible,
                    None => Standing::Forbidden,
                },
                free_ips: None,
                seen_seconds: 0,
                ips_refused_seconds: refused(&id, Unit::Ip),
                prefixes_refused_seconds: refused(&id, Unit::Prefix),
                tags: Vec::new(),
                id,
            });
        }
        list
    }

    /// Under custom networking: whether it is the one that the ENIConfig names (I9).
    fn named_subnet(&self, id: &str) -> Option<Standing> {
        let named = self.eni_config.as_ref().is_some_and(|c| c.subnet == id);
        self.settings.custom_networking.then_some(if named { Standing::Eligible } else { Standing::Forbidden })
    }

    pub(super) fn standing(&self, id: &str, tags: &Pairs) -> Standing {
        if let Some(standing) = self.named_subnet(id) {
            return standing;
        }
        let primary = id == self.settings.instance.subnet;
        subnets::standing(tags, primary, &self.settings.cluster_name, self.settings.subnet_discovery)
    }

    /// Subnets in which an interface may be made, as far as they are known.
    pub(super) fn usable_subnets(&self) -> Vec<String> {
        if self.settings.custom_networking {
            return self.eni_config.iter().map(|c| c.subnet.clone()).collect();
        }
        if self.subnets.is_empty() {
            return vec![self.settings.instance.subnet.clone()];
        }
        let eligible = self.subnets.iter().filter(|s| self.standing(&s.id, &s.tags) == Standing::Eligible);
        let usable = eligible.filter(|s| self.of_family(&s.id));
        usable.map(|s| s.id.clone()).collect()
    }

    /// Whether the subnet has addresses of the family, as far as is known.
    pub(super) fn of_family(&self, subnet: &str) -> bool {
        let facts = self.subnets.iter().find(|s| s.id == subnet);
        facts.is_none_or(|s| !self.is_ipv6() || s.ipv6_cidr.is_some())
    }

    /// Ways to grow that there are: a slot on an interface, room on a card.
    fn ways(&self) -> Vec<(u32, Way)> {
        let (slots, coming) = (self.settings.limits.slots_per_eni(), self.slots_under_way());
        let has_slot = |card: &CardPool, eni: &EniSpec| {
            let used = card.store.slots_used(&eni.id).and_then(|used| u32::try_from(used).ok()).unwrap_or(u32::MAX);
            !self.is_closed(eni) && used.saturating_add(coming.get(&eni.id).copied().unwrap_or(0)) < slots
        };
        let of_card = |card: &CardPool| {
            let assign = card.store.enis().any(|(eni, _)| has_slot(card, eni)).then_some((card.index, Way::Assign));
            let create = self.room(card.index).then_some((card.index, Way::Create));
            assign.into_iter().chain(create).collect::<Vec<_>>()
        };
        self.cards.iter().flat_map(of_card).collect()
    }

    /// When growth may go on, if all ways that there are, are held back. One that is open is enough: what the policy asks
    /// for of the others, the host drops.
    fn held_back_until(&self, t: Time) -> Option<Time> {
        let until = |(card, way)| self.growth.shut(t, card, way).map(|(until, _)| until);
        self.ways().into_iter().map(until).min().flatten()
    }

    pub(super) fn gates(&self, now: Now, calls: u32) -> Gates {
        let t = now.mono;
        let at = |when: Option<Time>| when.map_or(Gate::Open, |when| Gate::OpensIn(until(t, when).max(1)));
        let left = CALLS_PER_MINUTE.saturating_sub(calls);
        let rest_of_minute = self.rest_of_minute(now);
        let off = self.terminating || !self.settings.provisioning;
        let (ipv6, cordoned) = (self.is_ipv6(), self.cordoned());
        let shut = |gate: Gate, off: bool| match gate {
            _ if off => Gate::Closed,
            Gate::Open if left == 0 => Gate::OpensIn(rest_of_minute),
            other => other,
        };
        let tidying = self.is_tidying(now) || self.is_new_here(now);
        let denied = self.giving.shut_until(t);
        let after = |last: Option<Time>, gap| last.map(|l| l + gap).filter(|when| *when > t).max(denied);
        Gates {
            grow: shut(if tidying { Gate::OpensIn(1) } else { at(self.held_back_until(t)) }, off || ipv6 || cordoned),
            release: shut(at(after(self.last_trim, TRIM_GAP)), off || ipv6),
            // Until EC2 was heard nobody knows which one is a trunk or an EFA (I1).
            remove: shut(at(after(self.last_removal, REMOVE_GAP)), off || ipv6 || cordoned || !self.listed),
            ec2_calls_left: left,
        }
    }

    /// Room for one more interface on the card (spec 01 §3.6), counting what is under way (W11).
    pub(super) fn room(&self, card: u32) -> bool {
        let held = self.cards.get(card).map_or(0, |c| c.store.enis().count());
        u32::try_from(held).unwrap_or(u32::MAX) + self.in_flight(card).0 < self.max_enis(card)
    }

    /// Interfaces and addresses under way on the card.
    pub(super) fn in_flight(&self, card: u32) -> (u32, u32) {
        let size = |unit, count: u32| if unit == Unit::Prefix { count.saturating_mul(16) } else { count };
        let mut enis = 0;
        let mut ips = 0u32;
        for job in self.jobs.values() {
            match job {
                Job::Create(c) if c.card == card => {
                    enis += 1;
                    ips = ips.saturating_add(size(c.unit, c.count));
                }
                Job::Assign(a) if a.card == card => ips = ips.saturating_add(size(a.unit, a.count)),
                Job::Remove(r) if r.attached && r.eni.card == card => enis += 1,
                Job::Adopt(a) if a.eni.card == card && self.cards.eni(&a.eni.id).is_none() => enis += 1,
                _ => {}
            }
        }
        (enis, ips)
    }

    /// Jobs that may bring addresses.
    pub(super) fn growing(&self) -> usize {
        self.jobs
            .values()
            .filter(|j| matches!(j, Job::Create(_) | Job::Assign(_) | Job::Adopt(_) | Job::Prefix(_)))
            .count()
    }

    /// Whether slots or places are about to be free again.
    pub(super) fn shrinking(&self) -> bool {
        self.jobs.values().any(|j| matches!(j, Job::Release(_) | Job::Remove(_)))
    }

    pub(super) fn slots_under_way(&self) -> HashMap<String, u32> {
        let mut slots = HashMap::new();
        for job in self.jobs.values() {
            match job {
                Job::Assign(a) => *slots.entry(a.eni.clone()).or_default() += a.count,
                // EC2 counts them until it has taken them back.
                Job::Release(r) => {
                    for eni in r.enis() {
                        *slots.entry(eni.to_owned()).or_default() += 1;
                    }
                }
                _ => {}
            }
        }
        slots
    }
}
