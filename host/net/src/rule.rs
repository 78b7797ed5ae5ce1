//! Policy routing rules (`ip rule`): what we install and what we read back (spec 04 §1.1, §19).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::prefix::IpPrefix;
use crate::table;

/// Priority of the kernel's own `from all lookup local`.
pub const PRIORITY_LOCAL: u32 = 0;
/// Priority of `from all lookup local` where branch interfaces are strict: their rules come first.
pub const PRIORITY_LOCAL_STRICT: u32 = 20;
/// Priority of `iif <interface> lookup <table>` of a strict branch pod, before every lookup of the kernel's.
pub const PRIORITY_BRANCH: u32 = 10;
/// Priority of `to <pod> lookup main`.
pub const PRIORITY_TO_POD: u32 = 512;
/// Priority of `fwmark <m>/<m> lookup main`.
pub const PRIORITY_FWMARK: u32 = 1024;
/// Priority of `to <external service CIDR> lookup main`.
pub const PRIORITY_EXTERNAL_SERVICE: u32 = 1535;
/// Priority of `from <pod> lookup <table of its interface>`.
pub const PRIORITY_FROM_POD: u32 = 1536;
/// Priority of `from <primary address of an interface> lookup <its table>`.
pub const PRIORITY_FROM_INTERFACE: u32 = 32_765;

/// Address family: of a node's pods, or of a rule that names no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Family {
    #[default]
    V4,
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// ICMPv6's number among the IP protocols.
const IPPROTO_ICMPV6: u8 = 58;

/// A mark and its mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FwMark {
    pub mark: u32,
    pub mask: u32,
}

/// One rule: the selectors we use, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    pub priority: u32,
    /// 0 in a delete matches a rule whatever its table.
    pub table: u32,
    pub from: Option<IpPrefix>,
    pub to: Option<IpPrefix>,
    pub fwmark: Option<FwMark>,
    /// Name of the interface that packets come in by.
    pub iif: Option<String>,
    /// Number of the IP protocol it is about.
    pub ip_protocol: Option<u8>,
    /// Used when neither `from` nor `to` tells the family.
    pub family: Family,
    /// It has selectors or an action we do not know: never ours.
    pub foreign: bool,
}

impl Rule {
    fn new(priority: u32, table: u32) -> Self {
        Self {
            priority,
            table,
            from: None,
            to: None,
            fwmark: None,
            iif: None,
            ip_protocol: None,
            family: Family::V4,
            foreign: false,
        }
    }

    #[must_use]
    pub fn from(priority: u32, from: IpPrefix, table: u32) -> Self {
        Self { from: Some(from), family: from.family(), ..Self::new(priority, table) }
    }

    #[must_use]
    pub fn to(priority: u32, to: IpPrefix, table: u32) -> Self {
        Self { to: Some(to), family: to.family(), ..Self::new(priority, table) }
    }

    /// `to <pod> lookup main`.
    #[must_use]
    pub fn to_pod(pod: IpPrefix) -> Self {
        Self::to(PRIORITY_TO_POD, pod, table::MAIN)
    }

    /// `from <pod> lookup <table>`.
    #[must_use]
    pub fn from_pod(pod: IpPrefix, table: u32) -> Self {
        Self::from(PRIORITY_FROM_POD, pod, table)
    }

    /// `fwmark <m>/<m> lookup main`.
    #[must_use]
    pub fn marked(mark: u32) -> Self {
        Self::marked_in(Family::V4, mark)
    }

    /// `fwmark <m>/<m> lookup main` of a family.
    #[must_use]
    pub fn marked_in(family: Family, mark: u32) -> Self {
        Self { fwmark: Some(FwMark { mark, mask: mark }), family, ..Self::new(PRIORITY_FWMARK, table::MAIN) }
    }

    /// `iif <interface> lookup <table>` of a strict branch pod.
    #[must_use]
    pub fn of_branch(family: Family, iif: &str, table: u32) -> Self {
        Self { iif: Some(iif.to_owned()), ..Self::of_branches(family, table) }
    }

    /// For a delete: the above, by whatever interface packets come in.
    #[must_use]
    pub fn of_branches(family: Family, table: u32) -> Self {
        Self { family, ..Self::new(PRIORITY_BRANCH, table) }
    }

    /// `from all lookup local`.
    #[must_use]
    pub fn local(family: Family, priority: u32) -> Self {
        Self { family, ..Self::new(priority, table::LOCAL) }
    }

    /// `from fe80:ec2::1 ipproto ipv6-icmp lookup local`: neighbour discovery of the VPC's router reaches branch
    /// interfaces (spec 04 §8.2 step 5).
    #[must_use]
    pub fn router_discovery() -> Self {
        let router = IpPrefix::host(VPC_ROUTER_V6);
        Self { ip_protocol: Some(IPPROTO_ICMPV6), ..Self::from(PRIORITY_LOCAL, router, table::LOCAL) }
    }
}

/// The gateway of every IPv6 subnet of a VPC.
pub const VPC_ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0xec2, 0, 0, 0, 0, 0, 1);

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority)?;
        match self.from {
            Some(from) => write!(f, " from {from}")?,
            None => write!(f, " from all")?,
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        if let Some(FwMark { mark, mask }) = self.fwmark {
            write!(f, " fwmark {mark:#x}/{mask:#x}")?;
        }
        if let Some(protocol) = self.ip_protocol {
            write!(f, " ipproto {protocol}")?;
        }
        write!(f, " lookup {}", self.table)
    }
}
