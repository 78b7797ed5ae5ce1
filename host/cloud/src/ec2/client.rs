//! The SDK's client: region, endpoint, time-outs, retry, user agent, credentials (spec 03 §1).

use std::sync::Arc;

use aws_config::provider_config::ProviderConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::Intercept;
use aws_sdk_ec2::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_ec2::error::BoxError;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{
    ClassifyRetry, RetryAction, RetryClassifierPriority, RetryReason,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::retry::ErrorKind;

use super::retry;
use crate::config::{CloudConfig, ConfigError};
use crate::credentials;
use crate::http::LazyTlsClient;
use crate::imds::Imds;

/// EC2 in one region.
#[derive(Debug)]
pub(crate) struct Ec2 {
    pub(super) client: Client,
}

impl Ec2 {
    /// A client for `region`; nothing is sent yet.
    pub(crate) async fn new(config: &CloudConfig, region: &str, imds: Arc<Imds>) -> Result<Self, ConfigError> {
        let url = config.ec2_url()?;
        let http = SharedHttpClient::new(LazyTlsClient::new(config.ca_bundle.as_deref())?);
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(config.http_timeout)
            .read_timeout(config.http_timeout)
            .operation_attempt_timeout(config.http_timeout)
            .build();
        let region = Region::new(region.to_owned());
        let provider = ProviderConfig::without_region()
            .with_region(Some(region.clone()))
            .with_behavior_version(Some(BehaviorVersion::v2026_01_12()))
            .with_http_client(http.clone())
            .with_timeout_config(timeouts.clone());
        // The loader adds what the SDK takes from the environment: AWS_ENDPOINT_URL, FIPS and dual-stack switches.
        let shared = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(region)
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(retry::of_environment()?)
            .credentials_provider(credentials::chain(&provider, imds))
            .load()
            .await;
        let mut builder = aws_sdk_ec2::config::Builder::from(&shared)
            .retry_classifier(ThrottledAtOnce)
            .interceptor(Product::new(&config.version));
        if let Some(url) = url {
            builder = builder.endpoint_url(url.to_string().trim_end_matches('/'));
        }
        Ok(Self { client: Client::from_conf(builder.build()) })
    }
}

/// Leaves throttled calls to the pool manager: see the crate's documentation.
#[derive(Debug)]
struct ThrottledAtOnce;

impl ClassifyRetry for ThrottledAtOnce {
    fn classify_retry(&self, _: &InterceptorContext) -> RetryAction {
        RetryAction::NoActionIndicated
    }

    fn classify_retry_v2(&self, _: &InterceptorContext, previous: &RetryAction) -> RetryAction {
        match previous {
            RetryAction::RetryIndicated(RetryReason::RetryableError { kind: ErrorKind::ThrottlingError, .. }) => {
                RetryAction::RetryForbidden
            }
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "throttled at once"
    }

    /// After the SDK's own, which say what is a throttle.
    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_after(RetryClassifierPriority::transient_error_classifier())
    }
}

/// Adds the product token `amazon-vpc-cni-k8s/<version>` to the user agent (spec 03 §1.7).
#[derive(Debug)]
struct Product {
    token: String,
}

impl Product {
    fn new(version: &str) -> Self {
        let version: String = version.chars().map(|c| if is_token(c) { c } else { '-' }).collect();
        Self { token: format!("amazon-vpc-cni-k8s/{version}") }
    }
}

/// What HTTP allows in a token (RFC 9110 §5.6.2).
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

impl Intercept for Product {
    fn name(&self) -> &'static str {
        "product token"
    }

    /// The signature does not cover the user agent, so each attempt's finished header can be extended.
    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        let agent = headers.get("user-agent").unwrap_or_default();
        let agent = format!("{agent} {}", self.token);
        headers.try_insert("user-agent", agent.trim_start().to_owned())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_token_is_one_token() {
        assert_eq!(Product::new("v1.23.1").token, "amazon-vpc-cni-k8s/v1.23.1");
        assert_eq!(Product::new("").token, "amazon-vpc-cni-k8s/");
        assert_eq!(Product::new("v1 (dev)\r\nX: é").token, "amazon-vpc-cni-k8s/v1--dev---X---");
    }
}
