//! A failed SDK call as a decision for the caller.

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use reservoir_core::cloud::{CloudError, ErrorKind};

use crate::imds::chain;

/// A [`CloudError`] that does not know its call yet.
#[derive(Debug)]
pub(super) struct Failed {
    kind: ErrorKind,
    code: String,
    message: String,
}

impl Failed {
    pub(super) fn of(self, api: &'static str) -> CloudError {
        CloudError { api, kind: self.kind, code: self.code, message: self.message }
    }
}

/// A request that we do not send.
pub(super) fn refused(message: String) -> Failed {
    Failed { kind: ErrorKind::Refused, code: String::new(), message }
}

/// A success whose body does not say what it must: the call may have had its effect.
pub(super) fn nonsense(message: String) -> Failed {
    Failed { kind: ErrorKind::Unknown, code: String::new(), message }
}

impl<E> From<SdkError<E, HttpResponse>> for Failed
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        if let SdkError::ServiceError(context) = &error {
            let (error, status) = (context.err(), context.raw().status());
            if status.is_success() {
                return nonsense(format!("cannot read the answer: {}", chain(error)));
            }
            let code = error.code().unwrap_or_default().to_owned();
            let message = error.message().map_or_else(|| format!("HTTP status {}", status.as_u16()), str::to_owned);
            let kind = match ErrorKind::from_code(&code, &message) {
                // A code we do not know, of a server that does not know either.
                ErrorKind::Refused if status.is_server_error() => ErrorKind::Unknown,
                // A refusal without a code is not EC2's, but an answer: a proxy, or a wrong endpoint.
                ErrorKind::Unknown if code.is_empty() && !status.is_server_error() => ErrorKind::Refused,
                kind => kind,
            };
            return Self { kind, code, message };
        }
        let kind = match &error {
            // Never sent.
            SdkError::ConstructionFailure(_) => ErrorKind::Refused,
            _ => ErrorKind::Unknown,
        };
        Self { kind, code: String::new(), message: chain(&error) }
    }
}
