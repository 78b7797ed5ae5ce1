//! What comes between a snapshot and the answer to it. Each was found by a property test (tests/properties).

use super::*;
use crate::cloud::{Answer, CloudError};

/// A node with its first two addresses, and nothing under way.
fn settled() -> World {
    let mut w = World::new(50, 2);
    w.run(5);
    assert_eq!((w.m.busy(), w.m.cards().stats(w.at).total), (false, 2));
    w
}

/// Answers a snapshot that is older than what has happened since.
fn answer(w: &mut World, node: &Node, plan: Plan) {
    let node = Arc::new(node.clone());
    let decided = Decided {
        node,
        plan: Some(plan),
        targets: vec![],
        reason: String::new(),
        wake_after: None,
        refresh_subnets: false,
    };
    let now = w.now();
    w.m.handle(now, Event::Decided(Box::new(decided)));
    w.commands();
}

fn assign(eni: &str, count: u32) -> Plan {
    let growth = Growth::Assign(Assign { eni: eni.to_owned(), unit: Unit::Ip, count });
    Plan { grow: vec![growth], ..Plan::default() }
}

#[test]
fn slots_that_were_filled_since_the_snapshot_are_not_asked_for_again() {
    let mut w = settled();
    let before = w.m.snapshot(w.now());
    answer(&mut w, &before, assign("eni-0", SLOTS - 2));
    w.run_ms(400);
    assert_eq!(w.m.cards().stats(w.at).total, u64::from(SLOTS));
    let calls = w.count("AssignPrivateIpAddresses");
    answer(&mut w, &before, assign("eni-0", SLOTS - 2));
    assert_eq!(w.count("AssignPrivateIpAddresses"), calls, "I5: no slot is left");
    // Fewer than asked for where some are left.
    let mut w = settled();
    let before = w.m.snapshot(w.now());
    answer(&mut w, &before, assign("eni-0", 1));
    w.run_ms(400);
    answer(&mut w, &before, assign("eni-0", SLOTS));
    w.run(2);
    w.check();
    assert_eq!(w.m.cards().stats(w.at).total, u64::from(SLOTS));
}

#[test]
fn what_ec2_lists_before_it_has_answered_counts_once() {
    // The listing of the start overlaps the first assignment: EC2 has given the addresses, the answer is on its way.
    let mut w = World::new(50, 2);
    let mut most = 0;
    for _ in 0..400 {
        w.run_ms(1);
        let node = w.m.snapshot(w.now());
        let held: u32 = node.enis.iter().flat_map(|e| &e.cidrs).map(|c| c.size).sum();
        most = most.max(held + node.cards[0].ips_in_flight);
    }
    assert_eq!(most, 2, "on their way or here, never both");
    w.check();
}

#[test]
fn of_two_assignments_the_answer_to_one_does_not_count_as_the_others() {
    let mut w = World::new(50, 1);
    w.run(5);
    let before = w.m.snapshot(w.now());
    answer(&mut w, &before, assign("eni-0", 1));
    w.run_ms(100);
    answer(&mut w, &before, assign("eni-0", 1));
    w.run_ms(250);
    let node = w.m.snapshot(w.now());
    assert_eq!((node.enis[0].cidrs.len(), node.cards[0].ips_in_flight), (2, 1));
}

#[test]
fn an_interface_that_got_addresses_since_the_snapshot_stays() {
    let mut w = World::new(50, SLOTS + 1);
    w.run(70);
    let eni = w.m.cards().enis().map(|(e, _)| e.id.clone()).find(|id| id != "eni-0").unwrap();
    let before = w.m.snapshot(w.now());
    let remove = Plan { remove: vec![eni.clone()], ..Plan::default() };
    answer(&mut w, &before, assign(&eni, 1));
    w.run_ms(400);
    // The snapshot of a decision numbers what it shows; this one shows the interface with one address less.
    w.m.numbered.retain(|block| block.eni != eni);
    answer(&mut w, &before, remove.clone());
    assert!(w.m.cards().eni(&eni).is_some(), "I2: what has come was asked for");
    let now = w.now();
    let (node, blocks) = w.m.numbered_snapshot(now);
    w.m.numbered = blocks;
    answer(&mut w, &node, remove);
    assert!(w.m.cards().eni(&eni).is_none(), "a plan that knew of them is carried out");
}

#[test]
fn an_attachment_that_could_not_be_set_right_is_looked_at_again() {
    let mut w = World::new(50, SLOTS + 1);
    w.ec2.faults = [("ModifyNetworkInterfaceAttribute", ErrorKind::NotFound)].into();
    w.run(30);
    let listings = w.count("DescribeInstances");
    w.run(700);
    assert!(w.ec2.faults.is_empty(), "the fault was met: {:?}", w.calls);
    assert_eq!(w.count("DescribeInstances"), listings + 1, "{:?}", w.calls);
    w.run(1300);
    assert_eq!(w.count("DescribeInstances"), listings + 1, "once");
}

#[test]
fn an_address_given_anew_before_its_release_was_answered_is_ours() {
    for answer in [Ok(Answer::Done), Err(ErrorKind::Unknown)] {
        let mut w = settled();
        w.warm = 0;
        w.release_all = true;
        let now = w.now();
        w.m.handle(now, Event::PolicyChanged);
        w.commands();
        w.run_ms(10);
        w.release_all = false;
        let release = w.m.next_job - 1;
        assert_eq!((w.count("UnassignPrivateIpAddresses"), w.m.cards().stats(w.at).total), (1, 0));
        // EC2 gives one of them anew at once, and that answer is the first to come.
        let ip = Ipv4Addr::from(0x0a00_0001);
        let now = w.now();
        let growth = Growth::Assign(Assign { eni: "eni-0".to_owned(), unit: Unit::Ip, count: 1 });
        w.m.start_growth(now, &growth).unwrap();
        let assign = w.m.next_job - 1;
        w.m.take_commands();
        w.ec2.enis.get_mut("eni-0").unwrap().1.insert(ip);
        w.ec2.free -= 1;
        if answer.is_err() {
            // The repeated call must leave the first alone and take the other.
            w.ec2.enis.get_mut("eni-0").unwrap().1.insert(Ipv4Addr::from(0x0a00_0002));
            w.ec2.free -= 1;
        }
        let given = Answer::Assigned { addresses: vec![ip], prefixes: vec![] };
        w.m.handle(now, Event::Cloud { job: assign, result: Ok(given) });
        w.queue.clear();
        let error = |kind| CloudError { api: "x", kind, code: String::new(), message: String::new() };
        w.m.handle(now, Event::Cloud { job: release, result: answer.map_err(error) });
        w.commands();
        w.run(30);
        let held: Vec<String> = w.m.cards().cidrs("eni-0", w.at).map(|c| c.net.to_string()).collect();
        assert_eq!(held, ["10.0.0.1/32"], "{:?}", w.logs);
        assert!(w.journal.returning.iter().all(|(_, net)| *net != held[0]), "{:?}", w.journal);
        w.check();
    }
}

#[test]
fn an_address_that_is_taken_back_after_it_was_asked_for_is_nobodys() {
    // A restart: EC2 gives anew what the last run gave back, lists it, and is asked to take it back before it has answered.
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let returning = vec![("eni-0".to_owned(), "10.0.0.1/32".to_owned())];
    let mut w = World::on(ec2, 1, Journal { returning, ..Journal::default() });
    let now = w.now();
    let growth = Growth::Assign(Assign { eni: "eni-0".to_owned(), unit: Unit::Ip, count: 1 });
    w.m.start_growth(now, &growth).unwrap();
    w.commands();
    w.run(1);
    assert_eq!(w.count("UnassignPrivateIpAddresses"), 1, "{:?}", w.calls);
    w.run(20);
    w.check();
    assert_eq!(w.m.cards().stats(w.at).total, 1);
}
