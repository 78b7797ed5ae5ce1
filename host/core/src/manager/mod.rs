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
//! | `mod.rs` | events, time |
//! | `cards.rs` | one pool per managed card |
//! | `pods.rs` | ADD, DEL, waiting |
//! | `decisions.rs` | what to do with an answer, when to ask again |
//! | `snapshot.rs` | the cards and all that lies around them, as the policy sees it |
//! | `node.rs` | what Kubernetes says of the node; the trunk |
//! | `jobs.rs` | chains of calls, and what they share |
//! | `assign.rs`, `create.rs`, `release.rs`, `remove.rs`, `adopt.rs` | one kind of job each |
//! | `intents.rs` | interfaces that are not attached yet, so that none stays behind |
//! | `family.rs`, `ipv6.rs` | what counts of an interface by family; a prefix for each |
//! | `other_unit.rs` | what is left when prefix delegation is switched |
//! | `boot.rs` | what is attached when the daemon starts |
//! | `readiness.rs` | whether the node may be called ready |
//! | `exclude.rs`, `groups.rs` | what tags of subnets and the primary's security groups mean for the others |
//! | `links.rs` | when news of the kernel lead to a look |
//! | `listing.rs` | EC2's view, call by call |
//! | `reconcile.rs`, `left_overs.rs` | what is done with it |
//! | `abandoned.rs` | what instances that are gone have left |
//! | `pace.rs` | back-off, refusals, history, jitter |
//! | `counters.rs` | what is counted, and what is under way |

mod abandoned;
mod adopt;
mod assign;
mod boot;
mod cards;
mod counters;
mod create;
mod decisions;
mod exclude;
mod family;
mod groups;
mod intents;
mod ipv6;
mod jobs;
mod left_overs;
mod links;
mod listing;
mod node;
mod other_unit;
mod pace;
mod pods;
mod readiness;
mod reconcile;
mod release;
mod remove;
mod snapshot;
mod types;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use cards::{CardPool, Cards, OnCard, managed_cards, on_cards, tags_decide};
pub use counters::{Activity, CleanUp, Counter, NotReady};
pub use intents::Making;
use pace::{Backoff, Growths, History, Random, Refused};
pub use types::{
    Add, Command, Decided, Event, JobId, Journal, Level, Now, Reconciled, Record, Refusal, Settings, WaiterId, Wanted,
};

use crate::cloud::{CloudError, ConnectionTracking, SubnetFacts};
use crate::ip::IpNet;
use crate::kube::{EniConfig, NodeFacts};
use crate::policy::Family;
use crate::store::{EniSpec, Store, Time};

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
    cards: Cards,
    /// None until the API server was reached.
    node: Option<NodeFacts>,
    out: Vec<Command>,
    random: Random,
    jobs: BTreeMap<JobId, jobs::Job>,
    next_job: JobId,
    waiters: VecDeque<pods::Waiter>,
    next_waiter: WaiterId,
    /// When to decide next, if anything asks for it.
    decide_at: Option<Time>,
    deciding: bool,
    /// What the `cidr-id`s of the node being decided on name.
    numbered: Vec<types::Block>,
    /// Why the last decision did nothing, for pods that wait.
    last_reason: String,
    growth: Growths,
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
    journal: Journal,
    /// What EC2 has taken back of late, oldest first.
    given_back: VecDeque<release::GivenBack>,
    /// Attached interfaces that EC2 has not confirmed as ours: their pods live on, new ones go elsewhere.
    unconfirmed: HashSet<String>,
    /// Attached interfaces whose subnet is tagged out of pod use.
    tagged_out: HashSet<String>,
    /// What pods hold and EC2 did not list last: gone, if IMDS does not show it either.
    doubted: reconcile::Doubted,
    /// How often in a row EC2 left out what pods have.
    doubt_rounds: u32,
    /// The look under way is about that alone.
    settling: bool,
    /// The next look leads to a listing whatever it shows.
    listing_wanted: bool,
    /// Set-ups that failed and are tried again, with their blocks.
    adoptions_due: Vec<adopt::Again>,
    adoption_tries: HashMap<String, u32>,
    /// What EC2 denies to take back.
    giving: Backoff,
    /// The security groups of interfaces other than the primary, as far as they are known.
    groups_of: HashMap<String, Vec<String>>,
    next_groups: Time,
    subnet_cidrs: HashMap<String, IpNet>,
    /// Interfaces whose route table the host's rules chose.
    tables: HashMap<String, u32>,
    /// Interfaces that were programmed.
    programmed: HashSet<String>,
    /// Set-ups under way of interfaces that are to be left alone meanwhile.
    in_vain: HashMap<JobId, EniSpec>,
    booted_at: Now,
    left_overs_due: Option<Time>,
    abandoned_due: Time,
    terminating: bool,
    /// The ENIConfig resolved last.
    eni_config: Option<EniConfig>,
    /// When to announce the wish for a trunk next; none where none is wanted, or it is there.
    announce_at: Option<Time>,
    announce_failures: u32,
    next_look: Time,
    links: links::Links,
    /// An attachment is not as it should be: the next look has EC2's view read.
    put_right_later: bool,
    /// When to look for blocks of the other unit.
    sweep_at: Option<Time>,
    /// EC2's view was read once.
    listed: bool,
    /// Why it could not be read the last time.
    unlisted: Option<CloudError>,
    /// The policy's first answer is here, or its silence.
    decided: bool,
    ready: bool,
}

impl Manager {
    /// A manager of an empty pool. [`Manager::boot`] tells it what is attached.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let ipv6 = settings.family == Family::Ipv6;
        let store = |card| Store::new(card, settings.unit, ipv6, settings.cooldown);
        let cards = Cards::new(&settings.cards, store);
        let announce_at = settings.pod_eni.then_some(Duration::ZERO);
        Self {
            random: Random::new(settings.seed),
            settings,
            cards,
            node: None,
            out: Vec::new(),
            jobs: BTreeMap::new(),
            next_job: 1,
            waiters: VecDeque::new(),
            next_waiter: 1,
            decide_at: None,
            deciding: false,
            numbered: Vec::new(),
            last_reason: String::new(),
            growth: Growths::default(),
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
            journal: Journal::default(),
            given_back: VecDeque::new(),
            unconfirmed: HashSet::new(),
            tagged_out: HashSet::new(),
            doubted: reconcile::Doubted::default(),
            doubt_rounds: 0,
            settling: false,
            listing_wanted: false,
            adoptions_due: Vec::new(),
            adoption_tries: HashMap::new(),
            giving: Backoff::default(),
            groups_of: HashMap::new(),
            next_groups: groups::EVERY,
            subnet_cidrs: HashMap::new(),
            tables: HashMap::new(),
            programmed: HashSet::new(),
            in_vain: HashMap::new(),
            booted_at: Now { mono: Duration::ZERO, unix: Duration::ZERO },
            left_overs_due: None,
            abandoned_due: Time::MAX,
            terminating: false,
            eni_config: None,
            announce_at,
            announce_failures: 0,
            next_look: SLOW,
            links: links::Links::default(),
            put_right_later: false,
            sweep_at: None,
            listed: false,
            unlisted: None,
            decided: false,
            ready: false,
        }
    }

    /// What is to be done, in order.
    pub fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.out)
    }

    /// The managed cards.
    #[must_use]
    pub fn cards(&self) -> &Cards {
        &self.cards
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

    /// Interfaces that the card may hold: the limit of the type or MAX_ENI, less those not managed and the place kept for
    /// a trunk (spec 01 §3.6). 0 for a card that is not managed.
    #[must_use]
    pub fn max_enis(&self, card: u32) -> u32 {
        self.cards
            .get(card)
            .map_or(0, |c| self.settings.max_enis.saturating_sub(c.unmanaged).saturating_sub(self.trunk_reserve(card)))
    }

    /// Chains of calls under way.
    #[must_use]
    pub fn jobs_under_way(&self) -> usize {
        self.jobs.len()
    }

    /// Whether the daemon is ending ([`Event::Terminating`]).
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.terminating
    }

    /// Whether nothing is half done that a daemon which ends now would leave so: no interface that is being made and not
    /// attached, none that is being removed. The journal knows of those; done is better.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        !self.jobs.values().any(|job| match job {
            jobs::Job::Create(create) => create.is_half_done(),
            jobs::Job::Remove(_) => true,
            _ => false,
        })
    }

    /// Whether a call is under way that may change the pool.
    #[must_use]
    pub fn busy(&self) -> bool {
        !self.jobs.is_empty() || self.deciding
    }

    // ---- events ----------------------------------------------------------------------------------------------------

    /// Something happened.
    pub fn handle(&mut self, now: Now, event: Event) {
        match event {
            Event::Decided(decided) => self.decided(now, *decided),
            Event::Ranked { job, subnets } => self.ranked(now, job, subnets),
            Event::Cloud { job, result } => self.cloud(now, job, result),
            Event::EniTable { eni, table } => self.note_table(eni, table),
            Event::EniReady { job, result } => self.eni_ready(now, job, result),
            Event::Node(facts) => self.node_changed(now, facts),
            Event::EniConfig { job, result } => self.eni_config_answer(now, job, result),
            Event::Announced { feature, result } => self.announced(now, &feature, result),
            Event::LinkMissing => self.look_for_change(now),
            Event::PolicyChanged => self.ask(now.mono),
            Event::LinkCame { mac } => self.link_came(now, &mac),
            Event::LinkWent { mac } => self.link_went(now, &mac),
            Event::LinksMissed => self.look_for_interfaces(now),
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
        self.end_late_waits(now);
        self.announce(now);
        self.sweep(now);
        self.refresh_groups(now);
        self.adopt_again(now);
        if now.mono >= self.next_look {
            self.next_look = self.links.look(now.mono, self.look_every());
            if std::mem::take(&mut self.put_right_later) {
                self.verify(now);
            }
            self.look(now);
        }
        self.search_abandoned(now);
        self.notice_readiness();
        if !self.deciding && self.decide_at.is_some_and(|at| at <= now.mono) {
            self.decide_at = None;
            if self.is_ipv6() {
                return self.keep_ipv6(now);
            }
            self.deciding = true;
            let (node, blocks) = self.numbered_snapshot(now);
            self.numbered = blocks;
            self.out.push(Command::Decide { node: Arc::new(node) });
        }
    }

    /// When [`Manager::tick`] has something to do, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self, now: Now) -> Time {
        let mut next = self.next_look.min(self.next_groups).min(self.abandoned_due);
        let mut consider = |at: Option<Time>| next = next.min(at.unwrap_or(next));
        if !self.deciding {
            consider(self.decide_at);
        }
        consider(self.waiters.iter().map(|w| w.deadline).min());
        consider(self.jobs.values().filter_map(jobs::Job::retry_at).min());
        consider(self.announce_at);
        consider(self.adoptions_due.iter().map(adopt::Again::at).min());
        consider(self.sweep_at);
        consider(self.given_back.front().map(release::GivenBack::forgotten_at));
        if !self.waiters.is_empty() {
            let just_after = Duration::from_millis(1);
            consider(self.cards.next_cooled(now.mono).map(|at| at + just_after));
        }
        next
    }

    /// Wants a decision at `at` or before.
    fn ask(&mut self, at: Time) {
        self.decide_at = Some(self.decide_at.map_or(at, |before| before.min(at)));
    }

    fn minute(&mut self, now: Now) -> &mut crate::policy::Minute {
        let held = u32::try_from(self.cards.assignments().count()).unwrap_or(u32::MAX);
        self.history.minute(self.minute_clock(now), held)
    }

    /// The clock of which the history's minutes are: in step with the wall clock's at the start, and never set back.
    fn minute_clock(&self, now: Now) -> Time {
        let started = self.booted_at.unix.saturating_sub(self.booted_at.mono);
        now.mono + Duration::from_secs(started.as_secs() % 60)
    }

    fn rest_of_minute(&self, now: Now) -> u32 {
        60 - u32::try_from(self.minute_clock(now).as_secs() % 60).unwrap_or(0)
    }

    fn count(&mut self, counter: Counter) {
        self.out.push(Command::Count(counter));
    }

    fn log(&mut self, level: Level, text: String) {
        self.out.push(Command::Log { level, text });
    }
}

#[cfg(test)]
mod tests;
