//! The pods of a node: network namespaces that the plugin attaches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::Node;
use crate::cni::Attachment;
use crate::shell::{in_netns, run};
use crate::traffic::inside;

/// Removes a pod's namespace with its interfaces.
///
/// The kernel takes them down with the namespace, but that may live on for minutes: a TCP connection that was closed and
/// whose last segment was not acknowledged before the pod's routes went holds it.
///
/// # Errors
/// `ip`'s.
pub fn end_namespace(netns: &str) -> Result<()> {
    for link in in_netns(netns, "ip", &["-o", "link", "show", "type", "veth"])?.lines() {
        if let Some(name) = link.split([' ', ':', '@']).filter(|word| !word.is_empty()).nth(1) {
            run("ip", &["-n", netns, "link", "del", name])?;
        }
    }
    run("ip", &["netns", "del", netns])?;
    Ok(())
}

/// A pod: a network namespace with an attachment.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    pub netns: String,
    pub attachment: Attachment,
    pub result: Value,
    /// Of its first interface.
    pub ip: String,
    /// Of all its interfaces, in their order.
    pub ips: Vec<String>,
    pub took: Duration,
}

impl Node {
    /// Makes a pod's namespace and attaches it.
    ///
    /// # Errors
    /// What the plugin said. The namespace stays until the node is dropped.
    pub fn add_pod(&mut self, name: &str) -> Result<Pod> {
        let attachment = self.make_pod(name)?;
        self.attach(attachment)
    }

    /// Makes a pod's namespace alone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_pod(&mut self, name: &str) -> Result<Attachment> {
        let netns = format!("rp{}-{name}", self.tag);
        run("ip", &["netns", "add", &netns])?;
        self.pods.push(netns.clone());
        // A connection that is cut before its goodbye keeps a namespace that was taken away, with its interfaces, for
        // 100 s (ip-sysctl.rst): what is left is looked at sooner.
        inside(&netns, || Ok(std::fs::write("/proc/sys/net/ipv4/tcp_orphan_retries", "1")?))?;
        Ok(Attachment {
            container: format!("c{}{name}", self.tag),
            netns: format!("/var/run/netns/{netns}"),
            ifname: "eth0".to_owned(),
            namespace: "default".to_owned(),
            pod: name.to_owned(),
            annotations: BTreeMap::new(),
        })
    }

    /// Attaches a pod; from any thread.
    ///
    /// # Errors
    /// What the plugin said.
    pub fn attach(&self, attachment: Attachment) -> Result<Pod> {
        let begun = Instant::now();
        let result = self.cni.add(&attachment)?;
        let took = begun.elapsed();
        let ips =
            result["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str()?.split('/').next());
        let ips: Vec<String> = ips.map(str::to_owned).collect();
        let ip = ips.first().cloned().ok_or_else(|| anyhow!("the result has no address: {result}"))?;
        let netns = attachment.netns.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Pod { name: attachment.pod.clone(), netns, attachment, result, ip, ips, took })
    }

    /// Detaches a pod and removes its namespace.
    ///
    /// # Errors
    /// What the plugin said.
    pub fn remove_pod(&mut self, pod: &Pod) -> Result<()> {
        self.cni.del(&pod.attachment, &pod.result)?;
        self.drop_pod(&pod.netns)
    }

    /// Removes a pod's namespace without a DEL.
    ///
    /// # Errors
    /// The kernel's.
    pub fn drop_pod(&mut self, netns: &str) -> Result<()> {
        end_namespace(netns)?;
        self.pods.retain(|n| n != netns);
        Ok(())
    }

    /// Pods' rules, routes and links that the node still has: empty after the last DEL.
    ///
    /// # Errors
    /// `ip` cannot be run.
    pub fn pod_traces(&self) -> Result<Vec<String>> {
        let ns = self.netns();
        let prefix = self.options.env("AWS_VPC_K8S_CNI_VETHPREFIX").unwrap_or("eni");
        let is_pods = |name: &str| name.starts_with(prefix) || name.starts_with("veth");
        let mut traces = Vec::new();
        for family in ["-4", "-6"] {
            for line in in_netns(&ns, "ip", &[family, "rule"])?.lines() {
                if line.starts_with("512:") || line.starts_with("1536:") {
                    traces.push(format!("rule {family} {line}"));
                }
            }
            for line in in_netns(&ns, "ip", &[family, "route"])?.lines() {
                // Link-local routes are the kernel's and go with the link.
                let device = line.split_once(" dev ").map(|(_, device)| device);
                if device.is_some_and(is_pods) && !line.starts_with("fe80::/64 ") {
                    traces.push(format!("route {family} {line}"));
                }
            }
        }
        for line in in_netns(&ns, "ip", &["-o", "link"])?.lines() {
            if line.split_whitespace().nth(1).is_some_and(is_pods) {
                traces.push(format!("link {line}"));
            }
        }
        Ok(traces)
    }
}
