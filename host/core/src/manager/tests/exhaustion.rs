//! Subnets that have nothing: what is asked, and how often.

use super::*;
use crate::policy::{CreateEni, Gate};

/// Two cards of one interface each, in one subnet.
fn two_cards(free: u32) -> World {
    let mut ec2 = Ec2 { free, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-1".to_owned(), (Some(0), BTreeSet::new()));
    ec2.cards.insert("eni-1".to_owned(), 1);
    let journal = Journal { managed: vec!["eni-1".to_owned()], ..Journal::default() };
    let mut s = settings();
    s.cards = vec![0, 1];
    s.subnet_discovery = false;
    World::with(s, ec2, 2, journal)
}

#[test]
fn while_one_is_asked_for_the_interface_is_not_asked_for_more() {
    let mut ec2 = Ec2::default();
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    // Without discovery nobody has counted what the subnet has.
    let mut w = World::with(Settings { subnet_discovery: false, ..settings() }, ec2, 2, Journal::default());
    w.run_ms(400);
    let before = w.count("AssignPrivateIpAddresses");
    assert_eq!(before, 2, "all, then one: {:?}", w.calls);
    let plan = w.m.snapshot(w.now());
    let growth = Growth::Assign(Assign { eni: "eni-0".to_owned(), unit: Unit::Ip, count: 1 });
    let now = w.now();
    let refused = w.m.start_growth(now, &growth).unwrap_err();
    assert!(refused.starts_with("I7: "), "{refused}");
    assert_eq!(plan.cards[0].ips_in_flight, 1, "what is under way is what was asked for");
    w.run(5);
    let now = w.now();
    assert!(w.m.start_growth(now, &growth).is_ok(), "the host does not forbid: the policy is told of the subnet");
}

#[test]
fn an_empty_subnet_costs_one_ladder_for_all_cards() {
    let mut w = two_cards(0);
    w.run(60);
    let before = w.calls.len();
    // Two minutes and a little: it may be asked once more.
    w.run(122);
    let assigns = w.calls[before..].iter().filter(|c| *c == "AssignPrivateIpAddresses").count();
    assert_eq!(assigns, 2, "all, then one, on one card: {:?}", &w.calls[before..]);
    let creates = w.calls[before..].iter().filter(|c| *c == "CreateNetworkInterface").count();
    assert_eq!(creates, 0, "{:?}", &w.calls[before..]);
}

#[test]
fn an_interface_that_only_waits_for_what_others_find_out_shuts_no_gate() {
    let mut w = two_cards(0);
    w.run(5);
    w.policy_is_silent = true;
    // EC2 may be asked again, and both ask: the interface first, then more on the other card.
    w.run(125);
    let now = w.now();
    w.m.start_growth(now, &Growth::CreateEni(CreateEni { card: 0, unit: Unit::Ip, count: 1 })).unwrap();
    w.m.start_growth(now, &Growth::Assign(Assign { eni: "eni-1".to_owned(), unit: Unit::Ip, count: 1 })).unwrap();
    w.commands();
    let before = w.count("CreateNetworkInterface");
    w.run_ms(200);
    assert_eq!(w.count("CreateNetworkInterface"), before, "the call under way tells what there is");
    let now = w.now();
    assert_eq!(w.m.growing(), 1, "{:?}", w.logs);
    assert_eq!(w.m.snapshot(now).gates.grow, Gate::Open, "{:?}", w.logs);
}

#[test]
fn what_a_subnet_has_again_reaches_all_cards() {
    let mut w = two_cards(0);
    w.run(60);
    let one = w.add("1").unwrap_err();
    w.run(1);
    assert!(matches!(w.answers[&one], Err(Refusal::SubnetFull { .. })), "{:?}", w.answers);
    w.ec2.free = 20;
    w.run(200);
    let total = |w: &World, card: u32| w.m.cards().get(card).unwrap().store().stats(w.at).total;
    assert_eq!((total(&w, 0), total(&w, 1)), (2, 1));
    w.check();
}

#[test]
fn several_interfaces_come_at_once_again_when_the_subnet_has_some() {
    let mut w = World::new(4, 2);
    w.run(5);
    w.ec2.free = 0;
    let full: Vec<WaiterId> = (0..4).filter_map(|i| w.add(&i.to_string()).err()).collect();
    w.run(5);
    assert!(full.iter().any(|id| w.answers[id].is_err()));
    w.run(130);
    w.ec2.free = 50;
    w.run(130);
    let more: Vec<WaiterId> = (10..16).filter_map(|i| w.add(&i.to_string()).err()).collect();
    w.run(8);
    assert!(more.iter().all(|id| w.answers[id].is_ok()), "{:?}", w.answers);
    w.check();
}

#[test]
fn one_address_that_is_granted_at_once_is_no_sign_of_a_dry_subnet() {
    let mut w = World::new(50, 1);
    w.run(60);
    let before = w.count("DescribeSubnets");
    for pod in 0..2 {
        w.add(&pod.to_string()).unwrap();
        w.run(2);
    }
    assert!(w.count("AssignPrivateIpAddresses") >= 3, "{:?}", w.calls);
    assert_eq!(w.count("DescribeSubnets"), before, "nobody counts what is left: {:?}", w.calls);
}

/// The primary interface alone, and both subnets tagged out of pod use.
fn tagged_out(settings: Settings) -> World {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.subnet_tags = vec![(crate::subnets::ROLE_TAG.to_owned(), "0".to_owned())];
    ec2.second_subnet = Some(ec2.subnet_tags.clone());
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let mut w = World::with(settings, ec2, 0, Journal::default());
    w.run(5);
    w
}

#[test]
fn where_no_subnet_may_have_an_interface_pods_are_told_which_tag_is_to_blame() {
    // Spec 01 §6.3.
    let mut w = tagged_out(settings());
    let id = w.add("1").unwrap_err();
    w.run(10);
    let why = w.answers[&id].clone().unwrap_err().to_string();
    assert_eq!(
        why,
        "no valid subnets available for ENI creation - all subnets are either not tagged or tagged with \
         kubernetes.io/role/cni=0 (subnet-1: kubernetes.io/role/cni=0; subnet-2: kubernetes.io/role/cni=0); give a \
         subnet of this zone the tag kubernetes.io/role/cni=1"
    );
    assert_eq!(w.count("CreateNetworkInterface"), 0, "EC2 is not asked");
    // A tag is enough, without a restart.
    w.ec2.second_subnet = Some(vec![(crate::subnets::ROLE_TAG.to_owned(), "1".to_owned())]);
    w.run(60);
    let id = w.add("2").unwrap_err();
    w.run(8);
    assert!(w.answers[&id].is_ok(), "{:?} {:?}", w.answers, w.logs);

    let mut w = tagged_out(Settings { subnet_discovery: false, ..settings() });
    let ids: Vec<WaiterId> = (0..SLOTS + 1).map(|i| w.add(&i.to_string()).unwrap_err()).collect();
    w.run(10);
    let why = w.answers[&ids[SLOTS as usize]].clone().unwrap_err().to_string();
    assert!(
        why.starts_with(
            "primary subnet is tagged with kubernetes.io/role/cni=0 and subnet discovery is disabled - no valid subnets \
             available for ENI creation (subnet-1: kubernetes.io/role/cni=0; subnet-2: "
        ),
        "{why}"
    );
    assert!(!why.contains("give a subnet"), "another subnet's tag would not help: {why}");
}
