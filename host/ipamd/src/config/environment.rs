//! The environment as a value, and what in it is spelt wrongly.

use std::collections::BTreeMap;

use super::report::Report;
use super::table::VARIABLES;

/// Variables with their values. Tests make their own; only `main` takes the process's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The environment of this process. Bytes that are not UTF-8 become U+FFFD, so that the value is refused by its
    /// parser and not by us.
    #[must_use]
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
                .collect(),
        )
    }

    /// The value, the empty one too; None = unset.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Warns of every name that nobody reads and that looks like one of ours: all of `RESERVOIR_*`, and near misses of
    /// the others (`ENABLE_IPV4`, `WARM_IP_TARGETS`).
    pub(super) fn report_unknown(&self, report: &mut Report) {
        for (name, value) in &self.0 {
            if VARIABLES.iter().any(|v| v.name == name) {
                continue;
            }
            let near = nearest(name);
            if let Some(near) = near {
                report.warn(name, Some(value), format!("unknown variable, ignored; {near} exists"));
            } else if name.starts_with("RESERVOIR_") {
                let known: Vec<_> = VARIABLES.iter().map(|v| v.name).filter(|n| n.starts_with("RESERVOIR_")).collect();
                report.warn(name, Some(value), format!("unknown variable, ignored; there are {}", known.join(", ")));
            }
        }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

/// The known name that differs from `name` in case only, or by at most two edits. Names of other programs are short
/// or far away; a long one this near is a slip.
fn nearest(name: &str) -> Option<&'static str> {
    const SHORTEST: usize = 8;
    if name.len() < SHORTEST {
        return None;
    }
    let upper = name.to_ascii_uppercase();
    VARIABLES
        .iter()
        .map(|v| v.name)
        .filter(|known| known.len() >= SHORTEST && known.len().abs_diff(name.len()) <= 2)
        .map(|known| (edits(&upper, &known.to_ascii_uppercase()), known))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, known)| known)
}

/// Levenshtein distance in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(name: &str) -> String {
        let mut report = Report::default();
        Environment::from_iter([(name, "x")]).report_unknown(&mut report);
        report.to_string()
    }

    #[test]
    fn a_slip_is_told_with_the_right_name() {
        for (slip, right) in [
            ("ENABLE_IPV4", "ENABLE_IPv4"),
            ("WARM_IP_TARGETS", "WARM_IP_TARGET"),
            ("RESERVOIR_POLICYDIR", "RESERVOIR_POLICY_DIR"),
            ("AWS_VPC_K8S_CNI_EXTERNAL_SNAT", "AWS_VPC_K8S_CNI_EXTERNALSNAT"),
        ] {
            assert_eq!(unknown(slip), format!("warning: {slip}=\"x\": unknown variable, ignored; {right} exists\n"));
        }
    }

    #[test]
    fn any_unknown_name_of_ours_is_told_and_no_name_of_others() {
        assert!(unknown("RESERVOIR_COLOUR").contains("there are RESERVOIR_POLICY_DIR, "));
        for other in [
            "PATH",
            "HOME",
            "HOSTNAME",
            "KUBERNETES_SERVICE_HOST",
            "AWS_DEFAULT_REGION",
            "AWS_REGION",
            "CNI_PATH",
            "AWS_ENDPOINT_URL",
        ] {
            assert_eq!(unknown(other), "", "{other}");
        }
    }

    #[test]
    fn counts_edits() {
        for (a, b, n) in [("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("flaw", "lawn", 2)] {
            assert_eq!(edits(a, b), n, "{a} {b}");
        }
    }
}
