use serde_json::Value;

use reservoir_core::limits::InstanceLimits;
use reservoir_core::policy::Unit;

use super::table::VARIABLES;
use super::variable::Here;
use super::*;

/// What every shipped manifest sets, and `pairs` over it.
fn read(pairs: &[(&str, &str)]) -> (Config, Report) {
    let environment = [("ENABLE_IPv4", "true")].iter().chain(pairs).copied().collect();
    Config::read(&environment)
}

/// The problems as text, without the prefix of the level.
fn problems(pairs: &[(&str, &str)]) -> Vec<(Level, String)> {
    read(pairs).1.problems().iter().map(|p| (p.level, p.to_string())).collect()
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/env.json")).unwrap()
}

#[test]
fn the_shipped_manifest_starts_without_a_word() {
    let vectors = vectors();
    let manifest = vectors["manifest_env"]["aws-node"].as_object().unwrap();
    let environment = manifest.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap())).collect();
    let (config, report) = Config::read(&environment);
    let told: Vec<_> = report.problems().iter().map(ToString::to_string).collect();
    assert_eq!(told, Vec::<String>::new());
    assert_eq!(config.datapath.network_policy_mode.as_deref(), Some("standard"), "the agent is asked");
    assert_eq!((config.pool.warm_eni_target, config.pool.warm_prefix_target), (1, 1));
    assert_eq!(config.identity.cni_version, "v1.23.1");
}

#[test]
fn nothing_set_says_what_to_set() {
    let (_, report) = Config::read(&Environment::default());
    assert!(report.is_fatal());
    assert_eq!(
        report.to_string(),
        "error: ENABLE_IPv4, ENABLE_IPv6: neither is true (both default to false); \
         exactly one address family must be on, set ENABLE_IPv4=true\n"
    );
}

#[test]
fn what_nobody_reads_yet_is_told_where_it_is_set() {
    let told = problems(&[("DISABLE_TCP_EARLY_DEMUX", "true"), ("HOST_CNI_BIN_PATH", "/host/opt/cni/bin")]);
    let [(Level::Warn, text)] = &told[..] else { panic!("{told:?}") };
    assert!(text.starts_with("DISABLE_TCP_EARLY_DEMUX=\"true\": without effect: "), "{text}");
}

#[test]
fn all_problems_are_told_together_with_what_is_used_instead() {
    let (config, report) = read(&[
        ("WARM_IP_TARGET", "abc"),
        ("MAX_ENI", "0"),
        ("ENABLE_SUBNET_DISCOVERY", "nope"),
        ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "PRNG"),
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "bad,10.1.2.3/16"),
        ("ADDITIONAL_ENI_TAGS", "{\"k8s.amazonaws.com/x\":\"1\",\"b\":\"2\"}"),
        ("AWS_VPC_ENI_MTU", "575"),
        ("ENABLE_POD_ENI", "true"),
        ("RESERVOIR_ADD_WAIT_SECONDS", "61"),
        ("RESERVOIR_POLICYDIR", "/x"),
    ]);
    assert!(report.is_fatal());
    assert_eq!(
        report.to_string(),
        r#"warning: WARM_IP_TARGET="abc": not a decimal integer of at least 0; the default 0 is used
warning: MAX_ENI="0": not a decimal integer of at least 1; it is ignored
warning: ADDITIONAL_ENI_TAGS="k8s.amazonaws.com/x=1": keys with k8s.amazonaws.com are reserved; this tag is left out
warning: ENABLE_SUBNET_DISCOVERY="nope": not a boolean (1 t T TRUE true True or 0 f F FALSE false False); the default true is used
warning: AWS_VPC_K8S_CNI_RANDOMIZESNAT="PRNG": not prng, hashrandom or none (lower case); the default prng is used
warning: AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS="bad": not an IPv4 block such as 10.0.0.0/16; this item is left out
warning: RESERVOIR_POLICYDIR="/x": unknown variable, ignored; RESERVOIR_POLICY_DIR exists
error: RESERVOIR_ADD_WAIT_SECONDS="61": not a decimal integer from 0 to 60 (seconds); correct or remove it
error: AWS_VPC_ENI_MTU="575": not a decimal integer from 576 to 9001; correct or remove it
"#
    );
    assert_eq!(config.datapath.exclude_snat_cidrs, ["10.1.0.0/16".parse().unwrap()]);
    assert_eq!(config.provisioning.additional_tags.into_iter().collect::<Vec<_>>(), [("b".into(), "2".into())]);
}

#[test]
fn an_empty_value_is_an_unset_one() {
    let defaults = read(&[]).0;
    for v in VARIABLES {
        // Where an empty value keeps the reference from starting it keeps us too.
        if ["IP_COOLDOWN_PERIOD", "AWS_VPC_ENI_MTU", "POD_MTU", "NETWORK_POLICY_ENFORCING_MODE", "ENABLE_IPv4"]
            .contains(&v.name)
        {
            continue;
        }
        // A plugin without a log file writes to stderr.
        if v.name.ends_with("PLUGIN_LOG_FILE") {
            let plugins = read(&[(v.name, "")]).0.plugins;
            let files = [plugins.log_file, plugins.egress_v4_log_file, plugins.egress_v6_log_file];
            assert_eq!(files.iter().filter(|f| *f == "stderr").count(), 1, "{}", v.name);
            continue;
        }
        let (config, report) = read(&[(v.name, "")]);
        assert_eq!(report, Report::default(), "{}", v.name);
        assert_eq!(config, defaults, "{}", v.name);
    }
}

#[test]
fn refuses_what_the_entrypoint_refuses() {
    for (name, value) in [
        ("AWS_VPC_K8S_PLUGIN_LOG_FILE", "STDOUT"),
        ("AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE", "stdout"),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", "cali1"),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", "vlan"),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", "a/b"),
        ("IP_COOLDOWN_PERIOD", "-1"),
        ("IP_COOLDOWN_PERIOD", ""),
        ("AWS_VPC_ENI_MTU", ""),
        ("POD_MTU", "9002"),
        ("NETWORK_POLICY_ENFORCING_MODE", "off"),
        ("NETWORK_POLICY_ENFORCING_MODE", ""),
        ("RESERVOIR_HOST_NETWORK", "off"),
        ("RESERVOIR_METRICS_ADDRESS", "61678"),
    ] {
        let told = problems(&[(name, value)]);
        assert!(
            told.iter().any(|(l, t)| *l == Level::Fatal && t.starts_with(&format!("{name}={value:?}: "))),
            "{name} {told:?}"
        );
    }
    let told = problems(&[("AWS_VPC_ENI_MTU", "1500"), ("POD_MTU", "1501")]);
    assert_eq!(told[0].1, "POD_MTU=\"1501\": larger than AWS_VPC_ENI_MTU (1500); packets of pods would not fit");
    assert_eq!(problems(&[("AWS_VPC_ENI_MTU", "1500"), ("POD_MTU", "1500")]), []);
}

#[test]
fn prefix_delegation_needs_a_target() {
    let on = ("ENABLE_PREFIX_DELEGATION", "true");
    let message = "ENABLE_PREFIX_DELEGATION=\"true\": needs one of WARM_PREFIX_TARGET, WARM_IP_TARGET and MINIMUM_IP_TARGET above 0";
    assert_eq!(problems(&[on]), [(Level::Fatal, message.to_owned())]);
    let ipv6 = problems(&[on, ("ENABLE_IPv4", "false"), ("ENABLE_IPv6", "true")]);
    assert_eq!(ipv6, [(Level::Fatal, message.to_owned())]);
    for target in ["WARM_PREFIX_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET"] {
        assert_eq!(problems(&[on, (target, "1")]), [], "{target}");
    }
}

#[test]
fn an_enforcing_mode_of_pods_is_looked_at_where_it_matters() {
    let wrong = ("POD_SECURITY_GROUP_ENFORCING_MODE", "Strict");
    assert_eq!(problems(&[wrong]), []);
    assert_eq!(problems(&[("ENABLE_POD_ENI", "true"), wrong])[0].0, Level::Fatal);
}

#[test]
fn an_empty_log_file_of_a_plugin_is_stderr() {
    let (config, report) = read(&[("AWS_VPC_K8S_PLUGIN_LOG_FILE", "")]);
    assert_eq!((config.plugins.log_file.as_str(), report.problems().len()), ("stderr", 0));
    assert_eq!(read(&[]).0.plugins.log_file, "/var/log/aws-routed-eni/plugin.log");
}

#[test]
fn modes_that_work_are_taken_without_a_word() {
    for pairs in [
        &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")][..],
        &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true")],
        &[("ENABLE_POD_ENI", "true")],
        &[("ENABLE_MULTI_NIC", "true")],
        &[("ANNOTATE_POD_IP", "true")],
        &[("ENABLE_V6_EGRESS", "true")],
        &[("AWS_MANAGE_ENIS_NON_SCHEDULABLE", "true")],
        &[("CLUSTER_ENDPOINT", "https://x")],
        &[
            ("ENABLE_IPv4", "false"),
            ("ENABLE_IPv6", "true"),
            ("ENABLE_PREFIX_DELEGATION", "true"),
            ("WARM_PREFIX_TARGET", "1"),
        ],
    ] {
        assert_eq!(problems(pairs), [], "{pairs:?}");
    }
}

#[test]
fn prefix_delegation_depends_on_the_instance_type() {
    let (config, report) = read(&[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")]);
    assert!(!report.is_fatal(), "{report}");
    let nitro = InstanceLimits::of("c5.4xlarge").unwrap();
    let xen = InstanceLimits::of("m4.large").unwrap();
    let (effective, report) = config.validate(&nitro);
    assert_eq!((effective.unit, report), (Unit::Prefix, Report::default()));
    let (effective, report) = config.validate(&xen);
    assert_eq!((effective.unit, report.problems().len(), report.is_fatal()), (Unit::Ip, 1, false));

    let (_, report) = read(&[("ENABLE_PREFIX_DELEGATION", "true")]);
    assert!(report.to_string().contains("needs one of WARM_PREFIX_TARGET"), "{report}");
}

#[test]
fn the_instance_type_limits_max_eni() {
    let c5 = InstanceLimits::of("c5.4xlarge").unwrap();
    for (max, effective, told) in [("3", 3, 0), ("8", 8, 0), ("9", 8, 1)] {
        let (got, report) = read(&[("MAX_ENI", max)]).0.validate(&c5);
        assert_eq!((got.max_enis, got.slots_per_eni, report.problems().len()), (effective, 29, told));
    }
    let none = InstanceLimits { enis: 0, ..c5 };
    assert!(read(&[]).0.validate(&none).1.is_fatal());
}

#[test]
fn what_one_setting_forces_upon_another() {
    let c = read(&[("ENABLE_IMDS_ONLY_MODE", "1")]).0.provisioning;
    assert_eq!((c.disabled, c.leaked_eni_cleanup_disabled), (true, true));
    let c = read(&[("DISABLE_LEAKED_ENI_CLEANUP", "1")]).0.provisioning;
    assert_eq!((c.disabled, c.leaked_eni_cleanup_disabled), (false, true));
    let (c, _) = read(&[("DISABLE_METRICS", "true"), ("DISABLE_INTROSPECTION", "true")]);
    assert_eq!((c.metrics, c.introspection), (None, None));
}

#[test]
fn the_settings_endpoints_have_the_reference_s_bytes() {
    let (config, _) = read(&[]);
    assert_eq!(
        settings::networkutils(&config),
        r#"{"AWS_EXTERNAL_SERVICE_CIDRS":null,"AWS_VPC_CNI_NODE_PORT_SUPPORT":true,"AWS_VPC_ENI_MTU":9001,"AWS_VPC_K8S_CNI_CONNMARK":128,"AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS":null,"AWS_VPC_K8S_CNI_EXTERNALSNAT":false,"AWS_VPC_K8S_CNI_RANDOMIZESNAT":2,"AWS_VPC_K8S_CNI_VETHPREFIX":"eni"}"#
    );
    assert_eq!(
        settings::ipamd(&config),
        r#"{"AWS_MANAGE_ENIS_NON_SCHEDULABLE":false,"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG":false,"ENABLE_SUBNET_DISCOVERY":true,"WARM_ENI_TARGET":1,"WARM_IP_TARGET":0}"#
    );
    let (config, _) = read(&[("AWS_EXTERNAL_SERVICE_CIDRS", "10.1.2.3/16, 10.9.0.0/24")]);
    assert!(
        settings::networkutils(&config).starts_with(r#"{"AWS_EXTERNAL_SERVICE_CIDRS":["10.1.0.0/16","10.9.0.0/24"],"#)
    );
}

#[test]
fn the_table_is_that_of_the_vectors() {
    let vectors = vectors();
    let reference = vectors["variables"].as_array().unwrap();
    for v in reference {
        let name = v["name"].as_str().unwrap();
        let ours = VARIABLES.iter().find(|o| o.name == name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(ours.class.name(), v["parse"].as_str().unwrap(), "{name}");
        let readers: Vec<_> = v["components"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
        assert_eq!(ours.readers.contains('D'), readers.contains(&"ipamd"), "{name}");
    }
    let ours = VARIABLES.iter().filter(|v| !v.name.starts_with("RESERVOIR_")).count();
    assert_eq!(ours, reference.len());
}

#[test]
fn what_the_table_says_works_is_read_and_nothing_else_is() {
    let environment = Environment::default();
    let reader = Reader::new(&environment);
    let config = Config::parse(&reader);
    rules::entrypoint(&config, &reader);
    let (_, names) = reader.finish();
    for v in VARIABLES.iter().filter(|v| v.readers.contains('D')) {
        assert!(names.contains(v.name), "{} is in the table and never read", v.name);
    }
    for v in VARIABLES.iter().filter(|v| v.here == Here::Now) {
        assert!(names.contains(v.name), "{} works here but nobody reads it", v.name);
    }
    for name in names {
        assert!(VARIABLES.iter().any(|v| v.name == name), "{name} is read and not in the table");
    }
}

#[test]
fn the_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, docs::page()).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == docs::page(), "docs/configuration.md is not what the table says; run UPDATE_DOCS=1 cargo test");
}
