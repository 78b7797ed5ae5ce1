use std::collections::{BTreeMap, BTreeSet};

use reservoir_core::manager::{Activity, Counter};

use super::family::Kind;
use super::*;

/// Name with labels → value, and name → type, of the text.
fn parse(text: &str) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let (mut samples, mut types) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "{name} has two headers");
        } else if !line.is_empty() && !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(samples.insert(name.to_owned(), value.to_owned()), None, "{name} is there twice");
        }
    }
    (samples, types)
}

fn samples(metrics: &Metrics) -> BTreeMap<String, String> {
    parse(&metrics.render()).0
}

#[test]
fn unlabelled_series_are_there_from_the_start_and_labelled_ones_are_not() {
    let (samples, types) = parse(&Metrics::new("v1.2.3").render());
    for f in family::ALL {
        if f.labels.is_empty() && matches!(f.kind, Kind::Counter | Kind::Gauge) {
            let value = samples.get(f.name).unwrap_or_else(|| panic!("{} is missing", f.name));
            assert!(value == "0" || f.name.starts_with("process_"), "{} {value}", f.name);
            assert_eq!(types[f.name], f.kind.word(), "{}", f.name);
        }
    }
    assert_eq!(samples["awscni_connmark_reconcile_total{result=\"success\"}"], "0");
    assert_eq!(samples["awscni_connmark_reconcile_total{result=\"error\"}"], "0");
    assert_eq!(samples["awscni_build_info{version=\"v1.2.3\",goversion=\"rust1.95\"}"], "1");
    assert!(!samples.keys().any(|k| k.starts_with("awscni_del_ip_req_count")), "{samples:?}");
}

#[test]
fn everything_that_can_happen_is_counted_under_its_name_and_type() {
    let metrics = Metrics::new("x");
    metrics.add_request();
    for reason in ["PodDeleted", "SetupNSFailed", "anything else", "x\"y"] {
        metrics.del_request(DelReason::of(reason));
    }
    metrics.no_available_address();
    metrics.eni_force_removed(3);
    metrics.addresses_force_removed(1);
    metrics.error(IpamdError::IncreaseIpPoolAllocEni);
    metrics.pod_eni_error(PodEniError::NodeInit);
    metrics.reconciled(Reconciled::IpConfirmed, 7);
    metrics.utils_error(UtilsError::FreeEniDelete, "InternalError");
    metrics.started(StartFailure::None, false, Duration::from_millis(30));
    metrics.node_initialised(true, Duration::from_millis(20));
    metrics.connmark_backend(Backend::Iptables);
    metrics.connmark_reconciled(Outcome::Success);
    metrics.decision("built_in", "planned", Duration::from_micros(60), 50_000);
    metrics.policy_failure("trap");
    metrics.policy_refused("I4");
    metrics.policy_load("loaded");
    metrics.policy_load("refused");
    metrics.policy_taken_over(true);
    metrics.shadow_answer(&["targets", "release"]);
    metrics.shadow_load("refused");
    metrics.add_waited(Waited::Served, Duration::from_secs(2));
    metrics.checkpoint_written(Outcome::Error, Duration::from_micros(70));
    let running = metrics.action(Action::NodeInit);
    metrics.set_pool_source(|| PoolFigures {
        enis: 2,
        per_eni: vec![("eni-1".into(), 4), ("eni-2".into(), 0)],
        per_cidr: vec![("10.0.0.7/32".into(), 1)],
        ..PoolFigures::default()
    });

    let (samples, types) = parse(&metrics.render());
    for (series, value) in [
        ("awscni_add_ip_req_count", "1"),
        ("awscni_del_ip_req_count{reason=\"PodDeleted\"}", "1"),
        ("awscni_del_ip_req_count{reason=\"SetupNSFailed\"}", "1"),
        ("awscni_del_ip_req_count{reason=\"other\"}", "2"),
        ("awscni_no_available_ip_addresses", "1"),
        ("awscni_force_removed_enis", "1"),
        ("awscni_force_removed_ips", "4"),
        ("awscni_ipamd_error_count{fn=\"increaseIPPoolAllocENI\"}", "1"),
        ("awscni_pod_eni_error_count{fn=\"nodeInit\"}", "1"),
        ("awscni_reconcile_count{fn=\"eniDataStorePoolReconcileAdd\"}", "7"),
        ("awscni_aws_utils_error_count{fn=\"FreeENIDeleteErr\",error=\"InternalError\"}", "1"),
        (
            "awscni_ipamd_startup_duration_seconds_bucket{success=\"true\",with_api_server=\"false\",failure_reason=\"\",le=\"0.025\"}",
            "0",
        ),
        (
            "awscni_ipamd_startup_duration_seconds_bucket{success=\"true\",with_api_server=\"false\",failure_reason=\"\",le=\"0.05\"}",
            "1",
        ),
        ("awscni_ipamd_node_initialization_duration_seconds_count{success=\"true\"}", "1"),
        ("awscni_connmark_backend{backend=\"iptables\"}", "1"),
        ("awscni_connmark_reconcile_total{result=\"success\"}", "1"),
        ("reservoir_decisions_total{by=\"built_in\",outcome=\"planned\"}", "1"),
        ("reservoir_decision_fuel_sum{by=\"built_in\"}", "50000"),
        ("reservoir_policy_failures_total{reason=\"trap\"}", "1"),
        ("reservoir_policy_refused_actions_total{invariant=\"I4\"}", "1"),
        ("reservoir_policy_taken_over", "1"),
        ("reservoir_policy_loads_total{result=\"loaded\"}", "1"),
        ("reservoir_policy_refused", "1"),
        ("reservoir_shadow_answers_total{outcome=\"different\"}", "1"),
        ("reservoir_shadow_differences_total{field=\"release\"}", "1"),
        ("reservoir_shadow_loads_total{result=\"refused\"}", "1"),
        ("reservoir_add_wait_seconds_sum{result=\"served\"}", "2"),
        ("reservoir_checkpoint_writes_total{result=\"error\"}", "1"),
        ("reservoir_checkpoint_write_seconds_count", "1"),
        ("awscni_ipamd_action_inprogress{fn=\"nodeInit\"}", "1"),
        ("awscni_eni_allocated", "2"),
        ("awscni_assigned_ip_per_eni{eni=\"eni-1\"}", "4"),
        ("awscni_assigned_ip_per_eni{eni=\"eni-2\"}", "0"),
        ("awscni_assigned_ip_per_cidr{cidr=\"10.0.0.7/32\"}", "1"),
    ] {
        assert_eq!(samples.get(series).map(String::as_str), Some(value), "{series}");
    }
    for (name, kind) in types {
        assert_eq!(family::find(&name).map(|f| f.kind.word()), Some(kind.as_str()), "{name}");
    }
    drop(running);
    assert_eq!(samples_of_action(&metrics), "0");
}

fn samples_of_action(metrics: &Metrics) -> String {
    samples(metrics)["awscni_ipamd_action_inprogress{fn=\"nodeInit\"}"].clone()
}

#[test]
fn crates_below_count_through_the_facade() {
    let metrics = Metrics::new("x");
    metrics::with_local_recorder(&*metrics.0.recorder, || {
        for ms in [10.0, 20.0, 900.0] {
            metrics::histogram!("awscni_aws_api_latency_ms", "api" => "CreateTags", "error" => "false", "status" => "200")
                .record(ms);
        }
        metrics::counter!("awscni_ec2api_req_count", "fn" => "CreateTags").increment(3);
        metrics::histogram!("somebody_else_s").record(1.0);
    });
    let samples = samples(&metrics);
    let series = |suffix: &str, quantile: &str| {
        samples[&format!(
            "awscni_aws_api_latency_ms{suffix}{{api=\"CreateTags\",error=\"false\",status=\"200\"{quantile}}}"
        )]
            .clone()
    };
    assert_eq!(series("", ",quantile=\"0.5\""), "20");
    assert_eq!(series("", ",quantile=\"0.99\""), "900");
    assert_eq!((series("_sum", ""), series("_count", "")), ("930".into(), "3".into()));
    assert_eq!(samples["awscni_ec2api_req_count{fn=\"CreateTags\"}"], "3");
    assert!(!samples.keys().any(|k| k.starts_with("somebody")));
}

#[test]
fn a_family_does_not_grow_without_bound() {
    let metrics = Metrics::new("x");
    for i in 0..300 {
        metrics.utils_error(UtilsError::AllocEniDelete, &format!("Code{i}"));
    }
    let samples = samples(&metrics);
    let kept = samples.keys().filter(|k| k.starts_with("awscni_aws_utils_error_count")).count();
    assert_eq!((kept, samples["reservoir_metric_series_dropped_total"].as_str()), (256, "44"));
}

/// Values of a label that are on the page with something counted.
fn moved(metrics: &Metrics, family: &Family) -> BTreeSet<String> {
    let prefix = format!("{}{{{}=\"", family.name, family.labels[0]);
    let at = samples(metrics).into_iter().filter(|(_, value)| value != "0");
    at.filter_map(|(series, _)| Some(series.strip_prefix(&prefix)?.split('"').next()?.to_owned())).collect()
}

/// Values that can move.
fn movable<L: Label>() -> BTreeSet<String> {
    L::ALL.iter().filter(|l| !l.about().starts_with(NEVER)).map(|l| l.text().to_owned()).collect()
}

#[test]
fn whatever_the_pool_counts_has_its_value_and_every_value_that_can_move_is_counted() {
    let metrics = Metrics::new("x");
    for counter in Counter::each() {
        metrics.count(&counter);
    }
    assert_eq!(moved(&metrics, &family::IPAMD_ERRORS), movable::<IpamdError>());
    assert_eq!(moved(&metrics, &family::POD_ENI_ERRORS), movable::<PodEniError>());
    assert_eq!(moved(&metrics, &family::UTILS_ERRORS), movable::<UtilsError>());
    assert_eq!(IpamdError::ALL.len(), movable::<IpamdError>().len(), "all of spec 02 §9.3 happen here");
    let samples = samples(&metrics);
    assert_eq!(samples["awscni_aws_utils_error_count{fn=\"FreeENIDeleteErr\",error=\"InternalError\"}"], "1");
    let waited = "awscni_aws_api_latency_ms_sum{api=\"waitForENIAndIPsAttached\",error=\"false\",status=\"200\"}";
    assert_eq!(samples[waited], "1000");
}

#[test]
fn what_the_pool_is_at_shows_at_each_scrape() {
    let metrics = Metrics::new("x");
    let at = Arc::new(std::sync::Mutex::new(Activity { increasing: true, ..Activity::default() }));
    let source = at.clone();
    metrics.set_pool_source(move || PoolFigures { activity: *source.lock().unwrap(), ..PoolFigures::default() });
    assert_eq!(moved(&metrics, &family::ACTIONS), BTreeSet::from(["increaseDatastorePool".to_owned()]));
    *at.lock().unwrap() = Activity { decreasing: true, reconciling: true, increasing: false };
    let both = BTreeSet::from(["decreaseDatastorePool".to_owned(), "nodeIPPoolReconcile".to_owned()]);
    assert_eq!(moved(&metrics, &family::ACTIONS), both);
}

#[test]
fn the_page_of_all_metrics_is_what_the_tables_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, docs::page()).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap();
    assert!(found == docs::page(), "docs/metrics.md is not what the tables say; run UPDATE_DOCS=1 cargo test");
}
