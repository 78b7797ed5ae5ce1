//! The daemon's view: who answers for what, with which settings.

mod support;

use std::{sync::Arc, thread};

use reservoir_core::policy::{CreateEni, Function, Unit};
use reservoir_policy::{Bundle, By, Facts, Options, Policies, PolicyError, Session, sample};
use support::{bundle, calm, good, guest, policies};

#[test]
fn the_built_in_component_decides_alone() {
    let policies = policies();
    for (enis, addresses) in [(1, 2), (2, 29), (15, 49)] {
        let node = sample::node(enis, addresses);
        let decision = policies.decide(&node);
        assert_eq!((decision.failure(), decision.by), (None, Some(By::BuiltIn)));
        assert_eq!(decision.targets.unwrap(), [node.cards[0].configured]);
        let functions: Vec<_> = decision.calls.iter().map(|call| call.function).collect();
        assert_eq!(functions, [Function::Sizing, Function::Planning]);
        assert!(decision.calls.iter().all(|call| call.fuel > 1000 && call.log.is_empty()));
        let ranking = policies.rank(&node, &CreateEni { card: 0, unit: Unit::Ip, count: 1 });
        assert_eq!(ranking.by, Some(By::BuiltIn));
        assert_eq!(ranking.subnets[0], node.subnets[0].id);
    }
    assert_eq!(policies.status().counts.asked, 6);
}

#[test]
fn the_same_input_gives_the_same_answer_and_takes_the_same_fuel() {
    let (one, other) = (policies(), policies());
    let node = sample::node(3, 14);
    let (a, b) = (one.decide(&node), other.decide(&node));
    assert_eq!((a.plan, a.targets), (b.plan, b.targets));
    let fuel = |calls: &[reservoir_policy::Called]| calls.iter().map(|c| c.fuel).collect::<Vec<_>>();
    assert_eq!(fuel(&a.calls), fuel(&b.calls));
}

#[test]
fn each_function_is_answered_by_its_owner() {
    let node = calm();
    let request = CreateEni { card: 0, unit: Unit::Ip, count: 1 };
    let cases = [
        ("trap", [By::Custom, By::BuiltIn, By::BuiltIn]),
        ("huge-list", [By::BuiltIn, By::Custom, By::BuiltIn]),
        ("subnets-trap", [By::BuiltIn, By::BuiltIn, By::Custom]),
    ];
    for (name, [sizing, planning, subnets]) in cases {
        let policies = policies();
        policies.load(&bundle(guest(name), &[]), Some(&node)).unwrap();
        let decision = policies.decide(&node);
        let by: Vec<_> = decision.calls.iter().map(|call| call.by).collect();
        assert_eq!((by, decision.by), (vec![sizing, planning], Some(planning)), "{name}");
        assert_eq!(policies.rank(&node, &request).by, Some(subnets), "{name}");
    }
}

#[test]
fn settings_reach_whom_they_are_for() {
    let node = calm();
    let policies = policies();
    let unknown = |error: PolicyError, wanted: By| match error {
        PolicyError::Trial { by, failure, .. } => {
            assert_eq!(by, wanted);
            assert!(failure.to_string().contains("no-such-setting"), "{failure}");
        }
        other => panic!("{other}"),
    };
    // The built-in component refuses settings it does not know, in its own words. Alone it gets all of them.
    let settings = [("no-such-setting".to_owned(), "1".to_owned())];
    let alone = Bundle { settings: settings.clone().into(), ..Bundle::default() };
    unknown(policies.load(&alone, Some(&node)).unwrap_err(), By::BuiltIn);
    // As a custom component it gets those without the prefix.
    unknown(policies.load(&bundle(good(), &[("no-such-setting", "1")]), Some(&node)).unwrap_err(), By::Custom);
    // Behind a custom component that owns everything it is tried too: it must be able to step in.
    unknown(policies.load(&bundle(good(), &[("builtin.no-such-setting", "1")]), Some(&node)).unwrap_err(), By::BuiltIn);
    // A component that does not care gets whatever there is.
    policies.load(&bundle(guest("trap"), &[("no-such-setting", "1")]), Some(&node)).unwrap();
    let status = policies.status();
    assert_eq!(status.custom.unwrap().settings, ["no-such-setting"]);
    assert_eq!(status.built_in.settings, Vec::<String>::new());
    assert_eq!((status.counts.loads, status.counts.loads_failed), (1, 3));
}

#[test]
fn one_session_is_one_instance_until_it_fails() {
    let policies = policies();
    let component = policies.runtime().load(&guest("trap"), None).unwrap();
    let node = support::provoking();
    let facts = Facts::of(&node);
    let mut session = Session::new(&component, &facts, By::Custom);
    assert_eq!(session.sizing(&Default::default()).result.unwrap_err().label(), "trap");
    assert_eq!(session.sizing(&Default::default()).result.unwrap_err().label(), "trap");
    let missing = session.planning(&Default::default(), &[]).result.unwrap_err();
    assert!(missing.to_string().contains("does not export"), "{missing}");
}

#[test]
fn many_threads_decide_at_once() {
    let policies = Arc::new(policies());
    let node = calm();
    let wanted = policies.decide(&node).plan;
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let decision = policies.decide(&node);
                    assert_eq!((decision.failure(), &decision.plan), (None, &wanted));
                }
            });
        }
    });
}

#[test]
fn status_is_json() {
    let policies = Policies::new(Options::default()).unwrap();
    let _ = policies.decide(&calm());
    let json = |value| serde_json::to_value::<reservoir_policy::Status>(value).unwrap();
    let status = json(policies.status());
    assert_eq!(status["built_in"]["exports"], serde_json::json!(["sizing", "planning", "subnets"]));
    assert_eq!(status["built_in"]["digest"].as_str().unwrap().len(), 64);
    assert_eq!(status["custom"], serde_json::Value::Null);
    let decision = serde_json::to_value(policies.decide(&calm())).unwrap();
    assert!(decision["calls"][0]["time_us"].is_u64());
    assert!(decision["calls"][0]["result"]["ok"]["sizing"]["targets"].is_array(), "{decision}");
    policies.load(&bundle(guest("trap"), &[]), None).unwrap();
    let failed = serde_json::to_value(policies.decide(&support::provoking())).unwrap();
    assert_eq!(failed["calls"][0]["result"]["failed"]["kind"], "trap");
    assert_eq!(failed["by"], serde_json::Value::Null);
}

#[test]
fn a_pinned_component_is_the_only_one_that_comes_in() {
    let (one, other) = (guest("trap"), guest("memo"));
    let pin = reservoir_policy::Digest::of(&one);
    let refused = |policies: &Policies, bundle: &Bundle| {
        let before = policies.status().custom;
        let error = policies.load(bundle, Some(&calm())).unwrap_err().to_string();
        assert!(error.contains("is pinned: load the pinned file, or pin this one"), "{error}");
        assert_eq!(policies.status().custom, before);
    };
    // By the directory: pin and component are one unit.
    let by_directory = policies();
    by_directory.load(&Bundle { pin: Some(pin), ..bundle(one.clone(), &[]) }, Some(&calm())).unwrap();
    refused(&by_directory, &Bundle { pin: Some(pin), ..bundle(other.clone(), &[]) });
    by_directory.load(&bundle(other.clone(), &[]), Some(&calm())).unwrap();
    // By the daemon's environment: whatever the directory says.
    let by_daemon = Policies::new(Options { pin: Some(pin), ..support::options() }).unwrap();
    by_daemon.load(&bundle(one.clone(), &[]), Some(&calm())).unwrap();
    refused(&by_daemon, &bundle(other.clone(), &[]));
    refused(&by_daemon, &Bundle { pin: Some(reservoir_policy::Digest::of(&other)), ..bundle(other, &[]) });
    assert_eq!(by_daemon.status().custom.unwrap().digest, pin);
    by_daemon.load(&Bundle::default(), Some(&calm())).unwrap();
}

#[test]
fn compiled_code_is_kept_and_answers_the_same() {
    let tmp = tempfile::tempdir().unwrap();
    let cache = tmp.path().join("code");
    let options = || Options { cache: Some(cache.clone()), ..Options::default() };
    let entries = || std::fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let answer = |policies: &Policies| {
        policies.load(&bundle(guest("memo"), &[]), Some(&calm())).unwrap();
        let decision = policies.decide(&calm());
        (decision.targets, decision.plan, decision.calls.iter().map(|c| c.fuel).collect::<Vec<_>>())
    };
    let plain = answer(&Policies::new(Options::default()).unwrap());
    assert_eq!(answer(&Policies::new(options()).unwrap()), plain);
    let written = entries();
    assert_eq!(written.len(), 2, "the built-in component's and the guest's");
    let when = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().len();
    let sizes: Vec<_> = written.iter().map(when).collect();
    assert_eq!(answer(&Policies::new(options()).unwrap()), plain, "from the cache");
    for path in &written {
        let mut bytes = std::fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    assert_eq!(answer(&Policies::new(options()).unwrap()), plain, "from a damaged cache");
    assert_eq!(written.iter().map(when).collect::<Vec<_>>(), sizes, "made anew");
}
