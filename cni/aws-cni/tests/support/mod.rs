//! Network namespaces of the test's own.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use reservoir_net::netns::Netns;
use reservoir_net::testing::Inventory;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A network namespace of the test's own; gone when dropped.
pub struct Namespace(pub String);

impl Namespace {
    pub fn new(test: &str) -> Option<Self> {
        let name = format!("rsv-cni-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        if made.as_ref().is_ok_and(|o| o.status.success()) {
            let namespace = Self(name);
            namespace.ip("link set lo up");
            return Some(namespace);
        }
        eprintln!("SKIPPED: {test}: ip netns add: {made:?}");
        None
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/var/run/netns").join(&self.0)
    }

    pub fn ip(&self, arguments: &str) -> String {
        let output = Command::new("ip").args(["-n", &self.0]).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(|l| l.trim_end().to_owned() + "\n").collect()
    }

    /// Takes it away now.
    pub fn destroy(&self) {
        let output = Command::new("ip").args(["netns", "delete", &self.0]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        Netns::open(&self.path()).unwrap().run(work).unwrap()
    }

    pub fn inventory(&self) -> Inventory {
        self.inside(|| Inventory::take().unwrap())
    }

    /// Waits until nothing is left compared with `before`: the kernel takes namespaces apart in its own time.
    pub fn settles_to(&self, before: &Inventory) {
        let mut left = Vec::new();
        for _ in 0..200 {
            left = before.differences(&self.inventory());
            if left.is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("{left:?}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Without its output: it may be gone already.
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).output();
    }
}
