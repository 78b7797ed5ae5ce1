//! Pod wiring in real namespaces, looked at with `ip`.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;

use reservoir_net::Error;
use reservoir_net::pod::{self, PodAddress, PodInterface, PodSetup};
use rustix::io::Errno;
use support::{Namespace, is_clean_after};

const VETH: &str = "eni0761ccbeace";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 97, 31);

fn interface(name: &str, host_veth: &str, last: u8, table: u32) -> PodInterface {
    let address = IpAddr::from([10, 0, 97, last]);
    PodInterface { name: name.to_owned(), host_veth: host_veth.to_owned(), address, table }
}

fn setup(pod: &Namespace) -> PodSetup {
    PodSetup { netns: pod.path(), mtu: 9001, interfaces: vec![interface("eth0", VETH, 31, 2)] }
}

fn wait_until_gone(node: &Namespace, name: &str) {
    // The kernel takes a namespace apart in its own time.
    for _ in 0..3000 {
        if !node.ip("-o link show").contains(name) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{name} did not go with its namespace");
}

#[test]
fn add_makes_what_the_specification_shows_and_del_leaves_nothing() {
    let Some(node) = Namespace::new("add_makes_what_the_specification_shows") else { return };
    let pod_ns = Namespace::new("pod").unwrap();
    let before = node.state();
    let setup = setup(&pod_ns);

    let links = node.run(|| pod::set_up(&setup)).unwrap();
    let mac = links[0].host.mac.unwrap().to_string();

    let rules = node.ip("rule show");
    assert!(rules.contains("512:\tfrom all to 10.0.97.31 lookup main\n"), "{rules}");
    assert!(rules.contains("1536:\tfrom 10.0.97.31 lookup 2\n"), "{rules}");
    assert!(!rules.contains("proto"), "{rules}");
    assert_eq!(node.ip("route show"), format!("10.0.97.31 dev {VETH} scope link\n"));
    let host_link = node.ip(&format!("-o link show {VETH}"));
    assert!(host_link.contains("mtu 9001") && host_link.contains(",UP") && host_link.contains(&mac), "{host_link}");
    assert!(!host_link.contains("qlen"), "{host_link}");

    assert_eq!(pod_ns.ip("route show"), "default via 169.254.1.1 dev eth0\n169.254.1.1 dev eth0 scope link\n");
    assert_eq!(pod_ns.ip("neigh show"), format!("169.254.1.1 dev eth0 lladdr {mac} PERMANENT\n"));
    let addresses = pod_ns.ip("addr show eth0");
    assert!(addresses.contains("    inet 10.0.97.31/32 scope global eth0\n"), "{addresses}");
    assert!(pod_ns.ip("-o link show eth0").contains(&links[0].container.mac.unwrap().to_string()));
    for (key, value) in [("accept_ra", "0"), ("accept_redirects", "1"), ("forwarding", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/{VETH}/{key}");
        if PathBuf::from("/proc/sys/net/ipv6").exists() {
            assert_eq!(node.command("cat", &path).trim(), value, "{key}");
        }
    }
    node.run(|| pod::check(&setup)).unwrap();

    node.run(|| pod::tear_down(&[PodAddress { address: ADDRESS.into(), table: 2 }])).unwrap();
    drop(pod_ns);
    wait_until_gone(&node, VETH);
    assert_eq!(node.state(), before);
}

#[test]
fn packets_flow_between_node_and_pod() {
    let Some(node) = Namespace::new("packets_flow_between_node_and_pod") else { return };
    let pod_ns = Namespace::new("pod").unwrap();
    let before = node.inventory();
    node.run(|| pod::set_up(&PodSetup { interfaces: vec![interface("eth0", VETH, 31, 254)], ..setup(&pod_ns) }))
        .unwrap();
    node.ip("addr add 10.0.96.10/32 dev lo");
    let listener = pod_ns.run(|| TcpListener::bind((ADDRESS, 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut node_end = node.run(|| TcpStream::connect((ADDRESS, port))).unwrap();
    let (mut pod_end, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), IpAddr::from([10, 0, 96, 10]));
    node_end.write_all(b"to the pod").unwrap();
    let mut received = [0; 10];
    pod_end.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"to the pod");
    // Sockets keep a namespace, also those that wait for the other end.
    drop((node_end, pod_end, listener));
    is_clean_after(&node, &before, &[&setup(&pod_ns)], vec![pod_ns]);
}

#[test]
fn add_again_replaces_the_pair_and_keeps_the_rules() {
    let Some(node) = Namespace::new("add_again_replaces_the_pair") else { return };
    let pod_ns = Namespace::new("pod").unwrap();
    let before = node.inventory();
    let setup = setup(&pod_ns);
    let first = node.run(|| pod::set_up(&setup)).unwrap();
    let second = node.run(|| pod::set_up(&setup)).unwrap();
    assert_ne!(first[0].host.index, second[0].host.index);
    assert_eq!(node.ip("rule show").matches("10.0.97.31").count(), 2);
    node.run(|| pod::check(&setup)).unwrap();
    is_clean_after(&node, &before, &[&setup], vec![pod_ns]);
}

#[test]
fn two_interfaces_each_have_their_own_table_in_the_pod() {
    let Some(node) = Namespace::new("two_interfaces_each_have_their_own_table") else { return };
    let pod_ns = Namespace::new("pod").unwrap();
    let before = node.inventory();
    let interfaces = vec![interface("eth0", VETH, 31, 254), interface("mNicIf1", "eni1", 40, 10101)];
    let setup = PodSetup { interfaces, ..setup(&pod_ns) };
    node.run(|| pod::set_up(&setup)).unwrap();
    node.run(|| pod::check(&setup)).unwrap();
    assert_eq!(
        pod_ns.ip("route show table 1"),
        "default via 169.254.1.2 dev mNicIf1\n169.254.1.2 dev mNicIf1 scope link\n"
    );
    assert!(pod_ns.ip("rule show").contains("1:\tfrom 10.0.97.40 lookup 1\n"));
    assert!(node.ip("rule show").contains("1536:\tfrom 10.0.97.40 lookup 10101\n"));
    assert!(!node.ip("rule show").contains("from 10.0.97.31"));
    is_clean_after(&node, &before, &[&setup], vec![pod_ns]);
}

#[test]
fn a_failed_add_leaves_nothing_behind() {
    let Some(node) = Namespace::new("a_failed_add_leaves_nothing_behind") else { return };
    let pod_ns = Namespace::new("pod").unwrap();
    let before = node.state();
    // The second interface has the first one's name: the kernel refuses it after the first is complete.
    let interfaces = vec![interface("eth0", VETH, 31, 2), interface("eth0", "eni1", 40, 3)];
    let error = node.run(|| pod::set_up(&PodSetup { interfaces, ..setup(&pod_ns) })).unwrap_err();
    assert!(matches!(error.root(), Error::Exists { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("SetupPodNetwork: failed to setup veth pair: failed to setup veth network: file exists"),
        "{text}"
    );
    assert_eq!(node.state(), before);
    assert_eq!(pod_ns.ip("-o link show").lines().count(), 1);
}

#[test]
fn a_failure_inside_the_pod_takes_the_pair_away() {
    let Some(node) = Namespace::new("a_failure_inside_the_pod") else { return };
    let pod_ns = Namespace::new("pod").unwrap();
    let before = node.state();
    pod_ns.ip("link add d0 type veth peer name d1");
    pod_ns.ip("link set d0 up");
    pod_ns.ip("route add default dev d0");
    let error = node.run(|| pod::set_up(&setup(&pod_ns))).unwrap_err();
    assert!(error.to_string().contains("setup NS network: failed to add default route: file exists"), "{error}");
    assert_eq!(error.errno(), Some(Errno::EXIST));
    assert_eq!(node.state(), before);
    assert!(!pod_ns.ip("-o link show").contains("eth0"));
}

#[test]
fn del_is_fine_with_every_half_state() {
    let Some(node) = Namespace::new("del_is_fine_with_every_half_state") else { return };
    let before = node.state();
    let address = |table| [PodAddress { address: ADDRESS.into(), table }];
    node.run(|| pod::tear_down(&address(2))).unwrap();
    // Rules without an interface, one per VPC CIDR as old versions had them, and a table nobody remembers.
    for rule in [
        "to 10.0.97.31 priority 512 lookup main",
        "from 10.0.97.31 to 10.0.0.0/16 priority 1536 lookup 7",
        "from 10.0.97.31 to 10.1.0.0/16 priority 1536 lookup 7",
        "from 10.0.97.31 priority 1536 lookup 9",
    ] {
        node.ip(&format!("rule add {rule}"));
    }
    node.ip("rule add from 10.0.97.32 priority 1536 lookup 9");
    node.run(|| pod::tear_down(&address(0))).unwrap();
    let rules = node.ip("rule show");
    assert!(!rules.contains("10.0.97.31"), "{rules}");
    assert!(rules.contains("1536:\tfrom 10.0.97.32 lookup 9"), "{rules}");
    node.ip("rule del from 10.0.97.32 priority 1536 lookup 9");
    assert_eq!(node.state(), before);
}

#[test]
fn bad_input_is_named_and_touches_nothing() {
    let Some(node) = Namespace::new("bad_input_is_named") else { return };
    let before = node.state();
    let base = PodSetup {
        netns: "/var/run/netns/not-there".into(),
        mtu: 9001,
        interfaces: vec![interface("eth0", VETH, 31, 2)],
    };
    let fails = |setup: PodSetup| node.run(|| pod::set_up(&setup)).unwrap_err();
    let error = fails(base.clone());
    assert!(matches!(error.root(), Error::NoSuchNamespace { .. }), "{error}");
    let error = fails(PodSetup { netns: "/proc/self/status".into(), ..base.clone() });
    assert!(error.root().to_string().contains("/proc/self/status"), "{error}");
    for (setup, named) in [
        (PodSetup { interfaces: Vec::new(), ..base.clone() }, "no interface"),
        (PodSetup { mtu: 100, ..base.clone() }, "MTU 100"),
        (PodSetup { interfaces: vec![interface("a/b", VETH, 31, 2)], ..base.clone() }, "a/b"),
        (PodSetup { interfaces: vec![interface("eth0", "sixteen-bytes-xx", 31, 2)], ..base.clone() }, "too long"),
    ] {
        let error = fails(setup);
        assert!(matches!(error.root(), Error::Invalid(text) if text.contains(named)), "{error}");
    }
    assert_eq!(node.state(), before);
}

#[test]
fn check_names_every_difference() {
    let Some(node) = Namespace::new("check_names_every_difference") else { return };
    let pod_ns = Namespace::new("pod").unwrap();
    let before = node.inventory();
    let setup = setup(&pod_ns);
    let differences = || match node.run(|| pod::check(&setup)) {
        Err(Error::Differs(list)) => list,
        other => panic!("{other:?}"),
    };
    assert_eq!(differences().len(), 2, "both ends missing");
    node.run(|| pod::set_up(&setup)).unwrap();
    pod_ns.ip("neigh del 169.254.1.1 dev eth0");
    pod_ns.ip("addr del 10.0.97.31/32 dev eth0");
    node.ip("rule del priority 1536");
    node.ip(&format!("link set {VETH} mtu 1400"));
    let found = differences();
    // Without its address the pod loses its routes, too.
    assert_eq!(found.len(), 6, "{found:?}");
    node.ip("route del 10.0.97.31");
    assert_eq!(differences().len(), 7);
    is_clean_after(&node, &before, &[&setup], vec![pod_ns]);
}

#[test]
fn eight_adds_at_once_in_one_node() {
    let Some(node) = Namespace::new("eight_adds_at_once_in_one_node") else { return };
    let pods: Vec<Namespace> = (0..8).map(|_| Namespace::new("pod").unwrap()).collect();
    let before = node.inventory();
    let setups: Vec<PodSetup> = pods
        .iter()
        .zip(1u8..)
        .map(|(pod, n)| PodSetup {
            netns: pod.path(),
            mtu: 1500,
            interfaces: vec![interface("eth0", &format!("eni{n}"), n, 2)],
        })
        .collect();
    std::thread::scope(|scope| {
        for setup in &setups {
            scope.spawn(|| node.run(|| pod::set_up(setup)).unwrap());
        }
    });
    for setup in &setups {
        node.run(|| pod::check(setup)).unwrap();
    }
    is_clean_after(&node, &before, &setups.iter().collect::<Vec<_>>(), pods);
}

fn interface_v6(name: &str, host_veth: &str, address: &str, table: u32) -> PodInterface {
    let address = address.parse().unwrap();
    PodInterface { name: name.to_owned(), host_veth: host_veth.to_owned(), address, table }
}

#[test]
fn an_ipv6_pod_gets_what_the_specification_shows_and_del_leaves_nothing() {
    let Some(node) = Namespace::new("an_ipv6_pod_gets_what_the_specification_shows") else { return };
    let pod_ns = Namespace::new("pod").unwrap();
    // As container runtimes leave it.
    for interface in ["all", "default"] {
        pod_ns.command("sysctl", &format!("-q -w net.ipv6.conf.{interface}.disable_ipv6=1"));
    }
    let before = node.state();
    let address = "2600:1f14:abc:d00:5c1e::4";
    let setup = PodSetup { interfaces: vec![interface_v6("eth0", VETH, address, 10_101)], ..setup(&pod_ns) };
    let links = node.run(|| pod::set_up(&setup)).unwrap();
    let mac = links[0].host.mac.unwrap().to_string();

    assert_eq!(
        pod_ns.ip("-6 route show"),
        format!(
            "{address} dev eth0 proto kernel metric 256 pref medium\n\
             fe80::1 dev eth0 metric 1024 pref medium\n\
             fe80::/64 dev eth0 proto kernel metric 256 pref medium\n\
             default via fe80::1 dev eth0 metric 1024 pref medium\n"
        )
    );
    assert_eq!(pod_ns.ip("-6 neigh show"), format!("fe80::1 dev eth0 lladdr {mac} PERMANENT\n"));
    assert!(!pod_ns.ip("-6 addr show eth0").contains("tentative"));
    assert_eq!(node.ip("-6 route show 2600::/16"), "");
    assert_eq!(node.ip(&format!("-6 route show {address}")), format!("{address} dev {VETH} metric 1024 pref medium\n"));
    let rules = node.ip("-6 rule show");
    assert!(rules.contains(&format!("512:\tfrom all to {address} lookup main\n")), "{rules}");
    assert!(rules.contains(&format!("1536:\tfrom {address} lookup 10101\n")), "{rules}");
    node.run(|| pod::check(&setup)).unwrap();

    let pod = [PodAddress { address: address.parse().unwrap(), table: 10_101 }];
    node.run(|| pod::tear_down(&pod)).unwrap();
    node.run(|| pod::tear_down(&pod)).unwrap();
    drop(pod_ns);
    wait_until_gone(&node, VETH);
    assert_eq!(node.state(), before);
}

#[test]
fn packets_flow_between_node_and_ipv6_pod() {
    let Some(node) = Namespace::new("packets_flow_between_node_and_ipv6_pod") else { return };
    let pod_ns = Namespace::new("pod").unwrap();
    let address = "2600:1f14:abc:d00:5c1e::4";
    node.ip("-6 addr add 2600:1f14:abc:d00::10/128 dev lo nodad");
    let before = node.inventory();
    let interfaces = vec![interface_v6("eth0", VETH, address, 254)];
    let setup = PodSetup { interfaces, ..setup(&pod_ns) };
    node.run(|| pod::set_up(&setup)).unwrap();
    let address: IpAddr = address.parse().unwrap();
    let listener = pod_ns.run(|| TcpListener::bind((address, 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut node_end = node.run(|| TcpStream::connect((address, port))).unwrap();
    let (mut pod_end, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip().to_string(), "2600:1f14:abc:d00::10");
    node_end.write_all(b"to the pod").unwrap();
    let mut received = [0; 10];
    pod_end.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"to the pod");
    // Sockets keep a namespace, also those that wait for the other end.
    drop((node_end, pod_end, listener));
    is_clean_after(&node, &before, &[&setup], vec![pod_ns]);
}

#[test]
fn check_of_a_pod_with_several_interfaces_names_what_is_missing_of_each() {
    let Some(node) = Namespace::new("check_of_a_pod_with_several_interfaces") else { return };
    let pod_ns = Namespace::new("pod").unwrap();
    let before = node.inventory();
    let interfaces = vec![
        interface_v6("eth0", VETH, "2600::4", 254),
        interface_v6("mNicIf1", "eni1", "2600::5", 10_101),
        interface("mNicIf2", "eni2", 40, 10_201),
    ];
    let setup = PodSetup { interfaces, ..setup(&pod_ns) };
    node.run(|| pod::set_up(&setup)).unwrap();
    // The MTU of the configuration may have changed since (spec 04 §2.2).
    node.run(|| pod::check(&PodSetup { mtu: 1400, ..setup.clone() })).unwrap();
    assert!(pod_ns.ip("-6 rule show").contains("1:\tfrom 2600::5 lookup 1\n"));
    assert!(pod_ns.ip("rule show").contains("1:\tfrom 10.0.97.40 lookup 2\n"));
    pod_ns.ip("-6 rule del from 2600::5 lookup 1");
    pod_ns.ip("-6 neigh del fe80::1 dev eth0");
    pod_ns.ip("route del default table 2");
    node.ip("-6 rule del from 2600::5 lookup 10101");
    let Err(Error::Differs(found)) = node.run(|| pod::check(&setup)) else { panic!("no difference") };
    assert_eq!(found.len(), 4, "{found:?}");
    let addresses: Vec<PodAddress> =
        setup.interfaces.iter().map(|i| PodAddress { address: i.address, table: i.table }).collect();
    node.run(|| pod::tear_down(&addresses)).unwrap();
    for family in ["-4", "-6"] {
        let left = node.ip(&format!("{family} rule show"));
        assert!(!left.contains("512:") && !left.contains("1536:"), "{left}");
    }
    is_clean_after(&node, &before, &[&setup], vec![pod_ns]);
}

#[test]
fn an_mtu_too_small_for_ipv6_is_named() {
    let interfaces = vec![interface_v6("eth0", VETH, "2600::4", 254)];
    let setup = PodSetup { netns: "/var/run/netns/not-there".into(), mtu: 1279, interfaces };
    let error = pod::set_up(&setup).unwrap_err().to_string();
    assert!(error.contains("MTU 1279 is not between 1280 and 9001 for IPv6"), "{error}");
}
