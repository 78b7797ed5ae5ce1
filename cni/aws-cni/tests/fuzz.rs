//! The entry functions of `tests/fuzz` with its seeds, and with a bounded number of changes of them; and any result of
//! ADD read back by DEL.

#[path = "../../../tests/fuzz/changes.rs"]
mod changes;
#[path = "../../../tests/fuzz/entry.rs"]
mod entry;

use std::net::IpAddr;

use aws_cni::args::PodArgs;
use aws_cni::prev_result::PrevResult;
use aws_cni::result::{AddResult, Saved, Wired};
use changes::{change, changed, seeds};
use cni_plugin::version::CniVersion;
use proptest::prelude::*;
use proptest::sample::Index;
use reservoir_net::names;

#[test]
fn the_seeds() {
    seeds("stdin").iter().for_each(|seed| entry::stdin(seed));
    seeds("prev_result").iter().for_each(|seed| entry::prev_result(seed));
}

#[test]
fn every_seed_cut_short_at_every_byte() {
    for seed in seeds("stdin") {
        (0..seed.len()).for_each(|end| entry::stdin(&seed[..end]));
    }
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_configurations(which in any::<Index>(), changes in prop::collection::vec(change(), 1..6)) {
        entry::stdin(&changed(&seeds("stdin"), which, &changes));
    }

    #[test]
    fn changed_results(which in any::<Index>(), changes in prop::collection::vec(change(), 1..6)) {
        entry::prev_result(&changed(&seeds("prev_result"), which, &changes));
    }

    #[test]
    fn what_add_returns_is_what_del_reads(
        name in ".*", namespace in ".*", device in 0..32_i32,
        addresses in prop::collection::vec((address(), 0..70_000_i32), 1..9),
    ) {
        let args = PodArgs { name: name.clone(), namespace: namespace.clone(), ..PodArgs::default() };
        let wired: Vec<Wired> = addresses.iter().enumerate().map(|(index, &(address, table))| Wired {
            host_veth: names::host_veth("eni", &namespace, &name, index),
            name: names::container_interface("eth0", index),
            address,
            table,
            gateway: None,
        }).collect();
        let result = AddResult::new(&args, "/n", wired.clone(), Saved::Device(device));
        for version in CniVersion::ALL.into_iter().filter(|&version| version >= CniVersion::V0_3_0) {
            let value: serde_json::Value = serde_json::from_str(&result.to_json(version)).unwrap();
            let saved = PrevResult::parse(value.as_object().unwrap(), version).unwrap().addresses(&args, "eth0").unwrap();
            let read: Vec<_> = saved.iter().map(|s| (s.host_veth.as_str(), s.interface.as_str(), s.address, s.table.cast_signed())).collect();
            let written: Vec<_> = wired.iter().map(|w| (w.host_veth.as_str(), w.name.as_str(), w.address, w.table)).collect();
            prop_assert_eq!(read, written);
        }
    }
}
