//! A made-up node, where no real one is at hand: to try a component, to measure one.

use reservoir_core::policy::{
    Card, Cidr, Eni, EniTrait, EniTraits, Family, Gate, Gates, Limits, Minute, Node, Standing, Subnet, Targets, Unit,
};

/// A settled node in secondary-IP mode, one card, WARM_ENI_TARGET = 1, with `enis` interfaces that hold `addresses`
/// each, about half of them on pods, and room for one interface more.
#[must_use]
pub fn node(enis: u32, addresses: u32) -> Node {
    let slots = addresses.max(1);
    let one = |i: u32| Eni {
        id: format!("eni-{i:017x}"),
        card: 0,
        device_index: i,
        subnet: "subnet-0a0000000000000a1".into(),
        traits: EniTraits(if i == 0 { vec![EniTrait::Primary] } else { vec![] }),
        age_seconds: 86_400,
        cidrs: (0..addresses).map(|j| cidr(i * addresses + j)).collect(),
    };
    let subnet = |n: u32, primary| Subnet {
        id: format!("subnet-0a0000000000000a{n}"),
        cidr: format!("10.0.{}.0/19", n * 32),
        ipv6: false,
        primary,
        standing: Standing::Eligible,
        free_ips: Some(4000),
        seen_seconds: 30,
        ips_refused_seconds: 0,
        prefixes_refused_seconds: 0,
        tags: vec![("kubernetes.io/role/cni".into(), "1".into())],
    };
    let pairs = |all: &[(&str, &str)]| all.iter().map(|&(k, v)| (k.into(), v.into())).collect();
    Node {
        now: 1_800_000_000,
        name: "ip-10-0-32-10.eu-west-1.compute.internal".into(),
        instance_type: "c5.4xlarge".into(),
        availability_zone: "eu-west-1a".into(),
        labels: pairs(&[("kubernetes.io/arch", "amd64"), ("topology.kubernetes.io/zone", "eu-west-1a")]),
        families: vec![Family::Ipv4],
        unit: Unit::Ip,
        limits: Limits { slots_per_eni: slots, ips_per_prefix: 16, max_pods: enis.saturating_add(1) * slots + 2 },
        cards: vec![Card {
            index: 0,
            max_enis: enis.saturating_add(1),
            enis_in_flight: 0,
            ips_in_flight: 0,
            waiting: 0,
            configured: Targets { warm_enis: 1, ..Targets::default() },
        }],
        enis: (0..enis).map(one).collect(),
        subnets: vec![subnet(1, true), subnet(2, false)],
        gates: Gates { grow: Gate::Open, release: Gate::Open, remove: Gate::Open, ec2_calls_left: 60 },
        draining: false,
        booted_seconds: 90_000,
        history: (0..60).map(|i| Minute { adds: i % 3, deletes: i % 2, ..Minute::default() }).collect(),
        extra: vec![],
    }
}

fn cidr(id: u32) -> Cidr {
    let assigned = u32::from(id.is_multiple_of(2));
    Cidr {
        id,
        unit: Unit::Ip,
        size: 1,
        serving: true,
        assigned,
        cooling: 0,
        cooled_in_seconds: 0,
        age_seconds: 86_400,
        idle_seconds: if assigned == 1 { Some(0) } else { None },
    }
}
