//! Pauses between tries: 1 s, doubled up to 60 s, each with 0 to 20 % on top (spec 02 §15).

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Duration::from_secs(1) }
    }
}

impl Backoff {
    const MOST: Duration = Duration::from_secs(60);

    /// The pause before the next try.
    pub fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(Self::MOST);
        pause + jitter(pause, RandomState::new().build_hasher().finish())
    }
}

/// 0 to 20 % of `pause`, as `random` has it.
fn jitter(pause: Duration, random: u64) -> Duration {
    let parts = u32::try_from(random % 200).unwrap_or_default();
    pause * parts / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_a_minute_and_only_ever_adds() {
        let mut backoff = Backoff::default();
        for base in [1, 2, 4, 8, 16, 32, 60, 60] {
            let (base, pause) = (Duration::from_secs(base), backoff.next());
            assert!(pause >= base && pause < base * 6 / 5, "{base:?} {pause:?}");
        }
        assert_eq!(jitter(Duration::from_secs(60), 199), Duration::from_millis(11_940));
        assert_eq!(jitter(Duration::from_secs(60), 200), Duration::ZERO);
    }
}
