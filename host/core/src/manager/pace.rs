//! When to ask, when to hold back, and what the past minutes were like.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use crate::cloud::{CloudError, ErrorKind};
use crate::policy::{Minute, Unit};
use crate::store::Time;

/// A small generator of jitter and tokens: splitmix64, so that a seed gives the same run on every machine.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `base` and up to `percent` more.
    pub fn jitter(&mut self, base: Duration, percent: u32) -> Duration {
        let share = u32::try_from(self.next() % 1000).unwrap_or(0);
        base + base * percent / 100 * share / 1000
    }

    /// A version-4-like UUID: EC2's idempotency token.
    pub fn token(&mut self) -> String {
        let (a, b) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xfff,
            0x8000 | (b >> 48 & 0x3fff),
            b & 0xffff_ffff_ffff
        )
    }
}

/// A gate that a failure closes: 5 s at first, doubling up to 5 min, with jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Time>,
    pub last: Option<CloudError>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(5);
    const LONGEST: Duration = Duration::from_secs(300);

    pub fn fail(&mut self, now: Time, error: CloudError, random: &mut Random) {
        // Calls that were under way together fail together: one step, not one for each.
        if self.until.is_none_or(|until| now >= until) {
            let delay = (Self::FIRST * 2u32.saturating_pow(self.failures.min(10))).min(Self::LONGEST);
            self.until = Some(now + random.jitter(delay, 30));
            self.failures += 1;
        }
        self.last = Some(error);
    }

    pub fn succeed(&mut self) {
        *self = Self::default();
    }

    /// When it opens, if it is shut.
    pub fn shut_until(&self, now: Time) -> Option<Time> {
        self.until.filter(|until| *until > now)
    }
}

/// What can be asked for on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Way {
    /// More on an attached interface.
    Assign,
    /// One more interface.
    Create,
}

/// The gates of growth. That EC2 makes no interface holds back interfaces alone: addresses may still be had on those that
/// are there. That it gives no addresses holds back both (spec 01 §3.5: no interface is made because of an error). Each on
/// its card; throttling is the account's, and holds back all.
#[derive(Debug, Default)]
pub(super) struct Growths {
    ways: BTreeMap<(u32, Way), Backoff>,
    throttled: Backoff,
    /// What failed last, with nothing granted since.
    pub last: Option<CloudError>,
}

impl Growths {
    pub fn fail(&mut self, now: Time, card: u32, way: Way, error: CloudError, random: &mut Random) {
        let throttled = error.kind == ErrorKind::Throttled;
        let gate = if throttled { &mut self.throttled } else { self.ways.entry((card, way)).or_default() };
        gate.fail(now, error.clone(), random);
        self.last = Some(error);
    }

    /// A failure that shuts nothing: the next way to grow is open.
    pub fn note(&mut self, error: CloudError) {
        self.last = Some(error);
    }

    pub fn succeed(&mut self, card: u32, way: Way) {
        self.ways.remove(&(card, way));
        self.throttled.succeed();
        self.last = None;
    }

    /// The wait of the way begins anew with the next failure; nothing is said of EC2.
    pub fn reopen(&mut self, card: u32, way: Way) {
        self.ways.remove(&(card, way));
    }

    /// When the way is open again, and what shut it; none if it is open.
    pub fn shut(&self, now: Time, card: u32, way: Way) -> Option<(Time, &CloudError)> {
        let assign = self.ways.get(&(card, Way::Assign));
        let create = self.ways.get(&(card, Way::Create)).filter(|_| way == Way::Create);
        let gates = assign.into_iter().chain(create).chain([&self.throttled]);
        let shut = gates.filter_map(|gate| gate.shut_until(now).zip(gate.last.as_ref()));
        shut.max_by_key(|(until, _)| *until)
    }

    /// When the first that is shut opens.
    pub fn next(&self, now: Time) -> Option<Time> {
        self.ways.values().chain([&self.throttled]).filter_map(|gate| gate.shut_until(now)).min()
    }
}

/// The delay before try number `attempt` (from 1) of a call that is repeated: `first` doubling up to a minute, +0–15 %.
pub(super) fn retry_delay(first: Duration, attempt: u32, random: &mut Random) -> Duration {
    let delay = (first * 2u32.saturating_pow(attempt.saturating_sub(1).min(20))).min(Duration::from_secs(60));
    random.jitter(delay, 15)
}

/// What EC2 has said no to: subnets by unit, and interfaces.
#[derive(Debug, Default)]
pub(super) struct Refused {
    subnets: HashMap<(String, Unit), Time>,
    enis: HashMap<String, Time>,
}

impl Refused {
    /// Spec 01 §1.9: inclusive, hence strictly after.
    const FOR: Duration = Duration::from_secs(120);

    pub fn refuse(&mut self, subnet: &str, unit: Unit, now: Time) {
        self.subnets.insert((subnet.to_owned(), unit), now + Self::FOR);
    }

    /// An interface that takes no addresses, for a reason that is not its subnet's: others are grown meanwhile.
    pub fn refuse_eni(&mut self, eni: &str, now: Time) {
        self.enis.retain(|_, until| *until >= now);
        self.enis.insert(eni.to_owned(), now + Self::FOR);
    }

    /// EC2 has given of the subnet.
    pub fn granted(&mut self, subnet: &str, unit: Unit) {
        self.subnets.remove(&(subnet.to_owned(), unit));
    }

    /// EC2 had nothing there, it may be asked again, and whether it has anything now is not known yet.
    pub fn lapsed(&self, subnet: &str, unit: Unit, now: Time) -> bool {
        self.subnets.get(&(subnet.to_owned(), unit)).is_some_and(|until| *until < now)
    }

    pub fn eni_until(&self, eni: &str, now: Time) -> Option<Time> {
        self.enis.get(eni).copied().filter(|until| *until >= now)
    }

    pub fn until(&self, subnet: &str, unit: Unit, now: Time) -> Option<Time> {
        self.subnets.get(&(subnet.to_owned(), unit)).copied().filter(|until| *until >= now)
    }

    pub fn next(&self, now: Time) -> Option<Time> {
        self.subnets
            .values()
            .chain(self.enis.values())
            .filter(|until| **until >= now)
            .min()
            .map(|until| *until + Duration::from_millis(1))
    }
}

/// The last sixty minutes, newest first, the first one running.
#[derive(Debug, Default)]
pub(super) struct History {
    minutes: VecDeque<Minute>,
    /// Which minute since the start the first is. Not of the wall clock: one that is set back would stop the count of
    /// calls from starting anew.
    current: u64,
}

impl History {
    pub fn minute(&mut self, mono: Time, assigned: u32) -> &mut Minute {
        let index = mono.as_secs() / 60;
        if self.minutes.is_empty() {
            self.current = index;
            self.minutes.push_front(Minute { peak_assigned: assigned, ..Minute::default() });
        }
        // A gap of more than an hour leaves nothing of what was.
        for _ in 0..index.saturating_sub(self.current).min(60) {
            self.minutes.push_front(Minute { peak_assigned: assigned, ..Minute::default() });
        }
        self.current = self.current.max(index);
        self.minutes.truncate(60);
        &mut self.minutes[0]
    }

    pub fn list(&self) -> Vec<Minute> {
        self.minutes.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> CloudError {
        CloudError { api: "x", kind: ErrorKind::Throttled, code: String::new(), message: String::new() }
    }

    #[test]
    fn a_failure_shuts_the_gate_for_longer_each_time_and_a_success_opens_it() {
        let (mut b, mut r) = (Backoff::default(), Random::new(1));
        let s = Duration::from_secs;
        b.fail(s(0), error(), &mut r);
        let first = b.shut_until(s(0)).unwrap();
        assert!(first >= s(5) && first <= Duration::from_millis(6500), "{first:?}");
        b.fail(s(1), error(), &mut r);
        assert_eq!(b.shut_until(s(1)), Some(first), "one step for what fails together");
        b.fail(s(10), error(), &mut r);
        assert!(b.shut_until(s(10)).unwrap() >= s(20));
        b.succeed();
        assert_eq!(b.shut_until(s(11)), None);
    }

    #[test]
    fn the_history_has_sixty_minutes_and_gaps_are_quiet_minutes() {
        let mut h = History::default();
        h.minute(Duration::from_secs(60), 3).adds = 7;
        h.minute(Duration::from_secs(60 * 4), 5);
        let list = h.list();
        assert_eq!(list.len(), 4);
        assert_eq!((list[3].adds, list[0].adds, list[0].peak_assigned), (7, 0, 5));
        h.minute(Duration::from_secs(60 * 100_000), 5);
        assert_eq!(h.list().len(), 60);
    }

    #[test]
    fn tokens_differ_and_repeat_with_the_seed() {
        let (mut a, mut b) = (Random::new(9), Random::new(9));
        let first = a.token();
        assert_eq!(first, b.token());
        assert_ne!(first, a.token());
        assert_eq!(first.len(), 36);
    }
}
