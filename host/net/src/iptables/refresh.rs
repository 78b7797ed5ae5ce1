//! When the rules are brought in line while the daemon runs (spec 04 §12.1).
//!
//! The VPC's CIDRs are read every 30 s. A list that could not be applied counts as not known, so that it is tried again
//! (DW-24); and now and then all is compared although nothing changed, as others may remove rules. A comparison that
//! finds all right writes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use reservoir_core::ip::Ipv4Net;

/// How often the VPC's CIDRs are read.
pub const INTERVAL: Duration = Duration::from_secs(30);
/// How often everything is compared without a change.
pub const REPAIR_INTERVAL: Duration = Duration::from_secs(300);

/// Why the rules are to be brought in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The first list, or one with other members than that applied last; the order does not count.
    Changed,
    /// It is time to look whether they are still there.
    Repair,
}

/// The list that was applied last, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refresh {
    applied: Option<(BTreeSet<Ipv4Net>, Duration)>,
}

impl Refresh {
    /// Whether to apply `list` at `now`, a time of any monotonic clock. An empty list is a mistake of whoever read it:
    /// every destination would be translated.
    #[must_use]
    pub fn due(&self, list: &[Ipv4Net], now: Duration) -> Option<Reason> {
        if list.is_empty() {
            return None;
        }
        match &self.applied {
            Some((applied, at)) if *applied == list.iter().copied().collect() => {
                (now.saturating_sub(*at) >= REPAIR_INTERVAL).then_some(Reason::Repair)
            }
            _ => Some(Reason::Changed),
        }
    }

    /// Notes that `list` has been applied. After a failure this is not called: the list is due again.
    pub fn applied(&mut self, list: &[Ipv4Net], now: Duration) {
        self.applied = Some((list.iter().copied().collect(), now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_due_until_it_is_applied_and_again_when_it_changes_or_grows_old() {
        let list: Vec<Ipv4Net> = ["10.0.0.0/16", "10.1.0.0/16"].map(|c| c.parse().unwrap()).into();
        let at = Duration::from_secs;
        let mut refresh = Refresh::default();
        assert_eq!(refresh.due(&list, at(0)), Some(Reason::Changed));
        assert_eq!(refresh.due(&list, at(30)), Some(Reason::Changed), "applying it failed");
        refresh.applied(&list, at(30));
        let turned: Vec<Ipv4Net> = list.iter().rev().copied().collect();
        assert_eq!(refresh.due(&turned, at(60)), None);
        assert_eq!(refresh.due(&list[..1], at(60)), Some(Reason::Changed));
        assert_eq!(refresh.due(&[], at(60)), None);
        assert_eq!(refresh.due(&list, at(330)), Some(Reason::Repair));
        refresh.applied(&list, at(330));
        assert_eq!(refresh.due(&list, at(360)), None);
    }
}
