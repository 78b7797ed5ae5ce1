//! What a caller can decide upon.

use std::net::IpAddr;

use kube::runtime::watcher;

/// A call of the API server that did not do what it was to do. Each variant is another thing to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KubeError {
    #[error("{what}: there is none")]
    NotFound { what: String },
    /// Read again, then write again.
    #[error("{what} was changed meanwhile: {message}")]
    Conflict { what: String, message: String },
    /// The call may have had its effect.
    #[error("{what}: no answer from the API server within {seconds} s")]
    TimedOut { what: String, seconds: u64 },
    #[error("{what}: the API server does not allow it (see the ClusterRole and the service account): {message}")]
    Denied { what: String, message: String },
    #[error("{what}: the API server cannot be reached: {message}")]
    Unreachable { what: String, message: String },
    #[error("{what}: the API server answers {code}: {message}")]
    Refused { what: String, code: u16, message: String },
    /// The text is the reference's (spec 02 §11.4).
    #[error("released IP {released} does not match existing annotation. Not patching pod (it has {found:?})")]
    OtherAnnotation { released: IpAddr, found: String },
    /// Nothing will change without another configuration.
    #[error("{0}")]
    Unconfigured(String),
}

impl KubeError {
    pub(crate) fn of(what: &str, error: kube::Error) -> Self {
        let what = what.to_owned();
        match error {
            kube::Error::Api(status) => {
                let message = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
                match status.code {
                    404 => Self::NotFound { what },
                    409 => Self::Conflict { what, message },
                    401 | 403 => Self::Denied { what, message },
                    code => Self::Refused { what, code, message },
                }
            }
            kube::Error::Service(error) => Self::Unreachable { what, message: chain(&*error) },
            kube::Error::HyperError(error) => Self::Unreachable { what, message: chain(&error) },
            kube::Error::ReadEvents(error) => Self::Unreachable { what, message: chain(&error) },
            // The token, or the program that gives one.
            kube::Error::Auth(error) => Self::Denied { what, message: chain(&error) },
            error => Self::Refused { what, code: 200, message: format!("it is not understood: {error}") },
        }
    }

    /// None: the watch goes on by itself, with a list where it fell behind (410).
    pub(crate) fn of_watch(what: &str, error: watcher::Error) -> Option<Self> {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => Some(Self::of(what, error)),
            watcher::Error::WatchError(_) => None,
            error => Some(Self::Refused {
                what: what.to_owned(),
                code: 200,
                message: format!("it is not understood: {error}"),
            }),
        }
    }
}

/// The error and its causes, each once: those of the HTTP stack say next to nothing by themselves.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
