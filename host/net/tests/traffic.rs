//! Packets, not only rules: which way they take and what address they have (spec 04 §16), with both kinds of iptables
//! and both forms of the connmark rules.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reservoir_net::eni::{self, EniSetup};
use reservoir_net::host;
use reservoir_net::iptables::{Backend, Iptables, SnatConfig};
use reservoir_net::pod::{self, PodInterface, PodSetup};
use reservoir_net::testing::Inventory;
use support::{CONFIG, Namespace, PRIMARY, SECONDARY, is_clean_after, mac, secondary, skip, snat_config, snat_facts};

const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 96, 10);
const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 97, 31);
/// Outside the VPC; inside it; in a block that joins it later.
const INTERNET: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 200, 1);
const LATER: Ipv4Addr = Ipv4Addr::new(100, 64, 9, 1);
const PATIENCE: Duration = Duration::from_secs(10);

/// A node with a pod on its secondary interface, and everything else in another namespace.
struct World {
    node: Namespace,
    pod: Namespace,
    rest: Namespace,
    /// The pod, and what was there before it.
    pod_came: Option<(PodSetup, Inventory)>,
}

impl World {
    fn new(test: &str) -> Option<Self> {
        let mut world = Self {
            node: Namespace::new(test)?,
            pod: Namespace::new(test)?,
            rest: Namespace::new(test)?,
            pod_came: None,
        };
        let (node, rest) = (&world.node, &world.rest);
        let rest_name = rest.path().file_name()?.to_str()?.to_owned();
        for (name, mac) in [("eth0", PRIMARY), ("eth1", SECONDARY)] {
            node.ip(&format!("link add {name} address {mac} type veth peer name {name} netns {rest_name}"));
            rest.ip(&format!("link set {name} up"));
        }
        node.command("sysctl", "-q -w net.ipv4.ip_forward=1");
        node.ip("link set eth0 up");
        node.ip(&format!("addr add {NODE}/19 dev eth0"));
        node.ip("route add default via 10.0.96.1 dev eth0");

        // The router answers on both wires. What EC2 knows, it is told: which wire a pod's address is behind.
        rest.ip("addr add 10.0.96.1/19 dev eth0");
        for address in [INTERNET, INSIDE, LATER] {
            rest.ip(&format!("addr add {address}/32 dev lo"));
        }
        rest.ip(&format!("route add {POD} dev eth1"));
        rest.ip(&format!("neigh add {POD} lladdr {SECONDARY} dev eth1"));
        for interface in ["all", "default", "eth0", "eth1"] {
            rest.command("sysctl", &format!("-q -w net.ipv4.conf.{interface}.rp_filter=0"));
        }

        node.run(|| host::set_up(&CONFIG, mac(PRIMARY))).unwrap();
        let setup = EniSetup { mtu: 1500, ..secondary() };
        node.run(|| eni::set_up(&setup, Duration::ZERO)).unwrap();
        let interfaces =
            vec![PodInterface { name: "eth0".to_owned(), host_veth: "eni1".to_owned(), address: POD.into(), table: 2 }];
        let setup = PodSetup { netns: world.pod.path(), mtu: 1500, interfaces };
        let before = node.inventory();
        node.run(|| pod::set_up(&setup)).unwrap();
        world.pod_came = Some((setup, before));
        Some(world)
    }

    /// The pod goes, and nothing of it is left; whatever was said about it in the firewall was not about it alone.
    fn end(self) {
        let Self { node, pod, pod_came, .. } = self;
        let (setup, before) = pod_came.unwrap();
        is_clean_after(&node, &before, &[&setup], vec![pod]);
    }

    fn apply(&self, iptables: &mut Iptables, external_snat: bool, cidrs: &[&str]) {
        let config = SnatConfig { external_snat, ..snat_config() };
        let facts = snat_facts(cidrs);
        self.node.run(|| iptables.apply(&config, &facts)).unwrap();
    }

    /// Talks from the pod to `destination`, in both directions and several times; tells who it seemed to be there.
    fn talk(&self, destination: Ipv4Addr) -> IpAddr {
        let listener = self.rest.run(|| TcpListener::bind((destination, 0))).unwrap();
        let target: SocketAddr = listener.local_addr().unwrap();
        let mut pod_end = self.pod.run(|| TcpStream::connect_timeout(&target, PATIENCE)).unwrap();
        let (mut far_end, peer) = listener.accept().unwrap();
        for end in [&pod_end, &far_end] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut received = [0; 4];
        for _ in 0..3 {
            pod_end.write_all(b"ping").unwrap();
            far_end.read_exact(&mut received).unwrap();
            far_end.write_all(b"pong").unwrap();
            pod_end.read_exact(&mut received).unwrap();
            assert_eq!(&received, b"pong");
        }
        peer.ip()
    }

    /// Counts, behind the wire of the primary interface, what comes with the pod's address and what with the node's.
    fn watch_the_wire(&self) {
        let rule = |what: &str, source: Ipv4Addr| {
            self.rest.command("nft", &format!("add counter ip wire {what}"));
            self.rest
                .command("nft", &format!("add rule ip wire in iifname eth0 ip saddr {source} counter name {what}"));
        };
        self.rest.command("nft", "add table ip wire");
        self.rest.command("nft", "add chain ip wire in { type filter hook prerouting priority -400; }");
        rule("pod", POD);
        rule("node", NODE);
    }

    fn seen_on_the_wire(&self, what: &str) -> u64 {
        let text = self.rest.command("nft", &format!("list counter ip wire {what}"));
        text.split_whitespace().skip_while(|w| *w != "packets").nth(1).unwrap().parse().unwrap()
    }

    /// Packets that have left by an interface of the node.
    fn sent(&self, interface: &str) -> u64 {
        let path = format!("/sys/class/net/{interface}/statistics/tx_packets");
        self.node.command("cat", &path).trim().parse().unwrap()
    }

    /// The interface by which the packets to `destination` leave.
    fn way(&self, destination: Ipv4Addr) -> (&'static str, IpAddr) {
        let before = [self.sent("eth0"), self.sent("eth1")];
        let peer = self.talk(destination);
        let [eth0, eth1] = [self.sent("eth0") - before[0], self.sent("eth1") - before[1]];
        // A look for a neighbour is a packet, too: the conversation has more.
        (if eth0 > eth1 { "eth0" } else { "eth1" }, peer)
    }
}

fn each_form(test: &str, run: impl Fn(&World, &mut Iptables)) {
    for (program, backend) in [
        ("iptables-legacy", Backend::Iptables),
        ("iptables-nft", Backend::Iptables),
        ("iptables-nft", Backend::Nftables),
        ("iptables-legacy", Backend::Nftables),
    ] {
        let Some(world) = World::new(test) else { return };
        let works = world.node.run(|| Command::new(program).args(["-t", "nat", "-S"]).output());
        if works.is_ok_and(|o| o.status.success()) {
            run(&world, &mut Iptables::detect(program).unwrap().with_backend(backend));
            world.end();
        } else {
            let _: Option<()> = skip(test, &format!("{program} does not work here"));
        }
    }
}

#[test]
fn a_pod_on_a_secondary_interface_reaches_the_vpc_as_itself_and_the_rest_as_the_node() {
    each_form("a_pod_on_a_secondary_interface", |world, iptables| {
        world.apply(iptables, false, &["10.0.0.0/16"]);
        assert_eq!(world.way(INSIDE), ("eth1", POD.into()), "{iptables:?}");
        assert_eq!(world.way(INTERNET), ("eth0", NODE.into()), "{iptables:?}");
        assert_eq!(world.way(LATER), ("eth0", NODE.into()), "{iptables:?}");
        // A block joins the VPC while the daemon runs (spec 04 §12.1).
        world.apply(iptables, false, &["10.0.0.0/16", "100.64.0.0/16"]);
        assert_eq!(world.way(LATER), ("eth1", POD.into()), "{iptables:?}");
        assert_eq!(world.way(INTERNET), ("eth0", NODE.into()), "{iptables:?}");
        // Somebody else translates addresses: all leaves by the pod's own interface.
        world.apply(iptables, true, &["10.0.0.0/16"]);
        assert_eq!(world.way(INTERNET), ("eth1", POD.into()), "{iptables:?}");
    });
}

#[test]
fn a_list_that_changes_all_the_time_never_lets_a_packet_out_unmasked() {
    each_form("a_list_that_changes_all_the_time", |world, iptables| {
        world.apply(iptables, false, &["10.0.0.0/16"]);
        std::thread::scope(|scope| {
            let talking = scope.spawn(|| (0..40).map(|_| world.talk(INTERNET)).collect::<Vec<_>>());
            let lists: [&[&str]; 2] = [&["10.0.0.0/16", "100.64.0.0/16"], &["10.0.0.0/16"]];
            for list in lists.iter().cycle() {
                if talking.is_finished() {
                    break;
                }
                world.apply(iptables, false, list);
            }
            let seen = talking.join().unwrap();
            assert!(seen.iter().all(|peer| *peer == IpAddr::from(NODE)), "{seen:?}");
        });
    });
}

/// Destinations go to and fro between what is translated and what is not, and so does all: a packet that is led out by
/// the primary interface has the node's address, at every moment.
#[test]
fn no_packet_leaves_by_the_primary_interface_as_the_pods() {
    let test = "no_packet_leaves_by_the_primary_interface_as_the_pods";
    each_form(test, |world, iptables| {
        if Command::new("nft").arg("--version").output().is_err() {
            let _: Option<()> = skip(test, "needs nft, the witness");
            return;
        }
        world.apply(iptables, false, &["10.0.0.0/16"]);
        world.watch_the_wire();
        let end = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                world.pod.run(|| {
                    let mut sent = 0_u32;
                    while !end.load(Ordering::Relaxed) {
                        // A socket each, so that each is a new connection.
                        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                        let target = if sent.is_multiple_of(2) { LATER } else { INTERNET };
                        let _ = socket.send_to(b"as whom?", (target, 9));
                        sent += 1;
                    }
                    sent
                })
            });
            for _ in 0..10 {
                world.apply(iptables, false, &["10.0.0.0/16", "100.64.0.0/16"]);
                world.apply(iptables, false, &["100.64.0.0/16", "10.0.0.0/16"]);
                world.apply(iptables, false, &["10.0.0.0/16"]);
                world.apply(iptables, true, &["10.0.0.0/16"]);
            }
            world.apply(iptables, false, &["10.0.0.0/16"]);
            std::thread::sleep(Duration::from_millis(50));
            end.store(true, Ordering::Relaxed);
            sending.join().unwrap()
        });
        let (pod, node) = (world.seen_on_the_wire("pod"), world.seen_on_the_wire("node"));
        assert!(sent > 100 && node > 100, "{sent} sent, {node} as the node: {iptables:?}");
        assert_eq!(pod, 0, "of {sent} packets, {node} as the node: {iptables:?}");
    });
}
