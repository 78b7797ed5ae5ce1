//! What variables do in the daemon that no mode is about.

use std::fs;

use reservoir_kube::testing::{ENI_CONFIGS, NODES};
use reservoir_policy::Digest;
use reservoir_sim::model::operator::Attach;
use reservoir_sim::model::ops::{Create, Op};
use reservoir_sim::model::preset::{NODES as SUBNET, PODS};
use serde_json::{Value, json};

use super::lab::{Lab, NODE};

/// A component that is not the built-in one.
const COMPONENT: &[u8] = include_bytes!("../../../../policies/adaptive/policy.wasm");
const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";

/// Puts the component into a directory of policies.
fn install(lab: &Lab, dir: &str) {
    let dir = lab.path(dir);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("policy.wasm"), COMPONENT).unwrap();
}

async fn loaded(lab: &Lab, what: &str) -> Value {
    lab.until(what, async |lab| {
        let policy = lab.policy().await;
        let tried = !policy["custom"].is_null() || !policy["last_load_error"].is_null();
        tried.then_some(policy)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_policy_is_asked_and_changes_nothing() {
    let mut lab = Lab::new("secondary", &[]).await;
    lab.set_env("RESERVOIR_SHADOW_POLICY_DIR", &lab.path("shadow").display().to_string());
    install(&lab, "shadow");
    lab.start().await;
    let policy = lab
        .until("the shadow is loaded", async |lab| {
            let policy = lab.policy().await;
            (!policy["shadow"]["custom"].is_null()).then_some(policy)
        })
        .await;
    assert_eq!(policy["shadow"]["custom"]["digest"], json!(Digest::of(COMPONENT).to_string()));
    assert_eq!(policy["custom"], Value::Null, "the built-in policy stays in force");
    lab.add("a", false).await.unwrap();
    lab.until("its answers are counted", async |lab| {
        let page = lab.get("metrics", "/metrics").await;
        page.contains("reservoir_shadow_loads_total{result=\"loaded\"} 1").then_some(())?;
        page.lines().any(|line| line.starts_with("reservoir_shadow_answers_total{outcome=")).then_some(())
    })
    .await;
    lab.until("and shown beside those in force", async |lab| {
        let lines = lab.get("introspection", "/v1/decisions").await;
        let shown = |line: &str| !serde_json::from_str::<Value>(line).unwrap()["shadow"].is_null();
        lines.lines().any(shown).then_some(())
    })
    .await;
    // The adaptive policy would not hold a whole interface's worth.
    lab.until("the documented rule is obeyed", async |lab| {
        let held: usize = lab.aws.with(|sim, _| sim.attached(&lab.instance).map(|e| e.secondary.len()).sum());
        (held >= 10).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_with_another_digest_than_the_pinned_one_is_refused() {
    let right = Digest::of(COMPONENT).to_string();
    let mut lab = Lab::new("secondary", &[("RESERVOIR_POLICY_SHA256", "0".repeat(64).as_str())]).await;
    install(&lab, "policy");
    lab.start().await;
    let policy = loaded(&lab, "the component is refused").await;
    assert_eq!(policy["custom"], Value::Null);
    let why = policy["last_load_error"].to_string();
    assert!(why.contains(&right) && why.contains("0000"), "{why}");
    lab.add("a", false).await.unwrap();
    lab.kill();
    lab.set_env("RESERVOIR_POLICY_SHA256", &right);
    lab.start().await;
    let policy = loaded(&lab, "the component is loaded").await;
    assert_eq!(policy["custom"]["digest"], json!(right), "{policy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_policies_are_kept_where_the_operator_says() {
    let files = |lab: &Lab, dir: &str| fs::read_dir(lab.path(dir)).map_or(0, Iterator::count);
    let mut lab = Lab::new("secondary", &[]).await;
    install(&lab, "policy");
    lab.set_env("RESERVOIR_POLICY_CACHE_DIR", "off");
    lab.start().await;
    loaded(&lab, "the component is loaded").await;
    assert_eq!(files(&lab, "policy-code"), 0, "off");
    lab.kill();
    let dir = lab.path("elsewhere").display().to_string();
    lab.set_env("RESERVOIR_POLICY_CACHE_DIR", &dir);
    lab.start().await;
    loaded(&lab, "the component is loaded").await;
    lab.until("its code is kept", async |lab| (files(lab, "elsewhere") > 0).then_some(())).await;
    assert_eq!(files(&lab, "policy-code"), 0);
    lab.kill();
    lab.set_env("RESERVOIR_POLICY_CACHE_DIR", "");
    lab.start().await;
    loaded(&lab, "the component is loaded").await;
    lab.until("by default beside the checkpoint", async |lab| (files(lab, "policy-code") > 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interfaces_without_our_tag_are_used_unless_that_is_switched_off() {
    for (value, used) in [("true", true), ("false", false)] {
        let mut lab = Lab::new("secondary", &[("MANAGE_UNTAGGED_ENI", value)]).await;
        let instance = lab.instance.clone();
        let attach = Attach { addresses: 2, ..Attach::to(&instance).tag("team", "red") };
        let eni = lab.aws.with(|sim, now| sim.attach_interface(now, &attach)).unwrap();
        lab.start().await;
        lab.until("the pool knows whose it is", async |lab| {
            let known = lab.enis().await.get(&eni).map(|e| e["IsExcludedForPodIPs"] == false);
            (known.unwrap_or(false) == used && (used || known.is_none())).then_some(())
        })
        .await;
        let mut got = Vec::new();
        for n in 0..3 {
            got.extend(lab.add(&format!("p{n}"), false).await.unwrap());
        }
        let tagged = |lab: &Lab| lab.aws.with(|sim, _| sim.eni(&eni).unwrap().tags.contains_key(INSTANCE_TAG));
        if used {
            lab.until("it gets our tag", async |lab| tagged(lab).then_some(())).await;
            continue;
        }
        let theirs = lab.aws.with(|sim, _| sim.eni(&eni).unwrap().secondary.clone());
        assert!(theirs.iter().all(|ip| !got.contains(&ip.to_string())), "{got:?} {theirs:?}");
        assert!(!tagged(&lab), "nothing is done to it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn left_overs_are_deleted_unless_that_is_switched_off() {
    for (value, deleted) in [("false", true), ("true", false)] {
        let mut lab = Lab::new("secondary", &[("DISABLE_LEAKED_ENI_CLEANUP", value)]).await;
        let tags =
            [(INSTANCE_TAG, lab.instance.as_str()), ("node.k8s.amazonaws.com/createdAt", "2020-01-01T00:00:00Z")];
        let create = Create {
            subnet: SUBNET.to_owned(),
            description: format!("aws-K8S-{}", lab.instance),
            tags: tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..Create::default()
        };
        lab.aws.with(|sim, now| sim.operate(now, &Op::CreateNetworkInterface(create))).unwrap();
        let detached = |lab: &Lab| lab.aws.with(|sim, _| sim.enis().count() - sim.attached(&lab.instance).count());
        assert_eq!(detached(&lab), 1);
        lab.start().await;
        if deleted {
            lab.until("it is deleted", async |lab| (lab.calls("DeleteNetworkInterface") > 0).then_some(())).await;
            continue;
        }
        // What is attached, then what is not: the second listing would have led to it.
        lab.until("EC2 has told", async |lab| (lab.calls("DescribeNetworkInterfaces") >= 2).then_some(())).await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert_eq!((lab.calls("DeleteNetworkInterface"), detached(&lab)), (0, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_of_the_operator_s_choice_names_the_eni_config() {
    let env = [("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"), ("ENI_CONFIG_ANNOTATION_DEF", "example.com/network")];
    let mut lab = Lab::new("custom", &env).await;
    let annotations = json!({"example.com/network": "zone-a", "k8s.amazonaws.com/eniConfig": "nowhere"});
    lab.objects.change(NODES, NODE, &json!({"metadata": {"annotations": annotations}}));
    lab.objects.put(ENI_CONFIGS, json!({"metadata": {"name": "zone-a"}, "spec": {"subnet": PODS}}));
    lab.start().await;
    let ip = lab.add("a", false).await.unwrap().remove(0);
    assert!(ip.starts_with("100.64."), "{ip}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_of_an_ec2_call_takes_no_longer_than_http_timeout() {
    // How often EC2 is asked until it has told what there is, if the first answer takes 12 s.
    let asked = async |seconds: &str| {
        let mut lab = Lab::new("secondary", &[("HTTP_TIMEOUT", seconds)]).await;
        lab.aws.with(|sim, _| sim.inject("at call 1 of DescribeInstances: delay 12 s".parse().unwrap()));
        lab.start().await;
        lab.until("EC2 has told", async |lab| (lab.calls("DescribeNetworkInterfaces") > 0).then_some(())).await;
        lab.calls("DescribeInstances")
    };
    let (shorter, longer) = tokio::join!(asked("10"), asked("30"));
    assert_eq!((shorter, longer), (2, 1), "given up after 10 s, and waited for");
}
