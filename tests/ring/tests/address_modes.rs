//! Every mode with the plugin and a real kernel: pods get addresses of the right kind and talk, a kill and a restart
//! cost none of them its address, DEL leaves nothing; prefix delegation is switched on and off with pods running.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use reservoir_kube::testing::Objects;
use ring::cluster::{put_eni_config, put_node};
use ring::{Node, Options, Pod, traffic};
use rustix::process::Signal;
use support::lab::{Account, GROUPS, MINUTE, PODS};

const PROGRAMS: &[&str] = &["ip", "curl", "iptables", "ip6tables", "nft"];

/// One mode: what its pods' addresses are like.
struct Mode {
    test: &'static str,
    preset: &'static str,
    instance_type: &'static str,
    env: &'static [(&'static str, &'static str)],
    eni_config: bool,
    /// Every second pod asks for every card.
    cards: bool,
    pods: usize,
    vpc_host: &'static str,
    /// Whether an address is one that this mode gives.
    right: fn(&IpAddr) -> bool,
}

fn in_block(address: &IpAddr, block: [u8; 2]) -> bool {
    matches!(address, IpAddr::V4(a) if a.octets()[..2] == block)
}

const IPV4_HOST: &str = "10.0.200.10";

#[test]
fn prefixes() {
    kept_over_a_kill(&Mode {
        test: "prefixes",
        preset: "prefix",
        instance_type: "t3.nano",
        env: &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")],
        eni_config: false,
        cards: false,
        // An interface of this type holds one prefix.
        pods: 18,
        vpc_host: IPV4_HOST,
        right: |ip| in_block(ip, [10, 0]),
    });
}

#[test]
fn custom_networking() {
    kept_over_a_kill(&Mode {
        test: "custom_networking",
        preset: "custom",
        instance_type: "t3.small",
        env: &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true")],
        eni_config: true,
        cards: false,
        pods: 5,
        vpc_host: IPV4_HOST,
        right: |ip| in_block(ip, [100, 64]),
    });
}

#[test]
fn ipv6() {
    kept_over_a_kill(&Mode {
        test: "ipv6",
        preset: "ipv6",
        instance_type: "t3.small",
        env: &[
            ("ENABLE_IPv4", "false"),
            ("ENABLE_IPv6", "true"),
            ("ENABLE_PREFIX_DELEGATION", "true"),
            ("WARM_PREFIX_TARGET", "1"),
        ],
        eni_config: false,
        cards: false,
        pods: 5,
        vpc_host: "2600:1f14:abc:dff::10",
        right: IpAddr::is_ipv6,
    });
}

#[test]
fn two_cards() {
    kept_over_a_kill(&Mode {
        test: "two_cards",
        preset: "multinic",
        instance_type: "c6in.32xlarge",
        env: &[("ENABLE_MULTI_NIC", "true")],
        eni_config: false,
        cards: true,
        pods: 5,
        vpc_host: IPV4_HOST,
        right: |ip| in_block(ip, [10, 0]),
    });
}

#[test]
fn two_cards_ipv6() {
    kept_over_a_kill(&Mode {
        test: "two_cards_ipv6",
        preset: "multinic-ipv6",
        instance_type: "c6in.32xlarge",
        env: &[
            ("ENABLE_IPv4", "false"),
            ("ENABLE_IPv6", "true"),
            ("ENABLE_PREFIX_DELEGATION", "true"),
            ("WARM_PREFIX_TARGET", "1"),
            ("ENABLE_MULTI_NIC", "true"),
        ],
        eni_config: false,
        cards: true,
        pods: 4,
        vpc_host: "2600:1f14:abc:dff::10",
        right: IpAddr::is_ipv6,
    });
}

#[test]
fn subnet_discovery() {
    kept_over_a_kill(&Mode {
        test: "subnet_discovery",
        preset: "discovery",
        instance_type: "t3.small",
        env: &[],
        eni_config: false,
        cards: false,
        pods: 5,
        vpc_host: IPV4_HOST,
        right: |ip| in_block(ip, [10, 0]) || in_block(ip, [100, 64]),
    });
}

fn node(mode: &Mode) -> Node {
    let env = [("IP_COOLDOWN_PERIOD", "2")].iter().chain(mode.env);
    let mut node = Node::new(Options {
        instance_type: mode.instance_type.to_owned(),
        env: env.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        sim: vec!["--preset".to_owned(), mode.preset.to_owned()],
        ..Options::of_tree()
    })
    .unwrap();
    if mode.eni_config {
        let objects = Objects::new();
        put_node(&objects, "us-west-2a", 110);
        put_eni_config(&objects, "default", PODS, &[GROUPS[1]]);
        node.start_cluster(&objects).unwrap();
    }
    node
}

fn add_pods(node: &mut Node, mode: &Mode) -> Vec<Pod> {
    let annotation = ("k8s.amazonaws.com/nicConfig".to_owned(), "multi-nic-attachment".to_owned());
    let pods = (0..mode.pods).map(|n| {
        let mut attachment = node.make_pod(&format!("p{n}")).unwrap();
        if mode.cards && n % 2 == 0 {
            attachment.annotations = BTreeMap::from([annotation.clone()]);
        }
        let pod = node.attach(attachment).unwrap_or_else(|e| panic!("p{n}: {e:#}\n{}", node.log_tail(20)));
        assert_eq!(pod.ips.len(), if mode.cards && n % 2 == 0 { 2 } else { 1 }, "{}", pod.result);
        pod
    });
    pods.collect()
}

/// From the node, to the node, to a host in the VPC and back, and to another pod, by every address.
fn talk(node: &Node, mode: &Mode, pods: &[Pod]) {
    let (home, own) = (node.netns(), node.address().unwrap());
    let host = format!("{}-host", node.vpc_netns());
    let vpc_host: IpAddr = mode.vpc_host.parse().unwrap();
    for pod in pods {
        let ip: IpAddr = pod.ip.parse().unwrap();
        assert_eq!(traffic::both(&pod.netns, &home, own).unwrap(), ip, "{} -> node", pod.name);
        assert_eq!(traffic::both(&pod.netns, &host, vpc_host).unwrap(), ip, "{} -> VPC", pod.name);
        for ip in &pod.ips {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(traffic::both(&home, &pod.netns, ip).unwrap(), own, "node -> {} {ip}", pod.name);
            assert_eq!(traffic::both(&host, &pod.netns, ip).unwrap(), vpc_host, "VPC -> {} {ip}", pod.name);
        }
    }
    for (from, to) in pods.iter().zip(pods.iter().skip(1)) {
        let seen = traffic::both(&from.netns, &to.netns, to.ip.parse().unwrap()).unwrap();
        assert_eq!(seen.to_string(), from.ip, "{} -> {}", from.name, to.name);
    }
}

fn all_different(pods: &[Pod]) {
    let addresses: Vec<&String> = pods.iter().flat_map(|p| &p.ips).collect();
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), addresses.len(), "an address was given twice");
}

/// The same sandbox asks again: it has what it had.
fn kept(node: &Node, pods: &[Pod]) {
    for pod in pods {
        assert_eq!(node.attach(pod.attachment.clone()).unwrap().ips, pod.ips, "{}", pod.name);
    }
}

fn nothing_left(node: &Node) {
    node.wait_for("no trace of a pod", MINUTE, |n| {
        let traces = n.pod_traces()?;
        anyhow::ensure!(traces.is_empty(), "{traces:#?}");
        Ok(true)
    })
    .unwrap();
    assert_eq!(node.audit().unwrap(), serde_json::json!([]));
}

fn kept_over_a_kill(mode: &Mode) {
    if !ring::skip::can_run(mode.test, PROGRAMS) {
        return;
    }
    let mut node = node(mode);
    node.start_daemon().unwrap();
    let mut pods = add_pods(&mut node, mode);
    all_different(&pods);
    for ip in pods.iter().flat_map(|p| &p.ips) {
        assert!((mode.right)(&ip.parse().unwrap()), "{ip} is not an address of this mode");
    }
    talk(&node, mode, &pods[..pods.len().min(5)]);
    node.end_daemon(Signal::KILL).unwrap();
    node.start_daemon().unwrap();
    pods.push(node.add_pod("late").unwrap());
    all_different(&pods);
    kept(&node, &pods);
    node.end_daemon(Signal::TERM).unwrap();
    node.start_daemon().unwrap();
    kept(&node, &pods);
    talk(&node, mode, &pods[pods.len() - 3..]);
    for pod in &pods {
        node.remove_pod(pod).unwrap();
    }
    nothing_left(&node);
}

/// Suite `cni`, prefix delegation: it goes on, and off again; pods keep their addresses and their traffic, new ones get
/// addresses of the new kind, and what is left of the old kind goes back when its pods go.
#[test]
fn prefix_delegation_is_switched_with_pods_running() {
    if !ring::skip::can_run("prefix_delegation_is_switched_with_pods_running", PROGRAMS) {
        return;
    }
    let mode = Mode {
        test: "prefix_delegation_is_switched_with_pods_running",
        preset: "prefix",
        instance_type: "c5.large",
        env: &[("WARM_IP_TARGET", "2"), ("MINIMUM_IP_TARGET", "2")],
        eni_config: false,
        cards: false,
        pods: 4,
        vpc_host: IPV4_HOST,
        right: |ip| in_block(ip, [10, 0]),
    };
    let mut node = node(&mode);
    node.start_daemon().unwrap();
    let single = add_pods(&mut node, &mode);
    let of_prefixes = |node: &Node, pod: &Pod| {
        let account = Account::of(node).unwrap();
        let prefixes = account.enis.iter().flat_map(|e| &e.prefixes);
        let ip: IpAddr = pod.ip.parse().unwrap();
        prefixes.map(|p| p.parse::<reservoir_core::ip::IpNet>().unwrap()).any(|net| net.contains(ip))
    };
    let switch = |node: &mut Node, on: &str| {
        node.end_daemon(Signal::TERM).unwrap();
        node.set_env("ENABLE_PREFIX_DELEGATION", on);
        node.start_daemon().unwrap();
    };

    switch(&mut node, "true");
    kept(&node, &single);
    let prefixed: Vec<Pod> = (0..6).map(|n| node.add_pod(&format!("on{n}")).unwrap()).collect();
    all_different(&[single.clone(), prefixed.clone()].concat());
    assert!(prefixed.iter().any(|p| of_prefixes(&node, p)), "new pods have addresses of prefixes");
    talk(&node, &mode, &[&single[..2], &prefixed[4..]].concat());

    switch(&mut node, "false");
    kept(&node, &single);
    kept(&node, &prefixed);
    let late: Vec<Pod> = (0..3).map(|n| node.add_pod(&format!("off{n}")).unwrap()).collect();
    all_different(&[single.clone(), prefixed.clone(), late.clone()].concat());
    talk(&node, &mode, &[&single[..1], &prefixed[5..], &late[2..]].concat());
    for pod in &prefixed {
        node.remove_pod(pod).unwrap();
    }
    node.wait_for("prefixes without pods go back", 2 * MINUTE, |n| {
        let account = Account::of(n)?;
        anyhow::ensure!(account.prefixes() == 0, "{account:?}");
        Ok(true)
    })
    .unwrap();
    kept(&node, &single);
    for pod in single.iter().chain(&late) {
        node.remove_pod(pod).unwrap();
    }
    nothing_left(&node);
}
