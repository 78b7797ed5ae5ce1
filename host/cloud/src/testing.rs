//! A scripted HTTP server on loopback, which writes down what it was asked.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// One request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The form's fields as `key=value`, sorted, without `Version`.
    pub(crate) fn form(&self) -> Vec<String> {
        let mut fields: Vec<_> = self.body.split('&').map(decode).filter(|f| f != "Version=2016-11-15").collect();
        fields.sort();
        fields
    }
}

fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let hex = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(out).unwrap()
}

/// What the server does with a request.
pub(crate) enum Reply {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// Never answers.
    Silence,
    /// Begins a body and closes the connection.
    Cut,
}

impl Reply {
    pub(crate) fn ok(body: impl Into<String>) -> Self {
        Self::status(200, body)
    }

    pub(crate) fn status(status: u16, body: impl Into<String>) -> Self {
        Self::Answer { status, headers: Vec::new(), body: body.into() }
    }
}

pub(crate) struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(script, None).await
    }

    /// With the certificate of `tests/data`, which is for 127.0.0.1.
    pub(crate) async fn start_tls(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let chain = CertificateDer::pem_slice_iter(include_bytes!("../tests/data/server.pem"));
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../tests/data/server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        Self::listen(script, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, log) = (Arc::new(script), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                let service = service_fn(move |request| {
                    let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                    async move {
                        let seen = note(request).await;
                        log.lock().unwrap().push(seen.clone());
                        Ok::<_, Infallible>(answer(script(&seen)).await)
                    }
                });
                let (tls, http) = (tls.clone(), hyper::server::conn::http1::Builder::new());
                tokio::spawn(async move {
                    // A client may go away at any moment.
                    let _ = match tls {
                        None => http.serve_connection(TokioIo::new(stream), service).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                            Err(_) => Ok(()),
                        },
                    };
                });
            }
        });
        Self { url, seen, task }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Requests to exactly this path.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|s| s.path == path).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn note(request: Request<Incoming>) -> Seen {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Seen {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        body: String::from_utf8(body.into()).unwrap(),
    }
}

async fn answer(reply: Reply) -> Response<Scripted> {
    match reply {
        Reply::Answer { status, headers, body } => {
            let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Scripted { rest: Some(body.into()), cut: false }).unwrap()
        }
        Reply::Silence => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            unreachable!("a test waits longer than its server")
        }
        Reply::Cut => Response::new(Scripted { rest: Some("begin".into()), cut: true }),
    }
}

/// A body that may end with an error, upon which hyper closes the connection.
pub(crate) struct Scripted {
    rest: Option<Bytes>,
    cut: bool,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(match self.rest.take() {
            Some(bytes) => Some(Ok(Frame::data(bytes))),
            None if self.cut => Some(Err(std::io::Error::other("cut"))),
            None => None,
        })
    }
}

/// An instance's metadata: `tests/vectors/imds-example.json` with changes; a `None` is a 404.
pub(crate) fn example_metadata(changes: &[(&str, Option<&str>)]) -> impl Fn(&Seen) -> Reply + Send + Sync + use<> {
    let text = include_str!("../../../tests/vectors/imds-example.json");
    let mut keys: std::collections::BTreeMap<String, String> = serde_json::from_str(text).unwrap();
    for (key, value) in changes {
        match value {
            Some(value) => keys.insert((*key).to_owned(), (*value).to_owned()),
            None => keys.remove(*key),
        };
    }
    move |seen| {
        if seen.method == "PUT" {
            return token("21600");
        }
        let found = keys.get(&seen.path).or_else(|| keys.get(&format!("{}/", seen.path)));
        found.map_or_else(|| Reply::status(404, "<html>404 - Not Found</html>"), Reply::ok)
    }
}

/// A token answer with its granted time to live.
pub(crate) fn token(ttl: &str) -> Reply {
    let headers = vec![("x-aws-ec2-metadata-token-ttl-seconds", ttl.to_owned())];
    Reply::Answer { status: 200, headers, body: "TOKEN".to_owned() }
}
