//! Runs a network configuration list as libcni does (CNI specification 1.1.0, section 3): each plugin gets its own
//! configuration with the list's name and version and the result of the one before.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Map, Value, json};

/// The capability of containerd and CRI-O that tells plugins a pod's annotations.
pub const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// The annotations of a pod whose traffic is limited.
pub const INGRESS_BANDWIDTH: &str = "kubernetes.io/ingress-bandwidth";
pub const EGRESS_BANDWIDTH: &str = "kubernetes.io/egress-bandwidth";

/// A list, and where its plugins are.
#[derive(Debug, Clone, Default)]
pub struct Cni {
    list: Value,
    path: Vec<PathBuf>,
    /// Run the plugins inside this namespace: the node.
    netns: String,
}

/// One pod's attachment.
#[derive(Debug, Clone)]
pub struct Attachment {
    pub container: String,
    /// Path of the pod's network namespace; empty if it is gone.
    pub netns: String,
    pub ifname: String,
    pub namespace: String,
    pub pod: String,
    /// The pod's, for plugins that declare that they want them.
    pub annotations: BTreeMap<String, String>,
}

impl Attachment {
    /// What containerd makes of the pod's annotations for the plugin `bandwidth`: bits in a second. Numbers alone are
    /// understood here, no `10M`.
    fn bandwidth(&self) -> Value {
        let mut limits = Map::new();
        for (direction, annotation) in [("ingress", INGRESS_BANDWIDTH), ("egress", EGRESS_BANDWIDTH)] {
            if let Some(rate) = self.annotations.get(annotation).and_then(|rate| rate.parse::<u64>().ok()) {
                limits.insert(format!("{direction}Rate"), json!(rate));
                limits.insert(format!("{direction}Burst"), json!(u32::MAX));
            }
        }
        Value::Object(limits)
    }
}

impl Cni {
    /// # Errors
    /// The list is not one.
    pub fn new(list: &str, path: &[&Path], netns: &str) -> Result<Self> {
        let list: Value = serde_json::from_str(list).context("the configuration list")?;
        if !list["plugins"].is_array() {
            bail!("the configuration list has no plugins");
        }
        Ok(Self { list, path: path.iter().map(|p| (*p).to_owned()).collect(), netns: netns.to_owned() })
    }

    /// ADD through the whole chain; the result of the last plugin.
    ///
    /// # Errors
    /// What the plugin that failed said.
    pub fn add(&self, attachment: &Attachment) -> Result<Value> {
        let mut previous = Value::Null;
        for plugin in self.plugins() {
            let printed = self.invoke("ADD", plugin, &previous, attachment)?;
            previous = serde_json::from_str(&printed).with_context(|| format!("the result of ADD: {printed}"))?;
        }
        Ok(previous)
    }

    /// CHECK through the whole chain.
    ///
    /// # Errors
    /// What the plugin that failed said.
    pub fn check(&self, attachment: &Attachment, result: &Value) -> Result<()> {
        for plugin in self.plugins() {
            self.invoke("CHECK", plugin, result, attachment)?;
        }
        Ok(())
    }

    /// DEL through the whole chain, last plugin first.
    ///
    /// # Errors
    /// What the plugin that failed said.
    pub fn del(&self, attachment: &Attachment, result: &Value) -> Result<()> {
        for plugin in self.plugins().iter().rev() {
            self.invoke("DEL", plugin, result, attachment)?;
        }
        Ok(())
    }

    /// The plugins of the list, in its order.
    #[must_use]
    pub fn types(&self) -> Vec<&str> {
        self.plugins().iter().filter_map(|plugin| plugin["type"].as_str()).collect()
    }

    fn plugins(&self) -> &[Value] {
        self.list["plugins"].as_array().map_or(&[], Vec::as_slice)
    }

    fn invoke(&self, command: &str, plugin: &Value, previous: &Value, attachment: &Attachment) -> Result<String> {
        let mut config: Map<String, Value> = plugin.as_object().cloned().unwrap_or_default();
        config.insert("name".to_owned(), self.list["name"].clone());
        config.insert("cniVersion".to_owned(), self.list["cniVersion"].clone());
        if let Some(capabilities) = config.remove("capabilities") {
            let offered = [
                ("portMappings", json!([])),
                ("bandwidth", attachment.bandwidth()),
                (POD_ANNOTATIONS, json!(attachment.annotations)),
            ];
            let wanted = offered.into_iter().filter(|(name, _)| capabilities[*name] == json!(true));
            let given: Map<String, Value> = wanted.map(|(name, value)| (name.to_owned(), value)).collect();
            if !given.is_empty() {
                config.insert("runtimeConfig".to_owned(), Value::Object(given));
            }
        }
        if !previous.is_null() {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        let kind = plugin["type"].as_str().ok_or_else(|| anyhow!("a plugin of the list has no type"))?;
        let binary = self
            .path
            .iter()
            .map(|dir| dir.join(kind))
            .find(|p| p.is_file())
            .ok_or_else(|| anyhow!("the plugin {kind} is in none of {:?}", self.path))?;
        let path = std::env::join_paths(&self.path)?;
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.netns])
            .arg(&binary)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &attachment.container)
            .env("CNI_NETNS", &attachment.netns)
            .env("CNI_IFNAME", &attachment.ifname)
            .env("CNI_PATH", path)
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=u-{}",
                    attachment.namespace, attachment.pod, attachment.container, attachment.pod
                ),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be run", binary.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(Value::Object(config).to_string().as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let said: Value = serde_json::from_str(&printed).unwrap_or(Value::Null);
            let message = said["msg"].as_str().map_or_else(|| printed.clone(), str::to_owned);
            let details = said["details"].as_str().map(|d| format!(" ({d})")).unwrap_or_default();
            bail!("{kind} {command}: {message}{details}");
        }
        Ok(printed)
    }
}
