//! When a policy that lies in the directory and is not in force is tried again: after a pause that grows.

use std::time::{Duration, Instant};

/// Pauses before the first try. Each is doubled with every try that did not last, up to `most`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pauses {
    /// After it was refused: it did not answer on the snapshot of that moment, or could not be read.
    pub refused: Duration,
    /// After the built-in component took over from it.
    pub taken_over: Duration,
    /// The longest pause. A policy that was in force for so long begins with short ones again.
    pub most: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Pauses { refused: seconds(5), taken_over: seconds(60), most: seconds(3600) }
    }
}

/// Why what lies in the directory is not in force, where trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Refused,
    TakenOver,
}

/// The tries of one directory.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    tries: u32,
    due: Option<Instant>,
    good_since: Option<Instant>,
}

impl Schedule {
    /// When it is to be tried again. None: there is no need.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Something else lies in the directory.
    pub(crate) fn fresh(&mut self) {
        *self = Schedule::default();
    }

    /// It was tried again.
    pub(crate) fn tried(&mut self) {
        self.tries = self.tries.saturating_add(1);
        self.due = None;
    }

    /// How things are now.
    pub(crate) fn note(&mut self, trouble: Option<Trouble>, pauses: &Pauses, now: Instant) {
        let Some(trouble) = trouble else {
            self.due = None;
            self.good_since.get_or_insert(now);
            return;
        };
        if self.good_since.take().is_some_and(|since| now.saturating_duration_since(since) >= pauses.most) {
            self.tries = 0;
        }
        let first = match trouble {
            Trouble::Refused => pauses.refused,
            Trouble::TakenOver => pauses.taken_over,
        };
        let pause = first.saturating_mul(2u32.saturating_pow(self.tries)).min(pauses.most);
        self.due.get_or_insert(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds to each of the next tries, none of which lasts.
    fn pauses(schedule: &mut Schedule, trouble: Trouble, mut now: Instant, count: usize) -> Vec<u64> {
        let mut found = Vec::new();
        for _ in 0..count {
            schedule.note(Some(trouble), &Pauses::default(), now);
            let due = schedule.due().unwrap();
            found.push((due - now).as_secs());
            // Asked again, it is due at the same time.
            schedule.note(Some(trouble), &Pauses::default(), due);
            assert_eq!(schedule.due(), Some(due));
            now = due;
            schedule.tried();
            schedule.note(None, &Pauses::default(), now);
        }
        found
    }

    #[test]
    fn the_pause_doubles_to_an_hour() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let minutes = |all: &[u64]| all.iter().map(|m| m * 60).collect::<Vec<_>>();
        assert_eq!(pauses(&mut schedule, Trouble::TakenOver, now, 8), minutes(&[1, 2, 4, 8, 16, 32, 60, 60]));
        schedule.fresh();
        assert_eq!(schedule.due(), None);
        assert_eq!(pauses(&mut schedule, Trouble::Refused, now, 4), [5, 10, 20, 40]);
    }

    #[test]
    fn an_hour_in_force_is_forgiven() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        pauses(&mut schedule, Trouble::TakenOver, now, 5);
        let later = now + Duration::from_secs(60 * 31 + 3600);
        assert_eq!(pauses(&mut schedule, Trouble::TakenOver, later, 1), [60]);
    }
}
