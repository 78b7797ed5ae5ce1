//! What the introspection endpoints show of the pool, and the pool's figures for metrics (spec 02 §8.3, §9).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reservoir_core::ip::IpNet;
use reservoir_core::manager::{Manager, Now};
use reservoir_core::store::{CidrView, Record};
use reservoir_core::time::rfc3339_nanos;
use reservoir_policy::{Policies, Status};
use serde::Serialize;

use crate::metrics::PoolFigures;
use crate::pool::Pool;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Card {
    #[serde(rename = "TotalIPs")]
    total: u64,
    #[serde(rename = "AssignedIPs")]
    assigned: u64,
    #[serde(rename = "ENIs")]
    enis: BTreeMap<String, Eni>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Eni {
    #[serde(rename = "ID")]
    id: String,
    is_primary: bool,
    is_trunk: bool,
    #[serde(rename = "IsEFA")]
    is_efa: bool,
    device_number: u32,
    #[serde(rename = "AvailableIPv4Cidrs")]
    ipv4: BTreeMap<String, Cidr>,
    #[serde(rename = "IPv6Cidrs")]
    ipv6: BTreeMap<String, Cidr>,
    #[serde(rename = "IsExcludedForPodIPs")]
    excluded: bool,
    #[serde(rename = "RouteTableID")]
    table: u32,
    #[serde(rename = "SubnetID")]
    subnet: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Cidr {
    cidr: Net,
    #[serde(rename = "IPAddresses")]
    addresses: BTreeMap<String, Address>,
    is_prefix: bool,
    address_family: &'static str,
}

#[derive(Serialize)]
struct Net {
    #[serde(rename = "IP")]
    ip: IpAddr,
    #[serde(rename = "Mask")]
    mask: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Address {
    address: IpAddr,
    #[serde(rename = "IPAMKey")]
    key: Key,
    #[serde(rename = "IPAMMetadata")]
    metadata: Metadata,
    assigned_time: String,
    unassigned_time: String,
}

/// Container and interface are never shown: with them anyone could forge a DEL.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Key {
    network_name: String,
    #[serde(rename = "containerID")]
    container_id: &'static str,
    if_name: &'static str,
}

#[derive(Serialize, Default)]
struct Metadata {
    #[serde(rename = "k8sPodNamespace", skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(rename = "k8sPodName", skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(rename = "interfacesCount", skip_serializing_if = "is_zero")]
    interfaces: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

const NEVER: &str = "0001-01-01T00:00:00Z";

/// `/v1/enis` (spec 02 §8.3).
#[must_use]
pub fn enis(pool: &Pool) -> String {
    let cards = pool.look(|manager, now| cards(manager, now));
    // Maps with string keys and plain values always serialise.
    serde_json::to_string(&cards).unwrap_or_default()
}

fn cards(manager: &Manager, now: Now) -> BTreeMap<String, Card> {
    let cards = manager.cards().iter().map(|card| {
        let store = card.store();
        let stats = store.stats(now.mono);
        let enis = store.enis().map(|(spec, _)| {
            let mut ipv4 = BTreeMap::new();
            let mut ipv6 = BTreeMap::new();
            for view in store.cidrs(&spec.id, now.mono) {
                let map = if view.net.is_ipv4() { &mut ipv4 } else { &mut ipv6 };
                map.insert(view.net.to_string(), cidr(&view, now));
            }
            let eni = Eni {
                id: spec.id.clone(),
                is_primary: spec.primary,
                is_trunk: spec.trunk,
                is_efa: spec.efa,
                device_number: spec.device_index,
                ipv4,
                ipv6,
                excluded: spec.excluded,
                table: spec.table,
                subnet: spec.subnet.clone(),
            };
            (spec.id.clone(), eni)
        });
        (card.index().to_string(), Card { total: stats.total, assigned: stats.assigned, enis: enis.collect() })
    });
    cards.collect()
}

fn cidr(view: &CidrView<'_>, now: Now) -> Cidr {
    Cidr {
        cidr: Net { ip: view.net.network(), mask: mask(view.net) },
        addresses: view.records.iter().map(|record| (record.ip.to_string(), address(record, now))).collect(),
        is_prefix: !view.net.is_host(),
        address_family: if view.net.is_ipv4() { "4" } else { "6" },
    }
}

/// Who holds nothing has an empty key, and both times are told (spec 02 §8.3).
fn address(record: &Record<'_>, now: Now) -> Address {
    let given = record.given.and_then(|at| u64::try_from(at).ok()).filter(|at| *at > 0);
    let released = record.released.map(|at| now.unix.saturating_sub(now.mono.saturating_sub(at)));
    let time = |at: Option<Duration>| at.map_or_else(|| NEVER.to_owned(), rfc3339_nanos);
    let (key, metadata) = match record.assignment {
        Some(a) => (
            Key { network_name: a.key.network.clone(), ..Key::default() },
            Metadata { namespace: a.pod.namespace.clone(), name: a.pod.name.clone(), interfaces: a.pod.interfaces },
        ),
        None => Default::default(),
    };
    Address {
        address: record.ip,
        key,
        metadata,
        assigned_time: time(given.map(Duration::from_nanos)),
        unassigned_time: time(released),
    }
}

fn mask(net: IpNet) -> String {
    let bits = usize::from(net.length());
    let bytes = if net.is_ipv4() { 4 } else { 16 };
    let mask: Vec<u8> = (0..bytes)
        .map(|i| match bits.saturating_sub(i * 8) {
            0 => 0,
            n if n >= 8 => 0xff,
            n => 0xff << (8 - n),
        })
        .collect();
    STANDARD.encode(mask)
}

/// `/v1/policy`: what is loaded and how it fares, and the same of the shadow policy.
#[must_use]
pub fn policy(pool: &Pool) -> String {
    // `null` while the built-in component is still being compiled.
    #[derive(Serialize)]
    struct Both {
        #[serde(flatten)]
        in_force: Status,
        shadow: Option<Status>,
    }
    let status = |policies: &Arc<Policies>| policies.status();
    let both = pool
        .policy()
        .policies()
        .map(|policies| Both { in_force: status(policies), shadow: pool.policy().shadow().map(status) });
    serde_json::to_string(&both).unwrap_or_default()
}

/// What the endpoints ask.
#[derive(Debug)]
pub struct State(pub Arc<Pool>);

impl crate::http::Introspect for State {
    fn enis(&self) -> String {
        enis(&self.0)
    }

    fn eni_config(&self) -> Option<String> {
        self.0.eni_config()
    }

    fn policy(&self) -> String {
        policy(&self.0)
    }

    fn decisions(&self) -> String {
        self.0.policy().decisions().json_lines()
    }
}

/// The pool's figures at this moment.
#[must_use]
pub fn figures(pool: &Arc<Pool>) -> PoolFigures {
    pool.look(|manager: &mut Manager, now| {
        let cards = manager.cards();
        let stats = cards.stats(now.mono);
        let settings = manager.settings();
        // Spec 01 §3.9: less what is not ours; the place kept for a trunk counts.
        let max_enis: u64 = cards.iter().map(|c| u64::from(settings.max_enis.saturating_sub(c.unmanaged()))).sum();
        let per_slot = if settings.unit == reservoir_core::policy::Unit::Prefix { 16 } else { 1 };
        let mut per_eni = Vec::new();
        let mut per_cidr = Vec::new();
        for (spec, _) in cards.enis() {
            let mut held = 0;
            for view in cards.cidrs(&spec.id, now.mono).filter(|v| v.assigned > 0) {
                held += u64::from(view.assigned);
                per_cidr.push((view.net.to_string(), u64::from(view.assigned)));
            }
            per_eni.push((spec.id.clone(), held));
        }
        let ipv6 = settings.family == reservoir_core::policy::Family::Ipv6;
        PoolFigures {
            max_enis,
            // Spec 02 §9.2: a prefix of IPv6 has no end that anybody would reach.
            max_ips: if ipv6 { 0 } else { max_enis * u64::from(settings.limits.slots_per_eni()) * per_slot },
            enis: stats.enis as u64,
            ips: stats.total,
            assigned: stats.assigned,
            cooling: stats.cooling,
            prefixes: stats.prefixes as u64,
            waiting: manager.waiting() as u64,
            ec2_in_flight: manager.jobs_under_way() as u64,
            activity: manager.activity(),
            per_eni,
            per_cidr,
        }
    })
}

#[cfg(test)]
mod tests {
    use reservoir_core::manager::{Add, Journal, Wanted};
    use reservoir_core::store::{Key, PodMeta};

    use super::*;
    use crate::testing::{attached, settings};

    #[test]
    fn addresses_of_pods_and_of_those_that_are_gone_in_the_bytes_of_the_reference() {
        let at = |seconds: u64| Now {
            mono: Duration::from_secs(seconds),
            unix: Duration::new(1_788_336_000 + seconds, 123_456_789),
        };
        let mut manager = Manager::new(settings(&[0]));
        manager.boot(at(0), &[attached(0)], Journal::default());
        let key = |pod: &str| Key::new("aws-cni", format!("sandbox-of-{pod}"), "eth0");
        for (seconds, pod) in [(1, "gone"), (2, "here")] {
            let meta = PodMeta { namespace: "shop".to_owned(), name: pod.to_owned(), interfaces: 1 };
            assert!(matches!(manager.add(at(seconds), &key(pod), &meta, Wanted::One), Add::Assigned(_)));
        }
        manager.del(at(5), &key("gone")).unwrap();
        let text = serde_json::to_string(&cards(&manager, at(9))).unwrap();
        let expected = concat!(
            r#"{"0":{"TotalIPs":2,"AssignedIPs":1,"ENIs":{"eni-0":{"ID":"eni-0","IsPrimary":true,"IsTrunk":false,"#,
            r#""IsEFA":false,"DeviceNumber":0,"AvailableIPv4Cidrs":{"10.0.0.11/32":{"Cidr":{"IP":"10.0.0.11","#,
            r#""Mask":"/////w=="},"IPAddresses":{"10.0.0.11":{"Address":"10.0.0.11","IPAMKey":{"networkName":"","#,
            r#""containerID":"","ifName":""},"IPAMMetadata":{},"AssignedTime":"2026-09-02T08:00:01.123456789Z","#,
            r#""UnassignedTime":"2026-09-02T08:00:05.123456789Z"}},"IsPrefix":false,"AddressFamily":"4"},"#,
            r#""10.0.0.12/32":{"Cidr":{"IP":"10.0.0.12","Mask":"/////w=="},"IPAddresses":{"10.0.0.12":{"#,
            r#""Address":"10.0.0.12","IPAMKey":{"networkName":"aws-cni","containerID":"","ifName":""},"#,
            r#""IPAMMetadata":{"k8sPodNamespace":"shop","k8sPodName":"here","interfacesCount":1},"#,
            r#""AssignedTime":"2026-09-02T08:00:02.123456789Z","UnassignedTime":"0001-01-01T00:00:00Z"}},"#,
            r#""IsPrefix":false,"AddressFamily":"4"}},"IPv6Cidrs":{},"IsExcludedForPodIPs":false,"#,
            r#""RouteTableID":254,"SubnetID":"subnet-1"}}}}"#,
        );
        assert_eq!(text, expected);
    }
}
