//! The two clocks, read in one place.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reservoir_core::manager::Now;

/// Time since the daemon's start, and the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    #[must_use]
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now { mono: self.start.elapsed(), unix }
    }

    /// The instant at which the monotonic clock shows `mono`.
    #[must_use]
    pub fn instant(&self, mono: Duration) -> Instant {
        self.start + mono
    }
}

/// How long the machine has been up.
#[must_use]
pub fn booted() -> Duration {
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(uptime.tv_sec).unwrap_or(0), u32::try_from(uptime.tv_nsec).unwrap_or(0))
}
