//! Whole nodes, as text: the complete examples of spec 04 §17, looked at with `ip`, `iptables-save` and `nft`.

mod support;

use std::net::IpAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use reservoir_net::eni::{self, EniSetup};
use reservoir_net::host::{self, HostConfig};
use reservoir_net::iptables::{Backend, Iptables, SnatConfig};
use reservoir_net::pod::{self, PodInterface, PodSetup};
use reservoir_net::rule::Family;
use reservoir_net::testing::Inventory;
use reservoir_net::{names, table};
use support::{CONFIG, Namespace, PRIMARY, SECONDARY, is_clean_after, mac, secondary, skip, snat_config, snat_facts};

const RULES_17_1: &str = "0:\tfrom all lookup local
512:\tfrom all to 10.0.97.30 lookup main
512:\tfrom all to 10.0.97.31 lookup main
512:\tfrom all to 10.0.97.32 lookup main
1024:\tfrom all fwmark 0x80/0x80 lookup main
1536:\tfrom 10.0.97.31 lookup 2
1536:\tfrom 10.0.97.32 lookup 2
32765:\tfrom 10.0.100.20 lookup 2
32766:\tfrom all lookup main
32767:\tfrom all lookup default
";

const ROUTES_17_1: &str = "default via 10.0.96.1 dev eth1 table 2
10.0.96.1 dev eth1 table 2 scope link
default via 10.0.96.1 dev eth0
10.0.96.0/19 dev eth0 proto kernel scope link src 10.0.96.10
10.0.97.30 dev eni0d7763386da scope link
10.0.97.31 dev eni0761ccbeace scope link
10.0.97.32 dev enib5faff8a083 scope link
local 10.0.96.10 dev eth0 table local proto kernel scope host src 10.0.96.10
local 10.0.100.20 dev eth1 table local proto kernel scope host src 10.0.100.20
broadcast 10.0.127.255 dev eth0 table local proto kernel scope link src 10.0.96.10
broadcast 10.0.127.255 dev eth1 table local proto kernel scope link src 10.0.100.20
local 127.0.0.0/8 dev lo table local proto kernel scope host src 127.0.0.1
local 127.0.0.1 dev lo table local proto kernel scope host src 127.0.0.1
broadcast 127.255.255.255 dev lo table local proto kernel scope link src 127.0.0.1
";

const MANGLE: &str = r#"-A PREROUTING -i eth0 -m comment --comment "AWS, primary ENI" -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
-A PREROUTING -i eni+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A PREROUTING -i vlan+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
"#;

const RULES_17_3: &str = "0:\tfrom all lookup local
512:\tfrom all to 100.64.1.30 lookup main
512:\tfrom all to 100.64.1.31 lookup main
512:\tfrom all to 100.64.1.32 lookup main
1024:\tfrom all fwmark 0x80/0x80 lookup main
1536:\tfrom 100.64.1.30 lookup 2
1536:\tfrom 100.64.1.31 lookup 2
1536:\tfrom 100.64.1.32 lookup 2
32765:\tfrom 100.64.0.20 lookup 2
32766:\tfrom all lookup main
32767:\tfrom all lookup default
";

const ROUTES_17_3: &str = "default via 100.64.0.1 dev eth1 table 2
100.64.0.1 dev eth1 table 2 scope link
default via 10.0.96.1 dev eth0
10.0.96.0/19 dev eth0 proto kernel scope link src 10.0.96.10
100.64.1.30 dev eni0d7763386da scope link
100.64.1.31 dev eni0761ccbeace scope link
100.64.1.32 dev enib5faff8a083 scope link
local 10.0.96.10 dev eth0 table local proto kernel scope host src 10.0.96.10
broadcast 10.0.127.255 dev eth0 table local proto kernel scope link src 10.0.96.10
local 100.64.0.20 dev eth1 table local proto kernel scope host src 100.64.0.20
broadcast 100.64.31.255 dev eth1 table local proto kernel scope link src 100.64.0.20
local 127.0.0.0/8 dev lo table local proto kernel scope host src 127.0.0.1
local 127.0.0.1 dev lo table local proto kernel scope host src 127.0.0.1
broadcast 127.255.255.255 dev lo table local proto kernel scope link src 127.0.0.1
";

const SNAT_17_3: &str = r#":AWS-SNAT-CHAIN-0 -
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A AWS-SNAT-CHAIN-0 -d 100.64.0.0/16 -m comment --comment "AWS SNAT CHAIN" -j RETURN
-A AWS-SNAT-CHAIN-0 -d 10.0.0.0/16 -m comment --comment "AWS SNAT CHAIN" -j RETURN
-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment "AWS, SNAT" -m addrtype ! --dst-type LOCAL -j SNAT --to-source 10.0.96.10 --random-fully
"#;

const NFT_17_3: &str = "table ip aws-cni {
\tchain nat-prerouting {
\t\ttype nat hook prerouting priority dstnat + 10; policy accept;
\t\tfib daddr type local return
\t\tiifname \"eni*\" counter packets 0 bytes 0 jump snat-mark
\t\tcounter packets 0 bytes 0 meta mark set ct mark & 0x00000080
\t}

\tchain snat-mark {
\t\tcounter packets 0 bytes 0 ip daddr 100.64.0.0/16 return
\t\tcounter packets 0 bytes 0 ip daddr 10.0.0.0/16 return
\t\tcounter packets 0 bytes 0 ct mark set ct mark | 0x00000080
\t}
}
";

const RULES_17_4: &str = "0:\tfrom all lookup local
512:\tfrom all to 2600:1f14:abc:d00:5c1e::2 lookup main
512:\tfrom all to 2600:1f14:abc:d00:5c1e::3 lookup main
512:\tfrom all to 2600:1f14:abc:d00:5c1e::4 lookup main
512:\tfrom all to 2600:1f14:abc:d00:7a20::2 lookup main
1024:\tfrom all fwmark 0x80/0x80 lookup main
1536:\tfrom 2600:1f14:abc:d00:7a20::2 lookup 10101
32765:\tfrom 2600:1f14:abc:d00::20 lookup 10101
32766:\tfrom all lookup main
";

const ROUTES_17_4: &str = "fe80:ec2::1 dev eth1 table 10101 metric 1024 pref medium
default via fe80:ec2::1 dev eth1 table 10101 metric 1024 pref medium
2600:1f14:abc:d00:5c1e::2 dev eni0d7763386da metric 1024 pref medium
2600:1f14:abc:d00:5c1e::3 dev enib5faff8a083 metric 1024 pref medium
2600:1f14:abc:d00:5c1e::4 dev eniad0afc04a99 metric 1024 pref medium
2600:1f14:abc:d00:7a20::2 dev enic080049f1ab metric 1024 pref medium
2600:1f14:abc:d00::/64 dev eth0 proto kernel metric 256 pref medium
default via fe80::8c:1 dev eth0 proto ra metric 512 pref medium
";

const POD_RULES_17_4: &str = "0:\tfrom all lookup local
1:\tfrom 2600:1f14:abc:d00:7a20::2 lookup 1
32766:\tfrom all lookup main
";

const POD_ROUTES_17_4: &str = "fe80::2 dev mNicIf1 table 1 metric 1024 pref medium
default via fe80::2 dev mNicIf1 table 1 metric 1024 pref medium
2600:1f14:abc:d00:5c1e::4 dev eth0 proto kernel metric 256 pref medium
2600:1f14:abc:d00:7a20::2 dev mNicIf1 proto kernel metric 256 pref medium
fe80::1 dev eth0 metric 1024 pref medium
fe80::/64 dev eth0 proto kernel metric 256 pref medium
fe80::/64 dev mNicIf1 proto kernel metric 256 pref medium
default via fe80::1 dev eth0 metric 1024 pref medium
";

fn host_config(family: Family) -> HostConfig {
    HostConfig { mtu: 9001, family, ..CONFIG }
}

/// A node as the operating system leaves it: `eth0` configured, `eth1` attached.
fn boot(node: &Namespace) {
    node.attach("eth0", PRIMARY);
    node.ip("link set eth0 up");
    node.ip("addr add 10.0.96.10/19 dev eth0");
    node.ip("route add default via 10.0.96.1 dev eth0");
    node.attach("eth1", SECONDARY);
}

fn eni(primary: &str, subnet: &str, table: u32) -> EniSetup {
    let (primary_ip, subnet) = (primary.parse().unwrap(), subnet.parse().unwrap());
    EniSetup { primary_ip, subnet, mtu: 9001, table, ..secondary() }
}

/// A pod with one interface per address, as the plugin asks for it.
fn pod_setup(netns: &Namespace, namespace: &str, name: &str, addresses: &[(&str, u32)]) -> PodSetup {
    let interface = |(index, (address, table)): (usize, &(&str, u32))| PodInterface {
        name: names::container_interface("eth0", index),
        host_veth: names::host_veth("eni", namespace, name, index),
        address: address.parse().unwrap(),
        table: *table,
    };
    let interfaces = addresses.iter().enumerate().map(interface).collect();
    PodSetup { netns: netns.path(), mtu: 9001, interfaces }
}

/// Wires all, checks that exactly they came, runs `look`, takes them down, and checks that nothing is left of them.
fn with_pods(node: &Namespace, setups: &[PodSetup], namespaces: Vec<Namespace>, look: impl FnOnce()) {
    let before = node.run(Inventory::take).unwrap();
    thread::scope(|scope| {
        for setup in setups {
            scope.spawn(|| node.run(|| pod::set_up(setup)).unwrap());
        }
    });
    let interfaces: Vec<PodInterface> = setups.iter().flat_map(|s| s.interfaces.clone()).collect();
    let actual = node.run(Inventory::take).unwrap();
    assert_eq!(before.with_pods(&interfaces).differences(&actual), [""; 0]);
    for setup in setups {
        node.run(|| pod::check(setup)).unwrap();
    }
    look();
    is_clean_after(node, &before, &setups.iter().collect::<Vec<_>>(), namespaces);
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// Rules of chains, and our own chains, in the order of a table.
fn save(node: &Namespace, program: &str) -> String {
    let text = node.command(&format!("{program}-save"), "");
    let kept = text.lines().filter(|l| l.starts_with("-A") || (l.starts_with(':') && l.contains("AWS")));
    kept.map(|l| format!("{}\n", l.split(" [").next().unwrap())).collect()
}

/// Routes that are not the kernel's link-local, local and multicast ones.
fn routes_v6(namespace: &Namespace) -> String {
    let all = namespace.ip("-6 route show table all");
    let is_shown = |l: &&str| !l.contains("table local") && !l.starts_with("ff00::") && !l.starts_with("multicast");
    all.lines().filter(is_shown).map(|l| format!("{l}\n")).collect()
}

fn pods_v4(node: &Namespace, addresses: [(&str, u32); 3], look: impl FnOnce()) {
    let namespaces: Vec<Namespace> = (0..3).map(|_| Namespace::new("pod").unwrap()).collect();
    let names = [("default", "web-0"), ("default", "web-1"), ("kube-system", "coredns-57ff979f67-qqbdh")];
    let setups: Vec<PodSetup> =
        (0..3).map(|i| pod_setup(&namespaces[i], names[i].0, names[i].1, &addresses[i..=i])).collect();
    with_pods(node, &setups, namespaces, look);
}

/// Each kind of iptables that works here, each on a node of its own.
fn each_kind(test: &str, run: impl Fn(&Namespace, &str)) {
    for program in ["iptables-legacy", "iptables-nft"] {
        let Some(node) = Namespace::new(test) else { return };
        let works = node.run(|| Command::new(program).args(["-t", "nat", "-S"]).output());
        if works.is_ok_and(|o| o.status.success()) {
            run(&node, program);
        } else {
            let _: Option<()> = skip(test, &format!("{program} does not work here"));
        }
    }
}

#[test]
fn the_default_mode_and_external_snat_are_as_in_the_examples() {
    each_kind("the_default_mode_and_external_snat", |node, program| {
        boot(node);
        let config = host_config(Family::V4);
        node.run(|| host::set_up(&config, mac(PRIMARY))).unwrap();
        let setup = eni("10.0.100.20", "10.0.96.0/19", table::of_interface(0, 1));
        node.run(|| eni::set_up(&setup, Duration::ZERO)).unwrap();
        let mut iptables = Iptables::detect(program).unwrap().with_backend(Backend::Iptables);
        let facts = snat_facts(&["10.0.0.0/16"]);
        node.run(|| iptables.apply(&snat_config(), &facts)).unwrap();
        let pods = [("10.0.97.30", 254), ("10.0.97.31", 2), ("10.0.97.32", 2)];
        let look = || {
            assert_eq!(sorted(&node.ip("rule show")), sorted(RULES_17_1));
            assert_eq!(sorted(&node.ip("-4 route show table all")), sorted(ROUTES_17_1));
        };
        pods_v4(node, pods, look);

        // The same with addresses translated elsewhere (§17.2): fewer rules of iptables, the same of the rest.
        let external = HostConfig { external_snat: true, ..config.clone() };
        let rules = node.ip("rule show");
        node.run(|| host::set_up(&external, mac(PRIMARY))).unwrap();
        assert_eq!(node.ip("rule show"), rules);
        let external_snat = SnatConfig { external_snat: true, ..snat_config() };
        node.run(|| iptables.apply(&external_snat, &facts)).unwrap();
        let expected = format!("{MANGLE}:AWS-SNAT-CHAIN-0 -\n");
        assert_eq!(sorted(&save(node, program)), sorted(&expected), "{program}");

        // Without node ports nothing of it remains.
        let none = HostConfig { node_port: false, ..external };
        node.run(|| host::set_up(&none, mac(PRIMARY))).unwrap();
        assert!(!node.ip("rule show").contains("1024:"));
        node.run(|| iptables.apply(&SnatConfig { node_port: false, ..external_snat }, &facts)).unwrap();
        assert_eq!(save(node, program), ":AWS-SNAT-CHAIN-0 -\n", "{program}");
    });
}

#[test]
fn custom_networking_is_as_in_the_example() {
    each_kind("custom_networking_is_as_in_the_example", |node, program| {
        boot(node);
        node.run(|| host::set_up(&host_config(Family::V4), mac(PRIMARY))).unwrap();
        let setup = eni("100.64.0.20", "100.64.0.0/19", table::of_interface(0, 1));
        node.run(|| eni::set_up(&setup, Duration::ZERO)).unwrap();
        let mut iptables = Iptables::detect(program).unwrap().with_backend(Backend::Nftables);
        let facts = snat_facts(&["10.0.0.0/16", "100.64.0.0/16"]);
        node.run(|| iptables.apply(&snat_config(), &facts)).unwrap();
        pods_v4(node, [("100.64.1.30", 2), ("100.64.1.31", 2), ("100.64.1.32", 2)], || {
            assert_eq!(sorted(&node.ip("rule show")), sorted(RULES_17_3));
            assert_eq!(sorted(&node.ip("-4 route show table all")), sorted(ROUTES_17_3));
        });
        let saved = save(node, program);
        assert_eq!(sorted(&saved), sorted(&format!("{MANGLE}{SNAT_17_3}")), "{program}");
        let chain = |text: &str| -> Vec<String> {
            text.lines().filter(|l| l.starts_with("-A AWS-SNAT-CHAIN-0")).map(str::to_owned).collect()
        };
        assert_eq!(chain(&saved), chain(SNAT_17_3), "the order in the chain");
        if Command::new("nft").arg("--version").output().is_ok_and(|o| o.status.success()) {
            assert_eq!(node.command("nft", "list table ip aws-cni"), NFT_17_3);
        }

        // Another start writes nothing.
        let written = node.writes(|| {
            node.run(|| host::set_up(&host_config(Family::V4), mac(PRIMARY))).unwrap();
            node.run(|| eni::set_up(&setup, Duration::ZERO)).unwrap();
        });
        assert_eq!(written, "");
        assert_eq!(node.run(|| iptables.apply(&snat_config(), &facts)).unwrap(), 0);
    });
}

#[test]
fn ipv6_with_two_cards_is_as_in_the_example() {
    let Some(node) = Namespace::new("ipv6_with_two_cards_is_as_in_the_example") else { return };
    boot(&node);
    node.ip("-6 addr add 2600:1f14:abc:d00::10/64 dev eth0 nodad");
    node.ip("-6 route add default via fe80::8c:1 dev eth0 proto ra metric 512");
    let rules_v4 = node.ip("-4 rule show");
    let routes_v4 = node.ip("-4 route show table all");
    node.run(|| host::set_up(&host_config(Family::V6), mac(PRIMARY))).unwrap();
    let primary: IpAddr = "2600:1f14:abc:d00::20".parse().unwrap();
    let choice = node.run(|| eni::choose_table(1, 1, primary, 4)).unwrap();
    let setup = eni("2600:1f14:abc:d00::20", "2600:1f14:abc:d00::/64", choice.table);
    node.run(|| eni::set_up(&setup, Duration::ZERO)).unwrap();

    let namespaces: Vec<Namespace> = (0..3).map(|_| Namespace::new("pod").unwrap()).collect();
    let hpc = [("2600:1f14:abc:d00:5c1e::4", 254), ("2600:1f14:abc:d00:7a20::2", 10_101)];
    let coredns = "coredns-57ff979f67-qqbdh";
    let setups = [
        pod_setup(&namespaces[0], "default", "web-0", &[("2600:1f14:abc:d00:5c1e::2", 254)]),
        pod_setup(&namespaces[1], "kube-system", coredns, &[("2600:1f14:abc:d00:5c1e::3", 254)]),
        pod_setup(&namespaces[2], "default", "hpc-0", &hpc),
    ];
    let hpc_ns = Namespace::again(&namespaces[2]);
    with_pods(&node, &setups, namespaces, || {
        assert_eq!(sorted(&node.ip("-6 rule show")), sorted(RULES_17_4));
        let shown = routes_v6(&node);
        let shown: String = shown.lines().filter(|l| !l.starts_with("fe80::/64")).map(|l| format!("{l}\n")).collect();
        assert_eq!(sorted(&shown), sorted(ROUTES_17_4));
        assert_eq!(node.ip("-4 rule show"), rules_v4);
        assert_eq!(node.ip("-4 route show table all"), routes_v4);
        assert_eq!(hpc_ns.ip("-6 rule show"), POD_RULES_17_4);
        assert_eq!(sorted(&routes_v6(&hpc_ns)), sorted(POD_ROUTES_17_4));
        let neighbours = hpc_ns.ip("-6 neigh show nud permanent");
        for (gateway, device, host_veth) in
            [("fe80::1", "eth0", "eniad0afc04a99"), ("fe80::2", "mNicIf1", "enic080049f1ab")]
        {
            let link = node.ip(&format!("-o link show {host_veth}"));
            let mac = link.split("link/ether ").nth(1).and_then(|l| l.split(' ').next()).unwrap();
            let line = format!("{gateway} dev {device} lladdr {mac} PERMANENT\n");
            assert!(neighbours.contains(&line), "{neighbours}");
        }
    });
    assert_eq!(sorted(&node.command("ip6tables-save", "")), [""; 0]);
}
