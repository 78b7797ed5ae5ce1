//! What the daemon tells of itself when things fail: its metrics, and the words that pods get.

use reservoir_kube::testing::NODES;
use reservoir_sim::model::preset::{MORE, NODES as SUBNET, PODS};

use super::lab::{Lab, NODE};

const ROLE: &str = "kubernetes.io/role/cni";

/// Series of the metrics page with their values.
async fn series(lab: &Lab) -> Vec<(String, String)> {
    let page = lab.get("metrics", "/metrics").await;
    let lines = page.lines().filter_map(|line| line.rsplit_once(' '));
    lines.map(|(series, value)| (series.to_owned(), value.to_owned())).collect()
}

/// Waits until a series has this value.
async fn until_at(lab: &Lab, name: &str, value: &str) {
    lab.until(&format!("{name} is {value}"), async |lab| {
        series(lab).await.iter().any(|(series, found)| series == name && found == value).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_be_read_at_the_start_is_counted_and_a_start_shows() {
    let mut lab = Lab::new("secondary", &[]).await;
    lab.objects.remove(NODES, NODE);
    lab.start().await;
    until_at(&lab, "awscni_pod_eni_error_count{fn=\"nodeInit\"}", "1").await;
    for action in ["nodeInit", "increaseDatastorePool", "decreaseDatastorePool", "nodeIPPoolReconcile"] {
        until_at(&lab, &format!("awscni_ipamd_action_inprogress{{fn=\"{action}\"}}"), "0").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_at_ec2_are_counted_by_what_they_were_about() {
    let faults = [
        "every call of AssignPrivateIpAddresses: RequestLimitExceeded",
        "every call of CreateTags: UnauthorizedOperation",
    ];
    let mut lab = Lab::new("secondary", &[("CLUSTER_NAME", "alpha"), ("RESERVOIR_ADD_WAIT_SECONDS", "0")]).await;
    lab.aws.with(|sim, _| faults.iter().for_each(|fault| sim.inject(fault.parse().unwrap())));
    // Without its first addresses it is not ready.
    lab.spawn();
    let failed = |name: &str| format!("awscni_ipamd_error_count{{fn=\"{name}\"}}");
    for name in ["increaseIPPoolAllocIPAddressesFailed", "eniReconcileAdd"] {
        lab.until(name, async |lab| {
            let page = series(lab).await;
            page.iter().any(|(series, value)| *series == failed(name) && value != "0").then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_a_new_interface_is_timed_under_the_reference_s_name() {
    let mut lab = Lab::new("secondary", &[("WARM_ENI_TARGET", "2")]).await;
    lab.start().await;
    let waited = "awscni_aws_api_latency_ms_count{api=\"waitForENIAndIPsAttached\",error=\"false\",status=\"200\"}";
    until_at(&lab, waited, "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_told_which_tags_keep_interfaces_out_of_every_subnet() {
    // Spec 01 §6.3.
    let mut lab = Lab::new("discovery", &[("RESERVOIR_ADD_WAIT_SECONDS", "20")]).await;
    lab.aws.with(|sim, now| {
        for subnet in [SUBNET, PODS, MORE] {
            sim.tag(now, subnet, &[(ROLE, "0")]).unwrap();
        }
    });
    lab.start().await;
    let why = lab.add("a", false).await.unwrap_err();
    assert!(why.contains("no valid subnets available for ENI creation"), "{why}");
    for subnet in [SUBNET, PODS, MORE] {
        assert!(why.contains(&format!("{subnet}: {ROLE}=0")), "{why}");
    }
    assert_eq!(lab.calls("CreateNetworkInterface"), 0);
    lab.until("the log says it too", async |lab| {
        lab.log().contains("no valid subnets available for ENI creation").then_some(())
    })
    .await;
}
