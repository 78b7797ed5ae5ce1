//! What the reference has and this release has not: the one place that says so at start.

use super::Config;
use super::read::Reader;

/// A mode that is asked for and not built.
struct Missing {
    variable: &'static str,
    wanted: fn(&Config) -> bool,
    /// Whether pods would not get what the variable promises to keep them apart or connected.
    refuse: bool,
    message: &'static str,
}

/// Prefix delegation is not here: whether it is really asked for depends on the instance type (`instance.rs`).
const MISSING: &[Missing] = &[
    Missing {
        variable: "ENABLE_IPv6",
        wanted: |c| c.modes.ipv6,
        refuse: true,
        message: "IPv6 mode is not in this release; run this node with ENABLE_IPv4=true",
    },
    Missing {
        variable: "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG",
        wanted: |c| c.modes.custom_networking,
        refuse: true,
        message: "custom networking (ENIConfig) is not in this release; set it to false",
    },
    Missing {
        variable: "ENABLE_POD_ENI",
        wanted: |c| c.modes.pod_eni,
        refuse: true,
        message: "security groups for pods are not in this release; set it to false",
    },
    Missing {
        variable: "ENABLE_MULTI_NIC",
        wanted: |c| c.modes.multi_nic,
        refuse: true,
        message: "several network cards are not in this release; set it to false",
    },
    Missing {
        variable: "ENABLE_V6_EGRESS",
        wanted: |c| c.modes.v6_egress,
        refuse: false,
        message: "IPv6 egress is not in this release; pods get IPv4 only",
    },
    Missing {
        variable: "ANNOTATE_POD_IP",
        wanted: |c| c.modes.annotate_pod_ip,
        refuse: false,
        message: "the Kubernetes API is not used in this release; pods are not annotated",
    },
    Missing {
        variable: "AWS_MANAGE_ENIS_NON_SCHEDULABLE",
        wanted: |c| c.provisioning.manage_non_schedulable,
        refuse: false,
        message: "the Kubernetes API is not used in this release; every node counts as schedulable, so ENIs are managed anyway",
    },
    Missing {
        variable: "CLUSTER_ENDPOINT",
        wanted: |c| c.identity.cluster_endpoint.is_some(),
        refuse: false,
        message: "the Kubernetes API is not used in this release; the address is ignored",
    },
    Missing {
        variable: "NETWORK_POLICY_ENFORCING_MODE",
        wanted: |c| c.datapath.network_policy_mode.as_deref().is_some_and(|m| !m.eq_ignore_ascii_case("none")),
        refuse: false,
        message: "network policies are not enforced in this release",
    },
];

/// Told at start where prefix delegation is asked for and the instance type has it.
pub(super) const PREFIX_DELEGATION: &str = "prefix delegation is not in this release; set it to false";

pub(super) fn check(config: &Config, reader: &Reader<'_>) {
    for missing in MISSING.iter().filter(|m| (m.wanted)(config)) {
        let value = reader.environment().get(missing.variable);
        if missing.refuse {
            reader.unsupported(missing.variable, value, missing.message);
        } else {
            reader.warn(missing.variable, value, missing.message);
        }
    }
}
