//! The node under test. All names carry the process id, and everything is taken down when it is dropped.

mod aws;
mod daemon;
mod options;
mod pods;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use reservoir_kube::testing::Objects;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub use self::options::{EGRESS_ADDRESSES, Options, STANDARD_PLUGINS, target_dir};
pub use self::pods::{Pod, end_namespace};
use crate::cluster::Cluster;
use crate::cni::Cni;
use crate::shell::{in_netns, run};

/// A running node.
#[derive(Debug)]
pub struct Node {
    options: Options,
    tag: String,
    dir: tempfile::TempDir,
    sim: Child,
    ec2: String,
    imds: String,
    daemon: Option<Child>,
    cluster: Option<Cluster>,
    cni: Cni,
    pods: Vec<String>,
}

impl Node {
    /// Starts the simulated AWS and makes the namespaces; the daemon comes with [`Node::start_daemon`].
    ///
    /// # Errors
    /// What is missing or does not start.
    pub fn new(options: Options) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("reservoir-").tempdir()?;
        fs::create_dir_all(dir.path().join("policy"))?;
        let sim_binary = options.binaries.join("aws-sim");
        let log = fs::File::create(dir.path().join("aws-sim.log"))?;
        let mut sim = Command::new(&sim_binary)
            .args(["--instance-type", &options.instance_type, "--subnet-cidr", &options.subnet])
            .args(["--create-netns"])
            .args(["--node-netns", &format!("rn{tag}"), "--vpc-netns", &format!("rv{tag}")])
            .args(if options.delays.is_empty() { vec![] } else { vec!["--delays", &options.delays] })
            .args(&options.sim)
            // A Ctrl-C at the terminal is for us alone; we end what we started, in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be run; build it first", sim_binary.display()))?;
        let out = sim.stdout.take().ok_or_else(|| anyhow!("no output of the simulated AWS"))?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).with_context(|| {
            let log = fs::read_to_string(dir.path().join("aws-sim.log")).unwrap_or_default();
            format!("the simulated AWS did not start: {line}{log}")
        })?;
        let address = |v: &Value| v.as_str().map(|a| format!("http://{a}"));
        let ec2 = address(&ready["ec2"]).ok_or_else(|| anyhow!("no EC2 address in {line}"))?;
        let imds = ready["imds"].as_object().and_then(|m| m.values().next()).and_then(address);
        let imds = imds.ok_or_else(|| anyhow!("no IMDS address in {line}"))?;
        let netns = format!("rn{tag}");
        // The node image's part (spec 04 §8.1: nobody of the CNI turns it on); without it no pod reaches further than the
        // node. Forwarding of IPv6 is the daemon's to turn on, where there is a mode that needs it.
        in_netns(&netns, "sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
        let plugin_dir = dir.path().join("bin");
        fs::create_dir_all(&plugin_dir)?;
        fs::copy(&options.plugin, plugin_dir.join("aws-cni"))
            .with_context(|| format!("{} is missing; run cni/build.sh", options.plugin.display()))?;
        if options.egress {
            let plugin = options.plugin.with_file_name("egress-cni");
            fs::copy(&plugin, plugin_dir.join("egress-cni"))
                .with_context(|| format!("{} is missing; run cni/build.sh", plugin.display()))?;
        }
        let mut node = Self {
            options,
            tag,
            dir,
            sim,
            ec2,
            imds,
            daemon: None,
            cluster: None,
            cni: Cni::default(),
            pods: Vec::new(),
        };
        let list = node.options.adapt(&node.conflist()?, &node.socket(), node.dir())?;
        node.cni = Cni::new(&list, &[&plugin_dir, Path::new(STANDARD_PLUGINS)], &netns)?;
        Ok(node)
    }

    /// Starts an API server with these objects, for the daemons that are started from now on.
    ///
    /// # Errors
    /// Those of its socket and of the kubeconfig.
    pub fn start_cluster(&mut self, objects: &Objects) -> Result<()> {
        self.cluster = Some(Cluster::start(&self.netns(), &self.dir.path().join("kubeconfig"), objects.clone())?);
        Ok(())
    }

    /// The node's network namespace.
    #[must_use]
    pub fn netns(&self) -> String {
        format!("rn{}", self.tag)
    }

    /// The VPC's router; `-host` and `-inet` behind it are a host in the VPC and one in the internet.
    #[must_use]
    pub fn vpc_netns(&self) -> String {
        format!("rv{}", self.tag)
    }

    /// Checkpoint, socket, logs and the policy directory are here.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("ipamd.sock")
    }

    /// Where the simulated EC2 and its admin API are.
    #[must_use]
    pub fn ec2(&self) -> &str {
        &self.ec2
    }

    #[must_use]
    pub fn cni(&self) -> &Cni {
        &self.cni
    }

    /// The node's own address of its pods' family: that of its primary interface.
    ///
    /// # Errors
    /// It has none.
    pub fn address(&self) -> Result<IpAddr> {
        primary_address(&self.netns(), self.is_ipv6())
    }

    /// The node's own address of the other family: what pods leave by with `egress-cni`.
    ///
    /// # Errors
    /// It has none.
    pub fn other_address(&self) -> Result<IpAddr> {
        primary_address(&self.netns(), !self.is_ipv6())
    }

    fn is_ipv6(&self) -> bool {
        self.options.is_ipv6()
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// It is not within `patience`: with what was waited for and the end of the daemon's log.
    pub fn wait_for(&self, what: &str, patience: Duration, mut so: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            let last = so(self);
            if matches!(last, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > until {
                let last = last.err().map(|e| format!(" ({e:#})")).unwrap_or_default();
                bail!(
                    "not within {patience:?}: {what}{last}
{}",
                    self.log_tail(30)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The address of a node's primary interface.
fn primary_address(netns: &str, ipv6: bool) -> Result<IpAddr> {
    let (family, word) = if ipv6 { ("-6", "inet6") } else { ("-4", "inet") };
    let text = in_netns(netns, "ip", &[family, "-o", "addr", "show", "eth0", "scope", "global"])?;
    let address = text.split_whitespace().skip_while(|w| *w != word).nth(1).and_then(|a| a.split('/').next());
    Ok(address.ok_or_else(|| anyhow!("eth0 has no {word} address: {text}"))?.parse()?)
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            let _ = self.end_daemon(Signal::KILL);
        }
        for netns in &self.pods {
            let _ = run("ip", &["netns", "del", netns]);
        }
        // It removes its namespaces itself.
        if let Some(pid) = i32::try_from(self.sim.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.sim.wait();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log_tail(40));
        }
    }
}
