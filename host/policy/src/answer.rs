//! What is kept of an answer. The rules of the node (which interface, which CIDR) are the host's to check, in
//! `reservoir-core`; here is what concerns any answer: its length and its note.

use reservoir_core::policy::{Node, Note, Plan, Sizes};

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

#[cfg(test)]
mod tests {
    use super::*;

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
