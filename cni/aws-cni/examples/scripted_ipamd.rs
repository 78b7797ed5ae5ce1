//! `scripted_ipamd SOCKET ADDRESS TABLE`: a daemon that gives every pod the same address, for tests of the plugin with
//! real CNI machinery. It knows a pod from its ADD to its DEL, refuses other versions, and serves health.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use reservoir_rpc::cni_backend_server::{CniBackend, CniBackendServer};
use reservoir_rpc::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, IpAllocationMetadata, UNKNOWN_POD, VERSION,
    wrong_version,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

struct Backend {
    entry: IpAllocationMetadata,
    pods: Arc<Mutex<BTreeSet<String>>>,
}

#[tonic::async_trait]
impl CniBackend for Backend {
    async fn add_network(&self, request: Request<AddNetworkRequest>) -> Result<Response<AddNetworkReply>, Status> {
        let request = request.into_inner();
        println!("{request:?}");
        if request.client_version != VERSION {
            return Err(Status::failed_precondition(wrong_version(&request.client_version, VERSION)));
        }
        self.pods.lock().map_err(|e| Status::internal(e.to_string()))?.insert(request.container_id);
        let ip_allocation_metadata = vec![self.entry.clone()];
        Ok(Response::new(AddNetworkReply { success: true, ip_allocation_metadata, ..Default::default() }))
    }

    async fn del_network(&self, request: Request<DelNetworkRequest>) -> Result<Response<DelNetworkReply>, Status> {
        let request = request.into_inner();
        println!("{request:?}");
        if !self.pods.lock().map_err(|e| Status::internal(e.to_string()))?.remove(&request.container_id) {
            return Err(Status::not_found(format!("1 error occurred:\n\t* {UNKNOWN_POD}\n\n")));
        }
        let ip_allocation_metadata = vec![self.entry.clone()];
        Ok(Response::new(DelNetworkReply { success: true, ip_allocation_metadata, ..Default::default() }))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, address, table] = arguments.as_slice() else {
        return Err("usage: scripted_ipamd SOCKET ADDRESS TABLE".into());
    };
    let entry = IpAllocationMetadata {
        ipv4_addr: address.clone(),
        ipv6_addr: String::new(),
        device_number: if table == "254" { 0 } else { 1 },
        route_table_id: table.parse()?,
    };
    let listener = UnixListener::bind(PathBuf::from(socket))?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    tonic::transport::Server::builder()
        .add_service(health_service)
        .add_service(CniBackendServer::new(Backend { entry, pods: Arc::default() }))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await?;
    Ok(())
}
