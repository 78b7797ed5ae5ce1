//! A daemon in the test's own process: it gives a pod the same addresses until its DEL, as ipamd does.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use reservoir_rpc::cni_backend_server::{CniBackend, CniBackendServer};
use reservoir_rpc::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, IpAllocationMetadata, UNKNOWN_POD,
};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// Serves until dropped.
pub struct Daemon {
    pub socket: PathBuf,
    known: Arc<Mutex<BTreeSet<String>>>,
    runtime: Option<Runtime>,
    _directory: TempDir,
}

impl Daemon {
    /// Gives these addresses with these route tables, or the first with a branch interface of this vlan.
    pub fn new(addresses: &[(&str, i32)], vlan: Option<i32>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("ipamd.sock");
        let known = Arc::new(Mutex::new(BTreeSet::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(async { UnixListener::bind(&socket) }).unwrap();
        let backend = Backend {
            entries: addresses.iter().map(|&(a, table)| entry(a, table)).collect(),
            known: Arc::clone(&known),
            vlan: vlan.unwrap_or(0),
        };
        let server = tonic::transport::Server::builder().add_service(CniBackendServer::new(backend));
        runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        Self { socket, known, runtime: Some(runtime), _directory: directory }
    }

    /// Loses its memory.
    pub fn forget(&self) {
        self.known.lock().unwrap().clear();
    }

    /// As after the ADD of [`crate::world::World`]'s pod.
    pub fn remember(&self) {
        self.known.lock().unwrap().insert("c1".to_owned());
    }

    /// Pods that have addresses.
    pub fn pods(&self) -> usize {
        self.known.lock().unwrap().len()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn entry(address: &str, route_table_id: i32) -> IpAllocationMetadata {
    let (ipv4_addr, ipv6_addr) = if address.contains(':') { ("", address) } else { (address, "") };
    IpAllocationMetadata {
        ipv4_addr: ipv4_addr.to_owned(),
        ipv6_addr: ipv6_addr.to_owned(),
        device_number: i32::from(route_table_id != 254),
        route_table_id,
    }
}

struct Backend {
    entries: Vec<IpAllocationMetadata>,
    known: Arc<Mutex<BTreeSet<String>>>,
    vlan: i32,
}

#[tonic::async_trait]
impl CniBackend for Backend {
    async fn add_network(&self, request: Request<AddNetworkRequest>) -> Result<Response<AddNetworkReply>, Status> {
        self.known.lock().unwrap().insert(request.into_inner().container_id);
        let ip_allocation_metadata = self.entries.clone();
        let is_v4 = ip_allocation_metadata.iter().all(|entry| entry.ipv6_addr.is_empty());
        Ok(Response::new(AddNetworkReply {
            success: true,
            ip_allocation_metadata,
            pod_vlan_id: self.vlan,
            pod_eni_mac: "02:00:00:00:00:77".to_owned(),
            pod_eni_subnet_gw: if is_v4 { "10.0.96.1" } else { "fe80:ec2::1" }.to_owned(),
            // The loopback interface: whether there is such a trunk is the kernel's to say.
            parent_if_index: 1,
            ..Default::default()
        }))
    }

    async fn del_network(&self, request: Request<DelNetworkRequest>) -> Result<Response<DelNetworkReply>, Status> {
        if !self.known.lock().unwrap().remove(&request.into_inner().container_id) {
            return Err(Status::not_found(format!("1 error occurred:\n\t* {UNKNOWN_POD}\n\n")));
        }
        let ip_allocation_metadata = self.entries.clone();
        let pod_vlan_id = self.vlan;
        Ok(Response::new(DelNetworkReply { success: true, ip_allocation_metadata, pod_vlan_id, ..Default::default() }))
    }
}
