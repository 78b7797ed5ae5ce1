//! Custom networking: pods in a second block of the VPC, on secondary interfaces alone.

use reservoir_kube::testing::Objects;
use ring::cluster::{put_eni_config, put_node};
use ring::{Node, Options};

use crate::support::lab::{GROUPS, PODS};
use crate::world::{Outside, PEER_NET, Source, World, owned};

#[test]
fn pods_of_another_block_are_translated_to_the_primary_address() {
    if !crate::can_run("pods_of_another_block_are_translated_to_the_primary_address") {
        return;
    }
    let node = |options| {
        let mut node = Node::new(options).unwrap();
        let objects = Objects::default();
        put_node(&objects, "us-west-2a", 110);
        put_eni_config(&objects, "default", PODS, &[GROUPS[1]]);
        node.start_cluster(&objects).unwrap();
        node
    };
    let mut world = World::of(node(Options {
        instance_type: "t3.small".to_owned(),
        env: owned(&[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true")]),
        sim: vec!["--preset".to_owned(), "custom".to_owned()],
        ..Options::of_tree()
    }));
    // Three on each of the two interfaces.
    world.fill(5);
    assert_eq!(world.primary().len(), 0);
    assert!(world.pods.iter().all(|p| p.ip.starts_with("100.64.")));
    world.walk(Outside { internet: Source::Node, peer: Some(Source::Node) });
    crate::services::rows(&world);
    crate::mtu::probe(&world, 9001, 9001);
    world.restart(&[("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", PEER_NET)]);
    world.walk(Outside { internet: Source::Node, peer: Some(Source::Pod) });
    world.restart(&[("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", ""), ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true")]);
    world.walk(Outside { internet: Source::Lost, peer: Some(Source::Pod) });
    world.close();
}
