//! Suite `custom-networking`: pods from a second block of the VPC.

use std::net::IpAddr;

use reservoir_kube::testing::{ENI_CONFIGS, Objects};
use ring::cluster::{put_eni_config, put_node};

use crate::can_run;
use crate::support::lab::{GROUPS, Lab, NOT_SERVING, PODS, SERVING, lab};

const ENV: [(&str, &str); 3] = [
    ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"),
    ("ENI_CONFIG_LABEL_DEF", "topology.kubernetes.io/zone"),
    ("WARM_ENI_TARGET", "0"),
];

/// A node with the label of its zone.
fn node(objects: &Objects, env: &[(&str, &str)]) -> Lab {
    let mut lab = lab("custom", "c5.large", &[&ENV[..], env].concat());
    put_node(objects, "us-west-2a", 29);
    lab.node.start_cluster(objects).unwrap();
    lab
}

fn in_the_block(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(a) if a.octets()[..2] == [100, 64])
}

#[test]
fn pods_are_in_the_block_of_the_eni_config() {
    if !can_run("pods_are_in_the_block_of_the_eni_config") {
        return;
    }
    let objects = Objects::new();
    put_eni_config(&objects, "us-west-2a", PODS, &[GROUPS[1]]);
    // Somebody else's zone.
    put_eni_config(&objects, "us-west-2b", "subnet-0c9d8e7f6a5b40312", &[]);
    let mut lab = node(&objects, &[]);
    lab.start();
    // More than one interface holds.
    for n in 0..12 {
        let address = lab.add(&format!("p{n}"));
        assert!(in_the_block(address), "p{n} has {address}");
    }
    lab.settles("two interfaces for pods, with the ENIConfig's group; the primary has none of it", |a| {
        let [primary, pods @ ..] = a.enis.as_slice() else { return false };
        primary.secondary.is_empty()
            && primary.groups == [GROUPS[0]]
            && pods.len() == 2
            && pods.iter().all(|e| e.subnet == PODS && e.groups == [GROUPS[1]])
    });
    lab.audit();
}

#[test]
fn without_an_eni_config_the_node_is_not_ready() {
    if !can_run("without_an_eni_config_the_node_is_not_ready") {
        return;
    }
    let objects = Objects::new();
    let mut lab = node(&objects, &[("RESERVOIR_ADD_WAIT_SECONDS", "3")]);
    lab.start();
    lab.wait_for("the pods are told", |_| {
        let why = lab.try_add("early").expect_err("there is no ENIConfig");
        anyhow::ensure!(why.contains("eniconfig"), "{why}");
        Ok(true)
    });
    assert_eq!(lab.health(), NOT_SERVING);
    put_eni_config(&objects, "us-west-2a", PODS, &[]);
    lab.wait_for("the node becomes ready", |_| Ok(lab.try_add("late").is_ok()));
    lab.wait_for("it is called so", |_| Ok(lab.health() == SERVING));
    lab.audit();
}

#[test]
fn an_eni_config_without_groups_means_those_of_the_primary_interface() {
    if !can_run("an_eni_config_without_groups_means_those_of_the_primary_interface") {
        return;
    }
    let objects = Objects::new();
    put_eni_config(&objects, "us-west-2a", PODS, &[]);
    let mut lab = node(&objects, &[]);
    lab.start();
    assert!(in_the_block(lab.add("p")));
    lab.settles("the primary's group", |a| a.enis.get(1).is_some_and(|e| e.groups == a.enis[0].groups));
    // Another ENIConfig is for interfaces to come.
    objects.change(ENI_CONFIGS, "us-west-2a", &serde_json::json!({"spec": {"securityGroups": [GROUPS[1]]}}));
    for n in 0..9 {
        lab.add(&format!("more{n}"));
    }
    lab.settles("the new group on the next interface alone", |a| {
        a.enis.get(2).is_some_and(|e| e.groups == [GROUPS[1]]) && a.enis[1].groups == a.enis[0].groups
    });
    lab.audit();
}
