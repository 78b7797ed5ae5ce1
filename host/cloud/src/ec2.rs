//! EC2: the client, and each request as one SDK call with exactly the parameters of spec 03 §6.1.

mod answer;
mod client;
mod error;
pub(crate) mod retry;
#[cfg(test)]
mod tests;

use std::time::Instant;

use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::types::{
    ConnectionTrackingSpecificationRequest, Filter, InstanceType, NetworkInterfaceAttachmentChanges, ResourceType, Tag,
    TagSpecification,
};
use reservoir_core::cloud::{Answer, CloudError, CreateInterface, ErrorKind, Request};
use reservoir_core::policy::Unit;

pub(crate) use client::Ec2;
use error::{Failed, refused};

use crate::metrics;

/// The largest page EC2 gives.
const PAGE: i32 = 1000;
/// What every interface of ours carries (spec 03 §7.8).
const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";
/// And with CLUSTER_NAME.
const CLUSTER_TAG: &str = "tag:cluster.k8s.amazonaws.com/name";
/// States of an instance that may attach an interface, now or later.
const LIVING: [&str; 5] = ["pending", "running", "shutting-down", "stopping", "stopped"];

/// The SDK does not repeat such a call by itself.
fn once() -> aws_sdk_ec2::config::Builder {
    aws_sdk_ec2::config::Builder::new().retry_config(RetryConfig::disabled())
}

impl Ec2 {
    /// One call, counted and timed.
    pub(crate) async fn call(&self, request: Request) -> Result<Answer, CloudError> {
        if let Some(answer) = without_a_call(&request) {
            return answer;
        }
        let (api, label) = (request.api(), request.latency_label());
        let expected_absence = absence_is_an_answer(&request);
        let out_of_sync = shows_stale_metadata(&request);
        metrics::ec2_request(api);
        let start = Instant::now();
        let result = self.send(request).await.map_err(|failed| failed.of(api));
        metrics::latency(label, start.elapsed(), result.as_ref().err().map(|e| e.code.as_str()));
        if let Err(error) = &result {
            tracing::debug!(%error, kind = ?error.kind, "EC2 call failed");
            if !(expected_absence && error.kind == ErrorKind::NotFound) {
                metrics::ec2_error(api);
                if !error.code.is_empty() {
                    metrics::api_error(api, &error.code);
                }
            }
            if out_of_sync && error.kind == ErrorKind::NotFound {
                metrics::api_error("IMDSMetaDataOutOfSync", &error.code);
            }
        }
        result
    }

    async fn send(&self, request: Request) -> Result<Answer, Failed> {
        let ec2 = &self.client;
        match request {
            Request::DescribeNetworkInterfaces { ids } => {
                let out = ec2.describe_network_interfaces().set_network_interface_ids(Some(ids)).send().await?;
                answer::interfaces(out.network_interfaces()).map(Answer::Interfaces)
            }
            Request::DescribeDetachedInterfaces { instance } => {
                let tag = format!("tag:{INSTANCE_TAG}");
                self.interfaces(vec![filter(&tag, instance), filter("status", "available")]).await
            }
            Request::DescribeAbandonedInterfaces { vpc, cluster } => {
                let mut filters =
                    vec![filter("tag-key", INSTANCE_TAG), filter("status", "available"), filter("vpc-id", vpc)];
                if !cluster.is_empty() {
                    filters.push(filter(CLUSTER_TAG, cluster));
                }
                self.interfaces(filters).await
            }
            Request::DescribeLivingInstances { ids } => {
                let instances = Filter::builder().name("instance-id").set_values(Some(ids)).build();
                let states = LIVING.map(str::to_owned).to_vec();
                let living = Filter::builder().name("instance-state-name").set_values(Some(states)).build();
                let call = ec2.describe_instances().filters(instances).filters(living);
                let mut pages = call.into_paginator().page_size(PAGE).send();
                let mut found = Vec::new();
                while let Some(page) = pages.next().await {
                    found.extend(answer::instances(page?.reservations()));
                }
                Ok(Answer::Instances(found))
            }
            Request::DescribeInstance { instance } => {
                let out = ec2.describe_instances().instance_ids(&instance).send().await?;
                answer::devices(&instance, out.reservations()).map(Answer::Devices)
            }
            Request::DescribeSubnets { vpc, availability_zone } => {
                let mut pages = ec2
                    .describe_subnets()
                    .filters(filter("vpc-id", vpc))
                    .filters(filter("availability-zone", availability_zone))
                    .into_paginator()
                    .send();
                let mut subnets = Vec::new();
                while let Some(page) = pages.next().await {
                    for subnet in page?.subnets() {
                        subnets.push(answer::subnet(subnet)?);
                    }
                }
                Ok(Answer::Subnets(subnets))
            }
            Request::DescribeInstanceType { instance_type } => {
                let name = InstanceType::from(instance_type.as_str());
                let out = ec2.describe_instance_types().instance_types(name).send().await?;
                answer::limits(&instance_type, out.instance_types()).map(Answer::InstanceType)
            }
            Request::CreateNetworkInterface(create) => self.create(create).await,
            Request::AttachNetworkInterface { eni, instance, device_index, card } => {
                let out = ec2
                    .attach_network_interface()
                    .network_interface_id(eni)
                    .instance_id(instance)
                    .device_index(number("device index", device_index)?)
                    .network_card_index(number("network card", card)?)
                    .send()
                    .await?;
                answer::required("attachmentId", out.attachment_id()).map(|id| Answer::Attachment { id })
            }
            Request::SetDeleteOnTermination { eni, attachment } => {
                let change = NetworkInterfaceAttachmentChanges::builder()
                    .attachment_id(attachment)
                    .delete_on_termination(true)
                    .build();
                ec2.modify_network_interface_attribute().network_interface_id(eni).attachment(change).send().await?;
                Ok(Answer::Done)
            }
            Request::SetSecurityGroups { eni, mut groups } => {
                groups.sort();
                ec2.modify_network_interface_attribute()
                    .network_interface_id(eni)
                    .set_groups(Some(groups))
                    .send()
                    .await?;
                Ok(Answer::Done)
            }
            Request::DetachNetworkInterface { attachment } => {
                ec2.detach_network_interface().attachment_id(attachment).send().await?;
                Ok(Answer::Done)
            }
            Request::DeleteNetworkInterface { eni } => {
                ec2.delete_network_interface().network_interface_id(eni).send().await?;
                Ok(Answer::Done)
            }
            Request::AssignPrivateIpAddresses { eni, unit, count } => {
                let count = number("count", count)?;
                let call = ec2.assign_private_ip_addresses().network_interface_id(eni);
                let call = match unit {
                    Unit::Ip => call.secondary_private_ip_address_count(count),
                    Unit::Prefix => call.ipv4_prefix_count(count),
                };
                // Without an idempotency token a repeated call would assign twice; the manager looks at what EC2 has.
                answer::assigned(&call.customize().config_override(once()).send().await?)
            }
            Request::UnassignPrivateIpAddresses { eni, addresses, prefixes } => {
                let texts = |items: Vec<String>| (!items.is_empty()).then_some(items);
                let call = ec2
                    .unassign_private_ip_addresses()
                    .network_interface_id(eni)
                    .set_private_ip_addresses(texts(addresses.iter().map(ToString::to_string).collect()))
                    .set_ipv4_prefixes(texts(prefixes.iter().map(ToString::to_string).collect()));
                // Repeated after a lost answer it would take what EC2 has given anew meanwhile; the manager repeats it
                // with what is still to go.
                call.customize().config_override(once()).send().await?;
                Ok(Answer::Done)
            }
            Request::AssignIpv6Prefix { eni } => {
                // As above: not repeated without being looked at.
                let call = ec2.assign_ipv6_addresses().network_interface_id(eni).ipv6_prefix_count(1);
                let out = call.customize().config_override(once()).send().await?;
                answer::ipv6_prefixes(out.assigned_ipv6_prefixes()).map(Answer::Ipv6Prefixes)
            }
            Request::UnassignIpv6Prefixes { eni, prefixes } => {
                let prefixes = prefixes.iter().map(ToString::to_string).collect();
                let call = ec2.unassign_ipv6_addresses().network_interface_id(eni).set_ipv6_prefixes(Some(prefixes));
                call.customize().config_override(once()).send().await?;
                Ok(Answer::Done)
            }
            Request::CreateTags { resource, tags } => {
                ec2.create_tags().resources(resource).set_tags(Some(sorted(tags))).send().await?;
                Ok(Answer::Done)
            }
            Request::Instance
            | Request::AttachedInterfaces
            | Request::PrimarySecurityGroups { .. }
            | Request::VpcCidrs { .. } => Err(refused("not a call of EC2".to_owned())),
        }
    }

    /// All pages.
    async fn interfaces(&self, filters: Vec<Filter>) -> Result<Answer, Failed> {
        let call = self.client.describe_network_interfaces().set_filters(Some(filters));
        let mut pages = call.into_paginator().page_size(PAGE).send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            found.extend(answer::interfaces(page?.network_interfaces())?);
        }
        Ok(Answer::Interfaces(found))
    }

    async fn create(&self, create: CreateInterface) -> Result<Answer, Failed> {
        let count = number("count", create.count)?;
        // EC2 refuses a count of 0; not to send it means the same.
        let (ips, prefixes) = match create.unit {
            _ if count == 0 => (None, None),
            Unit::Ip => (Some(count), None),
            Unit::Prefix => (None, Some(count)),
        };
        let ipv6 = (create.ipv6_addresses > 0).then(|| number("count", create.ipv6_addresses)).transpose()?;
        let tags = TagSpecification::builder()
            .resource_type(ResourceType::NetworkInterface)
            .set_tags(Some(sorted(create.tags)))
            .build();
        let tracking = create.connection_tracking.map(|t| {
            let timeout = |value: Option<u32>| value.map(|v| number("connection tracking time-out", v)).transpose();
            Ok::<_, Failed>(
                ConnectionTrackingSpecificationRequest::builder()
                    .set_tcp_established_timeout(timeout(t.tcp_established)?)
                    .set_udp_stream_timeout(timeout(t.udp_stream)?)
                    .set_udp_timeout(timeout(t.udp)?)
                    .build(),
            )
        });
        let out = self
            .client
            .create_network_interface()
            .subnet_id(create.subnet)
            .description(create.description)
            .set_groups(Some(create.security_groups))
            .tag_specifications(tags)
            .set_secondary_private_ip_address_count(ips)
            .set_ipv4_prefix_count(prefixes)
            .set_ipv6_address_count(ipv6)
            .set_connection_tracking_specification(tracking.transpose()?)
            .client_token(create.client_token)
            .send()
            .await?;
        answer::interfaces(out.network_interface.as_slice()).map(Answer::Interfaces)
    }
}

fn filter(name: &str, value: impl Into<String>) -> Filter {
    Filter::builder().name(name).values(value).build()
}

fn sorted(mut tags: Vec<(String, String)>) -> Vec<Tag> {
    tags.sort();
    tags.into_iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

/// EC2's numbers are signed.
fn number(what: &str, value: u32) -> Result<i32, Failed> {
    i32::try_from(value).map_err(|_| refused(format!("{what} {value} is beyond what EC2 takes")))
}

/// What EC2 need not, or must not, be asked.
fn without_a_call(request: &Request) -> Option<Result<Answer, CloudError>> {
    let refuse = |message: String| Some(Err(refused(message).of(request.api())));
    match request {
        // Without ids EC2 would answer with the whole account.
        Request::DescribeNetworkInterfaces { ids } if ids.is_empty() => Some(Ok(Answer::Interfaces(Vec::new()))),
        Request::DescribeLivingInstances { ids } if ids.is_empty() => Some(Ok(Answer::Instances(Vec::new()))),
        Request::UnassignPrivateIpAddresses { eni, addresses, prefixes }
            if addresses.is_empty() && prefixes.is_empty() =>
        {
            refuse(format!("neither an address nor a prefix to take from {eni}"))
        }
        Request::UnassignIpv6Prefixes { eni, prefixes } if prefixes.is_empty() => {
            refuse(format!("no prefix to take from {eni}"))
        }
        _ => None,
    }
}

/// Where "there is no such interface" is an answer, the reference does not count it as an error (spec 03 §12.1).
fn absence_is_an_answer(request: &Request) -> bool {
    match request {
        Request::DeleteNetworkInterface { .. } => true,
        Request::DescribeNetworkInterfaces { ids } => ids.len() == 1,
        _ => false,
    }
}

/// Where "there is no such interface" means that IMDS still lists one that EC2 has not (spec 03 §9).
fn shows_stale_metadata(request: &Request) -> bool {
    match request {
        Request::SetSecurityGroups { .. } => true,
        Request::DescribeNetworkInterfaces { ids } => ids.len() > 1,
        _ => false,
    }
}
