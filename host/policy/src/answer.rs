//! What is kept of an answer. The rules of the node (which interface, which CIDR) are the host's to check, in
//! `reservoir-core`; here is what concerns any answer: its length, its note, and targets that a card can hold.

use reservoir_core::policy::{Card, Node, Note, Plan, Sizes, Targets, Unit};

use crate::{
    call::{Answer, Failure},
    guest::one_line,
    limits::Limits,
};

/// A component's `result`: its error's words are cut like a reason.
pub(crate) fn of<T>(
    result: Result<T, String>,
    keep: impl FnOnce(T) -> Result<Answer, Failure>,
) -> Result<Answer, Failure> {
    keep(result.map_err(|text| Failure::Error(one_line(&text, Limits::REASON_BYTES)))?)
}

fn at_most<T>(what: &str, list: &[T], most: usize) -> Result<(), Failure> {
    if list.len() > most {
        return Err(Failure::Nonsense(format!("{what} has {} entries, at most {most} are allowed", list.len())));
    }
    Ok(())
}

/// One set of targets per card.
pub(crate) fn sizes(mut sizes: Sizes, node: &Node) -> Result<Sizes, Failure> {
    let (found, cards) = (sizes.targets.len(), node.cards.len());
    if found != cards {
        return Err(Failure::Nonsense(format!("targets has {found} entries, but the node has {cards} cards")));
    }
    sizes.note = note(sizes.note);
    Ok(sizes)
}

pub(crate) fn plan(mut plan: Plan) -> Result<Plan, Failure> {
    at_most("grow", &plan.grow, Limits::ANSWER_ITEMS)?;
    at_most("remove", &plan.remove, Limits::ANSWER_ITEMS)?;
    at_most("release", &plan.release, Limits::ANSWER_CIDRS)?;
    at_most("drain", &plan.drain, Limits::ANSWER_CIDRS)?;
    plan.note = note(plan.note);
    Ok(plan)
}

pub(crate) fn subnets(ids: Vec<String>) -> Result<Vec<String>, Failure> {
    at_most("the ranking", &ids, Limits::ANSWER_ITEMS)?;
    Ok(ids)
}

fn note(note: Note) -> Note {
    Note {
        reason: one_line(&note.reason, Limits::REASON_BYTES),
        wake_after_seconds: note.wake_after_seconds.map(|seconds| seconds.max(1)),
        refresh_subnets: note.refresh_subnets,
        memo: if note.memo.len() > Limits::MEMO_BYTES { Vec::new() } else { note.memo },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_cut_to_the_card() {
        let mut node = crate::sample::node(2, 29);
        let all = |n| Targets { warm_enis: n, warm_ips: n, warm_prefixes: n, minimum_ips: n };
        let want = Targets { warm_enis: 3, warm_ips: 87, warm_prefixes: 87, minimum_ips: 87 };
        assert_eq!(cut_targets(&node, &[all(u32::MAX)]), [want]);
        assert_eq!(cut_targets(&node, &[all(2)]), [all(2)]);
        // MAX_ENI was lowered below what is attached.
        node.cards[0].max_enis = 1;
        assert_eq!(cut_targets(&node, &[all(u32::MAX)])[0].warm_ips, 58);
        node.cards[0].max_enis = u32::MAX;
        node.limits.slots_per_eni = u32::MAX;
        assert_eq!(cut_targets(&node, &[all(u32::MAX)])[0].warm_ips, u32::MAX);
    }

    #[test]
    fn notes_are_cut() {
        let long = Note {
            reason: "é".repeat(300),
            wake_after_seconds: Some(0),
            refresh_subnets: true,
            memo: vec![0; Limits::MEMO_BYTES + 1],
        };
        let cut = note(long);
        assert_eq!((cut.reason.len(), cut.wake_after_seconds, cut.memo.len()), (256, Some(1), 0));
        let fits = Note { memo: vec![7; Limits::MEMO_BYTES], ..Note::default() };
        assert_eq!(note(fits.clone()), fits);
    }

    #[test]
    fn long_lists_and_wrong_counts_are_nonsense() {
        let node = crate::sample::node(1, 1);
        let none = sizes(Sizes::default(), &node).unwrap_err();
        assert_eq!(none.to_string(), "its answer makes no sense: targets has 0 entries, but the node has 1 cards");
        let huge = Plan { release: vec![1; Limits::ANSWER_CIDRS + 1], ..Plan::default() };
        assert!(matches!(plan(huge), Err(Failure::Nonsense(text)) if text.starts_with("release has 8193 entries")));
        assert!(subnets(vec![String::new(); Limits::ANSWER_ITEMS]).is_ok());
        assert!(subnets(vec![String::new(); Limits::ANSWER_ITEMS + 1]).is_err());
    }
}
