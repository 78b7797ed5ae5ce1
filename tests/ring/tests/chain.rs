//! The whole list of a node (spec 04 §15), as the daemon's program makes it: Debian's portmap, bandwidth and tuning behind
//! ours do their work with the results that they are handed, and take it back.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ring::cni::{EGRESS_BANDWIDTH, INGRESS_BANDWIDTH};
use ring::node::STANDARD_PLUGINS;
use ring::shell::{in_netns, run};
use ring::{Node, Options, Pod, traffic};
use serde_json::Value;

const PROGRAMS: &[&str] = &["ip", "tc", "curl", "iptables", "nft"];
/// Bits in a second, other ones each way.
const INTO_THE_POD: u64 = 80_000_000;
const OUT_OF_THE_POD: u64 = 40_000_000;

/// Rates of token buckets in bytes a second, by interface.
fn rates(node: &Node) -> BTreeMap<String, u64> {
    let shown = in_netns(&node.netns(), "tc", &["-j", "qdisc", "show"]).unwrap();
    let shown: Vec<Value> = serde_json::from_str(&shown).unwrap();
    let buckets = shown.iter().filter(|q| q["kind"] == "tbf");
    let rate = |q: &Value| (q["dev"].as_str().unwrap().to_owned(), q["options"]["rate"].as_u64().unwrap());
    buckets.map(rate).collect()
}

/// Interfaces, rules and settings of traffic that there are on the node, other than of pods.
fn others(node: &Node) -> Vec<String> {
    let ns = node.netns();
    let mut all = Vec::new();
    for (program, arguments) in
        [("ip", &["-o", "link"][..]), ("tc", &["qdisc", "show"]), ("iptables-save", &[]), ("ip6tables-save", &[])]
    {
        let shown = in_netns(&ns, program, arguments).unwrap();
        let kept = |l: &&str| match program {
            // The plugin makes one for what leaves a pod.
            "ip" => l.contains(" bwp") || l.contains(" ifb"),
            "tc" => ["tbf", "ingress", "clsact"].iter().any(|kind| l.contains(&format!("qdisc {kind} "))),
            _ => l.starts_with("-A") && !l.contains("AWS"),
        };
        all.extend(shown.lines().filter(kept).map(|l| format!("{program}: {l}")));
    }
    all
}

/// Why the kernel has not what the plugin `bandwidth` needs.
fn shapes_no_traffic() -> Option<String> {
    let netns = format!("rf{}x", std::process::id());
    run("ip", &["netns", "add", &netns]).ok()?;
    let needs = "ip link add x type ifb && tc qdisc add dev x root tbf rate 1mbit burst 10k latency 1ms &&
        tc qdisc add dev x ingress && tc filter add dev x parent ffff: protocol all u32 match u32 0 0 \
        action mirred egress redirect dev lo";
    let missing = in_netns(&netns, "sh", &["-c", needs]).err().map(|error| format!("{error:#}"));
    let _ = run("ip", &["netns", "delete", &netns]);
    missing
}

fn host_veth(pod: &Pod) -> String {
    pod.result["interfaces"][0]["name"].as_str().unwrap().to_owned()
}

fn talks(node: &Node, pod: &Pod) {
    let vpc = node.vpc_netns();
    let address = pod.ip.parse().unwrap();
    traffic::both(&node.netns(), &pod.netns, address).unwrap();
    assert_eq!(traffic::both(&pod.netns, &format!("{vpc}-host"), "10.0.200.10".parse().unwrap()).unwrap(), address);
    traffic::both(&pod.netns, &format!("{vpc}-inet"), "198.51.100.10".parse().unwrap()).unwrap();
}

#[test]
fn every_plugin_of_the_list_does_its_work_and_takes_it_back() {
    let test = "every_plugin_of_the_list_does_its_work_and_takes_it_back";
    if !ring::skip::can_run(test, PROGRAMS) {
        return;
    }
    for plugin in ["portmap", "bandwidth", "tuning"] {
        if !Path::new(STANDARD_PLUGINS).join(plugin).is_file() {
            eprintln!("SKIPPED: {test}: needs {STANDARD_PLUGINS}/{plugin}");
            return;
        }
    }
    if let Some(reason) = shapes_no_traffic() {
        eprintln!("SKIPPED: {test}: {reason}");
        return;
    }
    let env = [
        ("ENABLE_BANDWIDTH_PLUGIN", "true"),
        ("DISABLE_POD_V6", "true"),
        ("POD_MTU", "1400"),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", "pod"),
    ];
    let mut node = Node::new(Options {
        instance_type: "t3.small".to_owned(),
        env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        egress: true,
        portmap: true,
        ..Options::of_tree()
    })
    .unwrap();
    assert_eq!(node.cni().types(), ["aws-cni", "egress-cni", "portmap", "bandwidth", "tuning"]);
    node.start_daemon().unwrap();
    let before = others(&node);
    assert_eq!((rates(&node), &before), (BTreeMap::new(), &Vec::new()));

    // The primary interface holds three.
    let plain: Vec<Pod> = (0..3).map(|n| node.add_pod(&format!("p{n}")).unwrap()).collect();
    assert_eq!(rates(&node), BTreeMap::new(), "nobody is limited who does not ask for it");
    let mut limited = node.make_pod("limited").unwrap();
    for (annotation, rate) in [(INGRESS_BANDWIDTH, INTO_THE_POD), (EGRESS_BANDWIDTH, OUT_OF_THE_POD)] {
        limited.annotations.insert(annotation.to_owned(), rate.to_string());
    }
    let limited = node.attach(limited).unwrap();
    // What comes to the pod leaves the host's end; what leaves the pod is led over an interface of the plugin's.
    let mut found = rates(&node);
    assert_eq!(found.remove(&host_veth(&limited)), Some(INTO_THE_POD / 8), "the host's end is found by the result");
    assert_eq!(found.into_values().collect::<Vec<_>>(), [OUT_OF_THE_POD / 8]);
    assert!(!others(&node).is_empty());
    let saved = in_netns(&node.netns(), "iptables-save", &["-t", "mangle"]).unwrap();
    assert!(saved.contains(" -i pod+ ") && !saved.contains("-i eni+"), "the daemon's rules know the prefix: {saved}");
    for pod in plain.iter().chain([&limited]) {
        assert!(host_veth(pod).starts_with("pod"), "{}", host_veth(pod));
        let read = |file: &str| in_netns(&pod.netns, "cat", &[file]).unwrap().trim().to_owned();
        for place in ["all", "default", "lo", "eth0"] {
            assert_eq!(read(&format!("/proc/sys/net/ipv6/conf/{place}/disable_ipv6")), "1", "{} {place}", pod.name);
        }
        // The number that aws-cni was handed as a string.
        assert_eq!(read("/sys/class/net/eth0/mtu"), "1400");
        talks(&node, pod);
    }

    node.remove_pod(&limited).unwrap();
    talks(&node, &plain[0]);
    for pod in &plain {
        node.remove_pod(pod).unwrap();
    }
    node.wait_for("nothing left", Duration::from_secs(60), |n| {
        let traces = n.pod_traces()?;
        anyhow::ensure!(traces.is_empty(), "{traces:#?}");
        let others = others(n);
        anyhow::ensure!(others.is_empty(), "{others:#?}");
        Ok(true)
    })
    .unwrap();
}
