//! The daemon starts; pods come.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::super::live::Pool;
use super::super::stage::{PODS, Stage};
use super::super::story::Story;
use crate::node::Pod;

pub fn node(stage: &mut Stage, story: &mut Story) -> Result<()> {
    let state = stage.node.sim_state()?;
    let enis = state["enis"].as_array().map_or(0, Vec::len);
    story.claim(enis == 1, "EC2 knows the instance with its primary interface alone", &state["enis"][0]["id"]);

    story.step("The daemon, with the built-in policy")?;
    story.command(
        "ip netns exec NODE ipamd    # everything from the environment; IP_COOLDOWN_PERIOD=5, the rest as it comes",
    );
    let took = stage.start_daemon()?;
    story.claim(took < Duration::from_secs(10), "it serves", format!("{} ms after its start", took.as_millis()));
    let policy: Value = serde_json::from_str(&stage.node.introspect("/v1/policy")?)?;
    story.claim(policy["custom"].is_null(), "the built-in component decides", short(&policy["built_in"]["digest"]));
    let pool = stage
        .live
        .until(&stage.node, story, Duration::from_secs(20), String::new, |p| p.addresses >= 29 && p.calls == 0)?;
    story.claim(pool.enis.len() == 1, "WARM_ENI_TARGET=1: one interface's worth of addresses is warm", &pool);
    stage.bare = stage.kernel_state()?;
    Ok(())
}

pub fn first(stage: &mut Stage, story: &mut Story) -> Result<()> {
    let chain = if stage.options.portmap {
        "aws-cni, then Debian's portmap"
    } else {
        "aws-cni alone: there is no portmap here"
    };
    story.step(&format!("{PODS} pods through the CNI configuration list ({chain})"))?;
    let mut waiting = stage.make_pods(PODS)?;
    let crowd = waiting.split_off(4);
    for attachment in waiting {
        story.command(format!("CNI_COMMAND=ADD CNI_NETNS={} CNI_IFNAME=eth0 aws-cni", attachment.netns));
        let pod = stage.node.attach(attachment)?;
        story.note(&format!("{} has {} after {} ms", pod.name, pod.ip, pod.took.as_millis()));
        stage.pods.push(pod);
    }
    story.go_on()?;
    story.command(format!("… and {} more, six at a time", crowd.len()));
    let failed = stage.attach(crowd);
    story.claim(failed.is_empty(), &format!("all {PODS} ADDs succeeded"), slowest(&stage.pods, &failed));
    let different: BTreeSet<&str> = stage.pods.iter().map(|p| p.ip.as_str()).collect();
    story.claim(
        different.len() == stage.pods.len(),
        "no address was given twice",
        format!("{} addresses", different.len()),
    );
    story.go_on()?;

    // WARM_ENI_TARGET: a whole interface's worth beyond what is used.
    let pool = stage.live.until(&stage.node, story, Duration::from_secs(30), String::new, |p| {
        p.addresses >= p.assigned + 29 && p.calls == 0 && p.waiting == 0
    })?;
    stage.pool()?;
    let first = pool.enis.get(&0).map_or(0, |e| e.addresses.len());
    let grown = pool.enis.len() > 1 && first < PODS;
    story.claim(grown, &format!("the node grew past its first interface, which holds {first}"), &pool);
    let shown = pool.pods();
    let agree = stage.pods.iter().all(|p| shown.get(p.name.as_str()) == Some(&p.ip.as_str()));
    story.claim(
        agree && shown.len() == stage.pods.len(),
        "/v1/enis shows every pod with the address its ADD returned",
        "",
    );
    same_as_ec2(stage, story, &pool);
    Ok(())
}

fn slowest(pods: &[Pod], failed: &[(String, anyhow::Error)]) -> String {
    match failed.first() {
        Some((name, error)) => format!("{} failed, the first {name}: {error:#}", failed.len()),
        None => {
            let mut took: Vec<u128> = pods.iter().map(|p| p.took.as_millis()).collect();
            took.sort_unstable();
            let at = |n: usize| took.get(n).copied().unwrap_or_default();
            format!("median {} ms, slowest {} ms", at(took.len() / 2), at(took.len().saturating_sub(1)))
        }
    }
}

/// The daemon's pool and EC2's truth must not differ by an address.
pub fn same_as_ec2(stage: &Stage, story: &mut Story, pool: &Pool) {
    let evidence = stage.node.sim_state().map(|state| {
        let (ours, owned) = (pool.all(), owned(&state));
        let differ: Vec<&str> = ours.symmetric_difference(&owned).map(String::as_str).collect();
        (differ.is_empty(), if differ.is_empty() { format!("{} addresses", owned.len()) } else { differ.join(" ") })
    });
    story.claim_of("EC2 says the same: these are the node's secondary addresses, no fewer and no more", evidence);
}

/// Secondary addresses of interfaces in use.
pub fn owned(state: &Value) -> BTreeSet<String> {
    let enis = state["enis"].as_array().into_iter().flatten().filter(|e| !e["attachment"].is_null());
    let addresses = enis.flat_map(|e| e["secondary"].as_array().cloned().unwrap_or_default());
    addresses.filter_map(|a| a.as_str().map(str::to_owned)).collect()
}

/// The first digits of a component's digest.
pub fn short(digest: &Value) -> String {
    digest.as_str().unwrap_or("none").chars().take(12).collect()
}
