//! The daemon's gRPC services: CNIBackend, ConfigServerBackend, health and reflection (spec 02 §2–§4).

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

mod branch;

use reservoir_core::ip::Ipv4Net;
use reservoir_core::manager::Wanted;
use reservoir_core::store::{Error as StoreError, Key, PodMeta, Released};
use reservoir_kube::PodName;
use reservoir_rpc as rpc;
use rpc::cni_backend_server::{CniBackend, CniBackendServer};
use rpc::config_server_backend_server::{ConfigServerBackend, ConfigServerBackendServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};

use crate::metrics::DelReason;
use crate::pool::{AddError, DelError, Pool};
use crate::recovery;
use crate::vpc::Vpc;

/// What the replies carry beside the address, and what ADD and DEL do beside the pool.
#[derive(Debug, Clone)]
pub struct Facts {
    pub external_snat: bool,
    /// The blocks of AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS, told after the VPC's (spec 02 §3.4).
    pub excluded_from_snat: Vec<Ipv4Net>,
    /// The VPC's blocks of the pods' family.
    pub vpc: Arc<Vpc>,
    pub ipv6: bool,
    /// Verbatim from NETWORK_POLICY_ENFORCING_MODE; empty if not set.
    pub network_policy_mode: String,
    pub multi_nic: bool,
    /// ENABLE_POD_ENI: every pod is looked at before it gets an address (spec 02 §3.2).
    pub pod_eni: bool,
    /// How long an ADD may wait for a branch interface that is to come.
    pub add_wait: Duration,
    /// ANNOTATE_POD_IP.
    pub annotate: bool,
    /// Of the pods' family; empty if not known.
    pub node_ip: String,
    pub instance_id: String,
    pub region: String,
}

impl Facts {
    /// The reply's `VPCv4CIDRs`, `VPCv6CIDRs` and `UseExternalSNAT` (spec 02 §3.4).
    fn context(&self) -> (Vec<String>, Vec<String>, bool) {
        let mut blocks: Vec<String> = self.vpc.blocks().iter().map(ToString::to_string).collect();
        if self.ipv6 {
            return (Vec::new(), blocks, false);
        }
        if !self.external_snat {
            blocks.extend(self.excluded_from_snat.iter().map(ToString::to_string));
        }
        (blocks, Vec::new(), self.external_snat)
    }
}

/// The services of one daemon.
#[derive(Debug, Clone)]
pub struct Service {
    pool: Arc<Pool>,
    facts: Arc<Facts>,
}

impl Service {
    #[must_use]
    pub fn new(pool: Arc<Pool>, facts: Facts) -> Self {
        Self { pool, facts: Arc::new(facts) }
    }
}

/// The version gate (spec 02 §2.3).
fn same_version(client: &str) -> Result<(), Status> {
    if client == rpc::VERSION {
        Ok(())
    } else {
        Err(Status::failed_precondition(rpc::wrong_version(client, rpc::VERSION)))
    }
}

#[tonic::async_trait]
impl CniBackend for Service {
    async fn add_network(
        &self,
        request: Request<rpc::AddNetworkRequest>,
    ) -> Result<Response<rpc::AddNetworkReply>, Status> {
        let r = request.into_inner();
        self.pool.metrics().add_request();
        tracing::debug!(
            namespace = r.k8s_pod_namespace,
            pod = r.k8s_pod_name,
            sandbox = r.container_id,
            interface = r.if_name,
            netns = r.netns,
            "AddNetwork"
        );
        same_version(&r.client_version)?;
        let refused = |why: &str| {
            tracing::warn!(
                namespace = r.k8s_pod_namespace,
                pod = r.k8s_pod_name,
                sandbox = r.container_id,
                "no address: {why}"
            );
            // A soft failure, as the reference answers (spec 02 §2.4); old plugins see just that. The reason travels in
            // a header that ours tells the runtime.
            let mut response = Response::new(rpc::AddNetworkReply::default());
            rpc::reason::write(response.metadata_mut(), why);
            Ok(response)
        };
        if self.facts.pod_eni {
            match self.branch_of(&r).await {
                Ok(Some(found)) => return Ok(self.add_branch(&r, found).await),
                Ok(None) => {}
                Err(why) => return refused(&why),
            }
        }
        for (name, value) in
            [("ContainerID", &r.container_id), ("IfName", &r.if_name), ("NetworkName", &r.network_name)]
        {
            if value.is_empty() {
                return refused(&format!("the request's {name} is empty"));
            }
        }
        if r.requires_multi_nic_attachment && !self.facts.multi_nic {
            return refused("the pod asks for several network cards and ENABLE_MULTI_NIC is not set");
        }
        let key = Key::new(r.network_name.as_str(), r.container_id.as_str(), r.if_name.as_str());
        let pod = PodMeta { namespace: r.k8s_pod_namespace.clone(), name: r.k8s_pod_name.clone(), interfaces: 1 };
        let wanted = if r.requires_multi_nic_attachment { Wanted::EveryCard } else { Wanted::One };
        let assigned = match self.pool.add(&key, &pod, wanted).await {
            Ok(assigned) => assigned,
            Err(error @ (AddError::Refused(_) | AddError::Checkpoint(_))) => return refused(&error.to_string()),
        };
        for one in &assigned {
            tracing::info!(
                namespace = r.k8s_pod_namespace,
                pod = r.k8s_pod_name,
                sandbox = r.container_id,
                ip = %one.ip,
                card = one.card,
                device = one.device_index,
                "address assigned"
            );
        }
        let addresses = rpc::AddNetworkReply {
            ip_allocation_metadata: assigned.iter().map(|a| metadata(a.ip, a.device_index, a.table)).collect(),
            ..rpc::AddNetworkReply::default()
        };
        Ok(self.reply(&r, addresses, assigned.first().map(|a| a.ip)).await)
    }

    async fn del_network(
        &self,
        request: Request<rpc::DelNetworkRequest>,
    ) -> Result<Response<rpc::DelNetworkReply>, Status> {
        let r = request.into_inner();
        self.pool.metrics().del_request(DelReason::of(&r.reason));
        tracing::debug!(
            namespace = r.k8s_pod_namespace,
            pod = r.k8s_pod_name,
            sandbox = r.container_id,
            interface = r.if_name,
            reason = r.reason,
            "DelNetwork"
        );
        same_version(&r.client_version)?;
        let key = Key::new(r.network_name.as_str(), r.container_id.as_str(), r.if_name.as_str());
        let released = match self.release(&key, &r).await {
            Ok(released) => released,
            Err(error) => {
                if !matches!(error, DelError::Store(StoreError::UnknownPod)) {
                    return Err(failed(Code::Unknown, &error));
                }
                let unknown = failed(Code::NotFound, &error);
                return if self.facts.pod_eni { self.del_branch(&r, unknown).await } else { Err(unknown) };
            }
        };
        for one in &released {
            tracing::info!(
                namespace = r.k8s_pod_namespace,
                pod = r.k8s_pod_name,
                sandbox = r.container_id,
                ip = %one.ip,
                card = one.card,
                "address released"
            );
        }
        if let Some(first) = released.first().filter(|_| self.facts.annotate) {
            let pod = PodName::new(r.k8s_pod_namespace.as_str(), r.k8s_pod_name.as_str());
            if let Err(error) = self.pool.kubernetes().clear_annotation(&pod, first.ip).await {
                // The address is free all the same; the plugin clears up by what it knows itself (spec 02 §4.1, §4.6).
                tracing::warn!(namespace = pod.namespace, pod = pod.name, "the pod's annotation stays: {error}");
                return Err(failed(Code::Unknown, &error));
            }
        }
        Ok(Response::new(rpc::DelNetworkReply {
            success: true,
            ip_allocation_metadata: released.iter().map(|a| metadata(a.ip, a.device_index, a.table)).collect(),
            network_policy_mode: self.facts.network_policy_mode.clone(),
            ..rpc::DelNetworkReply::default()
        }))
    }
}

/// The reference's text of an error list; plugins search in it (spec 02 §2.4).
fn failed(code: Code, error: &dyn std::fmt::Display) -> Status {
    Status::new(code, format!("1 error occurred:\n\t* {error}\n\n"))
}

impl Service {
    /// The whole reply to an ADD: what all pods are told, and the first address in the annotation (spec 02 §3.1 steps 6 to
    /// 8). Where that fails the reply is complete and tells of no success.
    async fn reply(
        &self,
        r: &rpc::AddNetworkRequest,
        addresses: rpc::AddNetworkReply,
        first: Option<IpAddr>,
    ) -> Response<rpc::AddNetworkReply> {
        let annotated = self.annotate(r, first).await;
        let (vpc_v4_cidrs, vpc_v6_cidrs, use_external_snat) = self.facts.context();
        let mut response = Response::new(rpc::AddNetworkReply {
            success: annotated.is_ok(),
            use_external_snat,
            vpc_v4_cidrs,
            vpc_v6_cidrs,
            network_policy_mode: self.facts.network_policy_mode.clone(),
            ..addresses
        });
        if let Err(why) = annotated {
            tracing::warn!(namespace = r.k8s_pod_namespace, pod = r.k8s_pod_name, sandbox = r.container_id, "{why}");
            rpc::reason::write(response.metadata_mut(), &why);
        }
        response
    }

    /// Shows the pod's address in its annotation, if that is asked for (spec 02 §11.4).
    async fn annotate(&self, r: &rpc::AddNetworkRequest, address: Option<IpAddr>) -> Result<(), String> {
        let (true, Some(address)) = (self.facts.annotate, address) else { return Ok(()) };
        let pod = PodName::new(r.k8s_pod_namespace.as_str(), r.k8s_pod_name.as_str());
        let annotated = self.pool.kubernetes().annotate(&pod, address).await;
        annotated.map_err(|e| format!("the pod's address {address} cannot be shown in its annotation: {e}"))
    }

    async fn release(&self, key: &Key, r: &rpc::DelNetworkRequest) -> Result<Vec<Released>, DelError> {
        let result = self.pool.del(key).await;
        let entries = match &result {
            // The plugin may report success all the same: what stays taken is looked at when the pod is gone.
            Err(DelError::Checkpoint(_)) => vec![key.clone()],
            // A pod whose entry was rebuilt from the host has another key, one for each of its interfaces. This may also be
            // the late DEL of an older sandbox of its name, so the entry goes only when the veth has gone.
            Err(DelError::Store(StoreError::UnknownPod)) => {
                let cards = self.pool.look(|manager, _| manager.cards().len());
                recovery::keys(&r.k8s_pod_namespace, &r.k8s_pod_name, cards)
            }
            _ => return result,
        };
        let held = |entry: &Key| self.pool.look(|manager, _| manager.lookup(entry));
        let pod = |entry: &Key, ip| recovery::Unproven::of(entry, ip, &r.k8s_pod_namespace, &r.k8s_pod_name);
        let unproven = entries.iter().flat_map(|entry| held(entry).into_iter().map(move |held| (entry, held.ip)));
        recovery::look_again(&self.pool, unproven.map(|(entry, ip)| pod(entry, ip)).collect());
        result
    }
}

/// An address of the pool.
fn metadata(ip: IpAddr, device: u32, table: u32) -> rpc::IpAllocationMetadata {
    rpc::IpAllocationMetadata {
        device_number: i32::try_from(device).unwrap_or(i32::MAX),
        route_table_id: i32::try_from(table).unwrap_or(i32::MAX),
        ..address(ip)
    }
}

/// An address in the field of its family.
fn address(ip: IpAddr) -> rpc::IpAllocationMetadata {
    let (ipv4_addr, ipv6_addr) = match ip {
        IpAddr::V4(a) => (a.to_string(), String::new()),
        IpAddr::V6(a) => (String::new(), a.to_string()),
    };
    rpc::IpAllocationMetadata { ipv4_addr, ipv6_addr, ..rpc::IpAllocationMetadata::default() }
}

#[tonic::async_trait]
impl ConfigServerBackend for Service {
    async fn get_network_policy_configs(
        &self,
        _: Request<()>,
    ) -> Result<Response<rpc::NetworkPolicyAgentConfigReply>, Status> {
        let facts = &self.facts;
        Ok(Response::new(rpc::NetworkPolicyAgentConfigReply {
            network_policy_mode: facts.network_policy_mode.clone(),
            multi_nic_enabled: facts.multi_nic,
            node_ipv4: if facts.ipv6 { String::new() } else { facts.node_ip.clone() },
            node_ipv6: if facts.ipv6 { facts.node_ip.clone() } else { String::new() },
            instance_id: facts.instance_id.clone(),
            region: facts.region.clone(),
        }))
    }
}

/// Listens on a unix socket that only root may open, from its first instant on (spec 02 §2.1, W1).
///
/// # Errors
/// Those of the file system.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o117));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves until `shutdown` ends; calls under way then finish, health says NOT_SERVING first. Health says SERVING once
/// `ready` ends: the node's entrypoint waits for it before it tells the kubelet of the plugin. Calls are answered before.
///
/// # Errors
/// Those of the transport.
pub async fn serve(
    listener: UnixListener,
    service: Service,
    ready: impl Future<Output = ()> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (health, health_service) = tonic_health::server::health_reporter();
    for name in rpc::HEALTH_SERVICES {
        health.set_service_status(name, tonic_health::ServingStatus::NotServing).await;
    }
    let reporter = health.clone();
    let readying = tokio::spawn(async move {
        ready.await;
        for name in rpc::HEALTH_SERVICES {
            reporter.set_service_status(name, tonic_health::ServingStatus::Serving).await;
        }
    });
    let v1 = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(rpc::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let v1alpha = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(rpc::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1alpha()?;
    let ending = async move {
        shutdown.await;
        readying.abort();
        for name in rpc::HEALTH_SERVICES {
            health.set_service_status(name, tonic_health::ServingStatus::NotServing).await;
        }
    };
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(300)))
        .add_service(CniBackendServer::new(service.clone()))
        .add_service(ConfigServerBackendServer::new(service))
        .add_service(health_service)
        .add_service(v1)
        .add_service(v1alpha)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), ending)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
