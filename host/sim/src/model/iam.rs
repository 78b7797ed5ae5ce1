//! What the node's role may do (spec 03 §14.2). What it may not is `UnauthorizedOperation`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::aws::Aws;
use super::ops::Op;
use super::refusal::Refusal;

const CLUSTER_TAG: &str = "cluster.k8s.amazonaws.com/name";

/// The role's policy, less some actions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Iam {
    pub policy: Policy,
    /// Actions refused whatever the policy says.
    pub denied: BTreeSet<String>,
}

/// The documented policies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    #[default]
    Everything,
    /// `AmazonEKS_CNI_Policy`.
    Ipv4,
    Ipv6,
    /// Scoped to one cluster by its name: interfaces are made with its tag and touched only with it.
    Cluster(String),
}

const IPV4: &[&str] = &[
    "AssignPrivateIpAddresses",
    "AttachNetworkInterface",
    "CreateNetworkInterface",
    "DeleteNetworkInterface",
    "DescribeInstances",
    "DescribeNetworkInterfaces",
    "DescribeInstanceTypes",
    "DescribeSubnets",
    "DescribeTags",
    "DetachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "UnassignPrivateIpAddresses",
    "CreateTags",
];
const IPV6: &[&str] = &[
    "AssignIpv6Addresses",
    "DescribeInstances",
    "DescribeSubnets",
    "DescribeTags",
    "DescribeNetworkInterfaces",
    "DescribeInstanceTypes",
    "CreateTags",
];

impl Iam {
    /// Why `op` is refused, if it is.
    pub(super) fn refuse(&self, op: &Op, aws: &Aws) -> Option<Refusal> {
        let api = op.api();
        let allowed = !self.denied.contains(api)
            && match &self.policy {
                Policy::Everything => true,
                Policy::Ipv4 => IPV4.contains(&api) && tags_interfaces_only(op),
                Policy::Ipv6 => IPV6.contains(&api) && tags_interfaces_only(op),
                Policy::Cluster(cluster) => {
                    IPV4.contains(&api) && tags_interfaces_only(op) && is_of_cluster(op, cluster, aws)
                }
            };
        let message =
            || format!("You are not authorized to perform this operation. The role is not allowed ec2:{api}.");
        (!allowed).then(|| Refusal::new("UnauthorizedOperation", message()))
    }
}

fn tags_interfaces_only(op: &Op) -> bool {
    match op {
        Op::CreateTags { resources, .. } => resources.iter().all(|r| r.starts_with("eni-")),
        _ => true,
    }
}

fn is_of_cluster(op: &Op, cluster: &str, aws: &Aws) -> bool {
    let tagged = |tags: &BTreeMap<String, String>| tags.get(CLUSTER_TAG).is_some_and(|v| v == cluster);
    let interface = |id: &str| aws.enis.get(id).is_none_or(|e| tagged(&e.tags));
    let key = format!("kubernetes.io/cluster/{cluster}");
    let machine = |id: &str| aws.instances.get(id).is_none_or(|i| i.tags.get(&key).is_some_and(|v| v == "owned"));
    match op {
        Op::AttachNetworkInterface { eni, instance, .. } => interface(eni) && machine(instance),
        Op::CreateNetworkInterface(create) => create.tags.iter().any(|(k, v)| k == CLUSTER_TAG && v == cluster),
        Op::DetachNetworkInterface { attachment } => aws.attachments.get(attachment).is_none_or(|id| interface(id)),
        _ => op.mutated_interface().is_none_or(interface),
    }
}
