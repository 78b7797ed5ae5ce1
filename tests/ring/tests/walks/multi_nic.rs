//! Pods with an address on every card: each address has its own way out and in.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ring::traffic::{Nobody, Talk, nobody};
use ring::{Options, Pod};

use crate::world::{Outside, Source, World, ip, owned};

fn add_with_all_cards(world: &mut World, name: &str) -> Pod {
    let mut attachment = world.node.make_pod(name).unwrap();
    attachment.annotations =
        BTreeMap::from([("k8s.amazonaws.com/nicConfig".to_owned(), "multi-nic-attachment".to_owned())]);
    let attached = world.node.attach(attachment);
    let pod = attached.unwrap_or_else(|e| panic!("{name}: {e:#}\n{}", world.node.log_tail(20)));
    assert_eq!(pod.ips.len(), 2, "{}", pod.result);
    world.keep(&pod);
    pod
}

/// By every address, in both directions; by the second one the pod must say that it wants it.
fn by_every_address(world: &World, pods: &[Pod], other: &Pod) {
    let (home, host, own) = (world.home(), world.host(), world.own());
    for pod in pods {
        for address in pod.ips.iter().map(|a| a.parse::<IpAddr>().unwrap()) {
            let out = |to: &str, at: IpAddr| Talk::new(&pod.netns, to, at).with_source(address).both().unwrap();
            assert_eq!(out(&host, world.vpc_host), address, "{} {address} -> VPC", pod.name);
            assert_eq!(out(&other.netns, ip(other)), address, "{} {address} -> {}", pod.name, other.name);
            assert_eq!(out(&home, own), address, "{} {address} -> node", pod.name);
            let into = |from: &str| Talk::new(from, &pod.netns, address).both().unwrap();
            assert_eq!(into(&host), world.vpc_host, "VPC -> {} {address}", pod.name);
            assert_eq!(into(&other.netns), ip(other), "{} -> {} {address}", other.name, pod.name);
            assert_eq!(into(&home), own, "node -> {} {address}", pod.name);
            let closed = SocketAddr::new(address, 9);
            assert_eq!(nobody(&host, closed).unwrap(), Nobody::Refuses, "VPC -> {} {address}", pod.name);
        }
    }
}

fn two_cards(test: &str, preset: &str, env: &[(&str, &str)], outside: Outside) {
    if !crate::can_run(test) {
        return;
    }
    let mut world = World::new(Options {
        instance_type: "c6in.32xlarge".to_owned(),
        env: owned(&[env, &[("ENABLE_MULTI_NIC", "true")]].concat()),
        sim: vec!["--preset".to_owned(), preset.to_owned()],
        ..Options::of_tree()
    });
    if preset.contains("ipv6") {
        world = crate::ipv6::with_hosts(world);
    }
    let homed = [add_with_all_cards(&mut world, "m0"), add_with_all_cards(&mut world, "m1")];
    let plain = world.add("p0");
    world.walk(outside);
    by_every_address(&world, &homed, &plain);
    crate::services::rows(&world);
    crate::mtu::probe(&world, 9001, 9001);
    // By the second address to the internet: translated where addresses are, and then by the primary interface.
    for pod in &homed {
        let second: IpAddr = pod.ips[1].parse().unwrap();
        let talk = Talk::new(&pod.netns, &world.internet(), world.internet_host).with_source(second);
        let seen = talk.both().unwrap();
        assert!(if second.is_ipv4() { crate::world::is_public(seen) } else { seen == second }, "{second}: {seen}");
    }
    world.close();
}

#[test]
fn two_cards_ipv4() {
    two_cards("two_cards_ipv4", "multinic", &[], Outside { internet: Source::Node, peer: Some(Source::Node) });
}

#[test]
fn two_cards_ipv6() {
    let outside = Outside { internet: Source::Pod, peer: None };
    two_cards("two_cards_ipv6", "multinic-ipv6", crate::ipv6::ENV, outside);
}
