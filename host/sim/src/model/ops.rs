//! The EC2 calls the model knows and what they answer.

use std::net::{Ipv4Addr, Ipv6Addr};

use reservoir_core::cloud::ConnectionTracking;
use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::limits::InstanceLimits;
use serde::{Serialize, Serializer};

use super::aws::{Eni, InterfaceType};

/// One call with all its parameters.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "action")]
pub enum Op {
    DescribeNetworkInterfaces(Query),
    DescribeInstances(Query),
    DescribeSubnets(Query),
    DescribeInstanceTypes(Query),
    DescribeTags(Query),
    CreateNetworkInterface(Create),
    AttachNetworkInterface { eni: String, instance: String, device_index: u32, card: u32 },
    ModifyNetworkInterfaceAttribute { eni: String, attachment: Option<(String, bool)>, groups: Option<Vec<String>> },
    DetachNetworkInterface { attachment: String },
    DeleteNetworkInterface { eni: String },
    AssignPrivateIpAddresses { eni: String, addresses: u32, prefixes: u32 },
    UnassignPrivateIpAddresses { eni: String, addresses: Vec<Ipv4Addr>, prefixes: Vec<Ipv4Net> },
    AssignIpv6Addresses { eni: String, addresses: u32, prefixes: u32 },
    UnassignIpv6Addresses { eni: String, addresses: Vec<Ipv6Addr>, prefixes: Vec<IpNet> },
    CreateTags { resources: Vec<String>, tags: Vec<(String, String)> },
}

/// What a describe call selects.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Query {
    pub ids: Vec<String>,
    pub filters: Vec<Filter>,
    pub max_results: Option<u32>,
    pub next_token: Option<String>,
}

impl Query {
    /// Things by id.
    #[must_use]
    pub fn by_id(ids: Vec<String>) -> Self {
        Self { ids, ..Self::default() }
    }

    /// One more filter with one value.
    #[must_use]
    pub fn filter(mut self, name: &str, value: &str) -> Self {
        self.filters.push(Filter { name: name.to_owned(), values: vec![value.to_owned()] });
        self
    }
}

/// Any of the values; `*` and `?` are wildcards.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Filter {
    pub name: String,
    pub values: Vec<String>,
}

impl Filter {
    /// Whether one of the values fits.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.values.iter().any(|pattern| glob(pattern.as_bytes(), text.as_bytes()))
    }
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => glob(&pattern[1..], text) || (!text.is_empty() && glob(pattern, &text[1..])),
        (Some(b'?'), Some(_)) => glob(&pattern[1..], &text[1..]),
        (Some(p), Some(t)) if p == t => glob(&pattern[1..], &text[1..]),
        _ => false,
    }
}

/// `CreateNetworkInterface`. Two requests are the same iff they are equal in all but the token.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Create {
    pub subnet: String,
    pub description: String,
    pub groups: Vec<String>,
    pub tags: Vec<(String, String)>,
    pub addresses: u32,
    pub prefixes: u32,
    pub ipv6_addresses: u32,
    pub ipv6_prefixes: u32,
    pub interface_type: InterfaceType,
    /// No IPv4 address of its own, as in a subnet of IPv6 alone.
    pub without_ipv4: bool,
    #[serde(serialize_with = "tracking")]
    pub tracking: Option<ConnectionTracking>,
    pub client_token: Option<String>,
}

fn tracking<S: Serializer>(value: &Option<ConnectionTracking>, s: S) -> Result<S::Ok, S::Error> {
    value.map(|t| [t.tcp_established, t.udp_stream, t.udp]).serialize(s)
}

impl Op {
    /// EC2's name of the call.
    #[must_use]
    pub fn api(&self) -> &'static str {
        match self {
            Self::DescribeNetworkInterfaces(_) => "DescribeNetworkInterfaces",
            Self::DescribeInstances(_) => "DescribeInstances",
            Self::DescribeSubnets(_) => "DescribeSubnets",
            Self::DescribeInstanceTypes(_) => "DescribeInstanceTypes",
            Self::DescribeTags(_) => "DescribeTags",
            Self::CreateNetworkInterface(_) => "CreateNetworkInterface",
            Self::AttachNetworkInterface { .. } => "AttachNetworkInterface",
            Self::ModifyNetworkInterfaceAttribute { .. } => "ModifyNetworkInterfaceAttribute",
            Self::DetachNetworkInterface { .. } => "DetachNetworkInterface",
            Self::DeleteNetworkInterface { .. } => "DeleteNetworkInterface",
            Self::AssignPrivateIpAddresses { .. } => "AssignPrivateIpAddresses",
            Self::UnassignPrivateIpAddresses { .. } => "UnassignPrivateIpAddresses",
            Self::AssignIpv6Addresses { .. } => "AssignIpv6Addresses",
            Self::UnassignIpv6Addresses { .. } => "UnassignIpv6Addresses",
            Self::CreateTags { .. } => "CreateTags",
        }
    }

    /// Whether it asks with filters page by page, which EC2 throttles more gently.
    #[must_use]
    pub fn is_paged(&self) -> bool {
        match self {
            Self::DescribeNetworkInterfaces(q) | Self::DescribeInstances(q) => {
                !q.filters.is_empty() && q.max_results.is_some()
            }
            _ => false,
        }
    }

    /// Whether it changes anything.
    #[must_use]
    pub fn is_mutating(&self) -> bool {
        !matches!(
            self,
            Self::DescribeNetworkInterfaces(_)
                | Self::DescribeInstances(_)
                | Self::DescribeSubnets(_)
                | Self::DescribeInstanceTypes(_)
                | Self::DescribeTags(_)
        )
    }

    pub(crate) fn mutated_interface(&self) -> Option<&str> {
        match self {
            Self::AttachNetworkInterface { eni, .. }
            | Self::ModifyNetworkInterfaceAttribute { eni, .. }
            | Self::DeleteNetworkInterface { eni }
            | Self::AssignPrivateIpAddresses { eni, .. }
            | Self::UnassignPrivateIpAddresses { eni, .. }
            | Self::AssignIpv6Addresses { eni, .. }
            | Self::UnassignIpv6Addresses { eni, .. } => Some(eni),
            _ => None,
        }
    }
}

/// What a call answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Done,
    Interfaces { items: Vec<Eni>, next_token: Option<String> },
    Instances { items: Vec<InstanceView>, next_token: Option<String> },
    Subnets(Vec<SubnetView>),
    InstanceTypes(Vec<(String, InstanceLimits)>),
    Tags { items: Vec<TagView>, next_token: Option<String> },
    Created(Box<Eni>),
    Attached { attachment: String, card: u32 },
    Assigned { eni: String, addresses: Vec<Ipv4Addr>, prefixes: Vec<Ipv4Net> },
    AssignedIpv6 { eni: String, addresses: Vec<Ipv6Addr>, prefixes: Vec<IpNet> },
    UnassignedIpv6 { eni: String, addresses: Vec<Ipv6Addr>, prefixes: Vec<IpNet> },
}

/// An instance as `DescribeInstances` tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceView {
    pub id: String,
    pub instance_type: String,
    pub availability_zone: String,
    pub terminated: bool,
    pub tags: Vec<(String, String)>,
    pub interfaces: Vec<Eni>,
}

/// A tag as `DescribeTags` tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct TagView {
    pub resource: String,
    /// `instance`, `network-interface` or `subnet`.
    pub resource_type: &'static str,
    pub key: String,
    pub value: String,
}

/// A subnet as `DescribeSubnets` tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct SubnetView {
    pub id: String,
    pub vpc: String,
    pub cidr: Ipv4Net,
    pub ipv6_cidr: Option<IpNet>,
    pub availability_zone: String,
    pub free: u32,
    pub tags: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_know_wildcards() {
        let f = |p: &str| Filter { name: String::new(), values: vec!["none".to_owned(), p.to_owned()] };
        assert!(f("node.k8s.*/instance_id").matches("node.k8s.amazonaws.com/instance_id"));
        assert!(f("us-west-2?").matches("us-west-2a"));
        assert!(!f("us-west-2").matches("us-west-2a"));
        assert!(f("*").matches(""));
    }
}
