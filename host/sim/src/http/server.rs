//! Listeners, connections, and real time around the model.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::page::Page;
use super::{admin, ec2, imds, render};
use crate::model::fault::FaultEffect;
use crate::model::groups::SecurityGroup;
use crate::model::imds::ImdsMode;
use crate::model::sim::Sim;
use crate::vpc::Vpc;

/// The largest form EC2 takes is far below.
const BODY_LIMIT: usize = 1 << 20;
const TOKEN: &str = "x-aws-ec2-metadata-token";
const TOKEN_TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";

pub(super) type Body = Response<Page>;

/// The model in real time: the clock starts with it.
#[derive(Debug)]
pub struct Simulation {
    sim: Mutex<Sim>,
    start: Instant,
    changed: Notify,
    tokens: Mutex<BTreeMap<String, imds::Tokens>>,
    /// The third face, when there is one.
    vpc: tokio::sync::Mutex<Option<Vpc>>,
}

impl Simulation {
    #[must_use]
    pub fn new(sim: Sim, vpc: Option<Vpc>) -> Arc<Self> {
        Arc::new(Self {
            sim: Mutex::new(sim),
            start: Instant::now(),
            changed: Notify::new(),
            tokens: Mutex::default(),
            vpc: tokio::sync::Mutex::new(vpc),
        })
    }

    /// Time since the start, the model's time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The model, brought up to now.
    pub fn with<T>(&self, act: impl FnOnce(&mut Sim, Duration) -> T) -> T {
        let mut sim: MutexGuard<'_, Sim> = lock(&self.sim);
        let now = self.now();
        sim.advance(now);
        let out = act(&mut sim, now);
        drop(sim);
        self.changed.notify_one();
        out
    }

    /// Waits until `due`, and until the network has what happened by then.
    pub(super) async fn wait(&self, due: Duration) {
        tokio::time::sleep_until((self.start + due).into()).await;
        self.plumb().await;
    }

    /// Brings the network up to date with the model.
    pub async fn plumb(&self) {
        let mut vpc = self.vpc.lock().await;
        let (events, groups) = self.network();
        if let Some(vpc) = vpc.as_mut() {
            for event in events {
                if let Err(error) = vpc.apply(&event).await {
                    tracing::error!(eni = event.eni, %error, "the VPC did not follow the model");
                }
            }
            if let Err(error) = vpc.enforce(&groups).await {
                tracing::error!(%error, "the VPC's security groups did not follow the model");
            }
        }
    }

    /// What the network is to have: changes since the last time, and who may talk to whom.
    fn network(&self) -> (Vec<crate::LinkEvent>, Vec<SecurityGroup>) {
        let mut sim = lock(&self.sim);
        let now = self.now();
        (sim.links(now), sim.security_groups().to_vec())
    }

    /// Lets things happen at their time even if nobody calls. Never returns.
    pub async fn run(&self) -> Infallible {
        loop {
            self.plumb().await;
            let next = lock(&self.sim).next_event();
            let changed = self.changed.notified();
            match next {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until((self.start + at).into()) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// Takes the network down.
    pub async fn close(&self) {
        if let Some(vpc) = self.vpc.lock().await.take() {
            vpc.close().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the model consistent enough to be looked at.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whom a listener serves.
#[derive(Debug, Clone)]
enum Role {
    /// EC2 and the admin API; also `/node/<instance>/latest/…` for metadata.
    Ec2,
    /// The metadata of one instance.
    Metadata(String),
}

/// Accepts connections for one [`Simulation`].
#[derive(Debug, Clone)]
pub struct Server(Arc<Simulation>);

impl Server {
    #[must_use]
    pub fn new(simulation: Arc<Simulation>) -> Self {
        Self(simulation)
    }

    /// Serves EC2 and the admin API until the task is dropped.
    pub async fn serve_ec2(self, listener: TcpListener) {
        self.serve(listener, Role::Ec2).await;
    }

    /// Serves one instance's metadata until the task is dropped.
    pub async fn serve_metadata(self, listener: TcpListener, instance: String) {
        self.serve(listener, Role::Metadata(instance)).await;
    }

    async fn serve(self, listener: TcpListener, role: Role) {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: a moment later there may be some.
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (simulation, role) = (Arc::clone(&self.0), role.clone());
            tokio::spawn(async move {
                let service = service_fn(|request| answer(&simulation, &role, request));
                let connection = hyper::server::conn::http1::Builder::new();
                let served = connection.serve_connection(TokioIo::new(stream), service).await;
                log_end(peer, served);
            });
        }
    }
}

fn log_end(peer: SocketAddr, served: Result<(), hyper::Error>) {
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("no answer, as the fault wants")]
    Fault,
    #[error("the request did not arrive whole: {0}")]
    Request(Box<dyn std::error::Error + Send + Sync>),
}

async fn answer(simulation: &Simulation, role: &Role, request: Request<Incoming>) -> Result<Body, NoAnswer> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(NoAnswer::Request)?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    let path = parts.uri.path();
    match role {
        Role::Metadata(instance) => metadata(simulation, instance, &parts.method, path, &parts.headers).await,
        Role::Ec2 => {
            if let Some((instance, rest)) = path.strip_prefix("/node/").and_then(|p| p.split_once('/')) {
                return metadata(simulation, instance, &parts.method, &format!("/{rest}"), &parts.headers).await;
            }
            if let Some(what) = path.strip_prefix("/sim/") {
                let answer = admin::answer(simulation, &parts.method, what, parts.uri.query(), &body);
                simulation.plumb().await;
                return Ok(answer);
            }
            let form = if parts.method == Method::GET { parts.uri.query().unwrap_or_default() } else { &body };
            call(simulation, form, &parts.headers).await
        }
    }
}

async fn call(simulation: &Simulation, form: &str, headers: &HeaderMap) -> Result<Body, NoAnswer> {
    let op = match ec2::parse(form) {
        Ok(op) => op,
        Err(refusal) => {
            let body = render::refusal(&refusal, "00000000-0000-4000-8000-000000000000");
            return Ok(text(status(refusal.status), "text/xml;charset=UTF-8", body));
        }
    };
    let api = op.api();
    let (verdict, account, id) = simulation.with(|sim, now| {
        let caller = caller(sim, headers);
        let verdict = sim.execute(now, &caller, op);
        let number: u64 = sim.journal().counts().values().map(|c| c.calls).sum();
        (verdict, sim.account().to_owned(), format!("{number:08x}-0000-4000-8000-000000000000"))
    });
    simulation.wait(verdict.due).await;
    if verdict.silent {
        return Err(NoAnswer::Fault);
    }
    let mut answer = match &verdict.result {
        Ok(reply) => text(StatusCode::OK, "text/xml;charset=UTF-8", render::reply(api, reply, &account, &id)),
        Err(refusal) => text(status(refusal.status), "text/xml;charset=UTF-8", render::refusal(refusal, &id)),
    };
    if verdict.cut {
        answer.body_mut().cut();
    }
    Ok(answer)
}

/// The instance whose role signed the request; the only instance, if there is but one.
fn caller(sim: &Sim, headers: &HeaderMap) -> String {
    let authorization = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let key = authorization.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next());
    let signer = key.and_then(|key| sim.instances().find(|id| imds::access_key(id) == key));
    let mut all = sim.instances();
    match (signer, all.next(), all.next()) {
        (Some(id), ..) | (None, Some(id), None) => id.to_owned(),
        _ => "unknown".to_owned(),
    }
}

async fn metadata(
    simulation: &Simulation,
    instance: &str,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<Body, NoAnswer> {
    let key = format!("IMDS:{}", path.trim_end_matches('/').rsplit('/').next().unwrap_or_default());
    let (due, fate, mode) = simulation.with(|sim, now| {
        let (due, fate) = sim.metadata_call(now, instance, "IMDS", &["IMDS", &key]);
        (due, fate, sim.imds_mode(instance))
    });
    simulation.wait(due).await;
    let mut cut = false;
    match fate {
        Ok(()) => {}
        Err(FaultEffect::Error { code, message } | FaultEffect::After { code, message }) => {
            let status = code.parse().map_or(StatusCode::INTERNAL_SERVER_ERROR, status);
            return Ok(text(status, "text/plain", message.unwrap_or_default()));
        }
        Err(FaultEffect::Cut) => cut = true,
        Err(_) => return Err(NoAnswer::Fault),
    }
    let is_token = path == "/latest/api/token";
    match mode {
        ImdsMode::Disabled => return Ok(text(StatusCode::FORBIDDEN, "text/plain", String::new())),
        // The answer's hop limit ends before it is back.
        ImdsMode::Far if is_token => std::future::pending().await,
        _ => {}
    }
    let mut answer = if is_token {
        session(simulation, instance, method, headers)
    } else {
        value(simulation, instance, method, path, headers, mode)
    };
    if cut {
        answer.body_mut().cut();
    }
    Ok(answer)
}

/// `PUT /latest/api/token`.
fn session(simulation: &Simulation, instance: &str, method: &Method, headers: &HeaderMap) -> Body {
    let plain = |code, body: String| text(code, "text/plain", body);
    if method != Method::PUT {
        return plain(StatusCode::METHOD_NOT_ALLOWED, String::new());
    }
    if headers.contains_key("x-forwarded-for") {
        return plain(StatusCode::FORBIDDEN, String::new());
    }
    let wanted = headers.get(TOKEN_TTL).and_then(|v| v.to_str().ok());
    let mut tokens = lock(&simulation.tokens);
    match tokens.entry(instance.to_owned()).or_default().issue(instance, wanted, Instant::now()) {
        None => plain(StatusCode::BAD_REQUEST, String::new()),
        Some((token, ttl)) => {
            let mut answer = plain(StatusCode::OK, token);
            answer.headers_mut().insert(TOKEN_TTL, ttl.into());
            answer
        }
    }
}

/// `GET /latest/…`.
fn value(
    simulation: &Simulation,
    instance: &str,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    mode: ImdsMode,
) -> Body {
    let plain = |code, body: &str| text(code, "text/plain", body.to_owned());
    if method != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "");
    }
    let token = headers.get(TOKEN).and_then(|v| v.to_str().ok());
    // A wrong token is refused also where none is needed.
    let needed = mode != ImdsMode::V1 || token.is_some();
    let valid = lock(&simulation.tokens).get(instance).is_some_and(|t| t.is_valid(token, Instant::now()));
    if needed && !valid {
        return plain(StatusCode::UNAUTHORIZED, "");
    }
    let body = simulation.with(|sim, _| imds::read(path, &sim.identity(instance)?, sim.metadata(instance)?));
    match body {
        Some(body) => text(StatusCode::OK, "text/plain", body),
        None => plain(StatusCode::NOT_FOUND, "not found"),
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST)
}

pub(super) fn text(status: StatusCode, kind: &'static str, body: String) -> Body {
    let mut answer = Response::new(Page::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    answer
}
