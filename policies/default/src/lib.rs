//! The built-in policy: the documented rule (spec 01 §1.7–§1.9, §3.3–§3.6, §4, §5, §6.3), as plain functions on plain
//! data. This file only exports them.

use reservoir_policy_sdk::{
    Assign, Context, CreateEni, EniTraits, Growth, Node, Note, Plan, Planning, Sizes, Sizing, Standing, SubnetId,
    Subnets, Targets, export,
};

/// The built-in policy.
#[derive(Debug)]
pub struct Default;

impl Sizing for Default {
    fn decide(node: Node, _context: Context) -> Result<Sizes, String> {
        let targets = node.cards.iter().map(|card| card.configured).collect();
        Ok(Sizes { targets, note: Note::because("configured targets") })
    }
}

impl Planning for Default {
    fn decide(node: Node, _context: Context, targets: Vec<Targets>) -> Result<Plan, String> {
        let mut grow = Vec::new();
        for (card, target) in node.cards.iter().zip(targets) {
            let cidrs = || node.enis_of(card.index).flat_map(|eni| &eni.cidrs).filter(|cidr| cidr.serving);
            let total: u32 = cidrs().map(|cidr| cidr.size).sum::<u32>() + card.ips_in_flight;
            let free = total.saturating_sub(cidrs().map(|cidr| cidr.assigned).sum());
            let wanted = (target.warm_enis * node.limits.slots_per_eni).max(target.warm_ips).max(card.waiting);
            if free >= wanted || total >= node.limits.max_pods {
                continue;
            }
            let slots = node.limits.slots_per_eni;
            grow.extend(node.enis_of(card.index).filter(|eni| !eni.has(EniTraits::CLOSED)).filter_map(|eni| {
                let count = slots.saturating_sub(eni.slots_used());
                (count > 0).then(|| Growth::Assign(Assign { eni: eni.id.clone(), unit: node.unit, count }))
            }));
            let held = u32::try_from(node.enis_of(card.index).count()).unwrap_or(u32::MAX);
            if held.saturating_add(card.enis_in_flight) < card.max_enis {
                grow.push(Growth::CreateEni(CreateEni { card: card.index, unit: node.unit, count: slots }));
            }
        }
        Ok(Plan { grow, release: vec![], remove: vec![], drain: vec![], note: Note::because("") })
    }
}

impl Subnets for Default {
    fn rank(node: Node, _context: Context, _request: CreateEni) -> Result<Vec<SubnetId>, String> {
        let mut allowed: Vec<_> = node.subnets.iter().filter(|s| s.standing == Standing::Eligible).collect();
        allowed.sort_by_key(|s| std::cmp::Reverse(s.free_ips));
        Ok(allowed.into_iter().map(|s| s.id.clone()).collect())
    }
}

export!(Default: sizing, planning, subnets);
