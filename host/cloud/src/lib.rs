//! EC2 and the instance metadata service, behind one trait.
//!
//! | module | what |
//! |---|---|
//! | [`Cloud`] | one small question, one answer; what the pool manager sees |
//! | [`AwsCloud`] | the real one: aws-sdk-ec2 and IMDSv2 |
//! | [`imds`] | the metadata client, spec 03 §2, and what is read through it, §3 to §5 |
//! | `ec2` | each request as one SDK call, its answer as plain data, its errors as decisions |
//! | `credentials`, `http` | what the SDK signs with and talks through |
//! | `metrics` | the reference's series about API calls |
//!
//! Retries are few and local. A lost connection, a time-out or a 5xx is repeated by the SDK (3 attempts, or
//! `AWS_MAX_ATTEMPTS`); a throttled call is not: it comes back at once as `ErrorKind::Throttled`, because only the pool
//! manager knows what else it has in flight against the same per-account bucket, and it owns the back-off.

use std::pin::Pin;

use reservoir_core::cloud::{Answer, CloudError, Request};

mod aws;
mod config;
mod credentials;
mod ec2;
mod http;
pub mod imds;
mod metrics;
#[cfg(test)]
mod testing;

pub use aws::AwsCloud;
pub use config::{CloudConfig, ConfigError, ConnectError};

/// A boxed future, so that [`Cloud`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever answers a [`Request`]: AWS, the simulated AWS, or a test's fake. Calls may run at the same time.
pub trait Cloud: Send + Sync {
    /// One API call. Which [`Answer`] belongs to which request stands at the request.
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Answer, CloudError>>;
}
