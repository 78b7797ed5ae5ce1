//! The daemon of a node: its environment, its start and end, what it says of itself.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Node, options};
use crate::shell::get;

impl Node {
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
            ("AWS_VPC_K8S_PLUGIN_LOG_FILE", path("plugin.log")),
            ("AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE", path("egress.log")),
            ("AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE", path("egress.log")),
            ("AWS_VPC_K8S_PLUGIN_LOG_LEVEL", "DEBUG".to_owned()),
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

    /// The daemon's program with its environment, in the node's namespace.
    fn program(&self) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.netns()])
            .arg(self.options.binaries.join("ipamd"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.daemon_env())
            .stdin(Stdio::null());
        command
    }

    /// The CNI network list of this node, as its entrypoint has it made (spec 04 §15).
    pub(super) fn conflist(&self) -> Result<String> {
        let mut program = self.program();
        let output = program.arg("conflist").arg(options::template()).output().with_context(|| self.cannot_run())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "there is no list of plugins: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn cannot_run(&self) -> String {
        format!("{} cannot be run; build it first", self.options.binaries.join("ipamd").display())
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
    /// It ends, or does not serve within two minutes: with the end of its log.
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
            if begun.elapsed() > Duration::from_secs(120) {
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
        let mut program = self.program();
        let child = program.process_group(0).stdout(Stdio::null()).stderr(errors).spawn();
        self.daemon = Some(child.with_context(|| self.cannot_run())?);
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

    /// Addresses in the pool, and those that pods have.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn pool(&self) -> Result<(u64, u64)> {
        let card = self.enis()?;
        Ok((card["TotalIPs"].as_u64().unwrap_or(0), card["AssignedIPs"].as_u64().unwrap_or(0)))
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
}

/// Whether something accepts connections.
fn serves(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}
