//! Requests to the kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use crate::mac::MacAddr;
use crate::plan::{Route, Scope, VethPair, VlanDevice};
use crate::prefix::IpPrefix;
use crate::rule::{Family, Rule};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
pub(crate) const RTM_NEWRULE: u16 = 32;
pub(crate) const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

/// A request without its netlink header.
#[derive(Debug, Clone)]
pub struct Request {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) body: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16, message: &impl Emitable) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        Self { kind, flags, body }
    }

    /// Whether it asks for a change: the kernel numbers the four requests of each kind of object alike.
    pub(super) fn is_write(&self) -> bool {
        self.kind & 3 != 2
    }

    /// Makes a veth pair in the socket's namespace, the peer in `peer_namespace` (spec 04 §4.2 step 1).
    #[must_use]
    pub fn add_veth(pair: &VethPair, peer_namespace: BorrowedFd<'_>) -> Self {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(pair.peer.clone()),
            LinkAttribute::Address(pair.peer_mac.0.to_vec()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::TxQueueLen(0),
            LinkAttribute::NetNsFd(peer_namespace.as_raw_fd()),
        ];
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes = vec![
            LinkAttribute::IfName(pair.name.clone()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::TxQueueLen(0),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        Self::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link)
    }

    /// Makes a vlan device (802.1Q) on another interface, which gives it its MTU (spec 04 §6.2 step 5).
    #[must_use]
    pub fn add_vlan(vlan: &VlanDevice) -> Self {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(vlan.name.clone()),
            LinkAttribute::Link(vlan.parent),
            LinkAttribute::Address(vlan.mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(vlan.id)])),
            ]),
        ];
        Self::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link)
    }

    #[must_use]
    pub fn delete_link(device: &str) -> Self {
        Self::new(RTM_DELLINK, 0, &named(device))
    }

    #[must_use]
    pub fn set_link_up(device: &str) -> Self {
        let mut link = named(device);
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        Self::new(RTM_SETLINK, 0, &link)
    }

    #[must_use]
    pub fn set_link_down(device: &str) -> Self {
        let mut link = named(device);
        link.header.change_mask = LinkFlags::Up;
        Self::new(RTM_SETLINK, 0, &link)
    }

    /// By index: its name is what changes.
    #[must_use]
    pub fn rename_link(index: u32, name: &str) -> Self {
        let mut link = named(name);
        link.header.index = index;
        Self::new(RTM_SETLINK, 0, &link)
    }

    #[must_use]
    pub fn set_link_mtu(device: &str, mtu: u32) -> Self {
        let mut link = named(device);
        link.attributes.push(LinkAttribute::Mtu(mtu));
        Self::new(RTM_SETLINK, 0, &link)
    }

    #[must_use]
    pub fn get_link(device: &str) -> Self {
        let mut link = named(device);
        link.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        Self::new(RTM_GETLINK, 0, &link)
    }

    /// For [`super::Socket::dump`].
    #[must_use]
    pub fn all_links() -> Self {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        Self::new(RTM_GETLINK, 0, &link)
    }

    #[must_use]
    pub fn add_address(index: u32, address: IpPrefix, scope: Scope, broadcast: Option<Ipv4Addr>) -> Self {
        let mut message = address_message(index, address);
        message.header.scope = match scope {
            Scope::Universe => AddressScope::Universe,
            Scope::Link => AddressScope::Link,
            Scope::Host => AddressScope::Host,
            Scope::Nowhere => AddressScope::Nowhere,
        };
        message.attributes.extend(broadcast.map(AddressAttribute::Broadcast));
        Self::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &message)
    }

    #[must_use]
    pub fn delete_address(index: u32, address: IpPrefix) -> Self {
        Self::new(RTM_DELADDR, 0, &address_message(index, address))
    }

    /// The addresses of one interface, for [`super::Socket::dump`].
    #[must_use]
    pub fn all_addresses(family: Family, index: u32) -> Self {
        let mut message = AddressMessage::default();
        message.header.family = family_number(family);
        message.header.index = index;
        Self::new(RTM_GETADDR, 0, &message)
    }

    #[must_use]
    pub fn add_route(route: &Route, index: Option<u32>) -> Self {
        Self::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &new_route(route, index))
    }

    #[must_use]
    pub fn replace_route(route: &Route, index: Option<u32>) -> Self {
        Self::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &new_route(route, index))
    }

    /// Whoever made the route and however: protocol and type are left open (spec 04 §19).
    #[must_use]
    pub fn delete_route(route: &Route, index: Option<u32>) -> Self {
        let mut message = new_route(route, index);
        message.header.protocol = RouteProtocol::Unspec;
        message.header.kind = RouteType::Unspec;
        Self::new(RTM_DELROUTE, 0, &message)
    }

    /// The routes of one table, for [`super::Socket::dump`]. Kernels that do not filter send more.
    #[must_use]
    pub fn all_routes(family: Family, table: u32, index: Option<u32>) -> Self {
        let mut message = RouteMessage::default();
        message.header.address_family = family_number(family);
        message.attributes.push(RouteAttribute::Table(table));
        message.attributes.extend(index.map(RouteAttribute::Oif));
        Self::new(RTM_GETROUTE, 0, &message)
    }

    #[must_use]
    pub fn add_rule(rule: &Rule) -> Self {
        Self::new(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &rule_message(rule, RuleAction::ToTable))
    }

    #[must_use]
    pub fn delete_rule(rule: &Rule) -> Self {
        Self::new(RTM_DELRULE, 0, &rule_message(rule, RuleAction::Unspec))
    }

    /// For [`super::Socket::dump`].
    #[must_use]
    pub fn all_rules(family: Family) -> Self {
        let mut message = RuleMessage::default();
        message.header.family = family_number(family);
        Self::new(RTM_GETRULE, 0, &message)
    }

    #[must_use]
    pub fn add_neighbour(index: u32, address: IpAddr, mac: MacAddr) -> Self {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(address);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unspec;
        let destination = match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message.attributes =
            vec![NeighbourAttribute::Destination(destination), NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
        Self::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL, &message)
    }

    /// For [`super::Socket::dump`].
    #[must_use]
    pub fn all_neighbours(family: Family) -> Self {
        let mut message = NeighbourMessage::default();
        message.header.family = family_number(family);
        message.header.kind = RouteType::Unspec;
        Self::new(RTM_GETNEIGH, 0, &message)
    }
}

fn named(device: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(device.to_owned()));
    link
}

fn address_message(index: u32, address: IpPrefix) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address.address());
    message.header.prefix_len = address.length();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address.address()), AddressAttribute::Address(address.address())];
    message
}

fn new_route(route: &Route, index: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(route.destination.address());
    message.header.destination_prefix_length = route.destination.length();
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match route.scope {
        Scope::Universe => RouteScope::Universe,
        Scope::Link => RouteScope::Link,
        Scope::Host => RouteScope::Host,
        Scope::Nowhere => RouteScope::NoWhere,
    };
    match u8::try_from(route.table) {
        Ok(table) => message.header.table = table,
        Err(_) => message.attributes.push(RouteAttribute::Table(route.table)),
    }
    if route.destination.length() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.destination.address().into()));
    }
    message.attributes.extend(route.gateway.map(|g| RouteAttribute::Gateway(g.into())));
    message.attributes.extend(route.source.map(|s| RouteAttribute::PrefSource(s.into())));
    message.attributes.extend(index.map(RouteAttribute::Oif));
    message
}

fn rule_message(rule: &Rule, action: RuleAction) -> RuleMessage {
    let mut message = RuleMessage::default();
    let family = rule.from.or(rule.to).map_or(family_number(rule.family), |p| family_of(p.address()));
    message.header.family = family;
    message.header.action = action;
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    match u8::try_from(rule.table) {
        Ok(table) => message.header.table = table,
        Err(_) => message.attributes.push(RuleAttribute::Table(rule.table)),
    }
    if let Some(from) = rule.from {
        message.header.src_len = from.length();
        message.attributes.push(RuleAttribute::Source(from.address()));
    }
    if let Some(to) = rule.to {
        message.header.dst_len = to.length();
        message.attributes.push(RuleAttribute::Destination(to.address()));
    }
    message.attributes.extend(rule.ip_protocol.map(|p| RuleAttribute::IpProtocol(p.into())));
    message.attributes.extend(rule.iif.clone().map(RuleAttribute::Iifname));
    if let Some(fwmark) = rule.fwmark {
        message.attributes.push(RuleAttribute::FwMark(fwmark.mark));
        message.attributes.push(RuleAttribute::FwMask(fwmark.mask));
    }
    message
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn family_number(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
