//! A hundred pods at once from the default warm pool, through the plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ring::cni::Attachment;
use ring::{Node, Options, Pod};

const PROGRAMS: &[&str] = &["ip", "curl", "iptables", "nft"];
const PODS: usize = 100;
/// Whoever is told within this was not told by the end of a wait of 60 s.
const SOON: Duration = Duration::from_secs(45);

/// ADDs all at once; what each came to and how long it took.
fn at_once(node: &Node, pods: &[Attachment]) -> Vec<(Duration, anyhow::Result<Pod>)> {
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for pod in pods {
            scope.spawn(|| {
                let begun = Instant::now();
                let result = node.attach(pod.clone());
                results.lock().unwrap().push((begun.elapsed(), result));
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(took, _)| *took);
    results
}

fn calls(node: &Node) -> BTreeMap<String, u64> {
    let state = node.sim_state().unwrap();
    let calls = state["calls"].as_object().cloned().unwrap_or_default();
    calls.iter().filter_map(|(api, n)| Some((api.clone(), n["calls"].as_u64()?))).collect()
}

fn distinct(pods: &[&Pod]) {
    let addresses: BTreeSet<&str> = pods.iter().map(|p| p.ip.as_str()).collect();
    assert_eq!(addresses.len(), pods.len(), "an address was given twice");
}

#[test]
fn a_hundred_pods_at_once() {
    if !ring::skip::can_run("a_hundred_pods_at_once", PROGRAMS) {
        return;
    }
    let options = Options { delays: "realistic".to_owned(), ..Options::of_tree() };
    let mut node = Node::new(options).unwrap();
    let pods: Vec<Attachment> = (0..PODS).map(|n| node.make_pod(&format!("p{n}")).unwrap()).collect();
    node.start_daemon().unwrap();
    // One interface's worth: the first interface's own addresses.
    node.wait_for("the warm pool is full", Duration::from_secs(30), |n| Ok(n.pool()?.0 >= 29)).unwrap();
    let before = calls(&node);
    let results = at_once(&node, &pods);
    let failed: Vec<String> = results.iter().filter_map(|(_, r)| Some(format!("{:#}", r.as_ref().err()?))).collect();
    assert!(failed.is_empty(), "{} failed: {:#?}\n{}", failed.len(), &failed[..failed.len().min(5)], node.log_tail(40));
    let made: Vec<&Pod> = results.iter().filter_map(|(_, r)| r.as_ref().ok()).collect();
    distinct(&made);
    let during: BTreeMap<String, u64> = calls(&node)
        .into_iter()
        .map(|(api, n)| (api.clone(), n - before.get(&api).copied().unwrap_or(0)))
        // IMDS's are called Get….
        .filter(|(api, n)| *n > 0 && !api.starts_with("Get"))
        .collect();
    eprintln!(
        "a_hundred_pods_at_once: time to address p50 {:?}, p99 {:?}; EC2 calls {during:?}",
        results[PODS / 2].0,
        results[PODS - 2].0
    );
    let total: u64 = during.values().sum();
    assert!((4..100).contains(&total), "far fewer calls than pods: {during:?}");
    assert_eq!(node.pool().unwrap().1, PODS as u64);
    for pod in made {
        node.cni().del(&pod.attachment, &pod.result).unwrap();
    }
    assert_eq!(node.pool().unwrap().1, 0);
}

#[test]
fn a_hundred_pods_in_a_subnet_for_fifty() {
    if !ring::skip::can_run("a_hundred_pods_in_a_subnet_for_fifty", PROGRAMS) {
        return;
    }
    // A /26 has 59 addresses; each interface needs one of them for itself.
    let options = Options {
        subnet: "10.0.96.0/26".to_owned(),
        delays: "realistic".to_owned(),
        env: vec![("RESERVOIR_ADD_WAIT_SECONDS".to_owned(), "60".to_owned())],
        ..Options::of_tree()
    };
    let mut node = Node::new(options).unwrap();
    let pods: Vec<Attachment> = (0..PODS).map(|n| node.make_pod(&format!("p{n}")).unwrap()).collect();
    node.start_daemon().unwrap();
    node.wait_for("the first interface is full", Duration::from_secs(30), |n| Ok(n.pool()?.0 >= 29)).unwrap();
    let results = at_once(&node, &pods);
    let slowest = results.last().unwrap().0;
    let made: Vec<&Pod> = results.iter().filter_map(|(_, r)| r.as_ref().ok()).collect();
    distinct(&made);
    let failed: Vec<String> = results.iter().filter_map(|(_, r)| Some(format!("{:#}", r.as_ref().err()?))).collect();
    eprintln!(
        "a_hundred_pods_in_a_subnet_for_fifty: {} have an address, {} not, all answered within {slowest:?}; {}",
        made.len(),
        failed.len(),
        failed.first().unwrap()
    );
    let state = node.sim_state().unwrap();
    let interfaces = state["enis"].as_array().unwrap().len();
    assert_eq!(state["subnets"][0]["free"], 0, "every address of the subnet is used");
    assert_eq!(made.len(), 59 - interfaces, "whoever fits gets an address");
    for reason in &failed {
        assert!(reason.contains("subnet") && reason.contains("no free IP address"), "{reason}");
    }
    assert!(slowest < SOON, "the others are told soon, not when their wait ends: {slowest:?}");
    // A pod that comes later is told at once.
    let late = node.make_pod("late").unwrap();
    let begun = Instant::now();
    let error = format!("{:#}", node.attach(late).expect_err("the subnet is full"));
    assert!(error.contains("no free IP address left in subnet"), "{error}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}
