//! A client of `grpc.health.v1.Health` for one question: does it serve?

use http::uri::PathAndQuery;
use tonic::Status;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use crate::uds::Connection;

#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CheckReply {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `ServingStatus.SERVING`
const SERVING: i32 = 1;

/// Whether `service` serves; the empty name stands for the whole server.
///
/// # Errors
/// The call fails; `NOT_FOUND` for a service the server does not know.
pub async fn check(connection: Connection, service: &str) -> Result<bool, Status> {
    let mut client = Grpc::new(connection);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let request = tonic::Request::new(CheckRequest { service: service.to_owned() });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let reply: tonic::Response<CheckReply> = client.unary(request, path, ProstCodec::default()).await?;
    Ok(reply.into_inner().status == SERVING)
}
