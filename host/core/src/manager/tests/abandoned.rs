//! What instances that are gone have left is collected (spec 03 §7.10, §16.1).

use super::*;
use crate::cloud::Interface;
use crate::manager::cards::INSTANCE_TAG;
use crate::manager::left_overs::CREATED_TAG;

const LONG_AGO: &str = "1999-01-01T00:00:00Z";

/// An interface that is attached to nothing and was made for `instance`.
fn left(w: &World, eni: &str, instance: &str, created: Option<&str>) -> Interface {
    let mut interface = w.ec2.interface("eni-0");
    interface.eni = eni.to_owned();
    interface.description = format!("aws-K8S-{instance}");
    interface.attachment = None;
    interface.tags = vec![(INSTANCE_TAG.to_owned(), instance.to_owned())];
    interface.tags.extend(created.map(|at| (CREATED_TAG.to_owned(), at.to_owned())));
    interface
}

fn world(settings: Settings) -> World {
    let mut ec2 = Ec2 { free: 50, living: vec!["i-1".to_owned(), "i-2".to_owned()], ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    let mut w = World::with(settings, ec2, 0, Journal::default());
    let mut other = left(&w, "eni-other", "i-gone", Some(LONG_AGO));
    other.description = "a load balancer".to_owned();
    w.ec2.abandoned = vec![
        left(&w, "eni-gone", "i-gone", Some(LONG_AGO)),
        left(&w, "eni-living", "i-2", Some(LONG_AGO)),
        left(&w, "eni-own", "i-1", Some(LONG_AGO)),
        left(&w, "eni-nameless", "", Some(LONG_AGO)),
        other,
    ];
    w
}

fn kept(w: &World) -> Vec<&str> {
    w.ec2.abandoned.iter().map(|i| i.eni.as_str()).collect()
}

#[test]
fn what_is_left_by_an_instance_that_is_gone_goes_and_nothing_else() {
    let mut w = world(settings());
    w.run(1300);
    assert_eq!(kept(&w), ["eni-living", "eni-own", "eni-nameless", "eni-other"], "{:?}", w.logs);
    assert_eq!(w.journal.removing, [""; 0], "the journal is about our own");
    // The instance ends.
    w.ec2.living.retain(|id| id != "i-2");
    w.run(5000);
    assert_eq!(kept(&w), ["eni-own", "eni-nameless", "eni-other"], "{:?}", w.logs);
}

#[test]
fn an_answer_without_this_instance_proves_nothing() {
    let mut w = world(settings());
    w.ec2.living.clear();
    w.run(1300);
    assert_eq!(kept(&w).len(), 5, "{:?}", w.calls);
    assert!(w.logs.iter().any(|l| l.contains("does not list this instance")), "{:?}", w.logs);
}

#[test]
fn what_is_young_waits_and_what_has_no_age_gets_one() {
    let mut w = world(settings());
    let soon = crate::time::rfc3339(960_000_000 + 1000);
    w.ec2.abandoned = vec![left(&w, "eni-young", "i-new", Some(&soon)), left(&w, "eni-old", "i-gone", None)];
    w.run(1300);
    assert_eq!((kept(&w), w.tagged.contains("eni-old")), (vec!["eni-young", "eni-old"], true), "{:?}", w.logs);
    assert!(!w.tagged.contains("eni-young"));
    w.run(5000);
    assert_eq!(kept(&w), ["eni-old"], "the instance is not there an hour later: {:?}", w.logs);
}

#[test]
fn where_the_clean_up_is_off_or_nothing_may_change_nobody_is_asked() {
    for s in [Settings { clean_up: false, ..settings() }, Settings { provisioning: false, ..settings() }] {
        let mut w = world(s);
        w.run(10_000);
        assert_eq!(w.ec2.abandoned.len(), 5, "{:?}", w.calls);
    }
}

#[test]
fn a_removal_that_is_not_allowed_is_left_to_others() {
    let mut w = world(settings());
    w.ec2.faults = vec![("DeleteNetworkInterface", ErrorKind::Unauthorized); 3].into();
    w.run(1300);
    assert_eq!((w.count("DeleteNetworkInterface"), kept(&w).len()), (1, 5), "{:?}", w.calls);
    assert!(w.logs.iter().any(|l| l.contains("another's left-over was not deleted")), "{:?}", w.logs);
    let failed = Counter::CleanUpFailed(CleanUp::LeftOver, "Unauthorized".to_owned());
    assert_eq!(w.counted, [failed], "it is counted");
    assert_eq!(w.m.snapshot(w.now()).gates.release, crate::policy::Gate::Open, "our own addresses may go");
}

#[test]
fn many_go_one_after_another_until_the_daemon_ends_or_the_minute_is_full() {
    let many = || {
        let mut w = world(settings());
        w.ec2.abandoned = (0..80).map(|n| left(&w, &format!("eni-{n}"), "i-gone", Some(LONG_AGO))).collect();
        while w.count("DeleteNetworkInterface") == 0 {
            assert!(w.at < Duration::from_secs(1000), "{:?}", w.calls);
            w.run_ms(10);
        }
        w
    };
    let mut w = many();
    assert!(w.count("DeleteNetworkInterface") < 3, "one at a time");
    w.run(60);
    assert_eq!(kept(&w).len(), 30, "what is more waits for the next search");
    let mut w = many();
    let at = w.now();
    w.m.handle(at, Event::Terminating);
    w.run(60);
    assert!(w.count("DeleteNetworkInterface") < 4, "nothing is begun after the end was told");
    let mut w = many();
    let at = w.now();
    w.m.minute(at).ec2_calls = CALLS_PER_MINUTE / 2;
    w.run(60);
    assert!(w.count("DeleteNetworkInterface") < 4, "the calls of the minute are the pods'");
}

#[test]
fn each_node_searches_at_a_time_of_its_own_and_each_hour() {
    let searches = |seed| {
        let mut w = world(Settings { seed, ..settings() });
        let mut at = vec![];
        while w.at < Duration::from_secs(9000) {
            let before = w.count("DescribeInstances");
            w.run(1);
            if w.count("DescribeInstances") > before {
                at.push(w.at.as_secs());
            }
        }
        at
    };
    let nodes: Vec<Vec<u64>> = (1..5).map(searches).collect();
    for at in &nodes {
        assert!((600..=901).contains(&at[0]), "{at:?}");
        assert!(at.windows(2).all(|pair| (3600..=3901).contains(&(pair[1] - pair[0]))), "{at:?}");
    }
    assert!(nodes.windows(2).any(|pair| pair[0][0] != pair[1][0]), "{nodes:?}");
}
