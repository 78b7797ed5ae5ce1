//! One subnet's IPv6 block: a /64, of which prefixes are aligned /80s (spec 03 §16.2).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use reservoir_core::ip::IpNet;

use super::delays::Random;

/// What is taken of a /64. Its 65,536 aligned /80s are known by their number.
#[derive(Debug, Clone)]
pub struct Ipv6Pool {
    cidr: IpNet,
    network: u128,
    prefixes: BTreeSet<u16>,
    addresses: BTreeSet<u64>,
    /// How many single addresses each /80 holds.
    singles: BTreeMap<u16, u32>,
    /// Kept from automatic choice: blocks of the /64, /80 or shorter.
    reserved: Vec<IpNet>,
}

impl Ipv6Pool {
    /// `cidr` is a /64; the configuration has checked it.
    #[must_use]
    pub fn new(cidr: IpNet) -> Self {
        let network = match cidr.network() {
            IpAddr::V6(a) => u128::from(a),
            IpAddr::V4(_) => 0,
        };
        Self {
            cidr,
            network,
            prefixes: BTreeSet::new(),
            addresses: BTreeSet::new(),
            singles: BTreeMap::new(),
            reserved: Vec::new(),
        }
    }

    #[must_use]
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// Keeps a part of the subnet from automatic choice.
    pub fn reserve(&mut self, block: IpNet) {
        self.reserved.push(block);
    }

    /// Takes one given address; false if it is outside, EC2's own or taken.
    pub fn take(&mut self, address: Ipv6Addr) -> bool {
        let Some(host) = self.host(address) else { return false };
        // The first four and the last are EC2's.
        if host < 4 || host == u64::MAX || self.prefixes.contains(&number(host)) {
            return false;
        }
        let new = self.addresses.insert(host);
        if new {
            *self.singles.entry(number(host)).or_default() += 1;
        }
        new
    }

    /// Takes `count` single addresses, or none.
    pub fn take_addresses(&mut self, count: u32, random: &mut Random) -> Option<Vec<Ipv6Addr>> {
        let mut out = Vec::with_capacity(count as usize);
        while out.len() < count as usize {
            // 2^64 of them: a second draw is rare unless most of the subnet is prefixes or reserved.
            let mut draws = 10_000;
            let address = loop {
                let address = self.address(random.bits());
                if self.is_open(address) && self.take(address) {
                    break address;
                }
                draws -= 1;
                if draws == 0 {
                    out.into_iter().for_each(|a| self.release(a));
                    return None;
                }
            };
            out.push(address);
        }
        Some(out)
    }

    /// Takes `count` aligned /80s, or none.
    pub fn take_prefixes(&mut self, count: u32, random: &mut Random) -> Option<Vec<IpNet>> {
        let mut out = Vec::with_capacity(count as usize);
        while out.len() < count as usize {
            let start = random.bits() as u16;
            // The first and the last hold EC2's own addresses.
            let found =
                (0..=u16::MAX).map(|i| start.wrapping_add(i)).filter(|n| !matches!(n, 0 | &u16::MAX)).find(|&n| {
                    !self.prefixes.contains(&n)
                        && !self.singles.contains_key(&n)
                        && (self.reserved.is_empty() || self.is_open(self.address(u64::from(n) << 48)))
                });
            let Some(n) = found else {
                out.into_iter().for_each(|p| self.release_prefix(p));
                return None;
            };
            self.prefixes.insert(n);
            out.push(IpNet::new(self.address(u64::from(n) << 48).into(), 80));
        }
        Some(out)
    }

    /// Gives one address back.
    pub fn release(&mut self, address: Ipv6Addr) {
        let Some(host) = self.host(address).filter(|h| self.addresses.remove(h)) else { return };
        if let Some(n) = self.singles.get_mut(&number(host)) {
            *n -= 1;
            if *n == 0 {
                self.singles.remove(&number(host));
            }
        }
    }

    /// Gives a /80 back.
    pub fn release_prefix(&mut self, prefix: IpNet) {
        if let IpAddr::V6(address) = prefix.network()
            && let Some(host) = self.host(address)
        {
            self.prefixes.remove(&number(host));
        }
    }

    /// Single addresses and prefixes taken.
    #[must_use]
    pub fn taken(&self) -> (usize, usize) {
        (self.addresses.len(), self.prefixes.len())
    }

    fn is_open(&self, address: Ipv6Addr) -> bool {
        !self.reserved.iter().any(|block| block.contains(address.into()))
    }

    fn address(&self, host: u64) -> Ipv6Addr {
        Ipv6Addr::from(self.network | u128::from(host))
    }

    fn host(&self, address: Ipv6Addr) -> Option<u64> {
        self.cidr.contains(address.into()).then_some(u128::from(address) as u64)
    }
}

/// Which /80 of the /64.
fn number(host: u64) -> u16 {
    (host >> 48) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Ipv6Pool {
        Ipv6Pool::new("2600:1f14:abc:d00::/64".parse().unwrap())
    }

    #[test]
    fn prefixes_are_aligned_apart_and_come_back() {
        let (mut p, mut r) = (pool(), Random::new(1));
        let got = p.take_prefixes(100, &mut r).unwrap();
        assert!(got.iter().all(|n| n.length() == 80 && p.cidr().contains(n.network())));
        assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), 100);
        let IpAddr::V6(inside) = got[0].network() else { panic!("IPv4") };
        assert!(!p.take(inside), "a prefix's addresses are nobody else's");
        got.iter().for_each(|&n| p.release_prefix(n));
        assert_eq!(p.taken(), (0, 0));
    }

    #[test]
    fn a_single_address_spoils_its_block_until_it_goes() {
        let (mut p, mut r) = (pool(), Random::new(2));
        // All but block 7 are spoken for.
        for n in (1..u16::MAX).filter(|&n| n != 7) {
            p.prefixes.insert(n);
        }
        let single: Ipv6Addr = "2600:1f14:abc:d00:7::9".parse().unwrap();
        assert!(p.take(single) && !p.take(single));
        assert_eq!(p.take_prefixes(1, &mut r), None);
        p.release(single);
        assert_eq!(p.take_prefixes(1, &mut r), Some(vec!["2600:1f14:abc:d00:7::/80".parse().unwrap()]));
        assert_eq!(p.take_prefixes(1, &mut r), None);
    }

    #[test]
    fn reserved_and_foreign_parts_are_not_given() {
        let (mut p, mut r) = (pool(), Random::new(3));
        p.reserve("2600:1f14:abc:d00::/64".parse().unwrap());
        assert_eq!(p.take_prefixes(1, &mut r), None);
        assert_eq!(p.take_addresses(1, &mut r), None);
        assert_eq!(p.taken(), (0, 0));
        assert!(!p.take("2600:1f14:abc:d01::9".parse().unwrap()));
        assert!(!p.take("2600:1f14:abc:d00::3".parse().unwrap()));
        assert!(p.take("2600:1f14:abc:d00::4".parse().unwrap()), "asked for by name");
    }
}
