//! What Kubernetes says: ENIConfig (spec 01 §7), cordoned nodes (§3.2), the trunk (§11).

use super::*;
use crate::policy::{Gate, Standing};

fn world(settings: Settings, warm: u32) -> World {
    let mut ec2 = Ec2 { free: 100, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [Ipv4Addr::new(10, 0, 8, 1)].into()));
    World::with(settings, ec2, warm, Journal::default())
}

fn tell(w: &mut World, facts: NodeFacts) {
    let now = w.now();
    w.m.handle(now, Event::Node(facts));
    w.commands();
}

#[test]
fn custom_networking_makes_interfaces_where_the_eni_config_says() {
    let mut w = world(Settings { custom_networking: true, ..settings() }, 2);
    w.run(10);
    assert_eq!(w.count("CreateNetworkInterface"), 0, "no ENIConfig, no interface: nothing is guessed");
    let pod = w.add("1").unwrap();
    assert_eq!(pod, "10.0.8.1", "spec 01 §7.2: what the primary has already is given to pods");
    let waits = w.add("2").unwrap_err();
    w.run(9);
    assert_eq!(
        w.answers[&waits],
        Err(Refusal::Cloud("ENIConfig: eniconfig: eniconfig is not available".to_owned())),
        "the pod hears why"
    );
    let groups = vec!["sg-pods".to_owned()];
    w.eni_config =
        Ok(EniConfig { name: "a".to_owned(), subnet: "subnet-1".to_owned(), security_groups: groups.clone() });
    w.run(300);
    assert_eq!(w.ec2.made, [("subnet-1".to_owned(), groups)]);
    assert_eq!(w.count("AssignPrivateIpAddresses"), 0, "the primary gets nothing more");
    let node = w.m.snapshot(w.now());
    assert!(node.enis[0].traits.has(EniTrait::Closed) && !node.enis[1].traits.has(EniTrait::Closed));
    w.check();
}

#[test]
fn under_custom_networking_every_other_subnet_is_forbidden() {
    let mut w = world(Settings { custom_networking: true, ..settings() }, 2);
    let config = EniConfig { name: "a".to_owned(), subnet: "subnet-pods".to_owned(), ..EniConfig::default() };
    w.eni_config = Ok(config);
    // EC2 of this world has no such subnet: the creation is asked there and nowhere else.
    w.run(2);
    assert_eq!(w.ec2.made[0], ("subnet-pods".to_owned(), vec!["sg-1".to_owned()]), "the primary's groups");
    let node = w.m.snapshot(w.now());
    let standings: Vec<_> = node.subnets.iter().map(|s| (s.id.as_str(), s.standing)).collect();
    assert_eq!(standings, [("subnet-1", Standing::Forbidden), ("subnet-pods", Standing::Eligible)], "I9");
}

#[test]
fn a_subnet_that_ec2_does_not_list_is_known_from_imds_once_the_interface_is_there() {
    let mut w = world(Settings { custom_networking: true, ..settings() }, 2);
    let config = EniConfig { name: "a".to_owned(), subnet: "subnet-pods".to_owned(), ..EniConfig::default() };
    w.eni_config = Ok(config);
    w.ec2.faults = [("DescribeSubnets", ErrorKind::Unauthorized)].into();
    w.run(20);
    assert_eq!(w.programmed, ["100.64.0.0/24"], "{:?} {:?}", w.calls, w.logs);
    assert_eq!(w.m.cards().enis().count(), 2);
    w.check();
}

#[test]
fn a_cordoned_node_neither_grows_nor_removes_unless_told_so() {
    let cordoned = NodeFacts { unschedulable: true, ..NodeFacts::default() };
    let mut w = world(settings(), 0);
    tell(&mut w, cordoned.clone());
    w.run(2);
    w.warm = 3;
    tell(&mut w, cordoned.clone());
    w.run(60);
    let node = w.m.snapshot(w.now());
    assert_eq!((node.gates.grow, node.gates.release, node.gates.remove), (Gate::Closed, Gate::Open, Gate::Closed));
    assert!(node.draining);
    assert_eq!(w.count("AssignPrivateIpAddresses"), 0);
    w.add("1").unwrap();
    let now = w.now();
    let refused = w.m.add(now, &Key::new("n", "2", "eth0"), &PodMeta::default(), Wanted::One);
    assert!(matches!(refused, Add::Refused(Refusal::Off(_))), "{refused:?}");
    tell(&mut w, NodeFacts { max_pods: Some(17), ..NodeFacts::default() });
    w.run(5);
    assert!(w.count("AssignPrivateIpAddresses") > 0, "uncordoned");
    assert_eq!(w.m.snapshot(w.now()).limits.max_pods, 17);
    tell(&mut w, NodeFacts { max_pods: Some(0), ..NodeFacts::default() });
    assert_eq!(w.m.snapshot(w.now()).limits.max_pods, 110, "spec 01 W28: 0 is not known");

    let mut w = world(Settings { manage_non_schedulable: true, ..settings() }, 3);
    tell(&mut w, cordoned);
    w.run(5);
    assert!(w.count("AssignPrivateIpAddresses") > 0);
    assert!(w.m.snapshot(w.now()).draining);
}

#[test]
fn a_place_is_kept_for_the_trunk_until_it_is_there() {
    let mut w = world(Settings { pod_eni: true, ..settings() }, 8);
    w.announcing = Err("conflict".to_owned());
    w.run(10);
    assert!(w.announced.len() > 1, "tried again soon: {:?}", w.announced);
    w.announcing = Ok(());
    w.run(60);
    assert!(w.announced.iter().all(|f| *f == Feature::SecurityGroupsForPods));
    assert_eq!((w.m.max_enis(0), w.m.cards().enis().count()), (2, 2), "one of three is kept free");
    w.ec2.enis.insert("eni-trunk".to_owned(), (Some(2), BTreeSet::new()));
    w.ec2.trunk = Some("eni-trunk".to_owned());
    w.run(70);
    let trunk = w.m.cards().eni("eni-trunk").unwrap();
    assert!(trunk.trunk);
    assert_eq!(w.m.max_enis(0), 3);
    let told = w.announced.len();
    w.run(600);
    assert_eq!(w.announced.len(), told, "there is nothing more to wish for");
    assert!(w.ec2.enis["eni-trunk"].1.is_empty(), "nothing is assigned to it (I5)");
}

#[test]
fn another_trunk_is_found_when_the_link_of_the_one_that_is_known_does_not_show() {
    let mut w = world(Settings { pod_eni: true, ..settings() }, 0);
    let attach = |w: &mut World, id: &str| {
        w.ec2.enis.insert(id.to_owned(), (Some(2), BTreeSet::new()));
        w.ec2.trunk = Some(id.to_owned());
    };
    let trunk = |w: &World| w.m.trunk().map(|e| e.id.clone());
    attach(&mut w, "eni-trunk");
    w.run(70);
    assert_eq!(trunk(&w).as_deref(), Some("eni-trunk"));
    w.ec2.enis.remove("eni-trunk");
    attach(&mut w, "eni-other");
    w.run(70);
    assert_eq!(trunk(&w).as_deref(), Some("eni-trunk"), "nobody has asked");
    let calls = w.calls.len();
    for _ in 0..3 {
        let now = w.now();
        w.m.handle(now, Event::LinkMissing);
        w.commands();
    }
    w.run(5);
    assert_eq!(trunk(&w).as_deref(), Some("eni-other"), "{:?}", w.logs);
    assert!(w.calls.len() - calls <= 6, "one question for all: {:?}", &w.calls[calls..]);
}

#[test]
fn the_eni_config_is_announced_before_the_trunk() {
    let mut w = world(Settings { pod_eni: true, custom_networking: true, ..settings() }, 0);
    w.run(2);
    assert!(w.announced.is_empty(), "which one applies is not known before the Node was read");
    let labels = vec![("k8s.amazonaws.com/eniConfig".to_owned(), "az1".to_owned())];
    tell(&mut w, NodeFacts { labels: labels.clone(), ..NodeFacts::default() });
    w.run(1);
    let custom = Feature::CustomNetworking { eni_config: "az1".to_owned() };
    assert_eq!(w.announced, [custom, Feature::SecurityGroupsForPods]);
    assert_eq!(w.m.snapshot(w.now()).labels, labels);
}

#[test]
fn a_trunk_is_not_taken_for_an_ordinary_interface_after_a_restart() {
    let mut ec2 = Ec2 { free: 100, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-trunk".to_owned(), (Some(2), BTreeSet::new()));
    ec2.trunk = Some("eni-trunk".to_owned());
    let settings = Settings { pod_eni: true, ..settings() };
    let mut w = World::with(settings.clone(), ec2, 2, Journal::default());
    w.run(5);
    assert!(w.m.cards().eni("eni-trunk").is_some_and(|e| e.trunk));
    assert!(w.journal.managed.iter().all(|e| e != "eni-trunk"), "{:?}", w.journal);
    assert_eq!(w.m.max_enis(0), 3, "the place is taken, none is kept");
    let attached = w.ec2.attached();
    w.m = Manager::new(settings);
    w.queue.clear();
    let now = w.now();
    w.m.boot(now, &attached, w.journal.clone());
    let node = w.m.snapshot(now);
    let trunk = node.enis.iter().find(|e| e.id == "eni-trunk").unwrap();
    assert!(trunk.traits.has(EniTrait::Closed), "before EC2 was heard it gets nothing");
    w.commands();
    (w.warm, w.release_all) = (9, false);
    w.run(20);
    (w.warm, w.release_all) = (0, true);
    w.run(300);
    assert!(w.m.cards().eni("eni-trunk").is_some_and(|e| e.trunk) && w.ec2.enis["eni-trunk"].1.is_empty());
    assert!(w.count("CreateTags") > 0);
    assert!(!w.tagged.contains("eni-trunk"), "spec 01 §11.5");
}

#[test]
fn where_no_trunk_can_come_the_wish_is_told_seldom_and_no_place_is_kept() {
    let mut w = world(Settings { pod_eni: true, trunk_compatible: false, ..settings() }, 1);
    w.run(3000);
    assert_eq!(w.m.max_enis(0), 3);
    assert!((1..=6).contains(&w.announced.len()), "W17: {}", w.announced.len());
}
