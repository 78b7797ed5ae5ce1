//! Components of the guests in `tests/guests`, made without a wasm toolchain.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{fs, path::PathBuf, sync::LazyLock, time::Duration};

use reservoir_core::policy::Node;
use reservoir_policy::{Bundle, Limits, Options, Pauses, Policies, sample};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn guests() -> PathBuf {
    root().join("tests/guests")
}

pub fn contract() -> String {
    fs::read_to_string(root().join("wit/policy.wit")).unwrap()
}

/// With the worlds that only guests have.
pub fn contract_and_worlds() -> String {
    format!("{}\n{}", contract(), fs::read_to_string(guests().join("worlds.wit")).unwrap())
}

/// The built-in component's file.
pub fn good() -> Vec<u8> {
    fs::read(root().join("policies/default/policy.wasm")).unwrap()
}

/// The component of `tests/guests/<name>.wat`.
pub fn guest(name: &str) -> Vec<u8> {
    let body = fs::read_to_string(guests().join(format!("{name}.wat"))).unwrap();
    let (first, _) = body.split_once('\n').unwrap();
    let world = first.strip_prefix(";; world: ").unwrap_or_else(|| panic!("{name}.wat must begin with its world"));
    let (world, prelude) = match world.strip_suffix(", alone") {
        Some(world) => (world, String::new()),
        None => (world, fs::read_to_string(guests().join("prelude.wat")).unwrap()),
    };
    component(&format!("(module {body}\n{prelude})"), &contract_and_worlds(), world)
}

/// The component of a core module's text for a world of `wit`.
pub fn component(module: &str, wit: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(module).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

pub fn bundle(component: Vec<u8>, settings: &[(&str, &str)]) -> Bundle {
    let settings = settings.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    Bundle { component: Some(component), settings, pin: None }
}

pub fn policies() -> Policies {
    Policies::new(options()).unwrap()
}

/// Such that what is not in force is tried again after `refused` or `taken_over`.
pub fn policies_with(pauses: Pauses) -> Policies {
    Policies::new(Options { pauses, ..options() }).unwrap()
}

/// What one test compiled, the others of its file need not compile again. Time is not what ends a guest here, however
/// busy the machine is: a test that wants that says so.
pub fn options() -> Options {
    static CACHE: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    let limits = Limits { deadline: Duration::from_secs(60), ..Limits::default() };
    Options { limits, cache: Some(CACHE.path().join("code")), ..Options::default() }
}

/// A node on which guests behave.
pub fn calm() -> Node {
    sample::node(2, 29)
}

/// A node on which guests misbehave.
pub fn provoking() -> Node {
    Node { extra: vec![("provoke".into(), "yes".into())], ..calm() }
}

/// The same with a pod that waits.
pub fn provoking_and_waiting() -> Node {
    let mut node = provoking();
    node.cards[0].waiting = 1;
    node
}
