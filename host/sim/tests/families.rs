//! IPv6, several cards, other kinds of interfaces, several subnets (spec 03 §16.1, §16.2).

mod common;

use common::{
    GROUP, INSTANCE_TAG, NODE, SUBNET, assign, at, attach, call, code, config, create, creation, describe, dual,
    primary_eni,
};
use reservoir_core::cloud::{Answer, CreateInterface, Request};
use reservoir_core::ip::IpNet;
use reservoir_core::policy::{Family, Unit};
use reservoir_sim::model::aws::InterfaceType;
use reservoir_sim::model::config::{DelaysConfig, SubnetConfig};
use reservoir_sim::model::operator::Attach;
use reservoir_sim::model::ops::Op;
use reservoir_sim::{Config, LinkChange, Sim, Violation};

fn prefix(sim: &mut Sim, eni: &str) -> IpNet {
    match call(sim, Request::AssignIpv6Prefix { eni: eni.to_owned() }).unwrap() {
        Answer::Ipv6Prefixes(list) if list.len() == 1 => list[0],
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dual_stack_node_and_its_prefix() {
    let mut s = Sim::new(&dual("c5.large")).unwrap();
    let facts = s.identity(NODE).unwrap().facts;
    let own = facts.local_ipv6.expect("an instance of such a subnet has an address");
    let subnet: IpNet = "2600:1f14:abc:d00::/64".parse().unwrap();
    assert!(subnet.contains(own.into()));
    let vpc = call(&mut s, Request::VpcCidrs { mac: facts.mac, family: Family::Ipv6 }).unwrap();
    assert_eq!(vpc, Answer::VpcCidrs(vec!["2600:1f14:abc:d00::/56".parse().unwrap()]));
    let block = prefix(&mut s, &facts.primary_eni);
    assert_eq!((block.length(), subnet.contains(block.network())), (80, true));
    let Answer::Attached(shown) = call(&mut s, Request::AttachedInterfaces).unwrap() else { panic!() };
    assert_eq!((&shown[0].ipv6[..], &shown[0].ipv6_prefixes[..]), (&[own][..], &[block][..]));
    assert_eq!(shown[0].subnet_ipv6_cidr, Some(subnet));
    let described = describe(&mut s, &facts.primary_eni);
    assert_eq!((described.ipv6, described.ipv6_prefixes), (vec![own], vec![block]));
    let zone = facts.availability_zone;
    let Answer::Subnets(subnets) =
        call(&mut s, Request::DescribeSubnets { vpc: facts.vpc, availability_zone: zone }).unwrap()
    else {
        panic!()
    };
    assert_eq!(subnets[0].ipv6_cidr, Some(subnet));
    let away = |prefixes| Request::UnassignIpv6Prefixes { eni: facts.primary_eni.clone(), prefixes };
    assert_eq!(code(&mut s, away(vec![])), "MissingParameter");
    let other: IpNet = "2600:1f14:abc:d00:1::/80".parse().unwrap();
    assert_eq!(code(&mut s, away(vec![block, other])), "InvalidParameterValue", "all or nothing");
    assert_eq!(describe(&mut s, &facts.primary_eni).ipv6_prefixes, [block]);
    call(&mut s, away(vec![block])).unwrap();
    assert!(describe(&mut s, &facts.primary_eni).ipv6_prefixes.is_empty());
    assert_eq!(s.audit(), []);
}

#[test]
fn ipv6_has_its_own_slots_and_needs_a_block() {
    let mut s = Sim::new(&dual("c5.large")).unwrap();
    let eni = primary_eni(&s);
    // c5.large: 10 per family; one is the instance's own address.
    let blocks: Vec<_> = (0..9).map(|_| prefix(&mut s, &eni)).collect();
    assert_eq!(blocks.iter().collect::<std::collections::BTreeSet<_>>().len(), 9);
    assert_eq!(code(&mut s, Request::AssignIpv6Prefix { eni: eni.clone() }), "PrivateIpAddressLimitExceeded");
    call(&mut s, assign(&eni, Unit::Ip, 9)).unwrap();
    let made = CreateInterface { ipv6_addresses: 1, ..creation(0, "v6") };
    let Answer::Interfaces(made) = call(&mut s, Request::CreateNetworkInterface(made)).unwrap() else { panic!() };
    assert_eq!((made[0].ipv6.len(), made[0].primary.is_some()), (1, true));
    let mut without = Sim::new(&config("c5.large", "10.0.32.0/20")).unwrap();
    let free = without.subnets().next().unwrap().2;
    let eni = primary_eni(&without);
    assert_eq!(code(&mut without, Request::AssignIpv6Prefix { eni }), "InvalidParameterValue");
    let wrong = CreateInterface { ipv6_addresses: 1, ..creation(2, "v6") };
    assert_eq!(code(&mut without, Request::CreateNetworkInterface(wrong)), "InvalidParameterValue");
    assert_eq!(without.subnets().next().unwrap().2, free, "the IPv4 addresses went back");
    assert_eq!(without.identity(NODE).unwrap().facts.local_ipv6, None);
}

#[test]
fn a_full_ipv6_block_says_so() {
    let mut config = dual("c5.large");
    config.subnets[0].reservations =
        serde_json::from_str(r#"[{"cidr":"2600:1f14:abc:d00:8000::/65","type":"explicit"}]"#).unwrap();
    let mut s = Sim::new(&config).unwrap();
    let eni = primary_eni(&s);
    assert!(prefix(&mut s, &eni).network() < "2600:1f14:abc:d00:8000::".parse::<std::net::IpAddr>().unwrap());
    config.subnets[0].reservations =
        serde_json::from_str(r#"[{"cidr":"2600:1f14:abc:d00::/64","type":"explicit"}]"#).unwrap();
    config.instances[0].ipv6_address = Some("2600:1f14:abc:d00::a".parse().unwrap());
    let mut s = Sim::new(&config).unwrap();
    let eni = primary_eni(&s);
    assert_eq!(code(&mut s, Request::AssignIpv6Prefix { eni }), "InsufficientCidrBlocks");
    config.subnets[0].reservations = serde_json::from_str(r#"[{"cidr":"10.9.0.0/24","type":"prefix"}]"#).unwrap();
    assert!(Sim::new(&config).unwrap_err().to_string().contains("10.9.0.0/24"));
}

#[test]
fn each_card_has_its_own_indexes_and_limit() {
    // Two cards of eight.
    let mut s = Sim::new(&config("c6in.32xlarge", "10.0.32.0/20")).unwrap();
    let enis: Vec<String> = (0..17).map(|n| create(&mut s, 0, &format!("t{n}")).eni).collect();
    for (index, eni) in enis[..8].iter().enumerate() {
        call(&mut s, attach(eni, index as u32, 1)).unwrap();
    }
    assert_eq!(code(&mut s, attach(&enis[8], 9, 1)), "AttachmentLimitExceeded");
    assert_eq!(code(&mut s, attach(&enis[8], 0, 0)), "InvalidParameterValue", "the primary interface's");
    for (index, eni) in enis[8..15].iter().enumerate() {
        call(&mut s, attach(eni, index as u32 + 1, 0)).unwrap();
    }
    assert_eq!(code(&mut s, attach(&enis[15], 8, 0)), "AttachmentLimitExceeded");
    assert_eq!(code(&mut s, attach(&enis[15], 0, 2)), "InvalidParameterValue", "there is no third card");
    let Answer::Attached(shown) = call(&mut s, Request::AttachedInterfaces).unwrap() else { panic!() };
    let on = |card| shown.iter().filter(|i| i.card == card).count();
    assert_eq!((on(0), on(1)), (8, 8));
    let Answer::Devices(devices) = call(&mut s, Request::DescribeInstance { instance: NODE.into() }).unwrap() else {
        panic!()
    };
    assert_eq!(devices.iter().filter(|d| d.card == 1).map(|d| d.device_index).max(), Some(7));
    let own = describe(&mut s, &enis[0]).attachment.unwrap();
    call(&mut s, Request::DetachNetworkInterface { attachment: own.id }).expect("index 0 of card 1 is not the primary");
}

#[test]
fn an_operator_attaches_what_the_daemon_must_not_touch() {
    let mut s = Sim::new(&dual("c6in.32xlarge")).unwrap();
    let now = s.now();
    let trunk = s.attach_trunk(now, NODE).unwrap();
    let efa = s.attach_interface(now, &Attach::to(NODE).kind(InterfaceType::Efa).card(1)).unwrap();
    let bare = s.attach_interface(now, &Attach::to(NODE).kind(InterfaceType::EfaOnly).card(1)).unwrap();
    let kept = Attach::to(NODE).tag("node.k8s.amazonaws.com/no_manage", "true");
    let kept = s.attach_interface(now, &Attach { addresses: 2, prefixes: 0, ..kept }).unwrap();
    let place = |s: &mut Sim, eni: &str| {
        let a = describe(s, eni).attachment.unwrap();
        (a.card, a.device_index, a.delete_on_termination)
    };
    assert_eq!(place(&mut s, &trunk), (0, 7, true));
    assert_eq!(place(&mut s, &efa), (1, 0, true));
    assert_eq!(place(&mut s, &bare), (1, 1, true));
    assert_eq!(place(&mut s, &kept), (0, 1, true));
    assert_eq!(describe(&mut s, &efa).interface_type, "efa");
    let described = describe(&mut s, &bare);
    assert_eq!((described.interface_type.as_str(), described.primary, described.ipv6.len()), ("efa-only", None, 0));
    let Answer::Attached(shown) = call(&mut s, Request::AttachedInterfaces).unwrap() else { panic!() };
    let shown = shown.iter().find(|i| i.eni == bare).unwrap();
    assert_eq!((shown.primary, shown.subnet_cidr, shown.subnet_ipv6_cidr), (None, None, None));
    assert_eq!(s.audit(), [], "the operator may");
    assert_eq!(code(&mut s, assign(&bare, Unit::Ip, 1)), "InvalidParameterValue");
    call(&mut s, Request::SetSecurityGroups { eni: kept.clone(), groups: vec![GROUP.into()] }).unwrap();
    let found = s.audit();
    for (eni, action) in [(&bare, "AssignPrivateIpAddresses"), (&kept, "ModifyNetworkInterfaceAttribute")] {
        assert!(found.contains(&Violation::UnmanagedChanged { eni: eni.clone(), action }), "{found:?}");
    }
    let six = Attach { ipv6_addresses: 1, without_ipv4: true, ..Attach::to(NODE) };
    let six = s.attach_interface(now, &six).unwrap();
    let Answer::Attached(shown) = call(&mut s, Request::AttachedInterfaces).unwrap() else { panic!() };
    let shown = shown.iter().find(|i| i.eni == six).unwrap();
    assert_eq!((shown.primary, shown.subnet_cidr, shown.ipv6.len()), (None, None, 1));
    let full = Attach { device_index: Some(7), ..Attach::to(NODE) };
    let before = s.enis().count();
    assert_eq!(s.attach_interface(now, &full).unwrap_err().code, "InvalidParameterValue");
    assert_eq!(s.enis().count(), before, "nothing is left behind");
}

#[test]
fn somebody_else_changes_things() {
    let delays: DelaysConfig = serde_json::from_str(r#"{"imds_assign":5}"#).unwrap();
    let mut s = Sim::new(&Config { delays, ..config("c5.large", "10.0.32.0/24") }).unwrap();
    let eni = primary_eni(&s);
    s.links(at(0.0));
    s.operate(at(1.0), &Op::AssignPrivateIpAddresses { eni: eni.clone(), addresses: 2, prefixes: 0 }).unwrap();
    let links = s.links(at(1.0));
    assert!(matches!(&links[..], [e] if matches!(&e.change, LinkChange::Changed(a) if a.secondary.len() == 2)));
    let imds = |s: &mut Sim, now| match s.call(at(now), NODE, Request::AttachedInterfaces).1.unwrap() {
        Answer::Attached(list) => list[0].secondary.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!((imds(&mut s, 5.9), imds(&mut s, 6.0)), (0, 2));
    assert_eq!(s.journal().calls("AssignPrivateIpAddresses"), 0, "no node asked");
    s.tag(at(6.0), SUBNET, &[("kubernetes.io/role/cni", "0")]).unwrap();
    s.tag(at(6.0), &eni, &[("a", "1"), ("b", "2")]).unwrap();
    s.untag(at(6.0), &eni, &["a".to_owned()]).unwrap();
    assert_eq!(describe(&mut s, &eni).tags, [("b".to_owned(), "2".to_owned())]);
    s.fragment(SUBNET, 0).unwrap();
    assert_eq!(code(&mut s, assign(&eni, Unit::Prefix, 1)), "InsufficientCidrBlocks");
    let free = s.subnets().next().unwrap().2;
    assert!(s.occupy(SUBNET, free + 1).is_err());
    s.occupy(SUBNET, free).unwrap();
    assert_eq!(code(&mut s, assign(&eni, Unit::Ip, 1)), "InsufficientFreeAddressesInSubnet");
    s.vacate(SUBNET).unwrap();
    assert_eq!(s.subnets().next().unwrap().2, 256 - 5 - 3);
    assert_eq!(s.audit(), []);
}

#[test]
fn interfaces_live_in_the_subnet_they_were_made_in() {
    let mut config = dual("c5.large");
    config.vpc.cidrs.push("100.64.0.0/16".parse().unwrap());
    let pods = SubnetConfig::new("subnet-pods", "100.64.0.0/19".parse().unwrap()).tag("kubernetes.io/role/cni", "1");
    let mut s = Sim::new(&config).unwrap();
    s.add_subnet(&pods).unwrap();
    assert!(s.add_subnet(&pods).is_err());
    let elsewhere = SubnetConfig::new("subnet-else", "192.168.0.0/24".parse().unwrap());
    assert!(s.add_subnet(&elsewhere).unwrap_err().to_string().contains("192.168.0.0/24"));
    let request = CreateInterface { subnet: "subnet-pods".into(), ..creation(3, "t") };
    let Answer::Interfaces(made) = call(&mut s, Request::CreateNetworkInterface(request)).unwrap() else { panic!() };
    let net = pods.cidr;
    assert!(made[0].secondary.iter().chain(&made[0].primary).all(|&a| net.contains(a)));
    call(&mut s, attach(&made[0].eni, 1, 0)).unwrap();
    let now = s.now();
    let up = s.links(now).into_iter().find(|l| l.eni == made[0].eni).unwrap();
    assert_eq!((up.subnet, up.subnet_ipv6), (net, None));
    let Answer::Attached(shown) = call(&mut s, Request::AttachedInterfaces).unwrap() else { panic!() };
    let second = shown.iter().find(|i| i.device_index == 1).unwrap();
    assert_eq!((second.subnet.as_str(), second.subnet_cidr), ("subnet-pods", Some(net)));
    assert_eq!(describe(&mut s, &made[0].eni).tags[0].0, INSTANCE_TAG);
}
