//! Whole-node texts (spec 04 §17): all plans of a node carried out on a kernel of rules and routes, and printed as `ip`,
//! `iptables-save` and `nft` print them. What the operating system and the kernel add themselves is added here, too.
//! The same texts out of a real kernel: `tests/ring/tests/walks/snapshots.rs`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use reservoir_core::ip::IpNet;
use reservoir_net::branch::{self, BranchPod, BranchSetup, EnforcingMode};
use reservoir_net::egress::firewall::{self, SnatRules};
use reservoir_net::egress::{self, EgressSetup, End};
use reservoir_net::eni::{self, EniFacts, EniSetup};
use reservoir_net::host::{self, HostConfig};
use reservoir_net::iptables::ruleset::Table;
use reservoir_net::iptables::{SnatConfig, SnatFacts, desired, diff};
use reservoir_net::netlink::reply::LinkInfo;
use reservoir_net::nft::Connmark;
use reservoir_net::nft::connmark::{BASE_CHAIN, Kind, MARK_CHAIN, extract_cidr};
use reservoir_net::nft::table::{self as nft, Table as NftTable};
use reservoir_net::plan::{Executor, OnFailure, Op, Route, Side, Step, apply};
use reservoir_net::pod::{self, PodInterface, PodSetup};
use reservoir_net::rule::{Family, FwMark, Rule};
use reservoir_net::{Errno, Error, IpPrefix, MacAddr, names, table};
use serde_json::Value;

use super::{Case, iptables, skip};
use crate::Outcome;

/// Parts of a snapshot that are made here.
const PARTS: [&str; 8] = [
    "ip_rule",
    "ip6_rule",
    "ip4_routes",
    "ip6_routes",
    "iptables_save",
    "ip6tables_save",
    "nft_table",
    "ip4_routes_present",
];

pub(super) fn snapshot(case: &Case) -> Outcome {
    let unknown = case.expected.as_object().into_iter().flatten().find(|(part, _)| !PARTS.contains(&part.as_str()));
    if let Some((part, _)) = unknown {
        return skip(&format!("a snapshot's {part:?} is not known here"));
    }
    match Node::of(case).and_then(|node| node.build().map_err(|error| error.to_string())) {
        Ok(built) => built.compare(case.expected),
        Err(why) => Outcome::Failed { expected: "a node".to_owned(), got: why },
    }
}

/// What the case says of the node.
struct Node<'a> {
    case: &'a Case<'a>,
    family: Family,
    primary: IpAddr,
}

/// The node's kernel in the end.
struct Built {
    kernel: Kernel,
    tables: Vec<Table>,
    tables_v6: Vec<Table>,
    nft: Option<Vec<String>>,
}

impl<'a> Node<'a> {
    fn of(case: &'a Case<'a>) -> Result<Self, String> {
        let family = if case.setting("ENABLE_IPv6") == Some("true") { Family::V6 } else { Family::V4 };
        let primary = prefix(&case.inputs["primary"]["address"])?.address();
        Ok(Self { case, family, primary })
    }

    fn build(&self) -> Result<Built, Error> {
        let mut kernel = self.booted()?;
        let config = self.host_config();
        let existing = kernel.rules(self.family);
        apply(&host::plan_rules(&config, &existing), &mut kernel, OnFailure::Stop)?;
        let mut tables = vec![empty("nat"), empty("mangle"), empty("filter")];
        let mut tables_v6 = vec![empty("nat"), empty("filter")];
        let mut nft = None;
        match self.family {
            Family::V4 => nft = self.snat(&mut tables)?,
            Family::V6 => edit(&mut tables, &[desired::node_local_block(Family::V4, true)]),
        }
        if self.family == Family::V4 && config.v6_egress {
            edit(&mut tables_v6, &[desired::node_local_block(Family::V6, true)]);
        }
        for (index, eni) in (3..).zip(list(&self.case.inputs["enis"])) {
            self.interface(eni, index, &mut kernel)?;
        }
        for pod in list(&self.case.inputs["pods"]) {
            self.pod(pod, &mut kernel)?;
            if pod["egress_ip"].is_string() {
                let nat = if self.family == Family::V6 { &mut tables[0] } else { &mut tables_v6[0] };
                self.egress(pod, &mut kernel, nat)?;
            }
        }
        Ok(Built { kernel, tables, tables_v6, nft })
    }

    /// The kernel's rules, and what DHCP and the kernel make of the primary interface.
    fn booted(&self) -> Result<Kernel, Error> {
        let mut kernel = Kernel::default();
        for family in [Family::V4, Family::V6] {
            kernel.rules.push(Rule::local(family, 0));
            kernel.rules.push(Rule { priority: 32_766, table: table::MAIN, ..Rule::local(family, 0) });
        }
        kernel.rules.push(Rule { priority: 32_767, table: DEFAULT_TABLE, ..Rule::local(Family::V4, 0) });
        let primary = &self.case.inputs["primary"];
        let device = primary["dev"].as_str().unwrap_or("eth0").to_owned();
        let address = prefix(&primary["address"]).map_err(Error::Invalid)?;
        let gateway: IpAddr = parse(&primary["gateway"]).map_err(Error::Invalid)?;
        kernel.connect(&device, address);
        kernel.routes.push((Route::default_via(gateway, &device, table::MAIN), None));
        Ok(kernel)
    }

    fn mode(&self) -> EnforcingMode {
        EnforcingMode::parse(self.case.setting("POD_SECURITY_GROUP_ENFORCING_MODE").unwrap_or("strict"))
    }

    fn host_config(&self) -> HostConfig {
        HostConfig { family: self.family, ..super::rules::config(self.case) }
    }

    /// SNAT, mangle and connmark rules; the table of nftables, if they have that form.
    fn snat(&self, tables: &mut [Table]) -> Result<Option<Vec<String>>, Error> {
        let IpAddr::V4(primary_ip) = self.primary else {
            return Err(Error::Invalid("the primary interface has no IPv4 address".to_owned()));
        };
        let config: SnatConfig = iptables::config(self.case);
        let facts = SnatFacts {
            primary_interface: self.case.inputs["primary"]["dev"].as_str().unwrap_or("eth0").to_owned(),
            primary_ip,
            vpc_cidrs: iptables::cidrs(&self.case.inputs["vpc_cidrs"]),
        };
        let mut chains = desired::rules(&config, &facts, true)?;
        let is_nft = self.case.inputs["connmark_backend"] == "nftables";
        if is_nft {
            chains.retain(|chain| !chain.is_connmark());
            chains.extend(desired::connmark_absent());
        }
        edit(tables, &chains);
        if !is_nft || config.external_snat {
            return Ok(None);
        }
        let exempt = desired::exempt_cidrs(&config, &facts);
        let connmark = Connmark { mark: config.mark, veth_prefix: config.veth_prefix.clone(), exempt };
        let mut made: Option<NftTable> = None;
        nft::apply(&mut made, &connmark.plan(None)?);
        Ok(made.map(|table| nft_text(&connmark, &table)))
    }

    fn interface(&self, eni: &Value, index: u32, kernel: &mut Kernel) -> Result<(), Error> {
        let own = match self.family {
            Family::V4 => prefix(&eni["address"]),
            Family::V6 => prefix(&eni["address6"]),
        };
        let own = own.map_err(Error::Invalid)?;
        let number = |key: &str| eni[key].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
        let choice = table::choose(number("card"), number("device"), own.address(), 4, &kernel.rules(self.family));
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        let name = eni["dev"].as_str().unwrap_or_default().to_owned();
        let setup = EniSetup {
            mac,
            primary_ip: own.address(),
            subnet: IpNet::new(own.address(), own.length()),
            mtu: pod::MAX_MTU,
            table: choice.table,
            rule_configured: choice.rule_configured,
            trunk: eni["trunk"] == true,
        };
        let link =
            LinkInfo { index, name, mac: Some(mac), mtu: 1500, up: false, peer_index: None, peer_elsewhere: false };
        let facts = EniFacts { link, addresses: Vec::new(), routes: Vec::new(), rules: kernel.rules(self.family) };
        eni::carry_out(&setup, &facts, kernel)
    }

    fn pod(&self, pod: &Value, kernel: &mut Kernel) -> Result<(), Error> {
        let text = |key: &str| pod[key].as_str().unwrap_or_default();
        let netns = std::path::PathBuf::from("/var/run/netns/vector");
        if let Some(vlan) = pod["vlan_id"].as_u64().and_then(|v| u16::try_from(v).ok()) {
            let mode = self.mode();
            let pod = BranchPod {
                netns,
                name: "eth0".to_owned(),
                host_veth: names::host_veth(mode.veth_prefix("eni"), text("namespace"), text("name"), 0),
                address: parse(&pod["ip"]).map_err(Error::Invalid)?,
                vlan,
                gateway: parse(&pod["subnet_gateway"]).map_err(Error::Invalid)?,
                mode,
            };
            let setup = BranchSetup { pod, mtu: pod::MAX_MTU, mac: MacAddr([2, 0, 0, 0, 0, 7]), trunk: 4 };
            return branch::wire(&setup, kernel, |_| Ok(()));
        }
        let single = [pod["ip"].clone()];
        let addresses = pod["ips"].as_array().map_or(&single[..], Vec::as_slice);
        let mut interfaces = Vec::new();
        for (index, address) in addresses.iter().enumerate() {
            interfaces.push(PodInterface {
                name: names::container_interface("eth0", index),
                host_veth: names::host_veth("eni", text("namespace"), text("name"), index),
                address: parse(address).map_err(Error::Invalid)?,
                table: self.table_of(pod, index),
            });
        }
        pod::wire(&PodSetup { netns, mtu: pod::MAX_MTU, interfaces }, kernel, |_| Ok(()))
    }

    /// The pod's way out in the other family, which egress-cni makes (spec 04 §14).
    fn egress(&self, pod: &Value, kernel: &mut Kernel, nat: &mut Table) -> Result<(), Error> {
        let text = |key: &str| pod[key].as_str().unwrap_or_default().to_owned();
        let address: IpAddr = parse(&pod["egress_ip"]).map_err(Error::Invalid)?;
        let family = Family::of(address);
        let (length, gateway, node) = match family {
            Family::V4 => (22, IpAddr::from([169, 254, 172, 1]), &self.case.inputs["primary"]["address"]),
            Family::V6 => {
                (118, IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0xac, 1]), &self.case.inputs["primary"]["address6"])
            }
        };
        let setup = EgressSetup {
            netns: "/var/run/netns/vector".into(),
            ifname: "eth0".to_owned(),
            mtu: pod::MAX_MTU,
            address: IpPrefix::new(address, length),
            gateway,
            routes: vec![(IpPrefix::default_of(family), None)],
        };
        let host = End { name: text("egress_host_veth"), mac: MacAddr([2, 0, 0, 0, 0, 8]) };
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 8);
        egress::wire(&setup, kernel, || Ok(host.clone()), |_| Ok(()), |_, _| Ok(link_local))?;
        let rules = SnatRules {
            network: "aws-cni".to_owned(),
            container: text("container_id"),
            pod: address,
            node: prefix(node).map_err(Error::Invalid)?.address(),
            randomize: iptables::config(self.case).randomize,
        };
        let edits = firewall::plan_add(&rules.rules(true), nat);
        diff::apply(nat, &edits);
        Ok(())
    }

    /// The table of the interface that a pod's address is on: the named one, else that of the address' card.
    fn table_of(&self, pod: &Value, index: usize) -> u32 {
        let number = |eni: &Value, key: &str| eni[key].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
        let is_its = |eni: &&Value| match pod["eni"].as_str() {
            Some(device) => eni["dev"] == device,
            None => index > 0 && eni["card"].as_u64() == u64::try_from(index).ok(),
        };
        let eni = list(&self.case.inputs["enis"]).find(is_its);
        eni.map_or(table::MAIN, |eni| table::of_interface(number(eni, "card"), number(eni, "device")))
    }
}

impl Built {
    fn compare(&self, expected: &Value) -> Outcome {
        let kernel = &self.kernel;
        for (part, got) in [
            ("ip_rule", kernel.rule_lines(Family::V4)),
            ("ip6_rule", kernel.rule_lines(Family::V6)),
            ("ip4_routes", sorted(kernel.route_lines(Family::V4))),
            ("ip6_routes", sorted(kernel.route_lines(Family::V6))),
            ("nft_table", self.nft.clone().unwrap_or_default()),
        ] {
            let Some(lines) = expected[part].as_array() else { continue };
            let lines = lines.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let wanted = if part.ends_with("_routes") { sorted(lines) } else { lines };
            if wanted != got {
                return Outcome::Failed { expected: format!("{part} {wanted:#?}"), got: format!("{got:#?}") };
            }
        }
        let routes = kernel.route_lines(Family::V4);
        let missing = list(&expected["ip4_routes_present"]).find(|line| !routes.iter().any(|r| *line == r));
        if let Some(line) = missing {
            return Outcome::Failed { expected: format!("route {line}"), got: format!("{routes:#?}") };
        }
        for (part, tables) in [("iptables_save", &self.tables), ("ip6tables_save", &self.tables_v6)] {
            let Some(lines) = expected[part].as_array() else { continue };
            let lines: Vec<&str> = lines.iter().filter_map(Value::as_str).collect();
            let (wanted, got) = (iptables::saved(&lines.join("\n")), iptables::shown(tables));
            if wanted != got {
                return Outcome::Failed { expected: format!("{part} {wanted}"), got };
            }
        }
        Outcome::Passed
    }
}

/// The kernel's table `default`.
const DEFAULT_TABLE: u32 = 253;

/// A kernel of rules and routes of the host.
#[derive(Debug, Default)]
struct Kernel {
    rules: Vec<Rule>,
    /// With the word that says who made it, if that is the kernel.
    routes: Vec<(Route, Option<&'static str>)>,
}

impl Kernel {
    fn rules(&self, family: Family) -> Vec<Rule> {
        self.rules.iter().filter(|r| r.family == family).cloned().collect()
    }

    /// As `ip rule` prints them: by priority, then as they came.
    fn rule_lines(&self, family: Family) -> Vec<String> {
        let mut rules = self.rules(family);
        rules.sort_by_key(|r| r.priority);
        rules.iter().map(rule_line).collect()
    }

    fn route_lines(&self, family: Family) -> Vec<String> {
        let of_family = self.routes.iter().filter(|(r, _)| r.destination.family() == family);
        of_family.map(|(route, made_by)| route_line(route, *made_by)).collect()
    }

    /// The route that comes with an address.
    fn connect(&mut self, device: &str, address: IpPrefix) {
        let network = IpPrefix::from(IpNet::new(address.address(), address.length()));
        let source = address.address().is_ipv4().then(|| address.address());
        let connected = Route { source, ..Route::on_link(network, device, table::MAIN) };
        self.routes.push((connected, Some("kernel")));
    }

    fn one(&mut self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::RuleAdd(rule) if self.rules.contains(rule) => return Err(Errno::EXIST),
            Op::RuleAdd(rule) => self.rules.push(rule.clone()),
            Op::RuleDel(rule) => {
                // A delete without a table, or without an interface, matches any.
                let fits = |r: &&Rule| {
                    r.priority == rule.priority
                        && r.family == rule.family
                        && (rule.table == table::UNSPECIFIED || r.table == rule.table)
                        && (rule.from.is_none() || r.from == rule.from)
                        && (rule.to.is_none() || r.to == rule.to)
                        && (rule.iif.is_none() || r.iif == rule.iif)
                        && (rule.fwmark.is_none() || r.fwmark == rule.fwmark)
                };
                let at = self.rules.iter().position(|r| fits(&r)).ok_or(Errno::NOENT)?;
                self.rules.remove(at);
            }
            Op::AddressAdd { device, address, .. } if !address.is_host() => self.connect(device, *address),
            Op::RouteAdd(route) | Op::RouteReplace(route) => {
                self.routes.retain(|(r, _)| (r.destination, r.table) != (route.destination, route.table));
                self.routes.push((route.clone(), None));
            }
            Op::RouteDel(route) => {
                let same = |r: &Route| {
                    r.destination == route.destination
                        && r.table == route.table
                        && (route.device.is_none() || r.device == route.device)
                        && (route.source.is_none() || r.source == route.source)
                };
                let at = self.routes.iter().position(|(r, _)| same(r)).ok_or(Errno::SRCH)?;
                self.routes.remove(at);
            }
            Op::LinkDel { .. } => return Err(Errno::NODEV),
            _ => {}
        }
        Ok(())
    }
}

impl Executor for Kernel {
    fn execute(&mut self, steps: &[Step]) -> Vec<Result<(), Errno>> {
        let on_host = |step: &Step| if step.side == Side::Host { self.one(&step.op) } else { Ok(()) };
        steps.iter().map(on_host).collect()
    }

    fn sleep(&mut self, _: Duration) {}
}

/// As `ip rule` prints it.
fn rule_line(rule: &Rule) -> String {
    let mut line = format!("{}:\tfrom {}", rule.priority, rule.from.map_or("all".to_owned(), plain));
    if let Some(to) = rule.to {
        line += &format!(" to {}", plain(to));
    }
    if let Some(FwMark { mark, mask }) = rule.fwmark {
        line += &format!(" fwmark {mark:#x}/{mask:#x}");
    }
    if let Some(iif) = &rule.iif {
        line += &format!(" iif {iif}");
    }
    if let Some(protocol) = rule.ip_protocol {
        line += &match protocol {
            58 => " ipproto ipv6-icmp".to_owned(),
            other => format!(" ipproto {other}"),
        };
    }
    let table = match rule.table {
        DEFAULT_TABLE => "default".to_owned(),
        table::MAIN => "main".to_owned(),
        table::LOCAL => "local".to_owned(),
        other => other.to_string(),
    };
    line + &format!(" lookup {table}")
}

/// As `ip route show table all` prints it.
fn route_line(route: &Route, made_by: Option<&str>) -> String {
    let is_v4 = route.destination.address().is_ipv4();
    let mut line = if route.destination.length() == 0 { "default".to_owned() } else { plain(route.destination) };
    if let Some(gateway) = route.gateway {
        line += &format!(" via {gateway}");
    }
    if let Some(device) = &route.device {
        line += &format!(" dev {device}");
    }
    if route.table != table::MAIN {
        line += &format!(" table {}", route.table);
    }
    if let Some(made_by) = made_by {
        line += &format!(" proto {made_by}");
    }
    if is_v4 && route.gateway.is_none() {
        line += " scope link";
    }
    if let Some(source) = route.source {
        line += &format!(" src {source}");
    }
    if !is_v4 {
        line += " metric 1024 pref medium";
    }
    line
}

/// A single address without its length.
fn plain(prefix: IpPrefix) -> String {
    if prefix.is_host() { prefix.address().to_string() } else { prefix.to_string() }
}

/// As `nft list table ip aws-cni` prints it.
fn nft_text(connmark: &Connmark, table: &NftTable) -> Vec<String> {
    const COUNTER: &str = "counter packets 0 bytes 0";
    let mut lines = vec!["table ip aws-cni {".to_owned()];
    for chain in &table.chains {
        lines.push(format!("\tchain {} {{", chain.name));
        if chain.name == BASE_CHAIN && chain.base.is_some() {
            lines.push("\t\ttype nat hook prerouting priority dstnat + 10; policy accept;".to_owned());
        }
        for rule in &chain.rules {
            let is = |kind| rule.exprs == connmark.rule(kind);
            let text = if is(Kind::Local) {
                "fib daddr type local return".to_owned()
            } else if is(Kind::Jump) {
                format!("iifname \"{}*\" {COUNTER} jump {MARK_CHAIN}", connmark.veth_prefix)
            } else if is(Kind::Restore) {
                format!("{COUNTER} meta mark set ct mark & {:#010x}", connmark.mark)
            } else if is(Kind::SetMark) {
                format!("{COUNTER} ct mark set ct mark | {:#010x}", connmark.mark)
            } else if let Some(cidr) = extract_cidr(&rule.exprs) {
                format!("{COUNTER} ip daddr {cidr} return")
            } else {
                format!("{:?}", rule.exprs)
            };
            lines.push(format!("\t\t{text}"));
        }
        lines.push("\t}".to_owned());
    }
    lines.push("}".to_owned());
    lines
}

fn edit(tables: &mut [Table], chains: &[desired::DesiredChain]) {
    for table in tables {
        let edits = diff::diff(chains, table);
        diff::apply(table, &edits);
    }
}

fn empty(name: &str) -> Table {
    Table { name: name.to_owned(), chains: Vec::new() }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn prefix(value: &Value) -> Result<IpPrefix, String> {
    parse(value)
}

fn parse<T: std::str::FromStr>(value: &Value) -> Result<T, String> {
    value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| format!("{value} cannot be read"))
}

fn sorted(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A case of the vectors with other settings and expectations.
    fn outcome(name: &str, settings: &[(&str, &str)], change: impl FnOnce(&mut Value)) -> Outcome {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors/datapath.json");
        let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut case = vectors["cases"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap().clone();
        for (key, value) in settings {
            case["config"][key] = json!(value);
        }
        change(&mut case["expected"]);
        let file = json!({"conventions": {"ops": ""}, "cases": [case]});
        super::super::run(&file).unwrap().remove(0).outcome
    }

    fn replace(expected: &mut Value, part: &str, with: impl Fn(&str) -> Option<String>) {
        let lines = expected[part].as_array().unwrap().iter().filter_map(|l| with(l.as_str().unwrap()));
        expected[part] = lines.collect();
    }

    /// Spec 04 §17.5: the local lookup behind the rules of the pod's interfaces, its route in the table of its vlan.
    #[test]
    fn a_strict_branch_pod_is_as_in_the_example() {
        let strict = [("POD_SECURITY_GROUP_ENFORCING_MODE", "strict")];
        let outcome = outcome("snapshot-branch-standard", &strict, |expected| {
            expected["ip_rule"] = json!([
                "10:\tfrom all iif vlan.eth.7 lookup 107",
                "10:\tfrom all iif vlan23145df91e4 lookup 107",
                "20:\tfrom all lookup local",
                "512:\tfrom all to 10.0.97.30 lookup main",
                "512:\tfrom all to 10.0.97.31 lookup main",
                "1024:\tfrom all fwmark 0x80/0x80 lookup main",
                "1536:\tfrom 10.0.97.31 lookup 2",
                "32765:\tfrom 10.0.100.20 lookup 2",
                "32766:\tfrom all lookup main",
                "32767:\tfrom all lookup default",
            ]);
            let in_main = "10.0.120.77 dev eni23145df91e4 scope link";
            let in_table = "10.0.120.77 dev vlan23145df91e4 table 107 scope link";
            replace(expected, "ip4_routes", |l| Some(l.replace(in_main, in_table)));
        });
        assert_eq!(outcome, Outcome::Passed);
    }

    /// Spec 04 §17.2: the same rules and routes; of iptables the mangle part and an empty chain.
    #[test]
    fn external_snat_is_as_in_the_example() {
        let is_left = |l: &str| l.starts_with('*') || l.contains("AWS, primary ENI") || l.starts_with(":AWS-SNAT");
        let left = |expected: &mut Value| {
            replace(expected, "iptables_save", |l| is_left(l).then(|| l.to_owned()));
        };
        let external = [("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true")];
        assert_eq!(outcome("snapshot-default-iptables", &external, left), Outcome::Passed);
        assert!(matches!(outcome("snapshot-default-iptables", &[], left), Outcome::Failed { .. }));
    }

    #[test]
    fn every_part_is_compared() {
        for part in ["ip_rule", "ip4_routes", "iptables_save", "nft_table"] {
            let without_last = |expected: &mut Value| drop(expected[part].as_array_mut().unwrap().pop());
            let outcome = outcome("snapshot-custom-networking-nft", &[], without_last);
            assert!(matches!(outcome, Outcome::Failed { .. }), "{part}: {outcome:?}");
        }
        let unknown = |expected: &mut Value| expected["ip_mroute"] = json!([]);
        let outcome = outcome("snapshot-custom-networking-nft", &[], unknown);
        assert_eq!(outcome, Outcome::Skipped("a snapshot's \"ip_mroute\" is not known here".to_owned()));
    }
}
