//! When the node may be called ready (spec 01 §2.5).

use super::*;

fn world(settings: Settings, free: u32) -> World {
    let mut ec2 = Ec2 { free, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    World::with(settings, ec2, 2, Journal::default())
}

#[test]
fn a_node_is_ready_when_its_first_addresses_are_there() {
    let mut w = world(settings(), 50);
    assert_eq!(w.m.readiness(), Err("the first addresses are on their way".to_owned()));
    w.run(2);
    assert_eq!(w.m.readiness(), Ok(()));
    w.warm = 0;
    w.release_all = true;
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.run(200);
    assert_eq!(w.m.cards().stats(w.at).total, 0);
    assert_eq!(w.m.readiness(), Ok(()), "once ready it stays so");
}

#[test]
fn a_refused_assignment_keeps_it_unready_and_a_full_subnet_does_not() {
    let mut w = world(settings(), 50);
    w.ec2.faults = [("AssignPrivateIpAddresses", ErrorKind::Unauthorized); 2].into();
    w.run(3);
    let why = w.m.readiness().unwrap_err();
    assert!(why.contains("Unauthorized"), "the reason is told: {why}");
    w.run(60);
    assert_eq!(w.m.readiness(), Ok(()), "tried again");
    let mut w = world(settings(), 0);
    w.run(3);
    assert_eq!(w.m.readiness(), Ok(()), "exhaustion is no error of the start");
    let mut w = world(Settings { provisioning: false, ..settings() }, 50);
    w.run(1);
    assert_eq!(w.m.readiness(), Ok(()), "nothing is tried");
}

#[test]
fn under_custom_networking_nothing_attached_is_not_ready() {
    let mut w = world(Settings { custom_networking: true, ..settings() }, 50);
    w.run(30);
    let why = w.m.readiness().unwrap_err();
    assert!(why.contains("eniconfig is not available"), "{why}");
    let config = EniConfig { name: "a".to_owned(), subnet: "subnet-1".to_owned(), ..EniConfig::default() };
    w.eni_config = Ok(config);
    w.run(300);
    assert_eq!(w.m.readiness(), Ok(()));
}

#[test]
fn a_restart_with_pods_is_ready_before_ec2_has_said_a_word() {
    let mut ec2 = Ec2::default();
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [Ipv4Addr::new(10, 0, 8, 1)].into()));
    let mut m = Manager::new(settings());
    let now = Now { mono: Duration::ZERO, unix: Duration::from_secs(1_000_000_000) };
    m.boot(now, &ec2.attached(), Journal::default());
    assert_eq!(m.readiness(), Ok(()));
}
