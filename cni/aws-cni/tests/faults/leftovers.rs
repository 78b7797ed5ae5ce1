//! States that a crash, another version or an operator can leave: DEL removes all that can be known to be the pod's, GC
//! the rest.

use serde_json::Value;

use crate::support::Namespace;
use crate::world::{KINDS, World, path};

const VETH: &str = "eniad0afc04a99";
const ADDRESS: &str = "10.0.97.31";
const TO: &str = "rule add to 10.0.97.31 priority 512 lookup main";
const FROM: &str = "rule add from 10.0.97.31 priority 1536 lookup 2";
const ROUTE: &str = "route add 10.0.97.31 dev eniad0afc04a99 scope link";

/// What is made, by `ip`; whether the pod's interface is whole.
const STATES: [(&str, &[&str], bool); 9] = [
    ("nothing", &[], false),
    ("both rules", &[TO, FROM], false),
    ("the rule to it", &[TO], false),
    ("the rule from it", &[FROM], false),
    (
        "a rule for each block of the VPC, as old versions had them",
        &[
            TO,
            "rule add from 10.0.97.31 to 10.0.0.0/16 priority 1536 lookup 2",
            "rule add from 10.0.97.31 to 10.1.0.0/16 priority 1536 lookup 2",
        ],
        false,
    ),
    ("a pair of which both ends are on the host", &["link add eniad0afc04a99 type veth peer name half"], false),
    ("a pair", &[], true),
    ("a pair and a route", &[ROUTE], true),
    ("all of it", &[ROUTE, TO, FROM], true),
];

fn make(world: &World, pod: &Namespace, steps: &[&str], whole: bool) {
    if whole {
        world.node.ip(&format!("link add {VETH} type veth peer name eth0 netns {}", pod.name()));
        world.node.ip(&format!("link set {VETH} up"));
    }
    for step in steps {
        world.node.ip(step);
    }
}

fn traces(world: &World) -> String {
    [world.node.ip("rule show"), world.node.ip("route show")].concat().lines().filter(|l| l.contains(ADDRESS)).collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Daemon {
    Knows,
    Forgot,
    Down,
}

#[test]
fn del_in_every_state_whoever_can_be_asked() {
    let Some(world) = World::new("del_in_every_state", KINDS[0]) else { return };
    let before = world.node.inventory();
    let result = {
        let pod = world.pod();
        let result = world.add(&pod);
        world.del(&path(&pod), Some(&result));
        world.is_clean_after(&before, pod);
        result
    };
    for (state, steps, whole) in STATES {
        for daemon in [Daemon::Knows, Daemon::Forgot, Daemon::Down] {
            for saved in [None, Some(&result)] {
                let pod = world.pod();
                make(&world, &pod, steps, whole);
                world.daemon.forget();
                if daemon == Daemon::Knows {
                    world.daemon.remember();
                }
                world.is_down(daemon == Daemon::Down);
                for _ in 0..2 {
                    world.del(&path(&pod), saved);
                }
                world.is_down(false);
                let what = format!("{state}, daemon {daemon:?}, saved: {}", saved.is_some());
                // Without anybody to ask, the kernel tells by the pod's interface and the route over it.
                let can_be_known = daemon == Daemon::Knows || saved.is_some() || steps.contains(&ROUTE);
                if can_be_known {
                    assert_eq!(traces(&world), "", "{what}");
                }
                for end in [VETH, "half"] {
                    if world.node.ip("-o link show").contains(&format!(" {end}@")) {
                        world.node.ip(&format!("link del {end}"));
                    }
                }
                gc(&world);
                // Rules for a block of the VPC are of a form that GC does not take for its own.
                if !state.contains("each block") || can_be_known {
                    world.is_clean_after(&before, pod);
                } else {
                    world.node.ip("rule del from 10.0.97.31 to 10.0.0.0/16 priority 1536 lookup 2");
                    world.node.ip("rule del from 10.0.97.31 to 10.1.0.0/16 priority 1536 lookup 2");
                }
            }
        }
    }
}

/// As after a plugin behind ours that passes on nothing of it.
#[test]
fn del_with_a_saved_result_that_has_no_address_goes_by_what_the_kernel_shows() {
    let Some(world) = World::new("del_with_a_saved_result_that_has_no_address", KINDS[0]) else { return };
    let before = world.node.inventory();
    for daemon in [Daemon::Forgot, Daemon::Down] {
        let pod = world.pod();
        let mut saved = world.add(&pod);
        saved["ips"] = Value::Array(Vec::new());
        world.daemon.forget();
        world.is_down(daemon == Daemon::Down);
        world.del(&path(&pod), Some(&saved));
        world.is_down(false);
        assert_eq!(traces(&world), "", "{daemon:?}");
        world.is_clean_after(&before, pod);
    }
}

fn gc(world: &World) {
    let collected = world.run("GC", "", None);
    assert_eq!((collected.exit, collected.stdout.as_str()), (Some(0), ""), "{collected:?}");
}

#[test]
fn gc_leaves_the_living_and_the_rules_of_others() {
    for kind in KINDS {
        let Some(world) = World::new("gc_leaves_the_living", kind) else { return };
        let empty = world.node.inventory();
        let pod = world.pod();
        let result = world.add(&pod);
        // Nobody's of ours: other priorities, blocks, marks.
        let others = [
            "rule add to 10.9.9.9 priority 511 lookup main",
            "rule add to 10.9.0.0/16 priority 512 lookup main",
            "rule add from 10.9.9.9 priority 1536 fwmark 0x7 lookup 9",
            "rule add to 10.9.9.9 priority 512 lookup 77",
            "rule add iif lo priority 10 lookup 77",
        ];
        others.iter().for_each(|rule| drop(world.node.ip(rule)));
        let alive = world.node.inventory();
        for rule in [
            "rule add to 10.9.9.9 priority 512 lookup main",
            "rule add from 10.9.9.8 priority 1536 lookup 3",
            "rule add iif vlan23145df91e4 priority 10 lookup 107",
            "rule add iif vlan.eth.7 priority 10 lookup 107",
            "-6 rule add to 2600::9 priority 512 lookup main",
            "-6 rule add from 2600::9 priority 1536 lookup 10101",
        ] {
            world.node.ip(rule);
        }
        assert_eq!(alive.differences(&world.node.inventory()).len(), 6);
        gc(&world);
        assert_eq!(alive.differences(&world.node.inventory()), [""; 0], "{}", kind.0);
        world.works(&pod, &result);
        for rule in others {
            world.node.ip(&rule.replace("rule add", "rule del"));
        }
        // A pod whose namespace goes without a DEL.
        drop(pod);
        empty.is_reached_by(kind.0, || {
            gc(&world);
            world.node.inventory()
        });
    }
}

#[test]
fn a_successor_with_the_same_name_and_address_is_left_alone() {
    let Some(world) = World::new("a_successor_is_left_alone", KINDS[0]) else { return };
    let before = world.node.inventory();
    let (first, second) = (world.pod(), world.pod());
    let old: Value = world.add(&first);
    let gone = path(&first);
    first.destroy();
    let new = world.add(&second);
    // The runtime comes late with the DEL of the first, and the daemon has forgotten.
    world.is_down(true);
    world.del(&gone, Some(&old));
    world.del("", Some(&old));
    world.is_down(false);
    world.works(&second, &new);
    world.del(&path(&second), Some(&new));
    world.is_clean_after(&before, second);
}
