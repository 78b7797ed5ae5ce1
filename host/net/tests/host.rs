//! Host and interface set-up in real namespaces, looked at with `ip`.

mod support;

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use reservoir_net::eni::{self, EniSetup};
use reservoir_net::host::{self, HostConfig};
use reservoir_net::links::{self, LinkEvent};
use reservoir_net::rule::Family;
use reservoir_net::{Error, pods};
use support::{CONFIG, Namespace, PRIMARY, SECONDARY, SECONDARY_IP, mac, secondary};

#[test]
fn host_set_up_makes_the_mark_rule_and_a_second_run_changes_nothing() {
    let Some(node) = Namespace::new("host_set_up_makes_the_mark_rule") else { return };
    node.attach("eth0", PRIMARY);
    let empty = node.inventory();
    let link = node.run(|| host::set_up(&CONFIG, mac(PRIMARY))).unwrap();
    assert_eq!(link.name, "eth0");
    assert!(node.ip("rule show").contains("1024:\tfrom all fwmark 0x80/0x80 lookup main\n"));
    assert_eq!(node.command("cat", "/proc/sys/net/ipv4/conf/eth0/rp_filter").trim(), "2");
    node.has_besides(&empty, &["rule -4 1024: from all fwmark 0x80/0x80 lookup 254"]);
    let before = node.state();
    node.run(|| host::set_up(&CONFIG, mac(PRIMARY))).unwrap();
    assert_eq!(node.state(), before);

    let config = HostConfig { mtu: 1300, node_port: false, external_snat: true, ..CONFIG };
    node.run(|| host::set_up(&config, mac(PRIMARY))).unwrap();
    assert!(!node.ip("rule show").contains("fwmark"));
    assert!(node.ip("link show eth0").contains("mtu 1300"));
}

#[test]
fn eni_set_up_makes_what_the_specification_shows() {
    let Some(node) = Namespace::new("eni_set_up_makes_what_the_specification_shows") else { return };
    node.attach("eth1", SECONDARY);
    let before = node.inventory();
    let link = node.run(|| eni::set_up(&secondary(), Duration::ZERO)).unwrap();
    assert_eq!(link.name, "eth1");
    assert_eq!(node.ip("route show table 2"), "default via 10.0.96.1 dev eth1\n10.0.96.1 dev eth1 scope link\n");
    assert_eq!(node.ip("route show"), "");
    assert!(node.ip("rule show").contains("32765:\tfrom 10.0.100.20 lookup 2\n"));
    assert!(node.ip("addr show eth1").contains("inet 10.0.100.20/19 scope global eth1\n"));
    assert!(node.ip("link show eth1").contains("mtu 1400"));
    node.has_besides(
        &before,
        &[
            "route 0.0.0.0/0 via 10.0.96.1 dev eth1 table 2",
            "route 10.0.96.1/32 dev eth1 table 2",
            "rule -4 32765: from 10.0.100.20/32 lookup 2",
        ],
    );
}

#[test]
fn eni_set_up_again_never_takes_a_route_away() {
    let Some(node) = Namespace::new("eni_set_up_again_never_takes_a_route_away") else { return };
    node.attach("eth1", SECONDARY);
    node.run(|| eni::set_up(&secondary(), Duration::ZERO)).unwrap();
    node.ip("route add 10.9.0.0/16 dev eth1 table 2");
    let before = node.state();
    node.run(|| eni::set_up(&secondary(), Duration::ZERO)).unwrap();
    assert_eq!(node.state(), before);

    // An address of somebody else goes; ours, second in its subnet, stays or comes back with its routes.
    node.ip("addr flush dev eth1");
    node.ip("addr add 10.0.100.99/19 dev eth1");
    node.ip("addr add 10.0.100.20/19 dev eth1");
    node.run(|| eni::set_up(&secondary(), Duration::ZERO)).unwrap();
    assert!(!node.ip("addr show eth1").contains("10.0.100.99"));
    assert_eq!(node.ip("route show table 2"), "default via 10.0.96.1 dev eth1\n10.0.96.1 dev eth1 scope link\n");
    assert_eq!(node.ip("route show"), "");
}

#[test]
fn eni_tear_down_removes_its_rules_only() {
    let Some(node) = Namespace::new("eni_tear_down_removes_its_rules_only") else { return };
    let empty = node.inventory();
    node.attach("eth1", SECONDARY);
    let before = node.ip("rule show");
    node.run(|| eni::set_up(&secondary(), Duration::ZERO)).unwrap();
    node.ip("rule add from 10.0.100.20 priority 77 lookup 9");
    node.ip("rule add from 10.0.100.21 priority 78 lookup 9");
    node.run(|| eni::tear_down(SECONDARY_IP)).unwrap();
    node.run(|| eni::tear_down(SECONDARY_IP)).unwrap();
    assert!(node.ip("rule show").contains("78:\tfrom 10.0.100.21 lookup 9"));
    node.ip("rule del priority 78");
    assert_eq!(node.ip("rule show"), before);
    node.ip("link del eth1");
    node.has_besides(&empty, &[]);
}

#[test]
fn ipv6_eni_set_up_makes_what_the_specification_shows_and_a_second_run_writes_nothing() {
    let Some(node) = Namespace::new("ipv6_eni_set_up") else { return };
    let empty = node.inventory();
    node.attach("eth1", SECONDARY);
    let primary = "2600:1f14:abc:d00::20".parse().unwrap();
    let choice = node.run(|| eni::choose_table(1, 1, primary, 8)).unwrap();
    assert_eq!((choice.table, choice.rule_configured), (10_101, false));
    let subnet = "2600:1f14:abc:d00::/64".parse().unwrap();
    let setup = EniSetup { primary_ip: primary, subnet, table: choice.table, ..secondary() };
    node.ip("-6 addr add 2600:1f14:abc:d00::99/64 dev eth1");
    let written = node.writes(|| drop(node.run(|| eni::set_up(&setup, Duration::ZERO)).unwrap()));
    assert!(written.contains("table 10101") && written.contains("32765:"), "{written}");
    assert_eq!(
        node.ip("-6 route show table 10101"),
        "fe80:ec2::1 dev eth1 metric 1024 pref medium\ndefault via fe80:ec2::1 dev eth1 metric 1024 pref medium\n"
    );
    assert!(!node.ip("-6 route show").contains("2600:"), "the connected route is gone");
    assert!(node.ip("-6 rule show").contains("32765:\tfrom 2600:1f14:abc:d00::20 lookup 10101\n"));
    let addresses = node.ip("-6 addr show eth1");
    assert!(addresses.contains("2600:1f14:abc:d00::20/64") && addresses.contains("fe80::"), "{addresses}");
    assert!(!addresses.contains("d00::99"), "{addresses}");

    let before = node.state();
    let written = node.writes(|| drop(node.run(|| eni::set_up(&setup, Duration::ZERO)).unwrap()));
    assert_eq!(written, "");
    assert_eq!(node.state(), before);

    // What was set up by an image or an older version is found again.
    let choice = node.run(|| eni::choose_table(1, 1, primary, 8)).unwrap();
    assert_eq!((choice.table, choice.rule_configured), (10_101, true));
    node.run(|| eni::tear_down(primary)).unwrap();
    assert!(!node.ip("-6 rule show").contains("10101"));
    node.ip("link del eth1");
    node.has_besides(&empty, &[]);
}

#[test]
fn ipv6_host_set_up_keeps_to_its_family() {
    let Some(node) = Namespace::new("ipv6_host_set_up") else { return };
    node.attach("eth0", PRIMARY);
    let before = node.inventory();
    let ipv4 = node.ip("rule show");
    let config = HostConfig { family: Family::V6, ..CONFIG };
    node.run(|| host::set_up(&config, mac(PRIMARY))).unwrap();
    assert_eq!(node.ip("rule show"), ipv4);
    assert!(node.ip("-6 rule show").contains("1024:\tfrom all fwmark 0x80/0x80 lookup main\n"));
    for (key, value) in [("all/forwarding", "1"), ("eth0/accept_ra", "2"), ("all/disable_ipv6", "0")] {
        assert_eq!(node.command("cat", &format!("/proc/sys/net/ipv6/conf/{key}")).trim(), value, "{key}");
    }
    assert_eq!(node.writes(|| drop(node.run(|| host::set_up(&config, mac(PRIMARY))).unwrap())), "");
    node.has_besides(&before, &["rule -6 1024: from all fwmark 0x80/0x80 lookup 254"]);
}

#[test]
fn strict_branches_put_the_local_lookup_behind_theirs_and_back() {
    let Some(node) = Namespace::new("strict_branches_put_the_local_lookup") else { return };
    node.attach("eth0", PRIMARY);
    let empty = node.inventory();
    for (family, flag) in [(Family::V4, "-4"), (Family::V6, "-6")] {
        let ordinary = HostConfig { family, ..CONFIG };
        let strict = HostConfig { strict_branches: true, ..ordinary.clone() };
        node.run(|| host::set_up(&ordinary, mac(PRIMARY))).unwrap();
        let before = node.ip(&format!("{flag} rule show"));
        node.run(|| host::set_up(&strict, mac(PRIMARY))).unwrap();
        let rules = node.ip(&format!("{flag} rule show"));
        assert!(rules.contains("20:\tfrom all lookup local\n"), "{rules}");
        assert!(!rules.contains("0:\tfrom all lookup local\n20"), "{rules}");
        let discovery = "0:\tfrom fe80:ec2::1 ipproto ipv6-icmp lookup local\n";
        assert_eq!(rules.starts_with(discovery), family == Family::V6, "{rules}");
        assert_eq!(node.writes(|| drop(node.run(|| host::set_up(&strict, mac(PRIMARY))).unwrap())), "");
        node.run(|| host::set_up(&ordinary, mac(PRIMARY))).unwrap();
        assert_eq!(node.ip(&format!("{flag} rule show")), before);
    }
    node.has_besides(
        &empty,
        &["rule -4 1024: from all fwmark 0x80/0x80 lookup 254", "rule -6 1024: from all fwmark 0x80/0x80 lookup 254"],
    );
}

#[test]
fn a_late_interface_is_noticed_at_once_and_a_missing_one_is_named() {
    let Some(node) = Namespace::new("a_late_interface_is_noticed_at_once") else { return };
    let started = Instant::now();
    let error = node.run(|| eni::set_up(&secondary(), Duration::from_millis(50))).unwrap_err();
    assert!(matches!(error.root(), Error::LinkNotFound { key } if key.contains(SECONDARY)), "{error}");
    assert!(started.elapsed() >= Duration::from_millis(50));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| node.run(|| links::wait_for_mac(mac(SECONDARY), Duration::from_secs(20))));
        thread::sleep(Duration::from_millis(100));
        node.attach("eth1", SECONDARY);
        assert_eq!(waiting.join().unwrap().unwrap().name, "eth1");
    });
}

#[test]
fn watchers_hear_of_interfaces_that_come_and_go() {
    let Some(node) = Namespace::new("watchers_hear_of_interfaces") else { return };
    let events = node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watcher = links::watch().unwrap();
            node.attach("eth1", SECONDARY);
            node.ip("link delete eth1");
            let mut seen = Vec::new();
            loop {
                match watcher.next().await.unwrap() {
                    LinkEvent::Present(link) => seen.push(format!("+{}", link.name)),
                    LinkEvent::Removed(link) => {
                        seen.push(format!("-{} {:?}", link.name, link.mac));
                        if link.name == "eth1" {
                            return seen;
                        }
                    }
                    LinkEvent::Overrun => panic!("overrun"),
                }
            }
        })
    });
    assert!(events.contains(&"+eth1".to_owned()), "{events:?}");
    assert_eq!(events.last().unwrap(), &format!("-eth1 {:?}", Some(mac(SECONDARY))));
}

#[test]
fn pods_are_found_pruned_and_refreshed() {
    let Some(node) = Namespace::new("pods_are_found_pruned_and_refreshed") else { return };
    let empty = node.inventory();
    node.attach("eni1", "02:00:00:00:00:09");
    node.ip("link set eni1 up");
    node.ip("route add 10.0.97.31 dev eni1 scope link");
    for rule in [
        "to 10.0.97.31 priority 512 lookup main",
        "from 10.0.97.31 to 10.0.0.0/16 priority 1536 lookup 2",
        "from 10.0.97.31 to 10.1.0.0/16 priority 1536 lookup 2",
        "to 10.0.97.32 priority 512 lookup main",
        "from 10.0.97.32 priority 1536 lookup 3",
    ] {
        node.ip(&format!("rule add {rule}"));
    }
    let (live, stale) = (Ipv4Addr::new(10, 0, 97, 31), Ipv4Addr::new(10, 0, 97, 32));
    let shown = node.run(|| pods::shown(Family::V4)).unwrap();
    let summary: Vec<_> = shown.iter().map(|p| (p.address, p.host_veth.as_deref(), p.table)).collect();
    assert_eq!(summary, [(live.into(), Some("eni1"), 2), (stale.into(), None, 3)]);

    assert_eq!(node.run(|| pods::traces(live)).unwrap().len(), 4);
    assert_eq!(node.run(|| pods::traces(stale)).unwrap().len(), 2);
    node.run(|| pods::prune(stale)).unwrap();
    assert_eq!(node.run(|| pods::traces(stale)).unwrap(), Vec::<String>::new());
    node.run(|| pods::refresh_from_rules(&[live])).unwrap();
    let rules = node.ip("rule show");
    assert!(!rules.contains("10.0.97.32"), "{rules}");
    let from: Vec<_> = rules.lines().filter(|l| l.contains("from 10.0.97.31")).collect();
    assert_eq!(from, ["1536:\tfrom 10.0.97.31 lookup 2"]);

    let cidr = "10.200.0.0/16".parse().unwrap();
    node.run(|| host::set_external_services(&[cidr])).unwrap();
    node.run(|| host::set_external_services(&[cidr])).unwrap();
    assert_eq!(node.ip("rule show").matches("1535:\tfrom all to 10.200.0.0/16 lookup main").count(), 1);
    node.run(|| host::set_external_services(&[])).unwrap();
    assert!(!node.ip("rule show").contains("1535:"));
    node.run(|| pods::prune(live)).unwrap();
    node.ip("link del eni1");
    node.has_besides(&empty, &[]);
}
