//! Whom the plugin calls: ipamd and the network policy agent. [`crate::grpc::Grpc`] is the real thing.

use std::fmt;
use std::path::Path;

use reservoir_rpc::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, DeleteNpRequest, EnforceNpRequest,
};
use tonic::Code;

/// Calls to the services of `rpc.proto`. Each returns within a deadline (DW-5).
pub trait Peers {
    /// ipamd: addresses for a pod.
    ///
    /// # Errors
    /// The call itself failed.
    fn add_network(&self, socket: &Path, request: AddNetworkRequest) -> Result<AddAnswer, RpcError>;

    /// ipamd: gives a pod's addresses back.
    ///
    /// # Errors
    /// The call itself failed, or ipamd does not know the pod.
    fn del_network(&self, socket: &Path, request: DelNetworkRequest) -> Result<DelNetworkReply, RpcError>;

    /// ipamd: does it serve?
    ///
    /// # Errors
    /// Nobody answers.
    fn serving(&self, socket: &Path) -> Result<bool, RpcError>;

    /// Network policy agent: sets a new pod's default policy; false if it could not.
    ///
    /// # Errors
    /// The call itself failed.
    fn enforce_policy(&self, request: EnforceNpRequest) -> Result<bool, RpcError>;

    /// Network policy agent: forgets a pod; false if it could not.
    ///
    /// # Errors
    /// The call itself failed.
    fn delete_policy(&self, request: DeleteNpRequest) -> Result<bool, RpcError>;
}

/// ipamd's answer to AddNetwork.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AddAnswer {
    /// The reply.
    pub reply: AddNetworkReply,
    /// Why there is no address, in ipamd's words; only ours says.
    pub reason: Option<String>,
}

/// A call that did not succeed, printed as the reference prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// The status code.
    pub code: Code,
    /// The status message.
    pub message: String,
}

impl RpcError {
    /// Nobody is there.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { code: Code::Unavailable, message: message.into() }
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The words of the other gRPC implementations; operators search for them.
        let code = match self.code {
            Code::Ok => "OK",
            Code::Cancelled => "Canceled",
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::PermissionDenied => "PermissionDenied",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Aborted => "Aborted",
            Code::OutOfRange => "OutOfRange",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
            Code::DataLoss => "DataLoss",
            Code::Unauthenticated => "Unauthenticated",
        };
        write!(f, "rpc error: code = {code} desc = {}", self.message)
    }
}

impl std::error::Error for RpcError {}
