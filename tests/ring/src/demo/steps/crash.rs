//! The daemon is killed; the pods do not notice.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use reservoir_core::ip::IpNet;
use rustix::process::Signal;

use super::super::packets::{Stream, answers, silent};
use super::super::stage::Stage;
use super::super::story::Story;
use super::pods::owned;

pub fn kill(stage: &mut Stage, story: &mut Story) -> Result<()> {
    story.step("The daemon is killed and comes back")?;
    let before = stage.pool()?;
    let (a, b) = stage.two_pods()?;
    let vpc_host = stage.mode.net.vpc_host;
    let streams = [Stream::start(&a.netns, vpc_host)?, Stream::start(&b.netns, &a.ip)?];
    let newcomer = stage.make_pods(1)?.pop().context("no pod was made")?;
    let pid = stage.node.daemon_pid().context("the daemon does not run")?;

    story.command(format!("kill -9 {pid}; ipamd    # and at once one more ADD"));
    let begun = Instant::now();
    stage.node.end_daemon(Signal::KILL)?;
    let serves = stage.start_daemon()?;
    let newcomer = stage.node.attach(newcomer)?;
    let back = begun.elapsed();
    let found =
        format!("{} ms after the kill, the daemon served {} ms after its start", back.as_millis(), serves.as_millis());
    story.claim(back < Duration::from_secs(30), "the first ADD succeeds", found);

    let after = stage.pool()?;
    let (was, mut is) = (before.pods(), after.pods());
    let fresh = is.remove(newcomer.name.as_str());
    let kept = was.iter().filter(|(pod, ip)| is.get(*pod) == Some(*ip)).count();
    story.claim(
        was == is && kept == stage.pods.len(),
        "every pod kept its address",
        format!("{kept} of {}", was.len()),
    );
    let new = fresh == Some(BTreeSet::from([newcomer.ip.as_str()]))
        && !was.values().any(|ips| ips.contains(newcomer.ip.as_str()));
    story.claim(new, "the new pod has one that nobody had", &newcomer.ip);
    // IMDS tells of addresses that are gone already for a while: none of those may be given out.
    let address: IpAddr = newcomer.ip.parse()?;
    let owned = owned(&stage.node.sim_state()?);
    let owned = owned.iter().any(|block| block.parse().is_ok_and(|net: IpNet| net.contains(address)));
    let reaches = answers(&newcomer.netns, vpc_host);
    story.claim(owned && reaches, "EC2 says it is the node's, and a host in the VPC answers it", "");
    story.go_on()?;

    let everyone = stage.addresses();
    let quiet = silent(&stage.node.netns(), &everyone);
    story.claim(quiet.is_empty(), &format!("all {} addresses answer", everyone.len()), quiet.join(", "));
    // The daemon serves before its policy is compiled; both, and a second of traffic, are waited for.
    let patience = Duration::from_secs(60);
    stage.node.wait_for("the custom policy", patience, |node| {
        if story.go_on().is_err() {
            return Ok(true);
        }
        let policy: serde_json::Value = serde_json::from_str(&node.introspect("/v1/policy")?)?;
        Ok(!policy["custom"].is_null())
    })?;
    story.go_on()?;
    std::thread::sleep(Duration::from_secs(1));
    for (stream, what) in streams.into_iter().zip(["pod → host in the VPC", "pod → pod"]) {
        // The last packet may still be on its way.
        let evidence =
            stream.end().map(|(sent, got)| (got > 5 && sent - got <= 1, format!("{got} of {sent} pings answered")));
        story.claim_of(&format!("{what} flowed all the while"), evidence);
    }

    story.command(format!("CNI_COMMAND=DEL CNI_NETNS={} CNI_IFNAME=eth0 aws-cni", newcomer.attachment.netns));
    stage.node.remove_pod(&newcomer)?;
    let gone = !stage.pool()?.pods().contains_key(newcomer.name.as_str());
    story.claim(gone, "DEL works as well: the new pod's address is free again", "");
    let policy = stage.node.introspect("/v1/policy")?;
    let policy: serde_json::Value = serde_json::from_str(&policy)?;
    story.claim(
        !policy["custom"].is_null(),
        "the custom policy is in force again",
        super::pods::short(&policy["custom"]["digest"]),
    );
    Ok(())
}
