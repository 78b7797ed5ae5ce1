//! The pods go, the pool shrinks, everything ends.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;
use serde_json::Value;

use super::super::custom_policy;
use super::super::stage::{Seen, Stage};
use super::super::story::Story;
use super::pods::same_as_ec2;
use super::policy::decided;

/// Fits the first interface.
const HOLD: u64 = 20;
/// A younger interface is not removed (spec 01 §4.2 rule 4).
const LEAST_AGE: Duration = Duration::from_secs(60);

pub fn remove_pods(stage: &mut Stage, story: &mut Story) -> Result<()> {
    let count = stage.pods.len();
    story.step(&format!("All {count} pods go"))?;
    story.command("CNI_COMMAND=DEL … portmap, aws-cni; ip netns delete POD    # six at a time");
    stage.remove_all()?;
    // The kernel takes a namespace down after `ip netns delete` has returned.
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut traces = stage.node.pod_traces()?;
    while !traces.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        traces = stage.node.pod_traces()?;
    }
    story.claim(traces.is_empty(), "no veth, no rule and no route of a pod is left", traces.join("; "));
    let pool = stage.pool()?;
    story.claim(pool.assigned == 0, "no address is held", &pool);
    Ok(())
}

pub fn give_back(stage: &mut Stage, story: &mut Story) -> Result<()> {
    story.step(&format!("The policy is told to hold {HOLD}; what is too much goes back"))?;
    story.command(format!("kubectl apply    # the settings day and night = {HOLD}, the same component"));
    let component = std::fs::read(custom_policy())?;
    let hold = HOLD.to_string();
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
    let pool = stage.live.until(&stage.node, story, LEAST_AGE + Duration::from_secs(40), note, |p| {
        p.enis.len() == 1 && p.addresses == HOLD && p.cooling == 0 && p.calls == 0
    })?;
    story.claim_of("the setting alone was swapped, and decides", decided(&stage.node, HOLD));
    story.claim(true, "the pool is at its target", format!("{pool}, after {:.1} s", begun.elapsed().as_secs_f64()));

    same_as_ec2(stage, story, &pool);
    // A deletion is answered before it is seen.
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut enis = interfaces(&stage.node.sim_state()?);
    while enis != 1 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
        enis = interfaces(&stage.node.sim_state()?);
    }
    story.claim(enis == 1, "the other interfaces are detached and deleted", format!("EC2 knows {enis}"));
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
    let ended = !socket.exists() && took < Duration::from_secs(10);
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

fn calls(state: &Value) -> String {
    let calls = state["calls"].as_object().into_iter().flatten().filter(|(name, _)| *name != "IMDS");
    calls.map(|(name, n)| format!("{name} {}", n["calls"])).collect::<Vec<_>>().join(", ")
}
