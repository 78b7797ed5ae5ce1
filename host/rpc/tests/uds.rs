//! Generated client and server, and errors, over a unix socket.

use std::time::Duration;

use reservoir_rpc::cni_backend_client::CniBackendClient;
use reservoir_rpc::cni_backend_server::{CniBackend, CniBackendServer};
use reservoir_rpc::{AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, uds};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

struct Backend;

#[tonic::async_trait]
impl CniBackend for Backend {
    async fn add_network(&self, request: Request<AddNetworkRequest>) -> Result<Response<AddNetworkReply>, Status> {
        let mode = request.into_inner().container_id;
        Ok(Response::new(AddNetworkReply { success: true, network_policy_mode: mode, ..Default::default() }))
    }

    async fn del_network(&self, _: Request<DelNetworkRequest>) -> Result<Response<DelNetworkReply>, Status> {
        Err(Status::unknown("1 error occurred:\n\t* datastore: unknown pod\n\n"))
    }
}

fn serve(path: &std::path::Path) -> tokio::task::JoinHandle<Result<(), tonic::transport::Error>> {
    let listener = UnixListener::bind(path).unwrap();
    let server = tonic::transport::Server::builder().add_service(CniBackendServer::new(Backend));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)))
}

#[tokio::test]
async fn calls_and_errors_cross_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipamd.sock");
    let server = serve(&path);

    let connection = uds::connect(&path, Duration::from_secs(5)).await.unwrap();
    let mut client = CniBackendClient::new(connection);
    let request = AddNetworkRequest { container_id: "c1".into(), ..Default::default() };
    assert_eq!(client.add_network(request).await.unwrap().into_inner().network_policy_mode, "c1");

    let status = client.del_network(DelNetworkRequest::default()).await.expect_err("the server refuses");
    assert_eq!(status.code(), tonic::Code::Unknown);
    // Newlines and tab survive the percent-encoding of the status header (spec 02 §2.4).
    assert_eq!(status.message(), "1 error occurred:\n\t* datastore: unknown pod\n\n");
    assert!(status.message().contains(reservoir_rpc::UNKNOWN_POD));
    server.abort();
}

#[tokio::test]
async fn a_server_that_does_not_speak_ends_at_the_callers_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mute.sock");
    let _listener = UnixListener::bind(&path).unwrap();

    let connection = uds::connect(&path, Duration::from_secs(5)).await.expect("the kernel accepts for it");
    let mut client = CniBackendClient::new(connection);
    let call = client.add_network(AddNetworkRequest::default());
    assert!(tokio::time::timeout(Duration::from_millis(100), call).await.is_err());
}

#[tokio::test]
async fn a_socket_without_server_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dead.sock");
    drop(UnixListener::bind(&path).unwrap());

    let error = uds::connect(&path, Duration::from_secs(5)).await.expect_err("nobody listens");
    assert!(matches!(error, uds::ConnectError::Dial { .. }), "{error}");
    assert!(error.to_string().ends_with("connect: connection refused\""), "{error}");
}
