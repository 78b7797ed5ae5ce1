//! `policy-test scenarios`: a day of each workload under each policy, on a node under virtual time, in one table.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use reservoir_core::policy::{CreateEni, Node, Targets};
use reservoir_policy::{Answer, Bundle, Options, Policies};
use reservoir_policy_native::Native;
use reservoir_sim::model::config::{Config, DelaysConfig, InstanceConfig};
use reservoir_sim::node::workload::{self, Workload};
use reservoir_sim::node::{Decision, NodeConfig, Policy, Score, World};
use serde::Serialize;

use crate::{input, table::Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A component to score beside the others; may be given more than once
    #[arg(long = "policy", value_name = "FILE.wasm")]
    policies: Vec<PathBuf>,
    #[command(flatten)]
    settings: crate::SettingsArg,
    /// Only these workloads: steady, diurnal, burst, rolling, batch, flap
    #[arg(long = "workload", value_name = "NAME")]
    workloads: Vec<String>,
    /// The node
    #[arg(long, value_name = "TYPE", default_value = "m5.xlarge")]
    instance_type: String,
    /// Virtual hours
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=24 * 31))]
    hours: u64,
    /// For pods and delays: the same seed gives the same table
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print JSON for machines
    #[arg(long)]
    json: bool,
}

/// Who decides.
#[derive(Debug, Clone)]
enum Who {
    /// The built-in policy under these targets.
    Documented(Targets),
    Adaptive,
    Component(Bundle),
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    workload: &'static str,
    policy: String,
    idle_address_hours: f64,
    starved_pods: u64,
    starved_pod_seconds: f64,
    longest_wait_seconds: f64,
    ec2_calls: u64,
    #[serde(flatten)]
    score: Score,
}

/// Of the environment: the documented default first.
const SETTINGS: [(&str, Targets); 4] = [
    ("WARM_ENI_TARGET=1", Targets { warm_enis: 1, warm_ips: 0, warm_prefixes: 1, minimum_ips: 0 }),
    ("WARM_ENI_TARGET=0", Targets { warm_enis: 0, warm_ips: 0, warm_prefixes: 1, minimum_ips: 0 }),
    ("WARM_IP_TARGET=5", Targets { warm_enis: 0, warm_ips: 5, warm_prefixes: 1, minimum_ips: 0 }),
    ("WARM_IP_TARGET=2 MINIMUM_IP_TARGET=20", Targets { warm_enis: 0, warm_ips: 2, warm_prefixes: 1, minimum_ips: 20 }),
];

pub(crate) fn run(out: &mut impl Write, args: &Args) -> Result<()> {
    let workloads = chosen(&args.workloads)?;
    if args.policies.is_empty() && !args.settings.settings.is_empty() {
        bail!("--settings are those of the components that --policy names: name one");
    }
    let mut policies: Vec<(String, Who)> =
        SETTINGS.iter().map(|(name, targets)| ((*name).to_owned(), Who::Documented(*targets))).collect();
    policies.push(("adaptive".to_owned(), Who::Adaptive));
    for file in &args.policies {
        policies.push((
            name_of(file),
            Who::Component(Bundle {
                component: Some(input::component(file)?),
                settings: args.settings.settings.iter().cloned().collect(),
                pin: None,
            }),
        ));
    }
    let mut rows = Vec::new();
    for workload in workloads {
        for (name, who) in &policies {
            let score = play(&workload, who, args).with_context(|| format!("{} under {name}", workload.name))?;
            rows.push(Row {
                workload: workload.name,
                policy: name.clone(),
                idle_address_hours: score.idle_address_hours(),
                starved_pods: score.starved_pods,
                starved_pod_seconds: score.starved_pod_seconds(),
                longest_wait_seconds: score.percentiles().max.as_secs_f64(),
                ec2_calls: score.ec2_calls(),
                score,
            });
        }
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
    } else {
        print(out, &rows, args)?;
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<Workload>> {
    if names.is_empty() {
        return Ok(workload::ALL.to_vec());
    }
    let known = || workload::ALL.map(|w| w.name).join(", ");
    names
        .iter()
        .map(|name| {
            workload::named(name).ok_or_else(|| anyhow!("workload {name:?} does not exist; there are {}", known()))
        })
        .collect()
}

/// The file's name, or its directory's where all are called policy.wasm.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let dir = file.parent().and_then(Path::file_name).map(|d| d.to_string_lossy().into_owned());
    match dir {
        Some(dir) if stem == "policy" => format!("{dir}/policy.wasm"),
        _ => format!("{stem}.wasm"),
    }
}

/// One node's run.
fn play(workload: &Workload, who: &Who, args: &Args) -> Result<Score> {
    const INSTANCE: &str = "i-0123456789abcdef0";
    let mut account = Config {
        delays: DelaysConfig::Profile("realistic".to_owned()),
        seed: args.seed,
        log_limit: 0,
        ..Config::default()
    };
    let subnet = account.subnets.first().map(|s| s.id.clone()).unwrap_or_default();
    account.instances = vec![InstanceConfig::new(INSTANCE, &args.instance_type, &subnet)];
    let mut node = NodeConfig::new(INSTANCE, &args.instance_type)?;
    if let Who::Documented(targets) = who {
        node.targets = *targets;
    }
    let shape = node.shape(Duration::from_secs(args.hours * 3600));
    let pods = (workload.pods)(args.seed, shape);
    let mut world = World::new(&account)?;
    let id = world.add_node(Duration::ZERO, node, policy(who)?);
    world.add_pods(id, pods);
    world.run_until(shape.length);
    if let Some(finding) = world.findings().first() {
        bail!("{finding}: this is a defect of ours");
    }
    Ok(world.score(id))
}

fn policy(who: &Who) -> Result<Box<dyn Policy>> {
    Ok(match who {
        Who::Documented(_) => Box::new(Native::built_in(&[])),
        Who::Adaptive => Box::new(Native::adaptive()),
        Who::Component(bundle) => {
            let policies = Policies::new(Options::default())?;
            policies.load(bundle, None)?;
            Box::new(InRuntime(policies))
        }
    })
}

/// A component in the daemon's own runtime.
struct InRuntime(Policies);

impl Policy for InRuntime {
    fn decide(&mut self, node: &Node) -> Decision {
        let decision = self.0.decide(node);
        let said = |call: &reservoir_policy::Called| match &call.result {
            Ok(Answer::Sizing(sizes)) => sizes.note.reason.clone(),
            Ok(Answer::Planning(plan)) => plan.note.reason.clone(),
            Ok(Answer::Subnets(_)) => String::new(),
            Err(failure) => failure.to_string(),
        };
        Decision {
            reason: decision.calls.iter().map(said).collect::<Vec<_>>().join("; "),
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

fn print(out: &mut impl Write, rows: &[Row], args: &Args) -> io::Result<()> {
    writeln!(out, "{} for {} h, seed {}", args.instance_type, args.hours, args.seed)?;
    for workload in workload::ALL.iter().filter(|w| rows.iter().any(|r| r.workload == w.name)) {
        writeln!(out, "{:8} {}", workload.name, workload.about)?;
    }
    writeln!(out)?;
    let mut table = Table::new(&[
        "workload",
        "policy",
        "pods",
        "idle address-hours",
        "starved pods",
        "starved-pod seconds",
        "longest wait s",
        "EC2 calls",
        "interfaces made",
    ]);
    for row in rows {
        table.row(vec![
            row.workload.to_owned(),
            row.policy.clone(),
            row.score.pods.to_string(),
            format!("{:.1}", row.idle_address_hours),
            row.starved_pods.to_string(),
            format!("{:.1}", row.starved_pod_seconds),
            format!("{:.2}", row.longest_wait_seconds),
            row.ec2_calls.to_string(),
            row.score.created.to_string(),
        ]);
    }
    write!(out, "{table}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(seed: u64, hours: u64) -> Args {
        let (policies, workloads) = (vec![], vec![]);
        let (instance_type, settings) = ("m5.xlarge".to_owned(), crate::SettingsArg::default());
        Args { policies, settings, workloads, instance_type, hours, seed, json: false }
    }

    /// docs/adaptive.md: on every workload half the idle addresses, and no more waiting, than the documented default.
    #[test]
    fn the_adaptive_policy_holds_half_and_starves_no_more_than_the_documented_default() {
        let default = Who::Documented(SETTINGS[0].1);
        for seed in [1, 2] {
            for workload in workload::ALL {
                let args = args(seed, 24);
                let [documented, adaptive] = [&default, &Who::Adaptive].map(|who| play(&workload, who, &args).unwrap());
                let name = workload.name;
                assert_eq!(documented.pods, adaptive.pods);
                assert_eq!(adaptive.never_served, 0, "{name}");
                let [d, a] = [&documented, &adaptive].map(Score::idle_address_hours);
                // What changes in bursts needs a little more.
                let share = if ["burst", "batch"].contains(&name) { 0.52 } else { 0.5 };
                assert!(a < d * share, "{name}, seed {seed}: {a} idle address-hours, the default {d}");
                let [d, a] = [&documented, &adaptive].map(Score::starved_pod_seconds);
                assert!(a <= d, "{name}, seed {seed}: {a} starved-pod seconds, the default {d}");
            }
        }
    }

    #[test]
    fn a_component_decides_as_its_native_code() {
        for (file, native) in
            [("../adaptive/policy.wasm", Who::Adaptive), ("../default/policy.wasm", Who::Documented(SETTINGS[0].1))]
        {
            let component = input::component(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
            let bundle = Bundle { component: Some(component), ..Bundle::default() };
            let args = args(3, 3);
            for name in ["burst", "rolling"] {
                let workload = workload::named(name).unwrap();
                let inside = play(&workload, &Who::Component(bundle.clone()), &args).unwrap();
                assert!(inside.decisions > 30, "{inside:?}");
                assert_eq!(inside, play(&workload, &native, &args).unwrap(), "{file} {name}");
            }
        }
    }

    #[test]
    fn files_are_named_by_what_tells_them_apart() {
        assert_eq!(name_of(Path::new("policies/adaptive/policy.wasm")), "adaptive/policy.wasm");
        assert_eq!(name_of(Path::new("mine.wasm")), "mine.wasm");
        assert_eq!(name_of(Path::new("policy.wasm")), "policy.wasm");
    }
}
