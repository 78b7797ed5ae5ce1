//! Policy routing rules (`ip rule`): what we install and what we read back (spec 04 §1.1, §19).

use std::fmt;

use crate::prefix::IpPrefix;
use crate::table;

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

/// Address family of a rule that names no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Family {
    #[default]
    V4,
    V6,
}

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
    /// Used when neither `from` nor `to` tells the family.
    pub family: Family,
    /// It has selectors or an action we do not know: never ours.
    pub foreign: bool,
}

impl Rule {
    fn new(priority: u32, table: u32) -> Self {
        Self { priority, table, from: None, to: None, fwmark: None, family: Family::V4, foreign: false }
    }

    #[must_use]
    pub fn from(priority: u32, from: IpPrefix, table: u32) -> Self {
        Self { from: Some(from), family: family_of(from), ..Self::new(priority, table) }
    }

    #[must_use]
    pub fn to(priority: u32, to: IpPrefix, table: u32) -> Self {
        Self { to: Some(to), family: family_of(to), ..Self::new(priority, table) }
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
        Self { fwmark: Some(FwMark { mark, mask: mark }), ..Self::new(PRIORITY_FWMARK, table::MAIN) }
    }
}

fn family_of(prefix: IpPrefix) -> Family {
    if prefix.address().is_ipv4() { Family::V4 } else { Family::V6 }
}

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
        if let Some(FwMark { mark, mask }) = self.fwmark {
            write!(f, " fwmark {mark:#x}/{mask:#x}")?;
        }
        write!(f, " lookup {}", self.table)
    }
}
