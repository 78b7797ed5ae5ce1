//! What is read of an object. The rest of it is skipped while it is parsed: a Node is some thirty kilobytes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::Resource;
use reservoir_core::kube::{EniConfig, NO_SCHEDULE, NodeFacts, UNSCHEDULABLE_TAINT};
use serde::Deserialize;

use crate::PodFacts;

/// The limit by which a pod asks for a branch interface; the key may go on after it (spec 02 §3.2).
const BRANCH_LIMIT: &str = "vpc.amazonaws.com/pod-eni";
/// The annotation that tells which branch interface a pod has.
const BRANCHES: &str = "vpc.amazonaws.com/pod-eni";

/// A kind of which only some fields are known here.
macro_rules! resource {
    ($type:ident, $scope:ty, $group:literal, $version:literal, $plural:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = $scope;
            fn kind(_: &()) -> Cow<'_, str> {
                stringify!($type).into()
            }
            fn group(_: &()) -> Cow<'_, str> {
                $group.into()
            }
            fn version(_: &()) -> Cow<'_, str> {
                $version.into()
            }
            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    metadata: ObjectMeta,
    spec: NodeSpec,
    status: NodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    taints: Option<Vec<Taint>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: String,
    effect: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    capacity: Option<BTreeMap<String, serde_json::Value>>,
}

resource!(Node, ClusterResourceScope, "", "v1", "nodes");

impl Node {
    /// With no other annotation than `annotation`: others change often and mean nothing to us.
    pub(crate) fn facts(self, annotation: &str) -> NodeFacts {
        let pods = self.status.capacity.unwrap_or_default().remove("pods");
        // A quantity is text; whoever wrote a number meant the same.
        let max_pods = pods.and_then(|p| p.as_str().map_or_else(|| p.as_u64()?.try_into().ok(), |s| s.parse().ok()));
        let cordoned = |t: &Taint| t.key == UNSCHEDULABLE_TAINT && t.effect == NO_SCHEDULE;
        let annotations = self.metadata.annotations.unwrap_or_default();
        NodeFacts {
            labels: self.metadata.labels.unwrap_or_default().into_iter().collect(),
            annotations: annotations.into_iter().filter(|(key, _)| key == annotation).collect(),
            unschedulable: self.spec.taints.unwrap_or_default().iter().any(cordoned),
            max_pods,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ENIConfig {
    metadata: ObjectMeta,
    spec: EniConfigSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EniConfigSpec {
    subnet: String,
    security_groups: Option<Vec<String>>,
}

resource!(ENIConfig, ClusterResourceScope, "crd.k8s.amazonaws.com", "v1alpha1", "eniconfigs");

impl From<ENIConfig> for EniConfig {
    fn from(object: ENIConfig) -> Self {
        Self {
            name: object.metadata.name.unwrap_or_default(),
            subnet: object.spec.subnet,
            security_groups: object.spec.security_groups.unwrap_or_default(),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CNINode {
    pub(crate) metadata: ObjectMeta,
    spec: CniNodeSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct CniNodeSpec {
    features: Option<Vec<NodeFeature>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeFeature {
    name: String,
    value: String,
}

resource!(CNINode, ClusterResourceScope, "vpcresources.k8s.aws", "v1alpha1", "cninodes");

impl CNINode {
    pub(crate) fn features(&self) -> Vec<(String, String)> {
        let features = self.spec.features.as_deref().unwrap_or_default();
        features.iter().map(|f| (f.name.clone(), f.value.clone())).collect()
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    metadata: ObjectMeta,
    spec: PodSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodSpec {
    containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Container {
    resources: Resources,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Resources {
    limits: Option<BTreeMap<String, serde_json::Value>>,
}

resource!(Pod, NamespaceResourceScope, "", "v1", "pods");

impl From<Pod> for PodFacts {
    fn from(pod: Pod) -> Self {
        let limits = pod.spec.containers.into_iter().next().and_then(|c| c.resources.limits).unwrap_or_default();
        Self {
            uid: pod.metadata.uid.unwrap_or_default(),
            wants_branch: limits.keys().any(|key| key.starts_with(BRANCH_LIMIT)),
            branches: pod.metadata.annotations.unwrap_or_default().remove(BRANCHES),
        }
    }
}
