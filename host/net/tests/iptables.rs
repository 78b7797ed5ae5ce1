//! iptables rules in real namespaces, with both kinds of iptables, looked at with `iptables-save`.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use reservoir_net::Error;
use reservoir_net::egress::firewall::{Firewall, SnatRules};
use reservoir_net::iptables::{Backend, Bound, Iptables, Mode, Randomize, SnatConfig};
use reservoir_net::rule::Family;
use support::{Namespace, skip, snat_config, snat_facts};

const PROGRAMS: [(&str, Mode); 2] = [("iptables-legacy", Mode::Legacy), ("iptables-nft", Mode::Nft)];

/// With connmark rules in the form of iptables, whatever kind it is.
fn iptables(program: &str) -> Iptables {
    Iptables::detect(program).unwrap().with_backend(Backend::Iptables)
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
        let mut iptables = iptables(program);
        assert!(node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16"]))).unwrap() > 0);
        let saved = save(node, program);
        assert_eq!(sorted(&saved), sorted(EXAMPLE), "{program}");
        assert_eq!(node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16"]))).unwrap(), 0, "{program}");
        assert_eq!(save(node, program), saved);
    });
}

#[test]
fn changes_are_minimal_and_leave_the_rules_of_others_alone() {
    each_kind("changes_are_minimal", |node, program| {
        let mut iptables = iptables(program);
        node.command(program, "-t nat -N KUBE-SERVICES");
        node.command(program, "-t nat -A PREROUTING -m comment --comment kubernetes -j KUBE-SERVICES");
        node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16", "10.1.0.0/16"]))).unwrap();
        node.command(program, "-t nat -A PREROUTING -p tcp --dport 80 -j KUBE-SERVICES");
        let before = save(node, program);
        // One CIDR goes, one comes: a deletion and an insertion in each of two chains.
        let changes =
            node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16", "10.2.0.0/16"]))).unwrap();
        assert_eq!(changes, 4, "{program}");
        let after = save(node, program);
        assert_eq!(sorted(&before.replace("10.1.0.0/16", "10.2.0.0/16")), sorted(&after), "{program}");
        assert!(after.lines().rfind(|l| l.contains("AWS-SNAT-CHAIN-0 ")).unwrap().contains("-j SNAT"));
    });
}

#[test]
fn another_prefix_and_mark_leave_nothing_of_the_old() {
    each_kind("another_prefix_and_mark", |node, program| {
        let mut iptables = iptables(program);
        node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16"]))).unwrap();
        let other = SnatConfig { veth_prefix: "pod".to_owned(), mark: 0x100, ..snat_config() };
        node.run(|| iptables.apply(&other, &snat_facts(&["10.0.0.0/16"]))).unwrap();
        let saved = save(node, program);
        let expected = EXAMPLE.replace("eni+", "pod+").replace("0x80", "0x100");
        assert_eq!(sorted(&saved), sorted(&expected), "{program}");
        assert_eq!(node.run(|| iptables.apply(&other, &snat_facts(&["10.0.0.0/16"]))).unwrap(), 0);
    });
}

#[test]
fn external_snat_leaves_the_empty_chain_and_the_mangle_rules() {
    each_kind("external_snat", |node, program| {
        let mut iptables = iptables(program);
        node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16"]))).unwrap();
        let external = SnatConfig { external_snat: true, ..snat_config() };
        node.run(|| iptables.apply(&external, &snat_facts(&["10.0.0.0/16"]))).unwrap();
        let mut expected: Vec<&str> = EXAMPLE.lines().filter(|l| l.contains("primary ENI")).collect();
        expected.push(":AWS-SNAT-CHAIN-0 -");
        expected.sort_unstable();
        let saved = save(node, program);
        assert_eq!(sorted(&saved), expected, "{program}");
        assert_eq!(node.run(|| iptables.apply(&external, &snat_facts(&["10.0.0.0/16"]))).unwrap(), 0);
    });
}

#[test]
fn old_layouts_are_cleaned_up() {
    each_kind("old_layouts_are_cleaned_up", |node, program| {
        let mut iptables = iptables(program);
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
        node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16"]))).unwrap();
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
        let mut iptables = iptables(program);
        node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16"]))).unwrap();
        let tables = node.command("nft", "list tables");
        assert!(!tables.contains("aws-cni") && tables.contains("table ip other"), "{tables}");
    });
}

#[test]
fn bad_input_is_refused_before_anything_is_written() {
    each_kind("bad_input_is_refused", |node, program| {
        let mut iptables = iptables(program);
        for (config, facts, named) in [
            (SnatConfig { veth_prefix: String::new(), ..snat_config() }, snat_facts(&["10.0.0.0/16"]), "veth prefix"),
            (SnatConfig { mark: 0, ..snat_config() }, snat_facts(&["10.0.0.0/16"]), "connection mark"),
            (snat_config(), snat_facts(&[]), "exemptCIDRs cannot be empty"),
        ] {
            let error = node.run(|| iptables.apply(&config, &facts)).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        assert_eq!(save(node, program), "");
    });
}

/// The table of nftables that the specification shows (04 §17.3), for these exempt CIDRs.
fn nft_table(cidrs: &[&str]) -> String {
    let exempt: String = cidrs.iter().map(|c| format!("\t\tcounter packets 0 bytes 0 ip daddr {c} return\n")).collect();
    format!(
        "table ip aws-cni {{\n\tchain nat-prerouting {{\n\
         \t\ttype nat hook prerouting priority dstnat + 10; policy accept;\n\
         \t\tfib daddr type local return\n\
         \t\tiifname \"eni*\" counter packets 0 bytes 0 jump snat-mark\n\
         \t\tcounter packets 0 bytes 0 meta mark set ct mark & 0x00000080\n\t}}\n\n\
         \tchain snat-mark {{\n{exempt}\
         \t\tcounter packets 0 bytes 0 ct mark set ct mark | 0x00000080\n\t}}\n}}\n"
    )
}

fn has_nft(test: &str) -> bool {
    let found = Command::new("nft").arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        let _: Option<()> = skip(test, "nft is not installed");
    }
    found
}

#[test]
fn the_nftables_form_is_as_specified_and_a_second_run_writes_nothing() {
    each_kind("the_nftables_form_is_as_specified", |node, program| {
        if !has_nft("the_nftables_form_is_as_specified") {
            return;
        }
        let mut iptables = Iptables::detect(program).unwrap().with_backend(Backend::Nftables);
        let facts = snat_facts(&["10.0.0.0/16", "100.64.0.0/16"]);
        assert!(node.run(|| iptables.apply(&snat_config(), &facts)).unwrap() > 0);
        let listed = node.command("nft", "list table ip aws-cni");
        assert_eq!(listed, nft_table(&["100.64.0.0/16", "10.0.0.0/16"]), "{program}");
        let saved = save(node, program);
        assert!(!saved.contains("CONNMARK-CHAIN") && !saved.contains("\"AWS, CONNMARK\""), "{saved}");
        assert!(saved.contains("-j SNAT --to-source 10.0.96.10 --random-fully"), "{saved}");
        let handles = node.command("nft", "-a list table ip aws-cni");
        assert_eq!(node.run(|| iptables.apply(&snat_config(), &facts)).unwrap(), 0, "{program}");
        assert_eq!(node.command("nft", "-a list table ip aws-cni"), handles, "not even made again");
    });
}

#[test]
fn a_changed_list_changes_one_rule_of_the_nftables_form() {
    each_kind("a_changed_list_changes_one_rule", |node, program| {
        if !has_nft("a_changed_list_changes_one_rule") {
            return;
        }
        let mut iptables = Iptables::detect(program).unwrap().with_backend(Backend::Nftables);
        node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16", "10.1.0.0/16"]))).unwrap();
        node.command("nft", "add rule ip aws-cni snat-mark counter drop");
        node.command("nft", "add table ip other");
        node.command("nft", "add chain ip other mine");
        // One CIDR in each of two places, and the rule of a stranger.
        assert_eq!(
            node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16", "10.2.0.0/16"]))).unwrap(),
            5
        );
        let listed = node.command("nft", "list table ip aws-cni");
        assert_eq!(listed, nft_table(&["10.2.0.0/16", "10.0.0.0/16"]), "{program}");
        assert!(node.command("nft", "list tables").contains("table ip other"));
    });
}

#[test]
fn each_form_of_connmark_rules_replaces_the_other() {
    each_kind("each_form_of_connmark_rules_replaces_the_other", |node, program| {
        if !has_nft("each_form_of_connmark_rules_replaces_the_other") {
            return;
        }
        let facts = snat_facts(&["10.0.0.0/16"]);
        let detect = |backend| Iptables::detect(program).unwrap().with_backend(backend);
        node.run(|| detect(Backend::Iptables).apply(&snat_config(), &facts)).unwrap();
        assert!(save(node, program).contains("AWS-CONNMARK-CHAIN-0"));
        node.run(|| detect(Backend::Nftables).apply(&snat_config(), &facts)).unwrap();
        let saved = save(node, program);
        assert!(!saved.contains("AWS-CONNMARK-CHAIN-0") && !saved.contains("AWS, outbound"), "{saved}");
        assert_eq!(node.command("nft", "list table ip aws-cni"), nft_table(&["10.0.0.0/16"]));
        node.run(|| detect(Backend::Iptables).apply(&snat_config(), &facts)).unwrap();
        assert_eq!(sorted(&save(node, program)), sorted(EXAMPLE));
        assert!(!node.command("nft", "list tables").contains("aws-cni"));
    });
}

#[test]
fn external_snat_removes_the_nftables_form() {
    each_kind("external_snat_removes_the_nftables_form", |node, program| {
        if !has_nft("external_snat_removes_the_nftables_form") {
            return;
        }
        let mut iptables = Iptables::detect(program).unwrap().with_backend(Backend::Nftables);
        node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16"]))).unwrap();
        let external = SnatConfig { external_snat: true, ..snat_config() };
        node.run(|| iptables.apply(&external, &snat_facts(&["10.0.0.0/16"]))).unwrap();
        assert!(!node.command("nft", "list tables").contains("aws-cni"));
        assert_eq!(node.run(|| iptables.apply(&external, &snat_facts(&["10.0.0.0/16"]))).unwrap(), 0);
    });
}

#[test]
fn the_form_of_connmark_rules_goes_with_the_program() {
    each_kind("the_form_of_connmark_rules_goes_with_the_program", |_, program| {
        let expected = if program.ends_with("legacy") { Backend::Iptables } else { Backend::Nftables };
        assert_eq!(Iptables::detect(program).unwrap().backend(), expected);
    });
}

#[test]
fn node_local_egress_addresses_are_blocked_before_the_rules_of_others() {
    for (family, prefix, expected) in [
        (
            Family::V4,
            "iptables",
            "-A FORWARD -d 169.254.172.0/22 -m conntrack --ctstate NEW -m comment --comment \"Block Node Local Pod \
             access via IPv4\" -j REJECT --reject-with icmp-port-unreachable",
        ),
        (
            Family::V6,
            "ip6tables",
            "-A FORWARD -d fd00::ac:0/118 -m conntrack --ctstate NEW -m comment --comment \"Block Node Local Pod \
             access via IPv6\" -j REJECT --reject-with icmp6-port-unreachable",
        ),
    ] {
        each_kind("node_local_egress_addresses_are_blocked", |node, program| {
            let program = program.replace("iptables", prefix);
            let rules = || -> Vec<String> {
                let saved = node.command(&format!("{program}-save"), "");
                saved.lines().filter(|l| l.starts_with("-A FORWARD")).map(str::to_owned).collect()
            };
            let iptables = Iptables::detect(&program).unwrap();
            assert_eq!(node.run(|| iptables.block_node_local(family, false)).unwrap(), 0);
            let saved = node.command(&format!("{program}-save"), "");
            assert!(!saved.contains("*filter"), "no table by looking: {saved}");
            node.command(&program, "-A FORWARD -p tcp --dport 80 -j ACCEPT");
            assert_eq!(node.run(|| iptables.block_node_local(family, true)).unwrap(), 1);
            let before = rules();
            assert_eq!((before.len(), before[0].as_str()), (2, expected), "{program}");
            assert_eq!(node.run(|| iptables.block_node_local(family, true)).unwrap(), 0);
            // The one of the reference on an older node is the same.
            node.command(&program, "-F FORWARD");
            node.run(|| iptables.block_node_local(family, true)).unwrap();
            assert_eq!(rules(), [expected]);
            assert_eq!(node.run(|| iptables.block_node_local(family, false)).unwrap(), 1);
            assert!(rules().is_empty());
        });
    }
}

/// A directory of the test's own; gone when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rsv-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Programs `<name>`, `<name>-save` and `<name>-restore` that run this script.
    fn programs(&self, name: &str, script: impl Fn(&str) -> String) -> String {
        for end in ["", "-save", "-restore"] {
            let place = self.0.join(format!("{name}{end}"));
            fs::write(&place, format!("#!/bin/sh\n{}\n", script(end))).unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        }
        self.0.join(name).display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn hold(lock: &Path) -> File {
    let file = File::create(lock).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    file
}

fn pod() -> SnatRules {
    SnatRules {
        network: "aws-cni".to_owned(),
        container: "c1".to_owned(),
        pod: [169, 254, 172, 2].into(),
        node: [10, 0, 96, 10].into(),
        randomize: Randomize::Prng,
    }
}

#[test]
fn another_program_that_keeps_the_lock_is_not_waited_for_without_end() {
    let Some(node) = Namespace::new("another_program_that_keeps_the_lock") else { return };
    let directory = Directory::new("locked");
    let lock = directory.0.join("lock");
    // A lock of the test's own: that of this machine is others'.
    let program = directory
        .programs("iptables", |end| format!("XTABLES_LOCKFILE={} exec iptables-legacy{end} \"$@\"", lock.display()));
    let works = node.run(|| Command::new(&program).args(["-t", "nat", "-S"]).output());
    if !works.is_ok_and(|o| o.status.success()) {
        let _: Option<()> = skip("another_program_that_keeps_the_lock", "iptables-legacy does not work here");
        return;
    }
    let bound = Bound { lock: 1, end: Duration::from_secs(20) };
    let mut iptables = iptables(&program).within(bound);
    let firewall = Firewall::with_program(&program).within(bound);
    let held = hold(&lock);
    let begun = Instant::now();
    for error in [
        node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16"])).map(drop)).unwrap_err(),
        node.run(|| iptables.block_node_local(Family::V4, true).map(drop)).unwrap_err(),
        node.run(|| firewall.add(&pod())).unwrap_err(),
    ] {
        assert!(matches!(error.root(), Error::Held { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("waited 1 s for another program's lock") && text.contains("lsof "), "{text}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "waited {:?}: more than once each", begun.elapsed());
    drop(held);
    assert!(node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16"]))).unwrap() > 0);
    node.run(|| firewall.add(&pod())).unwrap();
    assert_eq!(node.run(|| iptables.apply(&snat_config(), &snat_facts(&["10.0.0.0/16"]))).unwrap(), 0);
}

#[test]
fn a_program_that_hangs_is_killed() {
    let directory = Directory::new("hanging");
    let bound = Bound { lock: 1, end: Duration::from_secs(1) };
    for what in ["", "-save", "-restore"] {
        let program = directory.programs("iptables", |end| {
            let script = if end == what { "sleep 600" } else { "echo 'iptables v1.8.9 (legacy)'" };
            script.to_owned()
        });
        let begun = Instant::now();
        let tried = match what {
            "" => Firewall::with_program(&program).within(bound).add(&pod()),
            _ => iptables(&program).within(bound).apply(&snat_config(), &snat_facts(&["10.0.0.0/16"])).map(drop),
        };
        let text = tried.unwrap_err().to_string();
        assert!(text.contains(&format!("iptables{what}: did not end within 1 s and was killed")), "{text}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    }
}
