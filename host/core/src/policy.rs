//! The words of the policy contract (`wit/policy.wit`) as plain data.
//!
//! `host/policy` lowers and lifts these values to and from a component; everything else in the host sees only these
//! types. Their serde form *is* the JSON form of a WIT value (docs/policy-contract.md, "JSON"): keys in WIT order with
//! `_` for `-`, an enum a string, a variant with a payload an object of one key, flags an array, none null, bytes
//! base64. What each field means stands in the WIT file, once.

use serde::{Deserialize, Serialize};

/// Keys with their values, keys unique, sorted by key.
pub type Pairs = Vec<(String, String)>;

/// What EC2 is asked for. Either takes one slot of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// One secondary IPv4 address, a /32.
    Ip,
    /// One IPv4 prefix, a /28.
    Prefix,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cidr {
    pub id: u32,
    pub unit: Unit,
    pub size: u32,
    pub serving: bool,
    pub assigned: u32,
    pub cooling: u32,
    pub cooled_in_seconds: u32,
    pub age_seconds: u32,
    pub idle_seconds: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EniTrait {
    Primary,
    Trunk,
    Efa,
    Excluded,
    Closed,
}

/// A set of [`EniTrait`], kept in WIT order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EniTraits(pub Vec<EniTrait>);

impl EniTraits {
    /// Whether `t` is set.
    #[must_use]
    pub fn has(&self, t: EniTrait) -> bool {
        self.0.contains(&t)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eni {
    pub id: String,
    pub card: u32,
    pub device_index: u32,
    pub subnet: String,
    pub traits: EniTraits,
    pub age_seconds: u32,
    pub cidrs: Vec<Cidr>,
}

/// The four documented targets, for one card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    pub warm_enis: u32,
    pub warm_ips: u32,
    pub warm_prefixes: u32,
    pub minimum_ips: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    pub index: u32,
    pub max_enis: u32,
    pub enis_in_flight: u32,
    pub ips_in_flight: u32,
    pub waiting: u32,
    pub configured: Targets,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub slots_per_eni: u32,
    pub ips_per_prefix: u32,
    pub max_pods: u32,
}

/// Whether a new interface may be made in a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Eligible,
    Possible,
    Forbidden,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub id: String,
    pub cidr: String,
    pub ipv6: bool,
    pub primary: bool,
    pub standing: Standing,
    pub free_ips: Option<u32>,
    pub seen_seconds: u32,
    pub ips_refused_seconds: u32,
    pub prefixes_refused_seconds: u32,
    pub tags: Pairs,
}

/// Whether the host will do one kind of thing, whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    Open,
    OpensIn(u32),
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gates {
    pub grow: Gate,
    pub release: Gate,
    pub remove: Gate,
    pub ec2_calls_left: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minute {
    pub adds: u32,
    pub deletes: u32,
    pub starved: u32,
    pub peak_assigned: u32,
    pub ec2_calls: u32,
    pub ec2_throttled: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// Everything there is to know about one node at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub now: u64,
    pub name: String,
    pub instance_type: String,
    pub availability_zone: String,
    pub labels: Pairs,
    pub families: Vec<Family>,
    pub unit: Unit,
    pub limits: Limits,
    pub cards: Vec<Card>,
    pub enis: Vec<Eni>,
    pub subnets: Vec<Subnet>,
    pub gates: Gates,
    pub draining: bool,
    pub booted_seconds: u32,
    pub history: Vec<Minute>,
    pub extra: Pairs,
}

/// What belongs to the policy and not to the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    pub settings: Pairs,
    #[serde(with = "base64_bytes")]
    pub memo: Vec<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub reason: String,
    pub wake_after_seconds: Option<u32>,
    pub refresh_subnets: bool,
    #[serde(with = "base64_bytes")]
    pub memo: Vec<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    pub targets: Vec<Targets>,
    pub note: Note,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assign {
    pub eni: String,
    pub unit: Unit,
    pub count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateEni {
    pub card: u32,
    pub unit: Unit,
    pub count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Growth {
    Assign(Assign),
    CreateEni(CreateEni),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub grow: Vec<Growth>,
    pub release: Vec<u32>,
    pub remove: Vec<String>,
    pub drain: Vec<u32>,
    pub note: Note,
}

/// The three functions that a component may own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    Sizing,
    Planning,
    Subnets,
}

/// How loud a policy's log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
}

/// Bytes as base64 (RFC 4648 §4, padded) in JSON. Small enough to own; core takes no dependency for it.
mod base64_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
        for chunk in bytes.chunks(3) {
            let b = [chunk[0], *chunk.get(1).unwrap_or(&0), *chunk.get(2).unwrap_or(&0)];
            let n = u32::from(b[0]) << 16 | u32::from(b[1]) << 8 | u32::from(b[2]);
            for i in 0..4 {
                if i <= chunk.len() {
                    out.push(char::from(ALPHABET[(n >> (18 - 6 * i) & 63) as usize]));
                } else {
                    out.push('=');
                }
            }
        }
        s.serialize_str(&out)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(d)?;
        decode(&text).ok_or_else(|| D::Error::custom("not base64 (RFC 4648 §4, with padding)"))
    }

    fn decode(text: &str) -> Option<Vec<u8>> {
        let bytes = text.as_bytes();
        if !bytes.len().is_multiple_of(4) {
            return None;
        }
        let mut out = Vec::with_capacity(bytes.len() / 4 * 3);
        let groups = bytes.len() / 4;
        for (i, group) in bytes.chunks(4).enumerate() {
            let pads = group.iter().rev().take_while(|&&c| c == b'=').count();
            if pads > 2 || (pads > 0 && i + 1 != groups) {
                return None;
            }
            let mut n = 0u32;
            for &c in &group[..4 - pads] {
                let value = ALPHABET.iter().position(|&a| a == c)?;
                n = n << 6 | u32::try_from(value).ok()?;
            }
            n <<= 6 * pads;
            let triple = n.to_be_bytes();
            out.extend_from_slice(&triple[1..4 - pads]);
        }
        Some(out)
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use serde::Serialize;

        #[derive(Serialize, serde::Deserialize, PartialEq, Debug)]
        struct B(#[serde(with = "super")] Vec<u8>);

        #[test]
        fn round_trips_every_length() {
            for n in 0..20u8 {
                let b = B((0..n).map(|i| i.wrapping_mul(37)).collect());
                let text = serde_json::to_string(&b).unwrap();
                assert_eq!(serde_json::from_str::<B>(&text).unwrap(), b, "{text}");
            }
            assert_eq!(serde_json::to_string(&B(b"pool".to_vec())).unwrap(), "\"cG9vbA==\"");
        }

        #[test]
        fn refuses_what_is_not_base64() {
            for bad in ["a", "a===", "====", "ab=c", "ab==cdef", "ab*d"] {
                assert!(decode(bad).is_none(), "{bad}");
            }
        }
    }
}
