//! The daemon's pool manager on the simulated AWS, under virtual time.

use std::time::Duration;

use reservoir_core::policy::{CreateEni, EniTrait, Gate, Node};
use reservoir_sim::Config;
use reservoir_sim::model::config::{DelaysConfig, InstanceConfig};
use reservoir_sim::node::workload;
use reservoir_sim::node::{Decision, Keep, NodeConfig, NodeId, Policy, Score, World};

const DAY: Duration = Duration::from_secs(86_400);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One m5.xlarge (4 interfaces of 14 addresses) with realistic delays.
fn world() -> (World, NodeConfig) {
    let mut config = Config { delays: DelaysConfig::Profile("realistic".to_owned()), ..Config::default() };
    let subnet = config.subnets[0].id.clone();
    config.instances = vec![InstanceConfig::new("i-1", "m5.xlarge", &subnet)];
    (World::new(&config).unwrap(), NodeConfig::new("i-1", "m5.xlarge").unwrap())
}

fn clean(world: &mut World, node: NodeId) {
    assert_eq!(world.findings(), [""; 0]);
    assert_eq!(world.sim().audit(), []);
    assert_eq!(world.waiting(node), 0);
}

fn day(workload: &str, seed: u64) -> Score {
    let (mut world, config) = world();
    let pods = (workload::named(workload).unwrap().pods)(seed, config.shape(DAY));
    let node = world.add_node(Duration::ZERO, config, Box::new(Keep(5)));
    world.add_pods(node, pods);
    world.run_until(DAY);
    clean(&mut world, node);
    world.score(node)
}

#[test]
fn a_day_of_every_workload_leaves_nothing_behind() {
    for workload in workload::ALL {
        let score = day(workload.name, 1);
        assert_eq!(score.never_served, 0, "{}", workload.name);
        assert!(
            score.pods > 100 && score.ec2_calls() > 10 && score.addresses_at_peak >= 20,
            "{}: {score:?}",
            workload.name
        );
        assert!(score.idle_address_hours() > 24.0, "{}: {score:?}", workload.name);
        let [p50, p99, max] = {
            let p = score.percentiles();
            [p.p50, p.p99, p.max]
        };
        assert!(p50 <= p99 && p99 <= max && max < s(30), "{}: {max:?}", workload.name);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(day("burst", 7), day("burst", 7));
    assert_ne!(day("burst", 7), day("burst", 8));
}

#[test]
fn waits_are_those_of_the_calls() {
    let (mut world, config) = world();
    let node = world.add_node(Duration::ZERO, config, Box::new(Keep(0)));
    let pod = |name: &str, start| workload::Pod { name: name.to_owned(), start, stop: s(1000) };
    world.add_pods(node, [pod("a", s(60))]);
    world.run_until(s(120));
    let score = world.score(node);
    // One assignment: 0.3 s and up to a tenth more, and the decision.
    let waited = score.percentiles().max;
    assert!(waited > Duration::from_millis(300) && waited < Duration::from_millis(335), "{waited:?}");
    assert_eq!((score.pods, score.starved_pods, score.calls["AssignPrivateIpAddresses"]), (1, 1, 1));
    // Thirteen more fill the interface; the next needs another: create, attach, set up.
    world.add_pods(node, (0..13).map(|i| pod(&format!("b{i}"), s(200))));
    world.add_pods(node, [pod("c", s(300))]);
    world.run_until(s(400));
    let score = world.score(node);
    let waited = score.percentiles().max;
    assert!(waited > Duration::from_millis(1500) && waited < Duration::from_millis(2500), "{waited:?}");
    assert_eq!((score.created, score.removed, score.addresses_at_peak), (1, 0, 15));
    clean(&mut world, node);
}

/// Keeps nothing, and no interface that no pod uses.
struct Tidy;

impl Policy for Tidy {
    fn decide(&mut self, node: &Node) -> Decision {
        let mut decision = Keep(0).decide(node);
        if let Some(plan) = &mut decision.plan
            && plan.grow.is_empty()
            && node.gates.remove == Gate::Open
        {
            let idle = node.enis.iter().filter(|e| !e.traits.has(EniTrait::Primary) && e.age_seconds >= 60);
            let idle = idle.filter(|e| e.cidrs.iter().all(|c| c.assigned + c.cooling == 0));
            plan.remove.extend(idle.map(|e| e.id.clone()));
        }
        Decision { wake_after_seconds: Some(10), ..decision }
    }

    fn rank(&mut self, node: &Node, request: &CreateEni) -> Result<Vec<String>, String> {
        Keep(0).rank(node, request)
    }
}

#[test]
fn a_removal_costs_one_detach_and_one_delete() {
    let (mut world, config) = world();
    let node = world.add_node(Duration::ZERO, config, Box::new(Tidy));
    // More than one interface holds, three times.
    for round in 0..3 {
        let pod =
            |i| workload::Pod { name: format!("{round}-{i}"), start: s(60 + 600 * round), stop: s(200 + 600 * round) };
        world.add_pods(node, (0..20).map(pod));
    }
    world.run_until(s(2400));
    let score = world.score(node);
    assert!(score.removed >= 3 && score.removed == score.created, "{score:?}");
    let calls = |api| score.calls.get(api).copied().unwrap_or(0);
    assert_eq!((calls("DetachNetworkInterface"), calls("DeleteNetworkInterface")), (score.removed, score.removed));
    clean(&mut world, node);
}

#[test]
fn a_killed_daemon_takes_its_pods_over() {
    let (mut world, config) = world();
    let pods = workload::steady(3, config.shape(s(4 * 3600)));
    let node = world.add_node(Duration::ZERO, config, Box::new(Keep(5)));
    world.add_pods(node, pods);
    // At moments when all sorts of calls are under way.
    for i in 0..200 {
        world.kill(Duration::from_millis(15_000 + i * 61_357), node, Duration::from_millis(i * 37));
    }
    let mut seen = 0;
    for step in 1..=4 * 60 {
        world.run_until(s(step * 60));
        seen = seen.max(world.addresses(node).count());
    }
    clean(&mut world, node);
    let score = world.score(node);
    assert!(seen > 20 && score.never_served == 0, "{seen} {score:?}");
}

#[test]
fn refused_pods_come_again_and_deleted_ones_do_not() {
    let (mut world, mut config) = world();
    // Nobody waits inside the daemon: the kubelet does.
    config.add_wait = Duration::ZERO;
    let fault = r#"{"api":"AssignPrivateIpAddresses","times":3,"effect":{"error":{"code":"RequestLimitExceeded","message":null}}}"#;
    world.sim().inject(serde_json::from_str(fault).unwrap());
    let node = world.add_node(Duration::ZERO, config, Box::new(Keep(1)));
    let pod = |name: &str, start, stop| workload::Pod { name: name.to_owned(), start, stop };
    world.add_pods(node, [pod("stays", s(1), s(9000)), pod("leaves", s(1), s(3))]);
    world.run_until(s(120));
    let score = world.score(node);
    assert_eq!((score.pods, score.starved_pods, score.never_served, score.throttled), (2, 2, 1, 3));
    let names: Vec<_> = world.addresses(node).map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names.len(), 1);
    assert!(world.last_refusal(node).is_some_and(|r| r.contains("throttl")), "{:?}", world.last_refusal(node));
    assert!(names[0].starts_with("stays-") && names[0] != "stays-1", "{names:?}");
    clean(&mut world, node);
}

#[test]
fn several_nodes_share_one_subnet() {
    let mut config = Config { delays: DelaysConfig::Profile("realistic".to_owned()), ..Config::default() };
    config.subnets[0].cidr = "10.0.32.0/26".parse().unwrap();
    let subnet = config.subnets[0].id.clone();
    config.instances = ["i-1", "i-2", "i-3"].map(|id| InstanceConfig::new(id, "m5.xlarge", &subnet)).to_vec();
    let mut world = World::new(&config).unwrap();
    let nodes = ["i-1", "i-2", "i-3"].map(|id| {
        let config = NodeConfig::new(id, "m5.xlarge").unwrap();
        world.add_node(Duration::ZERO, config, Box::new(Keep(2)))
    });
    for (i, node) in nodes.into_iter().enumerate() {
        let pod = |n: u64| workload::Pod { name: format!("{i}-{n}"), start: s(30 + n), stop: s(4000) };
        world.add_pods(node, (0..15).map(pod));
    }
    world.run_until(s(1000));
    let total: usize = nodes.iter().map(|n| world.addresses(*n).count()).sum();
    // 64 less EC2's five, three primary interfaces and one more for each node.
    assert_eq!(total, 45);
    let mut all: Vec<_> =
        nodes.iter().flat_map(|n| world.addresses(*n).map(|(_, a)| a.to_owned()).collect::<Vec<_>>()).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 45, "each address once");
    assert_eq!(world.findings(), [""; 0]);
}
