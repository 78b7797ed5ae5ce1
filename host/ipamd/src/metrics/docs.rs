//! `docs/metrics.md`, made of the tables.

use std::fmt::Write as _;

use super::family::{self, Family};
use super::{Action, IpamdError, Label, PodEniError, Reconciled, UtilsError};

/// The whole page.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
<!-- Made of host/ipamd/src/metrics. After a change there: UPDATE_DOCS=1 cargo test --workspace --lib metrics -->\n\n\
`GET :61678/metrics` (`DISABLE_METRICS`, `RESERVOIR_METRICS_ADDRESS`), the Prometheus text format, from the first second of\n\
the daemon on. `awscni_*` has the names, types and labels of the reference, `reservoir_*` is ours. Series without labels\n\
are there from the start, those with labels once what they count has happened.\n",
    );
    for (prefix, title) in [("awscni_", "Of the reference"), ("reservoir_", "Ours"), ("process_", "Of the process")] {
        // Writing to a String cannot fail.
        let _ = write!(page, "\n## {title}\n\n| Name | Type | Labels | What |\n|---|---|---|---|\n");
        for Family { name, kind, labels, help } in family::ALL.iter().filter(|f| f.name.starts_with(prefix)) {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            let _ = writeln!(page, "| `{name}` | {} | {} | {help} |", kind.word(), labels.join(", "));
        }
    }
    values::<IpamdError>(&mut page, &family::IPAMD_ERRORS);
    values::<PodEniError>(&mut page, &family::POD_ENI_ERRORS);
    values::<UtilsError>(&mut page, &family::UTILS_ERRORS);
    values::<Action>(&mut page, &family::ACTIONS);
    values::<Reconciled>(&mut page, &family::RECONCILED);
    page
}

fn values<L: Label>(page: &mut String, family: &Family) {
    let _ = write!(page, "\n## `{}`, by `{}`\n\n| Value | Moves when |\n|---|---|\n", family.name, family.labels[0]);
    for label in L::ALL {
        let _ = writeln!(page, "| `{}` | {} |", label.text(), label.about());
    }
}
