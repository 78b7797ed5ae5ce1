//! The vectors of this tree: no case may fail.

use std::path::PathBuf;

use conformance::{Counts, Outcome, render, run_directories};

fn vectors() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../vectors")
}

#[test]
fn no_case_fails() {
    let reports = run_directories(&[vectors()]).unwrap();
    let counts = Counts::of(reports.iter().flat_map(|report| &report.cases));
    assert_eq!(counts.failed, 0, "{}", render(&reports));
}

/// So that a suite which stops knowing its file is noticed.
#[test]
fn the_warm_pool_is_decided_by_the_component() {
    let reports = run_directories(&[vectors()]).unwrap();
    let report = reports.iter().find(|report| report.path.ends_with("warm-pool.json")).unwrap();
    assert_eq!(report.cases.len(), 433);
    let passed = |kind: &str| report.cases.iter().filter(|c| c.kind == kind && c.outcome == Outcome::Passed).count();
    for (kind, cases) in [("tick", 55), ("steady_state", 52), ("doc_steady_state", 49), ("trace", 6), ("pool_low", 20)]
    {
        assert_eq!(passed(kind), cases, "{kind}");
    }
}

/// An expectation that is wrong must be reported as such.
#[test]
fn a_wrong_expectation_fails() {
    let text = std::fs::read_to_string(vectors().join("warm-pool.json")).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = file["cases"].as_array_mut().unwrap();
    cases.retain(|case| case["name"] == "fx-tick-fresh-primary");
    cases[0]["expected"]["actions"][0]["count"] = 2.into();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("any-name.json"), file.to_string()).unwrap();
    let reports = run_directories(&[directory.path().to_owned()]).unwrap();
    assert_eq!(Counts::of(&reports[0].cases), Counts { passed: 0, failed: 1, skipped: 0 });
    let text = render(&reports);
    assert!(
        text.contains("FAILED fx-tick-fresh-primary") && text.ends_with("0 passed, 1 failed, 0 skipped\n"),
        "{text}"
    );
}
