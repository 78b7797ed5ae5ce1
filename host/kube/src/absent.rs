//! No API server at all.

use std::net::IpAddr;

use reservoir_core::kube::{EniConfig, Feature, NodeFacts};

use crate::{Announced, BoxFuture, KubeError, Kubernetes, PodFacts, PodName};

/// Answers every question with why there is nobody to ask.
#[derive(Debug, Clone)]
pub struct Absent(String);

impl Absent {
    /// `why` in the operator's words, with the remedy.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    fn refuse<T: Send + 'static>(&self) -> BoxFuture<'static, Result<T, KubeError>> {
        let error = KubeError::Unconfigured(self.0.clone());
        Box::pin(async move { Err(error) })
    }
}

impl Kubernetes for Absent {
    fn version(&self) -> BoxFuture<'_, Result<(), KubeError>> {
        self.refuse()
    }
    fn node(&self) -> BoxFuture<'_, Result<NodeFacts, KubeError>> {
        self.refuse()
    }
    fn node_other_than<'a>(&'a self, _: Option<&'a NodeFacts>) -> BoxFuture<'a, NodeFacts> {
        Box::pin(std::future::pending())
    }
    fn eni_config<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<EniConfig, KubeError>> {
        self.refuse()
    }
    fn announce<'a>(&'a self, _: &'a Feature) -> BoxFuture<'a, Result<Announced, KubeError>> {
        self.refuse()
    }
    fn pod<'a>(&'a self, _: &'a PodName) -> BoxFuture<'a, Result<PodFacts, KubeError>> {
        self.refuse()
    }
    fn annotate<'a>(&'a self, _: &'a PodName, _: IpAddr) -> BoxFuture<'a, Result<(), KubeError>> {
        self.refuse()
    }
    fn clear_annotation<'a>(&'a self, _: &'a PodName, _: IpAddr) -> BoxFuture<'a, Result<(), KubeError>> {
        self.refuse()
    }
    fn missing_permission<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), KubeError>> {
        self.refuse()
    }
}
