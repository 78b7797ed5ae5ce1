//! The stores brought in step with EC2's view (spec 01 §8). Nothing that a pod holds is dropped, and no block or
//! interface goes on the word of one source before it is a minute old.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::cards::{INSTANCE_TAG, is_managed};
use super::jobs::{Job, TAGS};
use super::listing::Verify;
use super::types::Block;
use super::{CleanUp, Command, Counter, Level, Manager, Now, Reconciled};
use crate::cloud::{AttachedInterface, Interface, Request};
use crate::ip::IpNet;
use crate::store::{Change, Error as StoreError, Time};

/// EC2 may be behind by so much: younger things are not dropped on its word.
const SETTLED: Duration = Duration::from_secs(60);

/// What pods hold and EC2's last listing does not show.
#[derive(Debug, Default)]
pub(super) struct Doubted {
    enis: Vec<String>,
    blocks: Vec<(String, IpNet)>,
}

impl Doubted {
    pub fn any(&self) -> bool {
        !self.enis.is_empty() || !self.blocks.is_empty()
    }
}

impl Manager {
    /// Brings the store in step with what EC2 says.
    pub(super) fn apply(&mut self, now: Now, job: &Verify) {
        if !self.listed {
            self.listed = true;
            // What was decided before, was decided without this.
            self.decided = false;
        }
        self.unlisted = None;
        self.doubted = Doubted::default();
        let mut unmanaged: BTreeMap<u32, u32> = BTreeMap::new();
        for interface in &job.interfaces {
            let Some(attachment) = &interface.attachment else { continue };
            let card = attachment.card;
            if self.cards.get(card).is_none()
                || self.is_being_made(&interface.eni)
                || self.is_being_removed(&interface.eni)
            {
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
                if self.settings.provisioning {
                    let spec = self.spec_of(interface, card, attachment.device_index);
                    self.dispose(now, spec, true, CleanUp::Eni);
                }
                continue;
            }
            // One without an address of the family cannot serve, as an EFA-only one (spec 03 §5.2).
            let address = self.own_address(interface.primary, &interface.ipv6);
            let other =
                interface.interface_type == "efa-only" || (address.is_none() && interface.interface_type != "trunk");
            if !primary && (other || !self.is_managed(interface)) {
                self.leave_alone(now, &id);
                // With pods on it, it stays and counts as held.
                *unmanaged.entry(card).or_default() += u32::from(self.cards.eni(&id).is_none());
                continue;
            }
            if primary {
                self.connection_tracking = interface.connection_tracking;
                let mut groups = interface.security_groups.clone();
                groups.sort();
                self.security_groups = Some((groups, now.mono));
            } else {
                let mut groups = interface.security_groups.clone();
                groups.sort();
                self.groups_of.insert(id.clone(), groups);
            }
            self.put_right(now, interface);
            let nets = self.blocks_told(interface);
            let known = self.cards.store_of(&id);
            let is_known = known.is_some();
            if let Some(store) = known {
                let (trunk, efa) = (interface.interface_type == "trunk", interface.interface_type == "efa");
                store.update_eni(&id, |spec| {
                    spec.trunk = trunk;
                    spec.efa = efa;
                });
                self.sync_blocks(now, job.started, &id, &nets);
            }
            if !is_known {
                self.out.push(Command::Reconciled { what: Reconciled::EniAdded, items: 1 });
            }
            if !is_known || self.unconfirmed.contains(&id) {
                let spec = self.spec_of(interface, card, attachment.device_index);
                self.adopt(spec, nets);
            }
        }
        for card in self.cards.iter_mut() {
            card.unmanaged = unmanaged.get(&card.index).copied().unwrap_or(0);
        }
        self.drop_missing(now, job);
        self.groups_of.retain(|id, _| job.interfaces.iter().any(|i| i.eni == *id));
        self.exclude(now);
        self.apply_groups(now);
    }

    pub(super) fn is_being_made(&self, id: &str) -> bool {
        self.jobs.values().any(|j| match j {
            Job::Create(c) => c.is_for(id),
            Job::Adopt(a) => a.eni.id == id && self.cards.eni(id).is_none(),
            _ => false,
        })
    }

    pub(super) fn is_being_removed(&self, id: &str) -> bool {
        self.jobs.values().any(|j| matches!(j, Job::Remove(r) if r.is_for(id)))
    }

    /// Spec 01 §8.6.
    fn is_managed(&self, interface: &Interface) -> bool {
        is_managed(&interface.tags, &self.settings.instance.instance_id, self.settings.manage_untagged)
    }

    /// An interface that is not ours: its pods, if any, live on, and nothing else happens to it.
    fn leave_alone(&mut self, now: Now, id: &str) {
        self.unconfirmed.remove(id);
        self.journal.managed.retain(|e| e != id);
        let under_way = self.forget_adoption(id);
        self.in_vain.extend(under_way);
        let Some(card) = self.cards.iter_mut().find(|c| c.store.eni(id).is_some()) else { return };
        match card.store.take_eni(id, now.mono) {
            Ok(spec) => {
                card.foreign_devices.push(spec.device_index);
                if self.programmed.remove(id) {
                    self.out.push(Command::LeaveEni { eni: spec });
                }
            }
            Err(error) => {
                self.unconfirmed.insert(id.to_owned());
                self.settle_service(id);
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
            self.start_minor(now, TAGS, request);
        }
        let ours = interface.tags.iter().any(|(k, v)| k == INSTANCE_TAG && *v == self.settings.instance.instance_id);
        if let Some(attachment) = &interface.attachment
            && ours
            && !attachment.delete_on_termination
            && (attachment.card, attachment.device_index) != (0, 0)
        {
            let (eni, attachment) = (interface.eni.clone(), attachment.id.clone());
            self.start_minor(now, "delete on termination", Request::SetDeleteOnTermination { eni, attachment });
        }
    }

    fn sync_blocks(&mut self, now: Now, started: Time, id: &str, listed: &[IpNet]) {
        let held: Vec<(IpNet, u32, Time)> =
            self.cards.cidrs(id, now.mono).map(|c| (c.net, c.assigned, c.since)).collect();
        for (net, assigned, since) in held {
            if listed.contains(&net) {
                if let Some(store) = self.cards.store_of(id) {
                    store.doubt(id, net, false);
                }
                continue;
            }
            // What only IMDS told at the start may be stale (spec 03 W-13): should EC2 be behind, the next listing has it.
            let settled = since + SETTLED < started;
            let Some(store) = self.cards.store_of(id) else { continue };
            if assigned > 0 {
                if settled {
                    store.doubt(id, net, true);
                    self.doubted.blocks.push((id.to_owned(), net));
                    self.count(Counter::ReconcileAddressDelFailed);
                }
                self.log(Level::Warn, format!("EC2 does not list {net} of {id}, but a pod has it: IMDS is asked"));
            } else if (settled || since == self.booted_at.mono) && store.force_cidr(id, net).is_ok() {
                self.log(Level::Warn, format!("EC2 does not list {net} of {id}: no pod gets it any more"));
                self.out.push(Command::Reconciled { what: Reconciled::BlockRemoved, items: 1 });
                if !settled {
                    self.next_look = self.next_look.min(now.mono + SETTLED);
                }
            }
        }
        let confirmed = u64::try_from(listed.len()).unwrap_or(u64::MAX);
        self.out.push(Command::Reconciled { what: Reconciled::BlockConfirmed, items: confirmed });
        let before = self.journal.returning.len();
        let (jobs, given_back) = (&self.jobs, &self.given_back);
        // Left from the last run: gone by now, or still here, and its call may still have its effect: it is made again.
        let mut again = Vec::new();
        let may_call = self.settings.provisioning;
        self.journal.returning.retain(|(eni, text)| {
            let under_way = jobs.values().any(|j| matches!(j, Job::Release(r) if r.holds(eni, text)));
            if eni != id || under_way {
                return true;
            }
            if let Some(given_back) = given_back.iter().find(|g| g.is(eni, Some(text))) {
                // EC2 lists it once more after its minute (spec 01 §8.4): it is ours again.
                return !(given_back.is_settled(now.mono) && listed.iter().any(|net| net.to_string() == *text));
            }
            let Some(net) = listed.iter().find(|net| net.to_string() == *text).filter(|_| may_call) else {
                return false;
            };
            again.push(Block { eni: eni.clone(), net: *net });
            true
        });
        if self.journal.returning.len() != before {
            self.write_journal();
        }
        let kept = &self.journal.returning;
        self.given_back.retain(|g| g.net().is_none_or(|net| kept.iter().any(|(e, n)| g.is(e, Some(n)) && n == net)));
        if !again.is_empty() {
            self.tell_ec2_of(now, id, &again);
        }
        let fresh: Vec<IpNet> = listed.iter().copied().filter(|net| !self.is_returning(id, *net)).collect();
        self.add_listed(now, id, &fresh);
    }

    /// Takes out of the journal what was to be given back of interfaces that are gone: neither list of EC2's has them, and
    /// the pool does not either.
    fn forget_returning_of_gone(&mut self, listed: &HashSet<&str>) {
        let (jobs, cards, given_back) = (&self.jobs, &self.cards, &self.given_back);
        let before = self.journal.returning.len();
        self.journal.returning.retain(|(eni, net)| {
            listed.contains(eni.as_str())
                || cards.eni(eni).is_some()
                || jobs.values().any(|j| matches!(j, Job::Release(r) if r.holds(eni, net)))
                || given_back.iter().any(|g| g.is(eni, Some(net)))
        });
        if self.journal.returning.len() != before {
            self.write_journal();
        }
    }

    /// Interfaces of the store that EC2 does not list.
    fn drop_missing(&mut self, now: Now, job: &Verify) {
        // Either list may be short: one that any of them names is there.
        let listed: HashSet<&str> =
            job.interfaces.iter().map(|i| &i.eni).chain(job.device_ids()).map(String::as_str).collect();
        let missing: Vec<String> = self
            .cards
            .enis()
            .filter(|(e, since)| !listed.contains(e.id.as_str()) && *since + SETTLED < job.started && !e.primary)
            .map(|(e, _)| e.id.clone())
            .collect();
        for id in missing {
            let Some(store) = self.cards.store_of(&id) else { continue };
            let taken = match store.take_eni(&id, now.mono) {
                // What rests on it rests for nobody.
                Err(StoreError::Cooling) => store.force_eni(&id).map(|(eni, _)| eni),
                other => other,
            };
            match taken {
                Ok(eni) => {
                    self.forget_adoption(&id);
                    self.journal.managed.retain(|e| *e != id);
                    self.unconfirmed.remove(&id);
                    self.write_journal();
                    self.log(Level::Warn, format!("EC2 does not list {id}: it is dropped"));
                    self.out.push(Command::Reconciled { what: Reconciled::EniRemoved, items: 1 });
                    self.out.push(Command::TearDownEni { eni });
                }
                Err(error) => {
                    self.count(Counter::ReconcileEniDelFailed);
                    self.log(Level::Warn, format!("EC2 does not list {id}: {error}; IMDS is asked"));
                    // New pods go elsewhere until it is listed again, and programmed.
                    self.unconfirmed.insert(id.clone());
                    self.settle_service(&id);
                    self.doubted.enis.push(id);
                }
            }
        }
        self.forget_returning_of_gone(&listed);
    }

    /// Brings the stores in step with IMDS where it is the only source (ENABLE_IMDS_ONLY_MODE): what comes is used, what is
    /// not shown goes if no pod has it.
    pub(super) fn follow_imds(&mut self, now: Now, shown: &[AttachedInterface]) {
        for interface in shown {
            let usable = self.cards.get(interface.card).is_some() && self.spec_shown(interface).address.is_some();
            if !usable || self.is_being_made(&interface.eni) {
                continue;
            }
            let nets = self.blocks_shown(interface);
            if self.cards.eni(&interface.eni).is_none() {
                self.out.push(Command::Reconciled { what: Reconciled::EniAdded, items: 1 });
                let spec = self.spec_shown(interface);
                self.adopt(spec, nets);
                continue;
            }
            let gone: Vec<(IpNet, u32)> = self
                .cards
                .cidrs(&interface.eni, now.mono)
                .filter(|c| c.since + SETTLED < now.mono && !nets.contains(&c.net))
                .map(|c| (c.net, c.assigned))
                .collect();
            for (net, assigned) in gone {
                if assigned > 0 {
                    // One source alone takes nothing from pods.
                    self.count(Counter::ReconcileAddressDelFailed);
                } else if self.cards.store_of(&interface.eni).is_some_and(|s| s.force_cidr(&interface.eni, net).is_ok())
                {
                    self.log(
                        Level::Warn,
                        format!("IMDS does not show {net} of {}: no pod gets it any more", interface.eni),
                    );
                    self.out.push(Command::Reconciled { what: Reconciled::BlockRemoved, items: 1 });
                }
            }
            self.add_listed(now, &interface.eni, &nets);
        }
        let gone: Vec<String> = self
            .cards
            .enis()
            .filter(|(e, since)| !e.primary && *since + SETTLED < now.mono && !shown.iter().any(|i| i.eni == e.id))
            .map(|(e, _)| e.id.clone())
            .collect();
        for id in gone {
            let Some(Ok(eni)) = self.cards.store_of(&id).map(|s| s.take_eni(&id, now.mono)) else {
                self.count(Counter::ReconcileEniDelFailed);
                continue;
            };
            self.forget_adoption(&id);
            self.journal.managed.retain(|e| *e != id);
            self.write_journal();
            self.log(Level::Warn, format!("IMDS does not show {id}: it is dropped"));
            self.out.push(Command::Reconciled { what: Reconciled::EniRemoved, items: 1 });
            self.out.push(Command::TearDownEni { eni });
        }
        self.ask(now.mono);
    }

    /// What pods hold goes only when both sources say that it is gone (spec 01 §8.3, §8.4): then no packet of theirs gets
    /// anywhere, and the address may be another node's.
    pub(super) fn settle_doubts(&mut self, now: Now, shown: &[AttachedInterface]) {
        let Doubted { enis, blocks } = std::mem::take(&mut self.doubted);
        let mut changed = Vec::new();
        for id in enis {
            if shown.iter().any(|i| i.eni == id) {
                continue;
            }
            let Some(Ok((eni, pods))) = self.cards.store_of(&id).map(|s| s.force_eni(&id)) else { continue };
            self.forget_adoption(&id);
            self.journal.managed.retain(|e| *e != id);
            self.unconfirmed.remove(&id);
            self.write_journal();
            self.log(Level::Error, format!("{id} is gone, say EC2 and IMDS: {pods} pods have lost their addresses"));
            changed.push(Change::Lost { card: eni.card });
            self.lost(Reconciled::EniRemoved, Some(Reconciled::EniLost), pods);
            self.out.push(Command::TearDownEni { eni });
        }
        for (id, net) in blocks {
            let of_eni = shown.iter().find(|i| i.eni == id);
            if of_eni.is_some_and(|i| self.blocks_shown(i).contains(&net)) {
                continue;
            }
            let Some(card) = self.cards.eni(&id).map(|e| e.card) else { continue };
            let Some(Ok(pods)) = self.cards.store_of(&id).map(|s| s.force_cidr(&id, net)) else { continue };
            self.log(
                Level::Error,
                format!("{net} of {id} is gone, say EC2 and IMDS: {pods} pods have lost their addresses"),
            );
            changed.push(Change::Lost { card });
            self.lost(Reconciled::BlockRemoved, None, pods);
        }
        if !changed.is_empty() {
            self.out.push(Command::Changed(changed));
            self.ask(now.mono);
        }
    }

    fn lost(&mut self, what: Reconciled, whole: Option<Reconciled>, pods: u32) {
        self.out.push(Command::Reconciled { what, items: 1 });
        self.out.extend(whole.map(|what| Command::Reconciled { what, items: 1 }));
        self.out.push(Command::Reconciled { what: Reconciled::AddressLost, items: u64::from(pods) });
    }
}
