//! What the kernel tells: only the attributes we look at, so that a newer kernel's unknown ones cannot fail a read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NlasIterator;

use crate::mac::MacAddr;
use crate::prefix::IpPrefix;
use crate::rule::{Family, FwMark, Rule};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFA_F_SECONDARY: u8 = 1;
const IFA_F_DADFAILED: u8 = 8;
const IFA_F_TENTATIVE: u8 = 0x40;
const FR_ACT_TO_TBL: u8 = 1;
const RT_SCOPE_LINK: u8 = 253;
const NUD_PERMANENT: u16 = 0x80;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    pub index: u32,
    pub name: String,
    /// Absent for interfaces without an Ethernet address.
    pub mac: Option<MacAddr>,
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Index of the interface it hangs on; for a veth its peer, in the peer's namespace.
    pub peer_index: Option<u32>,
    /// That one is in another namespace.
    pub peer_elsewhere: bool,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressInfo {
    pub index: u32,
    pub address: IpPrefix,
    /// Goes away with the first address of its subnet.
    pub secondary: bool,
    /// Not yet usable, or a duplicate: IPv6 only.
    pub tentative: bool,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteInfo {
    pub destination: IpPrefix,
    pub table: u32,
    /// The destination is on the link. IPv6 has no scopes: there it is a route without gateway.
    pub on_link: bool,
    pub device_index: Option<u32>,
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
}

/// A neighbour entry with a hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourInfo {
    pub device_index: u32,
    pub address: IpAddr,
    pub mac: MacAddr,
    pub permanent: bool,
}

/// Reads an `ifinfomsg`; `None` if it is not whole or has no name.
#[must_use]
pub fn link(payload: &[u8]) -> Option<LinkInfo> {
    let header: &[u8; 16] = payload.first_chunk()?;
    let mut name = None;
    let (mut mac, mut mtu, mut peer_index, mut peer_elsewhere) = (None, 0, None, false);
    each(&payload[16..], |kind, value| match kind {
        1 => mac = value.try_into().ok().map(MacAddr),
        3 => name = text(value),
        4 => mtu = u32_of(value).unwrap_or(0),
        // 0 while a veth has no peer yet.
        5 => peer_index = u32_of(value).filter(|index| *index != 0),
        // IFLA_LINK_NETNSID
        37 => peer_elsewhere = true,
        _ => {}
    });
    Some(LinkInfo {
        index: u32_of(&header[4..8])?,
        name: name?,
        mac,
        mtu,
        up: u32_of(&header[8..12])? & IFF_UP != 0,
        peer_index,
        peer_elsewhere,
    })
}

/// Reads an `ifaddrmsg`.
#[must_use]
pub fn address(payload: &[u8]) -> Option<AddressInfo> {
    let header: &[u8; 8] = payload.first_chunk()?;
    let (mut local, mut remote) = (None, None);
    each(&payload[8..], |kind, value| match kind {
        1 => remote = ip(value),
        2 => local = ip(value),
        _ => {}
    });
    Some(AddressInfo {
        index: u32_of(&header[4..8])?,
        address: IpPrefix::new(local.or(remote)?, header[1]),
        // The same bit means "temporary" for IPv6, where no address goes with another.
        secondary: header[0] == AF_INET && header[2] & IFA_F_SECONDARY != 0,
        tentative: header[2] & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0,
    })
}

/// Reads an `rtmsg`.
#[must_use]
pub fn route(payload: &[u8]) -> Option<RouteInfo> {
    let header: &[u8; 12] = payload.first_chunk()?;
    let any: IpAddr = match header[0] {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut table = u32::from(header[4]);
    let (mut destination, mut device_index, mut gateway, mut source) = (any, None, None, None);
    each(&payload[12..], |kind, value| match kind {
        1 => destination = ip(value).unwrap_or(any),
        4 => device_index = u32_of(value),
        5 => gateway = ip(value),
        7 => source = ip(value),
        15 => table = u32_of(value).unwrap_or(table),
        _ => {}
    });
    Some(RouteInfo {
        destination: IpPrefix::new(destination, header[1]),
        table,
        on_link: if header[0] == AF_INET { header[6] == RT_SCOPE_LINK } else { gateway.is_none() },
        device_index,
        gateway,
        source,
    })
}

/// Reads a `fib_rule_hdr`. Rules with selectors or actions we never set are marked foreign.
#[must_use]
pub fn rule(payload: &[u8]) -> Option<Rule> {
    let header: &[u8; 12] = payload.first_chunk()?;
    let family = match header[0] {
        AF_INET => Family::V4,
        AF_INET6 => Family::V6,
        _ => return None,
    };
    let (to_length, from_length, tos, action) = (header[1], header[2], header[3], header[7]);
    let mut table = u32::from(header[4]);
    let (mut priority, mut from, mut to, mut mark, mut mask) = (0, None, None, None, u32::MAX);
    let (mut ip_protocol, mut iif) = (None, None);
    let mut foreign = action != FR_ACT_TO_TBL || tos != 0 || u32_of(&header[8..12])? & 0x2 != 0;
    each(&payload[12..], |kind, value| match kind {
        1 => to = ip(value).map(|a| IpPrefix::new(a, to_length)),
        2 => from = ip(value).map(|a| IpPrefix::new(a, from_length)),
        3 => iif = text(value),
        6 => priority = u32_of(value).unwrap_or(0),
        10 => mark = u32_of(value),
        15 => table = u32_of(value).unwrap_or(table),
        16 => mask = u32_of(value).unwrap_or(u32::MAX),
        22 => ip_protocol = value.first().copied(),
        // Suppressors are always sent and usually -1; the protocol and padding select nothing.
        13 | 14 => foreign |= u32_of(value) != Some(u32::MAX),
        18 | 21 => {}
        _ => foreign = true,
    });
    let fwmark = mark.map(|mark| FwMark { mark, mask });
    Some(Rule { priority, table, from, to, fwmark, iif, ip_protocol, family, foreign })
}

/// Reads an `ndmsg`.
#[must_use]
pub fn neighbour(payload: &[u8]) -> Option<NeighbourInfo> {
    let header: &[u8; 12] = payload.first_chunk()?;
    let (mut address, mut mac) = (None, None);
    each(&payload[12..], |kind, value| match kind {
        1 => address = ip(value),
        2 => mac = value.try_into().ok().map(MacAddr),
        _ => {}
    });
    let state = u16::from_ne_bytes(*header[8..].first_chunk()?);
    Some(NeighbourInfo {
        device_index: u32_of(&header[4..8])?,
        address: address?,
        mac: mac?,
        permanent: state & NUD_PERMANENT != 0,
    })
}

fn each(attributes: &[u8], mut visit: impl FnMut(u16, &[u8])) {
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        visit(attribute.kind(), attribute.value());
    }
}

fn u32_of(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

fn text(value: &[u8]) -> Option<String> {
    std::str::from_utf8(value).ok().map(|s| s.trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_or_odd_messages_are_skipped() {
        for length in 0..40 {
            let bytes = vec![0xff; length];
            let _ = (link(&bytes), address(&bytes), route(&bytes), rule(&bytes), neighbour(&bytes));
        }
        assert_eq!(link(&[0; 16]), None);
        assert_eq!(rule(&[0; 11]), None);
    }
}
