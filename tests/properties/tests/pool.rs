//! The whole pool under virtual time: every mode, sensible and hostile policies, faults and kills at random.

use std::cell::RefCell;

use properties::play::{Outcome, play};
use properties::property;
use properties::scenario::{Who, nonsense, scenarios, sensible};
use proptest::strategy::BoxedStrategy;

/// Plays `cases` scenarios; what they came to in all.
fn played(cases: u32, who: BoxedStrategy<Who>, fair: bool) -> Outcome {
    let sum = RefCell::new(Outcome::default());
    property(cases, &scenarios(who, fair), |scenario| {
        let one = play(&scenario)?;
        sum.borrow_mut().add(&one);
        Ok(())
    });
    sum.into_inner()
}

#[test]
fn where_nothing_goes_wrong_demand_is_met_and_the_pool_settles() {
    let Outcome { served, created, removed, released, .. } = played(60, sensible(), true);
    assert!(served > 0 && created > 0 && removed > 0 && released > 0, "{served} {created} {removed} {released}");
}

#[test]
fn faults_and_kills_take_no_address_from_a_pod_and_leave_nothing_behind() {
    let Outcome { served, created, removed, released, refused, .. } = played(120, sensible(), false);
    assert!(served > 0 && created > 0 && removed > 0 && released > 0, "{served} {created} {removed} {released}");
    assert!(refused > 0, "EC2 refuses nothing");
}

#[test]
fn whatever_a_policy_answers_the_invariants_hold_and_the_pool_recovers() {
    let Outcome { served, dropped, .. } = played(60, nonsense(), true);
    assert!(served > 0 && dropped > 0, "{served} {dropped}");
}

#[test]
fn nonsense_and_faults_together() {
    let Outcome { served, dropped, refused, .. } = played(60, nonsense(), false);
    assert!(served > 0 && dropped > 0 && refused > 0, "{served} {dropped} {refused}");
}
