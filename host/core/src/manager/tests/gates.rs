//! What EC2 refuses of one kind holds back that kind, on that card.

use super::*;
use crate::policy::Gate;

const CREATE: &str = "CreateNetworkInterface";

/// A node whose primary interface is full of pods, and that EC2 makes no interface for: the next try is minutes away.
fn refused() -> World {
    let mut ec2 = Ec2 { free: 100, ..Ec2::default() };
    let ip = |n| Ipv4Addr::new(10, 0, 1, n);
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [ip(1), ip(2), ip(3)].into()));
    ec2.faults = vec![(CREATE, ErrorKind::Unauthorized); 1000].into();
    let mut w = World::on(ec2, 1, Journal::default());
    for n in 0..3 {
        w.add(&n.to_string()).unwrap();
    }
    w.run(900);
    let tried = w.count(CREATE);
    assert!((6..=12).contains(&tried), "held back for longer each time: {tried}");
    w
}

#[test]
fn a_refused_interface_holds_no_address_back() {
    let mut w = refused();
    assert!(matches!(w.m.snapshot(w.now()).gates.grow, Gate::OpensIn(s) if s > 8), "nothing else is left to ask for");
    let early = w.add("early").unwrap_err();
    w.run(1);
    assert!(matches!(&w.answers[&early], Err(Refusal::Cloud(error)) if error.contains(CREATE)), "{:?}", w.answers);
    // The pods end, what they had is given back: the slots of the primary are free again.
    (w.warm, w.release_all) = (0, true);
    for n in 0..3 {
        w.del(&n.to_string());
    }
    let before = w.count(CREATE);
    w.run(45);
    w.release_all = false;
    assert_eq!((w.m.cards().stats(w.at).total, w.count(CREATE)), (0, before), "{:?}", w.logs);
    assert_eq!(w.m.snapshot(w.now()).gates.grow, Gate::Open);
    let pods: Vec<WaiterId> = ["a", "b"].map(|pod| w.add(pod).unwrap_err()).to_vec();
    w.run(3);
    assert!(pods.iter().all(|id| w.answers[id].is_ok()), "{:?}", w.answers);
    assert_eq!(w.count(CREATE), before, "and the interface waits for its time");
    // A success of another kind is no sign that the interface can be made.
    w.warm = 5;
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.run(60);
    assert_eq!((w.count(CREATE), w.m.cards().stats(w.at).total), (before, u64::from(SLOTS)), "{:?}", w.calls);
}

#[test]
fn a_card_that_gets_nothing_holds_no_other_back() {
    let mut ec2 = Ec2 { free: 100, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    // The second card is given one spare address, which takes an interface.
    ec2.faults = vec![(CREATE, ErrorKind::Unauthorized); 1000].into();
    let mut w = World::with(Settings { cards: vec![0, 1], ..settings() }, ec2, 0, Journal::default());
    w.run(900);
    let before = w.count(CREATE);
    let pods: Vec<WaiterId> = (0..3).map(|n| w.add(&n.to_string()).unwrap_err()).collect();
    w.run(3);
    assert!(pods.iter().all(|id| w.answers[id].is_ok()), "{:?}", w.answers);
    assert_eq!(w.count(CREATE), before);
}

#[test]
fn an_assignment_that_fails_makes_no_interface() {
    let mut ec2 = Ec2 { free: 100, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.faults = [("AssignPrivateIpAddresses", ErrorKind::Unauthorized)].into();
    let mut w = World::on(ec2, 1, Journal::default());
    w.run(4);
    assert!(matches!(w.m.snapshot(w.now()).gates.grow, Gate::OpensIn(_)), "{:?}", w.calls);
    w.run(60);
    assert_eq!((w.count("AssignPrivateIpAddresses"), w.count(CREATE)), (2, 0), "spec 01 §3.5: {:?}", w.calls);
}

#[test]
fn throttling_holds_all_cards_back_and_other_failures_their_own() {
    for (kind, other) in [(ErrorKind::Throttled, 0), (ErrorKind::Unauthorized, 1)] {
        let mut ec2 = Ec2 { free: 100, ..Ec2::default() };
        ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
        ec2.enis.insert("eni-1".to_owned(), (Some(0), [Ipv4Addr::new(10, 0, 1, 1)].into()));
        ec2.cards.insert("eni-1".to_owned(), 1);
        let journal = Journal { managed: vec!["eni-1".to_owned()], ..Journal::default() };
        let mut w = World::with(Settings { cards: vec![0, 1], ..settings() }, ec2, 0, journal);
        w.run(5);
        w.ec2.faults = [("AssignPrivateIpAddresses", kind)].into();
        let _ = w.add("0").unwrap();
        // Card 1 wants a spare one again, and is refused; then a pod wants one of card 0.
        w.run(2);
        assert_eq!(w.count("AssignPrivateIpAddresses"), 1, "{:?}", w.calls);
        let _ = w.add("1");
        w.run(1);
        assert_eq!(w.count("AssignPrivateIpAddresses"), 1 + other, "{kind:?}: {:?}", w.calls);
    }
}

#[test]
fn a_pod_waits_for_the_way_that_opens_in_time() {
    let mut ec2 = Ec2 { free: 100, ..Ec2::default() };
    let ip = |n| Ipv4Addr::new(10, 0, 1, n);
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [ip(1), ip(2), ip(3)].into()));
    ec2.faults = [(CREATE, ErrorKind::Unauthorized)].into();
    let mut w = World::on(ec2, 0, Journal::default());
    w.run(5);
    for n in 0..3 {
        w.add(&n.to_string()).unwrap();
    }
    let pod = w.add("4").unwrap_err();
    w.run(3);
    assert!(!w.answers.contains_key(&pod), "{:?}", w.answers);
    w.run(5);
    assert!(w.answers[&pod].is_ok(), "{:?}", w.answers);
}
