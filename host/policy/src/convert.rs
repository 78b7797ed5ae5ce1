//! The generated bindings of `wit/policy.wit`, and the way between them and `reservoir_core::policy`.
//!
//! Exhaustive struct patterns on purpose: a field that is added on one side and forgotten here does not compile.

use reservoir_core::policy as core;

#[allow(missing_debug_implementations, reason = "generated code")]
#[allow(unused_qualifications, reason = "generated code")]
#[allow(clippy::all, reason = "generated code")]
mod generated {
    wasmtime::component::bindgen!({ path: "../../wit", world: "policy" });
}

pub(crate) use generated::exports::reservoir::policy::{planning, sizing, subnets};
pub(crate) use generated::reservoir::policy::{log, types as wit};

fn list<A, B>(items: &[A], each: impl Fn(&A) -> B) -> Vec<B> {
    items.iter().map(each).collect()
}

fn unit(u: core::Unit) -> wit::Unit {
    match u {
        core::Unit::Ip => wit::Unit::Ip,
        core::Unit::Prefix => wit::Unit::Prefix,
    }
}

fn unit_back(u: wit::Unit) -> core::Unit {
    match u {
        wit::Unit::Ip => core::Unit::Ip,
        wit::Unit::Prefix => core::Unit::Prefix,
    }
}

fn cidr(c: &core::Cidr) -> wit::Cidr {
    let &core::Cidr { id, unit: u, size, serving, assigned, cooling, cooled_in_seconds, age_seconds, idle_seconds } = c;
    wit::Cidr { id, unit: unit(u), size, serving, assigned, cooling, cooled_in_seconds, age_seconds, idle_seconds }
}

fn traits(t: &core::EniTraits) -> wit::EniTraits {
    t.0.iter().fold(wit::EniTraits::empty(), |all, one| {
        all | match one {
            core::EniTrait::Primary => wit::EniTraits::PRIMARY,
            core::EniTrait::Trunk => wit::EniTraits::TRUNK,
            core::EniTrait::Efa => wit::EniTraits::EFA,
            core::EniTrait::Excluded => wit::EniTraits::EXCLUDED,
            core::EniTrait::Closed => wit::EniTraits::CLOSED,
        }
    })
}

fn eni(e: &core::Eni) -> wit::Eni {
    let core::Eni { id, card, device_index, subnet, traits: t, age_seconds, cidrs } = e;
    wit::Eni {
        id: id.clone(),
        card: *card,
        device_index: *device_index,
        subnet: subnet.clone(),
        traits: traits(t),
        age_seconds: *age_seconds,
        cidrs: list(cidrs, cidr),
    }
}

/// Targets on their way in.
pub(crate) fn targets(t: &core::Targets) -> wit::Targets {
    let &core::Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips } = t;
    wit::Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips }
}

fn targets_back(t: wit::Targets) -> core::Targets {
    let wit::Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips } = t;
    core::Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips }
}

fn card(c: &core::Card) -> wit::Card {
    let core::Card { index, max_enis, enis_in_flight, ips_in_flight, waiting, configured } = c;
    wit::Card {
        index: *index,
        max_enis: *max_enis,
        enis_in_flight: *enis_in_flight,
        ips_in_flight: *ips_in_flight,
        waiting: *waiting,
        configured: targets(configured),
    }
}

fn limits(l: core::Limits) -> wit::Limits {
    let core::Limits { slots_per_eni, ips_per_prefix, max_pods } = l;
    wit::Limits { slots_per_eni, ips_per_prefix, max_pods }
}

fn standing(s: core::Standing) -> wit::Standing {
    match s {
        core::Standing::Eligible => wit::Standing::Eligible,
        core::Standing::Possible => wit::Standing::Possible,
        core::Standing::Forbidden => wit::Standing::Forbidden,
    }
}

fn subnet(s: &core::Subnet) -> wit::Subnet {
    let core::Subnet {
        id,
        cidr,
        ipv6,
        primary,
        standing: st,
        free_ips,
        seen_seconds,
        ips_refused_seconds,
        prefixes_refused_seconds,
        tags,
    } = s;
    wit::Subnet {
        id: id.clone(),
        cidr: cidr.clone(),
        ipv6: *ipv6,
        primary: *primary,
        standing: standing(*st),
        free_ips: *free_ips,
        seen_seconds: *seen_seconds,
        ips_refused_seconds: *ips_refused_seconds,
        prefixes_refused_seconds: *prefixes_refused_seconds,
        tags: tags.clone(),
    }
}

fn gate(g: core::Gate) -> wit::Gate {
    match g {
        core::Gate::Open => wit::Gate::Open,
        core::Gate::OpensIn(seconds) => wit::Gate::OpensIn(seconds),
        core::Gate::Closed => wit::Gate::Closed,
    }
}

fn gates(g: core::Gates) -> wit::Gates {
    let core::Gates { grow, release, remove, ec2_calls_left } = g;
    wit::Gates { grow: gate(grow), release: gate(release), remove: gate(remove), ec2_calls_left }
}

fn minute(m: &core::Minute) -> wit::Minute {
    let &core::Minute { adds, deletes, starved, peak_assigned, ec2_calls, ec2_throttled } = m;
    wit::Minute { adds, deletes, starved, peak_assigned, ec2_calls, ec2_throttled }
}

fn families(f: &[core::Family]) -> wit::Families {
    f.iter().fold(wit::Families::empty(), |all, one| {
        all | match one {
            core::Family::Ipv4 => wit::Families::IPV4,
            core::Family::Ipv6 => wit::Families::IPV6,
        }
    })
}

/// A snapshot on its way in.
pub(crate) fn node(n: &core::Node) -> wit::Node {
    let core::Node {
        now,
        name,
        instance_type,
        availability_zone,
        labels,
        families: f,
        unit: u,
        limits: l,
        cards,
        enis,
        subnets,
        gates: g,
        draining,
        booted_seconds,
        history,
        extra,
    } = n;
    wit::Node {
        now: *now,
        name: name.clone(),
        instance_type: instance_type.clone(),
        availability_zone: availability_zone.clone(),
        labels: labels.clone(),
        families: families(f),
        unit: unit(*u),
        limits: limits(*l),
        cards: list(cards, card),
        enis: list(enis, eni),
        subnets: list(subnets, subnet),
        gates: gates(*g),
        draining: *draining,
        booted_seconds: *booted_seconds,
        history: list(history, minute),
        extra: extra.clone(),
    }
}

/// A context on its way in.
pub(crate) fn context(c: &core::Context) -> wit::Context {
    let core::Context { settings, memo } = c;
    wit::Context { settings: settings.clone(), memo: memo.clone() }
}

/// A wish for an interface on its way in.
pub(crate) fn create_eni(c: &core::CreateEni) -> wit::CreateEni {
    let &core::CreateEni { card, unit: u, count } = c;
    wit::CreateEni { card, unit: unit(u), count }
}

fn note_back(n: wit::Note) -> core::Note {
    let wit::Note { reason, wake_after_seconds, refresh_subnets, memo } = n;
    core::Note { reason, wake_after_seconds, refresh_subnets, memo }
}

/// A sizing answer on its way out.
pub(crate) fn sizes_back(s: wit::Sizes) -> core::Sizes {
    let wit::Sizes { targets, note } = s;
    core::Sizes { targets: targets.into_iter().map(targets_back).collect(), note: note_back(note) }
}

fn growth_back(g: wit::Growth) -> core::Growth {
    match g {
        wit::Growth::Assign(wit::Assign { eni, unit, count }) => {
            core::Growth::Assign(core::Assign { eni, unit: unit_back(unit), count })
        }
        wit::Growth::CreateEni(wit::CreateEni { card, unit, count }) => {
            core::Growth::CreateEni(core::CreateEni { card, unit: unit_back(unit), count })
        }
    }
}

/// A planning answer on its way out.
pub(crate) fn plan_back(p: wit::Plan) -> core::Plan {
    let wit::Plan { grow, release, remove, drain, note } = p;
    core::Plan { grow: grow.into_iter().map(growth_back).collect(), release, remove, drain, note: note_back(note) }
}

/// A log level on its way out.
pub(crate) fn level_back(l: log::Level) -> core::LogLevel {
    match l {
        log::Level::Debug => core::LogLevel::Debug,
        log::Level::Info => core::LogLevel::Info,
        log::Level::Warn => core::LogLevel::Warn,
    }
}

#[cfg(test)]
mod tests;
