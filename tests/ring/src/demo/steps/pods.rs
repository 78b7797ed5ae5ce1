//! The daemon starts; pods come.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::super::live::Pool;
use super::super::stage::Stage;
use super::super::story::Story;
use crate::node::Pod;

pub fn node(stage: &mut Stage, story: &mut Story) -> Result<()> {
    let state = stage.node.sim_state()?;
    let enis = state["enis"].as_array().map_or(0, Vec::len);
    story.claim(enis == 1, "EC2 knows the instance with its primary interface alone", &state["enis"][0]["id"]);

    story.step("The daemon, with the built-in policy")?;
    let mode = stage.mode;
    let env: String = mode.env.iter().map(|(key, value)| format!("{key}={value} ")).collect();
    story.command(format!("ip netns exec NODE ipamd    # {env}IP_COOLDOWN_PERIOD=5, the rest as it comes"));
    let took = stage.start_daemon()?;
    story.claim(took < Duration::from_secs(30), "it serves", format!("{} ms after its start", took.as_millis()));
    let (start, patience) = (&mode.start, Duration::from_secs(60));
    let pool = stage.live.until(&stage.node, story, patience, String::new, |p| {
        p.enis.len() >= start.enis && p.first_card().addresses >= start.addresses && p.calls == 0
    })?;
    // The daemon serves before its policy is compiled, and in IPv6 nothing has asked for it yet.
    let mut policy = Value::Null;
    stage.node.wait_for("the built-in policy", patience, |node| {
        policy = serde_json::from_str(&node.introspect("/v1/policy")?)?;
        Ok(!policy["built_in"]["digest"].is_null() || story.go_on().is_err())
    })?;
    story.claim(
        policy["custom"].is_null(),
        "no policy is mounted: the built-in component is all there is",
        short(&policy["built_in"]["digest"]),
    );
    story.claim(pool.enis.len() == start.enis, start.because, &pool);
    stage.bare = stage.kernel_state()?;
    Ok(())
}

pub fn first(stage: &mut Stage, story: &mut Story) -> Result<()> {
    let chain = if stage.options.portmap {
        "aws-cni, then Debian's portmap"
    } else {
        "aws-cni alone: there is no portmap here"
    };
    let (mode, count) = (stage.mode, stage.mode.pods);
    story.step(&format!("{count} pods through the CNI configuration list ({chain})"))?;
    let mut waiting = stage.make_pods(count)?;
    let crowd = waiting.split_off(4);
    for attachment in waiting {
        let annotated = attachment.annotations.iter().map(|(key, value)| format!("    # {key}: {value}"));
        let annotated: String = annotated.collect();
        story.command(format!("CNI_COMMAND=ADD CNI_NETNS={} CNI_IFNAME=eth0 aws-cni{annotated}", attachment.netns));
        let pod = stage.node.attach(attachment)?;
        story.note(&format!("{} has {} after {} ms", pod.name, pod.ips.join(" and "), pod.took.as_millis()));
        stage.pods.push(pod);
    }
    story.go_on()?;
    story.command(format!("… and {} more, six at a time", crowd.len()));
    let failed = stage.attach(crowd);
    story.claim(failed.is_empty(), &format!("all {count} ADDs succeeded"), slowest(&stage.pods, &failed));
    let addresses = stage.addresses();
    let different: BTreeSet<&str> = addresses.iter().map(|(_, ip)| *ip).collect();
    story.claim(
        different.len() == addresses.len(),
        "no address was given twice",
        format!("{} addresses", different.len()),
    );
    story.go_on()?;

    // A whole interface's worth, or a prefix, beyond what is used.
    let pool = stage.live.until(&stage.node, story, Duration::from_secs(60), String::new, |p| {
        let first = p.first_card();
        first.addresses >= first.assigned + mode.warm && p.calls == 0 && p.waiting == 0
    })?;
    stage.pool()?;
    let first = pool.enis.get(&(0, mode.devices.0)).map_or(0, |e| e.pods.len());
    if mode.devices.1.is_some() {
        let grown = pool.enis.len() > mode.start.enis && first < count;
        story.claim(grown, &format!("the node grew: its first interface for pods has {first} of them"), &pool);
    } else {
        let grown = pool.enis.len() == mode.start.enis && first == count;
        story.claim(grown, "and the node did not have to grow: one interface has them all", &pool);
    }
    let shown = pool.pods();
    let agree =
        stage.pods.iter().all(|p| shown.get(p.name.as_str()) == Some(&p.ips.iter().map(String::as_str).collect()));
    story.claim(agree && shown.len() == stage.pods.len(), "/v1/enis shows every pod with what its ADD returned", "");
    same_as_ec2(stage, story, &pool);
    super::places::show(stage, story, &pool)
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
        (differ.is_empty(), if differ.is_empty() { format!("{} of them", owned.len()) } else { differ.join(" ") })
    });
    story.claim_of("EC2 says the same: these addresses and prefixes are the node's, no fewer and no more", evidence);
}

/// Secondary addresses and prefixes of interfaces in use. IPv6 pods come from prefixes alone.
pub fn owned(state: &Value) -> BTreeSet<String> {
    let enis = state["enis"].as_array().into_iter().flatten().filter(|e| !e["attachment"].is_null());
    let blocks = enis.flat_map(|eni| {
        let of = |name: &str| eni[name].as_array().cloned().unwrap_or_default();
        let texts = |list: Vec<Value>| list.into_iter().filter_map(|v| v.as_str().map(str::to_owned));
        let single = texts(of("secondary")).map(|address| format!("{address}/32"));
        single.chain(texts(of("prefixes"))).chain(texts(of("ipv6_prefixes"))).collect::<Vec<_>>()
    });
    blocks.collect()
}

/// The first digits of a component's digest.
pub fn short(digest: &Value) -> String {
    digest.as_str().unwrap_or("none").chars().take(12).collect()
}
