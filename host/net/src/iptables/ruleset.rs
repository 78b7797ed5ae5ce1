//! Tables, chains and rules as `iptables-save` prints them.

use std::fmt;

use reservoir_core::ip::IpNet;

/// A rule: the words after `-A <chain>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule(Vec<String>);

/// A chain and its rules, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    pub rules: Vec<Rule>,
}

/// A table: its chains, in the order of the listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    pub chains: Vec<Chain>,
}

/// A rule in one spelling: two rules are the same if their canonical forms are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Canonical(Vec<String>);

impl Rule {
    #[must_use]
    pub fn new(words: Vec<String>) -> Self {
        Self(words)
    }

    /// A rule of words separated by blanks; words with blanks in double quotes.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(split(text))
    }

    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.0
    }

    /// The text of its comment.
    #[must_use]
    pub fn comment(&self) -> Option<&str> {
        let at = self.0.iter().position(|w| w == "--comment")?;
        self.0.get(at + 1).map(String::as_str)
    }

    /// The spelling of `iptables-save`: addresses and interfaces first, masks written out.
    #[must_use]
    pub fn canonical(&self) -> Canonical {
        let mut selectors: Vec<(usize, Vec<String>)> = Vec::new();
        let mut rest = Vec::new();
        let mut words = self.0.iter().peekable();
        while let Some(word) = words.next() {
            let negated = word == "!";
            let option = if negated { words.next() } else { Some(word) };
            let Some(option) = option else { break };
            if let Some(rank) = ["-s", "-d", "-i", "-o", "-p"].iter().position(|o| o == option) {
                let value = words.next().cloned().unwrap_or_default();
                let value = if rank < 2 { with_length(value) } else { value };
                if rank < 2 && value == "0.0.0.0/0" && !negated {
                    continue;
                }
                let mut selector = vec![option.clone(), value];
                if negated {
                    selector.insert(0, "!".to_owned());
                }
                selectors.push((rank, selector));
                continue;
            }
            if negated {
                rest.push("!".to_owned());
            }
            match option.as_str() {
                "--set-mark" | "--set-xmark" => {
                    rest.extend(["--set-xmark".to_owned(), mark(words.next(), "/0xffffffff")]);
                }
                "--mask" => {
                    let mask = mark(words.next(), "");
                    rest.extend(["--nfmask".to_owned(), mask.clone(), "--ctmask".to_owned(), mask]);
                }
                // What REJECT says if nothing is asked for.
                "--reject-with" => {
                    let default = ["icmp-port-unreachable", "icmp6-port-unreachable"];
                    let answer = words.next().map(String::as_str).unwrap_or_default();
                    if !default.contains(&answer) {
                        rest.extend([option.clone(), answer.to_owned()]);
                    }
                }
                // Options of the target may follow it: it has one place, too.
                "--comment" => {
                    let comment = words.next().cloned().unwrap_or_default();
                    if rest.last().is_some_and(|w| w == "comment") {
                        rest.truncate(rest.len() - 2);
                    }
                    selectors.push((usize::MAX, vec!["--comment".to_owned(), comment]));
                }
                "--nfmask" | "--ctmask" => rest.extend([option.clone(), mark(words.next(), "")]),
                _ => rest.push(option.clone()),
            }
        }
        selectors.sort();
        Canonical(selectors.into_iter().flat_map(|(_, words)| words).chain(rest).collect())
    }
}

/// A single address is printed with its length, a block in its shortest spelling.
fn with_length(value: String) -> String {
    let whole = if value.contains('/') {
        value
    } else {
        let length = if value.contains(':') { 128 } else { 32 };
        format!("{value}/{length}")
    };
    whole.parse::<IpNet>().map_or(whole, |net| net.to_string())
}

/// `value[/mask]` in lower-case hex; `default_mask` is added where there is none.
fn mark(value: Option<&String>, default_mask: &str) -> String {
    let text = value.map(String::as_str).unwrap_or_default();
    let hex = |number: &str| {
        let parsed = match number.strip_prefix("0x").or_else(|| number.strip_prefix("0X")) {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => number.parse().ok(),
        };
        parsed.map_or_else(|| number.to_owned(), |n| format!("{n:#x}"))
    };
    match text.split_once('/') {
        Some((value, mask)) => format!("{}/{}", hex(value), hex(mask)),
        None => hex(text) + default_mask,
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            let plain = !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || "\"'\\".contains(c));
            if plain {
                f.write_str(word)?;
            } else {
                write!(f, "\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))?;
            }
        }
        Ok(())
    }
}

impl Table {
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|c| c.name == name)
    }

    pub(crate) fn chain_mut(&mut self, name: &str) -> &mut Chain {
        let at = self.chains.iter().position(|c| c.name == name).unwrap_or_else(|| {
            self.chains.push(Chain { name: name.to_owned(), rules: Vec::new() });
            self.chains.len() - 1
        });
        &mut self.chains[at]
    }
}

/// Reads one table out of the output of `iptables-save`. A table that is not there is empty.
#[must_use]
pub fn parse_table(name: &str, saved: &str) -> Table {
    let mut table = Table { name: name.to_owned(), chains: Vec::new() };
    let mut current = "";
    for line in saved.lines() {
        if let Some(start) = line.strip_prefix('*') {
            current = start;
        } else if current != name {
            continue;
        } else if let Some(chain) = line.strip_prefix(':') {
            if let Some(chain) = chain.split_whitespace().next() {
                table.chain_mut(chain);
            }
        } else {
            // `[packets:bytes] -A …` where counters are printed.
            let rule = line.strip_prefix('[').and_then(|l| l.split_once("] ")).map_or(line, |(_, rule)| rule);
            if let Some((chain, rule)) = rule.strip_prefix("-A ").map(|r| r.split_once(' ').unwrap_or((r, ""))) {
                table.chain_mut(chain).rules.push(Rule::parse(rule));
            }
        }
    }
    table
}

/// Chains and rules in the output of `iptables-save`: `nat -A POSTROUTING …`. Chains of the kernel without rules are
/// left out, as looking at a table makes them.
pub(super) fn listing(saved: &str) -> Vec<String> {
    let mut table = "";
    let mut lines = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if line.starts_with("-A ") {
            lines.push(format!("{table} {line}"));
        } else if let Some(chain) = line.strip_prefix(':').and_then(|l| l.split_once(" - ")) {
            lines.push(format!("{table} -N {}", chain.0));
        }
    }
    lines
}

fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(characters.next()),
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rule_has_one_canonical_form() {
        for (a, b) in [
            (
                r#"-m comment --comment "AWS, primary ENI" -i eth0 -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-mark 0x80/0x80"#,
                r#"-i eth0 -m comment --comment "AWS, primary ENI" -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80"#,
            ),
            (
                "-i eni+ -j CONNMARK --restore-mark --mask 128",
                "-i eni+ -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
            ),
            ("-d 0.0.0.0/0 -j RETURN", "-j RETURN"),
            ("-d 10.0.0.1 -j RETURN", "-d 10.0.0.1/32 -j RETURN"),
            ("! -o vlan+ -s 10.0.0.0/8 -j X", "-s 10.0.0.0/8 ! -o vlan+ -j X"),
        ] {
            assert_eq!(Rule::parse(a).canonical(), Rule::parse(b).canonical(), "{a}");
        }
        let negated = Rule::parse("! -d 10.0.0.0/8 -j X").canonical();
        assert_ne!(negated, Rule::parse("-d 10.0.0.0/8 -j X").canonical());
    }

    #[test]
    fn words_survive_quoting() {
        let text = r#"-m comment --comment "name: \"aws-cni\" id: \"4\\f\"" -j X"#;
        let rule = Rule::parse(text);
        assert_eq!(rule.comment(), Some(r#"name: "aws-cni" id: "4\f""#));
        assert_eq!(rule.to_string(), text);
    }

    #[test]
    fn tables_are_told_apart() {
        let saved = "# comment\n*mangle\n:PREROUTING ACCEPT [1:2]\nCOMMIT\n*nat\n:POSTROUTING ACCEPT [0:0]\n:A - [0:0]\n\
                     [3:4] -A POSTROUTING -j A\n-A A\nCOMMIT\n";
        let nat = parse_table("nat", saved);
        let shape: Vec<_> = nat.chains.iter().map(|c| (c.name.as_str(), c.rules.len())).collect();
        assert_eq!(shape, [("POSTROUTING", 1), ("A", 1)]);
        assert!(parse_table("filter", saved).chains.is_empty());
    }
}
