//! The components of this tree: what is committed is what the source gives, the examples decide what they say, and a
//! guest of an old contract keeps working.

use std::path::{Path, PathBuf};
use std::process::Command;

use reservoir_core::policy::{
    Assign, Card, Cidr, Context, CreateEni, Eni, EniTrait, EniTraits, Family, Function, Gate, Gates, Growth, Limits,
    LogLevel, Minute, Node, Note, Plan, Standing, Subnet, Targets, Unit,
};
use reservoir_policy::{Answer, By, Component, Facts, Failure, LogLine, Runtime, Session, sample};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn load(path: &str) -> (Runtime, Component) {
    let path = root().join(path);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let runtime = Runtime::new(&reservoir_policy::Limits::default()).unwrap();
    let component = runtime.load(&bytes, None).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (runtime, component)
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn settings(all: &[(&str, &str)]) -> Context {
    Context { settings: pairs(all), memo: vec![] }
}

/// The target directory of a toolchain that can build components, or why there is none.
fn wasm_target() -> Result<(), String> {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", "wasm32-wasip2"]).output();
    let output = output.map_err(|e| format!("no rustc: {e}"))?;
    let directory = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && Path::new(&directory).exists() {
        Ok(())
    } else {
        Err("no target wasm32-wasip2: rustup target add wasm32-wasip2".to_owned())
    }
}

#[test]
fn the_built_in_component_is_what_its_source_gives() {
    if let Err(reason) = wasm_target() {
        println!("SKIPPED: the_built_in_component_is_what_its_source_gives: {reason}");
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let script = root().join("policies/build.sh");
    let output = Command::new(script).arg("default").env("OUT", out.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let built = std::fs::read(out.path().join("default.wasm")).unwrap();
    let committed = std::fs::read(root().join("policies/default/policy.wasm")).unwrap();
    assert!(built == committed, "policies/default/policy.wasm is not built from this source: run policies/build.sh");
}

#[test]
fn the_built_in_component_refuses_what_it_does_not_know() {
    let (_runtime, component) = load("policies/default/policy.wasm");
    let node = sample::node(2, 9);
    let facts = Facts::of(&node);
    let failure = |all| {
        let mut session = Session::new(&component, &facts, By::BuiltIn);
        session.sizing(&settings(all)).result.unwrap_err()
    };
    let unknown = "unknown setting \"defect\": the built-in policy knows defects, count-cooling and fall-back-to-ips";
    assert_eq!(failure(&[("defect", "reference")]), Failure::Error(unknown.to_owned()));
    let nonsense = "setting count-cooling = \"no\": set \"true\" or \"false\"";
    assert_eq!(failure(&[("count-cooling", "no")]), Failure::Error(nonsense.to_owned()));
}

#[test]
fn hour_owns_sizing() {
    let (_runtime, component) = load("policies/examples/hour/policy.wasm");
    assert_eq!(component.exports(), [Function::Sizing]);
    let held = |hour: u64, labels: &[(&str, &str)]| {
        let node = Node { now: hour * 3600, labels: pairs(labels), ..sample::node(2, 9) };
        let facts = Facts::of(&node);
        match Session::new(&component, &facts, By::Custom).sizing(&settings(&[("night", "3")])).result {
            Ok(Answer::Sizing(sizes)) => sizes.targets[0],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(held(12, &[]), Targets { minimum_ips: 40, ..Targets::default() });
    assert_eq!(held(2, &[]), Targets { minimum_ips: 3, ..Targets::default() });
    assert_eq!(held(2, &[("example.com/pool", "77")]), Targets { minimum_ips: 77, ..Targets::default() });
}

#[test]
fn subnet_spread_owns_subnets() {
    let (_runtime, component) = load("policies/examples/subnet-spread/policy.wasm");
    assert_eq!(component.exports(), [Function::Subnets]);
    let node = sample::node(2, 9);
    let facts = Facts::of(&node);
    let request = CreateEni { card: 0, unit: Unit::Ip, count: 9 };
    let called = Session::new(&component, &facts, By::Custom).subnets(&Context::default(), &request);
    // Both interfaces are in the first subnet.
    let (first, second) = (node.subnets[0].id.clone(), node.subnets[1].id.clone());
    assert_eq!(called.result, Ok(Answer::Subnets(vec![second, first])));
}

/// A node with a value of its own in each field.
fn every_field() -> Node {
    let traits = [EniTrait::Primary, EniTrait::Trunk, EniTrait::Efa, EniTrait::Excluded, EniTrait::Closed];
    let cidr = |id, unit, size, serving, idle_seconds| Cidr {
        id,
        unit,
        size,
        serving,
        assigned: 11,
        cooling: 12,
        cooled_in_seconds: 13,
        age_seconds: 14,
        idle_seconds,
    };
    let eni = |id: &str, traits: &[EniTrait], cidrs| Eni {
        id: id.to_owned(),
        card: 15,
        device_index: 16,
        subnet: "subnet-1".to_owned(),
        traits: EniTraits(traits.to_vec()),
        age_seconds: 17,
        cidrs,
    };
    let subnet = |id: &str, standing, free_ips| Subnet {
        id: id.to_owned(),
        cidr: "10.0.64.0/19".to_owned(),
        ipv6: true,
        primary: true,
        standing,
        free_ips,
        seen_seconds: 18,
        ips_refused_seconds: 19,
        prefixes_refused_seconds: 20,
        tags: pairs(&[("tag", "value")]),
    };
    let cidrs = vec![cidr(9, Unit::Ip, 1, true, None), cidr(10, Unit::Prefix, 16, false, Some(3))];
    Node {
        now: 1_700_000_001,
        name: "name".to_owned(),
        instance_type: "type".to_owned(),
        availability_zone: "zone".to_owned(),
        labels: pairs(&[("label", "value")]),
        families: vec![Family::Ipv4, Family::Ipv6],
        unit: Unit::Prefix,
        limits: Limits { slots_per_eni: 21, ips_per_prefix: 22, max_pods: 23 },
        cards: vec![Card {
            index: 24,
            max_enis: 25,
            enis_in_flight: 26,
            ips_in_flight: 27,
            waiting: 28,
            configured: Targets { warm_enis: 29, warm_ips: 30, warm_prefixes: 31, minimum_ips: 32 },
        }],
        enis: traits
            .iter()
            .map(|t| eni("eni-t", &[*t], vec![]))
            .chain([eni("eni-c", &[], cidrs), eni("eni-all", &traits, vec![])])
            .collect(),
        subnets: vec![
            subnet("subnet-1", Standing::Eligible, None),
            subnet("subnet-2", Standing::Possible, Some(33)),
            subnet("subnet-3", Standing::Forbidden, Some(0)),
        ],
        gates: Gates { grow: Gate::Open, release: Gate::OpensIn(34), remove: Gate::Closed, ec2_calls_left: 35 },
        draining: true,
        booted_seconds: 36,
        history: vec![Minute {
            adds: 37,
            deletes: 38,
            starved: 39,
            peak_assigned: 40,
            ec2_calls: 41,
            ec2_throttled: 42,
        }],
        extra: pairs(&[("fact", "on trial")]),
    }
}

#[test]
fn a_guest_of_contract_0_1_keeps_working() {
    let (_runtime, component) = load("tests/frozen/policy-0.1.wasm");
    assert_eq!(component.exports(), [Function::Sizing, Function::Planning, Function::Subnets]);
    let node = every_field();
    let facts = Facts::of(&node);
    let mut session = Session::new(&component, &facts, By::Custom);

    let context = Context { settings: pairs(&[("setting", "value")]), memo: vec![1, 2, 255] };
    let called = session.sizing(&context);
    let Ok(Answer::Sizing(sizes)) = called.result else { panic!("{:?}", called.result) };
    assert_eq!(sizes.targets, [Targets { warm_enis: 1, warm_ips: 2, warm_prefixes: 3, minimum_ips: 4 }]);
    let told = String::from_utf8(sizes.note.memo.clone()).unwrap();
    let frozen = root().join("tests/frozen/node-0.1.txt");
    assert_eq!(told, std::fs::read_to_string(&frozen).unwrap_or_default().trim_end());
    let line = |level| LogLine { level, text: "frozen 0.1".to_owned() };
    assert_eq!(called.log, [line(LogLevel::Debug), line(LogLevel::Info), line(LogLevel::Warn)]);

    let note = |memo: &str| Note {
        reason: "frozen 0.1".to_owned(),
        wake_after_seconds: Some(7),
        refresh_subnets: true,
        memo: memo.as_bytes().to_vec(),
    };
    assert_eq!(sizes.note, note(&told));
    let targets = "[Targets { warm-enis: 1, warm-ips: 2, warm-prefixes: 3, minimum-ips: 4 }]";
    let plan = Plan {
        grow: vec![
            Growth::Assign(Assign { eni: "eni-t".to_owned(), unit: Unit::Ip, count: 5 }),
            Growth::CreateEni(CreateEni { card: 0, unit: Unit::Prefix, count: 6 }),
        ],
        release: vec![1],
        remove: vec!["eni-t".to_owned()],
        drain: vec![2],
        note: note(targets),
    };
    assert_eq!(session.planning(&Context::default(), &sizes.targets).result, Ok(Answer::Planning(plan)));

    // This guest ranks one subnet, named as the request that it was given.
    // A ranking that names no subnet of the node is nonsense, so that this
    // node has a subnet of that name.
    let request = CreateEni { card: 24, unit: Unit::Prefix, count: 43 };
    let told = "CreateEni { card: 24, unit: Unit::Prefix, count: 43 }";
    let mut node = every_field();
    node.subnets[0].id = told.to_owned();
    let facts = Facts::of(&node);
    let mut ranking = Session::new(&component, &facts, By::Custom);
    let ranked = ranking.subnets(&Context::default(), &request).result;
    assert_eq!(ranked, Ok(Answer::Subnets(vec![told.to_owned()])));

    let refused = session.sizing(&settings(&[("refuse", "in my words")])).result;
    assert_eq!(refused, Err(Failure::Error("in my words".to_owned())));
}
