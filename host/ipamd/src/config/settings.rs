//! What the two settings endpoints of introspection show (spec 02 §8.4): values as parsed, keys sorted, compact.

use serde_json::{Value, json};

use reservoir_core::ip::Ipv4Net;

use super::Config;

/// `/v1/networkutils-env-settings`.
#[must_use]
pub fn networkutils(config: &Config) -> String {
    let d = &config.datapath;
    json!({
        "AWS_EXTERNAL_SERVICE_CIDRS": cidrs(&d.external_service_cidrs),
        "AWS_VPC_CNI_NODE_PORT_SUPPORT": d.node_port_support,
        "AWS_VPC_ENI_MTU": d.eni_mtu,
        "AWS_VPC_K8S_CNI_CONNMARK": d.connmark,
        "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": cidrs(&d.exclude_snat_cidrs),
        "AWS_VPC_K8S_CNI_EXTERNALSNAT": d.external_snat,
        "AWS_VPC_K8S_CNI_RANDOMIZESNAT": d.randomize_snat as u8,
        "AWS_VPC_K8S_CNI_VETHPREFIX": d.veth_prefix,
    })
    .to_string()
}

/// `/v1/ipamd-env-settings`.
#[must_use]
pub fn ipamd(config: &Config) -> String {
    json!({
        "AWS_MANAGE_ENIS_NON_SCHEDULABLE": config.provisioning.manage_non_schedulable,
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": config.modes.custom_networking,
        "ENABLE_SUBNET_DISCOVERY": config.provisioning.subnet_discovery,
        "WARM_ENI_TARGET": config.pool.warm_eni_target,
        "WARM_IP_TARGET": config.pool.warm_ip_target,
    })
    .to_string()
}

/// An array of strings, or null where there is none.
fn cidrs(nets: &[Ipv4Net]) -> Value {
    if nets.is_empty() { Value::Null } else { nets.iter().map(ToString::to_string).collect() }
}
