//! Where a new interface goes: the host's rule on tags and the component's order.

use std::time::Duration;

use reservoir_core::cloud::{Request, SubnetFacts};
use reservoir_core::policy::{Context, CreateEni, Family, Growth, Node, Pairs, Plan, Standing, Subnet, Unit};
use reservoir_core::subnets::{cluster_match, excluded, standing};
use serde_json::{Value, json};

use super::Answer;
use super::case::Case;
use super::component;
use crate::Outcome;
use crate::world::{Decider, Ec2, Held, SETTLED, World, interface, settings, subnet};

/// Time for one interface.
const STEP: Duration = Duration::from_secs(20);

/// Tags of a subnet; a null value is an empty one.
fn tags(subnet: &Value) -> Pairs {
    let tags = subnet["tags"].as_object().into_iter().flatten();
    let mut pairs: Pairs =
        tags.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
    pairs.sort();
    pairs
}

fn cluster(case: &Case) -> &str {
    case.config.get("CLUSTER_NAME").map_or("", String::as_str)
}

fn compared(case: &Case, got: Value) -> Outcome {
    Outcome::of(&case.expected, got)
}

pub(super) fn eligible(case: &Case) -> Outcome {
    let subnet = &case.state["subnet"];
    let standing = standing(&tags(subnet), subnet["primary"] == true, cluster(case), true);
    compared(case, json!({"eligible": standing == Standing::Eligible}))
}

pub(super) fn cluster_tag_match(case: &Case) -> Outcome {
    compared(case, json!({"match": cluster_match(&tags(&case.state["subnet"]), cluster(case))}))
}

pub(super) fn subnet_excluded(case: &Case) -> Outcome {
    if case.state["describe_error"] == true {
        // Nothing is known of the subnet then.
        let got = json!({"excluded": excluded(None, cluster(case))});
        let reason = "a failing DescribeSubnets counts as not excluded (W10)";
        return Outcome::better(reason, json!({"excluded": false}), got);
    }
    let listed = case.state["subnets"].as_array().into_iter().flatten();
    let found = listed.into_iter().find(|subnet| subnet["id"] == case.state["subnet_id"]).map(tags);
    compared(case, json!({"excluded": excluded(found.as_ref(), cluster(case))}))
}

/// The order of attempts: the component ranks what the host lets it.
pub(super) fn create_eni_subnets(case: &Case) -> Answer {
    let discovery = case.flag("ENABLE_SUBNET_DISCOVERY", true);
    let primary_id = case.state["primary_subnet"].as_str().ok_or("state has no primary_subnet")?;
    let results = case.state["describe_results"].as_array().map_or(&[][..], Vec::as_slice);
    let failures = results.iter().filter(|result| *result == "error").count();
    let listed = failures == 0;
    let mut subnets: Vec<Subnet> = Vec::new();
    for subnet in case.state["subnets"].as_array().into_iter().flatten() {
        let id = subnet["id"].as_str().ok_or("a subnet has no id")?;
        let tags = tags(subnet);
        let standing = standing(&tags, id == primary_id, cluster(case), discovery);
        let free_ips = subnet["available_ip_address_count"].as_u64().and_then(|n| u32::try_from(n).ok());
        subnets.push(place(id, id == primary_id, standing, free_ips, tags));
    }
    // The list of subnets is not known: the node's own is the one to try (W10), unless a later look at it said that it is
    // tagged out.
    if !listed {
        let looked_at = failures < results.len();
        let known = subnets.into_iter().find(|subnet| subnet.primary && looked_at);
        let unknown = || place(primary_id, true, standing(&vec![], true, cluster(case), discovery), None, vec![]);
        subnets = vec![known.unwrap_or_else(unknown)];
    }
    let mut node = case.node(&super::case::PoolState::default());
    // The cases say nothing of address blocks: they have those that the node needs.
    subnets.iter_mut().for_each(|subnet| subnet.ipv6 = case.ipv6());
    node.subnets = subnets;
    let request = CreateEni { card: 0, unit: case.unit(), count: 1 };
    let order = component::rank(&node, &Context::default(), &request)?;

    // Where a second DescribeSubnets fails too, the documentation is right and the reference is not (spec 01 §15, W10).
    let documented = case.doc_expected.as_ref().filter(|_| discovery && failures > 1);
    let expected = documented.unwrap_or(&case.expected);
    let wanted = &expected["attempt_order"];
    let said = if order.is_empty() { said_by_the_manager(case, primary_id)? } else { String::new() };
    let needle = expected["error_contains"].as_str().unwrap_or_default();
    let got = json!(order);
    let outcome = if got == *wanted && said.contains(needle) && (needle.is_empty() == said.is_empty()) {
        match documented {
            Some(_) => Outcome::Better("a list that cannot be had leaves the primary subnet (W10)".to_owned()),
            None => Outcome::Passed,
        }
    } else {
        Outcome::Failed { expected: format!("{wanted} {needle}"), got: format!("{got} {said}") }
    };
    Ok(outcome)
}

/// What the pool manager says when it wants an interface and there is no subnet for it.
fn said_by_the_manager(case: &Case, primary: &str) -> Result<String, Outcome> {
    let listed = case.state["subnets"].as_array().into_iter().flatten();
    let facts = listed.zip(0u8..).map(|(listed, number)| {
        let tags = tags(listed);
        let tags: Vec<(&str, &str)> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        subnet(listed["id"].as_str().unwrap_or_default(), number, &tags)
    });
    let facts: Vec<SubnetFacts> = facts.collect();
    let mut node = interface("eni-p", 0, 0);
    primary.clone_into(&mut node.subnet);
    let mut settings = settings("eni-p");
    primary.clone_into(&mut settings.instance.subnet);
    settings.subnet_discovery = case.flag("ENABLE_SUBNET_DISCOVERY", true);
    cluster(case).clone_into(&mut settings.cluster_name);
    if case.ipv6() {
        (settings.family, settings.unit) = (Family::Ipv6, Unit::Prefix);
    }
    let request = CreateEni { card: 0, unit: settings.unit, count: 1 };
    let slots = settings.limits.slots_per_eni();
    let mut world = World::start(settings, Ec2::of(vec![node], facts, slots), &Held::default());
    world.run(SETTLED)?;
    let plan = move |_: &Node| Plan { grow: vec![Growth::CreateEni(request.clone())], ..Plan::default() };
    world.decide_by(Decider::Once(Box::new(plan)));
    let until = world.at + STEP;
    world.run(until)?;
    let made = world.calls.iter().filter(|(call, _)| matches!(call, Request::CreateNetworkInterface(_))).count();
    let said = world.logs.iter().find_map(|line| line.strip_prefix("more addresses could not be had: "));
    match said {
        Some(said) if made == 0 => Ok(said.to_owned()),
        _ => Err(format!("the manager made {made} interfaces and said {:?}", world.logs).into()),
    }
}

fn place(id: &str, primary: bool, standing: Standing, free_ips: Option<u32>, tags: Pairs) -> Subnet {
    Subnet {
        id: id.to_owned(),
        cidr: String::new(),
        ipv6: false,
        primary,
        standing,
        free_ips,
        seen_seconds: 0,
        ips_refused_seconds: 0,
        prefixes_refused_seconds: 0,
        tags,
    }
}
