//! The pods go, the pool shrinks, everything ends.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;
use serde_json::Value;

use super::super::custom_policy;
use super::super::live::Pool;
use super::super::stage::{Seen, Stage};
use super::super::story::Story;
use super::pods::same_as_ec2;
use super::policy::decided;
use crate::shell::in_netns;

/// A younger interface is not removed (spec 01 §4.2 rule 4).
const LEAST_AGE: Duration = Duration::from_secs(60);

pub fn remove_pods(stage: &mut Stage, story: &mut Story) -> Result<()> {
    let count = stage.pods.len();
    story.step(&format!("All {count} pods go"))?;
    story.command("CNI_COMMAND=DEL … portmap, aws-cni; ip netns delete POD    # six at a time");
    stage.remove_all()?;
    // The kernel takes a namespace down after `ip netns delete` has returned.
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut traces = stage.node.pod_traces()?;
    while !traces.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        traces = stage.node.pod_traces()?;
    }
    story.claim(traces.is_empty(), "no veth, no rule and no route of a pod is left", traces.join("; "));
    let pool = stage.pool()?;
    story.claim(pool.assigned() == 0, "no address is held", &pool);
    Ok(())
}

pub fn give_back(stage: &mut Stage, story: &mut Story) -> Result<()> {
    let Some((_, last)) = &stage.mode.holds else {
        story.step("What is left is what was there")?;
        let pool = stage.pool()?;
        return nothing_more(stage, story, &pool);
    };
    let hold = last.setting.to_string();
    story.step(&format!("The policy is told to hold {hold}; what is too much goes back"))?;
    story.command(format!("kubectl apply    # the settings day and night = {hold}, the same component"));
    let component = std::fs::read(custom_policy())?;
    stage.put_policy(&[("policy.wasm", &component), ("day", hold.as_bytes()), ("night", hold.as_bytes())])?;
    let since = stage.daemon_since;
    let left = move || LEAST_AGE.saturating_sub(since.elapsed()).as_secs();
    story.note(&format!(
        "an interface is not removed before the daemon has known it for {} s: {} s to go",
        LEAST_AGE.as_secs(),
        left()
    ));
    let begun = Instant::now();
    let note = move || match left() {
        0 => "old enough to be removed".to_owned(),
        n => format!("{n} s until an interface may be removed"),
    };
    let patience = LEAST_AGE + Duration::from_secs(60);
    let pool = stage.live.until(&stage.node, story, patience, note, |p| {
        p.enis.len() == stage.mode.left && p.each_has(last.addresses) && p.cooling == 0 && p.calls == 0
    })?;
    stage.seen.told = true;
    story.claim_of("the setting alone was swapped, and decides", decided(&stage.node, last.setting));
    story.claim(true, "the pool is at its target", format!("{pool}, after {:.1} s", begun.elapsed().as_secs_f64()));
    nothing_more(stage, story, &pool)
}

fn nothing_more(stage: &Stage, story: &mut Story, pool: &Pool) -> Result<()> {
    same_as_ec2(stage, story, pool);
    // A deletion is answered before it is seen.
    let deadline = Instant::now() + Duration::from_secs(60);
    let left = stage.mode.left;
    let mut enis = (interfaces(&stage.node.sim_state()?), links(stage)?);
    while enis != (left, left) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
        enis = (interfaces(&stage.node.sim_state()?), links(stage)?);
    }
    story.claim(
        enis == (left, left),
        "no other interface is left, with EC2 and on the node",
        format!("EC2 knows {}, the node shows {}", enis.0, enis.1),
    );
    let audit = stage.node.audit()?;
    story.claim(
        audit.as_array().is_some_and(Vec::is_empty),
        "the simulator's audit finds nothing shared, leaked or untagged",
        audit,
    );

    let now = stage.kernel_state()?;
    let more: Vec<&str> = now.difference(&stage.bare).map(String::as_str).collect();
    let less: Vec<&str> = stage.bare.difference(&now).map(String::as_str).collect();
    let mut found = format!("{} lines compared", now.len());
    if !more.is_empty() || !less.is_empty() {
        found = format!("left [{}], missing [{}]", more.join("; "), less.join("; "));
    }
    story.claim(
        more.is_empty() && less.is_empty(),
        "the node's links, rules, routes and iptables are as before its first pod",
        found,
    );
    let state = stage.node.sim_state()?;
    story.note(&format!("EC2 was called: {}", calls(&state)));
    Ok(())
}

pub fn stop(stage: &mut Stage, story: &mut Story) -> Result<()> {
    story.step("The end")?;
    let socket = stage.node.dir().join("ipamd.sock");
    story.command("kill -TERM ipamd");
    let begun = Instant::now();
    stage.node.end_daemon(Signal::TERM)?;
    let took = begun.elapsed();
    let ended = !socket.exists() && took < Duration::from_secs(20);
    story.claim(ended, "the daemon ends and takes its socket with it", format!("{} ms", took.as_millis()));
    Ok(())
}

/// Everything is taken down by now.
pub fn nothing_stays(seen: &Seen, story: &mut Story) {
    let names = std::fs::read_dir("/var/run/netns").into_iter().flatten().flatten();
    let ours = ["rn", "rv", "rp"].map(|prefix| format!("{prefix}{}", seen.tag));
    let left: Vec<String> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| ours.iter().any(|o| name.strip_prefix(o).is_some_and(|r| r.is_empty() || r.starts_with('-'))))
        .collect();
    story.claim(left.is_empty(), "no network namespace of the demo is left", left.join(" "));
    let alive = seen.processes.iter().filter(|pid| is_daemon(**pid)).count();
    story.claim(alive == 0, "and no process of it", "");
}

fn is_daemon(pid: u32) -> bool {
    std::fs::read_link(Path::new("/proc").join(pid.to_string()).join("exe"))
        .is_ok_and(|exe| exe.file_name().is_some_and(|n| n == "ipamd" || n == "aws-sim"))
}

/// How many interfaces EC2 knows.
fn interfaces(state: &Value) -> usize {
    state["enis"].as_array().map_or(0, Vec::len)
}

/// How many the node's kernel knows.
fn links(stage: &Stage) -> Result<usize> {
    let links = in_netns(&stage.node.netns(), "ip", &["-o", "link"])?;
    Ok(links.lines().filter(|l| l.split_whitespace().nth(1).is_some_and(|name| name.starts_with("eth"))).count())
}

fn calls(state: &Value) -> String {
    let calls = state["calls"].as_object().into_iter().flatten().filter(|(name, _)| *name != "IMDS");
    calls.map(|(name, n)| format!("{name} {}", n["calls"])).collect::<Vec<_>>().join(", ")
}
