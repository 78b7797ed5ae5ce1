//! The real client against the API server in memory: over HTTP on loopback where the connection matters, in process
//! with a clock that jumps where time does.

use std::time::Duration;

use reservoir_core::kube::ENI_CONFIG_KEY;
use serde_json::{Value, json};

use super::probe::{Need, come_back, reach};
use super::testing::{self, CNI_NODES, ENI_CONFIGS, Failure, NODES, Objects, Server};
use super::*;

fn config() -> KubeConfig {
    KubeConfig {
        program: "./aws-k8s-agent".into(),
        version: "v1.23.1".into(),
        node_name: "n1".into(),
        pod_name: "aws-node-x".into(),
        ..KubeConfig::default()
    }
}

/// A server on loopback and the client of a kubeconfig that leads to it.
async fn over_http(objects: &Objects) -> (Server, Cluster, tempfile::TempDir) {
    let server = Server::start(objects.clone()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    server.write_kubeconfig(&path).unwrap();
    let config = KubeConfig { kubeconfig: path.display().to_string(), ..config() };
    let cluster = Cluster::connect(&config).await.unwrap();
    (server, cluster, dir)
}

fn status(matching: &str, code: u16, times: u32) -> Failure {
    Failure::Status { matching: matching.into(), code, times }
}

fn silence(matching: &str) -> Failure {
    Failure::Silence { matching: matching.into() }
}

// ---- who we are ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_plain_http_kubeconfig_works_and_the_user_agent_is_the_reference_s() {
    let objects = Objects::new();
    let (_server, cluster, _dir) = over_http(&objects).await;
    cluster.version().await.unwrap();
    let seen = objects.seen();
    assert_eq!(seen[0].path, "/version");
    assert_eq!(seen[0].user_agent, "./aws-k8s-agent-v1.23.1");
    assert_eq!(seen[0].authorization, "Bearer testing");
}

#[tokio::test]
async fn cluster_endpoint_replaces_the_server_and_the_service_account_s_token_goes_with_it() {
    let objects = Objects::new();
    let server = Server::start(objects.clone()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "of-the-pod").unwrap();
    // Nothing listens at the service's address.
    let config = KubeConfig {
        service: Some(("127.0.0.1".into(), "1".into())),
        service_account: dir.path().to_owned(),
        endpoint: Some(server.url()),
        ..config()
    };
    Cluster::connect(&config).await.unwrap().version().await.unwrap();
    assert_eq!(objects.seen()[0].authorization, "Bearer of-the-pod");
    // The same outside of a cluster's environment.
    let config = KubeConfig { service: None, ..config };
    Cluster::connect(&config).await.unwrap().version().await.unwrap();
    let config =
        KubeConfig { service: Some(("127.0.0.1".into(), "1".into())), endpoint: Some(String::new()), ..config };
    let error = Cluster::connect(&config).await.unwrap().version().await.unwrap_err();
    assert!(matches!(error, KubeError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_told_with_its_origin() {
    let missing = KubeConfig { kubeconfig: "/does/not/exist".into(), ..config() };
    let error = Cluster::connect(&missing).await.unwrap_err();
    assert!(error.to_string().contains("/does/not/exist"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "t").unwrap();
    let odd = KubeConfig { endpoint: Some("not a url".into()), service_account: dir.path().to_owned(), ..config() };
    let error = Cluster::connect(&odd).await.unwrap_err();
    assert!(error.to_string().starts_with("CLUSTER_ENDPOINT=\"not a url\" is not the URL"), "{error}");
}

// ---- the node ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_node_is_watched_alone_and_its_changes_arrive() {
    let objects = Objects::new();
    objects.put_node("n1", 58);
    objects.put_node("n2", 17);
    let (_server, cluster, _dir) = over_http(&objects).await;
    let node = cluster.node().await.unwrap();
    assert_eq!((node.max_pods, node.unschedulable), (Some(58), false));
    objects.change(
        NODES,
        "n1",
        &json!({"metadata": {"labels": {"b": "2", "a": "1"}, "annotations": {ENI_CONFIG_KEY: "zone-a", "other": "x"}},
            "spec": {"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}),
    );
    let changed = cluster.node_other_than(Some(&node)).await;
    assert_eq!(changed.labels, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    assert_eq!(changed.annotations, [(ENI_CONFIG_KEY.to_owned(), "zone-a".to_owned())], "others are left out");
    assert!(changed.unschedulable);
    assert_eq!(cluster.node().await.unwrap(), changed);
    assert_eq!(objects.count("GET /api/v1/nodes?"), objects.count("fieldSelector=metadata.name%3Dn1"));
    assert_eq!(objects.count("GET /api/v1/nodes/"), 0, "reads are of the watched copy");
}

#[tokio::test]
async fn capacity_and_taint_are_read_exactly() {
    // Spec 01 §1.6, §3.2; W36: no capacity is not a capacity of 0.
    for (node, max_pods, unschedulable) in [
        (json!({}), None, false),
        (json!({"status": {"capacity": {"cpu": "4"}}}), None, false),
        (json!({"status": {"capacity": {"pods": "many"}}}), None, false),
        (json!({"status": {"capacity": {"pods": 29}}}), Some(29), false),
        (json!({"status": {"capacity": {"pods": "0"}}}), Some(0), false),
        (json!({"spec": {"unschedulable": true}}), None, false),
        (
            json!({"spec": {"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoExecute"}]}}),
            None,
            false,
        ),
        (
            json!({"spec": {"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule", "value": "x"}]}}),
            None,
            true,
        ),
    ] {
        let objects = Objects::new();
        let mut object = node.clone();
        object["metadata"] = json!({"name": "n1"});
        objects.put(NODES, object);
        let found = objects.cluster(&config()).node().await.unwrap();
        assert_eq!((found.max_pods, found.unschedulable), (max_pods, unschedulable), "{node}");
    }
}

#[tokio::test]
async fn a_node_that_is_not_there_or_has_no_name_is_told() {
    let error = Objects::new().cluster(&config()).node().await.unwrap_err();
    assert_eq!(error, KubeError::NotFound { what: "node \"n1\"".into() });
    // W29: without a name every node of the cluster would be watched.
    let objects = Objects::new();
    let nameless = objects.cluster(&KubeConfig { node_name: String::new(), ..config() });
    let error = nameless.node().await.unwrap_err();
    assert!(matches!(&error, KubeError::Unconfigured(text) if text.contains("MY_NODE_NAME")), "{error}");
    assert_eq!(objects.seen(), []);
}

#[tokio::test]
async fn a_refused_list_is_told_at_once_and_works_later() {
    for (code, denied) in [(403, true), (401, true), (500, false)] {
        let objects = Objects::new();
        objects.put_node("n1", 58);
        objects.fail(status("GET /api/v1/nodes", code, 1));
        let (_server, cluster, _dir) = over_http(&objects).await;
        let error = cluster.node().await.unwrap_err();
        assert_eq!(matches!(error, KubeError::Denied { .. }), denied, "{error}");
        assert_eq!(cluster.node_other_than(None).await.max_pods, Some(58));
        assert_eq!(cluster.node().await.unwrap().max_pods, Some(58));
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_ends_within_three_seconds_when_nobody_answers() {
    // W37.
    let objects = Objects::new();
    objects.put_node("n1", 58);
    objects.fail(silence("GET"));
    let cluster = objects.cluster(&config());
    let began = tokio::time::Instant::now();
    let error = cluster.node().await.unwrap_err();
    assert_eq!(error, KubeError::TimedOut { what: "node \"n1\"".into(), seconds: 3 });
    assert_eq!(began.elapsed().as_secs(), 3);
    let error = cluster.version().await.unwrap_err();
    assert_eq!(error, KubeError::TimedOut { what: "/version".into(), seconds: 5 });
    objects.heal();
    assert_eq!(cluster.node_other_than(None).await.max_pods, Some(58));
}

#[tokio::test]
async fn a_watch_that_fell_behind_lists_again() {
    let objects = Objects::new();
    objects.put_node("n1", 58);
    let (_server, cluster, _dir) = over_http(&objects).await;
    let first = cluster.node().await.unwrap();
    while objects.count("watch=true") == 0 {
        tokio::task::yield_now().await;
    }
    objects.forget_changes();
    objects.put_node("n1", 110);
    assert_eq!(cluster.node_other_than(Some(&first)).await.max_pods, Some(110));
    assert!(objects.count("GET /api/v1/nodes") > objects.count("watch=true"), "listed again after 410");
}

#[tokio::test]
async fn what_was_read_holds_while_the_server_is_away_and_news_come_when_it_is_back() {
    let objects = Objects::new();
    objects.put_node("n1", 58);
    let (server, cluster, _dir) = over_http(&objects).await;
    let first = cluster.node().await.unwrap();
    let address = server.address();
    drop(server);
    while !matches!(cluster.version().await, Err(KubeError::Unreachable { .. })) {
        tokio::task::yield_now().await;
    }
    assert_eq!(cluster.node().await.unwrap(), first);
    objects.put_node("n1", 29);
    let _server = Server::start_at(address, objects.clone()).await.unwrap();
    assert_eq!(cluster.node_other_than(Some(&first)).await.max_pods, Some(29));
}

// ---- ENIConfig -----------------------------------------------------------------------------------------------------

fn eni_config(name: &str, subnet: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"subnet": subnet, "securityGroups": ["sg-1", "sg-2"]}})
}

#[tokio::test]
async fn eni_configs_are_watched_from_the_first_read_on() {
    let objects = Objects::new();
    objects.put_node("n1", 58);
    objects.put(ENI_CONFIGS, eni_config("zone-a", "subnet-a"));
    objects.put(ENI_CONFIGS, json!({"metadata": {"name": "bare"}}));
    let (_server, cluster, _dir) = over_http(&objects).await;
    cluster.node().await.unwrap();
    assert_eq!(objects.count("eniconfigs"), 0);
    let found = cluster.eni_config("zone-a").await.unwrap();
    assert_eq!((found.name.as_str(), found.subnet.as_str()), ("zone-a", "subnet-a"));
    assert_eq!(found.security_groups, ["sg-1", "sg-2"]);
    let bare = cluster.eni_config("bare").await.unwrap();
    assert_eq!((bare.subnet.as_str(), bare.security_groups.len()), ("", 0));
    let error = cluster.eni_config("zone-b").await.unwrap_err();
    assert_eq!(error, KubeError::NotFound { what: "ENIConfig \"zone-b\"".into() });
    objects.put(ENI_CONFIGS, eni_config("zone-b", "subnet-b"));
    while cluster.eni_config("zone-b").await.is_err() {
        tokio::task::yield_now().await;
    }
    objects.remove(ENI_CONFIGS, "zone-a");
    while cluster.eni_config("zone-a").await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(objects.count("eniconfigs?&limit"), 1, "one list: {:?}", objects.seen());
}

// ---- CNINode -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_wish_is_written_once_and_replaces_its_old_value() {
    // Spec 02 §11.6, spec 05 §3.2.
    let objects = Objects::new();
    objects.put(
        CNI_NODES,
        json!({"metadata": {"name": "n1"}, "spec": {"tags": {"k": "v"}, "features": [{"name": "CustomNetworking", "value": "old"}]}}),
    );
    let (_server, cluster, _dir) = over_http(&objects).await;
    let trunk = Feature::SecurityGroupsForPods;
    assert_eq!(cluster.announce(&trunk).await.unwrap(), Announced::Written);
    assert_eq!(cluster.announce(&trunk).await.unwrap(), Announced::Already);
    let custom = Feature::CustomNetworking { eni_config: "zone-a".into() };
    assert_eq!(cluster.announce(&custom).await.unwrap(), Announced::Written);
    let spec = objects.get(CNI_NODES, "n1").unwrap()["spec"].clone();
    assert_eq!(
        spec,
        json!({"tags": {"k": "v"}, "features": [{"name": "SecurityGroupsForPods", "value": ""}, {"name": "CustomNetworking", "value": "zone-a"}]})
    );
    assert_eq!(objects.count("PATCH /apis/vpcresources.k8s.aws/v1alpha1/cninodes/n1"), 2);
}

#[tokio::test]
async fn a_wish_never_overwrites_what_somebody_else_wrote() {
    let objects = Objects::new();
    let cluster = objects.cluster(&config());
    let trunk = Feature::SecurityGroupsForPods;
    let error = cluster.announce(&trunk).await.unwrap_err();
    assert_eq!(error, KubeError::NotFound { what: "CNINode \"n1\"".into() });
    objects.put(CNI_NODES, json!({"metadata": {"name": "n1"}}));
    objects.fail(status("PATCH", 409, 1));
    let error = cluster.announce(&trunk).await.unwrap_err();
    assert!(matches!(error, KubeError::Conflict { .. }), "{error}");
    cluster.announce(&trunk).await.unwrap();
    let patch = objects.seen().into_iter().rev().find(|s| s.method == "PATCH").unwrap();
    let version = objects.get(CNI_NODES, "n1").unwrap()["metadata"]["resourceVersion"].clone();
    let sent: Value = serde_json::from_str(&patch.body).unwrap();
    assert_ne!(sent["metadata"]["resourceVersion"], version);
    assert!(sent["metadata"]["resourceVersion"].is_string(), "{sent}");
}

// ---- pods ----------------------------------------------------------------------------------------------------------

fn put_pod(objects: &Objects, annotation: Option<&str>) {
    let annotations = annotation.map_or(json!({}), |a| json!({POD_IPS: a}));
    objects.put(&testing::pods("shop"), json!({"metadata": {"name": "web-0", "annotations": annotations}}));
}

fn annotation(objects: &Objects) -> Option<String> {
    let pod = objects.get(&testing::pods("shop"), "web-0")?;
    pod["metadata"]["annotations"][POD_IPS].as_str().map(str::to_owned)
}

#[tokio::test]
async fn a_pod_shows_its_address_and_then_that_it_is_gone() {
    // Spec 02 §11.4.
    let objects = Objects::new();
    put_pod(&objects, None);
    let (_server, cluster, _dir) = over_http(&objects).await;
    let pod = PodName::new("shop", "web-0");
    let ip = "10.0.0.5".parse().unwrap();
    cluster.annotate(&pod, ip).await.unwrap();
    assert_eq!(annotation(&objects).as_deref(), Some("10.0.0.5"));
    let revision = objects.revision();
    cluster.annotate(&pod, ip).await.unwrap();
    assert_eq!(objects.revision(), revision, "the same again changes nothing");
    cluster.annotate(&pod, "10.0.0.6".parse().unwrap()).await.unwrap();
    let error = cluster.clear_annotation(&pod, ip).await.unwrap_err();
    assert!(
        error.to_string().starts_with("released IP 10.0.0.5 does not match existing annotation. Not patching pod"),
        "{error}"
    );
    cluster.clear_annotation(&pod, "10.0.0.6".parse().unwrap()).await.unwrap();
    assert_eq!(annotation(&objects).as_deref(), Some(""), "the key stays");
    cluster.clear_annotation(&pod, ip).await.unwrap();
    objects.remove(&testing::pods("shop"), "web-0");
    cluster.clear_annotation(&pod, ip).await.unwrap();
    let error = cluster.annotate(&pod, ip).await.unwrap_err();
    assert_eq!(error, KubeError::NotFound { what: "pod shop/web-0".into() });
}

#[tokio::test]
async fn the_first_container_s_limits_tell_whether_a_pod_wants_a_branch() {
    // Spec 02 §3.2.
    let objects = Objects::new();
    let pod = PodName::new("shop", "web-0");
    let limits = |key: &str| json!({"resources": {"limits": {"cpu": "1", key: "1"}}});
    let cluster = objects.cluster(&config());
    assert_eq!(cluster.pod(&pod).await, Err(KubeError::NotFound { what: "pod shop/web-0".into() }));
    for (containers, wanted) in [
        (json!([]), false),
        (json!([{"name": "a"}]), false),
        (json!([limits("vpc.amazonaws.com/pod-eni")]), true),
        (json!([limits("vpc.amazonaws.com/pod-eni-2")]), true),
        (json!([limits("x"), limits("vpc.amazonaws.com/pod-eni")]), false),
    ] {
        objects.put(
            &testing::pods("shop"),
            json!({"metadata": {"name": "web-0", "uid": "u", "annotations": {"vpc.amazonaws.com/pod-eni": "[]"}},
                "spec": {"containers": containers}}),
        );
        let facts = PodFacts { uid: "u".into(), wants_branch: wanted, branches: Some("[]".into()) };
        assert_eq!(cluster.pod(&pod).await, Ok(facts), "{containers}");
    }
}

#[tokio::test(start_paused = true)]
async fn clearing_is_tried_four_times_against_other_writers() {
    let objects = Objects::new();
    put_pod(&objects, Some("2001:db8::5"));
    let cluster = objects.cluster(&config());
    let (pod, ip) = (PodName::new("shop", "web-0"), "2001:db8::5".parse().unwrap());
    objects.fail(status("PATCH", 409, 3));
    cluster.clear_annotation(&pod, ip).await.unwrap();
    assert_eq!((annotation(&objects).as_deref(), objects.count("PATCH")), (Some(""), 4));
    put_pod(&objects, Some("2001:db8::5"));
    objects.fail(status("PATCH", 409, 4));
    let error = cluster.clear_annotation(&pod, ip).await.unwrap_err();
    assert!(matches!(error, KubeError::Conflict { .. }), "{error}");
    assert_eq!(annotation(&objects).as_deref(), Some("2001:db8::5"));
}

#[tokio::test(start_paused = true)]
async fn a_write_ends_within_three_seconds_when_nobody_answers() {
    let objects = Objects::new();
    put_pod(&objects, None);
    objects.fail(silence("PATCH"));
    let pod = PodName::new("shop", "web-0");
    let error = objects.cluster(&config()).annotate(&pod, "10.0.0.5".parse().unwrap()).await.unwrap_err();
    assert_eq!(error, KubeError::TimedOut { what: "pod shop/web-0".into(), seconds: 3 });
}

// ---- events --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_missing_permission_is_an_event_on_our_own_pod() {
    // Spec 03 §12.3.
    let objects = Objects::new();
    objects.put(&testing::pods("kube-system"), json!({"metadata": {"name": "aws-node-x", "uid": "the-uid"}}));
    let (_server, cluster, _dir) = over_http(&objects).await;
    cluster.missing_permission("CreateNetworkInterface").await.unwrap();
    cluster.missing_permission("CreateNetworkInterface").await.unwrap();
    cluster.missing_permission("CreateTags").await.unwrap();
    let events = objects.all(&testing::events("kube-system"));
    assert_eq!(events.len(), 2, "the same again within a minute is not told");
    let event = events.iter().find(|e| e["action"] == "ec2:CreateNetworkInterface").unwrap();
    assert_eq!(
        (&event["type"], &event["reason"], &event["reportingController"], &event["reportingInstance"]),
        (&json!("Warning"), &json!("MissingIAMPermissions"), &json!("aws-node"), &json!("aws-node-x"))
    );
    assert_eq!(
        event["regarding"],
        json!({"apiVersion": "v1", "kind": "Pod", "namespace": "kube-system", "name": "aws-node-x", "uid": "the-uid"})
    );
    assert!(event["note"].as_str().unwrap().contains("CreateNetworkInterface"), "{event}");
    assert!(event["eventTime"].is_string(), "{event}");
}

#[tokio::test]
async fn an_event_that_could_not_be_written_is_written_later_with_its_pod() {
    // W32.
    let objects = Objects::new();
    objects.put(&testing::pods("kube-system"), json!({"metadata": {"name": "aws-node-x", "uid": "the-uid"}}));
    let cluster = objects.cluster(&config());
    objects.fail(status("/", 500, 2));
    cluster.missing_permission("CreateTags").await.unwrap_err();
    cluster.missing_permission("CreateTags").await.unwrap();
    let events = objects.all(&testing::events("kube-system"));
    assert_eq!((events.len(), &events[0]["regarding"]["uid"]), (1, &json!("the-uid")));
    let nameless = objects.cluster(&KubeConfig { pod_name: String::new(), ..config() });
    let error = nameless.missing_permission("CreateTags").await.unwrap_err();
    assert!(error.to_string().contains("MY_POD_NAME"), "{error}");
}

// ---- waiting -------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_required_server_is_waited_for_as_long_as_it_is_silent() {
    let objects = Objects::new();
    objects.fail(silence("/version"));
    let cluster = objects.cluster(&config());
    let began = tokio::time::Instant::now();
    let healing = objects.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(600)).await;
        healing.heal();
    });
    assert_eq!(reach(&cluster, Need::Required).await, Ok(true));
    let waited = began.elapsed().as_secs();
    assert!((600..610).contains(&waited), "{waited}");
    objects.fail(status("/version", 503, 1));
    let error = reach(&cluster, Need::Required).await.unwrap_err();
    assert!(matches!(error, KubeError::Refused { code: 503, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_optional_server_is_waited_for_half_a_minute_and_asked_again_behind() {
    let objects = Objects::new();
    objects.fail(status("/version", 500, 1000));
    let cluster = objects.cluster(&config());
    let began = tokio::time::Instant::now();
    assert_eq!(reach(&cluster, Need::Optional).await, Ok(false));
    assert_eq!((began.elapsed().as_secs(), objects.count("/version")), (30, 7));
    let healing = objects.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(61)).await;
        healing.heal();
    });
    come_back(&cluster).await;
    assert_eq!(began.elapsed().as_secs(), 30 + 65);
}

#[tokio::test]
async fn nobody_to_ask_is_told_with_the_remedy_and_not_waited_for() {
    let why = Cluster::connect(&KubeConfig::default()).await.unwrap_err();
    assert!(matches!(why, ConfigError::Nowhere), "{why}");
    let absent = Absent::new(why.to_string());
    assert_eq!(reach(&absent, Need::Optional).await, Ok(false));
    let error = reach(&absent, Need::Required).await.unwrap_err();
    assert!(error.to_string().contains("KUBECONFIG"), "{error}");
    assert!(matches!(absent.node().await, Err(KubeError::Unconfigured(_))));
}
