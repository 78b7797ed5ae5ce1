//! What components say and how they fail, to the node's log, with a bound: a component may say sixteen lines a call, and
//! a busy node asks twenty times a second.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use reservoir_core::policy::LogLevel;
use tracing::{debug, info, warn};

use crate::{call::Called, policies::name};

/// Lines in any one [`WINDOW`]; the rest is counted.
const LINES: u32 = 64;
const WINDOW: Duration = Duration::from_secs(60);

/// Writes to the log for the policy in force or for a shadow.
#[derive(Debug)]
pub(crate) struct Report {
    role: &'static str,
    window: Mutex<Option<Window>>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    began: Instant,
    lines: u32,
}

impl Report {
    pub(crate) fn new(role: &'static str) -> Report {
        Report { role, window: Mutex::new(None) }
    }

    /// How its lines begin: `policy`, or `shadow policy`.
    pub(crate) fn role(&self) -> &'static str {
        self.role
    }

    pub(crate) fn calls(&self, calls: &[Called]) {
        for call in calls {
            let (role, function, by) = (self.role, name(call.function), call.by.label());
            for line in &call.log {
                let text = &line.text;
                if !self.may_speak(Instant::now()) {
                    continue;
                }
                match line.level {
                    LogLevel::Debug => debug!(function, by, "{role}: {text}"),
                    LogLevel::Info => info!(function, by, "{role}: {text}"),
                    LogLevel::Warn => warn!(function, by, "{role}: {text}"),
                }
            }
            if call.log_dropped > 0 && self.may_speak(Instant::now()) {
                warn!(function, by, dropped = call.log_dropped, "{role}: more log lines than are kept of a call");
            }
            if let Err(failure) = &call.result {
                // At most a few in a row: then the built-in component takes over.
                let reason = failure.label();
                warn!(function, by, digest = call.digest.short(), reason, "{role} failed: {failure}");
            }
        }
    }

    /// Counts one line. False: there were too many in this window. What was left out is told with the next window.
    fn may_speak(&self, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *window {
            Some(current) if now.saturating_duration_since(current.began) < WINDOW => {
                current.lines = current.lines.saturating_add(1);
                current.lines <= LINES
            }
            last => {
                if let Some(before) = last
                    && before.lines > LINES
                {
                    let (role, dropped) = (self.role, before.lines - LINES);
                    warn!(dropped, "{role}: more log lines than are written in a minute; /v1/decisions has the last");
                }
                *last = Some(Window { began: now, lines: 1 });
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_so_many_lines_a_minute() {
        let (report, start) = (Report::new("policy"), Instant::now());
        let spoken = (0..1000).filter(|_| report.may_speak(start)).count();
        assert_eq!(spoken, LINES as usize);
        assert!(!report.may_speak(start + WINDOW / 2));
        assert!(report.may_speak(start + WINDOW));
    }
}
