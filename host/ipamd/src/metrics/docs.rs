//! `docs/metrics.md`, made of the families.

use std::fmt::Write as _;

use reservoir_core::validate::INVARIANTS;

use super::family::{self, Family, Kind};
use super::label::{
    Action, Backend, CheckCause, DelReason, HostRepair, IpamdError, Label, Outcome, PodEniError, Reconciled,
    StartFailure, UtilsError, Waited,
};

/// The whole page.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
<!-- Made of host/ipamd/src/metrics. After a change there: UPDATE_DOCS=1 cargo test --workspace --lib metrics -->\n\n\
Prometheus text on port 61678, path `/metrics` (`RESERVOIR_METRICS_ADDRESS`, `DISABLE_METRICS`). Names that begin with\n\
`awscni_` are those of amazon-vpc-cni-k8s. A series without labels is there from the start, one with labels when it first\n\
happens, unless its row says otherwise; no family that counts has more than 256.\n",
    );
    for (title, prefix) in
        [("Reservoir", "reservoir_"), ("As amazon-vpc-cni-k8s has them", "awscni_"), ("The process", "process_")]
    {
        // Writing to a String cannot fail.
        let _ = write!(page, "\n## {title}\n\n| Name | Type | Labels | Meaning |\n|---|---|---|---|\n");
        for f in family::ALL.iter().filter(|f| f.name.starts_with(prefix)) {
            let _ = writeln!(page, "| `{}` | {} | {} | {} |", f.name, f.kind.word(), labels(f), f.help);
        }
    }
    page.push_str("\n## Buckets\n\n| Name | Upper bounds |\n|---|---|\n");
    for f in family::ALL {
        match f.kind {
            Kind::Histogram(bounds) => {
                let bounds: Vec<_> = bounds.iter().map(ToString::to_string).collect();
                let _ = writeln!(page, "| `{}` | {} |", f.name, bounds.join(" "));
            }
            Kind::Summary => {
                let _ = writeln!(page, "| `{}` | quantiles 0.5, 0.9, 0.99 of the last ten minutes |", f.name);
            }
            Kind::Counter | Kind::Gauge => {}
        }
    }
    places::<IpamdError>(&mut page, &family::IPAMD_ERRORS);
    places::<PodEniError>(&mut page, &family::POD_ENI_ERRORS);
    places::<UtilsError>(&mut page, &family::UTILS_ERRORS);
    places::<Action>(&mut page, &family::ACTIONS);
    places::<Reconciled>(&mut page, &family::RECONCILED);
    page.push_str(
        "\n## What the host does not do\n\n\
The label `invariant` of `reservoir_policy_refused_actions_total`, and how the reason of what was dropped begins in\n\
`/v1/decisions`. Only I1 to I8, I11, I12 and I15 are counted. What I9 keeps out of a ranking is passed over in silence; a ranking\n\
that names no subnet of the node is a failed call (`nonsense`). The others no answer can break.\n\n\
| | whatever the policy answers |\n|---|---|\n",
    );
    for (name, rule) in INVARIANTS {
        let _ = writeln!(page, "| {name} | {rule} |");
    }
    page.push_str(ALERTS);
    page
}

const ALERTS: &str = r#"
## Three alerts to begin with

```yaml
groups:
- name: reservoir
  rules:
  - alert: PodsGetNoAddress
    # The counter moves with each ADD that finds none, whether it waits or is refused at once; kubelet tries again soon.
    expr: increase(awscni_no_available_ip_addresses[2m]) > 0 or min_over_time(reservoir_waiting_pods[1m]) > 0
    for: 5m
    annotations: {summary: "pods wait for addresses or get none; docs/troubleshooting.md, A pod is stuck"}
  - alert: PolicyNotInForce
    expr: reservoir_policy_taken_over == 1 or reservoir_policy_refused == 1
    annotations: {summary: "the policy was refused, or the built-in one took over; docs/troubleshooting.md, The policy is not in force"}
  - alert: CheckpointNotWritten
    expr: increase(reservoir_checkpoint_writes_total{result="error"}[5m]) > 0
    annotations: {summary: "the state file cannot be written: every ADD fails until it can be"}
```
"#;

/// What each place that counts is about.
fn places<L: Label>(page: &mut String, family: &Family) {
    let _ = write!(page, "\n## `{}`, by `{}`\n\n| Value | Moves when |\n|---|---|\n", family.name, family.labels[0]);
    for label in L::ALL {
        let _ = writeln!(page, "| `{}` | {} |", label.text(), label.about());
    }
}

/// A cell: each label with its values.
fn labels(f: &Family) -> String {
    let one = |label: &&str| {
        let values = values(f, label);
        if values.is_empty() { format!("`{label}`") } else { format!("`{label}`: {values}") }
    };
    f.labels.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn of<L: Label>() -> String {
    words(&L::ALL.iter().map(|l| l.text()).collect::<Vec<_>>())
}

fn words(all: &[&str]) -> String {
    let quoted: Vec<_> = all.iter().map(|w| if w.is_empty() { "empty".to_owned() } else { format!("`{w}`") }).collect();
    quoted.join(", ")
}

/// The values of one label, or what they are.
fn values(f: &Family, label: &str) -> String {
    match (f.name, label) {
        ("awscni_build_info", "version") => "the daemon's version".to_owned(),
        ("awscni_build_info", "goversion") => "the compiler's".to_owned(),
        ("awscni_assigned_ip_per_cidr", _) => "a CIDR of which pods hold IPs".to_owned(),
        ("awscni_assigned_ip_per_eni", _) => "an interface".to_owned(),
        ("awscni_del_ip_req_count", _) => of::<DelReason>(),
        (
            "awscni_ipamd_error_count"
            | "awscni_pod_eni_error_count"
            | "awscni_ipamd_action_inprogress"
            | "awscni_reconcile_count"
            | "awscni_aws_utils_error_count",
            "fn",
        ) => "see below".to_owned(),
        ("awscni_ipamd_startup_duration_seconds", "failure_reason") => of::<StartFailure>(),
        ("awscni_connmark_backend", _) => of::<Backend>(),
        ("awscni_connmark_reconcile_total" | "reservoir_checkpoint_writes_total", _) => {
            format!("{}, both from the start", of::<Outcome>())
        }
        ("reservoir_host_repairs_total", "kind") => of::<HostRepair>(),
        ("reservoir_host_repairs_total", "result") => format!("{}, the first from the start", of::<Outcome>()),
        ("reservoir_host_checks_total", _) => of::<CheckCause>(),
        ("reservoir_add_wait_seconds", _) => of::<Waited>(),
        ("awscni_aws_api_latency_ms", "status") => "an HTTP status, or EC2's error code".to_owned(),
        (_, "success" | "with_api_server") | ("awscni_aws_api_latency_ms", "error") => words(&["true", "false"]),
        (_, "error") => "EC2's error code".to_owned(),
        ("awscni_aws_api_latency_ms" | "awscni_aws_api_error_count", "api") => {
            "an operation of EC2, or of the metadata service".to_owned()
        }
        ("awscni_ec2api_req_count" | "awscni_ec2api_error_count", _) => "an operation of EC2".to_owned(),
        ("reservoir_decisions_total", "outcome") => {
            format!("{} (`nothing`: no action is called for)", words(&["planned", "nothing", "failed"]))
        }
        (_, "by") => format!("whose plan it is: {}", words(&["custom", "built_in", "nobody"])),
        ("reservoir_policy_failures_total", _) => {
            words(&["error", "trap", "timeout", "out_of_fuel", "out_of_memory", "nonsense"])
        }
        ("reservoir_policy_refused_actions_total", _) => "`I1` to `I15`, see below; `other`".to_owned(),
        ("reservoir_policy_loads_total" | "reservoir_shadow_loads_total", _) => words(&["loaded", "refused"]),
        ("reservoir_shadow_answers_total", _) => words(&["same", "different", "failed", "skipped"]),
        ("reservoir_shadow_differences_total", _) => {
            words(&["targets", "grow", "release", "remove", "drain", "subnets", "failed"])
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_of_the_metrics_page_says_what_it_holds() {
        for f in family::ALL {
            for label in f.labels {
                assert!(!values(f, label).is_empty(), "{} {label}", f.name);
            }
        }
    }

    #[test]
    fn every_family_of_the_metrics_page_is_there_once() {
        let page = page();
        for f in family::ALL {
            assert_eq!(page.matches(&format!("\n| `{}` | {} | ", f.name, f.kind.word())).count(), 1, "{}", f.name);
        }
    }
}
