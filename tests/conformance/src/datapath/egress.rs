//! `egress-cni` as a function, with an IPAM plugin, a kernel and a table `nat` that do as the case says and remember what
//! they were asked (spec 04 §14).

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use cni_plugin::inputs::Environment;
use cni_plugin::netconf::Header;
use egress_cni::ipam::{Allocation, Ipam};
use egress_cni::net::EgressNet;
use egress_cni::netconf::NetConf;
use egress_cni::{Deps, Invocation, run};
use reservoir_net::egress::firewall::{self, SnatRules};
use reservoir_net::egress::{self, EgressLink, EgressSetup, End};
use reservoir_net::iptables::diff::{self, Edit};
use reservoir_net::iptables::ruleset::{Chain, Rule, Table};
use reservoir_net::plan::{Executor, Op, Scope, Side, Step};
use reservoir_net::rule::Family;
use reservoir_net::{Errno, Error, MacAddr, names};
use serde_json::{Value, json};

use super::fake::Fake;
use super::{Case, ops, skip};
use crate::Outcome;

const POSTROUTING: &str = "POSTROUTING";
/// Random digits in the vectors.
const ANY_VETH: &str = "veth????????";

/// A chain's name and the comment of its rules.
pub(super) fn name(case: &Case) -> Outcome {
    let family = if case.number("family") == 4 { Family::V4 } else { Family::V6 };
    let (network, container) = (case.text("network_name"), case.text("container_id"));
    let all = json!({
        "chain": firewall::chain(family, network, container),
        "comment": firewall::comment(network, container),
    });
    case.compared(case.expected, named(case.expected, &all))
}

pub(super) fn egress(case: &Case) -> Outcome {
    let expected = case.expected;
    if case.inputs["pod_egress_ip"].is_string() {
        rules(case)
    } else if case.inputs["route_add_results"].is_array() {
        route_retry(case)
    } else if case.text("command") == "DEL" {
        plugin(case, "DEL")
    } else if expected.is_object() && case.inputs["stdin"].is_object() {
        plugin(case, "ADD")
    } else {
        skip("no suite here knows what this case is about")
    }
}

/// The rules of a pod, and the chains that are made for them.
fn rules(case: &Case) -> Outcome {
    let (Ok(node), Ok(pod)) = (case.text("node_ip").parse(), case.text("pod_egress_ip").parse()) else {
        return skip("no addresses");
    };
    let conf = json!({"name": case.text("network_name"), "randomizeSNAT": case.inputs["randomizeSNAT"]});
    let conf = Header::parse(conf.to_string().as_bytes()).map_err(|e| e.to_string()).and_then(|header| {
        let version = header.version().map_err(|e| e.to_string())?;
        NetConf::load(header, version).map_err(|e| e.to_string())
    });
    let conf = match conf {
        Ok(conf) => conf,
        Err(error) => return Outcome::Malformed(error),
    };
    let snat = SnatRules {
        network: conf.name,
        container: case.text("container_id").to_owned(),
        pod,
        node,
        randomize: conf.randomize,
    };
    let rules = snat.rules(case.inputs["iptables_has_random_fully"] == true);
    let existing = case.inputs["existing_nat_chains"].as_array().into_iter().flatten();
    let chains = existing.filter_map(|c| Some(Chain { name: c.as_str()?.to_owned(), rules: Vec::new() })).collect();
    let edits = firewall::plan_add(&rules, &Table { name: "nat".to_owned(), chains });
    let created: Vec<&String> =
        edits.iter().filter_map(|e| if let Edit::NewChain(chain) = e { Some(chain) } else { None }).collect();
    let tool = match Family::of(snat.pod) {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let all = json!({"table": "nat", "rules": words(&rules), "tool": tool, "chains_created": created});
    case.compared(case.expected, named(case.expected, &all))
}

fn words(rules: &[(String, Rule)]) -> Value {
    let line = |(chain, rule): &(String, Rule)| {
        std::iter::once(chain).chain(rule.words()).map(String::as_str).map(Value::from).collect::<Value>()
    };
    rules.iter().map(line).collect()
}

/// A host on which the pod's route is always somebody else's.
#[derive(Default)]
struct Stale {
    attempts: u64,
    waits: Vec<Duration>,
}

impl Executor for Stale {
    fn execute(&mut self, steps: &[Step]) -> Vec<Result<(), Errno>> {
        let mut one = |step: &Step| {
            if step.side == Side::Host && matches!(step.op, Op::RouteAdd(_)) {
                self.attempts += 1;
                return Err(Errno::EXIST);
            }
            Ok(())
        };
        steps.iter().map(&mut one).collect()
    }

    fn sleep(&mut self, duration: Duration) {
        self.waits.push(duration);
    }
}

impl Stale {
    /// How often a pod's route is tried, how long is waited between, and the error.
    fn meet(setup: &EgressSetup) -> (u64, Vec<u128>, String) {
        let mut host = Self::default();
        let link_local = |_: &mut Self, _: &str| Ok([0xfe80, 0, 0, 0, 0, 0, 0, 0x10].into());
        let outcome = egress::wire(setup, &mut host, || Ok(host_end()), |_| Ok(()), link_local);
        let error = outcome.err().map(|e| e.to_string()).unwrap_or_default();
        (host.attempts, host.waits.iter().map(Duration::as_millis).collect(), error)
    }
}

fn route_retry(case: &Case) -> Outcome {
    let setup = EgressSetup {
        netns: "/n".into(),
        ifname: "eth0".to_owned(),
        mtu: 9001,
        address: "169.254.172.2/22".parse().unwrap_or(reservoir_net::IpPrefix::DEFAULT_V4),
        gateway: [169, 254, 172, 1].into(),
        routes: Vec::new(),
    };
    let (attempts, waits, error) = Stale::meet(&setup);
    let wait = waits.iter().copied().max().unwrap_or_default();
    let part = case.expected["error_contains"].as_str().unwrap_or_default();
    let found = if error.contains(part) { part.to_owned() } else { error };
    let got = json!({
        "attempts": attempts,
        "wait_between_ms": u64::try_from(wait).unwrap_or(u64::MAX),
        "error_contains": found,
    });
    case.compared(case.expected, got)
}

fn host_end() -> End {
    End { name: names::egress_veth([0x9e, 0x8d, 0x7c, 0x6b]), mac: MacAddr([2, 0, 0, 0, 0, 1]) }
}

/// Everything around the plugin.
struct World<'a> {
    inputs: &'a Value,
    nat: RefCell<Table>,
    seen: RefCell<Seen>,
}

#[derive(Default)]
struct Seen {
    ops: Vec<Value>,
    rules: Option<SnatRules>,
    nat_ops: Vec<Value>,
    ipam_deleted: bool,
}

impl World<'_> {
    fn text(&self, key: &str) -> &str {
        self.inputs[key].as_str().unwrap_or_default()
    }

    fn ipam_answer(&self) -> Result<(), String> {
        self.inputs["ipam_error"].as_str().map_or(Ok(()), |error| Err(error.to_owned()))
    }
}

impl Ipam for World<'_> {
    fn add(&self, _: &Invocation<'_>) -> Result<Allocation, String> {
        self.ipam_answer()?;
        let given = &self.inputs["ipam_result"];
        let ips = match given {
            Value::Array(addresses) => addresses.iter().map(|address| json!({"address": address})).collect(),
            one => json!([one]),
        };
        let result = json!({"ips": ips, "routes": self.inputs["stdin"]["ipam"]["routes"]});
        Allocation::parse(result.to_string().as_bytes())
    }

    fn del(&self, _: &Invocation<'_>) -> Result<(), String> {
        self.seen.borrow_mut().ipam_deleted = true;
        self.ipam_answer()
    }
}

impl EgressNet for World<'_> {
    fn set_up(&self, setup: &EgressSetup) -> Result<EgressLink, Error> {
        let mut fake = Fake::new(self.inputs);
        let link_local = |_: &mut Fake, _: &str| {
            self.text("host_veth_link_local").parse().map_err(|_| egress::no_link_local(ANY_VETH))
        };
        egress::wire(setup, &mut fake, || Ok(host_end()), |_| Ok(()), link_local)?;
        let (attempts, ..) = Stale::meet(setup);
        self.seen.borrow_mut().ops = fake.asked.iter().filter_map(|step| op(step, attempts)).collect();
        let end = |index: usize| -> Result<End, Error> {
            let mac = self.inputs["veth_macs"][index].as_str().unwrap_or_default();
            let mac = mac.parse().map_err(|e| Error::Invalid(format!("the case: {e}")))?;
            Ok(End { name: self.inputs["veth_names"][index].as_str().unwrap_or_default().to_owned(), mac })
        };
        Ok(EgressLink { host: end(0)?, pod: end(1)? })
    }

    fn undo(&self, _: &EgressLink) -> Result<(), Error> {
        Ok(())
    }

    fn tear_down(&self, _: &Path, _: Family) -> Result<(), Error> {
        Ok(())
    }

    fn add_rules(&self, rules: &SnatRules) -> Result<(), Error> {
        self.seen.borrow_mut().rules = Some(rules.clone());
        Ok(())
    }

    fn remove_rules(&self, _: Family, chain: &str) -> Result<(), Error> {
        if let Some(message) = self.inputs["iptables_error"].as_str() {
            return Err(Error::Command { program: "iptables".to_owned(), message: message.to_owned() });
        }
        let edits = firewall::plan_remove(chain, &self.nat.borrow());
        diff::apply(&mut self.nat.borrow_mut(), &edits);
        self.seen.borrow_mut().nat_ops = edits.iter().map(nat_op).collect();
        Ok(())
    }

    fn is_own_namespace(&self, _: &Path) -> bool {
        false
    }

    fn has_directory(&self, _: &Path) -> bool {
        false
    }
}

/// A step in the words of the vectors; none for what belongs to the making of the pair there, or changes nothing in the
/// state of the cases.
fn op(step: &Step, route_attempts: u64) -> Option<Value> {
    let on_host = step.side == Side::Host;
    match &step.op {
        Op::LinkUp { .. } if on_host => return None,
        Op::Sysctl { key, .. } if on_host && key.ends_with("/accept_ra") => return None,
        // IPv6 is not off there.
        Op::Sysctl { key, value: "0" } if key.ends_with("/disable_ipv6") => return None,
        Op::LinkAddVeth(pair) => {
            return Some(json!({
                "op": "link_add_veth", "netns": "pod", "name": pair.name, "mtu": pair.mtu,
                "peer": {"name": any_veth(&pair.peer), "netns": "host"},
            }));
        }
        _ => {}
    }
    let mut value = ops::step(step, true);
    let object = value.as_object_mut()?;
    object.remove("table");
    object.remove("tolerate");
    object.retain(|key, value| key != "scope" || value != &Scope::Universe.to_string());
    if let Op::AddressAdd { scope: Scope::Link, .. } = step.op {
        object.insert("scope".to_owned(), "link".into());
    }
    if let Some(device) = object.get("dev").and_then(Value::as_str).map(any_veth) {
        object.insert("dev".to_owned(), device.into());
    }
    if !on_host {
        object.insert("netns".to_owned(), "pod".into());
    } else if matches!(step.op, Op::Sysctl { .. }) {
        object.remove("netns");
    } else if matches!(step.op, Op::RouteAdd(_)) {
        object.insert("retry_on_EEXIST".to_owned(), route_attempts.into());
    }
    Some(value)
}

/// A host end's name with its random digits hidden.
fn any_veth(name: &str) -> String {
    let digits = name.strip_prefix("veth").filter(|d| d.len() == 8 && d.bytes().all(|b| b.is_ascii_hexdigit()));
    if digits.is_some() { ANY_VETH.to_owned() } else { name.to_owned() }
}

fn nat_op(edit: &Edit) -> Value {
    let with_rule = |verb: &str, chain: &String, rule: &Rule| {
        [verb, chain.as_str()].into_iter().chain(rule.words().iter().map(String::as_str)).map(Value::from).collect()
    };
    match edit {
        Edit::Delete(chain, rule) => with_rule("delete", chain, rule),
        Edit::Insert(chain, rule) => with_rule("insert", chain, rule),
        Edit::Append(chain, rule) => with_rule("append", chain, rule),
        Edit::NewChain(chain) => json!(["new_chain", chain]),
        Edit::Flush(chain) => json!(["flush", chain]),
        Edit::DeleteChain(chain) => json!(["delete_chain", chain]),
    }
}

/// The table as an ADD of the case's pod has left it.
fn nat_of(inputs: &Value) -> Table {
    let mut nat = Table {
        name: "nat".to_owned(),
        chains: vec![Chain { name: POSTROUTING.to_owned(), rules: vec![Rule::parse("-j KUBE-POSTROUTING")] }],
    };
    if inputs["command"] != "DEL" {
        return nat;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let addresses = inputs["pod_addresses"].as_object().into_iter().flatten().flat_map(|(_, list)| list.as_array());
    let mut pods: Vec<IpAddr> = addresses.flatten().filter_map(|a| a.as_str()?.parse().ok()).collect();
    let node: Option<IpAddr> = inputs["stdin"]["nodeIP"].as_str().and_then(|ip| ip.parse().ok());
    if pods.is_empty() {
        // Where the case does not say: the range's first.
        pods.push(if node.is_some_and(|ip| ip.is_ipv4()) {
            [169, 254, 172, 2].into()
        } else {
            [0xfd00, 0, 0, 0, 0, 0, 0xac, 2].into()
        });
    }
    for pod in pods {
        let rules = SnatRules {
            network: text(&inputs["stdin"]["name"]),
            container: text(&inputs["container_id"]),
            pod,
            node: node.unwrap_or(pod),
            randomize: reservoir_net::iptables::Randomize::Prng,
        };
        let edits = firewall::plan_add(&rules.rules(true), &nat);
        diff::apply(&mut nat, &edits);
    }
    nat
}

fn plugin(case: &Case, command: &str) -> Outcome {
    let world = World { inputs: case.inputs, nat: RefCell::new(nat_of(case.inputs)), seen: RefCell::default() };
    let text = |key: &str, default: &str| match case.inputs[key].as_str() {
        Some(text) => text.to_owned(),
        None => default.to_owned(),
    };
    let env = Environment {
        command: command.to_owned(),
        container_id: text("container_id", "containerId-123"),
        netns: text("cni_netns", "/var/run/netns/cni-xxxx"),
        ifname: "eth0".to_owned(),
        args: String::new(),
        path: "/opt/cni/bin".to_owned(),
        netns_override: false,
    };
    let stdin = case.inputs["stdin"].to_string();
    let reply = run(&env, &mut stdin.as_bytes(), Deps { ipam: &world, net: &world });
    let seen = world.seen.into_inner();
    let parsed: Value = serde_json::from_str(&reply.stdout).unwrap_or_else(|_| reply.stdout.clone().into());
    let rules = json!({"table": "nat", "rules": seen.rules.as_ref().map(|r| words(&r.rules(true)))});
    let all = json!({
        "exit": reply.exit,
        "stdout": parsed,
        "stdout_code": parsed["code"],
        "ipam_del_called": seen.ipam_deleted,
        "ops": seen.ops,
        "iptables": rules,
        "ip6tables": rules,
        "nat_ops": seen.nat_ops,
    });
    let mut expected = case.expected.clone();
    if case.is_quirk && expected["nat_ops"].is_array() {
        // What ours does instead is said in words: the table is as if the pod had never been.
        let clean = Table {
            name: "nat".to_owned(),
            chains: vec![Chain { name: POSTROUTING.to_owned(), rules: vec![Rule::parse("-j KUBE-POSTROUTING")] }],
        };
        if let Some(object) = expected.as_object_mut() {
            object.remove("nat_ops");
        }
        let named = named(&expected, &all);
        if expected != named {
            return case.compared(expected, named);
        }
        let reason = "rules and chain are found by the chain's name when the namespace is gone (DW-26)";
        return Outcome::better(reason, format!("{clean:?}"), format!("{:?}", world.nat.into_inner()));
    }
    case.compared(&expected, named(&expected, &all))
}

/// Of `all` what `expected` names.
fn named(expected: &Value, all: &Value) -> Value {
    Value::Object(expected.as_object().into_iter().flatten().map(|(key, _)| (key.clone(), all[key].clone())).collect())
}
