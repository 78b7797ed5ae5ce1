//! When to look, and at what. Times are of any monotonic clock.

use std::time::Duration;

use super::{CameTo, PLUGIN};

/// From the first of several news to the look. It does not grow with further news, so a storm of them delays nothing.
pub(super) const SETTLE: Duration = Duration::from_millis(200);
/// The longest such time: it doubles with every look in a row that had something to put right, so that a quarrel with
/// another program costs both little.
const LONGEST_SETTLE: Duration = Duration::from_secs(2);
/// Between looks at everything, 20 % more or less.
const EVERYTHING: Duration = Duration::from_secs(120);
/// The longest time in which nobody listens although it could be tried: the timer looks at everything twice as often.
const LONGEST_DEAF: Duration = Duration::from_secs(60);

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// What gives news.
    Network,
    /// Everything, as news were lost.
    Overrun,
    /// Everything, by the timer.
    Everything,
}

#[derive(Debug)]
pub(super) struct Agenda {
    everything: Duration,
    soon: Option<Duration>,
    overrun: bool,
    /// Looks in a row that found something.
    streak: u32,
    /// When to look at iptables.
    firewall: Option<Duration>,
    /// That is being done.
    at_firewall: bool,
}

impl Agenda {
    /// Looks at once, `jitter` (0 to 1) decides when at everything.
    pub(super) fn new(now: Duration, jitter: f64) -> Self {
        let everything = now + interval(jitter);
        Self { everything, soon: Some(now), overrun: false, streak: 0, firewall: None, at_firewall: false }
    }

    /// The time of the next look.
    pub(super) fn next(&self) -> Duration {
        let firewall = self.firewall.filter(|_| !self.at_firewall);
        [self.soon, firewall].into_iter().flatten().fold(self.everything, Duration::min)
    }

    /// There are news that concern us.
    pub(super) fn noticed(&mut self, now: Duration) {
        let settle = SETTLE.saturating_mul(1 << self.streak.min(8)).min(LONGEST_SETTLE);
        self.at(now + settle);
    }

    /// News were lost.
    pub(super) fn overrun(&mut self, now: Duration) {
        self.overrun = true;
        self.noticed(now);
    }

    fn at(&mut self, time: Duration) {
        self.soon = Some(self.soon.map_or(time, |soon| soon.min(time)));
    }

    /// What to look at now.
    pub(super) fn due(&mut self, now: Duration, jitter: f64) -> Option<Scope> {
        let scope = if self.everything <= now {
            self.everything = now + interval(jitter);
            Scope::Everything
        } else if self.soon.is_some_and(|soon| soon <= now) {
            if self.overrun { Scope::Overrun } else { Scope::Network }
        } else {
            return None;
        };
        self.soon = None;
        self.overrun = false;
        Some(scope)
    }

    /// A look has ended.
    pub(super) fn done(&mut self, now: Duration, came_to: &CameTo) {
        self.streak = if came_to.repaired { self.streak.saturating_add(1) } else { 0 };
        if came_to.again {
            self.at(now + PLUGIN);
        }
        if came_to.firewall {
            self.firewall = Some(now);
        }
    }

    /// Whether to look at iptables now; one look at a time.
    pub(super) fn firewall_due(&mut self, now: Duration) -> bool {
        let due = !self.at_firewall && self.firewall.is_some_and(|at| at <= now);
        if due {
            self.firewall = None;
            self.at_firewall = true;
        }
        due
    }

    /// That look has ended, and is to be taken again if it could not do all.
    pub(super) fn firewall_done(&mut self, now: Duration, again: bool) {
        self.at_firewall = false;
        if again && self.firewall.is_none() {
            self.firewall = Some(now + PLUGIN);
        }
    }
}

/// When to listen for news again after they have ended, or could not be had: later each time, until there are some.
#[derive(Debug, Default)]
pub(super) struct Listening {
    at: Duration,
    pause: Duration,
}

impl Listening {
    pub(super) fn next(&self) -> Duration {
        self.at
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.at <= now
    }

    /// Since the last news.
    pub(super) fn has_failed(&self) -> bool {
        !self.pause.is_zero()
    }

    pub(super) fn failed(&mut self, now: Duration) {
        self.pause = (self.pause * 2).clamp(SETTLE, LONGEST_DEAF);
        self.at = now + self.pause;
    }

    /// There are news.
    pub(super) fn heard(&mut self) {
        self.pause = Duration::ZERO;
    }
}

fn interval(jitter: f64) -> Duration {
    EVERYTHING.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: CameTo = CameTo { repaired: false, again: false, firewall: false };
    const REPAIRED: CameTo = CameTo { repaired: true, ..NOTHING };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// An agenda whose first look is over.
    fn settled() -> Agenda {
        let mut agenda = Agenda::new(ms(0), 0.5);
        assert_eq!(agenda.due(ms(0), 0.5), Some(Scope::Network), "at the start");
        agenda.done(ms(0), &NOTHING);
        assert_eq!(agenda.next(), EVERYTHING);
        agenda
    }

    #[test]
    fn a_storm_of_news_does_not_delay_the_look() {
        let mut agenda = settled();
        for at in 1000..1100 {
            assert_eq!(agenda.due(ms(at), 0.5), None);
            agenda.noticed(ms(at));
        }
        assert_eq!(agenda.next(), ms(1200));
        assert_eq!(agenda.due(ms(1200), 0.5), Some(Scope::Network));
        assert_eq!(agenda.next(), EVERYTHING, "one look for all of them");
    }

    #[test]
    fn a_quarrel_is_slowed_down_and_ends_with_the_first_look_that_finds_nothing() {
        let mut agenda = settled();
        let mut now = ms(1000);
        let mut waits = Vec::new();
        for _ in 0..7 {
            agenda.noticed(now);
            waits.push((agenda.next() - now).as_millis());
            now = agenda.next();
            agenda.due(now, 0.5);
            agenda.done(now, &REPAIRED);
        }
        assert_eq!(waits, [200, 400, 800, 1600, 2000, 2000, 2000]);
        agenda.noticed(now);
        now = agenda.next();
        agenda.due(now, 0.5);
        agenda.done(now, &NOTHING);
        agenda.noticed(now);
        assert_eq!(agenda.next() - now, SETTLE);
    }

    #[test]
    fn lost_news_and_the_timer_lead_to_a_look_at_everything() {
        let mut agenda = settled();
        agenda.overrun(ms(5));
        agenda.noticed(ms(6));
        assert_eq!(agenda.due(ms(205), 0.5), Some(Scope::Overrun));
        agenda.noticed(ms(300));
        assert_eq!(agenda.due(ms(500), 0.5), Some(Scope::Network));
        assert_eq!(agenda.due(EVERYTHING, 1.0), Some(Scope::Everything));
        assert_eq!(agenda.next(), EVERYTHING + EVERYTHING.mul_f64(1.2));
        assert_eq!(interval(0.0), EVERYTHING.mul_f64(0.8));
    }

    #[test]
    fn what_must_wait_for_a_plugin_is_looked_at_again_without_news() {
        let mut agenda = settled();
        agenda.noticed(ms(0));
        agenda.due(ms(200), 0.5);
        agenda.done(ms(200), &CameTo { again: true, ..NOTHING });
        assert_eq!(agenda.next(), ms(200) + PLUGIN);
        agenda.noticed(ms(200));
        assert_eq!(agenda.next(), ms(400));
    }

    #[test]
    fn iptables_is_looked_at_when_it_is_wanted_and_once_at_a_time() {
        let mut agenda = settled();
        assert!(!agenda.firewall_due(ms(0)));
        agenda.noticed(ms(0));
        assert_eq!(agenda.due(ms(200), 0.5), Some(Scope::Network));
        agenda.done(ms(200), &CameTo { firewall: true, ..NOTHING });
        assert_eq!(agenda.next(), ms(200));
        assert!(agenda.firewall_due(ms(200)));
        // It takes its time. Everything else goes on, and what is wanted meanwhile is not lost.
        assert_eq!(agenda.next(), EVERYTHING);
        agenda.noticed(ms(300));
        assert_eq!(agenda.due(ms(500), 0.5), Some(Scope::Network));
        agenda.done(ms(500), &CameTo { firewall: true, ..NOTHING });
        assert!(!agenda.firewall_due(ms(600)) && agenda.next() == EVERYTHING);
        agenda.firewall_done(ms(700), false);
        assert!(agenda.next() <= ms(700) && agenda.firewall_due(ms(700)));
        agenda.firewall_done(ms(800), true);
        assert_eq!(agenda.next(), ms(800) + PLUGIN, "it could not do all");
        assert!(!agenda.firewall_due(ms(900)) && agenda.firewall_due(ms(800) + PLUGIN));
        agenda.firewall_done(agenda.next(), false);
        assert!(!agenda.firewall_due(EVERYTHING), "nobody wants it");
    }

    #[test]
    fn whoever_cannot_listen_tries_later_each_time() {
        let mut listening = Listening::default();
        assert!(listening.is_due(ms(0)) && !listening.has_failed());
        let mut now = ms(1000);
        let mut pauses = Vec::new();
        for _ in 0..11 {
            listening.failed(now);
            assert!(listening.has_failed() && !listening.is_due(now));
            pauses.push((listening.next() - now).as_millis());
            now = listening.next();
            assert!(listening.is_due(now));
        }
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
        listening.heard();
        listening.failed(now);
        assert_eq!(listening.next() - now, SETTLE);
    }

    #[test]
    fn what_failed_is_looked_at_again_soon() {
        let mut agenda = settled();
        agenda.noticed(ms(0));
        assert_eq!(agenda.due(ms(200), 0.5), Some(Scope::Network));
        agenda.done(ms(200), &CameTo { again: true, ..NOTHING });
        assert_eq!(agenda.next(), ms(200) + PLUGIN);
        assert_eq!(agenda.due(agenda.next(), 0.5), Some(Scope::Network));
    }
}
