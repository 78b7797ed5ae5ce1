//! SNAT of a pod's egress (spec 04 §14.5, §14.6): a chain of its own in table `nat`, named after network and container,
//! and a jump to it.
//!
//! Read with `iptables -S`, written by one `iptables-restore --noflush`, which the kernel takes as a whole or not at all.
//! Both wait for each other's lock, so any number of pods may come and go at once.

use std::fmt::Write as _;
use std::net::IpAddr;

use sha2::{Digest, Sha512};

use crate::error::Error;
use crate::iptables::command::Programs;
use crate::iptables::diff::{self, Edit};
use crate::iptables::ruleset::{self, Rule, Table};
use crate::iptables::{Bound, Randomize};
use crate::rule::Family;

const NAT: &str = "nat";
const POSTROUTING: &str = "POSTROUTING";
/// The longest name of a chain.
const CHAIN_LENGTH: usize = 28;

/// The pod's chain: `CNI-E4-` or `CNI-E6-` and the first hex digits of SHA-512(network, container) (spec 04 §14.2).
#[must_use]
pub fn chain(family: Family, network: &str, container: &str) -> String {
    let mut name = match family {
        Family::V4 => "CNI-E4-".to_owned(),
        Family::V6 => "CNI-E6-".to_owned(),
    };
    let digest = Sha512::new().chain_update(network).chain_update(container).finalize();
    for byte in digest {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.truncate(CHAIN_LENGTH);
    name
}

/// The comment of the pod's rules (spec 04 §14.2).
#[must_use]
pub fn comment(network: &str, container: &str) -> String {
    format!("name: \"{network}\" id: \"{container}\"")
}

/// Whose traffic is translated, and to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnatRules {
    /// `name` of the network configuration.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// The pod's egress address.
    pub pod: IpAddr,
    /// The node's address, of the same family.
    pub node: IpAddr,
    pub randomize: Randomize,
}

impl SnatRules {
    /// Chain and rule, in the order in which they are made.
    #[must_use]
    pub fn rules(&self, has_random_fully: bool) -> Vec<(String, Rule)> {
        let family = Family::of(self.pod);
        let chain = chain(family, &self.network, &self.container);
        let multicast = match family {
            Family::V4 => "224.0.0.0/4",
            Family::V6 => "ff00::/8",
        };
        let (pod, node) = (self.pod.to_string(), self.node.to_string());
        let comment = comment(&self.network, &self.container);
        let rule = |before: &[&str], after: Option<&str>| {
            let words = before.iter().copied().chain(["-m", "comment", "--comment", &comment]).chain(after);
            Rule::new(words.map(str::to_owned).collect())
        };
        let flag = match self.randomize {
            Randomize::None => None,
            Randomize::Prng if has_random_fully => Some("--random-fully"),
            Randomize::Prng | Randomize::HashRandom => Some("--random"),
        };
        vec![
            (chain.clone(), rule(&["-d", multicast, "-j", "ACCEPT"], None)),
            (chain.clone(), rule(&["-j", "SNAT", "--to-source", &node], flag)),
            (POSTROUTING.to_owned(), rule(&["-s", &pod, "-j", &chain], None)),
        ]
    }
}

/// What is to be added to `nat`: chains and rules that are not there.
#[must_use]
pub fn plan_add(rules: &[(String, Rule)], nat: &Table) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (chain, _) in rules {
        let new = Edit::NewChain(chain.clone());
        if nat.chain(chain).is_none() && !edits.contains(&new) {
            edits.push(new);
        }
    }
    for (chain, rule) in rules {
        let found = nat.chain(chain).map(|c| c.rules.as_slice()).unwrap_or_default();
        if !found.iter().any(|r| r.canonical() == rule.canonical()) {
            edits.push(Edit::Append(chain.clone(), rule.clone()));
        }
    }
    edits
}

/// What is to be removed from `nat`: the chain, and whatever jumps to it. The pod's address need not be known (DW-26).
#[must_use]
pub fn plan_remove(chain: &str, nat: &Table) -> Vec<Edit> {
    let jumps = |rule: &&Rule| rule.words().windows(2).any(|w| (w[0] == "-j" || w[0] == "-g") && w[1] == chain);
    let from = nat.chain(POSTROUTING).map(|c| c.rules.as_slice()).unwrap_or_default();
    let mut edits: Vec<Edit> =
        from.iter().filter(jumps).map(|rule| Edit::Delete(POSTROUTING.to_owned(), rule.clone())).collect();
    if nat.chain(chain).is_some() {
        edits.extend(diff::delete_chains(&[chain.to_owned()]));
    }
    edits
}

/// The programs of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firewall {
    programs: Programs,
}

impl Firewall {
    /// `iptables` or `ip6tables`.
    #[must_use]
    pub fn of(family: Family) -> Self {
        Self::with_program(match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        })
    }

    /// A program of a certain kind, such as `ip6tables-nft`.
    #[must_use]
    pub fn with_program(program: &str) -> Self {
        Self { programs: Programs::new(program) }
    }

    /// Gives the programs so much time instead.
    #[must_use]
    pub fn within(self, bound: Bound) -> Self {
        Self { programs: self.programs.within(bound) }
    }

    /// Makes a pod's chain and rules, as far as they are not there.
    ///
    /// # Errors
    /// [`Error::Command`], [`Error::Held`]; nothing has changed.
    pub fn add(&self, rules: &SnatRules) -> Result<(), Error> {
        let has_random_fully = match self.programs.version() {
            Ok(version) => version.has_random_fully(),
            // One that says something else is taken for an old one.
            Err(Error::Command { .. }) => false,
            Err(error) => return Err(error),
        };
        let chain = chain(Family::of(rules.pod), &rules.network, &rules.container);
        self.write(&plan_add(&rules.rules(has_random_fully), &self.read(&chain)?))
    }

    /// Removes a pod's chain and the rules that lead to it. That they are gone already is fine.
    ///
    /// # Errors
    /// As [`Firewall::add`].
    pub fn remove(&self, chain: &str) -> Result<(), Error> {
        self.write(&plan_remove(chain, &self.read(chain)?))
    }

    /// The two chains that matter. The others may hold the rules of thousands of services.
    fn read(&self, chain: &str) -> Result<Table, Error> {
        let mut text = format!("*{NAT}\n");
        for chain in [POSTROUTING, chain] {
            let listed = self.programs.rules(NAT, chain)?;
            for line in listed.iter().flat_map(|text| text.lines()) {
                // A chain is `-N chain` or `-P chain policy` here, `:chain …` in what the parser knows.
                let named = line.strip_prefix("-N ").or_else(|| line.strip_prefix("-P "));
                let _ = match named {
                    Some(chain) => writeln!(text, ":{chain}"),
                    None => writeln!(text, "{line}"),
                };
            }
        }
        Ok(ruleset::parse_table(NAT, &text))
    }

    fn write(&self, edits: &[Edit]) -> Result<(), Error> {
        if edits.is_empty() { Ok(()) } else { self.programs.restore(&diff::script(NAT, edits)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> SnatRules {
        SnatRules {
            network: "aws-cni".to_owned(),
            container: "4f0c1b".to_owned(),
            pod: "fd00::ac:2".parse().unwrap(),
            node: "2600:1f14:abc:d00::10".parse().unwrap(),
            randomize: Randomize::Prng,
        }
    }

    /// Spec 04 §17.6.
    const SAVED: &str = r#"*nat
:POSTROUTING ACCEPT [0:0]
:CNI-E6-f0c66f4e2a2ba7bc8a23b - [0:0]
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -s fd00::ac:2/128 -m comment --comment "name: \"aws-cni\" id: \"4f0c1b\"" -j CNI-E6-f0c66f4e2a2ba7bc8a23b
-A CNI-E6-f0c66f4e2a2ba7bc8a23b -d ff00::/8 -m comment --comment "name: \"aws-cni\" id: \"4f0c1b\"" -j ACCEPT
-A CNI-E6-f0c66f4e2a2ba7bc8a23b -m comment --comment "name: \"aws-cni\" id: \"4f0c1b\"" -j SNAT --to-source 2600:1f14:abc:d00::10 --random-fully
"#;

    #[test]
    fn names_of_the_specification() {
        assert_eq!(chain(Family::V4, "aws-cni", "containerId-123"), "CNI-E4-5740307710ebfd5fb24f5");
        assert_eq!(chain(Family::V6, "aws-cni", "containerId-789"), "CNI-E6-e335b08ae90730d0a659a");
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let rules = pod().rules(true);
        let empty = ruleset::parse_table(NAT, "*nat\n:POSTROUTING ACCEPT [0:0]\n");
        assert_eq!(plan_add(&rules, &empty).len(), 4);
        assert!(plan_add(&rules, &ruleset::parse_table(NAT, SAVED)).is_empty());
        let without_jump: String = SAVED.lines().filter(|l| !l.contains("-s fd00")).map(|l| format!("{l}\n")).collect();
        let edits = plan_add(&rules, &ruleset::parse_table(NAT, &without_jump));
        assert_eq!(edits, [Edit::Append(POSTROUTING.to_owned(), rules[2].1.clone())]);
    }

    #[test]
    fn the_flag_depends_on_setting_and_program() {
        let flag = |randomize, has_random_fully| {
            let rules = SnatRules { randomize, ..pod() }.rules(has_random_fully);
            rules[1].1.words().last().filter(|w| w.starts_with("--")).cloned()
        };
        assert_eq!(flag(Randomize::Prng, true).as_deref(), Some("--random-fully"));
        assert_eq!(flag(Randomize::Prng, false).as_deref(), Some("--random"));
        assert_eq!(flag(Randomize::HashRandom, true).as_deref(), Some("--random"));
        assert_eq!(flag(Randomize::None, true), None);
    }

    #[test]
    fn the_chain_and_its_jumps_go_and_nothing_else() {
        let mut nat = ruleset::parse_table(NAT, SAVED);
        let chain = chain(Family::V6, "aws-cni", "4f0c1b");
        let edits = plan_remove(&chain, &nat);
        diff::apply(&mut nat, &edits);
        let left: Vec<_> = nat.chains.iter().map(|c| (c.name.as_str(), c.rules.len())).collect();
        assert_eq!(left, [(POSTROUTING, 1)]);
        assert!(plan_remove(&chain, &nat).is_empty(), "a second time there is nothing to do");
    }
}
