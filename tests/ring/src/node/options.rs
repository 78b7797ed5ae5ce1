//! How a node is made, and how its plugins' configuration list differs from a real node's.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

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

    pub(super) fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The list that the daemon's program has made of `deploy/10-aws.conflist`, for a node of many on one machine: with
    /// its own socket, and with addresses of its own for egress. Of the plugins that are always in it those stay that the
    /// options ask for: the rest costs each pod a process and, in figures, its time.
    pub(super) fn adapt(&self, rendered: &str, socket: &Path, dir: &Path) -> Result<String> {
        let mut list: Value = serde_json::from_str(rendered).with_context(|| format!("the list: {rendered}"))?;
        let plugins = list["plugins"].as_array_mut().ok_or_else(|| anyhow!("a list without plugins: {rendered}"))?;
        plugins.retain(|plugin| match plugin["type"].as_str() {
            Some("egress-cni") => self.egress,
            Some("portmap") => self.portmap,
            _ => true,
        });
        for plugin in plugins {
            match plugin["type"].as_str() {
                Some("aws-cni") => plugin["ipamdSocket"] = json!(socket),
                Some("egress-cni") => plugin["ipam"]["dataDir"] = json!(dir.join(EGRESS_ADDRESSES)),
                _ => {}
            }
        }
        Ok(list.to_string())
    }
}

/// What the list of a node is made of.
pub(super) fn template() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/10-aws.conflist")
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
