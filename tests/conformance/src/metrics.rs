//! `metrics.json`: every family of the reference with its type, labels and closed sets of label values.

use reservoir_core::cloud::{ATTACHED_LATENCY, CreateInterface, Request};
use reservoir_core::manager::Counter;
use reservoir_core::policy::Unit;
use reservoir_ipamd::metrics::family::{self, Family, Kind};
use reservoir_ipamd::metrics::{
    Action, Backend, DelReason, IpamdError, Label, Metrics, NEVER, Outcome, PodEniError, Reconciled, StartFailure,
    UtilsError,
};
use serde_json::{Value, json};

use crate::CaseResult;

/// Known by its content: families and the default buckets.
pub(crate) fn run(file: &Value) -> Option<Vec<CaseResult>> {
    let buckets = file.get("default_histogram_buckets")?.as_array()?;
    let families = file.get("metrics")?.as_array()?;
    let page = Metrics::new("v0").render();
    let moved = everything_counted();
    let mut results = Vec::new();
    for expected in families {
        let name = expected["name"].as_str().unwrap_or("(unnamed)");
        results.push(CaseResult::compared(
            "family",
            name,
            shape(expected),
            family::find(name).map_or(Value::Null, ours),
        ));
        if expected["buckets"] == "default" {
            let got = family::find(name).map_or(Value::Null, |f| match f.kind {
                Kind::Histogram(bounds) => json!(bounds),
                _ => Value::Null,
            });
            results.push(CaseResult::compared(
                "buckets",
                name,
                numbers(buckets),
                numbers(got.as_array().unwrap_or(&vec![])),
            ));
        }
        let unlabelled = expected["labels"].as_array().is_some_and(Vec::is_empty);
        if unlabelled && ["counter", "gauge"].contains(&expected["type"].as_str().unwrap_or_default()) {
            results.push(CaseResult::compared("zero_from_the_start", name, "0", sample(&page, name)));
        }
        for (label, values) in expected["label_values"].as_object().into_iter().flatten() {
            if let (Some(values), Some(got)) = (values.as_array(), label_values(name, label)) {
                let mut values: Vec<_> = values.iter().filter_map(Value::as_str).collect();
                results.extend(movement(&moved, name, label, &values));
                let mut got: Vec<_> = got.into_iter().filter(|v| values.contains(v)).collect();
                values.sort_unstable();
                got.sort_unstable();
                results.push(CaseResult::compared(
                    "label_values",
                    &format!("{name}{{{label}}}"),
                    json!(values),
                    json!(got),
                ));
            }
        }
    }
    for series in ["success", "error"].map(|r| format!("awscni_connmark_reconcile_total{{result=\"{r}\"}}")) {
        results.push(CaseResult::compared("zero_from_the_start", &series, "0", sample(&page, &series)));
    }
    Some(results)
}

fn shape(expected: &Value) -> Value {
    json!({"type": expected["type"], "labels": expected["labels"]})
}

fn ours(family: &Family) -> Value {
    json!({"type": family.kind.word(), "labels": family.labels})
}

fn numbers(values: &[Value]) -> String {
    format!("{:?}", values.iter().map(Value::as_f64).collect::<Vec<_>>())
}

fn sample<'a>(page: &'a str, series: &str) -> &'a str {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).unwrap_or("absent")
}

/// The page of a daemon whose pool has counted everything that it can count.
fn everything_counted() -> String {
    let metrics = Metrics::new("v0");
    for counter in Counter::each() {
        metrics.count(&counter);
    }
    metrics.render()
}

/// Values of the pool's failures: each is counted when what it stands for happens, or documented as one that cannot.
fn movement(page: &str, name: &str, label: &str, values: &[&str]) -> Option<CaseResult> {
    let never = match name {
        "awscni_ipamd_error_count" => never::<IpamdError>(),
        "awscni_pod_eni_error_count" => never::<PodEniError>(),
        "awscni_aws_utils_error_count" if label == "fn" => never::<UtilsError>(),
        _ => return None,
    };
    let counted = |value: &&str| page.lines().any(|line| line.starts_with(&format!("{name}{{{label}=\"{value}\"")));
    let still: Vec<_> = values.iter().copied().filter(|v| !counted(v) && !never.contains(v)).collect();
    Some(CaseResult::compared("moves", &format!("{name}{{{label}}}"), json!([]), json!(still)))
}

/// Values that `docs/metrics.md` says cannot happen, and why.
fn never<L: Label>() -> Vec<&'static str> {
    L::ALL.iter().filter(|l| l.about().starts_with(NEVER)).map(|l| l.text()).collect()
}

/// One of each call, for the labels under which they are timed.
fn calls() -> Vec<Request> {
    let text = String::new;
    let create = CreateInterface {
        subnet: text(),
        description: text(),
        security_groups: vec![],
        tags: vec![],
        unit: Unit::Ip,
        count: 0,
        ipv6_addresses: 0,
        connection_tracking: None,
        client_token: text(),
    };
    vec![
        Request::AttachedInterfaces,
        Request::DescribeNetworkInterfaces { ids: vec![] },
        Request::DescribeInstance { instance: text() },
        Request::DescribeSubnets { vpc: text(), availability_zone: text() },
        Request::CreateNetworkInterface(create),
        Request::AttachNetworkInterface { eni: text(), instance: text(), device_index: 0, card: 0 },
        Request::SetSecurityGroups { eni: text(), groups: vec![] },
        Request::DetachNetworkInterface { attachment: text() },
        Request::DeleteNetworkInterface { eni: text() },
        Request::AssignPrivateIpAddresses { eni: text(), unit: Unit::Ip, count: 0 },
        Request::UnassignPrivateIpAddresses { eni: text(), addresses: vec![], prefixes: vec![] },
        Request::AssignIpv6Prefix { eni: text() },
        Request::UnassignIpv6Prefixes { eni: text(), prefixes: vec![] },
        Request::CreateTags { resource: text(), tags: vec![] },
    ]
}

/// Our closed set for a label. AWS error codes and the keys of IMDS are the cloud crate's; they are no set here.
fn label_values(family: &str, label: &str) -> Option<Vec<&'static str>> {
    fn all<L: Label>() -> Vec<&'static str> {
        L::ALL.iter().map(|l| l.text()).collect()
    }
    Some(match (family, label) {
        ("awscni_aws_api_latency_ms", "api") => {
            calls().iter().map(Request::latency_label).chain([ATTACHED_LATENCY]).collect()
        }
        ("awscni_ec2api_req_count", "fn") => {
            let instance_type = Request::DescribeInstanceType { instance_type: String::new() };
            calls().iter().chain([&instance_type]).map(Request::api).collect()
        }
        ("awscni_del_ip_req_count", "reason") => all::<DelReason>(),
        ("awscni_ipamd_error_count", "fn") => all::<IpamdError>(),
        ("awscni_pod_eni_error_count", "fn") => all::<PodEniError>(),
        ("awscni_ipamd_action_inprogress", "fn") => all::<Action>(),
        ("awscni_reconcile_count", "fn") => all::<Reconciled>(),
        ("awscni_aws_utils_error_count", "fn") => all::<UtilsError>(),
        ("awscni_ipamd_startup_duration_seconds", "failure_reason") => all::<StartFailure>(),
        ("awscni_connmark_backend", "backend") => all::<Backend>(),
        ("awscni_connmark_reconcile_total", "result") => all::<Outcome>(),
        _ => return None,
    })
}
