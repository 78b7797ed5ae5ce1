//! HTTP/1 over any listener: one request per connection, every step bounded.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::listener::{Listener, Stream};

/// From the path to the answer. Any method will do, as in the reference.
pub type Handler = dyn Fn(&str) -> Reply + Send + Sync;

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Reply {
    pub fn ok(content_type: &'static str, body: String) -> Self {
        Self { status: StatusCode::OK, content_type, body }
    }

    pub fn not_found(body: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, content_type: "text/plain; charset=utf-8", body: body.to_owned() }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        response
    }
}

/// What one client may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the connection to the end of the request's head.
    pub read: Duration,
    /// From there to the end of the answer.
    pub write: Duration,
    /// At once; further ones wait in the backlog.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { read: Duration::from_secs(5), write: Duration::from_secs(5), connections: 32 }
    }
}

/// Serves until the listener fails, and says how.
pub async fn serve(what: &'static str, listener: Listener, limits: Limits, handler: Arc<Handler>) -> io::Error {
    let places = Arc::new(Semaphore::new(limits.connections));
    // Dropping it ends the connections with the server.
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return io::Error::other("closed");
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client left before it was served.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => continue,
            Err(e) => return e,
        };
        while connections.try_join_next().is_some() {}
        let handler = Arc::clone(&handler);
        connections.spawn(async move {
            let served =
                tokio::time::timeout(limits.read + limits.write, exchange(what, stream, &peer, limits, &*handler));
            match served.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("{what}: {peer}: {error}"),
                Err(_) => tracing::debug!("{what}: {peer}: cut off, the exchange took too long"),
            }
            drop(place);
        });
    }
}

async fn exchange(
    what: &'static str,
    stream: Box<dyn Stream>,
    peer: &str,
    limits: Limits,
    handler: &Handler,
) -> hyper::Result<()> {
    let service = service_fn(|request: Request<Incoming>| {
        tracing::info!("{what}: {} {peer} {}", request.method(), request.uri());
        let response = handler(request.uri().path()).into_response();
        async { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read)
        .keep_alive(false)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await
}
