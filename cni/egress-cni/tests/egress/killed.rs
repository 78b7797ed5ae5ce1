//! kill -9 before each step of ADD and of DEL: before each message to the kernel, each setting, each program that is run
//! (host-local, iptables) and before the answer. The steps are counted by the run that is not killed any more. A program
//! that is run ends on its own; what it did is what the kill before the next step finds.

use reservoir_net::rule::Family;

use crate::support::{self, Kind, Namespace, World};
use crate::trace::{self, Ended, kill_before};

const ID: &str = "4f0c1b";
const BYSTANDER: &str = "bystander";

/// Runs the plugin and kills it before its `n`th deed; the second answer is what the deed was. None, said loudly, where
/// processes cannot be traced.
fn killed(world: &World, command: &str, pod: &Namespace, n: usize) -> Option<(Ended, String)> {
    let mut victim = String::new();
    let ended = world.node.run(|| {
        let mut plugin = world.command(command, ID, pod.path().to_str().unwrap());
        trace::run(&mut plugin, &world.conf().to_string(), &mut kill_before(n, &mut victim))
    });
    match ended {
        Ok(ended) => Some((ended, victim)),
        Err(reason) => {
            eprintln!("SKIPPED: egress-cni killed at each step: {reason}");
            None
        }
    }
}

/// What comes after a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// DEL, with the namespace still there.
    Del,
    /// DEL, with the namespace gone before.
    DelLate,
    /// ADD of the same container, which must work; and its DEL.
    Add,
}

/// A pod that does not have to wait for its addresses: duplicate address detection would take a second each time.
fn quick_pod() -> Namespace {
    let pod = support::pod();
    pod.sysctl("ipv6/conf/default/accept_dad", "0");
    pod
}

fn recover(world: &World, pod: Namespace, then: Then) {
    let netns = pod.path().to_str().unwrap().to_owned();
    match then {
        Then::Del => world.del(ID, &netns),
        Then::DelLate => {
            drop(pod);
            world.del(ID, &netns);
        }
        Then::Add => {
            world.add(ID, &pod);
            assert_eq!(world.talk(&pod), [world.kind.node(); 2], "{:?}", world.kind);
            world.del(ID, &netns);
        }
    }
}

/// Kills `command` at each of its steps, of which there must be at least so many.
fn at_each_step(world: &World, command: &str, at_least: usize) {
    world.node.sysctl("ipv6/conf/default/accept_dad", "0");
    // Somebody else's egress is nobody's business.
    let bystander = quick_pod();
    world.add(BYSTANDER, &bystander);
    let (before, held) = (world.inventory(), world.held());
    let mut steps = Vec::new();
    for n in 0.. {
        let mut done = false;
        for then in [Then::Del, Then::DelLate, Then::Add] {
            let pod = quick_pod();
            if command == "DEL" {
                world.add(ID, &pod);
            }
            let Some((ended, victim)) = killed(world, command, &pod, n) else { return };
            done = ended.exit.is_some();
            assert_eq!(ended.exit.unwrap_or(0), 0, "{:?}: {n}: {ended:?}", world.kind);
            if !done && then == Then::Del {
                steps.push(victim.clone());
            }
            recover(world, pod, then);
            before
                .is_reached_by(&format!("{:?}: {command} killed before {n} ({victim}), {then:?}", world.kind), || {
                    world.inventory()
                });
            assert_eq!(world.held(), held, "{:?}: {command} killed before {n} ({victim}), {then:?}", world.kind);
        }
        if done {
            break;
        }
    }
    assert_eq!(world.talk(&bystander), [world.kind.node(); 2], "{:?}: the other pod", world.kind);
    world.del(BYSTANDER, bystander.path().to_str().unwrap());
    eprintln!("{:?}: {command} killed before each of {} steps: {}", world.kind, steps.len(), steps.join(", "));
    assert!(steps.len() >= at_least, "{steps:?}");
}

/// The fewest that it can be done in: host-local, the pair, both up, address, route in the pod, route on the host, two
/// looks at iptables and a write, the answer.
const OF_ADD: usize = 10;
/// Two looks at iptables and a write, the pair, host-local.
const OF_DEL: usize = 5;

fn of(family: Family, flavour: &'static str) {
    let test = format!("egress-cni killed at each step, {family:?} {flavour}");
    World::one(&test, Kind { family, flavour }, |world| {
        at_each_step(world, "ADD", OF_ADD);
        at_each_step(world, "DEL", OF_DEL);
    });
}

#[test]
fn ipv4_killed_at_each_step_with_legacy_iptables() {
    of(Family::V4, "legacy");
}

#[test]
fn ipv4_killed_at_each_step_with_iptables_nft() {
    of(Family::V4, "nft");
}

#[test]
fn ipv6_killed_at_each_step_with_legacy_iptables() {
    of(Family::V6, "legacy");
}

#[test]
fn ipv6_killed_at_each_step_with_iptables_nft() {
    of(Family::V6, "nft");
}
