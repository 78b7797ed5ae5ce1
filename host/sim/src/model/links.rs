//! What happens to the network devices of the instances.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use reservoir_core::ip::{IpNet, Ipv4Net};
use serde::Serialize;

/// One change, in order of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkEvent {
    pub at: Duration,
    pub instance: String,
    pub eni: String,
    pub mac: String,
    pub device_index: u32,
    pub card: u32,
    pub subnet: Ipv4Net,
    pub subnet_ipv6: Option<IpNet>,
    /// Its security groups.
    pub groups: Vec<String>,
    pub change: LinkChange,
}

/// What changed. Addresses and groups are always all of the interface, not the difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkChange {
    Up(Addresses),
    /// It owns other addresses, or has other groups.
    Changed(Addresses),
    Down,
}

/// What an interface owns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Addresses {
    pub primary: Option<Ipv4Addr>,
    pub secondary: Vec<Ipv4Addr>,
    pub prefixes: Vec<Ipv4Net>,
    pub ipv6: Vec<Ipv6Addr>,
    pub ipv6_prefixes: Vec<IpNet>,
}

impl Addresses {
    /// The IPv6 ones as blocks, addresses as /128.
    pub fn ipv6_blocks(&self) -> impl Iterator<Item = IpNet> {
        let singles = self.ipv6.iter().map(|&a| IpNet::new(a.into(), 128));
        singles.chain(self.ipv6_prefixes.iter().copied())
    }

    /// The IPv4 ones as blocks, addresses as /32.
    pub fn blocks(&self) -> impl Iterator<Item = Ipv4Net> {
        let singles = self.primary.iter().chain(&self.secondary).map(|&a| Ipv4Net::host(a));
        singles.chain(self.prefixes.iter().copied())
    }
}
