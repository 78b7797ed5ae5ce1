//! A node, pods and the world outside, in network namespaces of the test's own; the real program and Debian's host-local.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use reservoir_net::egress::firewall;
use reservoir_net::iptables::Iptables;
use reservoir_net::rule::Family;
use reservoir_net::testing::Inventory;
pub use reservoir_net::testing::Namespace;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Debian's directory of the standard plugins.
const PLUGINS: &str = "/usr/lib/cni";
const PATIENCE: Duration = Duration::from_secs(10);

/// A pod's namespace with an eth0, which the plugins before have made.
pub fn pod() -> Namespace {
    let pod = Namespace::make().unwrap();
    pod.ip("link add eth0 type veth peer name far0");
    pod
}

pub fn has(namespace: &Namespace, interface: &str) -> bool {
    namespace.ip("-o link show").contains(&format!(" {interface}@"))
}

/// A family, and the kind of iptables.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub family: Family,
    /// `legacy` or `nft`.
    pub flavour: &'static str,
}

impl Kind {
    pub fn interface(self) -> &'static str {
        reservoir_net::egress::interface(self.family)
    }

    /// The node's address in the family of the egress.
    pub fn node(self) -> IpAddr {
        match self.family {
            Family::V4 => "10.0.96.10".parse().unwrap(),
            Family::V6 => "2600:1f14:abc:d00::10".parse().unwrap(),
        }
    }

    /// Where the pods want to.
    fn outside(self) -> IpAddr {
        match self.family {
            Family::V4 => "192.0.2.1".parse().unwrap(),
            Family::V6 => "2001:db8::1".parse().unwrap(),
        }
    }

    /// The pods' addresses, in the order they are given.
    pub fn pod(self, number: u16) -> IpAddr {
        match self.family {
            Family::V4 => [169, 254, 172, u8::try_from(number + 2).unwrap()].into(),
            Family::V6 => [0xfd00, 0, 0, 0, 0, 0, 0xac, number + 2].into(),
        }
    }

    fn program(self) -> String {
        let program = if self.family == Family::V4 { "iptables" } else { "ip6tables" };
        format!("{program}-{}", self.flavour)
    }
}

/// A node as it is when the daemon runs, and what is outside.
pub struct World {
    pub kind: Kind,
    pub node: Namespace,
    outside: Namespace,
    /// Programs `iptables` and `ip6tables` of one flavour, and host-local's addresses.
    dir: TempDir,
}

impl World {
    /// Runs `test` with both families and both flavours; says loudly what cannot run.
    pub fn each(name: &str, test: impl Fn(&World)) {
        for family in [Family::V4, Family::V6] {
            for flavour in ["legacy", "nft"] {
                Self::one(name, Kind { family, flavour }, &test);
            }
        }
    }

    pub fn one(name: &str, kind: Kind, test: impl Fn(&World)) {
        match Self::new(kind) {
            Ok(world) => test(&world),
            Err(reason) => eprintln!("SKIPPED: {name} {kind:?}: {reason}"),
        }
    }

    fn new(kind: Kind) -> Result<Self, String> {
        if !Path::new(PLUGINS).join("host-local").exists() {
            return Err(format!("{PLUGINS}/host-local is missing (Debian: containernetworking-plugins)"));
        }
        let world = Self {
            kind,
            node: Namespace::make()?,
            outside: Namespace::make()?,
            dir: tempfile::tempdir().map_err(|e| e.to_string())?,
        };
        let program = kind.program();
        let works = world.node.run(|| Command::new(&program).args(["-t", "nat", "-S"]).output());
        if !works.is_ok_and(|output| output.status.success()) {
            return Err(format!("{program} does not work here"));
        }
        // The programs find out what they are by their first argument, which links keep.
        for base in ["iptables", "ip6tables"] {
            for end in ["", "-save", "-restore"] {
                let target = PathBuf::from(format!("/usr/sbin/{base}-{}{end}", kind.flavour));
                std::os::unix::fs::symlink(target, world.dir.path().join(format!("{base}{end}"))).unwrap();
            }
        }
        world.wire();
        Ok(world)
    }

    fn wire(&self) {
        let (node, outside) = (&self.node, &self.outside);
        node.ip(&format!("link add eth0 type veth peer name eth0 netns {}", outside.name()));
        let (length, router, nodad) = match self.kind.family {
            Family::V4 => (19, "10.0.96.1", ""),
            Family::V6 => (64, "2600:1f14:abc:d00::1", " nodad"),
        };
        for (namespace, address) in [(node, self.kind.node().to_string()), (outside, router.to_owned())] {
            namespace.ip(&format!("addr add {address}/{length} dev eth0{nodad}"));
            namespace.ip("link set eth0 up");
        }
        outside.ip(&format!("addr add {} dev lo{nodad}", self.kind.outside()));
        node.ip(&format!("route add default via {router} dev eth0"));
        if self.kind.family == Family::V6 {
            node.sysctl("ipv6/conf/all/forwarding", "1");
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("ipam")
    }

    /// The addresses that host-local holds.
    pub fn held(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.data_dir().join("aws-cni")) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<IpAddr>().is_ok()).collect()
    }

    /// The entry of the conflist (spec 04 §14.1), behind a pod of the cluster's own family.
    pub fn conf(&self) -> Value {
        let (subnet, route, version, cluster_address) = match self.kind.family {
            Family::V4 => ("169.254.172.0/22", "0.0.0.0/0", "6", "2600:1f14:abc:d01::5/128"),
            Family::V6 => ("fd00::ac:00/118", "::/0", "4", "10.0.97.31/32"),
        };
        json!({
            "cniVersion": "0.4.0", "name": "aws-cni", "type": "egress-cni", "mtu": "1500", "enabled": "true",
            "randomizeSNAT": "prng", "nodeIP": self.kind.node().to_string(),
            "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": route}],
                "dataDir": self.data_dir()},
            "pluginLogFile": self.dir.path().join("egress.log"), "pluginLogLevel": "Debug",
            "prevResult": {"cniVersion": "0.4.0",
                "interfaces": [{"name": "eni36e5b0ee702"}, {"name": "eth0", "mac": "254", "sandbox": "/n"},
                    {"name": "dummy36e5b0ee702", "mac": "0", "sandbox": "0"}],
                "ips": [{"version": version, "interface": 1, "address": cluster_address}], "dns": {}},
        })
    }

    /// The program with the environment of a runtime.
    pub fn command(&self, command: &str, container: &str, netns: &str) -> Command {
        let mut plugin = Command::new(env!("CARGO_BIN_EXE_egress-cni"));
        plugin
            .env_clear()
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.dir.path().display()))
            .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", container), ("CNI_NETNS", netns)])
            .envs([("CNI_IFNAME", "eth0"), ("CNI_PATH", PLUGINS)]);
        plugin
    }

    /// Runs the program on the node.
    pub fn plugin(&self, command: &str, container: &str, netns: &str, conf: &Value) -> Output {
        self.node.run(|| {
            let mut child = self
                .command(command, container, netns)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        })
    }

    /// ADD, which must succeed; the result.
    pub fn add(&self, container: &str, pod: &Namespace) -> Value {
        let output = self.plugin("ADD", container, pod.path().to_str().unwrap(), &self.conf());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// ADD, which must fail; the message.
    pub fn add_fails(&self, container: &str, netns: &str, conf: &Value) -> String {
        let output = self.plugin("ADD", container, netns, conf);
        let error: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!((output.status.code(), &error["code"]), (Some(1), &json!(999)), "{output:?}");
        error["msg"].as_str().unwrap().to_owned()
    }

    /// DEL, which must succeed and say nothing.
    pub fn del(&self, container: &str, netns: &str) {
        self.del_with(container, netns, &self.conf());
    }

    pub fn del_with(&self, container: &str, netns: &str, conf: &Value) {
        let output = self.plugin("DEL", container, netns, conf);
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    }

    /// Puts a program that always fails in the place of each, until the guard is dropped.
    pub fn break_programs(&self, programs: &[&str]) -> impl Drop + use<> {
        struct Mend(Vec<(PathBuf, PathBuf)>);
        impl Drop for Mend {
            fn drop(&mut self) {
                for (aside, place) in &self.0 {
                    fs::rename(aside, place).unwrap();
                }
            }
        }
        let mut mend = Mend(Vec::new());
        for program in programs {
            let place = self.dir.path().join(program);
            let aside = self.dir.path().join(format!("{program}.aside"));
            fs::rename(&place, &aside).unwrap();
            fs::write(&place, "#!/bin/sh\necho out of order >&2\nexit 4\n").unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
            mend.0.push((aside, place));
        }
        mend
    }

    pub fn chain(&self, container: &str) -> String {
        firewall::chain(self.kind.family, "aws-cni", container)
    }

    /// Table `nat` without the chains of the kernel and counters.
    pub fn nat(&self) -> String {
        let program = format!("{}-save", self.kind.program());
        let saved = self.node.command(&program, "-t nat");
        let kept = saved.lines().filter(|l| l.starts_with("-A") || l.contains(" - ["));
        kept.map(|l| format!("{}\n", l.split(" [").next().unwrap())).collect()
    }

    /// Everything on the node: interfaces, addresses, routes, rules, firewall.
    pub fn inventory(&self) -> Inventory {
        let program = self.kind.program();
        self.node.run(|| Inventory::take().unwrap().with_firewall(&Iptables::detect(&program).unwrap()).unwrap())
    }

    /// Waits until nothing is left compared with `before`: the kernel takes namespaces apart in its own time.
    pub fn settles_to(&self, before: &Inventory) {
        before.is_reached_by(&format!("{:?}", self.kind), || self.inventory());
    }

    /// Talks TCP and UDP from a pod to the outside and back; tells who the pod seemed to be there, for each.
    pub fn talk(&self, pod: &Namespace) -> [IpAddr; 2] {
        let outside = self.kind.outside();
        let listener = self.outside.run(|| TcpListener::bind((outside, 0))).unwrap();
        let target: SocketAddr = listener.local_addr().unwrap();
        let mut near = pod.run(|| TcpStream::connect_timeout(&target, PATIENCE)).unwrap();
        let (mut far, peer) = listener.accept().unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut word = [0; 4];
        near.write_all(b"ping").unwrap();
        far.read_exact(&mut word).unwrap();
        far.write_all(b"pong").unwrap();
        near.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"pong");

        let far = self.outside.run(|| UdpSocket::bind((outside, 0))).unwrap();
        let any: IpAddr = if outside.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let near = pod.run(|| UdpSocket::bind((any, 0))).unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        near.send_to(b"ping", far.local_addr().unwrap()).unwrap();
        let (_, udp_peer) = far.recv_from(&mut word).unwrap();
        far.send_to(b"pong", udp_peer).unwrap();
        let (_, from) = near.recv_from(&mut word).unwrap();
        assert_eq!((&word, from.ip()), (b"pong", outside));
        [peer.ip(), udp_peer.ip()]
    }

    /// MAC addresses by name, as `ip` tells them.
    pub fn macs(namespace: &Namespace) -> BTreeMap<String, String> {
        let links: Value = serde_json::from_str(&namespace.ip("-j link show")).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        links.as_array().unwrap().iter().map(|l| (text(&l["ifname"]), text(&l["address"]))).collect()
    }
}
