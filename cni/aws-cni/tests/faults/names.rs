//! Names at their limits, names that are taken, and paths that lead to no namespace.

use std::process::Command;

use serde_json::Value;

use crate::support::Namespace;
use crate::world::{KINDS, World, error, path};

/// `default.hpc-0`
const VETH: &str = "eniad0afc04a99";

fn named(ifname: &str, netns: &str) -> Command {
    let mut command = World::command("ADD", netns);
    command.env("CNI_IFNAME", ifname);
    command
}

#[test]
fn interface_names_at_their_limits() {
    let Some(world) = World::new("interface_names_at_their_limits", KINDS[0]) else { return };
    let before = world.node.inventory();
    let pod = world.pod();
    for (name, code, part) in [
        ("abcdefghijklmnop", 4, "interface name is too long"),
        (".", 4, "interface name is . or .."),
        ("..", 4, "interface name is . or .."),
        ("a/b", 4, "contains / or : or whitespace"),
        ("a:b", 4, "contains / or : or whitespace"),
        ("a b", 4, "contains / or : or whitespace"),
        ("a\tb", 4, "contains / or : or whitespace"),
        ("eth%d", 4, "contains %"),
        // The kernel's word: the namespace has one.
        ("lo", 999, "file exists"),
    ] {
        let (got, msg) = error(&world.start(named(name, &path(&pod)), None));
        assert!(got == code && msg.contains(part), "{name}: {got} {msg}");
        assert_eq!(before.differences(&world.node.inventory()), [""; 0], "{name}");
        assert_eq!(pod.ip("-o link show").lines().count(), 1, "{name}");
    }
    for name in ["abcdefghijklmno", "e", "eth0.1", "-x", "mNicIf1"] {
        let pod = world.pod();
        let added = world.start(named(name, &path(&pod)), None);
        assert_eq!(added.exit, Some(0), "{name}: {added:?}");
        assert!(pod.ip("-o link show").contains(&format!(": {name}@")), "{name}");
        let result: Value = serde_json::from_str(&added.stdout).unwrap();
        let mut del = World::command("DEL", &path(&pod));
        del.env("CNI_IFNAME", name);
        assert_eq!(world.start(del, Some(&result)).exit, Some(0), "{name}");
        world.is_clean_after(&before, pod);
    }
}

#[test]
fn two_interfaces_of_one_name() {
    // The second interface of such a pod is called mNicIf1.
    let Some(world) = World::new("two_interfaces_of_one_name", KINDS[2]) else { return };
    let before = world.node.inventory();
    let pod = world.pod();
    let (code, msg) = error(&world.start(named("mNicIf1", &path(&pod)), None));
    assert!(code == 999 && msg.contains("file exists"), "{code} {msg}");
    assert_eq!(before.differences(&world.node.inventory()), [""; 0]);
    assert_eq!(pod.ip("-o link show").lines().count(), 1);
    assert_eq!(world.daemon.pods(), 0);
}

#[test]
fn pods_with_extreme_names() {
    let Some(world) = World::new("pods_with_extreme_names", KINDS[0]) else { return };
    let before = world.node.inventory();
    let (long, longer) = ("a".repeat(253), "x".repeat(60_000));
    for (namespace, name) in [
        ("", ""),
        ("default", ""),
        ("", "web"),
        (long.as_str(), long.as_str()),
        (&longer, &longer),
        ("ns", "%s/../\u{fc}\n"),
    ] {
        let pod = world.pod();
        let with = |verb: &str| {
            let mut command = World::command(verb, &path(&pod));
            command.env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"));
            command
        };
        let added = world.start(with("ADD"), None);
        let what = format!("{:.20}/{:.20}: {:.400}", namespace, name, format!("{added:?}"));
        assert_eq!(added.exit, Some(0), "{what}");
        let result: Value = serde_json::from_str(&added.stdout).unwrap();
        assert!(result["interfaces"][0]["name"].as_str().unwrap().len() <= 15, "{what}");
        assert_eq!(world.start(with("CHECK"), Some(&result)).exit, Some(0), "{what}");
        assert_eq!(world.start(with("DEL"), Some(&result)).exit, Some(0), "{what}");
        world.is_clean_after(&before, pod);
    }
}

#[test]
fn paths_that_lead_to_no_namespace() {
    let Some(world) = World::new("paths_that_lead_to_no_namespace", KINDS[0]) else { return };
    let before = world.node.inventory();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(at("file"), "x").unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
    for (netns, part) in [
        (at("nothing"), "no such file or directory"),
        (at("file"), "unknown FS magic on"),
        // Nobody writes to it: whoever opened it in the usual way would wait for ever.
        (at("pipe"), "unknown FS magic on"),
        (at("loop"), "failed to Statfs"),
        (directory.path().display().to_string(), "unknown FS magic on"),
        ("/proc/self/status".to_owned(), "unknown FS magic on"),
        ("/proc/self/ns/uts".to_owned(), ""),
        ("/dev/null".to_owned(), "unknown FS magic on"),
        ("x".repeat(5_000), "file name too long"),
    ] {
        let (code, msg) = error(&world.start(World::command("ADD", &netns), None));
        assert!(code == 999 && msg.contains(part), "{netns:.100}: {code} {msg:.400}");
        world.del(&netns, None);
        assert_eq!(before.differences(&world.node.inventory()), [""; 0], "{netns:.100}");
        assert_eq!(world.daemon.pods(), 0);
    }
}

#[test]
fn a_taken_veth_name_goes_to_the_new_pod() {
    // Whoever has it: a pod of the same name that is on its way out, another whose name has the same hash, a stranger
    // (spec 04 §4.1 step 1).
    let Some(world) = World::new("a_taken_veth_name", KINDS[0]) else { return };
    let (first, second) = (world.pod(), world.pod());
    let before = world.node.inventory();
    let make = |link: &str| world.node.ip(&format!("link add {VETH} type {link}"));
    for occupant in ["another pod", "a veth of the host", "a pair turned round"] {
        match occupant {
            "another pod" => drop(world.add(&first)),
            "a veth of the host" => drop(make("veth peer name stranger")),
            // The name is inside the pod, and the pod's name on the host.
            _ => drop(world.node.ip(&format!("link add eth9 type veth peer name {VETH} netns {}", first.name()))),
        }
        let result = world.add(&second);
        world.works(&second, &result);
        assert!(!first.ip("-o link show").contains("eth0@"), "{occupant}");
        world.del(&path(&second), Some(&result));
        let rest = Namespace::new("pod").unwrap();
        drop(rest);
        if occupant == "a pair turned round" {
            world.node.ip("link del eth9");
        }
        world.node.ip(&format!("link del {VETH}"));
        assert_eq!(before.differences(&world.node.inventory()), [""; 0], "{occupant}");
    }
}

#[test]
fn an_interface_that_is_in_the_pod_already_is_an_error() {
    let Some(world) = World::new("an_interface_that_is_in_the_pod_already", KINDS[0]) else { return };
    let pod = world.pod();
    // Of a pair whose other end has another name: not ours to replace.
    world.node.ip(&format!("link add other type veth peer name eth0 netns {}", pod.name()));
    let before = world.node.inventory();
    let (code, msg) = error(&world.run("ADD", &path(&pod), None));
    assert!(code == 999 && msg.contains("failed to setup veth network: file exists"), "{code} {msg}");
    assert_eq!(before.differences(&world.node.inventory()), [""; 0]);
    assert!(pod.ip("-o link show").contains(": eth0@"));
}
