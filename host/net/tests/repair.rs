//! What is removed comes back, in real namespaces: each thing in turn, looked at with `ip`.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use reservoir_net::eni::{self, EniSetup};
use reservoir_net::host::{self, HostConfig};
use reservoir_net::news::{self, News};
use reservoir_net::repair::pods::{FirstNames, Memory, Pod};
use reservoir_net::repair::{self, Kind, Ours, Outcome, Secondary};
use reservoir_net::rule::Family;
use reservoir_net::writes::{self, Writes};
use reservoir_net::{names, table};
use support::{CONFIG, Namespace, PRIMARY, mac, secondary};

const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 97, 31);

/// A node with two interfaces and a pod on the second.
struct Node {
    netns: Namespace,
    config: HostConfig,
    enis: Vec<Secondary>,
    pods: Vec<Pod>,
    veth: String,
    memory: Memory,
}

impl Node {
    fn new(test: &str) -> Option<Self> {
        let netns = Namespace::new(test)?;
        netns.attach("eth0", PRIMARY);
        netns.ip("link set eth0 up");
        netns.attach("eth1", support::SECONDARY);
        let setup = secondary();
        let table = setup.table;
        netns.run(|| {
            host::set_up(&CONFIG, mac(PRIMARY)).unwrap();
            host::set_external_services(&["10.200.0.0/16".parse().unwrap()]).unwrap();
            eni::set_up(&setup, Duration::ZERO).unwrap();
        });
        let suffix = names::suffix("default", "web-1", 0);
        let veth = format!("eni{suffix}");
        netns.ip(&format!("link add {veth} address 02:00:00:00:00:09 type veth peer name pod-end"));
        netns.ip("link set pod-end up");
        netns.ip(&format!("link set {veth} up"));
        netns.ip(&format!("route add {POD} dev {veth} scope link"));
        netns.ip(&format!("rule add to {POD} priority 512 lookup main"));
        netns.ip(&format!("rule add from {POD} priority 1536 lookup {table}"));
        let pod = Pod { address: POD.into(), table, suffix: Some(suffix), since: 1, settled: false };
        let (enis, pods, memory) = (vec![setup.into()], vec![pod], Memory::default());
        Some(Self { netns, config: CONFIG, enis, pods, veth, memory })
    }

    /// One whole look, and what it wrote.
    fn repair(&mut self) -> (Outcome, Writes) {
        let Self { netns, config, enis, pods, memory, .. } = self;
        let (writes, all) = netns.run(|| {
            writes::of(|| {
                let external = ["10.200.0.0/16".parse().unwrap()];
                let (_, mut all) = repair::host(config, mac(PRIMARY), Some(&external)).unwrap();
                let more = repair::interfaces(&*enis).unwrap();
                let checked = repair::pods::check(config.family, pods, memory, &FirstNames::default(), true).unwrap();
                all.join(more);
                all.join(checked.outcome);
                all
            })
        });
        (all, writes)
    }

    /// What is there; the kernel makes link-local routes, and takes its time.
    fn state(&self) -> String {
        let state = self.netns.state();
        state.lines().filter(|l| !l.starts_with("fe80::")).map(|l| format!("{l}\n")).collect()
    }

    fn repaired(&mut self) -> Vec<String> {
        let (outcome, _) = self.repair();
        assert!(outcome.failed.is_empty() && outcome.unseen.is_empty(), "{outcome:?}");
        outcome.done.iter().map(ToString::to_string).collect()
    }

    /// What its second interface is to be.
    fn secondary(&mut self) -> &mut EniSetup {
        match &mut self.enis[0] {
            Secondary::Programmed(setup) => setup,
            Secondary::Bare { .. } => panic!("it is no trunk"),
        }
    }
}

#[test]
fn a_look_at_a_host_that_is_right_writes_nothing() {
    let Some(mut node) = Node::new("a_look_at_a_host_that_is_right_writes_nothing") else { return };
    let before = node.netns.state();
    let netns = Namespace::again(&node.netns);
    let heard = netns.writes(|| {
        for _ in 0..3 {
            let (outcome, writes) = node.repair();
            assert!(outcome.is_empty(), "{outcome:?}");
            assert_eq!(writes, Writes::default());
        }
    });
    assert_eq!(heard, "", "the kernel told of changes");
    assert_eq!(node.netns.state(), before);
}

#[test]
fn each_thing_that_is_removed_comes_back() {
    let Some(mut node) = Node::new("each_thing_that_is_removed_comes_back") else { return };
    assert_eq!(node.repaired(), Vec::<String>::new());
    let veth = node.veth.clone();
    let harms: Vec<(Vec<String>, Kind)> = [
        ("rule del priority 512", Kind::Rule),
        ("rule del priority 1024", Kind::Rule),
        ("rule del priority 1535", Kind::Rule),
        ("rule del priority 1536", Kind::Rule),
        ("rule del priority 32765", Kind::Rule),
        ("route flush table 2", Kind::Route),
        ("route del default table 2", Kind::Route),
        ("route del 10.0.97.31", Kind::Route),
        ("route replace 10.0.97.31 dev eth0 scope link", Kind::Route),
        ("-4 addr flush dev eth1", Kind::Address),
        ("addr add 10.9.9.9/24 dev eth1", Kind::Address),
        ("link set eth1 mtu 1200", Kind::Link),
        ("link set eth0 mtu 1200", Kind::Link),
        ("link set eth1 down", Kind::Link),
    ]
    .map(|(harm, kind)| (vec![harm.to_owned()], kind))
    .into_iter()
    .chain([
        (vec![format!("link set {veth} down")], Kind::Link),
        (vec![format!("link set {veth} name stolen0")], Kind::Link),
        (vec![format!("link set {veth} down"), format!("link set {veth} name stolen1")], Kind::Link),
        (vec!["rule del priority 512".to_owned(), "rule del priority 1536".to_owned()], Kind::Rule),
    ])
    .collect();
    let before = node.state();
    let links = |node: &Node| -> Vec<String> {
        let text = node.netns.ip("-o link show");
        let state = text.lines().map(|l| l.split_once(" mtu ").map_or("", |(_, rest)| rest));
        let state =
            state.map(|l| format!("{} {}", l.split_whitespace().next().unwrap_or(""), l.contains("state DOWN")));
        state.collect()
    };
    let links_before = links(&node);
    for (harm, kind) in harms {
        for command in &harm {
            node.netns.ip(command);
        }
        assert!(node.state() != before || links(&node) != links_before || kind == Kind::Address, "{harm:?}");
        let (outcome, writes) = node.repair();
        assert!(outcome.failed.is_empty(), "{harm:?}: {:?}", outcome.failed);
        assert!(outcome.done.iter().any(|r| r.kind == kind), "{harm:?}: {:?}", outcome.done);
        assert!(writes.netlink >= outcome.done.len() as u64, "{harm:?}");
        assert_eq!(node.state(), before, "{harm:?}");
        assert_eq!(links(&node), links_before, "{harm:?}");
        let (again, writes) = node.repair();
        assert!(again.is_empty(), "{harm:?}: {again:?}");
        assert_eq!(writes, Writes::default(), "{harm:?}");
    }
    assert!(node.netns.ip("addr show eth1").contains("inet 10.0.100.20/19 scope global eth1\n"));
    assert!(!node.netns.ip("addr show eth1").contains("10.9.9.9"));
}

#[test]
fn settings_come_back() {
    let Some(mut node) = Node::new("settings_come_back") else { return };
    node.netns.command("sysctl", "-q -w net.ipv4.conf.eth0.rp_filter=1");
    let (outcome, writes) = node.repair();
    let done: Vec<_> = outcome.done.iter().map(|r| (r.kind, r.what.as_str())).collect();
    assert_eq!(done, [(Kind::Setting, "sysctl net/ipv4/conf/eth0/rp_filter=2")]);
    assert_eq!(writes, Writes { settings: 1, ..Writes::default() });
    assert_eq!(node.netns.command("cat", "/proc/sys/net/ipv4/conf/eth0/rp_filter").trim(), "2");
}

#[test]
fn interfaces_are_known_by_their_mac_addresses() {
    let Some(mut node) = Node::new("interfaces_are_known_by_their_mac_addresses") else { return };
    for (old, new) in [("eth0", "ens5"), ("eth1", "ens6")] {
        node.netns.ip(&format!("link set {old} down"));
        node.netns.ip(&format!("link set {old} name {new}"));
    }
    node.netns.ip("link set ens5 up");
    let (primary, _) = node.netns.run(|| repair::host(&CONFIG, mac(PRIMARY), None)).unwrap();
    assert_eq!(primary.name, "ens5");
    node.repaired();
    assert_eq!(node.netns.ip("route show table 2"), "default via 10.0.96.1 dev ens6\n10.0.96.1 dev ens6 scope link\n");
    // One that is gone is no failure.
    node.netns.ip("link del ens6");
    assert_eq!(node.repaired(), Vec::<String>::new());
}

#[test]
fn a_trunk_without_an_address_stays_up() {
    let Some(mut node) = Node::new("a_trunk_without_an_address_stays_up") else { return };
    const TRUNK: &str = "02:00:00:00:00:03";
    node.netns.attach("eth2", TRUNK);
    node.enis.push(Secondary::Bare { mac: mac(TRUNK), mtu: 1400 });
    node.netns.run(|| eni::bring_up(mac(TRUNK), 1400, Duration::ZERO)).unwrap();
    assert_eq!(node.repaired(), Vec::<String>::new());
    node.netns.ip("link set eth2 down");
    node.netns.ip("link set eth2 name ens7");
    node.netns.ip("link set ens7 mtu 1280");
    assert_eq!(node.repaired(), ["link set ens7 mtu 1400", "link set ens7 up"]);
    assert_eq!(node.repaired(), Vec::<String>::new());
}

#[test]
fn what_was_put_right_is_told_whatever_comes_after_it() {
    let Some(mut node) = Node::new("what_was_put_right_is_told") else { return };
    node.netns.attach("eth2", "02:00:00:00:00:03");
    let nonsense = EniSetup { mac: mac("02:00:00:00:00:03"), table: table::MAIN, ..node.secondary().clone() };
    let right = node.enis[0].clone();
    node.enis = vec![right, nonsense.into(), Secondary::Bare { mac: mac("02:00:00:00:00:03"), mtu: 1400 }];
    node.netns.ip("rule del priority 32765");
    let (outcome, _) = node.repair();
    let done: Vec<_> = outcome.done.iter().map(ToString::to_string).collect();
    assert_eq!(
        done,
        ["rule add 32765: from 10.0.100.20/32 lookup 2", "link set eth2 mtu 1400", "link set eth2 up"],
        "before and after"
    );
    let unseen: Vec<_> = outcome.unseen.iter().map(ToString::to_string).collect();
    assert_eq!(unseen, ["eth2: setupENINetwork should never be called on the primary ENI"]);
}

#[test]
fn what_was_right_already_is_no_repair() {
    let Some(mut node) = Node::new("what_was_right_already_is_no_repair") else { return };
    // The subnet's route as somebody else made it, for another source address or none: it is not ours to remove.
    for other in ["10.0.96.0/19 dev eth1 scope link src 10.9.9.9", "10.0.96.0/19 dev eth1 scope link metric 50"] {
        node.netns.ip("addr add 10.9.9.9/32 dev lo");
        node.netns.ip(&format!("route add {other}"));
        let (outcome, writes) = node.repair();
        assert!(outcome.is_empty(), "{other}: {outcome:?}");
        assert_eq!(writes, Writes::default(), "{other}");
        node.netns.ip(&format!("route del {other}"));
        node.netns.ip("addr del 10.9.9.9/32 dev lo");
    }
    // The kernel's own goes.
    node.netns.ip("route add 10.0.96.0/19 dev eth1 scope link src 10.0.100.20");
    assert_eq!(node.repaired(), ["route delete 10.0.96.0/19 src 10.0.100.20 scope link table 254"]);
}

#[test]
fn a_strict_node_stays_strict() {
    let Some(mut node) = Node::new("a_strict_node_stays_strict") else { return };
    node.config.strict_branches = true;
    node.repaired();
    let before = node.netns.state();
    node.netns.ip("rule add priority 0 lookup local");
    node.netns.ip("rule del priority 20");
    assert_eq!(node.repaired().len(), 2);
    assert_eq!(node.netns.state(), before);
}

#[test]
fn rules_of_others_and_of_branch_pods_stay() {
    let Some(mut node) = Node::new("rules_of_others_and_of_branch_pods_stay") else { return };
    for rule in [
        "to 10.0.120.77 priority 512 lookup main",
        "from 10.0.120.77 priority 1536 lookup 107",
        "iif vlan.eth.7 priority 10 lookup 107",
        "from 10.0.97.31 fwmark 0x4 priority 1536 lookup 77",
        "to 10.0.97.31 priority 600 lookup main",
    ] {
        node.netns.ip(&format!("rule add {rule}"));
    }
    let before = node.netns.state();
    assert_eq!(node.repaired(), Vec::<String>::new());
    assert_eq!(node.netns.state(), before);
}

#[test]
fn a_pod_that_is_gone_stays_gone() {
    let Some(mut node) = Node::new("a_pod_that_is_gone_stays_gone") else { return };
    node.repaired();
    // A DEL whose answer was lost: the plugin has taken away what it knew of, the store still has the pod.
    node.netns.ip("rule del priority 512");
    node.netns.ip("rule del priority 1536");
    node.netns.ip("route del 10.0.97.31");
    assert_eq!(node.repaired().len(), 3, "its veth is still there");
    let pods = std::mem::take(&mut node.pods);
    node.repaired();
    let traces = |node: &Node| node.netns.run(|| reservoir_net::pods::traces(POD)).unwrap();
    assert_eq!(traces(&node), Vec::<String>::new(), "the store has let go of it");
    // And once more: nobody writes for a pod whose veth went, whatever the store says.
    node.pods = pods;
    let veth = node.veth.clone();
    node.netns.ip(&format!("link del {veth}"));
    assert_eq!(node.repaired(), Vec::<String>::new());
    assert_eq!(traces(&node), Vec::<String>::new());
}

#[test]
fn ipv6_pods_and_interfaces_are_repaired_too() {
    let Some(mut node) = Node::new("ipv6_pods_and_interfaces_are_repaired_too") else { return };
    let address: IpAddr = "2600:1f14:abc:d00:7a20::2".parse().unwrap();
    node.config.family = Family::V6;
    node.pods[0] = Pod { address, settled: true, ..node.pods[0].clone() };
    node.secondary().primary_ip = "2600:1f14:abc:d00::20".parse().unwrap();
    node.secondary().subnet = "2600:1f14:abc:d00::/64".parse().unwrap();
    assert!(node.repaired().len() > 6, "nothing of IPv6 was there");
    let before = node.netns.state();
    for harm in
        ["-6 rule del priority 512", "-6 rule del priority 1536", "-6 route flush table 2", "-6 rule del priority 1024"]
    {
        node.netns.ip(harm);
        assert!(!node.repaired().is_empty(), "{harm}");
        assert_eq!(node.netns.state(), before, "{harm}");
    }
    assert_eq!(node.repair().1, Writes::default());
}

#[test]
fn the_kernel_tells_of_each_harm_and_the_news_concern_us() {
    let Some(node) = Node::new("the_kernel_tells_of_each_harm") else { return };
    let ours = Ours { tables: [2].into() };
    let concerned = |news: &News| repair::concerns(news, &ours, |ip| ip == IpAddr::from(POD));
    node.netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watcher = news::watch(&[Family::V4]).unwrap();
            for harm in [
                "rule del priority 512",
                "rule del priority 1536",
                "rule del priority 1024",
                "rule del priority 32765",
                "route del 10.0.97.31",
                "route del default table 2",
                "addr flush dev eth1",
                "link set eth1 down",
            ] {
                node.netns.ip(harm);
                let mut news = Vec::new();
                let heard = tokio::time::timeout(Duration::from_secs(10), async {
                    loop {
                        news.push(watcher.next().await.unwrap());
                        if news.last().is_some_and(concerned) {
                            return;
                        }
                    }
                });
                assert!(heard.await.is_ok(), "{harm}: {news:?}");
                // The rest of its news.
                while tokio::time::timeout(Duration::from_millis(50), watcher.next()).await.is_ok() {}
            }
            for nothing in [
                "rule add to 10.0.97.99 priority 512 lookup main",
                "rule del to 10.0.97.99 priority 512 lookup main",
                "route add 10.77.0.0/16 via 10.0.97.31 dev eth0 onlink table 77",
            ] {
                node.netns.ip(nothing);
                let news = tokio::time::timeout(Duration::from_secs(10), watcher.next()).await.unwrap().unwrap();
                assert!(!concerned(&news), "{nothing}: {news:?}");
            }
        });
    });
}

#[test]
fn who_reads_too_slowly_is_told_so() {
    let Some(node) = Node::new("who_reads_too_slowly_is_told_so") else { return };
    node.netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watcher = news::watch_with_backlog(&[Family::V4], 4096).unwrap();
            let batch: String =
                (0..250).map(|n| format!("rule add to 192.0.2.{n} priority 31000 lookup main\n")).collect();
            let file = tempfile(&batch);
            node.netns.ip(&format!("-batch {file}"));
            std::fs::remove_file(&file).unwrap();
            let mut rules = 0;
            loop {
                match watcher.next().await.unwrap() {
                    News::Overrun => break,
                    _ => rules += 1,
                }
                assert!(rules < 250, "nothing was lost");
            }
            // It goes on.
            while tokio::time::timeout(Duration::from_millis(50), watcher.next()).await.is_ok() {}
            node.netns.ip("rule del priority 512");
            let news = watcher.next().await.unwrap();
            assert!(matches!(&news, News::Rule { gone: true, rule } if rule.priority == 512), "{news:?}");
        });
    });
}

fn tempfile(content: &str) -> String {
    let path = std::env::temp_dir().join(format!("rsv-repair-{}", std::process::id()));
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}
