//! One subnet's addresses: which are taken, which are free, and where a /28 still fits.

use std::net::Ipv4Addr;

use reservoir_core::ip::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::delays::Random;

/// A bitmap of the subnet. The first four addresses and the last are EC2's (spec 03 §16.2).
#[derive(Debug, Clone)]
pub struct AddressPool {
    cidr: Ipv4Net,
    /// Bit set = taken. 16 addresses, one aligned /28, are a word.
    taken: Vec<u16>,
    /// What each /28 is kept for.
    kept: Vec<Keep>,
    /// Some are kept for prefixes.
    reserved: bool,
    free: u32,
    /// Free addresses that automatic choice of single addresses may take.
    open: u32,
}

/// What a subnet CIDR reservation does with its part of the subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Not reserved.
    Open,
    /// For prefixes; they are taken from here first.
    Prefix,
    /// For addresses asked for by name.
    Explicit,
}

impl AddressPool {
    /// `cidr` is a /16 to a /28, what EC2 accepts; the configuration has checked it.
    #[must_use]
    pub fn new(cidr: Ipv4Net) -> Self {
        let blocks = cidr.size() / 16;
        let (taken, kept) = (vec![0; blocks as usize], vec![Keep::Open; blocks as usize]);
        let mut pool = Self { cidr, taken, kept, reserved: false, free: cidr.size(), open: cidr.size() };
        for n in [0, 1, 2, 3, cidr.size() - 1] {
            pool.mark(n);
        }
        pool
    }

    #[must_use]
    pub fn cidr(&self) -> Ipv4Net {
        self.cidr
    }

    /// Keeps a part of the subnet, a /28 or shorter, for `keep`; false if it is no such part.
    pub fn reserve(&mut self, block: Ipv4Net, keep: Keep) -> bool {
        let Some(first) = self.index(block.network()).filter(|_| block.length() <= 28) else { return false };
        let last = first + block.size();
        if last > self.cidr.size() {
            return false;
        }
        self.kept[(first / 16) as usize..(last / 16) as usize].fill(keep);
        self.reserved |= keep == Keep::Prefix;
        let open = self.taken.iter().zip(&self.kept).filter(|(_, k)| **k == Keep::Open);
        self.open = open.map(|(taken, _)| taken.count_zeros()).sum();
        true
    }

    /// `AvailableIpAddressCount`: what nobody has, the reserved parts included.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Aligned /28 blocks that a prefix can be taken from.
    #[must_use]
    pub fn free_blocks(&self) -> u32 {
        self.taken.iter().zip(&self.kept).filter(|(taken, keep)| **taken == 0 && **keep != Keep::Explicit).count()
            as u32
    }

    /// Takes one address out of every free /28 but `leave` of them, as the subnet's other users do in time. Those taken.
    pub fn fragment(&mut self, leave: u32, random: &mut Random) -> Vec<Ipv4Addr> {
        let mut out = Vec::new();
        while self.free_blocks() > leave {
            let Some(block) = self.find(random, |taken, keep| taken == 0 && keep != Keep::Explicit) else { break };
            let n = block * 16 + random.below(16);
            self.mark(n);
            out.extend(self.cidr.nth(n));
        }
        out
    }

    /// A random block that fits, or the next that does.
    fn find(&self, random: &mut Random, fits: impl Fn(u16, Keep) -> bool) -> Option<u32> {
        let blocks = self.taken.len() as u32;
        let start = random.below(blocks);
        (0..blocks).map(|i| (start + i) % blocks).find(|&b| fits(self.taken[b as usize], self.kept[b as usize]))
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
        if count > self.open {
            return None;
        }
        let mut out = Vec::with_capacity(count as usize);
        for _ in 0..count {
            // A random place, then the next block with room: EC2's choice looks random too, and fragments /28s.
            let block = self.find(random, |taken, keep| taken != u16::MAX && keep == Keep::Open)?;
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
        let mut out = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let kept = self.reserved.then(|| self.find(random, |taken, keep| taken == 0 && keep == Keep::Prefix));
            let open = |pool: &Self, random: &mut Random| pool.find(random, |t, keep| t == 0 && keep == Keep::Open);
            let Some(block) = kept.flatten().or_else(|| open(self, random)) else {
                out.into_iter().for_each(|p| self.release_prefix(p));
                return None;
            };
            (0..16).for_each(|n| self.mark(block * 16 + n));
            out.push(Ipv4Net::new(self.cidr.nth(block * 16)?, 28));
        }
        Some(out)
    }

    /// Gives one address back.
    pub fn release(&mut self, address: Ipv4Addr) {
        if let Some(n) = self.index(address)
            && self.is_taken(address)
        {
            let block = (n / 16) as usize;
            self.taken[block] &= !(1 << (n % 16));
            self.free += 1;
            self.open += u32::from(self.kept[block] == Keep::Open);
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
        let block = (n / 16) as usize;
        self.taken[block] |= 1 << (n % 16);
        self.free -= 1;
        self.open -= u32::from(self.kept[block] == Keep::Open);
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
    fn others_leave_few_blocks_whole() {
        let mut p = pool("10.0.0.0/24");
        let taken = p.fragment(3, &mut Random::new(5));
        assert_eq!((taken.len(), p.free_blocks(), p.free()), (11, 3, 251 - 11));
        assert!(taken.iter().all(|&a| p.is_taken(a)));
        assert_eq!(p.take_prefixes(4, &mut Random::new(5)), None);
        assert_eq!(p.free_blocks(), 3);
    }

    #[test]
    fn reserved_parts_serve_what_they_are_reserved_for() {
        let mut p = pool("10.0.0.0/24");
        assert!(p.reserve("10.0.0.128/26".parse().unwrap(), Keep::Prefix));
        assert!(p.reserve("10.0.0.192/27".parse().unwrap(), Keep::Explicit));
        for wrong in ["10.0.1.0/28", "10.0.0.0/23", "10.0.0.32/29"] {
            assert!(!p.reserve(wrong.parse().unwrap(), Keep::Prefix), "{wrong}");
        }
        assert_eq!((p.free(), p.free_blocks()), (251, 14 - 2));
        let first = p.take_prefixes(4, &mut Random::new(1)).unwrap();
        assert!(
            first.iter().all(|b| (128..192).contains(&b.network().octets()[3])),
            "the reservation first: {first:?}"
        );
        let next = p.take_prefixes(1, &mut Random::new(1)).unwrap();
        assert!(!(128..224).contains(&next[0].network().octets()[3]), "then the rest: {next:?}");
        let open = 251 - 64 - 32 - 16;
        assert_eq!(p.take_addresses(open + 1, &mut Random::new(1)), None);
        let singles = p.take_addresses(open, &mut Random::new(1)).unwrap();
        assert!(singles.iter().all(|a| !(128..224).contains(&a.octets()[3])));
        assert!(p.take("10.0.0.200".parse().unwrap()), "asked for by name");
        assert_eq!(p.free(), 31);
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
