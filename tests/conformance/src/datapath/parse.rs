//! Texts of the environment as the daemon reads them, and of the runtime as the plugin does.

use aws_cni::args::PodArgs;
use aws_cni::log::Level;
use aws_cni::netconf::{EnforcingMode, Header, NetConf, mtu};
use reservoir_ipamd::config::{Config, Environment, RandomizeSnat};
use reservoir_net::iptables::ruleset::Table;
use reservoir_net::iptables::{Mode, Randomize, SnatConfig, SnatFacts, Version, desired, diff};
use serde_json::{Value, json};

use super::{Case, skip};
use crate::Outcome;

pub(super) fn parse(case: &Case) -> Outcome {
    let expected = case.expected;
    match case.text("kind") {
        "iptables_random_fully_support" => {
            let version = Version::parse(&format!("iptables v{}", case.text("version")));
            case.compared(expected, json!({"supported": version.is_some_and(Version::has_random_fully)}))
        }
        "connmark_backend" if case.inputs["exit"] == 0 => {
            let Some(version) = Version::parse(case.text("iptables_version_stdout")) else {
                return skip("an iptables that names no version is refused");
            };
            let backend = match version.mode {
                Mode::Legacy => "iptables",
                Mode::Nft => "nftables",
            };
            if case.is_quirk {
                let reason = "an iptables that names no mode is from before there were two: legacy (DW-20)";
                return Outcome::better(reason, "iptables", backend);
            }
            case.compared(expected, json!({"backend": backend}))
        }
        "connmark_backend" => skip("a failing iptables is shown by host/net's own tests"),
        "netconf" => netconf(case),
        "netconf_mtu" => case.compared(expected, json!({"mtu": mtu(case.text("value"))})),
        "cni_args" => case.compared(expected, cni_args(case.text("value"))),
        "cidr_list" => {
            let config = daemon("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", case);
            let cidrs: Vec<String> = config.datapath.exclude_snat_cidrs.iter().map(ToString::to_string).collect();
            case.compared(expected, json!({"cidrs": cidrs}))
        }
        "randomize_snat" => randomize(case),
        "connmark" => {
            let mark = daemon("AWS_VPC_K8S_CNI_CONNMARK", case).datapath.connmark;
            case.compared(expected, json!({"mark": mark, "text": format!("{mark:#x}")}))
        }
        "daemon_enforcing_mode" => {
            let config = daemon("POD_SECURITY_GROUP_ENFORCING_MODE", case);
            case.compared(expected, json!({"mode": config.datapath.pod_security_group_mode.to_string()}))
        }
        // One variable of either default.
        "bool" if case.inputs["default"] == true => {
            let config = daemon("AWS_VPC_CNI_NODE_PORT_SUPPORT", case);
            case.compared(expected, json!({"result": config.datapath.node_port_support}))
        }
        "bool" => {
            let config = daemon("AWS_VPC_K8S_CNI_EXTERNALSNAT", case);
            case.compared(expected, json!({"result": config.datapath.external_snat}))
        }
        kind => skip(&format!("no suite here knows the text {kind:?}")),
    }
}

/// What the daemon understands if `variable` is set to the value of the case; null is unset.
fn daemon(variable: &str, case: &Case) -> Config {
    let value = case.inputs["value"].as_str();
    let pairs = [("ENABLE_IPv4", "true")].into_iter().chain(value.map(|value| (variable, value)));
    Config::read(&pairs.collect::<Environment>()).0
}

/// The flag of the rule that hides pods' addresses.
fn randomize(case: &Case) -> Outcome {
    let config = daemon("AWS_VPC_K8S_CNI_RANDOMIZESNAT", case);
    let config = SnatConfig {
        external_snat: false,
        node_port: true,
        exclude: vec![],
        randomize: match config.datapath.randomize_snat {
            RandomizeSnat::None => Randomize::None,
            RandomizeSnat::HashRandom => Randomize::HashRandom,
            RandomizeSnat::Prng => Randomize::Prng,
        },
        mark: 0x80,
        veth_prefix: "eni".to_owned(),
    };
    let facts = SnatFacts { primary_interface: "eth0".to_owned(), primary_ip: [10, 0, 0, 1].into(), vpc_cidrs: vec![] };
    let has_random_fully = case.inputs["iptables_has_random_fully"] == true;
    let mut nat = Table { name: "nat".to_owned(), chains: vec![] };
    let edits = diff::diff(&desired::snat(&config, &facts, has_random_fully), &nat);
    diff::apply(&mut nat, &edits);
    let words = format!("{:?}", nat.chains);
    let flag = ["--random-fully", "--random"].into_iter().find(|flag| words.contains(&format!("{flag:?}")));
    case.compared(case.expected, json!({"flag": flag}))
}

fn netconf(case: &Case) -> Outcome {
    let header = match Header::parse(case.inputs["stdin"].to_string().as_bytes()) {
        Ok(header) => header,
        Err(error) => return case.compared(case.expected, json!({"error": error.to_string()})),
    };
    let loaded = header.version().map_err(|e| e.to_string());
    let loaded = loaded.and_then(|version| NetConf::load(header, version).map_err(|e| e.to_string()));
    let conf = match loaded {
        Ok(conf) => conf,
        Err(error) => return case.compared(case.expected, json!({"error": error})),
    };
    let mode = match conf.enforcing_mode {
        EnforcingMode::Strict => "strict",
        EnforcingMode::Standard => "standard",
    };
    if case.is_quirk && case.expected["podSGEnforcingMode"].is_string() {
        return Outcome::better("an empty or unknown mode is strict (DW-2)", "strict", mode);
    }
    // A level is kept as what it means.
    let level = case.expected["pluginLogLevel"].as_str().unwrap_or_default();
    let all = json!({
        "mtu": conf.mtu.to_string(),
        "vethPrefix": conf.veth_prefix,
        "podSGEnforcingMode": mode,
        "pluginLogFile": conf.log_file,
        "pluginLogLevel": if conf.log_level == Level::parse(level) { level.to_owned() } else { format!("{:?}", conf.log_level) },
        "requires_multi_nic": conf.multi_nic,
    });
    let named = case.expected.as_object().into_iter().flatten().map(|(key, _)| (key.clone(), all[key].clone()));
    case.compared(case.expected, Value::Object(named.collect()))
}

fn cni_args(text: &str) -> Value {
    match PodArgs::parse(text) {
        Ok(args) => json!({
            "K8S_POD_NAMESPACE": args.namespace,
            "K8S_POD_NAME": args.name,
            "K8S_POD_INFRA_CONTAINER_ID": args.infra_container_id,
            "K8S_POD_UID": args.uid,
        }),
        Err(error) => json!({"error": error.to_string()}),
    }
}
