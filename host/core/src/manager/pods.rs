//! Pods: what one gets at once, who waits for what, and why there is nothing (spec 02 §3.3, §4).

use super::cards::CardPool;
use super::pace::Way;
use super::{Add, CALLS_PER_MINUTE, Command, Counter, MAX_WAITERS, Manager, Now, Refusal, UNHURRIED, WaiterId, Wanted};
use crate::cloud::{CloudError, ErrorKind};
use crate::store::{Assigned, Change, EniSpec, Error as StoreError, Key, PodMeta, Released, Stats, Time};

#[derive(Debug)]
pub(super) struct Waiter {
    pub id: WaiterId,
    pub key: Key,
    pub pod: PodMeta,
    pub wanted: Wanted,
    pub deadline: Time,
}

impl Manager {
    /// What the pod holds, by card.
    #[must_use]
    pub fn lookup(&self, key: &Key) -> Vec<Assigned> {
        self.cards.lookup(key)
    }

    /// A pod asks for addresses. What it has already it keeps, on whatever card (spec 02 W42). With
    /// [`Wanted::EveryCard`] the number of cards is remembered as the pod's interfaces.
    pub fn add(&mut self, now: Now, key: &Key, pod: &PodMeta, wanted: Wanted) -> Add {
        let held = self.cards.lookup(key);
        let enough = match wanted {
            Wanted::One => 1,
            Wanted::EveryCard => self.cards.len(),
        };
        if held.len() >= enough {
            return Add::Assigned(held);
        }
        // Those who wait were first; whatever is free by now is theirs.
        self.serve_waiters(now);
        if !self.waiters.iter().any(|w| w.wanted == wanted)
            && let Ok(assigned) = self.assign(now, key, pod, wanted)
        {
            self.ask(now.mono + UNHURRIED);
            return Add::Assigned(assigned);
        }
        self.count(Counter::NoAddress);
        self.minute(now).starved += 1;
        if let Some(refusal) = self.never(now) {
            return Add::Refused(refusal);
        }
        if self.waiters.len() >= MAX_WAITERS {
            return Add::Refused(Refusal::Crowded(self.waiters.len()));
        }
        let id = self.next_waiter;
        self.next_waiter += 1;
        let deadline = now.mono + self.settings.add_wait;
        self.waiters.push_back(Waiter { id, key: key.clone(), pod: pod.clone(), wanted, deadline });
        self.ask(now.mono);
        Add::Waiting(id)
    }

    /// A pod gives up what it holds, on every card. Ends its wait, if it waits.
    ///
    /// # Errors
    /// [`StoreError::UnknownPod`] if no card knows it.
    pub fn del(&mut self, now: Now, key: &Key) -> Result<Vec<Released>, StoreError> {
        let (gone, rest) = std::mem::take(&mut self.waiters).into_iter().partition(|w| w.key == *key);
        self.waiters = rest;
        for waiter in gone {
            self.out.push(Command::Resolve { waiter: waiter.id, outcome: Err(Refusal::Deleted) });
        }
        let released: Vec<Released> =
            self.cards.iter_mut().filter_map(|card| card.store.release(key, now.mono).ok()).collect();
        if released.is_empty() {
            return Err(StoreError::UnknownPod);
        }
        let nobodys = |r: &Released| {
            self.tagged_out.contains(&r.eni) || self.cards.get(r.card).is_some_and(|c| c.store.is_left_over(r.ip))
        };
        if released.iter().any(nobodys) {
            self.sweep_soon(now);
        }
        self.minute(now).deletes += 1;
        self.ask(now.mono + UNHURRIED);
        Ok(released)
    }

    /// The caller of a waiting ADD went away.
    pub fn cancel(&mut self, waiter: WaiterId) {
        self.waiters.retain(|w| w.id != waiter);
    }

    /// Takes changes back whose checkpoint could not be written, newest first.
    pub fn undo(&mut self, now: Now, changes: impl DoubleEndedIterator<Item = Change>) {
        for change in changes.rev() {
            if let Some(card) = self.cards.get_mut(change.card()) {
                card.store.undo(change);
            }
        }
        self.ask(now.mono + UNHURRIED);
    }

    fn assign(&mut self, now: Now, key: &Key, pod: &PodMeta, wanted: Wanted) -> Result<Vec<Assigned>, StoreError> {
        let timestamp = i64::try_from(now.unix.as_nanos()).unwrap_or(i64::MAX);
        let assigned = match wanted {
            Wanted::One => {
                let from = |card: &mut CardPool| card.store.assign(key, pod, now.mono, timestamp).ok();
                vec![self.cards.iter_mut().find_map(from).ok_or(StoreError::NoAddress)?]
            }
            Wanted::EveryCard => {
                let interfaces = u32::try_from(self.cards.len()).unwrap_or(u32::MAX);
                let pod = PodMeta { interfaces, ..pod.clone() };
                let mut assigned: Vec<Assigned> = Vec::with_capacity(self.cards.len());
                let mut failed = None;
                for card in self.cards.iter_mut() {
                    match card.store.assign(key, &pod, now.mono, timestamp) {
                        Ok(one) => assigned.push(one),
                        Err(error) => {
                            failed = Some(error);
                            break;
                        }
                    }
                }
                if let Some(error) = failed {
                    // All or none.
                    for change in assigned.into_iter().filter_map(|a| a.change) {
                        if let Some(card) = self.cards.get_mut(change.card()) {
                            card.store.undo(change);
                        }
                    }
                    return Err(error);
                }
                assigned
            }
        };
        let minute = self.minute(now);
        minute.adds += 1;
        let held = u32::try_from(self.cards.assignments().count()).unwrap_or(u32::MAX);
        let minute = self.history.minute(self.minute_clock(now), held);
        minute.peak_assigned = minute.peak_assigned.max(held);
        Ok(assigned)
    }

    /// Gives what is free to those who wait, in order of arrival. A pod that needs every card and finds one empty does
    /// not hold up those that need one address, nor they it.
    pub(super) fn serve_waiters(&mut self, now: Now) {
        let (mut one, mut every) = (true, true);
        for waiter in std::mem::take(&mut self.waiters) {
            let open = match waiter.wanted {
                Wanted::One => &mut one,
                Wanted::EveryCard => &mut every,
            };
            if *open {
                match self.assign(now, &waiter.key, &waiter.pod, waiter.wanted) {
                    Ok(assigned) => {
                        self.out.push(Command::Resolve { waiter: waiter.id, outcome: Ok(assigned) });
                        continue;
                    }
                    Err(_) => *open = false,
                }
            }
            self.waiters.push_back(waiter);
        }
    }

    /// Ends the waits whose time is over.
    pub(super) fn end_late_waits(&mut self, now: Now) {
        let late = self.waiters.iter().filter(|w| w.deadline <= now.mono).map(|w| (w.id, w.wanted)).collect::<Vec<_>>();
        for (id, wanted) in late {
            let refusal = match self.why(now, wanted) {
                Refusal::Policy(_) | Refusal::EniLimit { .. } | Refusal::SubnetFull { .. } if self.growing() > 0 => {
                    Refusal::Late { seconds: self.settings.add_wait.as_secs() }
                }
                other => other,
            };
            self.cancel(id);
            self.out.push(Command::Resolve { waiter: id, outcome: Err(refusal) });
        }
    }

    /// Pods that wait for an address of the card: one that any card can serve waits on the lowest.
    pub(super) fn waiting_on(&self, card: &CardPool) -> u32 {
        let lowest = self.cards.iter().next().map(CardPool::index);
        let waits = |wanted, key| match wanted {
            Wanted::One => lowest == Some(card.index),
            Wanted::EveryCard => card.store.lookup(key).is_none(),
        };
        let count = self.waiters.iter().filter(|w| waits(w.wanted, &w.key)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Why no address can come whatever the policy says.
    fn never(&self, now: Now) -> Option<Refusal> {
        if self.cooled_in_time(now) || !self.jobs.is_empty() {
            return None;
        }
        if self.terminating {
            Some(Refusal::Off("the daemon is stopping"))
        } else if !self.settings.provisioning {
            Some(Refusal::Off("DISABLE_NETWORK_RESOURCE_PROVISIONING or ENABLE_IMDS_ONLY_MODE is set"))
        } else if self.cordoned() {
            Some(Refusal::Off("the node is unschedulable and AWS_MANAGE_ENIS_NON_SCHEDULABLE is not set"))
        } else {
            None
        }
    }

    pub(super) fn cooled_in_time(&self, now: Now) -> bool {
        self.cards.next_cooled(now.mono).is_some_and(|at| at < now.mono + self.settings.add_wait)
    }

    /// Why those who wait get nothing, as things stand: on the cards that could serve them.
    pub(super) fn why(&mut self, now: Now, wanted: Wanted) -> Refusal {
        if let Some(refusal) = self.never(now) {
            return refusal;
        }
        if self.minute(now).ec2_calls >= CALLS_PER_MINUTE {
            return Refusal::Cloud(format!("the node has made its {CALLS_PER_MINUTE} calls of this minute"));
        }
        let cards: Vec<&CardPool> = match wanted {
            Wanted::One => self.cards.iter().collect(),
            // The first that has none is the one that holds it up.
            Wanted::EveryCard => self.cards.iter().find(|c| !c.store.has_free(now.mono)).into_iter().collect(),
        };
        let told = |error: &CloudError| match error.kind {
            ErrorKind::Throttled => Refusal::Throttled,
            ErrorKind::NoSubnet => Refusal::NoSubnet(error.message.clone()),
            _ => Refusal::Cloud(error.to_string()),
        };
        let shut = |card: u32, way| self.growth.shut(now.mono, card, way);
        if self.is_ipv6() {
            let both = cards.iter().flat_map(|c| [shut(c.index, Way::Assign), shut(c.index, Way::Create)]);
            if let Some((_, error)) = both.flatten().min_by_key(|(until, _)| *until) {
                return told(error);
            }
            return match self.growing() {
                0 => Refusal::Off("no interface has an IPv6 prefix, and none is on its way"),
                _ => Refusal::Late { seconds: self.settings.add_wait.as_secs() },
            };
        }
        let unit = self.settings.unit;
        let slots = self.settings.limits.slots_per_eni() as usize;
        let enis = cards.iter().flat_map(|c| c.store.enis().map(move |(e, _)| (c, e)));
        let with_slots: Vec<_> = enis
            .filter(|(_, e)| !self.is_closed(e))
            .filter(|(c, e)| c.store.slots_used(&e.id).is_some_and(|used| used < slots))
            .map(|(_, e)| e)
            .collect();
        let room = cards.iter().any(|c| self.room(c.index));
        let stats = cards.iter().map(|c| c.store.stats(now.mono)).fold(Stats::default(), |sum, one| sum + one);
        if !room && with_slots.is_empty() {
            let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            return Refusal::EniLimit { enis: count(stats.enis as u64), ips: count(stats.total) };
        }
        // What is left to be asked for, subnets and interfaces that rest aside.
        let rests = |e: &EniSpec| {
            self.refused.until(&e.subnet, unit, now.mono).is_some() || self.refused.eni_until(&e.id, now.mono).is_some()
        };
        let on = with_slots.iter().filter(|e| !rests(e)).map(|e| shut(e.card, Way::Assign));
        let new = cards.iter().filter(|c| self.room(c.index)).map(|c| shut(c.index, Way::Create));
        if let Some(Some((_, error))) = on.chain(new).min_by_key(|shut| shut.map(|(until, _)| until)) {
            return told(error);
        }
        let mut full: Vec<String> = with_slots.iter().map(|e| e.subnet.clone()).collect();
        if room {
            full.extend(self.usable_subnets());
        }
        full.sort();
        full.dedup();
        if !full.is_empty() && full.iter().all(|s| self.refused.until(s, unit, now.mono).is_some()) {
            return Refusal::SubnetFull { subnets: full };
        }
        if stats.cooling > 0 {
            let at = cards.iter().filter_map(|c| c.store.next_cooled(now.mono)).min().unwrap_or(now.mono);
            let count = u32::try_from(stats.cooling).unwrap_or(u32::MAX);
            return Refusal::Cooling { count, seconds: at.saturating_sub(now.mono).as_secs() + 1 };
        }
        // Growth has waited for EC2's first word.
        match &self.unlisted {
            Some(error) if !self.listed => told(error),
            _ => Refusal::Policy(self.last_reason.clone()),
        }
    }
}
