//! The content of chains after our edits.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;

use reservoir_core::ip::Ipv4Net;
use reservoir_net::iptables::desired::{self, DesiredChain};
use reservoir_net::iptables::ruleset::{Canonical, Chain, Rule, Table, parse_table};
use reservoir_net::iptables::{Iptables, Once, Randomize, SnatConfig, SnatFacts, diff};
use reservoir_net::{Error, MacAddr, host, links};
use serde_json::{Value, json};

use super::{Case, better, claims, rules, skip};
use crate::Outcome;

/// Chains that exist whether they have rules or not.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

pub(super) fn host(case: &Case) -> Outcome {
    if case.inputs["nat_chains"].is_object() {
        return stale_chains(case);
    }
    if case.inputs["host_macs"].is_array() {
        let Ok(primary) = case.text("primary_mac").parse::<MacAddr>() else { return skip("no MAC address") };
        let text = links::find(&[], primary).map_err(|e| e.within(host::NO_PRIMARY).to_string()).err();
        let wanted = case.expected["error_contains"].as_str().unwrap_or_default();
        let got = text.unwrap_or_default();
        return claims(&[("the error", got.contains(wanted), got.clone())]);
    }
    let has_random_fully = case.inputs["iptables_has_random_fully"] == true;
    let chains = desired::rules(&config(case), &facts(case), has_random_fully).map(|mut chains| {
        if case.inputs["connmark_backend"] == "nftables" {
            chains.retain(|chain| !chain.is_connmark());
            chains.extend(desired::connmark_absent());
        }
        chains
    });
    match chains {
        Ok(chains) => state(case, &chains),
        Err(error) => Outcome::Failed { expected: "rules".to_owned(), got: error.to_string() },
    }
}

pub(super) fn connmark(case: &Case) -> Outcome {
    if case.expected["exempt_cidrs"].is_array() {
        let cidrs = desired::exempt_cidrs(&config(case), &facts(case));
        let got = Value::from_iter(cidrs.iter().map(ToString::to_string));
        return case.compared(&case.expected["exempt_cidrs"], got);
    }
    if let Some(text) = case.inputs["iptables_init_error"].as_str() {
        return failing_programs(case, text).unwrap_or_else(|error| skip(&format!("no program can be made: {error}")));
    }
    let config = SnatConfig { external_snat: case.text("action") == "cleanup", ..config(case) };
    let chains = match desired::connmark(&config, &cidrs(&case.inputs["exempt_cidrs"])) {
        Ok(chains) => chains,
        Err(error) => {
            let expected = case.expected["error"].as_str().unwrap_or("no error");
            return case.compared(expected, error.to_string());
        }
    };
    if case.expected["error"].is_string() {
        return Outcome::Failed { expected: case.expected["error"].to_string(), got: "no error".to_owned() };
    }
    if let Some(expected) = case.expected["nft_table_delete_attempts"].as_u64() {
        let mut attempts = 0;
        let mut once = Once::default();
        for _ in 0..runs(case) {
            let done: Result<(), Error> = once.run(|| {
                attempts += 1;
                Ok(())
            });
            if let Err(error) = done {
                return Outcome::Failed { expected: "no error".to_owned(), got: error.to_string() };
            }
        }
        if attempts != expected {
            return Outcome::Failed { expected: expected.to_string(), got: attempts.to_string() };
        }
    }
    if case.expected["state"].is_object() { state(case, &chains) } else { Outcome::Passed }
}

/// Ours runs programs: here they can tell their version and nothing else. What they say is told, and the other form of
/// the rules is left alone until ours is there.
fn failing_programs(case: &Case, text: &str) -> std::io::Result<Outcome> {
    let dir = tempfile::tempdir()?;
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'iptables v1.8.9 (legacy)' && exit\necho '{text}' >&2\nexit 1\n"
    );
    for program in ["iptables", "iptables-save", "iptables-restore"] {
        let path = dir.path().join(program);
        std::fs::write(&path, &script)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    let facts = SnatFacts { vpc_cidrs: cidrs(&case.inputs["exempt_cidrs"]), ..facts(case) };
    let applied = Iptables::detect(&dir.path().join("iptables").display().to_string()).map(|mut programs| {
        let outcome = programs.apply(&config(case), &facts);
        (outcome, format!("{programs:?}"))
    });
    let (outcome, after) = match applied {
        Ok((outcome, after)) => (outcome.map(drop), after),
        Err(error) => (Err(error), String::new()),
    };
    let error = outcome.err().map(|e| e.to_string()).unwrap_or_default();
    let wanted = case.expected["error_contains"].as_str().unwrap_or_default();
    Ok(claims(&[
        ("the error", error.contains(wanted), error.clone()),
        (
            "the clean-up of the other form is still to come",
            after.contains("other_form: Once { done: false }"),
            after.clone(),
        ),
    ]))
}

/// The connmark rules of iptables go, once, when nftables has them.
pub(super) fn connmark_moves_to_nftables(case: &Case) -> Outcome {
    let mut nat = table("nat", &case.inputs["legacy_iptables"]["nat"]);
    let mut once = Once::default();
    let mut count = 0;
    for _ in 0..runs(case) {
        let done: Result<(), Error> = once.run(|| {
            count += 1;
            let edits = diff::diff(&desired::connmark_absent(), &nat);
            diff::apply(&mut nat, &edits);
            Ok(())
        });
        if let Err(error) = done {
            return Outcome::Failed { expected: "no error".to_owned(), got: error.to_string() };
        }
    }
    let expected = [table("nat", &case.expected["legacy_iptables"]["nat"])];
    let wanted = format!("{:#?} in {} runs", content(&expected), case.expected["legacy_cleanup_runs"]);
    case.compared(wanted, format!("{:#?} in {count} runs", content(&[nat])))
}

fn runs(case: &Case) -> u64 {
    case.inputs["runs"].as_u64().unwrap_or(1)
}

pub(super) fn cidrs(list: &Value) -> Vec<Ipv4Net> {
    list.as_array().into_iter().flatten().filter_map(|c| c.as_str()?.parse().ok()).collect()
}

pub(super) fn config(case: &Case) -> SnatConfig {
    let exclude = case.setting("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS").unwrap_or_default();
    SnatConfig {
        external_snat: case.setting("AWS_VPC_K8S_CNI_EXTERNALSNAT") == Some("true"),
        node_port: case.setting("AWS_VPC_CNI_NODE_PORT_SUPPORT") != Some("false"),
        exclude: exclude.split(',').filter_map(|c| c.trim().parse().ok()).collect(),
        randomize: match case.setting("AWS_VPC_K8S_CNI_RANDOMIZESNAT") {
            Some("none") => Randomize::None,
            Some("hashrandom") => Randomize::HashRandom,
            _ => Randomize::Prng,
        },
        mark: rules::mark(case),
        veth_prefix: case.setting("AWS_VPC_K8S_CNI_VETHPREFIX").unwrap_or("eni").to_owned(),
    }
}

fn facts(case: &Case) -> SnatFacts {
    SnatFacts {
        primary_interface: case.text("primary_interface").to_owned(),
        primary_ip: case.text("primary_ip").parse().unwrap_or([0; 4].into()),
        vpc_cidrs: cidrs(&case.inputs["vpc_cidrs"]),
    }
}

/// Runs as often as the case says and compares the chains; one more run must find nothing to do.
fn state(case: &Case, chains: &[DesiredChain]) -> Outcome {
    let mut tables: Vec<Table> = ["nat", "mangle"].map(|name| table(name, &case.inputs["initial_state"][name])).into();
    for _ in 0..runs(case) {
        for table in &mut tables {
            let edits = diff::diff(chains, table);
            diff::apply(table, &edits);
        }
    }
    let left: Vec<_> = tables.iter().flat_map(|table| diff::diff(chains, table)).collect();
    if !left.is_empty() {
        return Outcome::Failed { expected: "nothing to do in another run".to_owned(), got: format!("{left:?}") };
    }
    let expected: Vec<Table> = ["nat", "mangle"].map(|name| table(name, &case.expected["state"][name])).into();
    case.compared(format!("{:#?}", content(&expected)), format!("{:#?}", content(&tables)))
}

fn table(name: &str, chains: &Value) -> Table {
    let chains = chains.as_object().into_iter().flatten();
    let rule = |words: &Value| {
        let words = words.as_array().into_iter().flatten();
        Rule::new(words.filter_map(|w| w.as_str().map(str::to_owned)).collect())
    };
    let chains = chains.map(|(name, rules)| Chain {
        name: name.clone(),
        rules: rules.as_array().into_iter().flatten().map(rule).collect(),
    });
    Table { name: name.to_owned(), chains: chains.collect() }
}

/// What `iptables-save` printed, in a form that does not depend on how rules are spelled.
pub(super) fn saved(text: &str) -> String {
    let names: BTreeSet<&str> = text.lines().filter_map(|l| l.strip_prefix('*')).collect();
    shown(&names.into_iter().map(|name| parse_table(name, text)).collect::<Vec<_>>())
}

/// Tables in the same form.
pub(super) fn shown(tables: &[Table]) -> String {
    format!("{:#?}", content(tables))
}

fn content(tables: &[Table]) -> BTreeMap<(&str, &str), Vec<Canonical>> {
    let chains = tables.iter().flat_map(|table| table.chains.iter().map(|chain| (table.name.as_str(), chain)));
    chains
        .filter(|(_, chain)| !chain.rules.is_empty() || !BUILT_IN.contains(&chain.name.as_str()))
        .map(|(table, chain)| ((table, chain.name.as_str()), chain.rules.iter().map(Rule::canonical).collect()))
        .collect()
}

fn stale_chains(case: &Case) -> Outcome {
    if case.text("tool") != "iptables" {
        return skip("IPv6 comes later");
    }
    let rule = Rule::new(vec!["-j".to_owned(), "RETURN".to_owned()]);
    let chains = case.inputs["nat_chains"].as_object().into_iter().flatten().map(|(name, rules)| {
        let count = rules.as_u64().and_then(|n| n.try_into().ok()).unwrap_or_default();
        Chain { name: name.clone(), rules: vec![rule.clone(); count] }
    });
    let mut nat = Table { name: "nat".to_owned(), chains: chains.collect() };
    let outcome = diff::stale_chains(&nat);
    let logged = outcome.is_err();
    let mut deleted = outcome.unwrap_or_default();
    diff::apply(&mut nat, &diff::delete_chains(&deleted));
    let mut expected = case.expected.clone();
    if case.is_quirk {
        // Ours empties a chain before it deletes it (DW-19).
        expected = json!({"chains_deleted": ["AWS-SNAT-CHAIN-1", "AWS-CONNMARK-CHAIN-1"], "error_logged": false});
    }
    // The listing's order is lost in JSON objects.
    deleted.sort_unstable();
    let mut wanted: Vec<String> = expected["chains_deleted"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    wanted.sort_unstable();
    let gone = deleted.iter().all(|name| nat.chain(name).is_none());
    let outcome = claims(&[
        ("the chains deleted", deleted == wanted && gone, format!("{deleted:?}")),
        ("the error", expected["error_logged"] == logged, format!("logged: {logged}")),
    ]);
    if case.is_quirk { better("a chain is emptied before it is deleted (DW-19)", outcome) } else { outcome }
}
