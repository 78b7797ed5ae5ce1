//! Suite `eni-subnet-discovery`, every row: in which subnet new interfaces are made, and what becomes of those whose
//! subnet goes out of use.

use std::net::IpAddr;

use serde_json::json;

use crate::can_run;
use crate::support::lab::{Lab, MORE, NODES, PODS, ROLE, lab};

/// A second interface is wanted from the start.
const TWO: [(&str, &str); 1] = [("WARM_ENI_TARGET", "2")];

fn node(env: &[(&str, &str)]) -> Lab {
    lab("discovery", "c5.large", &[&TWO[..], env].concat())
}

/// Just as many addresses as the second interface is needed for; a place for a third one is left.
const SINGLE: &[(&str, &str)] = &[("WARM_IP_TARGET", "1"), ("MINIMUM_IP_TARGET", "12")];
const PREFIXES: &[(&str, &str)] =
    &[("WARM_IP_TARGET", "1"), ("MINIMUM_IP_TARGET", "52"), ("ENABLE_PREFIX_DELEGATION", "true")];

fn tag(lab: &Lab, subnet: &str, key: &str, value: &str) {
    lab.node.sim_do(&json!({"tag": {"resource": subnet, "tags": {key: value}}})).unwrap();
}

fn untag(lab: &Lab, subnet: &str) {
    lab.node.sim_do(&json!({"untag": {"resource": subnet, "keys": [ROLE]}})).unwrap();
}

/// The second interface is made there.
fn goes_to(mut lab: Lab, subnet: &str, why: &str) {
    lab.start();
    lab.settles(why, |a| a.subnets() == [subnet]);
    lab.add("p");
    lab.audit();
}

#[test]
fn the_tagged_subnet_with_most_free_addresses_is_used() {
    if !can_run("the_tagged_subnet_with_most_free_addresses_is_used") {
        return;
    }
    goes_to(node(&[]), PODS, "a /19 has more than a /24 and the node's own");
    let lab = node(&[]);
    lab.node.sim_do(&json!({"occupy": {"subnet": PODS, "count": 8100}})).unwrap();
    lab.node.sim_do(&json!({"occupy": {"subnet": NODES, "count": 8100}})).unwrap();
    goes_to(lab, MORE, "now the /24 has most");
}

#[test]
fn a_misspelt_tag_is_none() {
    if !can_run("a_misspelt_tag_is_none") {
        return;
    }
    let lab = node(&[]);
    for subnet in [PODS, MORE] {
        untag(&lab, subnet);
        tag(&lab, subnet, "kubernetes.io/role/cnii", "1");
    }
    goes_to(lab, NODES, "no other subnet has the tag");
}

#[test]
fn with_discovery_off_the_nodes_subnet_is_used() {
    if !can_run("with_discovery_off_the_nodes_subnet_is_used") {
        return;
    }
    goes_to(node(&[("ENABLE_SUBNET_DISCOVERY", "false")]), NODES, "tags are not looked at");
}

/// Where the reference makes no interface at all (spec 05 W-22).
#[test]
fn without_the_permission_the_nodes_subnet_is_used() {
    if !can_run("without_the_permission_the_nodes_subnet_is_used") {
        return;
    }
    let lab = node(&[]);
    lab.node.sim_do(&json!({"iam": {"denied": ["DescribeSubnets"]}})).unwrap();
    goes_to(lab, NODES, "the subnets cannot be listed");
}

#[test]
fn a_primary_subnet_out_of_use_gets_no_new_interface() {
    if !can_run("a_primary_subnet_out_of_use_gets_no_new_interface") {
        return;
    }
    let mut lab = node(&[]);
    tag(&lab, NODES, ROLE, "0");
    lab.start();
    lab.settles("all new interfaces are in the pods' subnet", |a| {
        let subnets = a.subnets();
        subnets.len() == 2 && subnets.iter().all(|s| *s == PODS)
    });
    let address = lab.add("p");
    assert!(matches!(address, IpAddr::V4(a) if a.octets()[0] == 100), "{address} is the primary interface's");
    lab.audit();
}

const CLUSTER: &str = "cni.networking.k8s.aws/cluster/";

#[test]
fn another_clusters_subnet_is_not_used() {
    if !can_run("another_clusters_subnet_is_not_used") {
        return;
    }
    let lab = node(&[("CLUSTER_NAME", "alpha")]);
    tag(&lab, PODS, &format!("{CLUSTER}beta"), "1");
    tag(&lab, MORE, &format!("{CLUSTER}beta"), "1");
    goes_to(lab, NODES, "both others are beta's");
    let lab = node(&[("CLUSTER_NAME", "alpha")]);
    tag(&lab, PODS, &format!("{CLUSTER}beta"), "1");
    tag(&lab, PODS, &format!("{CLUSTER}alpha"), "1");
    goes_to(lab, PODS, "it is both clusters'");
}

#[test]
fn tags_that_mean_something_else_do_not_exclude_the_primary_subnet() {
    if !can_run("tags_that_mean_something_else_do_not_exclude_the_primary_subnet") {
        return;
    }
    let lab = node(&[("CLUSTER_NAME", "alpha")]);
    untag(&lab, PODS);
    untag(&lab, MORE);
    tag(&lab, NODES, "kubernetes.io/cluster/beta", "owned");
    tag(&lab, NODES, &format!("{CLUSTER}beta"), "1");
    goes_to(lab, NODES, "without the role tag other tags say nothing");
}

/// Pods on the first two interfaces; the subnet of one of them goes out of use, and the daemon is told by a restart.
fn populated_subnet_goes_out_of_use(out: &str, stays: &str, env: &[(&str, &str)]) {
    // Nine single addresses on an interface, or three prefixes.
    let (instance_type, pods) = if env == PREFIXES { ("t3.small", 52) } else { ("c5.large", 12) };
    let mut lab = lab("discovery", instance_type, env);
    lab.start();
    lab.settles("two interfaces", |a| a.subnets().contains(&PODS));
    let names: Vec<String> = (0..pods).map(|n| format!("p{n}")).collect();
    let added = lab.add_all(&names);
    let pods: Vec<(String, IpAddr)> = names.into_iter().zip(added.into_iter().map(|a| a.unwrap()[0])).collect();
    let is_out = |ip: &IpAddr| {
        let of_pods = matches!(ip, IpAddr::V4(a) if a.octets()[0] == 100);
        of_pods == (out == PODS)
    };
    assert!(pods.iter().any(|(_, ip)| is_out(ip)) && pods.iter().any(|(_, ip)| !is_out(ip)), "{pods:?}");
    tag(&lab, out, ROLE, "0");
    // The other one must be left to go to.
    tag(&lab, stays, ROLE, "1");
    lab.restart(&[]);
    lab.wait_for("its interface is flagged", |n| {
        let card = n.enis()?;
        let enis = card["ENIs"].as_object().cloned().unwrap_or_default();
        let flagged = |e: &serde_json::Value| e["IsExcludedForPodIPs"] == (e["SubnetID"] == out);
        Ok(enis.len() > 1 && enis.values().all(flagged))
    });
    for (name, ip) in &pods {
        assert_eq!(lab.add(name), *ip, "{name} lives on");
    }
    for n in 0..3 {
        let ip = lab.add(&format!("new{n}"));
        assert!(!is_out(&ip), "a new pod got {ip}");
    }
    for (name, _) in pods.iter().filter(|(_, ip)| is_out(ip)) {
        lab.del(name);
    }
    // The primary interface stays, without addresses for pods.
    lab.settles("what is drained goes back", |a| {
        let left = |e: &&crate::support::lab::Eni| e.subnet == out;
        a.enis.iter().filter(left).all(|e| e.device == 0 && e.secondary.is_empty() && e.prefixes.is_empty())
    });
    for (name, ip) in pods.iter().filter(|(_, ip)| !is_out(ip)) {
        assert_eq!(lab.add(name), *ip, "{name} lives on");
    }
    lab.audit();
}

#[test]
fn a_populated_primary_subnet_is_drained() {
    if can_run("a_populated_primary_subnet_is_drained") {
        populated_subnet_goes_out_of_use(NODES, PODS, SINGLE);
    }
}

#[test]
fn a_populated_secondary_subnet_is_drained() {
    if can_run("a_populated_secondary_subnet_is_drained") {
        populated_subnet_goes_out_of_use(PODS, NODES, SINGLE);
    }
}

#[test]
fn a_populated_primary_subnet_is_drained_of_prefixes() {
    if can_run("a_populated_primary_subnet_is_drained_of_prefixes") {
        populated_subnet_goes_out_of_use(NODES, PODS, PREFIXES);
    }
}

#[test]
fn a_populated_secondary_subnet_is_drained_of_prefixes() {
    if can_run("a_populated_secondary_subnet_is_drained_of_prefixes") {
        populated_subnet_goes_out_of_use(PODS, NODES, PREFIXES);
    }
}
