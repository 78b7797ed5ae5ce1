//! The daemon's gRPC as the plugin calls it, without a plugin.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reservoir_rpc::cni_backend_client::CniBackendClient;
use reservoir_rpc::{
    AddNetworkRequest, DelNetworkRequest, IpAllocationMetadata, REASON_POD_DELETED, UNKNOWN_POD, VERSION, reason, uds,
};
use tonic::{Code, Request};

/// A client that dials anew for each call, as a plugin does.
#[derive(Debug, Clone)]
pub struct Backend {
    socket: PathBuf,
    /// What the caller grants a call.
    pub deadline: Duration,
    /// Its pods ask for an address on every card.
    pub multi_nic: bool,
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

/// What DEL gave back: addresses with their route tables; none if the daemon did not know the pod.
pub type Freed = Vec<(IpAddr, i32)>;

impl Backend {
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), deadline: Duration::from_secs(45), multi_nic: false }
    }

    async fn client(&self) -> Result<CniBackendClient<uds::Connection>, String> {
        let connection = uds::connect(&self.socket, Duration::from_secs(2)).await.map_err(|error| error.to_string())?;
        Ok(CniBackendClient::new(connection))
    }

    /// ADD of the pod `name` in the namespace `default`: its addresses, at least one.
    pub async fn add(&self, container: &str, name: &str) -> Outcome<Vec<IpAddr>> {
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
            requires_multi_nic_attachment: self.multi_nic,
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
                let addresses: Option<Vec<IpAddr>> = reply.ip_allocation_metadata.iter().map(address).collect();
                match addresses.filter(|all| !all.is_empty()) {
                    Some(addresses) => Outcome::Done(addresses),
                    None => Outcome::Refused(format!("a reply without an address: {reply:?}")),
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
                Outcome::Done(Freed::new())
            }
            Ok(Err(status)) => Outcome::NoAnswer(status.to_string()),
            Ok(Ok(response)) => {
                let entries = response.into_inner().ip_allocation_metadata;
                Outcome::Done(entries.iter().filter_map(|m| Some((address(m)?, m.route_table_id))).collect())
            }
        }
    }
}

fn address(entry: &IpAllocationMetadata) -> Option<IpAddr> {
    let text = if entry.ipv4_addr.is_empty() { &entry.ipv6_addr } else { &entry.ipv4_addr };
    text.parse().ok()
}
