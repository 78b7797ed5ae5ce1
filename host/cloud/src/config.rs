//! How to reach AWS, and whether that can work.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use reservoir_core::cloud::CloudError;

use crate::ec2::retry;
use crate::http::read_bundle;
use crate::imds::{Imds, ImdsConfig};

/// Where AWS is and how long to wait for it (spec 03 §1.2). What is not here is taken from
/// the process's environment: `AWS_MAX_ATTEMPTS` and `AWS_RETRY_MODE` by this crate, credentials, `AWS_ENDPOINT_URL`,
/// proxies and the rest by the SDK's own loaders.
#[derive(Debug, Clone)]
pub struct CloudConfig {
    pub imds: ImdsConfig,
    /// `AWS_EC2_ENDPOINT`: wins over the SDK's `AWS_ENDPOINT_URL_EC2` and `AWS_ENDPOINT_URL` (spec 03 W-1).
    /// Empty is unset.
    pub ec2_endpoint: Option<String>,
    /// `HTTP_TIMEOUT`: the whole of one EC2 attempt, connection to last byte. Reads of metadata end sooner whatever it is
    /// (spec 03 §2.3).
    pub http_timeout: Duration,
    /// `AWS_CA_BUNDLE`: a file of PEM certificates to trust in place of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// `VPC_CNI_VERSION`, for the user agent; may be empty.
    pub version: String,
}

impl Default for CloudConfig {
    fn default() -> Self {
        Self {
            imds: ImdsConfig::default(),
            ec2_endpoint: None,
            http_timeout: Duration::from_secs(10),
            ca_bundle: None,
            version: String::new(),
        }
    }
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    Endpoint { variable: &'static str, value: String, reason: String, example: &'static str },
    Value { variable: &'static str, value: String, expected: &'static str },
    CaBundle { path: PathBuf, reason: String },
}

impl CloudConfig {
    /// All that cannot work, of what is given here and in the SDK's variables that are read here. Nothing is sent.
    #[must_use]
    pub fn problems(&self) -> Vec<ConfigError> {
        [
            Imds::new(&self.imds).err(),
            self.ec2_url().err(),
            self.ca_bundle.as_deref().and_then(|path| read_bundle(path).err()),
            retry::of_environment().err(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The URL of `AWS_EC2_ENDPOINT`; empty is unset.
    pub(crate) fn ec2_url(&self) -> Result<Option<Uri>, ConfigError> {
        let url = self.ec2_endpoint.as_deref().filter(|url| !url.trim().is_empty());
        url.map(|url| endpoint("AWS_EC2_ENDPOINT", url, &["http", "https"], "https://ec2.us-west-2.amazonaws.com"))
            .transpose()
    }
}

impl ConfigError {
    /// The variable, its value, and what is wrong with it.
    #[must_use]
    pub fn parts(&self) -> (&'static str, String, String) {
        match self {
            Self::Endpoint { variable, value, reason, example } => {
                (variable, value.clone(), format!("not an endpoint: {reason}; give a URL such as {example}"))
            }
            Self::Value { variable, value, expected } => (variable, value.clone(), format!("not {expected}")),
            Self::CaBundle { path, reason } => (
                "AWS_CA_BUNDLE",
                path.display().to_string(),
                format!("holds no certificates to trust: {reason}; give a file of PEM certificates"),
            ),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (variable, value, wrong) = self.parts();
        write!(f, "{variable}={value:?}: {wrong}")
    }
}

/// Why there is no [`crate::AwsCloud`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nothing will change without another configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The metadata service did not tell who we are; worth another try where it gave no answer.
    #[error("cannot learn the facts of this instance from the metadata service: {0}")]
    Metadata(CloudError),
}

/// Checks an endpoint's URL and cuts a trailing slash.
pub(crate) fn endpoint(
    variable: &'static str,
    value: &str,
    schemes: &[&str],
    example: &'static str,
) -> Result<Uri, ConfigError> {
    let refuse = |reason: String| ConfigError::Endpoint { variable, value: value.to_owned(), reason, example };
    let uri: Uri = value.trim().trim_end_matches('/').parse().map_err(|e| refuse(format!("{e}")))?;
    let scheme = uri.scheme_str().ok_or_else(|| refuse("it has no scheme".to_owned()))?;
    if !schemes.contains(&scheme) {
        return Err(refuse(format!("its scheme is not {}", schemes.join(" or "))));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(refuse("it names no host".to_owned()));
    }
    if uri.query().is_some() {
        return Err(refuse("it has a query".to_owned()));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked() {
        let check = |v| endpoint("V", v, &["http", "https"], "http://127.0.0.1:5000");
        assert_eq!(check("http://127.0.0.1:5000/").unwrap().to_string(), "http://127.0.0.1:5000/");
        assert_eq!(check("https://[fd00:ec2::254]/base").unwrap().path(), "/base");
        for bad in ["", "127.0.0.1:5000", "localhost", "ftp://host", "http://", "http://a b", "http://h/?x=1"] {
            let error = check(bad).expect_err(bad).to_string();
            assert!(error.contains(&format!("V={bad:?}")) && error.contains("http://127.0.0.1:5000"), "{error}");
        }
    }
}
