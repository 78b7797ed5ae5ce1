//! From an answer to the Query protocol's XML (element names: spec 03 §6.3).

use std::fmt::Display;

use reservoir_core::limits::{Hypervisor, InstanceLimits};

use super::ec2::VERSION;
use super::xml::Xml;
use crate::model::aws::Eni;
use crate::model::ops::{InstanceView, Reply, SubnetView};
use crate::model::refusal::Refusal;

/// The body of a successful answer to `action`.
pub fn reply(action: &str, reply: &Reply, account: &str, request_id: &str) -> String {
    let mut xml = Xml::new();
    xml.node(&format!("{action}Response xmlns=\"http://ec2.amazonaws.com/doc/{VERSION}/\""), |x| {
        x.leaf("requestId", request_id);
        match reply {
            Reply::Done => {
                x.leaf("return", true);
            }
            Reply::Interfaces { items, next_token } => {
                x.set("networkInterfaceSet", items, |x, eni| interface(x, eni, account));
                token(x, next_token.as_deref());
            }
            Reply::Created(eni) => {
                x.node("networkInterface", |x| interface(x, eni, account));
            }
            Reply::Instances { items, next_token } => {
                x.set("reservationSet", items, |x, instance| {
                    x.leaf("reservationId", instance.id.replacen("i-", "r-", 1)).leaf("ownerId", account);
                    x.set("instancesSet", [instance], |x, i| machine(x, i, account));
                });
                token(x, next_token.as_deref());
            }
            Reply::Subnets(subnets) => {
                x.set("subnetSet", subnets, |x, s| subnet(x, s, account));
            }
            Reply::InstanceTypes(types) => {
                x.set("instanceTypeSet", types, |x, (name, limits)| instance_type(x, name, limits));
            }
            Reply::Tags { items, next_token } => {
                x.set("tagSet", items, |x, tag| {
                    x.leaf("resourceId", &tag.resource).leaf("resourceType", tag.resource_type);
                    x.leaf("key", &tag.key).leaf("value", &tag.value);
                });
                token(x, next_token.as_deref());
            }
            Reply::Attached { attachment, card } => {
                x.leaf("attachmentId", attachment).leaf("networkCardIndex", card);
            }
            Reply::Assigned { eni, addresses, prefixes } => {
                x.leaf("networkInterfaceId", eni);
                x.set("assignedPrivateIpAddressesSet", addresses, |x, a| {
                    x.leaf("privateIpAddress", a);
                });
                x.set("assignedIpv4PrefixSet", prefixes, |x, p| {
                    x.leaf("ipv4Prefix", p);
                });
                x.leaf("return", true);
            }
            Reply::AssignedIpv6 { eni, addresses, prefixes } => {
                x.leaf("networkInterfaceId", eni);
                plain(x, "assignedIpv6Addresses", addresses);
                plain(x, "assignedIpv6PrefixSet", prefixes);
            }
            Reply::UnassignedIpv6 { eni, addresses, prefixes } => {
                x.leaf("networkInterfaceId", eni);
                plain(x, "unassignedIpv6Addresses", addresses);
                plain(x, "unassignedIpv6PrefixSet", prefixes);
            }
        }
    });
    xml.finish()
}

/// A list of plain texts.
fn plain<T: Display>(x: &mut Xml, name: &str, items: &[T]) {
    x.node(name, |x| {
        for item in items {
            x.leaf("item", item);
        }
    });
}

/// The body of a refusal.
pub fn refusal(refusal: &Refusal, request_id: &str) -> String {
    let mut xml = Xml::new();
    xml.node("Response", |x| {
        x.node("Errors", |x| {
            x.node("Error", |x| {
                x.leaf("Code", &refusal.code).leaf("Message", &refusal.message);
            });
        });
        x.leaf("RequestID", request_id);
    });
    xml.finish()
}

fn token(x: &mut Xml, token: Option<&str>) {
    if let Some(token) = token {
        x.leaf("nextToken", token);
    }
}

fn tags<'a>(x: &mut Xml, tags: impl IntoIterator<Item = (&'a String, &'a String)>) {
    x.set("tagSet", tags, |x, (key, value)| {
        x.leaf("key", key).leaf("value", value);
    });
}

fn interface(x: &mut Xml, eni: &Eni, account: &str) {
    x.leaf("networkInterfaceId", &eni.id)
        .leaf("subnetId", &eni.subnet)
        .leaf("vpcId", &eni.vpc)
        .leaf("availabilityZone", &eni.availability_zone)
        .leaf("description", &eni.description)
        .leaf("ownerId", account)
        .leaf("requesterManaged", false)
        .leaf("status", eni.status())
        .leaf("macAddress", &eni.mac)
        .leaf("sourceDestCheck", true)
        .leaf("interfaceType", eni.interface_type.as_str());
    x.set("groupSet", &eni.groups, |x, group| {
        x.leaf("groupId", group).leaf("groupName", group.replacen("sg-", "group-", 1));
    });
    if let Some(a) = &eni.attachment {
        x.node("attachment", |x| {
            x.leaf("attachmentId", &a.id)
                .leaf("instanceId", &a.instance)
                .leaf("instanceOwnerId", account)
                .leaf("deviceIndex", a.device_index)
                .leaf("networkCardIndex", a.card)
                .leaf("status", a.status.as_str())
                .leaf("deleteOnTermination", a.delete_on_termination);
        });
    }
    tags(x, &eni.tags);
    if let Some(primary) = eni.primary {
        x.leaf("privateIpAddress", primary);
    }
    let addresses = eni.primary.iter().map(|a| (a, true)).chain(eni.secondary.iter().map(|a| (a, false)));
    x.set("privateIpAddressesSet", addresses, |x, (address, primary)| {
        x.leaf("privateIpAddress", address).leaf("primary", primary);
    });
    x.set("ipv4PrefixSet", &eni.prefixes, |x, prefix| {
        x.leaf("ipv4Prefix", prefix);
    });
    if let Some(own) = eni.ipv6.first() {
        x.leaf("ipv6Address", own);
    }
    x.set("ipv6AddressesSet", &eni.ipv6, |x, address| {
        x.leaf("ipv6Address", address);
    });
    x.set("ipv6PrefixSet", &eni.ipv6_prefixes, |x, prefix| {
        x.leaf("ipv6Prefix", prefix);
    });
    if let Some(t) = eni.tracking {
        x.node("connectionTrackingConfiguration", |x| {
            let timeouts = [
                ("tcpEstablishedTimeout", t.tcp_established),
                ("udpStreamTimeout", t.udp_stream),
                ("udpTimeout", t.udp),
            ];
            for (name, seconds) in timeouts {
                if let Some(seconds) = seconds {
                    x.leaf(name, seconds);
                }
            }
        });
    }
}

fn machine(x: &mut Xml, instance: &InstanceView, account: &str) {
    let (code, name) = if instance.terminated { (48, "terminated") } else { (16, "running") };
    x.leaf("instanceId", &instance.id).leaf("instanceType", &instance.instance_type);
    x.node("instanceState", |x| {
        x.leaf("code", code).leaf("name", name);
    });
    x.node("placement", |x| {
        x.leaf("availabilityZone", &instance.availability_zone);
    });
    tags(x, instance.tags.iter().map(|(k, v)| (k, v)));
    x.set("networkInterfaceSet", &instance.interfaces, |x, eni| interface(x, eni, account));
}

fn subnet(x: &mut Xml, subnet: &SubnetView, account: &str) {
    x.leaf("subnetId", &subnet.id)
        .leaf("state", "available")
        .leaf("ownerId", account)
        .leaf("vpcId", &subnet.vpc)
        .leaf("cidrBlock", subnet.cidr)
        .leaf("availableIpAddressCount", subnet.free)
        .leaf("availabilityZone", &subnet.availability_zone);
    x.set("ipv6CidrBlockAssociationSet", &subnet.ipv6_cidr, |x, cidr| {
        x.leaf("associationId", subnet.id.replacen("subnet-", "subnet-cidr-assoc-", 1)).leaf("ipv6CidrBlock", cidr);
        x.node("ipv6CidrBlockState", |x| {
            x.leaf("state", "associated");
        });
    });
    tags(x, subnet.tags.iter().map(|(k, v)| (k, v)));
}

fn instance_type(x: &mut Xml, name: &str, limits: &InstanceLimits) {
    x.leaf("instanceType", name).leaf("bareMetal", limits.bare_metal);
    match limits.hypervisor {
        Hypervisor::Nitro => x.leaf("hypervisor", "nitro"),
        Hypervisor::Xen => x.leaf("hypervisor", "xen"),
        Hypervisor::Unknown => x,
    };
    x.node("networkInfo", |x| {
        x.leaf("maximumNetworkInterfaces", limits.enis)
            .leaf("maximumNetworkCards", limits.cards.len())
            .leaf("defaultNetworkCardIndex", limits.default_card)
            .leaf("ipv4AddressesPerInterface", limits.ipv4_per_eni);
        x.set("networkCards", &limits.cards, |x, card| {
            x.leaf("networkCardIndex", card.index).leaf("maximumNetworkInterfaces", card.max_enis);
        });
    });
}
