//! Every guest of `tests/guests` in a running daemon: whatever the policy does, pods keep getting addresses.

mod support;

use std::fs;

use reservoir_kube::testing::{NODES, Objects};
use ring::Node;
use ring::cluster::put_node;
use serde_json::{Value, json};
use support::guests::{guest, names};
use support::lab::{Lab, PROGRAMS, lab};

/// One more than there are addresses for.
const EACH: usize = 2;
/// Guests that answer, while a pod waits, with a plan that does not grow: that is a policy's right, and the pod is told.
const ASK_FOR_NOTHING: [&str; 2] = ["release-in-use", "remove-primary"];
fn policy(node: &Node) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&node.introspect("/v1/policy")?)?)
}

/// Calls of custom components that failed so far.
fn failures(node: &Node) -> u64 {
    let counts = policy(node).unwrap()["counts"]["failed"].clone();
    let custom = counts.as_object().into_iter().flatten().filter(|(what, _)| what.starts_with("custom/"));
    custom.filter_map(|(_, n)| n.as_u64()).sum()
}

/// Components that came in so far, and those that did not.
fn tries(node: &Node) -> anyhow::Result<(u64, u64)> {
    let counts = policy(node)?["counts"].clone();
    Ok((counts["loads"].as_u64().unwrap_or_default(), counts["loads_failed"].as_u64().unwrap_or_default()))
}

/// Puts a component where the daemon looks, all of it at one moment.
fn put(node: &Node, component: &[u8]) {
    let made = node.dir().join("policy.wasm.new");
    fs::write(&made, component).unwrap();
    fs::rename(made, node.dir().join("policy/policy.wasm")).unwrap();
}

/// Changes the Node's labels, and waits until a decision was asked for with them.
fn label(lab: &Lab, objects: &Objects, labels: &Value) {
    objects.change(NODES, "node-1", &json!({"metadata": {"labels": labels}}));
    let provoked = labels.is_object();
    lab.wait_for("the daemon knows the labels", |node| {
        let decisions = node.introspect("/v1/decisions")?;
        let sizing = decisions.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let known = sizing.filter_map(|decision| decision["node"]["labels"].as_array().map(|l| !l.is_empty())).next();
        Ok(known == Some(provoked))
    });
}

#[test]
fn pods_get_addresses_whatever_the_policy_does() {
    if !ring::skip::can_run("pods_get_addresses_whatever_the_policy_does", PROGRAMS) {
        return;
    }
    let env = [("WARM_IP_TARGET", "1"), ("MINIMUM_IP_TARGET", "1"), ("RESERVOIR_ADD_WAIT_SECONDS", "10")];
    let mut lab = lab("secondary", "c5.4xlarge", &env);
    let objects = Objects::new();
    put_node(&objects, "us-west-2a", 250);
    lab.node.start_cluster(&objects).unwrap();
    lab.start();
    lab.wait_for("the policy runtime", |n| Ok(!policy(n)?.is_null()));
    let mut in_force = 0;
    // Failures so far when a guest's turn begins, and at the end: by then all that were provoked before are counted.
    let mut failed = Vec::new();
    let mut pods = 0;
    for name in names() {
        // A guest passes its trial while the node has no label, and is provoked by one.
        label(&lab, &objects, &Value::Null);
        failed.push(failures(&lab.node));
        // Alone the built-in policy keeps one. The guest before is forgotten too: no second try of it is taken for the
        // first of this one.
        let _ = fs::remove_file(lab.node.dir().join("policy/policy.wasm"));
        lab.wait_for("the built-in policy has made up for what is gone", |n| {
            let ((held, taken), now) = (n.pool()?, policy(n)?);
            Ok(now["custom"].is_null() && now["last_load_error"].is_null() && held > taken)
        });
        let before = tries(&lab.node).unwrap();
        put(&lab.node, &guest(&name));
        lab.wait_for(&format!("{name} is tried"), |n| Ok(tries(n)? != before));
        label(&lab, &objects, &json!({"provoke": "yes"}));
        let crowd: Vec<String> = (0..EACH).map(|n| format!("{name}-{n}")).collect();
        for (pod, added) in crowd.iter().zip(lab.add_all(&crowd)) {
            let decisions = || lab.node.introspect("/v1/decisions").unwrap_or_default();
            let last = |text: String| text.lines().rev().take(4).map(str::to_owned).collect::<Vec<_>>().join("\n");
            match added {
                Ok(_) => pods += 1,
                Err(why) if ASK_FOR_NOTHING.contains(&name.as_str()) && why.contains("the policy asks for no more") => {
                }
                Err(why) => panic!("{pod} gets no address: {why}\n{}", last(decisions())),
            }
        }
        in_force += usize::from(tries(&lab.node).unwrap().0 > before.0);
    }
    label(&lab, &objects, &Value::Null);
    failed.push(failures(&lab.node));
    let failing = failed.windows(2).filter(|two| two[1] > two[0]).count();
    eprintln!("{} guests, {in_force} were in force, {failing} failed while pods came; {pods} pods", names().len());
    assert!(in_force > names().len() / 2, "most guests pass their trial");
    assert!(failing > names().len() / 4, "and many of them are provoked");
    let fell_back = policy(&lab.node).unwrap()["counts"]["fell_back"].as_u64().unwrap_or_default();
    assert!(fell_back as usize > names().len() / 4, "and the built-in policy answers for them: {fell_back}");
    assert!(pods >= EACH * names().len() - ASK_FOR_NOTHING.len());
    assert_eq!(lab.node.pool().unwrap().1, pods as u64);
    lab.audit();
}
