//! Runs conformance vectors: files of cases with inputs and expected answers, told apart by their content.
//!
//! A suite is a module with `pub fn run(file: &Value) -> Option<Vec<CaseResult>>`: `None` if the file is not of its
//! kind, otherwise one result per case, none silently left out. Add it to [`SUITES`].

mod checkpoint;
mod cni;
mod datapath;
mod env;
mod instance_limits;
mod metrics;
mod warm_pool;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

/// One suite: looks at a file's content.
pub type Suite = fn(&Value) -> Option<Vec<CaseResult>>;

/// All of them. The first that knows a file runs it.
pub const SUITES: &[Suite] =
    &[warm_pool::run, checkpoint::run, instance_limits::run, datapath::run, env::run, metrics::run];

/// How one case went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed {
        expected: String,
        got: String,
    },
    /// Not applicable, for this reason.
    Skipped(String),
}

/// One case of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseResult {
    /// Cases of one kind are reported together.
    pub kind: String,
    pub name: String,
    pub outcome: Outcome,
}

impl CaseResult {
    /// The outcome of comparing two values that print the same if and only if they are the same.
    #[must_use]
    pub fn compared(kind: &str, name: &str, expected: impl ToString, got: impl ToString) -> Self {
        let (expected, got) = (expected.to_string(), got.to_string());
        let outcome = if expected == got { Outcome::Passed } else { Outcome::Failed { expected, got } };
        Self { kind: kind.to_owned(), name: name.to_owned(), outcome }
    }
}

/// How one file went.
#[derive(Debug)]
pub struct FileReport {
    pub path: PathBuf,
    pub cases: Vec<CaseResult>,
}

/// Cases passed, failed and skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

/// Runs every `*.json` file in the directories, in the order of their names.
///
/// # Errors
/// A directory or file that cannot be read, a file that is not JSON, or a directory without a JSON file.
pub fn run_directories(directories: &[PathBuf]) -> anyhow::Result<Vec<FileReport>> {
    let mut reports = Vec::new();
    for directory in directories {
        let mut paths = Vec::new();
        let entries = std::fs::read_dir(directory).with_context(|| format!("vectors in {}", directory.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("vectors in {}", directory.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                paths.push(path);
            }
        }
        anyhow::ensure!(!paths.is_empty(), "no *.json file in {}: name a directory of vectors", directory.display());
        paths.sort();
        for path in paths {
            let cases = run_file(&path)?;
            reports.push(FileReport { path, cases });
        }
    }
    Ok(reports)
}

/// Runs one file. One that no suite knows is one skipped case.
///
/// # Errors
/// The file cannot be read or is not JSON.
pub fn run_file(path: &Path) -> anyhow::Result<Vec<CaseResult>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("vectors in {}", path.display()))?;
    let file: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    Ok(SUITES.iter().find_map(|suite| suite(&file)).unwrap_or_else(|| {
        let reason = "no suite here knows this kind of file".to_owned();
        vec![CaseResult { kind: "(file)".to_owned(), name: "(all)".to_owned(), outcome: Outcome::Skipped(reason) }]
    }))
}

impl Counts {
    /// Adds up.
    pub fn of<'a>(cases: impl IntoIterator<Item = &'a CaseResult>) -> Self {
        let mut counts = Self::default();
        for case in cases {
            match case.outcome {
                Outcome::Passed => counts.passed += 1,
                Outcome::Failed { .. } => counts.failed += 1,
                Outcome::Skipped(_) => counts.skipped += 1,
            }
        }
        counts
    }
}

/// The report for people: per file and kind the counts, each failure with what was expected, each reason for skipping
/// with how many it concerns; the last line is `N passed, N failed, N skipped`.
#[must_use]
pub fn render(reports: &[FileReport]) -> String {
    let mut text = String::new();
    for report in reports {
        render_file(report, &mut text);
    }
    let total = Counts::of(reports.iter().flat_map(|report| &report.cases));
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(text, "{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    text
}

fn render_file(report: &FileReport, text: &mut String) {
    let mut kinds: BTreeMap<&str, Vec<&CaseResult>> = BTreeMap::new();
    for case in &report.cases {
        kinds.entry(&case.kind).or_default().push(case);
    }
    let _ = writeln!(text, "{}", report.path.display());
    for (kind, cases) in kinds {
        let counts = Counts::of(cases.iter().copied());
        let _ =
            writeln!(text, "  {kind}: {} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for case in cases {
            match &case.outcome {
                Outcome::Passed => {}
                Outcome::Failed { expected, got } => {
                    let _ = writeln!(text, "    FAILED {}\n      expected {expected}\n      got      {got}", case.name);
                }
                Outcome::Skipped(reason) => reasons.entry(reason).or_default().push(&case.name),
            }
        }
        for (reason, names) in reasons {
            let _ = writeln!(text, "    not applicable: {reason}: {}", names.join(", "));
        }
    }
}
