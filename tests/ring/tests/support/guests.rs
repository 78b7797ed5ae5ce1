//! Components of the guests in `tests/guests`, made without a wasm toolchain as host/policy's tests do.

use std::fs;
use std::path::{Path, PathBuf};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The names of all guests.
pub fn names() -> Vec<String> {
    let files = fs::read_dir(root().join("tests/guests")).unwrap();
    let names = files.filter_map(|e| e.unwrap().file_name().to_str()?.strip_suffix(".wat").map(str::to_owned));
    let mut names: Vec<String> = names.filter(|name| name != "prelude").collect();
    names.sort();
    names
}

/// The component of `tests/guests/<name>.wat`. What provokes it is that the node has a label, where host/policy's tests
/// use a fact that no daemon tells: the length of `labels` in place of that of `extra`.
pub fn guest(name: &str) -> Vec<u8> {
    let body = fs::read_to_string(root().join(format!("tests/guests/{name}.wat"))).unwrap();
    let world = body.lines().next().unwrap().strip_prefix(";; world: ").unwrap().to_owned();
    let (world, prelude) = match world.strip_suffix(", alone") {
        Some(world) => (world.to_owned(), String::new()),
        None => (world, fs::read_to_string(root().join("tests/guests/prelude.wat")).unwrap()),
    };
    let provoked =
        prelude.replace("(i32.load offset=128 (local.get $arguments))", "(i32.load offset=36 (local.get $arguments))");
    assert!(prelude.is_empty() || provoked != prelude, "the prelude's $provoked is another than this one knows");
    let mut module = wat::parse_str(format!("(module {body}\n{provoked})")).unwrap();
    let contract = fs::read_to_string(root().join("wit/policy.wit")).unwrap();
    let worlds = fs::read_to_string(root().join("tests/guests/worlds.wit")).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", &format!("{contract}\n{worlds}")).unwrap();
    let world = resolve.select_world(&[package], Some(&world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}
