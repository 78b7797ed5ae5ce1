//! What the host does of a plan: the invariants of spec 01 §12.2, checked against the snapshot the policy was given and
//! against what is under way. What breaks one is dropped with its reason, a count too large is cut, the rest is done.
//! Whoever carries an action out checks it again against the store, which may have moved on (I3).

use std::collections::{HashMap, HashSet};

use crate::policy::{Assign, Card, Cidr, CreateEni, Eni, EniTrait, Gate, Growth, Node, Plan, Targets, Unit};

/// Actions of one kind that are looked at; the rest of a list is dropped (I12).
pub const MAX_ACTIONS: usize = 1024;
/// Seconds for which an interface is kept at least (I2).
pub const MIN_ENI_AGE_SECONDS: u32 = 60;

/// What the host does not do, whatever a policy answers (spec 01 §12.2): the part of [`Dropped::reason`] before the colon,
/// and what it stands for.
pub const INVARIANTS: [(&str, &str); 15] = [
    ("I1", "no primary, trunk or EFA interface is removed"),
    (
        "I2",
        "no interface is removed that has an assigned or cooling IP, is known for less than 60 s, or on which IPs are being changed or assigned by the same plan",
    ),
    ("I3", "no CIDR is released of which a pod holds an IP; looked at again when it is done"),
    ("I4", "no CIDR is released of which an IP is cooling"),
    ("I5", "nothing is assigned beyond the slots of an interface, nor on a trunk, an excluded or a closed one"),
    ("I6", "no card gets more interfaces than it has places, those being made counted"),
    ("I7", "no growth while its gate is shut, nor in a subnet that has just had none"),
    ("I8", "no interface is removed while the gate for that is shut"),
    ("I9", "an interface is made only in a subnet that the policy was told and that is not forbidden"),
    ("I10", "security groups are the host's choice; an answer cannot name any"),
    ("I11", "one interface per card is removed by one decision; nothing is released while that gate is shut"),
    ("I12", "unknown ids, what is named twice, counts of 0 and what exceeds 1024 entries of a list are dropped"),
    ("I13", "the primary IP of an interface is never a pod's; it is not in the snapshot"),
    ("I14", "a call that fails is no action; five in a row, and the built-in policy takes over"),
    ("I15", "nothing is released on a card that grows by the same plan"),
];

/// What is under way on single interfaces and does not show in the snapshot.
#[derive(Debug, Clone, Default)]
pub struct UnderWay {
    /// Slots being assigned or given back, by interface.
    pub slots: HashMap<String, u32>,
}

/// The part of a plan that holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Best first, all cards together; counts cut.
    pub grow: Vec<Growth>,
    pub release: Vec<u32>,
    pub remove: Vec<String>,
    pub drain: Vec<u32>,
    pub dropped: Vec<Dropped>,
}

/// One action that was not done, and the rule it broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Such as `assign 5 ip on eni-1`.
    pub action: String,
    /// Such as `I5: no free slot`. The part before the colon is one of [`INVARIANTS`].
    pub reason: String,
}

/// Checks `plan`, which answers for `node`.
#[must_use]
pub fn check(node: &Node, plan: &Plan, under_way: &UnderWay) -> Checked {
    let mut out = Checked::default();
    let mut drop = |action: String, reason: String| out.dropped.push(Dropped { action, reason });

    let mut grow = Vec::new();
    for (i, growth) in plan.grow.iter().enumerate() {
        if i == MAX_ACTIONS {
            drop(format!("{} ways to grow", plan.grow.len() - i), "I12: list too long".to_owned());
            break;
        }
        match check_growth(node, growth, under_way) {
            Ok(growth) => grow.push(growth),
            Err(reason) => drop(describe(growth), reason),
        }
    }
    let growing: HashSet<u32> = grow.iter().filter_map(|g| card_of(node, g)).collect();

    let cidrs: HashMap<u32, (&Eni, &Cidr)> =
        node.enis.iter().flat_map(|e| e.cidrs.iter().map(move |c| (c.id, (e, c)))).collect();
    let mut seen = HashSet::new();
    let mut release = Vec::new();
    for (i, id) in plan.release.iter().enumerate() {
        if i == MAX_ACTIONS {
            drop(format!("{} releases", plan.release.len() - i), "I12: list too long".to_owned());
            break;
        }
        let verdict = match cidrs.get(id) {
            None => Err("I12: unknown id".to_owned()),
            Some(_) if !seen.insert(*id) => Err("I12: named twice".to_owned()),
            Some((_, c)) if c.assigned > 0 => Err("I3: a pod holds an address of it".to_owned()),
            Some((_, c)) if c.cooling > 0 => Err("I4: an address of it is cooling".to_owned()),
            Some((e, _)) if growing.contains(&e.card) => Err("I15: the card grows".to_owned()),
            Some(_) => gate(node.gates.release, "I11"),
        };
        match verdict {
            Ok(()) => release.push(*id),
            Err(reason) => drop(format!("release cidr {id}"), reason),
        }
    }

    let mut removing = HashSet::new();
    let mut remove = Vec::new();
    for (i, id) in plan.remove.iter().enumerate() {
        if i == MAX_ACTIONS {
            drop(format!("{} removals", plan.remove.len() - i), "I12: list too long".to_owned());
            break;
        }
        let growing = grow.iter().any(|g| matches!(g, Growth::Assign(a) if a.eni == *id));
        let verdict = if growing { Err("I2: the same plan assigns on it".to_owned()) } else { Ok(()) };
        match verdict.and_then(|()| check_removal(node, id, under_way, &removing)) {
            Ok(card) => {
                removing.insert(card);
                remove.push(id.clone());
            }
            Err(reason) => drop(format!("remove {}", short(id)), reason),
        }
    }

    let mut drain = Vec::new();
    for id in plan.drain.iter().take(MAX_ACTIONS) {
        if cidrs.contains_key(id) {
            drain.push(*id);
        } else {
            drop(format!("drain cidr {id}"), "I12: unknown id".to_owned());
        }
    }
    Checked { grow, release, remove, drain, ..out }
}

/// Why none of the growth that a plan asks for can be done, where each way names what is not there or asks for nothing
/// (I12): no circumstance is to blame, and another time it would be the same. None while growth is not open.
#[must_use]
pub fn senseless_growth(node: &Node, plan: &Plan) -> Option<String> {
    if node.gates.grow != Gate::Open || !plan.grow.iter().all(|growth| senseless(node, growth).is_some()) {
        return None;
    }
    plan.grow.first().map(|growth| format!("{}: {}", describe(growth), senseless(node, growth).unwrap_or_default()))
}

fn senseless(node: &Node, growth: &Growth) -> Option<&'static str> {
    let (unknown, count) = match growth {
        Growth::Assign(a) => (node.enis.iter().all(|e| e.id != a.eni).then_some("I12: unknown id"), a.count),
        Growth::CreateEni(c) => (node.cards.iter().all(|k| k.index != c.card).then_some("I12: unknown card"), c.count),
    };
    unknown.or((count == 0).then_some("I12: a count of 0"))
}

fn check_growth(node: &Node, growth: &Growth, under_way: &UnderWay) -> Result<Growth, String> {
    gate(node.gates.grow, "I7")?;
    if let Some(reason) = senseless(node, growth) {
        return Err(reason.to_owned());
    }
    match growth {
        Growth::Assign(a) => {
            let eni = node.enis.iter().find(|e| e.id == a.eni).ok_or("I12: unknown id")?;
            if eni.traits.has(EniTrait::Closed) || eni.traits.has(EniTrait::Trunk) || eni.traits.has(EniTrait::Excluded)
            {
                return Err("I5: a closed interface".to_owned());
            }
            if let Some(subnet) = node.subnets.iter().find(|s| s.id == eni.subnet) {
                let seconds = match a.unit {
                    Unit::Ip => subnet.ips_refused_seconds,
                    Unit::Prefix => subnet.prefixes_refused_seconds,
                };
                if seconds > 0 {
                    return Err(format!("I7: {} had none, asked again in {seconds} s", subnet.id));
                }
            }
            let used = u32::try_from(eni.cidrs.len()).unwrap_or(u32::MAX);
            let under_way = under_way.slots.get(&eni.id).copied().unwrap_or(0);
            let free = node.limits.slots_per_eni.saturating_sub(used).saturating_sub(under_way);
            let count = cut(a.count, free)?;
            Ok(Growth::Assign(Assign { count, ..a.clone() }))
        }
        Growth::CreateEni(c) => {
            let card = node.cards.iter().find(|k| k.index == c.card).ok_or("I12: unknown card")?;
            let held = node.enis.iter().filter(|e| e.card == c.card).count();
            let held = u32::try_from(held).unwrap_or(u32::MAX).saturating_add(card.enis_in_flight);
            if held >= card.max_enis {
                return Err(format!("I6: {held} of {} interfaces", card.max_enis));
            }
            let count = cut(c.count, node.limits.slots_per_eni)?;
            Ok(Growth::CreateEni(CreateEni { count, ..c.clone() }))
        }
    }
}

fn check_removal(node: &Node, id: &str, under_way: &UnderWay, removing: &HashSet<u32>) -> Result<u32, String> {
    let eni = node.enis.iter().find(|e| e.id == id).ok_or("I12: unknown id")?;
    if let Some(kind) = [EniTrait::Primary, EniTrait::Trunk, EniTrait::Efa].into_iter().find(|t| eni.traits.has(*t)) {
        return Err(format!("I1: {kind:?}").to_lowercase().replace("i1:", "I1:"));
    }
    if eni.cidrs.iter().any(|c| c.assigned > 0) {
        return Err("I2: a pod holds an address of it".to_owned());
    }
    if eni.cidrs.iter().any(|c| c.cooling > 0) {
        return Err("I2: an address of it is cooling".to_owned());
    }
    if eni.age_seconds < MIN_ENI_AGE_SECONDS {
        return Err(format!("I2: {} s old", eni.age_seconds));
    }
    if under_way.slots.contains_key(id) {
        return Err("I2: addresses of it are being changed".to_owned());
    }
    if removing.contains(&eni.card) {
        return Err("I11: one per card".to_owned());
    }
    gate(node.gates.remove, "I8")?;
    Ok(eni.card)
}

fn gate(gate: Gate, rule: &str) -> Result<(), String> {
    match gate {
        Gate::Open => Ok(()),
        Gate::OpensIn(seconds) => Err(format!("{rule}: the gate opens in {seconds} s")),
        Gate::Closed => Err(format!("{rule}: the gate is closed")),
    }
}

fn cut(count: u32, room: u32) -> Result<u32, String> {
    match count.min(room) {
        0 => Err("I5: no free slot".to_owned()),
        n => Ok(n),
    }
}

/// Targets cut to what each card can hold, so that no later sum or difference meets a number out of this world. Not
/// below what the card holds already, which may be more than it could get now.
#[must_use]
pub fn cut_targets(node: &Node, targets: &[Targets]) -> Vec<Targets> {
    let cut = |(card, t): (&Card, &Targets)| {
        let on_card = || node.enis.iter().filter(|e| e.card == card.index);
        let enis = card.max_enis.max(u32::try_from(on_card().count()).unwrap_or(u32::MAX));
        let cidrs = enis.saturating_mul(node.limits.slots_per_eni);
        let size = if node.unit == Unit::Prefix { node.limits.ips_per_prefix } else { 1 };
        let held = on_card().flat_map(|e| &e.cidrs).fold(0u32, |sum, c| sum.saturating_add(c.size));
        let ips = cidrs.saturating_mul(size).max(held);
        Targets {
            warm_enis: t.warm_enis.min(enis),
            warm_ips: t.warm_ips.min(ips),
            warm_prefixes: t.warm_prefixes.min(cidrs),
            minimum_ips: t.minimum_ips.min(ips),
        }
    };
    node.cards.iter().zip(targets).map(cut).collect()
}

/// The card that a growth is for; none for an interface that does not exist.
#[must_use]
pub fn card_of(node: &Node, growth: &Growth) -> Option<u32> {
    match growth {
        Growth::Assign(a) => node.enis.iter().find(|e| e.id == a.eni).map(|e| e.card),
        Growth::CreateEni(c) => Some(c.card),
    }
}

/// An action in words, for records and logs.
#[must_use]
pub fn describe(growth: &Growth) -> String {
    match growth {
        Growth::Assign(a) => format!("assign {} {} on {}", a.count, unit(a.unit), short(&a.eni)),
        Growth::CreateEni(c) => format!("create an interface with {} {} on card {}", c.count, unit(c.unit), c.card),
    }
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Ip => "ip",
        Unit::Prefix => "prefix",
    }
}

/// An id as a policy gave it, cut so that nonsense cannot fill a log.
fn short(id: &str) -> String {
    id.chars().take(40).collect()
}

#[cfg(test)]
mod tests;
