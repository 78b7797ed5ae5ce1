//! Suite `eni-trunking`: what ENABLE_POD_ENI costs a node.

use reservoir_kube::testing::{CNI_NODES, Objects, pods};
use ring::cluster::put_node;
use serde_json::json;

use crate::can_run;
use crate::support::lab::{Lab, lab};

fn node(instance_type: &str, objects: &Objects) -> Lab {
    let mut lab = lab("secondary", instance_type, &[("ENABLE_POD_ENI", "true"), ("WARM_ENI_TARGET", "1")]);
    put_node(objects, "us-west-2a", 110);
    objects.put(CNI_NODES, json!({"metadata": {"name": "node-1"}, "spec": {"features": []}}));
    lab.node.start_cluster(objects).unwrap();
    lab
}

fn names(objects: &Objects, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|n| format!("p{n}")).collect();
    for name in &names {
        objects.put(&pods("default"), json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c"}]}}));
    }
    names
}

#[test]
fn a_type_without_a_trunk_keeps_no_place_for_one() {
    if !can_run("a_type_without_a_trunk_keeps_no_place_for_one") {
        return;
    }
    let objects = Objects::new();
    let mut lab = node("t3.medium", &objects);
    lab.start();
    // Three interfaces with five addresses each.
    let names = names(&objects, 15);
    for (name, added) in names.iter().zip(lab.add_all(&names)) {
        added.unwrap_or_else(|why| panic!("{name}: {why}"));
    }
    lab.settles("all three interfaces are for pods", |a| a.enis.len() == 3 && a.addresses() == 15);
    lab.audit();
}

#[test]
fn a_place_is_kept_for_the_trunk_until_it_comes() {
    if !can_run("a_place_is_kept_for_the_trunk_until_it_comes") {
        return;
    }
    let objects = Objects::new();
    let mut lab = node("c5.large", &objects);
    lab.start();
    // Three interfaces with nine addresses each, one of them for the trunk.
    let names = names(&objects, 19);
    for (name, added) in names[..18].iter().zip(lab.add_all(&names[..18])) {
        added.unwrap_or_else(|why| panic!("{name}: {why}"));
    }
    lab.try_add(&names[18]).expect_err("the last place is the trunk's");
    lab.settles("two interfaces", |a| a.enis.len() == 2 && a.addresses() == 18);
    lab.wait_for("the wish for a trunk is told", |_| {
        let node = objects.get(CNI_NODES, "node-1").unwrap_or_default();
        let features = node["spec"]["features"].as_array().cloned().unwrap_or_default();
        Ok(features.iter().any(|f| f["name"] == "SecurityGroupsForPods"))
    });
    let trunk = lab.node.sim_do(&json!({"attach_trunk": "i-0c3f1a9d27b6e4851"})).unwrap();
    let trunk = trunk["eni"].as_str().unwrap().to_owned();
    lab.wait_for("the trunk is known, and nobody's pod gets its addresses", |n| {
        let eni = n.enis()?["ENIs"][&trunk].clone();
        anyhow::ensure!(eni["IsTrunk"] == true, "{eni}");
        Ok(eni["AvailableIPv4Cidrs"].as_object().is_none_or(serde_json::Map::is_empty))
    });
    lab.audit();
}
