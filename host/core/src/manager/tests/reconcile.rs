//! What EC2 and IMDS say against what the pool holds (spec 01 §6.4, §8; spec 03 §7.9, §7.10).

use super::*;
use crate::subnets::ROLE_TAG;

fn tagged_out() -> Vec<(String, String)> {
    vec![(ROLE_TAG.to_owned(), "0".to_owned())]
}

/// A node whose pod "1" is on eni-a, a minute old and more, with one free address beside it.
fn with_pod_on_second() -> World {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let two = [Ipv4Addr::new(10, 0, 1, 3), Ipv4Addr::new(10, 0, 1, 4)];
    ec2.enis.insert("eni-a".to_owned(), (Some(1), two.into()));
    let mut w = World::on(ec2, 0, Journal { managed: vec!["eni-a".to_owned()], ..Journal::default() });
    w.run(5);
    assert_eq!(w.add("1").unwrap(), "10.0.1.3");
    w.run(100);
    w
}

#[test]
fn an_interface_with_pods_goes_only_when_both_sources_say_so() {
    let mut w = with_pod_on_second();
    let shown = w.ec2.attached().into_iter().find(|i| i.eni == "eni-a").unwrap();
    w.ec2.enis.remove("eni-a");
    w.ec2.stale = vec![shown];
    let now = w.now();
    w.m.verify(now);
    w.commands();
    w.run(1300);
    assert_eq!(w.lookup("1").as_deref(), Some("10.0.1.3"), "IMDS still shows it: {:?}", w.logs);
    assert_eq!(w.rewritten, 0);

    w.ec2.stale.clear();
    w.run(1300);
    assert_eq!(w.lookup("1"), None, "{:?}", w.logs);
    assert_eq!(w.torn_down, ["eni-a"], "W23");
    assert_eq!((w.reconciled[&Reconciled::EniLost], w.reconciled[&Reconciled::AddressLost]), (1, 1));
    assert_eq!(w.rewritten, 1, "the checkpoint does not tell of it any more");
    let second = w.add("2").unwrap_err();
    w.run(5);
    assert!(w.answers[&second].is_ok(), "others are served: {:?}", w.answers);
    w.check();
}

#[test]
fn an_address_of_a_pod_goes_only_when_both_sources_say_so() {
    let mut w = with_pod_on_second();
    let address = Ipv4Addr::new(10, 0, 1, 3);
    w.ec2.enis.get_mut("eni-a").unwrap().1.remove(&address);
    w.run(1300);
    assert_eq!(w.lookup("1"), None, "{:?}", w.logs);
    assert_eq!(w.reconciled.get(&Reconciled::EniLost), None);
    assert_eq!((w.reconciled[&Reconciled::AddressLost], w.rewritten), (1, 1));
    assert!(w.m.cards().eni("eni-a").is_some());
    w.check();
}

#[test]
fn an_empty_listing_takes_nothing() {
    let mut w = with_pod_on_second();
    let saved = std::mem::take(&mut w.ec2.enis);
    w.run(2000);
    assert_eq!(w.lookup("1").as_deref(), Some("10.0.1.3"), "W9: {:?}", w.logs);
    assert_eq!(w.m.cards().enis().count(), 2);
    w.ec2.enis = saved;
    w.run(700);
    w.check();
}

#[test]
fn what_only_imds_told_at_the_start_is_not_given_to_pods() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    let (real, stale) = (Ipv4Addr::new(10, 0, 1, 3), Ipv4Addr::new(10, 0, 1, 4));
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [real, stale].into()));
    let mut w = World::on(ec2, 0, Journal::default());
    w.ec2.enis.get_mut("eni-0").unwrap().1.remove(&stale);
    w.run(5);
    assert_eq!(w.m.cards().slots_used("eni-0"), Some(1), "spec 03 W-13: {:?}", w.logs);
    // EC2 was behind: it is ours after all.
    w.ec2.enis.get_mut("eni-0").unwrap().1.insert(stale);
    w.run(100);
    assert_eq!(w.m.cards().slots_used("eni-0"), Some(2), "{:?}", w.logs);
    w.check();
}

#[test]
fn a_tag_takes_an_interface_out_of_use_and_back() {
    let mut w = with_pod_on_second();
    w.ec2.subnet_tags = tagged_out();
    w.run(2500);
    let excluded = |w: &World| w.m.cards().enis().filter(|(e, _)| e.excluded).count();
    assert_eq!(excluded(&w), 2, "{:?}", w.logs);
    assert_eq!(w.lookup("1").as_deref(), Some("10.0.1.3"), "its pods live on");
    assert_eq!(w.ec2.enis["eni-a"].1.len(), 1, "W14: what no pod has is given back: {:?}", w.calls);
    let node = {
        let now = w.now();
        w.m.snapshot(now)
    };
    assert!(node.enis.iter().all(|e| e.traits.has(EniTrait::Excluded) && e.traits.has(EniTrait::Closed)));

    w.del("1");
    w.run(120);
    assert!(w.ec2.enis["eni-a"].1.is_empty(), "the address of the last pod too: {:?}", w.calls);

    w.ec2.subnet_tags.clear();
    w.run(2500);
    assert_eq!(excluded(&w), 0, "W16");
    let second = w.add("2").unwrap_err();
    w.run(5);
    assert!(w.answers[&second].is_ok(), "{:?}", w.answers);
    w.check();
}

#[test]
fn tags_that_cannot_be_read_take_nothing_out_of_use() {
    let mut ec2 = Ec2 { free: 50, subnet_tags: tagged_out(), ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.faults = vec![("DescribeSubnets", ErrorKind::Unauthorized); 20].into();
    let mut w = World::on(ec2, 1, Journal::default());
    w.run(5);
    assert!(w.m.cards().enis().all(|(e, _)| !e.excluded), "W10: {:?}", w.logs);
    assert!(w.add("1").is_ok());
    w.check();
}

#[test]
fn tags_do_not_matter_under_custom_networking_or_without_discovery() {
    for change in [|s: &mut Settings| s.custom_networking = true, |s: &mut Settings| s.subnet_discovery = false] {
        let mut s = settings();
        change(&mut s);
        let mut ec2 = Ec2 { free: 50, subnet_tags: tagged_out(), ..Ec2::default() };
        ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
        let mut w = World::with(s, ec2, 0, Journal::default());
        w.run(700);
        assert!(w.m.cards().enis().all(|(e, _)| !e.excluded), "{:?}", w.logs);
    }
}

#[test]
fn the_others_follow_the_security_groups_of_the_primary() {
    let mut w = with_pod_on_second();
    let groups = || vec!["sg-1".to_owned(), "sg-2".to_owned()];
    w.run(200);
    assert_eq!(w.count("ModifyNetworkInterfaceAttribute"), 0, "EC2 shows the right ones");
    w.ec2.primary_groups = Some(vec!["sg-2".to_owned(), "sg-1".to_owned()]);
    w.ec2.faults = [("ModifyNetworkInterfaceAttribute", ErrorKind::Throttled)].into();
    w.run(70);
    assert_eq!(w.ec2.groups.get("eni-a"), Some(&groups()), "spec 03 W-18: {:?}", w.logs);
    assert_eq!(w.ec2.groups.get("eni-0"), None, "the primary's are the model");
    let calls = w.count("ModifyNetworkInterfaceAttribute");
    w.ec2.groups.insert("eni-0".to_owned(), groups());
    w.run(2000);
    assert_eq!(w.count("ModifyNetworkInterfaceAttribute"), calls, "once");
    // Somebody changed them: the next look at EC2 puts them right.
    w.ec2.groups.insert("eni-a".to_owned(), vec!["sg-9".to_owned()]);
    let now = w.now();
    w.m.verify(now);
    w.commands();
    w.run(10);
    assert_eq!(w.ec2.groups.get("eni-a"), Some(&groups()));
    w.check();
}

#[test]
fn security_groups_are_not_touched_under_custom_networking_or_without_provisioning() {
    for change in [|s: &mut Settings| s.custom_networking = true, |s: &mut Settings| s.provisioning = false] {
        let mut s = settings();
        change(&mut s);
        let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
        ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
        ec2.enis.insert("eni-a".to_owned(), (Some(1), BTreeSet::new()));
        ec2.groups.insert("eni-a".to_owned(), vec!["sg-9".to_owned()]);
        let mut w = World::with(s, ec2, 0, Journal { managed: vec!["eni-a".to_owned()], ..Journal::default() });
        w.run(700);
        assert_eq!(w.count("ModifyNetworkInterfaceAttribute"), 0, "{:?}", w.logs);
    }
}

#[test]
fn a_left_over_without_a_time_is_given_one_before_it_goes() {
    let mut w = World::new(100, 0);
    w.run(1);
    w.ec2.enis.insert("eni-lost".to_owned(), (None, BTreeSet::new()));
    w.ec2.created.insert("eni-lost".to_owned(), None);
    w.run(4500);
    assert!(w.ec2.enis.contains_key("eni-lost"), "its age was unknown: {:?}", w.calls);
    assert!(w.tagged.contains("eni-lost"), "{:?}", w.calls);
    let now = crate::time::rfc3339(w.now().unix.as_secs());
    w.ec2.created.insert("eni-lost".to_owned(), Some(now));
    w.run(8000);
    assert!(!w.ec2.enis.contains_key("eni-lost"));
}

/// eni-a with two addresses beside an empty primary.
fn two_on_second() -> Ec2 {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let two = [Ipv4Addr::new(10, 0, 1, 3), Ipv4Addr::new(10, 0, 1, 4)];
    ec2.enis.insert("eni-a".to_owned(), (Some(1), two.into()));
    ec2
}

fn managed() -> Journal {
    Journal { managed: vec!["eni-a".to_owned()], ..Journal::default() }
}

#[test]
fn sources_that_disagree_for_long_are_asked_seldom() {
    let mut w = with_pod_on_second();
    w.ec2.stale = w.ec2.attached().into_iter().filter(|i| i.eni == "eni-a").collect();
    w.ec2.enis.get_mut("eni-a").unwrap().1.clear();
    // And an interface that cannot be programmed.
    w.set_up_fails = true;
    w.ec2.enis.insert("eni-b".to_owned(), (Some(2), BTreeSet::new()));
    let before = w.calls.len();
    let now = w.now();
    w.m.verify(now);
    w.commands();
    w.run(30);
    assert!(w.calls.len() - before < 20, "{} calls in 30 s: {:?}", w.calls.len() - before, &w.calls[before..]);
    w.run(3600);
    assert!(w.calls.len() - before < 250, "{} calls in an hour", w.calls.len() - before);
    assert_eq!(w.lookup("1").as_deref(), Some("10.0.1.3"));
}

#[test]
fn a_block_that_ec2_does_not_list_gets_no_new_pods() {
    let mut ec2 = Ec2 { free: 50, free_prefixes: 9, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let net: Ipv4Net = "10.1.0.16/28".parse().unwrap();
    ec2.prefixes.insert("eni-0".to_owned(), [net].into());
    let mut w = World::with(Settings { unit: Unit::Prefix, ..settings() }, ec2, 0, Journal::default());
    w.run(5);
    w.add("1").unwrap();
    w.run(100);
    w.ec2.stale = w.ec2.attached();
    w.ec2.prefixes.get_mut("eni-0").unwrap().remove(&net);
    let now = w.now();
    w.m.verify(now);
    w.commands();
    w.run(5);
    assert!(w.add("2").is_err(), "it may be another node's: {:?}", w.logs);
    // EC2 was behind.
    w.ec2.prefixes.get_mut("eni-0").unwrap().insert(net);
    w.run(100);
    assert!(w.add("3").unwrap().starts_with("10.1."), "{:?}", w.logs);
}

#[test]
fn what_ec2_does_not_list_does_not_come_back_once_it_has_cooled() {
    let mut w = with_pod_on_second();
    w.del("1");
    w.ec2.enis.get_mut("eni-a").unwrap().1.remove(&Ipv4Addr::new(10, 0, 1, 3));
    let now = w.now();
    w.m.verify(now);
    w.commands();
    w.run(40);
    assert_ne!(w.add("2").ok().as_deref(), Some("10.0.1.3"));
    w.check();
}

#[test]
fn without_ec2_imds_is_the_source() {
    let s = Settings { provisioning: false, ec2: false, ..settings() };
    let mut w = World::with(s, two_on_second(), 0, Journal::default());
    w.run(100);
    assert_eq!(w.add("1").unwrap(), "10.0.1.3", "spec 03 §13: nothing is known to be others'");
    w.ec2.enis.get_mut("eni-0").unwrap().1.insert(Ipv4Addr::new(10, 0, 1, 9));
    w.ec2.enis.get_mut("eni-a").unwrap().1.remove(&Ipv4Addr::new(10, 0, 1, 4));
    w.ec2.enis.insert("eni-b".to_owned(), (Some(2), [Ipv4Addr::new(10, 0, 1, 8)].into()));
    w.run(200);
    let free: BTreeSet<String> = (2..4).map(|n| w.add(&n.to_string()).unwrap()).collect();
    assert_eq!(free, ["10.0.1.8".to_owned(), "10.0.1.9".to_owned()].into());
    w.check();
}

#[test]
fn a_node_without_a_journal_makes_no_interface_before_it_knows_what_it_has() {
    let mut ec2 = two_on_second();
    let ip = |n| Ipv4Addr::new(10, 0, 1, n);
    ec2.enis.get_mut("eni-0").unwrap().1.extend([ip(10), ip(11), ip(12)]);
    ec2.enis.get_mut("eni-a").unwrap().1.insert(ip(5));
    let mut w = World::on(ec2, 5, Journal::default());
    w.run(10);
    assert_eq!(w.count("CreateNetworkInterface"), 0, "{:?}", w.calls);
    w.check();
}

#[test]
fn a_primary_tagged_out_is_asked_for_nothing() {
    let mut ec2 = Ec2 { free: 50, subnet_tags: tagged_out(), ..Ec2::default() };
    ec2.second_subnet = Some(vec![(ROLE_TAG.to_owned(), "1".to_owned())]);
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let mut w = World::on(ec2, 2, Journal::default());
    w.run(60);
    assert_eq!((w.count("AssignPrivateIpAddresses"), w.count("CreateNetworkInterface")), (0, 1), "{:?}", w.calls);
    w.check();
}

#[test]
fn an_interface_that_refuses_does_not_stop_the_others() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    let ip = |n| Ipv4Addr::new(10, 0, 1, n);
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [ip(1), ip(2), ip(3)].into()));
    ec2.enis.insert("eni-bad".to_owned(), (Some(1), BTreeSet::new()));
    let mut w = World::on(ec2, 0, Journal { managed: vec!["eni-bad".to_owned()], ..Journal::default() });
    w.run(5);
    for n in 0..3 {
        w.add(&n.to_string()).unwrap();
    }
    let id = w.add("4").unwrap_err();
    w.run(7);
    assert!(w.answers[&id].is_ok(), "{:?} {:?}", w.answers, w.calls);
    let before = w.count("AssignPrivateIpAddresses");
    w.run(100);
    assert!(w.count("AssignPrivateIpAddresses") <= before + 1, "it rests");
}

#[test]
fn a_creation_without_an_answer_is_asked_for_again_to_the_letter() {
    let mut w = World::new(100, 0);
    w.run(2);
    w.warm = 5;
    // The fake compares what is asked under one token.
    w.ec2.faults = [("CreateNetworkInterface", ErrorKind::Unknown)].into();
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.run(20);
    assert_eq!(w.count("CreateNetworkInterface"), 2, "{:?}", w.calls);
    w.check();
}

#[test]
fn a_removal_that_was_cut_short_is_finished_whatever_is_switched_off() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-x".to_owned(), (None, BTreeSet::new()));
    let journal = Journal { removing: vec!["eni-x".to_owned()], ..Journal::default() };
    let mut w = World::with(Settings { clean_up: false, ..settings() }, ec2, 0, journal);
    w.run(10);
    assert!(!w.ec2.enis.contains_key("eni-x"), "{:?}", w.calls);
}

/// Spec 03 §13: EC2 is asked to change nothing, and what was to go serves no pods either.
#[test]
fn a_removal_that_was_cut_short_rests_where_nothing_may_be_changed() {
    let journal = Journal { removing: vec!["eni-a".to_owned()], ..Journal::default() };
    let mut w = World::with(Settings { provisioning: false, ..settings() }, two_on_second(), 0, journal);
    w.run(1300);
    assert!(w.ec2.enis.contains_key("eni-a"), "{:?}", w.calls);
    assert!(w.m.cards().eni("eni-a").is_none() && w.m.journal.removing == ["eni-a"]);
    let changes = ["Detach", "Delete", "Modify", "Assign", "Unassign", "Create", "Attach"];
    assert!(!w.calls.iter().any(|c| changes.iter().any(|change| c.starts_with(change))), "{:?}", w.calls);
}

#[test]
fn a_set_up_that_failed_is_tried_again_soon() {
    let mut w = World::on(two_on_second(), 0, Journal::default());
    w.set_up_fails = true;
    w.run(3);
    assert!(w.m.cards().eni("eni-a").unwrap().excluded);
    w.set_up_fails = false;
    w.run(12);
    assert!(!w.m.cards().eni("eni-a").unwrap().excluded, "{:?}", w.logs);
    w.check();
}

#[test]
fn a_set_up_that_took_long_brings_nothing_stale_back() {
    let mut w = World::on(two_on_second(), 0, managed());
    w.ec2.enis.get_mut("eni-a").unwrap().1.remove(&Ipv4Addr::new(10, 0, 1, 3));
    // The set-up of the start is answered after EC2 was heard.
    w.queue.retain(|_, event| !matches!(event, Event::EniReady { .. }));
    let job = *w.m.jobs.iter().find(|(_, j)| matches!(j, jobs::Job::Adopt(_))).unwrap().0;
    w.later(500, Event::EniReady { job, result: Ok(()) });
    w.run(5);
    assert_eq!(w.m.cards().slots_used("eni-a"), Some(1), "{:?}", w.logs);
    w.check();
}

#[test]
fn a_release_that_ec2_denies_is_asked_for_less_and_less() {
    let mut w = World::new(100, 2);
    w.run(5);
    w.warm = 0;
    w.release_all = true;
    w.ec2.faults = vec![("UnassignPrivateIpAddresses", ErrorKind::Unauthorized); 100].into();
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.run(1200);
    let tried = w.count("UnassignPrivateIpAddresses");
    assert!((2..=12).contains(&tried), "{tried}");
}

#[test]
fn a_subnet_that_has_too_few_gives_what_it_has_to_a_new_interface() {
    let mut ec2 = Ec2 { free: 100, ..Ec2::default() };
    let ip = |n| Ipv4Addr::new(10, 0, 1, n);
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [ip(1), ip(2), ip(3)].into()));
    let mut w = World::on(ec2, 0, Journal::default());
    w.run(5);
    for n in 0..3 {
        w.add(&n.to_string()).unwrap();
    }
    // Others were quicker: one for the interface itself, one for a pod.
    w.ec2.free = 2;
    let ids: Vec<WaiterId> = (3..6).map(|n| w.add(&n.to_string()).unwrap_err()).collect();
    w.run(9);
    let served = ids.iter().filter(|id| w.answers[id].is_ok()).count();
    assert_eq!((served, w.ec2.free), (1, 0), "{:?} {:?}", w.answers, w.calls);
    w.check();
}

#[test]
fn of_an_interface_that_is_tagged_out_of_management_our_rule_goes_once_no_pod_has_it() {
    let mut w = World::on(two_on_second(), 0, managed());
    w.run(5);
    let verify = |w: &mut World| {
        let now = w.now();
        w.m.verify(now);
        w.commands();
        w.run(5);
    };
    let pod = w.add("1").unwrap();
    assert!(w.ec2.enis["eni-a"].1.contains(&pod.parse().unwrap()), "{pod}");
    w.ec2.no_manage.insert("eni-a".to_owned());
    verify(&mut w);
    assert_eq!((w.left.len(), w.m.cards().eni("eni-a").map(|e| e.excluded)), (0, Some(true)), "{:?}", w.logs);
    w.del("1");
    // The address cools first.
    w.run(40);
    verify(&mut w);
    assert!(w.m.cards().eni("eni-a").is_none(), "{:?}", w.logs);
    assert_eq!(w.left, [("eni-a".to_owned(), 2)]);
    verify(&mut w);
    assert_eq!((w.left.len(), w.torn_down.len(), w.ec2.enis["eni-a"].0), (1, 0, Some(1)), "once; it stays attached");

    // Nothing was done to one that never was ours.
    let mut ec2 = two_on_second();
    ec2.no_manage.insert("eni-a".to_owned());
    let mut w = World::on(ec2, 0, Journal::default());
    w.run(60);
    assert!(w.left.is_empty() && w.m.cards().eni("eni-a").is_none(), "{:?}", w.logs);
}

#[test]
fn of_an_interface_that_is_left_alone_while_it_is_programmed_nothing_stays() {
    let tagged_out = |w: &mut World| {
        w.ec2.no_manage.insert("eni-a".to_owned());
        let now = w.now();
        w.m.verify(now);
        w.commands();
        w.run_ms(900);
    };
    let set_up_ends = |w: &mut World, job, result| {
        w.later(1, Event::EniReady { job, result });
        w.run_ms(100);
    };
    for result in [Ok(()), Err("the rule is made, the route is not".to_owned().into())] {
        // Its first set-up takes long: the kernel shows it late.
        let mut w = World::on(two_on_second(), 0, managed());
        w.queue.retain(|_, event| !matches!(event, Event::EniReady { .. }));
        let job = *w.m.jobs.iter().find(|(_, j)| matches!(j, jobs::Job::Adopt(_))).unwrap().0;
        tagged_out(&mut w);
        assert!(w.m.cards().eni("eni-a").is_none() && w.left.is_empty(), "{:?} {:?}", w.logs, w.left);
        set_up_ends(&mut w, job, result.clone());
        assert_eq!(w.left, [("eni-a".to_owned(), 2)], "{result:?}");
        set_up_ends(&mut w, job, result.clone());
        assert_eq!(w.left.len(), 1, "once");

        // It is ours again before that: its rule stays.
        let mut w = World::on(two_on_second(), 0, managed());
        w.queue.retain(|_, event| !matches!(event, Event::EniReady { .. }));
        let job = *w.m.jobs.iter().find(|(_, j)| matches!(j, jobs::Job::Adopt(_))).unwrap().0;
        tagged_out(&mut w);
        w.ec2.no_manage.clear();
        let now = w.now();
        w.m.verify(now);
        w.commands();
        w.run_ms(900);
        assert!(w.m.cards().eni("eni-a").is_some(), "{:?}", w.logs);
        set_up_ends(&mut w, job, result.clone());
        assert!(w.left.is_empty(), "{result:?}");
    }
}
