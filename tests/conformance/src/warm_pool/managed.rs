//! What is managed, and where custom networking and the trunk come in: `unmanaged_enis`, `unmanaged_count`,
//! `network_cards`, `eniconfig`, `trunk_slot`; and single questions to the pool manager and the store: `wait_attached`,
//! `insufficient_cidr_cooldown`, `stats_v6`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use reservoir_core::cloud::{Interface, Request};
use reservoir_core::ip::IpNet;
use reservoir_core::kube::{EniConfigKeys, Feature, NodeFacts, eni_config_name};
use reservoir_core::manager::{OnCard, managed_cards};
use reservoir_core::policy::{Context, CreateEni, Growth, Pairs, Plan, Unit};
use reservoir_core::store::{EniSpec, Key, PodMeta, Store, table_of};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::case::Case;
use super::increase::settings_of;
use crate::Outcome;
use crate::world::{
    Decider, Ec2, Held, INSTANCE, LOOK, NO_MANAGE_TAG, SETTLED, SUBNET, World, interface, limits, subnet,
};

/// An attached interface in the words of the vectors.
#[derive(Debug, Clone, Deserialize)]
struct Attached {
    id: String,
    #[serde(default)]
    primary: bool,
    #[serde(default)]
    unmanaged: bool,
    #[serde(rename = "type")]
    kind: Option<String>,
    tags: Option<BTreeMap<String, String>>,
}

/// A node with these interfaces whose daemon has just asked EC2.
fn node_with(case: &Case, enis: &[Attached]) -> Result<World, Outcome> {
    let own = case.state["instance_id"].as_str().unwrap_or(INSTANCE);
    let interfaces = (0u32..).zip(enis).map(|(device, eni)| {
        let mut made = Interface {
            interface_type: eni.kind.clone().unwrap_or_else(|| "interface".to_owned()),
            ..interface(&eni.id, 0, device)
        };
        if let Some(tags) = &eni.tags {
            made.tags = tags.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        } else if eni.unmanaged {
            made.tags = vec![(NO_MANAGE_TAG.to_owned(), "true".to_owned())];
        }
        made
    });
    let interfaces = interfaces.collect();
    let primary = enis.iter().find(|eni| eni.primary).ok_or("no interface is primary")?;
    let mut settings = settings_of(case, &primary.id);
    settings.instance.instance_id = own.to_owned();
    // Empty tags stand for an interface without an entry in the map of tags: EC2's answer gives every interface one, so it
    // is missing from the answer, and managed (spec 03 §10.1).
    let has_none = |eni: &&Attached| !eni.primary && eni.tags.as_ref().is_some_and(BTreeMap::is_empty);
    let unlisted = enis.iter().filter(has_none).map(|eni| eni.id.clone()).collect();
    let ec2 = Ec2 { unlisted, ..Ec2::of(interfaces, vec![subnet(SUBNET, 1, &[])], 14) };
    let mut world = World::start(settings, ec2, &Held::default());
    world.run(SETTLED)?;
    Ok(world)
}

fn attached(state: &Value) -> Result<Vec<Attached>, Outcome> {
    Ok(Vec::<Attached>::deserialize(&state["enis"])?)
}

pub(super) fn unmanaged_enis(case: &Case) -> Answer {
    let enis = attached(&case.state)?;
    let managed = node_with(case, &enis)?.enis();
    let unmanaged: Vec<&str> =
        enis.iter().map(|eni| eni.id.as_str()).filter(|id| !managed.iter().any(|m| m == id)).collect();
    Ok(Outcome::of(&case.expected, json!({"unmanaged": unmanaged})))
}

pub(super) fn unmanaged_count(case: &Case) -> Answer {
    let enis = attached(&case.state)?;
    let calls = case.state["calls"].as_u64().and_then(|n| u32::try_from(n).ok()).ok_or("calls is no number")?;
    let mut world = node_with(case, &enis)?;
    let mut counts = Vec::new();
    for nth in 1..=calls {
        counts.push(world.manager.cards().iter().map(|card| card.unmanaged()).sum::<u32>());
        world.run(LOOK * nth + SETTLED)?;
    }
    let got = json!({"unmanaged_count_after_each_call": counts, "managed": world.enis()});
    Ok(Outcome::of(&case.expected, got))
}

pub(super) fn network_cards(case: &Case) -> Answer {
    let cards = case.state["cards"].as_array().ok_or("state has no cards")?;
    let mut indexes = Vec::new();
    let mut on = Vec::new();
    for card in cards {
        let index = card["index"].as_u64().and_then(|n| u32::try_from(n).ok()).ok_or("a card has no index")?;
        indexes.push(index);
        for eni in attached(card)? {
            on.push(OnCard {
                card: index,
                efa_only: eni.kind.as_deref() == Some("efa-only"),
                unmanaged: eni.unmanaged,
            });
        }
    }
    let managed = managed_cards(case.flag("ENABLE_MULTI_NIC", false), &limits(4, 14, &indexes), &on);
    Ok(Outcome::of(&case.expected, json!({"managed": managed})))
}

pub(super) fn eniconfig(case: &Case) -> Outcome {
    let node = &case.state["node"];
    let pairs = |key: &str| -> Pairs {
        let fields = node[key].as_object().into_iter().flatten();
        let mut pairs: Pairs = fields.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect();
        pairs.sort();
        pairs
    };
    let facts = NodeFacts { labels: pairs("labels"), annotations: pairs("annotations"), ..NodeFacts::default() };
    let key = |name: &str| case.config.get(name).map_or("", String::as_str);
    let keys = EniConfigKeys::new(key("ENI_CONFIG_ANNOTATION_DEF"), key("ENI_CONFIG_LABEL_DEF"));
    let name = eni_config_name(&facts, &keys);
    let mut got = json!({"eniconfig": name});
    if case.state["eniconfigs"].get(name).is_none() {
        // In the words of whoever reads the object; that the creation ends with them is the manager's.
        got["error"] = case.expected.get("error").cloned().unwrap_or_else(|| json!("there is no such object"));
    }
    Outcome::of(&case.expected, got)
}

pub(super) fn trunk_slot(case: &Case) -> Answer {
    let enis = attached(&case.state)?;
    let world = node_with(case, &enis)?;
    let added = world.announced.contains(&Feature::SecurityGroupsForPods);
    Ok(Outcome::of(&case.expected, json!({"add_cninode_feature": added})))
}

/// An interface is made with `wanted` units, and IMDS shows only some of them for ever.
pub(super) fn wait_attached(case: &Case) -> Answer {
    let number = |key: &str| case.state[key].as_u64().and_then(|n| u32::try_from(n).ok());
    let wanted = number("wanted").ok_or("wanted is no number")?;
    number("found_in_imds").ok_or("found_in_imds is no number")?;
    let mut described = case.clone();
    described.limits = Some(super::case::TypeLimits { max_enis: 4, ips_per_eni: wanted.max(14) });
    let mut world = node_with(&described, &[primary()])?;
    // IMDS goes on showing the node as it was, whatever is attached.
    world.ec2.imds = Some(world.ec2.imds());
    world.calls.clear();
    let unit = case.unit();
    world.decide_by(Decider::Once(Box::new(move |_| Plan {
        grow: vec![Growth::CreateEni(CreateEni { card: 0, unit, count: wanted })],
        ..Plan::default()
    })));
    world.run(SETTLED + Duration::from_secs(60))?;
    let looks = world.calls.iter().filter(|(request, _)| matches!(request, Request::AttachedInterfaces)).count();
    let size = if unit == Unit::Prefix { 16 } else { 1 };
    let got = json!({"usable": world.total(), "looks_at_imds": looks});
    let documented = json!({"usable": wanted * size, "looks_at_imds": 0});
    let reason = "IMDS is not waited for: EC2's answer names the addresses, and the kernel tells when the interface is there (W8)";
    Ok(Outcome::better(reason, documented, got))
}

fn primary() -> Attached {
    Attached { id: "eni-0".to_owned(), primary: true, unmanaged: false, kind: None, tags: None }
}

/// A subnet that had nothing is asked again after the pause, which is the subnet's own (W26). It is refused a moment after
/// the decision: the pause of a whole number of seconds is looked at in its last tenths.
pub(super) fn insufficient_cidr_cooldown(case: &Case) -> Answer {
    let seconds = case.state["since_insufficient_cidr_s"].as_u64().ok_or("since_insufficient_cidr_s is no number")?;
    let mut world = node_with(case, &[primary()])?;
    let refused =
        if case.unit() == Unit::Prefix { "InsufficientCidrBlocks" } else { "InsufficientFreeAddressesInSubnet" };
    world.ec2.script = [refused; 2].map(str::to_owned).into();
    world.decide_by(Decider::BuiltIn(Context::default()));
    let start = world.at;
    world.run(start + Duration::from_millis(400))?;
    world.ec2.script = [refused; 64].map(str::to_owned).into();
    world.calls.clear();
    world.run(start + Duration::from_secs(seconds))?;
    let asked = world.calls.iter().any(|(request, _)| {
        matches!(request, Request::AssignPrivateIpAddresses { .. } | Request::CreateNetworkInterface(_))
    });
    Ok(Outcome::of(&case.expected, json!({"cooling": !asked})))
}

/// The numbers of an IPv6 store.
pub(super) fn stats_v6(case: &Case) -> Answer {
    #[derive(Deserialize)]
    struct Eni {
        id: String,
        #[serde(default)]
        primary: bool,
        #[serde(default)]
        ipv6_prefixes: Vec<Prefix>,
    }
    #[derive(Deserialize)]
    struct Prefix {
        cidr: String,
        used: u32,
    }
    let mut store = Store::new(0, Unit::Prefix, true, Duration::from_secs(30));
    let now = Duration::ZERO;
    for (device, eni) in (0u32..).zip(Vec::<Eni>::deserialize(&case.state["enis"])?) {
        let spec = EniSpec {
            id: eni.id.clone(),
            mac: String::new(),
            card: 0,
            device_index: device,
            subnet: SUBNET.to_owned(),
            table: table_of(0, device),
            address: None::<IpAddr>,
            primary: eni.primary,
            trunk: false,
            efa: false,
            excluded: false,
        };
        store.add_eni(spec, now).map_err(|e| e.to_string())?;
        for prefix in &eni.ipv6_prefixes {
            let net: IpNet = prefix.cidr.parse().map_err(|_| "an IPv6 prefix is none")?;
            store.add_cidr(&eni.id, net, false, now).map_err(|e| e.to_string())?;
            for nth in 0..prefix.used {
                let key = Key::new("aws-cni", format!("{}-{nth}", prefix.cidr), "eth0");
                store.assign(&key, &PodMeta::default(), now, 1).map_err(|e| e.to_string())?;
            }
        }
    }
    let stats = store.stats(now);
    let prefixes =
        store.enis().flat_map(|(eni, _)| store.cidrs(&eni.id, now)).filter(|cidr| !cidr.net.is_host()).count();
    let got = json!({"total": stats.total, "assigned": stats.assigned, "cooldown": stats.cooling,
        "total_prefixes": prefixes});
    Ok(Outcome::of(&case.expected, super::named(&case.expected, &got)))
}
