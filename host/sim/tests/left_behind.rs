//! Nothing that a daemon has made stays behind when it ends, nor when its instance does.

use std::time::Duration;

use reservoir_core::policy::Family;
use reservoir_sim::Config;
use reservoir_sim::model::config::{DelaysConfig, InstanceConfig};
use reservoir_sim::model::fault::{Fault, FaultEffect};
use reservoir_sim::model::operator::Attach;
use reservoir_sim::model::ops::Op;
use reservoir_sim::node::{Keep, NodeConfig, NodeId, Switches, World};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Instances with realistic delays, each with a daemon that keeps more than one interface holds.
fn world(instances: &[&str], switches: Switches) -> (World, Vec<NodeId>) {
    let mut config = Config { delays: DelaysConfig::Profile("realistic".to_owned()), ..Config::default() };
    let subnet = config.subnets[0].id.clone();
    config.instances = instances.iter().map(|id| InstanceConfig::new(id, "m5.xlarge", &subnet)).collect();
    let mut world = World::new(&config).unwrap();
    let nodes = instances.iter().map(|id| {
        let config = NodeConfig { switches, ..NodeConfig::new(id, "m5.xlarge").unwrap() };
        world.add_node(Duration::ZERO, config, Box::new(Keep(20)))
    });
    let nodes = nodes.collect();
    (world, nodes)
}

fn unattached(world: &mut World) -> usize {
    world.sim().enis().filter(|eni| eni.attachment.is_none()).count()
}

/// Until EC2 has made an interface that is not attached yet.
fn until_made(world: &mut World) {
    while unattached(world) == 0 {
        assert!(world.now() < s(60), "no interface is made");
        world.run_until(world.now() + Duration::from_millis(5));
    }
}

#[test]
fn what_a_terminated_instance_has_left_is_deleted_by_another() {
    let (mut world, nodes) = world(&["i-1", "i-2"], Switches::default());
    world.sim().inject(Fault::new("AttachNetworkInterface", FaultEffect::error("InternalError")).on("i-2").times(0));
    world.run_until(s(1));
    while world.sim().enis().all(|eni| eni.attachment.is_some() || !eni.description.ends_with("i-2")) {
        assert!(world.now() < s(60), "i-2 makes none");
        world.run_until(world.now() + Duration::from_millis(5));
    }
    let now = world.now();
    world.kill(now, nodes[1], Duration::MAX);
    // Stopped for a while: its daemon may be back.
    world.run_until(s(3 * 3600));
    assert_eq!(unattached(&mut world), 1, "of an instance that lives nothing is touched");
    let now = world.now();
    world.sim().terminate(now, "i-2").unwrap();
    world.run_until(s(5 * 3600));
    assert_eq!(unattached(&mut world), 0, "spec 03 §7.10");
    assert_eq!(world.sim().audit(), []);
}

#[test]
fn a_daemon_told_to_end_attaches_nothing_more_and_leaves_nothing() {
    let switches = Switches { clean_up: false, ..Switches::default() };
    let (mut world, nodes) = world(&["i-1"], switches);
    until_made(&mut world);
    let now = world.now();
    world.terminate(now, nodes[0]);
    world.kill(now + s(8), nodes[0], Duration::MAX);
    world.run_until(now + s(60));
    assert_eq!((unattached(&mut world), world.sim().attached("i-1").count()), (0, 1));
    assert_eq!(world.sim().audit(), []);
}

#[test]
fn a_killed_daemon_leaves_nothing_where_left_overs_are_not_searched_for() {
    for millis in [0, 5, 50, 200, 500, 1000, 2000] {
        let (mut world, nodes) = world(&["i-1"], Switches { clean_up: false, ..Switches::default() });
        until_made(&mut world);
        let at = world.now() + Duration::from_millis(millis);
        world.kill(at, nodes[0], s(1));
        world.run_until(s(3600));
        assert_eq!((world.sim().audit(), unattached(&mut world)), (vec![], 0), "killed {millis} ms after");
    }
}

#[test]
fn what_others_attach_and_detach_is_noticed_within_a_minute() {
    let (mut world, nodes) = world(&["i-1"], Switches::default());
    world.run_until(s(900));
    let pool = |world: &mut World| {
        let snapshot = world.snapshot(nodes[0]).unwrap();
        assert_eq!(snapshot.families, [Family::Ipv4]);
        snapshot.enis.into_iter().map(|eni| eni.id).collect::<Vec<_>>()
    };
    let before = pool(&mut world);
    let eni = world.sim().attach_interface(s(900), &Attach::to("i-1").tag("owner", "another")).unwrap();
    world.run_until(s(960));
    assert!(pool(&mut world).contains(&eni), "spec 01 §8.1");
    let attachment =
        world.sim().eni(&eni).and_then(|e| e.attachment.as_ref()).map(|a| a.id.clone()).unwrap_or_default();
    // The policy may have removed it by then, being more than it keeps.
    let gone = attachment.is_empty();
    if !gone {
        world.run_until(s(1100));
        let now = world.now();
        let _ = world.sim().operate(now, &Op::DetachNetworkInterface { attachment });
        world.run_until(now + s(60));
    }
    assert_eq!(pool(&mut world), before);
}
