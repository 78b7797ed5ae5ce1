//! Address blocks in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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

/// A block of either family, host bits zero: what the store keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpNet {
    network: IpAddr,
    length: u8,
}

impl IpNet {
    /// The block of `length` bits that holds `address`; too large a length is taken as a whole address.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(a) => Ipv4Net::new(a, length).into(),
            IpAddr::V6(a) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Self { network: IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask)), length }
            }
        }
    }

    #[must_use]
    pub fn network(self) -> IpAddr {
        self.network
    }

    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    #[must_use]
    pub fn is_ipv4(self) -> bool {
        self.network.is_ipv4()
    }

    /// A single address, not a prefix.
    #[must_use]
    pub fn is_host(self) -> bool {
        self.length == if self.is_ipv4() { 32 } else { 128 }
    }

    /// Addresses in it (a /80 has 2^48); 2^64 and more saturate.
    #[must_use]
    pub fn size(self) -> u64 {
        let bits = if self.is_ipv4() { 32 } else { 128 } - u32::from(self.length);
        1u64.checked_shl(bits).unwrap_or(u64::MAX)
    }

    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        Self::new(address, self.length).network == self.network
    }

    /// The address that follows `address` in this block, if there is one.
    #[must_use]
    pub fn next(self, address: IpAddr) -> Option<IpAddr> {
        let next = match address {
            IpAddr::V4(a) => IpAddr::V4(u32::from(a).checked_add(1)?.into()),
            IpAddr::V6(a) => IpAddr::V6(u128::from(a).checked_add(1)?.into()),
        };
        self.contains(next).then_some(next)
    }

    /// The IPv4 block, if it is one.
    #[must_use]
    pub fn as_ipv4(self) -> Option<Ipv4Net> {
        match self.network {
            IpAddr::V4(a) => Some(Ipv4Net::new(a, self.length)),
            IpAddr::V6(_) => None,
        }
    }
}

impl From<Ipv4Net> for IpNet {
    fn from(net: Ipv4Net) -> Self {
        Self { network: IpAddr::V4(net.network()), length: net.length() }
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

impl FromStr for IpNet {
    type Err = ParseIpv4NetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(net) = text.parse::<Ipv4Net>() {
            return Ok(net.into());
        }
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let length: u8 = length.parse().ok().filter(|&l| l <= 128)?;
            Some(Self::new(IpAddr::V6(address.parse().ok()?), length))
        };
        parse().ok_or_else(|| ParseIpv4NetError(text.to_owned()))
    }
}

/// What is wrong with a block's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address block such as 10.0.0.0/16")]
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

impl Serialize for IpNet {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IpNet {
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
