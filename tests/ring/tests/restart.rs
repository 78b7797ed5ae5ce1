//! The daemon ends and comes back: told to, killed, upgraded from the reference.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ring::backend::{Backend, Outcome};
use ring::shell::in_netns;
use ring::{Node, Options, Pod, traffic};
use rustix::process::Signal;
use serde_json::{Value, json};

const PROGRAMS: &[&str] = &["ip", "curl", "iptables", "nft"];
const MINUTE: Duration = Duration::from_secs(60);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn told_to_end() {
    if !ring::skip::can_run("told_to_end", PROGRAMS) {
        return;
    }
    // The second interface never comes: a pod waits for it when the daemon is told to end.
    let env = vec![("WARM_ENI_TARGET".to_owned(), "0".to_owned()), ("IP_COOLDOWN_PERIOD".to_owned(), "600".to_owned())];
    let options = Options { instance_type: "t3.small".to_owned(), env, ..Options::of_tree() };
    let mut node = Node::new(options).unwrap();
    node.sim_post("faults", &json!({"api": "CreateNetworkInterface", "times": 0, "effect": {"delay": 60.0}})).unwrap();
    node.start_daemon().unwrap();
    let pods: Vec<Pod> = (0..3).map(|n| node.add_pod(&format!("p{n}")).unwrap()).collect();
    let waiting = node.make_pod("waiting").unwrap();
    let backend = Backend::new(&node.socket());
    let add = std::thread::spawn(move || block_on(backend.add(&waiting.container, &waiting.pod)));
    node.wait_for("the pod waits", MINUTE, |n| Ok(n.metric("reservoir_waiting_pods")? >= 1.0)).unwrap();
    let begun = Instant::now();
    node.signal_daemon(Signal::TERM).unwrap();
    let code = node.await_daemon(MINUTE).unwrap();
    let (took, refused) = (begun.elapsed(), add.join().unwrap());
    assert_eq!(code, Some(0), "{}", node.log_tail(20));
    assert!(took < Duration::from_secs(20), "it does not wait for what EC2 never answers: {took:?}");
    assert!(!node.socket().exists(), "the socket is gone");
    let Outcome::Refused(why) = refused else { panic!("the waiting pod is told: {refused:?}") };
    assert!(why.contains("stopping"), "{why}");
    node.start_daemon().unwrap();
    for pod in &pods {
        assert_eq!(node.attach(pod.attachment.clone()).unwrap().ip, pod.ip);
    }
}

/// Another daemon with the same environment, but for its log and its listeners. How it ended, and what it said.
fn second_daemon(node: &Node) -> (Option<i32>, String) {
    let log = node.dir().join("second.log");
    let own = [
        ("AWS_VPC_K8S_CNI_LOG_FILE", log.display().to_string()),
        ("RESERVOIR_METRICS_ADDRESS", "127.0.0.1:61698".to_owned()),
    ];
    let mut daemon = std::process::Command::new("ip")
        .args(["netns", "exec", &node.netns()])
        .arg(Options::of_tree().binaries.join("ipamd"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(node.daemon_env())
        .envs(own)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let ended = loop {
        match daemon.try_wait().unwrap() {
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            ended => break ended,
        }
    };
    if ended.is_none() {
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    (ended.and_then(|e| e.code()), fs::read_to_string(log).unwrap_or_default())
}

#[test]
fn a_second_daemon_ends_and_leaves_the_first_alone() {
    if !ring::skip::can_run("a_second_daemon_ends_and_leaves_the_first_alone", PROGRAMS) {
        return;
    }
    let mut node = Node::new(Options { instance_type: "t3.small".to_owned(), ..Options::of_tree() }).unwrap();
    node.start_daemon().unwrap();
    let pod = node.add_pod("first").unwrap();
    let pid = node.daemon_pid().unwrap();
    let (code, log) = second_daemon(&node);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains(&format!("another daemon (process {pid}) works with the checkpoint")), "{log}");
    assert_eq!(node.attach(pod.attachment.clone()).unwrap().ip, pod.ip, "the first serves on its socket");
    node.add_pod("next").unwrap();
    // The kernel ends the lock of a daemon that is killed.
    node.end_daemon(Signal::KILL).unwrap();
    node.start_daemon().unwrap();
    assert_eq!(node.attach(pod.attachment.clone()).unwrap().ip, pod.ip);
}

#[test]
fn killed_with_twenty_pods() {
    if !ring::skip::can_run("killed_with_twenty_pods", PROGRAMS) {
        return;
    }
    let options = Options { delays: "realistic".to_owned(), ..Options::of_tree() };
    let mut node = Node::new(options).unwrap();
    node.start_daemon().unwrap();
    let pods: Vec<Pod> = (0..20).map(|n| node.add_pod(&format!("p{n}")).unwrap()).collect();
    node.end_daemon(Signal::KILL).unwrap();
    for pod in &pods[..3] {
        traffic::tcp(&node.netns(), &pod.netns, pod.ip.parse().unwrap()).unwrap();
    }
    let late = node.make_pod("late").unwrap();
    let begun = Instant::now();
    node.spawn_daemon().unwrap();
    let late = loop {
        match node.attach(late.clone()) {
            Ok(pod) => break pod,
            Err(error) => assert!(begun.elapsed() < MINUTE, "{error:#}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    eprintln!("killed_with_twenty_pods: first ADD {:?} after the start", begun.elapsed());
    assert!(pods.iter().all(|p| p.ip != late.ip));
    for pod in &pods {
        assert_eq!(node.attach(pod.attachment.clone()).unwrap().ip, pod.ip);
        traffic::tcp(&node.netns(), &pod.netns, pod.ip.parse().unwrap()).unwrap();
    }
    assert_eq!(node.pool().unwrap().1, 21);
}

/// A checkpoint as the reference writes it, nothing beside it: pods on the second interface keep their route table.
#[test]
fn upgraded_from_the_reference() {
    if !ring::skip::can_run("upgraded_from_the_reference", PROGRAMS) {
        return;
    }
    let options = Options { instance_type: "t3.small".to_owned(), ..Options::of_tree() };
    let mut node = Node::new(options).unwrap();
    node.start_daemon().unwrap();
    let pods: Vec<Pod> = (0..5).map(|n| node.add_pod(&format!("p{n}")).unwrap()).collect();
    let rules = in_netns(&node.netns(), "ip", &["rule"]).unwrap();
    let second = |pod: &Pod| rules.contains(&format!("from {} lookup 2", pod.ip));
    assert_eq!(pods.iter().filter(|p| second(p)).count(), 2, "{rules}");
    node.end_daemon(Signal::KILL).unwrap();
    let file = node.dir().join("ipam.json");
    let ours: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    // Key by key, in the reference's order and form (spec 02 §6.2), and without what only ours keeps.
    let entries: Vec<String> = ours["allocations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            format!(
                r#"{{"networkName":{},"containerID":{},"ifName":{},"ipv4":{},"allocationTimestamp":{},"metadata":{{"k8sPodNamespace":{},"k8sPodName":{},"interfacesCount":1}}}}"#,
                e["networkName"], e["containerID"], e["ifName"], e["ipv4"], e["allocationTimestamp"],
                e["metadata"]["k8sPodNamespace"], e["metadata"]["k8sPodName"]
            )
        })
        .collect();
    let reference = format!("{{\"version\":\"vpc-cni-ipam/1\",\"allocations\":[{}]}}\n", entries.join(","));
    for entry in fs::read_dir(node.dir()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("ipam") {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".sock") && !name.ends_with(".log") && !name.ends_with(".err") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
    fs::write(&file, reference).unwrap();
    node.start_daemon().unwrap();
    let backend = Backend::new(&node.socket());
    for pod in &pods {
        // At once, before EC2 has confirmed anything.
        let table = if second(pod) { 2 } else { 254 };
        let freed = block_on(backend.del(&pod.attachment.container, &pod.name));
        let ip: IpAddr = pod.ip.parse().unwrap();
        assert_eq!(freed, Outcome::Done(vec![(ip, table)]), "{}", pod.name);
    }
    node.wait_for("the second interface serves again", MINUTE, |n| {
        let card = n.enis()?;
        let enis = card["ENIs"].as_object().cloned().unwrap_or_default();
        Ok(enis.len() >= 2 && enis.values().all(|e| e["IsExcludedForPodIPs"] == false))
    })
    .unwrap();
}
