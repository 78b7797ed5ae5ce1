//! A small node to start a test from.

use crate::{Card, Cidr, Eni, EniTraits, Families, Gate, Gates, Limits, Node, Standing, Subnet, Targets, Unit};

/// An idle m5.large in secondary-IP mode: one interface, its nine IPs free, the documented defaults, all gates open.
#[must_use]
pub fn node() -> Node {
    let configured = Targets { warm_enis: 1, warm_ips: 0, warm_prefixes: 0, minimum_ips: 0 };
    Node {
        now: 1_700_000_000,
        name: "ip-10-0-0-10.example.internal".to_owned(),
        instance_type: "m5.large".to_owned(),
        availability_zone: "eu-west-1a".to_owned(),
        labels: vec![],
        families: Families::IPV4,
        unit: Unit::Ip,
        limits: Limits { slots_per_eni: 9, ips_per_prefix: 16, max_pods: 29 },
        cards: vec![Card { index: 0, max_enis: 3, enis_in_flight: 0, ips_in_flight: 0, waiting: 0, configured }],
        enis: vec![Eni {
            id: "eni-0".to_owned(),
            card: 0,
            device_index: 0,
            subnet: "subnet-a".to_owned(),
            traits: EniTraits::PRIMARY,
            age_seconds: 3600,
            cidrs: (0..9).map(ip).collect(),
        }],
        subnets: vec![Subnet { primary: true, ..subnet("subnet-a") }],
        gates: Gates { grow: Gate::Open, release: Gate::Open, remove: Gate::Open, ec2_calls_left: 100 },
        draining: false,
        booted_seconds: 3600,
        history: vec![],
        extra: vec![],
    }
}

/// A single IP that no pod ever held.
#[must_use]
pub fn ip(id: u32) -> Cidr {
    Cidr {
        id,
        unit: Unit::Ip,
        size: 1,
        serving: true,
        assigned: 0,
        cooling: 0,
        cooled_in_seconds: 0,
        age_seconds: 3600,
        idle_seconds: None,
    }
}

/// An eligible subnet with 4091 free IPs.
#[must_use]
pub fn subnet(id: &str) -> Subnet {
    Subnet {
        id: id.to_owned(),
        cidr: "10.0.0.0/20".to_owned(),
        ipv6: false,
        primary: false,
        standing: Standing::Eligible,
        free_ips: Some(4091),
        seen_seconds: 5,
        ips_refused_seconds: 0,
        prefixes_refused_seconds: 0,
        tags: vec![],
    }
}
