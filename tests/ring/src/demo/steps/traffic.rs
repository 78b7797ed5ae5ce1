//! Packets, and what becomes of them.

use std::net::Ipv4Addr;

use anyhow::{Result, anyhow};

use super::super::packets::{Mirror, PORT, answers, foreign_dropped, seen_as, silent};
use super::super::stage::Stage;
use super::super::story::Story;
use crate::node::Pod;
use crate::shell::{in_netns, run};

pub const VPC_HOST: &str = "10.0.200.10";
const INTERNET: &str = "198.51.100.10";
/// In the VPC, in nobody's hands.
const FOREIGN: &str = "10.0.250.99";
const FORGED: u64 = 3;

pub fn show(stage: &mut Stage, story: &mut Story) -> Result<()> {
    story.step("Packets: a small web server says under which address it sees its caller")?;
    let (node, vpc) = (stage.node.netns(), stage.node.vpc_netns());
    let (host, internet) = (format!("{vpc}-host"), format!("{vpc}-inet"));
    let (a, also_a, b) = (stage.pod_on(0, 0)?, stage.pod_on(0, 1)?, stage.pod_on(1, 0)?);
    story.note(&format!(
        "{} {} is on eth0, so is {} {}; {} {} is on eth1",
        a.name, a.ip, also_a.name, also_a.ip, b.name, b.ip
    ));
    let node_ip = primary(stage)?;
    let servers = [&a.netns, &also_a.netns, &b.netns, &node, &host, &internet].map(|ns| Mirror::in_netns(ns));
    let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;

    let everyone: Vec<(&str, &str)> = stage.pods.iter().map(|p| (p.name.as_str(), p.ip.as_str())).collect();
    story.command("ip netns exec NODE ping -c 1 POD    # for each");
    let quiet = silent(&node, &everyone);
    story.claim(quiet.is_empty(), &format!("node → pod: all {} pods answer", everyone.len()), quiet.join(", "));
    visit(story, "node → pod", &node, &b.ip, &node_ip);
    visit(story, "pod → node", &b.netns, &node_ip, &b.ip);
    visit(story, "pod → pod on the same interface", &a.netns, &also_a.ip, &a.ip);
    visit(story, "pod → pod, eth0 to eth1", &a.netns, &b.ip, &a.ip);
    visit(story, "pod → pod, eth1 to eth0", &b.netns, &a.ip, &b.ip);
    story.go_on()?;
    visit(story, "pod on eth0 → host in the VPC, its source kept", &a.netns, VPC_HOST, &a.ip);
    visit(story, "pod on eth1 → host in the VPC, its source kept", &b.netns, VPC_HOST, &b.ip);
    visit(story, "host in the VPC → pod on eth1", &host, &b.ip, VPC_HOST);
    story.go_on()?;

    let mapped = seen_as(&node, INTERNET)?;
    let public = mapped.parse::<Ipv4Addr>().is_ok_and(|ip| !ip.is_private()) && mapped != node_ip;
    story.claim(public, "node → internet: seen under the public address that the VPC maps the node to", &mapped);
    visit(story, "pod on eth0 → internet, SNAT to the node's", &a.netns, INTERNET, &mapped);
    visit(story, "pod on eth1 → internet, SNAT to the node's", &b.netns, INTERNET, &mapped);
    story.go_on()?;
    drop(servers);
    foreign(story, &a, &vpc)
}

/// One request; the server must see `expected`.
fn visit(story: &mut Story, what: &str, from: &str, to: &str, expected: &str) {
    story.command(format!("ip netns exec {from} curl http://{to}:{PORT}/"));
    let evidence = seen_as(from, to).map(|seen| match seen == expected {
        true => (true, format!("seen as {seen}")),
        false => (false, format!("seen as {seen}, not as {expected}")),
    });
    story.claim_of(what, evidence);
}

/// A pod forges its source: the VPC must drop it, and nothing else of the pod's.
fn foreign(story: &mut Story, pod: &Pod, vpc: &str) -> Result<()> {
    let before = foreign_dropped(vpc)?;
    story.claim(answers(&pod.netns, VPC_HOST), "the same ping with the pod's own source is answered", "");
    let own = foreign_dropped(vpc)? - before;
    story.claim(own == 0, "and counts as nothing foreign", "");

    run("ip", &["-n", &pod.netns, "address", "add", &format!("{FOREIGN}/32"), "dev", "eth0"])?;
    let count = FORGED.to_string();
    let ping = ["-n", "-q", "-c", &count, "-i", "0.2", "-W", "1", "-I", FOREIGN, VPC_HOST];
    story.command(format!("ip netns exec {} ping {}", pod.netns, ping.join(" ")));
    let answered = in_netns(&pod.netns, "ping", &ping).is_ok();
    run("ip", &["-n", &pod.netns, "address", "delete", &format!("{FOREIGN}/32"), "dev", "eth0"])?;
    let dropped = foreign_dropped(vpc)? - before;
    let found = format!(
        "{dropped} of {FORGED} packets from {FOREIGN} dropped there, {} answered",
        if answered { "some" } else { "none" }
    );
    story.claim(!answered && dropped == FORGED, "a foreign source is dropped by the VPC", found);
    Ok(())
}

/// The node's own address.
fn primary(stage: &Stage) -> Result<String> {
    let state = stage.node.sim_state()?;
    let primary = state["enis"].as_array().into_iter().flatten().find(|e| e["attachment"]["device_index"] == 0);
    let address = primary.and_then(|e| e["primary"].as_str());
    address.map(str::to_owned).ok_or_else(|| anyhow!("EC2 shows no primary interface"))
}
