//! A node, a daemon, and the real plugin between them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::support::Namespace;
use crate::trace::{self, Deed, Ended, Verdict};

pub const NODE: [&str; 2] = ["10.0.96.10/32", "2600:1f14:abc:d00::10/128"];

/// The addresses that a kind of pod has, with their route tables.
pub type Kind = (&'static str, &'static [(&'static str, i32)]);

pub const KINDS: [Kind; 4] = [
    ("IPv4", &[("10.0.97.31", 2)]),
    ("IPv6", &[("2600:1f14:abc:d00:5c1e::4", 254)]),
    ("IPv4 on two cards", &[("10.0.97.40", 254), ("10.0.200.40", 10_101)]),
    ("IPv6 on two cards", &[("2600:1f14:abc:d00:5c1e::5", 254), ("2600:1f14:abc:d00:7a20::2", 10_101)]),
];

pub struct World {
    pub node: Namespace,
    pub daemon: Daemon,
    /// Of branch pods.
    pub mode: &'static str,
    down: AtomicBool,
    addresses: &'static [(&'static str, i32)],
}

impl World {
    /// `None`, said loudly, where the real plugin cannot be traced on a real kernel.
    pub fn new(test: &str, kind: Kind) -> Option<Self> {
        Self::with(test, kind, "strict", None)
    }

    /// With a pod of one address that has a branch interface.
    pub fn with_branch(test: &str, kind: Kind, mode: &'static str) -> Option<Self> {
        Self::with(test, kind, mode, Some(7))
    }

    fn with(test: &str, kind: Kind, mode: &'static str, vlan: Option<i32>) -> Option<Self> {
        let node = Namespace::new(test)?;
        quick(&node);
        for address in NODE {
            node.ip(&format!("addr add {address} dev lo"));
        }
        let world =
            Self { node, daemon: Daemon::new(kind.1, vlan), mode, down: AtomicBool::new(false), addresses: kind.1 };
        match world.traced("STATUS", "", None, |_| Verdict::Go) {
            Ok(_) => Some(world),
            Err(reason) => {
                eprintln!("SKIPPED: {test}: {reason}");
                None
            }
        }
    }

    pub fn pod(&self) -> Namespace {
        let pod = Namespace::new("pod").unwrap();
        quick(&pod);
        pod
    }

    /// The real program, with the environment of a runtime. `AWS_CNI` names another build of it, such as the static one.
    pub fn command(command: &str, netns: &str) -> Command {
        let program = std::env::var_os("AWS_CNI").unwrap_or_else(|| env!("CARGO_BIN_EXE_aws-cni").into());
        let mut plugin = Command::new(program);
        plugin
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=hpc-0;K8S_POD_UID=u1")
            .env("CNI_PATH", "/opt/cni/bin");
        plugin
    }

    /// Whether the plugin finds the daemon.
    pub fn is_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    pub fn conf(&self, previous: Option<&Value>) -> String {
        let nowhere = "/nonexistent/ipamd.sock".as_ref();
        let socket = if self.down.load(Ordering::Relaxed) { nowhere } else { self.daemon.socket.as_path() };
        let mut conf = json!({"cniVersion": "1.1.0", "name": "aws-cni", "type": "aws-cni",
            "ipamdSocket": socket, "podSGEnforcingMode": self.mode, "pluginLogLevel": "fatal"});
        if let Some(previous) = previous {
            conf["prevResult"] = previous.clone();
        }
        conf.to_string()
    }

    pub fn traced(
        &self,
        command: &str,
        netns: &str,
        previous: Option<&Value>,
        judge: impl FnMut(&Deed) -> Verdict + Send,
    ) -> Result<Ended, String> {
        let mut judge = judge;
        self.node.run(|| trace::run(&mut Self::command(command, netns), &self.conf(previous), &mut judge))
    }

    /// Runs the plugin, which may do everything.
    pub fn run(&self, command: &str, netns: &str, previous: Option<&Value>) -> Ended {
        self.start(Self::command(command, netns), previous)
    }

    pub fn start(&self, mut command: Command, previous: Option<&Value>) -> Ended {
        use std::process::Stdio;

        let conf = self.conf(previous);
        self.node.run(move || {
            let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // One that refuses its environment does not read it.
            let _ = child.stdin.take().unwrap().write_all(conf.as_bytes());
            let output = child.wait_with_output().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            Ended { exit: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
        })
    }

    /// ADD, which must succeed.
    pub fn add(&self, pod: &Namespace) -> Value {
        let added = self.run("ADD", &path(pod), None);
        assert_eq!(added.exit, Some(0), "{added:?}");
        serde_json::from_str(&added.stdout).unwrap()
    }

    /// DEL, which must succeed.
    pub fn del(&self, netns: &str, previous: Option<&Value>) {
        let deleted = self.run("DEL", netns, previous);
        assert_eq!((deleted.exit, deleted.stdout.as_str()), (Some(0), ""), "{deleted:?}");
    }

    /// CHECK says that all is well, and packets say so too.
    pub fn works(&self, pod: &Namespace, result: &Value) {
        let checked = self.run("CHECK", &path(pod), Some(result));
        assert_eq!((checked.exit, checked.stdout.as_str()), (Some(0), ""), "{checked:?}");
        for (address, _) in self.addresses {
            talk(&self.node, pod, address.parse().unwrap());
        }
    }

    /// Nothing of the pod is on the host but what goes with its namespace; then that too.
    pub fn is_clean_after(&self, before: &reservoir_net::testing::Inventory, pod: Namespace) {
        for family in ["-4", "-6"] {
            let rules = self.node.ip(&format!("{family} rule show"));
            for (address, _) in self.addresses {
                assert!(!rules.contains(address), "{address} after DEL: {rules}");
            }
        }
        drop(pod);
        self.node.settles_to(before);
    }
}

/// Addresses are usable at once: duplicate address detection would take seconds each time.
fn quick(namespace: &Namespace) {
    namespace.run(|| {
        let path = "/proc/sys/net/ipv6/conf/default/accept_dad";
        if std::path::Path::new(path).exists() {
            std::fs::write(path, "0").unwrap();
        }
    });
}

pub fn path(pod: &Namespace) -> String {
    pod.path().display().to_string()
}

/// The kernel's error object, as the protocol wants it.
pub fn error(ended: &Ended) -> (u64, String) {
    assert_eq!(ended.exit, Some(1), "{ended:?}");
    let value: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    let msg = value["msg"].as_str().unwrap().to_owned();
    assert!(!msg.is_empty() && !msg.contains("internal error") && !ended.stderr.contains("panicked"), "{ended:?}");
    (value["code"].as_u64().unwrap(), msg)
}

/// A conversation from the node to the pod, both ways.
fn talk(node: &Namespace, pod: &Namespace, address: IpAddr) {
    let patience = Some(Duration::from_secs(10));
    let listener = pod.run(|| TcpListener::bind((address, 0))).unwrap();
    let target = SocketAddr::new(address, listener.local_addr().unwrap().port());
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut near = loop {
        match node.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5))) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
    };
    let (mut far, _) = listener.accept().unwrap();
    near.set_read_timeout(patience).unwrap();
    far.set_read_timeout(patience).unwrap();
    let mut received = [0; 4];
    near.write_all(b"ping").unwrap();
    far.read_exact(&mut received).unwrap();
    far.write_all(b"pong").unwrap();
    near.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"pong");
}
