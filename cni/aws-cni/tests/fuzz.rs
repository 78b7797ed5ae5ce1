//! The entry functions of `tests/fuzz` with its seeds, and with a bounded number of changes of them; and any result of
//! ADD read back by DEL.

#[path = "../../../tests/fuzz/entry.rs"]
mod entry;

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use aws_cni::args::PodArgs;
use aws_cni::prev_result::PrevResult;
use aws_cni::result::{AddResult, Saved, Wired};
use cni_plugin::version::CniVersion;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use reservoir_net::names;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 7, "{}: {}", directory.display(), paths.len());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

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

/// One change of an input.
#[derive(Clone, Debug)]
enum Change {
    Byte(Index, u8),
    Insert(Index, &'static str),
    Remove(Index, usize),
    /// A piece of another seed.
    Splice(Index, Index, Index, usize),
}

const WORDS: &[&str] = &[
    "null",
    "true",
    "-1",
    "1.5",
    "1e400",
    "18446744073709551616",
    "\"\"",
    "[]",
    "{}",
    "\\u0000",
    "\\ud800",
    "\"7\"",
    "\u{fc}",
    "\"interfaces\":",
    "\"prevResult\":{",
    "\"cniVersion\":\"0.3.1\",",
    "\"mac\":\"-7\",",
    "\"name\":\"mNicIf1\",",
    ",",
    "\"interface\":-3,",
    "/129",
    "::ffff:10.0.0.1/128",
];

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (any::<Index>(), select(WORDS)).prop_map(|(at, word)| Change::Insert(at, word)),
        (any::<Index>(), 1_usize..40).prop_map(|(at, count)| Change::Remove(at, count)),
        (any::<Index>(), any::<Index>(), any::<Index>(), 1_usize..80)
            .prop_map(|(a, b, c, n)| Change::Splice(a, b, c, n)),
    ]
}

fn changed(all: &[Vec<u8>], which: Index, changes: &[Change]) -> Vec<u8> {
    let mut bytes = which.get(all).clone();
    for change in changes {
        let at = |index: &Index, bytes: &[u8]| index.index(bytes.len() + 1);
        match change {
            Change::Byte(index, byte) => {
                if let Some(found) = {
                    let at = at(index, &bytes);
                    bytes.get_mut(at)
                } {
                    *found = *byte;
                }
            }
            Change::Insert(index, word) => {
                let at = at(index, &bytes);
                bytes.splice(at..at, word.bytes());
            }
            Change::Remove(index, count) => {
                let at = at(index, &bytes);
                let end = (at + count).min(bytes.len());
                bytes.drain(at..end);
            }
            Change::Splice(index, other, from, count) => {
                let other = other.get(all);
                let from = from.index(other.len() + 1);
                let piece = &other[from..(from + count).min(other.len())];
                let at = at(index, &bytes);
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
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
