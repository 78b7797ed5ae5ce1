//! Another policy comes in while pods are being started.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use super::super::custom_policy;
use super::super::stage::{MORE_PODS, PODS, Stage, at_once};
use super::super::story::Story;
use super::pods::{same_as_ec2, short};
use crate::Node;
use crate::shell::run;

/// What the policy is told to hold: more than the pods, less than a warm interface makes it.
const HOLD: u64 = 48;

pub fn swap(stage: &mut Stage, story: &mut Story) -> Result<()> {
    story.step(&format!("A custom policy comes in while {MORE_PODS} more pods start"))?;
    let before = stage.pool()?;
    story.note(&format!("before: {before}"));
    let component = std::fs::read(custom_policy()).with_context(|| custom_policy().display().to_string())?;
    let digest = run("sha256sum", &[&custom_policy().display().to_string()])?;
    let digest = digest.split_whitespace().next().unwrap_or_default().to_owned();
    let mut waiting = stage.make_pods(MORE_PODS)?;

    story.command("kubectl apply    # what the kubelet makes of it: ..data -> ..v1, with policy.wasm (policies/examples/hour) and day = night = 48");
    let begun = Instant::now();
    let hold = HOLD.to_string();
    let files = [("policy.wasm", component.as_slice()), ("day", hold.as_bytes()), ("night", hold.as_bytes())];
    // The first pods start before the swap, the last ones after it.
    let late = waiting.split_off(MORE_PODS / 2);
    let mut failed = stage.attach(waiting);
    stage.put_policy(&files)?;
    let (node, this_story) = (&stage.node, &*story);
    let (results, in_force) = stage.live.during(node, || {
        std::thread::scope(|scope| {
            let pods = scope.spawn(|| at_once(late, |a| (a.pod.clone(), node.attach(a))));
            let in_force = wait_for(node, this_story, &digest, &hold);
            (pods.join(), in_force)
        })
    });
    failed.extend(stage.keep(results.map_err(|_| anyhow!("a thread ended early"))?));
    let (policy, took) = in_force?;
    let found = failed.first().map(|(name, e)| format!("{name}: {e:#}")).unwrap_or_default();
    story.claim(failed.is_empty(), &format!("all {MORE_PODS} ADDs around the swap succeeded"), found);
    story.command("curl http://127.0.0.1:61679/v1/policy");
    let found = format!(
        "{} owns {}, settings {}",
        short(&policy["custom"]["digest"]),
        policy["custom"]["exports"],
        policy["custom"]["settings"]
    );
    story.claim(
        policy["custom"]["digest"] == digest.as_str(),
        "it is in force, by its digest",
        format!("{found}, {} ms", took.as_millis()),
    );
    story.claim(
        policy["last_load_error"].is_null() && policy["failures_in_a_row"] == 0,
        "it loaded and runs without a failure",
        "",
    );

    let pool = stage
        .live
        .until(&stage.node, story, Duration::from_secs(20), String::new, |p| p.addresses == HOLD && p.calls == 0)?;
    let assigned = (PODS + MORE_PODS) as u64;
    story.claim(
        pool.assigned == assigned && before.addresses != HOLD,
        &format!("the pool follows: {} addresses became {HOLD}", before.addresses),
        format!("{pool}, {:.1} s after the swap", begun.elapsed().as_secs_f64()),
    );
    same_as_ec2(stage, story, &pool);
    story.command("curl http://127.0.0.1:61679/v1/decisions");
    story.claim_of("the custom component made the targets, the built-in one the plan", decided(&stage.node, HOLD));
    Ok(())
}

/// Until `/v1/policy` names the component, and a decision used the setting.
fn wait_for(node: &Node, story: &Story, digest: &str, hold: &str) -> Result<(Value, Duration)> {
    let begun = Instant::now();
    let mut last = Value::Null;
    while begun.elapsed() < Duration::from_secs(10) {
        story.go_on()?;
        last = serde_json::from_str(&node.introspect("/v1/policy")?)?;
        if last["custom"]["digest"] == digest && decided(node, hold.parse()?).is_ok_and(|(holds, _)| holds) {
            return Ok((last, begun.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(anyhow!("the policy is not in force after 10 s: {last}"))
}

/// What the last decision says: who sized, who planned, which targets.
pub fn decided(node: &Node, hold: u64) -> Result<(bool, String)> {
    let lines = node.introspect("/v1/decisions")?;
    // Rankings of subnets are among them.
    let last = lines.lines().rev().find(|line| line.contains("\"decision\":")).context("no decision yet")?;
    let line: Value = serde_json::from_str(last)?;
    let call = |function: &str| {
        let calls = line["decision"]["calls"].as_array().into_iter().flatten();
        calls.rev().find(|c| c["function"] == function).cloned().unwrap_or_default()
    };
    let (sizing, planning) = (call("sizing"), call("planning"));
    let targets = &line["decision"]["targets"][0];
    let holds = sizing["by"] == "custom" && planning["by"] == "built_in" && targets["minimum_ips"] == hold;
    let text = |v: &Value| v.as_str().unwrap_or("?").to_owned();
    let found = format!(
        "sizing by {} in {} µs, planning by {} in {} µs, minimum_ips {}",
        text(&sizing["by"]),
        sizing["time_us"],
        text(&planning["by"]),
        planning["time_us"],
        targets["minimum_ips"]
    );
    Ok((holds, found))
}
