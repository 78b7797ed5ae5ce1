//! An API server in a node's namespace: the daemon reaches it on its own loopback.

use std::path::Path;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
pub use reservoir_kube::testing::Objects;
use reservoir_kube::testing::{ENI_CONFIGS, NODES, Server};
use serde_json::json;
use tokio::sync::oneshot;

use crate::traffic;

/// Ends when it is dropped; the objects stay with whoever has a clone of them.
#[derive(Debug)]
pub struct Cluster {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Cluster {
    /// Serves the objects inside the namespace and writes a kubeconfig that leads there.
    ///
    /// # Errors
    /// Those of the namespace, the socket and the file.
    pub fn start(netns: &str, kubeconfig: &Path, objects: Objects) -> Result<Self> {
        let (end, ended) = oneshot::channel();
        let (ready, serves) = std::sync::mpsc::channel();
        let kubeconfig = kubeconfig.to_owned();
        let thread = traffic::start(netns, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let server = Server::start(objects).await?;
                server.write_kubeconfig(&kubeconfig)?;
                ready.send(())?;
                // An error is the other side's end, which is what is waited for.
                let _ = ended.await;
                Ok(())
            })
        });
        if serves.recv().is_err() {
            let ended = thread.join().map_err(|_| anyhow!("the API server's thread panicked"))?;
            ended.context("an API server")?;
            return Err(anyhow!("the API server ended at once"));
        }
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Dropping the sender ends it.
        self.end.take();
        if let Some(thread) = self.thread.take() {
            // What it has to say concerns nobody any more.
            let _ = thread.join();
        }
    }
}

/// The node `node-1` in a zone, as the kubelet registers it.
pub fn put_node(objects: &Objects, zone: &str, max_pods: u32) {
    objects.put(
        NODES,
        json!({"metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": zone}},
            "status": {"capacity": {"pods": max_pods.to_string()}}}),
    );
}

/// The subnet for pods of the simulated accounts that have one, and the second security group.
pub const PODS_SUBNET: &str = "subnet-0e8d6c4b2a0f97531";
pub const PODS_GROUP: &str = "sg-0f2a3b4c5d6e7f809";

/// A node, and an ENIConfig of its zone's name that leads to [`PODS_SUBNET`] with [`PODS_GROUP`].
#[must_use]
pub fn with_eni_config(max_pods: u32) -> Objects {
    const ZONE: &str = "us-west-2a";
    let objects = Objects::new();
    put_node(&objects, ZONE, max_pods);
    put_eni_config(&objects, ZONE, PODS_SUBNET, &[PODS_GROUP]);
    objects
}

/// An ENIConfig: where the secondary interfaces of the nodes that it is for are made, with which groups.
pub fn put_eni_config(objects: &Objects, name: &str, subnet: &str, groups: &[&str]) {
    objects.put(ENI_CONFIGS, json!({"metadata": {"name": name}, "spec": {"subnet": subnet, "securityGroups": groups}}));
}
