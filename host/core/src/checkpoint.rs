//! The checkpoint's format and what may be believed of it (spec 02 §6). Reading and writing files is the daemon's.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::store::{Key, PodMeta};

/// The only version there has ever been.
pub const VERSION: &str = "vpc-cni-ipam/1";

/// The file of a card, from that of card 0 (spec 02 §6.1).
#[must_use]
pub fn path(of_card_0: &Path, card: u32) -> PathBuf {
    if card == 0 {
        return of_card_0.to_owned();
    }
    let stem = if of_card_0.extension() == Some("json".as_ref()) {
        of_card_0.with_extension("")
    } else {
        of_card_0.to_owned()
    };
    let mut name = stem.into_os_string();
    name.push(format!("-nic-{card}.json"));
    PathBuf::from(name)
}

/// One pod's address as the file tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    pub key: Key,
    /// As written: it may not parse.
    pub ipv4: String,
    pub ipv6: String,
    /// Unix nanoseconds; 0 in files of before 1.11.
    pub timestamp: i64,
    pub pod: PodMeta,
}

impl Allocation {
    /// The address of the node's family, if the text is one (spec 02 §6.5 step 5).
    #[must_use]
    pub fn address(&self, ipv6_node: bool) -> Option<IpAddr> {
        if ipv6_node { self.ipv6.parse().ok().map(IpAddr::V6) } else { self.ipv4.parse().ok().map(IpAddr::V4) }
    }
}

/// Why a file cannot be used. Nothing of it has been taken over then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not JSON, or not of the right shape.
    #[error("failed ipam state recovery from backing store: {0}")]
    Malformed(String),
    /// A version that this release does not know: never guessed at.
    #[error("failed ipam state recovery due to unexpected checkpointVersion: {0}/{VERSION}")]
    Version(String),
}

/// Reads a file's content. Unknown keys are ignored; `null` reads as absent.
///
/// # Errors
/// [`ParseError`] says whether the text or its version is at fault.
pub fn parse(text: &[u8]) -> Result<Vec<Allocation>, ParseError> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct File {
        version: Option<String>,
        allocations: Option<Vec<Entry>>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct Entry {
        network_name: Option<String>,
        #[serde(rename = "containerID")]
        container_id: Option<String>,
        if_name: Option<String>,
        ipv4: Option<String>,
        ipv6: Option<String>,
        allocation_timestamp: Option<i64>,
        metadata: Option<Metadata>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Metadata {
        #[serde(rename = "k8sPodNamespace")]
        namespace: Option<String>,
        #[serde(rename = "k8sPodName")]
        name: Option<String>,
        #[serde(rename = "interfacesCount")]
        interfaces: Option<u32>,
    }

    // The reference's reader stops after the first JSON value.
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let value = match values.next() {
        Some(Ok(value)) => value,
        Some(Err(e)) => return Err(ParseError::Malformed(e.to_string())),
        None => return Err(ParseError::Malformed("the file is empty".to_owned())),
    };
    // A list would be taken for a record's fields in order.
    let entries = value["allocations"].as_array().map_or(&[][..], Vec::as_slice);
    let listed = entries.iter().flat_map(|e| [e, &e["metadata"]]).chain([&value]).find(|v| v.is_array());
    if listed.is_some() {
        return Err(ParseError::Malformed("a list stands where an object belongs".to_owned()));
    }
    let file: Option<File> = serde_json::from_value(value).map_err(|e| ParseError::Malformed(e.to_string()))?;
    let file = file.unwrap_or_default();
    let version = file.version.unwrap_or_default();
    if version != VERSION {
        return Err(ParseError::Version(version));
    }
    let entries = file.allocations.unwrap_or_default();
    Ok(entries
        .into_iter()
        .map(|e| {
            let metadata = e.metadata.unwrap_or_default();
            Allocation {
                key: Key::new(
                    e.network_name.unwrap_or_default(),
                    e.container_id.unwrap_or_default(),
                    e.if_name.unwrap_or_default(),
                ),
                ipv4: e.ipv4.unwrap_or_default(),
                ipv6: e.ipv6.unwrap_or_default(),
                timestamp: e.allocation_timestamp.unwrap_or_default(),
                pod: PodMeta {
                    namespace: metadata.namespace.unwrap_or_default(),
                    name: metadata.name.unwrap_or_default(),
                    interfaces: metadata.interfaces.unwrap_or_default(),
                },
            }
        })
        .collect())
}

/// The text of one allocation, as [`render`] puts it between the brackets.
#[must_use]
pub fn entry(key: &Key, address: IpAddr, timestamp: i64, pod: &PodMeta) -> String {
    let mut out = String::with_capacity(288);
    out.push_str("{\"networkName\":");
    push_string(&mut out, &key.network);
    out.push_str(",\"containerID\":");
    push_string(&mut out, &key.container);
    out.push_str(",\"ifName\":");
    push_string(&mut out, &key.interface);
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    // Writing to a String cannot fail.
    let _ = write!(out, ",\"{family}\":\"{address}\",\"allocationTimestamp\":{timestamp},\"metadata\":{{");
    let mut separator = "";
    for (name, value) in [("k8sPodNamespace", &pod.namespace), ("k8sPodName", &pod.name)] {
        if !value.is_empty() {
            let _ = write!(out, "{separator}\"{name}\":");
            push_string(&mut out, value);
            separator = ",";
        }
    }
    if pod.interfaces != 0 {
        let _ = write!(out, "{separator}\"interfacesCount\":{}", pod.interfaces);
    }
    out.push_str("}}");
    out
}

/// The whole file from its entries.
#[must_use]
pub fn render<'a>(entries: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 << 10);
    out.extend_from_slice(b"{\"version\":\"");
    out.extend_from_slice(VERSION.as_bytes());
    out.extend_from_slice(b"\",\"allocations\":[");
    for (i, entry) in entries.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(entry.as_bytes());
    }
    out.extend_from_slice(b"]}\n");
    out
}

/// A JSON string in the reference writer's escapes: `<`, `>`, `&`, U+2028 and U+2029 too (spec 02 §6.2).
fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Why an entry was not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// No link of the host ends in the pod's suffix: the pod went while nobody watched (spec 02 §6.6).
    StaleVeth,
    /// Its text is no address of the node's family.
    UnknownAddress,
    /// Neither network, container nor interface.
    EmptyKey,
    /// Another entry has the same address or the same key, and is newer (spec 02 §6.7).
    Older,
}

/// The entries to take over, and what becomes of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sorted {
    pub kept: Vec<(Allocation, IpAddr)>,
    pub dropped: Vec<(Allocation, DropReason)>,
    /// Addresses whose host rules are left from dead pods; none that a kept entry uses (spec 02 W16).
    pub prune: Vec<IpAddr>,
}

/// Sorts the entries of a file by whether their pods can still be there. `live` answers for a namespace and name.
#[must_use]
pub fn sort(allocations: Vec<Allocation>, ipv6_node: bool, live: impl Fn(&str, &str) -> bool) -> Sorted {
    let mut sorted = Sorted::default();
    let mut stale = Vec::new();
    let mut by_address: HashMap<IpAddr, usize> = HashMap::new();
    let mut by_key: HashMap<Key, usize> = HashMap::new();
    let mut kept: Vec<Option<(Allocation, IpAddr)>> = Vec::new();
    for allocation in allocations {
        if allocation.key.is_empty() {
            sorted.dropped.push((allocation, DropReason::EmptyKey));
            continue;
        }
        let pod = &allocation.pod;
        if !pod.namespace.is_empty() && !pod.name.is_empty() && !live(&pod.namespace, &pod.name) {
            stale.extend([allocation.address(false), allocation.address(true)].into_iter().flatten());
            sorted.dropped.push((allocation, DropReason::StaleVeth));
            continue;
        }
        let Some(address) = allocation.address(ipv6_node) else {
            sorted.dropped.push((allocation, DropReason::UnknownAddress));
            continue;
        };
        // The newest of two with one address, or with one key, is the one that a pod was told last.
        let rivals = [by_address.get(&address).copied(), by_key.get(&allocation.key).copied()];
        let newer_exists = rivals
            .iter()
            .flatten()
            .any(|&i| kept[i].as_ref().is_some_and(|(rival, _)| rival.timestamp > allocation.timestamp));
        if newer_exists {
            sorted.dropped.push((allocation, DropReason::Older));
            continue;
        }
        for i in rivals.into_iter().flatten() {
            if let Some((rival, _)) = kept[i].take() {
                sorted.dropped.push((rival, DropReason::Older));
            }
        }
        by_address.insert(address, kept.len());
        by_key.insert(allocation.key.clone(), kept.len());
        kept.push(Some((allocation, address)));
    }
    sorted.kept = kept.into_iter().flatten().collect();
    stale.retain(|address| !sorted.kept.iter().any(|(_, kept)| kept == address));
    sorted.prune = stale;
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(container: &str, ip: &str, timestamp: i64) -> Allocation {
        Allocation {
            key: Key::new("aws-cni", container, "eth0"),
            ipv4: ip.to_owned(),
            ipv6: String::new(),
            timestamp,
            pod: PodMeta { namespace: "ns".to_owned(), name: container.to_owned(), interfaces: 1 },
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let pod = PodMeta { namespace: "a<b>&\u{2028}\"\\\n\u{1}".to_owned(), name: "p".to_owned(), interfaces: 2 };
        let key = Key::new("aws-cni", "c1", "eth0");
        let ip = "10.0.0.1".parse().unwrap();
        let text = entry(&key, ip, 7, &pod);
        assert!(text.contains("a\\u003cb\\u003e\\u0026\\u2028"), "spec 02 §6.2: {text}");
        let read = parse(&render([text.as_str()].into_iter())).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!((&read[0].key, &read[0].pod, read[0].timestamp), (&key, &pod, 7));
    }

    #[test]
    fn each_card_has_its_file() {
        let path = |base: &str, card| path(Path::new(base), card).display().to_string();
        assert_eq!(path("/var/run/aws-node/ipam.json", 0), "/var/run/aws-node/ipam.json");
        assert_eq!(path("/var/run/aws-node/ipam.json", 1), "/var/run/aws-node/ipam-nic-1.json");
        assert_eq!(path("state", 2), "state-nic-2.json");
        assert_eq!(path("/a.json/state.json.json", 3), "/a.json/state.json-nic-3.json");
    }

    #[test]
    fn lists_are_not_records() {
        for text in ["[]", r#"["vpc-cni-ipam/1",[]]"#, r#"{"version":"vpc-cni-ipam/1","allocations":[["a","b"]]}"#] {
            assert!(matches!(parse(text.as_bytes()), Err(ParseError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn newest_of_a_duplicate_address_wins_in_either_order() {
        for order in [[1, 2], [2, 1]] {
            let list = order.map(|t| allocation(&format!("c{t}"), "10.0.0.1", t)).to_vec();
            let sorted = sort(list, false, |_, _| true);
            assert_eq!(sorted.kept.len(), 1);
            assert_eq!(sorted.kept[0].0.key.container, "c2");
            assert_eq!(sorted.dropped[0].1, DropReason::Older);
        }
    }

    #[test]
    fn rules_of_a_live_address_are_never_pruned() {
        let list = vec![allocation("dead", "10.0.0.1", 1), allocation("live", "10.0.0.1", 2)];
        let sorted = sort(list, false, |_, name| name == "live");
        assert_eq!(sorted.kept.len(), 1);
        assert!(sorted.prune.is_empty(), "spec 02 W16");
    }
}
