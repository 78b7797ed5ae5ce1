//! Runs conformance vectors: files of cases with inputs and expected answers, told apart by their content.
//!
//! A suite is a module with `pub fn run(file: &Value) -> Option<Vec<CaseResult>>`: `None` if the file is not of its
//! kind, otherwise one result per case, none silently left out. Add it to [`SUITES`]. A case is known by its kind and by
//! what it holds, never by its name.

mod checkpoint;
mod cni;
mod datapath;
mod env;
mod instance_limits;
mod metrics;
mod report;
mod warm_pool;
mod world;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
pub use report::{Counts, render};
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
    /// Ours is another answer than the reference's, deliberately: why, and it is the answer that our documents promise.
    Better(String),
    Failed {
        expected: String,
        got: String,
    },
    /// The case itself cannot be understood: what is wrong with it.
    Malformed(String),
    /// Not applicable, for this reason.
    Skipped(String),
}

impl Outcome {
    /// Neither failed nor malformed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !matches!(self, Self::Failed { .. } | Self::Malformed(_))
    }

    /// Compares two values that print the same if and only if they are the same.
    #[must_use]
    pub fn of(expected: impl ToString, got: impl ToString) -> Self {
        let (expected, got) = (expected.to_string(), got.to_string());
        if expected == got { Self::Passed } else { Self::Failed { expected, got } }
    }

    /// The same where ours is the better answer, for `reason`.
    #[must_use]
    pub fn better(reason: &str, documented: impl ToString, got: impl ToString) -> Self {
        match Self::of(documented, got) {
            Self::Passed => Self::Better(reason.to_owned()),
            other => other,
        }
    }
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
    /// A case and how it went.
    #[must_use]
    pub fn new(kind: &str, name: &str, outcome: Outcome) -> Self {
        Self { kind: kind.to_owned(), name: name.to_owned(), outcome }
    }

    /// The outcome of comparing two values that print the same if and only if they are the same.
    #[must_use]
    pub fn compared(kind: &str, name: &str, expected: impl ToString, got: impl ToString) -> Self {
        Self::new(kind, name, Outcome::of(expected, got))
    }
}

/// How one file went.
#[derive(Debug)]
pub struct FileReport {
    pub path: PathBuf,
    pub cases: Vec<CaseResult>,
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
        let keys: Vec<&str> =
            file.as_object().into_iter().flat_map(|fields| fields.keys()).map(String::as_str).collect();
        let reason = format!("no suite here knows a file with {}", keys.join(", "));
        vec![CaseResult::new("(file)", "(all)", Outcome::Skipped(reason))]
    }))
}
