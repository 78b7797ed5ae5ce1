//! The daemon's gRPC as the plugin calls it, without a plugin.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reservoir_rpc::cni_backend_client::CniBackendClient;
use reservoir_rpc::{AddNetworkRequest, DelNetworkRequest, REASON_POD_DELETED, UNKNOWN_POD, VERSION, reason, uds};
use tonic::{Code, Request};

/// A client that dials anew for each call, as a plugin does.
#[derive(Debug, Clone)]
pub struct Backend {
    socket: PathBuf,
    /// What the caller grants a call.
    pub deadline: Duration,
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    Done(T),
    /// The daemon says no, and why.
    Refused(String),
    /// Nobody knows whether it happened.
    NoAnswer(String),
}

/// What DEL gave back: address and route table; none if the daemon did not know the pod.
pub type Freed = Option<(Ipv4Addr, i32)>;

impl Backend {
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), deadline: Duration::from_secs(15) }
    }

    async fn client(&self) -> Result<CniBackendClient<uds::Connection>, String> {
        let connection = uds::connect(&self.socket, Duration::from_secs(2)).await.map_err(|error| error.to_string())?;
        Ok(CniBackendClient::new(connection))
    }

    /// ADD of the pod `name` in the namespace `default`.
    pub async fn add(&self, container: &str, name: &str) -> Outcome<Ipv4Addr> {
        let mut client = match self.client().await {
            Ok(client) => client,
            Err(error) => return Outcome::NoAnswer(error),
        };
        let request = AddNetworkRequest {
            k8s_pod_name: name.to_owned(),
            k8s_pod_namespace: "default".to_owned(),
            k8s_pod_infra_container_id: container.to_owned(),
            netns: format!("/var/run/netns/{name}"),
            if_name: "eth0".to_owned(),
            network_name: "aws-cni".to_owned(),
            container_id: container.to_owned(),
            client_version: VERSION.to_owned(),
            requires_multi_nic_attachment: false,
        };
        let mut request = Request::new(request);
        request.set_timeout(self.deadline);
        match tokio::time::timeout(self.deadline, client.add_network(request)).await {
            Err(_) => Outcome::NoAnswer("no answer in time".to_owned()),
            Ok(Err(status)) => Outcome::NoAnswer(status.to_string()),
            Ok(Ok(response)) => {
                let why = reason::read(response.metadata());
                let reply = response.into_inner();
                if !reply.success {
                    return Outcome::Refused(why.unwrap_or_else(|| "no reason given".to_owned()));
                }
                let address = reply.ip_allocation_metadata.first().map(|m| m.ipv4_addr.clone()).unwrap_or_default();
                match address.parse() {
                    Ok(address) => Outcome::Done(address),
                    Err(_) => Outcome::Refused(format!("a reply without an address: {reply:?}")),
                }
            }
        }
    }

    /// DEL of the same.
    pub async fn del(&self, container: &str, name: &str) -> Outcome<Freed> {
        let mut client = match self.client().await {
            Ok(client) => client,
            Err(error) => return Outcome::NoAnswer(error),
        };
        let request = DelNetworkRequest {
            k8s_pod_name: name.to_owned(),
            k8s_pod_namespace: "default".to_owned(),
            k8s_pod_infra_container_id: container.to_owned(),
            reason: REASON_POD_DELETED.to_owned(),
            if_name: "eth0".to_owned(),
            network_name: "aws-cni".to_owned(),
            container_id: container.to_owned(),
            client_version: VERSION.to_owned(),
            k8s_pod_uid: format!("u-{name}"),
        };
        match tokio::time::timeout(self.deadline, client.del_network(Request::new(request))).await {
            Err(_) => Outcome::NoAnswer("no answer in time".to_owned()),
            Ok(Err(status)) if status.code() == Code::NotFound || status.message().contains(UNKNOWN_POD) => {
                Outcome::Done(None)
            }
            Ok(Err(status)) => Outcome::NoAnswer(status.to_string()),
            Ok(Ok(response)) => {
                let first = response.into_inner().ip_allocation_metadata.into_iter().next();
                Outcome::Done(first.and_then(|m| Some((m.ipv4_addr.parse().ok()?, m.route_table_id))))
            }
        }
    }
}
