//! An API server in memory, for tests and simulated nodes.
//!
//! | | |
//! |---|---|
//! | [`Objects`] | the objects with their resource versions, watches, and failures on request |
//! | [`Objects::cluster`] | a [`crate::Cluster`] upon them in process: the real client without a socket |
//! | [`BranchInterface`] | what the VPC resource controller writes into a pod |
//! | [`Server`] | the same over HTTP, on loopback |
//!
//! Any kind of any group is taken: nothing is validated but names and resource versions.

mod answer;
mod controller;
mod objects;
mod server;

pub use controller::{BranchInterface, POD_ENI};
pub use objects::{Failure, Objects, Refusal, Seen};
pub use server::Server;

/// Where Nodes are.
pub const NODES: &str = "/api/v1/nodes";
/// Where ENIConfigs are.
pub const ENI_CONFIGS: &str = "/apis/crd.k8s.amazonaws.com/v1alpha1/eniconfigs";
/// Where CNINodes are.
pub const CNI_NODES: &str = "/apis/vpcresources.k8s.aws/v1alpha1/cninodes";

/// Where the pods of a namespace are.
#[must_use]
pub fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// Where the events of a namespace are.
#[must_use]
pub fn events(namespace: &str) -> String {
    format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events")
}
