//! Every way to misbehave in one table. For each: decisions keep coming, the built-in component's where it must be; the
//! reason is there to see; a good component afterwards is loaded and used.
//!
//! Run one by its name: `MISBEHAVE=wasi-exit cargo test -p reservoir-policy --test misbehaving`.

mod support;

use std::{collections::BTreeSet, fs, panic, sync::Arc};

use reservoir_core::{
    policy::{CreateEni, Function, Node, Plan, Targets, Unit},
    validate::{UnderWay, check},
};
use reservoir_policy::{Asked, By, Called, Decision, Failure, Limits, Policies};
use support::{bundle, calm, contract, good, guest, options, provoking, provoking_and_waiting};

/// One way to misbehave: a guest of `tests/guests` by its name, or a file that is none.
type Way = (&'static str, Wanted);

enum Wanted {
    /// It is loaded, and fails when provoked: with this label and these words.
    Fails(&'static str, &'static str),
    /// It does not come in: with these words.
    Refused(&'static str),
    /// It answers, and the host drops what breaks its rules: these.
    Dropped(&'static [&'static str]),
    /// It answers, and what it answers is made harmless: seen by this.
    Cut(fn(&Decision)),
}

use Wanted::{Cut, Dropped, Fails, Refused};

const WAYS: &[Way] = &[
    // What it does while it runs.
    ("trap", Fails("trap", "wasm `unreachable` instruction executed")),
    ("loop", Fails("out_of_fuel", "used up its 200000000 units of fuel")),
    ("wasi-clock", Fails("timeout", "stopped after")),
    ("recursion", Fails("trap", "call stack exhausted")),
    ("memory", Fails("out_of_memory", "more than its 67108864 bytes")),
    ("table-growth", Fails("out_of_memory", "table elements")),
    ("divide", Fails("trap", "integer divide by zero")),
    ("stray-access", Fails("trap", "out of bounds memory access")),
    ("wrong-call", Fails("trap", "indirect call type mismatch")),
    ("nan-conversion", Fails("trap", "invalid conversion to integer")),
    ("nan-bits", Cut(|d| assert_eq!(targets(d).minimum_ips, 5, "NaNs are the same everywhere"))),
    ("slow", Cut(|d| assert!(d.calls[0].fuel > 2_000_000))),
    ("post-return-trap", Fails("trap", "unreachable")),
    // What it answers.
    ("error", Fails("error", "setting target: not a number")),
    ("error-with-escapes", Fails("error", "it answered with an error:  [2Joops level=ERROR")),
    ("huge-error", Fails("error", "eeeeeeee")),
    ("huge-reason", Cut(|d| assert_eq!(reason(&d.calls[0]), "r".repeat(256)))),
    ("huge-list", Fails("nonsense", "release has 500000 entries, at most 8192 are allowed")),
    ("huge-answer", Fails("nonsense", "larger than 4194304 bytes")),
    ("bad-text", Fails("trap", "utf-8")),
    ("bad-pointer", Fails("trap", "bounds")),
    ("bad-answer-pointer", Fails("trap", "bounds")),
    ("bad-alignment", Fails("trap", "aligned")),
    ("bad-tag", Fails("trap", "discriminant")),
    ("bad-unit", Fails("trap", "discriminant")),
    ("no-targets", Fails("nonsense", "targets has 0 entries, but the node has 1 cards")),
    ("two-targets", Fails("nonsense", "targets has 2 entries, but the node has 1 cards")),
    (
        "overflow",
        Cut(|d| assert_eq!(targets(d), Targets { warm_enis: 3, warm_ips: 87, warm_prefixes: 87, minimum_ips: 87 })),
    ),
    ("memo", Cut(|d| assert!(d.calls[0].context.memo.len() <= 4096))),
    ("wake-storm", Cut(|d| assert_eq!(d.wake_after_seconds, Some(1)))),
    ("unknown-ids", Dropped(&["I12: unknown id", "I12: unknown card", "I12: named twice"])),
    ("zero-counts", Dropped(&["I12: a count of 0"])),
    ("grow-and-release", Dropped(&["I15: the card grows"])),
    ("release-in-use", Dropped(&["I3: a pod holds an address of it"])),
    ("remove-primary", Dropped(&["I1: primary"])),
    ("subnets-trap", Fails("trap", "unreachable")),
    ("subnets-flood", Fails("nonsense", "the ranking has 1000 entries, at most 256")),
    // What it reaches for.
    ("log-flood", Cut(|d| assert_eq!((d.calls[0].log.len(), d.calls[0].log_dropped), (16, 84)))),
    ("log-pointer", Fails("trap", "bounds")),
    ("log-level", Fails("trap", "discriminant")),
    ("wasi-exit", Fails("trap", "the component called exit")),
    ("wasi-sleep", Cut(|d| assert!(d.calls[0].time.as_secs() < 60, "a year goes by at once"))),
    ("wasi-look-around", Cut(|d| assert_eq!(targets(d).minimum_ips, 5, "there is nothing to find"))),
    ("wasi-network", Fails("trap", "wasi:sockets/instance-network")),
    ("wasi-random", Cut(|d| assert!(targets(d).minimum_ips <= 63))),
    ("wasi-print-flood", Cut(|d| assert!(d.calls[0].log.len() == 1 && d.calls[0].log[0].text.len() == 256))),
    // What does not come in.
    ("start-loop", Refused("fuel")),
    ("start-trap", Refused("unreachable")),
    ("bad-realloc", Refused("sizing of the custom component failed")),
    ("realloc-trap", Refused("unreachable")),
    ("huge-memory", Refused("memory")),
    ("huge-table", Refused("table")),
    ("empty file", Refused("the component is empty")),
    ("text", Refused("not WebAssembly: it begins with \"(compone\"")),
    ("core module", Refused("a core module, not a component")),
    ("cut off", Refused("the component is cut off")),
    ("another version", Refused("@0.2.0, but this host speaks reservoir:policy@0.1")),
    ("import not offered", Refused("imports acme:net/http@1.0.0, which is not offered")),
    ("export of another type", Refused("sizing of the custom component failed")),
    ("exports nothing", Refused("exports none of")),
    ("not the pinned one", Refused("is pinned")),
];

fn targets(decision: &Decision) -> Targets {
    decision.targets.as_ref().unwrap()[0]
}

fn reason(call: &Called) -> &str {
    match &call.result {
        Ok(reservoir_policy::Answer::Sizing(sizes)) => &sizes.note.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_guest_is_in_the_table() {
    let names = fs::read_dir(support::guests()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> =
        names.filter_map(|n| n.strip_suffix(".wat").map(str::to_owned)).filter(|n| n != "prelude").collect();
    let table: Vec<String> = WAYS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let unique: BTreeSet<String> = table.iter().cloned().collect();
    assert_eq!(unique.len(), table.len(), "a name stands twice");
    assert_eq!(files, unique.into_iter().filter(|n| files.contains(n)).collect());
    assert!(table.len() >= 25);
}

#[test]
fn decisions_keep_coming_whatever_the_component_does() {
    let only = std::env::var("MISBEHAVE").ok();
    let mut failed = Vec::new();
    for way in WAYS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        println!("{}", way.0);
        if panic::catch_unwind(|| prove(way)).is_err() {
            failed.push(way.0);
        }
    }
    assert!(failed.is_empty(), "{} of {}: {failed:?}", failed.len(), WAYS.len());
}

fn prove((name, wanted): &Way) {
    let mut options = options();
    if *name == "wasi-clock" {
        // The host's functions take no fuel: this one is to run out of time.
        options.limits.deadline = Limits::default().deadline;
    }
    let policies = Policies::new(options).unwrap();
    let mut bundle = bundle(component(name), &[]);
    if *name == "not the pinned one" {
        bundle.pin = Some(reservoir_policy::Digest::of(b"another"));
    }
    let function = bundle.component.as_deref().map_or(Function::Sizing, owned);
    // What the built-in component answers when it is alone.
    let alone = ask(&policies, function, &provoking_and_waiting());
    if let Refused(words) = wanted {
        let error = policies.load(&bundle, Some(&calm())).expect_err(name).to_string();
        assert!(error.contains(words), "{name}: {error}");
        let status = policies.status();
        assert_eq!((status.custom, status.counts.loads_failed), (None, 1), "{name}");
        assert_eq!(status.last_load_error.unwrap().reason, error, "{name}");
        same_answer(name, &ask(&policies, function, &provoking_and_waiting()), &alone);
        return recovers(name, &policies);
    }
    policies.load(&bundle, Some(&calm())).unwrap_or_else(|error| panic!("{name}: {error}"));
    match wanted {
        Refused(_) => unreachable!("done above"),
        Fails(label, words) => fails(name, &policies, function, (label, words), &alone),
        Dropped(rules) => {
            let decision = answers(name, &policies);
            let checked = check(&provoking(), &decision.plan, &UnderWay::default());
            let reasons: Vec<&str> = checked.dropped.iter().map(|d| d.reason.as_str()).collect();
            for rule in *rules {
                assert!(reasons.contains(rule), "{name}: {reasons:?}");
            }
            let primary = &provoking().enis[0].id;
            assert!(!checked.remove.contains(primary), "{name}: {checked:?}");
            let node = provoking();
            let in_use = |id: &u32| node.enis.iter().flat_map(|e| &e.cidrs).any(|c| c.id == *id && c.assigned > 0);
            assert!(!checked.release.iter().any(in_use), "{name}: {checked:?}");
        }
        Cut(seen) => {
            let (first, second) = (answers(name, &policies), answers(name, &policies));
            seen(&first);
            seen(&second);
            if *name != "memo" {
                same_answer(name, &Asked::Decision(Arc::new(first)), &Asked::Decision(Arc::new(second)));
            }
        }
    }
    recovers(name, &policies);
}

/// No action, then the built-in component's answer while a pod waits, then its answers for good.
fn fails(name: &str, policies: &Policies, function: Function, (label, words): (&str, &str), alone: &Asked) {
    let quiet = ask(policies, function, &provoking());
    let failure = failure(&quiet).unwrap_or_else(|| panic!("{name} did not fail: {quiet:?}"));
    assert_eq!(failure.label(), label, "{name}: {failure}");
    assert!(failure.to_string().contains(words), "{name}: {failure}");
    assert!(failure.to_string().len() < 400, "{name}: {failure}");
    match &quiet {
        Asked::Decision(d) => assert_eq!((&d.plan, d.by), (&Plan::default(), None), "{name}"),
        Asked::Ranking(r) => assert_eq!((r.subnets.len(), r.by), (0, None), "{name}"),
    }
    // The record tells.
    let json = serde_json::to_value(&quiet).unwrap();
    let calls = json.as_object().unwrap().values().next().unwrap()["calls"].as_array().unwrap().clone();
    let recorded = calls.iter().find(|c| c["result"]["failed"].is_object()).unwrap();
    assert_eq!((&recorded["result"]["failed"]["kind"], &recorded["by"]), (&label.into(), &"custom".into()), "{name}");

    same_answer(name, &ask(policies, function, &provoking_and_waiting()), alone);
    // A calm node in between is answered, and the count begins anew.
    assert!(self::failure(&ask(policies, function, &calm())).is_none(), "{name}");
    assert_eq!(policies.status().failures_in_a_row, 0, "{name}");
    for n in 1..=5 {
        assert_eq!(policies.status().taken_over_at, None, "{name}: {n}");
        let _ = ask(policies, function, &provoking());
    }
    let status = policies.status();
    assert!(status.taken_over_at.is_some() && status.counts.took_over == 1, "{name}");
    let key = format!("custom/{}/{label}", serde_json::to_value(function).unwrap().as_str().unwrap());
    assert_eq!(status.counts.failed.get(&key), Some(&7), "{name}: {:?}", status.counts.failed);
    let after = ask(policies, function, &provoking_and_waiting());
    assert!(self::failure(&after).is_none(), "{name}");
    same_answer(name, &after, alone);
}

/// A provoked component that answers all the same.
fn answers(name: &str, policies: &Policies) -> Decision {
    let decision = policies.decide(&provoking());
    assert!(decision.failure().is_none(), "{name}: {:?}", decision.failure());
    assert!(decision.calls.iter().any(|call| call.by == By::Custom), "{name}");
    decision
}

/// Whatever it did is not felt after it.
fn recovers(name: &str, policies: &Policies) {
    policies.load(&bundle(good(), &[]), Some(&calm())).unwrap_or_else(|error| panic!("{name}: {error}"));
    let decision = policies.decide(&provoking());
    assert_eq!((decision.failure(), decision.by), (None, Some(By::Custom)), "{name}");
    let status = policies.status();
    assert_eq!((status.taken_over_at, status.last_load_error, status.failures_in_a_row), (None, None, 0), "{name}");
}

fn ask(policies: &Policies, function: Function, node: &Node) -> Asked {
    let request = CreateEni { card: 0, unit: Unit::Ip, count: 1 };
    match function {
        Function::Subnets => Asked::Ranking(Arc::new(policies.rank(node, &request))),
        Function::Sizing | Function::Planning => Asked::Decision(Arc::new(policies.decide(node))),
    }
}

fn failure(asked: &Asked) -> Option<Failure> {
    let failed = match asked {
        Asked::Decision(decision) => decision.failure(),
        Asked::Ranking(ranking) => ranking.failure(),
    };
    failed.map(|(_, failure)| failure.clone())
}

fn same_answer(name: &str, one: &Asked, other: &Asked) {
    match (one, other) {
        (Asked::Decision(one), Asked::Decision(other)) => {
            assert_eq!((&one.targets, &one.plan), (&other.targets, &other.plan), "{name}");
            assert!(one.by.is_some(), "{name}");
        }
        (Asked::Ranking(one), Asked::Ranking(other)) => {
            assert_eq!(one.subnets, other.subnets, "{name}");
            assert!(one.by.is_some() && !one.subnets.is_empty(), "{name}");
        }
        _ => panic!("{name}: {one:?} and {other:?}"),
    }
}

/// The first function that a guest owns, told by its exports; files that are no component have none.
fn owned(component: &[u8]) -> Function {
    let has = |name: &str| component.windows(name.len()).any(|w| w == name.as_bytes());
    if has("reservoir:policy/planning@") {
        Function::Planning
    } else if has("reservoir:policy/subnets@") {
        Function::Subnets
    } else {
        Function::Sizing
    }
}

fn component(name: &str) -> Vec<u8> {
    const SIZING: &str = "(module (memory (export \"memory\") 1)
        (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) i32.const 0)
        (func (export \"reservoir:policy/sizing@0.1.0#decide\") (param i32) (result i32) i32.const 0))";
    match name {
        "empty file" => vec![],
        "text" => b"(component)".to_vec(),
        "core module" => wat::parse_str("(module (func (export \"f\")))").unwrap(),
        "cut off" => good()[..good().len() / 2].to_vec(),
        "not the pinned one" => good(),
        "another version" => {
            let wit = contract().replace("reservoir:policy@0.1.0", "reservoir:policy@0.2.0");
            support::component(&SIZING.replace("@0.1.0", "@0.2.0"), &wit, "sizing-policy")
        }
        "import not offered" => {
            let import = "(module (import \"acme:net/http@1.0.0\" \"get\" (func (param i32 i32) (result i32)))";
            let wit = format!(
                "{}\nworld w {{ import acme:net/http@1.0.0; export sizing; }}
                package acme:net@1.0.0 {{ interface http {{ get: func(url: string) -> u32; }} }}",
                contract()
            );
            support::component(&SIZING.replace("(module", import), &wit, "w")
        }
        "export of another type" => {
            let wit = "package reservoir:policy@0.1.0; interface sizing { decide: func(n: u32) -> u32; }
                world w { export sizing; }";
            support::component(SIZING, wit, "w")
        }
        "exports nothing" => {
            let wit = format!("{}\nworld w {{ import log; }}", contract());
            support::component("(module (memory (export \"memory\") 1))", &wit, "w")
        }
        guest_name => guest(guest_name),
    }
}

/// One flipped bit, in many places: it may be refused or it may not matter, but nothing else happens.
#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    let policies = Policies::new(options()).unwrap();
    let whole = guest("trap");
    let (mut refused, mut loaded) = (0, 0);
    for place in (0..whole.len()).step_by(whole.len() / 150) {
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (place % 8);
        match policies.load(&bundle(flipped, &[]), Some(&calm())) {
            Ok(_) => loaded += 1,
            Err(error) => {
                refused += 1;
                assert_eq!(policies.status().last_load_error.unwrap().reason, error.to_string(), "byte {place}");
            }
        }
        let decision = policies.decide(&provoking_and_waiting());
        assert!(decision.by.is_some() && !decision.calls.is_empty(), "byte {place}");
    }
    assert!(refused > 30 && loaded > 0, "{refused} refused, {loaded} loaded");
    recovers("a flipped bit", &policies);
}
