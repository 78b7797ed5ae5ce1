//! A small client of the metadata service: one keep-alive connection, never a proxy (spec 03 §2).

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::token::{TOKEN_HEADER, TTL_HEADER, Tokens};
use super::{EndpointMode, ImdsConfig};
use crate::config::{ConfigError, endpoint};

/// The largest of the answers is a list of some hundred addresses; whatever is larger is not the metadata service.
const BODY_LIMIT: usize = 1 << 20;

/// Spec 03 §2.3.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub connect: Duration,
    pub header: Duration,
    /// All attempts of one read, its token included.
    pub operation: Duration,
    pub attempts: u32,
    pub delay: Duration,
}

impl Timing {
    pub(super) const DEFAULT: Self = Self {
        connect: Duration::from_millis(250),
        header: Duration::from_millis(500),
        operation: Duration::from_secs(5),
        attempts: 3,
        delay: Duration::from_secs(1),
    };
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImdsError {
    #[error("the metadata service is switched off by AWS_EC2_METADATA_DISABLED=true; unset it")]
    Disabled,
    #[error("{path}: no answer from {endpoint}: {reason}")]
    NoAnswer { endpoint: String, path: String, reason: String },
    #[error("{path}: the metadata service answered {status}")]
    Status { path: String, status: StatusCode },
    #[error("no usable IMDSv2 token: {reason}")]
    Token { reason: String },
}

impl ImdsError {
    /// The key does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// Another attempt may fare better (spec 03 §2.3).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => true,
            Self::Status { status, .. } => matches!(status.as_u16(), 500 | 502..=504),
            Self::Disabled | Self::Token { .. } => false,
        }
    }
}

/// A client of the metadata service. Cheap to keep: no timer runs while nothing is read.
#[derive(Debug)]
pub struct Imds {
    http: Http,
    tokens: Tokens,
    disabled: bool,
}

#[derive(Debug)]
pub(super) struct Http {
    client: Client<HttpConnector, Empty<Bytes>>,
    /// Without a trailing slash.
    base: String,
    pub timing: Timing,
}

/// A 2xx answer.
pub(super) struct Reply {
    pub body: String,
    /// The granted time to live of a token, in seconds.
    pub ttl: Option<u64>,
}

impl Imds {
    /// A client for the endpoint of `config`; nothing is sent yet.
    pub fn new(config: &ImdsConfig) -> Result<Self, ConfigError> {
        Self::with_timing(config, Timing::DEFAULT)
    }

    pub(super) fn with_timing(config: &ImdsConfig, timing: Timing) -> Result<Self, ConfigError> {
        let given = config.endpoint.as_deref().filter(|url| !url.trim().is_empty());
        let url = match (given, config.mode) {
            (Some(url), _) => url,
            (None, EndpointMode::Ipv4) => "http://169.254.169.254",
            (None, EndpointMode::Ipv6) => "http://[fd00:ec2::254]",
        };
        let uri = endpoint("AWS_EC2_METADATA_SERVICE_ENDPOINT", url, &["http"], "http://169.254.169.254")?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(timing.connect));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(2).build(connector);
        let base = uri.to_string().trim_end_matches('/').to_owned();
        Ok(Self {
            http: Http { client, base, timing },
            tokens: Tokens::new(config.v1_disabled),
            disabled: config.disabled,
        })
    }

    /// The body at `path` (absolute, such as `/latest/meta-data/mac`), with all attempts.
    pub async fn get(&self, path: &str) -> Result<String, ImdsError> {
        if self.disabled {
            return Err(ImdsError::Disabled);
        }
        let limit = self.http.timing.operation;
        tokio::time::timeout(limit, self.attempts(path))
            .await
            .unwrap_or_else(|_| Err(self.http.no_answer(path, format!("not within {limit:?}"))))
    }

    async fn attempts(&self, path: &str) -> Result<String, ImdsError> {
        let Timing { attempts, delay, .. } = self.http.timing;
        let mut attempt = 1;
        loop {
            let token = self.tokens.get(&self.http).await?;
            let header = token.clone().unwrap_or(HeaderValue::from_static(""));
            let error = match self.http.send(Method::GET, path, (TOKEN_HEADER, header)).await {
                Ok(reply) => return Ok(reply.body),
                Err(error) => error,
            };
            let refused = matches!(&error, ImdsError::Status { status, .. } if *status == StatusCode::UNAUTHORIZED);
            if refused {
                self.tokens.refused(token.as_ref()).await;
            }
            if attempt == attempts || !(refused || error.is_transient()) {
                return Err(error);
            }
            tracing::debug!(%error, attempt, "metadata read failed; another try follows");
            attempt += 1;
            tokio::time::sleep(delay).await;
        }
    }
}

impl Http {
    /// One request; an empty header value is not sent.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        (name, value): (&'static str, HeaderValue),
    ) -> Result<Reply, ImdsError> {
        let uri: Uri =
            format!("{}{path}", self.base).parse().map_err(|e| self.no_answer(path, format!("not a path: {e}")))?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        if !value.is_empty() {
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        let limit = self.timing.connect + self.timing.header;
        let response = tokio::time::timeout(limit, self.client.request(request))
            .await
            .map_err(|_| self.no_answer(path, format!("not within {limit:?}")))?
            .map_err(|e| self.no_answer(path, chain(&e)))?;
        let status = response.status();
        if !status.is_success() {
            return Err(ImdsError::Status { path: path.to_owned(), status });
        }
        let ttl = response.headers().get(TTL_HEADER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let body = Limited::new(response.into_body(), BODY_LIMIT)
            .collect()
            .await
            .map_err(|e| self.no_answer(path, chain(e.as_ref())))?
            .to_bytes();
        let body = String::from_utf8(body.into()).map_err(|_| self.no_answer(path, "not text".to_owned()))?;
        Ok(Reply { body, ttl })
    }

    fn no_answer(&self, path: &str, reason: String) -> ImdsError {
        ImdsError::NoAnswer { endpoint: self.base.clone(), path: path.to_owned(), reason }
    }
}

/// An error with its causes, which libraries leave out of their own text.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
