//! What is fuzzed of `egress-cni`: the whole plugin with any configuration on stdin. Used by the fuzzer, and by a test of
//! the plugin that runs the seeds and a bounded number of changed ones.

#[path = "protocol.rs"]
mod protocol;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use cni_plugin::Reply;
use cni_plugin::inputs::Environment;
use cni_plugin::json::{field, text};
use egress_cni::ipam::{Allocation, Ipam};
use egress_cni::net::EgressNet;
use egress_cni::{Deps, Invocation, run};
use reservoir_net::egress::firewall::{self, SnatRules};
use reservoir_net::egress::{EgressLink, EgressSetup, End};
use reservoir_net::rule::Family;
use reservoir_net::{Errno, Error, IpPrefix, MacAddr};
use serde_json::Value;

use protocol::{COMMANDS, judge, quiet};

const NOBODY: &str = "/nonexistent/netns";

/// What an ADD that was killed has left is there.
const KILLED: u8 = 9;

/// Byte 0: the command; byte 1: what goes wrong, and whether the namespace is gone at DEL; the rest: stdin.
///
/// # Panics
/// When the plugin answers with anything but the protocol, leaves something behind an ADD that failed, or something of
/// what its ADD made behind its DEL.
pub fn egress(data: &[u8]) {
    let [command, fault, stdin @ ..] = data else { return };
    let conf = quiet(stdin);
    let command = COMMANDS[usize::from(*command) % COMMANDS.len()];
    let (fault, gone) = (fault & 0x0f, fault & 0x20 != 0);
    let world = World::new(fault);
    let reply = world.run(command, NOBODY, &conf);
    judge(command, &reply);
    if command != "ADD" {
        return;
    }
    if reply.exit != 0 {
        // What was there before stays for the DEL that comes.
        assert!(world.is_empty() || fault == KILLED, "behind an ADD that failed ({reply:?}): {world:?}");
        return;
    }
    let result: Value = serde_json::from_str(&reply.stdout).expect("a result");
    let Ok(Value::Object(mut conf)) = serde_json::from_slice(&conf) else { panic!("ADD without a configuration") };
    let enabled = text(&conf, "enabled") == Ok(Some("true"));
    assert!(world.is_empty() != enabled || fault == KILLED, "{world:?}");
    // What the plugins before have told is told on.
    let interfaces = |result: &Value| result["interfaces"].as_array().cloned().unwrap_or_default();
    let before = field(&conf, "prevResult").map(interfaces).unwrap_or_default();
    let after = interfaces(&result);
    assert!(after.starts_with(&before), "{before:?} -> {after:?}");
    conf.retain(|key, _| !key.eq_ignore_ascii_case("prevResult"));
    conf.insert("prevResult".to_owned(), result);
    let conf = Value::Object(conf).to_string();
    // DEL goes well from here on, with the namespace or without it: what goes with that is no business of DEL's.
    world.fault.set(0);
    let netns = if gone { "" } else { NOBODY };
    let deleted = world.run("DEL", netns, conf.as_bytes());
    assert_eq!((deleted.exit, deleted.stdout.as_str()), (0, ""), "{deleted:?}");
    if netns.is_empty() {
        world.pair.set(false);
    }
    assert!(world.is_empty(), "behind DEL: {world:?}");
}

/// An IPAM plugin and a kernel, and what they hold.
#[derive(Debug)]
struct World {
    fault: Cell<u8>,
    held: Cell<bool>,
    pair: Cell<bool>,
    chains: RefCell<BTreeSet<String>>,
}

impl World {
    fn new(fault: u8) -> Self {
        let left = fault == KILLED;
        Self { fault: Cell::new(fault), held: Cell::new(left), pair: Cell::new(left), chains: RefCell::default() }
    }

    fn is_empty(&self) -> bool {
        !self.held.get() && !self.pair.get() && self.chains.borrow().is_empty()
    }

    fn run(&self, command: &str, netns: &str, conf: &[u8]) -> Reply {
        let env = Environment {
            command: command.to_owned(),
            container_id: "c1".to_owned(),
            netns: netns.to_owned(),
            ifname: "eth0".to_owned(),
            args: String::new(),
            path: "/opt/cni/bin".to_owned(),
            netns_override: false,
        };
        run(&env, &mut &*conf, Deps { ipam: self, net: self })
    }

    fn refused(&self) -> Error {
        Error::from_kernel("it".to_owned(), Errno::BUSY)
    }
}

impl Ipam for World {
    fn add(&self, invocation: &Invocation<'_>) -> Result<Allocation, String> {
        let v4 = (IpPrefix::new([169, 254, 172, 2], 22), Some(IpAddr::from([169, 254, 172, 1])));
        let v6 = (IpPrefix::new([0xfd00, 0, 0, 0, 0, 0, 0xac, 2], 118), None);
        let one = if invocation.conf.family() == Family::V4 { v4 } else { v6 };
        let ips = match self.fault.get() {
            1 => return Err("no address is left".to_owned()),
            2 => Vec::new(),
            3 => vec![v4, v6],
            4 => vec![v4],
            5 => vec![v6],
            _ if self.held.get() => return Err("duplicate allocation is not allowed".to_owned()),
            _ => vec![one],
        };
        self.held.set(true);
        Ok(Allocation { ips, routes: Vec::new() })
    }

    fn del(&self, _: &Invocation<'_>) -> Result<(), String> {
        self.held.set(false);
        Ok(())
    }
}

impl EgressNet for World {
    fn set_up(&self, _: &EgressSetup) -> Result<EgressLink, Error> {
        if self.fault.get() == 6 {
            return Err(self.refused());
        }
        // What an earlier attempt left is replaced.
        self.pair.set(true);
        let end = |name: &str, last| End { name: name.to_owned(), mac: MacAddr([2, 0, 0, 0, 0, last]) };
        Ok(EgressLink { host: end("veth0a1b2c3d", 1), pod: end("v4if0", 2) })
    }

    fn undo(&self, _: &EgressLink) -> Result<(), Error> {
        self.pair.set(false);
        Ok(())
    }

    fn tear_down(&self, _: &Path, _: Family) -> Result<(), Error> {
        self.pair.set(false);
        Ok(())
    }

    fn add_rules(&self, rules: &SnatRules) -> Result<(), Error> {
        if self.fault.get() == 7 {
            return Err(self.refused());
        }
        assert_eq!(Family::of(rules.pod), Family::of(rules.node));
        let chain = firewall::chain(Family::of(rules.pod), &rules.network, &rules.container);
        assert!(self.chains.borrow_mut().insert(chain));
        Ok(())
    }

    fn remove_rules(&self, _: Family, chain: &str) -> Result<(), Error> {
        self.chains.borrow_mut().remove(chain);
        Ok(())
    }

    fn is_own_namespace(&self, _: &Path) -> bool {
        self.fault.get() == 8
    }

    fn has_directory(&self, _: &Path) -> bool {
        self.held.get()
    }
}
