//! The node under test. All names carry the process id, and everything is taken down when it is dropped.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use reservoir_kube::testing::Objects;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::cni::{Attachment, Cni};
use crate::shell::{get, in_netns, run};

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
    /// Chain Debian's portmap behind it.
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
            portmap: false,
        }
    }
}

/// Cargo's target directory of this tree.
#[must_use]
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from)
}

/// Debian's directory of the standard plugins.
pub const STANDARD_PLUGINS: &str = "/usr/lib/cni";

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
        // The kubelet's part (spec 05: the daemon leaves it alone); without it no pod reaches further than the node.
        in_netns(&netns, "sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
        if is_ipv6(&options) {
            // In an IPv6 cluster it is the init container's (spec 05).
            in_netns(&netns, "sh", &["-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"])?;
        }
        let socket = dir.path().join("ipamd.sock");
        let list = conflist(&socket, dir.path(), options.portmap);
        let plugin_dir = dir.path().join("bin");
        fs::create_dir_all(&plugin_dir)?;
        fs::copy(&options.plugin, plugin_dir.join("aws-cni"))
            .with_context(|| format!("{} is missing; run cni/aws-cni/build.sh", options.plugin.display()))?;
        let cni = Cni::new(&list, &[&plugin_dir, Path::new(STANDARD_PLUGINS)], &netns)?;
        Ok(Self { options, tag, dir, sim, ec2, imds, daemon: None, cluster: None, cni, pods: Vec::new() })
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

    /// Where the simulated EC2 and its admin API are.
    #[must_use]
    pub fn ec2(&self) -> &str {
        &self.ec2
    }

    #[must_use]
    pub fn cni(&self) -> &Cni {
        &self.cni
    }

    /// The environment of the daemon.
    #[must_use]
    pub fn daemon_env(&self) -> Vec<(String, String)> {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut env: Vec<(String, String)> = [
            ("ENABLE_IPv4", "true".to_owned()),
            ("AWS_ENDPOINT_URL_EC2", self.ec2.clone()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.imds.clone()),
            ("AWS_ACCESS_KEY_ID", "simulated".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "simulated".to_owned()),
            ("AWS_VPC_K8S_CNI_BACKING_STORE", path("ipam.json")),
            ("AWS_VPC_K8S_CNI_LOG_FILE", path("ipamd.log")),
            ("RESERVOIR_IPAMD_SOCKET", path("ipamd.sock")),
            ("RESERVOIR_POLICY_DIR", path("policy")),
            ("RESERVOIR_METRICS_ADDRESS", "127.0.0.1:61678".to_owned()),
            ("MY_NODE_NAME", "node-1".to_owned()),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into();
        if self.cluster.is_some() {
            env.push(("KUBECONFIG".to_owned(), path("kubeconfig")));
        }
        for (key, value) in &self.options.env {
            env.retain(|(k, _)| k != key);
            env.push((key.clone(), value.clone()));
        }
        env
    }

    /// Changes a variable for the daemons that are started from now on; an empty value takes it away.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.options.env.retain(|(k, _)| k != key);
        if !value.is_empty() {
            self.options.env.push((key.to_owned(), value.to_owned()));
        }
    }

    /// Starts the daemon in the node's namespace and waits until it serves.
    ///
    /// # Errors
    /// It ends, or does not serve within half a minute: with the end of its log.
    pub fn start_daemon(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.spawn_daemon()?;
        let socket = self.dir.path().join("ipamd.sock");
        while !serves(&socket) {
            if let Some(daemon) = &mut self.daemon
                && let Some(status) = daemon.try_wait()?
            {
                bail!("the daemon ended ({status}):\n{}", self.log_tail(20));
            }
            if begun.elapsed() > Duration::from_secs(30) {
                bail!("the daemon does not serve:\n{}", self.log_tail(20));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(begun.elapsed())
    }

    /// Starts the daemon and does not wait.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn spawn_daemon(&mut self) -> Result<()> {
        // The socket of a killed daemon must not be taken for the new one's.
        let _ = fs::remove_file(self.dir.path().join("ipamd.sock"));
        let errors = fs::File::options().create(true).append(true).open(self.dir.path().join("ipamd.err"))?;
        let binary = self.options.binaries.join("ipamd");
        let child = Command::new("ip")
            .args(["netns", "exec", &self.netns()])
            .arg(&binary)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.daemon_env())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("{} cannot be run; build it first", binary.display()))?;
        self.daemon = Some(child);
        Ok(())
    }

    /// The daemon's process id. `ip netns exec` replaces itself by the program, so it is the daemon's own.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Ends the daemon with a signal and waits for its end.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub fn end_daemon(&mut self, signal: Signal) -> Result<()> {
        let mut daemon = self.daemon.take().ok_or_else(|| anyhow!("the daemon does not run"))?;
        let pid = i32::try_from(daemon.id()).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("no process id"))?;
        kill_process(pid, signal)?;
        daemon.wait()?;
        Ok(())
    }

    /// Sends the daemon a signal; [`Node::await_daemon`] tells how it ended.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal_daemon(&self, signal: Signal) -> Result<()> {
        let id = self.daemon_pid().ok_or_else(|| anyhow!("the daemon does not run"))?;
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("no process id"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for the daemon's end without taking it down; its exit code, if it was not killed.
    ///
    /// # Errors
    /// It still runs after `patience`.
    pub fn await_daemon(&mut self, patience: Duration) -> Result<Option<i32>> {
        let mut daemon = self.daemon.take().ok_or_else(|| anyhow!("the daemon does not run"))?;
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = daemon.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > until {
                self.daemon = Some(daemon);
                bail!("the daemon does not end:\n{}", self.log_tail(20));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The last lines of the daemon's log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let mut all = String::new();
        for name in ["ipamd.err", "ipamd.log"] {
            all.push_str(&fs::read_to_string(self.dir.path().join(name)).unwrap_or_default());
        }
        let all: Vec<&str> = all.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// `/v1/…` of the daemon.
    ///
    /// # Errors
    /// It does not answer.
    pub fn introspect(&self, path: &str) -> Result<String> {
        get(&self.netns(), &format!("http://127.0.0.1:61679{path}"))
    }

    /// `/v1/enis`, card 0.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn enis(&self) -> Result<Value> {
        Ok(self.cards()?["0"].clone())
    }

    /// `/v1/enis`, all cards by their numbers.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn cards(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.introspect("/v1/enis")?)?)
    }

    /// The value of an unlabelled metric.
    ///
    /// # Errors
    /// The daemon does not answer, or has no such metric.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = get(&self.netns(), "http://127.0.0.1:61678/metrics")?;
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.ok_or_else(|| anyhow!("no metric {name}"))?.trim().parse()?)
    }

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
        run("ip", &["netns", "del", &pod.netns])?;
        self.pods.retain(|n| *n != pod.netns);
        Ok(())
    }

    /// Removes a pod's namespace without a DEL.
    ///
    /// # Errors
    /// The kernel's.
    pub fn drop_pod(&mut self, netns: &str) -> Result<()> {
        run("ip", &["netns", "del", netns])?;
        self.pods.retain(|n| n != netns);
        Ok(())
    }

    /// What the simulated AWS finds wrong: addresses twice, interfaces left behind (spec 03 §16.7).
    ///
    /// # Errors
    /// It does not answer.
    pub fn audit(&self) -> Result<Value> {
        Ok(serde_json::from_str(&run("curl", &["-s", "-f", "--max-time", "10", &format!("{}/sim/audit", self.ec2)])?)?)
    }

    /// What the simulated AWS holds.
    ///
    /// # Errors
    /// It does not answer.
    pub fn sim_state(&self) -> Result<Value> {
        Ok(serde_json::from_str(&run("curl", &["-s", "-f", "--max-time", "10", &format!("{}/sim/state", self.ec2)])?)?)
    }

    /// What was asked of the simulated AWS.
    ///
    /// # Errors
    /// It does not answer.
    pub fn sim_log(&self) -> Result<Value> {
        Ok(serde_json::from_str(&run("curl", &["-s", "-f", "--max-time", "10", &format!("{}/sim/log", self.ec2)])?)?)
    }

    /// `POST /sim/<what>` of the simulated AWS.
    ///
    /// # Errors
    /// It does not answer, or does not understand.
    pub fn sim_post(&self, what: &str, body: &Value) -> Result<()> {
        let url = format!("{}/sim/{what}", self.ec2);
        run("curl", &["-s", "-f", "--max-time", "10", "-d", &body.to_string(), &url]).map(drop)
    }

    /// What somebody else in the account does: `POST /sim/do`; what it comes to.
    ///
    /// # Errors
    /// It does not answer, or EC2 would not let them.
    pub fn sim_do(&self, deed: &Value) -> Result<Value> {
        let url = format!("{}/sim/do", self.ec2);
        let answer = run("curl", &["-s", "--max-time", "10", "-d", &deed.to_string(), &url])?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| format!("{deed}: {answer}"))?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{deed}: {error}");
        }
        Ok(answer)
    }

    /// Something goes wrong from now on, in the words of host/sim; empty: no longer.
    ///
    /// # Errors
    /// The simulated AWS does not answer, or does not understand.
    pub fn sim_fault(&self, line: &str) -> Result<()> {
        let url = format!("{}/sim/faults", self.ec2);
        let how = if line.is_empty() { vec!["-X", "DELETE"] } else { vec!["-d", line] };
        let arguments = [vec!["-s", "-f", "--max-time", "10"], how, vec![&url]].concat();
        run("curl", &arguments).map(drop)
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("ipamd.sock")
    }

    /// The node's own address of its pods' family: that of its primary interface.
    ///
    /// # Errors
    /// It has none.
    pub fn address(&self) -> Result<IpAddr> {
        let (family, word) = if self.is_ipv6() { ("-6", "inet6") } else { ("-4", "inet") };
        let text = in_netns(&self.netns(), "ip", &[family, "-o", "addr", "show", "eth0", "scope", "global"])?;
        let address = text.split_whitespace().skip_while(|w| *w != word).nth(1).and_then(|a| a.split('/').next());
        Ok(address.ok_or_else(|| anyhow!("eth0 has no address: {text}"))?.parse()?)
    }

    fn is_ipv6(&self) -> bool {
        is_ipv6(&self.options)
    }

    /// Addresses in the pool, and those that pods have.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn pool(&self) -> Result<(u64, u64)> {
        let card = self.enis()?;
        Ok((card["TotalIPs"].as_u64().unwrap_or(0), card["AssignedIPs"].as_u64().unwrap_or(0)))
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

    /// Pods' rules, routes and links that the node still has: empty after the last DEL.
    ///
    /// # Errors
    /// `ip` cannot be run.
    pub fn pod_traces(&self) -> Result<Vec<String>> {
        let ns = self.netns();
        let mut traces = Vec::new();
        for family in ["-4", "-6"] {
            for line in in_netns(&ns, "ip", &[family, "rule"])?.lines() {
                if line.starts_with("512:") || line.starts_with("1536:") {
                    traces.push(format!("rule {family} {line}"));
                }
            }
            for line in in_netns(&ns, "ip", &[family, "route"])?.lines() {
                // Link-local routes are the kernel's and go with the link.
                if line.contains(" dev eni") && !line.starts_with("fe80::/64 ") {
                    traces.push(format!("route {family} {line}"));
                }
            }
        }
        for line in in_netns(&ns, "ip", &["-o", "link"])?.lines() {
            if line.split_whitespace().nth(1).is_some_and(|n| n.starts_with("eni")) {
                traces.push(format!("link {line}"));
            }
        }
        Ok(traces)
    }
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

/// Whether the daemon's pods get IPv6 addresses.
fn is_ipv6(options: &Options) -> bool {
    options.env.iter().any(|(key, value)| key == "ENABLE_IPv6" && value == "true")
}

/// Whether something accepts connections.
fn serves(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

/// The list of `deploy/10-aws.conflist` with its placeholders filled in.
fn conflist(socket: &Path, dir: &Path, portmap: bool) -> String {
    let mut plugins = vec![serde_json::json!({
        "name": "aws-cni",
        "type": "aws-cni",
        "vethPrefix": "eni",
        "mtu": "9001",
        "podSGEnforcingMode": "strict",
        "pluginLogFile": dir.join("plugin.log"),
        "pluginLogLevel": "DEBUG",
        "ipamdSocket": socket,
        "capabilities": {"io.kubernetes.cri.pod-annotations": true},
    })];
    if portmap {
        plugins.push(serde_json::json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}));
    }
    serde_json::json!({"cniVersion": "0.4.0", "name": "aws-cni", "disableCheck": true, "plugins": plugins}).to_string()
}
