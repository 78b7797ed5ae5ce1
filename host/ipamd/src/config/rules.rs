//! Rules over several variables, and those that the container's entrypoint enforces before the daemon starts
//! (spec 05 §6.2, §16.5). Until there is an entrypoint of its own the daemon enforces them.

use super::Config;
use super::parse;
use super::read::Reader;
use super::table::VARIABLES;
use super::variable::Here;

/// Exactly one family; IPv6 needs prefix delegation and excludes custom networking (spec 01 §1.4).
pub(super) fn families(config: &Config, reader: &Reader<'_>) {
    const BOTH: &str = "ENABLE_IPv4, ENABLE_IPv6";
    let modes = &config.modes;
    match (modes.ipv4, modes.ipv6) {
        (true, true) => reader.fatal(BOTH, None, "both are true; exactly one address family must be on"),
        (false, false) => reader.fatal(
            BOTH,
            None,
            "neither is true (both default to false); exactly one address family must be on, set ENABLE_IPv4=true",
        ),
        (false, true) => {
            if modes.custom_networking {
                let message = "cannot be used with AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true";
                reader.fatal("ENABLE_IPv6", Some("true"), message);
            }
            if !modes.prefix_delegation {
                reader.fatal("ENABLE_IPv6", Some("true"), "needs ENABLE_PREFIX_DELEGATION=true");
            }
        }
        (true, false) => {}
    }
}

/// Spec 05 §6.2, all rules at once, with the better answers of W-4 and W-18.
pub(super) fn entrypoint(config: &Config, reader: &Reader<'_>) {
    for name in [
        "AWS_VPC_K8S_PLUGIN_LOG_FILE",
        "AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE",
        "AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE",
    ] {
        if let Some(value) = reader.raw(name).filter(|v| v.eq_ignore_ascii_case("stdout")) {
            reader.fatal(
                name,
                Some(value),
                "a CNI plugin's result goes to stdout, its log cannot; use a file or stderr",
            );
        }
    }

    let prefix = &config.datapath.veth_prefix;
    if prefix.len() > 4 {
        let message = format!("{} bytes long; at most 4 are allowed", prefix.len());
        reader.fatal("AWS_VPC_K8S_CNI_VETHPREFIX", Some(prefix), message);
    } else if ["eth", "lo", "vlan"].contains(&prefix.as_str()) {
        reader.fatal("AWS_VPC_K8S_CNI_VETHPREFIX", Some(prefix), "eth, lo and vlan are reserved; use another prefix");
    } else if prefix.bytes().any(|b| !b.is_ascii_alphanumeric() && b != b'-' && b != b'_') {
        let message = "may hold only letters, digits, - and _ (it becomes part of an interface name)";
        reader.fatal("AWS_VPC_K8S_CNI_VETHPREFIX", Some(prefix), message);
    }

    if config.modes.pod_eni
        && let Some(value) =
            reader.raw("POD_SECURITY_GROUP_ENFORCING_MODE").filter(|v| !["strict", "standard"].contains(v))
    {
        let message = "must be strict or standard while ENABLE_POD_ENI is true";
        reader.fatal("POD_SECURITY_GROUP_ENFORCING_MODE", Some(value), message);
    }

    if let Some(value) = reader.raw("IP_COOLDOWN_PERIOD")
        && !matches!(parse::decimal(value), Ok(0..))
    {
        reader.fatal(
            "IP_COOLDOWN_PERIOD",
            Some(value),
            "not a decimal integer of at least 0 (seconds); correct or remove it",
        );
    }

    let lowest = if config.modes.ipv6 { 1280 } else { 576 };
    for name in ["AWS_VPC_ENI_MTU", "POD_MTU"] {
        if let Some(value) = reader.raw(name)
            && !parse::decimal(value).is_ok_and(|mtu| (lowest..=9001).contains(&mtu))
        {
            reader.fatal(
                name,
                Some(value),
                format!("not a decimal integer from {lowest} to 9001; correct or remove it"),
            );
        }
    }
    if let Some(value) = reader.raw("POD_MTU")
        && let Ok(mtu) = parse::decimal(value)
        && mtu > i64::from(config.datapath.eni_mtu)
    {
        let message =
            format!("larger than AWS_VPC_ENI_MTU ({}); packets of pods would not fit", config.datapath.eni_mtu);
        reader.fatal("POD_MTU", Some(value), message);
    }

    let pool = &config.pool;
    if config.modes.prefix_delegation
        && pool.warm_ip_target == 0
        && pool.minimum_ip_target == 0
        && pool.warm_prefix_target == 0
    {
        let message = "needs one of WARM_PREFIX_TARGET, WARM_IP_TARGET and MINIMUM_IP_TARGET above 0";
        reader.fatal("ENABLE_PREFIX_DELEGATION", Some("true"), message);
    }
}

/// Set, and without effect until what reads it is there. Those of the metrics helper are another program's.
pub(super) fn not_yet(reader: &Reader<'_>) {
    for variable in VARIABLES.iter().filter(|v| !v.readers.contains('M')) {
        if let Here::Later(meanwhile) = variable.here
            && let Some(value) =
                reader.environment().get(variable.name).filter(|value| !value.is_empty() && *value != variable.default)
        {
            reader.warn(variable.name, Some(value), format!("without effect: {meanwhile}"));
        }
    }
}

/// Settings that have no effect beside others; nothing is refused (spec 05 §16.5).
pub(super) fn without_effect(config: &Config, reader: &Reader<'_>) {
    let datapath = &config.datapath;
    if datapath.external_snat && !datapath.exclude_snat_cidrs.is_empty() {
        reader.warn(
            "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS",
            reader.environment().get("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"),
            "without effect while AWS_VPC_K8S_CNI_EXTERNALSNAT is true",
        );
    }
    if config.pool.ip_cooldown_seconds < 0 {
        reader.warn("IP_COOLDOWN_PERIOD", reader.environment().get("IP_COOLDOWN_PERIOD"), "negative: no address cools");
    }
}
