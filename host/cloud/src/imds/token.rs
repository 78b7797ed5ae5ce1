//! Session tokens of IMDSv2, and when to go without (spec 03 §2.2).

use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::client::{Http, ImdsError, Timing};

/// Asked for: the longest EC2 grants (the reference asks for 300 s), so that a settled node's reads need no more
/// requests than keys. A token that ends earlier costs one 401.
const TTL: HeaderValue = HeaderValue::from_static("21600");
/// What the service says beyond it is nonsense.
const LONGEST: Duration = Duration::from_secs(21_600);
pub(super) const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
pub(super) const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
const PATH: &str = "/latest/api/token";

#[derive(Debug)]
pub(super) struct Tokens {
    state: Mutex<State>,
    v1_disabled: bool,
}

#[derive(Debug)]
enum State {
    /// None yet, or the last one has ended.
    Wanted,
    Cached {
        token: HeaderValue,
        until: Instant,
    },
    /// The service knows no tokens; until a 401 says otherwise.
    Off,
}

impl Tokens {
    pub(super) fn new(v1_disabled: bool) -> Self {
        Self { state: Mutex::new(State::Wanted), v1_disabled }
    }

    /// A token, or none where the read may go without.
    ///
    /// One caller fetches, the others wait for what it gets.
    pub(super) async fn get(&self, http: &Http) -> Result<Option<HeaderValue>, ImdsError> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Cached { token, until } if Instant::now() < *until => return Ok(Some(token.clone())),
            State::Off => return Ok(None),
            State::Cached { .. } | State::Wanted => *state = State::Wanted,
        }
        let error = match fetch(http).await {
            Ok((token, ttl)) => {
                *state = State::Cached { token: token.clone(), until: Instant::now() + ttl.min(LONGEST) };
                return Ok(Some(token));
            }
            Err(error) => error,
        };
        if self.v1_disabled {
            return Err(ImdsError::Token { reason: error.to_string() });
        }
        match &error {
            ImdsError::Status { status, .. } if *status == StatusCode::BAD_REQUEST => {
                return Err(ImdsError::Token { reason: error.to_string() });
            }
            ImdsError::Status { status, .. } if matches!(status.as_u16(), 403..=405) => *state = State::Off,
            ImdsError::NoAnswer { .. } => *state = State::Off,
            _ => {}
        }
        tracing::warn!(%error, "no IMDSv2 token; reading without one");
        Ok(None)
    }

    /// The service refused `used` with a 401: the next read fetches a new one, even where tokens had been switched off.
    pub(super) async fn refused(&self, used: Option<&HeaderValue>) {
        let mut state = self.state.lock().await;
        match &*state {
            // Another caller has already replaced it.
            State::Cached { token, .. } if Some(token) != used => {}
            _ => *state = State::Wanted,
        }
    }
}

/// `PUT /latest/api/token`, with its own attempts.
async fn fetch(http: &Http) -> Result<(HeaderValue, Duration), ImdsError> {
    let Timing { attempts, delay, .. } = http.timing;
    let mut attempt = 1;
    let answer = loop {
        match http.send(Method::PUT, PATH, (TTL_HEADER, TTL)).await {
            Err(error) if error.is_transient() && attempt < attempts => {
                attempt += 1;
                tokio::time::sleep(delay).await;
            }
            done => break done?,
        }
    };
    let unusable = |reason: &str| ImdsError::Token { reason: reason.to_owned() };
    let granted = answer.ttl.ok_or_else(|| unusable("the answer names no time to live"))?;
    let token = HeaderValue::from_str(&answer.body).map_err(|_| unusable("the token is not a header value"))?;
    Ok((token, Duration::from_secs(granted)))
}
