//! Network namespaces for tests, and `ip` as a witness that is not our own code.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use reservoir_net::netns::Netns;
use reservoir_net::pod::{self, PodAddress, PodSetup};
use reservoir_net::testing::Inventory;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A network namespace of the test's own; gone when dropped.
pub struct Namespace {
    name: String,
    is_owner: bool,
}

impl Namespace {
    /// Makes one, or says loudly why `test` cannot run.
    pub fn new(test: &str) -> Option<Self> {
        let name = format!("rsv-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        match Command::new("ip").args(["netns", "add", &name]).output() {
            Ok(made) if made.status.success() => {
                let namespace = Self { name, is_owner: true };
                namespace.ip("link set lo up");
                Some(namespace)
            }
            Ok(refused) => skip(test, String::from_utf8_lossy(&refused.stderr).trim()),
            Err(error) => skip(test, &format!("ip: {error}")),
        }
    }

    /// A second handle, which does not keep it.
    pub fn again(other: &Self) -> Self {
        Self { name: other.name.clone(), is_owner: false }
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

    /// What the host holds now.
    pub fn inventory(&self) -> Inventory {
        self.run(Inventory::take).unwrap()
    }

    /// All that was there `before`, and exactly this besides.
    pub fn has_besides(&self, before: &Inventory, more: &[&str]) {
        let found = before.differences(&self.inventory());
        let more: Vec<String> = more.iter().map(|line| format!("left over: {line}")).collect();
        assert_eq!(found, more);
    }

    /// Takes pods down, their namespaces too, and waits until nothing is left compared with `before`: the kernel takes
    /// a namespace apart in its own time.
    pub fn is_clean_after(&self, before: &Inventory, setups: &[&PodSetup], namespaces: Vec<Self>) {
        let interfaces = setups.iter().flat_map(|setup| &setup.interfaces);
        let addresses: Vec<_> = interfaces.map(|i| PodAddress { address: i.address, table: i.table }).collect();
        self.run(|| pod::tear_down(&addresses)).unwrap();
        drop(namespaces);
        let mut left = Vec::new();
        for _ in 0..200 {
            left = before.differences(&self.inventory());
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("left after DEL: {left:?}");
    }

    /// What the kernel tells of changes of links, addresses, routes and rules inside while `work` runs.
    pub fn writes(&self, work: impl FnOnce()) -> String {
        let mut monitor = Command::new("ip")
            .args(["-n", &self.name, "monitor", "link", "address", "route", "rule"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It listens when it has subscribed to all groups: a change of ours before and after tells.
        let output = BufReader::new(monitor.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || output.lines().map_while(Result::ok).all(|l| sender.send(l).is_ok()));
        let mark = |number: u32| {
            for _ in 0..200 {
                self.ip(&format!("rule add to 192.0.2.{number} priority 31000 lookup main"));
                self.ip(&format!("rule del to 192.0.2.{number} priority 31000 lookup main"));
                if let Ok(line) = lines.recv_timeout(Duration::from_millis(50)) {
                    return std::iter::once(line).chain(lines.try_iter()).collect::<Vec<_>>();
                }
            }
            panic!("ip monitor is silent");
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

    /// An interface as EC2 attaches one: there, but down and without an address.
    pub fn attach(&self, name: &str, mac: &str) {
        self.ip(&format!("link add {name} address {mac} type veth peer name {name}-far"));
        self.ip(&format!("link set {name}-far up"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.is_owner {
            let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
        }
    }
}

pub fn skip<T>(test: &str, reason: &str) -> Option<T> {
    eprintln!("SKIPPED: {test}: {reason}");
    None
}
