//! Network namespaces for tests, and `ip` as a witness that is not our own code.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::Inventory;
use crate::netns::Netns;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// How often TCP says goodbye for a program that is gone (ip-sysctl.rst). A connection whose other end cannot be reached
/// any more keeps its namespace, with all interfaces, for 100 s by default: no test waits so long for it to be gone.
const ORPHAN_RETRIES: &str = "ipv4/tcp_orphan_retries";

/// A network namespace of the test's own; gone when dropped. What cannot be done in it fails the test.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    is_owner: bool,
}

impl Namespace {
    /// Makes one, or says loudly why `test` cannot run.
    #[must_use]
    pub fn new(test: &str) -> Option<Self> {
        Self::make().map_or_else(|reason| skip(test, &reason), Some)
    }

    /// Makes one.
    ///
    /// # Errors
    /// Why it cannot be made here.
    pub fn make() -> Result<Self, String> {
        let name = format!("rsv-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).output().map_err(|e| format!("ip: {e}"))?;
        if !made.status.success() {
            return Err(format!("ip netns add: {}", String::from_utf8_lossy(&made.stderr).trim()));
        }
        let namespace = Self { name, is_owner: true };
        namespace.ip("link set lo up");
        namespace.sysctl(ORPHAN_RETRIES, "1");
        Ok(namespace)
    }

    /// A second handle, which does not keep it.
    #[must_use]
    pub fn again(other: &Self) -> Self {
        Self { name: other.name.clone(), is_owner: false }
    }

    /// As `ip netns` calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/var/run/netns").join(&self.name)
    }

    /// Takes it away now.
    pub fn destroy(&self) {
        let output = Command::new("ip").args(["netns", "delete", &self.name]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Runs `work` on a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        Netns::open(&self.path()).unwrap().run(work).unwrap()
    }

    /// Runs `ip <arguments>` inside and returns what it prints, blanks at line ends removed.
    pub fn ip(&self, arguments: &str) -> String {
        printed(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// The same with another program; `/sys` is the namespace's, too.
    pub fn command(&self, program: &str, arguments: &str) -> String {
        let words = arguments.split_whitespace();
        printed(Command::new("ip").args(["netns", "exec", &self.name, program]).args(words))
    }

    /// Sets what is under `/proc/sys/net`.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.run(|| fs::write(format!("/proc/sys/net/{key}"), value)).unwrap();
    }

    /// An interface as EC2 attaches one: there, but down and without an address.
    pub fn attach(&self, name: &str, mac: &str) {
        self.ip(&format!("link add {name} address {mac} type veth peer name {name}-far"));
        self.ip(&format!("link set {name}-far up"));
    }

    /// Everything a CNI may leave on a host, as one text: an ADD and its DEL must give the same.
    #[must_use]
    pub fn state(&self) -> String {
        let links = self.ip("-o link show");
        let names: String = links.lines().filter_map(|l| l.split(": ").nth(1)).map(|n| format!("{n}\n")).collect();
        [
            names,
            self.ip("rule show"),
            self.ip("-6 rule show"),
            self.ip("route show table all type unicast"),
            self.ip("-6 route show table all type unicast"),
            self.ip("neigh show nud permanent"),
        ]
        .concat()
    }

    /// What it holds now.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        self.run(Inventory::take).unwrap()
    }

    /// All that was there `before`, and exactly this besides.
    pub fn has_besides(&self, before: &Inventory, more: &[&str]) {
        let found = before.differences(&self.inventory());
        let more: Vec<String> = more.iter().map(|line| format!("left over: {line}")).collect();
        assert_eq!(found, more);
    }

    /// Waits until nothing is left compared with `before`: the kernel takes namespaces apart in its own time.
    pub fn settles_to(&self, before: &Inventory) {
        before.is_reached_by("left over", || self.inventory());
    }

    /// What the kernel tells of changes of links, addresses, routes and rules inside while `work` runs.
    pub fn writes(&self, work: impl FnOnce()) -> String {
        let mut monitor = Command::new("ip")
            .args(["-n", &self.name, "monitor", "link", "address", "route", "rule"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It listens when it has subscribed to all groups, and has told everything of `work` when it tells what came after:
        // changes of ours before and after show both.
        let output = BufReader::new(monitor.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        let reader = thread::spawn(move || output.lines().map_while(Result::ok).all(|l| sender.send(l).is_ok()));
        let mark = |number: u32| {
            let mark = format!("192.0.2.{number}");
            let mut told = Vec::new();
            for _ in 0..200 {
                self.ip(&format!("rule add to {mark} priority 31000 lookup main"));
                self.ip(&format!("rule del to {mark} priority 31000 lookup main"));
                while let Ok(line) = lines.recv_timeout(Duration::from_millis(50)) {
                    let is_mark = line.contains(&mark);
                    told.push(line);
                    if is_mark {
                        return told;
                    }
                }
            }
            panic!("ip monitor does not tell of {mark}: {told:?}");
        };
        mark(1);
        work();
        let mut seen = mark(2);
        monitor.kill().unwrap();
        monitor.wait().unwrap();
        reader.join().unwrap();
        seen.extend(lines.try_iter());
        seen.iter().filter(|l| !l.contains("192.0.2.")).map(|l| format!("{l}\n")).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.is_owner {
            // Without its output: it may be gone already.
            let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
        }
    }
}

fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap().lines().map(|l| l.trim_end().to_owned() + "\n").collect()
}

/// Says loudly why a test, or a part of it, does not run.
pub fn skip<T>(test: &str, reason: &str) -> Option<T> {
    eprintln!("SKIPPED: {test}: {reason}");
    None
}
