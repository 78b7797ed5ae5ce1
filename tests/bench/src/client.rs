//! The daemon's gRPC calls as a container runtime's plugin makes them, over connections that stay open.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use reservoir_rpc::cni_backend_client::CniBackendClient;
use reservoir_rpc::uds::{Connection, connect};
use reservoir_rpc::{AddNetworkRequest, DelNetworkRequest, REASON_POD_DELETED, VERSION, health};

/// One connection.
#[derive(Debug, Clone)]
pub struct Client {
    connection: Connection,
    calls: CniBackendClient<Connection>,
}

impl Client {
    /// # Errors
    /// Nobody listens.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let connection = connect(socket, Duration::from_secs(2)).await?;
        Ok(Self { calls: CniBackendClient::new(connection.clone()), connection })
    }

    /// An empty call.
    ///
    /// # Errors
    /// The call's, or the daemon does not serve.
    pub async fn health(&self) -> Result<()> {
        if health::check(self.connection.clone(), "").await? { Ok(()) } else { bail!("the daemon does not serve yet") }
    }

    /// # Errors
    /// The call's, or the pod gets no address.
    pub async fn add(&mut self, pod: &str) -> Result<()> {
        let request = AddNetworkRequest {
            k8s_pod_name: pod.to_owned(),
            k8s_pod_namespace: "default".to_owned(),
            k8s_pod_infra_container_id: container(pod),
            netns: format!("/var/run/netns/cni-{pod}"),
            if_name: "eth0".to_owned(),
            network_name: "aws-cni".to_owned(),
            container_id: container(pod),
            client_version: VERSION.to_owned(),
            requires_multi_nic_attachment: false,
        };
        let response = self.calls.add_network(request).await?;
        if !response.get_ref().success {
            let why = reservoir_rpc::reason::read(response.metadata()).unwrap_or_default();
            bail!("{pod} got no address: {why}");
        }
        Ok(())
    }

    /// # Errors
    /// The call's.
    pub async fn del(&mut self, pod: &str) -> Result<()> {
        let request = DelNetworkRequest {
            k8s_pod_name: pod.to_owned(),
            k8s_pod_namespace: "default".to_owned(),
            k8s_pod_infra_container_id: container(pod),
            reason: REASON_POD_DELETED.to_owned(),
            if_name: "eth0".to_owned(),
            network_name: "aws-cni".to_owned(),
            container_id: container(pod),
            client_version: VERSION.to_owned(),
            k8s_pod_uid: String::new(),
        };
        self.calls.del_network(request).await?;
        Ok(())
    }
}

/// As long as containerd's.
fn container(pod: &str) -> String {
    format!("{pod:0>64}")
}

/// Runs calls on this thread.
///
/// # Errors
/// The work's, or there is no runtime.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
