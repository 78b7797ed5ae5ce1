//! What the host asks of EC2 and of the instance metadata service, as plain data.
//!
//! One [`Request`] is one API call, nothing more: chains of calls (create, attach, modify) belong to the pool manager,
//! so that the real cloud, the simulated one and a test's fake all answer the same small questions (spec 03 §6.1).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ip::{IpNet, Ipv4Net};
use crate::policy::{Family, Unit};

/// Under this name the time of every read of IMDS is recorded, by the key (spec 03 §12.1, W-22).
pub const METADATA_LATENCY: &str = "GetMetadata";
/// The same for the wait from EC2's answer to an attachment until the new interface can be used (spec 03 §7.7).
pub const ATTACHED_LATENCY: &str = "waitForENIAndIPsAttached";

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// IMDS: the facts of spec 03 §4. Answer: [`Answer::Instance`].
    Instance,
    /// IMDS: all attached interfaces, spec 03 §5. Answer: [`Answer::Attached`].
    AttachedInterfaces,
    /// IMDS: security groups of the primary interface, spec 03 §3 row 15. Answer: [`Answer::SecurityGroups`].
    PrimarySecurityGroups { mac: String },
    /// IMDS: the VPC's blocks of one family, spec 03 §3. Answer: [`Answer::VpcCidrs`].
    VpcCidrs { mac: String, family: Family },
    /// `DescribeNetworkInterfaces` by id. Answer: [`Answer::Interfaces`].
    DescribeNetworkInterfaces { ids: Vec<String> },
    /// `DescribeNetworkInterfaces` by filter: tag `node.k8s.amazonaws.com/instance_id` = `instance` and status
    /// `available`, all pages: what a crash between create and attach left behind. Answer: [`Answer::Interfaces`].
    DescribeDetachedInterfaces { instance: String },
    /// `DescribeNetworkInterfaces` by filter: in this VPC, with a tag `node.k8s.amazonaws.com/instance_id` of whatever value,
    /// status `available`, and unless `cluster` is empty the tag `cluster.k8s.amazonaws.com/name` with it; all pages (spec
    /// 03 §7.10). Answer: [`Answer::Interfaces`].
    DescribeAbandonedInterfaces { vpc: String, cluster: String },
    /// `DescribeInstances` by filter: those of `ids` that are there and not terminated. Answer: [`Answer::Instances`].
    DescribeLivingInstances { ids: Vec<String> },
    /// `DescribeInstances` of this instance, for used device indexes. Answer: [`Answer::Devices`].
    DescribeInstance { instance: String },
    /// `DescribeSubnets` of one VPC and availability zone. Answer: [`Answer::Subnets`].
    DescribeSubnets { vpc: String, availability_zone: String },
    /// `DescribeInstanceTypes`. Answer: [`Answer::InstanceType`].
    DescribeInstanceType { instance_type: String },
    /// `CreateNetworkInterface`. Answer: [`Answer::Interfaces`] with the one made.
    CreateNetworkInterface(CreateInterface),
    /// `AttachNetworkInterface`. Answer: [`Answer::Attachment`].
    AttachNetworkInterface { eni: String, instance: String, device_index: u32, card: u32 },
    /// `ModifyNetworkInterfaceAttribute`, attachment: delete on termination. Answer: [`Answer::Done`].
    SetDeleteOnTermination { eni: String, attachment: String },
    /// `ModifyNetworkInterfaceAttribute`, groups. Answer: [`Answer::Done`].
    SetSecurityGroups { eni: String, groups: Vec<String> },
    /// `DetachNetworkInterface`. Answer: [`Answer::Done`].
    DetachNetworkInterface { attachment: String },
    /// `DeleteNetworkInterface`. Answer: [`Answer::Done`].
    DeleteNetworkInterface { eni: String },
    /// `AssignPrivateIpAddresses`. Answer: [`Answer::Assigned`], only what is new.
    AssignPrivateIpAddresses { eni: String, unit: Unit, count: u32 },
    /// `UnassignPrivateIpAddresses`; a list may be empty, not both. Answer: [`Answer::Done`].
    UnassignPrivateIpAddresses { eni: String, addresses: Vec<Ipv4Addr>, prefixes: Vec<Ipv4Net> },
    /// `AssignIpv6Addresses` with a prefix count of 1 (spec 03 §7.12). Answer: [`Answer::Ipv6Prefixes`].
    AssignIpv6Prefix { eni: String },
    /// `UnassignIpv6Addresses`. Answer: [`Answer::Done`].
    UnassignIpv6Prefixes { eni: String, prefixes: Vec<IpNet> },
    /// `CreateTags` on one resource, tags sorted by key. Answer: [`Answer::Done`].
    CreateTags { resource: String, tags: Vec<(String, String)> },
}

impl Request {
    /// EC2's name of the call, or the reference's name of the IMDS read; used as the `api` label of metrics.
    #[must_use]
    pub fn api(&self) -> &'static str {
        match self {
            Self::Instance => "GetInstance",
            Self::AttachedInterfaces => "GetAttachedENIs",
            Self::PrimarySecurityGroups { .. } => "GetSecurityGroupIDs",
            Self::VpcCidrs { family: Family::Ipv4, .. } => "GetVPCIPv4CIDRBlocks",
            Self::VpcCidrs { family: Family::Ipv6, .. } => "GetVPCIPv6CIDRBlocks",
            Self::DescribeNetworkInterfaces { .. }
            | Self::DescribeDetachedInterfaces { .. }
            | Self::DescribeAbandonedInterfaces { .. } => "DescribeNetworkInterfaces",
            Self::DescribeInstance { .. } | Self::DescribeLivingInstances { .. } => "DescribeInstances",
            Self::DescribeSubnets { .. } => "DescribeSubnets",
            Self::DescribeInstanceType { .. } => "DescribeInstanceTypes",
            Self::CreateNetworkInterface(_) => "CreateNetworkInterface",
            Self::AttachNetworkInterface { .. } => "AttachNetworkInterface",
            Self::SetDeleteOnTermination { .. } | Self::SetSecurityGroups { .. } => "ModifyNetworkInterfaceAttribute",
            Self::DetachNetworkInterface { .. } => "DetachNetworkInterface",
            Self::DeleteNetworkInterface { .. } => "DeleteNetworkInterface",
            Self::AssignPrivateIpAddresses { .. } => "AssignPrivateIpAddresses",
            Self::UnassignPrivateIpAddresses { .. } => "UnassignPrivateIpAddresses",
            Self::AssignIpv6Prefix { .. } => "AssignIpv6Addresses",
            Self::UnassignIpv6Prefixes { .. } => "UnassignIpv6Addresses",
            Self::CreateTags { .. } => "CreateTags",
        }
    }

    /// The `api` label of `awscni_aws_api_latency_ms`: the call's name, but for one that the reference spells differently
    /// there (spec 02 W26), and for reads of IMDS, which share one.
    #[must_use]
    pub fn latency_label(&self) -> &'static str {
        match self {
            Self::AssignIpv6Prefix { .. } => "AssignIpv6AddressesWithContext",
            _ if self.is_ec2() => self.api(),
            _ => METADATA_LATENCY,
        }
    }

    /// Whether it goes to EC2 (and counts against its budget), not to IMDS.
    #[must_use]
    pub fn is_ec2(&self) -> bool {
        !matches!(
            self,
            Self::Instance | Self::AttachedInterfaces | Self::PrimarySecurityGroups { .. } | Self::VpcCidrs { .. }
        )
    }
}

/// A new interface (spec 03 §7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateInterface {
    pub subnet: String,
    /// `aws-K8S-<instance id>`.
    pub description: String,
    pub security_groups: Vec<String>,
    /// Sorted by key.
    pub tags: Vec<(String, String)>,
    /// What it comes with beside its primary address.
    pub unit: Unit,
    /// Of the unit; 0 in IPv6 mode.
    pub count: u32,
    /// `Ipv6AddressCount`: 1 in IPv6 mode, 0 otherwise.
    pub ipv6_addresses: u32,
    /// Copied from the primary interface where it has any.
    pub connection_tracking: Option<ConnectionTracking>,
    /// EC2's idempotency token: fresh for each distinct request (spec 03 W-9).
    pub client_token: String,
}

/// Time-outs in seconds; a field not set is EC2's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionTracking {
    pub tcp_established: Option<u32>,
    pub udp_stream: Option<u32>,
    pub udp: Option<u32>,
}

/// The answer to a [`Request`]; which one belongs to which stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    Instance(Instance),
    Attached(Vec<AttachedInterface>),
    SecurityGroups(Vec<String>),
    VpcCidrs(Vec<IpNet>),
    Interfaces(Vec<Interface>),
    Devices(Vec<Device>),
    /// Their ids.
    Instances(Vec<String>),
    Subnets(Vec<SubnetFacts>),
    InstanceType(crate::limits::InstanceLimits),
    Attachment {
        id: String,
    },
    Assigned {
        addresses: Vec<Ipv4Addr>,
        prefixes: Vec<Ipv4Net>,
    },
    Ipv6Prefixes(Vec<IpNet>),
}

/// What never changes for the life of the process (spec 03 §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub region: String,
    pub availability_zone: String,
    pub local_ipv4: Ipv4Addr,
    /// The instance's own IPv6 address, where it has one.
    pub local_ipv6: Option<Ipv6Addr>,
    pub instance_id: String,
    pub instance_type: String,
    pub mac: String,
    pub primary_eni: String,
    pub subnet: String,
    pub vpc: String,
}

/// One attached interface as IMDS tells it (spec 03 §5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedInterface {
    pub eni: String,
    pub mac: String,
    pub device_index: u32,
    pub card: u32,
    pub subnet: String,
    /// None for an interface without IPv4 (EFA-only).
    pub subnet_cidr: Option<Ipv4Net>,
    /// The interface's own address.
    pub primary: Option<Ipv4Addr>,
    pub secondary: Vec<Ipv4Addr>,
    pub prefixes: Vec<Ipv4Net>,
    /// Of the subnet; None where it has none.
    pub subnet_ipv6_cidr: Option<IpNet>,
    /// The interface's own IPv6 addresses, the first one first.
    pub ipv6: Vec<Ipv6Addr>,
    pub ipv6_prefixes: Vec<IpNet>,
}

/// One interface as EC2 tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub eni: String,
    pub mac: String,
    pub subnet: String,
    /// `interface`, `trunk`, `efa`, `efa-only`, …
    pub interface_type: String,
    pub description: String,
    pub status: String,
    pub tags: Vec<(String, String)>,
    pub security_groups: Vec<String>,
    pub primary: Option<Ipv4Addr>,
    pub secondary: Vec<Ipv4Addr>,
    pub prefixes: Vec<Ipv4Net>,
    pub ipv6: Vec<Ipv6Addr>,
    pub ipv6_prefixes: Vec<IpNet>,
    pub attachment: Option<InterfaceAttachment>,
    pub connection_tracking: Option<ConnectionTracking>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAttachment {
    pub id: String,
    pub device_index: u32,
    pub card: u32,
    pub delete_on_termination: bool,
    /// `attaching`, `attached`, `detaching`, `detached`.
    pub status: String,
}

/// A device index in use on the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub eni: String,
    pub device_index: u32,
    pub card: u32,
}

/// One subnet as `DescribeSubnets` tells it, in EC2's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetFacts {
    pub id: String,
    pub cidr: Option<Ipv4Net>,
    pub ipv6_cidr: Option<IpNet>,
    pub free_ips: u32,
    /// Sorted by key.
    pub tags: Vec<(String, String)>,
}

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudError {
    pub api: &'static str,
    pub kind: ErrorKind,
    /// EC2's error code, or empty where there was no answer.
    pub code: String,
    pub message: String,
}

/// What a caller can decide upon (spec 03 §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// `InsufficientFreeAddressesInSubnet`.
    NoFreeAddress,
    /// `InsufficientCidrBlocks`: the subnet has no free /28.
    NoFreePrefix,
    /// `PrivateIpAddressLimitExceeded`: the interface holds more than we knew.
    AddressLimit,
    /// `AttachmentLimitExceeded`, `NetworkInterfaceLimitExceeded`.
    InterfaceLimit,
    /// `…NotFound`.
    NotFound,
    /// `InvalidParameterValue … is currently in use`, or a device index taken meanwhile.
    InUse,
    /// `RequestLimitExceeded` and its kin (spec 03 §1.4).
    Throttled,
    /// `UnauthorizedOperation`.
    Unauthorized,
    /// No answer: connection, time-out, 5xx. The call may have had its effect.
    Unknown,
    /// No subnet may have a new interface: nothing was asked of EC2 (spec 01 §6.3).
    NoSubnet,
    /// Any other refusal.
    Refused,
}

impl ErrorKind {
    /// From EC2's error code. `message` is looked at for nothing but "currently in use".
    #[must_use]
    pub fn from_code(code: &str, message: &str) -> Self {
        match code {
            "InsufficientFreeAddressesInSubnet" => Self::NoFreeAddress,
            "InsufficientCidrBlocks" => Self::NoFreePrefix,
            "PrivateIpAddressLimitExceeded" => Self::AddressLimit,
            "AttachmentLimitExceeded" | "NetworkInterfaceLimitExceeded" => Self::InterfaceLimit,
            "UnauthorizedOperation" => Self::Unauthorized,
            "InvalidParameterValue" if message.contains("currently in use") || message.contains("already in use") => {
                Self::InUse
            }
            "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestThrottledException"
            | "TooManyRequestsException"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "BandwidthLimitExceeded"
            | "LimitExceededException"
            | "RequestThrottled"
            | "SlowDown"
            | "PriorRequestNotComplete"
            | "EC2ThrottledException" => Self::Throttled,
            "InternalError"
            | "InternalFailure"
            | "ServiceUnavailable"
            | "Unavailable"
            | "RequestTimeout"
            | "RequestTimeoutException"
            | "" => Self::Unknown,
            _ if code.ends_with(".NotFound") => Self::NotFound,
            _ => Self::Refused,
        }
    }

    /// The subnet has nothing of the kind asked for.
    #[must_use]
    pub fn is_exhausted(self) -> bool {
        matches!(self, Self::NoFreeAddress | Self::NoFreePrefix)
    }
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code.is_empty() {
            write!(f, "{}: {}", self.api, self.message)
        } else {
            write!(f, "{}: {}: {}", self.api, self.code, self.message)
        }
    }
}

impl std::error::Error for CloudError {}
