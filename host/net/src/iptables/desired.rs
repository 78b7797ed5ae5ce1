//! The rules that should be there (spec 04 §10.1, §11.2).

use std::net::Ipv4Addr;

use reservoir_core::ip::Ipv4Net;

use super::ruleset::Rule;
use super::{Randomize, SnatConfig, SnatFacts};
use crate::error::Error;
use crate::rule::Family;

/// The chain that decides what is translated.
pub const SNAT_CHAIN: &str = "AWS-SNAT-CHAIN-0";
/// The chain that decides what is marked.
pub const CONNMARK_CHAIN: &str = "AWS-CONNMARK-CHAIN-0";
pub(super) const SNAT_CHAINS: &str = "AWS-SNAT-CHAIN";
pub(super) const CONNMARK_CHAINS: &str = "AWS-CONNMARK-CHAIN";

const SNAT_JUMP: &str = "AWS SNAT CHAIN";
const OUTBOUND: &str = "AWS, outbound connections";
const CONNMARK: &str = "AWS, CONNMARK";
const PRIMARY: &str = "AWS, primary ENI";

/// One chain as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredChain {
    pub table: &'static str,
    pub chain: &'static str,
    pub content: Content,
}

/// How a chain is owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// All of it is ours: `any_order` first, then `last` in this order.
    Own { any_order: Vec<Rule>, last: Vec<Rule> },
    /// The chain must not exist.
    Absent,
    /// Ours are the rules with one of `comments`, among those of others; `in_order` if their order counts.
    Shared { comments: &'static [&'static str], rules: Vec<Rule>, in_order: bool },
    /// Ours is the rule with this comment, put before those of others; absent if it is not wanted.
    Top { comment: &'static str, rule: Option<Rule> },
}

impl DesiredChain {
    /// Whether it holds connmark rules, which may have another form.
    #[must_use]
    pub fn is_connmark(&self) -> bool {
        self.table == "nat" && (self.chain == CONNMARK_CHAIN || self.chain == "PREROUTING")
    }
}

/// All chains with rules of ours.
///
/// # Errors
/// [`Error::Invalid`] for an empty veth prefix, a mark of 0, or no CIDR that is not translated.
pub fn rules(config: &SnatConfig, facts: &SnatFacts, has_random_fully: bool) -> Result<Vec<DesiredChain>, Error> {
    if config.veth_prefix.is_empty() {
        return Err(Error::Invalid("the veth prefix is empty: the rules would match every interface".to_owned()));
    }
    if config.mark == 0 {
        return Err(Error::Invalid("the connection mark is 0: it must be 1 to 4294967295".to_owned()));
    }
    let mut chains = connmark(config, &exempt_cidrs(config, facts))?;
    chains.extend(snat(config, facts, has_random_fully));
    chains.push(mangle(config, &facts.primary_interface));
    Ok(chains)
}

/// What is neither translated nor marked: VPC CIDRs, then the excluded ones.
#[must_use]
pub fn exempt_cidrs(config: &SnatConfig, facts: &SnatFacts) -> Vec<Ipv4Net> {
    facts.vpc_cidrs.iter().chain(&config.exclude).copied().collect()
}

/// The chain of spec 04 §10.1 and the jump to it.
#[must_use]
pub fn snat(config: &SnatConfig, facts: &SnatFacts, has_random_fully: bool) -> [DesiredChain; 2] {
    let on = !config.external_snat;
    let mut returns = Vec::new();
    if on {
        returns.extend(facts.vpc_cidrs.iter().map(|&cidr| return_rule(cidr, SNAT_JUMP)));
        returns.extend(config.exclude.iter().map(|&cidr| return_rule(cidr, "AWS SNAT CHAIN EXCLUSION")));
    }
    let last = on.then(|| snat_rule(facts.primary_ip, config.randomize, has_random_fully));
    let jump = on.then(|| rule(&["-m", "comment", "--comment", SNAT_JUMP, "-j", SNAT_CHAIN]));
    [
        DesiredChain {
            table: "nat",
            chain: SNAT_CHAIN,
            content: Content::Own { any_order: returns, last: last.into_iter().collect() },
        },
        DesiredChain {
            table: "nat",
            chain: "POSTROUTING",
            content: Content::Shared { comments: &[SNAT_JUMP], rules: jump.into_iter().collect(), in_order: false },
        },
    ]
}

/// The chain of spec 04 §11.2 and the rules that lead to it; none with external SNAT.
///
/// # Errors
/// [`Error::Invalid`] if everything would be marked.
pub fn connmark(config: &SnatConfig, exempt: &[Ipv4Net]) -> Result<Vec<DesiredChain>, Error> {
    if config.external_snat {
        return Ok(connmark_absent());
    }
    if exempt.is_empty() {
        return Err(Error::Invalid("exemptCIDRs cannot be empty".to_owned()));
    }
    let mark = format!("{:#x}", config.mark);
    let interfaces = format!("{}+", config.veth_prefix);
    let any_order = exempt.iter().map(|&cidr| return_rule(cidr, "AWS CONNMARK CHAIN")).collect();
    let both = format!("{mark}/{mark}");
    let set = rule(&["-m", "comment", "--comment", CONNMARK, "-j", "CONNMARK", "--set-xmark", &both]);
    let jump = rule(&["-i", &interfaces, "-m", "comment", "--comment", OUTBOUND, "-j", CONNMARK_CHAIN]);
    let restore = rule(&["-m", "comment", "--comment", CONNMARK, "-j", "CONNMARK", "--restore-mark", "--mask", &mark]);
    Ok(connmark_chains(Content::Own { any_order, last: vec![set] }, vec![jump, restore]))
}

/// No connmark rules: addresses are not translated here, or the rules have the form of nftables.
#[must_use]
pub fn connmark_absent() -> Vec<DesiredChain> {
    connmark_chains(Content::Absent, Vec::new())
}

fn connmark_chains(content: Content, rules: Vec<Rule>) -> Vec<DesiredChain> {
    vec![
        DesiredChain { table: "nat", chain: CONNMARK_CHAIN, content },
        DesiredChain {
            table: "nat",
            chain: "PREROUTING",
            // The restore rule must see what the chain has just marked.
            content: Content::Shared { comments: &[OUTBOUND, CONNMARK], rules, in_order: true },
        },
    ]
}

/// The rule of spec 04 §8.3 about the addresses that pods of the other family use for egress in `family`.
#[must_use]
pub fn node_local_block(family: Family, wanted: bool) -> DesiredChain {
    let (destination, comment) = match family {
        Family::V4 => ("169.254.172.0/22", "Block Node Local Pod access via IPv4"),
        Family::V6 => ("fd00::ac:0/118", "Block Node Local Pod access via IPv6"),
    };
    let matches = ["-d", destination, "-m", "conntrack", "--ctstate", "NEW", "-m", "comment", "--comment", comment];
    let rule = wanted.then(|| rule(&[&matches[..], &["-j", "REJECT"]].concat()));
    DesiredChain { table: "filter", chain: "FORWARD", content: Content::Top { comment, rule } }
}

/// Marks connections that came in by the primary interface, and marks their replies.
fn mangle(config: &SnatConfig, primary_interface: &str) -> DesiredChain {
    let mark = format!("{:#x}", config.mark);
    let both = format!("{mark}/{mark}");
    let comment = ["-m", "comment", "--comment", PRIMARY];
    let from = |interfaces: &str| {
        let words = ["-i", interfaces, "-j", "CONNMARK", "--restore-mark", "--mask", &mark];
        rule(&[&comment[..], &words].concat())
    };
    let mut rules = Vec::new();
    if config.node_port {
        let local = ["-m", "addrtype", "--dst-type", "LOCAL", "--limit-iface-in", "-j", "CONNMARK"];
        rules.push(rule(&[&comment[..], &["-i", primary_interface], &local, &["--set-mark", &both]].concat()));
    }
    if config.node_port || !config.external_snat {
        rules.push(from(&format!("{}+", config.veth_prefix)));
    }
    if config.node_port {
        rules.push(from("vlan+"));
    }
    let content = Content::Shared { comments: &[PRIMARY], rules, in_order: false };
    DesiredChain { table: "mangle", chain: "PREROUTING", content }
}

fn return_rule(cidr: Ipv4Net, comment: &str) -> Rule {
    let destination = cidr.to_string();
    let selector: &[&str] = if cidr.length() == 0 { &[] } else { &["-d", &destination] };
    rule(&[selector, &["-m", "comment", "--comment", comment, "-j", "RETURN"]].concat())
}

fn snat_rule(source: Ipv4Addr, randomize: Randomize, has_random_fully: bool) -> Rule {
    let source = source.to_string();
    let flag: &[&str] = match randomize {
        Randomize::None => &[],
        Randomize::Prng if has_random_fully => &["--random-fully"],
        Randomize::Prng | Randomize::HashRandom => &["--random"],
    };
    let matches = ["!", "-o", "vlan+", "-m", "comment", "--comment", "AWS, SNAT", "-m", "addrtype"];
    let target = ["!", "--dst-type", "LOCAL", "-j", "SNAT", "--to-source", &source];
    rule(&[&matches[..], &target, flag].concat())
}

fn rule(words: &[&str]) -> Rule {
    Rule::new(words.iter().map(|&w| w.to_owned()).collect())
}
