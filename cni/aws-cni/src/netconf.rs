//! The network configuration on stdin (spec 04 §2.2).
//!
//! Read in two steps, as the protocol has an own error code for what every plugin needs ([`Header`]) and the plugin one
//! for the rest ([`NetConf`]).

use std::path::PathBuf;

use cni_plugin::json::{object, text};
use cni_plugin::log::Level;
pub use cni_plugin::netconf::Header;
use cni_plugin::prev_result;
use cni_plugin::version::CniVersion;
pub use reservoir_net::branch::EnforcingMode;
use reservoir_net::{names, pod};
use reservoir_rpc::IPAMD_SOCKET;
use serde_json::{Map, Value};

use crate::prev_result::{PrevResult, PrevResultError};

/// The annotations that the runtime passes on, because the conflist declares this capability.
const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// Asks for one interface per network card when its value is [`MULTI_NIC`].
const NIC_CONFIG: &str = "k8s.amazonaws.com/nicConfig";
const MULTI_NIC: &str = "multi-nic-attachment";

/// The configuration, checked and with defaults.
#[derive(Clone, Debug)]
pub struct NetConf {
    /// Of this configuration and of its results.
    pub version: CniVersion,
    /// `name`: the network, `NetworkName` for ipamd.
    pub name: String,
    /// `vethPrefix`, default `eni`.
    pub veth_prefix: String,
    /// `mtu` in bytes: what is not a number from 576 to 9001 counts as 9001.
    pub mtu: u32,
    /// `podSGEnforcingMode`
    pub enforcing_mode: EnforcingMode,
    /// `pluginLogFile`; empty or `stderr` is stderr.
    pub log_file: String,
    /// `pluginLogLevel`, default debug.
    pub log_level: Level,
    /// The pod's annotation asks for an interface on every network card.
    pub multi_nic: bool,
    /// `prevResult`: of DEL and CHECK what ADD returned.
    pub prev_result: Option<PrevResult>,
    /// `ipamdSocket`, a key of ours: where ipamd listens if not at the usual place. For several simulated nodes on one
    /// machine; whoever can write a network configuration is root already, which is not so of the environment.
    pub ipamd_socket: PathBuf,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum NetConfError {
    #[error("{0}")]
    Decode(String),
    #[error("conf.VethPrefix can be at most {} characters long", names::MAX_PREFIX_LENGTH)]
    VethPrefix,
    #[error("could not parse prevResult: {0}")]
    PrevResult(#[from] PrevResultError),
    #[error("ipamdSocket must be an absolute path, but is {0:?}")]
    Socket(String),
}

impl NetConf {
    /// Reads the plugin's own keys. Keys it does not know are other plugins' business.
    ///
    /// # Errors
    /// A value of the wrong type, a veth prefix that leaves no room for the name, a previous result of a version that
    /// this configuration's cannot hold.
    pub fn load(header: Header, version: CniVersion) -> Result<Self, NetConfError> {
        let Header { name, object: conf, .. } = header;
        let string = |key| text(&conf, key).map_err(NetConfError::Decode);

        let veth_prefix = string("vethPrefix")?.unwrap_or(names::DEFAULT_VETH_PREFIX).to_owned();
        if veth_prefix.len() > names::MAX_PREFIX_LENGTH {
            return Err(NetConfError::VethPrefix);
        }
        let ipamd_socket = string("ipamdSocket")?.unwrap_or(IPAMD_SOCKET);
        if !ipamd_socket.starts_with('/') {
            return Err(NetConfError::Socket(ipamd_socket.to_owned()));
        }
        let enforcing_mode = EnforcingMode::parse(string("podSGEnforcingMode")?.unwrap_or_default());
        let prev_result = match prev_result::of(&conf).map_err(NetConfError::Decode)? {
            Some(result) => Some(PrevResult::parse(result, version)?),
            None => None,
        };
        Ok(Self {
            version,
            name,
            veth_prefix,
            mtu: string("mtu")?.map_or(pod::MAX_MTU, mtu),
            enforcing_mode,
            log_file: string("pluginLogFile")?.unwrap_or_default().to_owned(),
            log_level: Level::parse(string("pluginLogLevel")?.unwrap_or_default()),
            multi_nic: multi_nic(&conf).map_err(NetConfError::Decode)?,
            prev_result,
            ipamd_socket: PathBuf::from(ipamd_socket),
        })
    }
}

/// The MTU in `text`, or the default for one that cannot be (spec 04 §2.2).
#[must_use]
pub fn mtu(text: &str) -> u32 {
    text.parse().ok().filter(|mtu| (pod::MIN_MTU..=pod::MAX_MTU).contains(mtu)).unwrap_or(pod::MAX_MTU)
}

fn multi_nic(conf: &Map<String, Value>) -> Result<bool, String> {
    let Some(runtime) = object(conf, "runtimeConfig")? else { return Ok(false) };
    let Some(annotations) = object(runtime, POD_ANNOTATIONS)? else { return Ok(false) };
    // An annotation's key, unlike one of the configuration, has its letter case.
    match annotations.get(NIC_CONFIG) {
        None => Ok(false),
        Some(Value::String(value)) => Ok(value == MULTI_NIC),
        Some(other) => Err(format!("annotation {NIC_CONFIG} must be a string, but is {other}")),
    }
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
    fn defaults() {
        let conf = load(&json!({"name": "n"})).unwrap();
        assert_eq!((conf.version, conf.mtu, conf.veth_prefix.as_str()), (CniVersion::V0_1_0, 9001, "eni"));
        assert_eq!(conf.enforcing_mode, EnforcingMode::Strict);
        assert_eq!(conf.ipamd_socket, PathBuf::from("/var/run/aws-node/ipamd.sock"));
        assert_eq!((conf.log_file.as_str(), conf.log_level, conf.multi_nic), ("", Level::Debug, false));
    }

    #[test]
    fn keys_in_any_letter_case() {
        let conf = load(&json!({"NAME": "n", "VethPrefix": "abcd", "MTU": "1500", "cniversion": "1.1.0"})).unwrap();
        assert_eq!((conf.version, conf.veth_prefix.as_str(), conf.mtu), (CniVersion::V1_1_0, "abcd", 1500));
    }

    #[test]
    fn wrong_values_are_named() {
        let error = |value| load(&value).unwrap_err();
        assert_eq!(error(json!({"name": "n", "mtu": 9001})), "\"mtu\" must be a string, but is 9001");
        assert_eq!(
            error(json!({"name": "n", "vethPrefix": "abcde"})),
            "conf.VethPrefix can be at most 4 characters long"
        );
        assert!(error(json!({"name": "n", "ipamdSocket": "ipamd.sock"})).contains("\"ipamd.sock\""));
        assert!(error(json!({"name": "n", "prevResult": []})).starts_with("\"prevResult\" must be an object"));
        assert!(error(json!({"name": "n", "runtimeConfig": "x"})).contains("runtimeConfig"));
        assert_eq!(error(json!({"name": "a b"})), "invalid characters found in network name");
        assert_eq!(error(json!({"name": "n", "cniVersion": "9.9.9"})), "incompatible CNI versions");
        assert!(error(json!([1])).starts_with("error unmarshall network config: "));
    }

    #[test]
    fn an_empty_or_unknown_mode_is_strict() {
        for (mode, expected) in
            [("", EnforcingMode::Strict), ("Standard", EnforcingMode::Strict), ("standard", EnforcingMode::Standard)]
        {
            let conf = load(&json!({"name": "n", "podSGEnforcingMode": mode})).unwrap();
            assert_eq!(conf.enforcing_mode, expected, "{mode:?}");
        }
    }
}
