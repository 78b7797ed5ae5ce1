//! Whatever lies in the directory, the component that comes out is the right one, and a good entry is there afterwards.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use super::*;
use crate::{Limits, Runtime};

/// Two components that differ, small enough to compile often.
const ONE: &str = r#"(component (core module $m (func (export "f"))) (core instance (instantiate $m)))"#;
const OTHER: &str = r#"(component (core module $m (func (export "f") nop)) (core instance (instantiate $m)))"#;

struct Bench {
    _tmp: tempfile::TempDir,
    dir: PathBuf,
    runtime: Runtime,
    cache: Cache,
}

impl Bench {
    fn new() -> Bench {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("code");
        let runtime = Runtime::new(&Limits::default()).unwrap();
        Bench { _tmp: tmp, cache: Cache::new(&dir), dir, runtime }
    }

    fn compile(&self, text: &str) -> (Digest, Component) {
        let bytes = wat::parse_str(text).unwrap();
        (Digest::of(&bytes), Component::new(self.runtime.engine(), &bytes).unwrap())
    }

    /// Puts one component in.
    fn put(&self, text: &str) -> Digest {
        let (digest, compiled) = self.compile(text);
        self.cache.put(self.runtime.engine(), digest, &compiled);
        digest
    }

    fn get(&self, digest: Digest) -> Option<Component> {
        self.cache.get(self.runtime.engine(), digest)
    }

    fn file(&self, digest: Digest) -> PathBuf {
        self.dir.join(name(&key(self.runtime.engine(), digest)))
    }
}

#[test]
fn an_entry_comes_back_and_only_for_its_component() {
    let bench = Bench::new();
    let (one, other) = (bench.compile(ONE).0, bench.compile(OTHER).0);
    assert!(bench.get(one).is_none(), "there is not even a directory");
    assert_eq!(bench.put(ONE), one);
    let code = bench.get(one).expect("a good entry").serialize().unwrap();
    assert_eq!(code, bench.compile(ONE).1.serialize().unwrap());
    assert!(bench.get(other).is_none());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&bench.dir), mode(&bench.file(one))), (0o700, 0o600));
    assert_eq!(fs::read_dir(&bench.dir).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn damage_of_any_kind_is_found_and_mended() {
    let bench = Bench::new();
    let one = bench.put(ONE);
    let other = bench.put(OTHER);
    let (file, good) = (bench.file(one), fs::read(bench.file(one)).unwrap());
    let foreign = fs::read(bench.file(other)).unwrap();
    // Its own digest is right, so that only the runtime's own checks are left.
    let nonsense = {
        let code = b"not what a compiler writes";
        [&good[..HEADER - 32], &Sha256::digest(code)[..], &code[..]].concat()
    };
    let mut cases: Vec<(String, Vec<u8>)> = vec![
        ("empty".into(), vec![]),
        ("the header alone".into(), good[..HEADER].to_vec()),
        ("another component's".into(), foreign),
        ("longer".into(), [&good[..], b"x"].concat()),
        ("nonsense with the right digest".into(), nonsense),
    ];
    cases.extend((1..10).map(|tenth| (format!("{tenth} tenths"), good[..good.len() * tenth / 10].to_vec())));
    // A bit in each part of the header, and in many places of the code.
    let places = (0..HEADER).step_by(5).chain((HEADER..good.len()).step_by(good.len() / 40));
    for place in places {
        let mut flipped = good.clone();
        flipped[place] ^= 1 << (place % 8);
        cases.push((format!("a bit of byte {place}"), flipped));
    }
    for (what, content) in cases {
        fs::write(&file, content).unwrap();
        assert!(bench.get(one).is_none(), "{what} was trusted");
        assert!(!file.exists(), "{what} was left");
        bench.put(ONE);
        assert!(bench.get(one).is_some(), "{what} was not mended");
    }
}

#[test]
fn what_others_can_write_is_not_trusted() {
    let bench = Bench::new();
    let one = bench.put(ONE);
    let file = bench.file(one);
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o620, 0o602, 0o666] {
        set(&file, mode);
        assert!(bench.get(one).is_none(), "{mode:o}");
        bench.put(ONE);
        assert!(bench.get(one).is_some(), "{mode:o}");
    }
    for mode in [0o720, 0o702, 0o1777] {
        set(&bench.dir, mode);
        assert!(bench.get(one).is_none(), "{mode:o}");
        let before = fs::read(&file).unwrap();
        bench.put(ONE);
        assert_eq!(fs::read(&file).unwrap(), before, "{mode:o}: nothing is written there either");
        set(&bench.dir, 0o700);
        assert!(bench.get(one).is_some(), "{mode:o}");
    }
}

#[test]
fn what_others_own_is_not_trusted() {
    let bench = Bench::new();
    let one = bench.put(ONE);
    let nobody = 65_534;
    if std::os::unix::fs::chown(bench.file(one), Some(nobody), None).is_err() {
        println!("SKIPPED: what_others_own_is_not_trusted: only root can give a file away");
        return;
    }
    assert!(bench.get(one).is_none());
    bench.put(ONE);
    assert!(bench.get(one).is_some());
    std::os::unix::fs::chown(&bench.dir, Some(nobody), None).unwrap();
    assert!(bench.get(one).is_none());
}

#[test]
fn links_are_not_followed() {
    let bench = Bench::new();
    let one = bench.put(ONE);
    let file = bench.file(one);
    let elsewhere = bench.dir.join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert!(bench.get(one).is_none());
    bench.put(ONE);
    assert!(bench.get(one).is_some() && fs::symlink_metadata(&file).unwrap().is_file());

    let link = bench.dir.with_file_name("link");
    symlink(&bench.dir, &link).unwrap();
    assert!(Cache::new(&link).get(bench.runtime.engine(), one).is_none());
    fs::remove_file(&link).unwrap();
    fs::write(&link, "a file").unwrap();
    assert!(Cache::new(&link).get(bench.runtime.engine(), one).is_none());
}

#[test]
fn an_engine_with_other_settings_has_other_entries() {
    let bench = Bench::new();
    let one = bench.put(ONE);
    let mut config = wasmtime::Config::new();
    config.consume_fuel(false);
    let other = Engine::new(&config).unwrap();
    assert_ne!(key(bench.runtime.engine(), one), key(&other, one));
    assert!(bench.cache.get(&other, one).is_none());
    assert!(bench.get(one).is_some());
}

#[test]
fn the_directory_does_not_grow_without_bound() {
    let bench = Bench::new();
    fs::create_dir(&bench.dir).unwrap();
    fs::set_permissions(&bench.dir, fs::Permissions::from_mode(0o700)).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH;
    for i in 0..20 {
        let file = bench.dir.join(format!("{i:064x}{SUFFIX}"));
        fs::write(&file, "old").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(long_ago).unwrap();
    }
    fs::write(bench.dir.join(".1.tmp"), "left by a run that was killed").unwrap();
    // Sparse, so it takes no room here.
    let large = bench.dir.join(format!("{:064x}{SUFFIX}", 99));
    File::create(&large).unwrap().set_len(MOST_BYTES).unwrap();
    let one = bench.put(ONE);
    assert!(bench.get(one).is_some(), "the newest stays");
    assert!(!large.exists());
    let names: Vec<_> = fs::read_dir(&bench.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}
