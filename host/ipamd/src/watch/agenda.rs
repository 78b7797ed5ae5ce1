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
}

impl Agenda {
    /// Looks at once, `jitter` (0 to 1) decides when at everything.
    pub(super) fn new(now: Duration, jitter: f64) -> Self {
        Self { everything: now + interval(jitter), soon: Some(now), overrun: false, streak: 0 }
    }

    /// The time of the next look.
    pub(super) fn next(&self) -> Duration {
        self.soon.map_or(self.everything, |soon| soon.min(self.everything))
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
            self.overrun |= came_to.everything;
            self.at(now + PLUGIN);
        }
    }
}

fn interval(jitter: f64) -> Duration {
    EVERYTHING.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: CameTo = CameTo { repaired: false, again: false, everything: false };
    const REPAIRED: CameTo = CameTo { repaired: true, again: false, everything: false };

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
    fn what_gives_no_news_and_failed_is_looked_at_again_soon() {
        let mut agenda = settled();
        agenda.noticed(ms(0));
        assert_eq!(agenda.due(ms(200), 0.5), Some(Scope::Network));
        agenda.done(ms(200), &CameTo { again: true, everything: true, ..NOTHING });
        assert_eq!(agenda.next(), ms(200) + PLUGIN);
        assert_eq!(agenda.due(agenda.next(), 0.5), Some(Scope::Overrun));
    }
}
