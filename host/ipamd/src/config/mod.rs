//! The configuration: read once from the environment, checked as a whole, typed. Nobody reads the environment after.
//!
//! | module | what |
//! |---|---|
//! | [`table`], [`variable`], [`docs`] | every variable of spec 05 §16 and ours, and the page made of it |
//! | [`parse`], [`values`] | one value |
//! | `read`, [`environment`] | one variable, with what is used instead of a bad value |
//! | `rules`, `tags`, [`instance`] | several variables; what the instance type allows |
//! | [`report`] | everything that was wrong, together |
//! | [`settings`] | what introspection shows of it |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reservoir_core::ip::Ipv4Net;
use reservoir_core::policy::Targets;
use reservoir_policy::Digest;

pub mod docs;
pub mod environment;
pub mod instance;
pub mod max_pods;
pub mod parse;
mod read;
pub mod report;
mod rules;
pub mod settings;
pub mod table;
mod tags;
pub mod values;
pub mod variable;

pub use environment::Environment;
pub use instance::Effective;
pub use report::{Level, Problem, Report};
pub use values::{EnforcingMode, HostNetwork, Listen, LogLevel, LogTo, RandomizeSnat};

use parse::Expected;
use read::Reader;

/// Everything the daemon is told by its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub pool: Pool,
    pub modes: Modes,
    pub provisioning: Provisioning,
    pub datapath: Datapath,
    pub plugins: Plugins,
    pub identity: Identity,
    pub logging: Logging,
    /// None = switched off.
    pub introspection: Option<Listen>,
    /// None = switched off.
    pub metrics: Option<Listen>,
    pub reservoir: Reservoir,
}

/// How many addresses, as documented; the policy decides what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub warm_eni_target: u32,
    /// 0 = not defined.
    pub warm_ip_target: u32,
    /// 0 = not defined.
    pub minimum_ip_target: u32,
    pub warm_prefix_target: u32,
    /// None = the instance limit.
    pub max_eni: Option<u32>,
    /// Below 0 no address ever cools.
    pub ip_cooldown_seconds: i64,
}

/// Operating modes, as asked for (spec 01 §1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modes {
    pub ipv4: bool,
    pub ipv6: bool,
    pub prefix_delegation: bool,
    pub custom_networking: bool,
    pub pod_eni: bool,
    pub multi_nic: bool,
    pub v6_egress: bool,
    pub annotate_pod_ip: bool,
}

/// What may be asked of EC2, and how what is made is marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioning {
    /// Nothing is created, attached, detached, assigned or unassigned. On in IMDS-only mode too.
    pub disabled: bool,
    pub imds_only: bool,
    /// Also where provisioning is disabled and in IPv6 mode.
    pub leaked_eni_cleanup_disabled: bool,
    pub manage_non_schedulable: bool,
    pub manage_untagged_eni: bool,
    pub subnet_discovery: bool,
    /// Without those that EC2 would refuse, and without keys that are ours.
    pub additional_tags: BTreeMap<String, String>,
    /// Empty = unset.
    pub cluster_name: String,
    pub eni_config_annotation: String,
    pub eni_config_label: String,
    /// The checkpoint file.
    pub backing_store: PathBuf,
}

/// What the host's network is set up with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datapath {
    pub eni_mtu: u32,
    pub veth_prefix: String,
    pub external_snat: bool,
    pub randomize_snat: RandomizeSnat,
    pub exclude_snat_cidrs: Vec<Ipv4Net>,
    pub external_service_cidrs: Vec<Ipv4Net>,
    pub node_port_support: bool,
    /// Mark and mask.
    pub connmark: u32,
    pub pod_security_group_mode: EnforcingMode,
    /// `none`, `strict` or `standard` in the spelling given; None = the agent is not contacted.
    pub network_policy_mode: Option<String>,
    pub host_network: HostNetwork,
}

/// What the CNI plugins are told, through the network list ([`crate::conflist`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins {
    /// Of pods' interfaces.
    pub pod_mtu: u32,
    pub log_file: String,
    pub log_level: String,
    pub egress_v4_log_file: String,
    pub egress_v6_log_file: String,
    /// IPv4 egress; for IPv6 clusters only.
    pub v4_egress: bool,
    /// Chain the bandwidth plugin.
    pub bandwidth: bool,
    /// Chain the tuning plugin, which turns IPv6 off in pods.
    pub disable_pod_v6: bool,
}

/// Who we are, and how others are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Empty = unset.
    pub node_name: String,
    /// Empty = unset.
    pub pod_name: String,
    /// Empty = unset.
    pub cni_version: String,
    pub cluster_endpoint: Option<String>,
    pub http_timeout: Duration,
    /// `AWS_EC2_ENDPOINT`; wins over the SDK's own endpoint variables.
    pub ec2_endpoint: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    pub level: LogLevel,
    pub to: LogTo,
}

/// What only this implementation has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservoir {
    pub policy_dir: PathBuf,
    /// Of a policy that is asked and not obeyed.
    pub shadow_policy_dir: Option<PathBuf>,
    pub policy_pin: Option<Digest>,
    pub policy_cache: PolicyCache,
    /// gRPC for the plugin.
    pub socket: PathBuf,
    /// How long an ADD may wait for an address.
    pub add_wait: Duration,
}

/// Where compiled policies are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyCache {
    BesideCheckpoint,
    In(PathBuf),
    Off,
}

impl PolicyCache {
    /// The directory, if there is to be one.
    #[must_use]
    pub fn dir(&self, checkpoint: &Path) -> Option<PathBuf> {
        match self {
            Self::BesideCheckpoint => Some(checkpoint.with_file_name("policy-code")),
            Self::In(dir) => Some(dir.clone()),
            Self::Off => None,
        }
    }
}

impl Config {
    /// Reads and checks everything that needs no facts of the instance. The daemon must not start on a report that
    /// [is fatal](Report::is_fatal); the configuration then shows what was understood, for the log and for tests.
    #[must_use]
    pub fn read(environment: &Environment) -> (Self, Report) {
        let reader = Reader::new(environment);
        let config = Self::parse(&reader);
        rules::families(&config, &reader);
        rules::entrypoint(&config, &reader);
        rules::without_effect(&config, &reader);
        rules::not_yet(&reader);
        let (mut report, _) = reader.finish();
        environment.report_unknown(&mut report);
        (config, report)
    }

    /// The four documented targets, as the policy contract has them.
    #[must_use]
    pub fn targets(&self) -> Targets {
        Targets {
            warm_enis: self.pool.warm_eni_target,
            warm_ips: self.pool.warm_ip_target,
            warm_prefixes: self.pool.warm_prefix_target,
            minimum_ips: self.pool.minimum_ip_target,
        }
    }

    fn parse(r: &Reader<'_>) -> Self {
        let modes = Modes {
            ipv4: r.boolean("ENABLE_IPv4", false),
            ipv6: r.boolean("ENABLE_IPv6", false),
            prefix_delegation: r.boolean("ENABLE_PREFIX_DELEGATION", false),
            custom_networking: r.boolean("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", false),
            pod_eni: r.boolean("ENABLE_POD_ENI", false),
            multi_nic: r.boolean("ENABLE_MULTI_NIC", false),
            v6_egress: r.boolean("ENABLE_V6_EGRESS", false),
            annotate_pod_ip: r.boolean("ANNOTATE_POD_IP", false),
        };
        Self {
            pool: Pool {
                warm_eni_target: r.count("WARM_ENI_TARGET", 0, 1),
                warm_ip_target: r.count("WARM_IP_TARGET", 0, 0),
                minimum_ip_target: r.count("MINIMUM_IP_TARGET", 0, 0),
                warm_prefix_target: r.count("WARM_PREFIX_TARGET", 0, 0),
                max_eni: r.optional_count("MAX_ENI"),
                // What is wrong with it is told by `rules::entrypoint`.
                ip_cooldown_seconds: r.raw("IP_COOLDOWN_PERIOD").and_then(|v| parse::decimal(v).ok()).unwrap_or(30),
            },
            provisioning: provisioning(r, &modes),
            modes,
            datapath: datapath(r),
            plugins: plugins(r),
            identity: Identity {
                node_name: r.text("MY_NODE_NAME").unwrap_or_default().to_owned(),
                pod_name: r.text("MY_POD_NAME").unwrap_or_default().to_owned(),
                cni_version: r.text("VPC_CNI_VERSION").unwrap_or_default().to_owned(),
                cluster_endpoint: r.text("CLUSTER_ENDPOINT").map(str::to_owned),
                http_timeout: Duration::from_secs(r.count("HTTP_TIMEOUT", 10, 10).into()),
                ec2_endpoint: r.text("AWS_EC2_ENDPOINT").map(str::to_owned),
            },
            logging: Logging {
                level: r.soft("AWS_VPC_K8S_CNI_LOGLEVEL", LogLevel::Debug, LogLevel::parse),
                to: LogTo::parse(
                    r.text("AWS_VPC_K8S_CNI_LOG_FILE").unwrap_or("/host/var/log/aws-routed-eni/ipamd.log"),
                ),
            },
            introspection: {
                let off = r.boolean("DISABLE_INTROSPECTION", false);
                let default = Listen::Tcp { host: "127.0.0.1".into(), port: 61679 };
                let listen = r.soft("INTROSPECTION_BIND_ADDRESS", default, Listen::parse);
                (!off).then_some(listen)
            },
            metrics: {
                let off = r.boolean("DISABLE_METRICS", false);
                let default = Listen::Tcp { host: String::new(), port: 61678 };
                let listen = r.strict("RESERVOIR_METRICS_ADDRESS", default, Listen::parse);
                (!off).then_some(listen)
            },
            reservoir: Reservoir {
                policy_dir: r.text("RESERVOIR_POLICY_DIR").unwrap_or("/etc/reservoir/policy").into(),
                shadow_policy_dir: r.text("RESERVOIR_SHADOW_POLICY_DIR").map(Into::into),
                policy_pin: r.strict("RESERVOIR_POLICY_SHA256", None, |v| {
                    v.parse().map(Some).map_err(|_| Expected("a SHA-256: 64 hexadecimal digits".into()))
                }),
                policy_cache: match r.text("RESERVOIR_POLICY_CACHE_DIR") {
                    None => PolicyCache::BesideCheckpoint,
                    Some("off") => PolicyCache::Off,
                    Some(dir) => PolicyCache::In(dir.into()),
                },
                socket: r.text("RESERVOIR_IPAMD_SOCKET").unwrap_or("/var/run/aws-node/ipamd.sock").into(),
                add_wait: r.strict("RESERVOIR_ADD_WAIT_SECONDS", Duration::from_secs(30), |v| {
                    match parse::decimal(v) {
                        Ok(n @ 0..=60) => Ok(Duration::from_secs(n.unsigned_abs())),
                        _ => Err(Expected("a decimal integer from 0 to 60 (seconds)".into())),
                    }
                }),
            },
        }
    }
}

fn provisioning(r: &Reader<'_>, modes: &Modes) -> Provisioning {
    let imds_only = r.boolean("ENABLE_IMDS_ONLY_MODE", false);
    let disabled = r.boolean("DISABLE_NETWORK_RESOURCE_PROVISIONING", false) || imds_only;
    let cleanup_off = r.boolean("DISABLE_LEAKED_ENI_CLEANUP", false);
    let cluster_name = r.text("CLUSTER_NAME").unwrap_or_default().to_owned();
    let additional_tags = tags::additional(r, !cluster_name.is_empty());
    const ENI_CONFIG: &str = "k8s.amazonaws.com/eniConfig";
    Provisioning {
        disabled,
        imds_only,
        leaked_eni_cleanup_disabled: cleanup_off || disabled || modes.ipv6,
        manage_non_schedulable: r.boolean("AWS_MANAGE_ENIS_NON_SCHEDULABLE", false),
        manage_untagged_eni: r.boolean("MANAGE_UNTAGGED_ENI", true),
        subnet_discovery: r.boolean("ENABLE_SUBNET_DISCOVERY", true),
        additional_tags,
        cluster_name,
        eni_config_annotation: r.text("ENI_CONFIG_ANNOTATION_DEF").unwrap_or(ENI_CONFIG).to_owned(),
        eni_config_label: r.text("ENI_CONFIG_LABEL_DEF").unwrap_or(ENI_CONFIG).to_owned(),
        backing_store: r.text("AWS_VPC_K8S_CNI_BACKING_STORE").unwrap_or("/var/run/aws-node/ipam.json").into(),
    }
}

/// What is wrong with it is told by `rules::entrypoint`.
fn mtu(r: &Reader<'_>, name: &'static str) -> Option<u32> {
    r.raw(name).and_then(|v| parse::decimal(v).ok()).and_then(|n| u32::try_from(n).ok())
}

fn plugins(r: &Reader<'_>) -> Plugins {
    let text = |name, default: &str| r.text(name).unwrap_or(default).to_owned();
    // Empty is no file, as the plugins' logger has it.
    let file = |name, default: &str| match r.raw(name) {
        Some("") => "stderr".to_owned(),
        other => other.unwrap_or(default).to_owned(),
    };
    Plugins {
        pod_mtu: mtu(r, "POD_MTU").or_else(|| mtu(r, "AWS_VPC_ENI_MTU")).unwrap_or(9001),
        log_file: file("AWS_VPC_K8S_PLUGIN_LOG_FILE", "/var/log/aws-routed-eni/plugin.log"),
        log_level: text("AWS_VPC_K8S_PLUGIN_LOG_LEVEL", "Debug"),
        egress_v4_log_file: file(
            "AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE",
            "/var/log/aws-routed-eni/egress-v4-plugin.log",
        ),
        egress_v6_log_file: file(
            "AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE",
            "/var/log/aws-routed-eni/egress-v6-plugin.log",
        ),
        v4_egress: r.boolean("ENABLE_V4_EGRESS", true),
        bandwidth: r.boolean("ENABLE_BANDWIDTH_PLUGIN", false),
        disable_pod_v6: r.boolean("DISABLE_POD_V6", false),
    }
}

fn datapath(r: &Reader<'_>) -> Datapath {
    Datapath {
        eni_mtu: mtu(r, "AWS_VPC_ENI_MTU").unwrap_or(9001),
        veth_prefix: r.text("AWS_VPC_K8S_CNI_VETHPREFIX").unwrap_or("eni").to_owned(),
        external_snat: r.boolean("AWS_VPC_K8S_CNI_EXTERNALSNAT", false),
        randomize_snat: r.soft("AWS_VPC_K8S_CNI_RANDOMIZESNAT", RandomizeSnat::Prng, RandomizeSnat::parse),
        exclude_snat_cidrs: r.cidrs("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"),
        external_service_cidrs: r.cidrs("AWS_EXTERNAL_SERVICE_CIDRS"),
        node_port_support: r.boolean("AWS_VPC_CNI_NODE_PORT_SUPPORT", true),
        connmark: r.soft("AWS_VPC_K8S_CNI_CONNMARK", 0x80, parse::auto_base),
        pod_security_group_mode: match r.raw("POD_SECURITY_GROUP_ENFORCING_MODE") {
            Some("standard") => EnforcingMode::Standard,
            _ => EnforcingMode::Strict,
        },
        network_policy_mode: r.raw("NETWORK_POLICY_ENFORCING_MODE").map(|value| {
            if !["none", "strict", "standard"].iter().any(|m| m.eq_ignore_ascii_case(value)) {
                let message = "not none, strict or standard; correct or remove it";
                r.fatal("NETWORK_POLICY_ENFORCING_MODE", Some(value), message);
            }
            value.to_owned()
        }),
        host_network: r.strict("RESERVOIR_HOST_NETWORK", HostNetwork::Kernel, HostNetwork::parse),
    }
}

#[cfg(test)]
mod tests;
