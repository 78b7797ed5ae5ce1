//! A node of the host in the types of a policy, and a policy's answer in the types of the host.

use reservoir_core::policy as host;
use reservoir_policy_sdk as sdk;

/// All facts of a node.
#[must_use]
pub fn node_of(node: &host::Node) -> sdk::Node {
    let families = node.families.iter().map(|f| match f {
        host::Family::Ipv4 => sdk::Families::IPV4,
        host::Family::Ipv6 => sdk::Families::IPV6,
    });
    sdk::Node {
        now: node.now,
        name: node.name.clone(),
        instance_type: node.instance_type.clone(),
        availability_zone: node.availability_zone.clone(),
        labels: node.labels.clone(),
        families: families.fold(sdk::Families::empty(), |all, f| all | f),
        unit: unit_of(node.unit),
        limits: sdk::Limits {
            slots_per_eni: node.limits.slots_per_eni,
            ips_per_prefix: node.limits.ips_per_prefix,
            max_pods: node.limits.max_pods,
        },
        cards: node.cards.iter().map(card_of).collect(),
        enis: node.enis.iter().map(eni_of).collect(),
        subnets: node.subnets.iter().map(subnet_of).collect(),
        gates: sdk::Gates {
            grow: gate_of(node.gates.grow),
            release: gate_of(node.gates.release),
            remove: gate_of(node.gates.remove),
            ec2_calls_left: node.gates.ec2_calls_left,
        },
        draining: node.draining,
        booted_seconds: node.booted_seconds,
        history: node.history.iter().map(minute_of).collect(),
        extra: node.extra.clone(),
    }
}

/// What is asked for.
#[must_use]
pub fn unit_of(unit: host::Unit) -> sdk::Unit {
    match unit {
        host::Unit::Ip => sdk::Unit::Ip,
        host::Unit::Prefix => sdk::Unit::Prefix,
    }
}

fn unit_back(unit: sdk::Unit) -> host::Unit {
    match unit {
        sdk::Unit::Ip => host::Unit::Ip,
        sdk::Unit::Prefix => host::Unit::Prefix,
    }
}

fn gate_of(gate: host::Gate) -> sdk::Gate {
    match gate {
        host::Gate::Open => sdk::Gate::Open,
        host::Gate::OpensIn(seconds) => sdk::Gate::OpensIn(seconds),
        host::Gate::Closed => sdk::Gate::Closed,
    }
}

pub(crate) fn targets_of(targets: &host::Targets) -> sdk::Targets {
    let host::Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips } = *targets;
    sdk::Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips }
}

pub(crate) fn targets_back(targets: &sdk::Targets) -> host::Targets {
    let sdk::Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips } = *targets;
    host::Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips }
}

fn minute_of(minute: &host::Minute) -> sdk::Minute {
    let host::Minute { adds, deletes, starved, peak_assigned, ec2_calls, ec2_throttled } = *minute;
    sdk::Minute { adds, deletes, starved, peak_assigned, ec2_calls, ec2_throttled }
}

fn card_of(card: &host::Card) -> sdk::Card {
    sdk::Card {
        index: card.index,
        max_enis: card.max_enis,
        enis_in_flight: card.enis_in_flight,
        ips_in_flight: card.ips_in_flight,
        waiting: card.waiting,
        configured: targets_of(&card.configured),
    }
}

fn eni_of(eni: &host::Eni) -> sdk::Eni {
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
        cidrs: eni.cidrs.iter().map(cidr_of).collect(),
    }
}

fn cidr_of(cidr: &host::Cidr) -> sdk::Cidr {
    sdk::Cidr {
        id: cidr.id,
        unit: unit_of(cidr.unit),
        size: cidr.size,
        serving: cidr.serving,
        assigned: cidr.assigned,
        cooling: cidr.cooling,
        cooled_in_seconds: cidr.cooled_in_seconds,
        age_seconds: cidr.age_seconds,
        idle_seconds: cidr.idle_seconds,
    }
}

fn subnet_of(subnet: &host::Subnet) -> sdk::Subnet {
    sdk::Subnet {
        id: subnet.id.clone(),
        cidr: subnet.cidr.clone(),
        ipv6: subnet.ipv6,
        primary: subnet.primary,
        standing: match subnet.standing {
            host::Standing::Eligible => sdk::Standing::Eligible,
            host::Standing::Possible => sdk::Standing::Possible,
            host::Standing::Forbidden => sdk::Standing::Forbidden,
        },
        free_ips: subnet.free_ips,
        seen_seconds: subnet.seen_seconds,
        ips_refused_seconds: subnet.ips_refused_seconds,
        prefixes_refused_seconds: subnet.prefixes_refused_seconds,
        tags: subnet.tags.clone(),
    }
}

pub(crate) fn plan_back(plan: sdk::Plan) -> host::Plan {
    let growth = |growth| match growth {
        sdk::Growth::Assign(sdk::Assign { eni, unit, count }) => {
            host::Growth::Assign(host::Assign { eni, unit: unit_back(unit), count })
        }
        sdk::Growth::CreateEni(sdk::CreateEni { card, unit, count }) => {
            host::Growth::CreateEni(host::CreateEni { card, unit: unit_back(unit), count })
        }
    };
    host::Plan {
        grow: plan.grow.into_iter().map(growth).collect(),
        release: plan.release,
        remove: plan.remove,
        drain: plan.drain,
        note: host::Note {
            reason: plan.note.reason,
            wake_after_seconds: plan.note.wake_after_seconds,
            refresh_subnets: plan.note.refresh_subnets,
            memo: plan.note.memo,
        },
    }
}
