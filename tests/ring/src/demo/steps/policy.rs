//! Another policy comes in while pods are being started.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use super::super::custom_policy;
use super::super::stage::{MORE_PODS, Stage, at_once};
use super::super::story::Story;
use super::pods::{same_as_ec2, short};
use crate::Node;
use crate::shell::run;

/// What is told where there is nothing to hold.
const NOTHING: &str = "0";
/// How long a policy may take to come into force.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn swap(stage: &mut Stage, story: &mut Story) -> Result<()> {
    story.step(&format!("A custom policy comes in while {MORE_PODS} more pods start"))?;
    let before = stage.pool()?;
    story.note(&format!("before: {before}"));
    let component = std::fs::read(custom_policy()).with_context(|| custom_policy().display().to_string())?;
    let digest = run("sha256sum", &[&custom_policy().display().to_string()])?;
    let digest = digest.split_whitespace().next().unwrap_or_default().to_owned();
    let mut waiting = stage.make_pods(MORE_PODS)?;

    let first = stage.mode.holds.as_ref().map(|(first, _)| first);
    let hold = first.map_or(NOTHING.to_owned(), |h| h.setting.to_string());
    story.command(format!("kubectl apply    # what the kubelet makes of it: ..data -> ..v1, with policy.wasm (policies/examples/hour) and day = night = {hold}"));
    let begun = Instant::now();
    let files = [("policy.wasm", component.as_slice()), ("day", hold.as_bytes()), ("night", hold.as_bytes())];
    // The first pods start before the swap, the last ones after it.
    let late = waiting.split_off(MORE_PODS / 2);
    let mut failed = stage.attach(waiting);
    stage.put_policy(&files)?;
    let (node, this_story) = (&stage.node, &*story);
    let (results, in_force) = stage.live.during(node, || {
        std::thread::scope(|scope| {
            let pods = scope.spawn(|| at_once(late, |a| (a.pod.clone(), node.attach(a))));
            let in_force = wait_for(node, this_story, &digest, first.map(|h| h.setting));
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

    let assigned = stage.addresses().len() as u64;
    let Some(hold) = first else {
        let pool = stage.pool()?;
        story.claim(
            pool.assigned() == assigned && pool.all() == before.all(),
            "in IPv6 there is nothing for it to decide: one prefix has them all",
            &pool,
        );
        same_as_ec2(stage, story, &pool);
        return Ok(());
    };
    let patience = Duration::from_secs(60);
    let pool =
        stage.live.until(&stage.node, story, patience, String::new, |p| p.each_has(hold.addresses) && p.calls == 0)?;
    let was = before.first_card().addresses;
    story.claim(
        pool.assigned() == assigned && was != hold.addresses,
        &format!("the pool follows: {was} addresses became {}", hold.addresses),
        format!("{pool}, {:.1} s after the swap", begun.elapsed().as_secs_f64()),
    );
    same_as_ec2(stage, story, &pool);
    story.command("curl http://127.0.0.1:61679/v1/decisions");
    story.claim_of(
        "the custom component made the targets, the built-in one the plan",
        decided(&stage.node, hold.setting),
    );
    Ok(())
}

/// Until `/v1/policy` names the component, and a decision, where there are any, used the setting.
fn wait_for(node: &Node, story: &Story, digest: &str, hold: Option<u64>) -> Result<(Value, Duration)> {
    let begun = Instant::now();
    let mut last = Value::Null;
    while begun.elapsed() < PATIENCE {
        story.go_on()?;
        last = serde_json::from_str(&node.introspect("/v1/policy")?)?;
        let used = || hold.is_none_or(|hold| decided(node, hold).is_ok_and(|(holds, _)| holds));
        if last["custom"]["digest"] == digest && used() {
            return Ok((last, begun.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(anyhow!("the policy is not in force after {} s: {last}", PATIENCE.as_secs()))
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
