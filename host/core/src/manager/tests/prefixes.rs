//! Prefix delegation, and what switching it leaves behind (spec 01 §2.3 step 13, §15, W24–W26; spec 02 §4.3).

use super::*;

fn single(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 8, n)
}

fn prefix(n: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(10, 2, 0, n * 16), 28)
}

fn in_unit(unit: Unit) -> Settings {
    Settings { unit, ..settings() }
}

/// A node whose primary interface came with two addresses and, beside them, one prefix.
fn mixed() -> Ec2 {
    let mut ec2 = Ec2 { free: 50, free_prefixes: 8, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [single(1), single(2)].into()));
    ec2.prefixes.insert("eni-0".to_owned(), [prefix(0)].into());
    ec2
}

/// The daemon starts again, perhaps with another setting, and knows what its files tell.
fn restart(w: &mut World, settings: Settings) {
    let kept = w.m.cards().iter().map(|card| {
        let read = crate::checkpoint::parse(&card.store().checkpoint()).unwrap();
        (card.index(), crate::checkpoint::sort(read, false, |_, _| true).kept)
    });
    let kept = kept.collect();
    w.m = Manager::new(settings);
    w.queue.clear();
    let (now, attached) = (w.now(), w.ec2.attached());
    w.m.boot(now, &attached, w.journal.clone());
    w.m.restore(kept);
    w.commands();
}

fn held(w: &World) -> Vec<String> {
    let enis: Vec<_> = w.m.cards().enis().map(|(e, _)| e.id.clone()).collect();
    enis.iter().flat_map(|e| w.m.cards().cidrs(e, w.at)).map(|c| c.net.to_string()).collect()
}

#[test]
fn a_fresh_node_asks_for_prefixes_and_pods_share_them() {
    let mut ec2 = Ec2 { free: 50, free_prefixes: 8, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let mut w = World::with(in_unit(Unit::Prefix), ec2, 16, Journal::default());
    w.run(5);
    assert_eq!((w.m.cards().stats(w.at).prefixes, w.m.cards().stats(w.at).total), (1, 16));
    let pods: BTreeSet<String> = (0..16).map(|n| w.add(&n.to_string()).unwrap()).collect();
    assert_eq!(pods.len(), 16, "spec 02 §5.4: the first and the last address too");
    w.run(5);
    assert_eq!(w.m.cards().stats(w.at).prefixes, 2, "one stays warm");
    w.check();
}

#[test]
fn what_the_other_setting_left_goes_back_at_the_start() {
    let mut w = World::with(in_unit(Unit::Prefix), mixed(), 1, Journal::default());
    w.run(5);
    assert_eq!(held(&w), [prefix(0).to_string()], "all unassigned single addresses");
    let first = |api: &str| w.calls.iter().position(|c| c == api).unwrap();
    let (told, given) = (first("DescribeNetworkInterfaces"), first("UnassignPrivateIpAddresses"));
    assert!(told < given, "not on the word of IMDS: {:?}", w.calls);
    w.check();
    let mut w = World::with(in_unit(Unit::Ip), mixed(), 1, Journal::default());
    w.run(5);
    assert_eq!(held(&w), ["10.0.8.1/32", "10.0.8.2/32"], "all unassigned prefixes");
    w.check();
    // An operator who says "no calls" means it, unlike the reference (spec 03 §13).
    let mut w = World::with(Settings { provisioning: false, ..in_unit(Unit::Ip) }, mixed(), 1, Journal::default());
    w.run(600);
    assert_eq!(w.count("UnassignPrivateIpAddresses"), 0);
    assert_eq!(w.add("1").unwrap(), "10.0.8.1", "and a left-over serves nobody");
}

#[test]
fn the_switch_is_made_with_pods_running_and_back() {
    let mut ec2 = Ec2 { free: 50, free_prefixes: 8, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let mut w = World::with(in_unit(Unit::Ip), ec2, 1, Journal::default());
    w.run(5);
    let old = w.add("old").unwrap();
    w.run(5);
    restart(&mut w, in_unit(Unit::Prefix));
    w.run(40);
    let mut now = held(&w);
    assert_eq!((now.len(), &now[0]), (2, &format!("{old}/32")), "the pod keeps its address: {now:?}");
    let node = w.m.snapshot(w.now());
    assert_eq!(
        node.enis[0].cidrs.iter().map(|c| (c.unit, c.serving)).collect::<Vec<_>>(),
        [(Unit::Ip, false), (Unit::Prefix, true)]
    );
    let new = w.add("new").unwrap();
    assert!(prefix_of(&now[1]).contains(new.parse().unwrap()));
    w.check();
    // W24: what its pod leaves goes back, once it has cooled (I4).
    w.del("old");
    w.run(20);
    assert_eq!(w.count("UnassignPrivateIpAddresses"), 1, "cooling still: {:?}", w.calls);
    w.run(20);
    assert_eq!(w.count("UnassignPrivateIpAddresses"), 2);
    now = held(&w);
    assert_eq!(now.len(), 1, "{now:?}");
    w.check();
    // And the other way: the prefix is kept as long as one pod has an address of it.
    w.add("second").unwrap();
    restart(&mut w, in_unit(Unit::Ip));
    w.run(40);
    assert!(held(&w).contains(&now[0]));
    assert!(!prefix_of(&now[0]).contains(w.add("third").unwrap().parse().unwrap()), "it serves no new pod");
    w.del("new");
    w.run(60);
    assert!(held(&w).contains(&now[0]));
    w.del("second");
    w.run(60);
    assert!(!held(&w).contains(&now[0]), "{:?}", w.logs);
    w.check();
}

fn prefix_of(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

#[test]
fn single_addresses_that_a_plan_asked_for_serve_until_a_restart() {
    let mut ec2 = Ec2 { free: 50, free_prefixes: 0, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let mut w = World::with(in_unit(Unit::Prefix), ec2, 1, Journal::default());
    w.run(5);
    assert_eq!(w.count("AssignPrivateIpAddresses"), 1, "one, and the subnet rests: {:?}", w.calls);
    let subnets = w.m.snapshot(w.now()).subnets;
    assert!(subnets[0].prefixes_refused_seconds > 100 && subnets[0].ips_refused_seconds == 0, "W26: {subnets:?}");
    w.other_unit = Some(Unit::Ip);
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.run(5);
    let pod = w.add("1").unwrap();
    w.run(600);
    assert_eq!(held(&w).len(), 2, "one for the pod and one spare, not given back: {:?}", held(&w));
    assert!(w.m.snapshot(w.now()).enis[0].cidrs.iter().all(|c| c.serving));
    w.check();
    w.other_unit = None;
    w.warm = 0;
    restart(&mut w, in_unit(Unit::Prefix));
    w.run(5);
    assert_eq!(held(&w), [format!("{pod}/32")], "spec 01 §15");
    w.check();
}

#[test]
fn a_listing_that_overtakes_the_answer_makes_no_left_over() {
    let mut ec2 = Ec2 { free: 50, free_prefixes: 8, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let mut w = World::with(in_unit(Unit::Prefix), ec2, 0, Journal::default());
    w.run(5);
    w.other_unit = Some(Unit::Ip);
    let pod = w.add("1").unwrap_err();
    // EC2's answer takes 300 ms, its listing 20.
    w.run_ms(10);
    assert_eq!(w.count("AssignPrivateIpAddresses"), 1);
    let now = w.now();
    w.m.verify(now);
    w.commands();
    w.run(2);
    assert!(w.answers[&pod].is_ok());
    w.del("1");
    w.run(120);
    assert_eq!(held(&w).len(), 1, "a plan asked for it: {:?}", w.calls);
}

#[test]
fn what_ec2_refuses_is_tried_again_at_the_pace_of_releases() {
    let mut w = World::with(in_unit(Unit::Prefix), mixed(), 0, Journal::default());
    w.ec2.faults = [("UnassignPrivateIpAddresses", ErrorKind::Refused)].into();
    w.run(5);
    assert_eq!(held(&w).len(), 1, "nobody's for as long as EC2's listing may be behind: {:?}", w.logs);
    let told = w.m.journal.returning.len();
    assert_eq!(told, 2, "and a restart would know");
    w.run(120);
    assert_eq!(held(&w), [prefix(0).to_string()], "tried again, at the pace of releases");
    assert_eq!(w.count("UnassignPrivateIpAddresses"), 2);
    w.check();
}

#[test]
fn slots_that_the_other_setting_left_full_are_freed_before_the_node_grows() {
    let mut ec2 = mixed();
    ec2.prefixes.clear();
    ec2.enis.get_mut("eni-0").unwrap().1.insert(single(3));
    let mut w = World::with(in_unit(Unit::Prefix), ec2, 1, Journal::default());
    let pod = w.add("1").unwrap_err();
    w.run(8);
    assert_eq!(w.count("CreateNetworkInterface"), 0, "spec 01 §2.3: first give back, then grow: {:?}", w.calls);
    assert!(w.answers[&pod].is_ok(), "{:?}", w.answers);
    w.check();
    // EC2 that will not take them does not keep the node from growing.
    let mut ec2 = mixed();
    ec2.prefixes.clear();
    ec2.enis.get_mut("eni-0").unwrap().1.insert(single(3));
    let mut w = World::with(in_unit(Unit::Prefix), ec2, 1, Journal::default());
    w.ec2.faults = vec![("UnassignPrivateIpAddresses", ErrorKind::Throttled); 9].into();
    w.run(60);
    assert_eq!(w.m.cards().stats(w.at).prefixes, 1, "{:?}", w.calls);
}

#[test]
fn a_type_without_prefixes_is_not_asked_for_any() {
    let xen = InstanceLimits { hypervisor: crate::limits::Hypervisor::Xen, ..settings().limits };
    let mut w = World::with(Settings { limits: xen, ..settings() }, mixed(), 9, Journal::default());
    w.other_unit = Some(Unit::Prefix);
    w.run(60);
    assert_eq!(w.count("AssignPrivateIpAddresses") + w.count("CreateNetworkInterface"), 0, "spec 01 §1.4");
}
