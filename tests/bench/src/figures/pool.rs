//! The pool under virtual time: what one round from snapshot to checked plan costs in each mode, how fast days of a node
//! pass, and how many EC2 calls churn costs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use reservoir_core::kube::EniConfig;
use reservoir_core::policy::{CreateEni, Family, Node, Unit};
use reservoir_core::validate::{self, UnderWay};
use reservoir_policy::{Options, Policies};
use reservoir_sim::model::config::{Config, DelaysConfig, InstanceConfig};
use reservoir_sim::model::preset;
use reservoir_sim::node::workload::{self, Pod};
use reservoir_sim::node::{Decision, Keep, NodeConfig, NodeId, Policy, World};

use crate::samples::Samples;
use crate::table::{Goal, Row, Table};

const INSTANCE: &str = "i-0123456789abcdef0";
const ROUNDS: usize = 1000;
const DAY: Duration = Duration::from_secs(86_400);

/// The built-in component in the daemon's own runtime.
struct BuiltIn(Policies);

impl Policy for BuiltIn {
    fn decide(&mut self, node: &Node) -> Decision {
        let decision = self.0.decide(node);
        Decision {
            reason: String::new(),
            targets: decision.targets.clone().unwrap_or_default(),
            wake_after_seconds: decision.wake_after_seconds,
            refresh_subnets: decision.refresh_subnets,
            plan: decision.by.is_some().then_some(decision.plan),
        }
    }

    fn rank(&mut self, node: &Node, request: &CreateEni) -> Result<Vec<String>, String> {
        let ranking = self.0.rank(node, request);
        match (&ranking.by, ranking.failure()) {
            (None, Some((_, failure))) => Err(failure.to_string()),
            _ => Ok(ranking.subnets),
        }
    }
}

fn built_in() -> Result<Box<dyn Policy>> {
    Ok(Box::new(BuiltIn(Policies::new(Options::default())?)))
}

/// A node of a preset account, and its configuration.
fn account(mode: &str, instance_type: &str) -> Result<(Config, NodeConfig)> {
    let mut config = Config::preset(mode).with_context(|| format!("no preset {mode}"))?;
    config.delays = DelaysConfig::Profile("realistic".to_owned());
    config.log_limit = 0;
    config.instances = vec![InstanceConfig::new(INSTANCE, instance_type, preset::NODES)];
    let mut node = NodeConfig::new(INSTANCE, instance_type)?;
    match mode {
        "prefix" => node.unit = Unit::Prefix,
        "ipv6" => (node.family, node.unit) = (Family::Ipv6, Unit::Prefix),
        "multinic" => node.cards = (0..u32::try_from(node.limits.cards.len())?).collect(),
        "custom" => {
            let (name, subnet) = ("pods".to_owned(), preset::PODS.to_owned());
            node.eni_config = Some(EniConfig { name, subnet, security_groups: Vec::new() });
        }
        _ => {}
    }
    Ok((config, node))
}

/// Snapshot, sizing, planning, check: one round on a full node, by mode and size.
pub fn rounds(table: &mut Table) -> Result<()> {
    const SIZES: [&str; 3] = ["m5.large", "c5.4xlarge", "c5.18xlarge"];
    for (mode, sizes) in [
        ("secondary", &SIZES[..]),
        ("prefix", &SIZES),
        ("custom", &SIZES),
        ("discovery", &SIZES),
        ("ipv6", &SIZES),
        ("multinic", &["c6in.32xlarge"]),
    ] {
        for instance_type in sizes {
            let (account, mut node) = account(mode, instance_type)?;
            node.max_pods = 737;
            let capacity = node.shape(DAY).capacity;
            let (mut world, id) = one_node(&account, node, built_in()?)?;
            let start = |n: u32| Duration::from_secs(120) + Duration::from_millis(200) * n;
            world.add_pods(id, (0..capacity).map(|n| Pod { name: format!("pod-{n}"), start: start(n), stop: DAY }));
            world.run_until(start(capacity) + Duration::from_secs(600));
            let policies = Policies::new(Options::default())?;
            let mut samples = Vec::with_capacity(ROUNDS);
            let mut enis = 0;
            for _ in 0..ROUNDS {
                let begun = Instant::now();
                let snapshot = world.snapshot(id).context("the daemon is down")?;
                let decision = policies.decide(&snapshot);
                let checked = validate::check(&snapshot, &decision.plan, &UnderWay::default());
                samples.push(begun.elapsed());
                if let Some((_, failure)) = decision.failure() {
                    bail!("{mode}: the built-in component failed: {failure}");
                }
                std::hint::black_box(checked);
                enis = snapshot.enis.len();
            }
            let p50 = Samples::new(samples).p50().map(|ms| ms * 1e3);
            let figure =
                format!("snapshot to checked plan, {mode}, {instance_type}, {capacity} pods on {enis} ENIs, p50");
            table.push(Row::new("rounds", figure, "µs", p50));
        }
    }
    Ok(())
}

fn one_node(account: &Config, node: NodeConfig, policy: Box<dyn Policy>) -> Result<(World, NodeId)> {
    let mut world = World::new(account)?;
    let id = world.add_node(Duration::ZERO, node, policy);
    Ok((world, id))
}

/// A day of a node, each workload once.
pub fn days(table: &mut Table) -> Result<()> {
    // Each workload with its time and its pods.
    let days = |policy: fn() -> Result<Box<dyn Policy>>| -> Result<Vec<(&str, Duration, u64)>> {
        let mut all = Vec::new();
        for workload in workload::ALL {
            let (account, node) = account("secondary", "c5.4xlarge")?;
            let list = (workload.pods)(1, node.shape(DAY));
            let (mut world, id) = one_node(&account, node, policy()?)?;
            world.add_pods(id, list);
            let begun = Instant::now();
            world.run_until(DAY);
            let took = begun.elapsed();
            if let Some(finding) = world.findings().first() {
                bail!("{}: {finding}", workload.name);
            }
            all.push((workload.name, took, world.score(id).pods));
        }
        Ok(all)
    };
    let (simple, ours) = (days(|| Ok(Box::new(Keep(10))))?, days(built_in)?);
    for ((name, took, pods), (_, floor, _)) in ours.into_iter().zip(simple) {
        let figure = format!("a node-day, {name}, {pods} pod starts");
        table.push(
            Row::new("days", figure, "s", Some(took.as_secs_f64()))
                .floor("a policy of ten lines, native", Some(floor.as_secs_f64()))
                .goal(Goal::AtMost(0.5)),
        );
    }
    Ok(())
}

/// EC2 calls for 1,000 pods that come and go, by workload, under the documented defaults.
pub fn calls(table: &mut Table) -> Result<()> {
    for workload in workload::ALL {
        let (account, node) = account("secondary", "c5.4xlarge")?;
        let list = (workload.pods)(1, node.shape(DAY));
        let (mut world, id) = one_node(&account, node, built_in()?)?;
        world.add_pods(id, list);
        world.run_until(DAY);
        let score = world.score(id);
        if score.pods == 0 {
            bail!("{}: no pods", workload.name);
        }
        let per_thousand = score.ec2_calls() as f64 * 1000.0 / score.pods as f64;
        let figure = format!("EC2 calls per 1,000 pods churned, {}, documented defaults", workload.name);
        table.push(Row::new("calls", figure, "", Some(per_thousand)));
    }
    Ok(())
}
