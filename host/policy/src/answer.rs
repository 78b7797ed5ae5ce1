//! What is kept of an answer. The rules of the node (which interface, which CIDR) are the host's to check, in
//! `reservoir-core`; here is what concerns any answer: its length and its note.

use reservoir_core::policy::{Node, Note, Plan, Sizes};
use reservoir_core::validate::senseless_growth;

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

/// A plan whose growth is all senseless is as good as none: while pods wait for what is not on its way either, that is a
/// failure like any other.
pub(crate) fn plan(mut plan: Plan, node: &Node) -> Result<Plan, Failure> {
    at_most("grow", &plan.grow, Limits::ANSWER_ITEMS)?;
    at_most("remove", &plan.remove, Limits::ANSWER_ITEMS)?;
    at_most("release", &plan.release, Limits::ANSWER_CIDRS)?;
    at_most("drain", &plan.drain, Limits::ANSWER_CIDRS)?;
    if node.cards.iter().any(|card| card.waiting > card.ips_in_flight)
        && let Some(growth) = senseless_growth(node, &plan)
    {
        return Err(Failure::Nonsense(format!("pods wait, and nothing that it asks for can be: {growth}")));
    }
    plan.note = note(plan.note);
    Ok(plan)
}

/// A ranking of nothing but what is not there is none; to want no subnet is the policy's right.
pub(crate) fn subnets(ids: Vec<String>, node: &Node) -> Result<Vec<String>, Failure> {
    at_most("the ranking", &ids, Limits::ANSWER_ITEMS)?;
    let unknown = |id: &String| !node.subnets.iter().any(|subnet| subnet.id == *id);
    match ids.first() {
        Some(first) if !node.subnets.is_empty() && ids.iter().all(unknown) => {
            Err(Failure::Nonsense(format!("the ranking names no subnet of the node: {}", one_line(first, 64))))
        }
        _ => Ok(ids),
    }
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
    use reservoir_core::policy::{Assign, CreateEni, Gate, Growth, Unit};

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
        assert!(
            matches!(plan(huge, &node), Err(Failure::Nonsense(text)) if text.starts_with("release has 8193 entries"))
        );
        let here = node.subnets[0].id.clone();
        assert!(subnets(vec![here.clone(); Limits::ANSWER_ITEMS], &node).is_ok());
        assert!(subnets(vec![here.clone(); Limits::ANSWER_ITEMS + 1], &node).is_err());
        let said = subnets(vec!["subnet-mistyped".to_owned()], &node).unwrap_err().to_string();
        assert!(said.ends_with("the ranking names no subnet of the node: subnet-mistyped"), "{said}");
        assert!(subnets(vec!["subnet-mistyped".to_owned(), here], &node).is_ok());
        assert!(subnets(vec![], &node).is_ok());
    }

    #[test]
    fn growth_that_cannot_be_is_nonsense_while_pods_wait() {
        let mut node = crate::sample::node(1, 2);
        let assign = |eni: &str, count| Growth::Assign(Assign { eni: eni.to_owned(), unit: Unit::Ip, count });
        let planned = |grow| Plan { grow, ..Plan::default() };
        let here = node.enis[0].id.clone();
        let senseless = planned(vec![assign("eni-nope", 3), assign(&here, 0)]);
        assert!(plan(senseless.clone(), &node).is_ok(), "it is dropped and harms nobody");
        node.cards[0].waiting = 1;
        let said = plan(senseless, &node).unwrap_err().to_string();
        let wanted = "pods wait, and nothing that it asks for can be: assign 3 ip on eni-nope: I12: unknown id";
        assert!(said.ends_with(wanted), "{said}");
        node.cards[0].max_enis = 1;
        let full = Growth::CreateEni(CreateEni { card: 0, unit: Unit::Ip, count: 0 });
        assert!(plan(planned(vec![full]), &node).is_err(), "that the card is full besides does not excuse it");
        node.cards[0].ips_in_flight = 1;
        assert!(plan(planned(vec![assign(&here, 0)]), &node).is_ok(), "what pods wait for is on its way");
        node.cards[0].ips_in_flight = 0;
        // To want nothing is the policy's right; what only cannot be done now is no nonsense.
        assert!(plan(Plan::default(), &node).is_ok());
        assert!(plan(planned(vec![assign("eni-nope", 3), assign(&here, 1)]), &node).is_ok());
        node.gates.grow = Gate::Closed;
        assert!(plan(planned(vec![assign("eni-nope", 3)]), &node).is_ok());
    }
}
