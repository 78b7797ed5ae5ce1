//! Suite `ipamd`, introspection and metrics: where they are, and where they are not.

use ring::shell::get;

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
