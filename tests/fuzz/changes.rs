//! The seeds of a target, and a bounded number of changes of them, for tests.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};

pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 7, "{}: {}", directory.display(), paths.len());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// One change of an input.
#[derive(Clone, Debug)]
pub enum Change {
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
    "\"enabled\":\"true\",",
    "\"nodeIP\":\"10.0.96.10\",",
    "\"Enabled\":",
];

pub fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (any::<Index>(), select(WORDS)).prop_map(|(at, word)| Change::Insert(at, word)),
        (any::<Index>(), 1_usize..40).prop_map(|(at, count)| Change::Remove(at, count)),
        (any::<Index>(), any::<Index>(), any::<Index>(), 1_usize..80)
            .prop_map(|(a, b, c, n)| Change::Splice(a, b, c, n)),
    ]
}

pub fn changed(all: &[Vec<u8>], which: Index, changes: &[Change]) -> Vec<u8> {
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
