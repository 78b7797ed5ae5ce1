//! The manager under virtual time, against a small cloud that obeys a few of EC2's rules and fails on request. The
//! policy is a few lines here: hold what waits and `warm` more.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::cloud::{ConnectionTracking, ErrorKind};
use crate::ip::{IpNet, Ipv4Net};
use crate::kube::{EniConfig, Feature, NodeFacts};
use crate::limits::InstanceLimits;
use crate::policy::{Assign, EniTrait, Family, Growth, Node, Plan, Targets, Unit};
use crate::store::{Error as StoreError, Key, PodMeta};

mod abandoned;
mod cards;
mod counted;
mod ec2;
mod ends;
mod exhaustion;
mod gates;
mod intents;
mod ipv6;
mod kubernetes;
mod links;
mod prefixes;
mod races;
mod readiness;
mod reconcile;
mod world;

use ec2::Ec2;
use world::{World, settings, shown};

const SLOTS: u32 = 3;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_fresh_node_fills_up_to_what_the_policy_wants() {
    let mut w = World::new(100, 2);
    w.run(5);
    assert_eq!(w.m.cards().stats(w.at).total, 2);
    assert_eq!(w.count("AssignPrivateIpAddresses"), 1);
    w.check();
    let calls = w.calls.len();
    w.run(500);
    assert!(w.calls[calls..].iter().all(|c| c == "GetSecurityGroupIDs"), "a settled node calls EC2 no more");
    assert!(w.calls.len() - calls <= 9, "one read of IMDS a minute: {:?}", &w.calls[calls..]);
}

/// Spec 03 §7.2: what is set on the primary interface holds for the connections of pods on the others too.
#[test]
fn a_new_interface_tracks_connections_as_the_primary_does() {
    let tracking = ConnectionTracking { tcp_established: Some(432_000), udp_stream: Some(180), udp: None };
    let mut ec2 = Ec2 { free: 100, tracking: Some(tracking), ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let mut w = World::on(ec2, SLOTS + 1, Journal::default());
    w.run(10);
    let asked: Vec<_> = w.ec2.tokens.values().map(|c| c.connection_tracking).collect();
    assert_eq!(asked, [Some(tracking)], "{:?}", w.calls);
}

#[test]
fn waiting_pods_are_served_in_order_and_interfaces_come_at_the_same_time() {
    let mut w = World::new(100, 0);
    w.run(1);
    let ids: Vec<WaiterId> = (0..8).map(|i| w.add(&i.to_string()).unwrap_err()).collect();
    w.run(4);
    let got: Vec<String> = ids.iter().map(|id| w.answers[id].clone().unwrap()).collect();
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), 8);
    assert_eq!(w.count("CreateNetworkInterface"), 2);
    // 3 on the primary, then two interfaces made side by side: 0.5 s + 1 s + set-up, not twice that.
    assert_eq!(w.m.waiting(), 0);
    w.check();
}

#[test]
fn the_limit_of_the_node_is_named_at_once() {
    let mut w = World::new(100, 0);
    w.run(1);
    let ids: Vec<WaiterId> = (0..10).map(|i| w.add(&i.to_string()).unwrap_err()).collect();
    w.run(5);
    let refused: Vec<_> = ids.iter().filter_map(|id| w.answers[id].clone().err()).collect();
    assert_eq!(refused, [Refusal::EniLimit { enis: 3, ips: 9 }]);
    let start = w.at;
    let id = w.add("one more").unwrap_err();
    w.run(1);
    assert!(w.answers[&id].is_err() && w.at - start <= Duration::from_secs(1), "it does not wait for nothing");
    w.check();
}

#[test]
fn a_full_subnet_gives_what_it_has_and_is_named() {
    let mut w = World::new(5, 0);
    w.run(1);
    let ids: Vec<WaiterId> = (0..8).map(|i| w.add(&i.to_string()).unwrap_err()).collect();
    w.run(7);
    let (served, refused): (Vec<_>, Vec<_>) = ids.iter().map(|id| w.answers[id].clone()).partition(Result::is_ok);
    // 3 on the primary; an interface takes one for itself and brings the last.
    assert_eq!((served.len(), refused.len()), (4, 4), "{:?} {:?}", w.calls, w.logs);
    assert_eq!(refused[0], Err(Refusal::SubnetFull { subnets: vec!["subnet-1".to_owned()] }));
    w.check();
    let before = w.calls.len();
    w.run(100);
    assert!(w.calls.len() - before <= 2, "an empty subnet is not asked again and again: {:?}", &w.calls[before..]);
}

#[test]
fn a_cooling_address_is_waited_for_if_it_cools_in_time() {
    let mut w = World::new(3, 0);
    w.ec2.free = 1;
    w.run(1);
    let first = w.add("1").unwrap_err();
    w.run(2);
    assert!(w.answers[&first].is_ok());
    w.ec2.free = 0;
    w.del("1");
    w.run(25);
    let second = w.add("2").unwrap_err();
    w.run(6);
    assert_eq!(w.answers[&second], w.answers[&first], "30 s after the DEL");
    w.del("2");
    let third = w.add("3").unwrap_err();
    w.run(1);
    assert!(matches!(w.answers[&third], Err(Refusal::SubnetFull { .. } | Refusal::Cooling { .. })));
}

#[test]
fn throttling_backs_off_and_pods_hear_of_it() {
    let mut w = World::new(100, 0);
    w.run(1);
    w.ec2.faults = vec![("AssignPrivateIpAddresses", ErrorKind::Throttled); 2].into();
    let id = w.add("1").unwrap_err();
    w.run(5);
    assert_eq!(w.count("AssignPrivateIpAddresses"), 1, "no ladder on throttling (spec 01 §15)");
    w.run(4);
    assert_eq!(w.answers[&id], Err(Refusal::Throttled));
    assert_eq!(w.count("AssignPrivateIpAddresses"), 2);
    w.run(60);
    let id = w.add("2").unwrap_err();
    w.run(2);
    assert!(w.answers[&id].is_ok());
}

#[test]
fn a_failed_attach_or_set_up_leaves_nothing_behind() {
    let mut w = World::new(100, 4);
    w.ec2.faults = [("AttachNetworkInterface", ErrorKind::InterfaceLimit)].into();
    w.run(60);
    assert_eq!(w.m.cards().stats(w.at).total, 4, "tried again after the back-off");
    w.check();
    let mut w = World::new(100, 4);
    w.set_up_fails = true;
    w.run(3);
    w.set_up_fails = false;
    w.run(60);
    assert_eq!(w.m.cards().stats(w.at).total, 4);
    w.check();
    w.run(190);
    assert!(w.journal.removing.is_empty());
}

#[test]
fn a_device_index_that_someone_took_is_passed_over() {
    let mut w = World::new(100, 3);
    w.run(2);
    w.ec2.enis.insert("eni-foreign".to_owned(), (Some(1), BTreeSet::new()));
    w.warm = 5;
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.run(10);
    assert!(w.ec2.enis.values().any(|(d, _)| *d == Some(2)));
    assert_eq!(w.m.cards().stats(w.at).total, 5);
}

#[test]
fn what_is_released_and_removed_is_gone_everywhere() {
    let mut w = World::new(100, 6);
    w.run(5);
    assert_eq!(w.m.cards().enis().count(), 2);
    w.warm = 0;
    w.release_all = true;
    w.run(500);
    assert_eq!(w.m.cards().stats(w.at).total, 0);
    assert_eq!(w.m.cards().enis().count(), 1, "the primary stays");
    assert_eq!(w.ec2.enis.len(), 1);
    assert!(w.journal.returning.is_empty() && w.journal.removing.is_empty());
    w.check();
}

#[test]
fn a_del_ends_its_own_wait_and_a_caller_may_leave() {
    let mut w = World::new(100, 0);
    w.policy_is_silent = false;
    w.run(1);
    let first = w.add("1").unwrap_err();
    let second = w.add("2").unwrap_err();
    let now = w.now();
    assert_eq!(w.m.del(now, &Key::new("n", "1", "eth0")), Err(StoreError::UnknownPod));
    w.commands();
    assert_eq!(w.answers[&first], Err(Refusal::Deleted));
    w.m.cancel(second);
    w.run(3);
    assert!(!w.answers.contains_key(&second));
    assert_eq!(w.m.cards().assignments().count(), 0);
}

/// Growth waits for EC2's first word, and the policy is not to blame for that.
#[test]
fn a_pod_of_a_new_node_that_ec2_does_not_answer_is_told_so() {
    let mut ec2 = Ec2 { free: 100, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.faults = vec![("DescribeInstances", ErrorKind::Unknown); 9].into();
    let add_wait = Duration::from_secs(6);
    let mut w = World::with(Settings { add_wait, ..settings() }, ec2, 2, Journal::default());
    let id = w.add("1").unwrap_err();
    w.run(8);
    let refusal = w.answers[&id].as_ref().unwrap_err();
    assert!(matches!(refusal, Refusal::Cloud(why) if why.contains("DescribeInstances")), "{refusal}");
}

#[test]
fn nobody_waits_on_a_policy_that_says_nothing() {
    let mut w = World::new(100, 0);
    w.policy_is_silent = true;
    w.run(1);
    let id = w.add("1").unwrap_err();
    w.run(1);
    assert_eq!(w.answers[&id], Err(Refusal::Policy("test".to_owned())));
}

#[test]
fn a_restart_gives_out_nothing_that_imds_alone_still_shows() {
    let mut w = World::new(100, 6);
    w.run(5);
    let before = w.ec2.attached();
    (w.warm, w.release_all) = (0, true);
    while w.ec2.enis.len() > 1 || !w.ec2.enis["eni-0"].1.is_empty() {
        w.run(1);
        assert!(w.at < Duration::from_secs(200), "{:?}", w.calls);
    }
    w.run(1);
    w.m = Manager::new(settings());
    let now = w.now();
    w.m.boot(now, &before, w.journal.clone());
    let enis: Vec<_> = w.m.cards().enis().map(|(e, _)| e.id.clone()).collect();
    assert_eq!(enis, ["eni-0"], "{:?}", w.journal);
    assert_eq!(w.m.cards().stats(w.at).total, 0, "{:?}", w.journal);
}

#[test]
fn a_restart_serves_what_the_journal_knows_and_cleans_up_the_rest() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    let ip = |n: u8| Ipv4Addr::new(10, 0, 1, n);
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [ip(1), ip(2)].into()));
    ec2.enis.insert("eni-a".to_owned(), (Some(1), [ip(3)].into()));
    ec2.enis.insert("eni-b".to_owned(), (Some(2), [ip(4)].into()));
    ec2.enis.insert("eni-lost".to_owned(), (None, BTreeSet::new()));
    let journal = Journal {
        managed: vec!["eni-a".to_owned()],
        returning: vec![("eni-0".to_owned(), "10.0.1.2/32".to_owned())],
        ..Journal::default()
    };
    let mut w = World::on(ec2, 0, journal);
    // Before EC2 has said anything: the primary less what was being given back, and the known interface.
    let got: BTreeSet<String> = (0..3).filter_map(|i| w.add(&i.to_string()).ok()).collect();
    assert_eq!(got, ["10.0.1.1".to_owned(), "10.0.1.3".to_owned()].into());
    w.run(10);
    assert!(!w.ec2.enis.contains_key("eni-lost"), "made and never attached");
    let ours = w.m.cards().stats(w.at).total;
    assert_eq!(ours, 3, "confirmed by EC2, and what was being given back is given back: {:?}", w.logs);
    w.check();
}

#[test]
fn an_unmanaged_interface_is_left_alone() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-other".to_owned(), (Some(1), [Ipv4Addr::new(10, 0, 1, 3)].into()));
    let mut s = settings();
    s.manage_untagged = false;
    let mut w = World::on(ec2, 0, Journal::default());
    w.m = Manager::new(s);
    let now = w.now();
    let attached = w.ec2.attached();
    w.m.boot(now, &attached, Journal::default());
    w.queue.clear();
    w.commands();
    let _ = w.add("1");
    w.run(5);
    assert_eq!(w.m.cards().get(0).unwrap().unmanaged(), 1);
    assert!(w.m.cards().eni("eni-other").is_none());
    assert!(w.answers.values().all(|a| a.as_ref().is_ok_and(|ip| ip != "10.0.1.3")));
}

#[test]
fn a_verification_keeps_what_pods_hold() {
    let mut w = World::new(100, 2);
    w.run(5);
    let ip: Ipv4Addr = w.add("1").unwrap().parse().unwrap();
    w.run(20);
    for (_, secondary) in w.ec2.enis.values_mut() {
        secondary.clear();
    }
    let now = w.now();
    w.m.look(now);
    w.commands();
    w.run(5);
    assert_eq!(w.m.cards().assignments().map(|(ip, _)| ip).collect::<Vec<_>>(), [std::net::IpAddr::V4(ip)]);
    assert!(w.logs.iter().any(|l| l.contains("a pod has it")), "{:?}", w.logs);
    let _ = Arc::new(());
}

#[test]
fn a_pod_waits_for_slots_that_are_being_given_back() {
    let mut w = World::new(100, 3);
    w.m.settings.max_enis = 1;
    w.run(5);
    w.warm = 0;
    w.release_all = true;
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.run(1);
    assert_eq!((w.count("UnassignPrivateIpAddresses"), w.m.cards().stats(w.at).total), (1, 0));
    let id = w.add("1").unwrap_err();
    w.run(4);
    assert!(w.answers[&id].is_ok(), "{:?}", w.answers[&id]);
}

#[test]
fn left_overs_stay_where_the_clean_up_is_off() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-lost".to_owned(), (None, BTreeSet::new()));
    let mut w = World::on(ec2, 0, Journal::default());
    w.m.settings.clean_up = false;
    w.run(10);
    assert_eq!(w.count("DeleteNetworkInterface"), 0);
    w.m.settings.clean_up = true;
    w.run(3 * 3600);
    assert!(!w.ec2.enis.contains_key("eni-lost"), "it is found by the next search");
}

#[test]
fn terminating_ends_waits_and_growth() {
    let mut w = World::new(100, 0);
    w.run(1);
    let id = w.add("1").unwrap_err();
    let now = w.now();
    w.m.handle(now, Event::Terminating);
    w.commands();
    assert!(matches!(w.answers[&id], Err(Refusal::Off(_))));
    w.warm = 9;
    let before = w.count("CreateNetworkInterface");
    w.run(30);
    assert_eq!(w.count("CreateNetworkInterface"), before);
}

#[test]
fn an_address_on_its_way_back_is_nobodys() {
    let mut w = World::new(100, 6);
    w.run(5);
    // Both calls are throttled and made again seconds later, while pods ask for as many.
    w.ec2.faults = [("UnassignPrivateIpAddresses", ErrorKind::Throttled); 2].into();
    (w.warm, w.release_all) = (0, true);
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.run(1);
    assert_eq!((w.m.cards().stats(w.at).total, w.journal.returning.len()), (0, 6), "{:?}", w.calls);
    w.release_all = false;
    // The interfaces look empty to the store and are full for EC2: what it lists then is not free.
    w.ec2.faults = [("AssignPrivateIpAddresses", ErrorKind::AddressLimit)].into();
    let pods: Vec<WaiterId> = (0..3).map(|n| w.add(&n.to_string()).unwrap_err()).collect();
    let now = w.now();
    w.m.verify(now);
    w.commands();
    w.run(60);
    let held: BTreeSet<String> = w.ec2.enis.values().flat_map(|(_, s)| s).map(ToString::to_string).collect();
    for pod in pods {
        assert!(held.contains(w.answers[&pod].as_ref().unwrap()), "{:?} {held:?}", w.answers);
    }
    assert_eq!(w.count("UnassignPrivateIpAddresses"), 4);
    w.check();
}

#[test]
fn a_full_interface_shows_what_it_holds_or_is_left_in_peace() {
    let mut w = World::new(100, 0);
    w.run(1);
    let extra: BTreeSet<Ipv4Addr> = (1..=3).map(|n| Ipv4Addr::new(10, 0, 7, n)).collect();
    w.ec2.enis.get_mut("eni-0").unwrap().1 = extra;
    let pod = w.add("1").unwrap_err();
    w.run(5);
    assert_eq!(w.answers[&pod], Ok("10.0.7.1".to_owned()));
    // A limit that EC2 does not explain is not run against all the time.
    let mut w = World::new(100, 1);
    w.ec2.faults = [("AssignPrivateIpAddresses", ErrorKind::AddressLimit); 100].into();
    w.run(20);
    assert!(w.count("AssignPrivateIpAddresses") <= 4, "{:?}", w.calls);
}

#[test]
fn a_spent_budget_of_calls_is_a_gate_and_not_the_policys_word() {
    let mut w = World::new(100, 0);
    w.run(10);
    let spend = |w: &mut World| {
        // The wall clock is about to be set back: the count starts anew with the minute all the same.
        let before = Now { mono: w.at, unix: Duration::from_secs(1_000_003_600) + w.at };
        w.m.minute(before).ec2_calls = CALLS_PER_MINUTE;
    };
    spend(&mut w);
    let early = w.add("1").unwrap_err();
    w.run(1);
    assert!(matches!(w.answers[&early], Err(Refusal::Cloud(_))), "{:?}", w.answers);
    w.run(44);
    spend(&mut w);
    let late = w.add("2").unwrap_err();
    w.run(2);
    assert!(!w.answers.contains_key(&late), "the minute ends before its wait: {:?}", w.answers);
    w.run(7);
    assert!(w.answers[&late].is_ok(), "{:?}", w.answers);
}

#[test]
fn nothing_young_goes_on_the_word_of_one_listing() {
    let mut w = World::new(100, 6);
    w.run(5);
    let verify = |w: &mut World| {
        let now = w.now();
        w.m.verify(now);
        w.commands();
        w.run(2);
    };
    let second = w.ec2.enis.keys().next_back().unwrap().clone();
    let (free, behind) = (w.ec2.free, w.ec2.enis.remove(&second).unwrap());
    w.ec2.free = 0;
    verify(&mut w);
    assert!(w.m.cards().eni(&second).is_some(), "{:?}", w.logs);
    w.run(70);
    let primary = w.ec2.enis.remove("eni-0").unwrap();
    verify(&mut w);
    assert_eq!(w.m.cards().enis().count(), 2, "a listing without the node's own interface: {:?}", w.logs);
    w.ec2.enis.insert("eni-0".to_owned(), primary);
    w.ec2.enis.insert(second.clone(), behind.clone());
    w.ec2.free = free;
    w.run(30);
    w.check();
    w.ec2.enis.remove(&second);
    w.ec2.free = 0;
    verify(&mut w);
    assert!(w.m.cards().eni(&second).is_none(), "old, and not there: {:?}", w.logs);
}

#[test]
fn an_interface_that_could_not_be_programmed_gets_another_try() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-a".to_owned(), (Some(1), [Ipv4Addr::new(10, 0, 1, 3)].into()));
    let journal = Journal { managed: vec!["eni-a".to_owned()], ..Journal::default() };
    let mut w = World::on(ec2, 0, journal);
    w.set_up_fails = true;
    // The commands of the start are carried out already: the answer to its set-up is this one.
    w.queue.retain(|_, event| !matches!(event, Event::EniReady { .. }));
    let job = *w.m.jobs.iter().find(|(_, j)| matches!(j, jobs::Job::Adopt(_))).unwrap().0;
    w.later(50, Event::EniReady { job, result: Err("no link".to_owned().into()) });
    w.run(5);
    assert!(w.m.cards().eni("eni-a").unwrap().excluded);
    w.set_up_fails = false;
    w.run(620);
    assert!(!w.m.cards().eni("eni-a").unwrap().excluded, "{:?}", w.logs);
    w.check();
}

#[test]
fn an_interface_that_lost_its_place_to_others_is_not_attached() {
    let mut w = World::new(50, 2 * SLOTS + 2);
    w.run_ms(400);
    assert_eq!(w.m.in_flight(0).0, 2, "two more are on their way: {:?}", w.calls);
    // EC2 tells of one that IMDS did not show and that is not to be managed.
    w.m.cards.get_mut(0).unwrap().unmanaged = 1;
    w.run(10);
    assert_eq!(w.count("AttachNetworkInterface"), 1, "{:?}", w.logs);
    assert_eq!(w.m.cards().enis().count(), 2);
    w.check();
}

#[test]
fn an_attach_whose_answer_is_lost_leaves_nothing_behind() {
    let mut w = World::new(100, 4);
    w.ec2.faults = [("AttachNetworkInterface", ErrorKind::Unknown), ("DescribeInstances", ErrorKind::Refused)].into();
    w.run(1);
    while w.count("AttachNetworkInterface") == 0 {
        w.run(1);
    }
    let made = w.ec2.enis.iter().find(|(_, (device, _))| device.is_none()).unwrap().0.clone();
    w.ec2.enis.get_mut(&made).unwrap().0 = Some(1);
    w.run(60);
    assert_eq!(w.count("DetachNetworkInterface"), 1, "{:?}", w.calls);
    assert!(!w.ec2.enis.contains_key(&made));
    w.check();
}

#[test]
fn an_interface_whose_making_was_never_answered_is_found_later() {
    let mut w = World::new(100, 0);
    w.run(1);
    w.ec2.enis.insert("eni-lost".to_owned(), (None, BTreeSet::new()));
    w.ec2.faults.clear();
    w.run(5000);
    assert!(w.ec2.enis.contains_key("eni-0") && !w.ec2.enis.contains_key("eni-lost"), "{:?}", w.calls);
}
