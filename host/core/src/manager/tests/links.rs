//! What others attach and detach is noticed by the kernel's news.

use super::*;

fn news(w: &mut World, event: Event) {
    let now = w.now();
    w.m.handle(now, event);
    w.commands();
}

fn came(id: &str) -> Event {
    Event::LinkCame { mac: format!("mac-{id}") }
}

fn went(id: &str) -> Event {
    Event::LinkWent { mac: format!("mac-{id}") }
}

/// Some minutes after the start.
fn settled() -> World {
    let mut w = World::new(100, 2);
    w.run(200);
    w.calls.clear();
    w
}

#[test]
fn what_others_attach_serves_pods_within_a_minute() {
    for (settle, lost) in [(false, false), (false, true), (true, false)] {
        let mut w = settled();
        if settle {
            // A look that has just been shows nothing yet, and neither does EC2's first answer.
            let now = w.now();
            w.m.look(now);
            w.commands();
            w.run(1);
        }
        news(&mut w, if lost { Event::LinksMissed } else { came("eni-x") });
        if settle {
            w.run(20);
        }
        w.ec2.enis.insert("eni-x".to_owned(), (Some(1), [Ipv4Addr::new(10, 0, 1, 3)].into()));
        w.run(if settle { 39 } else { 10 });
        assert!(w.m.cards().eni("eni-x").is_some_and(|e| !e.excluded), "{settle} {lost}: {:?}", w.calls);
        w.check();
    }
}

#[test]
fn what_others_detach_gets_no_pods_within_a_minute() {
    let mut w = settled();
    w.ec2.enis.insert("eni-x".to_owned(), (Some(1), BTreeSet::new()));
    news(&mut w, came("eni-x"));
    w.run(120);
    assert!(w.m.cards().eni("eni-x").is_some());
    // IMDS shows it for a while yet.
    w.ec2.stale = w.ec2.attached().into_iter().filter(|i| i.eni == "eni-x").collect();
    w.ec2.enis.remove("eni-x");
    news(&mut w, went("eni-x"));
    w.run(50);
    assert!(w.m.cards().eni("eni-x").is_none(), "{:?}", w.logs);
}

#[test]
fn what_is_known_and_what_the_daemon_does_itself_is_no_news() {
    let mut w = World::new(100, 0);
    w.run(200);
    w.warm = SLOTS + 1;
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    while w.count("AttachNetworkInterface") == 0 {
        w.run_ms(10);
    }
    let made = w.ec2.enis.keys().find(|id| *id != "eni-0").unwrap().clone();
    news(&mut w, came(&made));
    w.run(10);
    assert_eq!(w.m.cards().enis().count(), 2);
    w.calls.clear();
    // Flags and names change, pods' veths go.
    for event in [came("eni-0"), came(&made), went("veth"), came("eni-0")] {
        news(&mut w, event);
    }
    w.run(100);
    assert_eq!(w.count("GetAttachedENIs") + w.count("DescribeInstances"), 0, "{:?}", w.calls);
    // Its removal is the daemon's own.
    (w.warm, w.release_all) = (0, true);
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    while w.count("DetachNetworkInterface") == 0 {
        w.run_ms(10);
    }
    w.calls.clear();
    news(&mut w, went(&made));
    w.run(100);
    assert_eq!(w.count("GetAttachedENIs") + w.count("DescribeInstances"), 0, "{:?}", w.calls);
}

#[test]
fn a_storm_of_news_is_two_looks_a_minute() {
    let mut w = settled();
    for n in 0..3000 {
        news(&mut w, came(&n.to_string()));
        news(&mut w, went(&n.to_string()));
        w.run_ms(100);
    }
    let looks = w.count("GetAttachedENIs");
    assert!((5..=11).contains(&looks), "{looks} in five minutes");
    w.run(100);
    w.calls.clear();
    w.run(400);
    assert_eq!(w.count("GetAttachedENIs"), 0, "and none after it");
}
