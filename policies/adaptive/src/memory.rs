//! What the policy has seen, in the memo: how many pods came within a moment and within a minute, fading with time, and
//! by the time of day.
//!
//! An empty memo (a new node, a restarted daemon, a new component) is a careful one: it expects a whole interface's worth
//! of pods, and believes less of that as time passes without them.

use reservoir_policy_sdk::{Minute, Node, Standing};

use crate::pool::refused;

/// Seconds that a moment takes: what comes within it must find its addresses there already, as more take 0.3 to 0.5 s.
pub const MOMENT: u64 = 2;
/// Half of what was seen is forgotten in so many seconds.
pub const HALF_LIFE: u64 = 4 * 3600;
/// Pieces of the day that are remembered by themselves, and the seconds of each.
const PIECES: usize = 96;
const PIECE: u64 = 86_400 / PIECES as u64;
/// Parts of a pod, so that what fades a little at a time fades.
const FINE: u64 = 1 << 24;
/// Seconds of one step of fading.
const STEP: u64 = 900;
/// Subnets of which less than this share of the addresses is free are scarce, in hundredths …
const SCARCE: u64 = 10;
/// … until more than this share is: what one node gives back when it notices must not be the reason to ask for it again.
const PLENTY: u64 = 20;
const VERSION: u8 = 2;

/// The memo of sizing.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// When it was last written, seconds since the epoch.
    at: u64,
    /// The running minute of the history and the one before, as they were then.
    seen: [Minute; 2],
    /// Minutes that the history had.
    minutes: u8,
    /// Addresses were rare in the subnets that the node may use, and are not plenty again.
    scarce: bool,
    /// Pods that came in each of the last seconds, newest first.
    moments: [u32; MOMENT as usize],
    /// Most pods in a moment, fading, in parts.
    moment: u64,
    /// Most pods in a minute, fading, in parts.
    minute: u64,
    /// Most IPs that pods held at one time, fading, in parts.
    peak: u64,
    /// Most pods in a moment of the running piece of the day.
    today: u8,
    /// The same of each piece the day before; half as sure with each day without.
    by_day: [u8; PIECES],
}

impl Memory {
    /// What is known on this node now: what `memo` tells, what the history tells, and what came since.
    #[must_use]
    pub fn of(node: &Node, memo: &[u8], most: u32) -> Self {
        let mut memory = match Self::read(memo) {
            Some(mut memory) if memory.at <= node.now => {
                memory.go_on(node);
                memory
            }
            _ => Self::first(node, most),
        };
        // What is only asked for may not come: it does not end scarcity, and does not begin it.
        let (asked, share) = if memory.scarce { (0, PLENTY) } else { (coming(node), SCARCE) };
        memory.scarce = starves(node) || free_share(node, asked).is_some_and(|free| free < share);
        memory
    }

    /// Expects `most` at any moment; a minute of the history may have had more.
    fn first(node: &Node, most: u32) -> Self {
        let seen = node.history.iter().map(|m| m.adds).max().unwrap_or(0);
        let expected = u64::from(most) * FINE;
        Self {
            at: node.now,
            seen: seen_of(&node.history),
            minutes: length(&node.history),
            scarce: false,
            moments: [0; MOMENT as usize],
            moment: expected,
            minute: expected.max(u64::from(seen) * FINE),
            peak: u64::from(peak(node)) * FINE,
            today: 0,
            by_day: [0; PIECES],
        }
    }

    fn go_on(&mut self, node: &Node) {
        let passed = node.now - self.at;
        let came = self.came(&node.history, passed);
        self.moment = fade(self.moment, passed);
        self.minute = fade(self.minute, passed);
        self.peak = fade(self.peak, passed).max(u64::from(peak(node)) * FINE);
        self.turn_pieces(node.now, passed);
        let shift = usize::try_from(passed).unwrap_or(usize::MAX).min(self.moments.len());
        self.moments.rotate_right(shift);
        self.moments[..shift].fill(0);
        self.moments[0] = self.moments[0].saturating_add(came);
        let moment = self.now();
        self.moment = self.moment.max(u64::from(moment) * FINE);
        self.today = self.today.max(u8::try_from(moment).unwrap_or(u8::MAX));
        let minute = node.history.iter().take(2).map(|m| m.adds).max().unwrap_or(0);
        self.minute = self.minute.max(u64::from(minute) * FINE);
        self.at = node.now;
        self.seen = seen_of(&node.history);
        self.minutes = length(&node.history);
    }

    /// Closes the pieces of the day that are over.
    fn turn_pieces(&mut self, now: u64, passed: u64) {
        let (first, last) = (self.at / PIECE, now / PIECE);
        let over = usize::try_from(last - first).unwrap_or(usize::MAX).min(2 * PIECES);
        let first = piece(self.at);
        if passed > 0 && over > 0 {
            let known = &mut self.by_day[first];
            *known = (*known / 2).max(self.today);
            self.today = 0;
        }
        for i in 1..over {
            self.by_day[(first + i) % PIECES] /= 2;
        }
    }

    /// Pods that came since the memo was written.
    fn came(&self, history: &[Minute], passed: u64) -> u32 {
        let [running, before] = seen_of(history);
        let [known, known_before] = &self.seen;
        // A minute that is over does not change any more: if the one before is another, a new one has begun.
        let same = length(history) == self.minutes && before == *known_before && running.adds >= known.adds;
        if same && passed < 120 {
            running.adds - known.adds
        } else if passed < 60 {
            running.adds.saturating_add(before.adds.saturating_sub(known.adds))
        } else {
            // Nothing was asked for a minute or more: whatever came, came with the running one.
            running.adds
        }
    }

    /// Pods that came in the moment that has just passed.
    #[must_use]
    pub fn now(&self) -> u32 {
        self.moments.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Addresses are rare in the subnets that the node may use.
    #[must_use]
    pub fn scarce(&self) -> bool {
        self.scarce
    }

    /// Most IPs that pods held at one time, of late.
    #[must_use]
    pub fn peak(&self) -> u32 {
        whole(self.peak)
    }

    /// Most pods that a moment may bring now.
    #[must_use]
    pub fn moment(&self) -> u32 {
        let p = piece(self.at);
        let by_day = self.by_day[p].max(self.by_day[(p + 1) % PIECES]);
        whole(self.moment).max(u32::from(by_day))
    }

    /// Most pods that a minute may bring now.
    #[must_use]
    pub fn minute(&self) -> u32 {
        whole(self.minute).max(self.moment())
    }

    /// As a memo.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.minutes, self.today, u8::from(self.scarce)];
        for n in [self.at, self.moment, self.minute, self.peak] {
            out.extend(n.to_le_bytes());
        }
        let seen = self
            .seen
            .iter()
            .flat_map(|m| [m.adds, m.deletes, m.starved, m.peak_assigned, m.ec2_calls, m.ec2_throttled]);
        for n in seen.chain(self.moments) {
            out.extend(n.to_le_bytes());
        }
        out.extend(self.by_day);
        out
    }

    fn read(memo: &[u8]) -> Option<Self> {
        let mut rest = memo;
        let mut take = |n: usize| -> Option<&[u8]> {
            let (taken, left) = rest.split_at_checked(n)?;
            rest = left;
            Some(taken)
        };
        let &[VERSION, minutes, today, scarce @ (0 | 1)] = take(4)? else { return None };
        let mut long = || Some(u64::from_le_bytes(take(8)?.try_into().ok()?));
        let (at, moment, minute, peak) = (long()?, long()?, long()?, long()?);
        let mut short = || Some(u32::from_le_bytes(take(4)?.try_into().ok()?));
        let mut seen = || {
            Some(Minute {
                adds: short()?,
                deletes: short()?,
                starved: short()?,
                peak_assigned: short()?,
                ec2_calls: short()?,
                ec2_throttled: short()?,
            })
        };
        let seen = [seen()?, seen()?];
        let mut moments = [0; MOMENT as usize];
        for n in &mut moments {
            *n = short()?;
        }
        let by_day = take(PIECES)?.try_into().ok()?;
        let scarce = scarce == 1;
        rest.is_empty().then_some(Self { at, seen, minutes, scarce, moments, moment, minute, peak, today, by_day })
    }
}

/// Pods wait, and EC2 has just had nothing for them in any subnet that the node may use: what another card holds beyond
/// need is what they wait for.
fn starves(node: &Node) -> bool {
    let mut eligible = node.subnets.iter().filter(|s| s.standing == Standing::Eligible).peekable();
    eligible.peek().is_some() && eligible.all(|s| refused(node, s)) && node.cards.iter().any(|card| card.waiting > 0)
}

fn coming(node: &Node) -> u64 {
    node.cards.iter().map(|card| u64::from(card.ips_in_flight)).sum()
}

/// The free share of the addresses of the subnets that the node may use, in hundredths; none if it is not known of all.
/// What the node itself holds beyond its pods counts as free: else having it would be the reason to give it back, and not
/// having it the reason to ask. So does what is `asked` for.
fn free_share(node: &Node, asked: u64) -> Option<u64> {
    let own = node.enis.iter().flat_map(|eni| &eni.cidrs).filter(|cidr| cidr.idle()).map(|cidr| u64::from(cidr.size));
    let (mut free, mut all) = (own.sum::<u64>() + asked, 0_u64);
    for subnet in node.subnets.iter().filter(|s| s.standing == Standing::Eligible) {
        let length: u32 = subnet.cidr.rsplit_once('/')?.1.parse().ok()?;
        free += u64::from(subnet.free_ips?);
        all += 1_u64 << 32_u32.saturating_sub(length).min(32);
    }
    (free * 100).checked_div(all)
}

/// Most IPs that pods held in the running minute or the one before, or hold now.
fn peak(node: &Node) -> u32 {
    let now = node.enis.iter().flat_map(|e| &e.cidrs).fold(0_u32, |sum, c| sum.saturating_add(c.assigned));
    node.history.iter().take(2).map(|m| m.peak_assigned).fold(now, u32::max)
}

pub(crate) const QUIET: Minute =
    Minute { adds: 0, deletes: 0, starved: 0, peak_assigned: 0, ec2_calls: 0, ec2_throttled: 0 };

fn seen_of(history: &[Minute]) -> [Minute; 2] {
    let at = |i: usize| history.get(i).copied().unwrap_or(QUIET);
    [at(0), at(1)]
}

fn length(history: &[Minute]) -> u8 {
    u8::try_from(history.len()).unwrap_or(u8::MAX)
}

fn piece(now: u64) -> usize {
    usize::try_from(now % 86_400 / PIECE).unwrap_or(0) % PIECES
}

/// What is left of `amount` after so many seconds: about half of it after each half-life.
fn fade(amount: u64, passed: u64) -> u64 {
    let mut left = amount;
    // What is older than that is forgotten.
    let mut passed = passed.min(32 * HALF_LIFE);
    while passed > 0 && left > 0 {
        let step = passed.min(STEP);
        // ln 2 = 0.693.
        left -= left * step / 1000 * 693 / HALF_LIFE;
        passed -= step;
    }
    left
}

/// Whole pods, rounded up.
fn whole(fine: u64) -> u32 {
    u32::try_from(fine.div_ceil(FINE)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reservoir_policy_sdk::sample;

    const T: u64 = 1_700_000_000;

    fn minute(adds: u32) -> Minute {
        Minute { adds, ..QUIET }
    }

    fn at(now: u64, history: Vec<Minute>) -> Node {
        Node { now, history, ..sample::node() }
    }

    /// A memory that expects nothing, as of `T`, with a running minute.
    fn quiet() -> Memory {
        Memory::of(&at(T, vec![minute(0)]), &[], 0)
    }

    #[test]
    fn a_memo_reads_back_and_nonsense_is_as_none() {
        let mut memory = Memory::of(&at(T, vec![minute(3), minute(9)]), &[], 14);
        memory.by_day[7] = 5;
        memory.today = 4;
        let memo = memory.write();
        assert!(memo.len() < 4096, "{}", memo.len());
        assert_eq!(Memory::read(&memo), Some(memory));
        for bad in [&memo[1..], &memo[..memo.len() - 1], &[&memo[..], &[0]].concat(), b"", b"\xff"] {
            assert_eq!(Memory::read(bad), None);
        }
        let from_the_future = at(T - 10, vec![]);
        assert_eq!(Memory::of(&from_the_future, &memo, 14), Memory::of(&from_the_future, &[], 14));
    }

    #[test]
    fn what_was_never_seen_is_believed_less_as_time_passes() {
        let first = Memory::of(&at(T, vec![]), &[], 14);
        assert_eq!((first.moment(), first.minute()), (14, 14));
        let later = |seconds| Memory::of(&at(T + seconds, vec![]), &first.write(), 14).moment();
        let left = [0, HALF_LIFE, 2 * HALF_LIFE, 20 * HALF_LIFE, 400 * HALF_LIFE].map(later);
        assert!(left.is_sorted_by(|a, b| a >= b), "{left:?}");
        assert!(left[0] == 14 && (7..=8).contains(&left[1]) && (3..=5).contains(&left[2]), "{left:?}");
        assert!(left[3] <= 1, "{left:?}");
    }

    #[test]
    fn fading_does_not_depend_on_how_often_it_is_asked() {
        let mut often = 14 * FINE;
        for _ in 0..HALF_LIFE {
            often = fade(often, 1);
        }
        let seldom = fade(14 * FINE, HALF_LIFE);
        assert!(often.abs_diff(seldom) < FINE / 2, "{often} {seldom}");
        assert_eq!(fade(0, 5), 0);
        assert_eq!(fade(u64::from(u32::MAX) * FINE, 0), u64::from(u32::MAX) * FINE);
    }

    #[test]
    fn a_moment_is_two_seconds() {
        let mut memory = quiet();
        // 5 in one second, 4 in the next, 3 more after a pause.
        for (after, adds) in [(10, 5), (11, 9), (30, 12)] {
            memory = Memory::of(&at(T + after, vec![minute(adds)]), &memory.write(), 0);
        }
        assert_eq!((memory.moment(), memory.minute(), memory.now()), (9, 12, 3));
        let memory = Memory::of(&at(T + 33, vec![minute(12)]), &memory.write(), 0);
        assert_eq!(memory.now(), 0);
    }

    #[test]
    fn a_minute_that_turns_loses_nobody() {
        let seen = Memory::of(&at(T + 10, vec![minute(5)]), &quiet().write(), 0);
        let turned = Memory::of(&at(T + 20, vec![minute(2), minute(6)]), &seen.write(), 0);
        assert_eq!(turned.now(), 3, "one before the turn, two after it");
        let again = Memory::of(&at(T + 30, vec![minute(4), minute(6)]), &turned.write(), 0);
        assert_eq!(again.now(), 2);
    }

    #[test]
    fn subnets_that_were_scarce_stay_so_until_there_is_plenty() {
        // A /24: scarce below 26, plenty from 52 on, with what is the node's own.
        let node = |own: u32, free| {
            let mut node = at(T, vec![]);
            node.enis[0].cidrs = (0..own).map(sample::ip).collect();
            node.subnets[0].cidr = "10.0.0.0/24".to_owned();
            node.subnets[0].free_ips = free;
            node
        };
        let first = |own, free| Memory::of(&node(own, free), &[], 0);
        assert!(!first(2, Some(30)).scarce() && !first(12, Some(20)).scarce(), "having it does not make it rare");
        let scarce = first(2, Some(20));
        assert!(scarce.scarce());
        let then = |own, free| Memory::of(&node(own, free), &scarce.write(), 0).scarce();
        assert!(then(2, Some(40)), "what others gave back");
        assert!(!then(2, Some(50)));
        let mut asking = node(2, Some(20));
        asking.cards[0].ips_in_flight = 200;
        assert!(!Memory::of(&asking, &[], 0).scarce(), "it is on its way, and not free any more");
        assert!(Memory::of(&asking, &scarce.write(), 0).scarce(), "nobody knows whether it comes");
        assert!(!then(2, None) && !first(2, None).scarce(), "nobody has counted");
    }

    #[test]
    fn what_came_at_this_time_yesterday_is_expected_again() {
        let burst = Memory::of(&at(T + 10, vec![minute(12)]), &quiet().write(), 0);
        let ask = |memory: &Memory, now| Memory::of(&at(now, vec![minute(0), minute(0)]), &memory.write(), 0);
        let mut memory = burst;
        // Asked every ten minutes for a day, less a quarter of an hour.
        for step in 1..=143 {
            memory = ask(&memory, T + step * 600);
        }
        assert_eq!(memory.moment(), 12, "yesterday's burst is due");
        let noon = ask(&memory, T + 86_400 + 6 * 3600);
        assert!(noon.moment() < 6, "{}", noon.moment());
    }
}
