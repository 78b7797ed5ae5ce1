//! Rules of others: kube-proxy's and Docker's are there before the daemon starts, more come while it runs, and none of
//! them is ever touched, whatever starts, ends, changes its settings, comes and goes. With both kinds of iptables, and
//! with rules of the other kind and tables of nftables' own besides.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ring::shell::in_netns;
use ring::{Node, Options};
use rustix::process::Signal;

use crate::flavours::Flavour;
use crate::kube_proxy::{self, Policy, Service};
use crate::support::lab::MINUTE;
use crate::world::World;

/// What `dockerd` and an administrator have put there.
const DOCKER: &str = r#"*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 2375 -j DNAT --to-destination 172.17.0.2:2375
COMMIT
*filter
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*mangle
:COMPANY - [0:0]
-A PREROUTING -i eth+ -m comment --comment "not AWS, primary ENI" -j COMPANY
-A COMPANY -m mark --mark 0x80/0x80 -j RETURN
COMMIT
"#;

/// Comes while the daemon runs: before, between and behind what the daemon has put there.
const LATER: &str = r#"*nat
:CALICO-FIP - [0:0]
-I PREROUTING 1 -m comment --comment "cali:6gwbT8clXdHdC1b1" -j CALICO-FIP
-A POSTROUTING -s 10.9.0.0/16 -m comment --comment "company SNAT" -j RETURN
COMMIT
*mangle
-A COMPANY -p udp -m udp --dport 53 -j MARK --set-xmark 0x100000/0x100000
COMMIT
"#;

const NFT: &str = r#"table inet company {
    set blocked { type ipv4_addr; elements = { 192.0.2.66 } }
    chain input { type filter hook input priority 10; policy accept;
        ip saddr @blocked drop
    }
}
table ip aws-of-company {
    chain nat-prerouting { type nat hook prerouting priority -90; policy accept;
        iifname "eni*" tcp dport 9999 dnat to 192.0.2.7
    }
}
"#;

/// Sets it when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Foreign {
    node: String,
    bin: std::path::PathBuf,
}

impl Foreign {
    fn feed(&self, program: &str, arguments: &[&str], text: &str) {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.node, program])
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{program}:\n{text}");
    }

    fn restore(&self, family: &str, text: &str) {
        self.feed(&self.bin.join(format!("{family}-restore")).display().to_string(), &["--noflush", "--wait"], text);
    }

    /// Everything of others, as the programs show it: without counters, times and what carries our names.
    fn rules(&self) -> Vec<String> {
        let mut all = Vec::new();
        for flavour in [Flavour::Legacy, Flavour::Nft] {
            for family in ["iptables", "ip6tables"] {
                let saved = in_netns(&self.node, &flavour.program(&format!("{family}-save")), &[]).unwrap();
                let mut table = String::new();
                for line in saved.lines().filter(|l| !l.starts_with('#') && !is_ours(l)) {
                    if line.starts_with('*') {
                        table = line.to_owned();
                    }
                    // Chains that a kind always has come with the first look at a table, empty.
                    if line.starts_with("-A") || (line.starts_with(':') && line.contains(" - ")) {
                        let line = line.split(" [").next().unwrap_or_default();
                        all.push(format!("{} {table} {line}", flavour.program(family)));
                    }
                }
            }
        }
        for table in ["inet company", "ip aws-of-company"] {
            let words: Vec<&str> = ["list", "table"].into_iter().chain(table.split(' ')).collect();
            all.extend(in_netns(&self.node, "nft", &words).unwrap().lines().map(|l| format!("nft {l}")));
        }
        all
    }
}

/// The chains and the rules of spec 04 §10 and §11.
fn is_ours(line: &str) -> bool {
    let names = [":AWS-SNAT-CHAIN-0 ", ":AWS-CONNMARK-CHAIN-0 ", "-A AWS-SNAT-CHAIN-0 ", "-A AWS-CONNMARK-CHAIN-0 "];
    let comments = ["\"AWS SNAT CHAIN\"", "\"AWS, primary ENI\"", "\"AWS, outbound connections\"", "\"AWS, CONNMARK\""];
    names.iter().any(|n| line.starts_with(n)) || comments.iter().any(|c| line.contains(&format!("--comment {c}")))
}

fn services(endpoint: [u8; 4]) -> Vec<Service> {
    let cluster_ip = |last| IpAddr::V4(Ipv4Addr::new(172, 20, 0, last));
    let endpoints = vec![SocketAddr::from((endpoint, 8080)), SocketAddr::from(([10, 0, 96, 77], 8080))];
    let (policy, port) = (Policy::Cluster, 80);
    vec![
        Service { name: "a", cluster_ip: cluster_ip(1), port, node_port: None, policy, endpoints: endpoints.clone() },
        Service {
            name: "b",
            cluster_ip: cluster_ip(2),
            port,
            node_port: Some(30081),
            policy: Policy::Local,
            endpoints,
        },
    ]
}

fn untouched(flavour: Flavour) {
    let dir = tempfile::tempdir().unwrap();
    let (bin, path) = flavour.path(dir.path());
    let env = vec![("PATH".to_owned(), path), ("IP_COOLDOWN_PERIOD".to_owned(), "1".to_owned())];
    let node = Node::new(Options { instance_type: "t3.small".to_owned(), env, ..Options::of_tree() }).unwrap();
    let foreign = Foreign { node: node.netns(), bin: bin.clone() };
    let program = |name: &str| bin.join(name).display().to_string();
    let proxy = |endpoint| {
        let services = services(endpoint);
        kube_proxy::apply(&foreign.node, &program("iptables"), &program("iptables-restore"), &services);
    };
    foreign.restore("iptables", DOCKER);
    foreign.restore(
        "ip6tables",
        &DOCKER
            .replace("172.17.0.0/16", "fd17::/64")
            .replace("127.0.0.0/8", "::1")
            .replace("172.17.0.2:", "[fd17::2]:"),
    );
    // What an earlier boot with the other kind has left.
    let other = if flavour == Flavour::Legacy { Flavour::Nft } else { Flavour::Legacy };
    foreign.feed(&other.program("iptables-restore"), &["--noflush"], "*nat\n:OLD - [0:0]\n-A OUTPUT -j OLD\nCOMMIT\n");
    foreign.feed("nft", &["-f", "-"], NFT);
    proxy([10, 0, 97, 1]);

    let mut before = foreign.rules();
    for needle in ["KUBE-SVC", "DOCKER-USER", "COMPANY", "ip6tables", "nft ", "-j OLD"] {
        assert!(before.iter().any(|l| l.contains(needle)), "no {needle} in {before:#?}");
    }
    let same = |before: &[String], when: &str| {
        let after = foreign.rules();
        let lost: Vec<_> = before.iter().filter(|l| !after.contains(l)).collect();
        let new: Vec<_> = after.iter().filter(|l| !before.contains(l)).collect();
        assert_eq!(before, after, "{flavour:?}, {when}: lost {lost:#?}, new {new:#?}");
    };
    let mut world = World::of(node);
    same(&before, "the daemon started");
    world.fill(1);
    same(&before, "pods came");

    // Others go on working: what they add is theirs from then on, and is where they put it.
    foreign.restore("iptables", LATER);
    proxy([10, 0, 97, 2]);
    let with_later = foreign.rules();
    assert!(with_later.len() > before.len());
    before = with_later;
    // Nor does a change of the daemon's lose one of theirs that comes at the same moment: kube-proxy writes all the time.
    let (writes, end) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                proxy([10, 0, 97, 2]);
                writes.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        // Also when one of the comparisons fails.
        let _end = Ends(&end);
        for (key, value) in [
            ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "192.168.0.0/16"),
            ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "none"),
            ("AWS_VPC_K8S_CNI_CONNMARK", "0x40"),
            ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true"),
            ("AWS_VPC_CNI_NODE_PORT_SUPPORT", "false"),
            ("AWS_VPC_K8S_CNI_EXTERNALSNAT", ""),
            ("AWS_VPC_CNI_NODE_PORT_SUPPORT", ""),
        ] {
            let written = writes.load(Ordering::Relaxed);
            world.restart(&[(key, value)]);
            let until = Instant::now() + MINUTE;
            while writes.load(Ordering::Relaxed) == written {
                assert!(Instant::now() < until, "kube-proxy writes no more, after {written} times");
                thread::sleep(Duration::from_millis(5));
            }
            same(&before, &format!("{key}={value:?}"));
        }
    });
    world.set_vpc_cidrs(&["10.0.0.0/16", "100.64.0.0/16"]);
    world.restart(&[]);
    same(&before, "the VPC has another block");
    // An older one's numbered chains go, with what is in them; nobody else's.
    foreign.restore("iptables", "*nat\n:AWS-SNAT-CHAIN-1 - [0:0]\n-A AWS-SNAT-CHAIN-1 -j RETURN\nCOMMIT\n");
    world.restart(&[]);
    same(&before, "old chains were removed");
    for pod in std::mem::take(&mut world.pods) {
        world.node.remove_pod(&pod).unwrap();
    }
    same(&before, "pods went");
    world.node.end_daemon(Signal::KILL).unwrap();
    world.node.start_daemon().unwrap();
    world.node.end_daemon(Signal::TERM).unwrap();
    same(&before, "the daemon ended");
}

#[test]
fn rules_of_others_are_never_touched() {
    let test = "rules_of_others_are_never_touched";
    if !crate::can_run(test) {
        return;
    }
    for flavour in Flavour::all(test) {
        untouched(flavour);
    }
}
