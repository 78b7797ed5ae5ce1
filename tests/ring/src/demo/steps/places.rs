//! Where a mode's addresses come from, and which pods get several.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::Value;

use super::super::live::Pool;
use super::super::modes::Place;
use super::super::stage::Stage;
use super::super::story::Story;
use crate::cluster::{PODS_GROUP, PODS_SUBNET};

pub fn show(stage: &Stage, story: &mut Story, pool: &Pool) -> Result<()> {
    let state = stage.node.sim_state()?;
    let secondary = |state: &Value| -> Vec<Value> {
        let enis = state["enis"].as_array().cloned().unwrap_or_default();
        enis.into_iter().filter(|e| e["attachment"]["device_index"] != 0 || e["attachment"]["card"] != 0).collect()
    };
    match stage.mode.place {
        Place::Same => {}
        Place::EniConfig => {
            let places: BTreeSet<String> =
                secondary(&state).iter().map(|e| format!("{} {}", e["subnet"], e["groups"])).collect();
            let wanted = format!("\"{PODS_SUBNET}\" [\"{PODS_GROUP}\"]");
            story.claim(
                places == BTreeSet::from([wanted]),
                "every secondary interface is in the ENIConfig's subnet, with its security group",
                places.into_iter().collect::<Vec<_>>().join(", "),
            );
            let inside = stage.pods.iter().filter(|p| p.ip.starts_with("100.64.")).count();
            let none = pool.enis.get(&(0, 0)).is_none_or(|primary| primary.blocks.is_empty());
            story.claim(
                inside == stage.pods.len() && none,
                "every pod's address is of the pods' block 100.64.0.0/16, none is the primary interface's",
                format!("{inside} of {}", stage.pods.len()),
            );
        }
        Place::Found => {
            // Those with the tag had more free addresses than the nodes' own, of which the node had taken some.
            let first = secondary(&state).into_iter().find(|e| e["attachment"]["device_index"] == 1);
            let subnet = first.map(|e| e["subnet"].clone()).unwrap_or_default();
            story.claim(
                subnet == PODS_SUBNET,
                "the second interface is in the tagged subnet with the most free addresses, not in the node's",
                &subnet,
            );
            let inside = stage.pods.iter().filter(|p| p.ip.starts_with("100.64.")).count();
            story.claim(inside > 0, "pods have addresses of both", format!("{inside} of {}", stage.pods.len()));
        }
    }
    if stage.mode.on_every_card > 0 {
        let cards = |pod: &crate::Pod| pod.ips.iter().filter_map(|ip| Some(pool.device_of(ip)?.0)).collect::<Vec<_>>();
        let all: Vec<u64> = pool.cards.keys().copied().collect();
        let several = stage.pods.iter().filter(|p| cards(p) == all).count();
        let one = stage.pods.iter().filter(|p| p.ips.len() == 1).count();
        story.claim(
            several == stage.mode.on_every_card && several + one == stage.pods.len(),
            "the pods that ask for it have an address on every card, the others one",
            format!("{several} and {one}"),
        );
    }
    Ok(())
}
