//! Each thing that is counted happens, and is (spec 01 §3.9, spec 02 §9.3).

use super::*;

fn ec2() -> Ec2 {
    let mut ec2 = Ec2 { free: 100, free_prefixes: 100, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2
}

fn prefixes() -> Settings {
    Settings { unit: Unit::Prefix, ..settings() }
}

/// A node that wants `warm` addresses, after a start in which EC2 refuses so.
fn refused(settings: Settings, warm: u32, faults: &[(&'static str, ErrorKind)], seconds: u64) -> World {
    let mut ec2 = ec2();
    ec2.faults.extend(faults.iter().copied());
    let mut w = World::with(settings, ec2, warm, Journal::default());
    w.run(seconds);
    w
}

/// The next set-ups end so.
fn set_up_ends(not_ready: NotReady) -> World {
    let mut w = World::with(settings(), ec2(), 5, Journal::default());
    (w.set_up_fails, w.not_ready) = (true, not_ready);
    w.run(5);
    w
}

/// The interface vanishes while more is being asked for on it.
fn vanishes(settings: Settings, call: &str) -> World {
    let mut ec2 = ec2();
    if settings.family == Family::Ipv6 {
        ec2.subnet_ipv6 = Some("2001:db8::/64".parse().unwrap());
        ec2.ipv6.insert("eni-0".to_owned(), ("2001:db8::9".parse().unwrap(), vec![]));
    }
    let mut w = World::with(settings, ec2, 1, Journal::default());
    while w.count(call) == 0 {
        w.run_ms(5);
    }
    w.m.cards.store_of("eni-0").unwrap().force_eni("eni-0").unwrap();
    w.run(2);
    w
}

/// eni-a, a minute old and without a pod, is removed; EC2 refuses so.
fn removed(forgotten: bool, fault: (&'static str, ErrorKind)) -> World {
    let mut ec2 = ec2();
    ec2.enis.insert("eni-a".to_owned(), (Some(1), BTreeSet::new()));
    let mut w = World::on(ec2, 0, Journal { managed: vec!["eni-a".to_owned()], ..Journal::default() });
    w.run(70);
    if forgotten {
        w.m.attachments.clear();
    }
    w.ec2.faults.push_back(fault);
    w.release_all = true;
    happen(&mut w, Event::PolicyChanged);
    w.run(10);
    w
}

fn happen(w: &mut World, event: Event) {
    let now = w.now();
    w.m.handle(now, event);
    w.commands();
}

/// EC2 is asked anew what there is.
fn listed(w: &mut World) {
    let now = w.now();
    w.m.verify(now);
    w.commands();
    w.run(1);
}

/// A pod has 10.0.1.3 on eni-a, for more than a minute.
fn with_pod() -> World {
    let mut ec2 = ec2();
    ec2.enis.insert("eni-a".to_owned(), (Some(1), [Ipv4Addr::new(10, 0, 1, 3)].into()));
    let mut w = World::on(ec2, 0, Journal { managed: vec!["eni-a".to_owned()], ..Journal::default() });
    w.run(5);
    assert_eq!(w.add("1").unwrap(), "10.0.1.3");
    w.run(100);
    w
}

/// What eni-a had is on eni-0 from one listing to the next.
fn moved(settings: Settings) -> World {
    let mut ec2 = ec2();
    let single = (settings.unit == Unit::Ip).then(|| Ipv4Addr::new(10, 0, 1, 3));
    let prefix = (settings.unit == Unit::Prefix).then(|| "10.0.2.0/28".parse().unwrap());
    ec2.enis.insert("eni-a".to_owned(), (Some(1), single.into_iter().collect()));
    ec2.prefixes.insert("eni-a".to_owned(), prefix.into_iter().collect());
    let mut w = World::with(settings, ec2, 0, Journal { managed: vec!["eni-a".to_owned()], ..Journal::default() });
    w.run(100);
    let addresses = std::mem::take(&mut w.ec2.enis.get_mut("eni-a").unwrap().1);
    w.ec2.enis.get_mut("eni-0").unwrap().1 = addresses;
    let prefixes = w.ec2.prefixes.remove("eni-a").unwrap_or_default();
    w.ec2.prefixes.insert("eni-0".to_owned(), prefixes);
    listed(&mut w);
    w
}

fn unannounced(settings: Settings) -> World {
    let mut w = World::with(Settings { pod_eni: true, ..settings }, ec2(), 0, Journal::default());
    w.announcing = Err("forbidden".to_owned());
    let labels = vec![("k8s.amazonaws.com/eniConfig".to_owned(), "az1".to_owned())];
    happen(&mut w, Event::Node(NodeFacts { labels, ..NodeFacts::default() }));
    w.run(2);
    w
}

fn ipv6() -> Settings {
    Settings { family: Family::Ipv6, ..prefixes() }
}

fn a_release_comes_too_late() -> World {
    let mut ec2 = ec2();
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [Ipv4Addr::new(10, 0, 1, 3)].into()));
    let mut w = World::on(ec2, 0, Journal::default());
    w.run(70);
    w.release_all = true;
    happen(&mut w, Event::PolicyChanged);
    // Decided upon, and not done.
    assert_eq!(w.add("1").unwrap(), "10.0.1.3");
    w.run_ms(5);
    w
}

fn an_action_is_dropped() -> World {
    let mut w = World::new(100, 0);
    w.run(5);
    let plan = Plan { remove: vec!["eni-unknown".to_owned()], ..Plan::default() };
    let decided = Decided {
        node: Arc::new(w.m.snapshot(w.now())),
        plan: Some(plan),
        targets: vec![],
        reason: String::new(),
        wake_after: None,
        refresh_subnets: false,
    };
    happen(&mut w, Event::Decided(Box::new(decided)));
    w
}

fn a_left_over_stays() -> World {
    let mut ec2 = ec2();
    ec2.enis.insert("eni-l".to_owned(), (None, BTreeSet::new()));
    ec2.faults.push_back(("DeleteNetworkInterface", ErrorKind::Unauthorized));
    let mut w = World::on(ec2, 0, Journal::default());
    w.run(5);
    w
}

fn an_attached_interface_cannot_be_taken_in() -> World {
    let mut ec2 = ec2();
    ec2.enis.insert("eni-a".to_owned(), (Some(1), BTreeSet::new()));
    let mut w = World::on(ec2, 0, Journal::default());
    w.set_up_fails = true;
    w.run(60);
    w
}

fn an_interface_with_a_pod_vanishes() -> World {
    let mut w = with_pod();
    w.ec2.enis.remove("eni-a");
    listed(&mut w);
    w
}

fn an_address_of_a_pod_vanishes() -> World {
    let mut w = with_pod();
    w.ec2.enis.get_mut("eni-a").unwrap().1.clear();
    listed(&mut w);
    w
}

const UNAUTHORIZED: ErrorKind = ErrorKind::Unauthorized;

fn is(counter: &Counter, other: &Counter) -> bool {
    match (counter, other) {
        (Counter::CleanUpFailed(a, _), Counter::CleanUpFailed(b, _)) => a == b,
        (Counter::EniAwaited { .. }, Counter::EniAwaited { .. }) => true,
        _ => counter == other,
    }
}

#[test]
fn each_counter_moves_when_what_it_counts_happens() {
    let code = || "Unauthorized".to_owned();
    let all: Vec<(Counter, World)> = vec![
        (Counter::NoAddress, {
            let mut w = World::new(100, 0);
            w.add("1").unwrap_err();
            w
        }),
        (Counter::PlanActionDropped, an_action_is_dropped()),
        (Counter::AllocEniFailed, refused(settings(), 5, &[("CreateNetworkInterface", ErrorKind::InterfaceLimit)], 5)),
        (
            Counter::AllocAddressesFailed,
            refused(settings(), 1, &[("AssignPrivateIpAddresses", ErrorKind::Throttled)], 3),
        ),
        (Counter::WaitEniFailed, set_up_ends(NotReady::Unseen("not there".to_owned()))),
        (Counter::SetUpEniFailed, set_up_ends(NotReady::Failed("no route".to_owned()))),
        (Counter::GetEniAddressesFailed, full_and_silent(settings())),
        (Counter::GetEniPrefixesFailed, full_and_silent(prefixes())),
        (Counter::AddAddressFailed, vanishes(settings(), "AssignPrivateIpAddresses")),
        (Counter::AddPrefixFailed, vanishes(prefixes(), "AssignPrivateIpAddresses")),
        (Counter::AddIpv6PrefixFailed, vanishes(ipv6(), "AssignIpv6Addresses")),
        (Counter::ReleaseFailed, a_release_comes_too_late()),
        (Counter::FreeEniFailed, removed(false, ("DetachNetworkInterface", UNAUTHORIZED))),
        (
            Counter::CleanUpFailed(CleanUp::NewEni, code()),
            refused(
                settings(),
                5,
                &[("AttachNetworkInterface", ErrorKind::InterfaceLimit), ("DescribeNetworkInterfaces", UNAUTHORIZED)],
                5,
            ),
        ),
        (Counter::CleanUpFailed(CleanUp::Eni, code()), removed(false, ("DeleteNetworkInterface", UNAUTHORIZED))),
        (
            Counter::CleanUpFailed(CleanUp::Attachment, code()),
            removed(true, ("DescribeNetworkInterfaces", UNAUTHORIZED)),
        ),
        (Counter::CleanUpFailed(CleanUp::LeftOver, code()), a_left_over_stays()),
        (Counter::ListingFailed, refused(settings(), 0, &[("DescribeInstances", ErrorKind::Throttled)], 15)),
        (Counter::ReconcileEniAddFailed, an_attached_interface_cannot_be_taken_in()),
        (Counter::AdoptionGivenUp, an_attached_interface_cannot_be_taken_in()),
        (Counter::ReconcileEniDelFailed, an_interface_with_a_pod_vanishes()),
        (Counter::ReconcileAddressAddFailed, moved(settings())),
        (Counter::ReconcilePrefixAddFailed, moved(prefixes())),
        (Counter::ReconcileAddressDelFailed, an_address_of_a_pod_vanishes()),
        (Counter::TrunkWishFailed, unannounced(settings())),
        (Counter::NodeInitFailed, unannounced(Settings { custom_networking: true, ..settings() })),
        (Counter::EniAwaited { took: ms(0), usable: true }, refused(settings(), 5, &[], 5)),
    ];
    for (counter, w) in &all {
        assert!(w.counted.iter().any(|c| is(c, counter)), "{counter:?} {:?} {:?} {:?}", w.counted, w.calls, w.logs);
    }
    for counter in Counter::each() {
        // The rules are the host's.
        let elsewhere = counter == Counter::DeleteRulesFailed;
        assert!(elsewhere || all.iter().any(|(shown, _)| is(shown, &counter)), "{counter:?} is not shown here");
    }
    let [(_, quiet)] = &all[all.len() - 1..] else { panic!("{}", all.len()) };
    let failures = quiet.counted.iter().filter(|c| **c != Counter::PlanActionDropped);
    let took = ms(50);
    assert!(failures.eq([&Counter::EniAwaited { took, usable: true }]), "where nothing fails: {:?}", quiet.counted);
}

/// EC2 says that the interface is full and does not tell what it has.
fn full_and_silent(settings: Settings) -> World {
    let mut w = World::with(settings, ec2(), 0, Journal::default());
    w.run(5);
    w.warm = 1;
    w.ec2.faults.extend([
        ("AssignPrivateIpAddresses", ErrorKind::AddressLimit),
        ("DescribeNetworkInterfaces", ErrorKind::Unknown),
    ]);
    happen(&mut w, Event::PolicyChanged);
    w.run(3);
    w
}

#[test]
fn what_the_pool_is_at_is_told() {
    let mut w = World::new(100, 5);
    assert!(w.m.activity().reconciling, "EC2 is asked what there is");
    w.run_ms(700);
    assert!(w.m.activity().increasing, "{:?}", w.calls);
    w.run(100);
    assert_eq!(w.m.activity(), Activity::default());
    (w.warm, w.release_all) = (0, true);
    happen(&mut w, Event::PolicyChanged);
    w.run_ms(100);
    assert!(w.m.activity().decreasing, "{:?}", w.calls);
}
