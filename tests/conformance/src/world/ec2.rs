//! EC2 and IMDS as far as the manager asks them: they grant everything but what a case scripts.

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;

use reservoir_core::cloud::{
    Answer, AttachedInterface, CloudError, Device, ErrorKind, Interface, InterfaceAttachment, Request, SubnetFacts,
};
use reservoir_core::ip::Ipv4Net;
use reservoir_core::policy::Unit;

use super::{INSTANCE, SUBNET};

pub(crate) const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";
pub(crate) const NO_MANAGE_TAG: &str = "node.k8s.amazonaws.com/no_manage";

/// EC2, and IMDS which shows the same unless told otherwise.
#[derive(Debug, Default)]
pub(crate) struct Ec2 {
    pub interfaces: Vec<Interface>,
    pub subnets: Vec<SubnetFacts>,
    /// Usable slots of an interface.
    pub slots: u32,
    /// Error codes of the next calls that assign or create, in order; an empty one is a success. Used up: all succeed.
    pub script: VecDeque<String>,
    /// What IMDS shows instead.
    pub imds: Option<Vec<AttachedInterface>>,
    /// Interfaces that `DescribeNetworkInterfaces` cannot tell of.
    pub broken: BTreeSet<String>,
    /// Interfaces that are attached and missing from its answer.
    pub unlisted: BTreeSet<String>,
    pub given: u32,
}

/// An attached interface of ours, without addresses but its own.
pub(crate) fn interface(id: &str, card: u32, device_index: u32) -> Interface {
    Interface {
        eni: id.to_owned(),
        mac: format!("02:00:00:00:{card:02x}:{:02x}", device_index + 1),
        subnet: SUBNET.to_owned(),
        interface_type: "interface".to_owned(),
        description: String::new(),
        status: "in-use".to_owned(),
        tags: vec![(INSTANCE_TAG.to_owned(), INSTANCE.to_owned())],
        security_groups: vec!["sg-primary".to_owned()],
        primary: Some(Ipv4Addr::new(10, 1, 255, u8::try_from(card * 16 + device_index + 1).unwrap_or(255))),
        secondary: vec![],
        prefixes: vec![],
        ipv6: vec![],
        ipv6_prefixes: vec![],
        attachment: Some(InterfaceAttachment {
            id: format!("attach-{id}"),
            device_index,
            card,
            delete_on_termination: true,
            status: "attached".to_owned(),
        }),
        connection_tracking: None,
    }
}

/// The same as IMDS shows it.
pub(crate) fn attached(interface: &Interface) -> Option<AttachedInterface> {
    let attachment = interface.attachment.as_ref()?;
    Some(AttachedInterface {
        eni: interface.eni.clone(),
        mac: interface.mac.clone(),
        device_index: attachment.device_index,
        card: attachment.card,
        subnet: interface.subnet.clone(),
        subnet_cidr: interface.primary.map(|ip| Ipv4Net::new(ip, 16)),
        primary: interface.primary,
        secondary: interface.secondary.clone(),
        prefixes: interface.prefixes.clone(),
        subnet_ipv6_cidr: None,
        ipv6: vec![],
        ipv6_prefixes: vec![],
    })
}

/// A subnet with room for thousands of addresses.
pub(crate) fn subnet(id: &str, number: u8, tags: &[(&str, &str)]) -> SubnetFacts {
    SubnetFacts {
        id: id.to_owned(),
        cidr: Some(Ipv4Net::new(Ipv4Addr::new(10, number, 0, 0), 16)),
        ipv6_cidr: None,
        free_ips: 5000,
        tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

impl Ec2 {
    /// Interfaces with so many usable slots each, and the subnets of the node's VPC and zone.
    pub fn of(interfaces: Vec<Interface>, subnets: Vec<SubnetFacts>, slots: u32) -> Self {
        Self { interfaces, subnets, slots, ..Self::default() }
    }

    pub fn ids(&self) -> Vec<String> {
        self.interfaces.iter().map(|i| i.eni.clone()).collect()
    }

    pub fn imds(&self) -> Vec<AttachedInterface> {
        self.imds.clone().unwrap_or_else(|| self.interfaces.iter().filter_map(attached).collect())
    }

    /// Answers one call.
    pub fn call(&mut self, request: &Request) -> Result<Answer, CloudError> {
        let growing = matches!(request, Request::AssignPrivateIpAddresses { .. } | Request::CreateNetworkInterface(_));
        if growing
            && let Some(code) = self.script.pop_front()
            && !code.is_empty()
        {
            if let (Request::AssignPrivateIpAddresses { eni, unit, .. }, "PrivateIpAddressLimitExceeded") =
                (request, code.as_str())
            {
                self.fill(&eni.clone(), *unit);
            }
            return Err(error(request, &code));
        }
        self.grant(request)
    }

    fn grant(&mut self, request: &Request) -> Result<Answer, CloudError> {
        Ok(match request {
            Request::AttachedInterfaces => Answer::Attached(self.imds()),
            Request::PrimarySecurityGroups { .. } => Answer::SecurityGroups(vec!["sg-primary".to_owned()]),
            Request::DescribeSubnets { .. } => Answer::Subnets(self.subnets.clone()),
            Request::DescribeInstance { .. } => Answer::Devices(self.interfaces.iter().filter_map(device).collect()),
            Request::DescribeDetachedInterfaces { .. } | Request::DescribeAbandonedInterfaces { .. } => {
                Answer::Interfaces(vec![])
            }
            Request::DescribeNetworkInterfaces { ids } => {
                if ids.iter().any(|id| self.broken.contains(id)) {
                    return Err(error(request, "InternalError"));
                }
                let listed = self.interfaces.iter().filter(|i| ids.contains(&i.eni) && !self.unlisted.contains(&i.eni));
                Answer::Interfaces(listed.cloned().collect())
            }
            Request::AssignPrivateIpAddresses { eni, unit, count } => {
                let (addresses, prefixes) = self.take(*unit, *count);
                let Some(interface) = self.interfaces.iter_mut().find(|i| i.eni == *eni) else {
                    return Err(error(request, "InvalidNetworkInterfaceID.NotFound"));
                };
                interface.secondary.extend(&addresses);
                interface.prefixes.extend(&prefixes);
                Answer::Assigned { addresses, prefixes }
            }
            Request::UnassignPrivateIpAddresses { .. } => Answer::Done,
            Request::CreateNetworkInterface(create) => {
                let (addresses, prefixes) = self.take(create.unit, create.count);
                let id = format!("eni-made-{}", self.interfaces.len());
                let block = self.subnets.iter().find(|s| s.id == create.subnet).and_then(|s| s.cidr);
                let made = Interface {
                    subnet: create.subnet.clone(),
                    primary: block.and_then(|cidr| cidr.nth(10)),
                    secondary: addresses,
                    prefixes,
                    attachment: None,
                    tags: create.tags.clone(),
                    ..interface(&id, 0, 0)
                };
                self.interfaces.push(made.clone());
                Answer::Interfaces(vec![made])
            }
            Request::AttachNetworkInterface { eni, device_index, card, .. } => {
                let like = interface(eni, *card, *device_index);
                if let Some(made) = self.interfaces.iter_mut().find(|i| i.eni == *eni) {
                    made.attachment = like.attachment;
                }
                Answer::Attachment { id: format!("attach-{eni}") }
            }
            Request::SetDeleteOnTermination { .. } | Request::SetSecurityGroups { .. } | Request::CreateTags { .. } => {
                Answer::Done
            }
            Request::DetachNetworkInterface { .. } => Answer::Done,
            Request::DeleteNetworkInterface { eni } => {
                self.interfaces.retain(|i| i.eni != *eni);
                Answer::Done
            }
            _ => return Err(error(request, "InvalidAction")),
        })
    }

    /// New addresses or prefixes, no two the same.
    fn take(&mut self, unit: Unit, count: u32) -> (Vec<Ipv4Addr>, Vec<Ipv4Net>) {
        let first = self.given;
        self.given += count;
        let numbers = first..self.given;
        match unit {
            Unit::Ip => (numbers.map(|n| Ipv4Addr::from(0x0a64_0000 + n)).collect(), vec![]),
            Unit::Prefix => (vec![], numbers.map(|n| Ipv4Net::new(Ipv4Addr::from(0x0ac8_0000 + n * 16), 28)).collect()),
        }
    }

    /// The interface has been fuller than the daemon knew all the time.
    fn fill(&mut self, eni: &str, unit: Unit) {
        let held = self.interfaces.iter().find(|i| i.eni == eni).map_or(0, |i| i.secondary.len() + i.prefixes.len());
        let missing = self.slots.saturating_sub(u32::try_from(held).unwrap_or(u32::MAX));
        let (addresses, prefixes) = self.take(unit, missing);
        if let Some(interface) = self.interfaces.iter_mut().find(|i| i.eni == eni) {
            interface.secondary.extend(addresses);
            interface.prefixes.extend(prefixes);
        }
    }
}

fn device(interface: &Interface) -> Option<Device> {
    let attachment = interface.attachment.as_ref()?;
    Some(Device { eni: interface.eni.clone(), device_index: attachment.device_index, card: attachment.card })
}

fn error(request: &Request, code: &str) -> CloudError {
    let message = "as the case says".to_owned();
    CloudError { api: request.api(), kind: ErrorKind::from_code(code, &message), code: code.to_owned(), message }
}
