//! The whole plugin on a real kernel, in namespaces of the test's own: ADD, CHECK and DEL of pods of every kind.

mod support;

use std::cell::RefCell;
use std::io::Read;
use std::path::Path;

use aws_cni::inputs::Environment;
use aws_cni::peers::{AddAnswer, Peers, RpcError};
use aws_cni::pod_net::KernelNet;
use aws_cni::{Deps, Reply, run};
use reservoir_net::pod::PodInterface;
use reservoir_rpc::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, DeleteNpRequest, EnforceNpRequest,
    IpAllocationMetadata,
};
use serde_json::{Value, json};
use support::Namespace;

/// An ipamd that gives the pod these addresses, or is not there.
struct Ipamd {
    entries: Vec<IpAllocationMetadata>,
    is_up: bool,
    released: RefCell<u32>,
}

impl Ipamd {
    fn new(addresses: &[(&str, i32)]) -> Self {
        let entry = |&(address, route_table_id): &(&str, i32)| {
            let (ipv4_addr, ipv6_addr) = if address.contains(':') { ("", address) } else { (address, "") };
            IpAllocationMetadata {
                ipv4_addr: ipv4_addr.to_owned(),
                ipv6_addr: ipv6_addr.to_owned(),
                device_number: i32::from(route_table_id != 254),
                route_table_id,
            }
        };
        Self { entries: addresses.iter().map(entry).collect(), is_up: true, released: RefCell::default() }
    }
}

impl Peers for Ipamd {
    fn add_network(&self, _: &Path, _: AddNetworkRequest) -> Result<AddAnswer, RpcError> {
        let reply = AddNetworkReply {
            success: true,
            ip_allocation_metadata: self.entries.clone(),
            ..AddNetworkReply::default()
        };
        Ok(AddAnswer { reply, reason: None })
    }

    fn del_network(&self, _: &Path, _: DelNetworkRequest) -> Result<DelNetworkReply, RpcError> {
        if !self.is_up {
            return Err(RpcError::unavailable("nobody"));
        }
        *self.released.borrow_mut() += 1;
        let ip_allocation_metadata = self.entries.clone();
        Ok(DelNetworkReply { success: true, ip_allocation_metadata, ..DelNetworkReply::default() })
    }

    fn serving(&self, _: &Path) -> Result<bool, RpcError> {
        Ok(true)
    }

    fn enforce_policy(&self, _: EnforceNpRequest) -> Result<bool, RpcError> {
        Err(RpcError::unavailable("no agent here"))
    }

    fn delete_policy(&self, _: DeleteNpRequest) -> Result<bool, RpcError> {
        Err(RpcError::unavailable("no agent here"))
    }
}

/// Runs the plugin in the node's namespace; the peers are made where they are used.
fn plugin(node: &Namespace, pod: &Path, addresses: &[(&str, i32)], is_up: bool, command: &str, conf: &Value) -> Reply {
    node.run(|| {
        let env = Environment {
            command: command.to_owned(),
            container_id: "c1".to_owned(),
            netns: pod.display().to_string(),
            ifname: "eth0".to_owned(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=hpc-0;K8S_POD_UID=u1".to_owned(),
            path: "/opt/cni/bin".to_owned(),
            netns_override: false,
        };
        let ipamd = Ipamd { is_up, ..Ipamd::new(addresses) };
        let text = conf.to_string();
        let mut stdin: &mut dyn Read = &mut text.as_bytes();
        run(&env, &mut stdin, Deps { peers: &ipamd, net: &KernelNet })
    })
}

fn conf(version: &str, mtu: &str) -> Value {
    json!({"cniVersion": version, "name": "aws-cni", "type": "aws-cni", "mtu": mtu, "pluginLogLevel": "fatal"})
}

/// The interfaces that the result of ADD tells of.
fn interfaces(result: &Value, addresses: &[(&str, i32)]) -> Vec<PodInterface> {
    addresses
        .iter()
        .enumerate()
        .map(|(index, (address, table))| PodInterface {
            name: result["interfaces"][2 * index + 1]["name"].as_str().unwrap().to_owned(),
            host_veth: result["interfaces"][2 * index]["name"].as_str().unwrap().to_owned(),
            address: address.parse().unwrap(),
            table: u32::try_from(*table).unwrap(),
        })
        .collect()
}

const KINDS: [(&str, &[(&str, i32)]); 5] = [
    ("IPv4", &[("10.0.97.31", 2)]),
    ("IPv6", &[("2600:1f14:abc:d00:5c1e::4", 254)]),
    ("custom networking", &[("100.64.1.30", 2)]),
    ("IPv4 on two cards", &[("10.0.97.40", 254), ("10.0.200.40", 10_101)]),
    ("IPv6 on two cards", &[("2600:1f14:abc:d00:5c1e::4", 254), ("2600:1f14:abc:d00:7a20::2", 10_101)]),
];

#[test]
fn pods_of_every_kind_come_are_checked_and_go_without_a_trace() {
    let Some(node) = Namespace::new("pods_of_every_kind") else { return };
    for (kind, addresses) in KINDS {
        for (version, is_up) in [("0.4.0", true), ("1.1.0", false)] {
            let pod = Namespace::new("pod").unwrap();
            let before = node.inventory();
            let added = plugin(&node, &pod.path(), addresses, true, "ADD", &conf(version, "9001"));
            assert_eq!(added.exit, 0, "{kind}: {added:?}");
            let result: Value = serde_json::from_str(&added.stdout).unwrap();
            let expected = before.with_pods(&interfaces(&result, addresses));
            assert_eq!(expected.differences(&node.inventory()), [""; 0], "{kind}");

            // The configuration has another MTU by now: that is no difference.
            let mut after = conf(version, "1500");
            after["prevResult"] = result;
            let checked = plugin(&node, &pod.path(), addresses, true, "CHECK", &after);
            assert_eq!((checked.exit, checked.stdout.as_str()), (0, ""), "{kind}");
            let veth = after["prevResult"]["interfaces"][0]["name"].as_str().unwrap().to_owned();
            node.ip(&format!("link set {veth} down"));
            let differs = plugin(&node, &pod.path(), addresses, true, "CHECK", &after);
            assert!(differs.exit == 1 && differs.stdout.contains(&format!("interface {veth} is down")), "{differs:?}");

            // Told by ipamd, or by the saved result alone.
            for _ in 0..2 {
                let deleted = plugin(&node, &pod.path(), addresses, is_up, "DEL", &after);
                assert_eq!((deleted.exit, deleted.stdout.as_str()), (0, ""), "{kind}");
            }
            drop(pod);
            node.settles_to(&before);
        }
    }
}

#[test]
fn an_add_that_fails_at_its_last_interface_leaves_nothing() {
    let Some(node) = Namespace::new("an_add_that_fails_at_its_last_interface") else { return };
    let pod = Namespace::new("pod").unwrap();
    pod.ip("link add mNicIf1 type veth peer name taken");
    let before = node.inventory();
    let addresses = KINDS[4].1;
    let failed = plugin(&node, &pod.path(), addresses, true, "ADD", &conf("0.4.0", "9001"));
    assert_eq!(failed.exit, 1);
    assert!(failed.stdout.contains("add command: failed to setup network: SetupPodNetwork: failed to setup veth pair"));
    node.settles_to(&before);
}
