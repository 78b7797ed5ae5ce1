//! A node with pods on its interfaces, the hosts around it, and the rows of spec 04 §16 that every mode shares.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use reservoir_net::pod::PodInterface;
use reservoir_net::testing::Inventory;
use ring::shell::in_netns;
use ring::traffic::{Nobody, Talk, inside, nobody};
use ring::{Node, Options, Pod};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::lab::GROUPS;

/// A host in the VPC, on no interface of the node.
pub const VPC_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 200, 10));
pub const INTERNET: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));
/// Outside the VPC and reached without a public address: a network behind a peering or a VPN.
pub const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 77, 10));
pub const PEER_NET: &str = "192.168.77.0/24";

/// A running node.
pub struct World {
    pub node: Node,
    pub pods: Vec<Pod>,
    pub vpc_host: IpAddr,
    pub internet_host: IpAddr,
    /// The host before the first pod.
    before: Inventory,
}

/// What others see of a pod's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Pod,
    /// The primary interface's address; in the internet its public one.
    Node,
    /// They do not arrive: the internet gateway has no public address for them.
    Lost,
}

/// What the rows to the outside expect.
#[derive(Debug, Clone, Copy)]
pub struct Outside {
    pub internet: Source,
    /// None: there is no such network in this mode.
    pub peer: Option<Source>,
}

impl World {
    /// The node and its daemon, and a network beside the VPC; pods come with [`World::add`].
    pub fn new(options: Options) -> Self {
        Self::of(Node::new(options).unwrap())
    }

    /// The same with a node that was made elsewhere; its daemon is not started yet. The network beside the VPC may talk to
    /// nodes and pods, and everybody to node ports.
    pub fn of(node: Node) -> Self {
        let world = Self::shut(node);
        for group in GROUPS {
            world.allow(group, "ingress", &json!({"peer": PEER_NET}));
        }
        for protocol in ["tcp", "udp"] {
            let node_ports = json!({"protocol": protocol, "ports": [30000, 32767], "peer": "0.0.0.0/0"});
            world.allow(GROUPS[0], "ingress", &node_ports);
        }
        world
    }

    /// The same with the security groups as they are in the account: members of the VPC's default group may talk to each
    /// other and to the pods of [`GROUPS`]`[1]`, which may talk to each other.
    pub fn shut(mut node: Node) -> Self {
        let (router, host) = (node.vpc_netns(), format!("{}-host", node.vpc_netns()));
        in_netns(&host, "ip", &["address", "add", &format!("{PEER}/32"), "dev", "lo"]).unwrap();
        in_netns(&router, "ip", &["route", "add", &format!("{PEER}/32"), "dev", "host0"]).unwrap();
        for netns in [&router, &host, &format!("{router}-inet"), &node.netns()] {
            answer_everybody(netns);
        }
        node.start_daemon().unwrap();
        let before = inventory(&node);
        Self { node, pods: Vec::new(), vpc_host: VPC_HOST, internet_host: INTERNET, before }
    }

    /// A t3.small: three pods on each interface.
    pub fn small(env: &[(&str, &str)]) -> Self {
        Self::new(Options { instance_type: "t3.small".to_owned(), env: owned(env), ..Options::of_tree() })
    }

    pub fn add(&mut self, name: &str) -> Pod {
        let added = self.node.add_pod(name);
        let pod = added.unwrap_or_else(|e| panic!("{name}: {e:#}\n{}", self.node.log_tail(20)));
        self.keep(&pod);
        pod
    }

    /// A pod that was attached in another way.
    pub fn keep(&mut self, pod: &Pod) {
        answer_everybody(&pod.netns);
        self.pods.push(pod.clone());
    }

    /// Adds pods until so many are on secondary interfaces.
    pub fn fill(&mut self, on_secondary: usize) {
        while self.secondary().len() < on_secondary {
            assert!(self.pods.len() < 40, "no pod lands on a secondary interface");
            self.add(&format!("p{}", self.pods.len()));
        }
    }

    /// The daemon ends and starts with other variables; an empty value takes one away.
    pub fn restart(&mut self, env: &[(&str, &str)]) {
        self.node.end_daemon(Signal::TERM).unwrap();
        for (key, value) in env {
            self.node.set_env(key, value);
        }
        self.node.start_daemon().unwrap();
    }

    /// The VPC's blocks as IMDS tells them from now on.
    pub fn set_vpc_cidrs(&self, cidrs: &[&str]) {
        self.node.sim_do(&json!({"set_vpc_cidrs": cidrs})).unwrap();
    }

    /// A rule more in a security group.
    pub fn allow(&self, group: &str, direction: &str, rule: &Value) {
        self.node.sim_do(&json!({"authorize": {"group": group, "direction": direction, "rule": rule}})).unwrap();
    }

    /// A rule less.
    pub fn forbid(&self, group: &str, direction: &str, rule: &Value) {
        self.node.sim_do(&json!({"revoke": {"group": group, "direction": direction, "rule": rule}})).unwrap();
    }

    pub fn home(&self) -> String {
        self.node.netns()
    }

    pub fn own(&self) -> IpAddr {
        self.node.address().unwrap()
    }

    /// The namespace of the hosts in the VPC and in the network beside it.
    pub fn host(&self) -> String {
        format!("{}-host", self.node.vpc_netns())
    }

    pub fn internet(&self) -> String {
        format!("{}-inet", self.node.vpc_netns())
    }

    /// Pods whose packets leave by the primary interface.
    pub fn primary(&self) -> Vec<Pod> {
        self.by_table().remove("main").unwrap_or_default()
    }

    /// Pods whose packets leave by another one.
    pub fn secondary(&self) -> Vec<Pod> {
        let mut tables = self.by_table();
        tables.remove("main");
        tables.into_values().flatten().collect()
    }

    /// The pods by the route table of their first address.
    fn by_table(&self) -> BTreeMap<String, Vec<Pod>> {
        let family = if self.own().is_ipv4() { "-4" } else { "-6" };
        let rules = in_netns(&self.home(), "ip", &[family, "rule"]).unwrap();
        let table = |pod: &Pod| {
            let from = format!("from {} ", pod.ip);
            let rule = rules.lines().find(|l| l.starts_with("1536:") && l.contains(&from));
            rule.and_then(|r| r.rsplit("lookup ").next()).map_or("main", str::trim).to_owned()
        };
        let mut tables: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
        for pod in &self.pods {
            tables.entry(table(pod)).or_default().push(pod.clone());
        }
        tables
    }

    /// Up to two pods of each interface: enough for every pair of ways.
    pub fn representatives(&self) -> Vec<Pod> {
        self.by_table().into_values().flat_map(|pods| pods.into_iter().take(2)).collect()
    }

    /// All rows that every mode shares.
    pub fn walk(&self, outside: Outside) {
        let pods = self.representatives();
        self.pods_and_pods(&pods);
        self.pods_and_node(&pods);
        self.pods_and_vpc(&pods);
        for pod in &pods {
            self.pod_to_outside(pod, outside);
        }
        self.node_to_all();
    }

    /// pod → pod on the same node: as itself, whatever the interfaces. What nobody serves is refused, not lost.
    fn pods_and_pods(&self, pods: &[Pod]) {
        for from in pods {
            for to in pods.iter().filter(|to| to.name != from.name) {
                let seen = Talk::new(&from.netns, &to.netns, ip(to)).both().unwrap();
                assert_eq!(seen, ip(from), "{} -> {}", from.name, to.name);
            }
            let to = pods.iter().find(|to| to.name != from.name).unwrap();
            assert_eq!(nobody(&from.netns, SocketAddr::new(ip(to), 9)).unwrap(), Nobody::Refuses);
        }
    }

    /// node → pod, pod → node; a pod of the host's network is the node.
    fn pods_and_node(&self, pods: &[Pod]) {
        let (home, own) = (self.home(), self.own());
        for pod in pods {
            let seen = Talk::new(&home, &pod.netns, ip(pod)).both().unwrap();
            assert_eq!(seen, own, "node -> {}", pod.name);
            let seen = Talk::new(&pod.netns, &home, own).both().unwrap();
            assert_eq!(seen, ip(pod), "{} -> node", pod.name);
            assert_eq!(nobody(&home, SocketAddr::new(ip(pod), 9)).unwrap(), Nobody::Refuses, "node -> {}", pod.name);
            assert_eq!(nobody(&pod.netns, SocketAddr::new(own, 9)).unwrap(), Nobody::Refuses, "{} -> node", pod.name);
        }
    }

    /// pod → other node, and back: as itself, by its own interface.
    fn pods_and_vpc(&self, pods: &[Pod]) {
        let host = self.host();
        for pod in pods {
            let seen = Talk::new(&pod.netns, &host, self.vpc_host).both().unwrap();
            assert_eq!(seen, ip(pod), "{} -> VPC", pod.name);
            let seen = Talk::new(&host, &pod.netns, ip(pod)).both().unwrap();
            assert_eq!(seen, self.vpc_host, "VPC -> {}", pod.name);
            assert_eq!(nobody(&host, SocketAddr::new(ip(pod), 9)).unwrap(), Nobody::Refuses, "VPC -> {}", pod.name);
            let there = SocketAddr::new(self.vpc_host, 9);
            assert_eq!(nobody(&pod.netns, there).unwrap(), Nobody::Refuses, "{} -> VPC", pod.name);
        }
    }

    /// pod → internet, pod → a network beside the VPC.
    pub fn pod_to_outside(&self, pod: &Pod, outside: Outside) {
        self.outside_row(pod, &self.internet(), self.internet_host, outside.internet);
        if let Some(expected) = outside.peer {
            self.outside_row(pod, &self.host(), PEER, expected);
            // In the other direction nothing is translated.
            let seen = Talk::new(&self.host(), &pod.netns, ip(pod)).with_source(PEER).both().unwrap();
            assert_eq!(seen, PEER, "beside the VPC -> {}", pod.name);
        }
    }

    fn outside_row(&self, pod: &Pod, to: &str, address: IpAddr, expected: Source) {
        let what = format!("{} ({}) -> {address}", pod.name, pod.ip);
        let nobody = nobody(&pod.netns, SocketAddr::new(address, 9)).unwrap();
        if expected == Source::Lost {
            assert_eq!(nobody, Nobody::IsSilent, "{what}");
            return;
        }
        assert_eq!(nobody, Nobody::Refuses, "{what}");
        let seen = Talk::new(&pod.netns, to, address).both().unwrap();
        match expected {
            Source::Node if address == self.internet_host => assert!(is_public(seen), "{what} as {seen}"),
            Source::Node => assert_eq!(seen, self.own(), "{what}"),
            Source::Pod | Source::Lost => assert_eq!(seen, ip(pod), "{what}"),
        }
    }

    /// The node itself, and so a pod of the host's network: as the primary address everywhere.
    fn node_to_all(&self) {
        let (home, own) = (self.home(), self.own());
        assert_eq!(Talk::new(&home, &self.host(), self.vpc_host).both().unwrap(), own, "node -> VPC");
        assert_eq!(Talk::new(&self.host(), &home, own).both().unwrap(), self.vpc_host, "VPC -> node");
        let seen = Talk::new(&home, &self.internet(), self.internet_host).both().unwrap();
        assert!(if own.is_ipv4() { is_public(seen) } else { seen == own }, "node -> internet as {seen}");
    }

    /// What conntrack holds of the flows of `protocol` that were sent to this port at first.
    pub fn flows(&self, protocol: &str, port: u16) -> Vec<String> {
        let port = port.to_string();
        let listed = in_netns(&self.home(), "conntrack", &["-L", "-p", protocol, "--orig-port-dst", &port]).unwrap();
        listed.lines().map(str::to_owned).collect()
    }

    /// Every pod has what it should, there is nothing else, and nothing is left when it is gone (spec 05 §18).
    pub fn close(mut self) {
        let wired: Vec<PodInterface> = self.pods.iter().flat_map(interfaces).collect();
        // What `egress-cni` has made has tests of its own.
        let others: Vec<String> = self.pods.iter().flat_map(egress).collect();
        let is_others = |line: &str| line.split(' ').any(|word| others.iter().any(|other| other == word));
        self.before.with_pods(&wired).is_reached_by("with its pods", || inventory(&self.node).without(is_others));
        for pod in std::mem::take(&mut self.pods) {
            self.node.cni().check(&pod.attachment, &pod.result).unwrap();
            self.node.remove_pod(&pod).unwrap();
        }
        let gone = |n: &Node| {
            let traces = n.pod_traces()?;
            anyhow::ensure!(traces.is_empty(), "{traces:#?}");
            Ok(true)
        };
        self.node.wait_for("no trace of a pod", crate::support::lab::MINUTE, gone).unwrap();
        self.before.is_reached_by("without its pods", || inventory(&self.node));
        assert_eq!(self.node.audit().unwrap(), json!([]));
    }
}

/// The kernel tells "port unreachable" to the same sender no more than once a second, and to all together no more than
/// a thousand times a second, if it is not told otherwise. The second limit is for the messages in the masks: bits for
/// IPv4, a list for IPv6.
fn answer_everybody(netns: &str) {
    const NO_LIMIT: &str = "cd /proc/sys/net; \
                            echo 0 > ipv4/icmp_ratemask; echo > ipv6/icmp/ratemask; \
                            echo 0 > ipv4/icmp_ratelimit; echo 0 > ipv6/icmp/ratelimit";
    in_netns(netns, "sh", &["-c", NO_LIMIT]).unwrap();
}

/// What the host holds, but for what belongs to secondary interfaces: these come and go as the pool needs them.
fn inventory(node: &Node) -> Inventory {
    let taken = inside(&node.netns(), || Ok(Inventory::take()?)).unwrap();
    let is_secondary = |word: &str| word.starts_with("eth") && word != "eth0";
    taken.without(|line| line.contains(" 32765: ") || line.split(' ').any(is_secondary))
}

/// The interfaces of a pod, as ADD has told of them (spec 04 §2.5).
fn interfaces(pod: &Pod) -> Vec<PodInterface> {
    let told = pod.result["interfaces"].as_array().unwrap();
    let text = |n: usize, key: &str| told[n][key].as_str().unwrap().to_owned();
    let interface = |(n, address): (usize, &String)| PodInterface {
        name: text(2 * n + 1, "name"),
        host_veth: text(2 * n, "name"),
        address: address.parse().unwrap(),
        table: text(2 * n + 1, "mac").parse().unwrap(),
    };
    pod.ips.iter().enumerate().map(interface).collect()
}

/// The host's interfaces of a pod's that come behind those that have its addresses.
fn egress(pod: &Pod) -> Vec<String> {
    let told = pod.result["interfaces"].as_array().unwrap();
    let behind = told.iter().skip(2 * pod.ips.len()).filter(|told| told["sandbox"].is_null());
    behind.filter_map(|told| told["name"].as_str().map(str::to_owned)).collect()
}

/// The first of a pod's addresses.
pub fn ip(pod: &Pod) -> IpAddr {
    pod.ip.parse().unwrap()
}

/// What the internet gateway makes of a primary address.
pub fn is_public(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(a) if a.octets()[..3] == [203, 0, 113])
}

pub fn owned(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}
