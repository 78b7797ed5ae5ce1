//! Suite `ipamd`, events: the node's role loses its policy and gets it back.

use reservoir_kube::testing::{Objects, events, pods};
use ring::cluster::put_node;
use serde_json::json;

use crate::can_run;
use crate::support::lab::{NOT_SERVING, SERVING, lab};

#[test]
fn missing_permissions_are_told_as_an_event_and_to_the_pods() {
    if !can_run("missing_permissions_are_told_as_an_event_and_to_the_pods") {
        return;
    }
    let env = [("WARM_IP_TARGET", "1"), ("MY_POD_NAME", "aws-node-x7k2p"), ("RESERVOIR_ADD_WAIT_SECONDS", "3")];
    let mut lab = lab("secondary", "c5.large", &env);
    let objects = Objects::new();
    put_node(&objects, "us-west-2a", 29);
    objects.put(&pods("kube-system"), json!({"metadata": {"name": "aws-node-x7k2p"}}));
    lab.node.start_cluster(&objects).unwrap();
    let denied = ["AssignPrivateIpAddresses", "CreateNetworkInterface", "AttachNetworkInterface"];
    lab.node.sim_do(&json!({"iam": {"denied": denied}})).unwrap();
    lab.start();
    assert_eq!(lab.health(), NOT_SERVING, "no pods are to be sent to a node that can have no addresses");
    let of_it = |e: &serde_json::Value| e["reason"] == "MissingIAMPermissions";
    lab.wait_for("the event", |_| Ok(objects.all(&events("kube-system")).iter().any(of_it)));
    let event = objects.all(&events("kube-system")).into_iter().find(of_it).unwrap();
    assert_eq!((&event["regarding"]["kind"], &event["regarding"]["name"]), (&json!("Pod"), &json!("aws-node-x7k2p")));
    assert!(denied.iter().any(|api| event["note"].as_str().is_some_and(|note| note.contains(api))), "{event}");
    lab.wait_for("the pods are told", |_| {
        let why = lab.try_add("early").expect_err("nothing may be asked for");
        anyhow::ensure!(why.contains("UnauthorizedOperation"), "{why}");
        Ok(true)
    });
    lab.node.sim_do(&json!({"iam": {}})).unwrap();
    lab.wait_for("a pod gets an address again", |_| Ok(lab.try_add("late").is_ok()));
    lab.wait_for("it is called ready", |_| Ok(lab.health() == SERVING));
    lab.audit();
}
