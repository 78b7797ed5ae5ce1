//! The API server in the daemon's life (spec 02 §11): how it is found, how long it is waited for, how the Node's news
//! reach the pool.
//!
//! A daemon that can do without it serves at once and asks behind; the reference waits half a minute first. What it
//! serves meanwhile is what the last run knew, and the Node's facts count from the moment they come.

use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Result, anyhow};
use reservoir_core::kube::{EniConfigKeys, NodeFacts};
use reservoir_kube::probe::{Need, come_back, reach};
use reservoir_kube::{Absent, Cluster, ConfigError, KubeConfig, Kubernetes, Proxies};

use crate::config::{Config, Environment, Report};
use crate::pool::Pool;

/// How long a start that can do without the API server looks for the Node's facts. A server that is there answers in
/// milliseconds, and the first decision then knows max-pods, labels and taint.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Between looks at a Node that the API server does not have, or does not show.
const AGAIN: Duration = Duration::from_secs(5);

/// How to reach the API server. `program` is `argv[0]`.
#[must_use]
pub fn config(environment: &Environment, config: &Config, program: &str) -> KubeConfig {
    let text = |name: &str| environment.get(name).filter(|v| !v.is_empty()).map(str::to_owned);
    let either = |upper: &str, lower: &str| text(upper).or_else(|| text(lower)).unwrap_or_default();
    KubeConfig {
        kubeconfig: text("KUBECONFIG").unwrap_or_default(),
        service: text("KUBERNETES_SERVICE_HOST").zip(text("KUBERNETES_SERVICE_PORT")),
        home: text("HOME").map(Into::into),
        endpoint: config.identity.cluster_endpoint.clone(),
        proxies: Proxies {
            https: either("HTTPS_PROXY", "https_proxy"),
            http: either("HTTP_PROXY", "http_proxy"),
            none: either("NO_PROXY", "no_proxy"),
        },
        program: program.to_owned(),
        version: config.identity.cni_version.clone(),
        node_name: config.identity.node_name.clone(),
        pod_name: config.identity.pod_name.clone(),
        eni_config_keys: EniConfigKeys::new(
            &config.provisioning.eni_config_annotation,
            &config.provisioning.eni_config_label,
        ),
        ..KubeConfig::default()
    }
}

/// Whether the daemon can do without (spec 02 §11.8).
#[must_use]
pub fn need(config: &Config) -> Need {
    let modes = &config.modes;
    if modes.pod_eni || modes.custom_networking || modes.annotate_pod_ip { Need::Required } else { Need::Optional }
}

/// Adds to `report` what keeps the Node's objects from being read, as far as the environment shows it.
pub fn check(config: &Config, kube: &KubeConfig, report: &mut Report) {
    let modes = &config.modes;
    for (name, needed) in
        [("ENABLE_POD_ENI", modes.pod_eni), ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", modes.custom_networking)]
    {
        if needed && kube.node_name.is_empty() {
            let wrong =
                format!("unset, and {name} needs the node's objects; set it from the downward API (spec.nodeName)");
            report.fatal("MY_NODE_NAME", None, wrong);
        }
    }
    if let Err(wrong) = kube.check_endpoint() {
        let value = kube.endpoint.as_deref();
        match need(config) {
            Need::Required => report.fatal("CLUSTER_ENDPOINT", value, wrong),
            Need::Optional => report.warn("CLUSTER_ENDPOINT", value, format!("{wrong}; the API server is not used")),
        }
    }
}

/// The client, or, where one is not required, somebody who says why there is none.
///
/// # Errors
/// One is required and cannot be made.
async fn connect(config: &Config, kube: &KubeConfig) -> Result<Arc<dyn Kubernetes>> {
    match Cluster::connect(kube).await {
        Ok(cluster) => Ok(Arc::new(cluster)),
        Err(error) if need(config) == Need::Required => Err(error.into()),
        Err(error) => {
            match &error {
                ConfigError::Nowhere => tracing::info!("{error}"),
                error => tracing::error!("the API server is not used: {error}"),
            }
            Ok(Arc::new(Absent::new(error.to_string())))
        }
    }
}

/// What the first look at the API server shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct First {
    /// It answered.
    pub reached: bool,
    pub node: Option<NodeFacts>,
}

/// The client, and, where the API server is required, what it shows once it answers.
///
/// # Errors
/// It is required and there is no use in waiting for it.
pub async fn begin(config: &Config, kube: &KubeConfig) -> Result<(Arc<dyn Kubernetes>, First)> {
    let kubernetes = connect(config, kube).await?;
    if need(config) == Need::Optional {
        return Ok((kubernetes, First::default()));
    }
    let reached = reach(&*kubernetes, Need::Required).await;
    reached.map_err(|e| anyhow!("the API server is needed by this configuration: {e}"))?;
    let node = read(&*kubernetes).await;
    Ok((kubernetes, First { reached: true, node }))
}

/// A short look at an API server that need not be there.
pub async fn first_look(kubernetes: &dyn Kubernetes) -> First {
    let look = async {
        kubernetes.version().await.ok()?;
        Some(First { reached: true, node: read(kubernetes).await })
    };
    tokio::time::timeout(FIRST_LOOK, look).await.ok().flatten().unwrap_or_default()
}

async fn read(kubernetes: &dyn Kubernetes) -> Option<NodeFacts> {
    match kubernetes.node().await {
        Ok(node) => Some(node),
        Err(error) => {
            tracing::warn!("the Node is not known: {error}; it counts as schedulable, max-pods comes from the file");
            None
        }
    }
}

/// Brings the Node's news to the pool as long as there is one. `first`: what was seen at the start.
pub async fn follow(pool: Weak<Pool>, kubernetes: Arc<dyn Kubernetes>, need: Need, first: First) {
    if !first.reached && !reach(&*kubernetes, need).await.unwrap_or(false) {
        come_back(&*kubernetes).await;
        tracing::info!("the API server answers now");
    }
    let mut known = first.node;
    while known.is_none() {
        match kubernetes.node().await {
            Ok(node) => {
                let Some(pool) = pool.upgrade() else { return };
                tracing::info!(max_pods = node.max_pods, unschedulable = node.unschedulable, "the Node is known");
                pool.node_changed(node.clone());
                known = Some(node);
            }
            Err(error) => {
                tracing::debug!("the Node is still not known: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    loop {
        let node = kubernetes.node_other_than(known.as_ref()).await;
        let Some(pool) = pool.upgrade() else { return };
        tracing::info!(max_pods = node.max_pods, unschedulable = node.unschedulable, "the Node has changed");
        pool.node_changed(node.clone());
        known = Some(node);
    }
}

#[cfg(test)]
mod tests {
    use reservoir_kube::KubeError;
    use reservoir_kube::testing::{ENI_CONFIGS, Failure, NODES, Objects, Server};
    use serde_json::json;

    use super::*;
    use crate::config::Level;
    use crate::testing::TestPool;

    fn read(pairs: &[(&str, &str)]) -> (Config, KubeConfig) {
        let environment: Environment = [("ENABLE_IPv4", "true")].iter().chain(pairs).copied().collect();
        let (config, _) = Config::read(&environment);
        let kube = super::config(&environment, &config, "./aws-k8s-agent");
        (config, kube)
    }

    #[test]
    fn the_variables_of_the_cluster_are_read() {
        // Spec 02 §11.1, spec 05 §16.4.
        let (_, kube) = read(&[
            ("KUBECONFIG", "/k"),
            ("KUBERNETES_SERVICE_HOST", "10.100.0.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
            ("HOME", "/root"),
            ("CLUSTER_ENDPOINT", "https://e"),
            ("https_proxy", "http://p:1"),
            ("NO_PROXY", "a"),
            ("no_proxy", "b"),
            ("VPC_CNI_VERSION", "v1"),
            ("MY_NODE_NAME", "n"),
            ("MY_POD_NAME", "p"),
            ("ENI_CONFIG_LABEL_DEF", "zone"),
        ]);
        assert_eq!(kube.kubeconfig, "/k");
        assert_eq!(kube.service, Some(("10.100.0.1".into(), "443".into())));
        assert_eq!((kube.home, kube.endpoint), (Some("/root".into()), Some("https://e".into())));
        assert_eq!((kube.proxies.https.as_str(), kube.proxies.none.as_str()), ("http://p:1", "a"));
        assert_eq!((kube.program.as_str(), kube.version.as_str()), ("./aws-k8s-agent", "v1"));
        assert_eq!((kube.node_name.as_str(), kube.pod_name.as_str()), ("n", "p"));
        assert_eq!(
            (kube.eni_config_keys.label.as_str(), kube.eni_config_keys.annotation.as_str()),
            ("zone", "k8s.amazonaws.com/eniConfig")
        );
        let (_, kube) = read(&[("CLUSTER_ENDPOINT", ""), ("KUBERNETES_SERVICE_HOST", "x")]);
        assert_eq!((kube.endpoint, kube.service), (None, None), "empty is unset; a host without a port is nothing");
    }

    #[test]
    fn what_keeps_the_node_s_objects_from_being_read_is_told() {
        let told = |pairs: &[(&str, &str)]| {
            let (config, kube) = read(pairs);
            let mut report = Report::default();
            check(&config, &kube, &mut report);
            report
        };
        assert_eq!(told(&[("CLUSTER_ENDPOINT", "10.100.0.1:443"), ("ANNOTATE_POD_IP", "true")]), Report::default());
        let report = told(&[("CLUSTER_ENDPOINT", "::")]);
        assert!(!report.is_fatal() && report.to_string().contains("CLUSTER_ENDPOINT=\"::\""), "{report}");
        let custom = [("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"), ("CLUSTER_ENDPOINT", "::")];
        let report = told(&custom);
        let fatal: Vec<_> = report.problems().iter().map(|p| (p.level, p.variable.as_str())).collect();
        assert_eq!(fatal, [(Level::Fatal, "MY_NODE_NAME"), (Level::Fatal, "CLUSTER_ENDPOINT")], "{report}");
        assert_eq!(told(&[custom[0], ("MY_NODE_NAME", "n")]), Report::default());
    }

    #[test]
    fn three_features_make_the_api_server_necessary() {
        // Spec 02 §11.8.
        for name in ["ENABLE_POD_ENI", "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "ANNOTATE_POD_IP"] {
            assert_eq!(need(&read(&[(name, "true")]).0), Need::Required, "{name}");
        }
        assert_eq!(need(&read(&[]).0), Need::Optional);
    }

    #[tokio::test]
    async fn the_node_s_news_reach_the_pool_from_the_moment_the_server_answers() {
        let test = TestPool::new(&[0]);
        test.objects.fail(Failure::Status { matching: "/".to_owned(), code: 503, times: 2 });
        let kubernetes = test.pool.kubernetes().clone();
        assert_eq!(first_look(&*kubernetes).await, First::default());
        test.objects.heal();
        assert_eq!(test.pool.eni_config(), None, "a Node that is not known names no ENIConfig");
        test.objects.put(NODES, json!({"metadata": {"name": "n1"}, "status": {"capacity": {"pods": "29"}}}));
        let first = first_look(&*kubernetes).await;
        assert!(first.reached);
        assert_eq!(first.node.as_ref().and_then(|n| n.max_pods), Some(29));
        let following = tokio::spawn(follow(
            Arc::downgrade(&test.pool),
            kubernetes,
            Need::Required,
            First { reached: true, node: None },
        ));
        while test.pool.eni_config().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(test.pool.eni_config().as_deref(), Some("default"));
        assert_eq!(test.pool.look(|manager, now| manager.snapshot(now).limits.max_pods), 29);
        test.objects.change(NODES, "n1", &json!({"metadata": {"labels": {"k8s.amazonaws.com/eniConfig": "zone-a"}}}));
        while test.pool.eni_config().as_deref() != Some("zone-a") {
            tokio::task::yield_now().await;
        }
        following.abort();
    }

    #[tokio::test]
    async fn a_required_server_that_refuses_ends_the_start_and_one_that_answers_is_looked_at() {
        // Spec 02 §11.8.
        let objects = Objects::new();
        objects.put_node("n1", 29);
        let server = Server::start(objects.clone()).await.unwrap();
        let (config, kube) = read(&[("ANNOTATE_POD_IP", "true"), ("MY_NODE_NAME", "n1")]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        server.write_kubeconfig(&path).unwrap();
        let kube = KubeConfig { kubeconfig: path.display().to_string(), ..kube };
        let (_, first) = begin(&config, &kube).await.unwrap();
        assert_eq!((first.reached, first.node.and_then(|n| n.max_pods)), (true, Some(29)));
        objects.fail(Failure::Status { matching: "/version".to_owned(), code: 500, times: 1 });
        let error = begin(&config, &kube).await.err().unwrap().to_string();
        assert!(error.contains("500"), "{error}");
        drop(server);
        let (config, _) = read(&[]);
        assert!(begin(&config, &kube).await.is_ok(), "what is not required may be away");
    }

    #[tokio::test]
    async fn an_eni_config_is_read_by_the_node_s_name_and_never_guessed() {
        // W21.
        let test = TestPool::new(&[0]);
        let put =
            |name: &str| test.objects.put(ENI_CONFIGS, json!({"metadata": {"name": name}, "spec": {"subnet": name}}));
        put("default");
        put("zone-a");
        let error = test.pool.read_eni_config().await.unwrap_err();
        assert!(matches!(error, KubeError::NotFound { .. }), "the Node is not known, so nothing is: {error}");
        test.objects
            .put(NODES, json!({"metadata": {"name": "n1", "labels": {"k8s.amazonaws.com/eniConfig": "zone-a"}}}));
        while test.pool.read_eni_config().await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(test.pool.read_eni_config().await.unwrap().subnet, "zone-a");
    }

    #[tokio::test]
    async fn a_start_without_any_api_server_does_not_wait_and_one_that_needs_it_says_so() {
        let (config, kube) = read(&[]);
        let (kubernetes, first) = begin(&config, &kube).await.unwrap();
        assert_eq!((first, first_look(&*kubernetes).await), (First::default(), First::default()));
        let (config, kube) = read(&[("ANNOTATE_POD_IP", "true")]);
        let error = begin(&config, &kube).await.err().unwrap().to_string();
        assert!(error.contains("KUBECONFIG"), "{error}");
    }
}
