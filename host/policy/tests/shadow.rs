//! A shadow policy is asked the same, changes nothing, and its differences are heard of.

mod support;

use std::{
    fs,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use reservoir_core::policy::{CreateEni, Node, Unit};
use reservoir_policy::{Asked, By, Policies, Shadow, Shadowed, watch};
use support::{bundle, calm, guest, policies, provoking, provoking_and_waiting};

type Heard = Receiver<(Arc<Node>, Shadowed)>;

fn shadow(real: &Policies) -> (Shadow, Heard) {
    let (sender, heard) = mpsc::channel();
    let tell = move |node: &Arc<Node>, shadowed| {
        // A test that has ended hears nothing more.
        let _ = sender.send((node.clone(), shadowed));
    };
    (Shadow::start(real, tell).unwrap(), heard)
}

/// Decides as the daemon does; what the shadow made of it.
fn decide(real: &Policies, shadow: &Shadow, heard: &Heard, node: Node) -> Shadowed {
    let node = Arc::new(node);
    let before = real.status().counts;
    let decision = Arc::new(real.decide(&node));
    assert!(shadow.decide(node.clone(), decision));
    let (of, shadowed) = heard.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(Arc::ptr_eq(&of, &node));
    assert_eq!(real.status().counts.asked, before.asked + 1, "the shadow's answers are not counted as ours");
    shadowed
}

#[test]
fn the_same_policy_does_the_same_and_another_does_not() {
    let real = policies();
    let (shadow, heard) = shadow(&real);
    assert!(decide(&real, &shadow, &heard, calm()).differs.is_empty());
    let request = CreateEni { card: 0, unit: Unit::Ip, count: 1 };
    let rank = |node: Node| {
        let node = Arc::new(node);
        let ranking = Arc::new(real.rank(&node, &request));
        assert!(shadow.rank(node, request.clone(), ranking));
        heard.recv_timeout(Duration::from_secs(60)).unwrap().1
    };
    assert!(rank(calm()).differs.is_empty());

    // Five addresses instead of a spare interface: other targets, and something to give back.
    shadow.policies().load(&bundle(guest("trap"), &[]), Some(&calm())).unwrap();
    let shadowed = decide(&real, &shadow, &heard, calm());
    assert_eq!(shadowed.differs, ["targets", "release"]);
    let Asked::Decision(would) = &shadowed.asked else { panic!("{shadowed:?}") };
    assert_eq!(would.targets.as_ref().unwrap()[0].minimum_ips, 5);
    assert_eq!(would.calls[0].by, By::Custom);
    assert_eq!(real.status().custom, None, "what is loaded there is not loaded here");
    shadow.policies().load(&bundle(guest("subnets-trap"), &[]), Some(&calm())).unwrap();
    assert_eq!(rank(calm()).differs, ["subnets"]);
}

#[test]
fn it_fails_as_it_would_in_force_and_the_real_policy_does_not() {
    let real = policies();
    let (shadow, heard) = shadow(&real);
    shadow.policies().load(&bundle(guest("trap"), &[]), Some(&calm())).unwrap();
    assert_eq!(decide(&real, &shadow, &heard, provoking()).differs, ["failed"]);
    // With a pod waiting the built-in component would answer for it, as it does here.
    assert_eq!(decide(&real, &shadow, &heard, provoking_and_waiting()).differs, ["failed"]);
    for _ in 0..3 {
        let _ = decide(&real, &shadow, &heard, provoking());
    }
    assert!(shadow.policies().status().taken_over_at.is_some());
    assert!(decide(&real, &shadow, &heard, provoking()).differs.is_empty());
    let status = real.status();
    assert_eq!((status.failures_in_a_row, status.counts.failed.len()), (0, 0));
}

#[test]
fn memos_are_its_own() {
    let real = policies();
    let (shadow, heard) = shadow(&real);
    for policies in [&real, &**shadow.policies()] {
        policies.load(&bundle(guest("memo"), &[]), Some(&calm())).unwrap();
    }
    // The real one has come one step further than the shadow.
    let _ = real.decide(&calm());
    let shadowed = decide(&real, &shadow, &heard, calm());
    assert!(shadowed.differs.contains(&"targets"), "{:?}", shadowed.differs);
    let Asked::Decision(would) = &shadowed.asked else { panic!("{shadowed:?}") };
    assert_eq!(would.targets.as_ref().unwrap()[0].warm_ips, 0);
}

#[test]
fn one_that_hangs_holds_nobody_up_and_skips() {
    let mut options = support::options();
    options.limits.fuel = u64::MAX;
    // It comes back at last, or this test would not end.
    options.limits.deadline = Duration::from_secs(2);
    let real = Policies::new(options).unwrap();
    let (shadow, _heard) = shadow(&real);
    shadow.policies().load(&bundle(guest("loop"), &[]), Some(&calm())).unwrap();
    let node = Arc::new(provoking());
    let mut skipped = 0;
    let start = Instant::now();
    for _ in 0..40 {
        let decision = Arc::new(real.decide(&node));
        assert_eq!((decision.failure(), decision.by), (None, Some(By::BuiltIn)));
        skipped += usize::from(!shadow.decide(node.clone(), decision));
    }
    // It takes 17 at most, one in work and 16 that wait, while it is in its first.
    assert!(skipped >= 20 || start.elapsed() > Duration::from_secs(2), "{skipped} skipped");
}

#[test]
fn its_directory_is_watched_like_the_other() {
    let tmp = tempfile::tempdir().unwrap();
    let real = policies();
    let (shadow, heard) = shadow(&real);
    let _watch = watch(shadow.policies().clone(), tmp.path(), || None, |_| {}).unwrap();
    assert!(decide(&real, &shadow, &heard, calm()).differs.is_empty());
    fs::write(tmp.path().join(".new"), guest("trap")).unwrap();
    fs::rename(tmp.path().join(".new"), tmp.path().join("policy.wasm")).unwrap();
    let start = Instant::now();
    while shadow.policies().status().custom.is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "it was not loaded");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(!decide(&real, &shadow, &heard, calm()).differs.is_empty());
}
