//! A component may own any one, two or all three of the functions; the built-in component answers for the rest, and a
//! failure of the one is not the other's.

mod support;

use std::fs;

use reservoir_core::policy::{CreateEni, Function, Unit};
use reservoir_policy::By;
use support::{bundle, calm, policies, provoking, provoking_and_waiting};

/// A component that owns these, and traps in `trapping` when provoked.
fn component(world: &str, owns: &[Function], trapping: Option<Function>) -> Vec<u8> {
    let function = |function: &Function| {
        let (export, calm) = match function {
            Function::Sizing => ("sizing@0.1.0#decide", "$calm_sizes"),
            Function::Planning => ("planning@0.1.0#decide", "$calm"),
            Function::Subnets => ("subnets@0.1.0#rank", "$calm"),
        };
        let trap =
            if trapping == Some(*function) { "(if (call $provoked (local.get 0)) (then unreachable))" } else { "" };
        format!("(func (export \"reservoir:policy/{export}\") (param i32) (result i32) {trap} (call {calm}))\n")
    };
    let functions: String = owns.iter().map(function).collect();
    let prelude = fs::read_to_string(support::guests().join("prelude.wat")).unwrap();
    support::component(&format!("(module {functions} {prelude})"), &support::contract_and_worlds(), world)
}

const ALL: [Function; 3] = [Function::Sizing, Function::Planning, Function::Subnets];

/// Each function is asked of its owner, in whichever component the others are.
fn owns(world: &str, owned: &[Function]) {
    let policies = policies();
    let loaded = policies.load(&bundle(component(world, owned, None), &[]), Some(&calm())).unwrap();
    assert!(loaded.digest.is_some());
    assert_eq!(policies.status().custom.unwrap().exports, owned, "{world}");
    let wanted = |f: Function| if owned.contains(&f) { By::Custom } else { By::BuiltIn };
    let decision = policies.decide(&calm());
    assert_eq!(decision.failure(), None, "{world}");
    let by: Vec<_> = decision.calls.iter().map(|call| (call.function, call.by)).collect();
    assert_eq!(by, [Function::Sizing, Function::Planning].map(|f| (f, wanted(f))), "{world}");
    assert_eq!(decision.by, Some(wanted(Function::Planning)), "{world}");
    // The guest holds five, the built-in component what is configured; the planner is given what the sizer said.
    let targets = decision.targets.unwrap();
    let five = wanted(Function::Sizing) == By::Custom;
    assert_eq!(targets[0].minimum_ips, if five { 5 } else { 0 }, "{world}");
    assert_eq!(decision.calls[1].targets.as_ref(), Some(&targets), "{world}");
    let request = CreateEni { card: 0, unit: Unit::Ip, count: 3 };
    let ranking = policies.rank(&calm(), &request);
    assert_eq!(ranking.by, Some(wanted(Function::Subnets)), "{world}");
    assert_eq!(ranking.subnets.is_empty(), wanted(Function::Subnets) == By::Custom, "{world}");
    assert_eq!(ranking.calls[0].request, Some(request), "{world}");

    // Where one function of it traps the built-in component does that one's work, and the other functions stay its own
    // until it has failed too often.
    for trapping in owned {
        let policies = self::policies();
        policies.load(&bundle(component(world, owned, Some(*trapping)), &[]), Some(&calm())).unwrap();
        let (failed, fine) = match trapping {
            Function::Subnets => {
                let ranking = policies.rank(&provoking_and_waiting(), &CreateEni { card: 0, unit: Unit::Ip, count: 1 });
                assert!(ranking.fell_back && !ranking.subnets.is_empty(), "{world} {trapping:?}");
                (ranking.calls[0].clone(), policies.decide(&provoking()).failure().is_none())
            }
            _ => {
                let decision = policies.decide(&provoking_and_waiting());
                assert!(decision.fell_back && decision.by == Some(By::BuiltIn), "{world} {trapping:?}");
                let ranking = policies.rank(&provoking(), &CreateEni { card: 0, unit: Unit::Ip, count: 1 });
                let failed = decision.calls.iter().find(|call| call.result.is_err()).unwrap();
                (failed.clone(), ranking.failure().is_none())
            }
        };
        assert_eq!((failed.function, failed.by), (*trapping, By::Custom), "{world}");
        assert!(fine, "{world} {trapping:?}: another function failed with it");
        assert_eq!(policies.status().taken_over_at, None);
    }
}

#[test]
fn sizing_policy() {
    owns("sizing-policy", &[Function::Sizing]);
}

#[test]
fn planning_policy() {
    owns("planning-policy", &[Function::Planning]);
}

#[test]
fn subnet_policy() {
    owns("subnet-policy", &[Function::Subnets]);
}

#[test]
fn sizing_and_planning() {
    owns("sizing-planning", &[Function::Sizing, Function::Planning]);
}

#[test]
fn sizing_and_subnets() {
    owns("sizing-subnets", &[Function::Sizing, Function::Subnets]);
}

#[test]
fn planning_and_subnets() {
    owns("planning-subnets", &[Function::Planning, Function::Subnets]);
}

#[test]
fn all_three() {
    owns("policy", &ALL);
}
