//! Suite `ipamd`, warm targets: what an empty node keeps.

use crate::can_run;
use crate::support::lab::{Account, Lab, lab};

#[test]
fn interfaces_follow_warm_eni_target_up_to_max_eni() {
    if !can_run("interfaces_follow_warm_eni_target_up_to_max_eni") {
        return;
    }
    for (warm, max, wanted) in [("3", "2", 2), ("3", "3", 3), ("2", "3", 2)] {
        let mut lab = lab("secondary", "c5.xlarge", &[("WARM_ENI_TARGET", warm), ("MAX_ENI", max)]);
        lab.start();
        let what = format!("WARM_ENI_TARGET={warm} with MAX_ENI={max} gives {wanted} interfaces, each full");
        lab.settles(&what, |a| a.enis.len() == wanted && a.addresses() == 14 * wanted);
        lab.audit();
    }
}

/// Pairs of the warm and the minimum target. Each begins where the one before ended, so that the pool must move.
const PAIRS: [(u32, u32); 5] = [(16, 0), (2, 0), (0, 16), (0, 2), (6, 10)];

fn each_pair(lab: &mut Lab, size: impl Fn(&Account) -> usize, wanted: impl Fn(u32, u32) -> usize) {
    lab.start();
    for (warm, minimum) in PAIRS {
        lab.restart(&[("WARM_IP_TARGET", &warm.to_string()), ("MINIMUM_IP_TARGET", &minimum.to_string())]);
        let wanted = wanted(warm, minimum);
        let what = format!("WARM_IP_TARGET={warm} and MINIMUM_IP_TARGET={minimum} give {wanted}");
        lab.settles(&what, |a| size(a) == wanted);
    }
    lab.audit();
}

#[test]
fn addresses_are_the_greater_of_the_warm_and_the_minimum_target() {
    if !can_run("addresses_are_the_greater_of_the_warm_and_the_minimum_target") {
        return;
    }
    let mut lab = lab("secondary", "c5.4xlarge", &[]);
    each_pair(&mut lab, Account::addresses, |warm, minimum| warm.max(minimum) as usize);
}

#[test]
fn prefixes_are_the_greater_of_both_targets_rounded_up() {
    if !can_run("prefixes_are_the_greater_of_both_targets_rounded_up") {
        return;
    }
    // The prefix target is not looked at where there is one for addresses.
    let env = [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "4")];
    let mut lab = lab("prefix", "c5.4xlarge", &env);
    each_pair(&mut lab, Account::prefixes, |warm, minimum| warm.div_ceil(16).max(minimum.div_ceil(16)) as usize);
}

#[test]
fn warm_prefix_target_keeps_free_prefixes() {
    if !can_run("warm_prefix_target_keeps_free_prefixes") {
        return;
    }
    let env = [("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "2")];
    let mut lab = lab("prefix", "c5.4xlarge", &env);
    lab.start();
    lab.settles("two free prefixes", |a| a.prefixes() == 2);
    lab.add("one");
    lab.settles("a pod takes one of them, two are free again", |a| a.prefixes() == 3);
    lab.audit();
}
