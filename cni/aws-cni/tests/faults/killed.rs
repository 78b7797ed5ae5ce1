//! kill -9 before each step. The steps are counted by the run that is not killed any more.

use serde_json::Value;

use crate::support::Namespace;
use crate::trace::{Ended, kill_before};
use crate::world::{KINDS, Kind, World, path};

/// Runs the plugin and kills it before its `n`th deed; the second answer is what the deed was.
fn killed(world: &World, command: &str, pod: &Namespace, previous: Option<&Value>, n: usize) -> (Ended, String) {
    let mut victim = String::new();
    let ended = world.traced(command, &path(pod), previous, kill_before(n, &mut victim)).unwrap();
    (ended, victim)
}

/// What comes after a kill.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// DEL, with the namespace still there.
    Del,
    /// DEL, with the namespace gone before.
    DelLate,
    /// ADD of the same container, which must work; and its DEL.
    Add,
    /// A daemon that has lost its memory, and no result: only the kernel tells.
    DelByKernel,
}

fn recover(world: &World, pod: Namespace, then: Then, previous: Option<&Value>) -> Namespace {
    match then {
        Then::Del => world.del(&path(&pod), previous),
        Then::DelLate => {
            let gone = path(&pod);
            pod.destroy();
            world.del(&gone, previous);
        }
        Then::Add => {
            let result = world.add(&pod);
            world.works(&pod, &result);
            world.del(&path(&pod), Some(&result));
        }
        Then::DelByKernel => {
            world.daemon.forget();
            world.del(&path(&pod), None);
        }
    }
    pod
}

fn add_killed(test: &str, kind: Kind) {
    let Some(world) = World::new(test, kind) else { return };
    let before = world.node.inventory();
    let mut steps = Vec::new();
    for n in 0.. {
        let mut done = false;
        for then in [Then::Del, Then::DelLate, Then::Add, Then::DelByKernel] {
            let pod = world.pod();
            let (ended, victim) = killed(&world, "ADD", &pod, None, n);
            done = ended.exit.is_some();
            assert_eq!(ended.exit.unwrap_or(0), 0, "{}: {n}: {ended:?}", kind.0);
            if !done && matches!(then, Then::Del) {
                steps.push(victim);
            }
            let pod = recover(&world, pod, then, None);
            world.is_clean_after(&before, pod);
        }
        assert_eq!(world.daemon.pods(), 0, "{}: {n}", kind.0);
        if done {
            break;
        }
    }
    eprintln!("{}: ADD killed before each of {} steps: {}", kind.0, steps.len(), steps.join(", "));
    // The fewest that wiring can be done in: call, old veth, pair, both up, two routes, address, neighbour, route, rule, answer.
    assert!(steps.len() >= 12, "{steps:?}");
}

fn del_killed(test: &str, kind: Kind) {
    let Some(world) = World::new(test, kind) else { return };
    let before = world.node.inventory();
    let mut steps = Vec::new();
    for n in 0.. {
        let mut done = false;
        // Each with and without the result of ADD: a runtime that saw ADD fail has none.
        for then in [Then::Del, Then::DelLate, Then::Add, Then::DelByKernel] {
            let pod = world.pod();
            let result = world.add(&pod);
            let (ended, victim) = killed(&world, "DEL", &pod, Some(&result), n);
            done = ended.exit.is_some();
            assert_eq!(ended.exit.unwrap_or(0), 0, "{}: {n}: {ended:?}", kind.0);
            if !done && matches!(then, Then::Del) {
                steps.push(victim);
            }
            let pod = recover(&world, pod, then, Some(&result));
            world.is_clean_after(&before, pod);
        }
        if done {
            break;
        }
    }
    eprintln!("{}: DEL killed before each of {} steps: {}", kind.0, steps.len(), steps.join(", "));
    assert!(steps.len() >= 3, "{steps:?}");
}

#[test]
fn add_of_an_ipv4_pod_killed_at_each_step() {
    add_killed("add_of_an_ipv4_pod_killed", KINDS[0]);
}

#[test]
fn add_of_an_ipv6_pod_killed_at_each_step() {
    add_killed("add_of_an_ipv6_pod_killed", KINDS[1]);
}

#[test]
fn add_of_an_ipv4_pod_on_two_cards_killed_at_each_step() {
    add_killed("add_of_an_ipv4_pod_on_two_cards_killed", KINDS[2]);
}

#[test]
fn add_of_an_ipv6_pod_on_two_cards_killed_at_each_step() {
    add_killed("add_of_an_ipv6_pod_on_two_cards_killed", KINDS[3]);
}

#[test]
fn del_of_pods_of_every_kind_killed_at_each_step() {
    for kind in KINDS {
        del_killed("del_of_pods_killed", kind);
    }
}
