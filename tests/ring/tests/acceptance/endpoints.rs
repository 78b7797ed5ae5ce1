//! Suite `ipamd`, introspection and metrics: where they are, and where they are not.

use std::collections::BTreeSet;
use std::fs;

use ring::shell::get;
use serde_json::Value;

use crate::can_run;
use crate::support::lab::lab;

#[test]
fn introspection_and_metrics_are_where_they_are_told_to_be() {
    if !can_run("introspection_and_metrics_are_where_they_are_told_to_be") {
        return;
    }
    let mut lab = lab("secondary", "c5.large", &[]);
    lab.start();
    let ns = lab.node.netns();
    let answers = |port: u16, path: &str| get(&ns, &format!("http://127.0.0.1:{port}{path}")).is_ok();
    lab.wait_for("the usual ports", |_| Ok(answers(61679, "/v1/enis") && answers(61678, "/metrics")));
    lab.restart(&[("INTROSPECTION_BIND_ADDRESS", "127.0.0.1:61671")]);
    lab.wait_for("another port", |_| Ok(answers(61671, "/v1/enis")));
    assert!(!answers(61679, "/v1/enis"), "and not the usual one");
    lab.restart(&[("DISABLE_INTROSPECTION", "true"), ("DISABLE_METRICS", "true")]);
    lab.add("works-all-the-same");
    assert!(!answers(61671, "/v1/enis") && !answers(61679, "/v1/enis"), "introspection is off");
    assert!(!answers(61678, "/metrics"), "metrics are off");
    lab.restart(&[("DISABLE_INTROSPECTION", ""), ("DISABLE_METRICS", ""), ("INTROSPECTION_BIND_ADDRESS", "")]);
    lab.wait_for("the usual ports again", |_| Ok(answers(61679, "/v1/enis") && answers(61678, "/metrics")));
}

#[test]
fn the_ec2_api_is_where_its_variable_says() {
    // Spec 03 §1.2 and W-1: it wins over the SDK's own variable, behind which nobody listens here.
    if !can_run("the_ec2_api_is_where_its_variable_says") {
        return;
    }
    const OF_THE_SDK: &str = "AWS_ENDPOINT_URL_EC2";
    let mut lab = lab("secondary", "c5.large", &[]);
    let url = lab.node.daemon_env().into_iter().find(|(name, _)| name == OF_THE_SDK).unwrap().1;
    lab.node.set_env(OF_THE_SDK, "http://127.0.0.1:9");
    lab.node.set_env("AWS_EC2_ENDPOINT", &url);
    lab.start();
    lab.add("assigned-by-ec2");
}

#[test]
fn the_log_tells_as_much_as_its_level_says() {
    if !can_run("the_log_tells_as_much_as_its_level_says") {
        return;
    }
    let mut lab = lab("secondary", "c5.large", &[("AWS_VPC_K8S_CNI_LOGLEVEL", "error")]);
    let log = lab.node.dir().join("ipamd.log");
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    lab.start();
    lab.add("in-silence");
    assert!(!lines().contains("Starting L-IPAMD"), "{}", lines());
    for (level, told) in [("INFO", &["info"][..]), ("debug", &["info", "debug"])] {
        lab.restart(&[("AWS_VPC_K8S_CNI_LOGLEVEL", level)]);
        lab.add(level);
        let levels: BTreeSet<String> = lines()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["level"].as_str().map(str::to_owned))
            .collect();
        for one in ["info", "debug"] {
            assert_eq!(levels.contains(one), told.contains(&one), "{one} at {level}: {}", lines());
        }
    }
}
