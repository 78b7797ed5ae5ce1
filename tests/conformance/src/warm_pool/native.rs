//! A node of the host in the types of a policy, to ask the built-in policy's own functions for what no plan tells.

use reservoir_core::policy as host;
use reservoir_policy_sdk as sdk;

/// The facts that sizing and planning look at.
pub(super) fn node(node: &host::Node) -> sdk::Node {
    sdk::Node {
        now: node.now,
        name: node.name.clone(),
        instance_type: node.instance_type.clone(),
        availability_zone: node.availability_zone.clone(),
        labels: node.labels.clone(),
        families: sdk::Families::IPV4,
        unit: unit(node.unit),
        limits: sdk::Limits {
            slots_per_eni: node.limits.slots_per_eni,
            ips_per_prefix: node.limits.ips_per_prefix,
            max_pods: node.limits.max_pods,
        },
        cards: node.cards.iter().map(card).collect(),
        enis: node.enis.iter().map(eni).collect(),
        subnets: vec![],
        gates: sdk::Gates {
            grow: gate(node.gates.grow),
            release: gate(node.gates.release),
            remove: gate(node.gates.remove),
            ec2_calls_left: node.gates.ec2_calls_left,
        },
        draining: node.draining,
        booted_seconds: node.booted_seconds,
        history: vec![],
        extra: vec![],
    }
}

pub(super) fn unit(unit: host::Unit) -> sdk::Unit {
    match unit {
        host::Unit::Ip => sdk::Unit::Ip,
        host::Unit::Prefix => sdk::Unit::Prefix,
    }
}

fn gate(gate: host::Gate) -> sdk::Gate {
    match gate {
        host::Gate::Open => sdk::Gate::Open,
        host::Gate::OpensIn(seconds) => sdk::Gate::OpensIn(seconds),
        host::Gate::Closed => sdk::Gate::Closed,
    }
}

fn card(card: &host::Card) -> sdk::Card {
    let host::Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips } = card.configured;
    sdk::Card {
        index: card.index,
        max_enis: card.max_enis,
        enis_in_flight: card.enis_in_flight,
        ips_in_flight: card.ips_in_flight,
        waiting: card.waiting,
        configured: sdk::Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips },
    }
}

fn eni(eni: &host::Eni) -> sdk::Eni {
    let traits = eni.traits.0.iter().map(|t| match t {
        host::EniTrait::Primary => sdk::EniTraits::PRIMARY,
        host::EniTrait::Trunk => sdk::EniTraits::TRUNK,
        host::EniTrait::Efa => sdk::EniTraits::EFA,
        host::EniTrait::Excluded => sdk::EniTraits::EXCLUDED,
        host::EniTrait::Closed => sdk::EniTraits::CLOSED,
    });
    sdk::Eni {
        id: eni.id.clone(),
        card: eni.card,
        device_index: eni.device_index,
        subnet: eni.subnet.clone(),
        traits: traits.fold(sdk::EniTraits::empty(), |all, t| all | t),
        age_seconds: eni.age_seconds,
        cidrs: eni
            .cidrs
            .iter()
            .map(|cidr| sdk::Cidr {
                id: cidr.id,
                unit: unit(cidr.unit),
                size: cidr.size,
                serving: cidr.serving,
                assigned: cidr.assigned,
                cooling: cidr.cooling,
                cooled_in_seconds: cidr.cooled_in_seconds,
                age_seconds: cidr.age_seconds,
                idle_seconds: cidr.idle_seconds,
            })
            .collect(),
    }
}
