//! `policy-test explain`: one snapshot, all its numbers, what is decided and what of it the host would do.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Result, bail};
use reservoir_core::{
    policy::{Card, Cidr, Eni, EniTrait, Gate, Growth, Node, Targets, Unit},
    validate::{self, UnderWay},
};
use reservoir_policy::{Bundle, Decision, Options, Policies, PolicyError};
use serde::Serialize;

use crate::{check::name, input, table::Table};

#[derive(Debug, Serialize)]
struct Explained<'a> {
    cards: Vec<CardNumbers>,
    enis: Vec<EniNumbers>,
    decision: &'a Decision,
    /// What the host would not do of the plan, and why.
    dropped: Vec<Drop>,
    /// Subnets to try for the plan's new interfaces, in the plan's order.
    subnets: Vec<Vec<String>>,
}

/// One card's pool in IPs, counted over the CIDRs that serve pods.
#[derive(Debug, Serialize)]
struct CardNumbers {
    card: u32,
    enis: usize,
    max_enis: u32,
    enis_in_flight: u32,
    total: u64,
    assigned: u64,
    cooling: u64,
    /// Total less assigned: those that cool count, they will be free soon.
    available: u64,
    /// Available and not cooling: what a pod could get right now.
    free: u64,
    ips_in_flight: u32,
    waiting: u32,
    /// Slots on interfaces that may grow.
    free_slots: u64,
    configured: Targets,
    /// In force: what was decided, cut to what the card can hold.
    targets: Option<Targets>,
}

#[derive(Debug, Serialize)]
struct EniNumbers {
    id: String,
    card: u32,
    device_index: u32,
    subnet: String,
    traits: Vec<EniTrait>,
    age_seconds: u32,
    slots: u32,
    free_slots: u64,
    total: u64,
    assigned: u64,
    cooling: u64,
}

#[derive(Debug, Serialize)]
struct Drop {
    action: String,
    reason: String,
}

pub(crate) fn run(
    out: &mut impl Write,
    snapshot: &Path,
    policy: Option<&Path>,
    settings: Vec<(String, String)>,
    json: bool,
) -> Result<()> {
    let node = input::snapshot(snapshot)?;
    let component = policy.map(input::component).transpose()?;
    let policies = Policies::new(Options::default())?;
    let bundle = Bundle { component, settings: settings.into_iter().collect(), pin: None };
    if let Err(error) = policies.load(&bundle, Some(&node)) {
        if let PolicyError::Trial { log, .. } = &error {
            for line in log {
                eprintln!("policy-test: log: {}", line.text);
            }
        }
        return Err(error.into());
    }
    let decision = policies.decide(&node);
    if let Some((call, failure)) = decision.failure() {
        bail!("{} failed: {failure}", name(call.function));
    }
    let mut subnets = Vec::new();
    for growth in &decision.plan.grow {
        let Growth::CreateEni(request) = growth else { continue };
        let ranking = policies.rank(&node, request);
        if let Some((call, failure)) = ranking.failure() {
            bail!("{} failed: {failure}", name(call.function));
        }
        subnets.push(ranking.subnets);
    }
    let dropped = validate::check(&node, &decision.plan, &UnderWay::default()).dropped;
    let explained = Explained {
        cards: node.cards.iter().enumerate().map(|(i, card)| card_numbers(&node, i, card, &decision)).collect(),
        enis: node.enis.iter().map(|eni| eni_numbers(&node, eni)).collect(),
        dropped: dropped.into_iter().map(|d| Drop { action: d.action, reason: d.reason }).collect(),
        subnets,
        decision: &decision,
    };
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&explained)?)?;
    } else {
        print(out, &node, &explained)?;
    }
    Ok(())
}

fn sum<'a>(cidrs: impl Iterator<Item = &'a Cidr>, of: impl Fn(&Cidr) -> u32) -> u64 {
    cidrs.filter(|cidr| cidr.serving).map(|cidr| u64::from(of(cidr))).sum()
}

fn free_slots(node: &Node, eni: &Eni) -> u64 {
    if eni.traits.has(EniTrait::Closed) {
        return 0;
    }
    u64::from(node.limits.slots_per_eni).saturating_sub(eni.cidrs.len() as u64)
}

fn card_numbers(node: &Node, i: usize, card: &Card, decision: &Decision) -> CardNumbers {
    let enis = || node.enis.iter().filter(|eni| eni.card == card.index);
    let cidrs = || enis().flat_map(|eni| &eni.cidrs);
    let (total, assigned, cooling) =
        (sum(cidrs(), |c| c.size), sum(cidrs(), |c| c.assigned), sum(cidrs(), |c| c.cooling));
    CardNumbers {
        card: card.index,
        enis: enis().count(),
        max_enis: card.max_enis,
        enis_in_flight: card.enis_in_flight,
        total,
        assigned,
        cooling,
        available: total.saturating_sub(assigned),
        free: total.saturating_sub(assigned + cooling),
        ips_in_flight: card.ips_in_flight,
        waiting: card.waiting,
        free_slots: enis().map(|eni| free_slots(node, eni)).sum(),
        configured: card.configured,
        targets: decision.targets.as_ref().and_then(|all| all.get(i)).copied(),
    }
}

fn eni_numbers(node: &Node, eni: &Eni) -> EniNumbers {
    EniNumbers {
        id: eni.id.clone(),
        card: eni.card,
        device_index: eni.device_index,
        subnet: eni.subnet.clone(),
        traits: eni.traits.0.clone(),
        age_seconds: eni.age_seconds,
        slots: node.limits.slots_per_eni,
        free_slots: free_slots(node, eni),
        total: sum(eni.cidrs.iter(), |c| c.size),
        assigned: sum(eni.cidrs.iter(), |c| c.assigned),
        cooling: sum(eni.cidrs.iter(), |c| c.cooling),
    }
}

fn print(out: &mut impl Write, node: &Node, explained: &Explained<'_>) -> io::Result<()> {
    let limits = node.limits;
    let unit = if node.unit == Unit::Ip { "single IPs" } else { "prefixes" };
    writeln!(out, "node       {} ({}, {})", node.name, node.instance_type, node.availability_zone)?;
    writeln!(out, "asks for   {unit}; {} slots per interface; at most {} pods", limits.slots_per_eni, limits.max_pods)?;
    let gates = node.gates;
    writeln!(
        out,
        "gates      grow {}, release {}, remove {}; {} EC2 calls left this minute{}",
        gate(gates.grow),
        gate(gates.release),
        gate(gates.remove),
        gates.ec2_calls_left,
        if node.draining { "; the node is draining" } else { "" }
    )?;
    writeln!(out)?;
    write!(out, "{}", cards(&explained.cards))?;
    writeln!(out)?;
    write!(out, "{}", enis(&explained.enis))?;
    writeln!(out)?;
    let mut targets = Table::new(&["targets", "card", "warm enis", "warm ips", "warm prefixes", "minimum ips"]);
    for card in &explained.cards {
        for (what, t) in [("configured", Some(card.configured)), ("decided", card.targets)] {
            let Some(t) = t else { continue };
            let numbers = [card.card, t.warm_enis, t.warm_ips, t.warm_prefixes, t.minimum_ips];
            targets.row(std::iter::once(what.to_owned()).chain(numbers.map(|n| n.to_string())).collect());
        }
    }
    write!(out, "{targets}")?;
    writeln!(out)?;
    plan(out, explained)
}

fn gate(gate: Gate) -> String {
    match gate {
        Gate::Open => "open".to_owned(),
        Gate::OpensIn(seconds) => format!("opens in {seconds} s"),
        Gate::Closed => "closed".to_owned(),
    }
}

fn cards(all: &[CardNumbers]) -> Table {
    let heading =
        ["card", "enis", "total", "assigned", "cooling", "available", "free", "in flight", "waiting", "free slots"];
    let mut table = Table::new(&heading);
    for c in all {
        let coming = if c.enis_in_flight > 0 { format!("+{}", c.enis_in_flight) } else { String::new() };
        let mut row = vec![c.card.to_string(), format!("{}{coming}/{}", c.enis, c.max_enis)];
        let numbers = [
            c.total,
            c.assigned,
            c.cooling,
            c.available,
            c.free,
            u64::from(c.ips_in_flight),
            u64::from(c.waiting),
            c.free_slots,
        ];
        row.extend(numbers.map(|n| n.to_string()));
        table.row(row);
    }
    table
}

fn enis(all: &[EniNumbers]) -> Table {
    let heading =
        ["interface", "card", "device", "subnet", "traits", "slots", "free slots", "total", "assigned", "cooling"];
    let mut table = Table::new(&heading);
    for e in all {
        let traits: Vec<_> = e.traits.iter().map(|t| format!("{t:?}").to_lowercase()).collect();
        table.row(vec![
            e.id.clone(),
            e.card.to_string(),
            e.device_index.to_string(),
            e.subnet.clone(),
            traits.join(","),
            e.slots.to_string(),
            e.free_slots.to_string(),
            e.total.to_string(),
            e.assigned.to_string(),
            e.cooling.to_string(),
        ]);
    }
    table
}

fn plan(out: &mut impl Write, explained: &Explained<'_>) -> io::Result<()> {
    let decision = explained.decision;
    let plan = &decision.plan;
    let mut subnets = explained.subnets.iter();
    let mut table = Table::new(&["plan", "what"]);
    for (i, growth) in plan.grow.iter().enumerate() {
        let place = match growth {
            Growth::CreateEni(_) => {
                format!(
                    " in {}",
                    subnets.next().filter(|ids| !ids.is_empty()).map_or("no subnet".into(), |ids| ids.join(", else "))
                )
            }
            Growth::Assign(_) => String::new(),
        };
        table.row(vec![format!("grow, choice {}", i + 1), format!("{}{place}", validate::describe(growth))]);
    }
    let ids = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    if !plan.release.is_empty() {
        table.row(vec!["release".into(), format!("{} CIDRs: {}", plan.release.len(), ids(&plan.release))]);
    }
    if !plan.remove.is_empty() {
        table.row(vec!["remove".into(), plan.remove.join(" ")]);
    }
    if !plan.drain.is_empty() {
        table.row(vec!["drain".into(), format!("{} CIDRs: {}", plan.drain.len(), ids(&plan.drain))]);
    }
    if plan.grow.is_empty() && plan.release.is_empty() && plan.remove.is_empty() && plan.drain.is_empty() {
        table.row(vec!["nothing to do".into(), String::new()]);
    }
    for dropped in &explained.dropped {
        table.row(vec!["the host drops".into(), format!("{}: {}", dropped.action, dropped.reason)]);
    }
    if let Some(seconds) = decision.wake_after_seconds {
        table.row(vec!["ask again".into(), format!("in {seconds} s")]);
    }
    write!(out, "{table}")?;
    writeln!(out)?;
    let mut calls = Table::new(&["call", "by", "fuel", "us", "reason"]);
    for call in &decision.calls {
        let reason = match &call.result {
            Ok(reservoir_policy::Answer::Sizing(sizes)) => sizes.note.reason.clone(),
            Ok(reservoir_policy::Answer::Planning(plan)) => plan.note.reason.clone(),
            Ok(reservoir_policy::Answer::Subnets(_)) => String::new(),
            Err(failure) => failure.to_string(),
        };
        calls.row(vec![
            name(call.function).to_owned(),
            call.by.label().to_owned(),
            call.fuel.to_string(),
            call.time.as_micros().to_string(),
            reason,
        ]);
    }
    write!(out, "{calls}")?;
    for call in &decision.calls {
        for line in &call.log {
            writeln!(out, "log of {}: {}", name(call.function), line.text)?;
        }
    }
    Ok(())
}
