use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use reservoir_core::manager::Wanted;
use reservoir_core::store::PodMeta;

use super::*;
use crate::testing::TestPool;

fn key(container: &str) -> Key {
    Key::new("aws-cni", container, "eth0")
}

fn pod(name: &str) -> PodMeta {
    PodMeta { namespace: "default".to_owned(), name: name.to_owned(), interfaces: 1 }
}

fn holding(last: u8, name: &str, interface: usize, timestamp: i64) -> Held {
    let assignment = Assignment { key: key(name), pod: pod(name), timestamp, entry: String::new() };
    Held {
        address: Ipv4Addr::new(10, 0, 0, last).into(),
        table: 2,
        interface: Some(interface),
        by: Arc::new(assignment),
    }
}

const NOW: Duration = Duration::from_secs(1_000_000);

fn at(ago: u64) -> i64 {
    i64::try_from((NOW - Duration::from_secs(ago)).as_nanos()).unwrap()
}

#[test]
fn each_address_is_at_the_veth_of_its_interface() {
    let held = [holding(1, "hpc-0", 0, at(60)), holding(2, "hpc-0", 1, at(60)), holding(3, "web-0", 0, at(1))];
    let shown: Vec<_> = pods(&held, NOW).into_iter().map(|p| (p.address.to_string(), p.suffix, p.settled)).collect();
    let expect = |last, suffix: &str, settled| (format!("10.0.0.{last}"), Some(suffix.to_owned()), settled);
    // Spec 04 §3.1, §17.
    let expected = [expect(1, "ad0afc04a99", true), expect(2, "c080049f1ab", true), expect(3, "0d7763386da", false)];
    assert_eq!(shown, expected);
}

/// An address of the pod is gone from the store: the others must not be taken for their predecessors.
#[test]
fn what_lost_its_place_among_the_pods_addresses_is_known_by_its_veth_alone() {
    let mut left = holding(2, "hpc-0", 0, at(60));
    left.interface = None;
    let shown = pods(&[left, holding(3, "web-0", 0, at(60))], NOW);
    let shown: Vec<_> = shown.iter().map(|p| p.suffix.as_deref()).collect();
    assert_eq!(shown, [None, Some("0d7763386da")]);
}

#[test]
fn the_newer_sandbox_of_a_pod_has_its_veth() {
    let held = [holding(1, "web-0", 0, at(5)), holding(2, "web-0", 0, at(60)), holding(3, "web-0", 0, at(30))];
    let shown = pods(&held, NOW);
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].address, IpAddr::from([10, 0, 0, 1]));
}

#[test]
fn entries_that_name_no_pod_are_left_alone_and_rebuilt_ones_are_known_by_their_veth() {
    let mut nameless = holding(1, "", 0, at(60));
    let mut rebuilt = holding(2, "", 0, at(60));
    Arc::get_mut(&mut nameless.by).unwrap().pod = PodMeta::default();
    let assignment = Arc::get_mut(&mut rebuilt.by).unwrap();
    assignment.pod = PodMeta::default();
    assignment.key = recovery::key("default", "web-0");
    let shown = pods(&[nameless, rebuilt], NOW);
    assert_eq!(shown.iter().map(|p| p.suffix.as_deref()).collect::<Vec<_>>(), [None, Some("0d7763386da")]);
}

#[test]
fn a_clock_set_back_makes_no_pod_young_for_ever() {
    let later = i64::try_from((NOW + Duration::from_secs(3600)).as_nanos()).unwrap();
    assert!(pods(&[holding(1, "web-0", 0, later)], NOW)[0].settled);
}

#[tokio::test]
async fn no_plugin_is_told_of_a_change_while_pods_rules_are_written() {
    let test = TestPool::new(&[0]);
    let pool = &test.pool;
    pool.add(&key("a"), &pod("a"), Wanted::One).await.unwrap();

    let writing = pool.hold_replies().await;
    let (deleting, adding) = (pool.clone(), pool.clone());
    let del = tokio::spawn(async move { deleting.del(&key("a")).await.map(drop) });
    let add = tokio::spawn(async move { adding.add(&key("b"), &pod("b"), Wanted::One).await.map(drop) });
    // Both have happened, as far as who asks for the pods from now on is concerned.
    let names = || pool.look(|m, _| held(m).iter().map(|h| h.by.pod.name.clone()).collect::<Vec<_>>());
    while names() != ["b"] {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!del.is_finished() && !add.is_finished(), "a plugin was told");
    drop(writing);
    del.await.unwrap().unwrap();
    add.await.unwrap().unwrap();
}

#[tokio::test]
async fn replies_are_held_only_to_write_and_what_was_done_is_counted() {
    let test = TestPool::new(&[0]);
    let (pool, clock) = (&test.pool, Clock::start());
    pool.add(&key("a"), &pod("a"), Wanted::One).await.unwrap();
    let counted = |line: &str| pool.metrics().render().lines().any(|l| l == line);

    // Nobody who must wait for the answers to be free again could look here.
    let reading = pool.hold_replies().await;
    assert_eq!(look(pool, clock, Scope::Network).await, CameTo::default());
    drop(reading);
    assert_eq!(test.network.taken(), ["repair", "pods 1"]);

    test.network.harm("rule of a");
    let came_to = look(pool, clock, Scope::Everything).await;
    assert_eq!(came_to, CameTo { repaired: true, firewall: true, again: false });
    assert_eq!(test.network.taken(), ["repair", "pods 1", "pods 1 written: rule of a"]);
    assert!(counted(r#"reservoir_host_repairs_total{kind="rule",result="success"} 1"#));
    assert!(counted(r#"reservoir_host_checks_total{cause="timer"} 1"#));
    assert!(counted(r#"reservoir_host_checks_total{cause="news"} 1"#));

    // What fails is tried again, and keeps nothing else from being done.
    test.network.fail("the kernel is busy");
    test.network.harm("rule of a");
    let came_to = look(pool, clock, Scope::Network).await;
    assert_eq!(came_to, CameTo { repaired: true, again: true, firewall: false });
    assert_eq!(test.network.taken(), ["pods 1", "pods 1 written: rule of a"]);
    assert!(!look_at_firewall(pool).await);
    test.network.fail("the lock is another's");
    assert!(look_at_firewall(pool).await);
    assert!(counted(r#"reservoir_host_repairs_total{kind="firewall",result="error"} 1"#));
}

/// Looks until there is what is looked for.
async fn until(what: &str, mut look: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if look() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{what}: it does not come to that");
}

#[tokio::test]
async fn whoever_keeps_the_lock_of_iptables_keeps_no_pod_from_its_rules() {
    let test = TestPool::new(&[0]);
    let (pool, clock) = (&test.pool, Clock::start());
    pool.add(&key("a"), &pod("a"), Wanted::One).await.unwrap();
    let (release, locked) = test.network.lock_iptables();
    locked.recv().unwrap();
    let at_iptables = tokio::spawn({
        let pool = pool.clone();
        async move { look_at_firewall(&pool).await }
    });
    for rule in ["rule of a", "another rule of a"] {
        test.network.harm(rule);
        let looked = tokio::time::timeout(Duration::from_secs(20), look(pool, clock, Scope::Everything)).await;
        assert!(looked.expect("it waits for the lock").repaired, "{rule}");
        assert_eq!(test.network.taken(), ["repair", "pods 1", &format!("pods 1 written: {rule}")]);
    }
    assert!(!at_iptables.is_finished());
    drop(release);
    assert!(!at_iptables.await.unwrap());
    assert_eq!(test.network.taken(), ["iptables"]);
}

/// A plugin must not wait for a thread that has other things to do.
#[test]
fn replies_are_not_held_before_there_is_a_thread_to_write() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let test = TestPool::new(&[0]);
        let (pool, clock) = (test.pool.clone(), Clock::start());
        pool.add(&key("a"), &pod("a"), Wanted::One).await.unwrap();
        test.network.harm("rule of a");
        let gate = Arc::new(Mutex::new(()));
        let shut = gate.lock().unwrap();
        test.network.block_look(gate.clone());
        let looker = pool.clone();
        let looking = tokio::spawn(async move { look_at_pods(&looker, clock).await });
        let begun = Instant::now();
        while Arc::strong_count(&gate) < 3 {
            assert!(begun.elapsed() < Duration::from_secs(20), "nobody looks");
            std::thread::sleep(Duration::from_millis(5));
        }
        // While it looks the next place on the only thread for such work is taken: it cannot write.
        let (free, freed) = std::sync::mpsc::channel::<()>();
        let _occupied = tokio::task::spawn_blocking(move || freed.recv().is_ok());
        drop(shut);
        until("it has looked", || test.network.taken() == ["pods 1"]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let adding = async { pool.add(&key("b"), &pod("b"), Wanted::One).await };
        let added = tokio::time::timeout(Duration::from_secs(20), adding).await;
        drop(free);
        assert!(added.is_ok(), "an ADD waits for a thread that has not begun to write");
        added.unwrap().unwrap();
        let checked = looking.await.unwrap().unwrap();
        assert_eq!(checked.outcome.done.len(), 1);
    });
}
