//! `/sim/…`: what tests and the demo look at and turn.
//!
//! | Request | Meaning |
//! |---|---|
//! | `GET state` | instances, interfaces, subnets, call counters |
//! | `GET log[?after=N][&instance=i-…]` | EC2 calls with parameters, those numbered above N |
//! | `GET audit` | what should not be; `[]` is good |
//! | `POST audit` | the same, with the pods' addresses: `{"instance": "i-…", "pods": ["10.0.…"]}` |
//! | `GET faults`, `POST faults`, `DELETE faults` | scripted faults: list, add (one, a list, or lines of text), remove all |
//! | `POST do` | what somebody else in the account does, below |
//!
//! | `POST do` | Meaning |
//! |---|---|
//! | `{"terminate": "i-…"}` | the instance ends |
//! | `{"launch": {"id": "i-…", "type": "c5.large", "subnet": "subnet-…"}}` | another instance, as in the configuration |
//! | `{"attach_trunk": "i-…"}` | a trunk interface at the highest free index |
//! | `{"attach_interface": {"instance": "i-…", "type": "efa", "card": 1, "tags": {}, …}}` | any other interface |
//! | `{"operate": "Action=AssignPrivateIpAddresses&…"}` | any EC2 call, by somebody else than a node |
//! | `{"tag": {"resource": "…", "tags": {"…": "…"}}}`, `{"untag": {"resource": "…", "keys": ["…"]}}` | tags of an interface or subnet |
//! | `{"occupy": {"subnet": "…", "count": 9}}` | others take single addresses |
//! | `{"fragment": {"subnet": "…", "leave": 0}}` | others take one address of every free /28 but so many |
//! | `{"vacate": "subnet-…"}` | others give theirs back |
//! | `{"authorize": {"group": "sg-…", "direction": "ingress", "rule": {"protocol": "tcp", "ports": [80, 90], "peer": "10.0.0.0/16"}}}`, `{"revoke": …}` | a rule of a security group, for `ingress` or `egress`; without `protocol` all, without `ports` all of them; `peer` may be a group |
//! | `{"add_subnet": {"id": "…", "cidr": "…"}}` | another subnet, as in the configuration |
//! | `{"set_vpc_cidrs": ["…"]}`, `{"set_vpc_ipv6_cidrs": ["…"]}` | the VPC's blocks as IMDS tells them |
//! | `{"set_quota": 100}` | interfaces that the account may have |
//! | `{"skew": {"eni": "eni-…", "how": "imds_stuck"}}`, `{"unskew": "eni-…"}` | IMDS or describe does not follow (imds_stuck, imds_hidden, describe_stuck, describe_hidden) |
//! | `{"throttle": "published"}`, `{"flaky": 0.05}`, `{"delays": "eventual"}`, `{"iam": {"denied": ["CreateTags"]}}` | as in the configuration, from now on |
//! | `{"imds": {"instance": "i-…", "mode": "v1"}}` | how the instance's metadata service answers (v2, v1, disabled, far) |
//! | `{"expect": {"instance": "i-…", "expect": {"read_only": true}}}` | what the audit holds the instance to |

use std::collections::BTreeMap;
use std::net::IpAddr;

use hyper::{Method, StatusCode};
use reservoir_core::ip::{IpNet, Ipv4Net};
use serde::Deserialize;
use serde_json::{Value, json};

use super::form::Form;
use super::server::{Body, Simulation, text};
use super::{ec2, render};
use crate::model::audit::Expect;
use crate::model::config::{DelaysConfig, InstanceConfig, SubnetConfig};
use crate::model::fault::Fault;
use crate::model::groups::{Direction, GroupRule};
use crate::model::iam::Iam;
use crate::model::imds::ImdsMode;
use crate::model::journal::Record;
use crate::model::operator::Attach;
use crate::model::refusal::Refusal;
use crate::model::script;
use crate::model::sim::Sim;
use crate::model::skew::Skew;
use crate::model::throttle::ThrottleConfig;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Deed {
    Terminate(String),
    Launch(InstanceConfig),
    AttachTrunk(String),
    AttachInterface(Attach),
    Operate(String),
    Tag { resource: String, tags: BTreeMap<String, String> },
    Untag { resource: String, keys: Vec<String> },
    Occupy { subnet: String, count: u32 },
    Fragment { subnet: String, leave: u32 },
    Vacate(String),
    AddSubnet(SubnetConfig),
    SetVpcCidrs(Vec<Ipv4Net>),
    SetVpcIpv6Cidrs(Vec<IpNet>),
    SetQuota(u32),
    Authorize(Permission),
    Revoke(Permission),
    Skew { eni: String, how: Skew },
    Unskew(String),
    Throttle(ThrottleConfig),
    Flaky(f64),
    Delays(DelaysConfig),
    Iam(Iam),
    Imds { instance: String, mode: ImdsMode },
    Expect { instance: String, expect: Expect },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Permission {
    group: String,
    direction: Direction,
    rule: GroupRule,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pods {
    instance: String,
    pods: Vec<IpAddr>,
}

pub fn answer(simulation: &Simulation, method: &Method, what: &str, query: Option<&str>, body: &str) -> Body {
    let result = match (method, what) {
        (&Method::GET, "state") => Ok(simulation.with(|sim, _| state(sim))),
        (&Method::GET, "log") => {
            let mut form = query.and_then(Form::parse).unwrap_or_default();
            let after: u64 = form.parsed("after").ok().flatten().unwrap_or(0);
            let instance = form.take("instance");
            let wanted = |r: &&Record| r.number > after && instance.as_ref().is_none_or(|i| r.instance == *i);
            Ok(simulation.with(|sim, _| json!(sim.journal().records().filter(wanted).collect::<Vec<_>>())))
        }
        (&Method::GET, "audit") => Ok(simulation.with(|sim, _| json!(sim.audit()))),
        (&Method::GET, "faults") => Ok(simulation.with(|sim, _| json!(sim.faults().collect::<Vec<_>>()))),
        (&Method::POST, "audit") => serde_json::from_str(body)
            .map_err(|e| e.to_string())
            .map(|pods: Pods| simulation.with(|sim, _| json!(sim.audit_pods(&pods.instance, pods.pods)))),
        (&Method::POST, "faults") => faults(body).map(|faults| {
            simulation.with(|sim, _| faults.into_iter().for_each(|f| sim.inject(f)));
            json!({"ok": true})
        }),
        (&Method::DELETE, "faults") => {
            simulation.with(|sim, _| sim.clear_faults());
            Ok(json!({"ok": true}))
        }
        (&Method::POST, "do") => {
            serde_json::from_str(body).map_err(|e| e.to_string()).and_then(|d| perform(simulation, d))
        }
        _ => {
            let message = format!(
                "{method} /sim/{what}: there are GET state, log, audit, faults; POST audit, faults, do; DELETE faults"
            );
            return json_answer(StatusCode::NOT_FOUND, &json!({"error": message}));
        }
    };
    match result {
        Ok(value) => json_answer(StatusCode::OK, &value),
        Err(error) => json_answer(StatusCode::BAD_REQUEST, &json!({"error": error})),
    }
}

/// One fault or a list of them as JSON, or lines of text.
fn faults(body: &str) -> Result<Vec<Fault>, String> {
    let body = body.trim();
    match body.chars().next() {
        Some('{') => serde_json::from_str(body).map(|fault| vec![fault]).map_err(|e| e.to_string()),
        Some('[') => serde_json::from_str(body).map_err(|e| e.to_string()),
        _ => script::parse(body).map_err(|e| e.to_string()),
    }
}

fn perform(simulation: &Simulation, deed: Deed) -> Result<Value, String> {
    let done = || json!({"ok": true});
    let refused = |refusal: Refusal| format!("{}: {}", refusal.code, refusal.message);
    simulation.with(|sim, now| match deed {
        Deed::Terminate(instance) => sim.terminate(now, &instance).map(|()| done()).map_err(refused),
        Deed::Launch(instance) => sim.launch(now, &instance).map(|()| done()).map_err(|e| e.to_string()),
        Deed::AttachTrunk(instance) => sim.attach_trunk(now, &instance).map(|eni| json!({"eni": eni})).map_err(refused),
        Deed::AttachInterface(attach) => {
            sim.attach_interface(now, &attach).map(|eni| json!({"eni": eni})).map_err(refused)
        }
        Deed::Operate(form) => {
            let op = ec2::parse(&format!("Version={}&{form}", ec2::VERSION)).map_err(refused)?;
            let api = op.api();
            let reply = sim.operate(now, &op).map_err(refused)?;
            Ok(json!({"answer": render::reply(api, &reply, sim.account(), "operator")}))
        }
        Deed::Tag { resource, tags } => {
            let tags: Vec<_> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            sim.tag(now, &resource, &tags).map(|()| done()).map_err(refused)
        }
        Deed::Untag { resource, keys } => sim.untag(now, &resource, &keys).map(|()| done()).map_err(refused),
        Deed::Occupy { subnet, count } => sim.occupy(&subnet, count).map(|()| done()).map_err(refused),
        Deed::Fragment { subnet, leave } => sim.fragment(&subnet, leave).map(|()| done()).map_err(refused),
        Deed::Vacate(subnet) => sim.vacate(&subnet).map(|()| done()).map_err(refused),
        Deed::AddSubnet(subnet) => sim.add_subnet(&subnet).map(|()| done()).map_err(|e| e.to_string()),
        Deed::SetVpcCidrs(cidrs) => {
            sim.set_vpc_cidrs(cidrs);
            Ok(done())
        }
        Deed::SetVpcIpv6Cidrs(cidrs) => {
            sim.set_vpc_ipv6_cidrs(cidrs);
            Ok(done())
        }
        Deed::SetQuota(interfaces) => {
            sim.set_quota(interfaces);
            Ok(done())
        }
        Deed::Authorize(p) => sim.authorize(&p.group, p.direction, &p.rule).map(|()| done()).map_err(refused),
        Deed::Revoke(p) => sim.revoke(&p.group, p.direction, &p.rule).map(|()| done()).map_err(refused),
        Deed::Skew { eni, how } => sim.skew(&eni, how).map(|()| done()).map_err(refused),
        Deed::Unskew(eni) => {
            sim.unskew(&eni);
            Ok(done())
        }
        Deed::Throttle(config) => {
            config.check().map_err(|e| e.to_string())?;
            sim.set_throttle(config);
            Ok(done())
        }
        Deed::Flaky(share) => {
            sim.set_flaky(share);
            Ok(done())
        }
        Deed::Delays(delays) => sim.set_delays(&delays).map(|()| done()),
        Deed::Iam(iam) => {
            sim.set_iam(iam);
            Ok(done())
        }
        Deed::Imds { instance, mode } => sim.set_imds_mode(&instance, mode).map(|()| done()).map_err(refused),
        Deed::Expect { instance, expect } => sim.expect(&instance, expect).map(|()| done()).map_err(refused),
    })
}

fn state(sim: &Sim) -> Value {
    let enis: Vec<Value> = sim
        .enis()
        .map(|e| {
            json!({
                "id": e.id, "mac": e.mac, "subnet": e.subnet, "status": e.status(), "type": e.interface_type,
                "description": e.description, "groups": e.groups, "tags": e.tags,
                "primary": e.primary, "secondary": e.secondary, "prefixes": e.prefixes, "ipv6": e.ipv6, "ipv6_prefixes": e.ipv6_prefixes,
                "attachment": e.attachment.as_ref().map(|a| json!({
                    "id": a.id, "instance": a.instance, "device_index": a.device_index, "card": a.card,
                    "status": a.status.as_str(), "delete_on_termination": a.delete_on_termination,
                })),
            })
        })
        .collect();
    let subnets: Vec<Value> =
        sim.subnets().map(|(id, cidr, free)| json!({"id": id, "cidr": cidr, "free": free})).collect();
    json!({
        "now_seconds": sim.now().as_secs_f64(),
        "instances": sim.instances().collect::<Vec<_>>(),
        "enis": enis,
        "subnets": subnets,
        "calls": sim.journal().counts(),
        "calls_by_instance": sim.journal().by_instance().iter().map(|(k, n)| (k, n.calls)).collect::<BTreeMap<_, _>>(),
        "nodes": sim.journal().by_instance(),
    })
}

fn json_answer(status: StatusCode, value: &Value) -> Body {
    text(status, "application/json", value.to_string())
}
