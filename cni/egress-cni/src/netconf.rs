//! The network configuration on stdin (spec 04 §14.1).

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use cni_plugin::json::{object, text};
use cni_plugin::log::Level;
use cni_plugin::netconf::Header;
use cni_plugin::prev_result::{self, PrevResultError};
use cni_plugin::version::CniVersion;
use reservoir_net::iptables::Randomize;
use reservoir_net::rule::Family;
use serde_json::{Map, Value};

/// Where host-local keeps its addresses if the configuration does not say.
const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// The configuration.
#[derive(Clone, Debug)]
pub struct NetConf {
    /// Of this configuration and of its results.
    pub version: CniVersion,
    /// `name`: the network.
    pub name: String,
    /// `enabled` is `"true"`.
    pub enabled: bool,
    /// `nodeIP`; none if it is absent or no address.
    pub node_ip: Option<IpAddr>,
    /// `mtu`, as written. ADD needs a number; DEL works without.
    pub mtu: String,
    /// `randomizeSNAT`
    pub randomize: Randomize,
    /// `ipam.type`: the plugin that gives addresses.
    pub ipam_type: String,
    /// `ipam.dataDir` with the network's name: where host-local keeps this network's addresses.
    pub ipam_data: PathBuf,
    /// `pluginLogFile`; empty or `stderr` is stderr.
    pub log_file: String,
    /// `pluginLogLevel`, default debug.
    pub log_level: Level,
    /// `prevResult`: of the plugins before this one.
    pub prev_result: Option<Map<String, Value>>,
}

/// What is wrong with a configuration.
#[derive(Debug, PartialEq, Eq)]
pub enum NetConfError {
    /// A value has the wrong type; the text names the key.
    Decode(String),
    /// The previous result is of a version that this configuration's cannot hold.
    PrevResult(PrevResultError),
}

impl std::fmt::Display for NetConfError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Decode(text) => f.write_str(text),
            Self::PrevResult(error) => write!(f, "could not parse prevResult: {error}"),
        }
    }
}

impl std::error::Error for NetConfError {}

impl NetConf {
    /// Reads the plugin's own keys. Keys it does not know are other plugins' business.
    ///
    /// # Errors
    /// A value of the wrong type, or a previous result of another form.
    pub fn load(header: Header, version: CniVersion) -> Result<Self, NetConfError> {
        let Header { name, object: conf, .. } = header;
        let string = |conf: &Map<String, Value>, key: &str| {
            text(conf, key).map(|text| text.unwrap_or_default().to_owned()).map_err(NetConfError::Decode)
        };
        let prev_result = prev_result::of(&conf).map_err(NetConfError::Decode)?;
        if let Some(result) = prev_result {
            prev_result::check_version(result, version).map_err(NetConfError::PrevResult)?;
        }
        let nothing = Map::new();
        let ipam = object(&conf, "ipam").map_err(NetConfError::Decode)?.unwrap_or(&nothing);
        let data_dir = match string(ipam, "dataDir")? {
            empty if empty.is_empty() => DEFAULT_DATA_DIR.to_owned(),
            directory => directory,
        };
        let node_ip: Option<IpAddr> = string(&conf, "nodeIP")?.parse().ok();
        Ok(Self {
            version,
            enabled: string(&conf, "enabled")? == "true",
            node_ip: node_ip.map(|ip| ip.to_canonical()),
            mtu: string(&conf, "mtu")?,
            randomize: match string(&conf, "randomizeSNAT")?.as_str() {
                "none" => Randomize::None,
                "hashrandom" => Randomize::HashRandom,
                _ => Randomize::Prng,
            },
            ipam_type: string(ipam, "type")?,
            ipam_data: PathBuf::from(data_dir).join(&name),
            log_file: string(&conf, "pluginLogFile")?,
            log_level: Level::parse(&string(&conf, "pluginLogLevel")?),
            prev_result: prev_result.cloned(),
            name,
        })
    }

    /// The family of the egress: IPv4 if the node's address is, IPv6 for anything else (spec 04 §14.1).
    #[must_use]
    pub fn family(&self) -> Family {
        self.node_ip.map_or(Family::V6, Family::of)
    }

    /// The MTU of both ends.
    ///
    /// # Errors
    /// It is not a number.
    pub fn mtu(&self) -> Result<u32, String> {
        self.mtu
            .parse()
            .map_err(|_| format!("mtu must be a number in a string, such as \"9001\", but is {:?}", self.mtu))
    }
}

/// Whether IPv6 packets of pods can leave with this source (spec 04 §14.4); local addresses (ULA) count.
#[must_use]
pub fn is_global_unicast(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn load(value: &Value) -> Result<NetConf, String> {
        let header = Header::parse(value.to_string().as_bytes()).map_err(|e| e.to_string())?;
        let version = header.version().map_err(|e| e.to_string())?;
        NetConf::load(header, version).map_err(|e| e.to_string())
    }

    #[test]
    fn a_configuration_of_the_conflist() {
        let conf = load(&json!({"cniVersion": "0.4.0", "name": "aws-cni", "type": "egress-cni", "mtu": "9001",
            "enabled": "true", "randomizeSNAT": "hashrandom", "nodeIP": "10.0.96.10",
            "ipam": {"type": "host-local", "dataDir": "/run/cni/v6pd/egress-v4-ipam"}, "pluginLogLevel": "Error"}))
        .unwrap();
        assert!(conf.enabled && conf.mtu() == Ok(9001) && conf.log_level == Level::Error);
        assert_eq!((conf.family(), conf.randomize), (Family::V4, Randomize::HashRandom));
        assert_eq!(conf.ipam_data, PathBuf::from("/run/cni/v6pd/egress-v4-ipam/aws-cni"));
    }

    #[test]
    fn whatever_is_not_ipv4_means_ipv6() {
        for node_ip in ["", "2600:1f14::10", "a host", "10.0.0.0/8"] {
            assert_eq!(load(&json!({"name": "n", "nodeIP": node_ip})).unwrap().family(), Family::V6, "{node_ip}");
        }
        let conf = load(&json!({"name": "n"})).unwrap();
        assert_eq!((conf.family(), conf.enabled), (Family::V6, false));
        assert_eq!(load(&json!({"name": "n", "nodeIP": "::ffff:10.0.0.1"})).unwrap().family(), Family::V4);
    }

    #[test]
    fn only_the_word_true_enables() {
        for (word, enabled) in [("true", true), ("True", false), ("1", false), ("", false)] {
            assert_eq!(load(&json!({"name": "n", "enabled": word})).unwrap().enabled, enabled, "{word}");
        }
    }

    #[test]
    fn wrong_values_are_named() {
        let error = |value| load(&value).unwrap_err();
        assert_eq!(error(json!({"name": "n", "enabled": true})), "\"enabled\" must be a string, but is true");
        assert_eq!(error(json!({"name": "n", "ipam": "x"})), "\"ipam\" must be an object, but is \"x\"");
        let version = error(json!({"name": "n", "cniVersion": "1.0.0", "prevResult": {"cniVersion": "0.4.0"}}));
        assert!(version.starts_with("could not parse prevResult: could not parse prevResult:"), "{version}");
        let mtu = load(&json!({"name": "n", "mtu": "abc"})).unwrap().mtu().unwrap_err();
        assert!(mtu.contains("mtu") && mtu.contains("\"abc\"") && mtu.contains("\"9001\""), "{mtu}");
    }

    #[test]
    fn global_unicast() {
        for (address, is_global) in [
            ("2600::10", true),
            ("fd00::1", true),
            ("fe80::1", false),
            ("::", false),
            ("::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_global_unicast(address.parse().unwrap()), is_global, "{address}");
        }
    }
}
