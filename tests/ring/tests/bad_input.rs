//! What others may do wrong: each gets a clear message, and no pod loses its address.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use reservoir_rpc::cni_backend_client::CniBackendClient;
use reservoir_rpc::{AddNetworkRequest, uds};
use ring::random::Random;
use ring::{Node, Options, Pod};
use rustix::process::Signal;
use serde_json::Value;
use support::guests::{guest, root};

const PROGRAMS: &[&str] = &["ip", "curl", "iptables", "nft"];
const MINUTE: Duration = Duration::from_secs(60);

fn node() -> Node {
    let mut node = Node::new(Options { instance_type: "c5.large".to_owned(), ..Options::of_tree() }).unwrap();
    node.start_daemon().unwrap();
    node
}

fn log(node: &Node) -> String {
    node.log_tail(100_000)
}

/// What the daemon says and how it ends with this in its environment; it must end.
fn ends_with(node: &mut Node) -> (Option<i32>, String) {
    let before = log(node).len();
    node.spawn_daemon().unwrap();
    let code = node.await_daemon(MINUTE).unwrap();
    (code, log(node).split_off(before))
}

#[test]
fn a_damaged_checkpoint_is_set_aside() {
    if !ring::skip::can_run("a_damaged_checkpoint_is_set_aside", PROGRAMS) {
        return;
    }
    let mut node = node();
    let pods: Vec<Pod> = (0..12).map(|n| node.add_pod(&format!("p{n}")).unwrap()).collect();
    node.end_daemon(Signal::KILL).unwrap();
    let file = node.dir().join("ipam.json");
    let whole = fs::read(&file).unwrap();
    let torn = &whole[..whole.len() / 2];
    fs::write(&file, torn).unwrap();
    node.start_daemon().unwrap();
    let aside: Vec<PathBuf> = fs::read_dir(node.dir())
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.display().to_string().contains("ipam.json.corrupt-"))
        .collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(fs::read(&aside[0]).unwrap(), torn, "nothing of it is lost");
    assert!(log(&node).contains("the checkpoint is damaged"), "{}", node.log_tail(20));
    node.wait_for("every pod that runs holds its address", MINUTE, |n| Ok(n.pool()?.1 == 12)).unwrap();
    // Nobody else gets one of them, as many as come.
    let others: Vec<Pod> = (0..12).map(|n| node.add_pod(&format!("o{n}")).unwrap()).collect();
    for other in &others {
        assert!(pods.iter().all(|p| p.ip != other.ip), "{} was in use", other.ip);
    }
    for pod in &pods {
        ring::traffic::tcp(&node.netns(), &pod.netns, pod.ip.parse().unwrap()).unwrap();
    }
    for pod in pods.iter().chain(&others) {
        node.remove_pod(pod).unwrap();
    }
    // The containers of the rebuilt entries are not known: they go when their veths have gone.
    node.wait_for("the rebuilt entries", Duration::from_secs(60), |node| Ok(node.pool()?.1 == 0)).unwrap();
    let rules: Vec<String> = node.pod_traces().unwrap().into_iter().filter(|t| t.starts_with("rule")).collect();
    assert!(rules.is_empty(), "{rules:#?}");
}

#[test]
fn a_checkpoint_of_an_unknown_version_is_refused() {
    if !ring::skip::can_run("a_checkpoint_of_an_unknown_version_is_refused", PROGRAMS) {
        return;
    }
    let mut node = node();
    node.add_pod("p").unwrap();
    node.end_daemon(Signal::KILL).unwrap();
    let file = node.dir().join("ipam.json");
    let ours = fs::read_to_string(&file).unwrap();
    let theirs = ours.replace("vpc-cni-ipam/1", "vpc-cni-ipam/2");
    fs::write(&file, &theirs).unwrap();
    let (code, said) = ends_with(&mut node);
    assert_eq!(code, Some(1));
    assert!(said.contains("unexpected checkpointVersion: vpc-cni-ipam/2/vpc-cni-ipam/1"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), theirs, "it is not touched");
    fs::write(&file, ours).unwrap();
    node.start_daemon().unwrap();
    node.wait_for("the pod holds its address", MINUTE, |n| Ok(n.pool()?.1 == 1)).unwrap();
}

#[test]
fn all_that_is_wrong_in_the_environment_is_told_together() {
    if !ring::skip::can_run("all_that_is_wrong_in_the_environment_is_told_together", PROGRAMS) {
        return;
    }
    let wrong = [
        ("WARM_IP_TARGET", "many"),
        ("RESERVOIR_ADD_WAIT_SECONDS", "-1"),
        ("RESERVOIR_HOST_NETWORK", "cables"),
        ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "perhaps"),
    ];
    let is_told = |said: &str| {
        for (variable, value) in wrong {
            let told = said.lines().any(|line| line.contains(variable) && line.contains(value));
            assert!(told, "{variable}={value} is not told: {said}");
        }
    };
    let mut node = Node::new(Options::of_tree()).unwrap();
    for (variable, value) in wrong {
        node.set_env(variable, value);
    }
    let (code, said) = ends_with(&mut node);
    assert_eq!(code, Some(1), "{said}");
    is_told(&said);
    assert!(!node.socket().exists());
    // Nor is there a list of plugins for such a node.
    let env = wrong.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let refused = Node::new(Options { env, ..Options::of_tree() }).unwrap_err();
    is_told(&format!("{refused:#}"));
}

#[test]
fn garbage_on_the_socket_harms_nobody() {
    if !ring::skip::can_run("garbage_on_the_socket_harms_nobody", PROGRAMS) {
        return;
    }
    let mut node = node();
    let first = node.add_pod("before").unwrap();
    let mut random = Random::announced("garbage_on_the_socket_harms_nobody");
    let mut held = Vec::new();
    for n in 0..200 {
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        let length = random.below(4096);
        let mut bytes: Vec<u8> = (0..length).map(|_| random.number() as u8).collect();
        if n % 3 == 0 {
            // Past the preface the frames are nonsense.
            bytes.splice(..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        }
        // The daemon may hang up in between.
        let _ = stream.write_all(&bytes);
        if n % 4 == 0 {
            held.push(stream);
        } else {
            stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            let _ = stream.read(&mut [0; 64]);
        }
    }
    let status = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let connection = uds::connect(&node.socket(), Duration::from_secs(5)).await.unwrap();
        let request = AddNetworkRequest { client_version: "0.0.0-other".to_owned(), ..Default::default() };
        CniBackendClient::new(connection).add_network(request).await.expect_err("another version")
    });
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("0.0.0-other"), "{status}");
    let second = node.add_pod("after").unwrap();
    assert_ne!(first.ip, second.ip);
    assert_eq!(node.attach(first.attachment.clone()).unwrap().ip, first.ip);
    drop(held);
    assert_eq!(node.pool().unwrap().1, 2);
}

/// Runs the plugin with this environment over the usual one; the error it prints.
fn plugin(node: &Node, command: &str, env: &[(&str, &str)], stdin: &[u8]) -> Value {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &node.netns()])
        .arg(node.dir().join("bin/aws-cni"))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", node.dir().join("bin"))
        .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn what_a_runtime_can_do_wrong() {
    if !ring::skip::can_run("what_a_runtime_can_do_wrong", PROGRAMS) {
        return;
    }
    let mut node = node();
    let pod = node.add_pod("p").unwrap();
    let netns = pod.attachment.netns.clone();
    for stdin in ["", "hello", "[1]", "{\"cniVersion\": 4}"] {
        let error = plugin(&node, "ADD", &[("CNI_NETNS", &netns)], stdin.as_bytes());
        assert_eq!(error["code"], 6, "{stdin:?}: {error}");
    }
    let config = serde_json::json!({
        "cniVersion": "0.4.0", "name": "aws-cni", "type": "aws-cni", "vethPrefix": "eni", "mtu": "9001",
        "ipamdSocket": node.socket(), "pluginLogFile": node.dir().join("plugin.log"),
    });
    let config = config.to_string().into_bytes();
    let error = plugin(&node, "ADD", &[("CNI_NETNS", "/var/run/netns/no-such"), ("CNI_CONTAINERID", "c2")], &config);
    assert!(error["msg"].as_str().unwrap().contains("/var/run/netns/no-such"), "{error}");
    let error = plugin(&node, "ADD", &[("CNI_NETNS", "/etc/hostname"), ("CNI_CONTAINERID", "c3")], &config);
    assert!(error["msg"].as_str().unwrap().contains("/etc/hostname"), "{error}");
    let error = plugin(&node, "ADD", &[], &config);
    assert!(error["msg"].as_str().unwrap().contains("CNI_NETNS"), "{error}");
    let error = plugin(&node, "ADD", &[("CNI_NETNS", &netns), ("CNI_CONTAINERID", "../../c")], &config);
    assert_eq!(error["code"], 4, "{error}");
    let error = plugin(&node, "FETCH", &[("CNI_NETNS", &netns)], &config);
    assert_eq!(error["code"], 4, "{error}");
    assert_eq!(node.pool().unwrap().1, 1, "what failed gave its address back");
    assert_eq!(node.attach(pod.attachment.clone()).unwrap().ip, pod.ip);
}

fn policy(node: &Node) -> Value {
    serde_json::from_str(&node.introspect("/v1/policy").unwrap()).unwrap()
}

#[test]
fn useless_policies_are_refused_and_a_good_one_is_taken() {
    if !ring::skip::can_run("useless_policies_are_refused_and_a_good_one_is_taken", PROGRAMS) {
        return;
    }
    let mut node = node();
    let mut pods = vec![node.add_pod("first").unwrap()];
    let good = fs::read(root().join("policies/examples/hour/policy.wasm")).unwrap();
    let useless: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        ("truncated", good[..good.len() / 2].to_vec()),
        ("core-module", wat::parse_str("(module (func (export \"decide\")))").unwrap()),
        ("text", b"not wasm at all".to_vec()),
        ("start-loop", guest("start-loop")),
        ("foreign-import", wat::parse_str("(component (import \"other:host/files@1.0.0\" (instance)))").unwrap()),
    ]);
    for (name, component) in useless {
        let failed = policy(&node)["counts"]["loads_failed"].as_u64().unwrap();
        fs::write(node.dir().join("policy/policy.wasm"), component).unwrap();
        node.wait_for(&format!("{name} is refused"), MINUTE, |n| {
            Ok(policy(n)["counts"]["loads_failed"].as_u64() > Some(failed))
        })
        .unwrap();
        let status = policy(&node);
        let reason = status["last_load_error"]["reason"].as_str().unwrap_or_default().to_owned();
        eprintln!("{name}: {reason}");
        assert!(!reason.is_empty(), "{status}");
        assert!(status["custom"].is_null(), "the built-in one stays in force: {status}");
        let words: Vec<&str> = reason.split(['"', '\\', '\n']).collect();
        let longest = words.iter().max_by_key(|w| w.len()).unwrap();
        assert!(log(&node).contains(longest), "{longest:?} is not in the log: {}", node.log_tail(10));
        pods.push(node.add_pod(name).unwrap());
    }
    fs::write(node.dir().join("policy/day"), "3\n").unwrap();
    fs::write(node.dir().join("policy/policy.wasm"), &good).unwrap();
    node.wait_for("the good one is in force", MINUTE, |n| Ok(policy(n)["custom"]["bytes"] == good.len())).unwrap();
    pods.push(node.add_pod("last").unwrap());
    // It decides, and a setting of nonsense does not put it out of force.
    let loads = policy(&node)["counts"]["loads_failed"].as_u64().unwrap();
    fs::write(node.dir().join("policy/night"), "few\n").unwrap();
    fs::write(node.dir().join("policy/day"), "few\n").unwrap();
    node.wait_for("nonsense is refused", MINUTE, |n| Ok(policy(n)["counts"]["loads_failed"].as_u64() > Some(loads)))
        .unwrap();
    assert_eq!(policy(&node)["custom"]["bytes"], good.len(), "{}", policy(&node));
    for pod in &pods {
        assert_eq!(node.attach(pod.attachment.clone()).unwrap().ip, pod.ip);
    }
    assert_eq!(node.pool().unwrap().1, pods.len() as u64);
}
