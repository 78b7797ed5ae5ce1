//! The whole-node texts of the vectors (spec 04 §17) with the real daemon and plugin, as `ip` and `iptables-save` show
//! them. The simulated EC2 chooses the addresses; everything else, order included, is the vectors'.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use reservoir_kube::testing::Objects;
use ring::cluster::{put_eni_config, put_node};
use ring::node::STANDARD_PLUGINS;
use ring::shell::in_netns;
use ring::{Node, Options, Pod};
use serde_json::{Value, json};

use crate::flavours::Flavour;
use crate::support::lab::{GROUPS, NODES, PODS};
use crate::world::{World, owned};

fn case(name: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors/datapath.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    vectors["cases"].as_array().unwrap().iter().find(|c| c["name"] == name).cloned().unwrap()
}

fn lines(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|l| l.as_str().unwrap().to_owned()).collect()
}

/// The vector's addresses and names with those that are here in their places.
struct Translation(Vec<(String, String)>);

impl Translation {
    fn of(&self, text: &str) -> String {
        let is_part = |c: char| c.is_ascii_alphanumeric() || ".:".contains(c);
        let mut words = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let (word, after) = if end == 0 { rest.split_at(1) } else { rest.split_at(end) };
            let found = self.0.iter().find(|(there, _)| there == word);
            words.push_str(found.map_or(word, |(_, here)| here));
            rest = after;
        }
        words
    }

    fn all(&self, list: &Value) -> Vec<String> {
        lines(list).iter().map(|l| self.of(l)).collect()
    }
}

fn set(lines: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    lines.into_iter().map(|l| l.trim_end().to_owned()).collect()
}

fn show(world: &World, program: &str, arguments: &[&str]) -> Vec<String> {
    let text = in_netns(&world.home(), program, arguments).unwrap();
    text.lines().map(|l| l.trim_end().to_owned()).collect()
}

/// Our chains and rules below the headers of their tables.
fn saved(world: &World, program: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut table = String::new();
    for line in show(world, program, &[]) {
        if line.starts_with('*') {
            table = line;
        } else if line.starts_with("-A") || (line.starts_with(':') && line.contains(" - ")) {
            found.insert(format!("{table} {}", line.split(" [").next().unwrap_or_default()));
        }
    }
    found
}

/// The same of a vector.
fn expected_saved(lines: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut table = "";
    for line in lines {
        match line.strip_prefix('*') {
            Some(_) => table = line,
            None => _ = found.insert(format!("{table} {}", line.split(" [").next().unwrap_or_default())),
        }
    }
    found
}

/// IPv4 routes but for those of table local.
fn routes(world: &World) -> BTreeSet<String> {
    let shown = show(world, "ip", &["-4", "route", "show", "table", "all"]);
    set(shown.into_iter().filter(|l| !l.contains("table local")))
}

/// The secondary interface's own address, as EC2 says.
fn address_of_device(world: &World, index: u64, field: &str) -> String {
    let state = world.node.sim_state().unwrap();
    let enis = state["enis"].as_array().unwrap();
    let eni = enis.iter().find(|e| e["attachment"]["device_index"] == index).unwrap();
    let value = if eni[field].is_array() { &eni[field][0] } else { &eni[field] };
    value.as_str().unwrap_or_else(|| panic!("{eni}")).to_owned()
}

/// Adds a pod of the vector under its namespace and name; with `cards`, on every card.
fn add(world: &mut World, pod: &Value, cards: bool) -> Pod {
    let mut attachment = world.node.make_pod(pod["name"].as_str().unwrap()).unwrap();
    attachment.namespace = pod["namespace"].as_str().unwrap().to_owned();
    if let Some(container) = pod["container_id"].as_str() {
        container.clone_into(&mut attachment.container);
    }
    if cards {
        let annotation = ("k8s.amazonaws.com/nicConfig".to_owned(), "multi-nic-attachment".to_owned());
        attachment.annotations = BTreeMap::from([annotation]);
    }
    let attached = world.node.attach(attachment);
    let added = attached.unwrap_or_else(|e| panic!("{pod}: {e:#}\n{}", world.node.log_tail(20)));
    world.keep(&added);
    added
}

/// A node at the vectors' address in the vectors' subnet, with no interface to spare.
fn options(dir: &Path, flavour: Flavour, config: &Value, env: &[(&str, &str)]) -> Options {
    let file = dir.join("account.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let (_, path) = flavour.path(dir);
    let settings = [("PATH", path.as_str()), ("WARM_ENI_TARGET", "0")];
    Options {
        instance_type: "t3.small".to_owned(),
        env: owned(&[&settings, env].concat()),
        sim: vec!["--config".to_owned(), file.display().to_string()],
        ..Options::of_tree()
    }
}

fn account(more: &[Value], cidrs: &[&str]) -> Value {
    let subnets: Vec<Value> = [json!({"id": NODES, "cidr": "10.0.96.0/19"})].iter().chain(more).cloned().collect();
    json!({
        "vpc": {"id": "vpc-0b6c1d2e3f4a59687", "cidrs": cidrs, "ipv6_cidrs": []},
        "subnets": subnets,
        "instances": [{"id": "i-0c3f1a9d27b6e4851", "type": "t3.small", "subnet": NODES, "address": "10.0.96.10"}],
    })
}

fn compare(world: &World, flavour: Flavour, expected: &Value, translation: &Translation) {
    assert_eq!(show(world, "ip", &["rule"]), translation.all(&expected["ip_rule"]));
    assert_eq!(routes(world), set(translation.all(&expected["ip4_routes"])));
    let program = flavour.program("iptables-save");
    assert_eq!(saved(world, &program), expected_saved(&translation.all(&expected["iptables_save"])));
    let other = if flavour == Flavour::Legacy { Flavour::Nft } else { Flavour::Legacy };
    assert_eq!(saved(world, &other.program("iptables-save")), BTreeSet::new(), "the other kind has nothing");
    // Without the table there is nothing to list.
    let listed = in_netns(&world.home(), "nft", &["list", "table", "ip", "aws-cni"]).unwrap_or_default();
    let listed: Vec<String> = listed.lines().map(str::to_owned).collect();
    let wanted = if expected["nft_table"].is_null() { Vec::new() } else { lines(&expected["nft_table"]) };
    assert_eq!(without_counters(&listed), without_counters(&wanted));
}

#[test]
fn the_default_mode_is_as_in_the_vector() {
    let test = "the_default_mode_is_as_in_the_vector";
    if !crate::can_run(test) {
        return;
    }
    for flavour in Flavour::all(test) {
        the_default_mode(flavour, case("snapshot-default-iptables")["expected"].clone());
    }
}

/// With nftables the connmark rules have the form of spec 04 §11.3, and nothing else differs.
fn with_nftables(expected: &mut Value) {
    let is_connmark =
        |l: &str| ["AWS-CONNMARK-CHAIN", "AWS, CONNMARK", "AWS, outbound"].iter().any(|part| l.contains(part));
    let saved = lines(&expected["iptables_save"]).into_iter().filter(|l| !is_connmark(l));
    expected["iptables_save"] = saved.collect();
    let custom = lines(&case("snapshot-custom-networking-nft")["expected"]["nft_table"]);
    // The same with the one block that the VPC has here.
    expected["nft_table"] = custom.into_iter().filter(|l| !l.contains("100.64.0.0/16")).collect();
}

fn the_default_mode(flavour: Flavour, mut whole: Value) {
    if flavour == Flavour::Nft {
        with_nftables(&mut whole);
    }
    let case = case("snapshot-default-iptables");
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), flavour, &account(&[], &["10.0.0.0/16"]), &[]);
    let mut world = World::new(options);
    // One pod on the primary interface and two on the next: the other places of the primary are held meanwhile.
    let vector = case["inputs"]["pods"].as_array().unwrap().clone();
    let first = add(&mut world, &vector[0], false);
    let held = [world.node.add_pod("held0").unwrap(), world.node.add_pod("held1").unwrap()];
    let others = [add(&mut world, &vector[1], false), add(&mut world, &vector[2], false)];
    for pod in &held {
        world.node.remove_pod(pod).unwrap();
    }
    assert_eq!((world.primary().len(), world.secondary().len()), (1, 2));
    // The kernel takes a namespace's links down in its own time.
    let gone = |n: &Node| Ok(n.pod_traces()?.iter().filter(|t| t.starts_with("link")).count() == 3);
    world.node.wait_for("the held places are free", crate::support::lab::MINUTE, gone).unwrap();
    let here = [first, others[0].clone(), others[1].clone()];
    let pods = vector.iter().zip(&here).map(|(p, h)| (p["ip"].as_str().unwrap().to_owned(), h.ip.clone()));
    let own = ("10.0.100.20".to_owned(), address_of_device(&world, 1, "primary"));
    let translation = Translation(pods.chain([own]).collect());
    compare(&world, flavour, &whole, &translation);

    // §17.2: translated elsewhere. The same rules and routes, of iptables the mangle part and an empty chain.
    let mut external = whole.clone();
    let kept = lines(&external["iptables_save"]).into_iter();
    let kept = kept.filter(|l| l.starts_with('*') || l.contains("AWS, primary ENI") || l.starts_with(":AWS-SNAT"));
    external["iptables_save"] = kept.collect();
    external["nft_table"] = Value::Null;
    world.restart(&[("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true")]);
    compare(&world, flavour, &external, &translation);
    // Without node ports neither the rule nor the mangle part.
    external["iptables_save"] = json!(["*nat", ":AWS-SNAT-CHAIN-0 - [0:0]"]);
    external["ip_rule"] = lines(&external["ip_rule"]).into_iter().filter(|l| !l.contains("fwmark")).collect();
    world.restart(&[("AWS_VPC_CNI_NODE_PORT_SUPPORT", "false")]);
    compare(&world, flavour, &external, &translation);
    // And back, with nothing left of the way.
    world.restart(&[("AWS_VPC_K8S_CNI_EXTERNALSNAT", ""), ("AWS_VPC_CNI_NODE_PORT_SUPPORT", "")]);
    compare(&world, flavour, &whole, &translation);
    world.close();
}

#[test]
fn custom_networking_is_as_in_the_vector() {
    let test = "custom_networking_is_as_in_the_vector";
    if !crate::can_run(test) || !Flavour::all(test).contains(&Flavour::Nft) {
        return;
    }
    let case = case("snapshot-custom-networking-nft");
    let dir = tempfile::tempdir().unwrap();
    let account = account(&[json!({"id": PODS, "cidr": "100.64.0.0/19"})], &["10.0.0.0/16", "100.64.0.0/16"]);
    let env = [("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true")];
    // Nine addresses on an interface: one that is given out wholly brings the next.
    let options = options(dir.path(), Flavour::Nft, &account, &env);
    let mut node = Node::new(Options { instance_type: "c5.large".to_owned(), ..options }).unwrap();
    let objects = Objects::default();
    put_node(&objects, "us-west-2a", 110);
    put_eni_config(&objects, "default", PODS, &[GROUPS[1]]);
    node.start_cluster(&objects).unwrap();
    let mut world = World::of(node);
    let vector = case["inputs"]["pods"].as_array().unwrap().clone();
    let here: Vec<Pod> = vector.iter().map(|p| add(&mut world, p, false)).collect();
    let pods = vector.iter().zip(&here).map(|(p, h)| (p["ip"].as_str().unwrap().to_owned(), h.ip.clone()));
    let own = ("100.64.0.20".to_owned(), address_of_device(&world, 1, "primary"));
    let translation = Translation(pods.chain([own]).collect());
    compare(&world, Flavour::Nft, &case["expected"], &translation);
    world.close();
}

/// The lines of a table of nftables, without blank ones, and with no packets counted.
fn without_counters(lines: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for line in lines.iter().filter(|l| !l.trim().is_empty()) {
        let mut words = line.trim().split(' ').peekable();
        let mut kept = Vec::new();
        while let Some(word) = words.next() {
            kept.push(word);
            if ["packets", "bytes"].contains(&word) && words.next().is_some() {
                kept.push("0");
            }
        }
        all.push(kept.join(" "));
    }
    all
}

#[test]
fn ipv6_on_two_cards_is_as_in_the_vector() {
    let test = "ipv6_on_two_cards_is_as_in_the_vector";
    if !crate::can_run(test) {
        return;
    }
    let case = case("snapshot-ipv6-multi-nic");
    // Of all its pods the vector shows one with its egress to IPv4, the first.
    let egress = Path::new(STANDARD_PLUGINS).join("host-local").is_file();
    if !egress {
        eprintln!("SKIPPED: {test}: the lines of egress-cni need {STANDARD_PLUGINS}/host-local");
    }
    let mut world = World::new(Options {
        instance_type: "c6in.32xlarge".to_owned(),
        egress,
        env: owned(&[crate::ipv6::ENV, &[("ENABLE_MULTI_NIC", "true")]].concat()),
        sim: vec!["--preset".to_owned(), "multinic-ipv6".to_owned()],
        ..Options::of_tree()
    });
    let vector = case["inputs"]["pods"].as_array().unwrap().clone();
    let mut pairs = Vec::new();
    for pod in &vector {
        let there = lines(&pod["ips"]);
        let here = add(&mut world, pod, there.len() > 1);
        assert_eq!(here.ips.len(), there.len());
        if let Some(veth) = pod["egress_host_veth"].as_str().filter(|_| egress) {
            let end = here.result["interfaces"].as_array().unwrap().iter().rev().nth(1).unwrap();
            pairs.push((veth.to_owned(), end["name"].as_str().unwrap().to_owned()));
        }
        pairs.extend(there.into_iter().zip(here.ips));
    }
    let state = world.node.sim_state().unwrap();
    let second = state["enis"].as_array().unwrap().iter().find(|e| e["attachment"]["card"] == 1).unwrap().clone();
    pairs.push(("2600:1f14:abc:d00::20".to_owned(), second["ipv6"][0].as_str().unwrap().to_owned()));
    // It is device 1 there.
    let device = second["attachment"]["device_index"].as_u64().unwrap();
    pairs.push(("10101".to_owned(), (10_100 + device).to_string()));
    pairs.push(("eth1".to_owned(), format!("eth1x{device}")));
    // What the pods' egress is translated to.
    pairs.push(("10.0.96.10".to_owned(), world.node.other_address().unwrap().to_string()));
    let translation = Translation(pairs);
    let expected = &case["expected"];
    assert_eq!(show(&world, "ip", &["-6", "rule"]), translation.all(&expected["ip6_rule"]));
    assert_eq!(show(&world, "ip", &["-4", "rule"]), translation.all(&expected["ip_rule"]));
    // What the kernel and DHCP made is left out there.
    let is_ours = |l: &String| {
        let systems = ["table local", "proto kernel", "dev eth0 ", "dev lo ", "multicast"];
        !systems.iter().any(|s| l.contains(s)) && !l.starts_with("ff00::") && !l.starts_with("fe80::/64")
    };
    let routes = show(&world, "ip", &["-6", "route", "show", "table", "all"]);
    assert_eq!(set(routes.into_iter().filter(is_ours)), set(translation.all(&expected["ip6_routes"])));
    assert_eq!(saved(&world, "ip6tables-save"), BTreeSet::new());
    if egress {
        let routes = show(&world, "ip", &["-4", "route", "show", "table", "all"]);
        for route in translation.all(&expected["ip4_routes_present"]) {
            assert!(routes.contains(&route), "no {route} in {routes:#?}");
        }
    }
    let (wanted, mut found) =
        (expected_saved(&translation.all(&expected["iptables_save"])), saved(&world, "iptables-save"));
    let is_egress = |l: &String| l.contains("CNI-E4-");
    // The vector does not show the other pods'.
    found.retain(|l| !is_egress(l) || wanted.contains(l));
    assert_eq!(found, wanted.into_iter().filter(|l| egress || !is_egress(l)).collect());
    world.close();
}
