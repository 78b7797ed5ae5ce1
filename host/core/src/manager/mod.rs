//! The pool manager: a state machine, event and time in, commands out.
//!
//! ```text
//! ADD, DEL, a job's end, a deadline ─▶ [`Manager`] ─▶ Decide ─▶ Decided ─▶ check ─▶ jobs ─▶ Cloud, SetUpEni ─▶ …
//! ```
//!
//! It starts every EC2 call and waits for none: a call is a step of a job whose end is an event, and what is under way
//! is a fact in the snapshot. The daemon drives it with tokio and the wall clock, a simulation with an event queue and
//! virtual time; neither has a rule of its own. All methods return at once; what is to be done lies in
//! [`Manager::take_commands`], to be carried out in order.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | pods: ADD, DEL, waiting; decisions: when to ask, what to do with the answer |
//! | `snapshot.rs` | the store and all that lies around it, as the policy sees it |
//! | `jobs.rs` | chains of calls, and what they share |
//! | `assign.rs`, `create.rs`, `release.rs`, `remove.rs` | one kind of job each |
//! | `verify.rs` | what is attached when the daemon starts, and what EC2 says of it |
//! | `pace.rs` | back-off, refusals, history, jitter |

mod assign;
mod create;
mod jobs;
mod pace;
mod release;
mod remove;
mod snapshot;
mod types;
mod verify;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pace::{Backoff, History, Random, Refused};
pub use types::{
    Add, Command, Counter, Decided, Event, JobId, Journal, Level, Now, Record, Refusal, Settings, WaiterId,
};

use crate::cloud::{ConnectionTracking, ErrorKind, SubnetFacts};
use crate::ip::Ipv4Net;
use crate::policy::{EniTrait, Gate};
use crate::store::{Assigned, Change, Error as StoreError, Key, PodMeta, Released, Store, Time};
use crate::validate::{self, UnderWay};

/// Pods that may wait at one time; more than any node can run.
const MAX_WAITERS: usize = 2048;
/// An ADD or DEL that leaves addresses free is decided upon within this time; a burst of them once.
const UNHURRIED: Duration = Duration::from_millis(50);
/// With nothing else to wake it the manager looks at what is attached.
const SLOW: Duration = Duration::from_secs(600);
/// Between trimming runs (spec 01 §1.9, I11).
const TRIM_GAP: Duration = Duration::from_secs(30);
/// Between removals; the reference's tick.
const REMOVE_GAP: Duration = Duration::from_secs(5);
/// EC2 calls that a node makes in a minute before it slows itself down.
const CALLS_PER_MINUTE: u32 = 120;

/// One node's pool.
#[derive(Debug)]
pub struct Manager {
    settings: Settings,
    store: Store,
    out: Vec<Command>,
    random: Random,
    jobs: BTreeMap<JobId, jobs::Job>,
    next_job: JobId,
    waiters: VecDeque<Waiter>,
    next_waiter: WaiterId,
    /// When to decide next, if anything asks for it.
    decide_at: Option<Time>,
    deciding: bool,
    /// What the `cidr-id`s of the node being decided on name.
    numbered: Vec<types::Block>,
    /// Why the last decision did nothing, for pods that wait.
    last_reason: String,
    growth: Backoff,
    last_trim: Option<Time>,
    last_removal: Option<Time>,
    history: History,
    subnets: Vec<SubnetFacts>,
    subnets_seen: Option<Time>,
    subnets_wanted: bool,
    refused: Refused,
    security_groups: Option<(Vec<String>, Time)>,
    connection_tracking: Option<ConnectionTracking>,
    /// Attachment ids as far as they are known.
    attachments: HashMap<String, String>,
    /// Device indexes in use by interfaces that are not in the store.
    foreign_devices: Vec<u32>,
    unmanaged: u32,
    journal: Journal,
    /// What EC2 has taken back of late, oldest first.
    given_back: VecDeque<release::GivenBack>,
    /// Attached interfaces that EC2 has not confirmed as ours: their pods live on, new ones go elsewhere.
    unconfirmed: HashSet<String>,
    subnet_cidrs: HashMap<String, Ipv4Net>,
    booted_at: Now,
    left_overs_seen: Option<Time>,
    terminating: bool,
    next_look: Time,
}

#[derive(Debug)]
struct Waiter {
    id: WaiterId,
    key: Key,
    pod: PodMeta,
    deadline: Time,
}

impl Manager {
    /// A manager of an empty pool. [`Manager::boot`] tells it what is attached.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let store = Store::new(settings.unit, false, settings.cooldown);
        Self {
            random: Random::new(settings.seed),
            settings,
            store,
            out: Vec::new(),
            jobs: BTreeMap::new(),
            next_job: 1,
            waiters: VecDeque::new(),
            next_waiter: 1,
            decide_at: None,
            deciding: false,
            numbered: Vec::new(),
            last_reason: String::new(),
            growth: Backoff::default(),
            last_trim: None,
            last_removal: None,
            history: History::default(),
            subnets: Vec::new(),
            subnets_seen: None,
            subnets_wanted: false,
            refused: Refused::default(),
            security_groups: None,
            connection_tracking: None,
            attachments: HashMap::new(),
            foreign_devices: Vec::new(),
            unmanaged: 0,
            journal: Journal::default(),
            given_back: VecDeque::new(),
            unconfirmed: HashSet::new(),
            subnet_cidrs: HashMap::new(),
            booted_at: Now { mono: Duration::ZERO, unix: Duration::ZERO },
            left_overs_seen: None,
            terminating: false,
            next_look: SLOW,
        }
    }

    /// What is to be done, in order.
    pub fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.out)
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Pods that wait for an address now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Interfaces on the card that are not ours to use.
    #[must_use]
    pub fn unmanaged(&self) -> u32 {
        self.unmanaged
    }

    /// Chains of calls under way.
    #[must_use]
    pub fn jobs_under_way(&self) -> usize {
        self.jobs.len()
    }

    /// Whether a call is under way that may change the pool.
    #[must_use]
    pub fn busy(&self) -> bool {
        !self.jobs.is_empty() || self.deciding
    }

    // ---- pods ------------------------------------------------------------------------------------------------------

    /// A pod asks for an address.
    pub fn add(&mut self, now: Now, key: &Key, pod: &PodMeta) -> Add {
        if let Some(held) = self.store.lookup(key) {
            return Add::Assigned(held);
        }
        // Those who wait were first; whatever is free by now is theirs.
        self.serve_waiters(now);
        if self.waiters.is_empty()
            && let Ok(assigned) = self.assign(now, key, pod)
        {
            self.ask(now.mono + UNHURRIED);
            return Add::Assigned(assigned);
        }
        self.out.push(Command::Count(Counter::NoAddress));
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
        self.waiters.push_back(Waiter { id, key: key.clone(), pod: pod.clone(), deadline });
        self.ask(now.mono);
        Add::Waiting(id)
    }

    /// A pod gives its address up. Ends its wait, if it waits.
    ///
    /// # Errors
    /// [`StoreError::UnknownPod`].
    pub fn del(&mut self, now: Now, key: &Key) -> Result<Released, StoreError> {
        let (gone, rest) = std::mem::take(&mut self.waiters).into_iter().partition(|w| w.key == *key);
        self.waiters = rest;
        for waiter in gone {
            self.out.push(Command::Resolve { waiter: waiter.id, outcome: Err(Refusal::Deleted) });
        }
        let released = self.store.release(key, now.mono)?;
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
            self.store.undo(change);
        }
        self.ask(now.mono + UNHURRIED);
    }

    fn assign(&mut self, now: Now, key: &Key, pod: &PodMeta) -> Result<Assigned, StoreError> {
        let timestamp = i64::try_from(now.unix.as_nanos()).unwrap_or(i64::MAX);
        let assigned = self.store.assign(key, pod, now.mono, timestamp)?;
        let minute = self.minute(now);
        minute.adds += 1;
        let held = u32::try_from(self.store.assignments().count()).unwrap_or(u32::MAX);
        let minute = self.history.minute(now.mono, held);
        minute.peak_assigned = minute.peak_assigned.max(held);
        Ok(assigned)
    }

    /// Gives what is free to those who wait, in order of arrival.
    fn serve_waiters(&mut self, now: Now) {
        while let Some(waiter) = self.waiters.pop_front() {
            match self.assign(now, &waiter.key, &waiter.pod) {
                Ok(assigned) => self.out.push(Command::Resolve { waiter: waiter.id, outcome: Ok(assigned) }),
                Err(_) => {
                    self.waiters.push_front(waiter);
                    return;
                }
            }
        }
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
        } else {
            None
        }
    }

    fn cooled_in_time(&self, now: Now) -> bool {
        self.store.next_cooled(now.mono).is_some_and(|at| at < now.mono + self.settings.add_wait)
    }

    /// Why those who wait get nothing, as things stand.
    fn why(&mut self, now: Now) -> Refusal {
        if let Some(refusal) = self.never(now) {
            return refusal;
        }
        if self.minute(now).ec2_calls >= CALLS_PER_MINUTE {
            return Refusal::Cloud(format!("the node has made its {CALLS_PER_MINUTE} calls of this minute"));
        }
        if let (Some(_), Some(error)) = (self.growth.shut_until(now.mono), &self.growth.last) {
            return match error.kind {
                ErrorKind::Throttled => Refusal::Throttled,
                _ => Refusal::Cloud(error.to_string()),
            };
        }
        let unit = self.settings.unit;
        let held: Vec<_> = self.store.enis().map(|(e, _)| e).filter(|e| !e.trunk && !e.excluded).collect();
        let slots = self.settings.limits.slots_per_eni() as usize;
        let with_slots: Vec<_> =
            held.iter().filter(|e| self.store.slots_used(&e.id).is_some_and(|used| used < slots)).collect();
        let room = self.room();
        if !room && with_slots.is_empty() {
            let ips = u32::try_from(self.store.stats(now.mono).total).unwrap_or(u32::MAX);
            let enis = u32::try_from(self.store.enis().count()).unwrap_or(u32::MAX);
            return Refusal::EniLimit { enis, ips };
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
        let stats = self.store.stats(now.mono);
        if stats.cooling > 0 {
            let at = self.store.next_cooled(now.mono).unwrap_or(now.mono);
            let count = u32::try_from(stats.cooling).unwrap_or(u32::MAX);
            return Refusal::Cooling { count, seconds: at.saturating_sub(now.mono).as_secs() + 1 };
        }
        Refusal::Policy(self.last_reason.clone())
    }

    // ---- events ----------------------------------------------------------------------------------------------------

    /// Something happened.
    pub fn handle(&mut self, now: Now, event: Event) {
        match event {
            Event::Decided(decided) => self.decided(now, *decided),
            Event::Ranked { job, subnets } => self.ranked(now, job, subnets),
            Event::Cloud { job, result } => self.cloud(now, job, result),
            Event::EniReady { job, result } => self.eni_ready(now, job, result),
            Event::PolicyChanged => self.ask(now.mono),
            Event::Terminating => {
                self.terminating = true;
                for waiter in std::mem::take(&mut self.waiters) {
                    let outcome = Err(Refusal::Off("the daemon is stopping"));
                    self.out.push(Command::Resolve { waiter: waiter.id, outcome });
                }
            }
        }
        self.tick(now);
    }

    /// Time has passed: does what is due. Harmless at any moment.
    pub fn tick(&mut self, now: Now) {
        self.serve_waiters(now);
        self.retry_jobs(now);
        self.forget_given_back(now);
        let late = self.waiters.iter().filter(|w| w.deadline <= now.mono).map(|w| w.id).collect::<Vec<_>>();
        if !late.is_empty() {
            let refusal = match self.why(now) {
                Refusal::Policy(_) | Refusal::EniLimit { .. } | Refusal::SubnetFull { .. } if self.growing() > 0 => {
                    Refusal::Late { seconds: self.settings.add_wait.as_secs() }
                }
                other => other,
            };
            for id in late {
                self.cancel(id);
                self.out.push(Command::Resolve { waiter: id, outcome: Err(refusal.clone()) });
            }
        }
        if now.mono >= self.next_look {
            self.next_look = now.mono + SLOW;
            self.look(now);
        }
        if !self.deciding && self.decide_at.is_some_and(|at| at <= now.mono) {
            self.decide_at = None;
            self.deciding = true;
            let (node, blocks) = self.numbered_snapshot(now);
            self.numbered = blocks;
            self.out.push(Command::Decide { node: Arc::new(node) });
        }
    }

    /// When [`Manager::tick`] has something to do, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self, now: Now) -> Time {
        let mut next = self.next_look;
        let mut consider = |at: Option<Time>| next = next.min(at.unwrap_or(next));
        if !self.deciding {
            consider(self.decide_at);
        }
        consider(self.waiters.iter().map(|w| w.deadline).min());
        consider(self.jobs.values().filter_map(jobs::Job::retry_at).min());
        consider(self.given_back.front().map(release::GivenBack::forgotten_at));
        if !self.waiters.is_empty() {
            let just_after = Duration::from_millis(1);
            consider(self.store.next_cooled(now.mono).map(|at| at + just_after));
        }
        next
    }

    // ---- decisions -------------------------------------------------------------------------------------------------

    /// Wants a decision at `at` or before.
    fn ask(&mut self, at: Time) {
        self.decide_at = Some(self.decide_at.map_or(at, |before| before.min(at)));
    }

    fn decided(&mut self, now: Now, decided: Decided) {
        self.deciding = false;
        let Decided { node, plan, reason, wake_after, refresh_subnets, .. } = decided;
        self.last_reason = reason;
        self.subnets_wanted |= refresh_subnets;
        let plan = plan.unwrap_or_default();
        let asked_to_grow = !plan.grow.is_empty();
        let under_way = UnderWay { slots: self.slots_under_way() };
        let checked = validate::check(&node, &plan, &under_way);
        for _ in &checked.dropped {
            self.out.push(Command::Count(Counter::PlanActionDropped));
        }
        let mut started = Vec::new();
        let mut dropped = checked.dropped;
        // On each card the first way to grow is taken; when EC2 refuses it, the next decision knows and takes another.
        let mut grown = Vec::new();
        for growth in &checked.grow {
            let Some(card) = validate::card_of(&node, growth) else { continue };
            if grown.contains(&card) {
                continue;
            }
            match self.start_growth(now, growth) {
                Ok(()) => {
                    grown.push(card);
                    started.push(validate::describe(growth));
                }
                Err(reason) => {
                    dropped.push(validate::Dropped { action: validate::describe(growth), reason });
                }
            }
        }
        started.extend(self.start_releases(now, &checked.release, &mut dropped));
        for id in &checked.remove {
            match self.start_removal(now, id) {
                Ok(()) => started.push(format!("remove {id}")),
                Err(error) => {
                    dropped.push(validate::Dropped { action: format!("remove {id}"), reason: format!("I2: {error}") });
                }
            }
        }
        self.apply_drain(&checked.drain);
        if !grown.is_empty() {
            // What is under way now counts; there may be more to do.
            self.ask(now.mono);
        }
        let refused = dropped.first().map(|d| format!(" (the host: {}: {})", d.action, d.reason)).unwrap_or_default();
        self.out.push(Command::Record(Box::new(Record { node: node.clone(), started, dropped })));
        if let Some(seconds) = wake_after {
            self.ask(now.mono + Duration::from_secs(u64::from(seconds.max(1))));
        }
        self.wake_for(now, &node);
        if asked_to_grow && grown.is_empty() {
            // It asked, and the host refused: a pod that waits is told so.
            self.last_reason.push_str(&refused);
        }
        if grown.is_empty() {
            self.fail_hopeless(now);
        }
    }

    /// The deadlines that the host knows itself: a gate that opens, an address that has cooled, an interface that turns
    /// a minute, a subnet that may be asked again.
    fn wake_for(&mut self, now: Now, node: &crate::policy::Node) {
        for gate in [node.gates.grow, node.gates.release, node.gates.remove] {
            if let Gate::OpensIn(seconds) = gate {
                self.ask(now.mono + Duration::from_secs(u64::from(seconds)));
            }
        }
        if let Some(at) = self.store.next_cooled(now.mono) {
            self.ask(at + Duration::from_millis(1));
        }
        let min_age = validate::MIN_ENI_AGE_SECONDS;
        let young = node.enis.iter().filter(|e| e.age_seconds < min_age && !e.traits.has(EniTrait::Primary));
        if let Some(seconds) = young.map(|e| min_age - e.age_seconds).min() {
            self.ask(now.mono + Duration::from_secs(u64::from(seconds)));
        }
        if let Some(at) = self.refused.next(now.mono) {
            self.ask(at);
        }
    }

    /// Those who wait while nothing is under way, nothing cools in time and no gate opens in time wait for nothing.
    fn fail_hopeless(&mut self, now: Now) {
        // What is being given back makes room for what is needed.
        if self.waiters.is_empty()
            || self.growing() > 0
            || self.shrinking()
            || self.verifying()
            || self.cooled_in_time(now)
        {
            return;
        }
        // The decision may be older than the newest pod, or than what has failed meanwhile.
        if self.decide_at.is_some_and(|at| at <= now.mono) {
            return;
        }
        let last = self.waiters.iter().map(|w| w.deadline).max().unwrap_or_default();
        let calls = self.minute(now).ec2_calls;
        if let Gate::OpensIn(seconds) = self.gates(now, calls).grow
            && now.mono + Duration::from_secs(u64::from(seconds)) < last
        {
            return;
        }
        let refusal = self.why(now);
        for waiter in std::mem::take(&mut self.waiters) {
            self.out.push(Command::Resolve { waiter: waiter.id, outcome: Err(refusal.clone()) });
        }
    }

    fn minute(&mut self, now: Now) -> &mut crate::policy::Minute {
        let held = u32::try_from(self.store.assignments().count()).unwrap_or(u32::MAX);
        self.history.minute(now.mono, held)
    }

    fn log(&mut self, level: Level, text: String) {
        self.out.push(Command::Log { level, text });
    }
}

#[cfg(test)]
mod tests;
