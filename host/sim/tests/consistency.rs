//! Eventual consistency, faults, roles and throttles (spec 03 §16.3, §16.4), and what the audit finds (§16.7).

mod common;

use common::{GROUP, NODE, SUBNET, assign, at, attach, call, code, config, create, creation, describe, primary_eni};
use reservoir_core::cloud::{Answer, CloudError, ErrorKind, Request};
use reservoir_core::policy::Unit;
use reservoir_sim::model::audit::Expect;
use reservoir_sim::model::config::{DelaysConfig, InstanceConfig};
use reservoir_sim::model::fault::{Fault, FaultEffect};
use reservoir_sim::model::iam::{Iam, Policy};
use reservoir_sim::model::imds::ImdsMode;
use reservoir_sim::model::operator::Attach;
use reservoir_sim::model::ops::Op;
use reservoir_sim::model::script;
use reservoir_sim::model::skew::Skew;
use reservoir_sim::model::throttle::ThrottleConfig;
use reservoir_sim::{Config, Sim, Violation};

fn with_delays(delays: &str) -> Sim {
    let delays: DelaysConfig = serde_json::from_str(delays).unwrap();
    Sim::new(&Config { delays, ..config("c5.4xlarge", "10.0.32.0/20") }).unwrap()
}

fn shown(s: &mut Sim, now: f64, eni: &str) -> Option<usize> {
    match s.call(at(now), NODE, Request::AttachedInterfaces).1.unwrap() {
        Answer::Attached(list) => list.iter().find(|i| i.eni == eni).map(|i| i.secondary.len()),
        other => panic!("{other:?}"),
    }
}

fn known(s: &mut Sim, now: f64, eni: &str) -> Result<usize, ErrorKind> {
    let answer = s.call(at(now), NODE, Request::DescribeNetworkInterfaces { ids: vec![eni.to_owned()] }).1;
    match answer {
        Ok(Answer::Interfaces(list)) => Ok(list[0].secondary.len()),
        Ok(other) => panic!("{other:?}"),
        Err(CloudError { kind, .. }) => Err(kind),
    }
}

#[test]
fn lists_come_in_part_before_they_come_whole() {
    let mut parts = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let delays: DelaysConfig = serde_json::from_str(r#"{"imds_assign":2,"imds_partial":3}"#).unwrap();
        let mut s = Sim::new(&Config { delays, seed, ..config("c5.4xlarge", "10.0.32.0/20") }).unwrap();
        let eni = primary_eni(&s);
        s.call(at(0.0), NODE, assign(&eni, Unit::Ip, 8)).1.unwrap();
        assert_eq!(shown(&mut s, 1.9, &eni), Some(0));
        parts.extend(shown(&mut s, 2.0, &eni));
        assert_eq!(shown(&mut s, 5.0, &eni), Some(8), "seed {seed}");
    }
    assert!(parts.len() > 2 && parts.iter().any(|&n| (1..8).contains(&n)), "{parts:?}");
}

#[test]
fn delays_between_bounds_never_put_an_old_state_after_a_newer_one() {
    let mut s = with_delays(r#"{"imds_assign":[0,30],"describe_lag":[0,5],"imds_slow_share":0.3,"imds_slow":60}"#);
    let eni = primary_eni(&s);
    for n in 0..20 {
        s.call(at(f64::from(n)), NODE, assign(&eni, Unit::Ip, 1)).1.unwrap();
    }
    let (mut imds, mut ec2) = (0, 0);
    for n in 20..140 {
        let (i, e) = (shown(&mut s, f64::from(n), &eni).unwrap(), known(&mut s, f64::from(n), &eni).unwrap());
        assert!(i >= imds && e >= ec2, "{n}: {imds} -> {i}, {ec2} -> {e}");
        (imds, ec2) = (i, e);
    }
    assert_eq!((imds, ec2), (20, 20));
}

#[test]
fn imds_may_keep_what_is_gone_for_ever() {
    let mut s = with_delays(r#"{"imds_stuck_share":1}"#);
    let eni = create(&mut s, 2, "t").eni;
    call(&mut s, attach(&eni, 1, 0)).unwrap();
    let own = describe(&mut s, &eni).attachment.unwrap();
    call(&mut s, Request::DetachNetworkInterface { attachment: own.id }).unwrap();
    call(&mut s, Request::DeleteNetworkInterface { eni: eni.clone() }).unwrap();
    assert_eq!(shown(&mut s, 1e6, &eni), Some(2));
    assert_eq!(known(&mut s, 1e6, &eni), Err(ErrorKind::NotFound));
    s.unskew(&eni);
    assert_eq!(shown(&mut s, 1e6, &eni), None);
}

#[test]
fn either_source_can_be_made_to_lie() {
    let mut s = with_delays(r#"{}"#);
    let eni = create(&mut s, 1, "t").eni;
    assert!(s.skew(&eni, Skew::ImdsHidden).is_err(), "not attached");
    call(&mut s, attach(&eni, 1, 0)).unwrap();
    s.skew(&eni, Skew::ImdsHidden).unwrap();
    call(&mut s, assign(&eni, Unit::Ip, 2)).unwrap();
    assert_eq!((shown(&mut s, 0.0, &eni), known(&mut s, 0.0, &eni)), (None, Ok(3)));
    s.unskew(&eni);
    assert_eq!(shown(&mut s, 0.0, &eni), Some(3));
    s.skew(&eni, Skew::DescribeHidden).unwrap();
    assert_eq!((shown(&mut s, 0.0, &eni), known(&mut s, 0.0, &eni)), (Some(3), Err(ErrorKind::NotFound)));
    s.unskew(&eni);
    s.skew(&eni, Skew::DescribeStuck).unwrap();
    s.skew(&eni, Skew::ImdsStuck).unwrap();
    call(&mut s, assign(&eni, Unit::Ip, 2)).unwrap();
    assert_eq!((shown(&mut s, 0.0, &eni), known(&mut s, 0.0, &eni)), (Some(3), Ok(3)));
    s.unskew(&eni);
    assert_eq!((shown(&mut s, 0.0, &eni), known(&mut s, 0.0, &eni)), (Some(5), Ok(5)));
}

#[test]
fn security_groups_reach_imds_late() {
    let mut s = with_delays(r#"{"imds_groups":12}"#);
    let facts = s.identity(NODE).unwrap().facts;
    let groups = vec!["sg-0f2a3b4c5d6e7f809".to_owned()];
    let op =
        Op::ModifyNetworkInterfaceAttribute { eni: facts.primary_eni, attachment: None, groups: Some(groups.clone()) };
    s.operate(at(1.0), &op).unwrap();
    let mut seen = |now| s.call(at(now), NODE, Request::PrimarySecurityGroups { mac: facts.mac.clone() }).1.unwrap();
    assert_eq!(seen(12.9), Answer::SecurityGroups(vec![GROUP.into()]));
    assert_eq!(seen(13.0), Answer::SecurityGroups(groups));
}

#[test]
fn a_deleted_interface_lingers_in_a_lagging_describe() {
    let mut s = with_delays(r#"{"describe_lag":4}"#);
    let eni = create(&mut s, 1, "t").eni;
    assert_eq!(known(&mut s, 3.9, &eni), Err(ErrorKind::NotFound));
    assert_eq!(known(&mut s, 4.0, &eni), Ok(1));
    call(&mut s, Request::DeleteNetworkInterface { eni: eni.clone() }).unwrap();
    assert_eq!(known(&mut s, 7.9, &eni), Ok(1));
    assert_eq!(known(&mut s, 8.0, &eni), Err(ErrorKind::NotFound));
    let left = call(&mut s, Request::DescribeDetachedInterfaces { instance: NODE.into() });
    assert_eq!(left, Ok(Answer::Interfaces(vec![])));
}

#[test]
fn a_script_of_faults() {
    let mut s = with_delays(r#"{"no_answer":7}"#);
    let script = "
        # the third and fourth, and then all that come from another node
        at calls 3 to 4 of AssignPrivateIpAddresses: RequestLimitExceeded
        every call of AssignPrivateIpAddresses on i-other: UnauthorizedOperation
        at call 1 of CreateNetworkInterface: InternalError after the effect
        at call 2 of CreateNetworkInterface: reset
        at call 3 of CreateNetworkInterface: cut
        at call 1 of GetAttachedENIs: 503
    ";
    script::parse(script).unwrap().into_iter().for_each(|f| s.inject(f));
    let eni = primary_eni(&s);
    let kinds: Vec<_> = (0..5).map(|_| call(&mut s, assign(&eni, Unit::Ip, 1)).err().map(|e| e.kind)).collect();
    let throttled = Some(ErrorKind::Throttled);
    assert_eq!(kinds, [None, None, throttled, throttled, None]);
    assert_eq!(s.call(at(0.0), "i-other", assign(&eni, Unit::Ip, 1)).1.unwrap_err().kind, ErrorKind::Unauthorized);
    let request = |token: &str| Request::CreateNetworkInterface(creation(0, token));
    assert_eq!(call(&mut s, request("a")).unwrap_err().kind, ErrorKind::Unknown);
    assert_eq!(s.enis().count(), 2, "it was made all the same");
    let (due, reset) = s.call(at(0.0), NODE, request("b"));
    assert_eq!((due, reset.unwrap_err().kind, s.enis().count()), (at(0.0), ErrorKind::Unknown, 2));
    assert_eq!(call(&mut s, request("c")).unwrap_err().kind, ErrorKind::Unknown);
    assert_eq!(s.enis().count(), 3);
    call(&mut s, request("a")).unwrap();
    assert_eq!(s.enis().count(), 3, "the token finds what was made");
    assert!(call(&mut s, Request::AttachedInterfaces).is_err());
    call(&mut s, Request::AttachedInterfaces).unwrap();
    let errors = &s.journal().counts()["CreateNetworkInterface"].errors;
    assert_eq!(errors.keys().map(String::as_str).collect::<Vec<_>>(), ["InternalError", "cut", "no answer"]);
}

#[test]
fn a_role_that_may_not() {
    let mut s = Sim::new(&config("c5.large", "10.0.32.0/20")).unwrap();
    let eni = primary_eni(&s);
    s.set_iam(Iam { policy: Policy::Ipv6, ..Iam::default() });
    let refused = call(&mut s, assign(&eni, Unit::Ip, 1)).unwrap_err();
    assert_eq!((refused.kind, refused.code.as_str()), (ErrorKind::Unauthorized, "UnauthorizedOperation"));
    let groups = Request::SetSecurityGroups { eni: eni.clone(), groups: vec![GROUP.into()] };
    assert_eq!(code(&mut s, groups), "UnauthorizedOperation", "spec 03 §14.2");
    let denied = ["DescribeSubnets".to_owned()].into();
    s.set_iam(Iam { policy: Policy::Ipv4, denied });
    let subnets =
        Request::DescribeSubnets { vpc: "vpc-0b6c1d2e3f4a59687".into(), availability_zone: "us-west-2a".into() };
    assert_eq!(code(&mut s, subnets), "UnauthorizedOperation");
    call(&mut s, assign(&eni, Unit::Ip, 1)).unwrap();
    let tag = |resource: &str, value: &str| Request::CreateTags {
        resource: resource.to_owned(),
        tags: vec![("cluster.k8s.amazonaws.com/name".into(), value.into())],
    };
    assert_eq!(code(&mut s, tag(SUBNET, "demo")), "UnauthorizedOperation", "interfaces only");
    s.tag(at(0.0), SUBNET, &[("a", "b")]).expect("the operator may");

    // Scoped to a cluster: with its tag, or not at all (spec 03 §14.2).
    s.set_iam(Iam { policy: Policy::Cluster("demo".into()), ..Iam::default() });
    assert_eq!(code(&mut s, Request::CreateNetworkInterface(creation(0, "t"))), "UnauthorizedOperation");
    assert_eq!(code(&mut s, assign(&eni, Unit::Ip, 1)), "UnauthorizedOperation");
    s.tag(at(0.0), &eni, &[("cluster.k8s.amazonaws.com/name", "demo")]).unwrap();
    call(&mut s, assign(&eni, Unit::Ip, 1)).unwrap();
    let mut ours = creation(0, "u");
    ours.tags.push(("cluster.k8s.amazonaws.com/name".into(), "demo".into()));
    let Answer::Interfaces(made) = call(&mut s, Request::CreateNetworkInterface(ours)).unwrap() else { panic!() };
    assert_eq!(code(&mut s, attach(&made[0].eni, 1, 0)), "UnauthorizedOperation", "the instance is not the cluster's");
    s.tag(at(0.0), NODE, &[("kubernetes.io/cluster/demo", "owned")]).unwrap();
    call(&mut s, attach(&made[0].eni, 1, 0)).unwrap();
}

#[test]
fn a_throttle_is_turned_on_and_off() {
    let mut s = Sim::new(&config("c5.4xlarge", "10.0.32.0/20")).unwrap();
    let subnets =
        || Request::DescribeSubnets { vpc: "vpc-0b6c1d2e3f4a59687".into(), availability_zone: "us-west-2a".into() };
    let admitted = |s: &mut Sim| (0..300).take_while(|_| call(s, subnets()).is_ok()).count();
    assert_eq!(admitted(&mut s), 300);
    s.set_throttle(ThrottleConfig::Published);
    assert_eq!(admitted(&mut s), 100);
    s.set_throttle(ThrottleConfig::Off);
    assert_eq!(admitted(&mut s), 300);
}

#[test]
fn several_unknown_interfaces_in_one_message() {
    let ids = || Request::DescribeNetworkInterfaces { ids: vec!["eni-1".into(), "eni-2".into()] };
    let mut s = Sim::new(&Config { lists_unknown_ids: true, ..Config::default() }).unwrap();
    let error = call(&mut s, ids()).unwrap_err();
    assert_eq!(error.message, "The networkInterface IDs 'eni-1, eni-2' do not exist");
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[test]
fn a_metadata_service_that_is_off() {
    let mut s = Sim::new(&Config::default()).unwrap();
    for mode in [ImdsMode::Disabled, ImdsMode::Far] {
        s.set_imds_mode(NODE, mode).unwrap();
        assert!(call(&mut s, Request::Instance).is_err());
    }
    s.set_imds_mode(NODE, ImdsMode::V1).unwrap();
    call(&mut s, Request::Instance).unwrap();
    assert!(s.set_imds_mode("i-none", ImdsMode::V1).is_err());
}

#[test]
fn the_audit_holds_a_node_to_its_mode_tags_and_budget() {
    let mut config = config("c5.large", "10.0.32.0/20");
    config.instances.push(InstanceConfig::new("i-2", "c5.large", SUBNET));
    config.instances[1].expect = Expect { calls_per_hour: Some(3), ..Expect::default() };
    let mut s = Sim::new(&config).unwrap();
    let eni = primary_eni(&s);
    let names = |s: &Sim| s.audit().iter().map(Violation::name).collect::<Vec<_>>();
    s.expect(NODE, Expect { read_only: true, ..Expect::default() }).unwrap();
    describe(&mut s, &eni);
    assert_eq!(names(&s), [""; 0]);
    call(&mut s, assign(&eni, Unit::Ip, 1)).unwrap();
    call(&mut s, assign(&eni, Unit::Ip, 1)).unwrap();
    assert_eq!(names(&s), ["forbidden_call"], "named once");
    s.expect(NODE, Expect { no_ec2: true, ..Expect::default() }).unwrap();
    describe(&mut s, &eni);
    let forbidden = Violation::ForbiddenCall { instance: NODE.into(), action: "DescribeNetworkInterfaces" };
    assert!(s.audit().contains(&forbidden));

    let mut tags = std::collections::BTreeMap::new();
    tags.insert("cluster.k8s.amazonaws.com/name".to_owned(), "demo".to_owned());
    s.expect(NODE, Expect { tags, ..Expect::default() }).unwrap();
    let made = create(&mut s, 0, "t").eni;
    let wrong = Violation::WrongTag { eni: made.clone(), tag: "cluster.k8s.amazonaws.com/name".into() };
    assert!(s.audit().contains(&wrong));

    let hour = |s: &mut Sim, n: u32, calls: u32| {
        for _ in 0..calls {
            let ids = vec![primary_eni(s)];
            s.call(at(f64::from(n) * 3600.0 + 1.0), "i-2", Request::DescribeNetworkInterfaces { ids }).1.unwrap();
        }
    };
    hour(&mut s, 0, 3);
    hour(&mut s, 1, 5);
    let over = s.audit().into_iter().filter(|v| v.name() == "over_budget").collect::<Vec<_>>();
    assert_eq!(over, [Violation::OverBudget { instance: "i-2".into(), hour: 1, calls: 5, budget: 3 }]);
    assert_eq!(s.journal().node("i-2").map(|n| (n.calls, n.mutating)), Some((8, 0)));
    assert_eq!(s.journal().records_of("i-2").count(), 8);
    assert!(s.audit().iter().any(|v| matches!(v, Violation::Leaked { eni, .. } if *eni == made)));
}

#[test]
fn the_audit_knows_whose_an_interface_is() {
    let mut s = Sim::new(&config("c5.4xlarge", "10.0.32.0/20")).unwrap();
    let tag = |eni: &str| Request::CreateTags { resource: eni.into(), tags: vec![("k".into(), "v".into())] };
    let now = s.now();
    let untagged = s.attach_interface(now, &Attach::to(NODE)).unwrap();
    let forced = Attach::to(NODE).tag("node.k8s.amazonaws.com/no_manage", "false");
    let forced = s.attach_interface(now, &forced).unwrap();
    let trunk = s.attach_trunk(now, NODE).unwrap();
    call(&mut s, tag(&untagged)).unwrap();
    call(&mut s, Request::SetSecurityGroups { eni: trunk.clone(), groups: vec![GROUP.into()] }).unwrap();
    assert_eq!(s.audit(), [], "untagged ones are managed by default, and a trunk has the node's groups");
    s.expect(NODE, Expect { only_tagged: true, ..Expect::default() }).unwrap();
    call(&mut s, tag(&forced)).unwrap();
    let eni = primary_eni(&s);
    call(&mut s, tag(&eni)).unwrap();
    assert_eq!(s.audit(), []);
    call(&mut s, tag(&untagged)).unwrap();
    call(&mut s, tag(&trunk)).unwrap();
    let mut found: Vec<_> = s
        .audit()
        .into_iter()
        .map(|v| match v {
            Violation::UnmanagedChanged { eni, action: "CreateTags" } => eni,
            other => panic!("{other}"),
        })
        .collect();
    let mut expected = [untagged, trunk];
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_day_with_everything_against_it_ends_consistent() {
    let config: Config = Config {
        delays: DelaysConfig::Profile("eventual".into()),
        throttle: ThrottleConfig::Published,
        flaky: 0.02,
        ..config("c5.4xlarge", "10.0.32.0/20")
    };
    let mut s = Sim::new(&config).unwrap();
    s.inject(Fault::new("AssignPrivateIpAddresses", FaultEffect::NoAnswer).times(0).share(0.1));
    let eni = primary_eni(&s);
    for n in 0..500 {
        let now = at(f64::from(n) * 20.0);
        let _ = s.call(now, NODE, assign(&eni, Unit::Ip, 1));
        let held = s.eni(&eni).unwrap().secondary.clone();
        if held.len() > 10 {
            let some = held[..5].to_vec();
            let request = Request::UnassignPrivateIpAddresses { eni: eni.clone(), addresses: some, prefixes: vec![] };
            let _ = s.call(now, NODE, request);
        }
    }
    let truth = s.eni(&eni).unwrap().secondary.len();
    assert_eq!((shown(&mut s, 20_000.0, &eni), known(&mut s, 20_000.0, &eni)), (Some(truth), Ok(truth)));
    assert_eq!(s.audit(), []);
}
