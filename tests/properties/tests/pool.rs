//! The whole pool under virtual time: every mode, sensible and hostile policies, faults and kills at random.

use properties::play::play;
use properties::property;
use properties::scenario::{nonsense, scenarios, sensible};

#[test]
fn where_nothing_goes_wrong_demand_is_met_and_the_pool_settles() {
    property(60, &scenarios(sensible(), true), |scenario| play(&scenario).map(drop));
}

#[test]
fn faults_and_kills_take_no_address_from_a_pod_and_leave_nothing_behind() {
    property(120, &scenarios(sensible(), false), |scenario| play(&scenario).map(drop));
}

#[test]
fn whatever_a_policy_answers_the_invariants_hold_and_the_pool_recovers() {
    property(60, &scenarios(nonsense(), true), |scenario| play(&scenario).map(drop));
}

#[test]
fn nonsense_and_faults_together() {
    property(60, &scenarios(nonsense(), false), |scenario| play(&scenario).map(drop));
}
