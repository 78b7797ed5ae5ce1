//! The policy directory while the daemon runs.

mod support;

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use reservoir_core::policy::Node;
use reservoir_policy::{By, Pauses, Policies, Watch, watch};
use support::{calm, good, guest, policies_with, provoking};

/// Longer than any load on a busy machine.
const SOON: Duration = Duration::from_secs(60);

struct Watched {
    policies: Arc<Policies>,
    /// One message per load: what went wrong, if something did.
    loads: Receiver<Result<(), String>>,
    watch: Watch,
}

/// Longer than any test.
const NEVER: Pauses = Pauses {
    refused: Duration::from_secs(3600),
    taken_over: Duration::from_secs(3600),
    most: Duration::from_secs(3600),
};

fn start(dir: &Path) -> Watched {
    start_with(dir, NEVER, || Some(calm()))
}

fn start_with(dir: &Path, pauses: Pauses, snapshot: impl Fn() -> Option<Node> + Send + 'static) -> Watched {
    let (tell, loads) = channel();
    let policies = Arc::new(policies_with(pauses));
    let after = move |result: &Result<_, reservoir_policy::ReloadError>| {
        let _ = tell.send(result.as_ref().map(drop).map_err(ToString::to_string));
    };
    let watch = watch(policies.clone(), dir, snapshot, after).unwrap();
    Watched { policies, loads, watch }
}

impl Watched {
    fn next(&self) -> Result<(), String> {
        self.loads.recv_timeout(SOON).expect("a change of the directory was not noticed")
    }

    fn quiet(&self) -> bool {
        self.loads.recv_timeout(Duration::from_millis(700)).is_err()
    }

    fn minimum(&self) -> u32 {
        let decision = self.policies.decide(&calm());
        assert_eq!(decision.failure(), None);
        decision.targets.unwrap()[0].minimum_ips
    }

    fn settings(&self) -> Vec<String> {
        let status = self.policies.status();
        status.custom.unwrap_or(status.built_in).settings
    }
}

/// One version of a ConfigMap volume: `..<version>` holds the files, `..data` points to it, the names point into
/// `..data`. The kubelet swaps `..data` by rename.
fn config_map(volume: &Path, version: &str, files: &[(&str, &[u8])]) {
    let dir = volume.join(format!("..{version}"));
    fs::create_dir(&dir).unwrap();
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
    symlink(format!("..{version}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    for (name, _) in files {
        let link = volume.join(name);
        if link.symlink_metadata().is_err() {
            symlink(format!("..data/{name}"), link).unwrap();
        }
    }
}

#[test]
fn a_config_map_is_swapped() {
    let tmp = tempfile::tempdir().unwrap();
    let watched = start(tmp.path());
    assert_eq!(watched.next(), Ok(()), "an empty directory is the built-in policy");
    assert_eq!(watched.policies.status().custom, None);

    config_map(tmp.path(), "1", &[("policy.wasm", &guest("trap"))]);
    assert_eq!(watched.next(), Ok(()));
    assert_eq!(watched.minimum(), 5);

    // A bad one: the last good one stays, and the reason can be seen.
    config_map(tmp.path(), "2", &[("policy.wasm", b"\0asm\x01\0\0\0")]);
    let error = watched.next().unwrap_err();
    assert!(error.contains("core module"), "{error}");
    assert_eq!(watched.minimum(), 5);
    assert_eq!(watched.policies.status().last_load_error.unwrap().reason, error);

    // Component and settings change together.
    config_map(tmp.path(), "3", &[("policy.wasm", &guest("memo")), ("target", b"1")]);
    assert_eq!(watched.next(), Ok(()));
    assert_eq!((watched.minimum(), watched.settings()), (0, vec!["target".to_owned()]));
    assert_eq!(watched.policies.status().last_load_error, None);
    assert!(watched.quiet(), "one change, one load");
}

#[test]
fn plain_writes_touches_and_removal() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("policy.wasm");
    fs::write(&file, guest("trap")).unwrap();
    let watched = start(tmp.path());
    assert_eq!(watched.next(), Ok(()), "what is there is loaded before watch() returns");
    assert_eq!(watched.minimum(), 5);

    // Slowly, as a large file comes over a network.
    let component = good();
    let (first, second) = component.split_at(component.len() / 2);
    fs::write(&file, first).unwrap();
    thread::sleep(Duration::from_millis(100));
    fs::write(&file, [first, second].concat()).unwrap();
    // A busy machine may read the half, which is refused.
    while let Err(error) = watched.next() {
        assert!(error.contains("cut off"), "{error}");
    }
    assert_eq!(watched.minimum(), 0);

    fs::write(tmp.path().join(".swp"), "x").unwrap();
    fs::write(&file, &component).unwrap();
    assert!(watched.quiet(), "the same content is no change");

    fs::write(tmp.path().join("nonsense"), b"\xff").unwrap();
    let error = watched.next().unwrap_err();
    assert!(error.contains("nonsense: a setting must be UTF-8"), "{error}");
    assert!(watched.policies.status().custom.is_some());

    fs::remove_file(tmp.path().join("nonsense")).unwrap();
    assert_eq!(watched.next(), Ok(()));
    fs::remove_file(&file).unwrap();
    assert_eq!(watched.next(), Ok(()));
    assert_eq!(watched.policies.status().custom, None);
}

#[test]
fn the_directory_appears_goes_and_is_replaced() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("etc/reservoir/policy");
    let watched = start(&dir);
    assert_eq!(watched.next(), Ok(()));

    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("policy.wasm"), guest("trap")).unwrap();
    assert_eq!(watched.next(), Ok(()));
    assert_eq!(watched.minimum(), 5);

    fs::rename(&dir, tmp.path().join("old")).unwrap();
    assert_eq!(watched.next(), Ok(()));
    assert_eq!(watched.policies.status().custom, None);

    let staged = tmp.path().join("staged");
    fs::create_dir(&staged).unwrap();
    fs::write(staged.join("policy.wasm"), guest("trap")).unwrap();
    fs::rename(&staged, &dir).unwrap();
    assert_eq!(watched.next(), Ok(()));
    assert_eq!(watched.minimum(), 5);

    fs::remove_dir_all(tmp.path().join("etc")).unwrap();
    assert_eq!(watched.next(), Ok(()));
    assert_eq!(watched.policies.status().custom, None);
}

#[test]
fn after_a_take_over_the_same_files_are_loaded_again() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("policy.wasm");
    fs::write(&file, guest("trap")).unwrap();
    let watched = start(tmp.path());
    assert_eq!(watched.next(), Ok(()));
    for _ in 0..5 {
        let _ = watched.policies.decide(&provoking());
    }
    assert!(watched.policies.status().taken_over_at.is_some());
    fs::write(&file, guest("trap")).unwrap();
    assert_eq!(watched.next(), Ok(()));
    assert_eq!(watched.policies.status().taken_over_at, None);
    assert_eq!(watched.minimum(), 5);
}

/// Provokes until it is told not to.
fn provoking_until(calmed: &Arc<AtomicBool>) -> impl Fn() -> Option<Node> + Send + 'static {
    let calmed = calmed.clone();
    move || Some(if calmed.load(SeqCst) { calm() } else { Node { labels: vec![], ..provoking() } })
}

#[test]
fn after_a_take_over_it_is_tried_again_by_itself() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("policy.wasm"), guest("trap")).unwrap();
    let soon = Pauses { taken_over: Duration::from_millis(300), ..NEVER };
    let calmed = Arc::new(AtomicBool::new(true));
    let watched = start_with(tmp.path(), soon, provoking_until(&calmed));
    assert_eq!(watched.next(), Ok(()));
    assert!(watched.quiet(), "what is in force is not tried again");
    calmed.store(false, SeqCst);
    for _ in 0..5 {
        let _ = watched.policies.decide(&provoking());
    }
    assert!(watched.policies.taken_over());
    // It still fails on the node as it is, and the built-in policy goes on.
    assert!(watched.next().unwrap_err().contains("tried on a snapshot"));
    assert!(watched.policies.taken_over());
    calmed.store(true, SeqCst);
    while watched.next().is_err() {}
    assert!(!watched.policies.taken_over());
    assert_eq!(watched.minimum(), 5);
}

#[test]
fn what_was_refused_is_tried_again_by_itself() {
    let tmp = tempfile::tempdir().unwrap();
    let soon = Pauses { refused: Duration::from_millis(100), ..NEVER };
    let calmed = Arc::new(AtomicBool::default());
    fs::write(tmp.path().join("policy.wasm"), guest("trap")).unwrap();
    let watched = start_with(tmp.path(), soon, provoking_until(&calmed));
    for _ in 0..2 {
        assert!(watched.next().unwrap_err().contains("tried on a snapshot"));
    }
    calmed.store(true, SeqCst);
    while watched.next().is_err() {}
    assert_eq!(watched.minimum(), 5);
    // One that does not load never will.
    fs::write(tmp.path().join("policy.wasm"), b"\0asm\x01\0\0\0").unwrap();
    assert!(watched.next().unwrap_err().contains("core module"));
    assert!(watched.quiet());
}

#[test]
fn when_it_is_tried_again_is_shown() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("policy.wasm"), guest("trap")).unwrap();
    let calmed = Arc::new(AtomicBool::default());
    let pauses = Pauses { refused: Duration::from_secs(600), ..NEVER };
    let watched = start_with(tmp.path(), pauses, provoking_until(&calmed));
    let shown = |is_due: bool| {
        let begun = Instant::now();
        while watched.policies.status().next_try_at.is_some() != is_due {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", watched.policies.status());
            thread::sleep(Duration::from_millis(5));
        }
    };
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(watched.next().is_err());
    shown(true);
    let at = watched.policies.status().next_try_at.unwrap();
    assert!((before + 590..before + 700).contains(&at), "{before} {at}");
    fs::write(tmp.path().join("policy.wasm"), b"\0asm\x01\0\0\0").unwrap();
    assert!(watched.next().unwrap_err().contains("core module"));
    shown(false);
}

#[test]
fn what_was_refused_without_labels_is_tried_again_with_them() {
    let tmp = tempfile::tempdir().unwrap();
    let calmed = Arc::new(AtomicBool::default());
    fs::write(tmp.path().join("policy.wasm"), guest("trap")).unwrap();
    let watched = start_with(tmp.path(), NEVER, provoking_until(&calmed));
    assert!(watched.next().is_err());
    calmed.store(true, SeqCst);
    let _ = watched.policies.decide(&Node { labels: vec![], ..calm() });
    assert!(watched.quiet(), "the API server was not reached yet");
    let _ = watched.policies.decide(&calm());
    assert_eq!(watched.next(), Ok(()));
    assert_eq!(watched.minimum(), 5);
}

#[test]
fn decisions_go_on_during_loads() {
    let tmp = tempfile::tempdir().unwrap();
    let watched = start(tmp.path());
    assert_eq!(watched.next(), Ok(()));
    let policies = watched.policies.clone();
    let deciding = thread::spawn(move || {
        let mut seen = Vec::new();
        let end = Instant::now() + SOON;
        while Instant::now() < end {
            let decision = policies.decide(&calm());
            assert_eq!(decision.failure(), None);
            let by = decision.calls[0].by;
            seen.push(by);
            if by == By::Custom {
                break;
            }
        }
        seen
    });
    fs::write(tmp.path().join("policy.wasm"), guest("trap")).unwrap();
    assert_eq!(watched.next(), Ok(()));
    let seen = deciding.join().unwrap();
    assert_eq!(seen.last(), Some(&By::Custom));
}

#[test]
fn it_ends_when_dropped() {
    let tmp = tempfile::tempdir().unwrap();
    let watched = start(tmp.path());
    assert_eq!(watched.next(), Ok(()));
    let Watched { loads, watch, .. } = watched;
    drop(watch);
    // The thread drops its sender when it ends.
    let end = loads.recv_timeout(SOON).unwrap_err();
    assert_eq!(end, std::sync::mpsc::RecvTimeoutError::Disconnected);
}
