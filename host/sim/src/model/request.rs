//! The first face: `core::cloud` requests in process, under the caller's time.

use std::time::Duration;

use reservoir_core::cloud::{
    Answer, CloudError, Device, ErrorKind, Interface, InterfaceAttachment, Request, SubnetFacts,
};
use reservoir_core::ip::IpNet;
use reservoir_core::policy::{Family, Unit};

use super::audit::INSTANCE_TAG;
use super::aws::{Eni, InterfaceType};
use super::fault::FaultEffect;
use super::imds::ImdsMode;
use super::ops::{Create, Filter, Op, Query, Reply};
use super::sim::Sim;

impl Sim {
    /// One call of `instance` at `now`: when the caller has its answer, and the answer.
    pub fn call(&mut self, now: Duration, instance: &str, request: Request) -> (Duration, Result<Answer, CloudError>) {
        let api = request.api();
        if !request.is_ec2() {
            let (due, fate) = self.metadata_call(now, instance, api, &[api]);
            let answer = match fate {
                Ok(()) if self.imds_mode(instance) == ImdsMode::Disabled => Err(imds_error(api, "403 Forbidden")),
                Ok(()) if self.imds_mode(instance) == ImdsMode::Far => Err(imds_error(api, "no answer")),
                Ok(()) => self.read_metadata(instance, &request).ok_or_else(|| imds_error(api, "404 Not Found")),
                Err(FaultEffect::Error { code, .. } | FaultEffect::After { code, .. }) => Err(imds_error(api, &code)),
                Err(_) => Err(imds_error(api, "no answer")),
            };
            return (due, answer);
        }
        let living = matches!(request, Request::DescribeLivingInstances { .. });
        let verdict = self.execute(now, instance, to_op(request));
        let answer = match verdict.result {
            _ if verdict.silent || verdict.cut => Err(CloudError {
                api,
                kind: ErrorKind::Unknown,
                code: String::new(),
                message: "no answer within the time-out".to_owned(),
            }),
            Ok(Reply::Instances { items, .. }) if living => {
                Ok(Answer::Instances(items.into_iter().map(|i| i.id).collect()))
            }
            Ok(reply) => Ok(to_answer(api, reply)),
            Err(refusal) => Err(CloudError {
                api,
                kind: ErrorKind::from_code(&refusal.code, &refusal.message),
                code: refusal.code,
                message: refusal.message,
            }),
        };
        (verdict.due, answer)
    }

    fn read_metadata(&self, instance: &str, request: &Request) -> Option<Answer> {
        let identity = self.identity(instance)?;
        let metadata = self.metadata(instance)?;
        Some(match request {
            Request::Instance => Answer::Instance(identity.facts),
            Request::AttachedInterfaces => {
                Answer::Attached(metadata.interfaces.values().map(|i| i.facts.clone()).collect())
            }
            Request::PrimarySecurityGroups { mac } => {
                Answer::SecurityGroups(metadata.interfaces.get(mac)?.groups.clone())
            }
            Request::VpcCidrs { mac, family: Family::Ipv4 } if metadata.interfaces.contains_key(mac) => {
                Answer::VpcCidrs(identity.vpc_cidrs.into_iter().map(IpNet::from).collect())
            }
            Request::VpcCidrs { mac, family: Family::Ipv6 } if metadata.interfaces.contains_key(mac) => {
                Answer::VpcCidrs(identity.vpc_ipv6_cidrs)
            }
            _ => return None,
        })
    }
}

fn imds_error(api: &'static str, what: &str) -> CloudError {
    let kind = if what.starts_with("404") { ErrorKind::NotFound } else { ErrorKind::Unknown };
    CloudError { api, kind, code: "IMDSRequestError".to_owned(), message: format!("instance metadata: {what}") }
}

fn split(unit: Unit, count: u32) -> (u32, u32) {
    match unit {
        Unit::Ip => (count, 0),
        Unit::Prefix => (0, count),
    }
}

fn to_op(request: Request) -> Op {
    match request {
        Request::DescribeNetworkInterfaces { ids } => Op::DescribeNetworkInterfaces(Query::by_id(ids)),
        Request::DescribeDetachedInterfaces { instance } => {
            let tag = format!("tag:{INSTANCE_TAG}");
            let query = Query { max_results: Some(1000), ..Query::default() };
            Op::DescribeNetworkInterfaces(query.filter(&tag, &instance).filter("status", "available"))
        }
        Request::DescribeAbandonedInterfaces { vpc, cluster } => {
            let query = Query { max_results: Some(1000), ..Query::default() };
            let query = query.filter("tag-key", INSTANCE_TAG).filter("status", "available").filter("vpc-id", &vpc);
            Op::DescribeNetworkInterfaces(match cluster.as_str() {
                "" => query,
                name => query.filter("tag:cluster.k8s.amazonaws.com/name", name),
            })
        }
        Request::DescribeLivingInstances { ids } => {
            let values = |of: &[&str]| of.iter().map(|v| (*v).to_owned()).collect();
            let states = values(&["pending", "running", "shutting-down", "stopping", "stopped"]);
            let of = |name: &str, values| Filter { name: name.to_owned(), values };
            let filters = vec![of("instance-id", ids), of("instance-state-name", states)];
            Op::DescribeInstances(Query { filters, max_results: Some(1000), ..Query::default() })
        }
        Request::DescribeInstance { instance } => Op::DescribeInstances(Query::by_id(vec![instance])),
        Request::DescribeSubnets { vpc, availability_zone } => {
            Op::DescribeSubnets(Query::default().filter("vpc-id", &vpc).filter("availability-zone", &availability_zone))
        }
        Request::DescribeInstanceType { instance_type } => Op::DescribeInstanceTypes(Query::by_id(vec![instance_type])),
        Request::CreateNetworkInterface(c) => {
            let (addresses, prefixes) = split(c.unit, c.count);
            Op::CreateNetworkInterface(Create {
                subnet: c.subnet,
                description: c.description,
                groups: c.security_groups,
                tags: c.tags,
                addresses,
                prefixes,
                ipv6_addresses: c.ipv6_addresses,
                ipv6_prefixes: 0,
                interface_type: InterfaceType::Interface,
                without_ipv4: false,
                tracking: c.connection_tracking,
                client_token: Some(c.client_token),
            })
        }
        Request::AttachNetworkInterface { eni, instance, device_index, card } => {
            Op::AttachNetworkInterface { eni, instance, device_index, card }
        }
        Request::SetDeleteOnTermination { eni, attachment } => {
            Op::ModifyNetworkInterfaceAttribute { eni, attachment: Some((attachment, true)), groups: None }
        }
        Request::SetSecurityGroups { eni, groups } => {
            Op::ModifyNetworkInterfaceAttribute { eni, attachment: None, groups: Some(groups) }
        }
        Request::DetachNetworkInterface { attachment } => Op::DetachNetworkInterface { attachment },
        Request::DeleteNetworkInterface { eni } => Op::DeleteNetworkInterface { eni },
        Request::AssignPrivateIpAddresses { eni, unit, count } => {
            let (addresses, prefixes) = split(unit, count);
            Op::AssignPrivateIpAddresses { eni, addresses, prefixes }
        }
        Request::UnassignPrivateIpAddresses { eni, addresses, prefixes } => {
            Op::UnassignPrivateIpAddresses { eni, addresses, prefixes }
        }
        Request::AssignIpv6Prefix { eni } => Op::AssignIpv6Addresses { eni, addresses: 0, prefixes: 1 },
        Request::UnassignIpv6Prefixes { eni, prefixes } => {
            Op::UnassignIpv6Addresses { eni, addresses: Vec::new(), prefixes }
        }
        Request::CreateTags { resource, tags } => Op::CreateTags { resources: vec![resource], tags },
        // Metadata reads never come here; a describe of nothing is harmless.
        Request::Instance
        | Request::AttachedInterfaces
        | Request::PrimarySecurityGroups { .. }
        | Request::VpcCidrs { .. } => Op::DescribeInstanceTypes(Query::default()),
    }
}

fn to_answer(api: &'static str, reply: Reply) -> Answer {
    match reply {
        Reply::Done => Answer::Done,
        Reply::Interfaces { items, .. } => Answer::Interfaces(items.iter().map(interface).collect()),
        Reply::Created(eni) => Answer::Interfaces(vec![interface(&eni)]),
        Reply::Instances { items, .. } => {
            Answer::Devices(items.iter().flat_map(|i| &i.interfaces).filter_map(device).collect())
        }
        Reply::Subnets(subnets) => Answer::Subnets(
            subnets
                .into_iter()
                .map(|s| SubnetFacts {
                    id: s.id,
                    cidr: Some(s.cidr),
                    ipv6_cidr: s.ipv6_cidr,
                    free_ips: s.free,
                    tags: s.tags,
                })
                .collect(),
        ),
        Reply::InstanceTypes(types) => {
            debug_assert_eq!(api, "DescribeInstanceTypes");
            types.into_iter().next().map_or(Answer::Done, |(_, limits)| Answer::InstanceType(limits))
        }
        Reply::Attached { attachment, .. } => Answer::Attachment { id: attachment },
        Reply::Assigned { addresses, prefixes, .. } => Answer::Assigned { addresses, prefixes },
        // No question of the cloud's is answered with tags.
        Reply::Tags { .. } => Answer::Done,
        Reply::AssignedIpv6 { prefixes, .. } => Answer::Ipv6Prefixes(prefixes),
        Reply::UnassignedIpv6 { .. } => Answer::Done,
    }
}

fn device(eni: &Eni) -> Option<Device> {
    let attachment = eni.attachment.as_ref()?;
    Some(Device { eni: eni.id.clone(), device_index: attachment.device_index, card: attachment.card })
}

fn interface(eni: &Eni) -> Interface {
    Interface {
        eni: eni.id.clone(),
        mac: eni.mac.clone(),
        subnet: eni.subnet.clone(),
        interface_type: eni.interface_type.as_str().to_owned(),
        description: eni.description.clone(),
        status: eni.status().to_owned(),
        tags: eni.tags.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        security_groups: eni.groups.clone(),
        primary: eni.primary,
        secondary: eni.secondary.clone(),
        prefixes: eni.prefixes.clone(),
        ipv6: eni.ipv6.clone(),
        ipv6_prefixes: eni.ipv6_prefixes.clone(),
        attachment: eni.attachment.as_ref().map(|a| InterfaceAttachment {
            id: a.id.clone(),
            device_index: a.device_index,
            card: a.card,
            delete_on_termination: a.delete_on_termination,
            status: a.status.as_str().to_owned(),
        }),
        connection_tracking: eni.tracking,
    }
}
