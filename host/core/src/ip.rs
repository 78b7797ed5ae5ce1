//! An IPv4 block in CIDR notation.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An IPv4 address with a prefix length, host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv4Net {
    network: u32,
    length: u8,
}

impl Ipv4Net {
    /// The block of `length` bits that holds `address`; lengths above 32 are taken as 32.
    #[must_use]
    pub fn new(address: Ipv4Addr, length: u8) -> Self {
        let length = length.min(32);
        Self { network: u32::from(address) & mask(length), length }
    }

    /// The /32 of one address.
    #[must_use]
    pub fn host(address: Ipv4Addr) -> Self {
        Self::new(address, 32)
    }

    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(self.network)
    }

    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// Addresses in it; at most 2^31 is told apart, a /0 counts as that.
    #[must_use]
    pub fn size(self) -> u32 {
        1u32 << (32 - u32::from(self.length)).min(31)
    }

    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.length) == self.network
    }

    /// The `n`th address of it, if it has so many.
    #[must_use]
    pub fn nth(self, n: u32) -> Option<Ipv4Addr> {
        (n < self.size()).then(|| Ipv4Addr::from(self.network.wrapping_add(n)))
    }

    /// The address that EC2 keeps for the router of a subnet: network + 1.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.network.wrapping_add(1))
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.length)
    }
}

/// What is wrong with a block's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 block such as 10.0.0.0/16")]
pub struct ParseIpv4NetError(String);

impl FromStr for Ipv4Net {
    type Err = ParseIpv4NetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let length: u8 = length.parse().ok().filter(|&l| l <= 32)?;
            Some(Self::new(address.parse().ok()?, length))
        };
        parse().ok_or_else(|| ParseIpv4NetError(text.to_owned()))
    }
}

impl Serialize for Ipv4Net {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ipv4Net {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_normalises() {
        let net: Ipv4Net = "10.0.1.7/20".parse().unwrap();
        assert_eq!(net.to_string(), "10.0.0.0/20");
        assert_eq!(net.gateway(), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(net.size(), 4096);
        assert!(net.contains(Ipv4Addr::new(10, 0, 15, 255)));
        assert!(!net.contains(Ipv4Addr::new(10, 0, 16, 0)));
        assert_eq!("0.0.0.0/0".parse::<Ipv4Net>().unwrap().size(), 1 << 31);
        assert_eq!(Ipv4Net::host(Ipv4Addr::new(1, 2, 3, 4)).nth(0), Some(Ipv4Addr::new(1, 2, 3, 4)));
        assert_eq!(Ipv4Net::host(Ipv4Addr::new(1, 2, 3, 4)).nth(1), None);
    }

    #[test]
    fn refuses_nonsense() {
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/0", "/8", "10.0.0/8"] {
            assert!(bad.parse::<Ipv4Net>().is_err(), "{bad}");
        }
    }
}
