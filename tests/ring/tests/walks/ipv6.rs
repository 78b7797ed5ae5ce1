//! IPv6: nobody's address is translated, here or at the internet gateway.

use std::net::IpAddr;

use ring::Options;
use ring::shell::in_netns;

use crate::world::{Outside, Source, World, owned};

pub const ENV: &[(&str, &str)] = &[
    ("ENABLE_IPv4", "false"),
    ("ENABLE_IPv6", "true"),
    ("ENABLE_PREFIX_DELEGATION", "true"),
    ("WARM_PREFIX_TARGET", "1"),
];

/// The hosts of the simulated VPC.
pub fn with_hosts(mut world: World) -> World {
    world.vpc_host = "2600:1f14:abc:dff::10".parse().unwrap();
    world.internet_host = "2001:db8:ffff::10".parse().unwrap();
    world
}

#[test]
fn pods_are_themselves_everywhere() {
    if !crate::can_run("pods_are_themselves_everywhere") {
        return;
    }
    let mut world = with_hosts(World::new(Options {
        instance_type: "t3.small".to_owned(),
        env: owned(ENV),
        sim: vec!["--preset".to_owned(), "ipv6".to_owned()],
        ..Options::of_tree()
    }));
    for n in 0..3 {
        world.add(&format!("p{n}"));
    }
    assert!(world.pods.iter().all(|p| p.ip.parse::<IpAddr>().unwrap().is_ipv6()));
    let outside = Outside { internet: Source::Pod, peer: None };
    world.walk(outside);
    // Whatever the settings of IPv4's translation.
    world.restart(&[("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true")]);
    world.walk(outside);
    let saved = in_netns(&world.home(), "ip6tables-save", &[]).unwrap();
    assert!(!saved.contains("AWS"), "{saved}");
    world.close();
}
