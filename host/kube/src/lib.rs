//! The Kubernetes API as the daemon uses it, behind one trait (spec 02 §11).
//!
//! | module | what |
//! |---|---|
//! | [`Kubernetes`] | one small question, one answer; what the daemon sees |
//! | [`Cluster`] | the real one: the API server, through a watch where something is read again and again |
//! | [`Absent`] | none: there is no configuration to reach one by |
//! | [`config`] | where the API server is and who we are to it, spec 02 §11.1 |
//! | [`probe`] | how long to wait for it at the start, spec 02 §11.8 |
//! | [`error`] | what a caller can decide upon |
//! | `objects`, `cache`, `pods`, `events` | what is read of an object; watched copies; a pod's annotation; events |
//! | `testing` | an API server in memory, in process and over HTTP (feature `testing`) |
//!
//! Every call ends within [`READ_LIMIT`] (W37). The client is made once and needs nothing of the server for it, so it
//! works from the moment the server does; it is never rebuilt (W33, W34).

use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use reservoir_core::kube::{EniConfig, Feature, NodeFacts};

mod absent;
mod cache;
mod client;
pub mod config;
pub mod error;
mod events;
mod objects;
mod pods;
pub mod probe;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use absent::Absent;
pub use client::Cluster;
pub use config::{ConfigError, KubeConfig, Proxies};
pub use error::KubeError;

/// How long one read or write may take.
pub const READ_LIMIT: Duration = Duration::from_secs(3);
/// How long one look whether the API server is there may take.
pub const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// The annotation that shows a pod's address (spec 02 §11.4).
pub const POD_IPS: &str = "vpc.amazonaws.com/pod-ips";

/// A boxed future, so that [`Kubernetes`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A pod by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
}

impl PodName {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pod {}/{}", self.namespace, self.name)
    }
}

/// What a pod's ADD and DEL depend on (spec 02 §3.2, §4.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    pub uid: String,
    /// Its first container asks for a branch interface.
    pub wants_branch: bool,
    /// The annotation `vpc.amazonaws.com/pod-eni`, as written.
    pub branches: Option<String>,
}

/// What became of a wish in the node's CNINode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// It stood there already.
    Already,
    /// It was written.
    Written,
}

/// Whoever answers for the API server: the server itself, nobody, or a test's fake. Calls may run at the same time.
pub trait Kubernetes: Send + Sync {
    /// Whether the API server answers (`GET /version`).
    fn version(&self) -> BoxFuture<'_, Result<(), KubeError>>;

    /// The facts of this node, from a watched copy: as old as a watch may be.
    fn node(&self) -> BoxFuture<'_, Result<NodeFacts, KubeError>>;

    /// Ends when the node's facts are known and are not `known`; never, if they cannot come to be known.
    fn node_other_than<'a>(&'a self, known: Option<&'a NodeFacts>) -> BoxFuture<'a, NodeFacts>;

    /// One ENIConfig. The first call begins to watch all of them.
    fn eni_config<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<EniConfig, KubeError>>;

    /// Adds a wish to this node's CNINode (spec 02 §11.6). [`KubeError::Conflict`]: somebody else wrote meanwhile; it is
    /// for the caller to come again.
    fn announce<'a>(&'a self, feature: &'a Feature) -> BoxFuture<'a, Result<Announced, KubeError>>;

    /// One pod, as the API server has it now.
    fn pod<'a>(&'a self, pod: &'a PodName) -> BoxFuture<'a, Result<PodFacts, KubeError>>;

    /// Writes a pod's address into its annotation [`POD_IPS`].
    fn annotate<'a>(&'a self, pod: &'a PodName, address: IpAddr) -> BoxFuture<'a, Result<(), KubeError>>;

    /// Empties the annotation [`POD_IPS`] of a pod that has given `address` back. A pod that is gone, or has none, is
    /// done; one that shows another address is left alone: [`KubeError::OtherAnnotation`].
    fn clear_annotation<'a>(&'a self, pod: &'a PodName, address: IpAddr) -> BoxFuture<'a, Result<(), KubeError>>;

    /// Tells, as an event on the daemon's own pod, that EC2 refused `api` for want of a permission (spec 03 §12.3).
    fn missing_permission<'a>(&'a self, api: &'a str) -> BoxFuture<'a, Result<(), KubeError>>;
}
