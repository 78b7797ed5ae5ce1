//! The simulated AWS with one daemon. The checkpoint lies in memory (`/dev/shm`), as `/var/run` does in production; logs
//! are written at the default level, to a file.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use ring::cluster::Objects;
use ring::{Node, Options};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::client::{Client, block_on};

/// What the daemon is to meet.
#[derive(Debug, Clone)]
pub struct Spec {
    pub instance_type: &'static str,
    /// `instant` or `realistic`.
    pub delays: &'static str,
    /// With a node's network namespace and real interfaces; needs root. Without: gRPC alone.
    pub namespaces: bool,
    pub env: &'static [(&'static str, &'static str)],
    /// With the image's list of pods per instance type in its place; without, a node takes 110. Needs root.
    pub max_pods: bool,
    /// The account, by its name in host/sim; empty: the usual one.
    pub preset: &'static str,
}

/// A simulated AWS and, once started, a daemon. All goes when it is dropped.
#[derive(Debug)]
pub struct Lab {
    kind: Kind,
    dir: tempfile::TempDir,
    _image: Option<Image>,
}

#[derive(Debug)]
enum Kind {
    Namespaces(Box<Node>),
    Loopback(Bare),
}

#[derive(Debug)]
struct Bare {
    binaries: PathBuf,
    env: Vec<(String, String)>,
    sim: Child,
    ec2: String,
    daemon: Option<Child>,
}

impl Lab {
    /// # Errors
    /// What is missing.
    pub fn new(spec: &Spec) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("reservoir-bench-").tempdir_in("/dev/shm")?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        let mut env: Vec<(String, String)> = vec![
            ("AWS_VPC_K8S_CNI_BACKING_STORE".to_owned(), path("ipam.json")),
            ("INTROSPECTION_BIND_ADDRESS".to_owned(), format!("unix:{}", path("introspection.sock"))),
            ("RESERVOIR_METRICS_ADDRESS".to_owned(), format!("unix:{}", path("metrics.sock"))),
        ];
        env.extend(spec.env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let mut binaries = binaries();
        for name in ["ipamd", "aws-sim"] {
            if !binaries.join(name).is_file() {
                bail!("{} is missing: make bench builds it", binaries.join(name).display());
            }
        }
        if (spec.namespaces || spec.max_pods) && !rustix::process::geteuid().is_root() {
            bail!("needs root");
        }
        let image = if spec.max_pods { Some(Image::new(dir.path(), &binaries)?) } else { None };
        if image.is_some() {
            binaries = dir.path().join("bin");
        }
        let kind = if spec.namespaces {
            let options = Options {
                instance_type: spec.instance_type.to_owned(),
                delays: spec.delays.to_owned(),
                env,
                sim: if spec.preset.is_empty() { vec![] } else { vec!["--preset".to_owned(), spec.preset.to_owned()] },
                binaries,
                ..Options::of_tree()
            };
            Kind::Namespaces(Box::new(Node::new(options)?))
        } else {
            Kind::Loopback(Bare::new(spec, dir.path(), binaries, env)?)
        };
        Ok(Self { kind, dir, _image: image })
    }

    /// Starts the daemon and waits until its health is SERVING; how long that took.
    ///
    /// # Errors
    /// It does not serve, with the end of its log.
    pub fn start(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        match &mut self.kind {
            Kind::Namespaces(node) => node.spawn_daemon()?,
            Kind::Loopback(bare) => bare.spawn(self.dir.path())?,
        }
        let socket = self.socket();
        let serving = block_on(async {
            loop {
                if let Ok(client) = Client::connect(&socket).await
                    && client.health().await.is_ok()
                {
                    return Ok(());
                }
                if begun.elapsed() > Duration::from_secs(20) {
                    bail!("the daemon does not serve");
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        serving.with_context(|| format!("the end of its log:\n{}", self.log_tail()))?;
        Ok(begun.elapsed())
    }

    /// Starts the daemon and does not wait.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn spawn(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Namespaces(node) => node.spawn_daemon(),
            Kind::Loopback(bare) => bare.spawn(self.dir.path()),
        }
    }

    /// Ends the daemon with SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Namespaces(node) => node.end_daemon(Signal::KILL),
            Kind::Loopback(bare) => bare.kill(),
        }
    }

    /// Serves these objects of the cluster to the daemon that is started next.
    ///
    /// # Errors
    /// The lab has no namespaces.
    pub fn serve(&mut self, objects: &Objects) -> Result<()> {
        match &mut self.kind {
            Kind::Namespaces(node) => node.start_cluster(objects),
            Kind::Loopback(_) => bail!("this lab has no namespaces"),
        }
    }

    /// # Errors
    /// There is none: the lab has no namespaces.
    pub fn node(&self) -> Result<&Node> {
        match &self.kind {
            Kind::Namespaces(node) => Ok(node),
            Kind::Loopback(_) => bail!("this lab has no namespaces"),
        }
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        match &self.kind {
            Kind::Namespaces(node) => node.dir().join("ipamd.sock"),
            Kind::Loopback(_) => self.dir.path().join("ipamd.sock"),
        }
    }

    /// Where the daemon looks for a component.
    #[must_use]
    pub fn policy_dir(&self) -> PathBuf {
        match &self.kind {
            Kind::Namespaces(node) => node.dir().join("policy"),
            Kind::Loopback(_) => self.dir.path().join("policy"),
        }
    }

    /// What the daemon says of its policy.
    ///
    /// # Errors
    /// It does not answer.
    pub fn policy_status(&self) -> Result<Value> {
        let socket = UnixStream::connect(self.dir.path().join("introspection.sock"))?;
        Ok(serde_json::from_str(&get(socket, "/v1/policy")?)?)
    }

    /// Calls of the custom component that failed.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn policy_failures(&self) -> Result<u64> {
        let status = self.policy_status()?;
        let failed = status["counts"]["failed"].as_object().ok_or_else(|| anyhow!("no failures in {status}"))?;
        Ok(failed.iter().filter(|(by, _)| by.starts_with("custom/")).filter_map(|(_, n)| n.as_u64()).sum())
    }

    /// The daemon's process.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        let pid = match &self.kind {
            Kind::Namespaces(node) => node.daemon_pid(),
            Kind::Loopback(bare) => bare.daemon.as_ref().map(Child::id),
        };
        pid.ok_or_else(|| anyhow!("the daemon does not run"))
    }

    fn log_tail(&self) -> String {
        match &self.kind {
            Kind::Namespaces(node) => node.log_tail(5),
            Kind::Loopback(_) => {
                let log = fs::read_to_string(self.dir.path().join("ipamd.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                lines[lines.len().saturating_sub(5)..].join("\n")
            }
        }
    }

    /// Addresses that the daemon holds, and those on pods.
    ///
    /// # Errors
    /// It does not answer.
    pub fn addresses(&self) -> Result<(u64, u64)> {
        let socket = UnixStream::connect(self.dir.path().join("introspection.sock"))?;
        let all: Value = serde_json::from_str(&get(socket, "/v1/enis")?)?;
        let number = |name: &str| all["0"][name].as_u64().ok_or_else(|| anyhow!("no {name} in {all}"));
        Ok((number("TotalIPs")?, number("AssignedIPs")?))
    }

    /// How many calls the simulated AWS has had: of EC2, and IMDS reads.
    ///
    /// # Errors
    /// It does not answer.
    pub fn calls(&self) -> Result<(u64, u64)> {
        let ec2 = match &self.kind {
            Kind::Namespaces(node) => node.ec2(),
            Kind::Loopback(bare) => &bare.ec2,
        };
        let stream = TcpStream::connect(ec2.trim_start_matches("http://"))?;
        let state: Value = serde_json::from_str(&get(stream, "/sim/state")?)?;
        let calls = state["calls"].as_object().ok_or_else(|| anyhow!("no calls in {state}"))?;
        let mut sums = (0, 0);
        for (api, count) in calls {
            let n = count["calls"].as_u64().unwrap_or(0);
            if api == "IMDS" { sums.1 += n } else { sums.0 += n }
        }
        Ok(sums)
    }

    /// Waits until the daemon holds at least `addresses` and asks EC2 nothing for a second.
    ///
    /// # Errors
    /// It does not get there within half a minute.
    pub fn settle(&self, addresses: u64) -> Result<()> {
        let begun = Instant::now();
        let mut before = self.calls()?;
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = self.calls()?;
            // The socket comes a moment after the gRPC one.
            let held = self.addresses().map_or(0, |(total, _)| total);
            if held >= addresses && now.0 == before.0 {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(30) {
                bail!("the pool does not settle: {held} addresses, {addresses} wanted");
            }
            before = now;
        }
    }
}

/// The container image's directory as the daemon sees it: mounted in a mount namespace of its own, by a script that
/// stands in the daemon's place and becomes it.
#[derive(Debug)]
struct Image {
    /// The mount point, if it was made for this.
    made: bool,
}

impl Image {
    const DIR: &str = "/app";

    fn new(dir: &Path, binaries: &Path) -> Result<Self> {
        let (app, bin) = (dir.join("app"), dir.join("bin"));
        for dir in [&app, &bin] {
            fs::create_dir(dir)?;
        }
        // Interfaces × (addresses - 1) + 2, as the list in the image says.
        fs::write(app.join("eni-max-pods.txt"), "c5.4xlarge 234\nm5.24xlarge 737\n")?;
        let script = format!(
            "#!/bin/sh\nexec unshare --mount --propagation private sh -c 'mount --bind {} {} && exec {}'\n",
            app.display(),
            Self::DIR,
            binaries.join("ipamd").canonicalize()?.display()
        );
        fs::write(bin.join("ipamd"), script)?;
        fs::set_permissions(bin.join("ipamd"), fs::Permissions::from_mode(0o755))?;
        std::os::unix::fs::symlink(binaries.join("aws-sim").canonicalize()?, bin.join("aws-sim"))?;
        let made = fs::create_dir(Self::DIR).is_ok();
        Ok(Self { made })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.made {
            // Empty on this side of the mount.
            let _ = fs::remove_dir(Self::DIR);
        }
    }
}

impl Bare {
    fn new(spec: &Spec, dir: &Path, binaries: PathBuf, more: Vec<(String, String)>) -> Result<Self> {
        let mut sim = Command::new(binaries.join("aws-sim"))
            .args(["--instance-type", spec.instance_type, "--subnet-cidr", "10.0.96.0/19", "--delays", spec.delays])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.join("aws-sim.log"))?)
            .spawn()
            .context("aws-sim cannot be run")?;
        let mut line = String::new();
        if let Some(out) = sim.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let ready: Value = serde_json::from_str(&line).with_context(|| format!("aws-sim said {line:?}"))?;
        let url = |v: Option<&Value>| v.and_then(Value::as_str).map(|a| format!("http://{a}"));
        let ec2 = url(ready.get("ec2")).ok_or_else(|| anyhow!("no EC2 address in {line}"))?;
        let imds = url(ready["imds"].as_object().and_then(|m| m.values().next()));
        let imds = imds.ok_or_else(|| anyhow!("no IMDS address in {line}"))?;
        let path = |name: &str| dir.join(name).display().to_string();
        let mut env: Vec<(String, String)> = [
            ("ENABLE_IPv4", "true".to_owned()),
            ("AWS_ENDPOINT_URL_EC2", ec2.clone()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds),
            ("AWS_ACCESS_KEY_ID", "simulated".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "simulated".to_owned()),
            ("AWS_VPC_K8S_CNI_LOG_FILE", path("ipamd.log")),
            ("RESERVOIR_IPAMD_SOCKET", path("ipamd.sock")),
            ("RESERVOIR_POLICY_DIR", path("policy")),
            ("RESERVOIR_HOST_NETWORK", "none".to_owned()),
            ("MY_NODE_NAME", "node-1".to_owned()),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into();
        env.extend(more);
        Ok(Self { binaries, env, sim, ec2, daemon: None })
    }

    fn spawn(&mut self, dir: &Path) -> Result<()> {
        let _ = fs::remove_file(dir.join("ipamd.sock"));
        let child = Command::new(self.binaries.join("ipamd"))
            .env_clear()
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("ipamd.err"))?)
            .spawn()
            .context("ipamd cannot be run")?;
        self.daemon = Some(child);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().ok_or_else(|| anyhow!("the daemon does not run"))?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.kill();
        if let Some(pid) = i32::try_from(self.sim.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.sim.wait();
    }
}

/// `RING_BINARIES`, or where this program is.
fn binaries() -> PathBuf {
    let own = || std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned)).unwrap_or_default();
    std::env::var_os("RING_BINARIES").map_or_else(own, PathBuf::from)
}

/// One HTTP GET.
fn get(mut stream: impl Read + Write, path: &str) -> Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| anyhow!("{path}: no HTTP answer"))?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{path}: {head}");
    }
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { Ok(body.to_owned()) }
}

fn unchunk(mut body: &str) -> Result<String> {
    let mut all = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").ok_or_else(|| anyhow!("a chunk has no size"))?;
        let size = usize::from_str_radix(size.trim(), 16).context("the size of a chunk")?;
        if size == 0 {
            return Ok(all);
        }
        all.push_str(rest.get(..size).ok_or_else(|| anyhow!("a chunk is cut off"))?);
        body = rest.get(size + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together() {
        assert_eq!(unchunk("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap(), "abcde");
        assert!(unchunk("9\r\nabc\r\n").is_err());
    }
}
