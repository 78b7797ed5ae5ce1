//! Short words for calls in process.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::time::Duration;

use reservoir_core::cloud::{Answer, CloudError, CreateInterface, Interface, Request};
use reservoir_core::policy::Unit;
use reservoir_sim::{Config, Sim};

pub const NODE: &str = "i-0c3f1a9d27b6e4851";
pub const SUBNET: &str = "subnet-0a7c5e3b1d9f82464";
pub const GROUP: &str = "sg-0d4e1f6a7b8c9d0e1";
pub const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";

pub fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

pub fn config(kind: &str, cidr: &str) -> Config {
    let mut config = Config::default();
    config.instances[0].instance_type = kind.to_owned();
    config.subnets[0].cidr = cidr.parse().unwrap();
    config
}

/// The same with a /64.
pub fn dual(kind: &str) -> Config {
    let mut config = config(kind, "10.0.32.0/20");
    config.vpc.ipv6_cidrs = vec!["2600:1f14:abc:d00::/56".parse().unwrap()];
    config.subnets[0].ipv6_cidr = Some("2600:1f14:abc:d00::/64".parse().unwrap());
    config
}

pub fn creation(count: u32, token: &str) -> CreateInterface {
    CreateInterface {
        subnet: SUBNET.to_owned(),
        description: format!("aws-K8S-{NODE}"),
        security_groups: vec![GROUP.to_owned()],
        tags: vec![(INSTANCE_TAG.to_owned(), NODE.to_owned())],
        unit: Unit::Ip,
        count,
        ipv6_addresses: 0,
        connection_tracking: None,
        client_token: token.to_owned(),
    }
}

/// A call of the node, now.
pub fn call(sim: &mut Sim, request: Request) -> Result<Answer, CloudError> {
    let now = sim.now();
    sim.call(now, NODE, request).1
}

pub fn code(sim: &mut Sim, request: Request) -> String {
    call(sim, request.clone()).expect_err(&format!("{request:?}")).code
}

pub fn create(sim: &mut Sim, count: u32, token: &str) -> Interface {
    one(call(sim, Request::CreateNetworkInterface(creation(count, token))))
}

pub fn describe(sim: &mut Sim, eni: &str) -> Interface {
    one(call(sim, Request::DescribeNetworkInterfaces { ids: vec![eni.to_owned()] }))
}

fn one(answer: Result<Answer, CloudError>) -> Interface {
    match answer.unwrap() {
        Answer::Interfaces(mut list) if list.len() == 1 => list.remove(0),
        other => panic!("{other:?}"),
    }
}

pub fn attach(eni: &str, device_index: u32, card: u32) -> Request {
    Request::AttachNetworkInterface { eni: eni.to_owned(), instance: NODE.to_owned(), device_index, card }
}

pub fn assign(eni: &str, unit: Unit, count: u32) -> Request {
    Request::AssignPrivateIpAddresses { eni: eni.to_owned(), unit, count }
}

pub fn primary_eni(sim: &Sim) -> String {
    sim.identity(NODE).unwrap().facts.primary_eni
}
