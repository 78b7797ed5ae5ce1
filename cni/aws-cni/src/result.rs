//! What ADD returns (spec 04 §2.5).

use std::net::IpAddr;

use cni_plugin::json::to_indented;
use cni_plugin::version::{CniVersion, ResultFormat};
use reservoir_net::names;
use serde::Serialize;

use crate::args::PodArgs;

/// A wired pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddResult {
    /// `CNI_NETNS`
    pub netns: String,
    /// Its interfaces; the first is `CNI_IFNAME`.
    pub interfaces: Vec<Wired>,
    /// Carries the state below for DEL, on nodes of any version (spec 04 §2.5).
    pub dummy: String,
    /// What it carries.
    pub saved: Saved,
}

/// The state for DEL that the dummy carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Of an ordinary pod: the device number of the first address.
    Device(i32),
    /// Of a branch pod: its vlan.
    Vlan(u16),
}

/// One wired interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wired {
    /// The host end.
    pub host_veth: String,
    /// The container end.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// `RouteTableId` as ipamd gave it.
    pub table: i32,
    /// Of a branch interface's subnet; ordinary pods' results name none.
    pub gateway: Option<IpAddr>,
}

impl AddResult {
    /// For a pod.
    #[must_use]
    pub fn new(args: &PodArgs, netns: &str, interfaces: Vec<Wired>, saved: Saved) -> Self {
        let dummy = names::dummy(&args.namespace, &args.name);
        Self { netns: netns.to_owned(), interfaces, dummy, saved }
    }

    /// As printed on stdout.
    #[must_use]
    pub fn to_json(&self, version: CniVersion) -> String {
        match version.format() {
            ResultFormat::Addresses => to_indented(&self.addresses(version)),
            ResultFormat::Interfaces => to_indented(&self.with_interfaces(version)),
            ResultFormat::Current => to_indented(&self.current(version)),
        }
    }

    /// Name, mac and sandbox of every entry.
    fn entries(&self) -> Vec<(String, Option<String>, Option<String>)> {
        let mut entries = Vec::with_capacity(2 * self.interfaces.len() + 1);
        for wired in &self.interfaces {
            // Never with a sandbox: bandwidth tells host ends by its absence (spec 04 §15).
            entries.push((wired.host_veth.clone(), None, None));
            entries.push((wired.name.clone(), Some(wired.table.to_string()), Some(self.netns.clone())));
        }
        let (mac, sandbox) = match self.saved {
            Saved::Device(device) => ("0".to_owned(), Some(device.to_string())),
            Saved::Vlan(vlan) => (vlan.to_string(), None),
        };
        entries.push((self.dummy.clone(), Some(mac), sandbox));
        entries
    }

    fn addresses(&self, version: CniVersion) -> Addresses {
        let first = |ipv4: bool| {
            let of_family = |wired: &&Wired| wired.address.is_ipv4() == ipv4;
            self.interfaces
                .iter()
                .find(of_family)
                .map(|wired| AddressOnly { ip: cidr(wired.address), gateway: wired.gateway })
        };
        Addresses { cni_version: version.as_str(), ip4: first(true), ip6: first(false), dns: Dns {} }
    }

    fn with_interfaces(&self, version: CniVersion) -> WithInterfaces {
        let entries = self.entries().into_iter();
        let ips = self.interfaces.iter().enumerate().map(|(index, wired)| IpWithVersion {
            version: if wired.address.is_ipv4() { "4" } else { "6" },
            interface: 2 * index + 1,
            address: cidr(wired.address),
            gateway: wired.gateway,
        });
        WithInterfaces {
            cni_version: version.as_str(),
            interfaces: entries.map(|(name, mac, sandbox)| Interface { name, mac, sandbox }).collect(),
            ips: ips.collect(),
            dns: Dns {},
        }
    }

    fn current(&self, version: CniVersion) -> Current {
        let entries = self.entries().into_iter();
        let ips = self.interfaces.iter().enumerate();
        Current {
            cni_version: version.as_str(),
            interfaces: entries.map(|(name, mac, sandbox)| SortedInterface { mac, name, sandbox }).collect(),
            ips: ips
                .map(|(index, w)| SortedIp { address: cidr(w.address), gateway: w.gateway, interface: 2 * index + 1 })
                .collect(),
        }
    }
}

/// A pod's address with the length of a host.
fn cidr(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

#[derive(Serialize)]
struct Dns {}

#[derive(Serialize)]
struct Addresses {
    #[serde(rename = "cniVersion")]
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<AddressOnly>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<AddressOnly>,
    dns: Dns,
}

#[derive(Serialize)]
struct AddressOnly {
    ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

#[derive(Serialize)]
struct WithInterfaces {
    #[serde(rename = "cniVersion")]
    cni_version: &'static str,
    interfaces: Vec<Interface>,
    ips: Vec<IpWithVersion>,
    dns: Dns,
}

#[derive(Serialize)]
struct Interface {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<String>,
}

#[derive(Serialize)]
struct IpWithVersion {
    version: &'static str,
    interface: usize,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

/// Keys sorted at every level, as the reference prints this form.
#[derive(Serialize)]
struct Current {
    #[serde(rename = "cniVersion")]
    cni_version: &'static str,
    interfaces: Vec<SortedInterface>,
    ips: Vec<SortedIp>,
}

#[derive(Serialize)]
struct SortedInterface {
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<String>,
}

#[derive(Serialize)]
struct SortedIp {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    interface: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web_1() -> AddResult {
        let args = PodArgs { name: "web-1".to_owned(), namespace: "default".to_owned(), ..PodArgs::default() };
        let wired = Wired {
            host_veth: "eni0761ccbeace".to_owned(),
            name: "eth0".to_owned(),
            address: "10.0.97.31".parse().unwrap(),
            table: 2,
            gateway: None,
        };
        AddResult::new(&args, "/var/run/netns/cni-8f1c", vec![wired], Saved::Device(1))
    }

    #[test]
    fn the_specified_bytes_for_0_4_0() {
        let expected = r#"{
    "cniVersion": "0.4.0",
    "interfaces": [
        {
            "name": "eni0761ccbeace"
        },
        {
            "name": "eth0",
            "mac": "2",
            "sandbox": "/var/run/netns/cni-8f1c"
        },
        {
            "name": "dummy0761ccbeace",
            "mac": "0",
            "sandbox": "1"
        }
    ],
    "ips": [
        {
            "version": "4",
            "interface": 1,
            "address": "10.0.97.31/32"
        }
    ],
    "dns": {}
}"#;
        assert_eq!(web_1().to_json(CniVersion::V0_4_0), expected);
    }

    #[test]
    fn the_old_form_names_no_interface() {
        let value: serde_json::Value = serde_json::from_str(&web_1().to_json(CniVersion::V0_2_0)).unwrap();
        assert_eq!(value, serde_json::json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.97.31/32"}, "dns": {}}));
    }

    #[test]
    fn the_new_form_is_sorted_and_without_family() {
        let text = web_1().to_json(CniVersion::V1_1_0);
        assert!(!text.contains("version\": \"4\"") && !text.contains("dns"), "{text}");
        assert!(text.find("\"mac\": \"2\"") < text.find("\"name\": \"eth0\""), "{text}");
    }

    #[test]
    fn del_reads_what_add_wrote() {
        use crate::prev_result::PrevResult;

        let args = PodArgs { name: "web-1".to_owned(), namespace: "default".to_owned(), ..PodArgs::default() };
        for version in [CniVersion::V0_3_0, CniVersion::V0_4_0, CniVersion::V1_0_0, CniVersion::V1_1_0] {
            let value: serde_json::Value = serde_json::from_str(&web_1().to_json(version)).unwrap();
            let saved = PrevResult::parse(value.as_object().unwrap(), version).unwrap();
            let addresses = saved.addresses(&args, "eth0").unwrap();
            assert_eq!((addresses[0].host_veth.as_str(), addresses[0].table), ("eni0761ccbeace", 2), "{version:?}");
        }
    }
}
