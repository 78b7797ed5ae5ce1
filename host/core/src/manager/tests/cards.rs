//! Several network cards (spec 01 §10, spec 02 §3.3, §4).

use super::*;

/// A fresh node with two managed cards of two interfaces each: the primary on card 0, nothing on card 1.
fn two_cards(free: u32, warm: u32) -> World {
    let mut ec2 = Ec2 { free, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let settings = Settings { cards: vec![0, 1], max_enis: 2, ..settings() };
    World::with(settings, ec2, warm, Journal::default())
}

fn key(pod: &str) -> Key {
    Key::new("n", pod, "eth0")
}

#[test]
fn a_card_follows_its_pods_with_one_spare_address() {
    let mut w = two_cards(100, 2);
    w.run(5);
    let node = w.m.snapshot(w.now());
    let cards: Vec<_> = node.cards.iter().map(|c| (c.index, c.max_enis, c.configured.warm_ips)).collect();
    assert_eq!(cards, [(0, 2, 0), (1, 2, 1)]);
    assert_eq!(node.cards[1].configured, Targets { warm_ips: 1, minimum_ips: 1, ..Targets::default() });
    let held: Vec<_> = node.enis.iter().map(|e| (e.card, e.device_index, e.cidrs.len())).collect();
    assert_eq!(held, [(0, 0, 2), (1, 0, 1)], "by card, then device index, which begins anew on each card");
    let tables: Vec<u32> = w.m.cards().enis().map(|(e, _)| e.table).collect();
    assert_eq!(tables, [254, 10_100], "spec 04 §7.2");
    w.check();
}

#[test]
fn a_pod_on_every_card_gets_an_address_of_each_and_gives_all_back() {
    let mut w = two_cards(100, 2);
    w.run(5);
    let got = w.add_wanting("1", Wanted::EveryCard).unwrap();
    let held = w.m.lookup(&key("1"));
    assert_eq!(held.iter().map(|a| (a.card, a.table)).collect::<Vec<_>>(), [(0, 254), (1, 10_100)]);
    assert_eq!(got, shown(&held));
    assert!(w.m.cards().assignments().all(|(_, a)| a.pod.interfaces == 2), "spec 02 §3.3: the wanted count");
    assert_eq!(w.add_wanting("1", Wanted::EveryCard).unwrap(), got, "the same again");
    let now = w.now();
    let released = w.m.del(now, &key("1")).unwrap();
    assert_eq!(released.iter().map(|r| (r.card, r.interfaces)).collect::<Vec<_>>(), [(0, 2), (1, 2)]);
    // As if the checkpoint could not be written.
    w.m.undo(now, released.into_iter().map(|r| r.change).collect::<Vec<_>>().into_iter());
    assert_eq!(w.m.lookup(&key("1")), held);
    w.m.del(now, &key("1")).unwrap();
    assert_eq!(w.m.del(now, &key("1")), Err(StoreError::UnknownPod));
}

#[test]
fn on_every_card_is_all_or_none_and_holds_up_nobody_else() {
    let mut w = two_cards(100, 1);
    // Card 1 gets nothing for as long as the pod waits.
    w.ec2.faults = [("CreateNetworkInterface", ErrorKind::Refused); 9].into();
    w.run(1);
    let every = w.add_wanting("every", Wanted::EveryCard).unwrap_err();
    assert!(w.m.lookup(&key("every")).is_empty(), "nothing is kept of card 0 meanwhile");
    w.run(1);
    assert!(w.add("one").is_ok(), "a pod that needs one address does not wait behind it");
    w.run(10);
    assert!(w.answers[&every].is_err(), "{:?}", w.answers);
    assert_eq!(w.m.cards().assignments().count(), 1);
    w.ec2.faults.clear();
    w.run(600);
    let every = w.add_wanting("every", Wanted::EveryCard).unwrap();
    assert_eq!(every.split(' ').count(), 2);
    w.check();
}

#[test]
fn a_pod_for_any_card_falls_through_and_keeps_what_it_has() {
    let mut w = two_cards(100, 0);
    // One more than card 0's two interfaces of three addresses hold.
    let pods: Vec<WaiterId> = (0..7).filter_map(|n| w.add(&n.to_string()).err()).collect();
    w.run(8);
    assert!(pods.iter().all(|id| w.answers[id].is_ok()), "{:?}", w.answers);
    let on = |w: &World, card| (0..7).map(|n| n.to_string()).find(|pod| w.m.lookup(&key(pod))[0].card == card).unwrap();
    let (through, other) = (on(&w, 1), on(&w, 0));
    let held = w.m.lookup(&key(&through));
    w.del(&other);
    w.run(40);
    assert_eq!(w.add(&through).unwrap(), shown(&held), "spec 02 W42: it is looked up on every card first");
    assert_eq!(w.m.lookup(&key(&through)), held);
    let more: Vec<WaiterId> = (8..20).filter_map(|n| w.add(&n.to_string()).err()).collect();
    w.run(10);
    let refused: Vec<_> = more.iter().filter_map(|id| w.answers[id].clone().err()).collect();
    assert_eq!(refused[0], Refusal::EniLimit { enis: 4, ips: 12 }, "both cards are full");
    w.check();
}

#[test]
fn what_is_on_an_unmanaged_card_is_nobodys() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-other".to_owned(), (Some(1), [Ipv4Addr::new(10, 0, 1, 3)].into()));
    ec2.cards.insert("eni-other".to_owned(), 1);
    let mut w = World::on(ec2, 4, Journal::default());
    w.run(10);
    assert!(w.m.cards().eni("eni-other").is_none());
    assert_eq!(w.m.cards().get(0).unwrap().unmanaged(), 0, "it is counted nowhere (spec 01 §3.6)");
    let devices: Vec<_> = w.m.cards().enis().map(|(e, _)| (e.card, e.device_index)).collect();
    assert_eq!(devices, [(0, 0), (0, 1)], "its device index is another card's");
}

#[test]
fn a_restart_puts_each_pod_on_the_card_of_its_address() {
    let mut w = two_cards(100, 2);
    w.run(5);
    let got = w.add_wanting("1", Wanted::EveryCard).unwrap();
    let files: Vec<_> = w.m.cards().iter().map(|c| (c.index(), c.store().checkpoint())).collect();
    let kept = |files: &[(u32, Vec<u8>)]| {
        let read =
            |text: &[u8]| crate::checkpoint::sort(crate::checkpoint::parse(text).unwrap(), false, |_, _| true).kept;
        files.iter().map(|(card, text)| (*card, read(text))).collect::<Vec<_>>()
    };
    let mut told = kept(&files);
    // Card 1's file was lost and rebuilt from what the host shows of both cards.
    told[1].1 = told.iter().flat_map(|(_, list)| list.clone()).collect();
    for (allocation, _) in &mut told[1].1 {
        allocation.key = Key::new("_recovered-from-host", allocation.key.container.clone(), "unknown");
        allocation.timestamp = 0;
    }
    let attached = w.ec2.attached();
    for (told, name) in [(kept(&files), "n"), (told, "_recovered-from-host")] {
        w.m = Manager::new(Settings { cards: vec![0, 1], max_enis: 2, ..settings() });
        let now = w.now();
        w.m.boot(now, &attached, w.journal.clone());
        w.m.restore(told);
        let held: Vec<_> = w.m.cards().assignments().map(|(ip, a)| (ip.to_string(), a.key.network.clone())).collect();
        let ips: Vec<&str> = got.split(' ').collect();
        assert_eq!(held, [(ips[0].to_owned(), "n".to_owned()), (ips[1].to_owned(), name.to_owned())]);
        assert!(w.m.cards().iter().all(|c| c.store().orphans().is_empty()));
    }
}

#[test]
fn an_efa_only_interface_takes_a_place_from_the_first_moment() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-efa".to_owned(), (Some(1), BTreeSet::new()));
    ec2.types.insert("eni-efa".to_owned(), "efa-only");
    let mut w = World::with(Settings { max_enis: 3, ..settings() }, ec2, 6, Journal::default());
    assert_eq!((w.m.max_enis(0), w.m.cards().get(0).unwrap().unmanaged()), (2, 1), "by IMDS alone");
    w.run(30);
    assert_eq!(w.m.cards().get(0).unwrap().unmanaged(), 1, "and by EC2's word");
    let devices: Vec<_> = w.m.cards().enis().map(|(e, _)| e.device_index).collect();
    assert_eq!(devices, [0, 2]);
    assert!(w.m.cards().eni("eni-efa").is_none() && w.ec2.enis.contains_key("eni-efa"));
}

#[test]
fn an_efa_is_used_and_never_removed() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-efa".to_owned(), (Some(1), [Ipv4Addr::new(10, 0, 8, 1)].into()));
    ec2.types.insert("eni-efa".to_owned(), "efa");
    let journal = Journal { managed: vec!["eni-efa".to_owned()], ..Journal::default() };
    let mut w = World::on(ec2, 0, journal);
    // EC2 cannot be heard for minutes: what may be removed is not known.
    w.queue.clear();
    w.m.jobs.retain(|_, job| !matches!(job, jobs::Job::Verify(_)));
    w.release_all = true;
    w.run(120);
    assert_eq!(w.count("DetachNetworkInterface"), 0, "{:?}", w.calls);
    let now = w.now();
    w.m.verify(now);
    w.commands();
    w.run(300);
    assert!(w.m.cards().eni("eni-efa").is_some_and(|e| e.efa));
    assert_eq!(w.count("DetachNetworkInterface"), 0, "I1");
}

#[test]
fn the_table_that_the_host_s_rules_chose_holds_for_pods_and_over_a_restart() {
    // Spec 04 §7.3.
    let mut w = two_cards(100, 2);
    w.run(5);
    let second = w.m.cards().get(1).unwrap().store().enis().next().unwrap().0.id.clone();
    let now = w.now();
    w.m.handle(now, Event::EniTable { eni: second.clone(), table: 10 });
    w.commands();
    let tables = |w: &World, pod: &str| w.m.lookup(&key(pod)).iter().map(|a| (a.card, a.table)).collect::<Vec<_>>();
    w.add_wanting("1", Wanted::EveryCard).unwrap();
    assert_eq!(tables(&w, "1"), [(0, 254), (1, 10)]);
    w.run(700);
    assert_eq!(w.m.cards().eni(&second).unwrap().table, 10, "EC2's listings do not change it");

    let attached = w.ec2.attached();
    w.m = Manager::new(w.m.settings().clone());
    w.queue.clear();
    w.m.note_table(second.clone(), 10);
    let now = w.now();
    w.m.boot(now, &attached, w.journal.clone());
    w.commands();
    assert_eq!(w.m.cards().eni(&second).unwrap().table, 10, "for the first pod already");
}
