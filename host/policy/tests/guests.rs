//! Single ways to misbehave, looked at closely. All of them, in one table: `misbehaving.rs`.

mod support;

use std::{fs, time::Duration};

use reservoir_core::policy::{Assign, CreateEni, Function, Growth, Plan, Targets, Unit};
use reservoir_policy::{
    Answer, By, Decision, Failure, Limits, LoadError, Options, Policies, PolicyError, Runtime, sample,
};
use support::{bundle, calm, contract, good, guest, policies, provoking, provoking_and_waiting};

/// Whatever it does must not be felt after it: the built-in component's answer for the same node.
fn next_decision_works(policies: &Policies) {
    policies.load(&bundle(good(), &[]), Some(&calm())).unwrap();
    let decision = policies.decide(&provoking());
    assert_eq!((decision.failure(), decision.by), (None, Some(By::Custom)));
    assert_eq!(policies.status().taken_over_at, None);
    assert_eq!(policies.status().last_load_error, None);
}

/// Loads the guest on a calm node and provokes it: no action, then with a pod waiting the built-in component answers.
/// Returns the failure.
fn misbehaves(name: &str) -> Failure {
    let policies = policies();
    let alone = policies.decide(&provoking_and_waiting());
    policies.load(&bundle(guest(name), &[]), Some(&calm())).unwrap();

    let quiet = policies.decide(&provoking());
    let (call, failure) = quiet.failure().unwrap_or_else(|| panic!("{name} did not fail: {quiet:?}"));
    let failure = failure.clone();
    assert_eq!(call.by, By::Custom);
    assert_eq!((&quiet.plan, quiet.by, quiet.fell_back), (&Plan::default(), None, false), "{name}");

    let waiting = policies.decide(&provoking_and_waiting());
    assert_eq!((waiting.by, waiting.fell_back), (Some(By::BuiltIn), true), "{name}");
    assert_eq!((&waiting.targets, &waiting.plan), (&alone.targets, &alone.plan), "{name}");
    assert_eq!(waiting.failure().unwrap().1.label(), failure.label(), "{name}");

    let status = policies.status();
    assert_eq!((status.failures_in_a_row, status.taken_over_at), (2, None), "{name}");
    let function = if call.function == Function::Sizing { "sizing" } else { "planning" };
    assert_eq!(status.counts.failed[&format!("custom/{function}/{}", failure.label())], 2, "{name}");

    // The same guest, asked for something it can answer.
    let calm = policies.decide(&calm());
    assert_eq!((calm.failure(), policies.status().failures_in_a_row), (None, 0), "{name}");

    // On the node that provokes it, it is not even let in.
    let refused = policies.load(&bundle(guest(name), &[]), Some(&provoking())).unwrap_err();
    assert!(matches!(&refused, PolicyError::Trial { by: By::Custom, .. }), "{name}: {refused}");
    assert!(policies.status().last_load_error.unwrap().reason.contains("of the custom component failed"), "{name}");
    next_decision_works(&policies);
    failure
}

#[test]
fn endless_loop_runs_out_of_fuel() {
    assert_eq!(misbehaves("loop"), Failure::OutOfFuel(Limits::default().fuel));
}

#[test]
fn endless_loop_with_fuel_runs_out_of_time() {
    let limits = Limits { fuel: u64::MAX, deadline: Duration::from_millis(100), ..Limits::default() };
    let policies = Policies::new(Options { limits, ..Options::default() }).unwrap();
    policies.load(&bundle(guest("loop"), &[]), Some(&calm())).unwrap();
    let decision = policies.decide(&provoking());
    let (call, failure) = decision.failure().unwrap();
    assert!(matches!(failure, Failure::Timeout(ms) if *ms >= 50), "{failure}");
    assert_eq!(failure.label(), "timeout");
    assert!(call.time >= Duration::from_millis(50), "{:?}", call.time);
    next_decision_works(&policies);
}

#[test]
fn endless_allocation_runs_out_of_memory() {
    assert_eq!(misbehaves("memory"), Failure::OutOfMemory(64 << 20));
}

#[test]
fn trap() {
    assert_eq!(misbehaves("trap"), Failure::Trap("wasm `unreachable` instruction executed".into()));
}

#[test]
fn error_in_its_own_words() {
    assert_eq!(misbehaves("error"), Failure::Error("setting target: not a number".into()));
}

#[test]
fn endless_recursion() {
    assert_eq!(misbehaves("recursion"), Failure::Trap("call stack exhausted".into()));
}

#[test]
fn no_targets_for_a_card() {
    let why = "targets has 0 entries, but the node has 1 cards";
    assert_eq!(misbehaves("no-targets"), Failure::Nonsense(why.into()));
}

#[test]
fn huge_list() {
    let why = "release has 500000 entries, at most 8192 are allowed";
    assert_eq!(misbehaves("huge-list"), Failure::Nonsense(why.into()));
}

#[test]
fn answer_too_large_to_take_in() {
    assert_eq!(misbehaves("huge-answer"), Failure::Nonsense("it is larger than 4194304 bytes".into()));
}

#[test]
fn text_that_is_not_utf8() {
    let failure = misbehaves("bad-text");
    assert!(matches!(&failure, Failure::Trap(text) if text.contains("utf-8")), "{failure}");
}

#[test]
fn list_beyond_its_memory() {
    let failure = misbehaves("bad-pointer");
    assert!(
        matches!(&failure, Failure::Trap(text) if text.contains("out of bounds") || text.contains("out-of-bounds")),
        "{failure}"
    );
}

#[test]
fn overflowing_targets_are_cut() {
    let policies = policies();
    policies.load(&bundle(guest("overflow"), &[]), Some(&calm())).unwrap();
    let decision = policies.decide(&provoking());
    assert_eq!(decision.failure(), None);
    // Three interfaces of 29: what the card can hold.
    let most = Targets { warm_enis: 3, warm_ips: 87, warm_prefixes: 87, minimum_ips: 87 };
    assert_eq!(decision.targets.unwrap(), [most]);
    assert_eq!(decision.calls[1].by, By::BuiltIn);
    next_decision_works(&policies);
}

#[test]
fn unknown_ids_come_through_for_the_host_to_drop() {
    let policies = policies();
    policies.load(&bundle(guest("unknown-ids"), &[]), Some(&calm())).unwrap();
    let Decision { plan, by, .. } = policies.decide(&provoking());
    assert_eq!(by, Some(By::Custom));
    let count = u32::MAX;
    let assign = Growth::Assign(Assign { eni: "eni-nope".into(), unit: Unit::Ip, count });
    assert_eq!(plan.grow, [assign, Growth::CreateEni(CreateEni { card: 9, unit: Unit::Ip, count })]);
    assert_eq!((plan.release, plan.remove), (vec![u32::MAX, 7, 7], vec!["eni-nope".to_owned()]));
    next_decision_works(&policies);
}

#[test]
fn log_lines_are_cut_and_counted() {
    let policies = policies();
    policies.load(&bundle(guest("log-flood"), &[]), Some(&calm())).unwrap();
    let decision = policies.decide(&provoking());
    assert_eq!(decision.failure(), None);
    let call = &decision.calls[0];
    assert_eq!((call.log.len(), call.log_dropped), (16, 84));
    assert!(call.log.iter().all(|line| line.text == "x".repeat(256)));
    next_decision_works(&policies);
}

#[test]
fn memo_comes_back_until_it_is_too_long() {
    let policies = policies();
    let bundle = bundle(guest("memo"), &[]);
    policies.load(&bundle, Some(&calm())).unwrap();
    let given = || match &policies.decide(&calm()).calls[0].result {
        Ok(Answer::Sizing(sizes)) => sizes.targets[0].warm_ips,
        other => panic!("{other:?}"),
    };
    let seen: Vec<u32> = (0..6).map(|_| given()).collect();
    assert_eq!(seen, [0, 1, 17, 273, 0, 1], "the fourth answer's memo has 4369 bytes");
    policies.load(&bundle, Some(&calm())).unwrap();
    assert_eq!(given(), 0, "a load starts memos anew");
}

#[test]
fn subnets_that_trap_leave_no_ranking_unless_a_pod_waits() {
    let policies = policies();
    policies.load(&bundle(guest("subnets-trap"), &[]), Some(&calm())).unwrap();
    let request = CreateEni { card: 0, unit: Unit::Ip, count: 1 };
    let quiet = policies.rank(&provoking(), &request);
    assert_eq!((quiet.subnets.len(), quiet.by, quiet.failure().unwrap().1.label()), (0, None, "trap"));
    let waiting = policies.rank(&provoking_and_waiting(), &request);
    assert!(waiting.fell_back && !waiting.subnets.is_empty(), "{waiting:?}");
    // Good answers of other functions do not excuse it.
    for _ in 0..2 {
        assert_eq!(policies.decide(&provoking()).failure(), None);
        let _ = policies.rank(&provoking(), &request);
    }
    let last = policies.rank(&provoking(), &request);
    assert!(last.took_over && last.fell_back && !last.subnets.is_empty(), "{last:?}");
    next_decision_works(&policies);
}

#[test]
fn after_five_failures_the_built_in_component_takes_over_until_the_next_load() {
    let policies = policies();
    policies.load(&bundle(guest("trap"), &[]), Some(&calm())).unwrap();
    for n in 1..5 {
        let decision = policies.decide(&provoking());
        assert_eq!((decision.took_over, decision.fell_back), (false, false), "{n}");
        assert_eq!(policies.status().failures_in_a_row, n);
    }
    let fifth = policies.decide(&provoking());
    assert!(fifth.took_over && fifth.fell_back);
    assert_eq!(fifth.by, Some(By::BuiltIn));
    let sixth = policies.decide(&calm());
    assert_eq!((sixth.failure(), sixth.by, sixth.took_over), (None, Some(By::BuiltIn), false));
    assert!(sixth.calls.iter().all(|call| call.by == By::BuiltIn));
    assert!(policies.status().taken_over_at.is_some());
    assert_eq!(policies.status().counts.took_over, 1);
    next_decision_works(&policies);
}

/// Loads what must be refused, and shows that nothing came of it.
fn refused(component: Vec<u8>) -> PolicyError {
    let policies = policies();
    let before = policies.decide(&calm());
    let error = policies.load(&bundle(component, &[]), Some(&calm())).unwrap_err();
    let status = policies.status();
    assert_eq!(status.custom, None);
    assert_eq!(status.last_load_error.unwrap().reason, error.to_string());
    assert_eq!(status.counts.loads_failed, 1);
    let after = policies.decide(&calm());
    assert_eq!((before.targets, before.plan), (after.targets, after.plan));
    next_decision_works(&policies);
    error
}

fn load_error(component: Vec<u8>) -> LoadError {
    match refused(component) {
        PolicyError::Load(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn start_that_never_ends() {
    let error = refused(guest("start-loop"));
    let PolicyError::Trial { function: Function::Sizing, failure: Failure::OutOfFuel(_), .. } = error else {
        panic!("{error}");
    };
}

#[test]
fn allocator_that_points_outside() {
    let error = refused(guest("bad-realloc"));
    assert!(matches!(&error, PolicyError::Trial { failure: Failure::Trap(_), .. }), "{error}");
}

#[test]
fn memory_larger_than_the_cap_from_the_start() {
    let error = load_error(guest("huge-memory"));
    assert!(matches!(&error, LoadError::Invalid(why) if why.contains("memory")), "{error}");
}

#[test]
fn files_that_are_no_component() {
    assert_eq!(load_error(vec![]), LoadError::Empty);
    assert_eq!(load_error(b"\0asm\x01\0\0\0".to_vec()), LoadError::CoreModule);
    assert_eq!(load_error(wat::parse_str("(module (func (export \"f\")))").unwrap()), LoadError::CoreModule);
    let garbage: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
    assert!(matches!(load_error(garbage), LoadError::NotWasm(_)));
    let text = load_error(b"(component)".to_vec());
    assert!(text.to_string().contains("not WebAssembly: it begins with \"(compone\""), "{text}");
}

#[test]
fn truncated_at_any_length() {
    let whole = good();
    for part in [1, 4, 7] {
        let error = load_error(whole[..part].to_vec());
        assert!(matches!(error, LoadError::Truncated(_)), "{part} bytes: {error}");
    }
    let runtime = Runtime::new(&Limits::default()).unwrap();
    for tenth in 1..10 {
        let error = runtime.load(&whole[..whole.len() * tenth / 10], None).unwrap_err();
        assert!(matches!(error, LoadError::Truncated(_)), "{tenth} tenths: {error}");
    }
}

#[test]
fn too_large() {
    let runtime = Runtime::new(&Limits { component_bytes: 1000, ..Limits::default() }).unwrap();
    let error = runtime.load(&good(), None).unwrap_err();
    assert!(matches!(error, LoadError::TooLarge { most: 1000, .. }), "{error}");
}

#[test]
fn imports_that_are_not_offered_are_named() {
    let module = r#"(module
        (import "acme:net/http@1.0.0" "get" (func (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
        (func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32) i32.const 0))"#;
    let wit = format!(
        "{}\nworld w {{ import acme:net/http@1.0.0; export sizing; }}\n
        package acme:net@1.0.0 {{ interface http {{ get: func(url: string) -> u32; }} }}",
        contract()
    );
    let error = load_error(support::component(module, &wit, "w"));
    assert_eq!(error, LoadError::ImportNotOffered("acme:net/http@1.0.0".into()));
}

#[test]
fn another_version_of_the_contract() {
    let module = r#"(module
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
        (func (export "reservoir:policy/sizing@0.2.0#decide") (param i32) (result i32) i32.const 0))"#;
    let wit = contract().replace("reservoir:policy@0.1.0", "reservoir:policy@0.2.0");
    let error = load_error(support::component(module, &wit, "sizing-policy"));
    assert!(matches!(&error, LoadError::WrongVersion(name) if name.ends_with("@0.2.0")), "{error}");
}

#[test]
fn a_later_patch_of_the_contract_is_the_same_contract() {
    let module = fs::read_to_string(support::guests().join("trap.wat")).unwrap()
        + &fs::read_to_string(support::guests().join("prelude.wat")).unwrap();
    let wit = contract().replace("reservoir:policy@0.1.0", "reservoir:policy@0.1.9");
    let component =
        support::component(&format!("(module {module})").replace("@0.1.0", "@0.1.9"), &wit, "sizing-policy");
    let policies = policies();
    policies.load(&bundle(component, &[]), Some(&calm())).unwrap();
    let decision = policies.decide(&calm());
    assert_eq!(decision.failure(), None);
    assert_eq!(decision.targets.unwrap()[0], Targets { minimum_ips: 5, ..Targets::default() });
}

#[test]
fn exports_nothing() {
    let module = "(module (memory (export \"memory\") 1))";
    let wit = format!("{}\nworld w {{ import log; }}", contract());
    let error = load_error(support::component(module, &wit, "w"));
    assert_eq!(error, LoadError::NoExports("nothing at all".into()));
}

#[test]
fn exports_of_the_right_name_and_the_wrong_type() {
    let module =
        "(module (func (export \"reservoir:policy/sizing@0.1.0#decide\") (param i32) (result i32) local.get 0))";
    let wit =
        "package reservoir:policy@0.1.0; interface sizing { decide: func(n: u32) -> u32; } world w { export sizing; }";
    let error = refused(support::component(module, wit, "w"));
    assert!(matches!(&error, PolicyError::Trial { failure: Failure::Trap(_), .. }), "{error}");
}

#[test]
fn a_pin_that_does_not_fit() {
    let runtime = Runtime::new(&Limits::default()).unwrap();
    let digest = reservoir_policy::Digest::of(&good());
    assert_eq!(runtime.load(&good(), Some(digest)).unwrap().digest(), digest);
    let other = reservoir_policy::Digest::of(b"other");
    let error = runtime.load(&good(), Some(other)).unwrap_err();
    assert_eq!(error, LoadError::WrongDigest { found: digest, wanted: other });
}

#[test]
fn without_a_snapshot_a_made_up_node_tries_it() {
    let policies = policies();
    let loaded = policies.load(&bundle(guest("trap"), &[]), None).unwrap();
    assert_eq!(loaded.trial.iter().filter(|call| call.by == By::Custom).count(), 1);
    assert!(policies.decide(&sample::node(1, 4)).failure().is_none());
}
