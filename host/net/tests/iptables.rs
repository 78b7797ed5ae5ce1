//! iptables rules in real namespaces, with both kinds of iptables, looked at with `iptables-save`.

mod support;

use std::process::Command;

use reservoir_net::iptables::{Iptables, Mode, Randomize, SnatConfig, SnatFacts};
use support::{Namespace, skip};

const PROGRAMS: [(&str, Mode); 2] = [("iptables-legacy", Mode::Legacy), ("iptables-nft", Mode::Nft)];

fn config() -> SnatConfig {
    SnatConfig {
        external_snat: false,
        node_port: true,
        exclude: Vec::new(),
        randomize: Randomize::Prng,
        mark: 0x80,
        veth_prefix: "eni".to_owned(),
    }
}

fn facts(cidrs: &[&str]) -> SnatFacts {
    SnatFacts {
        primary_interface: "eth0".to_owned(),
        primary_ip: [10, 0, 96, 10].into(),
        vpc_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
    }
}

/// Runs `test` once for each kind of iptables that works here.
fn each_kind(name: &str, test: impl Fn(&Namespace, &str)) {
    for (program, mode) in PROGRAMS {
        let Some(node) = Namespace::new(name) else { return };
        let found = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
        // A kernel may lack one of the two.
        let works = found
            && Command::new("ip")
                .args(["netns", "exec", node.path().file_name().unwrap().to_str().unwrap()])
                .args([program, "-t", "nat", "-L"])
                .output()
                .is_ok_and(|o| o.status.success());
        if !works {
            let _: Option<()> = skip(name, &format!("{program} does not work here"));
            continue;
        }
        assert_eq!(Iptables::detect(program).unwrap().version().mode, mode);
        test(&node, program);
    }
}

fn save(node: &Namespace, program: &str) -> String {
    let text = node.command(&format!("{program}-save"), "");
    let kept = text.lines().filter(|l| l.starts_with("-A") || (l.starts_with(':') && l.contains("AWS")));
    kept.map(|l| format!("{}\n", l.split(" [").next().unwrap())).collect()
}

/// What the specification shows (04 §17.1).
const EXAMPLE: &str = r#"-A PREROUTING -i eth0 -m comment --comment "AWS, primary ENI" -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
-A PREROUTING -i eni+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A PREROUTING -i vlan+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
:AWS-CONNMARK-CHAIN-0 -
:AWS-SNAT-CHAIN-0 -
-A PREROUTING -i eni+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0
-A PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A AWS-CONNMARK-CHAIN-0 -d 10.0.0.0/16 -m comment --comment "AWS CONNMARK CHAIN" -j RETURN
-A AWS-CONNMARK-CHAIN-0 -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark 0x80/0x80
-A AWS-SNAT-CHAIN-0 -d 10.0.0.0/16 -m comment --comment "AWS SNAT CHAIN" -j RETURN
-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment "AWS, SNAT" -m addrtype ! --dst-type LOCAL -j SNAT --to-source 10.0.96.10 --random-fully
"#;

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_fresh_node_gets_the_rules_of_the_specification_and_a_second_run_writes_nothing() {
    each_kind("a_fresh_node_gets_the_rules", |node, program| {
        let mut iptables = Iptables::detect(program).unwrap();
        assert!(node.run(|| iptables.apply(&config(), &facts(&["10.0.0.0/16"]))).unwrap() > 0);
        let saved = save(node, program);
        assert_eq!(sorted(&saved), sorted(EXAMPLE), "{program}");
        assert_eq!(node.run(|| iptables.apply(&config(), &facts(&["10.0.0.0/16"]))).unwrap(), 0, "{program}");
        assert_eq!(save(node, program), saved);
    });
}

#[test]
fn changes_are_minimal_and_leave_the_rules_of_others_alone() {
    each_kind("changes_are_minimal", |node, program| {
        let mut iptables = Iptables::detect(program).unwrap();
        node.command(program, "-t nat -N KUBE-SERVICES");
        node.command(program, "-t nat -A PREROUTING -m comment --comment kubernetes -j KUBE-SERVICES");
        node.run(|| iptables.apply(&config(), &facts(&["10.0.0.0/16", "10.1.0.0/16"]))).unwrap();
        node.command(program, "-t nat -A PREROUTING -p tcp --dport 80 -j KUBE-SERVICES");
        let before = save(node, program);
        // One CIDR goes, one comes: a deletion and an insertion in each of two chains.
        let changes = node.run(|| iptables.apply(&config(), &facts(&["10.0.0.0/16", "10.2.0.0/16"]))).unwrap();
        assert_eq!(changes, 4, "{program}");
        let after = save(node, program);
        assert_eq!(sorted(&before.replace("10.1.0.0/16", "10.2.0.0/16")), sorted(&after), "{program}");
        assert!(after.lines().rfind(|l| l.contains("AWS-SNAT-CHAIN-0 ")).unwrap().contains("-j SNAT"));
    });
}

#[test]
fn another_prefix_and_mark_leave_nothing_of_the_old() {
    each_kind("another_prefix_and_mark", |node, program| {
        let mut iptables = Iptables::detect(program).unwrap();
        node.run(|| iptables.apply(&config(), &facts(&["10.0.0.0/16"]))).unwrap();
        let other = SnatConfig { veth_prefix: "pod".to_owned(), mark: 0x100, ..config() };
        node.run(|| iptables.apply(&other, &facts(&["10.0.0.0/16"]))).unwrap();
        let saved = save(node, program);
        let expected = EXAMPLE.replace("eni+", "pod+").replace("0x80", "0x100");
        assert_eq!(sorted(&saved), sorted(&expected), "{program}");
        assert_eq!(node.run(|| iptables.apply(&other, &facts(&["10.0.0.0/16"]))).unwrap(), 0);
    });
}

#[test]
fn external_snat_leaves_the_empty_chain_and_the_mangle_rules() {
    each_kind("external_snat", |node, program| {
        let mut iptables = Iptables::detect(program).unwrap();
        node.run(|| iptables.apply(&config(), &facts(&["10.0.0.0/16"]))).unwrap();
        let external = SnatConfig { external_snat: true, ..config() };
        node.run(|| iptables.apply(&external, &facts(&["10.0.0.0/16"]))).unwrap();
        let mut expected: Vec<&str> = EXAMPLE.lines().filter(|l| l.contains("primary ENI")).collect();
        expected.push(":AWS-SNAT-CHAIN-0 -");
        expected.sort_unstable();
        let saved = save(node, program);
        assert_eq!(sorted(&saved), expected, "{program}");
        assert_eq!(node.run(|| iptables.apply(&external, &facts(&["10.0.0.0/16"]))).unwrap(), 0);
    });
}

#[test]
fn old_layouts_are_cleaned_up() {
    each_kind("old_layouts_are_cleaned_up", |node, program| {
        let mut iptables = Iptables::detect(program).unwrap();
        for command in [
            "-N AWS-SNAT-CHAIN-0",
            "-N AWS-SNAT-CHAIN-1",
            "-N AWS-CONNMARK-CHAIN-0",
            "-N AWS-CONNMARK-CHAIN-1",
            "-A AWS-SNAT-CHAIN-0 ! -d 10.0.0.0/16 -j AWS-SNAT-CHAIN-1",
            "-A AWS-SNAT-CHAIN-1 -j SNAT --to-source 10.0.96.10",
            "-A AWS-CONNMARK-CHAIN-1 -j CONNMARK --set-mark 0x80/0x80",
            "-A PREROUTING -i eni+ -m comment --comment old -j AWS-CONNMARK-CHAIN-0",
        ] {
            node.command(program, &format!("-t nat {command}"));
        }
        node.run(|| iptables.apply(&config(), &facts(&["10.0.0.0/16"]))).unwrap();
        let removed = node.run(|| iptables.remove_stale_chains()).unwrap();
        assert_eq!(removed.len(), 2, "{removed:?}");
        assert_eq!(node.run(|| iptables.remove_stale_chains()).unwrap(), Vec::<String>::new());
        let saved = save(node, program);
        let saved: String = saved.lines().filter(|l| !l.contains("--comment old")).map(|l| format!("{l}\n")).collect();
        assert_eq!(sorted(&saved), sorted(EXAMPLE), "{program}");
    });
}

#[test]
fn the_nftables_form_of_the_connmark_rules_is_removed() {
    each_kind("the_nftables_form_is_removed", |node, program| {
        if Command::new("nft").arg("--version").output().is_err() {
            let _: Option<()> = skip("the_nftables_form_is_removed", "nft is not installed");
            return;
        }
        node.command("nft", "add table ip aws-cni");
        node.command("nft", "add table ip other");
        let mut iptables = Iptables::detect(program).unwrap();
        node.run(|| iptables.apply(&config(), &facts(&["10.0.0.0/16"]))).unwrap();
        let tables = node.command("nft", "list tables");
        assert!(!tables.contains("aws-cni") && tables.contains("table ip other"), "{tables}");
    });
}

#[test]
fn bad_input_is_refused_before_anything_is_written() {
    each_kind("bad_input_is_refused", |node, program| {
        let mut iptables = Iptables::detect(program).unwrap();
        for (config, facts, named) in [
            (SnatConfig { veth_prefix: String::new(), ..config() }, facts(&["10.0.0.0/16"]), "veth prefix"),
            (SnatConfig { mark: 0, ..config() }, facts(&["10.0.0.0/16"]), "connection mark"),
            (config(), facts(&[]), "exemptCIDRs cannot be empty"),
        ] {
            let error = node.run(|| iptables.apply(&config, &facts)).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        assert_eq!(save(node, program), "");
    });
}
