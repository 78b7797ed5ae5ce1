//! How a node is made, and its plugins' configuration list.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

/// How the node is made.
#[derive(Debug, Clone)]
pub struct Options {
    pub instance_type: String,
    pub subnet: String,
    /// `instant` or `realistic`; empty: as the configuration in `sim` says.
    pub delays: String,
    /// Of the daemon, over the defaults.
    pub env: Vec<(String, String)>,
    /// Further arguments of the simulated AWS.
    pub sim: Vec<String>,
    /// Directory of `ipamd` and `aws-sim`.
    pub binaries: PathBuf,
    /// The plugin `aws-cni`.
    pub plugin: PathBuf,
    /// Chain `egress-cni`, which is beside it, behind it: a way out in the other family than the pods'.
    pub egress: bool,
    /// Chain Debian's portmap behind them.
    pub portmap: bool,
}

impl Options {
    /// The binaries of this tree: `RING_BINARIES` and `RING_PLUGIN`, or those of a development build.
    #[must_use]
    pub fn of_tree() -> Self {
        let target = target_dir();
        let path = |name: &str, default: PathBuf| std::env::var_os(name).map_or(default, PathBuf::from);
        Self {
            instance_type: "c5.4xlarge".to_owned(),
            subnet: "10.0.96.0/19".to_owned(),
            delays: "instant".to_owned(),
            env: Vec::new(),
            sim: Vec::new(),
            binaries: path("RING_BINARIES", target.join("debug")),
            plugin: path("RING_PLUGIN", target.join("cni/aws-cni")),
            egress: false,
            portmap: false,
        }
    }

    /// Whether the daemon's pods get IPv6 addresses.
    pub(super) fn is_ipv6(&self) -> bool {
        self.env("ENABLE_IPv6") == Some("true")
    }

    /// What the entrypoint would put into the configuration list (spec 04 §1.2).
    fn pod_mtu(&self) -> &str {
        self.env("POD_MTU").or(self.env("AWS_VPC_ENI_MTU")).unwrap_or("9001")
    }

    fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The list of `deploy/10-aws.conflist` with its placeholders filled in.
    /// `egress` is the node's address that pods leave by.
    pub(super) fn conflist(&self, socket: &Path, dir: &Path, egress: Option<IpAddr>) -> String {
        let mut plugins = vec![json!({
            "name": "aws-cni",
            "type": "aws-cni",
            "vethPrefix": "eni",
            "mtu": self.pod_mtu(),
            "podSGEnforcingMode": "strict",
            "pluginLogFile": dir.join("plugin.log"),
            "pluginLogLevel": "DEBUG",
            "ipamdSocket": socket,
            "capabilities": {"io.kubernetes.cri.pod-annotations": true},
        })];
        if let Some(node) = egress {
            let (subnet, route) =
                if node.is_ipv4() { ("169.254.172.0/22", "0.0.0.0/0") } else { ("fd00::ac:00/118", "::/0") };
            plugins.push(json!({
                "name": "egress-cni",
                "type": "egress-cni",
                "mtu": self.pod_mtu(),
                "enabled": "true",
                "randomizeSNAT": "prng",
                "nodeIP": node,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": subnet}]],
                    "routes": [{"dst": route}],
                    "dataDir": dir.join(EGRESS_ADDRESSES),
                },
                "pluginLogFile": dir.join("egress.log"),
                "pluginLogLevel": "DEBUG",
            }));
        }
        if self.portmap {
            plugins.push(json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}));
        }
        json!({"cniVersion": "0.4.0", "name": "aws-cni", "disableCheck": true, "plugins": plugins}).to_string()
    }
}

/// Where `host-local` keeps the egress addresses, in the node's directory.
pub const EGRESS_ADDRESSES: &str = "egress-ipam";

/// Cargo's target directory of this tree.
#[must_use]
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from)
}

/// Debian's directory of the standard plugins.
pub const STANDARD_PLUGINS: &str = "/usr/lib/cni";
