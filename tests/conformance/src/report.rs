//! The report for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::{CaseResult, FileReport, Outcome};

/// How many cases went how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The better ones included.
    pub passed: usize,
    /// Those of the passed that are deliberately better than the reference.
    pub better: usize,
    /// The malformed ones included.
    pub failed: usize,
    pub skipped: usize,
}

impl Counts {
    /// Adds up.
    pub fn of<'a>(cases: impl IntoIterator<Item = &'a CaseResult>) -> Self {
        let mut counts = Self::default();
        for case in cases {
            match case.outcome {
                Outcome::Passed => counts.passed += 1,
                Outcome::Better(_) => {
                    counts.passed += 1;
                    counts.better += 1;
                }
                Outcome::Failed { .. } | Outcome::Malformed(_) => counts.failed += 1,
                Outcome::Skipped(_) => counts.skipped += 1,
            }
        }
        counts
    }
}

/// Per file a table of its kinds, then each failure with what was expected, and each reason for a better answer and for
/// skipping with the cases that it concerns; the last line is `N passed, N failed, N skipped`.
#[must_use]
pub fn render(reports: &[FileReport]) -> String {
    let mut text = String::new();
    for report in reports {
        render_file(report, &mut text);
    }
    let total = Counts::of(reports.iter().flat_map(|report| &report.cases));
    // Writing to a string cannot fail, here and below.
    if total.better > 0 {
        let _ = writeln!(text, "of those passed, {} are deliberately better than the reference", total.better);
    }
    let _ = writeln!(text, "{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    text
}

fn render_file(report: &FileReport, text: &mut String) {
    let mut kinds: BTreeMap<&str, Vec<&CaseResult>> = BTreeMap::new();
    for case in &report.cases {
        kinds.entry(&case.kind).or_default().push(case);
    }
    let width = kinds.keys().map(|kind| kind.len()).max().unwrap_or_default();
    let _ = writeln!(text, "{}", report.path.display());
    let _ = writeln!(text, "  {:width$}  passed  better  failed  skipped", "kind");
    for (kind, cases) in &kinds {
        let Counts { passed, better, failed, skipped } = Counts::of(cases.iter().copied());
        let _ = writeln!(text, "  {kind:width$}  {passed:6}  {better:6}  {failed:6}  {skipped:7}");
    }
    for (kind, cases) in kinds {
        render_kind(kind, &cases, text);
    }
}

fn render_kind(kind: &str, cases: &[&CaseResult], text: &mut String) {
    let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for case in cases {
        match &case.outcome {
            Outcome::Passed => {}
            Outcome::Better(reason) => reasons.entry(("better", reason)).or_default().push(&case.name),
            Outcome::Skipped(reason) => reasons.entry(("not applicable", reason)).or_default().push(&case.name),
            Outcome::Malformed(problem) => {
                let _ = writeln!(text, "  MALFORMED {kind} {}: {problem}", case.name);
            }
            Outcome::Failed { expected, got } => {
                let _ = writeln!(text, "  FAILED {kind} {}\n    expected {expected}\n    got      {got}", case.name);
            }
        }
    }
    for ((what, reason), names) in reasons {
        let _ = writeln!(text, "  {kind}: {what}: {reason}: {}", names.join(", "));
    }
}
