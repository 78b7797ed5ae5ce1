//! Random snapshots and plans: those that a host could send, and those that make no sense at all.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use reservoir_core::policy::{
    Assign, Card, Cidr, CreateEni, Eni, EniTrait, EniTraits, Family, Gate, Gates, Growth, Limits, Minute, Node, Plan,
    Standing, Subnet, Targets, Unit,
};

/// Subnets of a node, in order.
const SUBNETS: [&str; 3] = ["subnet-a", "subnet-b", "subnet-c"];

fn unit() -> impl Strategy<Value = Unit> {
    prop_oneof![Just(Unit::Ip), Just(Unit::Prefix)]
}

fn gate() -> impl Strategy<Value = Gate> {
    prop_oneof![6 => Just(Gate::Open), 1 => (1u32..300).prop_map(Gate::OpensIn), 1 => Just(Gate::Closed)]
}

fn targets() -> impl Strategy<Value = Targets> {
    let number = || prop_oneof![2 => Just(0u32), 4 => 1u32..20, 1 => 20u32..300];
    (number(), number(), number(), number()).prop_map(|(warm_enis, warm_ips, warm_prefixes, minimum_ips)| Targets {
        warm_enis,
        warm_ips,
        warm_prefixes,
        minimum_ips,
    })
}

/// What one block looks like; its id, and whether it serves, follow from where it is.
#[derive(Debug, Clone)]
struct Block {
    other_unit: bool,
    wanted: bool,
    assigned: u32,
    cooling: u32,
    seconds: (u32, u32, Option<u32>),
}

fn block() -> impl Strategy<Value = Block> {
    let held = || prop_oneof![3 => Just(0u32), 1 => 0u32..17];
    let seconds = (1u32..40, 0u32..500, option::of(0u32..500));
    (prop::bool::weighted(0.1), any::<bool>(), held(), held(), seconds).prop_map(
        |(other_unit, wanted, assigned, cooling, seconds)| Block { other_unit, wanted, assigned, cooling, seconds },
    )
}

#[derive(Debug, Clone)]
struct Interface {
    kind: u32,
    subnet: usize,
    age: u32,
    blocks: Vec<Block>,
}

fn interface() -> impl Strategy<Value = Interface> {
    (0u32..12, 0usize..3, prop_oneof![0u32..70, 60u32..5000], vec(block(), 0..10))
        .prop_map(|(kind, subnet, age, blocks)| Interface { kind, subnet, age, blocks })
}

fn subnet(index: usize) -> impl Strategy<Value = Subnet> {
    let standing = prop_oneof![
        4 => Just(Standing::Eligible),
        1 => Just(Standing::Possible),
        1 => Just(Standing::Forbidden),
    ];
    let refused = || prop_oneof![5 => Just(0u32), 1 => 1u32..121];
    (standing, option::of(0u32..300), 0u32..100, refused(), refused()).prop_map(
        move |(standing, free_ips, seen_seconds, ips_refused_seconds, prefixes_refused_seconds)| Subnet {
            id: SUBNETS[index].to_owned(),
            cidr: format!("10.0.{index}.0/24"),
            ipv6: false,
            primary: index == 0,
            standing,
            free_ips,
            seen_seconds,
            ips_refused_seconds,
            prefixes_refused_seconds,
            tags: vec![],
        },
    )
}

fn minute() -> impl Strategy<Value = Minute> {
    (0u32..50, 0u32..50, 0u32..5, 0u32..60, 0u32..20).prop_map(|(adds, deletes, starved, peak_assigned, ec2_calls)| {
        Minute { adds, deletes, starved, peak_assigned, ec2_calls, ec2_throttled: 0 }
    })
}

/// A snapshot that a host could send: no interface above its slots, no card above its places, no block with more pods than
/// addresses.
pub fn consistent() -> impl Strategy<Value = Node> {
    let shape = (unit(), 1u32..10, 1u32..3, 1u32..5, 1u32..111, prop::bool::weighted(0.05));
    let cards = vec((targets(), 0u32..3, 0u32..40, 0u32..12), 2);
    let around = (gate(), gate(), gate(), 0u32..121, any::<bool>(), vec(minute(), 0..61), any::<u32>());
    let subnets = (subnet(0), subnet(1), subnet(2));
    (shape, cards, vec(interface(), 1..9), subnets, around).prop_map(|(shape, cards, interfaces, subnets, around)| {
        let (unit, slots, card_count, max_enis, max_pods, ipv6) = shape;
        let (grow, release, remove, ec2_calls_left, draining, history, now) = around;
        let mut enis: Vec<Eni> = Vec::new();
        let mut id = 0;
        for (i, interface) in interfaces.into_iter().enumerate() {
            let card = u32::try_from(i).unwrap_or(0) % card_count;
            let device_index = u32::try_from(enis.iter().filter(|e| e.card == card).count()).unwrap_or(0);
            if device_index < max_enis {
                enis.push(interface.eni(unit, slots, card, device_index, &mut id));
            }
        }
        let card = |(index, (configured, in_flight, ips, waiting)): (u32, (Targets, u32, u32, u32))| {
            let held = u32::try_from(enis.iter().filter(|e| e.card == index).count()).unwrap_or(0);
            let enis_in_flight = in_flight.min(max_enis.saturating_sub(held));
            // What is on its way comes with interfaces: who is asked cannot see what is asked for on single ones.
            let ips_in_flight = if enis_in_flight == 0 { 0 } else { ips };
            Card { index, max_enis, enis_in_flight, ips_in_flight, waiting, configured }
        };
        let cards = (0..card_count).zip(cards).map(card).collect();
        Node {
            now: u64::from(now),
            name: "n".to_owned(),
            instance_type: "m5.large".to_owned(),
            availability_zone: "a".to_owned(),
            labels: vec![],
            families: vec![if ipv6 { Family::Ipv6 } else { Family::Ipv4 }],
            unit,
            limits: Limits { slots_per_eni: slots, ips_per_prefix: 16, max_pods },
            cards,
            enis,
            subnets: vec![subnets.0, subnets.1, subnets.2],
            gates: Gates { grow, release, remove, ec2_calls_left },
            draining,
            booted_seconds: now / 2,
            history,
            extra: vec![],
        }
    })
}

impl Interface {
    fn eni(self, unit: Unit, slots: u32, card: u32, device_index: u32, id: &mut u32) -> Eni {
        let primary = (card, device_index) == (0, 0);
        let mut traits = Vec::new();
        match self.kind {
            _ if primary => traits.push(EniTrait::Primary),
            0 => traits.extend([EniTrait::Trunk, EniTrait::Closed]),
            1 => traits.push(EniTrait::Efa),
            2 => traits.extend([EniTrait::Excluded, EniTrait::Closed]),
            _ => {}
        }
        if primary && self.kind == 3 {
            traits.push(EniTrait::Closed);
        }
        let excluded = traits.contains(&EniTrait::Excluded);
        let cidr = |block: Block| {
            let of = match (unit, block.other_unit) {
                (Unit::Ip, false) | (Unit::Prefix, true) => Unit::Ip,
                _ => Unit::Prefix,
            };
            let size = if of == Unit::Prefix { 16 } else { 1 };
            let assigned = block.assigned.min(size);
            let cooling = block.cooling.min(size - assigned);
            let (cooled_in, age_seconds, idle) = block.seconds;
            *id += 1;
            Cidr {
                id: *id - 1,
                unit: of,
                size,
                serving: !excluded && (of == unit || block.wanted),
                assigned,
                cooling,
                cooled_in_seconds: if cooling > 0 { cooled_in } else { 0 },
                age_seconds: age_seconds.min(self.age),
                idle_seconds: if assigned > 0 { Some(0) } else { idle },
            }
        };
        Eni {
            id: format!("eni-{card}-{device_index}"),
            card,
            device_index,
            subnet: SUBNETS[self.subnet].to_owned(),
            traits: EniTraits(traits),
            age_seconds: self.age,
            cidrs: self.blocks.into_iter().take(slots as usize).map(cidr).collect(),
        }
    }
}

fn extreme() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0u32), Just(1), Just(u32::MAX), Just(u32::MAX - 1), Just(1 << 31), any::<u32>()]
}

/// A snapshot whose numbers need not fit together, or anything.
pub fn nonsense() -> impl Strategy<Value = Node> {
    (consistent(), vec((0usize..30, extreme(), any::<prop::sample::Index>()), 1..12)).prop_map(|(mut node, changes)| {
        for (what, number, place) in changes {
            spoil(&mut node, what, number, &place);
        }
        node
    })
}

fn spoil(node: &mut Node, what: usize, number: u32, place: &prop::sample::Index) {
    if what < 10 {
        let card = place.index(node.cards.len());
        let card = &mut node.cards[card];
        let configured = &mut card.configured;
        *[
            &mut card.index,
            &mut card.max_enis,
            &mut card.enis_in_flight,
            &mut card.ips_in_flight,
            &mut card.waiting,
            &mut configured.warm_enis,
            &mut configured.warm_ips,
            &mut configured.warm_prefixes,
            &mut configured.minimum_ips,
            &mut node.limits.max_pods,
        ][what] = number;
        return;
    }
    let eni = place.index(node.enis.len());
    match what {
        10 => node.limits.slots_per_eni = number,
        11 => node.limits.ips_per_prefix = number,
        12 => node.enis[eni].card = number,
        13 => node.enis[eni].device_index = number,
        14 => node.enis[eni].age_seconds = number,
        15 => node.now = u64::from(number) << 32,
        16 => node.booted_seconds = number,
        17 => node.families.clear(),
        18 => node.subnets.clear(),
        19 => node.subnets[0..].iter_mut().for_each(|s| s.free_ips = Some(number)),
        20 => node.history.iter_mut().for_each(|m| m.peak_assigned = number),
        21 => node.history.iter_mut().for_each(|m| m.adds = number),
        22 => node.enis.truncate(1),
        _ => {
            let Some(eni) = node.enis.iter_mut().find(|e| !e.cidrs.is_empty()) else { return };
            let cidr = place.index(eni.cidrs.len());
            let cidr = &mut eni.cidrs[cidr];
            match what {
                23 => cidr.size = number,
                24 => cidr.assigned = number,
                25 => cidr.cooling = number,
                26 => cidr.age_seconds = number,
                27 => cidr.idle_seconds = Some(number),
                28 => cidr.cooled_in_seconds = number,
                _ => cidr.id = number,
            }
        }
    }
}

/// A plan: most of what it names is there.
pub fn plan() -> impl Strategy<Value = Plan> {
    let eni = || {
        prop_oneof![
            8 => (0u32..2, 0u32..5).prop_map(|(card, device)| format!("eni-{card}-{device}")),
            1 => any::<String>(),
        ]
    };
    let count = || prop_oneof![6 => 1u32..12, 1 => extreme()];
    let id = || prop_oneof![12 => 0u32..40, 1 => extreme()];
    let growth = prop_oneof![
        (eni(), unit(), count()).prop_map(|(eni, unit, count)| Growth::Assign(Assign { eni, unit, count })),
        (prop_oneof![6 => 0u32..2, 1 => extreme()], unit(), count())
            .prop_map(|(card, unit, count)| Growth::CreateEni(CreateEni { card, unit, count })),
    ];
    // Most plans do one thing: growth forbids giving back.
    let one_of = (
        prop_oneof![1 => Just(vec![]), 1 => vec(growth, 0..5)],
        prop_oneof![1 => Just(vec![]), 3 => vec(id(), 0..20)],
        vec(eni(), 0..5),
        vec(id(), 0..10),
    );
    one_of.prop_map(|(grow, release, remove, drain)| Plan { grow, release, remove, drain, ..Plan::default() })
}
