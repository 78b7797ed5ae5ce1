//! The host's network: a set-up that changes nothing, and the rules of many pods.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use reservoir_net::eni::{self, EniSetup};
use reservoir_net::host::{self, HostConfig};
use reservoir_net::iptables::{Iptables, Randomize, SnatConfig, SnatFacts};
use reservoir_net::kernel::Kernel;
use reservoir_net::plan::{OnFailure, Op, Route, Step, apply};
use reservoir_net::prefix::IpPrefix;
use reservoir_net::repair;
use reservoir_net::repair::pods::{FirstNames, Memory, Pod};
use reservoir_net::rule::{Family, Rule};
use reservoir_net::writes::{self, Writes};
use reservoir_net::{MacAddr, names, table};

use crate::pods::{Namespaces, inside};
use crate::samples::Samples;
use crate::table::{Goal, Row, Table};

const PODS: u32 = 250;
const RUNS: usize = 50;
const PRIMARY: &str = "02:00:00:00:00:01";
const SECONDARY: &str = "02:00:00:00:00:02";
const CONFIG: HostConfig = HostConfig::DOCUMENTED;

/// A set-up of node, interface and firewall on a node where all is right; 250 pods' rules; a look at them.
pub fn network(table: &mut Table) -> Result<()> {
    let node = Namespaces::make(1)?;
    let mut rows = Vec::new();
    inside(&node.names()[0], || {
        rows = measure()?;
        Ok(())
    })?;
    rows.into_iter().for_each(|row| table.push(row));
    Ok(())
}

fn measure() -> Result<Vec<Row>> {
    let mut links = String::new();
    for (name, mac) in [("eth0", PRIMARY), ("eth1", SECONDARY)] {
        writeln!(links, "link add {name} address {mac} mtu 9001 type veth peer name {name}-far")?;
        writeln!(links, "link set {name} up\nlink set {name}-far up")?;
    }
    let pods: Vec<Pod> = (0..PODS).map(pod).collect();
    for (number, pod) in pods.iter().enumerate() {
        let veth = veth(pod);
        writeln!(links, "link add {veth} type veth peer name p{number}\nlink set {veth} up")?;
    }
    ip_batch(&links)?;
    let (primary, secondary): (MacAddr, MacAddr) = (PRIMARY.parse()?, SECONDARY.parse()?);
    let eni = EniSetup {
        mac: secondary,
        primary_ip: Ipv4Addr::new(10, 0, 100, 20).into(),
        subnet: "10.0.96.0/19".parse().map_err(|e| anyhow::anyhow!("{e}"))?,
        mtu: 9001,
        table: table::of_interface(0, 1),
        rule_configured: false,
        trunk: false,
    };
    let (snat, facts) = firewall()?;
    let mut iptables = Iptables::detect("iptables")?;
    let mut set_up = || -> Result<()> {
        host::set_up(&CONFIG, primary)?;
        eni::set_up(&eni, Duration::ZERO)?;
        iptables.apply(&snat, &facts)?;
        Ok(())
    };
    let begun = Instant::now();
    set_up()?;
    let first = begun.elapsed();
    let (mut again, mut written) = (Vec::new(), Writes::default());
    for _ in 0..RUNS {
        let begun = Instant::now();
        let (writes, done) = writes::of(&mut set_up);
        done?;
        again.push(begun.elapsed());
        written = Writes {
            netlink: written.netlink + writes.netlink,
            settings: written.settings + writes.settings,
            firewall: written.firewall + writes.firewall,
        };
    }

    // What the rules of all pods cost at least: all requests in as few messages as they fit in.
    let steps: Vec<Step> = pods.iter().flat_map(steps).collect();
    let mut kernel = Kernel::host()?;
    let begun = Instant::now();
    apply(&steps, &mut kernel, OnFailure::Stop)?;
    let floor = begun.elapsed();
    let undo: Vec<Step> = pods.iter().flat_map(undo).collect();
    apply(&undo, &mut kernel, OnFailure::Stop)?;

    let mut memory = Memory::default();
    let begun = Instant::now();
    let checked = repair::pods::check(Family::V4, &pods, &mut memory, &FirstNames::default(), true)?;
    let programmed = begun.elapsed();
    if checked.outcome.done.len() != steps.len() || !checked.outcome.failed.is_empty() {
        bail!("{} of {} steps were done", checked.outcome.done.len(), steps.len());
    }
    let (mut looks, mut looked) = (Vec::new(), Writes::default());
    for _ in 0..RUNS {
        let begun = Instant::now();
        let (writes, done) = writes::of(|| -> Result<bool> {
            let (_, mut outcome) = repair::host(&CONFIG, primary, Some(&[]))?;
            outcome.join(repair::interfaces([&eni.clone().into()])?);
            let checked = repair::pods::check(Family::V4, &pods, &mut memory, &FirstNames::default(), true)?;
            Ok(outcome.is_empty() && checked.outcome.is_empty())
        });
        if !done? {
            bail!("a look at a host that is right found something");
        }
        looks.push(begun.elapsed());
        looked = Writes { netlink: looked.netlink + writes.netlink, ..looked };
    }
    let ms = |duration: Duration| Some(duration.as_secs_f64() * 1e3);
    let count = |n: u64| Some(n as f64);
    Ok(vec![
        Row::new("host", "host set-up that changes nothing, 5 VPC CIDRs, p50", "ms", Samples::new(again).p50())
            .floor("the same from nothing", ms(first)),
        Row::new("host", format!("writes of {RUNS} such set-ups"), "", count(written.total())).goal(Goal::AtMost(0.0)),
        Row::new("host", format!("routes and rules of {PODS} pods"), "ms", ms(programmed))
            .floor("netlink alone, in batches", ms(floor)),
        Row::new(
            "host",
            format!("look at a host with {PODS} pods that is right, p50"),
            "ms",
            Samples::new(looks).p50(),
        ),
        Row::new("host", format!("writes of {RUNS} such looks"), "", count(looked.total())).goal(Goal::AtMost(0.0)),
    ])
}

fn pod(number: u32) -> Pod {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 97, 0).to_bits() + number);
    let suffix = names::suffix("default", &format!("p{number}"), 0);
    Pod { address: address.into(), table: 2, suffix: Some(suffix), since: 1, settled: true }
}

fn veth(pod: &Pod) -> String {
    format!("eni{}", pod.suffix.as_deref().unwrap_or_default())
}

fn steps(pod: &Pod) -> [Step; 3] {
    let own = IpPrefix::host(pod.address);
    [
        Step::host(Op::RouteReplace(Route::on_link(own, &veth(pod), table::MAIN))),
        Step::host(Op::RuleAdd(Rule::to_pod(own))),
        Step::host(Op::RuleAdd(Rule::from_pod(own, pod.table))),
    ]
}

fn undo(pod: &Pod) -> [Step; 3] {
    let own = IpPrefix::host(pod.address);
    [
        Step::host(Op::RouteDel(Route { device: None, ..Route::on_link(own, "", table::MAIN) })),
        Step::host(Op::RuleDel(Rule::to_pod(own))),
        Step::host(Op::RuleDel(Rule::from_pod(own, pod.table))),
    ]
}

fn firewall() -> Result<(SnatConfig, SnatFacts)> {
    let blocks = ["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "100.64.0.0/16"];
    let vpc_cidrs = blocks.iter().map(|b| b.parse().map_err(|e| anyhow::anyhow!("{b}: {e}"))).collect::<Result<_>>()?;
    let config = SnatConfig {
        external_snat: false,
        node_port: true,
        exclude: Vec::new(),
        randomize: Randomize::Prng,
        mark: 0x80,
        veth_prefix: "eni".to_owned(),
    };
    let primary_ip = Ipv4Addr::new(10, 0, 96, 10);
    Ok((config, SnatFacts { primary_interface: "eth0".to_owned(), primary_ip, vpc_cidrs }))
}

fn ip_batch(text: &str) -> Result<()> {
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().context("ip cannot be run")?;
    if let Some(mut stdin) = ip.stdin.take() {
        stdin.write_all(text.as_bytes())?;
    }
    if ip.wait()?.success() { Ok(()) } else { bail!("ip -batch failed") }
}

/// The address that a pod of this number could have.
#[must_use]
pub fn address(ipv6: bool, card: u8, number: u16) -> IpAddr {
    if ipv6 {
        [0x2600, 0x1f14, 0xabc, 0xd00, 0x5c1e + u16::from(card), 0, 0, number + 2].into()
    } else {
        let [high, low] = number.to_be_bytes();
        [10, card, 100 + high, low].into()
    }
}
