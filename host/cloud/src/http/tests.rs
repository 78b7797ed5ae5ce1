//! The certificates in `tests/data` are of a CA of their own and good for a hundred years:
//! `openssl req -x509` for `ca.pem`, and signed with it `server.pem`, whose subject alternative name is 127.0.0.1.

use std::path::{Path, PathBuf};

use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region};
use reservoir_core::cloud::{Answer, CloudError, ErrorKind, Request};

use super::{LazyTlsClient, is_local};
use crate::imds::ImdsConfig;
use crate::testing::{Reply, Server, example_metadata};
use crate::{AwsCloud, Cloud, CloudConfig, ConnectError};

fn bundle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ca.pem")
}

/// A delete through an `https://` endpoint.
async fn call(ca_bundle: Option<PathBuf>) -> Result<Answer, CloudError> {
    let metadata = Server::start(example_metadata(&[])).await;
    let ec2 = Server::start_tls(|_| Reply::ok("<R/>")).await;
    let config = CloudConfig {
        imds: ImdsConfig { endpoint: Some(metadata.url.clone()), ..ImdsConfig::default() },
        ec2_endpoint: Some(ec2.url.clone()),
        ca_bundle,
        ..CloudConfig::default()
    };
    let (cloud, _) = AwsCloud::connect(config).await.unwrap();
    cloud.call(Request::DeleteNetworkInterface { eni: "eni-1".to_owned() }).await
}

#[tokio::test]
async fn speaks_tls_to_whom_the_bundle_trusts() {
    assert_eq!(call(Some(bundle())).await, Ok(Answer::Done));
}

#[tokio::test]
async fn refuses_a_certificate_of_a_stranger() {
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/server.pem");
    let error = call(Some(other)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unknown);
    assert!(error.message.contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_useless_bundle_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle.pem");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (content, reason) in [(None, "No such file"), (Some("hello"), "no CERTIFICATE"), (Some(broken), "")] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let metadata = Server::start(example_metadata(&[])).await;
        let config = CloudConfig {
            imds: ImdsConfig { endpoint: Some(metadata.url.clone()), ..ImdsConfig::default() },
            ca_bundle: Some(path.clone()),
            ..CloudConfig::default()
        };
        let Err(ConnectError::Config(error)) = AwsCloud::connect(config).await else { panic!("{content:?}") };
        let text = error.to_string();
        assert!(text.contains("AWS_CA_BUNDLE") && text.contains("bundle.pem") && text.contains(reason), "{text}");
    }
}

#[tokio::test]
async fn a_plain_endpoint_loads_no_certificates() {
    let server = Server::start(|_| Reply::ok("<R/>")).await;
    let http = LazyTlsClient::new(None).unwrap();
    let tls = std::sync::Arc::clone(&http.tls);
    let config = aws_sdk_ec2::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-west-2"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
        .http_client(http)
        .endpoint_url(&server.url)
        .build();
    let ec2 = aws_sdk_ec2::Client::from_conf(config);
    ec2.delete_network_interface().network_interface_id("eni-1").send().await.unwrap();
    assert!(tls.client.get().is_none());
}

#[test]
fn local_endpoints_are_never_proxied() {
    for local in [
        "http://127.0.0.1:5000/",
        "http://169.254.169.254/latest",
        "http://169.254.170.23/v1/credentials",
        "http://[fd00:ec2::23]/v1/credentials",
        "http://localhost:8080/",
        "http://[::1]/",
    ] {
        assert!(is_local(local), "{local}");
    }
    for remote in ["http://10.0.0.1/", "http://ec2.internal/", "http://[fd00:1::1]/", "http://localhost.example/"] {
        assert!(!is_local(remote), "{remote}");
    }
}
