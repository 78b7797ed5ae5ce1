//! How removals and releases end, and what they leave in the snapshot and in the journal.

use super::*;

/// A node of one interface's worth of addresses, and eni-a beside it with none.
fn with_empty_second(journal: Journal) -> World {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-a".to_owned(), (Some(1), BTreeSet::new()));
    let mut w = World::on(ec2, 0, Journal { managed: vec!["eni-a".to_owned()], ..journal });
    w.run(70);
    w
}

fn remove(w: &mut World) {
    w.release_all = true;
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.run_ms(100);
    w.release_all = false;
}

#[test]
fn what_is_detached_and_cannot_be_deleted_takes_no_place() {
    let in_flight = |kind| {
        let mut w = with_empty_second(Journal::default());
        w.ec2.faults.extend([("DeleteNetworkInterface", kind); 4]);
        remove(&mut w);
        assert_eq!(w.m.in_flight(0).0, 1, "it is being detached");
        w.run(8);
        assert!(w.count("DeleteNetworkInterface") >= 2, "{:?}", w.calls);
        w.m.in_flight(0).0
    };
    assert_eq!(in_flight(ErrorKind::InUse), 1, "EC2 says that it is on the instance still");
    assert_eq!(in_flight(ErrorKind::Throttled), 1, "EC2 says nothing of it");
    assert_eq!(in_flight(ErrorKind::Refused), 0, "another reason: it is off the instance");
}

#[test]
fn its_place_is_used_while_its_delete_is_refused() {
    let mut w = with_empty_second(Journal::default());
    w.m.settings.max_enis = 2;
    w.ec2.faults.extend([("DeleteNetworkInterface", ErrorKind::Refused); 9]);
    remove(&mut w);
    let pods: Vec<WaiterId> = (0..SLOTS + 1).filter_map(|i| w.add(&i.to_string()).err()).collect();
    w.run(7);
    assert!(w.m.busy(), "the delete is tried again");
    assert!(pods.iter().all(|id| w.answers[id].is_ok()), "{:?} {:?}", w.answers, w.calls);
    w.run(300);
    w.check();
}

#[test]
fn what_is_not_attached_takes_no_place_from_the_start() {
    let mut w = with_empty_second(Journal::default());
    // Somebody else has detached it.
    w.ec2.enis.get_mut("eni-a").unwrap().0 = None;
    w.m.attachments.clear();
    w.ec2.faults.push_back(("DeleteNetworkInterface", ErrorKind::Throttled));
    remove(&mut w);
    assert_eq!((w.m.in_flight(0).0, w.count("DetachNetworkInterface")), (0, 0), "W12");
}

#[test]
fn the_journal_forgets_what_was_to_be_given_back_of_interfaces_that_are_gone() {
    let pair = |eni: &str, net: &str| (eni.to_owned(), net.to_owned());
    // Of the last run: an interface that nobody has any more.
    let returning = vec![pair("eni-gone", "10.0.3.3/32")];
    let w = with_empty_second(Journal { returning, ..Journal::default() });
    assert_eq!(w.journal.returning, [], "EC2 does not list it, and IMDS does not show it");

    // IMDS shows it still: its word alone keeps it, for the other source may be behind.
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-b".to_owned(), (Some(1), [Ipv4Addr::new(10, 0, 1, 3)].into()));
    ec2.stale = ec2.attached().into_iter().filter(|i| i.eni == "eni-b").collect();
    ec2.enis.remove("eni-b");
    let returning = vec![pair("eni-b", "10.0.1.3/32")];
    let mut w = World::on(ec2, 0, Journal { managed: vec!["eni-b".to_owned()], returning, ..Journal::default() });
    w.run(5);
    assert_eq!(w.journal.returning.len(), 1);
    w.ec2.stale.clear();
    w.run(130);
    let now = w.now();
    w.m.verify(now);
    w.commands();
    w.run(1);
    assert_eq!(w.journal.returning, [], "EC2 does not list it, and the pool has it no more: {:?}", w.logs);
}

#[test]
fn the_journal_forgets_with_a_removed_interface_what_it_was_to_give_back() {
    let mut w = with_empty_second(Journal::default());
    // As a release whose call failed for good leaves it.
    w.m.journal.returning.push(("eni-a".to_owned(), "10.0.3.3/32".to_owned()));
    remove(&mut w);
    w.run(5);
    assert_eq!(w.journal.removing, ["eni-a"], "IMDS may show it for a while");
    assert_eq!(w.journal.returning.len(), 1);
    w.run(200);
    assert_eq!((w.journal.removing.len(), w.journal.returning.len()), (0, 0));
}

#[test]
fn what_ec2_will_not_take_back_is_nobodys_for_a_minute() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    let ip = |n: u8| Ipv4Addr::new(10, 0, 1, n);
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [ip(1), ip(2)].into()));
    // The last run was giving both back when it was killed; EC2 has done so of one and lists it still.
    let returning = [1, 2].map(|n| ("eni-0".to_owned(), format!("10.0.1.{n}/32"))).to_vec();
    ec2.faults = [("UnassignPrivateIpAddresses", ErrorKind::Refused)].into();
    let mut w = World::on(ec2, 0, Journal { returning, ..Journal::default() });
    w.m.settings.max_enis = 1;
    w.run(50);
    assert_eq!(w.count("UnassignPrivateIpAddresses"), 1);
    let id = w.add("1").unwrap_err();
    w.run(5);
    let given = w.answers[&id].clone().unwrap();
    assert!(given != "10.0.1.1" && given != "10.0.1.2", "{given}: {:?}", w.logs);
    // Half a minute later it does not list that one any more; the other is of use again.
    w.ec2.enis.get_mut("eni-0").unwrap().1.remove(&ip(1));
    w.run(30);
    let held: Vec<String> = w.m.cards().cidrs("eni-0", w.at).map(|c| c.net.to_string()).collect();
    assert!(held.contains(&"10.0.1.2/32".to_owned()), "{held:?} {:?}", w.logs);
    w.check();
    w.run(150);
    assert_eq!(w.journal.returning, []);
}

/// A node that was told to end at the moment at which it asks for `api`.
fn told_to_end_at(api: &str) -> World {
    let mut w = World::new(100, SLOTS + 1);
    while w.count(api) == 0 {
        w.run_ms(1);
        assert!(w.at < Duration::from_secs(20), "{:?}", w.calls);
    }
    w.calls.clear();
    let now = w.now();
    w.m.handle(now, Event::Terminating);
    w.commands();
    w
}

#[test]
fn what_was_begun_before_the_end_makes_nothing_after_it() {
    let grows = ["CreateNetworkInterface", "AttachNetworkInterface", "AssignPrivateIpAddresses"];
    for api in ["DescribeSubnets", "AssignPrivateIpAddresses", "CreateNetworkInterface"] {
        let mut w = told_to_end_at(api);
        w.run(30);
        let after: Vec<_> = w.calls.iter().filter(|c| grows.contains(&c.as_str())).collect();
        assert!(after.is_empty(), "{api}: {:?}", w.calls);
        assert!(w.m.is_at_rest() && w.ec2.enis.values().all(|(d, _)| d.is_some()), "{api}: {:?}", w.calls);
        assert_eq!(w.journal.making, []);
    }
    // What is attached stays so, and is programmed.
    let mut w = told_to_end_at("AttachNetworkInterface");
    assert!(!w.m.is_at_rest());
    w.run(30);
    assert_eq!((w.count("DetachNetworkInterface"), w.m.cards().enis().count()), (0, 2), "{:?}", w.calls);
    assert!(w.m.is_at_rest());
    w.check();
}

#[test]
fn what_the_policy_is_asked_before_the_end_is_not_done_after_it() {
    let mut w = World::new(100, 0);
    w.run(5);
    w.warm = 2;
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.m.handle(now, Event::Terminating);
    w.run(30);
    assert_eq!(w.count("AssignPrivateIpAddresses"), 0, "I7: {:?}", w.calls);
}

#[test]
fn the_try_with_one_is_not_made_after_the_end() {
    let mut w = World::new(100, 2);
    w.ec2.faults = [("AssignPrivateIpAddresses", ErrorKind::NoFreeAddress)].into();
    while w.count("AssignPrivateIpAddresses") == 0 {
        w.run_ms(1);
    }
    let now = w.now();
    w.m.handle(now, Event::Terminating);
    w.run(30);
    assert_eq!(w.count("AssignPrivateIpAddresses"), 1, "I7: {:?}", w.calls);
}
