//! The calls over unix sockets. The runtime and a connection come into being with the first call: VERSION pays for
//! neither.

use std::cell::RefCell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reservoir_rpc::cni_backend_client::CniBackendClient;
use reservoir_rpc::np_backend_client::NpBackendClient;
use reservoir_rpc::uds::{self, Connection};
use reservoir_rpc::{
    AddNetworkRequest, DelNetworkReply, DelNetworkRequest, DeleteNpRequest, EnforceNpRequest, NPA_SOCKET, health,
    reason,
};
use tokio::runtime::{Builder, Runtime};
use tonic::{Code, Request, Response, Status};

use crate::peers::{AddAnswer, Peers, RpcError};

/// A unix socket answers at once or hardly ever (spec 04 §1 for the network policy agent).
const CONNECT: Duration = Duration::from_secs(2);
/// ipamd lets a pod wait for an address that is on its way, within a bound of its own; this one is for an ipamd that
/// hangs. A runtime gives a pod two minutes or more.
const ADD: Duration = Duration::from_secs(90);
/// Releasing waits for one write of the checkpoint.
const DEL: Duration = Duration::from_secs(10);
/// The network policy agent loads its filters within this.
const POLICY: Duration = Duration::from_secs(10);
/// Health is answered from memory.
const HEALTH: Duration = Duration::from_secs(2);

/// Calls by gRPC.
#[derive(Debug)]
pub struct Grpc {
    agent: PathBuf,
    agent_deadline: Duration,
    runtime: RefCell<Option<Runtime>>,
}

impl Default for Grpc {
    fn default() -> Self {
        Self::with_agent(NPA_SOCKET, POLICY)
    }
}

impl Grpc {
    /// With a network policy agent that listens elsewhere, and has this long to answer.
    pub fn with_agent(socket: impl Into<PathBuf>, deadline: Duration) -> Self {
        Self { agent: socket.into(), agent_deadline: deadline, runtime: RefCell::default() }
    }

    /// Connects and calls, each within its deadline, which the server is told too.
    fn call<Q, A, F>(
        &self,
        socket: &Path,
        deadline: Duration,
        request: Q,
        method: impl FnOnce(Connection, Request<Q>) -> F,
    ) -> Result<Response<A>, RpcError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut runtime = self.runtime.borrow_mut();
        let runtime = match &mut *runtime {
            Some(runtime) => runtime,
            empty => empty.insert(Builder::new_current_thread().enable_all().build().map_err(|error| RpcError {
                code: Code::Internal,
                message: format!("cannot start the I/O runtime: {error}"),
            })?),
        };
        runtime.block_on(async {
            let connection =
                uds::connect(socket, CONNECT).await.map_err(|error| RpcError::unavailable(error.to_string()))?;
            let mut request = Request::new(request);
            request.set_timeout(deadline);
            match tokio::time::timeout(deadline, method(connection, request)).await {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(status)) => Err(RpcError { code: status.code(), message: status.message().to_owned() }),
                Err(_) => {
                    Err(RpcError { code: Code::DeadlineExceeded, message: format!("no answer within {deadline:?}") })
                }
            }
        })
    }
}

impl Peers for Grpc {
    fn add_network(&self, socket: &Path, request: AddNetworkRequest) -> Result<AddAnswer, RpcError> {
        let response = self.call(socket, ADD, request, |connection, request| async move {
            CniBackendClient::new(connection).add_network(request).await
        })?;
        let reason = reason::read(response.metadata());
        Ok(AddAnswer { reply: response.into_inner(), reason })
    }

    fn del_network(&self, socket: &Path, request: DelNetworkRequest) -> Result<DelNetworkReply, RpcError> {
        self.call(socket, DEL, request, |connection, request| async move {
            CniBackendClient::new(connection).del_network(request).await
        })
        .map(Response::into_inner)
    }

    fn serving(&self, socket: &Path) -> Result<bool, RpcError> {
        self.call(
            socket,
            HEALTH,
            (),
            |connection, _| async move { health::check(connection, "").await.map(Response::new) },
        )
        .map(Response::into_inner)
    }

    fn enforce_policy(&self, request: EnforceNpRequest) -> Result<bool, RpcError> {
        self.call(&self.agent, self.agent_deadline, request, |connection, request| async move {
            NpBackendClient::new(connection).enforce_np_to_pod(request).await
        })
        .map(|response| response.into_inner().success)
    }

    fn delete_policy(&self, request: DeleteNpRequest) -> Result<bool, RpcError> {
        self.call(&self.agent, self.agent_deadline, request, |connection, request| async move {
            NpBackendClient::new(connection).delete_pod_np(request).await
        })
        .map(|response| response.into_inner().success)
    }
}
