//! One HTTP/2 connection over a unix socket.
//!
//! tonic's own channel reconnects, balances and buffers, on a background task. A CNI plugin makes one
//! or two calls in its life, so it gets a single connection: cheaper to start, smaller to link, and
//! a call fails at once when the socket is not there (spec 04 §2.4 step 4).

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::body::Body;

/// Why there is no connection. Texts follow the ones operators know from gRPC.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens, or the socket may not be opened.
    #[error("connection error: desc = \"transport: Error while dialing: dial unix {}: connect: {}\"", path.display(), errno_text(source))]
    Dial {
        /// The socket that was dialled.
        path: PathBuf,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// Something listens that does not answer, or does not speak HTTP/2.
    #[error("connection error: desc = \"transport: {}: HTTP/2 handshake: {source}\"", path.display())]
    Handshake {
        /// The socket that was dialled.
        path: PathBuf,
        /// What hyper found.
        source: hyper::Error,
    },
    /// The connection was not there in time.
    #[error("connection error: desc = \"transport: Error while dialing: dial unix {}: not connected within {after:?}\"", path.display())]
    TimedOut {
        /// The socket that was dialled.
        path: PathBuf,
        /// The time allowed.
        after: Duration,
    },
}

/// The kernel's sentence, in the lower case and without the number that Rust adds.
fn errno_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// An open connection; hand it (or a clone) to a generated client's `new`.
#[derive(Clone, Debug)]
pub struct Connection {
    send: SendRequest<Body>,
}

/// Connects to the gRPC server behind a unix socket within `timeout`. Must run inside a tokio
/// runtime, which drives the connection until the last clone is dropped.
///
/// # Errors
/// When nobody listens on `path`, or the connection is not usable in time.
pub async fn connect(path: &Path, timeout: Duration) -> Result<Connection, ConnectError> {
    match tokio::time::timeout(timeout, open(path)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::TimedOut { path: path.to_owned(), after: timeout }),
    }
}

async fn open(path: &Path) -> Result<Connection, ConnectError> {
    let stream =
        UnixStream::connect(path).await.map_err(|source| ConnectError::Dial { path: path.to_owned(), source })?;
    let (send, connection) = http2::Builder::new(TokioExecutor::new())
        // One small call: the default windows are ample, and probing for bigger ones costs pings.
        .adaptive_window(false)
        .max_send_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ConnectError::Handshake { path: path.to_owned(), source })?;
    // The result is not lost: a broken connection fails the call that is under way.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(Connection { send })
}

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.send.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // HTTP/2 wants scheme and authority; gRPC over a unix socket calls the latter "localhost".
        let path = request.uri().path_and_query().cloned();
        let mut uri = http::Uri::builder().scheme("http").authority("localhost");
        if let Some(path) = path {
            uri = uri.path_and_query(path);
        }
        if let Ok(uri) = uri.build() {
            *request.uri_mut() = uri;
        }
        Box::pin(self.send.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_socket_reads_like_grpc_go() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime
            .block_on(connect(Path::new("/nonexistent/ipamd.sock"), Duration::from_secs(1)))
            .expect_err("nobody listens");
        assert_eq!(
            error.to_string(),
            "connection error: desc = \"transport: Error while dialing: dial unix /nonexistent/ipamd.sock: \
             connect: no such file or directory\""
        );
    }
}
