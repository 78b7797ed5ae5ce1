//! The smallest change from what is to what should be.

use std::fmt::Write as _;

use super::desired::{CONNMARK_CHAINS, Content, DesiredChain, SNAT_CHAIN, SNAT_CHAINS};
use super::ruleset::{Canonical, Rule, Table};
use crate::error::Error;

/// One line for `iptables-restore`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    NewChain(String),
    /// Spelled as found, so that it matches whatever its form.
    Delete(String, Rule),
    /// At the top of the chain.
    Insert(String, Rule),
    Append(String, Rule),
    Flush(String),
    DeleteChain(String),
}

/// The edits of one table. Jumps go before the chains they lead to, chains come before the jumps to them.
#[must_use]
pub fn diff(desired: &[DesiredChain], actual: &Table) -> Vec<Edit> {
    let mut edits = Vec::new();
    let ours: Vec<&DesiredChain> = desired.iter().filter(|d| d.table == actual.name).collect();
    for DesiredChain { chain, content, .. } in &ours {
        if matches!(content, Content::Own { .. }) && actual.chain(chain).is_none() {
            edits.push(Edit::NewChain((*chain).to_owned()));
        }
    }
    let mut removed = Vec::new();
    for DesiredChain { chain, content, .. } in &ours {
        let found = actual.chain(chain).map(|c| c.rules.as_slice());
        match content {
            Content::Own { any_order, last } => edits.extend(own(chain, any_order, last, found.unwrap_or_default())),
            Content::Shared { comments, rules, in_order } => {
                let found: Vec<&Rule> = found
                    .unwrap_or_default()
                    .iter()
                    .filter(|r| r.comment().is_some_and(|c| comments.contains(&c)))
                    .collect();
                edits.extend(shared(chain, rules, *in_order, &found));
            }
            Content::Top { comment, rule } => {
                edits.extend(top(chain, comment, rule.as_ref(), found.unwrap_or_default()));
            }
            Content::Absent if found.is_some() => removed.push((*chain).to_owned()),
            Content::Absent => {}
        }
    }
    edits.extend(other_numbers(&ours, actual));
    edits.extend(delete_chains(&removed));
    edits
}

/// A chain of ours: stale rules go, missing ones of any order come to the top, the last ones stay last.
fn own(chain: &str, any_order: &[Rule], last: &[Rule], found: &[Rule]) -> Vec<Edit> {
    let first: Vec<Canonical> = any_order.iter().map(Rule::canonical).collect();
    let last_forms: Vec<Canonical> = last.iter().map(Rule::canonical).collect();
    let mut edits = Vec::new();
    let mut kept: Vec<(Canonical, &Rule)> = Vec::new();
    for rule in found {
        let form = rule.canonical();
        let wanted = first.contains(&form) || last_forms.contains(&form);
        if wanted && !kept.iter().any(|(k, _)| *k == form) {
            kept.push((form, rule));
        } else {
            edits.push(Edit::Delete(chain.to_owned(), rule.clone()));
        }
    }
    let tail = kept.len().saturating_sub(last_forms.len());
    let is_right = kept[tail..].iter().map(|(form, _)| form).eq(&last_forms);
    if !is_right {
        let misplaced = kept.iter().filter(|(form, _)| last_forms.contains(form));
        edits.extend(misplaced.map(|(_, rule)| Edit::Delete(chain.to_owned(), (*rule).clone())));
    }
    let mut inserted: Vec<&Canonical> = Vec::new();
    for (rule, form) in any_order.iter().zip(&first) {
        if !kept.iter().any(|(k, _)| k == form) && !inserted.contains(&form) {
            inserted.push(form);
            edits.push(Edit::Insert(chain.to_owned(), rule.clone()));
        }
    }
    if !is_right {
        edits.extend(last.iter().map(|rule| Edit::Append(chain.to_owned(), rule.clone())));
    }
    edits
}

/// A chain of others: of our rules there, the right ones stay where they are.
fn shared(chain: &str, wanted: &[Rule], in_order: bool, found: &[&Rule]) -> Vec<Edit> {
    let forms: Vec<Canonical> = wanted.iter().map(Rule::canonical).collect();
    let mut kept: Vec<usize> = Vec::new();
    let mut edits = Vec::new();
    for rule in found {
        let place = forms.iter().position(|f| *f == rule.canonical()).filter(|place| {
            // In order, a rule stays only if all that come before it stay.
            if in_order { *place == kept.len() } else { !kept.contains(place) }
        });
        match place {
            Some(place) => kept.push(place),
            None => edits.push(Edit::Delete(chain.to_owned(), (*rule).clone())),
        }
    }
    let missing = wanted.iter().enumerate().filter(|(place, _)| !kept.contains(place));
    edits.extend(missing.map(|(_, rule)| Edit::Append(chain.to_owned(), rule.clone())));
    edits
}

/// A chain of others with one rule of ours, which stays where it is.
fn top(chain: &str, comment: &str, wanted: Option<&Rule>, found: &[Rule]) -> Vec<Edit> {
    let form = wanted.map(Rule::canonical);
    let ours: Vec<&Rule> = found.iter().filter(|r| r.comment() == Some(comment)).collect();
    let right = ours.iter().position(|r| Some(r.canonical()) == form);
    let insert = wanted.filter(|_| right.is_none()).map(|rule| Edit::Insert(chain.to_owned(), rule.clone()));
    let stale = ours.iter().enumerate().filter(|(at, _)| Some(*at) != right);
    insert.into_iter().chain(stale.map(|(_, rule)| Edit::Delete(chain.to_owned(), (*rule).clone()))).collect()
}

/// Chains with other numbers, of old versions: emptied here, deleted by [`stale_chains`].
fn other_numbers(ours: &[&DesiredChain], actual: &Table) -> Vec<Edit> {
    if !ours.iter().any(|d| d.chain == SNAT_CHAIN) {
        return Vec::new();
    }
    let old = actual.chains.iter().filter(|c| c.name.starts_with(SNAT_CHAINS) && c.name != SNAT_CHAIN);
    old.flat_map(|c| c.rules.iter().map(|r| Edit::Delete(c.name.clone(), r.clone()))).collect()
}

/// The chains of the layout with several numbered chains, if it was in use (spec 04 §10.5).
///
/// # Errors
/// [`Error::Invalid`] for a chain of ours whose name ends in no number.
pub fn stale_chains(nat: &Table) -> Result<Vec<String>, Error> {
    if nat.chain("AWS-SNAT-CHAIN-1").is_none() {
        return Ok(Vec::new());
    }
    let mut stale = Vec::new();
    for name in nat.chains.iter().map(|c| &c.name) {
        if !name.starts_with(SNAT_CHAINS) && !name.starts_with(CONNMARK_CHAINS) {
            continue;
        }
        match name.rsplit('-').next().map(str::parse::<u32>) {
            Some(Ok(0)) => {}
            Some(Ok(_)) => stale.push(name.clone()),
            _ => {
                let text = format!("chain {name} of table nat ends in no number; if it is not yours, delete it");
                return Err(Error::Invalid(text));
            }
        }
    }
    Ok(stale)
}

/// Empties all of them before it deletes any: they may jump to each other.
#[must_use]
pub fn delete_chains(names: &[String]) -> Vec<Edit> {
    let flush = names.iter().cloned().map(Edit::Flush);
    flush.chain(names.iter().cloned().map(Edit::DeleteChain)).collect()
}

/// The input of `iptables-restore --noflush`.
#[must_use]
pub fn script(table: &str, edits: &[Edit]) -> String {
    let mut text = format!("*{table}\n");
    for edit in edits {
        // Writing to a string cannot fail.
        let _ = match edit {
            // Naming a chain that exists would flush it: only new ones are named.
            Edit::NewChain(chain) => writeln!(text, ":{chain} - [0:0]"),
            Edit::Delete(chain, rule) => writeln!(text, "-D {chain} {rule}"),
            Edit::Insert(chain, rule) => writeln!(text, "-I {chain} 1 {rule}"),
            Edit::Append(chain, rule) => writeln!(text, "-A {chain} {rule}"),
            Edit::Flush(chain) => writeln!(text, "-F {chain}"),
            Edit::DeleteChain(chain) => writeln!(text, "-X {chain}"),
        };
    }
    text.push_str("COMMIT\n");
    text
}

/// What a table is after edits.
pub fn apply(table: &mut Table, edits: &[Edit]) {
    for edit in edits {
        match edit {
            Edit::NewChain(chain) => drop(table.chain_mut(chain)),
            Edit::Delete(chain, rule) => {
                let rules = &mut table.chain_mut(chain).rules;
                if let Some(at) = rules.iter().position(|r| r == rule) {
                    rules.remove(at);
                }
            }
            Edit::Insert(chain, rule) => table.chain_mut(chain).rules.insert(0, rule.clone()),
            Edit::Append(chain, rule) => table.chain_mut(chain).rules.push(rule.clone()),
            Edit::Flush(chain) => table.chain_mut(chain).rules.clear(),
            Edit::DeleteChain(chain) => table.chains.retain(|c| c.name != *chain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::ruleset::parse_table;

    fn lines(edits: &[Edit]) -> String {
        script("nat", edits)
    }

    #[test]
    fn the_last_rule_stays_last_and_right_rules_stay() {
        let any = [Rule::parse("-d 10.0.0.0/8 -j RETURN"), Rule::parse("-d 11.0.0.0/8 -j RETURN")];
        let last = [Rule::parse("-j SNAT")];
        let found: Vec<Rule> = ["-d 10.0.0.0/8 -j RETURN", "-j SNAT"].map(Rule::parse).into();
        assert_eq!(lines(&own("C", &any, &last, &found)), "*nat\n-I C 1 -d 11.0.0.0/8 -j RETURN\nCOMMIT\n");
        let found: Vec<Rule> =
            ["-j SNAT", "-d 11.0.0.0/8 -j RETURN", "-d 10.0.0.0/8 -j RETURN", "-j OLD"].map(Rule::parse).into();
        assert_eq!(lines(&own("C", &any, &last, &found)), "*nat\n-D C -j OLD\n-D C -j SNAT\n-A C -j SNAT\nCOMMIT\n");
    }

    #[test]
    fn order_among_shared_rules_is_restored() {
        let wanted = [Rule::parse("-j A"), Rule::parse("-j B")];
        let [a, b] = &wanted;
        assert!(shared("C", &wanted, true, &[a, b]).is_empty());
        assert_eq!(lines(&shared("C", &wanted, true, &[b])), "*nat\n-D C -j B\n-A C -j A\n-A C -j B\nCOMMIT\n");
        assert_eq!(lines(&shared("C", &wanted, true, &[b, a])), "*nat\n-D C -j B\n-A C -j B\nCOMMIT\n");
        assert!(shared("C", &wanted, false, &[b, a]).is_empty());
        assert_eq!(lines(&shared("C", &wanted, false, &[a, b, a])), "*nat\n-D C -j A\nCOMMIT\n");
    }

    #[test]
    fn one_rule_before_those_of_others() {
        let wanted = Rule::parse("-d fd00::ac:00/118 -m comment --comment c -j REJECT");
        let saved =
            Rule::parse("-d fd00::ac:0/118 -m comment --comment c -j REJECT --reject-with icmp6-port-unreachable");
        let other = Rule::parse("-j KUBE-FORWARD");
        assert_eq!(
            top("F", "c", Some(&wanted), std::slice::from_ref(&other)),
            [Edit::Insert("F".to_owned(), wanted.clone())]
        );
        assert_eq!(top("F", "c", Some(&wanted), &[other.clone(), saved.clone()]), []);
        let twice = [saved.clone(), other.clone(), saved.clone()];
        assert_eq!(top("F", "c", Some(&wanted), &twice), [Edit::Delete("F".to_owned(), saved.clone())]);
        assert_eq!(top("F", "c", None, &twice).len(), 2);
        assert_eq!(top("F", "c", None, &[other]), []);
    }

    #[test]
    fn a_chain_without_a_number_is_named() {
        let nat = parse_table("nat", "*nat\n:AWS-SNAT-CHAIN-1 - [0:0]\n:AWS-SNAT-CHAIN-x - [0:0]\n");
        let error = stale_chains(&nat).unwrap_err().to_string();
        assert!(error.contains("AWS-SNAT-CHAIN-x"), "{error}");
    }
}
