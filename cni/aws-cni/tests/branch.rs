//! Pods with branch interfaces on a kernel with vlans: ADD, CHECK and DEL of the whole plugin, the example of spec 04
//! §17.5 as text, and traffic through the trunk, by the replies that the daemon gives. `tests/vlan/run.sh` brings such a kernel along.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aws_cni::inputs::Environment;
use aws_cni::peers::{AddAnswer, Peers, RpcError};
use aws_cni::pod_net::KernelNet;
use aws_cni::{Deps, Reply, run};
use reservoir_net::branch::{BranchPod, EnforcingMode};
use reservoir_net::eni::{self, EniSetup};
use reservoir_net::host::{self, HostConfig};
use reservoir_net::pod::PodInterface;
use reservoir_net::pods;
use reservoir_net::rule::Family;
use reservoir_rpc::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, DeleteNpRequest, EnforceNpRequest,
    IpAllocationMetadata,
};
use serde_json::{Value, json};
use support::Namespace;

const BRANCH_MAC: &str = "02:00:00:00:00:77";
const POD: &str = "10.0.120.77";
const INTERNET: &str = "198.51.100.10";
const POD_V6: &str = "2600:1f14:abc:d00::77";

const RULES_STRICT: &str = "10:\tfrom all iif vlan.eth.7 lookup 107
10:\tfrom all iif vlan23145df91e4 lookup 107
20:\tfrom all lookup local
512:\tfrom all to 10.0.97.30 lookup main
512:\tfrom all to 10.0.97.31 lookup main
1024:\tfrom all fwmark 0x80/0x80 lookup main
1536:\tfrom 10.0.97.31 lookup 2
32765:\tfrom 10.0.100.20 lookup 2
32766:\tfrom all lookup main
32767:\tfrom all lookup default
";

const RULES_STANDARD: &str = "0:\tfrom all lookup local
512:\tfrom all to 10.0.97.30 lookup main
512:\tfrom all to 10.0.97.31 lookup main
512:\tfrom all to 10.0.120.77 lookup main
1024:\tfrom all fwmark 0x80/0x80 lookup main
1536:\tfrom 10.0.97.31 lookup 2
1536:\tfrom 10.0.120.77 lookup 107
32765:\tfrom 10.0.100.20 lookup 2
32766:\tfrom all lookup main
32767:\tfrom all lookup default
";

const ROUTES_STRICT: &str = "default via 10.0.96.1 dev eth1 table 2
10.0.96.1 dev eth1 table 2 scope link
default via 10.0.96.1 dev eth2 table 3
10.0.96.1 dev eth2 table 3 scope link
default via 10.0.96.1 dev vlan.eth.7 table 107
10.0.96.1 dev vlan.eth.7 table 107 scope link
10.0.120.77 dev vlan23145df91e4 table 107 scope link
default via 10.0.96.1 dev eth0
10.0.96.0/19 dev eth0 proto kernel scope link src 10.0.96.10
10.0.97.30 dev eni0d7763386da scope link
10.0.97.31 dev eni0761ccbeace scope link
local 10.0.96.10 dev eth0 table local proto kernel scope host src 10.0.96.10
local 10.0.100.20 dev eth1 table local proto kernel scope host src 10.0.100.20
local 10.0.110.5 dev eth2 table local proto kernel scope host src 10.0.110.5
broadcast 10.0.127.255 dev eth0 table local proto kernel scope link src 10.0.96.10
broadcast 10.0.127.255 dev eth1 table local proto kernel scope link src 10.0.100.20
broadcast 10.0.127.255 dev eth2 table local proto kernel scope link src 10.0.110.5
local 127.0.0.0/8 dev lo table local proto kernel scope host src 127.0.0.1
local 127.0.0.1 dev lo table local proto kernel scope host src 127.0.0.1
broadcast 127.255.255.255 dev lo table local proto kernel scope link src 127.0.0.1
";

/// What the daemon replies for the branch pod of both families, as its own tests record it
/// (`host/ipamd/src/grpc/tests/branch.rs`).
const REPLIES: [(&str, &str); 2] = [
    (include_str!("../../../tests/vlan/replies/add-v4.json"), include_str!("../../../tests/vlan/replies/del-v4.json")),
    (include_str!("../../../tests/vlan/replies/add-v6.json"), include_str!("../../../tests/vlan/replies/del-v6.json")),
];
/// The index that the trunk has in them.
const TRUNK_INDEX: u32 = 42;

fn entries(reply: &Value) -> Vec<IpAllocationMetadata> {
    let number = |value: &Value| i32::try_from(value.as_i64().unwrap()).unwrap();
    let one = |e: &Value| IpAllocationMetadata {
        ipv4_addr: e["IPv4Addr"].as_str().unwrap().to_owned(),
        ipv6_addr: e["IPv6Addr"].as_str().unwrap().to_owned(),
        device_number: number(&e["DeviceNumber"]),
        route_table_id: number(&e["RouteTableId"]),
    };
    reply["IPAllocationMetadata"].as_array().unwrap().iter().map(one).collect()
}

fn added(text: &str) -> AddNetworkReply {
    let reply: Value = serde_json::from_str(text).unwrap();
    let text = |key: &str| reply[key].as_str().unwrap().to_owned();
    let number = |key: &str| i32::try_from(reply[key].as_i64().unwrap()).unwrap();
    AddNetworkReply {
        success: reply["Success"] == true,
        ip_allocation_metadata: entries(&reply),
        pod_vlan_id: number("PodVlanId"),
        pod_eni_mac: text("PodENIMAC"),
        pod_eni_subnet_gw: text("PodENISubnetGW"),
        parent_if_index: number("ParentIfIndex"),
        ..AddNetworkReply::default()
    }
}

fn deleted(text: &str) -> DelNetworkReply {
    let reply: Value = serde_json::from_str(text).unwrap();
    DelNetworkReply {
        success: reply["Success"] == true,
        ip_allocation_metadata: entries(&reply),
        pod_vlan_id: i32::try_from(reply["PodVlanId"].as_i64().unwrap()).unwrap(),
        ..DelNetworkReply::default()
    }
}

/// The daemon's reply for the branch pod with this address.
fn branch(address: &str) -> AddNetworkReply {
    let reply = added(REPLIES[usize::from(address.contains(':'))].0);
    assert_eq!((reply.parent_if_index, reply.ip_allocation_metadata.len()), (42, 1));
    let entry = &reply.ip_allocation_metadata[0];
    assert_eq!(format!("{}{}", entry.ipv4_addr, entry.ipv6_addr), address);
    reply
}

/// An ipamd that gives every pod this reply, and takes everything back.
struct Ipamd(AddNetworkReply);

impl Peers for Ipamd {
    fn add_network(&self, _: &Path, _: AddNetworkRequest) -> Result<AddAnswer, RpcError> {
        Ok(AddAnswer { reply: self.0.clone(), reason: None })
    }

    fn del_network(&self, _: &Path, _: DelNetworkRequest) -> Result<DelNetworkReply, RpcError> {
        let ip_allocation_metadata = self.0.ip_allocation_metadata.clone();
        if self.0.pod_vlan_id != 0 {
            let is_v6 = ip_allocation_metadata.iter().any(|e| !e.ipv6_addr.is_empty());
            return Ok(deleted(REPLIES[usize::from(is_v6)].1));
        }
        Ok(DelNetworkReply { success: true, ip_allocation_metadata, ..DelNetworkReply::default() })
    }

    fn serving(&self, _: &Path) -> Result<bool, RpcError> {
        Ok(true)
    }

    fn enforce_policy(&self, _: EnforceNpRequest) -> Result<bool, RpcError> {
        Err(RpcError::unavailable("no agent here"))
    }

    fn delete_policy(&self, _: DeleteNpRequest) -> Result<bool, RpcError> {
        Err(RpcError::unavailable("no agent here"))
    }
}

/// A node with a trunk, and the VPC at the other end of it.
struct Node {
    host: Namespace,
    vpc: Namespace,
}

impl Node {
    /// `None`, said loudly, where the kernel has no vlans; a failure where it was promised that it has.
    fn new(test: &str) -> Option<Self> {
        let (host, vpc) = (Namespace::new(test)?, Namespace::new(test)?);
        for (index, name) in ["eth0", "eth1", "eth2"].into_iter().enumerate() {
            let mac = format!("02:00:00:00:00:0{}", index + 1);
            let peer = format!("peer name {name}-far netns {}", vpc.name());
            let number = if name == "eth2" { format!(" index {TRUNK_INDEX}") } else { String::new() };
            host.ip(&format!("link add {name} address {mac}{number} type veth {peer}"));
            vpc.ip(&format!("link set {name}-far up"));
        }
        let branch = ["-n", vpc.name(), "link", "add", "link", "eth2-far", "name", "branch", "type", "vlan", "id", "7"];
        let output = Command::new("ip").args(branch).output().unwrap();
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(std::env::var_os("KERNEL_HAS_VLANS").is_none(), "{reason}");
            eprintln!("SKIPPED: {test}: the kernel makes no vlan device: {}", reason.trim());
            return None;
        }
        host.ip("link set eth0 up");
        host.ip("addr add 10.0.96.10/19 dev eth0");
        host.ip("route add default via 10.0.96.1 dev eth0");
        host.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        // EC2 knows where an address is; it asks nobody.
        vpc.ip("link set branch up");
        vpc.ip("addr add 10.0.96.1/32 dev branch");
        vpc.ip("addr add 10.0.96.11/32 dev lo");
        vpc.ip(&format!("addr add {INTERNET}/32 dev lo"));
        vpc.ip(&format!("route add {POD} dev branch"));
        vpc.ip(&format!("neigh add {POD} lladdr {BRANCH_MAC} dev branch nud permanent"));
        vpc.ip("-6 addr add fe80:ec2::1/64 dev branch nodad");
        vpc.ip("-6 addr add 2600:ffff::1/128 dev lo nodad");
        vpc.ip(&format!("-6 route add {POD_V6} dev branch"));
        vpc.ip(&format!("-6 neigh add {POD_V6} lladdr {BRANCH_MAC} dev branch nud permanent"));
        Some(Self { host, vpc })
    }

    /// What ipamd does at its start.
    fn set_up(&self, family: Family, strict_branches: bool) {
        let config = HostConfig { disable_tcp_early_demux: true, family, strict_branches, ..HostConfig::DOCUMENTED };
        self.host.run(|| host::set_up(&config, "02:00:00:00:00:01".parse().unwrap())).unwrap();
        if family == Family::V6 {
            return self.host.ip("link set eth2 up mtu 9001").clear();
        }
        for (mac, primary, table, trunk) in
            [("02:00:00:00:00:02", "10.0.100.20", 2, false), ("02:00:00:00:00:03", "10.0.110.5", 3, true)]
        {
            let setup = EniSetup {
                mac: mac.parse().unwrap(),
                primary_ip: primary.parse().unwrap(),
                subnet: "10.0.96.0/19".parse().unwrap(),
                mtu: 9001,
                table,
                rule_configured: false,
                trunk,
            };
            self.host.run(|| eni::set_up(&setup, Duration::ZERO)).unwrap();
        }
    }

    fn run(&self, command: &str, pod: &str, netns: &Path, reply: &AddNetworkReply, conf: &Value) -> Reply {
        self.host.run(|| {
            let env = environment(command, pod, netns);
            let text = conf.to_string();
            let deps = Deps { peers: &Ipamd(reply.clone()), net: &KernelNet };
            run(&env, &mut text.as_bytes(), deps)
        })
    }

    /// The result of a successful ADD.
    fn add(&self, pod: &str, netns: &Path, reply: &AddNetworkReply, conf: &Value) -> Value {
        let added = self.run("ADD", pod, netns, reply, conf);
        assert_eq!(added.exit, 0, "{added:?}");
        serde_json::from_str(&added.stdout).unwrap()
    }
}

fn environment(command: &str, pod: &str, netns: &Path) -> Environment {
    Environment {
        command: command.to_owned(),
        container_id: "c1".to_owned(),
        netns: netns.display().to_string(),
        ifname: "eth0".to_owned(),
        args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID=u1"),
        path: "/opt/cni/bin".to_owned(),
        netns_override: false,
    }
}

fn reply(address: &str, device_number: i32, route_table_id: i32) -> AddNetworkReply {
    let (ipv4_addr, ipv6_addr) = if address.contains(':') { ("", address) } else { (address, "") };
    let (ipv4_addr, ipv6_addr) = (ipv4_addr.to_owned(), ipv6_addr.to_owned());
    let entry = IpAllocationMetadata { ipv4_addr, ipv6_addr, device_number, route_table_id };
    AddNetworkReply { success: true, ip_allocation_metadata: vec![entry], ..AddNetworkReply::default() }
}

fn conf(mode: &str) -> Value {
    json!({"cniVersion": "0.4.0", "name": "aws-cni", "type": "aws-cni", "podSGEnforcingMode": mode,
        "pluginLogLevel": "fatal"})
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// TCP and UDP both ways between a client in one namespace and `address` in another.
fn reaches(client: &Namespace, server: &Namespace, address: &str) -> Result<(), String> {
    seen_as(client, server, address).map(drop)
}

/// The same, and who the client is there.
fn seen_as(client: &Namespace, server: &Namespace, address: &str) -> Result<[IpAddr; 2], String> {
    let ip: IpAddr = address.parse().unwrap();
    let text = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let patience = Some(Duration::from_secs(10));
    let listener = server.run(|| TcpListener::bind((ip, 7000))).map_err(text("bind"))?;
    listener.set_nonblocking(true).map_err(text("nonblocking"))?;
    // IPv6 interfaces take a second or two until they may speak.
    let deadline = Instant::now() + Duration::from_secs(8);
    let mut stream = loop {
        match client.run(|| TcpStream::connect_timeout(&SocketAddr::new(ip, 7000), Duration::from_secs(2))) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => return Err(format!("connect: {error}")),
            Err(_) => {}
        }
    };
    // This server was reached, not another with the address. The client may know before the server does.
    let (mut accepted, by_tcp) = loop {
        match listener.accept() {
            Ok(accepted) => break accepted,
            Err(error) if error.kind() != ErrorKind::WouldBlock || Instant::now() > deadline => {
                return Err(format!("accept: {error}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    accepted.set_nonblocking(false).and_then(|()| accepted.set_read_timeout(patience)).map_err(text("accepted"))?;
    stream.set_read_timeout(patience).map_err(text("stream"))?;
    let mut answer = [0; 4];
    stream.write_all(b"ping").and_then(|()| accepted.read_exact(&mut answer)).map_err(text("to the server"))?;
    accepted.write_all(b"pong").and_then(|()| stream.read_exact(&mut answer)).map_err(text("to the client"))?;

    let there = server.run(|| UdpSocket::bind((ip, 7000))).map_err(text("bind udp"))?;
    let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let here = client.run(|| UdpSocket::bind(any)).map_err(text("bind udp"))?;
    there.set_read_timeout(patience).and_then(|()| here.set_read_timeout(patience)).map_err(text("udp"))?;
    here.send_to(b"ping", (ip, 7000)).map_err(text("send"))?;
    let (_, from) = there.recv_from(&mut answer).map_err(text("udp to the server"))?;
    there.send_to(b"pong", from).and_then(|_| here.recv_from(&mut answer)).map_err(text("udp to the client"))?;
    Ok([by_tcp.ip(), from.ip()])
}

#[test]
fn pods_in_both_modes_are_as_in_the_example_and_talk() {
    let Some(node) = Node::new("pods_in_both_modes_are_as_in_the_example") else { return };
    for (mode, veth, rules) in
        [("strict", "vlan23145df91e4", RULES_STRICT), ("standard", "eni23145df91e4", RULES_STANDARD)]
    {
        node.set_up(Family::V4, mode == "strict");
        let before = node.host.inventory();
        let pods = [Namespace::new("pod").unwrap(), Namespace::new("pod").unwrap(), Namespace::new("pod").unwrap()];
        let [web_0, web_1, sg] = &pods;
        let (first, second) = (reply("10.0.97.30", 0, 254), reply("10.0.97.31", 1, 2));
        node.add("web-0", &web_0.path(), &first, &conf(mode));
        node.add("web-1", &web_1.path(), &second, &conf(mode));
        let of_branch = branch(POD);
        let result = node.add("sg-pod", &sg.path(), &of_branch, &conf(mode));
        let expected = json!({"cniVersion": "0.4.0", "dns": {},
            "interfaces": [{"name": veth}, {"name": "eth0", "mac": "0", "sandbox": sg.path()},
                {"name": "dummy23145df91e4", "mac": "7"}],
            "ips": [{"version": "4", "interface": 1, "address": "10.0.120.77/32", "gateway": "10.0.96.1"}]});
        assert_eq!(result, expected);

        assert_eq!(sorted(&node.host.ip("rule show")), sorted(rules));
        let routes = match mode {
            "strict" => ROUTES_STRICT.to_owned(),
            _ => ROUTES_STRICT.replace("vlan23145df91e4 table 107", "eni23145df91e4"),
        };
        assert_eq!(sorted(&node.host.ip("-4 route show table all")), sorted(&routes));
        let pod = |veth: &str, address: &str, table| PodInterface {
            name: "eth0".to_owned(),
            host_veth: veth.to_owned(),
            address: address.parse().unwrap(),
            table,
        };
        let ordinary = [pod("eni0d7763386da", "10.0.97.30", 254), pod("eni0761ccbeace", "10.0.97.31", 2)];
        let of_branches = BranchPod {
            netns: sg.path(),
            name: "eth0".to_owned(),
            host_veth: veth.to_owned(),
            address: POD.parse().unwrap(),
            vlan: 7,
            gateway: [10, 0, 96, 1].into(),
            mode: EnforcingMode::parse(mode),
        };
        let all = before.with_pods(&ordinary).with_branches(&[of_branches]);
        assert_eq!(all.differences(&node.host.inventory()), [""; 0], "{mode}");
        // The daemon starts again: its pods are the ordinary ones, and what it does to an address that one of them had once
        // leaves the branch pod alone (spec 04 §12.2).
        node.set_up(Family::V4, mode == "strict");
        node.host.run(|| {
            let shown: Vec<String> = pods::shown(Family::V4).unwrap().iter().map(|p| p.address.to_string()).collect();
            assert_eq!(shown, ["10.0.97.30", "10.0.97.31"], "{mode}");
            pods::prune(POD.parse::<IpAddr>().unwrap()).unwrap();
            let living: [IpAddr; 2] = [[10, 0, 97, 30].into(), [10, 0, 97, 31].into()];
            pods::refresh_from_rules(&living).unwrap();
        });
        assert_eq!(all.differences(&node.host.inventory()), [""; 0], "{mode}");

        let vlan = node.host.ip("-d link show vlan.eth.7");
        for part in [BRANCH_MAC, "vlan protocol 802.1Q id 7 ", "vlan.eth.7@eth2", "mtu 9001", ",UP"] {
            assert!(vlan.contains(part), "{part}: {vlan}");
        }

        assert_eq!(reaches(&node.vpc, sg, POD), Ok(()), "{mode}");
        assert_eq!(reaches(sg, &node.vpc, "10.0.96.1"), Ok(()), "{mode}");
        // By its own interface and as itself: nothing of a strict pod's is translated (spec 04 §16), and of the others'
        // nothing here, where no daemon has made rules of iptables.
        assert_eq!(seen_as(sg, &node.vpc, INTERNET), Ok([POD.parse().unwrap(); 2]), "{mode}");
        node.host.ip("addr add 10.0.96.11/19 dev eth0");
        // Strict: even the node's own address is reached through the VPC, which has an impostor here.
        let home = if mode == "strict" { &node.vpc } else { &node.host };
        assert_eq!(reaches(sg, home, "10.0.96.11"), Ok(()), "{mode}");
        node.host.ip("addr del 10.0.96.11/19 dev eth0");

        let mut later = conf(if mode == "strict" { "standard" } else { "strict" });
        later["prevResult"] = result;
        let checked = node.run("CHECK", "sg-pod", &sg.path(), &of_branch, &later);
        assert_eq!((checked.exit, checked.stdout.as_str()), (0, ""), "{mode}");
        let lost = if mode == "strict" { "rule del iif vlan.eth.7" } else { "rule del from 10.0.120.77" };
        node.host.ip(lost);
        let checked = node.run("CHECK", "sg-pod", &sg.path(), &of_branch, &later);
        assert!(checked.exit == 1 && checked.stdout.contains("is missing on the host"), "{checked:?}");
        node.host.ip("link del vlan.eth.7");
        let checked = node.run("CHECK", "sg-pod", &sg.path(), &of_branch, &later);
        assert!(checked.exit == 1 && checked.stdout.contains("interface vlan.eth.7 is missing"), "{checked:?}");

        // Without a daemon, by the real program where there is one; twice, as the runtime does.
        for _ in 0..2 {
            delete(&node, sg, &later);
        }
        for (name, netns, reply) in [("web-0", web_0, &first), ("web-1", web_1, &second)] {
            assert_eq!(node.run("DEL", name, &netns.path(), reply, &conf(mode)).exit, 0);
        }
        drop(pods);
        node.host.settles_to(&before);
    }
}

/// DEL of the branch pod by its saved result.
fn delete(node: &Node, pod: &Namespace, conf: &Value) {
    let Some(program) = std::env::var_os("AWS_CNI") else {
        let deleted = node.run("DEL", "sg-pod", &pod.path(), &AddNetworkReply::default(), conf);
        assert_eq!((deleted.exit, deleted.stdout.as_str()), (0, ""));
        return;
    };
    let env = environment("DEL", "sg-pod", &pod.path());
    let output = node.host.run(|| {
        let mut child = Command::new(program)
            .env("CNI_COMMAND", env.command)
            .env("CNI_CONTAINERID", env.container_id)
            .env("CNI_NETNS", env.netns)
            .env("CNI_IFNAME", env.ifname)
            .env("CNI_ARGS", env.args)
            .env("CNI_PATH", env.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn an_ipv6_pod_comes_talks_and_goes() {
    let Some(node) = Node::new("an_ipv6_pod_comes_talks_and_goes") else { return };
    for mode in ["strict", "standard"] {
        node.set_up(Family::V6, mode == "strict");
        let before = node.host.inventory();
        let pod = Namespace::new("pod").unwrap();
        let of_branch = branch(POD_V6);
        let result = node.add("sg-pod", &pod.path(), &of_branch, &conf(mode));
        let rules = node.host.ip("-6 rule show");
        let wanted: &[&str] = if mode == "strict" {
            &["10:\tfrom all iif vlan.eth.7 lookup 107", "10:\tfrom all iif vlan23145df91e4 lookup 107"]
        } else {
            &["512:\tfrom all to 2600:1f14:abc:d00::77 lookup main", "1536:\tfrom 2600:1f14:abc:d00::77 lookup 107"]
        };
        for rule in wanted {
            assert!(rules.lines().any(|l| l == *rule), "{rule}: {rules}");
        }
        let mut later = conf(mode);
        later["prevResult"] = result;
        assert_eq!(node.run("CHECK", "sg-pod", &pod.path(), &of_branch, &later).stdout, "");
        assert_eq!(reaches(&pod, &node.vpc, "2600:ffff::1"), Ok(()), "{mode}");
        assert_eq!(reaches(&node.vpc, &pod, POD_V6), Ok(()), "{mode}");
        // This time by ipamd's word.
        let deleted = node.run("DEL", "sg-pod", &pod.path(), &of_branch, &conf(mode));
        assert_eq!((deleted.exit, deleted.stdout.as_str()), (0, ""));
        drop(pod);
        node.host.settles_to(&before);
    }
}

#[test]
fn left_overs_are_replaced_and_a_failure_leaves_nothing() {
    let Some(node) = Node::new("left_overs_are_replaced_and_a_failure_leaves_nothing") else { return };
    node.set_up(Family::V4, true);
    let before = node.host.inventory();
    let pod = Namespace::new("pod").unwrap();
    // What a pod of the same name left, when the trunk was another.
    node.host.ip("link add link eth1 name vlan.eth.7 type vlan id 7");
    node.host.ip("rule add iif vlan23145df91e4 priority 10 lookup 150");
    let of_branch = branch(POD);
    node.add("sg-pod", &pod.path(), &of_branch, &conf("strict"));
    assert!(node.host.ip("-d link show vlan.eth.7").contains("vlan.eth.7@eth2"));
    assert!(!node.host.ip("rule show").contains("lookup 150"));
    assert_eq!(reaches(&node.vpc, &pod, POD), Ok(()));
    assert_eq!(node.run("DEL", "sg-pod", &pod.path(), &of_branch, &conf("strict")).exit, 0);
    drop(pod);
    node.host.settles_to(&before);

    let pod = Namespace::new("pod").unwrap();
    for (reply, cause) in [
        (
            AddNetworkReply { parent_if_index: 9_999, ..branch(POD) },
            "SetupBranchENIPodNetwork: failed to setup vlan: failed to add vlan link vlan.eth.7: ",
        ),
        (AddNetworkReply { pod_vlan_id: 154, ..branch(POD) }, "SetupBranchENIPodNetwork: vlan 154 is not between"),
        (
            AddNetworkReply { pod_eni_subnet_gw: "fe80:ec2::1".to_owned(), ..branch(POD) },
            "SetupBranchENIPodNetwork: gateway fe80:ec2::1 of the branch interface is not of the family of 10.0.120.77",
        ),
    ] {
        let failed = node.run("ADD", "sg-pod", &pod.path(), &reply, &conf("strict"));
        assert!(failed.exit == 1 && failed.stdout.contains(cause), "{failed:?}");
        assert_eq!(pod.ip("-o link show").lines().count(), 1, "only lo");
        node.host.settles_to(&before);
    }
}

#[test]
fn gc_takes_what_a_pod_without_a_del_left_and_nothing_of_the_living() {
    let Some(node) = Node::new("gc_takes_what_a_pod_without_a_del_left") else { return };
    let gc = || {
        let conf = json!({"cniVersion": "1.1.0", "name": "aws-cni", "type": "aws-cni", "pluginLogLevel": "fatal",
            "cni.dev/valid-attachments": []});
        let collected = node.run("GC", "", Path::new(""), &AddNetworkReply::default(), &conf);
        assert_eq!((collected.exit, collected.stdout.as_str()), (0, ""), "{collected:?}");
    };
    for (family, mode) in
        [(Family::V4, "strict"), (Family::V4, "standard"), (Family::V6, "strict"), (Family::V6, "standard")]
    {
        node.set_up(family, mode == "strict");
        let before = node.host.inventory();
        let pod = Namespace::new("pod").unwrap();
        let address = if family == Family::V6 { POD_V6 } else { POD };
        node.add("sg-pod", &pod.path(), &branch(address), &conf(mode));
        let alive = node.host.inventory();
        gc();
        assert_eq!(alive.differences(&node.host.inventory()), [""; 0], "{mode}");
        drop(pod);
        before.is_reached_by(mode, || {
            gc();
            node.host.inventory()
        });
    }
}
