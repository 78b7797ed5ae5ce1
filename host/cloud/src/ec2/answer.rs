//! EC2's answers as plain data. Parsing is strict: an address that is none, or an answer without the id that the next
//! call needs, is an error that names it.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::str::FromStr;

use aws_sdk_ec2::operation::assign_private_ip_addresses::AssignPrivateIpAddressesOutput;
use aws_sdk_ec2::types;
use aws_sdk_ec2::types::{InstanceTypeHypervisor, InstanceTypeInfo, NetworkInterface, Reservation, Subnet, Tag};
use reservoir_core::cloud::{Answer, ConnectionTracking, Device, Interface, InterfaceAttachment, SubnetFacts};
use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::limits::{CardLimits, Hypervisor, InstanceLimits};

use super::error::{Failed, nonsense};

pub(super) fn required(what: &str, value: Option<&str>) -> Result<String, Failed> {
    let value = value.filter(|v| !v.is_empty());
    value.map(str::to_owned).ok_or_else(|| nonsense(format!("the answer has no {what}")))
}

fn text(value: Option<&str>) -> String {
    value.unwrap_or_default().to_owned()
}

fn parse<T>(what: &str, value: Option<&str>) -> Result<T, Failed>
where
    T: FromStr,
    T::Err: Display,
{
    let value = value.ok_or_else(|| nonsense(format!("the answer has an empty {what}")))?;
    value.parse().map_err(|e| nonsense(format!("the answer's {what} {value:?}: {e}")))
}

/// An index or a count; absent means 0, as everywhere in EC2.
fn number(what: &str, value: Option<i32>) -> Result<u32, Failed> {
    let value = value.unwrap_or_default();
    u32::try_from(value).map_err(|_| nonsense(format!("the answer's {what} {value} is negative")))
}

fn tags(tags: &[Tag]) -> Vec<(String, String)> {
    let mut tags: Vec<_> = tags.iter().map(|t| (text(t.key()), text(t.value()))).collect();
    tags.sort();
    tags
}

pub(super) fn interfaces(interfaces: &[NetworkInterface]) -> Result<Vec<Interface>, Failed> {
    interfaces.iter().map(interface).collect()
}

fn interface(it: &NetworkInterface) -> Result<Interface, Failed> {
    let (mut primary, mut secondary) = (None, Vec::new());
    for address in it.private_ip_addresses() {
        let parsed = parse("privateIpAddress", address.private_ip_address())?;
        if address.primary() == Some(true) {
            primary = Some(parsed);
        } else {
            secondary.push(parsed);
        }
    }
    let prefixes = it.ipv4_prefixes().iter().map(|p| parse("ipv4Prefix", p.ipv4_prefix()));
    Ok(Interface {
        eni: required("networkInterfaceId", it.network_interface_id())?,
        mac: required("macAddress", it.mac_address())?,
        subnet: required("subnetId", it.subnet_id())?,
        interface_type: text(it.interface_type().map(types::NetworkInterfaceType::as_str)),
        description: text(it.description()),
        status: text(it.status().map(types::NetworkInterfaceStatus::as_str)),
        tags: tags(it.tag_set()),
        security_groups: it.groups().iter().map(|g| text(g.group_id())).collect(),
        primary,
        secondary,
        prefixes: prefixes.collect::<Result<_, _>>()?,
        ipv6: it.ipv6_addresses().iter().map(|a| parse("ipv6Address", a.ipv6_address())).collect::<Result<_, _>>()?,
        ipv6_prefixes: it
            .ipv6_prefixes()
            .iter()
            .map(|p| parse("ipv6Prefix", p.ipv6_prefix()))
            .collect::<Result<_, _>>()?,
        attachment: it.attachment().map(attachment).transpose()?,
        connection_tracking: tracking(it)?,
    })
}

fn attachment(it: &types::NetworkInterfaceAttachment) -> Result<InterfaceAttachment, Failed> {
    Ok(InterfaceAttachment {
        id: text(it.attachment_id()),
        device_index: number("deviceIndex", it.device_index())?,
        card: number("networkCardIndex", it.network_card_index())?,
        delete_on_termination: it.delete_on_termination().unwrap_or_default(),
        status: text(it.status().map(types::AttachmentStatus::as_str)),
    })
}

/// None where no time-out is set.
fn tracking(it: &NetworkInterface) -> Result<Option<ConnectionTracking>, Failed> {
    let Some(it) = it.connection_tracking_configuration() else { return Ok(None) };
    let timeout = |what, value: Option<i32>| value.map(|v| number(what, Some(v))).transpose();
    let tracking = ConnectionTracking {
        tcp_established: timeout("tcpEstablishedTimeout", it.tcp_established_timeout())?,
        udp_stream: timeout("udpStreamTimeout", it.udp_stream_timeout())?,
        udp: timeout("udpTimeout", it.udp_timeout())?,
    };
    Ok((tracking != ConnectionTracking::default()).then_some(tracking))
}

/// The attached interfaces of the one instance asked for.
pub(super) fn devices(instance: &str, reservations: &[Reservation]) -> Result<Vec<Device>, Failed> {
    let mut instances = reservations.iter().flat_map(Reservation::instances);
    let (Some(found), None) = (instances.next(), instances.next()) else {
        let count = reservations.iter().flat_map(Reservation::instances).count();
        return Err(nonsense(format!("EC2 answered with {count} instances for {instance}, not with one")));
    };
    let devices = found.network_interfaces().iter().filter_map(|it| it.attachment().map(|a| (it, a)));
    devices
        .map(|(it, attachment)| {
            Ok(Device {
                eni: required("networkInterfaceId", it.network_interface_id())?,
                device_index: number("deviceIndex", attachment.device_index())?,
                card: number("networkCardIndex", attachment.network_card_index())?,
            })
        })
        .collect()
}

/// Ids of all instances.
pub(super) fn instances(reservations: &[Reservation]) -> impl Iterator<Item = String> + '_ {
    let instances = reservations.iter().flat_map(Reservation::instances);
    instances.filter_map(|it| it.instance_id().map(str::to_owned))
}

pub(super) fn ipv6_prefixes(list: &[String]) -> Result<Vec<IpNet>, Failed> {
    list.iter().map(|prefix| parse("ipv6Prefix", Some(prefix))).collect()
}

pub(super) fn subnet(it: &Subnet) -> Result<SubnetFacts, Failed> {
    let cidr = it.cidr_block().filter(|c| !c.is_empty());
    let ipv6 = it.ipv6_cidr_block_association_set().iter().find(|association| {
        let state = association.ipv6_cidr_block_state().and_then(types::SubnetCidrBlockState::state);
        state.is_none_or(|s| *s == types::SubnetCidrBlockStateCode::Associated)
    });
    Ok(SubnetFacts {
        id: required("subnetId", it.subnet_id())?,
        cidr: cidr.map(|c| parse("cidrBlock", Some(c))).transpose()?,
        ipv6_cidr: ipv6.map(|a| parse("ipv6CidrBlock", a.ipv6_cidr_block())).transpose()?,
        free_ips: number("availableIpAddressCount", it.available_ip_address_count())?,
        tags: tags(it.tags()),
    })
}

/// Spec 03 §11.2, with the default card's maximum as the interface limit (W-20).
pub(super) fn limits(name: &str, types: &[InstanceTypeInfo]) -> Result<InstanceLimits, Failed> {
    let [info] = types else {
        return Err(nonsense(format!("EC2 answered with {} instance types for {name}, not with one", types.len())));
    };
    let network = info.network_info();
    let network = network.ok_or_else(|| nonsense(format!("EC2 tells no network limits of {name}")))?;
    let default_card = number("defaultNetworkCardIndex", network.default_network_card_index())?;
    let count = number("maximumNetworkCards", network.maximum_network_cards())? as usize;
    let mut cards = Vec::new();
    for card in network.network_cards().iter().take(count) {
        cards.push(CardLimits {
            index: number("networkCardIndex", card.network_card_index())?,
            max_enis: number("maximumNetworkInterfaces", card.maximum_network_interfaces())?,
        });
    }
    let enis = match cards.iter().find(|card| card.index == default_card) {
        Some(card) => card.max_enis,
        None => number("maximumNetworkInterfaces", network.maximum_network_interfaces())?,
    };
    if cards.is_empty() {
        cards.push(CardLimits { index: default_card, max_enis: enis });
    }
    let ipv4_per_eni = number("ipv4AddressesPerInterface", network.ipv4_addresses_per_interface())?;
    if enis == 0 || ipv4_per_eni == 0 {
        return Err(nonsense(format!(
            "unknown instance type {name}: EC2 tells {enis} interfaces with {ipv4_per_eni} IPv4 addresses each"
        )));
    }
    Ok(InstanceLimits {
        enis,
        ipv4_per_eni,
        default_card,
        hypervisor: match info.hypervisor() {
            Some(InstanceTypeHypervisor::Nitro) => Hypervisor::Nitro,
            Some(InstanceTypeHypervisor::Xen) => Hypervisor::Xen,
            _ => Hypervisor::Unknown,
        },
        bare_metal: info.bare_metal().unwrap_or_default(),
        cards,
    })
}

pub(super) fn assigned(out: &AssignPrivateIpAddressesOutput) -> Result<Answer, Failed> {
    let addresses = out.assigned_private_ip_addresses().iter();
    let addresses = addresses.map(|a| parse::<Ipv4Addr>("privateIpAddress", a.private_ip_address()));
    let prefixes = out.assigned_ipv4_prefixes().iter().map(|p| parse::<Ipv4Net>("ipv4Prefix", p.ipv4_prefix()));
    Ok(Answer::Assigned {
        addresses: addresses.collect::<Result<_, _>>()?,
        prefixes: prefixes.collect::<Result<_, _>>()?,
    })
}
