//! `reconcile`, `reconcile_cooldown`: the stores against IMDS and EC2, by the pool manager. IMDS is looked at, and EC2 is
//! asked where it differs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use reservoir_core::cloud::{Interface, Request};
use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::policy::{Node, Plan};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::case::Case;
use super::increase::settings_of;
use crate::Outcome;
use crate::world::{Decider, Ec2, Held, LOOK, SUBNET, World, attached, interface, subnet};

/// One interface in the words of the vectors.
#[derive(Debug, Clone, Deserialize)]
struct Listed {
    id: String,
    primary_ip: Ipv4Addr,
    #[serde(default)]
    ips: Vec<Ipv4Addr>,
    #[serde(default)]
    prefixes: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct State {
    store: Vec<Listed>,
    imds: Vec<Listed>,
    /// Per interface the list of addresses or prefixes, or the word `error`.
    ec2: Option<BTreeMap<String, Value>>,
}

pub(super) fn run(case: &Case) -> Answer {
    let state = State::deserialize(&case.state)?;
    let freed: Vec<(IpNet, u32)> = freed(case)?;
    // A node whose store is empty has just started.
    let fresh = state.store.is_empty();
    let before = if fresh { &state.imds } else { &state.store };
    let primary = before.first().ok_or("neither store nor imds has an interface")?.id.clone();
    let mut start = before.iter().enumerate().map(listed).collect::<Result<Vec<_>, _>>()?;
    if !fresh && let Some(first) = start.first_mut() {
        first.secondary.extend(freed.iter().filter(|(net, _)| net.is_host()).filter_map(|(net, _)| v4(*net)));
        first.prefixes.extend(freed.iter().filter(|(net, _)| !net.is_host()).filter_map(|(net, _)| net.as_ipv4()));
    }
    let ec2 = Ec2::of(start, vec![subnet(SUBNET, 1, &[])], 14);
    let mut world = World::start(settings_of(case, &primary), ec2, &Held::default());
    if !fresh {
        for (net, seconds) in freed {
            // EC2 takes it back a moment later, so that the look comes within the last second.
            world.run(LOOK.saturating_sub(Duration::from_secs(seconds.max(1).into())))?;
            let place = world.manager.cards().cidrs(&primary, world.at).position(|cidr| cidr.net == net);
            let place = place.ok_or("recently_freed names a block twice")?;
            world.decide_by(Decider::Once(Box::new(move |node| release(node, place))));
        }
        world.run(LOOK.saturating_sub(Duration::from_millis(1)))?;
        world.calls.clear();
        world.set_up.clear();
        show(&mut world.ec2, &state)?;
    }
    world.run(LOOK + Duration::from_secs(2))?;

    let calls: Vec<&str> = case.expected["calls"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let asks = calls.iter().any(|call| call.starts_with("describe_"));
    let sets_up: Vec<&str> = calls.iter().filter_map(|call| call.strip_prefix("setup_eni_network ")).collect();
    let asked = world.calls.iter().any(|(request, _)| is_view(request));
    let wanted = json!({"enis": case.expected["enis"], "total_ips": case.expected["total_ips"], "ec2_asked": asks,
        "set_up": sets_up});
    let got = |asked: bool| json!({"enis": world.enis(), "total_ips": world.total(), "ec2_asked": asked, "set_up": world.set_up});
    if asked && !asks && state.lacks() {
        let reason = "EC2 is asked before what IMDS does not show is dropped: no one source is believed";
        return Ok(Outcome::better(reason, wanted, got(false)));
    }
    Ok(Outcome::of(wanted, got(asked)))
}

impl State {
    /// IMDS does not show all that the store has.
    fn lacks(&self) -> bool {
        self.store.iter().any(|held| match self.imds.iter().find(|shown| shown.id == held.id) {
            None => true,
            Some(shown) => {
                held.ips.iter().any(|ip| !shown.ips.contains(ip))
                    || held.prefixes.iter().any(|net| !shown.prefixes.contains(net))
            }
        })
    }
}

/// The calls that tell EC2's view of the interfaces.
fn is_view(request: &Request) -> bool {
    matches!(request, Request::DescribeInstance { .. } | Request::DescribeNetworkInterfaces { .. })
}

fn v4(net: IpNet) -> Option<Ipv4Addr> {
    net.as_ipv4().map(Ipv4Net::network)
}

fn listed((device, listed): (usize, &Listed)) -> Result<Interface, Outcome> {
    let prefixes = listed.prefixes.iter().map(|net| net.parse::<Ipv4Net>());
    Ok(Interface {
        primary: Some(listed.primary_ip),
        secondary: listed.ips.clone(),
        prefixes: prefixes.collect::<Result<_, _>>().map_err(|_| "a prefix is none")?,
        ..interface(&listed.id, 0, u32::try_from(device).unwrap_or(u32::MAX))
    })
}

/// From now on IMDS and EC2 tell what the case says; EC2 the same as IMDS where the case does not say.
fn show(ec2: &mut Ec2, state: &State) -> Result<(), Outcome> {
    let imds: Vec<Interface> = state.imds.iter().enumerate().map(listed).collect::<Result<_, _>>()?;
    ec2.imds = Some(imds.iter().filter_map(attached).collect());
    // An empty list of IMDS is a failure of IMDS and says nothing of EC2.
    if !imds.is_empty() {
        ec2.interfaces = imds;
    }
    for (id, said) in state.ec2.iter().flatten() {
        let Some(items) = said.as_array() else {
            ec2.broken.insert(id.clone());
            continue;
        };
        let interface = ec2.interfaces.iter_mut().find(|i| i.eni == *id).ok_or("ec2 names an interface not in imds")?;
        (interface.secondary, interface.prefixes) = (vec![], vec![]);
        for item in items.iter().filter_map(Value::as_str) {
            match (item.parse::<Ipv4Addr>(), item.parse::<Ipv4Net>()) {
                (Ok(ip), _) => interface.secondary.push(ip),
                (_, Ok(net)) => interface.prefixes.push(net),
                _ => return Err("ec2 lists what is neither an address nor a prefix".into()),
            }
        }
    }
    Ok(())
}

/// What was given back, and so many seconds before IMDS is looked at.
fn freed(case: &Case) -> Result<Vec<(IpNet, u32)>, Outcome> {
    let mut freed = Vec::new();
    for (text, seconds) in case.recently_freed.iter().flatten() {
        let net = match (text.parse::<Ipv4Addr>(), text.parse::<Ipv4Net>()) {
            (Ok(ip), _) => Ipv4Net::host(ip),
            (_, Ok(net)) => net,
            _ => return Err("recently_freed names neither an address nor a prefix".into()),
        };
        freed.push((IpNet::from(net), *seconds));
    }
    freed.sort_by_key(|(_, seconds)| std::cmp::Reverse(*seconds));
    Ok(freed)
}

/// Gives back the block at a place of the first interface: the snapshot has them in the store's order.
fn release(node: &Node, place: usize) -> Plan {
    let cidr = node.enis.first().and_then(|eni| eni.cidrs.get(place)).map(|cidr| cidr.id);
    Plan { release: cidr.into_iter().collect(), ..Plan::default() }
}

/// What was given back so many seconds ago and is still shown: is it taken in again?
pub(super) fn cooldown(case: &Case) -> Answer {
    let seconds = case.state["seconds_since_freed"].as_u64().and_then(|n| u32::try_from(n).ok());
    let seconds = seconds.ok_or("seconds_since_freed is no number")?;
    if Duration::from_secs(seconds.into()) >= LOOK {
        return Err("seconds_since_freed is beyond what can be shown here".into());
    }
    let mut described = case.clone();
    let held = json!({"id": "eni-0", "primary_ip": "10.1.0.1", "ips": ["10.1.0.2"]});
    let shown = json!({"id": "eni-0", "primary_ip": "10.1.0.1", "ips": ["10.1.0.2", "10.1.0.3"]});
    described.state = json!({"store": [held], "imds": [shown], "ec2": null});
    described.recently_freed = Some([("10.1.0.3".to_owned(), seconds)].into());
    // Taken in again as soon as it is not "recently freed" any more.
    let recently = case.expected["recently_freed"] == true;
    described.expected =
        json!({"enis": ["eni-0"], "total_ips": if recently { 1 } else { 2 }, "calls": ["describe_all_enis"]});
    run(&described)
}
