//! How large a packet may be, asked with the don't-fragment bit.

use std::net::IpAddr;

use ring::shell::{in_netns, run};
use ring::{Options, Pod};

use crate::world::{INTERNET, World, ip, owned};

/// Whether a packet of `size` bytes, headers included, gets there and back in one piece.
fn passes(from: &str, to: IpAddr, size: u32) -> Result<(), String> {
    ping(from, to, size, "2")
}

fn ping(from: &str, to: IpAddr, size: u32, patience: &str) -> Result<(), String> {
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let payload = (size - headers).to_string();
    let address = to.to_string();
    let arguments =
        ["netns", "exec", from, "ping", "-n", "-M", "do", "-c", "1", "-W", patience, "-s", &payload, &address];
    run("ip", &arguments).map(drop).map_err(|error| format!("{error:#}"))
}

/// Exactly `mtu` bytes pass, one more does not.
fn limit(from: &str, to: IpAddr, mtu: u32) {
    // The path's limit that an earlier probe found out would answer for the interface's.
    for family in ["-4", "-6"] {
        in_netns(from, "ip", &[family, "route", "flush", "cache"]).unwrap();
    }
    passes(from, to, mtu).unwrap_or_else(|e| panic!("{mtu} bytes {from} -> {to}: {e}"));
    // The sender's own kernel refuses it at once; the answer that does not come need not be waited for.
    assert!(ping(from, to, mtu + 1, "0.1").is_err(), "{} bytes {from} -> {to} pass", mtu + 1);
}

fn device_mtu(netns: &str, device: &str) -> u32 {
    let text = in_netns(netns, "cat", &[&format!("/sys/class/net/{device}/mtu")]).unwrap();
    text.trim().parse().unwrap()
}

/// What passes between pods of all interfaces, the node and the hosts around it.
pub fn probe(world: &World, eni: u32, pod: u32) {
    let links = in_netns(&world.home(), "ip", &["-o", "link"]).unwrap();
    for link in links.lines().filter_map(|l| l.split(": ").nth(1)?.split('@').next()).filter(|l| *l != "lo") {
        let wanted = if link.starts_with("eni") { pod } else { eni };
        assert_eq!(device_mtu(&world.home(), link), wanted, "{link}");
    }
    let (primary, secondary) = (world.primary(), world.secondary());
    let pods: Vec<Pod> = primary.into_iter().take(2).chain(secondary.into_iter().take(2)).collect();
    let host = world.host();
    for one in &pods {
        assert_eq!(device_mtu(&one.netns, "eth0"), pod);
        limit(&one.netns, world.vpc_host, pod);
        if ip(one).is_ipv4() {
            limit(&one.netns, INTERNET, pod);
        }
        limit(&one.netns, world.own(), pod);
        for other in pods.iter().filter(|o| o.name != one.name) {
            limit(&one.netns, ip(other), pod);
        }
        // Into the pod; a larger one is answered with what would pass, so that the sender can learn it.
        limit(&world.home(), ip(one), pod);
        passes(&host, ip(one), pod).unwrap();
        if pod < eni {
            let said = ping(&host, ip(one), eni, "0.5").unwrap_err();
            let learnt = in_netns(&host, "ip", &["route", "get", &one.ip]).unwrap();
            assert!(learnt.contains(&format!("mtu {pod}")), "{said}\n{learnt}");
            assert_eq!(ring::traffic::both(&host, &one.netns, ip(one)).unwrap(), world.vpc_host);
        }
    }
    limit(&world.home(), world.vpc_host, eni);
}

#[test]
fn packets_are_as_large_as_the_settings_say() {
    if !crate::can_run("packets_are_as_large_as_the_settings_say") {
        return;
    }
    for (env, eni, pod) in [
        (&[][..], 9001, 9001),
        (&[("AWS_VPC_ENI_MTU", "1500")], 1500, 1500),
        (&[("AWS_VPC_ENI_MTU", "8500"), ("POD_MTU", "1400")], 8500, 1400),
    ] {
        let mut world = World::small(env);
        world.fill(1);
        probe(&world, eni, pod);
        world.close();
    }
}

#[test]
fn the_same_with_ipv6() {
    if !crate::can_run("the_same_with_ipv6") {
        return;
    }
    let mtu = [("AWS_VPC_ENI_MTU", "8500"), ("POD_MTU", "1300")];
    let mut world = crate::ipv6::with_hosts(World::new(Options {
        instance_type: "t3.small".to_owned(),
        env: owned(&[crate::ipv6::ENV, &mtu].concat()),
        sim: vec!["--preset".to_owned(), "ipv6".to_owned()],
        ..Options::of_tree()
    }));
    world.add("p0");
    world.add("p1");
    probe(&world, 8500, 1300);
    world.close();
}
