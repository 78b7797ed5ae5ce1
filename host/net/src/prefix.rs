//! An address with a prefix length, of either family, host bits kept.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use reservoir_core::ip::{IpNet, Ipv4Net};

use crate::rule::Family;

/// What routes, rules and interface addresses are about: `10.0.97.31/32`, `10.0.100.20/19`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

impl IpPrefix {
    /// Lengths beyond the family's are taken as a host prefix.
    #[must_use]
    pub fn new(address: impl Into<IpAddr>, length: u8) -> Self {
        let address = address.into();
        Self { address, length: length.min(bits(address)) }
    }

    /// The prefix of one address: /32 or /128.
    #[must_use]
    pub fn host(address: impl Into<IpAddr>) -> Self {
        Self::new(address, u8::MAX)
    }

    /// `0.0.0.0/0`.
    pub const DEFAULT_V4: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };
    /// `::/0`.
    pub const DEFAULT_V6: Self = Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };

    /// Every destination of `family`.
    #[must_use]
    pub fn default_of(family: Family) -> Self {
        match family {
            Family::V4 => Self::DEFAULT_V4,
            Family::V6 => Self::DEFAULT_V6,
        }
    }

    #[must_use]
    pub fn family(self) -> Family {
        Family::of(self.address)
    }

    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// The block it is in: host bits zero.
    #[must_use]
    pub fn network(self) -> Self {
        IpNet::new(self.address, self.length).into()
    }

    #[must_use]
    pub fn is_host(self) -> bool {
        self.length == bits(self.address)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl From<Ipv4Net> for IpPrefix {
    fn from(net: Ipv4Net) -> Self {
        Self::new(net.network(), net.length())
    }
}

impl From<IpNet> for IpPrefix {
    fn from(net: IpNet) -> Self {
        Self::new(net.network(), net.length())
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// What is wrong with a prefix's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address with a prefix length such as 10.0.97.31/32")]
pub struct ParseIpPrefixError(String);

impl FromStr for IpPrefix {
    type Err = ParseIpPrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let length: u8 = length.parse().ok().filter(|&l| l <= bits(address))?;
            Some(Self { address, length })
        };
        parse().ok_or_else(|| ParseIpPrefixError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_host_bits_and_refuses_nonsense() {
        assert_eq!("10.0.1.7/20".parse::<IpPrefix>().unwrap().to_string(), "10.0.1.7/20");
        assert!("2600::2/128".parse::<IpPrefix>().unwrap().is_host());
        assert_eq!(IpPrefix::host(Ipv4Addr::new(10, 0, 0, 1)).to_string(), "10.0.0.1/32");
        for bad in ["10.0.0.1", "10.0.0.1/33", "10.0.0.1/+3", "x/3", "/3", "::1/129"] {
            assert!(bad.parse::<IpPrefix>().is_err(), "{bad}");
        }
    }
}
