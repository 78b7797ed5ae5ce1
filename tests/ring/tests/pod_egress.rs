//! Pods reach the other address family through `egress-cni`, chained between aws-cni and portmap as in the list of a node
//! (spec 04 §14, §15): they keep their own address inside the VPC, leave as the node, and DEL leaves nothing.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ring::node::{EGRESS_ADDRESSES, STANDARD_PLUGINS};
use ring::shell::in_netns;
use ring::{Node, Options, Pod, traffic};
use rustix::process::Signal;

const PROGRAMS: &[&str] = &["ip", "curl", "iptables", "ip6tables", "nft"];

/// One kind of cluster.
struct Cluster {
    test: &'static str,
    env: &'static [(&'static str, &'static str)],
    /// A host in the VPC, by the pods' own family and by the other.
    vpc_host: [&'static str; 2],
    /// A host in the internet, by the other family.
    internet: &'static str,
    /// The pod's interface for the other family.
    interface: &'static str,
    /// The program of the other family's rules.
    iptables: &'static str,
    /// What the internet sees: the node's address, or the public one that EC2 maps it to.
    seen: fn(IpAddr, IpAddr) -> bool,
}

#[test]
fn ipv4_out_of_an_ipv6_cluster() {
    reaches_the_other_family(&Cluster {
        test: "ipv4_out_of_an_ipv6_cluster",
        env: &[
            ("ENABLE_IPv4", "false"),
            ("ENABLE_IPv6", "true"),
            ("ENABLE_PREFIX_DELEGATION", "true"),
            ("WARM_PREFIX_TARGET", "1"),
        ],
        vpc_host: ["2600:1f14:abc:dff::10", "10.0.200.10"],
        internet: "198.51.100.10",
        interface: "v4if0",
        iptables: "iptables",
        seen: |peer, _| matches!(peer, IpAddr::V4(public) if public.octets()[..3] == [203, 0, 113]),
    });
}

#[test]
fn ipv6_out_of_an_ipv4_cluster() {
    reaches_the_other_family(&Cluster {
        test: "ipv6_out_of_an_ipv4_cluster",
        env: &[("ENABLE_V6_EGRESS", "true")],
        vpc_host: ["10.0.200.10", "2600:1f14:abc:dff::10"],
        internet: "2001:db8:ffff::10",
        interface: "v6if0",
        iptables: "ip6tables",
        seen: |peer, node| peer == node,
    });
}

fn start(cluster: &Cluster) -> Node {
    let mut node = Node::new(Options {
        instance_type: "t3.small".to_owned(),
        env: cluster.env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        sim: vec!["--preset".to_owned(), "ipv6".to_owned()],
        egress: true,
        portmap: Path::new(STANDARD_PLUGINS).join("portmap").is_file(),
        ..Options::of_tree()
    })
    .unwrap();
    node.start_daemon().unwrap();
    node
}

/// Out as the node, by the other family; inside the VPC as itself, by its own.
fn talk(node: &Node, cluster: &Cluster, pod: &Pod) {
    let vpc = node.vpc_netns();
    let (host, internet) = (format!("{vpc}-host"), format!("{vpc}-inet"));
    let parse = |text: &str| text.parse::<IpAddr>().unwrap();
    let other = node.other_address().unwrap();
    let own = traffic::both(&pod.netns, &host, parse(cluster.vpc_host[0])).unwrap();
    assert_eq!(own, parse(&pod.ip), "{} -> VPC as itself", pod.name);
    let seen = traffic::both(&pod.netns, &host, parse(cluster.vpc_host[1])).unwrap();
    assert_eq!(seen, other, "{} -> VPC as the node", pod.name);
    let seen = traffic::both(&pod.netns, &internet, parse(cluster.internet)).unwrap();
    assert!((cluster.seen)(seen, other), "{} -> internet as {seen}", pod.name);
}

fn chains(node: &Node, cluster: &Cluster) -> usize {
    let rules = in_netns(&node.netns(), cluster.iptables, &["-t", "nat", "-S"]).unwrap();
    rules
        .lines()
        .filter(|l| l.starts_with("-N CNI-E") || (l.starts_with("-A POSTROUTING") && l.contains("CNI-E")))
        .count()
}

fn addresses_held(node: &Node) -> usize {
    let Ok(entries) = std::fs::read_dir(node.dir().join(EGRESS_ADDRESSES).join("aws-cni")) else { return 0 };
    entries.filter(|e| e.as_ref().unwrap().file_name().to_str().is_some_and(|n| n.parse::<IpAddr>().is_ok())).count()
}

fn reaches_the_other_family(cluster: &Cluster) {
    if !ring::skip::can_run(cluster.test, PROGRAMS) {
        return;
    }
    if !Path::new(STANDARD_PLUGINS).join("host-local").is_file() {
        eprintln!("SKIPPED: {}: needs {STANDARD_PLUGINS}/host-local", cluster.test);
        return;
    }
    let mut node = start(cluster);
    let pods: Vec<Pod> = (0..3).map(|n| node.add_pod(&format!("p{n}")).unwrap()).collect();
    for pod in &pods {
        // kubelet sees the pod's own address alone; the interfaces come last.
        assert_eq!(pod.ips.len(), 1, "{}", pod.result);
        let interfaces = pod.result["interfaces"].as_array().unwrap();
        assert_eq!(interfaces.last().unwrap()["name"], cluster.interface, "{}", pod.result);
        talk(&node, cluster, pod);
    }
    assert_eq!((chains(&node, cluster), addresses_held(&node)), (6, 3));

    // A daemon that dies and comes back leaves the rules alone, and one pod's DEL leaves the others'.
    node.end_daemon(Signal::KILL).unwrap();
    node.start_daemon().unwrap();
    node.remove_pod(&pods[0]).unwrap();
    assert_eq!((chains(&node, cluster), addresses_held(&node)), (4, 2));
    talk(&node, cluster, &pods[1]);

    // One whose namespace is gone before its DEL.
    node.drop_pod(&pods[1].netns).unwrap();
    node.cni().del(&pods[1].attachment, &pods[1].result).unwrap();
    talk(&node, cluster, &pods[2]);
    node.remove_pod(&pods[2]).unwrap();
    assert_eq!((chains(&node, cluster), addresses_held(&node)), (0, 0));
    node.wait_for("no trace of a pod", Duration::from_secs(60), |n| {
        let traces = n.pod_traces()?;
        anyhow::ensure!(traces.is_empty(), "{traces:#?}");
        Ok(true)
    })
    .unwrap();
}
