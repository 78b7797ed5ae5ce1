//! The CNI network list that a node's runtime reads: the template with this node's settings in it (spec 05 §6.6, spec
//! 04 §15).
//!
//! Without an optional plugin the text of the template stays as it is, but for the placeholders. With one, the list is
//! written anew in the order of keys and in the layout that the reference has; keys that nobody here knows are kept
//! (better answer of W-9), and a value cannot break out of its string (W-10).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reservoir_cloud::imds::Imds;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Config;

/// What the metadata service tells of the node's own addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// `local-ipv4`.
    pub ipv4: Option<Ipv4Addr>,
    /// `ipv6`, of the primary interface.
    pub ipv6: Option<Ipv6Addr>,
}

impl NodeAddresses {
    /// Asks for the one that the list needs, if it needs one.
    pub async fn read(imds: &Imds, config: &Config) -> Self {
        let mut addresses = Self::default();
        if config.modes.ipv6 {
            addresses.ipv4 = address(imds, "/latest/meta-data/local-ipv4").await;
        } else if config.modes.v6_egress {
            addresses.ipv6 = address(imds, "/latest/meta-data/ipv6").await;
        }
        addresses
    }
}

async fn address<T: std::str::FromStr>(imds: &Imds, path: &str) -> Option<T> {
    match imds.get(path).await {
        Ok(text) => {
            let address = text.trim().parse().ok();
            if address.is_none() {
                tracing::warn!(path, text, "the metadata service tells no address of the node");
            }
            address
        }
        Err(error) => {
            tracing::warn!(path, "the metadata service does not tell this address of the node: {error}");
            None
        }
    }
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// Egress to IPv4 needs the address that is put in the packets.
    #[error("the node's IPv4 address is not known: the metadata service does not tell local-ipv4")]
    NoIpv4,
    #[error("the template is no CNI network list in JSON")]
    Template(#[source] serde_json::Error),
}

/// The list for `/etc/cni/net.d`, of a template such as `deploy/10-aws.conflist`.
pub fn render(template: &str, config: &Config, node: &NodeAddresses) -> Result<String, ConflistError> {
    let text = substituted(template, config, node)?;
    let mut list: List = serde_json::from_str(&text).map_err(ConflistError::Template)?;
    let more = optional(config);
    if more.is_empty() {
        return Ok(text);
    }
    list.plugins.extend(more);
    for plugin in &mut list.plugins {
        plugin.normalise();
    }
    serde_json::to_string_pretty(&list).map_err(ConflistError::Template)
}

/// Spec 05 §6.6, the table of placeholders.
fn substituted(template: &str, config: &Config, node: &NodeAddresses) -> Result<String, ConflistError> {
    let (datapath, plugins) = (&config.datapath, &config.plugins);
    let egress = Egress::of(config, node)?;
    let values = [
        ("__VETHPREFIX__", datapath.veth_prefix.clone()),
        ("__MTU__", plugins.pod_mtu.to_string()),
        ("__PODSGENFORCINGMODE__", datapath.pod_security_group_mode.to_string()),
        ("__PLUGINLOGFILE__", plugins.log_file.clone()),
        ("__PLUGINLOGLEVEL__", plugins.log_level.clone()),
        ("__RANDOMIZESNAT__", datapath.randomize_snat.to_string()),
        ("__EGRESSPLUGINENABLED__", egress.node.is_some().to_string()),
        ("__EGRESSPLUGINLOGFILE__", egress.log_file.to_owned()),
        ("__EGRESSPLUGINIPAMSUBNET__", egress.subnet.to_owned()),
        ("__EGRESSPLUGINIPAMDST__", egress.destination.to_owned()),
        ("__EGRESSPLUGINIPAMDATADIR__", egress.data_dir.to_owned()),
        // The reference names the IPv4 address of an IPv6 node even where egress is off.
        ("__NODEIP__", egress.node.or(egress.idle).map(|ip| ip.to_string()).unwrap_or_default()),
    ];
    Ok(values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, &in_string(value))))
}

/// As it stands between the quotes of a JSON string.
fn in_string(value: &str) -> String {
    let quoted = json!(value).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The settings of the egress plugin: of the family that the pods' own addresses do not have.
struct Egress<'a> {
    /// The address that leaves the node; None = off.
    node: Option<IpAddr>,
    /// The node's address where egress is off.
    idle: Option<IpAddr>,
    subnet: &'static str,
    destination: &'static str,
    data_dir: &'static str,
    log_file: &'a str,
}

impl<'a> Egress<'a> {
    fn of(config: &'a Config, node: &NodeAddresses) -> Result<Self, ConflistError> {
        let plugins = &config.plugins;
        if config.modes.ipv6 {
            let address = Some(IpAddr::from(node.ipv4.ok_or(ConflistError::NoIpv4)?));
            let (node, idle) = if plugins.v4_egress { (address, None) } else { (None, address) };
            return Ok(Self {
                node,
                idle,
                subnet: "169.254.172.0/22",
                destination: "0.0.0.0/0",
                data_dir: "/run/cni/v6pd/egress-v4-ipam",
                log_file: &plugins.egress_v4_log_file,
            });
        }
        if config.modes.v6_egress && node.ipv6.is_none() {
            tracing::warn!("ENABLE_V6_EGRESS=true without effect: the node has no IPv6 address");
        }
        Ok(Self {
            node: node.ipv6.filter(|_| config.modes.v6_egress).map(IpAddr::from),
            idle: None,
            subnet: "fd00::ac:00/118",
            destination: "::/0",
            data_dir: "/run/cni/v4pd/egress-v6-ipam",
            log_file: &plugins.egress_v6_log_file,
        })
    }
}

/// The plugins that only some nodes chain.
fn optional(config: &Config) -> Vec<Plugin> {
    let mut plugins = Vec::new();
    if config.plugins.bandwidth {
        plugins.push(Plugin {
            kind: Some(json!("bandwidth")),
            capabilities: Some(json!({"bandwidth": true})),
            ..Plugin::default()
        });
    }
    if config.plugins.disable_pod_v6 {
        let off = ["all", "default", "lo"].map(|name| (format!("net.ipv6.conf.{name}.disable_ipv6"), json!("1")));
        plugins.push(Plugin {
            kind: Some(json!("tuning")),
            sysctl: Some(Value::Object(off.into_iter().collect())),
            ..Plugin::default()
        });
    }
    plugins
}

type Rest = BTreeMap<String, Value>;

/// A network list, with its keys in the reference's order.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    #[serde(rename = "cniVersion", skip_serializing_if = "absent")]
    cni_version: Option<Value>,
    #[serde(skip_serializing_if = "absent")]
    name: Option<Value>,
    #[serde(rename = "disableCheck", skip_serializing_if = "absent")]
    disable_check: Option<Value>,
    plugins: Vec<Plugin>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Plugin {
    #[serde(rename = "cniVersion", skip_serializing_if = "absent")]
    cni_version: Option<Value>,
    #[serde(skip_serializing_if = "absent")]
    name: Option<Value>,
    #[serde(rename = "type", skip_serializing_if = "absent")]
    kind: Option<Value>,
    #[serde(skip_serializing_if = "absent")]
    capabilities: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipam: Option<Ipam>,
    #[serde(skip_serializing_if = "absent")]
    dns: Option<Value>,
    #[serde(skip_serializing_if = "absent")]
    sysctl: Option<Value>,
    #[serde(skip_serializing_if = "absent")]
    enabled: Option<Value>,
    #[serde(rename = "nodeIP", skip_serializing_if = "absent")]
    node_ip: Option<Value>,
    #[serde(rename = "vethPrefix", skip_serializing_if = "absent")]
    veth_prefix: Option<Value>,
    #[serde(rename = "podSGEnforcingMode", skip_serializing_if = "absent")]
    pod_sg_enforcing_mode: Option<Value>,
    #[serde(rename = "randomizeSNAT", skip_serializing_if = "absent")]
    randomize_snat: Option<Value>,
    #[serde(skip_serializing_if = "absent")]
    mtu: Option<Value>,
    #[serde(rename = "pluginLogFile", skip_serializing_if = "absent")]
    log_file: Option<Value>,
    #[serde(rename = "pluginLogLevel", skip_serializing_if = "absent")]
    log_level: Option<Value>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Serialize, Deserialize)]
struct Ipam {
    #[serde(skip_serializing_if = "absent")]
    name: Option<Value>,
    #[serde(rename = "type", skip_serializing_if = "absent")]
    kind: Option<Value>,
    #[serde(skip_serializing_if = "absent")]
    routes: Option<Value>,
    #[serde(rename = "dataDir", skip_serializing_if = "absent")]
    data_dir: Option<Value>,
    #[serde(rename = "resolvConf", skip_serializing_if = "absent")]
    resolv_conf: Option<Value>,
    #[serde(skip_serializing_if = "absent")]
    ranges: Option<Value>,
    #[serde(flatten)]
    rest: Rest,
}

/// The reference writes no empty text.
#[expect(clippy::ref_option, reason = "serde's signature")]
fn absent(value: &Option<Value>) -> bool {
    value.as_ref().is_none_or(|v| v == "")
}

impl Plugin {
    /// What the reference's rewriting does to keys that it knows; neither changes what the plugins do.
    fn normalise(&mut self) {
        if self.kind.as_ref().is_some_and(|kind| kind == "portmap") && self.rest.get("snat") == Some(&json!(true)) {
            self.rest.remove("snat");
        }
        let ranges = self.ipam.as_mut().and_then(|ipam| ipam.ranges.as_mut()).and_then(Value::as_array_mut);
        for range in ranges.into_iter().flatten().filter_map(Value::as_array_mut).flatten() {
            if let Some(subnet) = range.get_mut("subnet")
                && let Some((address, length)) = subnet.as_str().and_then(|text| text.split_once('/'))
                && let Ok(address) = address.parse::<IpAddr>()
            {
                *subnet = json!(format!("{address}/{length}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    const TEMPLATE: &str = include_str!("../../../deploy/10-aws.conflist");
    const NODE: NodeAddresses = NodeAddresses {
        ipv4: Some(Ipv4Addr::new(10, 0, 96, 10)),
        ipv6: Some(Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 0x10)),
    };

    fn config(more: &[(&str, &str)]) -> Config {
        let family = if more.iter().any(|(name, _)| *name == "ENABLE_IPv6") { "ENABLE_IPv6" } else { "ENABLE_IPv4" };
        Config::read(&Environment::from_iter([(family, "true")].into_iter().chain(more.iter().copied()))).0
    }

    fn plugin(text: &str, number: usize) -> Value {
        serde_json::from_str::<Value>(text).expect("JSON")["plugins"][number].clone()
    }

    #[test]
    fn without_optional_plugins_the_layout_of_the_template_stays() {
        let text = render(TEMPLATE, &config(&[]), &NODE).expect("rendered");
        assert_eq!(text.lines().count(), TEMPLATE.lines().count());
        assert!(!text.contains("__"), "{text}");
        assert!(text.contains(r#""capabilities": {"portMappings": true},"#), "{text}");
    }

    /// Spec 04 §15: the order of keys, two spaces, no newline at the end.
    #[test]
    fn with_one_the_list_is_written_anew() {
        let text = render(TEMPLATE, &config(&[("ENABLE_BANDWIDTH_PLUGIN", "true")]), &NODE).expect("rendered");
        let keys =
            ["\"name\"", "\"type\"", "\"ipam\"", "\"enabled\"", "\"randomizeSNAT\"", "\"mtu\"", "\"pluginLogFile\""];
        let egress = &text[text.find("egress-cni").expect("there")..];
        let places: Vec<_> = keys[2..].iter().map(|key| egress.find(key).expect(key)).collect();
        assert!(places.is_sorted(), "{egress}");
        let ipam = &egress[places[0]..];
        let places: Vec<_> = ["\"type\"", "\"routes\"", "\"dataDir\"", "\"ranges\""]
            .iter()
            .map(|key| ipam.find(key).expect(key))
            .collect();
        assert!(places.is_sorted(), "{ipam}");
        assert!(text.ends_with("\n  ]\n}"), "{text}");
        assert!(!egress.contains("nodeIP") && !text.contains("snat\""), "{text}");
    }

    /// Better answer of W-9.
    #[test]
    fn keys_of_the_operator_survive() {
        let mut list: Value = serde_json::from_str(TEMPLATE).expect("JSON");
        list["mine"] = json!(1);
        list["plugins"][2]["snat"] = json!(false);
        list["plugins"][2]["conditionsV4"] = json!(["-d", "10.0.0.0/8"]);
        let text = render(&list.to_string(), &config(&[("DISABLE_POD_V6", "true")]), &NODE).expect("rendered");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON")["mine"], 1);
        assert_eq!(plugin(&text, 2)["snat"], false);
        assert_eq!(plugin(&text, 2)["conditionsV4"][0], "-d");
        assert_eq!(plugin(&text, 3)["sysctl"]["net.ipv6.conf.lo.disable_ipv6"], "1");
    }

    /// Better answer of W-10.
    #[test]
    fn a_value_cannot_break_the_list() {
        let config = config(&[("AWS_VPC_K8S_PLUGIN_LOG_FILE", r#"/var/log/a"b\c.log"#)]);
        let text = render(TEMPLATE, &config, &NODE).expect("rendered");
        assert_eq!(plugin(&text, 0)["pluginLogFile"], r#"/var/log/a"b\c.log"#);
    }

    #[test]
    fn egress_follows_the_family_and_what_the_node_has() {
        let on = |more: &[(&str, &str)], node: &NodeAddresses| {
            let text = render(TEMPLATE, &config(more), node).expect("rendered");
            (plugin(&text, 1)["enabled"].clone(), plugin(&text, 1)["nodeIP"].clone())
        };
        let none = NodeAddresses::default();
        assert_eq!(on(&[("ENABLE_V6_EGRESS", "true")], &NODE), (json!("true"), json!("2600::10")));
        assert_eq!(on(&[("ENABLE_V6_EGRESS", "true")], &none), (json!("false"), json!("")));
        assert_eq!(on(&[], &NODE), (json!("false"), json!("")));
        assert_eq!(on(&[("ENABLE_IPv6", "true")], &NODE), (json!("true"), json!("10.0.96.10")));
        let off = [("ENABLE_IPv6", "true"), ("ENABLE_V4_EGRESS", "false")];
        assert_eq!(on(&off, &NODE), (json!("false"), json!("10.0.96.10")));
        let missing = render(TEMPLATE, &config(&[("ENABLE_IPv6", "true")]), &none);
        assert!(matches!(missing, Err(ConflistError::NoIpv4)), "{missing:?}");
    }

    #[test]
    fn a_template_that_is_no_list_is_refused() {
        for text in ["", "[]", "{}", r#"{"plugins": 3}"#, r#"{"plugins": ["a"]}"#] {
            assert!(matches!(render(text, &config(&[]), &NODE), Err(ConflistError::Template(_))), "{text}");
        }
    }
}
