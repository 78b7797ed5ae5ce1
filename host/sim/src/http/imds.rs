//! IMDSv2: session tokens and the tree of keys (spec 03 §2, §3, §16.6).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::model::imds::{Identity, Metadata, MetadataInterface};

/// Name of the role whose credentials IMDS hands out.
const ROLE: &str = "node-role";

/// Session tokens of one instance.
#[derive(Debug, Default)]
pub struct Tokens {
    issued: u64,
    valid: BTreeMap<String, Instant>,
}

impl Tokens {
    /// A fresh token, or None where the wanted time to live is not 1 to 21600 s.
    pub fn issue(&mut self, instance: &str, ttl: Option<&str>, now: Instant) -> Option<(String, u64)> {
        let ttl: u64 = ttl?.parse().ok().filter(|t| (1..=21600).contains(t))?;
        self.valid.retain(|_, until| *until > now);
        self.issued += 1;
        let token = format!("{instance}.{:016x}==", self.issued.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.valid.insert(token.clone(), now + Duration::from_secs(ttl));
        Some((token, ttl))
    }

    pub fn is_valid(&self, token: Option<&str>, now: Instant) -> bool {
        token.and_then(|t| self.valid.get(t)).is_some_and(|until| *until > now)
    }
}

/// The access key of an instance's role; the EC2 face knows the caller by it.
pub fn access_key(instance: &str) -> String {
    format!("ASIA{}", instance.trim_start_matches("i-").to_ascii_uppercase())
}

/// The body at `path`, a directory with or without its slash; None: 404.
pub fn read(path: &str, identity: &Identity, metadata: &Metadata) -> Option<String> {
    let path = path.trim_end_matches('/');
    let rest = path.strip_prefix("/latest")?;
    let tree = tree(identity, metadata);
    if let Some(body) = tree.get(rest) {
        return Some(body.clone());
    }
    let prefix = format!("{rest}/");
    let mut children: Vec<String> = Vec::new();
    for key in tree.range(prefix.clone()..).map(|(key, _)| key).take_while(|key| key.starts_with(&prefix)) {
        let child = &key[prefix.len()..];
        let child = child.split_once('/').map_or_else(|| child.to_owned(), |(dir, _)| format!("{dir}/"));
        if children.last() != Some(&child) {
            children.push(child);
        }
    }
    (!children.is_empty()).then(|| children.join("\n"))
}

/// All leaves, without `/latest`.
fn tree(identity: &Identity, metadata: &Metadata) -> BTreeMap<String, String> {
    let facts = &identity.facts;
    let host = host_name(&facts.local_ipv4.to_string(), &facts.region);
    let groups = metadata.interfaces.get(&facts.mac).map(|i| i.groups.join("\n")).unwrap_or_default();
    let document = json!({
        "accountId": identity.account,
        "architecture": "x86_64",
        "availabilityZone": facts.availability_zone,
        "imageId": "ami-0a12b34c56d78e90f",
        "instanceId": facts.instance_id,
        "instanceType": facts.instance_type,
        "pendingTime": "2026-01-01T00:00:00Z",
        "privateIp": facts.local_ipv4,
        "region": facts.region,
        "version": "2017-09-30",
    });
    let credentials = json!({
        "Code": "Success",
        "LastUpdated": "2026-01-01T00:00:00Z",
        "Type": "AWS-HMAC",
        "AccessKeyId": access_key(&facts.instance_id),
        "SecretAccessKey": "simulated-secret-key",
        "Token": "simulated-session-token",
        "Expiration": "2099-01-01T00:00:00Z",
    });
    let leaves = [
        ("/dynamic/instance-identity/document", format!("{document:#}")),
        ("/meta-data/ami-id", "ami-0a12b34c56d78e90f".to_owned()),
        ("/meta-data/hostname", host.clone()),
        ("/meta-data/instance-id", facts.instance_id.clone()),
        ("/meta-data/instance-life-cycle", "on-demand".to_owned()),
        ("/meta-data/instance-type", facts.instance_type.clone()),
        ("/meta-data/local-hostname", host),
        ("/meta-data/local-ipv4", facts.local_ipv4.to_string()),
        ("/meta-data/mac", facts.mac.clone()),
        ("/meta-data/placement/availability-zone", facts.availability_zone.clone()),
        ("/meta-data/placement/region", facts.region.clone()),
        ("/meta-data/security-groups", groups),
        ("/meta-data/services/domain", "amazonaws.com".to_owned()),
        ("/meta-data/services/partition", "aws".to_owned()),
    ];
    let mut tree: BTreeMap<String, String> = leaves.into_iter().map(|(key, body)| (key.to_owned(), body)).collect();
    if let Some(address) = facts.local_ipv6 {
        tree.insert("/meta-data/ipv6".to_owned(), address.to_string());
    }
    tree.insert(format!("/meta-data/iam/security-credentials/{ROLE}"), format!("{credentials:#}"));
    for (mac, interface) in &metadata.interfaces {
        interface_leaves(&mut tree, &format!("/meta-data/network/interfaces/macs/{mac}"), interface, identity);
    }
    tree
}

/// Keys of one interface; optional ones are absent, never empty.
fn interface_leaves(tree: &mut BTreeMap<String, String>, at: &str, interface: &MetadataInterface, identity: &Identity) {
    let facts = &interface.facts;
    let mut put = |key: &str, body: String| {
        if !body.is_empty() {
            tree.insert(format!("{at}/{key}"), body);
        }
    };
    let lines = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join("\n");
    put("device-number", facts.device_index.to_string());
    put("interface-id", facts.eni.clone());
    put("mac", facts.mac.clone());
    if identity.tells_cards {
        put("network-card", facts.card.to_string());
    }
    put("owner-id", identity.account.clone());
    put("security-group-ids", interface.groups.join("\n"));
    put("subnet-id", facts.subnet.clone());
    put("vpc-id", interface.vpc.clone());
    // The primary first; the order of the others means nothing, and here is none that anybody could take for one.
    let mut secondary = facts.secondary.clone();
    secondary.sort_by_key(|a| u32::from(*a).reverse_bits());
    put("local-ipv4s", lines(&mut facts.primary.iter().chain(&secondary).map(ToString::to_string)));
    put("ipv4-prefix", lines(&mut facts.prefixes.iter().map(ToString::to_string)));
    put("ipv6s", lines(&mut facts.ipv6.iter().map(ToString::to_string)));
    put("ipv6-prefix", lines(&mut facts.ipv6_prefixes.iter().map(ToString::to_string)));
    if let Some(cidr) = facts.subnet_ipv6_cidr {
        put("subnet-ipv6-cidr-blocks", cidr.to_string());
        put("vpc-ipv6-cidr-blocks", lines(&mut identity.vpc_ipv6_cidrs.iter().map(ToString::to_string)));
    }
    if let Some(primary) = facts.primary {
        put("local-hostname", host_name(&primary.to_string(), &identity.facts.region));
    }
    if let Some(cidr) = facts.subnet_cidr {
        put("subnet-ipv4-cidr-block", cidr.to_string());
    }
    if let Some(first) = identity.vpc_cidrs.first() {
        put("vpc-ipv4-cidr-block", first.to_string());
    }
    put("vpc-ipv4-cidr-blocks", lines(&mut identity.vpc_cidrs.iter().map(ToString::to_string)));
}

fn host_name(address: &str, region: &str) -> String {
    format!("ip-{}.{region}.compute.internal", address.replace('.', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Sim};

    fn get(path: &str) -> Option<String> {
        let sim = Sim::new(&Config::default()).unwrap();
        let instance = "i-0c3f1a9d27b6e4851";
        read(path, &sim.identity(instance).unwrap(), sim.metadata(instance).unwrap())
    }

    #[test]
    fn directories_answer_with_and_without_slash() {
        let macs = get("/latest/meta-data/network/interfaces/macs/").unwrap();
        assert_eq!(Some(&macs), get("/latest/meta-data/network/interfaces/macs").as_ref());
        let mac = get("/latest/meta-data/mac").unwrap();
        assert_eq!(macs, format!("{mac}/"));
        let fields = get(&format!("/latest/meta-data/network/interfaces/macs/{mac}")).unwrap();
        assert!(fields.lines().any(|l| l == "local-ipv4s"));
        assert!(!fields.lines().any(|l| l == "ipv4-prefix"), "absent, not empty");
        assert_eq!(get("/latest/meta-data/iam/security-credentials/").as_deref(), Some(ROLE));
        assert_eq!(get("/latest/meta-data/iam/").as_deref(), Some("security-credentials/"));
        assert_eq!(get("/latest/").as_deref(), Some("dynamic/\nmeta-data/"));
    }

    #[test]
    fn unknown_keys_are_not_found() {
        for path in ["/latest/meta-data/ipv6", "/latest/meta-data/nothing", "/", "", "/latest/meta-data/ma"] {
            assert_eq!(get(path), None, "{path}");
        }
    }

    #[test]
    fn tokens_expire() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        for bad in [None, Some("0"), Some("21601"), Some("x")] {
            assert!(tokens.issue("i-1", bad, now).is_none());
        }
        let (token, ttl) = tokens.issue("i-1", Some("5"), now).unwrap();
        assert_eq!(ttl, 5);
        assert!(tokens.is_valid(Some(&token), now));
        assert!(!tokens.is_valid(Some(&token), now + Duration::from_secs(5)));
        assert!(!tokens.is_valid(None, now));
    }
}
