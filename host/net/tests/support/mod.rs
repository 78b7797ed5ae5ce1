//! What the test programs share: namespaces, and a node of two interfaces.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

use std::net::Ipv4Addr;

use reservoir_net::eni::EniSetup;
use reservoir_net::host::HostConfig;
use reservoir_net::iptables::{Randomize, SnatConfig, SnatFacts};
use reservoir_net::pod::{self, PodAddress, PodSetup};
use reservoir_net::rule::Family;
use reservoir_net::testing::Inventory;
use reservoir_net::{MacAddr, table};

pub use reservoir_net::testing::{Namespace, skip};

/// MAC address of `eth0`.
pub const PRIMARY: &str = "02:00:00:00:00:01";
/// MAC address of `eth1`, and its own IP address.
pub const SECONDARY: &str = "02:00:00:00:00:02";
pub const SECONDARY_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 100, 20);

pub const CONFIG: HostConfig = HostConfig { mtu: 1500, ..HostConfig::DOCUMENTED };

pub fn mac(text: &str) -> MacAddr {
    text.parse().unwrap()
}

/// What `eth1` is to become.
pub fn secondary() -> EniSetup {
    EniSetup {
        mac: mac(SECONDARY),
        primary_ip: SECONDARY_IP.into(),
        subnet: "10.0.96.0/19".parse().unwrap(),
        mtu: 1400,
        table: table::of_interface(0, 1),
        rule_configured: false,
        trunk: false,
    }
}

pub fn snat_config() -> SnatConfig {
    SnatConfig {
        external_snat: false,
        node_port: true,
        exclude: Vec::new(),
        randomize: Randomize::Prng,
        mark: 0x80,
        veth_prefix: "eni".to_owned(),
    }
}

/// A node in a VPC of these blocks.
pub fn snat_facts(cidrs: &[&str]) -> SnatFacts {
    SnatFacts {
        primary_interface: "eth0".to_owned(),
        primary_ip: [10, 0, 96, 10].into(),
        vpc_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
    }
}

/// Takes pods down, their namespaces too, and waits until nothing is left compared with `before`.
pub fn is_clean_after(node: &Namespace, before: &Inventory, setups: &[&PodSetup], namespaces: Vec<Namespace>) {
    let interfaces = setups.iter().flat_map(|setup| &setup.interfaces);
    let addresses: Vec<_> = interfaces.map(|i| PodAddress { address: i.address, table: i.table }).collect();
    node.run(|| pod::tear_down(&addresses)).unwrap();
    drop(namespaces);
    node.settles_to(before);
}
