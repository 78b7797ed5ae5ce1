//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// A MAC address; prints and parses as `02:11:22:33:44:55`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The address made of six random bytes: locally administered and unicast (spec 04 §4.1).
    #[must_use]
    pub fn local(mut random: [u8; 6]) -> Self {
        random[0] = (random[0] | 0x02) & 0xfe;
        Self(random)
    }

    /// A random local address. With 46 random bits, two of a thousand interfaces meet once in 10⁸ nodes, and even
    /// then do no harm: each is alone on its veth pair. So no list of all interfaces is asked for.
    ///
    /// # Errors
    /// The kernel's, when it has no randomness to give.
    pub fn random() -> Result<Self, Errno> {
        let mut bytes = [0; 6];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        Ok(Self::local(bytes))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What is wrong with a MAC address's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address such as 02:11:22:33:44:55")]
pub struct ParseMacAddrError(String);

impl FromStr for MacAddr {
    type Err = ParseMacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseMacAddrError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(error)?;
        }
        if parts.next().is_some() {
            return Err(error());
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        let mac: MacAddr = "02:AB:cd:00:44:5f".parse().unwrap();
        assert_eq!(mac.to_string(), "02:ab:cd:00:44:5f");
        for bad in ["", "02:11:22:33:44", "02:11:22:33:44:55:66", "2:11:22:33:44:55", "+2:11:22:33:44:55"] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn random_addresses_are_local_and_unicast() {
        assert_eq!(MacAddr::local([0xff; 6]).0[0], 0xfe);
        assert_eq!(MacAddr::local([0x00; 6]).0[0], 0x02);
        assert_ne!(MacAddr::random().unwrap(), MacAddr::random().unwrap());
    }
}
