//! The vectors of this tree: no case may fail.

use std::path::PathBuf;

use conformance::{Counts, FileReport, render, run_directories};

fn vectors() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../vectors")
}

#[test]
fn no_case_fails() {
    let reports = run_directories(&[vectors()]).unwrap();
    let counts = Counts::of(reports.iter().flat_map(|report| &report.cases));
    assert_eq!(counts.failed, 0, "{}", render(&reports));
}

/// Nothing of the pool, the checkpoint and the metrics is left out, and no more of the rest than is known to be, so that a
/// suite which stops knowing its file is noticed; and what is better than the reference does not grow by itself.
#[test]
fn nothing_of_the_pool_is_left_out() {
    let reports = run_directories(&[vectors()]).unwrap();
    let counts = |file: &str| {
        let report = reports.iter().find(|report| report.path.ends_with(file)).unwrap();
        let Counts { passed, better, failed, skipped } = Counts::of(&report.cases);
        (passed - better, better, failed, skipped)
    };
    assert_eq!(counts("warm-pool.json"), (419, 14, 0, 0), "{}", render(&reports));
    assert_eq!(counts("checkpoint.json"), (50, 4, 0, 0), "{}", render(&reports));
    assert_eq!(counts("metrics.json"), (55, 0, 0, 0), "{}", render(&reports));
    assert_eq!(counts("instance-limits.json"), (1391, 0, 0, 0), "{}", render(&reports));
    assert_eq!(counts("env.json"), (265, 5, 0, 21), "{}", render(&reports));
    assert_eq!(counts("datapath.json"), (284, 7, 0, 0), "{}", render(&reports));
}

/// One file as a run of its own.
fn report_of(text: &str) -> Vec<FileReport> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("any-name.json"), text).unwrap();
    run_directories(&[directory.path().to_owned()]).unwrap()
}

/// What is no case is told by its place, its name and what is wrong with it; what nobody knows is named.
#[test]
fn malformed_and_unknown_cases_are_told() {
    let file = serde_json::json!({"cases": [
        {"kind": "tick", "name": "no-limits-but-a-word", "limits": "many", "expected": {}},
        {"name": "no-kind"},
        {"kind": "reconcile_cooldown", "state": {"seconds_since_freed": "long"}},
        {"kind": "a new kind", "name": "new"},
    ]});
    let reports = report_of(&file.to_string());
    assert_eq!(Counts::of(&reports[0].cases), Counts { failed: 3, skipped: 1, ..Counts::default() });
    let text = render(&reports);
    for said in [
        "any-name.json",
        "MALFORMED tick no-limits-but-a-word: invalid type: string \"many\"",
        "MALFORMED (no kind) no-kind: it has no kind",
        "MALFORMED reconcile_cooldown (case 3): seconds_since_freed is no number",
        "a new kind: not applicable: no suite here knows the kind \"a new kind\": new",
    ] {
        assert!(text.contains(said), "{said:?} is not in:\n{text}");
    }
    let error = {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("cut.json"), "{\"cases\": [").unwrap();
        run_directories(&[directory.path().to_owned()]).unwrap_err()
    };
    assert!(format!("{error:#}").contains("cut.json is not JSON"), "{error:#}");
}

/// An expectation that is wrong must be reported as such.
#[test]
fn a_wrong_expectation_fails() {
    let text = std::fs::read_to_string(vectors().join("warm-pool.json")).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = file["cases"].as_array_mut().unwrap();
    cases.retain(|case| case["name"] == "fx-tick-fresh-primary");
    cases[0]["expected"]["actions"][0]["count"] = 2.into();
    let reports = report_of(&file.to_string());
    assert_eq!(Counts::of(&reports[0].cases), Counts { failed: 1, ..Counts::default() });
    let text = render(&reports);
    assert!(
        text.contains("FAILED tick fx-tick-fresh-primary") && text.ends_with("0 passed, 1 failed, 0 skipped\n"),
        "{text}"
    );
}
