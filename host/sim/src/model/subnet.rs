//! One subnet's addresses: which are taken, which are free, and where a /28 still fits.

use std::net::Ipv4Addr;

use reservoir_core::ip::Ipv4Net;

use super::delays::Random;

/// A bitmap of the subnet. The first four addresses and the last are EC2's (spec 03 §16.2).
#[derive(Debug, Clone)]
pub struct AddressPool {
    cidr: Ipv4Net,
    /// Bit set = taken. 16 addresses, one aligned /28, are a quarter of a word.
    taken: Vec<u16>,
    free: u32,
}

impl AddressPool {
    /// `cidr` is a /16 to a /28, what EC2 accepts; the configuration has checked it.
    #[must_use]
    pub fn new(cidr: Ipv4Net) -> Self {
        let blocks = cidr.size() / 16;
        let mut pool = Self { cidr, taken: vec![0; blocks as usize], free: cidr.size() };
        for n in [0, 1, 2, 3, cidr.size() - 1] {
            pool.mark(n);
        }
        pool
    }

    #[must_use]
    pub fn cidr(&self) -> Ipv4Net {
        self.cidr
    }

    /// `AvailableIpAddressCount`.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Aligned /28 blocks that are wholly free.
    #[must_use]
    pub fn free_blocks(&self) -> u32 {
        self.taken.iter().filter(|&&b| b == 0).count() as u32
    }

    /// Whether `address` lies in the subnet and is taken (or EC2's own).
    #[must_use]
    pub fn is_taken(&self, address: Ipv4Addr) -> bool {
        self.index(address).is_some_and(|n| self.taken[(n / 16) as usize] >> (n % 16) & 1 == 1)
    }

    /// Takes one given address; false if it is outside or taken.
    pub fn take(&mut self, address: Ipv4Addr) -> bool {
        match self.index(address) {
            Some(n) if !self.is_taken(address) => {
                self.mark(n);
                true
            }
            _ => false,
        }
    }

    /// Takes `count` single addresses, or none.
    pub fn take_addresses(&mut self, count: u32, random: &mut Random) -> Option<Vec<Ipv4Addr>> {
        if count > self.free {
            return None;
        }
        let blocks = self.taken.len() as u32;
        let mut out = Vec::with_capacity(count as usize);
        for _ in 0..count {
            // A random place, then the next block with room: EC2's choice looks random too, and fragments /28s.
            let start = random.below(blocks);
            let block = (0..blocks).map(|i| (start + i) % blocks).find(|&b| self.taken[b as usize] != u16::MAX)?;
            let from = random.below(16);
            let bit = (0..16).map(|i| (from + i) % 16).find(|&b| self.taken[block as usize] >> b & 1 == 0)?;
            let n = block * 16 + bit;
            self.mark(n);
            out.push(self.cidr.nth(n)?);
        }
        Some(out)
    }

    /// Takes `count` aligned /28 blocks, or none.
    pub fn take_prefixes(&mut self, count: u32, random: &mut Random) -> Option<Vec<Ipv4Net>> {
        if count > self.free_blocks() {
            return None;
        }
        let blocks = self.taken.len() as u32;
        let mut out = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let start = random.below(blocks);
            let block = (0..blocks).map(|i| (start + i) % blocks).find(|&b| self.taken[b as usize] == 0)?;
            self.taken[block as usize] = u16::MAX;
            self.free -= 16;
            out.push(Ipv4Net::new(self.cidr.nth(block * 16)?, 28));
        }
        Some(out)
    }

    /// Gives one address back.
    pub fn release(&mut self, address: Ipv4Addr) {
        if let Some(n) = self.index(address)
            && self.is_taken(address)
        {
            self.taken[(n / 16) as usize] &= !(1 << (n % 16));
            self.free += 1;
        }
    }

    /// Gives a /28 back.
    pub fn release_prefix(&mut self, prefix: Ipv4Net) {
        for n in 0..prefix.size().min(16) {
            if let Some(address) = prefix.nth(n) {
                self.release(address);
            }
        }
    }

    fn index(&self, address: Ipv4Addr) -> Option<u32> {
        self.cidr.contains(address).then(|| u32::from(address) - u32::from(self.cidr.network()))
    }

    fn mark(&mut self, n: u32) {
        self.taken[(n / 16) as usize] |= 1 << (n % 16);
        self.free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str) -> AddressPool {
        AddressPool::new(cidr.parse().unwrap())
    }

    #[test]
    fn five_addresses_belong_to_ec2() {
        let mut p = pool("10.0.0.0/28");
        assert_eq!(p.free(), 11);
        let got = p.take_addresses(11, &mut Random::new(1)).unwrap();
        let mut last: Vec<u8> = got.iter().map(|a| a.octets()[3]).collect();
        last.sort_unstable();
        assert_eq!(last, (4..15).collect::<Vec<u8>>());
        assert_eq!(p.take_addresses(1, &mut Random::new(1)), None);
    }

    #[test]
    fn single_addresses_fragment_the_blocks() {
        let mut p = pool("10.0.0.0/24");
        assert_eq!(p.free_blocks(), 14);
        for block in 1..15u8 {
            assert!(p.take(Ipv4Addr::new(10, 0, 0, block * 16 + 5)));
        }
        assert_eq!(p.free(), 251 - 14);
        assert_eq!(p.take_prefixes(1, &mut Random::new(1)), None);
        p.release(Ipv4Addr::new(10, 0, 0, 37));
        assert_eq!(p.take_prefixes(1, &mut Random::new(1)), Some(vec!["10.0.0.32/28".parse().unwrap()]));
    }

    #[test]
    fn all_or_nothing() {
        let mut p = pool("10.0.0.0/28");
        assert_eq!(p.take_addresses(12, &mut Random::new(3)), None);
        assert_eq!(p.free(), 11);
        assert_eq!(p.take_prefixes(1, &mut Random::new(3)), None);
    }

    #[test]
    fn what_is_given_back_is_free_again_and_only_once() {
        let mut p = pool("10.0.0.0/26");
        let before = p.free();
        let prefix = p.take_prefixes(1, &mut Random::new(1)).unwrap()[0];
        assert_eq!(p.free(), before - 16);
        p.release_prefix(prefix);
        p.release_prefix(prefix);
        assert_eq!(p.free(), before);
        assert!(!p.take("10.9.0.1".parse().unwrap()));
    }
}
