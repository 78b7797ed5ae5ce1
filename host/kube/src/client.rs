//! [`Cluster`]: the API server itself.

use std::fmt;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use reservoir_core::kube::{EniConfig, EniConfigKeys, Feature, NodeFacts};
use serde_json::json;

use crate::cache::Cache;
use crate::config::{ConfigError, KubeConfig};
use crate::events::Events;
use crate::objects::{CNINode, ENIConfig, Node, Pod};
use crate::{Announced, BoxFuture, KubeError, Kubernetes, PROBE_LIMIT, PodFacts, PodName, READ_LIMIT, pods};

/// The API server of the cluster. Making it needs no answer of the server.
pub struct Cluster {
    client: Client,
    node_name: String,
    keys: EniConfigKeys,
    /// From the first read on.
    nodes: OnceLock<Cache<NodeFacts>>,
    /// From the first read on: only custom networking reads one.
    eni_configs: OnceLock<Cache<EniConfig>>,
    events: Events,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("node_name", &self.node_name).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Within a tokio runtime; nothing is sent yet.
    ///
    /// # Errors
    /// The configuration names a file that cannot be read, or something that is no URL.
    pub async fn connect(config: &KubeConfig) -> Result<Self, ConfigError> {
        Ok(Self::of(config.client().await?, config))
    }

    pub(crate) fn of(client: Client, config: &KubeConfig) -> Self {
        Self {
            events: Events::new(client.clone(), &config.pod_name),
            client,
            node_name: config.node_name.clone(),
            keys: config.eni_config_keys.clone(),
            nodes: OnceLock::new(),
            eni_configs: OnceLock::new(),
        }
    }

    /// This node alone is watched. Without its name that would be every node of the cluster (W29).
    fn nodes(&self) -> Result<&Cache<NodeFacts>, KubeError> {
        self.named()?;
        Ok(self.nodes.get_or_init(|| {
            let only = watcher::Config::default().fields(&format!("metadata.name={}", self.node_name));
            let annotation = self.keys.annotation.clone();
            Cache::watch("node", Api::<Node>::all(self.client.clone()), only, move |n| n.facts(&annotation))
        }))
    }

    fn named(&self) -> Result<(), KubeError> {
        if self.node_name.is_empty() {
            let message = "MY_NODE_NAME is not set; set it from the downward API (spec.nodeName)";
            return Err(KubeError::Unconfigured(message.to_owned()));
        }
        Ok(())
    }

    async fn write_feature(&self, feature: &Feature) -> Result<Announced, KubeError> {
        self.named()?;
        let what = format!("CNINode {:?}", self.node_name);
        let nodes: Api<CNINode> = Api::all(self.client.clone());
        let node = nodes.get(&self.node_name).await.map_err(|e| KubeError::of(&what, e))?;
        let Some(features) = feature.added_to(&node.features()) else {
            return Ok(Announced::Already);
        };
        let features: Vec<_> = features.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        // The resource version: whoever wrote meanwhile is not overwritten.
        let version = &node.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"features": features}});
        let written = nodes.patch(&self.node_name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        written.map(|_| Announced::Written).map_err(|e| KubeError::of(&what, e))
    }
}

/// The call, or that it took too long.
async fn within<T>(
    limit: Duration,
    what: impl fmt::Display,
    call: impl Future<Output = Result<T, KubeError>>,
) -> Result<T, KubeError> {
    let late = |_| KubeError::TimedOut { what: what.to_string(), seconds: limit.as_secs() };
    tokio::time::timeout(limit, call).await.map_err(late)?
}

impl Kubernetes for Cluster {
    fn version(&self) -> BoxFuture<'_, Result<(), KubeError>> {
        const WHAT: &str = "/version";
        Box::pin(within(PROBE_LIMIT, WHAT, async {
            let request = http::Request::get("/version").body(Vec::new());
            let request = request.map_err(|e| KubeError::of(WHAT, kube::Error::HttpError(e)))?;
            self.client.request_text(request).await.map(drop).map_err(|e| KubeError::of(WHAT, e))
        }))
    }

    fn node(&self) -> BoxFuture<'_, Result<NodeFacts, KubeError>> {
        Box::pin(async { self.nodes()?.get(&self.node_name).await })
    }

    fn node_other_than<'a>(&'a self, known: Option<&'a NodeFacts>) -> BoxFuture<'a, NodeFacts> {
        Box::pin(async move {
            match self.nodes() {
                Ok(nodes) => nodes.other_than(&self.node_name, known).await,
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn eni_config<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<EniConfig, KubeError>> {
        let configs = self.eni_configs.get_or_init(|| {
            let api = Api::<ENIConfig>::all(self.client.clone());
            Cache::watch("ENIConfig", api, watcher::Config::default(), EniConfig::from)
        });
        Box::pin(configs.get(name))
    }

    fn announce<'a>(&'a self, feature: &'a Feature) -> BoxFuture<'a, Result<Announced, KubeError>> {
        Box::pin(within(READ_LIMIT, format!("CNINode {:?}", self.node_name), self.write_feature(feature)))
    }

    fn pod<'a>(&'a self, pod: &'a PodName) -> BoxFuture<'a, Result<PodFacts, KubeError>> {
        Box::pin(within(READ_LIMIT, pod, async move {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
            pods.get(&pod.name).await.map(PodFacts::from).map_err(|e| KubeError::of(&pod.to_string(), e))
        }))
    }

    fn annotate<'a>(&'a self, pod: &'a PodName, address: IpAddr) -> BoxFuture<'a, Result<(), KubeError>> {
        Box::pin(within(READ_LIMIT, pod, pods::annotate(&self.client, pod, address)))
    }

    fn clear_annotation<'a>(&'a self, pod: &'a PodName, address: IpAddr) -> BoxFuture<'a, Result<(), KubeError>> {
        Box::pin(within(READ_LIMIT, pod, pods::clear_annotation(&self.client, pod, address)))
    }

    fn missing_permission<'a>(&'a self, api: &'a str) -> BoxFuture<'a, Result<(), KubeError>> {
        Box::pin(within(READ_LIMIT, "an event", self.events.missing_permission(api)))
    }
}
