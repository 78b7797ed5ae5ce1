//! A small cloud that obeys a few of EC2's rules and fails on request.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::SLOTS;
use crate::cloud::{
    Answer, AttachedInterface, CloudError, ConnectionTracking, CreateInterface, Device, ErrorKind, Interface,
    InterfaceAttachment, Request, SubnetFacts,
};
use crate::ip::{IpNet, Ipv4Net};
use crate::policy::Unit;

/// EC2: one subnet, interfaces with addresses.
#[derive(Default)]
pub(super) struct Ec2 {
    pub(super) free: u32,
    pub(super) next: u32,
    /// The card of those that are not on card 0.
    pub(super) cards: BTreeMap<String, u32>,
    /// The subnets of those that are not in subnet-1.
    pub(super) subnets: BTreeMap<String, String>,
    /// What interfaces were made with: subnet and groups.
    pub(super) made: Vec<(String, Vec<String>)>,
    pub(super) trunk: Option<String>,
    /// Types of those that are neither trunk nor ordinary.
    pub(super) types: BTreeMap<String, &'static str>,
    /// Those that are tagged out of management.
    pub(super) no_manage: BTreeSet<String>,
    /// /28s on interfaces, and how many the subnet still has.
    pub(super) prefixes: BTreeMap<String, BTreeSet<Ipv4Net>>,
    pub(super) free_prefixes: u32,
    /// The subnet's IPv6 block, if it has one; own address and prefixes of interfaces.
    pub(super) subnet_ipv6: Option<IpNet>,
    pub(super) ipv6: BTreeMap<String, (Ipv6Addr, Vec<IpNet>)>,
    /// Id to (attached device, secondary addresses).
    pub(super) enis: BTreeMap<String, (Option<u32>, BTreeSet<Ipv4Addr>)>,
    pub(super) faults: VecDeque<(&'static str, ErrorKind)>,
    /// Tags of a subnet-2, if there is one.
    pub(super) second_subnet: Option<Vec<(String, String)>>,
    /// Tags of subnet-1.
    pub(super) subnet_tags: Vec<(String, String)>,
    /// Security groups: the primary's by IMDS, and those of interfaces that do not have sg-1.
    pub(super) primary_groups: Option<Vec<String>>,
    pub(super) groups: BTreeMap<String, Vec<String>>,
    /// Of the primary interface.
    pub(super) tracking: Option<ConnectionTracking>,
    /// What was asked for under each client token.
    pub(super) tokens: BTreeMap<String, CreateInterface>,
    /// When those were created that were not created long ago; None: nobody knows.
    pub(super) created: BTreeMap<String, Option<String>>,
    /// What others left, and which instances live.
    pub(super) abandoned: Vec<Interface>,
    pub(super) living: Vec<String>,
    /// What IMDS still shows although it is gone.
    pub(super) stale: Vec<AttachedInterface>,
}

impl Ec2 {
    pub(super) fn address(&mut self) -> Ipv4Addr {
        self.free -= 1;
        self.next += 1;
        Ipv4Addr::from(0x0a00_0000 + self.next)
    }

    pub(super) fn prefix(&mut self) -> Ipv4Net {
        self.free_prefixes -= 1;
        self.next += 1;
        Ipv4Net::new(Ipv4Addr::from(0x0a01_0000 + self.next * 16), 28)
    }

    /// An interface's own address.
    pub(super) fn primary(&self, id: &str) -> Option<Ipv4Addr> {
        (self.types.get(id) != Some(&"efa-only")).then_some(Ipv4Addr::new(10, 0, 9, 9))
    }

    pub(super) fn slots_used(&self, id: &str) -> u32 {
        (self.enis[id].1.len() + self.prefixes.get(id).map_or(0, BTreeSet::len)) as u32
    }

    pub(super) fn ipv6_prefix(&mut self, id: &str) -> IpNet {
        self.next += 1;
        let net = IpNet::new(Ipv6Addr::from((0x2001_0db8_0000_0001 << 64) | (u128::from(self.next) << 48)).into(), 80);
        self.ipv6.get_mut(id).unwrap().1.push(net);
        net
    }

    pub(super) fn ipv6_of(&self, id: &str) -> (Vec<Ipv6Addr>, Vec<IpNet>) {
        self.ipv6.get(id).map(|(own, prefixes)| (vec![*own], prefixes.clone())).unwrap_or_default()
    }

    /// All blocks of an interface.
    pub(super) fn blocks(&self, id: &str) -> Vec<IpNet> {
        let singles = self.enis[id].1.iter().map(|a| Ipv4Net::host(*a).into());
        singles.chain(self.prefixes.get(id).into_iter().flatten().map(|p| IpNet::from(*p))).collect()
    }

    pub(super) fn subnet(&self, id: &str) -> String {
        self.subnets.get(id).map_or("subnet-1", String::as_str).to_owned()
    }

    pub(super) fn card(&self, id: &str) -> u32 {
        self.cards.get(id).copied().unwrap_or(0)
    }

    pub(super) fn interface(&self, id: &str) -> Interface {
        let (device, secondary) = &self.enis[id];
        Interface {
            eni: id.to_owned(),
            mac: format!("mac-{id}"),
            subnet: self.subnet(id),
            interface_type: match self.types.get(id) {
                _ if self.trunk.as_deref() == Some(id) => "trunk",
                other => other.copied().unwrap_or("interface"),
            }
            .to_owned(),
            description: "aws-K8S-i-1".to_owned(),
            status: if device.is_some() { "in-use" } else { "available" }.to_owned(),
            tags: self
                .created
                .get(id)
                .cloned()
                .unwrap_or_else(|| Some("1970-01-01T00:00:00Z".to_owned()))
                .map(|at| ("node.k8s.amazonaws.com/createdAt".to_owned(), at))
                .into_iter()
                .chain(self.no_manage.contains(id).then(|| ("node.k8s.amazonaws.com/no_manage".into(), "true".into())))
                .collect(),
            security_groups: self.groups.get(id).cloned().unwrap_or_else(|| vec!["sg-1".to_owned()]),
            primary: self.primary(id),
            secondary: secondary.iter().copied().collect(),
            prefixes: self.prefixes.get(id).into_iter().flatten().copied().collect(),
            ipv6: self.ipv6_of(id).0,
            ipv6_prefixes: self.ipv6_of(id).1,
            attachment: device.map(|device_index| InterfaceAttachment {
                id: format!("attach-{id}"),
                device_index,
                card: self.card(id),
                delete_on_termination: true,
                status: "attached".to_owned(),
            }),
            connection_tracking: self.tracking.filter(|_| id == "eni-0"),
        }
    }

    pub(super) fn call(&mut self, request: &Request) -> Result<Answer, CloudError> {
        let error =
            |kind| Err(CloudError { api: request.api(), kind, code: format!("{kind:?}"), message: String::new() });
        if let Request::CreateNetworkInterface(c) = request {
            let before = self.tokens.entry(c.client_token.clone()).or_insert_with(|| c.clone());
            assert_eq!(before, c, "IdempotentParameterMismatch");
        }
        if self.faults.front().is_some_and(|(api, _)| *api == request.api()) {
            let (_, kind) = self.faults.pop_front().unwrap();
            return error(kind);
        }
        match request {
            Request::PrimarySecurityGroups { .. } => {
                Ok(Answer::SecurityGroups(self.primary_groups.clone().unwrap_or_else(|| vec!["sg-1".to_owned()])))
            }
            Request::SetSecurityGroups { eni, groups } => {
                self.groups.insert(eni.clone(), groups.clone());
                Ok(Answer::Done)
            }
            Request::DescribeSubnets { .. } => {
                let subnet = |id: &str, cidr: &str, tags: &[(String, String)]| SubnetFacts {
                    id: id.to_owned(),
                    cidr: Some(cidr.parse().unwrap()),
                    ipv6_cidr: self.subnet_ipv6,
                    free_ips: self.free,
                    tags: tags.to_vec(),
                };
                let mut list = vec![subnet("subnet-1", "10.0.0.0/20", &self.subnet_tags)];
                list.extend(self.second_subnet.as_ref().map(|tags| subnet("subnet-2", "100.64.0.0/24", tags)));
                Ok(Answer::Subnets(list))
            }
            Request::AssignPrivateIpAddresses { eni, .. } if eni == "eni-bad" => error(ErrorKind::Refused),
            Request::AssignPrivateIpAddresses { eni, unit, count } => {
                if self.slots_used(eni) + count > SLOTS {
                    return error(ErrorKind::AddressLimit);
                }
                if *unit == Unit::Prefix {
                    if self.free_prefixes < *count {
                        return error(ErrorKind::NoFreePrefix);
                    }
                    let prefixes: Vec<Ipv4Net> = (0..*count).map(|_| self.prefix()).collect();
                    self.prefixes.entry(eni.clone()).or_default().extend(&prefixes);
                    return Ok(Answer::Assigned { addresses: vec![], prefixes });
                }
                if self.free < *count {
                    return error(ErrorKind::NoFreeAddress);
                }
                let addresses: Vec<Ipv4Addr> = (0..*count).map(|_| self.address()).collect();
                self.enis.get_mut(eni).unwrap().1.extend(&addresses);
                Ok(Answer::Assigned { addresses, prefixes: vec![] })
            }
            Request::CreateNetworkInterface(c) => {
                assert!(!c.security_groups.is_empty() && c.tags.is_sorted(), "{c:?}");
                let (singles, prefixes) = if c.unit == Unit::Ip { (c.count, 0) } else { (0, c.count) };
                if self.free < singles + 1 {
                    return error(ErrorKind::NoFreeAddress);
                }
                if self.free_prefixes < prefixes {
                    return error(ErrorKind::NoFreePrefix);
                }
                self.free -= 1;
                self.next += 1;
                self.made.push((c.subnet.clone(), c.security_groups.clone()));
                let addresses = (0..singles).map(|_| self.address()).collect();
                let id = format!("eni-{}", self.next);
                let created = c.tags.iter().find(|(k, _)| k == "node.k8s.amazonaws.com/createdAt");
                self.created.insert(id.clone(), created.map(|(_, at)| at.clone()));
                if c.subnet != "subnet-1" {
                    self.subnets.insert(id.clone(), c.subnet.clone());
                }
                let prefixes = (0..prefixes).map(|_| self.prefix()).collect();
                self.prefixes.insert(id.clone(), prefixes);
                if c.ipv6_addresses > 0 {
                    assert!(self.subnet_ipv6.is_some(), "the subnet has no IPv6");
                    self.ipv6.insert(id.clone(), (Ipv6Addr::from(u128::from(self.next)), vec![]));
                }
                self.enis.insert(id.clone(), (None, addresses));
                Ok(Answer::Interfaces(vec![self.interface(&id)]))
            }
            Request::AttachNetworkInterface { eni, device_index, card, .. } => {
                if self.enis.iter().any(|(id, (d, _))| *d == Some(*device_index) && self.card(id) == *card) {
                    return error(ErrorKind::InUse);
                }
                self.enis.get_mut(eni).unwrap().0 = Some(*device_index);
                self.cards.insert(eni.clone(), *card);
                Ok(Answer::Attachment { id: format!("attach-{eni}") })
            }
            Request::DetachNetworkInterface { attachment } => {
                let eni = attachment.strip_prefix("attach-").unwrap();
                match self.enis.get_mut(eni) {
                    Some((device, _)) => *device = None,
                    None => return error(ErrorKind::NotFound),
                }
                Ok(Answer::Done)
            }
            Request::DeleteNetworkInterface { eni } if self.abandoned.iter().any(|i| i.eni == *eni) => {
                self.abandoned.retain(|i| i.eni != *eni);
                Ok(Answer::Done)
            }
            Request::DeleteNetworkInterface { eni } => match self.enis.remove(eni) {
                Some((None, secondary)) => {
                    self.free += secondary.len() as u32 + 1;
                    Ok(Answer::Done)
                }
                Some(attached) => {
                    self.enis.insert(eni.clone(), attached);
                    error(ErrorKind::InUse)
                }
                None => error(ErrorKind::NotFound),
            },
            Request::UnassignPrivateIpAddresses { eni, addresses, prefixes } => {
                for prefix in prefixes {
                    assert!(self.prefixes.get_mut(eni).unwrap().remove(prefix), "{prefix} is not on {eni}");
                    self.free_prefixes += 1;
                }
                let held = &mut self.enis.get_mut(eni).unwrap().1;
                for address in addresses {
                    assert!(held.remove(address), "{address} is not on {eni}");
                    self.free += 1;
                }
                Ok(Answer::Done)
            }
            Request::DescribeInstance { .. } => Ok(Answer::Devices(
                self.enis
                    .iter()
                    .filter_map(|(id, (d, _))| {
                        Some(Device { eni: id.clone(), device_index: (*d)?, card: self.card(id) })
                    })
                    .collect(),
            )),
            Request::DescribeNetworkInterfaces { ids } => {
                if ids.iter().any(|id| !self.enis.contains_key(id)) {
                    return error(ErrorKind::NotFound);
                }
                Ok(Answer::Interfaces(ids.iter().map(|id| self.interface(id)).collect()))
            }
            Request::DescribeDetachedInterfaces { .. } => {
                let loose = self.enis.iter().filter(|(_, (d, _))| d.is_none());
                Ok(Answer::Interfaces(loose.map(|(id, _)| self.interface(id)).collect()))
            }
            Request::DescribeAbandonedInterfaces { .. } => Ok(Answer::Interfaces(self.abandoned.clone())),
            Request::DescribeLivingInstances { ids } => {
                Ok(Answer::Instances(self.living.iter().filter(|id| ids.contains(id)).cloned().collect()))
            }
            Request::AssignIpv6Prefix { eni } => Ok(Answer::Ipv6Prefixes(vec![self.ipv6_prefix(eni)])),
            Request::AttachedInterfaces => Ok(Answer::Attached(self.attached())),
            Request::CreateTags { .. } | Request::SetDeleteOnTermination { .. } => Ok(Answer::Done),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn attached(&self) -> Vec<AttachedInterface> {
        let attached = self.enis.iter().filter_map(|(id, (device, secondary))| {
            Some(AttachedInterface {
                eni: id.clone(),
                mac: format!("mac-{id}"),
                device_index: (*device)?,
                card: self.card(id),
                subnet: self.subnet(id),
                subnet_cidr: Some(
                    if self.subnets.contains_key(id) { "100.64.0.0/24" } else { "10.0.0.0/20" }.parse().unwrap(),
                ),
                primary: self.primary(id),
                secondary: secondary.iter().copied().collect(),
                prefixes: self.prefixes.get(id).into_iter().flatten().copied().collect(),
                subnet_ipv6_cidr: self.subnet_ipv6,
                ipv6: self.ipv6_of(id).0,
                ipv6_prefixes: self.ipv6_of(id).1,
            })
        });
        let real = attached.filter(|i: &AttachedInterface| !self.stale.iter().any(|s| s.eni == i.eni));
        real.chain(self.stale.iter().cloned()).collect()
    }
}
