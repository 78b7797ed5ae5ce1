//! The pod's namespace goes away while the plugin works in it; and two plugins at once for the same pod.

use std::process::Command;

use crate::support::Namespace;
use crate::trace::Verdict;
use crate::world::{KINDS, Kind, World, error, path};

fn netns(verb: &str, name: &str) {
    let output = Command::new("ip").args(["netns", verb, name]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Takes the namespace away before the `n`th deed; with `again` another takes its path.
fn add_without_namespace(world: &World, pod: &Namespace, n: usize, again: bool) -> (crate::trace::Ended, bool) {
    let (mut seen, mut gone) = (0, false);
    let name = pod.name().to_owned();
    let ended = world.traced("ADD", &path(pod), None, |_| {
        if seen == n {
            netns("delete", &name);
            if again {
                netns("add", &name);
            }
            gone = true;
        }
        seen += 1;
        Verdict::Go
    });
    (ended.unwrap(), gone)
}

fn vanishing(test: &str, kind: Kind) {
    let Some(world) = World::new(test, kind) else { return };
    let before = world.node.inventory();
    for again in [false, true] {
        let (mut failed, mut succeeded) = (0, 0);
        for n in 0.. {
            let pod = world.pod();
            let (ended, gone) = add_without_namespace(&world, &pod, n, again);
            let previous = if ended.exit == Some(0) {
                succeeded += 1;
                Some(serde_json::from_str(&ended.stdout).unwrap())
            } else {
                let (code, msg) = error(&ended);
                assert!(code == 999 && msg.starts_with("add command: failed to setup network: "), "{msg}");
                assert_eq!(before.differences(&world.node.inventory()), [""; 0], "{}: {n}: {msg}", kind.0);
                failed += 1;
                None
            };
            world.del(&path(&pod), previous.as_ref());
            world.is_clean_after(&before, pod);
            assert_eq!(world.daemon.pods(), 0, "{}: {n}", kind.0);
            if !gone {
                break;
            }
        }
        eprintln!("{}: namespace gone, replaced: {again}: {failed} ADDs failed, {succeeded} succeeded", kind.0);
    }
}

#[test]
fn a_namespace_that_goes_away_at_each_step() {
    vanishing("a_namespace_that_goes_away", KINDS[0]);
}

#[test]
fn a_namespace_of_a_pod_on_two_cards_that_goes_away_at_each_step() {
    vanishing("a_namespace_of_a_pod_on_two_cards_that_goes_away", KINDS[3]);
}

#[test]
fn the_same_pod_several_times_at_once() {
    for kind in [KINDS[0], KINDS[3]] {
        let Some(world) = World::new("the_same_pod_several_times_at_once", kind) else { return };
        let before = world.node.inventory();
        for _ in 0..5 {
            let pod = world.pod();
            let at_once = || {
                std::thread::scope(|scope| {
                    let all: Vec<_> = (0..4).map(|_| scope.spawn(|| world.run("ADD", &path(&pod), None))).collect();
                    all.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
                })
            };
            let ended = at_once();
            assert!(ended.iter().all(|one| one.exit == Some(0)), "{ended:?}");
            let result = serde_json::from_str(&ended[0].stdout).unwrap();
            world.works(&pod, &result);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| world.del(&path(&pod), Some(&result)));
                }
            });
            world.is_clean_after(&before, pod);
        }
    }
}
