//! Pods with branch interfaces. A kernel without vlans does all of it but one message: the device is then a stand-in,
//! made in the place of that message. A kernel with vlans has a ring of its own (`tests/vlan`).

use std::process::Command;

use nix::libc::{EBUSY, ENODEV, ENOSPC};
use serde_json::Value;

use crate::support::Namespace;
use crate::trace::{Deed, Ended, Verdict};
use crate::world::{Kind, World, error, path};

const RTM_NEWLINK: u16 = 16;
const VLAN: &str = "vlan.eth.7";

/// Mode, and the pod's address.
const PODS: [(&str, Kind); 3] = [
    ("strict", ("IPv4", &[("10.0.120.77", 0)])),
    ("standard", ("IPv4", &[("10.0.120.77", 0)])),
    ("strict", ("IPv6", &[("2600:1f14:abc:d00::77", 0)])),
];

/// Makes the stand-in when the plugin is about to make the vlan, unless `judge` lets that not happen.
fn with_stand_in(mut judge: impl FnMut(&Deed) -> Verdict + Send) -> impl FnMut(&Deed) -> Verdict + Send {
    move |deed| {
        let verdict = judge(deed);
        let is_vlan = |body: &[u8]| body.windows(VLAN.len()).any(|window| window == VLAN.as_bytes());
        match deed {
            Deed::Netlink { kind: RTM_NEWLINK, body } if verdict == Verdict::Go && is_vlan(body) => {
                let words = ["link", "add", VLAN, "type", "veth", "peer", "name", "trunk"];
                let made = Command::new("ip").args(words).output().unwrap();
                assert!(made.status.success(), "{made:?}");
                Verdict::Skip
            }
            _ => verdict,
        }
    }
}

fn run(
    world: &World,
    command: &str,
    netns: &str,
    saved: Option<&Value>,
    judge: impl FnMut(&Deed) -> Verdict + Send,
) -> Ended {
    world.traced(command, netns, saved, with_stand_in(judge)).unwrap()
}

fn add(world: &World, pod: &Namespace) -> Value {
    let added = run(world, "ADD", &path(pod), None, |_| Verdict::Go);
    assert_eq!(added.exit, Some(0), "{added:?}");
    serde_json::from_str(&added.stdout).unwrap()
}

/// The way of a strict pod leads out by the trunk, which leads nowhere here.
fn works(world: &World, pod: &Namespace, result: &Value) {
    if world.mode == "strict" {
        let checked = world.run("CHECK", &path(pod), Some(result));
        assert_eq!((checked.exit, checked.stdout.as_str()), (Some(0), ""), "{checked:?}");
    } else {
        world.works(pod, result);
    }
}

fn kill_at(n: usize, victim: &mut String) -> impl FnMut(&Deed) -> Verdict + Send {
    let mut seen = 0;
    move |deed| {
        seen += usize::from(deed.changes());
        if deed.changes() && seen == n + 1 {
            *victim = deed.to_string();
            return Verdict::Kill;
        }
        Verdict::Go
    }
}

fn killed(test: &str, command: &str) {
    for (mode, kind) in PODS {
        let Some(world) = World::with_branch(test, kind, mode) else { return };
        let before = world.node.inventory();
        let mut steps = Vec::new();
        for n in 0.. {
            let mut done = false;
            for then in ["DEL", "a late DEL", "ADD"] {
                let pod = world.pod();
                let saved = (command == "DEL").then(|| add(&world, &pod));
                let mut victim = String::new();
                let ended = run(&world, command, &path(&pod), saved.as_ref(), kill_at(n, &mut victim));
                done = ended.exit.is_some();
                assert_eq!(ended.exit.unwrap_or(0), 0, "{mode} {}: {n}: {ended:?}", kind.0);
                if !done && then == "DEL" {
                    steps.push(victim);
                }
                match then {
                    "ADD" => {
                        let result = add(&world, &pod);
                        works(&world, &pod, &result);
                        world.del(&path(&pod), Some(&result));
                    }
                    "DEL" => world.del(&path(&pod), saved.as_ref()),
                    _ => {
                        let gone = path(&pod);
                        pod.destroy();
                        world.del(&gone, saved.as_ref());
                    }
                }
                world.is_clean_after(&before, pod);
            }
            if done {
                break;
            }
        }
        eprintln!("{mode} {}: {command} killed before each of {} steps: {}", kind.0, steps.len(), steps.join(", "));
        assert!(steps.len() >= if command == "ADD" { 18 } else { 3 }, "{steps:?}");
    }
}

#[test]
fn add_of_a_branch_pod_killed_at_each_step() {
    killed("add_of_a_branch_pod_killed", "ADD");
}

#[test]
fn del_of_a_branch_pod_killed_at_each_step() {
    killed("del_of_a_branch_pod_killed", "DEL");
}

#[test]
fn add_of_a_branch_pod_refused_at_each_step() {
    for (mode, kind) in PODS {
        let Some(world) = World::with_branch("add_of_a_branch_pod_refused", kind, mode) else { return };
        let before = world.node.inventory();
        for errno in [EBUSY, ENOSPC, ENODEV] {
            let (mut failed, mut succeeded) = (0, 0);
            for n in 0.. {
                let pod = world.pod();
                let mut seen = 0;
                let judge = |deed: &Deed| {
                    let counts = deed.can_be_refused() && deed.changes();
                    seen += usize::from(counts);
                    if counts && seen == n + 1 { Verdict::Refuse(errno) } else { Verdict::Go }
                };
                let ended = run(&world, "ADD", &path(&pod), None, judge);
                if ended.exit == Some(0) {
                    let result = serde_json::from_str(&ended.stdout).unwrap();
                    works(&world, &pod, &result);
                    world.del(&path(&pod), Some(&result));
                    world.is_clean_after(&before, pod);
                    succeeded += 1;
                } else {
                    let (code, msg) = error(&ended);
                    assert!(code == 999 && msg.contains("SetupBranchENIPodNetwork: "), "{msg}");
                    assert!(errno != EBUSY, "{mode}: it was asked once only: {n}: {msg}");
                    assert_eq!(before.differences(&world.node.inventory()), [""; 0], "{mode}: {errno} at {n}: {msg}");
                    failed += 1;
                }
                if seen <= n {
                    break;
                }
            }
            eprintln!("{mode} {}: errno {errno}: {failed} ADDs failed, {succeeded} succeeded", kind.0);
            assert!(failed + succeeded > 15);
        }
    }
}
