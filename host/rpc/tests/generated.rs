//! The checked-in code is what the generator makes of `proto/rpc.proto`.
//! `UPDATE_GENERATED=1 cargo test -p reservoir-rpc --test generated` writes it anew.

use std::fs;
use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

fn package() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Rust names for those fields whose acronyms the generator would tear apart (`VPCv4CIDRs` to `vp_cv4_cid_rs`). The
/// wire knows numbers only, and the descriptor set keeps the true names.
fn legible(field: &str) -> String {
    [
        ("IPv4", "Ipv4"),
        ("IPv6", "Ipv6"),
        ("VPCv4CIDRs", "VpcV4Cidrs"),
        ("VPCv6CIDRs", "VpcV6Cidrs"),
        ("ENIMAC", "EniMac"),
        ("MultiNIC", "MultiNic"),
    ]
    .iter()
    .fold(field.to_owned(), |name, (from, to)| name.replace(from, to))
}

fn generate(out: &Path) -> FileDescriptorSet {
    let proto = package().join("proto");
    let mut set = protox::compile(["rpc.proto"], [&proto]).expect("rpc.proto compiles");
    let mut renamed = set.clone();
    for message in renamed.file.iter_mut().flat_map(|file| &mut file.message_type) {
        for field in &mut message.field {
            field.name = field.name.as_deref().map(legible);
        }
    }
    tonic_prost_build::configure()
        .out_dir(out)
        .build_transport(false)
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .compile_fds(renamed)
        .expect("code generation");
    // Comments live in the proto file and the generated code; reflection does without.
    for file in &mut set.file {
        file.source_code_info = None;
    }
    set
}

#[test]
fn generated_code_is_current() {
    use prost::Message;

    let out = tempfile::tempdir().unwrap();
    let descriptor = generate(out.path()).encode_to_vec();
    let code = fs::read_to_string(out.path().join("rpc.rs")).unwrap();

    let checked_in = package().join("src/generated");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(checked_in.join("rpc.rs"), &code).unwrap();
        fs::write(checked_in.join("rpc_descriptor.bin"), &descriptor).unwrap();
    }
    let stale = "differs from proto/rpc.proto; run UPDATE_GENERATED=1 cargo test -p reservoir-rpc --test generated";
    assert!(fs::read_to_string(checked_in.join("rpc.rs")).unwrap() == code, "src/generated/rpc.rs {stale}");
    assert!(
        fs::read(checked_in.join("rpc_descriptor.bin")).unwrap() == descriptor,
        "src/generated/rpc_descriptor.bin {stale}"
    );
}
