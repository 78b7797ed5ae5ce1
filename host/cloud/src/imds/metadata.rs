//! What the daemon reads from the metadata service: the keys of spec 03 §3 as typed values, the facts of §4, the
//! interfaces of §5.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use reservoir_core::cloud::{AttachedInterface, CloudError, ErrorKind, Instance, METADATA_LATENCY};
use reservoir_core::ip::IpNet;
use reservoir_core::policy::Family;

use super::client::{Imds, ImdsError};
use crate::metrics;

/// The error code of a metadata read, in errors and in the reference's metric.
const CODE: &str = "IMDSRequestError";
const MACS: &str = "/latest/meta-data/network/interfaces/macs";

/// Typed reads through one [`Imds`].
#[derive(Debug, Clone)]
pub(crate) struct Metadata {
    imds: Arc<Imds>,
}

/// One key: where it is, what the reference calls the read, and whether its failure counts in
/// `awscni_aws_api_error_count` (spec 03 §3, last column).
struct Key {
    api: &'static str,
    counted: bool,
    path: String,
}

impl Key {
    fn top(api: &'static str, name: &str) -> Self {
        Self { api, counted: false, path: format!("/latest/meta-data/{name}") }
    }

    fn of(api: &'static str, counted: bool, mac: &str, name: &str) -> Self {
        Self { api, counted, path: format!("{MACS}/{mac}/{name}") }
    }

    /// The service answered, but not with what the key must hold.
    fn nonsense(&self, value: &str, expected: impl Display) -> CloudError {
        CloudError {
            api: self.api,
            kind: ErrorKind::Refused,
            code: CODE.to_owned(),
            message: format!("{}: {value:?} is not {expected}", self.path),
        }
    }
}

impl Metadata {
    pub(crate) fn new(imds: Arc<Imds>) -> Self {
        Self { imds }
    }

    /// Spec 03 §4, in its order; the first failure is the answer.
    pub(crate) async fn instance(&self) -> Result<Instance, CloudError> {
        let region = self.region().await?;
        let availability_zone = self.word(&Key::top("GetAZ", "placement/availability-zone")).await?;
        let local_ipv4 = self.value(&Key::top("GetLocalIPv4", "local-ipv4"), "an IPv4 address").await?;
        let local_ipv6 = self.top_if_there(&Key::top("GetLocalIPv6", "ipv6"), "an IPv6 address").await?;
        let instance_id = self.word(&Key::top("GetInstanceID", "instance-id")).await?;
        let instance_type = self.word(&Key::top("GetInstanceType", "instance-type")).await?;
        let key = Key::top("GetMAC", "mac");
        let mac = self.word(&key).await?;
        check_mac(&key, &mac)?;
        let primary_eni = self.word(&Key::of("GetInterfaceID", false, &mac, "interface-id")).await?;
        let subnet = self.word(&Key::of("GetSubnetID", true, &mac, "subnet-id")).await?;
        let vpc = self.word(&Key::of("GetVpcID", true, &mac, "vpc-id")).await?;
        Ok(Instance {
            region,
            availability_zone,
            local_ipv4,
            local_ipv6,
            instance_id,
            instance_type,
            mac,
            primary_eni,
            subnet,
            vpc,
        })
    }

    /// From the identity document: neither `AWS_REGION` nor `placement/region` (spec 03 §1.5).
    async fn region(&self) -> Result<String, CloudError> {
        let path = "/latest/dynamic/instance-identity/document".to_owned();
        let key = Key { api: "GetInstanceIdentityDocument", counted: false, path };
        let text = self.required(&key).await?;
        let document: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| key.nonsense(&text, format_args!("JSON: {e}")))?;
        let region = document["region"].as_str().unwrap_or_default();
        if region.is_empty() {
            return Err(key.nonsense(&text, "a document with a region"));
        }
        Ok(region.to_owned())
    }

    pub(crate) async fn security_groups(&self, mac: &str) -> Result<Vec<String>, CloudError> {
        let key = Key::of("GetSecurityGroupIDs", true, mac, "security-group-ids");
        let text = self.required(&key).await?;
        let groups: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        // An interface without one does not exist (W-11): applied, it would leave the others with the VPC's default group.
        if groups.is_empty() { Err(key.nonsense(&text, "security group ids")) } else { Ok(groups) }
    }

    pub(crate) async fn vpc_cidrs(&self, mac: &str, family: Family) -> Result<Vec<IpNet>, CloudError> {
        let key = match family {
            Family::Ipv4 => Key::of("GetVPCIPv4CIDRBlocks", true, mac, "vpc-ipv4-cidr-blocks"),
            Family::Ipv6 => Key::of("GetVPCIPv6CIDRBlocks", true, mac, "vpc-ipv6-cidr-blocks"),
        };
        let text = self.required(&key).await?;
        list(&key, &text, "an address block")
    }

    /// All attached interfaces, in the service's order. Any failure fails the whole listing: an interface must not
    /// look empty because a read went wrong (spec 03 W-4).
    pub(crate) async fn attached_interfaces(&self, primary_mac: &str) -> Result<Vec<AttachedInterface>, CloudError> {
        let key = Key { api: "GetMACs", counted: true, path: MACS.to_owned() };
        let text = self.required(&key).await?;
        let mut interfaces = Vec::new();
        for mac in text.split_whitespace() {
            let mac = mac.strip_suffix('/').unwrap_or(mac);
            check_mac(&key, mac)?;
            interfaces.push(self.interface(mac, mac == primary_mac).await?);
        }
        Ok(interfaces)
    }

    /// One interface, spec 03 §5.2. Each key is read once (W-7), optional ones where the directory names them.
    async fn interface(&self, mac: &str, primary: bool) -> Result<AttachedInterface, CloudError> {
        let eni = self.word(&Key::of("GetInterfaceID", false, mac, "interface-id")).await?;
        let mut device_index = self.value(&Key::of("GetDeviceNumber", false, mac, "device-number"), "a number").await?;
        if primary && device_index != 0 {
            tracing::error!(%eni, device_index, "the primary interface claims a device number other than 0; using 0");
            device_index = 0;
        }
        let directory = Key { api: "GetMACImdsFields", counted: false, path: format!("{MACS}/{mac}") };
        let fields = self.required(&directory).await?;
        let has = |name| fields.split_whitespace().any(|field| field.strip_suffix('/').unwrap_or(field) == name);
        let key = Key::of("GetLocalIPv4s", true, mac, "local-ipv4s");
        let text = self.optional(&key, has("local-ipv4s")).await?.unwrap_or_default();
        // The first is the interface's own.
        let mut addresses = list::<Ipv4Addr>(&key, &text, "an IPv4 address")?.into_iter();
        let own = addresses.next();

        let key = Key::of("GetNetworkCard", true, mac, "network-card");
        let card = self.optional(&key, has("network-card")).await?;
        let card = card.map_or(Ok(0), |text| parse(&key, text.trim(), "a number"))?;

        let subnet = self.word(&Key::of("GetSubnetID", true, mac, "subnet-id")).await?;
        // Without an address there is neither gateway nor prefix to speak of (EFA-only, or IPv6 alone).
        let (mut subnet_cidr, mut prefixes) = (None, Vec::new());
        if own.is_some() {
            let key = Key::of("GetSubnetIPv4CIDRBlock", true, mac, "subnet-ipv4-cidr-block");
            subnet_cidr = Some(self.value(&key, "an address block").await?);
            let key = Key::of("GetIPv4Prefixes", true, mac, "ipv4-prefix");
            let text = self.optional(&key, has("ipv4-prefix")).await?.unwrap_or_default();
            prefixes = list(&key, &text, "an address block")?;
        }
        let key = Key::of("GetIPv6s", true, mac, "ipv6s");
        let text = self.optional(&key, has("ipv6s")).await?.unwrap_or_default();
        let ipv6 = list(&key, &text, "an IPv6 address")?;
        let key = Key::of("GetIPv6Prefixes", true, mac, "ipv6-prefix");
        let text = self.optional(&key, has("ipv6-prefix")).await?.unwrap_or_default();
        let ipv6_prefixes = list(&key, &text, "an address block")?;
        let key = Key::of("GetSubnetIPv6CIDRBlocks", true, mac, "subnet-ipv6-cidr-blocks");
        let text = self.optional(&key, has("subnet-ipv6-cidr-blocks")).await?.unwrap_or_default();
        let subnet_ipv6_cidr = list(&key, &text, "an address block")?.into_iter().next();
        Ok(AttachedInterface {
            eni,
            mac: mac.to_owned(),
            device_index,
            card,
            subnet,
            subnet_cidr,
            primary: own,
            secondary: addresses.collect(),
            prefixes,
            subnet_ipv6_cidr,
            ipv6,
            ipv6_prefixes,
        })
    }

    /// A value that must be there, without surrounding white space.
    async fn word(&self, key: &Key) -> Result<String, CloudError> {
        let text = self.required(key).await?;
        let word = text.trim();
        if word.is_empty() || word.contains(char::is_whitespace) {
            return Err(key.nonsense(&text, "one word"));
        }
        Ok(word.to_owned())
    }

    async fn value<T: FromStr>(&self, key: &Key, expected: &'static str) -> Result<T, CloudError> {
        parse(key, self.required(key).await?.trim(), expected)
    }

    /// A value that an instance need not have, and that no directory was read for: absence is no failure.
    async fn top_if_there<T: FromStr>(&self, key: &Key, expected: &'static str) -> Result<Option<T>, CloudError> {
        match self.imds.get(&key.path).await {
            Ok(text) => parse(key, text.trim(), expected).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(failed(key, &error)),
        }
    }

    async fn required(&self, key: &Key) -> Result<String, CloudError> {
        self.fetch(key).await.map_err(|error| {
            count(key);
            failed(key, &error)
        })
    }

    /// None where the directory does not list the key, or it has gone since.
    async fn optional(&self, key: &Key, listed: bool) -> Result<Option<String>, CloudError> {
        if !listed {
            return Ok(None);
        }
        match self.fetch(key).await {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => {
                count(key);
                Err(failed(key, &error))
            }
        }
    }

    async fn fetch(&self, key: &Key) -> Result<String, ImdsError> {
        let start = Instant::now();
        let result = self.imds.get(&key.path).await;
        metrics::latency(METADATA_LATENCY, start.elapsed(), result.is_err().then_some(""));
        result
    }
}

fn count(key: &Key) {
    if key.counted {
        metrics::api_error(key.api, CODE);
    }
}

fn failed(key: &Key, error: &ImdsError) -> CloudError {
    let (kind, code) = match error {
        ImdsError::NoAnswer { .. } => (ErrorKind::Unknown, ""),
        ImdsError::Status { status, .. } if status.is_server_error() => (ErrorKind::Unknown, CODE),
        _ if error.is_not_found() => (ErrorKind::NotFound, CODE),
        ImdsError::Status { .. } | ImdsError::Token { .. } | ImdsError::Disabled => (ErrorKind::Refused, CODE),
    };
    CloudError { api: key.api, kind, code: code.to_owned(), message: error.to_string() }
}

fn parse<T: FromStr>(key: &Key, text: &str, expected: &'static str) -> Result<T, CloudError> {
    text.parse().map_err(|_| key.nonsense(text, expected))
}

/// One bad element fails the list.
fn list<T: FromStr>(key: &Key, text: &str, expected: &'static str) -> Result<Vec<T>, CloudError> {
    text.split_whitespace().map(|item| parse(key, item, expected)).collect()
}

/// Six pairs of hexadecimal digits: it becomes part of paths.
fn check_mac(key: &Key, mac: &str) -> Result<(), CloudError> {
    let pairs = mac.split(':').filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit())).count();
    if pairs == 6 && mac.len() == 17 { Ok(()) } else { Err(key.nonsense(mac, "a MAC address")) }
}
