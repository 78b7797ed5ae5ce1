//! The entry function of `tests/fuzz` with its seeds, and with a bounded number of changes of them.

#[path = "../../../tests/fuzz/changes.rs"]
mod changes;
#[path = "../../../tests/fuzz/egress.rs"]
mod entry;

use changes::{change, changed, seeds};
use proptest::prelude::*;
use proptest::sample::Index;

#[test]
fn the_seeds() {
    seeds("egress").iter().for_each(|seed| entry::egress(seed));
}

#[test]
fn every_seed_cut_short_at_every_byte() {
    for seed in seeds("egress") {
        (0..seed.len()).for_each(|end| entry::egress(&seed[..end]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_configurations(which in any::<Index>(), changes in prop::collection::vec(change(), 1..6)) {
        entry::egress(&changed(&seeds("egress"), which, &changes));
    }
}
