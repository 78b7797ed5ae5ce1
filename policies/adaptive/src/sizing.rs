//! How much: addresses that are ready for what a moment may bring, interfaces with slots for what a minute may bring, and
//! nothing given back before it has cost as much as having it again.

use reservoir_policy_sdk::{Cidr, Gate, Node, Note, Sizes, Targets, Unit};

use crate::memory::Memory;
use crate::pool::{Pool, idle_seconds, spare};

/// Address-seconds that a call is worth: idle addresses are given back when what they have cost together, one call to
/// give them back and one to have others later, would have paid for.
pub const PRICE: i64 = 12 * 60;
/// So many pods may all come before a call is answered.
const SMALL: i64 = 6;
/// Seconds until the next look, if nothing happens before.
const LOOK: u32 = 600;
/// Calls of a minute that are kept for pods: with fewer left nothing is given back.
pub const SPARED_CALLS: u32 = 30;
/// Minutes in which a pod that was refused an address is tried again.
const STARVED_MINUTES: usize = 3;
/// Times that kubelet tries it in a minute, at least.
const TRIES: i64 = 4;
/// Minutes for which a node that was throttled is careful with calls.
const CAREFUL_MINUTES: usize = 10;

/// The totals to hold, one per card.
#[must_use]
pub fn decide(node: &Node, memo: &[u8]) -> Sizes {
    let expected = i64::from(node.limits.slots_per_eni).min(node.limits.max_pods.into());
    let memory = Memory::of(node, memo, u32::try_from(expected).unwrap_or(u32::MAX));
    let mut reasons = Vec::with_capacity(node.cards.len());
    let mut wake = LOOK;
    let mut targets = Vec::with_capacity(node.cards.len());
    for card in &node.cards {
        let pool = Pool::new(node, card);
        let wish = Wish::of(node, &pool, &memory);
        let (hold, reason, sooner) = wish.hold(node, &pool);
        wake = wake.min(sooner);
        reasons.push(["card ", &number(card.index.into()), ": ", &reason].concat());
        targets.push(Targets { warm_enis: ips(wish.interfaces), ..Targets::hold(ips(hold)) });
    }
    let note = Note {
        reason: reasons.join("; "),
        wake_after_seconds: Some(wake.max(1)),
        refresh_subnets: false,
        memo: memory.write(),
    };
    Sizes { targets, note }
}

/// What is wanted of one card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wish {
    /// Ready addresses: with fewer, more are asked for.
    low: i64,
    /// What exceeds these may go.
    high: i64,
    /// So many there are after more were asked for; in a burst more than `high`.
    more: i64,
    /// Interfaces to have.
    interfaces: i64,
    /// Address-seconds that idle addresses may cost before they go.
    price: i64,
    /// No pod has come of late.
    settled: bool,
    /// Pods that were refused and are not at the door now.
    away: i64,
}

impl Wish {
    fn of(node: &Node, pool: &Pool<'_>, memory: &Memory) -> Self {
        let careful = node.history.iter().take(CAREFUL_MINUTES).any(|m| m.ec2_throttled > 0);
        let most = match node.unit {
            // What the documented default keeps at least.
            Unit::Ip if careful => pool.slots,
            Unit::Ip => most_ready(pool.slots),
            Unit::Prefix => pool.unit_ips,
        };
        // Where calls take longer, what a minute brings must be there already.
        let expected = if careful { memory.minute().into() } else { in_a_call(memory.moment().into()) };
        let mut low = (expected + 1).min(most);
        let mut price = if careful { 4 * PRICE } else { PRICE };
        // In a burst: as many more in the next moment as in the last.
        let now = i64::from(memory.now());
        let burst = in_a_call(now);
        let mut batch = low / 8 + 1;
        if memory.scarce() {
            (low, batch, price) = (low.min(2), 1, price / 4);
        }
        if node.draining {
            (low, batch, price) = (0, 0, 0);
        }
        // No more pods than the node may run will come, and the cooling addresses are no use to them.
        let most_needed = (i64::from(node.limits.max_pods) - pool.assigned - i64::from(pool.card.waiting)).max(0);
        low = low.min(most_needed);
        let high = (low + batch).min(most_needed).max(low);
        let burst = if node.draining { 0 } else { burst.min(most_needed) };
        let per_interface = pool.slots.saturating_mul(pool.unit_ips).max(1);
        // What a burst like the last ones, or three times what has come already, will have brought when it is over; before
        // it has begun, no more than the node has seen of late.
        let whole = pool.needed() - now + i64::from(memory.minute()).max(3 * now);
        let begun = now > SMALL / 2;
        let minute = if begun { whole } else { whole.min(i64::from(memory.peak()) + low) };
        let interfaces = div_ceil(minute.max(pool.needed() + low), per_interface).max(1);
        // Who was refused comes again in a while: an address for a pod that needs one of another card too is no surplus.
        let starved = node.history.iter().take(STARVED_MINUTES).map(|m| m.starved).max().unwrap_or(0);
        let away = (div_ceil(starved.into(), TRIES) - i64::from(pool.card.waiting)).max(0);
        Self {
            low: low.max(burst),
            high,
            more: high.max(low.max(burst) + burst),
            interfaces,
            price,
            settled: now == 0,
            away,
        }
    }

    /// The total to hold, why, and in how many seconds to look again.
    fn hold(&self, node: &Node, pool: &Pool<'_>) -> (i64, String, u32) {
        let (ready, soon, now) = (pool.ready(), pool.soon(), pool.total + pool.in_flight());
        let numbers = [number(soon).as_str(), " ready of ", &number(self.low), " to ", &number(self.high)].concat();
        if soon < self.low {
            let more = div_ceil(self.more - soon, pool.unit_ips) * pool.unit_ips;
            return (now + more, [numbers.as_str(), ": ", &number(more), " more"].concat(), LOOK);
        }
        // Pods are coming, or what was asked for them: what exceeds now is theirs.
        let settled = self.settled && pool.in_flight() == 0;
        let surplus = if settled { (ready - self.away - self.high) / pool.unit_ips } else { 0 };
        let (count, cost) = cost(node, pool, surplus);
        if count == 0 {
            return (now, [numbers.as_str(), ": enough"].concat(), LOOK);
        }
        let less = count * pool.unit_ips;
        if cost < self.price {
            let left = u32::try_from(div_ceil(self.price - cost, less)).unwrap_or(LOOK);
            return (now, [numbers.as_str(), ": ", &number(less), " too many, kept for now"].concat(), left.min(LOOK));
        }
        if node.gates.release != Gate::Open || node.gates.ec2_calls_left < SPARED_CALLS {
            return (now, [numbers.as_str(), ": ", &number(less), " too many, not now"].concat(), 60);
        }
        (now - less, [numbers.as_str(), ": ", &number(less), " too many"].concat(), LOOK)
    }
}

/// How many of `surplus` units can be given back, and the address-seconds that those have cost: a surplus is as old as
/// the addresses that were used last.
fn cost(node: &Node, pool: &Pool<'_>, surplus: i64) -> (i64, i64) {
    let spares = pool.enis.iter().flat_map(|e| &e.cidrs).filter(|c| spare(node, c));
    let mut idle: Vec<i64> = spares.map(seconds).collect();
    idle.sort_unstable();
    let count = surplus.max(0).min(i64::try_from(idle.len()).unwrap_or(i64::MAX));
    let cost = idle.iter().take(usize::try_from(count).unwrap_or(0)).sum::<i64>();
    (count, cost.saturating_mul(pool.unit_ips))
}

fn seconds(cidr: &Cidr) -> i64 {
    idle_seconds(cidr).into()
}

/// The most that is kept ready on an interface of so many slots: half of them, or what a few pods that come at one time
/// need where that is more. Slots are filled in half a second, so that more is not worth its price.
fn most_ready(slots: i64) -> i64 {
    (slots / 2).max((SMALL + 1).min(slots * 4 / 5)).max(1)
}

/// Of the pods that a moment brings, those that come before a call is answered: all of a few, a quarter of many.
fn in_a_call(pods: i64) -> i64 {
    if pods <= SMALL { pods } else { SMALL + div_ceil(pods - SMALL, 4) }
}

/// ⌈x / y⌉ for x ≥ 0, y ≥ 1.
pub(crate) fn div_ceil(x: i64, y: i64) -> i64 {
    x.saturating_add(y - 1) / y
}

fn ips(n: i64) -> u32 {
    u32::try_from(n.max(0)).unwrap_or(u32::MAX)
}

fn number(n: i64) -> String {
    n.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reservoir_policy_sdk::{Cidr, EniTraits, Minute, sample};

    /// An m5.large with `held` addresses on its primary interface, `assigned` of them pods', the others idle for `idle`
    /// seconds.
    fn node(held: u32, assigned: u32, idle: u32) -> Node {
        let mut node = sample::node();
        let cidr = |id| {
            let taken = id < assigned;
            let idle_seconds = Some(if taken { 0 } else { idle });
            Cidr { assigned: taken.into(), idle_seconds, ..sample::ip(id) }
        };
        node.enis[0].cidrs = (0..held).map(cidr).collect();
        node
    }

    /// A memo of a node that has seen nothing for days.
    fn old(node: &Node) -> Vec<u8> {
        let then = Node { now: node.now - 30 * 86_400, ..node.clone() };
        Memory::of(&then, &[], 9).write()
    }

    fn hold(node: &Node, memo: &[u8]) -> (u32, String) {
        let sizes = decide(node, memo);
        let target = &sizes.targets[0];
        assert_eq!((target.warm_ips, target.warm_prefixes), (0, 0));
        (target.minimum_ips, sizes.note.reason)
    }

    #[test]
    fn a_new_node_is_careful_and_an_old_quiet_one_is_not() {
        let (new, reason) = hold(&node(0, 0, 0), &[]);
        assert_eq!(new, 8, "{reason}");
        let quiet = node(0, 0, 0);
        assert_eq!(hold(&quiet, &old(&quiet)).0, 3);
    }

    #[test]
    fn no_more_is_kept_than_half_an_interface_or_what_a_few_pods_need() {
        assert_eq!([0, 1, 3, 5, 9, 14, 29, 49].map(most_ready), [1, 1, 2, 4, 7, 7, 14, 24]);
        let mut large = node(0, 0, 0);
        large.limits.slots_per_eni = 29;
        large.limits.max_pods = 234;
        assert_eq!(hold(&large, &[]).0, 13 + 2, "29 pods are expected, and a quarter of many");
        // Throttled of late: calls take longer.
        large.history = vec![Minute { ec2_throttled: 1, ..crate::memory::QUIET }];
        assert_eq!(hold(&large, &[]).0, 29 + 4);
    }

    #[test]
    fn enough_is_left_alone() {
        let node = node(9, 6, 100_000);
        let (held, reason) = hold(&node, &old(&node));
        assert_eq!((held, reason.as_str()), (9, "card 0: 3 ready of 2 to 3: enough"));
    }

    #[test]
    fn a_surplus_goes_when_it_has_cost_its_price() {
        let small = |idle| {
            let node = node(9, 2, idle);
            hold(&node, &old(&node))
        };
        // 7 ready, 3 wanted: 4 too many, 720 address-seconds.
        assert_eq!(small(179).0, 9, "{}", small(179).1);
        assert_eq!(small(180).0, 5, "{}", small(180).1);
        let mut shut = node(9, 2, 300);
        shut.gates.release = Gate::OpensIn(20);
        assert_eq!(hold(&shut, &old(&shut)).0, 9);
        shut.gates.release = Gate::Open;
        shut.gates.ec2_calls_left = SPARED_CALLS - 1;
        assert_eq!(hold(&shut, &old(&shut)).0, 9);
        let wake = decide(&node(9, 2, 100), &old(&node(9, 2, 100))).note.wake_after_seconds;
        assert_eq!(wake, Some(80), "when it will have cost it");
    }

    #[test]
    fn what_was_used_last_tells_how_old_a_surplus_is() {
        let mut node = node(9, 4, 100_000);
        for cidr in &mut node.enis[0].cidrs[4..7] {
            cidr.idle_seconds = Some(5);
        }
        let (held, reason) = hold(&node, &old(&node));
        assert_eq!(held, 9, "{reason}");
    }

    #[test]
    fn cooling_addresses_are_not_ready() {
        let mut node = node(9, 4, 100_000);
        for cidr in &mut node.enis[0].cidrs[4..8] {
            (cidr.cooling, cidr.cooled_in_seconds) = (1, 20);
        }
        let (held, reason) = hold(&node, &old(&node));
        assert_eq!(held, 11, "{reason}");
    }

    #[test]
    fn who_waits_is_served_and_what_is_on_its_way_counts() {
        let mut waiting = node(4, 4, 0);
        waiting.cards[0].waiting = 3;
        let memo = old(&waiting);
        assert_eq!(hold(&waiting, &memo).0, 4 + 3 + 3);
        waiting.cards[0].ips_in_flight = 6;
        assert_eq!(hold(&waiting, &memo).0, 10);
    }

    #[test]
    fn never_more_than_pods_can_come() {
        let mut node = node(4, 4, 0);
        node.limits.max_pods = 5;
        assert_eq!(hold(&node, &[]).0, 5);
        node.draining = true;
        assert_eq!(hold(&node, &[]).0, 4);
    }

    #[test]
    fn a_throttled_node_keeps_what_a_minute_brings_and_gives_little_back() {
        let mut node = node(9, 2, 400);
        node.history = vec![Minute { ec2_throttled: 1, ..crate::memory::QUIET }];
        assert_eq!(hold(&node, &old(&node)).0, 9, "four times the price");
    }

    #[test]
    fn scarce_subnets_are_not_hoarded() {
        let mut node = node(9, 2, 100);
        node.subnets[0].free_ips = Some(300);
        let (held, reason) = hold(&node, &[]);
        assert_eq!(held, 5, "{reason}");
    }

    #[test]
    fn what_a_card_has_too_many_of_goes_where_another_waits_in_vain() {
        let mut node = node(9, 2, 100);
        let cards = |waiting| {
            [0, 1].map(|index| reservoir_policy_sdk::Card {
                index,
                waiting: waiting * index,
                ..sample::node().cards[0]
            })
        };
        node.cards = cards(1).to_vec();
        assert_eq!(hold(&node, &[]).0, 9, "seven ready, as a new node wants");
        node.subnets[0].ips_refused_seconds = 90;
        let (held, reason) = hold(&node, &[]);
        assert_eq!(held, 5, "{reason}");
        node.cards = cards(0).to_vec();
        assert_eq!(hold(&node, &[]).0, 9, "nobody waits");
    }

    #[test]
    fn what_a_refused_pod_comes_back_for_is_no_surplus() {
        let mut node = node(9, 2, 800);
        assert_eq!(hold(&node, &old(&node)).0, 5, "3 ready of 2 to 3");
        node.history = vec![crate::memory::QUIET, Minute { starved: 12, ..crate::memory::QUIET }];
        let memo = old(&node);
        assert_eq!(hold(&node, &memo).0, 8, "three pods that try every quarter of a minute");
        node.cards[0].waiting = 3;
        assert_eq!(hold(&node, &memo).0, 8, "the same while they are at the door");
    }

    #[test]
    fn prefixes_are_held_whole() {
        let mut node = node(0, 0, 0);
        node.unit = Unit::Prefix;
        node.enis[0].cidrs = vec![Cidr { unit: Unit::Prefix, size: 16, assigned: 15, ..sample::ip(0) }];
        let (held, reason) = hold(&node, &old(&node));
        assert_eq!(held, 32, "{reason}");
    }

    #[test]
    fn a_setting_is_refused_and_every_card_gets_a_target() {
        let mut node = node(9, 2, 400);
        node.cards.push(reservoir_policy_sdk::Card { index: 1, ..node.cards[0] });
        node.enis[0].traits = EniTraits::PRIMARY;
        assert_eq!(decide(&node, &[]).targets.len(), 2);
        let context = reservoir_policy_sdk::Context { settings: vec![("a".into(), "b".into())], memo: vec![] };
        let refused = <crate::Adaptive as reservoir_policy_sdk::Sizing>::decide(node, context).unwrap_err();
        assert_eq!(refused, "setting \"a\": the adaptive policy has none; remove it");
    }
}
