//! The program as its user meets it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use reservoir_policy::sample;
use serde_json::Value;

fn built_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../default/policy.wasm")
}

fn run(args: &[&str]) -> (Output, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_policy-test")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    (out, stdout, stderr)
}

fn fails(args: &[&str]) -> String {
    let (out, _, stderr) = run(args);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    stderr
}

fn in_dir(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn check_shows_what_a_component_is_and_costs() {
    let wasm = built_in();
    let (out, stdout, stderr) = run(&["check", wasm.to_str().unwrap()]);
    assert!(out.status.success(), "{stderr}");
    for part in ["exports    sizing, planning, subnets", "imports    ", "small", "large", "p50 us"] {
        assert!(stdout.contains(part), "{part:?} is not in\n{stdout}");
    }
    let (_, stdout, _) = run(&["check", wasm.to_str().unwrap(), "--json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!(report["bytes"], fs::metadata(&wasm).unwrap().len());
    assert_eq!(report["costs"].as_array().unwrap().len(), 6);
    assert!(report["costs"].as_array().unwrap().iter().all(|cost| cost["fuel"].as_u64().unwrap() > 0));
}

#[test]
fn check_says_why_a_file_will_not_do() {
    let tmp = tempfile::tempdir().unwrap();
    let whole = fs::read(built_in()).unwrap();
    for (content, why) in [
        (&b""[..], "is empty"),
        (b"\0asm\x01\0\0\0", "core module, not a component"),
        (b"#!/bin/sh", "not WebAssembly"),
        (&whole[..whole.len() / 2], "cut off"),
    ] {
        let file = in_dir(tmp.path(), "policy.wasm", content);
        let stderr = fails(&["check", &file]);
        assert!(stderr.contains(why) && stderr.contains(&file), "{stderr}");
    }
    assert!(fails(&["check", "/no/such/file"]).contains("/no/such/file cannot be read: No such file"));
}

#[test]
fn check_fails_if_a_ranking_names_no_subnet_of_the_node() {
    // This guest ranks the text of its request.
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/frozen/policy-0.1.wasm");
    let stderr = fails(&["check", guest.to_str().unwrap()]);
    assert!(stderr.contains("the ranking names no subnet of the node"), "{stderr}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = Command::new(env!("CARGO_BIN_EXE_policy-test"));
    let out = child.args(["check", built_in().to_str().unwrap()]).stdout(writer).output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
}

#[test]
fn check_fails_if_a_setting_makes_no_sense() {
    let stderr = fails(&["check", built_in().to_str().unwrap(), "--settings", "no-such-setting=1"]);
    assert!(stderr.contains("no-such-setting") && stderr.contains("on the small node"), "{stderr}");
}

#[test]
fn check_takes_settings_as_a_node_does() {
    let hour = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hour/policy.wasm");
    let hour = hour.to_str().unwrap();
    // Before the file as well as after it, more than once, and those of the built-in component apart.
    let good =
        ["check", "--settings", "day=60", "--settings", "builtin.defects=reference", hour, "--settings", "night=6"];
    let (out, stdout, stderr) = run(&good);
    assert!(out.status.success(), "{stderr}");
    assert!(stdout.contains("hold 60 at") || stdout.contains("hold 6 at"), "{stdout}");
    let stderr = fails(&["check", hour, "--settings", "builtin.defects=none"]);
    assert!(stderr.contains("of the built_in component failed") && stderr.contains("defects"), "{stderr}");
    assert!(fails(&["check", hour, "--settings", "dya=60"]).contains("unknown setting \"dya\""));
}

#[test]
fn scenarios_hand_settings_to_the_component() {
    let hour = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hour/policy.wasm");
    let args = ["scenarios", "--hours", "1", "--workload", "steady", "--json"];
    let idle = |more: &[&str]| {
        let (out, stdout, stderr) = run(&[&args[..], &["--policy", hour.to_str().unwrap()], more].concat());
        assert!(out.status.success(), "{stderr}");
        let rows: Value = serde_json::from_str(&stdout).unwrap();
        rows.as_array().unwrap().last().unwrap()["idle_address_hours"].as_f64().unwrap()
    };
    assert!(
        idle(&["--settings", "night=50", "--settings", "day=50"])
            > idle(&["--settings", "night=5", "--settings", "day=5"])
    );
    assert!(fails(&[&args[..], &["--settings", "a=b"]].concat()).contains("--policy"));
}

#[test]
fn explain_shows_all_numbers() {
    let tmp = tempfile::tempdir().unwrap();
    let mut node = sample::node(2, 10);
    node.enis[0].cidrs[1].cooling = 1;
    node.enis[0].cidrs[3].serving = false;
    let file = in_dir(tmp.path(), "node.json", serde_json::to_string(&node).unwrap().as_bytes());
    let (out, stdout, stderr) = run(&["explain", &file, "--json"]);
    assert!(out.status.success(), "{stderr}");
    let explained: Value = serde_json::from_str(&stdout).unwrap();
    let card = &explained["cards"][0];
    let numbers =
        ["total", "assigned", "cooling", "available", "free", "free_slots"].map(|k| card[k].as_u64().unwrap());
    assert_eq!(numbers, [19, 10, 1, 9, 8, 0]);
    assert_eq!(explained["enis"][0]["total"], 9);
    assert_eq!(explained["decision"]["by"], "built_in");

    let (out, stdout, _) = run(&["explain", &file, "--policy", built_in().to_str().unwrap()]);
    assert!(out.status.success());
    for part in ["available", "eni-00000000000000001", "configured", "decided", "planning", "custom"] {
        assert!(stdout.contains(part), "{part:?} is not in\n{stdout}");
    }
}

#[test]
fn explain_names_the_field_that_is_wrong() {
    let tmp = tempfile::tempdir().unwrap();
    let mut node = serde_json::to_value(sample::node(1, 2)).unwrap();
    node["cards"][0]["max_enis"] = "many".into();
    let file = in_dir(tmp.path(), "node.json", node.to_string().as_bytes());
    let stderr = fails(&["explain", &file]);
    assert!(stderr.contains("node.json is not a node: cards[0].max_enis: invalid type"), "{stderr}");
    assert!(fails(&["explain", "/no/such.json"]).contains("/no/such.json cannot be read"));
    let (out, _, stderr) = run(&["explain", &file, "--settings", "nonsense"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(stderr.contains("NAME=VALUE"), "{stderr}");
}

#[test]
fn scenarios_score_every_policy_on_every_workload() {
    let adaptive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adaptive/policy.wasm");
    let wasm = adaptive.to_str().unwrap();
    let args = ["scenarios", "--hours", "1", "--workload", "flap", "--workload", "steady", "--policy", wasm];
    let (out, stdout, stderr) = run(&args);
    assert!(out.status.success(), "{stderr}");
    for part in ["m5.xlarge for 1 h, seed 1", "WARM_ENI_TARGET=1", "adaptive/policy.wasm", "idle address-hours"] {
        assert!(stdout.contains(part), "{part:?} is not in\n{stdout}");
    }
    let (_, stdout, _) = run(&[&args[..], &["--json"]].concat());
    let rows: Value = serde_json::from_str(&stdout).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 12, "six policies, two workloads");
    assert!(rows.iter().all(|row| row["pods"].as_u64() > Some(10) && row["idle_address_hours"].as_f64() > Some(0.0)));
    assert_eq!(rows[4]["policy"], "adaptive");
    assert_eq!(rows[4]["idle_address_hours"], rows[5]["idle_address_hours"], "native and in WebAssembly");
}

#[test]
fn scenarios_name_what_is_not_there() {
    assert!(fails(&["scenarios", "--workload", "stedy"]).contains("there are steady, diurnal, burst"));
    assert!(fails(&["scenarios", "--instance-type", "m5.huge", "--hours", "1"]).contains("\"m5.huge\""));
    assert!(fails(&["scenarios", "--policy", "/no/such.wasm"]).contains("/no/such.wasm cannot be read"));
}
