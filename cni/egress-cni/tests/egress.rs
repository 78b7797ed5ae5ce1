//! The real program, host-local, kernel and iptables of both kinds: what ADD leaves, packets out and back, what DEL
//! leaves, in both families (spec 04 §14, §17.6).

#[cfg(target_arch = "x86_64")]
#[path = "egress/killed.rs"]
mod killed;
mod support;
#[cfg(target_arch = "x86_64")]
#[allow(dead_code, reason = "nothing is refused here")]
#[path = "../../aws-cni/tests/faults/trace.rs"]
mod trace;

use std::net::IpAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use reservoir_net::netns::Netns;
use reservoir_net::rule::Family;
use serde_json::json;
use support::{Kind, Namespace, World};

const ID: &str = "4f0c1b";

fn host_veth(result: &serde_json::Value) -> String {
    result["interfaces"][3]["name"].as_str().unwrap().to_owned()
}

/// Spec 04 §14.3, §14.5.
#[test]
fn ipv4_as_the_specification_shows_it() {
    for flavour in ["legacy", "nft"] {
        World::one("ipv4_as_the_specification_shows_it", Kind { family: Family::V4, flavour }, |world| {
            let pod = support::pod();
            let result = world.add(ID, &pod);
            let veth = host_veth(&result);
            assert_eq!(
                pod.ip("-4 route show"),
                "default via 169.254.172.1 dev v4if0\n\
                 169.254.172.0/22 via 169.254.172.1 dev v4if0 src 169.254.172.2\n\
                 169.254.172.1 dev v4if0 scope link src 169.254.172.2\n"
            );
            let address = pod.ip("-4 -o addr show dev v4if0");
            assert!(address.contains("inet 169.254.172.2/22 brd 169.254.175.255 scope global v4if0"), "{address}");
            let address = world.node.ip(&format!("-4 -o addr show dev {veth}"));
            assert!(address.contains("inet 169.254.172.1/32 scope link"), "{address}");
            let routes = world.node.ip(&format!("route show dev {veth}"));
            assert_eq!(routes, "169.254.172.2 scope link\n");
            assert_eq!(world.node.command("cat", "/proc/sys/net/ipv4/ip_forward"), "1\n");
            assert_eq!(world.node.command("cat", &format!("/proc/sys/net/ipv6/conf/{veth}/accept_ra")), "0\n");
            assert_eq!(
                world.nat(),
                ":CNI-E4-f0c66f4e2a2ba7bc8a23b -\n\
                 -A POSTROUTING -s 169.254.172.2/32 -m comment --comment \"name: \\\"aws-cni\\\" id: \\\"4f0c1b\\\"\" -j CNI-E4-f0c66f4e2a2ba7bc8a23b\n\
                 -A CNI-E4-f0c66f4e2a2ba7bc8a23b -d 224.0.0.0/4 -m comment --comment \"name: \\\"aws-cni\\\" id: \\\"4f0c1b\\\"\" -j ACCEPT\n\
                 -A CNI-E4-f0c66f4e2a2ba7bc8a23b -m comment --comment \"name: \\\"aws-cni\\\" id: \\\"4f0c1b\\\"\" -j SNAT --to-source 10.0.96.10 --random-fully\n"
            );
        });
    }
}

/// Spec 04 §17.6.
#[test]
fn ipv6_as_the_specification_shows_it() {
    for flavour in ["legacy", "nft"] {
        World::one("ipv6_as_the_specification_shows_it", Kind { family: Family::V6, flavour }, |world| {
            let pod = support::pod();
            pod.ip("link set eth0 up");
            pod.ip("link set far0 up");
            // As runtimes leave it.
            for interface in ["all", "default", "lo"] {
                pod.sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "1");
            }
            pod.sysctl("ipv6/conf/eth0/disable_ipv6", "0");
            let result = world.add(ID, &pod);
            let veth = host_veth(&result);
            let link_local: serde_json::Value =
                serde_json::from_str(&world.node.ip(&format!("-j -6 addr show dev {veth} scope link"))).unwrap();
            let link_local = link_local[0]["addr_info"][0]["local"].as_str().unwrap().to_owned();
            let routes = pod.ip("-6 route show dev v6if0");
            assert_eq!(
                routes,
                format!(
                    "fd00::ac:0/118 proto kernel metric 256 pref medium\n\
                     fe80::/64 proto kernel metric 256 pref medium\n\
                     default via {link_local} metric 1024 pref medium\n"
                )
            );
            assert_eq!(pod.ip("-6 addr show dev eth0"), "", "eth0 does not answer to IPv6");
            assert_eq!(pod.command("cat", "/proc/sys/net/ipv6/conf/v6if0/keep_addr_on_down"), "1\n");
            let routes = world.node.ip("-6 route show");
            assert!(routes.contains(&format!("fd00::ac:2 dev {veth} metric 1024 pref medium\n")), "{routes}");
            let global = world.node.ip(&format!("-6 -o addr show dev {veth} scope global"));
            assert_eq!(global, "", "the host's end gets no address of the range");
            assert_eq!(
                world.nat(),
                ":CNI-E6-f0c66f4e2a2ba7bc8a23b -\n\
                 -A POSTROUTING -s fd00::ac:2/128 -m comment --comment \"name: \\\"aws-cni\\\" id: \\\"4f0c1b\\\"\" -j CNI-E6-f0c66f4e2a2ba7bc8a23b\n\
                 -A CNI-E6-f0c66f4e2a2ba7bc8a23b -d ff00::/8 -m comment --comment \"name: \\\"aws-cni\\\" id: \\\"4f0c1b\\\"\" -j ACCEPT\n\
                 -A CNI-E6-f0c66f4e2a2ba7bc8a23b -m comment --comment \"name: \\\"aws-cni\\\" id: \\\"4f0c1b\\\"\" -j SNAT --to-source 2600:1f14:abc:d00::10 --random-fully\n"
            );
        });
    }
}

#[test]
fn two_pods_talk_to_the_outside_as_the_node_and_leave_nothing() {
    World::each("two_pods_talk_to_the_outside", |world| {
        // A rule of somebody else is there before, meanwhile and after.
        let program = if world.kind.family == Family::V4 { "iptables" } else { "ip6tables" };
        let program = format!("{program}-{}", world.kind.flavour);
        world.node.command(&program, "-t nat -N KUBE-POSTROUTING");
        world.node.command(&program, "-t nat -A POSTROUTING -j KUBE-POSTROUTING");
        let before = world.inventory();
        let pods = [support::pod(), support::pod()];
        for (number, pod) in (0u16..).zip(&pods) {
            let result = world.add(&format!("pod-{number}"), pod);
            // Both ends are told with their real addresses, behind what was there; no address is added.
            let ends = &result["interfaces"].as_array().unwrap()[3..];
            let (host, own) = (host_veth(&result), world.kind.interface());
            let macs = [World::macs(&world.node)[&host].clone(), World::macs(pod)[own].clone()];
            let expected =
                [json!({"name": host, "mac": macs[0]}), json!({"name": own, "mac": macs[1], "sandbox": pod.path()})];
            assert_eq!(ends, expected);
            assert_eq!((result["ips"].as_array().unwrap().len(), &result["cniVersion"]), (1, &json!("0.4.0")));
            let mtu = pod.ip(&format!("-o link show {own}"));
            assert!(mtu.contains("mtu 1500"), "{mtu}");
        }
        assert_eq!(world.held().len(), 2);
        for pod in &pods {
            assert_eq!(world.talk(pod), [world.kind.node(); 2], "{:?}", world.kind);
        }
        // The first goes while the second stays.
        world.del("pod-0", pods[0].path().to_str().unwrap());
        assert_eq!(world.held(), [world.kind.pod(1).to_string()]);
        assert_eq!(world.talk(&pods[1]), [world.kind.node(); 2]);
        let nat = world.nat();
        assert!(!nat.contains(&world.chain("pod-0")) && nat.contains(&world.chain("pod-1")), "{nat}");
        // A second DEL, and one of a pod that never was.
        world.del("pod-0", "");
        world.del("nobody", "");
        world.del("pod-1", pods[1].path().to_str().unwrap());
        world.settles_to(&before);
        assert!(world.held().is_empty());
    });
}

/// DW-26.
#[test]
fn del_needs_no_namespace_and_works_when_the_feature_is_off() {
    World::each("del_needs_no_namespace", |world| {
        let before = world.inventory();
        let pods: Vec<Namespace> = (0..4).map(|_| support::pod()).collect();
        for (number, pod) in pods.iter().enumerate() {
            world.add(&format!("pod-{number}"), pod);
        }
        let gone = pods[0].path().to_str().unwrap().to_owned();
        drop(pods);
        world.del("pod-0", "");
        world.del("pod-1", &gone);
        let off = |prev_result: bool| {
            let mut conf = world.conf();
            conf["enabled"] = "false".into();
            if !prev_result {
                conf.as_object_mut().unwrap().remove("prevResult");
            }
            conf
        };
        world.del_with("pod-2", "", &off(true));
        world.del_with("pod-3", "", &off(false));
        world.settles_to(&before);
        assert!(world.held().is_empty(), "{:?}", world.held());
    });
}

#[test]
fn switched_off_nothing_happens() {
    World::each("switched_off_nothing_happens", |world| {
        let before = world.inventory();
        let pod = support::pod();
        let mut conf = world.conf();
        conf["enabled"] = "false".into();
        let output = world.plugin("ADD", ID, pod.path().to_str().unwrap(), &conf);
        assert!(output.status.success(), "{output:?}");
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result, conf["prevResult"]);
        world.del_with(ID, pod.path().to_str().unwrap(), &conf);
        world.settles_to(&before);
        assert!(!world.data_dir().exists(), "host-local was not asked");
    });
}

#[test]
fn a_range_that_is_used_up_is_an_error_and_nothing_is_left() {
    World::each("a_range_that_is_used_up", |world| {
        let before = world.inventory();
        let mut conf = world.conf();
        // One address beside the gateway.
        let subnet = if world.kind.family == Family::V4 { "169.254.172.0/30" } else { "fd00::ac:00/126" };
        conf["ipam"]["ranges"][0][0]["subnet"] = subnet.into();
        let pods: Vec<Namespace> = (0..8).map(|_| support::pod()).collect();
        let mut refused = Vec::new();
        for (number, pod) in pods.iter().enumerate() {
            let container = format!("pod-{number}");
            let output = world.plugin("ADD", &container, pod.path().to_str().unwrap(), &conf);
            if !output.status.success() {
                let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                refused.push((number, error["msg"].as_str().unwrap().to_owned()));
            }
        }
        let given = pods.len() - refused.len();
        assert!((1..=2).contains(&given), "{refused:?}");
        assert!(refused.iter().all(|(_, msg)| msg.starts_with("running IPAM plugin failed: ")), "{refused:?}");
        for (number, _) in &refused {
            assert!(!support::has(&pods[*number], world.kind.interface()));
        }
        // An address that comes back can be given again.
        world.del_with("pod-0", pods[0].path().to_str().unwrap(), &conf);
        let output = world.plugin("ADD", "again", pods[7].path().to_str().unwrap(), &conf);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(world.talk(&pods[7]), [world.kind.node(); 2]);
        world.del_with("again", "", &conf);
        drop(pods);
        for number in 1..given {
            world.del_with(&format!("pod-{number}"), "", &conf);
        }
        world.settles_to(&before);
        assert!(world.held().is_empty());
    });
}

/// Wherever an ADD fails, rules, pair and address are taken back.
#[test]
fn an_add_that_fails_half_way_leaves_nothing() {
    World::each("an_add_that_fails_half_way", |world| {
        let before = world.inventory();
        let pod = support::pod();
        let netns = pod.path().to_str().unwrap().to_owned();
        let nothing_left = |what: &str| {
            world.settles_to(&before);
            assert!(world.held().is_empty(), "{what}: {:?}", world.held());
            assert!(!support::has(&pod, world.kind.interface()), "{what}");
        };

        // At the address: there is no such namespace.
        let msg = world.add_fails(ID, "/var/run/netns/rsv-egr-nowhere", &world.conf());
        assert!(msg.contains("/var/run/netns/rsv-egr-nowhere"), "{msg}");
        nothing_left("no namespace");

        // At the wiring: what the kernel does not take.
        let mut conf = world.conf();
        conf["mtu"] = "99999".into();
        let msg = world.add_fails(ID, &netns, &conf);
        assert!(msg.contains("99999") && msg.contains("POD_MTU"), "{msg}");
        nothing_left("mtu");

        // At the very last step of the wiring: the address's route is another interface's. host-local begins anew.
        std::fs::remove_dir_all(world.data_dir()).unwrap();
        let first = world.kind.pod(0);
        world.node.ip("link add busy type veth peer name busy-far");
        world.node.ip("link set busy up");
        let scope = if first.is_ipv4() { " scope link" } else { "" };
        world.node.ip(&format!("route add {first} dev busy{scope}"));
        let msg = world.add_fails(ID, &netns, &world.conf());
        let expected = "failed to add route on host: stale route still exists after 5 attempts: file exists";
        assert!(msg.starts_with(expected), "{msg}");
        world.node.ip("link delete busy");
        nothing_left("stale route");

        // And after all this it works.
        world.add(ID, &pod);
        assert_eq!(world.talk(&pod), [world.kind.node(); 2]);
        world.del(ID, &netns);
        nothing_left("the end");
    });
}

/// iptables itself fails: nothing of the pod is left, and DEL still succeeds.
#[test]
fn without_iptables_add_fails_and_del_does_not() {
    World::each("without_iptables", |world| {
        let before = world.inventory();
        let pod = support::pod();
        let netns = pod.path().to_str().unwrap().to_owned();
        for programs in [["iptables", "ip6tables"], ["iptables-restore", "ip6tables-restore"]] {
            let broken = world.break_programs(&programs);
            let msg = world.add_fails(ID, &netns, &world.conf());
            assert!(msg.starts_with("failed to add SNAT rules: ") && msg.contains("out of order"), "{msg}");
            assert!(!support::has(&pod, world.kind.interface()) && world.held().is_empty(), "{msg}");
            world.del(ID, &netns);
            drop(broken);
            world.settles_to(&before);
        }
    });
}

/// What a crash of the node's runtime can leave: the pod's end of an earlier ADD.
#[test]
fn an_add_after_a_del_in_the_same_namespace_works() {
    World::each("an_add_after_a_del", |world| {
        let before = world.inventory();
        let pod = support::pod();
        for container in ["first", "second", "second-again"] {
            world.add(container, &pod);
            assert_eq!(world.talk(&pod), [world.kind.node(); 2], "{container}");
            // The second is only known by its container: its interface stays in the pod.
            let netns = if container == "second" { String::new() } else { pod.path().to_str().unwrap().to_owned() };
            world.del(container, &netns);
        }
        world.settles_to(&before);
        assert!(world.held().is_empty());
    });
}

/// Many at once: each waits for the other's lock, and no rule is lost.
#[test]
fn many_pods_at_once() {
    World::each("many_pods_at_once", |world| {
        let before = world.inventory();
        let pods: Vec<Namespace> = (0..8).map(|_| support::pod()).collect();
        thread::scope(|scope| {
            for (number, pod) in pods.iter().enumerate() {
                scope.spawn(move || world.add(&format!("pod-{number}"), pod));
            }
        });
        let nat = world.nat();
        let jumps = nat.lines().filter(|l| l.starts_with("-A POSTROUTING")).count();
        assert_eq!((jumps, nat.lines().count()), (8, 8 * 4), "{nat}");
        assert_eq!(world.held().len(), 8);
        let talked: Vec<[IpAddr; 2]> = pods.iter().map(|pod| world.talk(pod)).collect();
        assert!(talked.iter().flatten().all(|peer| *peer == world.kind.node()), "{talked:?}");
        thread::scope(|scope| {
            for (number, pod) in pods.iter().enumerate() {
                scope.spawn(move || world.del(&format!("pod-{number}"), pod.path().to_str().unwrap()));
            }
        });
        world.settles_to(&before);
        assert!(world.held().is_empty());
    });
}

/// A rule of the pod that somebody removed meanwhile is no reason to fail.
#[test]
fn what_is_gone_already_is_fine() {
    World::each("what_is_gone_already", |world| {
        let before = world.inventory();
        let pod = support::pod();
        let result = world.add(ID, &pod);
        let program = if world.kind.family == Family::V4 { "iptables" } else { "ip6tables" };
        let program = format!("{program}-{}", world.kind.flavour);
        world.node.command(&program, "-t nat -F POSTROUTING");
        world.node.ip(&format!("link delete {}", host_veth(&result)));
        world.del(ID, pod.path().to_str().unwrap());
        world.settles_to(&before);
        // And a chain that somebody emptied and uses.
        let pod = support::pod();
        world.node.command(&program, &format!("-t nat -N {}", world.chain("other")));
        world.add("other", &pod);
        assert_eq!(world.talk(&pod), [world.kind.node(); 2]);
        world.del("other", "");
        drop(pod);
        world.settles_to(&before);
    });
}

#[test]
fn the_program_says_what_it_is() {
    let plugin = |command: &str| {
        Command::new(env!("CARGO_BIN_EXE_egress-cni")).env_clear().env("CNI_COMMAND", command).output().unwrap()
    };
    let output = plugin("VERSION");
    let versions =
        r#"{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#;
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{versions}\n"));
    let output = plugin("");
    let about = String::from_utf8(output.stderr).unwrap();
    assert!(about.starts_with("egress CNI plugin ") && output.stdout.is_empty() && output.status.success(), "{about}");
}

#[test]
fn what_works_on_a_pod_is_waited_for() {
    World::one("what_works_on_a_pod_is_waited_for", Kind { family: Family::V4, flavour: "legacy" }, |world| {
        let before = world.inventory();
        let pod = support::pod();
        for command in ["ADD", "DEL"] {
            let turn = Netns::open(&pod.path()).and_then(Netns::lock).unwrap();
            thread::scope(|scope| {
                let netns = pod.path();
                let plugin = scope.spawn(move || world.plugin(command, ID, netns.to_str().unwrap(), &world.conf()));
                thread::sleep(Duration::from_millis(500));
                let held = usize::from(command == "DEL");
                assert!(!plugin.is_finished() && world.held().len() == held, "{command} does not wait");
                drop(turn);
                assert!(plugin.join().unwrap().status.success(), "{command}");
                assert_eq!(world.held().len(), 1 - held, "{command}");
            });
        }
        drop(pod);
        world.settles_to(&before);
    });
}
