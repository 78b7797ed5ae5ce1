//! `env.json`, and the kinds of `warm-pool.json` that are about the environment: run through the daemon's configuration.

use reservoir_core::limits::{CardLimits, Hypervisor, InstanceLimits};
use reservoir_core::policy::{Targets, Unit};
use reservoir_ipamd::config::{Config, Environment, Level, Listen, LogLevel, LogTo, Report, max_pods, parse};
use reservoir_policy_default::sizing::ip_targets;
use serde_json::{Value, json};

use crate::{CaseResult, Outcome};

/// Known by its content: variables and parse classes.
pub(crate) fn run(file: &Value) -> Option<Vec<CaseResult>> {
    let classes = file.get("parse_classes")?.as_object()?;
    let variables = file.get("variables")?.as_array()?;
    let mut results = Vec::new();
    for (class, rule) in classes {
        for case in rule["cases"].as_array().into_iter().flatten() {
            results.push(class_case(class, case));
        }
    }
    for variable in variables {
        let cases = variable["cases"].as_array().map_or(&[][..], Vec::as_slice);
        results.extend(cases.iter().map(|case| variable_case(variable, case)));
        if cases.is_empty() {
            let unset = json!({"value": null, "result": variable["default"]});
            results.push(variable_case(variable, &unset));
        }
    }
    Some(results)
}

/// How one case of `warm-pool.json` went, if it is of one of our kinds.
pub(crate) fn warm_pool_case(case: &Value) -> Option<Result<Outcome, Outcome>> {
    let outcome = match case["kind"].as_str()? {
        "env" => variable(case),
        "env_derived" => derived(case),
        "config_valid" => {
            let supported = case["node"]["prefix_delegation_supported"].as_bool().unwrap_or(true);
            let expected = &case["expected"];
            Ok(Outcome::of(expected, config_valid(&environment(case), supported, expected)))
        }
        "max_pods_file" => max_pods_file(case),
        _ => return None,
    };
    Some(outcome)
}

fn environment(case: &Value) -> Environment {
    let pairs = case["config"].as_object().into_iter().flatten();
    pairs.filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))).collect()
}

fn variable(case: &Value) -> Result<Outcome, Outcome> {
    let name = case["expected"]["variable"].as_str().ok_or("expected names no variable")?;
    let (config, _) = Config::read(&environment(case));
    let got = value_of(&config, name).ok_or("expected names a variable that the daemon does not read")?;
    Ok(Outcome::of(&case["expected"]["value"], got))
}

fn derived(case: &Value) -> Result<Outcome, Outcome> {
    let (config, _) = Config::read(&environment(case));
    let got = match case["expected"]["name"].as_str().ok_or("expected has no name")? {
        "eni_provisioning_disabled" => json!(config.provisioning.disabled),
        "leaked_eni_cleanup_disabled" => json!(config.provisioning.leaked_eni_cleanup_disabled),
        "effective_max_enis" => {
            let number = |key: &str| case["limits"][key].as_u64().and_then(|n| u32::try_from(n).ok());
            let enis = number("max_enis").ok_or("limits has no max_enis")?;
            let slots = number("ips_per_eni").ok_or("limits has no ips_per_eni")?;
            json!(config.validate(&limits(enis, slots + 1, Hypervisor::Nitro)).0.max_enis)
        }
        "warm_ip_targets_defined" => {
            let Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips } = config.targets();
            let targets = reservoir_policy_sdk::Targets { warm_enis, warm_ips, warm_prefixes, minimum_ips };
            json!(ip_targets(&targets))
        }
        // Always defined in prefix mode (spec 01 §1.3), and never otherwise.
        "warm_prefix_target_defined" => json!(config.modes.prefix_delegation),
        name => return Ok(Outcome::Skipped(format!("no suite here knows the derived value {name:?}"))),
    };
    Ok(Outcome::of(&case["expected"]["value"], got))
}

fn max_pods_file(case: &Value) -> Result<Outcome, Outcome> {
    let content = case["state"]["content"].as_str().ok_or("state has no content")?;
    let instance = case["state"]["instance_type"].as_str().ok_or("state has no instance_type")?;
    let got = max_pods::of_file(content, instance).unwrap_or(max_pods::DEFAULT);
    Ok(Outcome::of(&case["expected"], json!({ "max_pods": got })))
}

/// The daemon's own check. What this release lacks is valid here, and so is a missing warm target with prefix
/// delegation, which the entrypoint refuses (spec 05 §6.2 rule 7).
fn config_valid(environment: &Environment, prefixes: bool, expected: &Value) -> Value {
    let (config, report) = Config::read(environment);
    let hypervisor = if prefixes { Hypervisor::Nitro } else { Hypervisor::Xen };
    let (effective, on_instance) = config.validate(&limits(4, 15, hypervisor));
    let invalid = |report: &Report| {
        let fatal = |p: &&_| matches!(p, reservoir_ipamd::config::Problem { level: Level::Fatal, .. });
        report.problems().iter().filter(fatal).any(|p| !p.message.contains("WARM_PREFIX_TARGET"))
    };
    let mut got = json!({"valid": !invalid(&report) && !invalid(&on_instance)});
    if expected.get("effective_prefix_delegation").is_some() {
        got["effective_prefix_delegation"] = json!(effective.unit == Unit::Prefix);
    }
    got
}

fn limits(enis: u32, ipv4_per_eni: u32, hypervisor: Hypervisor) -> InstanceLimits {
    let cards = vec![CardLimits { index: 0, max_enis: enis }];
    InstanceLimits { enis, ipv4_per_eni, default_card: 0, hypervisor, bare_metal: false, cards }
}

fn skipped(kind: &str, name: &str, reason: &str) -> CaseResult {
    CaseResult::new(kind, name, Outcome::Skipped(reason.to_owned()))
}

const EMPTY_IS_UNSET: &str = "an empty value is an unset one (better answer of W-17)";

/// One value by its class alone.
fn class_case(class: &str, case: &Value) -> CaseResult {
    let kind = format!("parse class {class}");
    let name = case["value"].to_string();
    let value = case["value"].as_str();
    let number =
        |n: Result<i64, _>, otherwise: &str| n.map_or_else(|_: parse::Expected| json!(otherwise), |n| json!(n));
    // Everywhere an empty value counts as unset.
    let got = match (class, value) {
        ("str-set-wins", Some("")) => return CaseResult::new(&kind, &name, empty_is_unset()),
        ("loglevel", value) => {
            json!(value.and_then(|v| LogLevel::parse(v).ok()).unwrap_or(LogLevel::Debug).to_string())
        }
        ("yesno", value) => value.and_then(parse::yes_no).map_or_else(|| json!("<unchanged>"), |on| json!(on)),
        ("int-positive-soft", None | Some("")) => json!("<ignored>"),
        ("int-validated", Some(v)) => number(parse::decimal(v), "<exit 1>"),
        (_, None | Some("")) => json!("<default>"),
        ("bool-strict" | "bool-lenient-empty", Some(v)) => {
            parse::boolean(v).map_or_else(|_| json!("<default>"), |b| json!(b))
        }
        ("int-nonneg-soft", Some(v)) => number(parse::decimal_from(v, 0).map(i64::from), "<default>"),
        ("int-positive-soft", Some(v)) => number(parse::decimal_from(v, 1).map(i64::from), "<ignored>"),
        ("int-min10", Some(v)) => number(parse::decimal_from(v, 10).map(i64::from), "<default>"),
        ("int-autobase", Some(v)) => number(parse::auto_base(v).map(i64::from), "<default>"),
        ("str-set-wins" | "str-nonempty", Some(v)) => json!(v),
        _ => return skipped(&kind, &name, "a parse class that is not known here"),
    };
    CaseResult::compared(&kind, &name, &case["result"], got)
}

/// An empty text of a variable of this class is its default: shown on one whose default is not empty.
fn empty_is_unset() -> Outcome {
    let read = |value: Option<&str>| {
        let pairs = [("ENABLE_IPv4", "true")].into_iter().chain(value.map(|v| ("AWS_VPC_K8S_CNI_VETHPREFIX", v)));
        Config::read(&pairs.collect()).0.datapath.veth_prefix
    };
    Outcome::better(EMPTY_IS_UNSET, read(None), read(Some("")))
}

/// One value of one variable, through the whole configuration.
fn variable_case(variable: &Value, case: &Value) -> CaseResult {
    let name = variable["name"].as_str().unwrap_or("(unnamed)");
    let kind = format!("variables of {}", variable["group"].as_str().unwrap_or("no group"));
    let label = format!("{name}={}", case["value"]);
    let value = case["value"].as_str();
    let read = |more: &[(&str, &str)]| {
        let family = ("ENABLE_IPv4", "true");
        let pairs = [family].into_iter().filter(|f| f.0 != name).chain(more.iter().copied());
        Config::read(&pairs.chain(value.map(|v| (name, v))).collect())
    };
    let (config, report) = read(&[]);
    let expected = &case["result"];
    let words = expected.as_str().unwrap_or_default();
    let refused = |report: &Report| report.problems().iter().any(|p| p.level == Level::Fatal && p.variable == name);

    if words.contains("(wart)") {
        return wart(&kind, &label, name, value, &config, &report);
    }
    let got = match name {
        "POD_MTU" | "AWS_VPC_K8S_PLUGIN_LOG_FILE" if refused(&report) => json!("exit 1"),
        "AWS_VPC_ENI_MTU" | "IP_COOLDOWN_PERIOD" if refused(&report) => json!("exit 1"),
        "AWS_VPC_K8S_CNI_VETHPREFIX" if refused(&report) => json!("exit 1"),
        "NETWORK_POLICY_ENFORCING_MODE" if refused(&report) => json!("init failure"),
        "AWS_VPC_ENI_MTU" if words.contains("in IPv4") && refused(&read(&[("ENABLE_IPv6", "true")]).1) => {
            json!(format!("{} in IPv4, exit 1 in IPv6", config.datapath.eni_mtu))
        }
        "POD_MTU" if words == "AWS_VPC_ENI_MTU" => {
            let follows = read(&[("AWS_VPC_ENI_MTU", "1500")]).0.plugins.pod_mtu == 1500;
            if follows { expected.clone() } else { json!(config.plugins.pod_mtu) }
        }
        "POD_SECURITY_GROUP_ENFORCING_MODE" if refused(&read(&[("ENABLE_POD_ENI", "true")]).1) => {
            let rest = words.strip_prefix("exit 1 if ENABLE_POD_ENI");
            let consistent = rest.is_some_and(|rest| {
                rest.is_empty() || rest.ends_with(&format!("daemon {}", config.datapath.pod_security_group_mode))
            });
            if consistent { expected.clone() } else { json!("exit 1 if ENABLE_POD_ENI") }
        }
        "AWS_VPC_K8S_CNI_RANDOMIZESNAT" if !report.problems().is_empty() => {
            json!(format!("{} (error log)", config.datapath.randomize_snat))
        }
        _ => match value_of(&config, name) {
            Some(got) => got,
            None => return skipped(&kind, &label, &nobody(variable)),
        },
    };
    CaseResult::compared(&kind, &label, expected, got)
}

/// What the reference gets wrong: ours is the better answer of spec 05 §16.1, which is checked instead.
fn wart(kind: &str, label: &str, name: &str, value: Option<&str>, config: &Config, report: &Report) -> CaseResult {
    match (name, value) {
        ("AWS_VPC_K8S_CNI_VETHPREFIX" | "INTROSPECTION_BIND_ADDRESS" | "CLUSTER_ENDPOINT", Some("")) => {
            let unset = Config::read(&Environment::from_iter([("ENABLE_IPv4", "true")])).0;
            let outcome = Outcome::better(EMPTY_IS_UNSET, format!("{unset:?}"), format!("{config:?}"));
            CaseResult::new(kind, label, outcome)
        }
        ("AWS_VPC_K8S_PLUGIN_LOG_FILE", Some(_)) => {
            let got = if report.is_fatal() { "exit 1" } else { "it starts" };
            let reason = "a log file that the plugin cannot have is refused at once";
            CaseResult::new(kind, label, Outcome::better(reason, "exit 1", got))
        }
        _ => skipped(kind, label, "a defect of a program that this release does not have"),
    }
}

/// Who would read it.
fn nobody(variable: &Value) -> String {
    let readers: Vec<_> = variable["components"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if readers.is_empty() {
        return "read by nobody, in the reference too".to_owned();
    }
    format!("read by {}, which this release does not have", readers.join(", "))
}

/// The value of a variable in the configuration, in the words of the vectors; None if the daemon does not read it.
fn value_of(config: &Config, name: &str) -> Option<Value> {
    let (pool, modes, eni, data, who) =
        (&config.pool, &config.modes, &config.provisioning, &config.datapath, &config.identity);
    let cidrs = |nets: &[reservoir_core::ip::Ipv4Net]| json!(nets.iter().map(ToString::to_string).collect::<Vec<_>>());
    Some(match name {
        "WARM_ENI_TARGET" => json!(pool.warm_eni_target),
        "WARM_IP_TARGET" => json!(pool.warm_ip_target),
        "MINIMUM_IP_TARGET" => json!(pool.minimum_ip_target),
        "WARM_PREFIX_TARGET" => json!(pool.warm_prefix_target),
        "MAX_ENI" => {
            pool.max_eni.map_or_else(|| json!("instance limit"), |n| json!(format!("min({n}, instance limit)")))
        }
        "IP_COOLDOWN_PERIOD" => json!(pool.ip_cooldown_seconds),
        "ENABLE_IPv4" => json!(modes.ipv4),
        "ENABLE_IPv6" => json!(modes.ipv6),
        "ENABLE_PREFIX_DELEGATION" => json!(modes.prefix_delegation),
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG" => json!(modes.custom_networking),
        "ENABLE_POD_ENI" => json!(modes.pod_eni),
        "ENABLE_MULTI_NIC" => json!(modes.multi_nic),
        "ENABLE_V6_EGRESS" => json!(modes.v6_egress),
        "ANNOTATE_POD_IP" => json!(modes.annotate_pod_ip),
        "DISABLE_NETWORK_RESOURCE_PROVISIONING" => json!(eni.disabled),
        "ENABLE_IMDS_ONLY_MODE" => json!(eni.imds_only),
        "DISABLE_LEAKED_ENI_CLEANUP" => json!(eni.leaked_eni_cleanup_disabled),
        "AWS_MANAGE_ENIS_NON_SCHEDULABLE" => json!(eni.manage_non_schedulable),
        "MANAGE_UNTAGGED_ENI" => json!(eni.manage_untagged_eni),
        "ENABLE_SUBNET_DISCOVERY" => json!(eni.subnet_discovery),
        "ADDITIONAL_ENI_TAGS" => json!(eni.additional_tags),
        "CLUSTER_NAME" => json!(eni.cluster_name),
        "AWS_VPC_K8S_CNI_BACKING_STORE" => json!(eni.backing_store),
        "ENI_CONFIG_ANNOTATION_DEF" => json!(eni.eni_config_annotation),
        "ENI_CONFIG_LABEL_DEF" => json!(eni.eni_config_label),
        "POD_SECURITY_GROUP_ENFORCING_MODE" => json!(data.pod_security_group_mode.to_string()),
        "AWS_VPC_ENI_MTU" => json!(data.eni_mtu),
        "AWS_VPC_K8S_CNI_VETHPREFIX" => json!(data.veth_prefix),
        "AWS_VPC_K8S_CNI_EXTERNALSNAT" => json!(data.external_snat),
        "AWS_VPC_K8S_CNI_RANDOMIZESNAT" => json!(data.randomize_snat.to_string()),
        "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS" => cidrs(&data.exclude_snat_cidrs),
        "AWS_EXTERNAL_SERVICE_CIDRS" => cidrs(&data.external_service_cidrs),
        "AWS_VPC_CNI_NODE_PORT_SUPPORT" => json!(data.node_port_support),
        "AWS_VPC_K8S_CNI_CONNMARK" => json!(data.connmark),
        "NETWORK_POLICY_ENFORCING_MODE" => {
            json!(data.network_policy_mode.as_deref().unwrap_or("\"\" (plugin does not contact the agent)"))
        }
        "POD_MTU" => json!(config.plugins.pod_mtu),
        "ENABLE_V4_EGRESS" => json!(config.plugins.v4_egress),
        "ENABLE_BANDWIDTH_PLUGIN" => json!(config.plugins.bandwidth),
        "DISABLE_POD_V6" => json!(config.plugins.disable_pod_v6),
        "AWS_VPC_K8S_PLUGIN_LOG_FILE" => json!(config.plugins.log_file),
        "AWS_VPC_K8S_PLUGIN_LOG_LEVEL" => json!(config.plugins.log_level),
        "AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE" => json!(config.plugins.egress_v4_log_file),
        "AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE" => json!(config.plugins.egress_v6_log_file),
        "VPC_CNI_VERSION" => json!(who.cni_version),
        "MY_NODE_NAME" => json!(who.node_name),
        "MY_POD_NAME" => json!(who.pod_name),
        "CLUSTER_ENDPOINT" => match &who.cluster_endpoint {
            Some(_) => json!("used as host"),
            None => json!("in-cluster config"),
        },
        "HTTP_TIMEOUT" => json!(who.http_timeout.as_secs()),
        "AWS_EC2_ENDPOINT" => json!(who.ec2_endpoint.clone().unwrap_or_default()),
        "AWS_VPC_K8S_CNI_LOGLEVEL" => json!(config.logging.level.to_string()),
        "AWS_VPC_K8S_CNI_LOG_FILE" => match &config.logging.to {
            LogTo::Stdout => json!("stdout"),
            LogTo::Stderr => json!("stderr"),
            LogTo::File(path) if path.ends_with("ipamd.log") => json!("default file"),
            LogTo::File(_) => json!("that file"),
        },
        "DISABLE_INTROSPECTION" => json!(config.introspection.is_none()),
        "DISABLE_METRICS" => json!(config.metrics.is_none()),
        "INTROSPECTION_BIND_ADDRESS" => match &config.introspection {
            Some(Listen::Unix(path)) => json!(format!("unix {}", path.display())),
            Some(tcp) if tcp.to_string() == "127.0.0.1:61679" => json!("127.0.0.1:61679"),
            Some(tcp) => json!(format!("tcp {tcp}")),
            None => Value::Null,
        },
        _ => return None,
    })
}
