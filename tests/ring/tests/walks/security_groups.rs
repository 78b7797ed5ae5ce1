//! What EC2's security groups let through: to pods and from them, by the groups of the interface that a pod's address is
//! on. Clients are outside the VPC, so no group has them as members.

use std::net::SocketAddr;
use std::time::Duration;

use reservoir_kube::testing::{BranchInterface, CNI_NODES, Objects, pods};
use ring::cluster::{put_eni_config, put_node};
use ring::traffic::{Nobody, Talk, nobody};
use ring::{Node, Options, Pod};
use serde_json::{Value, json};

use crate::support::lab::{Account, GROUPS, PODS};
use crate::world::{PEER, PEER_NET, VPC_HOST, World, ip, owned};

const NODES: &str = GROUPS[0];
const OTHERS: &str = GROUPS[1];
/// Two ports that are served wherever a packet arrives.
const WEB: u16 = 8080;
const ADMIN: u16 = 9090;
/// How long one listens where nothing should arrive.
const LOST: Duration = Duration::from_secs(3);

/// By TCP and UDP, to or from the network beside the VPC.
fn open(world: &World, group: &str, direction: &str, port: u16) {
    for protocol in ["tcp", "udp"] {
        world.allow(group, direction, &json!({"protocol": protocol, "ports": [port, port], "peer": PEER_NET}));
    }
}

/// A client beside the VPC calls the port.
fn call(world: &World, netns: &str, address: std::net::IpAddr, port: u16) -> Talk {
    Talk::new(&world.host(), netns, address).with_source(PEER).through(SocketAddr::new(address, port), port)
}

fn is_open(world: &World, pod: &Pod, port: u16) {
    let seen = call(world, &pod.netns, ip(pod), port).both().unwrap();
    assert_eq!(seen, PEER, "{}, port {port}", pod.name);
}

fn is_closed(world: &World, pod: &Pod, port: u16) {
    lost(&call(world, &pod.netns, ip(pod), port), &format!("{}, port {port}", pod.name));
}

/// The server waits and hears of nobody, by TCP and by UDP.
fn lost(talk: &Talk, what: &str) {
    let talk = talk.clone().within(LOST);
    let error = format!("{:#}", talk.tcp().expect_err(what));
    assert!(error.contains("nobody connected"), "{what}: {error}");
    let error = format!("{:#}", talk.udp().expect_err(what));
    assert!(error.contains("no datagram arrived"), "{what}: {error}");
}

fn one_of_each(world: &World) -> [Pod; 2] {
    [world.primary().remove(0), world.secondary().remove(0)]
}

fn shut(options: Options) -> World {
    World::shut(Node::new(options).unwrap())
}

fn small(env: &[(&str, &str)]) -> Options {
    Options { instance_type: "t3.small".to_owned(), env: owned(env), ..Options::of_tree() }
}

#[test]
fn a_port_that_no_group_opens_is_closed_both_ways() {
    if !crate::can_run("a_port_that_no_group_opens_is_closed_both_ways") {
        return;
    }
    // So that pods are seen as themselves beside the VPC too.
    let mut world = shut(small(&[("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", PEER_NET)]));
    world.fill(1);
    let pods = one_of_each(&world);
    open(&world, NODES, "ingress", WEB);
    for pod in &pods {
        is_open(&world, pod, WEB);
        is_closed(&world, pod, ADMIN);
        // A member of the group, on any port.
        assert_eq!(Talk::new(&world.host(), &pod.netns, ip(pod)).both().unwrap(), VPC_HOST);
    }
    lost(&call(&world, &world.home(), world.own(), ADMIN), "the node");

    // Out: everything at first, then one port of one network. What answers needs no rule.
    for net in ["0.0.0.0/0", "::/0"] {
        world.forbid(NODES, "egress", &json!({"peer": net}));
    }
    open(&world, NODES, "egress", ADMIN);
    for pod in &pods {
        let to_peer = |port| Talk::new(&pod.netns, &world.host(), PEER).through((PEER, port).into(), port);
        assert_eq!(to_peer(ADMIN).both().unwrap(), ip(pod));
        lost(&to_peer(WEB), &format!("{} -> beside the VPC", pod.name));
        assert_eq!(nobody(&pod.netns, (VPC_HOST, WEB).into()).unwrap(), Nobody::IsSilent, "{} -> VPC", pod.name);
        is_open(&world, pod, WEB);
    }
    world.close();
}

/// A custom-networking node whose pods have the groups of the ENIConfig; its daemon is not started yet.
fn custom(options: Options) -> (Node, Objects) {
    let mut node = Node::new(options).unwrap();
    let objects = Objects::new();
    put_node(&objects, "us-west-2a", 110);
    objects.put(CNI_NODES, json!({"metadata": {"name": "node-1"}, "spec": {"features": []}}));
    put_eni_config(&objects, "default", PODS, &[OTHERS]);
    node.start_cluster(&objects).unwrap();
    (node, objects)
}

fn custom_options(instance_type: &str, env: &[(&str, &str)]) -> Options {
    let mut all = owned(env);
    all.extend(owned(&[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true")]));
    let sim = vec!["--preset".to_owned(), "custom".to_owned()];
    Options { instance_type: instance_type.to_owned(), env: all, sim, ..Options::of_tree() }
}

/// Opened for pods by the ENIConfig's group, for the node by its own; neither is the other's.
fn pods_and_node_have_their_own(world: &World, pod: &Pod) {
    is_open(world, pod, WEB);
    is_closed(world, pod, ADMIN);
    let (home, own) = (world.home(), world.own());
    assert_eq!(call(world, &home, own, ADMIN).both().unwrap(), PEER);
    lost(&call(world, &home, own, WEB), "the node");
}

#[test]
fn pods_of_custom_networking_are_behind_the_groups_of_their_eni_config() {
    if !crate::can_run("pods_of_custom_networking_are_behind_the_groups_of_their_eni_config") {
        return;
    }
    let (node, _) = custom(custom_options("t3.small", &[]));
    let mut world = World::shut(node);
    open(&world, OTHERS, "ingress", WEB);
    open(&world, NODES, "ingress", ADMIN);
    let pod = world.add("pod");
    assert!(pod.ip.starts_with("100.64."));
    pods_and_node_have_their_own(&world, &pod);
    world.close();
}

/// The groups of the interfaces in the account, the primary's first.
fn groups(account: &Account) -> Vec<&[String]> {
    account.enis.iter().map(|e| e.groups.as_slice()).collect()
}

/// An operator gives the primary interface another group.
fn give_primary(world: &World, group: &str) {
    let primary = Account::of(&world.node).unwrap().enis.remove(0).id;
    let form = format!("Action=ModifyNetworkInterfaceAttribute&NetworkInterfaceId={primary}&SecurityGroupId.1={group}");
    world.node.sim_do(&json!({"operate": form})).unwrap();
}

/// Spec 03 §7.9.
#[test]
fn pods_follow_the_groups_of_the_primary_interface() {
    if !crate::can_run("pods_follow_the_groups_of_the_primary_interface") {
        return;
    }
    let mut world = shut(small(&[]));
    world.fill(1);
    open(&world, NODES, "ingress", WEB);
    open(&world, OTHERS, "ingress", ADMIN);
    let pods = one_of_each(&world);
    for pod in &pods {
        is_open(&world, pod, WEB);
        is_closed(&world, pod, ADMIN);
    }
    give_primary(&world, OTHERS);
    let follow = |node: &Node| {
        let account = Account::of(node)?;
        let all = groups(&account);
        anyhow::ensure!(all.iter().all(|g| *g == [OTHERS]), "{all:?}");
        Ok(true)
    };
    world.node.wait_for("every interface has the primary's new group", Duration::from_secs(150), follow).unwrap();
    for pod in &pods {
        is_open(&world, pod, ADMIN);
        is_closed(&world, pod, WEB);
    }
    world.close();
}

/// Suite `custom-networking-sgpp`: both features.
#[test]
fn custom_networking_with_security_groups_for_pods() {
    let test = "custom_networking_with_security_groups_for_pods";
    if !crate::can_run(test) {
        return;
    }
    let env = [("ENABLE_POD_ENI", "true"), ("RESERVOIR_ADD_WAIT_SECONDS", "30")];
    let (node, objects) = custom(custom_options("c5.large", &env));
    objects.put(&pods("default"), json!({"metadata": {"name": "plain"}, "spec": {"containers": [{"name": "c"}]}}));
    // The controller makes the trunk with the ENIConfig's group.
    let trunk = json!({
        "instance": "i-0c3f1a9d27b6e4851", "type": "trunk", "subnet": PODS, "security_groups": [OTHERS],
        "description": "aws-k8s-trunk-eni", "tags": {"eks:eni:owner": "eks-vpc-resource-controller"},
    });
    let trunk = node.sim_do(&json!({"attach_interface": trunk})).unwrap();
    let mut world = World::shut(node);
    open(&world, OTHERS, "ingress", WEB);
    open(&world, NODES, "ingress", ADMIN);
    let is_known = |n: &Node| Ok(n.enis()?["ENIs"][trunk["eni"].as_str().unwrap_or_default()]["IsTrunk"] == true);
    world.node.wait_for("the trunk is known", Duration::from_secs(90), is_known).unwrap();
    let plain = world.add("plain");
    pods_and_node_have_their_own(&world, &plain);
    let account = Account::of(&world.node).unwrap();
    assert_eq!(groups(&account), [&[NODES.to_owned()][..], &[OTHERS.to_owned()], &[OTHERS.to_owned()]]);

    // Its branch interfaces are links of the 802.1Q kind.
    objects.put_branch_pod("default", "branch", "u-branch");
    let ipv4 = Some(([100, 64, 0, 77].into(), "100.64.0.0/19".to_owned()));
    let (eni, mac) = ("eni-0d8e".to_owned(), "02:21:4c:00:00:01".to_owned());
    objects.annotate_branch("default", "branch", &BranchInterface { eni, mac, vlan: 7, ipv4, ipv6: None });
    let branch = world.node.make_pod("branch").unwrap();
    match world.node.attach(branch.clone()) {
        Ok(pod) => {
            assert_eq!(pod.ip, "100.64.0.77");
            eprintln!("SKIPPED: {test}: traffic of branch interfaces: the simulated VPC carries no vlans");
            world.node.cni().del(&pod.attachment, &pod.result).unwrap();
        }
        Err(error) => {
            let why = error.to_string();
            assert!(why.contains("failed to add vlan link vlan.eth.7"), "{why}");
            eprintln!("SKIPPED: {test}: traffic of branch interfaces: this kernel has no 802.1Q links; ring vlan has");
            world.node.cni().del(&branch, &Value::Null).unwrap();
        }
    }
    world.close();
}
