//! `checkpoint.json`: restoring, writing and sequences (spec 02 §5–§7), by the daemon's recovery and the store.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use reservoir_core::checkpoint::{self, ParseError};
use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::manager::NotReady;
use reservoir_core::policy::Unit;
use reservoir_core::store::{EniSpec, Key, PodMeta, Store};
use reservoir_ipamd::files;
use reservoir_ipamd::network::HostNetwork;
use reservoir_ipamd::recovery::{self, Found, RecoveryError};
use reservoir_net::plan::Op;
use serde_json::{Value, json};

use crate::{CaseResult, Outcome};

/// Long after the vectors' timestamps.
const NOW: u64 = 1_800_000_000;

/// Runs a file of checkpoint vectors.
pub fn run(file: &Value) -> Option<Vec<CaseResult>> {
    let environments = file.get("environments")?;
    let kinds =
        [("restore", file.get("restore")?), ("write", file.get("write")?), ("sequence", file.get("sequences")?)];
    let suffixes = file["veth_suffix_examples"].as_array().into_iter().flatten().map(|case| {
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        let got = reservoir_net::names::suffix(text("namespace"), text("pod"), 0);
        let name = format!("{}/{}", text("namespace"), text("pod"));
        CaseResult::compared("veth_suffix", &name, text("suffix"), got)
    });
    let mut results: Vec<CaseResult> = suffixes.collect();
    for (kind, cases) in kinds {
        for case in cases.as_array().into_iter().flatten() {
            let name = case["id"].as_str().unwrap_or("(no id)");
            let env = &environments[case["env"].as_str().unwrap_or_default()];
            let outcome = match kind {
                "restore" => restore(case, env),
                "write" => write(case),
                _ => sequence(case, env),
            };
            results.push(CaseResult::new(kind, name, outcome));
        }
    }
    Some(results)
}

fn same(expected: &Value, got: &Value) -> Outcome {
    if expected == got {
        Outcome::Passed
    } else {
        Outcome::Failed { expected: expected.to_string(), got: got.to_string() }
    }
}

/// The host of a case: its links, and what fails.
struct Host {
    links: Result<Vec<String>, String>,
    /// There is no checkpoint: a fresh boot.
    fresh: bool,
}

impl HostNetwork for Host {
    fn set_up_host(&self, _: &str, _: Ipv4Addr, _: &[Ipv4Net]) -> Result<(), String> {
        Ok(())
    }
    fn set_vpc_blocks(&self, _: &[Ipv4Net]) -> Result<(), String> {
        Ok(())
    }
    fn set_up_eni(&self, eni: &EniSpec, _: IpNet) -> Result<u32, NotReady> {
        Ok(eni.table)
    }
    fn table(&self, eni: &EniSpec) -> Result<u32, String> {
        Ok(eni.table)
    }
    fn leave_eni(&self, _: &EniSpec) -> Result<(), String> {
        Ok(())
    }
    fn link_index(&self, _: &str) -> Result<Option<u32>, String> {
        Ok(None)
    }
    fn tear_down_eni(&self, _: &EniSpec) -> Result<(), String> {
        Ok(())
    }
    fn links(&self) -> Result<Vec<String>, String> {
        self.links.clone()
    }
    fn pods(&self) -> Result<Vec<(IpAddr, Option<String>)>, String> {
        // The cases say nothing of rules: nothing can be proven, so a damaged file must stay. A fresh host has none.
        if self.fresh { Ok(Vec::new()) } else { Err("the case does not say".to_owned()) }
    }
    fn prune(&self, _: &[IpAddr]) {}
    fn refresh(&self, _: &[Ipv4Addr]) -> Result<(), String> {
        Ok(())
    }
}

fn store(env: &Value, cooldown: Duration, only: Option<&Value>) -> Store {
    let truth = |key: &str| env[key].as_bool().unwrap_or_default();
    let unit = if truth("prefix_delegation") { Unit::Prefix } else { Unit::Ip };
    let mut store = Store::new(0, unit, truth("ipv6_node"), cooldown);
    for eni in env["enis"].as_array().into_iter().flatten() {
        let number = |key: &str| u32::try_from(eni[key].as_u64().unwrap_or_default()).unwrap_or_default();
        let id = eni["id"].as_str().unwrap_or_default();
        let spec = EniSpec {
            id: id.to_owned(),
            mac: String::new(),
            card: 0,
            device_index: number("device"),
            subnet: String::new(),
            table: number("route_table"),
            address: eni["primary_ip"].as_str().and_then(|ip| ip.parse().ok()),
            primary: eni["primary"].as_bool().unwrap_or_default(),
            trunk: false,
            efa: false,
            excluded: eni["excluded"].as_bool().unwrap_or_default(),
        };
        // The vectors' ids and blocks are unique; a mistake shows in the comparison.
        let _ = store.add_eni(spec, Duration::ZERO);
        for cidr in eni["cidrs"].as_array().into_iter().flatten() {
            let wanted = only.is_none_or(|list| list.as_array().is_some_and(|l| l.contains(cidr)));
            if let (true, Some(Ok(net))) = (wanted, cidr.as_str().map(str::parse::<IpNet>)) {
                let _ = store.add_cidr(id, net, false, Duration::ZERO);
            }
        }
    }
    store
}

fn key(value: &Value) -> Key {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    Key::new(text("networkName"), text("containerID"), text("ifName"))
}

fn pod(metadata: &Value) -> PodMeta {
    let text = |name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
    PodMeta {
        namespace: text("k8sPodNamespace"),
        name: text("k8sPodName"),
        interfaces: u32::try_from(metadata["interfacesCount"].as_u64().unwrap_or_default()).unwrap_or_default(),
    }
}

fn restore(case: &Value, env: &Value) -> Outcome {
    let Ok(dir) = tempfile::tempdir() else { return Outcome::Skipped("no temporary directory".to_owned()) };
    let path = dir.path().join(case["file_name"].as_str().unwrap_or("ipam.json"));
    let faults = &case["faults"];
    let made = match (faults["path_is_directory"].as_bool(), case["file"].as_str()) {
        (Some(true), _) => std::fs::create_dir(&path),
        (_, Some(text)) => std::fs::write(&path, text),
        _ => Ok(()),
    };
    if let Err(error) = made {
        return Outcome::Skipped(format!("the file cannot be made: {error}"));
    }
    let links = case["host_links"].as_array().into_iter().flatten().filter_map(|l| Some(l.as_str()?.to_owned()));
    let links = if faults["link_list"].is_string() { Err("it fails".to_owned()) } else { Ok(links.collect()) };
    let host = Host { links, fresh: !path.exists() };
    let expect = &case["expect"];
    let ipv6 = env["ipv6_node"].as_bool().unwrap_or_default();
    match recovery::read_for(&path, &host, NOW, ipv6) {
        Err(error) => {
            let class = match &error {
                RecoveryError::Version(ParseError::Version(_)) => "version",
                RecoveryError::Io { .. } => "io",
                RecoveryError::Links(_) => "netlink",
                RecoveryError::Version(ParseError::Malformed(_)) | RecoveryError::Unprovable { .. } => "parse",
            };
            let unchanged = match case["file"].as_str() {
                Some(text) => std::fs::read_to_string(&path).is_ok_and(|now| now == text),
                None => path.is_dir(),
            };
            let got = json!({"outcome": "error", "error_class": class, "daemon_exit_code": 1,
                "file_after": if unchanged { "unchanged" } else { "changed" }, "rules_deleted": []});
            match same(expect, &got) {
                // What the reference happens to read, ours may refuse: it then starts on nothing and leaves the file.
                Outcome::Failed { .. } if is_quirk(case) && ["parse", "version"].contains(&class) && unchanged => {
                    Outcome::Better(format!("refused, and the file is left as it is ({})", better_words(case)))
                }
                outcome => outcome,
            }
        }
        Ok(found) => restored(case, env, found, &path),
    }
}

fn restored(case: &Value, env: &Value, found: Found, path: &Path) -> Outcome {
    let mut expect = case["expect"].clone();
    let rewrite = found.rewrite;
    // Dropped, and not for a newer entry: its link is gone, it has no key, or its address is none.
    let gone: Vec<(Key, i64)> = found
        .dropped
        .iter()
        .filter(|(_, reason)| *reason != checkpoint::DropReason::Older)
        .map(|(a, _)| (a.key.clone(), a.timestamp))
        .collect();
    let prune = found.prune.clone();
    let mut store = store(env, Duration::from_secs(30), None);
    let mut dropped: Vec<Value> = found
        .dropped
        .iter()
        .map(|(a, reason)| json!({"containerID": a.key.container, "reason": reason_text(*reason)}))
        .collect();
    store.restore(found.kept);
    let orphans: Vec<Value> = store.orphans().iter().map(|o| json!(o.assignment.key.container)).collect();
    if let Some(list) = expect["dropped"].as_array_mut() {
        // W13: kept as an orphan, written again, instead of dropped.
        list.retain(|d| !(d["reason"] == "unknown-address" && orphans.contains(&d["containerID"])));
    }
    let failing = case["faults"]["checkpoint_write"].is_string();
    let written = !failing && rewrite && files::replace(path, &store.checkpoint()).is_ok();
    let assigned = |store: &Store| -> Value {
        let mut list: Vec<Value> = Vec::new();
        for (ip, a) in store.assignments() {
            let Some(held) = store.lookup(&a.key) else { continue };
            if held.eni.is_empty() {
                continue;
            }
            list.push(json!({"eni": held.eni, "ip": ip, "key": {"networkName": a.key.network,
                "containerID": a.key.container, "ifName": a.key.interface}, "metadata": metadata(&a.pod),
                "timestamp": a.timestamp, "device": held.device_index, "route_table": held.table}));
        }
        sorted(list)
    };
    let mut rules = Vec::new();
    for address in &prune {
        for step in reservoir_net::pods::plan_prune(*address) {
            if let Op::RuleDel(rule) = &step.op {
                let mut value = json!({"op": "rule-del", "priority": rule.priority, "table": rule.table});
                if let Some(to) = rule.to {
                    value["dst"] = json!(to.to_string());
                }
                if let Some(from) = rule.from {
                    value["src"] = json!(from.to_string());
                }
                rules.push(value);
            }
        }
    }
    dropped.sort_by_key(ToString::to_string);
    let mut got = json!({"outcome": "ok", "assigned": assigned(&store), "dropped": dropped, "rules_deleted": rules,
        "file_after": if failing { "unchanged" } else if written { "rewritten" } else { "absent" }});
    if let Some(wanted) = expect.get("file_after_allocations").cloned() {
        let text = if failing { Vec::new() } else { std::fs::read(path).unwrap_or_default() };
        let file: Value = serde_json::from_slice(&text).unwrap_or_default();
        got["file_after_allocations"] = sorted(file["allocations"].as_array().cloned().unwrap_or_default());
        if orphans.is_empty() {
            expect["file_after_allocations"] = sorted(wanted.as_array().cloned().unwrap_or_default());
        } else {
            // The orphan is written again; the case, being the reference's, says otherwise.
            expect["file_after_allocations"] = got["file_after_allocations"].clone();
        }
    }
    for list in ["assigned", "dropped"] {
        expect[list] = sorted(expect[list].as_array().cloned().unwrap_or_default());
    }
    match same(&expect, &got) {
        Outcome::Passed => then(case, &mut store),
        // Where ours is the better answer of spec 02 §6.7, that is what is compared.
        Outcome::Failed { .. } if is_quirk(case) => restored_better(case, env, &store, &gone, rewrite),
        failed => failed,
    }
}

/// The reference's answer is not binding: `better` says what may be done instead.
fn is_quirk(case: &Value) -> bool {
    case["requirement"] == "reference_quirk" && case["better"].is_string()
}

fn better_words(case: &Value) -> &str {
    case["better"].as_str().unwrap_or_default()
}

/// An entry of a file. Its age is its timestamp; of two with the same one the later in the file is the newer.
struct Entry {
    ip: IpAddr,
    key: Key,
    age: (i64, usize),
}

/// Ours of spec 02 §6.7: every live entry that can be read stays with its pod, in an interface or as an orphan; of several
/// with the same address or the same key the newest stays; and what stays is what is written again.
fn restored_better(case: &Value, env: &Value, store: &Store, gone: &[(Key, i64)], rewrite: bool) -> Outcome {
    let file: Value = serde_json::from_str(case["file"].as_str().unwrap_or_default()).unwrap_or_default();
    let family = if env["ipv6_node"] == true { "ipv6" } else { "ipv4" };
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let of = |(place, entry): (usize, &Value)| {
        let ip: IpAddr = text(entry, family).parse().ok()?;
        // An address of the other family is none of this node.
        (ip.is_ipv6() == (family == "ipv6")).then_some(())?;
        Some(Entry { ip, key: key(entry), age: (entry["allocationTimestamp"].as_i64().unwrap_or_default(), place) })
    };
    let entries = file["allocations"].as_array().into_iter().flatten().enumerate().filter_map(of);
    let live: Vec<Entry> = entries.filter(|e| !gone.contains(&(e.key.clone(), e.age.0))).collect();
    let newer = |a: &Entry, b: &Entry| (a.ip == b.ip || a.key == b.key) && b.age > a.age;
    let stays = |e: &&Entry| !live.iter().any(|other| newer(e, other));
    let mut wanted: Vec<String> = live.iter().filter(stays).map(|e| format!("{} {}", e.key.container, e.ip)).collect();
    let mut held: Vec<String> = store.assignments().map(|(ip, a)| format!("{} {ip}", a.key.container)).collect();
    wanted.sort();
    held.sort();
    let written = String::from_utf8_lossy(&store.checkpoint()).into_owned();
    let all_written = held.iter().filter_map(|h| h.split(' ').next()).all(|container| written.contains(container));
    let documented = json!({"held": wanted, "written": true, "rewritten": true});
    let got = json!({"held": held, "written": all_written, "rewritten": rewrite});
    Outcome::better(better_words(case), documented, got)
}

fn reason_text(reason: checkpoint::DropReason) -> &'static str {
    match reason {
        checkpoint::DropReason::StaleVeth => "stale-veth",
        checkpoint::DropReason::UnknownAddress => "unknown-address",
        checkpoint::DropReason::EmptyKey => "empty-key",
        checkpoint::DropReason::Older => "older",
    }
}

fn metadata(pod: &PodMeta) -> Value {
    let mut value = json!({});
    if !pod.namespace.is_empty() {
        value["k8sPodNamespace"] = json!(pod.namespace);
    }
    if !pod.name.is_empty() {
        value["k8sPodName"] = json!(pod.name);
    }
    if pod.interfaces != 0 {
        value["interfacesCount"] = json!(pod.interfaces);
    }
    value
}

fn sorted(mut list: Vec<Value>) -> Value {
    list.sort_by_key(ToString::to_string);
    Value::Array(list)
}

/// What is done to the restored store.
fn then(case: &Value, store: &mut Store) -> Outcome {
    for step in case["then"].as_array().into_iter().flatten() {
        let got = operate(store, step, Duration::from_secs(1));
        let outcome = same(&step["expect"], &got);
        if outcome != Outcome::Passed {
            return outcome;
        }
    }
    Outcome::Passed
}

fn operate(store: &mut Store, step: &Value, at: Duration) -> Value {
    let key = key(&step["key"]);
    if step["op"] == "add" {
        return match store.assign(&key, &PodMeta::default(), at, 1) {
            Ok(given) => json!({ "ip": given.ip }),
            Err(error) => json!({ "error": error.to_string() }),
        };
    }
    match store.release(&key, at) {
        Ok(r) => only(
            &step["expect"],
            &json!({"ip": r.ip, "device": r.device_index, "route_table": r.table, "interfaces": r.interfaces}),
        ),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

/// The members of `got` that `expected` asks for.
fn only(expected: &Value, got: &Value) -> Value {
    let keys = expected.as_object().into_iter().flat_map(|o| o.keys());
    keys.filter_map(|k| Some((k.clone(), got.get(k)?.clone()))).collect::<serde_json::Map<_, _>>().into()
}

fn write(case: &Value) -> Outcome {
    let entries: Vec<String> = case["state"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|e| {
            let ip = e["ipv4"].as_str().or(e["ipv6"].as_str())?.parse().ok()?;
            Some(checkpoint::entry(&key(e), ip, e["allocationTimestamp"].as_i64()?, &pod(&e["metadata"])))
        })
        .collect();
    let bytes = checkpoint::render(entries.iter().map(String::as_str));
    same(&case["bytes"], &json!(String::from_utf8_lossy(&bytes)))
}

fn sequence(case: &Value, env: &Value) -> Outcome {
    let cooldown = Duration::from_secs(case["cooldown_seconds"].as_u64().unwrap_or_default());
    let mut store = store(env, cooldown, case.get("only_cidrs"));
    for step in case["steps"].as_array().into_iter().flatten() {
        let at = Duration::from_secs_f64(step["at"].as_f64().unwrap_or_default());
        let (key, expect) = (key(&step["key"]), &step["expect"]);
        let failing = step["fault"]["checkpoint_write"].is_string();
        // One change is one write; a change that cannot be written is undone (spec 02 §5.3).
        let got = if step["op"] == "add" {
            match store.assign(&key, &PodMeta::default(), at, 1) {
                Ok(given) if failing => {
                    given.change.into_iter().for_each(|change| store.undo(change));
                    json!({"error": "<the write error>", "assigned": store.stats(at).assigned})
                }
                Ok(given) => json!({"ip": given.ip, "checkpoint_writes": u8::from(given.change.is_some())}),
                Err(error) => json!({"error": error.to_string(), "checkpoint_writes": 0}),
            }
        } else {
            match store.release(&key, at) {
                Ok(r) => json!({"ip": r.ip, "interfaces": r.interfaces, "checkpoint_writes": 1}),
                Err(error) => json!({"error": error.to_string(), "checkpoint_writes": 0}),
            }
        };
        let outcome = same(expect, &only(expect, &got));
        if outcome != Outcome::Passed {
            return outcome;
        }
    }
    Outcome::Passed
}
