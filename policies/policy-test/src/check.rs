//! `policy-test check`: does it load, does it answer, what does it cost.

use std::io::{self, Write};
use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result, bail};
use reservoir_core::policy::{Context, CreateEni, Function, Node, Pairs};
use reservoir_core::validate::cut_targets;
use reservoir_policy::{
    Answer, BUILT_IN_PREFIX, Bundle, By, Called, Component, Facts, Limits, LogLine, Options, Policies, Runtime,
    Session, sample,
};
use serde::Serialize;

use crate::{input, table::Table};

/// Interfaces and addresses on each of the nodes that are tried.
const NODES: [(&str, u32, u32); 2] = [("small", 2, 29), ("large", 15, 49)];
/// Decisions of which the middle one's time is shown.
const RUNS: usize = 51;

#[derive(Debug, Serialize)]
struct Report {
    file: String,
    sha256: String,
    bytes: usize,
    compiled_in_ms: u128,
    exports: Vec<Function>,
    imports: Vec<String>,
    costs: Vec<Cost>,
    ok: bool,
}

/// One function on one node, in a fresh instance.
#[derive(Debug, Serialize)]
struct Cost {
    node: &'static str,
    interfaces: u32,
    addresses_each: u32,
    function: Function,
    fuel: u64,
    /// Middle and longest of some runs, the making of the instance included where it is the first call.
    time_us: u128,
    longest_us: u128,
    /// The answer's note, or how it failed.
    says: String,
    ok: bool,
    log: Vec<LogLine>,
}

pub(crate) fn run(out: &mut impl Write, file: &Path, settings: Vec<(String, String)>, json: bool) -> Result<()> {
    let bytes = input::component(file)?;
    let runtime = Runtime::new(&Limits::default())?;
    let start = Instant::now();
    let component =
        runtime.load(&bytes, None).with_context(|| format!("{} cannot be used as a policy", file.display()))?;
    let compiled_in_ms = start.elapsed().as_millis();
    let (built_in, own): (Vec<_>, Vec<_>) = settings.into_iter().partition(|(key, _)| key.starts_with(BUILT_IN_PREFIX));
    let settings = sorted(own);
    let mut costs = Vec::new();
    for (name, enis, addresses) in NODES {
        measure(&component, &settings, (name, enis, addresses), &mut costs);
    }
    let report = Report {
        file: file.display().to_string(),
        sha256: component.digest().to_string(),
        bytes: bytes.len(),
        compiled_in_ms,
        exports: component.exports().to_vec(),
        imports: component.imports().to_vec(),
        ok: costs.iter().all(|cost| cost.ok),
        costs,
    };
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        print(out, &report)?;
    }
    if let Some(bad) = report.costs.iter().find(|cost| !cost.ok) {
        bail!("{} on the {} node: {}", name(bad.function), bad.node, bad.says);
    }
    if !built_in.is_empty() {
        check_built_in(&built_in)?;
    }
    Ok(())
}

/// The built-in component must be able to step in, so a node refuses a policy whose settings for it make no sense.
fn check_built_in(settings: &[(String, String)]) -> Result<()> {
    let bundle = Bundle { settings: settings.iter().cloned().collect(), ..Bundle::default() };
    Policies::new(Options::default())?.load(&bundle, None)?;
    Ok(())
}

/// As the host hands them over: keys unique, the last one wins, sorted.
fn sorted(settings: Vec<(String, String)>) -> Pairs {
    settings.into_iter().collect::<std::collections::BTreeMap<_, _>>().into_iter().collect()
}

fn measure(component: &Component, settings: &Pairs, node: (&'static str, u32, u32), costs: &mut Vec<Cost>) {
    let (name, interfaces, addresses_each) = node;
    let node = sample::node(interfaces, addresses_each);
    let mut runs: Vec<Vec<Called>> = Vec::new();
    while runs.len() < RUNS {
        let calls = decision(component, settings, &node);
        let failed = calls.iter().any(|call| call.result.is_err());
        runs.push(calls);
        if failed {
            // It would fail again, perhaps after using up its time.
            break;
        }
    }
    let Some(first) = runs.last() else { return };
    for (i, call) in first.iter().enumerate() {
        let mut times: Vec<_> = runs.iter().filter_map(|run| run.get(i)).map(|call| call.time.as_micros()).collect();
        times.sort_unstable();
        costs.push(Cost {
            node: name,
            interfaces,
            addresses_each,
            function: call.function,
            fuel: call.fuel,
            time_us: times[times.len() / 2],
            longest_us: times[times.len() - 1],
            says: says(call),
            ok: call.result.is_ok(),
            log: call.log.clone(),
        });
    }
}

/// One decision as the daemon makes it: what the component owns, in one fresh instance.
fn decision(component: &Component, settings: &Pairs, node: &Node) -> Vec<Called> {
    let facts = Facts::of(node);
    let context = Context { settings: settings.clone(), memo: Vec::new() };
    let mut session = Session::new(component, &facts, By::Custom);
    let mut targets: Vec<_> = node.cards.iter().map(|card| card.configured).collect();
    let mut calls = Vec::new();
    for &function in component.exports() {
        let call = match function {
            Function::Sizing => session.sizing(&context),
            Function::Planning => session.planning(&context, &targets),
            Function::Subnets => {
                let request = CreateEni { card: 0, unit: node.unit, count: 1 };
                session.subnets(&context, &request)
            }
        };
        if let Ok(Answer::Sizing(sizes)) = &call.result {
            targets = cut_targets(node, &sizes.targets);
        }
        calls.push(call);
    }
    calls
}

fn says(call: &Called) -> String {
    match &call.result {
        Ok(Answer::Sizing(sizes)) => sizes.note.reason.clone(),
        Ok(Answer::Planning(plan)) => plan.note.reason.clone(),
        Ok(Answer::Subnets(ids)) => ids.join(", "),
        Err(failure) => failure.to_string(),
    }
}

pub(crate) fn name(function: Function) -> &'static str {
    match function {
        Function::Sizing => "sizing",
        Function::Planning => "planning",
        Function::Subnets => "subnets",
    }
}

fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let limits = Limits::default();
    writeln!(out, "component  {}", report.file)?;
    writeln!(out, "sha256     {}", report.sha256)?;
    writeln!(out, "size       {} bytes, compiled in {} ms", report.bytes, report.compiled_in_ms)?;
    writeln!(out, "exports    {}", report.exports.iter().map(|&f| name(f)).collect::<Vec<_>>().join(", "))?;
    let imports = if report.imports.is_empty() { "nothing".to_owned() } else { report.imports.join("\n           ") };
    writeln!(out, "imports    {imports}")?;
    writeln!(
        out,
        "limits     {} bytes of memory; {} fuel and {} ms a call",
        limits.memory_bytes,
        limits.fuel,
        limits.deadline.as_millis()
    )?;
    writeln!(out)?;
    let mut table = Table::new(&["node", "enis", "ips each", "function", "fuel", "p50 us", "max us", "says"]);
    for cost in &report.costs {
        table.row(vec![
            cost.node.to_owned(),
            cost.interfaces.to_string(),
            cost.addresses_each.to_string(),
            name(cost.function).to_owned(),
            cost.fuel.to_string(),
            cost.time_us.to_string(),
            cost.longest_us.to_string(),
            cost.says.clone(),
        ]);
    }
    write!(out, "{table}")?;
    for cost in &report.costs {
        for line in &cost.log {
            writeln!(out, "log of {} on the {} node: {}", name(cost.function), cost.node, line.text)?;
        }
    }
    Ok(())
}
