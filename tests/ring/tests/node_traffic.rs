//! A node with two interfaces: who reaches whom, as whom; and what ADD, DEL and CHECK leave in the kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ring::node::end_namespace;
use ring::shell::in_netns;
use ring::{Node, Options, Pod, traffic};
use rustix::process::Signal;
use serde_json::json;

const PROGRAMS: &[&str] = &["ip", "curl", "iptables", "nft"];
const VPC_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 200, 10));
const INTERNET: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));
const MINUTE: Duration = Duration::from_secs(60);
/// How long one listens where nothing should arrive.
const LOST: Duration = Duration::from_secs(3);

fn ip(pod: &Pod) -> IpAddr {
    pod.ip.parse().unwrap()
}

/// A t3.small has three addresses for pods on each interface: the fourth pod lands on the second.
fn small_node(pods: usize, env: &[(&str, &str)]) -> (Node, Vec<Pod>) {
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let options = Options { instance_type: "t3.small".to_owned(), env, ..Options::of_tree() };
    let mut node = Node::new(options).unwrap();
    node.start_daemon().unwrap();
    let pods = (0..pods).map(|n| node.add_pod(&format!("p{n}")).unwrap()).collect();
    (node, pods)
}

/// Route table of the pod's source rule: `main`, or the second interface's.
fn table(node: &Node, pod: &Pod) -> Option<String> {
    let rules = in_netns(&node.netns(), "ip", &["rule"]).unwrap();
    let rule = rules.lines().find(|l| l.starts_with("1536:") && l.contains(&format!("from {} ", pod.ip)))?;
    rule.rsplit("lookup ").next().map(|t| t.trim().to_owned())
}

/// Everything in the node's kernel that could name an address.
fn everything(node: &Node) -> String {
    let ns = node.netns();
    let show = |program: &str, arguments: &[&str]| in_netns(&ns, program, arguments).unwrap();
    [
        show("ip", &["rule"]),
        show("ip", &["route", "show", "table", "all"]),
        show("ip", &["-o", "link"]),
        show("ip", &["neigh"]),
        show("iptables-save", &[]),
    ]
    .join("\n")
}

fn no_trace_of(node: &Node, pods: &[Pod]) {
    // The kernel takes a namespace's links down behind the back of who removed it.
    node.wait_for("no trace of a pod", MINUTE, |n| {
        let traces = n.pod_traces()?;
        anyhow::ensure!(traces.is_empty(), "{traces:#?}");
        Ok(true)
    })
    .unwrap();
    let all = everything(node);
    for pod in pods {
        let named = all.lines().filter(|l| l.split([' ', '/']).any(|word| word == pod.ip)).collect::<Vec<_>>();
        assert!(named.is_empty(), "{} left {named:#?}", pod.name);
    }
}

#[test]
fn every_pod_reaches_and_is_reached() {
    if !ring::skip::can_run("every_pod_reaches_and_is_reached", PROGRAMS) {
        return;
    }
    let (node, pods) = small_node(5, &[]);
    let (first, second): (Vec<&Pod>, Vec<&Pod>) =
        pods.iter().partition(|p| table(&node, p).is_none_or(|table| table == "main"));
    assert_eq!((first.len(), second.len()), (3, 2), "three on the first interface, two on the second");
    let home = node.netns();
    let own = node.address().unwrap();
    for pod in &pods {
        assert_eq!(traffic::both(&home, &pod.netns, ip(pod)).unwrap(), own, "node -> {}", pod.name);
        assert_eq!(traffic::both(&pod.netns, &home, own).unwrap(), ip(pod), "{} -> node", pod.name);
    }
    for (from, to) in [(first[0], first[1]), (first[0], second[0]), (second[0], first[0]), (second[0], second[1])] {
        let seen = traffic::both(&from.netns, &to.netns, ip(to)).unwrap();
        assert_eq!(seen, ip(from), "{} -> {}: pods see each other's own address", from.name, to.name);
    }
    let host = format!("{}-host", node.vpc_netns());
    let internet = format!("{}-inet", node.vpc_netns());
    for pod in [first[0], second[0]] {
        let seen = traffic::both(&pod.netns, &host, VPC_HOST).unwrap();
        assert_eq!(seen, ip(pod), "{} -> VPC: the source is preserved", pod.name);
        assert_eq!(traffic::both(&host, &pod.netns, ip(pod)).unwrap(), VPC_HOST, "VPC -> {}", pod.name);
        // The internet gateway lets nothing out but the instance's primary address, as a public one.
        let IpAddr::V4(seen) = traffic::both(&pod.netns, &internet, INTERNET).unwrap() else { panic!("IPv4") };
        assert_eq!(seen.octets()[..3], [203, 0, 113], "{} -> internet: SNAT to the node's address", pod.name);
        // The same datagram with an address that is not the pod's is dropped, with its own it arrives.
        let foreign = IpAddr::V4(Ipv4Addr::new(10, 0, 127, 200));
        in_netns(&pod.netns, "ip", &["addr", "add", &format!("{foreign}/32"), "dev", "lo"]).unwrap();
        let talk = traffic::Talk::new(&pod.netns, &host, VPC_HOST).with_source(foreign).within(LOST);
        let error = talk.udp().expect_err("a foreign source");
        assert!(format!("{error:#}").contains("no datagram arrived"), "{error:#}");
        assert_eq!(traffic::udp(&pod.netns, Some(ip(pod)), &host, VPC_HOST).unwrap(), ip(pod));
    }
}

#[test]
fn nothing_is_left_after_del() {
    if !ring::skip::can_run("nothing_is_left_after_del", PROGRAMS) {
        return;
    }
    // No address has rested for long enough before the test ends.
    let (mut node, pods) = small_node(5, &[("IP_COOLDOWN_PERIOD", "600")]);
    assert_eq!(node.pool().unwrap().1, 5);
    // A repeated ADD of the same sandbox: the same address, and it still works.
    let home = node.netns();
    for pod in [&pods[0], &pods[4]] {
        let again = node.attach(pod.attachment.clone()).unwrap();
        assert_eq!(again.ip, pod.ip);
        traffic::tcp(&home, &pod.netns, ip(pod)).unwrap();
    }
    assert_eq!(node.pool().unwrap().1, 5, "a repeated ADD takes no second address");
    for pod in &pods {
        node.cni().del(&pod.attachment, &pod.result).unwrap();
        node.cni().del(&pod.attachment, &pod.result).unwrap();
    }
    let traces = node.pod_traces().unwrap();
    assert!(
        traces.iter().all(|t| t.starts_with("link ")),
        "links go with the namespaces, nothing else stays: {traces:#?}"
    );
    assert_eq!(node.pool().unwrap().1, 0);
    // A DEL of a container nobody knows, without namespace and result, is fine too.
    let mut unknown = pods[0].attachment.clone();
    unknown.container = "nobody".to_owned();
    unknown.netns = String::new();
    node.cni().del(&unknown, &serde_json::Value::Null).unwrap();
    for pod in &pods {
        end_namespace(&pod.netns).unwrap();
    }
    no_trace_of(&node, &pods);
    // The addresses rest first; a pod now gets another one.
    let next = node.add_pod("next").unwrap();
    assert!(pods.iter().all(|p| p.ip != next.ip), "{} was given up a moment ago", next.ip);
    node.remove_pod(&next).unwrap();
    no_trace_of(&node, &[next]);
}

#[test]
fn del_without_the_daemon() {
    if !ring::skip::can_run("del_without_the_daemon", PROGRAMS) {
        return;
    }
    let env = vec![("IP_COOLDOWN_PERIOD".to_owned(), "1".to_owned())];
    let options = Options { instance_type: "t3.small".to_owned(), env, ..Options::of_tree() };
    let mut node = Node::new(options).unwrap();
    node.start_daemon().unwrap();
    let pods: Vec<Pod> = (0..5).map(|n| node.add_pod(&format!("p{n}")).unwrap()).collect();
    node.end_daemon(Signal::KILL).unwrap();
    let error = node.add_pod("too-late").expect_err("nobody gives addresses");
    assert!(format!("{error:#}").contains("AddNetwork"), "{error:#}");
    // From the saved result; the namespace is there as the specification asks, then it goes.
    for pod in &pods[1..] {
        node.remove_pod(pod).unwrap();
        node.cni().del(&pod.attachment, &pod.result).unwrap();
    }
    let traces = node.pod_traces().unwrap();
    assert!(!traces.is_empty() && traces.iter().all(|t| t.contains(&pods[0].ip) || t.contains("link")), "{traces:#?}");
    node.start_daemon().unwrap();
    // Those whose veth is gone give their addresses back, at the latest once no plugin can be at work on them.
    node.wait_for("only the living pod holds an address", MINUTE, |n| Ok(n.pool()?.1 == 1)).unwrap();
    assert_eq!(node.attach(pods[0].attachment.clone()).unwrap().ip, pods[0].ip, "the living pod kept its address");
    traffic::tcp(&node.netns(), &pods[0].netns, ip(&pods[0])).unwrap();
    node.remove_pod(&pods[0]).unwrap();
    no_trace_of(&node, &pods);
}

#[test]
fn check_tells_what_is_missing() {
    if !ring::skip::can_run("check_tells_what_is_missing", PROGRAMS) {
        return;
    }
    let (mut node, pods) = small_node(4, &[]);
    let home = node.netns();
    let check = |node: &Node, pod: &Pod| node.cni().check(&pod.attachment, &pod.result);
    for pod in &pods {
        check(&node, pod).unwrap();
    }
    let (first, second) = (&pods[0], &pods[3]);
    // The daemon would put back what is missing; CHECK asks none.
    node.signal_daemon(Signal::STOP).unwrap();
    in_netns(&home, "ip", &["rule", "del", "to", &first.ip, "priority", "512"]).unwrap();
    let error = format!("{:#}", check(&node, first).expect_err("the rule to the pod is gone"));
    assert!(error.contains("512"), "{error}");
    in_netns(&home, "ip", &["rule", "del", "from", &second.ip, "priority", "1536"]).unwrap();
    let error = format!("{:#}", check(&node, second).expect_err("the rule from the pod is gone"));
    assert!(error.contains("1536"), "{error}");
    node.signal_daemon(Signal::CONT).unwrap();
    // ADD again puts both right.
    for pod in [first, second] {
        node.attach(pod.attachment.clone()).unwrap();
        check(&node, pod).unwrap();
    }
    in_netns(&first.netns, "ip", &["addr", "flush", "dev", "eth0"]).unwrap();
    let error = format!("{:#}", check(&node, first).expect_err("the pod's address is gone"));
    assert!(error.contains(&first.ip), "{error}");
    for pod in &pods {
        node.remove_pod(pod).unwrap();
    }
    no_trace_of(&node, &pods);
}

#[test]
fn an_interface_that_others_attach_is_known_soon() {
    if !ring::skip::can_run("an_interface_that_others_attach_is_known_soon", PROGRAMS) {
        return;
    }
    let (node, _) = small_node(1, &[]);
    let attach = json!({"instance": "i-0c3f1a9d27b6e4851"});
    let attached = node.sim_do(&json!({"attach_interface": attach})).unwrap();
    let eni = attached["eni"].as_str().unwrap();
    // Without the kernel's news a look every ten minutes finds it.
    node.wait_for("it is known", 3 * MINUTE, |n| Ok(n.enis()?["ENIs"][eni].is_object())).unwrap();
}
