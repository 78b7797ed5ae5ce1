//! The kernel refuses one step: ADD does it again and succeeds, or fails with an error object and leaves nothing.

use nix::libc::{EBUSY, EEXIST, ENOBUFS, ENODEV, ENOSPC};

use crate::trace::{Deed, Ended, Verdict};
use crate::world::{KINDS, Kind, World, error, path};

const REFUSALS: [(&str, i32); 5] =
    [("EBUSY", EBUSY), ("ENOBUFS", ENOBUFS), ("ENOSPC", ENOSPC), ("ENODEV", ENODEV), ("EEXIST", EEXIST)];

/// Refuses the `n`th deed that the kernel answers, and with `always` every later one that is the same.
fn judge(n: usize, errno: i32, always: bool, refused: &mut Option<Deed>) -> impl FnMut(&Deed) -> Verdict + Send {
    let mut seen = 0;
    move |deed| {
        if !deed.can_be_refused() {
            return Verdict::Go;
        }
        seen += 1;
        let is_victim = seen == n + 1;
        if is_victim {
            *refused = Some(deed.clone());
        }
        if is_victim || (always && refused.as_ref() == Some(deed)) { Verdict::Refuse(errno) } else { Verdict::Go }
    }
}

fn add_refused(test: &str, kind: Kind) {
    let Some(world) = World::new(test, kind) else { return };
    let before = world.node.inventory();
    for (name, errno) in REFUSALS {
        for always in [false, true] {
            let (mut failed, mut succeeded) = (0, 0);
            let mut pod = world.pod();
            for n in 0.. {
                let mut refused = None;
                let ended = world.traced("ADD", &path(&pod), None, judge(n, errno, always, &mut refused)).unwrap();
                let what = format!("{}: {name} at {n}, {:?}, always: {always}: {ended:?}", kind.0, refused);
                let is_busy = [EBUSY, ENOBUFS].contains(&errno);
                if ended.exit == Some(0) {
                    let result = serde_json::from_str(&ended.stdout).unwrap();
                    // "It exists" and "there is none" may be what the step wanted to hear; then it may not be true here.
                    if is_busy {
                        world.works(&pod, &result);
                    }
                    world.del(&path(&pod), Some(&result));
                    world.is_clean_after(&before, std::mem::replace(&mut pod, world.pod()));
                    succeeded += 1;
                } else {
                    let (code, msg) = error(&ended);
                    assert!(code == 999 && msg.starts_with("add command: failed to setup network: "), "{what}");
                    assert!(always || !is_busy || is_read(refused.as_ref()), "it was asked once only: {what}");
                    assert_eq!(before.differences(&world.node.inventory()), [""; 0], "{what}");
                    assert_eq!(pod.ip("-o link show").lines().count(), 1, "only lo: {what}");
                    assert_eq!(world.daemon.pods(), 0, "the addresses went back: {what}");
                    failed += 1;
                }
                if refused.is_none() {
                    break;
                }
            }
            eprintln!("{}: {name}, always: {always}: {failed} ADDs failed, {succeeded} succeeded", kind.0);
            assert!(failed + succeeded > 10, "too few steps");
        }
    }
}

/// Reads are not tried again.
fn is_read(deed: Option<&Deed>) -> bool {
    deed.is_some_and(|deed| !deed.changes())
}

fn del_refused(test: &str, kind: Kind) {
    let Some(world) = World::new(test, kind) else { return };
    let before = world.node.inventory();
    for (name, errno) in REFUSALS {
        for n in 0.. {
            let pod = world.pod();
            let result = world.add(&pod);
            let mut refused = None;
            let ended = world.traced("DEL", &path(&pod), Some(&result), judge(n, errno, true, &mut refused)).unwrap();
            let what = format!("{}: {name} at {n}, {refused:?}: {ended:?}", kind.0);
            if ended.exit != Some(0) {
                let (code, msg) = error(&ended);
                assert!(code == 999 && msg.starts_with("del cmd: failed on tear down pod network: "), "{what}");
            }
            // The runtime tries again.
            world.del(&path(&pod), Some(&result));
            world.is_clean_after(&before, pod);
            if refused.is_none() {
                break;
            }
        }
    }
}

#[test]
fn add_of_an_ipv4_pod_refused_at_each_step() {
    add_refused("add_of_an_ipv4_pod_refused", KINDS[0]);
}

#[test]
fn add_of_an_ipv6_pod_on_two_cards_refused_at_each_step() {
    add_refused("add_of_an_ipv6_pod_on_two_cards_refused", KINDS[3]);
}

#[test]
fn del_of_pods_of_every_kind_refused_at_each_step() {
    for kind in KINDS {
        del_refused("del_of_pods_refused", kind);
    }
}

#[test]
fn a_full_route_table_is_named() {
    let Some(world) = World::new("a_full_route_table_is_named", KINDS[0]) else { return };
    let pod = world.pod();
    let before = world.node.inventory();
    let full = |deed: &Deed| match deed {
        Deed::Netlink { kind: 24, .. } => Verdict::Refuse(ENOSPC),
        _ => Verdict::Go,
    };
    let ended: Ended = world.traced("ADD", &path(&pod), None, full).unwrap();
    let (code, msg) = error(&ended);
    assert!(code == 999 && msg.contains("no space left on device (route replace "), "{msg}");
    assert_eq!(before.differences(&world.node.inventory()), [""; 0]);
}
