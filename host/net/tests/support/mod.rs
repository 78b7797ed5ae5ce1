//! Network namespaces for tests, and `ip` as a witness that is not our own code.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use reservoir_net::netns::Netns;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A network namespace of the test's own; gone when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, or says loudly why `test` cannot run.
    pub fn new(test: &str) -> Option<Self> {
        let name = format!("rsv-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        match Command::new("ip").args(["netns", "add", &name]).output() {
            Ok(made) if made.status.success() => {
                let namespace = Self { name };
                namespace.ip("link set lo up");
                Some(namespace)
            }
            Ok(refused) => skip(test, String::from_utf8_lossy(&refused.stderr).trim()),
            Err(error) => skip(test, &format!("ip: {error}")),
        }
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/var/run/netns").join(&self.name)
    }

    /// Runs `work` on a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        Netns::open(&self.path()).unwrap().run(work).unwrap()
    }

    /// Runs `ip <arguments>` inside and returns what it prints, blanks at line ends removed.
    pub fn ip(&self, arguments: &str) -> String {
        self.command("ip", arguments)
    }

    pub fn command(&self, program: &str, arguments: &str) -> String {
        let words = arguments.split_whitespace();
        let output = Command::new("ip").args(["netns", "exec", &self.name, program]).args(words).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments}: {stderr}");
        String::from_utf8(output.stdout).unwrap().lines().map(|l| l.trim_end().to_owned() + "\n").collect()
    }

    /// Everything a CNI may leave on a host, as one text: an ADD and its DEL must give the same.
    pub fn state(&self) -> String {
        let links = self.ip("-o link show");
        let names: String = links.lines().filter_map(|l| l.split(": ").nth(1)).map(|n| format!("{n}\n")).collect();
        [names, self.ip("rule show"), self.ip("route show table all type unicast"), self.ip("neigh show nud permanent")]
            .concat()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

pub fn skip<T>(test: &str, reason: &str) -> Option<T> {
    eprintln!("SKIPPED: {test}: {reason}");
    None
}
