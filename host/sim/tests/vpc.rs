//! The VPC face in real network namespaces, by the real binary. Needs root, `ip` and `nft`.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long an answer may take, three times.
const LOOK: Duration = Duration::from_millis(500);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 200, 10);
const INTERNET: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// Why it cannot run here.
/// Looked for once: two tests at a time would take each other's namespace for an obstacle.
fn obstacle() -> Option<String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    FOUND.get_or_init(look_for_obstacle).clone()
}

fn look_for_obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let tools = [["ip", "-V"], ["nft", "-v"]];
    let missing = tools.iter().find(|[tool, flag]| Command::new(tool).arg(flag).output().is_err());
    if let Some([tool, _]) = missing {
        return Some(format!("{tool} is not installed"));
    }
    let probe = format!("rsv{}p", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &probe]).output();
    let able = made.is_ok_and(|o| o.status.success());
    let _ = Command::new("ip").args(["netns", "delete", &probe]).output();
    (!able).then(|| "network namespaces cannot be made".to_owned())
}

struct Running {
    child: Child,
    node: String,
    router: String,
    ec2: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failure the simulator may still run, or be gone without cleaning up.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for name in
            [self.node.clone(), format!("{}-host", self.router), format!("{}-inet", self.router), self.router.clone()]
        {
            let _ = Command::new("ip").args(["netns", "delete", &name]).stderr(Stdio::null()).status();
        }
    }
}

impl Running {
    fn start(tag: &str) -> Self {
        Self::start_with(tag, &[])
    }

    fn start_with(tag: &str, more: &[&str]) -> Self {
        let (node, router) = (format!("rsv{}{tag}n", std::process::id()), format!("rsv{}{tag}v", std::process::id()));
        let mut child = Command::new(env!("CARGO_BIN_EXE_aws-sim"))
            .args(["--node-netns", &node, "--vpc-netns", &router, "--create-netns"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut running = Self { child, node, router, ec2: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).expect("the line of addresses");
        running.ec2 = ready["ec2"].as_str().unwrap().parse().unwrap();
        running
    }

    fn http(&self, method: &str, path: &str, body: &str) -> String {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(self.ec2).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn ec2(&self, parameters: &str) -> String {
        let answer = self.http("POST", "/", &format!("Version=2016-11-15&Action={parameters}"));
        assert!(!answer.contains("<Errors>"), "{parameters}: {answer}");
        answer
    }

    fn enis(&self) -> Vec<serde_json::Value> {
        let state: serde_json::Value = serde_json::from_str(&self.http("GET", "/sim/state", "")).unwrap();
        state["enis"].as_array().unwrap().clone()
    }

    fn ip(&self, arguments: &str) -> String {
        let output = Command::new("ip").args(["-n", &self.node]).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Another MAC for an interface; neighbours are looked for anew.
    fn set_mac(&self, interface: &str, mac: &str) {
        self.ip(&format!("link set {interface} address {mac}"));
        self.ip(&format!("neigh flush dev {interface}"));
    }

    /// Whether a datagram of the host in the VPC gets to the node by an address that the node has taken.
    fn is_reached(&self, address: Ipv4Addr) -> bool {
        let server = inside(&self.node, move || UdpSocket::bind((address, 11)).unwrap());
        server.set_read_timeout(Some(LOOK)).unwrap();
        inside(&format!("{}-host", self.router), move || {
            let socket = UdpSocket::bind((HOST, 0)).unwrap();
            (0..3).any(|_| socket.send_to(b"anybody?", (address, 11)).is_ok() && server.recv(&mut [0; 16]).is_ok())
        })
    }

    /// Whom `to` sees when the node sends from `from`; None: nothing came back.
    fn reaches(&self, from: Ipv4Addr, to: Ipv4Addr) -> Option<Ipv4Addr> {
        inside(&self.node, move || {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.set_read_timeout(Some(LOOK)).unwrap();
            // The first packet may find a neighbour unresolved; a lost one is sent again.
            for _ in 0..3 {
                let mut answer = [0; 4];
                if socket.send_to(b"who am I", (to, 7)).is_ok() && socket.recv(&mut answer).is_ok() {
                    return Some(Ipv4Addr::from(answer));
                }
            }
            None
        })
    }
}

/// Runs `act` on a thread in the namespace.
fn inside<T: Send + 'static>(namespace: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let file = std::fs::File::open(format!("/var/run/netns/{namespace}")).unwrap();
    std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        act()
    })
    .join()
    .unwrap()
}

/// Tells every sender its address, as seen from `namespace`.
fn mirror(namespace: &str) {
    let socket = inside(namespace, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((_, SocketAddr::V4(peer))) => {
                    let _ = socket.send_to(&peer.ip().octets(), peer);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    });
}

fn address(value: &serde_json::Value) -> Ipv4Addr {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn interfaces_appear_and_packets_flow_as_in_ec2() {
    if let Some(reason) = obstacle() {
        println!("SKIPPED: interfaces_appear_and_packets_flow_as_in_ec2: {reason}");
        return;
    }
    let mut s = Running::start("a");
    mirror(&format!("{}-host", s.router));
    mirror(&format!("{}-inet", s.router));
    let first = s.enis().remove(0);
    let (eni0, primary) = (first["id"].as_str().unwrap().to_owned(), address(&first["primary"]));
    assert!(s.ip("link show eth0").contains(first["mac"].as_str().unwrap()));
    assert_eq!(s.reaches(primary, HOST), Some(primary), "inside the VPC addresses stay");
    let public = s.reaches(primary, INTERNET).expect("the primary address has a public one");
    assert_eq!(public.octets()[..3], [203, 0, 113]);

    // A pod's address, before and after EC2 knows it as the interface's.
    let foreign = Ipv4Addr::new(10, 0, 40, 77);
    s.ip(&format!("address add {foreign}/32 dev lo"));
    assert_eq!(s.reaches(foreign, HOST), None, "a foreign source is dropped");
    assert!(!s.is_reached(foreign) && s.is_reached(primary), "nobody brings what is for an address of no interface");
    s.ec2(&format!("AssignPrivateIpAddresses&NetworkInterfaceId={eni0}&SecondaryPrivateIpAddressCount=1"));
    let secondary = address(&s.enis()[0]["secondary"][0]);
    s.ip(&format!("address add {secondary}/32 dev lo"));
    assert_eq!(s.reaches(secondary, HOST), Some(secondary));
    assert_eq!(s.reaches(secondary, INTERNET), None, "a secondary address has no public one");

    // A second interface, plugged, used and unplugged.
    let made = s.ec2("CreateNetworkInterface&SubnetId=subnet-0a7c5e3b1d9f82464");
    let eni1 = made.split("<networkInterfaceId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let instance = "i-0c3f1a9d27b6e4851";
    let attached =
        s.ec2(&format!("AttachNetworkInterface&NetworkInterfaceId={eni1}&InstanceId={instance}&DeviceIndex=1"));
    let attachment = attached.split("<attachmentId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let second = s.enis().into_iter().find(|e| e["id"] == *eni1).unwrap();
    assert!(s.ip("link show eth1").contains(second["mac"].as_str().unwrap()), "there when the call returns");
    let own = address(&second["primary"]);
    s.ip(&format!("address add {own}/32 dev eth1"));
    s.ip("link set eth1 up");
    assert_eq!(s.reaches(own, HOST), None, "its address through the other interface is foreign");
    s.ip("route add 10.0.32.1 dev eth1 table 2");
    s.ip("route add default via 10.0.32.1 dev eth1 table 2");
    s.ip(&format!("rule add from {own} lookup 2"));
    assert_eq!(s.reaches(own, HOST), Some(own));
    // The right address from a MAC that is another's, or nobody's.
    let mac = second["mac"].as_str().unwrap();
    for foreign in [first["mac"].as_str().unwrap(), "02:00:00:00:00:99"] {
        s.set_mac("eth1", foreign);
        assert_eq!(s.reaches(own, HOST), None, "{foreign} is not the MAC of eth1");
    }
    s.set_mac("eth1", mac);
    assert_eq!(s.reaches(own, HOST), Some(own));
    s.ec2(&format!("DetachNetworkInterface&AttachmentId={attachment}"));
    assert!(!s.ip("-o link show").contains("eth1"));

    s.ec2(&format!("UnassignPrivateIpAddresses&NetworkInterfaceId={eni0}&PrivateIpAddress.1={secondary}"));
    assert_eq!(s.reaches(secondary, HOST), None, "no longer the interface's");
    assert!(!s.is_reached(secondary));

    // EC2 and IMDS answer on the node's own loopback too.
    let ec2 = s.ec2;
    let reply = inside(&s.node, move || std::net::TcpStream::connect(ec2).is_ok());
    assert!(reply);

    kill_process(Pid::from_child(&s.child), Signal::TERM).unwrap();
    let start = Instant::now();
    while s.child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(!left.contains(&s.node) && !left.contains(&s.router), "{left}");
}

#[test]
fn security_groups_let_through_what_their_rules_allow() {
    if let Some(reason) = obstacle() {
        println!("SKIPPED: security_groups_let_through_what_their_rules_allow: {reason}");
        return;
    }
    let s = Running::start("d");
    mirror(&format!("{}-host", s.router));
    mirror(&format!("{}-inet", s.router));
    let first = s.enis().remove(0);
    let primary = address(&first["primary"]);
    let change = |verb: &str, group: &str, direction: &str, rule: &str| {
        let deed = format!(r#"{{"{verb}":{{"group":"{group}","direction":"{direction}","rule":{rule}}}}}"#);
        let answer = s.http("POST", "/sim/do", &deed);
        assert!(answer.contains("ok"), "{deed}: {answer}");
    };
    let (nodes, others) = ("sg-0d4e1f6a7b8c9d0e1", "sg-0f2a3b4c5d6e7f809");
    assert!(s.is_reached(primary), "the host in the VPC is a member of the default group");
    change("revoke", nodes, "ingress", &format!(r#"{{"peer":"{nodes}"}}"#));
    assert!(!s.is_reached(primary));
    assert_eq!(s.reaches(primary, HOST), Some(primary), "what answers needs no rule");
    let port = r#"{"protocol":"udp","ports":[11,11],"peer":"10.0.200.10/32"}"#;
    change("authorize", nodes, "ingress", port);
    assert!(s.is_reached(primary));
    change("revoke", nodes, "egress", r#"{"peer":"0.0.0.0/0"}"#);
    assert_eq!((s.reaches(primary, HOST), s.reaches(primary, INTERNET)), (None, None));
    assert!(s.is_reached(primary));
    change("authorize", nodes, "egress", r#"{"protocol":"udp","ports":[1,1024],"peer":"10.0.0.0/16"}"#);
    assert_eq!((s.reaches(primary, HOST), s.reaches(primary, INTERNET)), (Some(primary), None));

    // Other groups: what the interface may is what they say, at once.
    let eni = first["id"].as_str().unwrap();
    s.ec2(&format!("ModifyNetworkInterfaceAttribute&NetworkInterfaceId={eni}&SecurityGroupId.1={others}"));
    assert!(s.reaches(primary, INTERNET).is_some());
    assert!(s.is_reached(primary), "open to the default group");
    change("revoke", others, "ingress", &format!(r#"{{"peer":"{nodes}"}}"#));
    assert!(!s.is_reached(primary));
}

/// One more packet, of either family: whether `to` answers.
fn answers(s: &Running, from: &str, to: &str) -> bool {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    inside(&s.node, move || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(LOOK)).unwrap();
        (0..3).any(|_| socket.send_to(b"hello", (to, 9)).is_ok() && socket.recv(&mut [0; 16]).is_ok())
    })
}

/// Sends everything back.
fn echo(namespace: &str, address: &str) {
    let address: IpAddr = address.parse().unwrap();
    let socket = inside(namespace, move || UdpSocket::bind((address, 9)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((n, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], peer);
        }
    });
}

#[test]
fn ipv6_flows_through_cards_and_prefixes() {
    if let Some(reason) = obstacle() {
        println!("SKIPPED: ipv6_flows_through_cards_and_prefixes: {reason}");
        return;
    }
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        println!("SKIPPED: ipv6_flows_through_cards_and_prefixes: the kernel has no IPv6");
        return;
    }
    let s = Running::start_with("b", &["--preset", "multinic-ipv6"]);
    let (host, internet) = ("2600:1f14:abc:dff::10", "2001:db8:ffff::10");
    echo(&format!("{}-host", s.router), host);
    echo(&format!("{}-inet", s.router), internet);
    let first = s.enis().remove(0);
    let (eni0, own) = (first["id"].as_str().unwrap(), first["ipv6"][0].as_str().unwrap());
    assert!(answers(&s, own, host) && answers(&s, own, internet));

    // A pod's address in a prefix, before and after the interface has it.
    s.ip("address add 2600:1f14:abc:d00:dead::2/128 dev lo nodad");
    assert!(!answers(&s, "2600:1f14:abc:d00:dead::2", host), "a foreign source is dropped");
    s.ec2(&format!("AssignIpv6Addresses&NetworkInterfaceId={eni0}&Ipv6PrefixCount=1"));
    let prefix = s.enis()[0]["ipv6_prefixes"][0].as_str().unwrap().to_owned();
    let pod = prefix.replace("::/80", "::2");
    s.ip(&format!("address add {pod}/128 dev lo nodad"));
    assert!(answers(&s, &pod, host) && answers(&s, &pod, internet));

    // Another card, with the routes that spec 04 §9 has the daemon make.
    let deed =
        r#"{"attach_interface":{"instance":"i-0c3f1a9d27b6e4851","card":1,"device_index":1,"ipv6_addresses":1}}"#;
    let made: serde_json::Value = serde_json::from_str(&s.http("POST", "/sim/do", deed)).unwrap();
    let second = s.enis().into_iter().find(|e| e["id"] == made["eni"]).unwrap();
    let second = second["ipv6"][0].as_str().unwrap();
    s.ip(&format!("address add {second}/64 dev eth1x1 nodad"));
    s.ip("link set eth1x1 up");
    s.ip("route del 2600:1f14:abc:d00::/64 dev eth1x1");
    assert!(!answers(&s, second, host), "through the other interface it is foreign");
    s.ip("route add fe80:ec2::1 dev eth1x1 table 10101");
    s.ip("route add ::/0 via fe80:ec2::1 dev eth1x1 table 10101");
    s.ip(&format!("-6 rule add from {second} lookup 10101 priority 32765"));
    assert!(answers(&s, second, host) && answers(&s, second, internet));
}

#[test]
fn another_block_of_the_vpc_is_routed() {
    if let Some(reason) = obstacle() {
        println!("SKIPPED: another_block_of_the_vpc_is_routed: {reason}");
        return;
    }
    let s = Running::start_with("c", &["--preset", "custom"]);
    mirror(&format!("{}-host", s.router));
    mirror(&format!("{}-inet", s.router));
    let deed =
        r#"{"attach_interface":{"instance":"i-0c3f1a9d27b6e4851","subnet":"subnet-0e8d6c4b2a0f97531","addresses":1}}"#;
    let made: serde_json::Value = serde_json::from_str(&s.http("POST", "/sim/do", deed)).unwrap();
    let eni = s.enis().into_iter().find(|e| e["id"] == made["eni"]).unwrap();
    let (own, pod) = (address(&eni["primary"]), address(&eni["secondary"][0]));
    assert_eq!(own.octets()[..2], [100, 64]);
    s.ip(&format!("address add {own}/19 dev eth1"));
    s.ip("link set eth1 up");
    s.ip("route add 100.64.0.1 dev eth1 table 2 scope link");
    s.ip("route add default via 100.64.0.1 dev eth1 table 2");
    s.ip(&format!("rule add from {own} lookup 2"));
    s.ip(&format!("rule add from {pod} lookup 2"));
    s.ip(&format!("address add {pod}/32 dev lo"));
    assert_eq!((s.reaches(own, HOST), s.reaches(pod, HOST)), (Some(own), Some(pod)));
    assert_eq!(s.reaches(pod, INTERNET), None, "only the primary interface's address has a public one");
}
