//! Suite `ipamd`, tags.

use serde_json::json;

use crate::can_run;
use crate::support::lab::lab;

#[test]
fn new_interfaces_carry_the_tags_of_the_operator_and_of_the_cluster() {
    if !can_run("new_interfaces_carry_the_tags_of_the_operator_and_of_the_cluster") {
        return;
    }
    let tags = r#"{"team": "blue", "node.k8s.amazonaws.com/mine": "no", "Cost Centre": "4711"}"#;
    let env = [("WARM_ENI_TARGET", "2"), ("ADDITIONAL_ENI_TAGS", tags), ("CLUSTER_NAME", "alpha")];
    let mut lab = lab("secondary", "c5.large", &env);
    lab.start();
    lab.settles("a second interface with its tags", |a| {
        a.enis.get(1).is_some_and(|eni| {
            let tags = &eni.tags;
            tags["team"] == "blue"
                && tags["Cost Centre"] == "4711"
                && tags["cluster.k8s.amazonaws.com/name"] == "alpha"
                && tags["eks:eni:owner"] == "amazon-vpc-cni"
                && tags["node.k8s.amazonaws.com/instance_id"] == "i-0c3f1a9d27b6e4851"
                && tags["node.k8s.amazonaws.com/createdAt"].is_string()
                && tags["node.k8s.amazonaws.com/mine"] == json!(null)
        })
    });
    lab.audit();
}
