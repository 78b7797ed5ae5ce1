//! CHECK tells of everything of a pod that is not as ADD made it.

use serde_json::Value;

use crate::support::Namespace;
use crate::trace::Ended;
use crate::world::{KINDS, World, error, path};

/// On the host or in the pod (`pod:`), by `ip` or (`set:`) as a kernel setting; and what CHECK must say.
type Sabotage = (&'static str, &'static str);

const OF_EVERY_POD: [Sabotage; 7] = [
    ("link set eniad0afc04a99 down", "interface eniad0afc04a99 is down"),
    ("pod:link set eth0 down", "interface eth0 is down"),
    ("link set eniad0afc04a99 mtu 1400", "eth0 has MTU 9001, but eniad0afc04a99 has 1400"),
    ("link set eniad0afc04a99 address 02:11:22:33:44:55", "with the address of eniad0afc04a99"),
    ("link set eniad0afc04a99 name other", "interface eniad0afc04a99 is missing"),
    ("pod:link del eth0", "interface eth0 is missing"),
    ("set:net/ipv6/conf/eniad0afc04a99/accept_ra=1", "accept_ra is 1, not 0"),
];

const OF_IPV4: [Sabotage; 9] = [
    ("rule del priority 512", "rule \"512: from all to 10.0.97.31/32 lookup 254\" is missing"),
    ("rule del priority 1536", "rule \"1536: from 10.0.97.31/32 lookup 2\" is missing"),
    ("rule add from 10.0.97.31 priority 1536 lookup 9", "lookup 9\" on the host is of another pod"),
    ("route del 10.0.97.31", "the host has no route to 10.0.97.31/32 over eniad0afc04a99"),
    ("route prepend 10.0.97.31 dev lo scope link", "another route of the host to 10.0.97.31/32 comes before"),
    ("pod:addr del 10.0.97.31/32 dev eth0", "eth0 does not have address 10.0.97.31/32"),
    ("pod:neigh del 169.254.1.1 dev eth0", "no permanent neighbour 169.254.1.1"),
    ("pod:route del default", "eth0 has no default route via 169.254.1.1"),
    ("pod:route del 169.254.1.1", "eth0 has no route to its gateway 169.254.1.1"),
];

const OF_IPV6_ON_TWO_CARDS: [Sabotage; 9] = [
    ("-6 rule del to 2600:1f14:abc:d00:5c1e::5 priority 512", "d00:5c1e::5/128 lookup 254\" is missing"),
    ("-6 rule del to 2600:1f14:abc:d00:7a20::2 priority 512", "d00:7a20::2/128 lookup 254\" is missing"),
    ("-6 rule del from 2600:1f14:abc:d00:7a20::2 priority 1536", "lookup 10101\" is missing on the host"),
    ("-6 route del 2600:1f14:abc:d00:7a20::2", "2600:1f14:abc:d00:7a20::2/128 over enic080049f1ab"),
    ("pod:-6 neigh del fe80::2 dev mNicIf1", "mNicIf1 has no permanent neighbour fe80::2"),
    ("pod:-6 rule del priority 1", "rule \"1: from 2600:1f14:abc:d00:7a20::2/128 lookup 1\" is missing in the pod"),
    ("pod:-6 route del default table 1", "mNicIf1 has no default route via fe80::2"),
    ("pod:-6 addr del 2600:1f14:abc:d00:7a20::2/128 dev mNicIf1", "mNicIf1 does not have address"),
    ("pod:link del mNicIf1", "interface mNicIf1 is missing"),
];

fn check(world: &World, pod: &Namespace, result: &Value) -> Ended {
    world.run("CHECK", &path(pod), Some(result))
}

fn each(test: &str, kind: usize, sabotages: &[Sabotage]) {
    let Some(world) = World::new(test, KINDS[kind]) else { return };
    let before = world.node.inventory();
    for (what, told) in sabotages {
        let pod = world.pod();
        let result = world.add(&pod);
        world.works(&pod, &result);
        if let Some((key, value)) = what.strip_prefix("set:").and_then(|setting| setting.split_once('=')) {
            world.node.run(|| std::fs::write(format!("/proc/sys/{key}"), value).unwrap());
        } else if let Some(command) = what.strip_prefix("pod:") {
            pod.ip(command);
        } else {
            world.node.ip(what);
        }
        let (code, msg) = error(&check(&world, &pod, &result));
        assert!(code == 999 && msg.starts_with("check cmd: ") && msg.contains(told), "{what}: {msg}");

        // What the plugin did not make, it does not remove.
        match *what {
            "rule add from 10.0.97.31 priority 1536 lookup 9" => {
                world.node.ip("rule del from 10.0.97.31 priority 1536 lookup 9");
            }
            "route prepend 10.0.97.31 dev lo scope link" => drop(world.node.ip("route del 10.0.97.31 dev lo")),
            _ => {}
        }
        world.del(&path(&pod), Some(&result));
        world.is_clean_after(&before, pod);
    }
}

#[test]
fn what_is_wrong_with_any_pod() {
    each("what_is_wrong_with_any_pod", 0, &OF_EVERY_POD);
}

#[test]
fn what_is_wrong_with_an_ipv4_pod() {
    each("what_is_wrong_with_an_ipv4_pod", 0, &OF_IPV4);
}

#[test]
fn what_is_wrong_with_an_ipv6_pod_on_two_cards() {
    each("what_is_wrong_with_an_ipv6_pod_on_two_cards", 3, &OF_IPV6_ON_TWO_CARDS);
}

#[test]
fn the_result_is_compared() {
    let Some(world) = World::new("the_result_is_compared", KINDS[2]) else { return };
    let before = world.node.inventory();
    let pod = world.pod();
    let result = world.add(&pod);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = result.clone();
        change(&mut changed);
        error(&check(&world, &pod, &changed)).1
    };
    let msg = with(&|r| r["ips"][0]["address"] = "10.0.97.99/32".into());
    assert!(msg.contains("eth0 does not have address 10.0.97.99/32"), "{msg}");
    let msg = with(&|r| r["interfaces"][3]["mac"] = "10102".into());
    assert!(msg.contains("lookup 10102\" is missing on the host"), "{msg}");
    let msg = with(&|r| r["interfaces"][0]["name"] = "eniffffffffff".into());
    assert!(msg.contains("interface eniffffffffff is missing"), "{msg}");
    let msg = with(&|r| drop(r["ips"].as_array_mut().unwrap().pop()));
    assert!(msg.contains("prevResult does not have one address of mNicIf1"), "{msg}");
    let msg = with(&|r| drop(r["interfaces"].as_array_mut().unwrap().pop()));
    assert!(msg.contains("no dummy interface"), "{msg}");

    let other = world.pod();
    let (_, msg) = error(&check(&world, &other, &result));
    assert!(msg.contains("interface eth0 is missing"), "the pod is in another namespace: {msg}");
    world.works(&pod, &result);
    world.del(&path(&pod), Some(&result));
    let gone = path(&pod);
    world.is_clean_after(&before, pod);
    let (_, msg) = error(&world.run("CHECK", &gone, Some(&result)));
    assert!(msg.contains("no such file or directory"), "{msg}");
}
