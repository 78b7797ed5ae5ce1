//! Pods: their namespaces, the plugin run for them as a process, and the same wiring done in this process.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use reservoir_net::kernel::Kernel;
use reservoir_net::names;
use reservoir_net::netns::Netns;
use reservoir_net::pod::{MAX_MTU, PodAddress, PodInterface, PodSetup, unwire, wire};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::lab::Lab;

/// Network namespaces, made together and removed together.
#[derive(Debug)]
pub struct Namespaces(Vec<String>);

impl Namespaces {
    /// # Errors
    /// No root, or no `ip`.
    pub fn make(count: usize) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            bail!("needs root");
        }
        let set = MADE.fetch_add(1, Ordering::Relaxed);
        let names = Self((0..count).map(|i| format!("rb{}x{set}-{i}", std::process::id())).collect());
        names.batch("add")?;
        Ok(names)
    }

    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    fn batch(&self, verb: &str) -> Result<()> {
        let mut ip = Command::new("ip")
            .args(["-force", "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("ip cannot be run")?;
        let text: String = self.0.iter().map(|name| format!("netns {verb} {name}\n")).collect();
        if let Some(mut stdin) = ip.stdin.take() {
            stdin.write_all(text.as_bytes())?;
        }
        if !ip.wait()?.success() && verb == "add" {
            bail!("ip netns {verb} failed");
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let _ = self.batch("del");
    }
}

/// Where `ip netns` keeps a namespace.
#[must_use]
pub fn path(netns: &str) -> String {
    format!("/var/run/netns/{netns}")
}

/// Runs `work` on a thread of its own inside a namespace. Programs that it starts are inside, too.
///
/// # Errors
/// The namespace cannot be entered, or the work's own.
pub fn inside<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let netns = fs::File::open(path(netns)).with_context(|| format!("network namespace {netns}"))?;
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        });
        inside.join().unwrap_or_else(|_| Err(anyhow!("the thread inside the namespace panicked")))
    })
}

/// Waits until the kernel has taken down the pods' interfaces that were in `netns`: it does so in its own time.
///
/// # Errors
/// The namespace cannot be entered.
pub fn quiet(netns: &str) -> Result<()> {
    inside(netns, || {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            let links = Kernel::host()?.links(reservoir_net::plan::Side::Host)?;
            if !links.iter().any(|l| l.name.starts_with("eni")) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        // Other leftovers have no name to wait for.
        thread::sleep(Duration::from_millis(300));
        Ok(())
    })
}

/// The plugin as a container runtime runs it: from the node's namespace, configuration on stdin, result on stdout.
#[derive(Debug, Clone)]
pub struct Plugin {
    binary: PathBuf,
    config: Value,
}

/// How one run went.
#[derive(Debug)]
pub struct Run {
    pub took: Duration,
    pub printed: String,
    pub succeeded: bool,
}

impl Plugin {
    /// # Errors
    /// The lab has no namespaces.
    pub fn of(lab: &Lab) -> Result<Self> {
        let node = lab.node()?;
        let config = json!({
            "cniVersion": "1.0.0", "name": "aws-cni", "type": "aws-cni", "vethPrefix": "eni", "mtu": "9001",
            "podSGEnforcingMode": "strict", "pluginLogFile": node.dir().join("plugin.log"), "pluginLogLevel": "DEBUG",
            "ipamdSocket": lab.socket(),
        });
        Ok(Self { binary: plugin_binary()?, config })
    }

    /// For pods that ask for every network card.
    #[must_use]
    pub fn on_every_card(mut self) -> Self {
        let annotations = json!({"k8s.amazonaws.com/nicConfig": "multi-nic-attachment"});
        self.config["runtimeConfig"] = json!({"io.kubernetes.cri.pod-annotations": annotations});
        self
    }

    /// # Errors
    /// It cannot be run. That it failed is in the answer.
    pub fn run(&self, command: &str, netns: &str, previous: Option<&str>) -> Result<Run> {
        let mut config = self.config.clone();
        if let Some(previous) = previous {
            config["prevResult"] = serde_json::from_str(previous).context("the result of ADD")?;
        }
        let container = format!("{netns:0>64}");
        let environment = [
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", container.clone()),
            ("CNI_NETNS", path(netns)),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
            (
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={netns};\
                     K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID=u-{netns}"
                ),
            ),
        ];
        run(&self.binary, &environment, config.to_string().as_bytes())
    }
}

/// `RING_PLUGIN`, or the one of this tree.
///
/// # Errors
/// There is none.
pub fn plugin_binary() -> Result<PathBuf> {
    let binary = ring::Options::of_tree().plugin;
    if binary.is_file() { Ok(binary) } else { bail!("{} is missing: make plugin builds it", binary.display()) }
}

/// Runs a program with this environment alone and waits for its end.
///
/// # Errors
/// It cannot be run.
pub fn run(binary: &Path, environment: &[(&str, String)], input: &[u8]) -> Result<Run> {
    let begun = Instant::now();
    let mut child = Command::new(binary)
        .env_clear()
        .envs(environment.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{} cannot be run", binary.display()))?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(input)
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(error.into());
    }
    let output = child.wait_with_output()?;
    let took = begun.elapsed();
    Ok(Run { took, printed: String::from_utf8_lossy(&output.stdout).into_owned(), succeeded: output.status.success() })
}

/// A static program that does nothing, in `dir`: what starting any program costs.
///
/// # Errors
/// There is no C compiler.
pub fn nothing(dir: &Path) -> Result<PathBuf> {
    let (source, program) = (dir.join("nothing.c"), dir.join("nothing"));
    fs::write(&source, "int main(void) { return 0; }\n")?;
    let built = Command::new("cc").args(["-O2", "-static", "-o"]).arg(&program).arg(&source).status();
    if !built.context("cc cannot be run")?.success() {
        bail!("cc does not link statically");
    }
    Ok(program)
}

/// The plugin's netlink requests for one pod, sent by this process over sockets that are open before the clock starts.
#[derive(Debug)]
pub struct Wiring {
    setup: PodSetup,
    kernel: Kernel,
}

impl Wiring {
    /// Opens the sockets, from a thread inside the node's namespace. `number`: of the pod, for its address; 28 pods on
    /// each interface, those of the first in the main table, as the daemon hands addresses out.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(netns: &str, number: u32) -> Result<Self> {
        let mut kernel = Kernel::host()?;
        kernel.enter(&Netns::open(Path::new(&path(netns)))?)?;
        let address = std::net::Ipv4Addr::from_bits(u32::from_be_bytes([10, 0, 96, 16]) + number);
        let interfaces = vec![Self::interface(netns, 0, address.into(), number / 28 + 1)];
        Ok(Self { setup: PodSetup { netns: path(netns).into(), mtu: MAX_MTU, interfaces }, kernel })
    }

    /// The same for a pod with these addresses, each with the table its traffic leaves by.
    ///
    /// # Errors
    /// The kernel's.
    pub fn with(netns: &str, addresses: &[(IpAddr, u32)]) -> Result<Self> {
        let mut kernel = Kernel::host()?;
        kernel.enter(&Netns::open(Path::new(&path(netns)))?)?;
        let of = |(index, (address, table)): (usize, &(IpAddr, u32))| Self::interface(netns, index, *address, *table);
        let interfaces = addresses.iter().enumerate().map(of).collect();
        Ok(Self { setup: PodSetup { netns: path(netns).into(), mtu: MAX_MTU, interfaces }, kernel })
    }

    fn interface(netns: &str, index: usize, address: IpAddr, table: u32) -> PodInterface {
        PodInterface {
            name: names::container_interface("eth0", index),
            host_veth: names::host_veth("eni", "default", netns, index),
            address,
            table,
        }
    }

    /// What ADD asks of the kernel.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        wire(&self.setup, &mut self.kernel, |_| Ok(()))?;
        Ok(begun.elapsed())
    }

    /// What DEL asks of the kernel.
    ///
    /// # Errors
    /// The kernel's.
    pub fn del(&mut self) -> Result<Duration> {
        let addresses: Vec<_> =
            self.setup.interfaces.iter().map(|i| PodAddress { address: i.address, table: i.table }).collect();
        let begun = Instant::now();
        unwire(&addresses, &mut self.kernel)?;
        Ok(begun.elapsed())
    }
}
