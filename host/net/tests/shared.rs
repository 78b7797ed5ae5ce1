//! What the daemon shares the host's rules with: branch pods, rules of earlier versions and of the image, whoever has an
//! interface after it.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use reservoir_net::eni::{self, EniSetup};
use reservoir_net::netns::Netns;
use reservoir_net::pods;
use reservoir_net::rule::Family;
use support::{Namespace, SECONDARY, SECONDARY_IP, mac, secondary};

const ETH2: &str = "02:00:00:00:00:03";

fn setup(table: u32, rule_configured: bool) -> EniSetup {
    EniSetup { table, rule_configured, ..secondary() }
}

#[test]
fn rules_of_branch_pods_outlive_what_a_start_does_to_those_of_the_pool() {
    // Spec 04 §12.2, §6.2: standard mode.
    let Some(node) = Namespace::new("rules_of_branch_pods_outlive_a_start") else { return };
    let empty = node.inventory();
    for rule in ["to 10.0.120.77 priority 512 lookup main", "from 10.0.120.77 priority 1536 lookup 107"] {
        node.ip(&format!("rule add {rule}"));
    }
    let pod = Ipv4Addr::new(10, 0, 120, 77);
    let rules = ["rule -4 1536: from 10.0.120.77/32 lookup 107", "rule -4 512: from all to 10.0.120.77/32 lookup 254"];
    assert_eq!(node.run(|| pods::shown(Family::V4)).unwrap(), []);
    node.run(|| pods::prune(pod)).unwrap();
    node.run(|| pods::refresh_from_rules(&[Ipv4Addr::new(10, 0, 97, 31)])).unwrap();
    node.has_besides(&empty, &rules);
    // With an interface behind the table it is an ordinary pod.
    node.ip("rule add from 10.0.100.20 priority 32765 lookup 107");
    assert_eq!(node.run(|| pods::shown(Family::V4)).unwrap().len(), 1);
    node.run(|| pods::prune(pod)).unwrap();
    node.has_besides(&empty, &["rule -4 32765: from 10.0.100.20/32 lookup 107"]);
}

#[test]
fn an_interface_of_another_card_keeps_its_table_and_one_that_is_left_keeps_the_rules_of_others() {
    // Spec 04 §7.3.
    let Some(node) = Namespace::new("an_interface_of_another_card_keeps_its_table") else { return };
    node.attach("eth1", SECONDARY);
    let choose = || node.run(|| eni::choose_table(1, 1, IpAddr::V4(SECONDARY_IP), 8)).unwrap();
    let of_eth1 = || {
        let rules = node.ip("rule show");
        rules.lines().filter(|l| l.contains("10.0.100.20")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((choose().table, choose().rule_configured), (10_101, false));
    node.run(|| eni::set_up(&setup(10_101, false), Duration::ZERO)).unwrap();
    assert_eq!(of_eth1(), ["32765:\tfrom 10.0.100.20 lookup 10101"]);
    assert_eq!((choose().table, choose().rule_configured), (10_101, true), "its own rule is found again");
    node.ip("rule add from 10.0.100.20 priority 100 lookup 77");
    node.run(|| eni::leave(SECONDARY_IP.into(), 10_101)).unwrap();
    node.run(|| eni::leave(SECONDARY_IP.into(), 10_101)).unwrap();
    assert_eq!(of_eth1(), ["100:\tfrom 10.0.100.20 lookup 77"], "what is another's stays");

    let chosen = choose();
    assert_eq!((chosen.table, chosen.rule_configured), (77, true));
    node.run(|| eni::set_up(&setup(chosen.table, chosen.rule_configured), Duration::ZERO)).unwrap();
    assert_eq!(of_eth1(), ["100:\tfrom 10.0.100.20 lookup 77"], "no second rule");
    assert!(node.ip("route show table 77").contains("default via 10.0.96.1 dev eth1"));
}

#[test]
fn a_trunk_without_an_address_is_brought_up_and_given_nothing() {
    let Some(node) = Namespace::new("a_trunk_without_an_address_is_brought_up") else { return };
    node.attach("eth2", ETH2);
    let before = node.inventory();
    let link = node.run(|| eni::bring_up(mac(ETH2), 1400, Duration::ZERO)).unwrap();
    let shown = node.ip("-o link show eth2");
    assert!(shown.contains("mtu 1400") && shown.contains(",UP"), "{shown}");
    assert_eq!(node.ip("-4 -o addr show dev eth2"), "");
    node.has_besides(&before, &[]);
    assert_eq!(link.name, "eth2");
    let missing = node.run(|| eni::bring_up(mac(SECONDARY), 1400, Duration::ZERO)).unwrap_err().to_string();
    assert!(missing.contains(SECONDARY), "{missing}");
}

/// An interface of this name: kernels without vlans have others.
fn vlan(node: &Namespace) {
    node.ip("link add vlan.eth.7 type veth peer name far.eth.7");
}

#[test]
fn what_branch_pods_left_goes_in_both_modes() {
    let Some(node) = Namespace::new("what_branch_pods_left_goes_in_both_modes") else { return };
    let empty = node.inventory();
    for rules in [
        ["to 10.0.120.77 priority 512 lookup main", "from 10.0.120.77 priority 1536 lookup 107"],
        ["iif vlanbbbbbbbbbbb priority 10 lookup 107", "iif vlan.eth.7 priority 10 lookup 107"],
    ] {
        vlan(&node);
        rules.iter().for_each(|rule| drop(node.ip(&format!("rule add {rule}"))));
        assert_eq!(node.run(pods::remove_stale).unwrap().len(), 3, "{rules:?}");
        node.has_besides(&empty, &[]);
    }
    // Of nobody who is known to be dead.
    vlan(&node);
    assert_eq!(node.run(pods::remove_stale).unwrap(), Vec::<String>::new());
    assert!(node.ip("-o link show").contains("vlan.eth.7"));
}

#[test]
fn the_vlan_of_a_pod_that_is_just_coming_is_not_taken_for_a_dead_one_s() {
    let Some(node) = Namespace::new("the_vlan_of_a_pod_that_is_just_coming") else { return };
    // A strict pod of the same vlan has gone without a DEL.
    node.ip("rule add iif vlanbbbbbbbbbbb priority 10 lookup 107");
    node.ip("rule add iif vlan.eth.7 priority 10 lookup 107");
    // Its successor's ADD, as far as the vlan.
    let wiring = node.run(|| Netns::current().and_then(Netns::share)).unwrap();
    vlan(&node);
    let other = Namespace::again(&node);
    let collecting = thread::spawn(move || other.run(pods::remove_stale).unwrap());
    thread::sleep(Duration::from_millis(300));
    assert!(node.ip("-o link show").contains("vlan.eth.7") && !collecting.is_finished());
    // Another one is not held up.
    drop(node.run(|| Netns::current().and_then(Netns::share)).unwrap());
    node.ip("link add vlanaaaaaaaaaaa type veth peer name pod-end");
    node.ip("rule add iif vlanaaaaaaaaaaa priority 10 lookup 107");
    drop(wiring);
    let removed = collecting.join().unwrap();
    assert_eq!(removed, ["rule delete 10: from all iif vlanbbbbbbbbbbb lookup 107"]);
    let rules = node.ip("rule show priority 10");
    assert_eq!(rules.lines().count(), 2, "{rules}");
    assert!(node.ip("-o link show").contains("vlan.eth.7"));
}
