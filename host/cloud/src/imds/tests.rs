use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reservoir_core::cloud::{AttachedInterface, CloudError, ErrorKind, Instance};
use reservoir_core::policy::Family;

use super::client::Timing;
use super::{Imds, ImdsConfig, ImdsError, Metadata};
use crate::AwsCloud;
use crate::config::{CloudConfig, ConnectError};
use crate::testing::{Reply, Seen, Server, example_metadata, token};

const TOKEN: &str = "/latest/api/token";
const MAC: &str = "/latest/meta-data/mac";
const PRIMARY: &str = "06:5f:8c:11:2a:9b";

const FAST: Timing = Timing {
    connect: Duration::from_secs(2),
    header: Duration::from_secs(2),
    operation: Duration::from_secs(20),
    attempts: 3,
    delay: Duration::from_millis(1),
};

fn config(server: &Server) -> ImdsConfig {
    ImdsConfig { endpoint: Some(server.url.clone()), ..ImdsConfig::default() }
}

fn client(server: &Server) -> Imds {
    Imds::with_timing(&config(server), FAST).unwrap()
}

fn metadata(server: &Server) -> Metadata {
    Metadata::new(Arc::new(client(server)))
}

fn key(mac: &str, name: &str) -> String {
    format!("/latest/meta-data/network/interfaces/macs/{mac}/{name}")
}

/// The first `n` requests to `path` are answered by `first`, all others by the example's metadata.
fn at_first(
    n: usize,
    path: &'static str,
    first: impl Fn() -> Reply + Send + Sync + 'static,
) -> impl Fn(&Seen) -> Reply + Send + Sync {
    let (left, rest) = (AtomicUsize::new(n), example_metadata(&[]));
    move |seen| {
        let take = |n: usize| n.checked_sub(1);
        if seen.path == path && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return first();
        }
        rest(seen)
    }
}

#[tokio::test]
async fn reads_the_facts_of_the_example_instance() {
    let server = Server::start(example_metadata(&[])).await;
    let metadata = metadata(&server);
    let facts = metadata.instance().await.unwrap();
    assert_eq!(
        facts,
        Instance {
            region: "us-west-2".to_owned(),
            availability_zone: "us-west-2a".to_owned(),
            local_ipv4: "10.0.40.17".parse().unwrap(),
            local_ipv6: None,
            instance_id: "i-0c3f1a9d27b6e4851".to_owned(),
            instance_type: "m5.xlarge".to_owned(),
            mac: PRIMARY.to_owned(),
            primary_eni: "eni-0f1e2d3c4b5a69788".to_owned(),
            subnet: "subnet-0a7c5e3b1d9f82464".to_owned(),
            vpc: "vpc-0b6c1d2e3f4a59687".to_owned(),
        }
    );
    let groups = metadata.security_groups(PRIMARY).await.unwrap();
    assert_eq!(groups, ["sg-0d4e1f6a7b8c9d0e1", "sg-0f2a3b4c5d6e7f809"]);
    let cidrs = metadata.vpc_cidrs(PRIMARY, Family::Ipv4).await.unwrap();
    assert_eq!(cidrs, ["10.0.0.0/16".parse().unwrap(), "100.64.0.0/16".parse().unwrap()]);
    // One token for all of it, on every read.
    assert_eq!(server.count(TOKEN), 1);
    for seen in server.seen().iter().filter(|s| s.method == "GET") {
        assert_eq!(seen.header("x-aws-ec2-metadata-token"), Some("TOKEN"), "{}", seen.path);
    }
}

#[tokio::test]
async fn assembles_the_attached_interfaces() {
    let server = Server::start(example_metadata(&[])).await;
    let found = metadata(&server).attached_interfaces(PRIMARY).await.unwrap();
    let ip = |t: &str| t.parse().unwrap();
    let net = |t: &str| t.parse().unwrap();
    // In the order of the listing, which is not that of the device numbers.
    assert_eq!(
        found,
        [
            AttachedInterface {
                eni: "eni-0a9182736455463f2".to_owned(),
                mac: "06:1c:77:e0:43:0d".to_owned(),
                device_index: 1,
                card: 0,
                subnet: "subnet-0e8d6c4b2a0f97531".to_owned(),
                subnet_cidr: Some(net("100.64.0.0/19")),
                primary: Some(ip("100.64.5.20")),
                secondary: vec![ip("100.64.6.31"), ip("100.64.7.102")],
                prefixes: vec![net("100.64.8.0/28"), net("100.64.8.16/28")],
                subnet_ipv6_cidr: None,
                ipv6: vec![],
                ipv6_prefixes: vec![],
            },
            AttachedInterface {
                eni: "eni-0f1e2d3c4b5a69788".to_owned(),
                mac: PRIMARY.to_owned(),
                device_index: 0,
                card: 0,
                subnet: "subnet-0a7c5e3b1d9f82464".to_owned(),
                subnet_cidr: Some(net("10.0.32.0/20")),
                primary: Some(ip("10.0.40.17")),
                secondary: vec![],
                prefixes: vec![net("10.0.41.32/28")],
                subnet_ipv6_cidr: None,
                ipv6: vec![],
                ipv6_prefixes: vec![],
            },
            AttachedInterface {
                eni: "eni-0c5d6e7f8091a2b3c".to_owned(),
                mac: "06:d3:02:9a:6e:f1".to_owned(),
                device_index: 3,
                card: 0,
                subnet: "subnet-0a7c5e3b1d9f82464".to_owned(),
                subnet_cidr: Some(net("10.0.32.0/20")),
                primary: Some(ip("10.0.44.201")),
                secondary: vec![],
                prefixes: vec![],
                subnet_ipv6_cidr: None,
                ipv6: vec![],
                ipv6_prefixes: vec![],
            },
        ]
    );
    // W-7: nothing is read twice.
    for seen in server.seen() {
        assert_eq!(server.count(&seen.path), 1, "{}", seen.path);
    }
}

#[tokio::test]
async fn an_interface_without_addresses_has_no_subnet_block() {
    let directory = key("06:d3:02:9a:6e:f1", "");
    let cidr = key("06:d3:02:9a:6e:f1", "subnet-ipv4-cidr-block");
    let changes = [(directory.as_str(), Some("device-number\ninterface-id\nmac\nsubnet-id")), (cidr.as_str(), None)];
    let server = Server::start(example_metadata(&changes)).await;
    let found = metadata(&server).attached_interfaces(PRIMARY).await.unwrap();
    let efa = &found[2];
    assert_eq!((efa.primary, efa.subnet_cidr, efa.card), (None, None, 0));
    assert!(efa.secondary.is_empty() && efa.prefixes.is_empty());
    assert_eq!(server.count(&key("06:d3:02:9a:6e:f1", "local-ipv4s")), 0);
}

#[tokio::test]
async fn the_primary_interface_is_device_0() {
    let number = key(PRIMARY, "device-number");
    let server = Server::start(example_metadata(&[(&number, Some("7"))])).await;
    assert_eq!(metadata(&server).attached_interfaces(PRIMARY).await.unwrap()[1].device_index, 0);
}

async fn listing_error(changes: &[(&str, Option<&str>)]) -> CloudError {
    let server = Server::start(example_metadata(changes)).await;
    metadata(&server).attached_interfaces(PRIMARY).await.unwrap_err()
}

#[tokio::test]
async fn one_bad_key_fails_the_listing_and_is_named() {
    let mac = "06:1c:77:e0:43:0d";
    for (name, value, text) in [
        ("device-number", "one", "\"one\" is not a number"),
        ("device-number", "-1", "\"-1\" is not a number"),
        ("network-card", "x", "\"x\" is not a number"),
        ("local-ipv4s", "100.64.5.20\n100.64.5", "\"100.64.5\" is not an IPv4 address"),
        ("ipv4-prefix", "100.64.8.0", "\"100.64.8.0\" is not an address block"),
        ("subnet-ipv4-cidr-block", "<nil>", "\"<nil>\" is not an address block"),
        ("interface-id", "", "\"\" is not one word"),
    ] {
        let key = key(mac, name);
        let error = listing_error(&[(&key, Some(value))]).await;
        assert_eq!(error.kind, ErrorKind::Refused, "{name}");
        assert!(error.message.contains(&key) && error.message.contains(text), "{name}: {error}");
    }
    let macs = "/latest/meta-data/network/interfaces/macs/";
    let error = listing_error(&[(macs, Some("06:1c:77:e0:43:0d/\n../../"))]).await;
    assert!(error.message.contains("is not a MAC address"), "{error}");
}

#[tokio::test]
async fn an_interface_that_vanishes_while_it_is_read_fails_the_listing() {
    for name in ["interface-id", "subnet-id", "device-number", ""] {
        let key = key("06:d3:02:9a:6e:f1", name);
        let error = listing_error(&[(&key, None)]).await;
        assert_eq!(error.kind, ErrorKind::NotFound, "{name}");
        assert!(error.message.contains(key.trim_end_matches('/')), "{error}");
    }
    // W-5: addresses without a subnet block are no interface to route through.
    let cidr = key(PRIMARY, "subnet-ipv4-cidr-block");
    assert_eq!(listing_error(&[(&cidr, None)]).await.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_failed_directory_is_not_an_empty_interface() {
    // W-4. The directory is asked for without its trailing slash.
    let path = "/latest/meta-data/network/interfaces/macs/06:5f:8c:11:2a:9b";
    let server = Server::start(at_first(9, path, || Reply::status(503, ""))).await;
    let error = metadata(&server).attached_interfaces(PRIMARY).await.unwrap_err();
    assert_eq!((error.api, error.kind), ("GetMACImdsFields", ErrorKind::Unknown));
    assert_eq!(server.count(path), 3);
}

#[tokio::test]
async fn optional_keys_may_vanish_between_listing_and_read() {
    let (card, prefixes) = (key(PRIMARY, "network-card"), key(PRIMARY, "ipv4-prefix"));
    let server = Server::start(example_metadata(&[(&card, None), (&prefixes, None)])).await;
    let found = metadata(&server).attached_interfaces(PRIMARY).await.unwrap();
    assert_eq!((found[1].card, found[1].prefixes.len()), (0, 0));
}

#[tokio::test]
async fn the_identity_document_must_name_a_region() {
    let path = "/latest/dynamic/instance-identity/document";
    for bad in ["", "{}", "{\"region\": \"\"}", "<html>"] {
        let server = Server::start(example_metadata(&[(path, Some(bad))])).await;
        let error = metadata(&server).instance().await.unwrap_err();
        assert!(error.kind == ErrorKind::Refused && error.message.contains(path), "{bad}: {error}");
    }
}

#[tokio::test]
async fn transient_failures_are_retried() {
    type Fault = fn() -> Reply;
    let faults: [Fault; 5] = [
        || Reply::status(500, ""),
        || Reply::status(502, ""),
        || Reply::status(503, ""),
        || Reply::status(504, ""),
        || Reply::Cut,
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        let server = Server::start(at_first(2, MAC, fault)).await;
        assert_eq!(client(&server).get(MAC).await.as_deref(), Ok(PRIMARY), "fault {n}");
        assert_eq!(server.count(MAC), 3, "fault {n}");
        let server = Server::start(at_first(3, MAC, fault)).await;
        assert!(client(&server).get(MAC).await.unwrap_err().is_transient(), "fault {n}");
        assert_eq!(server.count(MAC), 3, "fault {n}");
    }
}

#[tokio::test]
async fn refusals_are_not_retried() {
    for status in [400, 403, 404, 429, 501] {
        let server = Server::start(at_first(9, MAC, move || Reply::status(status, ""))).await;
        let error = client(&server).get(MAC).await.unwrap_err();
        assert!(matches!(&error, ImdsError::Status { status: s, .. } if s.as_u16() == status), "{error}");
        assert_eq!(error.is_not_found(), status == 404);
        assert_eq!(server.count(MAC), 1, "{status}");
    }
}

#[tokio::test]
async fn silence_ends_with_the_time_out() {
    let timing = Timing { header: Duration::from_millis(50), connect: Duration::from_millis(50), ..FAST };
    let server = Server::start(at_first(9, MAC, || Reply::Silence)).await;
    let imds = Imds::with_timing(&config(&server), timing).unwrap();
    let error = imds.get(MAC).await.unwrap_err();
    assert!(matches!(&error, ImdsError::NoAnswer { .. }) && error.to_string().contains(MAC), "{error}");
    assert_eq!(server.count(MAC), 3);

    let timing = Timing { operation: Duration::from_millis(100), ..FAST };
    let server = Server::start(at_first(9, MAC, || Reply::Silence)).await;
    let imds = Imds::with_timing(&config(&server), timing).unwrap();
    assert!(imds.get(MAC).await.unwrap_err().to_string().contains("100ms"));
    assert_eq!(server.count(MAC), 1);
}

#[tokio::test]
async fn nobody_there_is_no_answer() {
    let server = Server::start(example_metadata(&[])).await;
    let imds = client(&server);
    drop(server);
    tokio::task::yield_now().await;
    assert!(matches!(imds.get(MAC).await, Err(ImdsError::NoAnswer { .. })));
}

#[tokio::test]
async fn a_token_is_used_until_its_end() {
    let rest = example_metadata(&[]);
    let server = Server::start(move |s| if s.method == "PUT" { token("1") } else { rest(s) }).await;
    let imds = client(&server);
    imds.get(MAC).await.unwrap();
    imds.get(MAC).await.unwrap();
    let at_first = server.count(TOKEN);
    assert_eq!(at_first, 1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    imds.get(MAC).await.unwrap();
    assert_eq!(server.count(TOKEN), 2);
}

#[tokio::test]
async fn a_token_for_ever_is_a_token() {
    let rest = example_metadata(&[]);
    let forever = u64::MAX.to_string();
    let server = Server::start(move |s| if s.method == "PUT" { token(&forever) } else { rest(s) }).await;
    assert_eq!(client(&server).get(MAC).await.as_deref(), Ok(PRIMARY));
}

#[tokio::test]
async fn an_interface_has_a_security_group() {
    let path = key(PRIMARY, "security-group-ids");
    for empty in ["", "\n"] {
        let server = Server::start(example_metadata(&[(&path, Some(empty))])).await;
        let error = metadata(&server).security_groups(PRIMARY).await.unwrap_err();
        assert!(error.kind == ErrorKind::Refused && error.message.contains("security-group-ids"), "{error}");
    }
}

#[tokio::test]
async fn a_refused_token_is_replaced() {
    let server = Server::start(at_first(1, MAC, || Reply::status(401, ""))).await;
    assert_eq!(client(&server).get(MAC).await.as_deref(), Ok(PRIMARY));
    assert_eq!((server.count(TOKEN), server.count(MAC)), (2, 2));
    // A service that refuses all of them ends the attempts.
    let server = Server::start(at_first(9, MAC, || Reply::status(401, ""))).await;
    assert!(client(&server).get(MAC).await.is_err());
    assert_eq!((server.count(TOKEN), server.count(MAC)), (3, 3));
}

#[tokio::test]
async fn a_service_without_tokens_is_read_without() {
    for status in [403, 404, 405] {
        let server = Server::start(at_first(9, TOKEN, move || Reply::status(status, ""))).await;
        let imds = client(&server);
        imds.get(MAC).await.unwrap();
        imds.get(MAC).await.unwrap();
        assert_eq!(server.count(TOKEN), 1, "switched off after {status}");
        assert!(server.seen().iter().all(|s| s.header("x-aws-ec2-metadata-token").is_none()));
    }
    // A lost answer (hop limit) as well, after the token's own attempts.
    let timing = Timing { header: Duration::from_millis(50), connect: Duration::from_millis(50), ..FAST };
    let server = Server::start(at_first(9, TOKEN, || Reply::Silence)).await;
    let imds = Imds::with_timing(&config(&server), timing).unwrap();
    imds.get(MAC).await.unwrap();
    imds.get(MAC).await.unwrap();
    assert_eq!(server.count(TOKEN), 3);
}

#[tokio::test]
async fn tokens_come_back_when_the_service_asks_for_one() {
    let script = at_first(1, TOKEN, || Reply::status(404, ""));
    let server = Server::start(move |s: &Seen| {
        let asks = s.path == MAC && s.header("x-aws-ec2-metadata-token").is_none();
        if asks { Reply::status(401, "") } else { script(s) }
    })
    .await;
    assert_eq!(client(&server).get(MAC).await.as_deref(), Ok(PRIMARY));
    assert_eq!((server.count(TOKEN), server.count(MAC)), (2, 2));
}

#[tokio::test]
async fn a_passing_token_failure_is_tried_again_by_the_next_read() {
    for (asked, fault) in [(3, (|| Reply::status(500, "")) as fn() -> Reply), (1, || Reply::ok("no ttl"))] {
        let server = Server::start(at_first(asked, TOKEN, fault)).await;
        let imds = client(&server);
        imds.get(MAC).await.unwrap();
        assert_eq!(server.count(TOKEN), asked);
        imds.get(MAC).await.unwrap();
        assert_eq!(server.count(TOKEN), asked + 1);
        assert_eq!(server.seen().last().unwrap().header("x-aws-ec2-metadata-token"), Some("TOKEN"));
    }
}

#[tokio::test]
async fn without_version_1_a_token_is_a_must() {
    for status in [400, 403, 404, 500] {
        let server = Server::start(at_first(9, TOKEN, move || Reply::status(status, ""))).await;
        let config = ImdsConfig { v1_disabled: true, ..config(&server) };
        let error = Imds::with_timing(&config, FAST).unwrap().get(MAC).await.unwrap_err();
        assert!(matches!(error, ImdsError::Token { .. }), "{status}: {error}");
        assert_eq!(server.count(MAC), 0);
    }
    // A 400 is final with version 1 as well.
    let server = Server::start(at_first(9, TOKEN, || Reply::status(400, ""))).await;
    assert!(matches!(client(&server).get(MAC).await, Err(ImdsError::Token { .. })));
    assert_eq!((server.count(TOKEN), server.count(MAC)), (1, 0));
}

#[tokio::test]
async fn reads_at_the_same_time_share_a_token() {
    let server = Server::start(example_metadata(&[])).await;
    let imds = client(&server);
    let (a, b, c) = tokio::join!(imds.get(MAC), imds.get(MAC), imds.get(MAC));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(server.count(TOKEN), 1);
}

#[tokio::test]
async fn a_disabled_service_is_not_asked() {
    let server = Server::start(example_metadata(&[])).await;
    let config = ImdsConfig { disabled: true, ..config(&server) };
    assert_eq!(Imds::new(&config).unwrap().get(MAC).await, Err(ImdsError::Disabled));
    assert!(server.seen().is_empty());
}

#[test]
fn the_endpoint_must_be_plain_http() {
    for bad in ["https://169.254.169.254", "169.254.169.254", "http://"] {
        let config = ImdsConfig { endpoint: Some(bad.to_owned()), ..ImdsConfig::default() };
        let error = Imds::new(&config).unwrap_err().to_string();
        assert!(error.contains("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "{error}");
    }
    assert_eq!("IPv6".parse::<super::EndpointMode>().unwrap(), super::EndpointMode::Ipv6);
    assert!("5".parse::<super::EndpointMode>().unwrap_err().to_string().contains("\"5\""));
}

#[tokio::test]
async fn http_timeout_prolongs_no_read_of_metadata() {
    // Spec 03 §2.3: at least 10 s for EC2 is twice what a read may take in all.
    let server = Server::start(|_| Reply::Silence).await;
    let config = CloudConfig { imds: config(&server), http_timeout: Duration::from_secs(60), ..CloudConfig::default() };
    let begun = std::time::Instant::now();
    let error = AwsCloud::connect(config).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(matches!(&error, ConnectError::Metadata(e) if e.kind == ErrorKind::Unknown), "{error}");
}
