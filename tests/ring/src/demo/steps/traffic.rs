//! Packets, and what becomes of them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::Result;

use super::super::modes::Net;
use super::super::packets::{Mirror, answers, foreign_dropped, seen_as, silent, url};
use super::super::stage::Stage;
use super::super::story::Story;
use crate::node::Pod;
use crate::shell::{in_netns, run};

const FORGED: u64 = 3;

pub fn show(stage: &mut Stage, story: &mut Story) -> Result<()> {
    story.step("Packets: a small web server says under which address it sees its caller")?;
    let (mode, node, vpc) = (stage.mode, stage.node.netns(), stage.node.vpc_netns());
    let net = mode.net;
    let (host, internet) = (format!("{vpc}-host"), format!("{vpc}-inet"));
    let ((a, b), neighbour) = (stage.two_pods()?, stage.pod_on(mode.devices.0, 2)?);
    let device = |device: u64| format!("eth{device}");
    let (here, there) = (device(mode.devices.0), device(mode.devices.1.unwrap_or(mode.devices.0)));
    let words =
        [(&a, &here), (&neighbour, &here), (&b, &there)].map(|(p, eth)| format!("{} {} is on {eth}", p.name, p.ip));
    story.note(&words.join("; "));
    let node_ip = stage.node.address()?.to_string();
    let mut places = BTreeSet::from([&a.netns, &neighbour.netns, &b.netns, &node, &host, &internet]);
    places.extend(several(stage).map(|pod| &pod.netns));
    let servers = places.into_iter().map(|netns| Mirror::in_netns(netns, net)).collect::<Result<Vec<_>>>()?;

    let everyone = stage.addresses();
    story.command("ip netns exec NODE ping -c 1 POD    # for each");
    let quiet = silent(&node, &everyone);
    story.claim(quiet.is_empty(), &format!("node → pod: all {} addresses answer", everyone.len()), quiet.join(", "));
    visit(story, "node → pod", &node, &b.ip, &node_ip);
    visit(story, "pod → node", &b.netns, &node_ip, &b.ip);
    visit(story, &format!("pod → pod, both on {here}"), &a.netns, &neighbour.ip, &a.ip);
    visit(story, &format!("pod → pod, {here} to {there}"), &a.netns, &b.ip, &a.ip);
    visit(story, &format!("pod → pod, {there} to {here}"), &b.netns, &a.ip, &b.ip);
    story.go_on()?;
    visit(story, &format!("pod on {here} → host in the VPC, its source kept"), &a.netns, net.vpc_host, &a.ip);
    visit(story, &format!("pod on {there} → host in the VPC, its source kept"), &b.netns, net.vpc_host, &b.ip);
    visit(story, &format!("host in the VPC → pod on {there}"), &host, &b.ip, net.vpc_host);
    every_card(stage, story, &host);
    story.go_on()?;

    let mapped = seen_as(&node, net.internet)?;
    if net.snat {
        let public = mapped.parse::<Ipv4Addr>().is_ok_and(|ip| !ip.is_private()) && mapped != node_ip;
        story.claim(public, "node → internet: seen under the public address that the VPC maps the node to", &mapped);
        for (pod, eth) in [(&a, &here), (&b, &there)] {
            visit(story, &format!("pod on {eth} → internet, SNAT to the node's"), &pod.netns, net.internet, &mapped);
        }
    } else {
        story.claim(mapped == node_ip, "node → internet: seen under its own address", &mapped);
        for pod in [&a, &b] {
            visit(story, "pod → internet, under its own address", &pod.netns, net.internet, &pod.ip);
        }
    }
    story.go_on()?;
    drop(servers);
    foreign(story, &a, &vpc, net)
}

/// Pods with several addresses: each of them works, both ways, by the card that it is on.
fn every_card(stage: &Stage, story: &mut Story, host: &str) {
    if let Some(pod) = several(stage) {
        for ip in &pod.ips {
            visit(story, &format!("host in the VPC → {} at {ip}", pod.name), host, ip, stage.mode.net.vpc_host);
            let to = url(stage.mode.net.vpc_host);
            story.command(format!("ip netns exec {} curl --interface {ip} {to}", pod.netns));
            let seen = in_netns(&pod.netns, "curl", &["-s", "-S", "-f", "--max-time", "10", "--interface", ip, &to]);
            let evidence = seen.map(|seen| (seen == *ip, format!("seen as {seen}")));
            story.claim_of(&format!("{} at {ip} → host in the VPC", pod.name), evidence);
        }
    }
}

/// The first pod with several addresses.
fn several(stage: &Stage) -> Option<&Pod> {
    stage.pods.iter().find(|p| p.ips.len() > 1)
}

/// One request; the server must see `expected`.
fn visit(story: &mut Story, what: &str, from: &str, to: &str, expected: &str) {
    story.command(format!("ip netns exec {from} curl {}", url(to)));
    let evidence = seen_as(from, to).map(|seen| match seen == expected {
        true => (true, format!("seen as {seen}")),
        false => (false, format!("seen as {seen}, not as {expected}")),
    });
    story.claim_of(what, evidence);
}

/// A pod forges its source: the VPC must drop it, and nothing else of the pod's.
fn foreign(story: &mut Story, pod: &Pod, vpc: &str, net: &Net) -> Result<()> {
    let before = foreign_dropped(vpc, net)?;
    story.claim(answers(&pod.netns, net.vpc_host), "the same ping with the pod's own source is answered", "");
    let own = foreign_dropped(vpc, net)? - before;
    story.claim(own == 0, "and counts as nothing foreign", "");

    let foreign = format!("{}/{}", net.foreign, if net.option == "-6" { 128 } else { 32 });
    let mut add = vec!["-n", &pod.netns, "address", "add", &foreign, "dev", "eth0"];
    if net.option == "-6" {
        add.push("nodad");
    }
    run("ip", &add)?;
    let count = FORGED.to_string();
    let ping = ["-n", "-q", "-c", &count, "-i", "0.2", "-W", "1", "-I", net.foreign, net.vpc_host];
    story.command(format!("ip netns exec {} ping {}", pod.netns, ping.join(" ")));
    let answered = in_netns(&pod.netns, "ping", &ping).is_ok();
    run("ip", &["-n", &pod.netns, "address", "delete", &foreign, "dev", "eth0"])?;
    let dropped = foreign_dropped(vpc, net)? - before;
    let found = format!(
        "{dropped} of {FORGED} packets from {} dropped there, {} answered",
        net.foreign,
        if answered { "some" } else { "none" }
    );
    story.claim(!answered && dropped == FORGED, "a foreign source is dropped by the VPC", found);
    Ok(())
}
