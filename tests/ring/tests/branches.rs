//! Security groups for pods from end to end: controller, daemon and the real plugin. Where the kernel has no vlans the
//! plugin says so and leaves nothing; the ring `vlan` goes on from the daemon's reply on a kernel that has them.

use std::time::Duration;

use reservoir_kube::testing::{BranchInterface, CNI_NODES, Objects, pods};
use ring::cluster::put_node;
use ring::{Node, Options};
use rustix::process::Signal;
use serde_json::json;

const PROGRAMS: &[&str] = &["ip", "curl", "iptables", "nft"];
const MINUTE: Duration = Duration::from_secs(60);

/// What the VPC resource controller makes.
fn branch() -> BranchInterface {
    BranchInterface {
        eni: "eni-0d8e".to_owned(),
        mac: "02:21:4c:00:00:01".to_owned(),
        vlan: 7,
        ipv4: Some(([10, 0, 120, 77].into(), "10.0.96.0/19".to_owned())),
        ipv6: None,
    }
}

fn rules(node: &Node) -> String {
    ring::shell::in_netns(&node.netns(), "ip", &["rule"]).unwrap()
}

#[test]
fn a_pod_with_security_groups_gets_its_branch_interface_or_hears_what_is_missing() {
    if !ring::skip::can_run("a_pod_with_security_groups_gets_its_branch_interface", PROGRAMS) {
        return;
    }
    // No interface comes in the background: its rule would be among those that are compared.
    let env = [("ENABLE_POD_ENI", "true"), ("RESERVOIR_ADD_WAIT_SECONDS", "2"), ("WARM_ENI_TARGET", "0")];
    let mut node = Node::new(Options {
        env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        sim: vec!["--preset".to_owned(), "secondary".to_owned()],
        ..Options::of_tree()
    })
    .unwrap();
    let objects = Objects::new();
    put_node(&objects, "us-west-2a", 110);
    objects.put(CNI_NODES, json!({"metadata": {"name": "node-1"}, "spec": {"features": []}}));
    let plain = json!({"metadata": {"name": "plain"}, "spec": {"containers": [{"name": "c"}]}});
    objects.put(&pods("default"), plain);
    objects.put_branch_pod("default", "sg", "u-sg");
    node.start_cluster(&objects).unwrap();
    node.sim_do(&json!({"attach_trunk": "i-0c3f1a9d27b6e4851"})).unwrap();
    node.start_daemon().unwrap();
    // Strict is the default: the lookup of local addresses stands behind the rules of branch interfaces.
    let found = rules(&node);
    assert!(found.starts_with("20:\tfrom all lookup local"), "{found}");
    node.wait_for("the first addresses", MINUTE, |n| Ok(n.pool()?.0 > 0)).unwrap();
    let plain = node.add_pod("plain").unwrap();

    let sg = node.make_pod("sg").unwrap();
    let why = node.attach(sg.clone()).unwrap_err().to_string();
    assert!(why.contains("the VPC resource controller"), "{why}");
    objects.annotate_branch("default", "sg", &branch());
    let before = rules(&node);
    for restarted in [false, true] {
        if restarted {
            node.end_daemon(Signal::KILL).unwrap();
            node.start_daemon().unwrap();
        }
        node.wait_for("the trunk is known", MINUTE, |node| {
            match node.attach(sg.clone()) {
                Ok(pod) => {
                    // A kernel with vlans.
                    assert_eq!(pod.ip, "10.0.120.77");
                    assert!(rules(node).contains("iif vlan.eth.7 lookup 107"));
                    node.cni().del(&pod.attachment, &pod.result)?;
                }
                Err(error) => {
                    let why = error.to_string();
                    anyhow::ensure!(!why.contains("no trunk interface"), "{why}");
                    assert!(why.contains("failed to add vlan link vlan.eth.7"), "{why}");
                }
            }
            Ok(true)
        })
        .unwrap();
        assert_eq!(rules(&node), before, "nothing is left of it");
    }
    // Its DEL comes all the same, whatever is known of it by then.
    node.cni().del(&sg, &json!(null)).unwrap();
    objects.remove(&pods("default"), "sg");
    node.cni().del(&sg, &json!(null)).unwrap();
    node.remove_pod(&plain).unwrap();
    assert_eq!(node.audit().unwrap(), json!([]));
}
