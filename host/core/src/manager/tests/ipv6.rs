//! IPv6 mode: a prefix for each interface, once (spec 01 §9).

use super::*;
use crate::policy::Gate;
use std::net::IpAddr;

fn ipv6() -> Settings {
    Settings { family: Family::Ipv6, unit: Unit::Prefix, ..settings() }
}

/// A node of a subnet with IPv6: the primary interface has its own address and no prefix yet.
fn ec2() -> Ec2 {
    let mut ec2 = Ec2 { free: 50, subnet_ipv6: Some("2001:db8:0:1::/64".parse().unwrap()), ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [Ipv4Addr::new(10, 0, 8, 1)].into()));
    ec2.ipv6.insert("eni-0".to_owned(), ("2001:db8:0:1::9".parse().unwrap(), vec![]));
    ec2
}

fn nets(w: &World) -> Vec<(u32, Vec<IpNet>)> {
    let of = |c: &CardPool| c.store().enis().flat_map(|(e, _)| c.store().blocks(&e.id).collect::<Vec<_>>()).collect();
    w.m.cards().iter().map(|c| (c.index(), of(c))).collect()
}

fn restart(w: &mut World, settings: Settings) {
    let kept = w.m.cards().iter().map(|card| {
        let read = crate::checkpoint::parse(&card.store().checkpoint()).unwrap();
        (card.index(), crate::checkpoint::sort(read, true, |_, _| true).kept)
    });
    let kept = kept.collect();
    w.m = Manager::new(settings);
    w.queue.clear();
    let (now, attached) = (w.now(), w.ec2.attached());
    w.m.boot(now, &attached, w.journal.clone());
    w.m.restore(kept);
    w.commands();
}

#[test]
fn the_primary_gets_one_prefix_and_never_more() {
    let mut w = World::with(ipv6(), ec2(), 5, Journal::default());
    assert!(w.m.readiness().is_err());
    let first = w.add("0").unwrap_err();
    w.run(5);
    let held = nets(&w)[0].1.clone();
    assert_eq!((held.len(), held[0].length()), (1, 80), "IPv4 addresses of the interface are none of the pool's");
    assert_eq!(w.answers[&first], Ok(held[0].network().to_string()), "spec 02 §5.4: the all-zero host first");
    let pods: BTreeSet<IpAddr> = (1..400).map(|n| w.add(&n.to_string()).unwrap().parse().unwrap()).collect();
    assert!(pods.len() == 399 && pods.iter().all(|ip| held[0].contains(*ip)));
    w.run(4000);
    assert_eq!(w.count("AssignIpv6Addresses"), 1);
    assert_eq!(w.count("CreateNetworkInterface") + w.count("AssignPrivateIpAddresses"), 0);
    assert_eq!(w.count("UnassignPrivateIpAddresses"), 0, "and nothing is given back");
    assert_eq!(w.m.readiness(), Ok(()));
    let gates = w.m.snapshot(w.now()).gates;
    assert_eq!((gates.grow, gates.release, gates.remove), (Gate::Closed, Gate::Closed, Gate::Closed));
    assert_eq!(w.decisions, 0, "there is nothing to decide");
}

#[test]
fn a_restart_serves_before_ec2_has_said_a_word_and_asks_for_nothing() {
    let mut w = World::with(ipv6(), ec2(), 0, Journal::default());
    w.run(5);
    let pod = w.add("1").unwrap();
    restart(&mut w, ipv6());
    assert_eq!(w.m.lookup(&Key::new("n", "1", "eth0"))[0].ip.to_string(), pod);
    let next = w.add("2").unwrap();
    assert_ne!(next, pod);
    w.run(600);
    assert_eq!(w.count("AssignIpv6Addresses"), 1, "{:?}", w.calls);
    assert_eq!(w.m.cards().assignments().count(), 2);
}

#[test]
fn of_several_prefixes_the_one_in_use_stays() {
    let mut world = ec2();
    let (first, second) = (world.ipv6_prefix("eni-0"), world.ipv6_prefix("eni-0"));
    let mut w = World::with(ipv6(), world, 0, Journal::default());
    w.run(5);
    assert_eq!(nets(&w), [(0, vec![first])], "spec 01 §9.1: the others are left attached");
    w.ec2.ipv6.get_mut("eni-0").unwrap().1.reverse();
    let now = w.now();
    w.m.verify(now);
    w.run(1300);
    assert_eq!(nets(&w), [(0, vec![first])], "in whatever order they are listed: {second}");
    assert_eq!(w.count("AssignIpv6Addresses"), 0);
}

#[test]
fn a_refused_prefix_is_asked_for_again_and_pods_hear_why() {
    let mut w = World::with(ipv6(), ec2(), 0, Journal::default());
    w.ec2.faults = vec![("AssignIpv6Addresses", ErrorKind::Unauthorized); 2].into();
    let pod = w.add("1").unwrap_err();
    w.run(9);
    assert!(matches!(&w.answers[&pod], Err(Refusal::Cloud(why)) if why.contains("Unauthorized")), "{:?}", w.answers);
    w.run(30);
    assert_eq!(nets(&w)[0].1.len(), 1);
    assert!(w.add("2").is_ok());
    // An answer that was lost: what it did is found, and not done twice.
    let mut w = World::with(ipv6(), ec2(), 0, Journal::default());
    w.ec2.faults = [("AssignIpv6Addresses", ErrorKind::Unknown)].into();
    w.run(1);
    w.ec2.ipv6_prefix("eni-0");
    w.run(60);
    assert_eq!((nets(&w)[0].1.len(), w.ec2.ipv6["eni-0"].1.len()), (1, 1), "{:?}", w.calls);
}

#[test]
fn every_further_card_gets_one_interface_with_one_prefix() {
    let settings = Settings { cards: vec![0, 1, 2], max_enis: 2, ..ipv6() };
    let mut w = World::with(settings.clone(), ec2(), 0, Journal::default());
    w.ec2.faults = [("CreateNetworkInterface", ErrorKind::Refused)].into();
    w.run(60);
    let held = nets(&w);
    assert_eq!(held.iter().map(|(card, nets)| (*card, nets.len())).collect::<Vec<_>>(), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(w.count("CreateNetworkInterface"), 3, "one failed and was made again");
    assert!(w.m.cards().enis().all(|(e, _)| e.address.is_some_and(|a| a.is_ipv6())), "spec 01 §2.4 step 1");
    let got = w.add_wanting("1", Wanted::EveryCard).unwrap();
    assert_eq!(got.split(' ').count(), 3);
    w.run(2000);
    assert_eq!((w.ec2.enis.len(), w.count("AssignIpv6Addresses")), (3, 3), "and never more");
    restart(&mut w, settings);
    let served = w.add_wanting("2", Wanted::EveryCard).unwrap();
    assert_eq!(served.split(' ').count(), 3, "the journal knows them all");
    w.run(600);
    assert_eq!((w.ec2.enis.len(), w.count("AssignIpv6Addresses")), (3, 3));
}

#[test]
fn a_cordoned_node_gets_its_prefix_and_no_interface_more() {
    let mut w = World::with(Settings { cards: vec![0, 1], ..ipv6() }, ec2(), 0, Journal::default());
    let now = w.now();
    w.m.handle(now, Event::Node(NodeFacts { unschedulable: true, ..NodeFacts::default() }));
    w.commands();
    w.run(60);
    assert_eq!((nets(&w)[0].1.len(), w.count("CreateNetworkInterface")), (1, 0));
    let now = w.now();
    w.m.handle(now, Event::Node(NodeFacts::default()));
    w.commands();
    w.run(10);
    assert_eq!(w.count("CreateNetworkInterface"), 1);
}

#[test]
fn a_primary_whose_subnet_is_out_of_use_gets_a_second_interface() {
    let mut w = World::with(ipv6(), ec2(), 0, Journal::default());
    w.run(2);
    let old = w.add("1").unwrap();
    let role = |value: &str| vec![("kubernetes.io/role/cni".to_owned(), value.to_owned())];
    (w.ec2.subnet_tags, w.ec2.second_subnet) = (role("0"), Some(role("1")));
    w.run(2500);
    assert_eq!(w.m.cards().enis().count(), 2, "spec 01 §9.3: {:?}", w.calls);
    let new = w.add("2").unwrap();
    let held = nets(&w)[0].1.clone();
    assert!(held[0].contains(old.parse().unwrap()) && held[1].contains(new.parse().unwrap()), "old pods live on");
    w.run(600);
    assert_eq!(w.count("CreateNetworkInterface"), 1);
}

#[test]
fn a_trunk_gets_no_prefix_and_an_interface_without_ipv6_serves_nobody() {
    let mut world = ec2();
    for (id, device) in [("eni-trunk", 2), ("eni-v4", 1)] {
        world.enis.insert(id.to_owned(), (Some(device), BTreeSet::new()));
    }
    world.ipv6.insert("eni-trunk".to_owned(), ("2001:db8:0:1::8".parse().unwrap(), vec![]));
    world.trunk = Some("eni-trunk".to_owned());
    let mut w = World::with(Settings { pod_eni: true, ..ipv6() }, world, 0, Journal::default());
    w.run(100);
    assert!(w.m.cards().eni("eni-trunk").is_some_and(|e| e.trunk));
    assert_eq!(w.count("AssignIpv6Addresses"), 1, "the primary's");
    assert!(w.m.cards().eni("eni-v4").is_none());
    assert_eq!(w.m.cards().get(0).unwrap().unmanaged(), 1, "it takes a place");
    assert_eq!(w.announced[0], Feature::SecurityGroupsForPods, "spec 01 §11.2: whatever the places");
}

#[test]
fn a_trunk_without_an_ipv6_address_is_a_trunk_all_the_same() {
    let mut world = ec2();
    world.enis.insert("eni-trunk".to_owned(), (Some(2), BTreeSet::new()));
    world.trunk = Some("eni-trunk".to_owned());
    let mut w = World::with(Settings { pod_eni: true, ..ipv6() }, world, 0, Journal::default());
    w.run(100);
    let trunk = w.m.trunk().expect("the trunk");
    assert_eq!((trunk.id.as_str(), trunk.address, trunk.table), ("eni-trunk", None, 3));
    assert_eq!(w.m.cards().get(0).unwrap().unmanaged(), 0, "it is not another's");
    assert_eq!(w.count("AssignIpv6Addresses"), 1, "the primary's");
}

#[test]
fn without_ec2_what_imds_shows_is_used() {
    let settings = Settings { provisioning: false, ec2: false, ..ipv6() };
    let mut world = ec2();
    world.ipv6_prefix("eni-0");
    let mut w = World::with(settings.clone(), world, 0, Journal::default());
    assert!(w.add("1").is_ok());
    w.run(1200);
    assert!(w.calls.iter().all(|c| c == "GetAttachedENIs"), "{:?}", w.calls);
    let mut w = World::with(settings, ec2(), 0, Journal::default());
    w.run(30);
    let now = w.now();
    let refused = w.m.add(now, &Key::new("n", "1", "eth0"), &PodMeta::default(), Wanted::One);
    assert!(matches!(refused, Add::Refused(Refusal::Off(_))), "{refused:?}");
}

#[test]
fn a_full_subnet_is_asked_again_when_it_has_rested() {
    let mut ec2 = ec2();
    ec2.free = 0;
    let role = |value: &str| vec![("kubernetes.io/role/cni".to_owned(), value.to_owned())];
    (ec2.subnet_tags, ec2.second_subnet) = (role("0"), Some(role("1")));
    let mut w = World::with(ipv6(), ec2, 0, Journal::default());
    w.run(20);
    assert!(w.m.readiness().is_err());
    w.ec2.free = 50;
    w.run(200);
    assert!(w.m.readiness().is_ok(), "{:?} {:?}", w.calls, w.logs);
}
