//! Properties of the whole pool: what holds for every node, plan, policy, fault and schedule. A case that fails is cut
//! down to the smallest that still does, and names the seed that brings it back.
//!
//! | module | what |
//! |---|---|
//! | [`nodes`] | random snapshots and plans |
//! | [`policies`] | policies that answer at random, and worse |
//! | [`scenario`] | random accounts, nodes, pods, faults and kills |
//! | [`play`] | one scenario under virtual time, and what must hold on the way and at its end |
//! | [`books`] | the calls that EC2 got, held to the invariants of spec 01 §12.2 |

pub mod books;
pub mod nodes;
pub mod play;
pub mod policies;
pub mod scenario;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

/// The seed of a run that names none: the same cases each time.
const SEED: u64 = 20_190_614;

/// Puts `cases` random values of `strategy` to `holds`. `PROPTEST_CASES` sets another number, `PROPTEST_RNG_SEED` another
/// seed.
///
/// # Panics
/// With the smallest value that `holds` refuses, why, and how to see it again.
pub fn property<S: Strategy>(cases: u32, strategy: &S, holds: impl Fn(S::Value) -> Result<(), String>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cases = number("PROPTEST_CASES").and_then(|n| u32::try_from(n).ok()).unwrap_or(cases);
    let seed = number("PROPTEST_RNG_SEED").unwrap_or(SEED);
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 4000,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(strategy, |value| holds(value).map_err(TestCaseError::fail));
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, value)) => {
            panic!("{reason}\nsmallest case: {value:#?}\nagain: PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases}")
        }
        Err(TestError::Abort(reason)) => panic!("no cases: {reason}"),
    }
}
