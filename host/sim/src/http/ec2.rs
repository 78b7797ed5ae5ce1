//! From the Query protocol's form to an operation (spec 03 §6.3).

use std::net::{Ipv4Addr, Ipv6Addr};

use reservoir_core::cloud::ConnectionTracking;
use reservoir_core::ip::{IpNet, Ipv4Net};

use super::form::Form;
use crate::model::ops::{Create, Filter, Op, Query};
use crate::model::refusal::Refusal;

/// EC2's only API version.
pub const VERSION: &str = "2016-11-15";

/// Reads one request. Parameters that the model does not know are refused, so that no client relies on them unseen.
pub fn parse(body: &str) -> Result<Op, Refusal> {
    let mut form = Form::parse(body)
        .ok_or_else(|| Refusal::new("MalformedQueryString", "The body is not a form of parameters"))?;
    let action = form.need("Action")?;
    let version = form.need("Version")?;
    if version != VERSION {
        return Err(Refusal::new(
            "NoSuchVersion",
            format!("The requested version ({version}) of service AmazonEC2 does not exist; use {VERSION}"),
        ));
    }
    let dry_run = form.take("DryRun").is_some_and(|v| v == "true");
    let op = operation(&action, &mut form)?;
    form.finish()?;
    if dry_run {
        return Err(Refusal::new("DryRunOperation", "Request would have succeeded, but DryRun flag is set."));
    }
    Ok(op)
}

fn operation(action: &str, form: &mut Form) -> Result<Op, Refusal> {
    Ok(match action {
        "DescribeNetworkInterfaces" => Op::DescribeNetworkInterfaces(query(form, "NetworkInterfaceId")?),
        "DescribeInstances" => Op::DescribeInstances(query(form, "InstanceId")?),
        "DescribeSubnets" => Op::DescribeSubnets(query(form, "SubnetId")?),
        "DescribeInstanceTypes" => Op::DescribeInstanceTypes(query(form, "InstanceType")?),
        "DescribeTags" => Op::DescribeTags(query(form, "ResourceId")?),
        "CreateNetworkInterface" => Op::CreateNetworkInterface(create(form)?),
        "AttachNetworkInterface" => Op::AttachNetworkInterface {
            eni: form.need("NetworkInterfaceId")?,
            instance: form.need("InstanceId")?,
            device_index: form.parsed("DeviceIndex")?.ok_or_else(|| missing("DeviceIndex"))?,
            card: form.parsed("NetworkCardIndex")?.unwrap_or(0),
        },
        "ModifyNetworkInterfaceAttribute" => modify(form)?,
        "DetachNetworkInterface" => Op::DetachNetworkInterface { attachment: form.need("AttachmentId")? },
        "DeleteNetworkInterface" => Op::DeleteNetworkInterface { eni: form.need("NetworkInterfaceId")? },
        "AssignPrivateIpAddresses" => Op::AssignPrivateIpAddresses {
            eni: form.need("NetworkInterfaceId")?,
            addresses: form.parsed("SecondaryPrivateIpAddressCount")?.unwrap_or(0),
            prefixes: form.parsed("Ipv4PrefixCount")?.unwrap_or(0),
        },
        "UnassignPrivateIpAddresses" => Op::UnassignPrivateIpAddresses {
            eni: form.need("NetworkInterfaceId")?,
            addresses: form.parsed_list::<Ipv4Addr>("PrivateIpAddress")?,
            prefixes: form.parsed_list::<Ipv4Net>("Ipv4Prefix")?,
        },
        "AssignIpv6Addresses" => Op::AssignIpv6Addresses {
            eni: form.need("NetworkInterfaceId")?,
            addresses: form.parsed("Ipv6AddressCount")?.unwrap_or(0),
            prefixes: form.parsed("Ipv6PrefixCount")?.unwrap_or(0),
        },
        "UnassignIpv6Addresses" => Op::UnassignIpv6Addresses {
            eni: form.need("NetworkInterfaceId")?,
            addresses: form.parsed_list::<Ipv6Addr>("Ipv6Addresses")?,
            prefixes: form.parsed_list::<IpNet>("Ipv6Prefix")?,
        },
        "CreateTags" => Op::CreateTags { resources: form.list("ResourceId"), tags: form.tags("Tag") },
        _ => {
            let message = format!("The action {action} is not valid for this web service.");
            return Err(Refusal::new("InvalidAction", message));
        }
    })
}

fn query(form: &mut Form, ids: &str) -> Result<Query, Refusal> {
    let mut filters = Vec::new();
    for n in form.numbers("Filter") {
        let name = form.need(&format!("Filter.{n}.Name"))?;
        filters.push(Filter { name, values: form.list(&format!("Filter.{n}.Value")) });
    }
    Ok(Query {
        ids: form.list(ids),
        filters,
        max_results: form.parsed("MaxResults")?,
        next_token: form.take("NextToken"),
    })
}

fn create(form: &mut Form) -> Result<Create, Refusal> {
    let mut tags = Vec::new();
    for n in form.numbers("TagSpecification") {
        let kind = form.need(&format!("TagSpecification.{n}.ResourceType"))?;
        if kind != "network-interface" {
            return Err(Refusal::invalid(format!(
                "'{kind}' is not a valid taggable resource type for this operation."
            )));
        }
        tags.extend(form.tags(&format!("TagSpecification.{n}.Tag")));
    }
    let key = |name: &str| format!("ConnectionTrackingSpecification.{name}");
    let tracking = ConnectionTracking {
        tcp_established: form.parsed(&key("TcpEstablishedTimeout"))?,
        udp_stream: form.parsed(&key("UdpStreamTimeout"))?,
        udp: form.parsed(&key("UdpTimeout"))?,
    };
    Ok(Create {
        subnet: form.need("SubnetId")?,
        description: form.take("Description").unwrap_or_default(),
        groups: form.list("SecurityGroupId"),
        tags,
        addresses: form.parsed("SecondaryPrivateIpAddressCount")?.unwrap_or(0),
        prefixes: form.parsed("Ipv4PrefixCount")?.unwrap_or(0),
        ipv6_addresses: form.parsed("Ipv6AddressCount")?.unwrap_or(0),
        ipv6_prefixes: form.parsed("Ipv6PrefixCount")?.unwrap_or(0),
        interface_type: form.parsed("InterfaceType")?.unwrap_or_default(),
        without_ipv4: false,
        tracking: (tracking != ConnectionTracking::default()).then_some(tracking),
        client_token: form.take("ClientToken"),
    })
}

fn modify(form: &mut Form) -> Result<Op, Refusal> {
    let attachment = match form.take("Attachment.AttachmentId") {
        None => None,
        Some(id) => {
            let flag = form.parsed("Attachment.DeleteOnTermination")?;
            Some((id, flag.ok_or_else(|| missing("Attachment.DeleteOnTermination"))?))
        }
    };
    let groups = form.list("SecurityGroupId");
    Ok(Op::ModifyNetworkInterfaceAttribute {
        eni: form.need("NetworkInterfaceId")?,
        attachment,
        groups: (!groups.is_empty()).then_some(groups),
    })
}

fn missing(key: &str) -> Refusal {
    Refusal::new("MissingParameter", format!("The request must contain the parameter {key}"))
}
