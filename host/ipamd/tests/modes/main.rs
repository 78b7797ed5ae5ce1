//! The daemon itself in every mode, upon the simulated AWS and an API server in memory.

mod counted;
mod lab;
mod variables;

use reservoir_kube::POD_IPS;
use reservoir_kube::testing::{self, BranchInterface, CNI_NODES, ENI_CONFIGS, Failure, NODES};
use reservoir_sim::model::preset::PODS;
use serde_json::json;

use lab::{Lab, NODE};

fn taint(on: bool) -> serde_json::Value {
    let taint = json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]);
    json!({"spec": {"taints": if on { taint } else { json!([]) }}})
}

#[tokio::test(flavor = "multi_thread")]
async fn prefix_delegation_serves_pods_from_prefixes() {
    let mut lab = Lab::new("prefix", &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")]).await;
    lab.start().await;
    let ip: std::net::Ipv4Addr = lab.add("a", false).await.unwrap()[0].parse().unwrap();
    let within = lab.aws.with(|sim, _| {
        sim.attached(&lab.instance).any(|e| e.secondary.is_empty() && e.prefixes.iter().any(|p| p.contains(ip)))
    });
    assert!(within, "{ip}");
    assert_eq!(lab.del("a").await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_pods_get_addresses_of_the_prefix() {
    let env = [
        ("ENABLE_IPv4", "false"),
        ("ENABLE_IPv6", "true"),
        ("ENABLE_PREFIX_DELEGATION", "true"),
        ("WARM_PREFIX_TARGET", "1"),
    ];
    let mut lab = Lab::new("ipv6", &env).await;
    lab.start().await;
    let ip: std::net::IpAddr = lab.add("a", false).await.unwrap()[0].parse().unwrap();
    let within =
        lab.aws.with(|sim, _| sim.attached(&lab.instance).any(|e| e.ipv6_prefixes.iter().any(|p| p.contains(ip))));
    assert!(within, "{ip}");
    assert_eq!(lab.del("a").await, Ok(1));
    assert_eq!(lab.calls("AssignIpv6Addresses"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_networking_makes_interfaces_where_the_node_s_eni_config_says() {
    let mut lab = Lab::new("custom", &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true")]).await;
    lab.objects.change(NODES, NODE, &json!({"metadata": {"labels": {"k8s.amazonaws.com/eniConfig": "zone-a"}}}));
    let groups = ["sg-0f2a3b4c5d6e7f809"];
    let spec = json!({"subnet": PODS, "securityGroups": groups});
    lab.spawn();
    // Without its ENIConfig the node is not ready, and nothing is made anywhere else.
    lab.until("the missing ENIConfig is told", async |lab| {
        lab.log().contains("eniconfig is not available").then_some(())
    })
    .await;
    assert_eq!(lab.calls("CreateNetworkInterface"), 0);
    lab.objects.put(ENI_CONFIGS, json!({"metadata": {"name": "zone-a"}, "spec": spec}));
    let ip = lab.until("a pod gets an address", async |lab| lab.add("a", false).await.ok()).await.remove(0);
    assert!(ip.starts_with("100.64."), "{ip}");
    lab.aws.with(|sim, _| {
        let enis: Vec<_> = sim.attached(&lab.instance).collect();
        assert!(enis[0].secondary.is_empty(), "the primary interface gets no more addresses");
        assert!(enis[1..].iter().all(|e| e.subnet == PODS && e.groups == groups), "{enis:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn several_cards_give_a_pod_one_address_each() {
    let mut lab = Lab::new("multinic", &[("ENABLE_MULTI_NIC", "true")]).await;
    lab.start().await;
    let ips = lab.add("hpc", true).await.unwrap();
    assert_eq!(ips.len(), 2, "{ips:?}");
    assert_eq!(lab.add("web", false).await.unwrap().len(), 1);
    assert_eq!(lab.del("hpc").await, Ok(2));
    assert!(lab.del("hpc").await.unwrap_err().contains("datastore: unknown pod"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_security_groups_for_pods_asks_for_a_trunk_and_gives_branch_pods_nothing() {
    let env = [("ENABLE_POD_ENI", "true"), ("RESERVOIR_ADD_WAIT_SECONDS", "0")];
    let mut lab = Lab::new("secondary", &env).await;
    lab.objects.put(CNI_NODES, json!({"metadata": {"name": NODE}}));
    let limits = json!([{"resources": {"limits": {"vpc.amazonaws.com/pod-eni": "1"}}}]);
    lab.objects.put(&testing::pods("shop"), json!({"metadata": {"name": "branch"}, "spec": {"containers": limits}}));
    lab.objects.put(&testing::pods("shop"), json!({"metadata": {"name": "plain"}}));
    lab.start().await;
    let features = lab
        .until("the wish is told", async |lab| {
            Some(lab.objects.get(CNI_NODES, NODE)?["spec"]["features"].clone()).filter(|f| !f.is_null())
        })
        .await;
    assert_eq!(features, json!([{"name": "SecurityGroupsForPods", "value": ""}]));
    let why = lab.add("branch", false).await.unwrap_err();
    assert!(why.contains("no trunk interface"), "{why}");
    lab.until("an ordinary pod gets an address", async |lab| lab.add("plain", false).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_is_known_from_the_start_and_a_del_of_its_pods_tells_what_the_cluster_knows() {
    // Spec 02 §3.2, §4.2. Without a kernel no link of the trunk shows: what a reply holds is shown elsewhere.
    let env = [("ENABLE_POD_ENI", "true"), ("RESERVOIR_ADD_WAIT_SECONDS", "0")];
    let mut lab = Lab::new("secondary", &env).await;
    lab.objects.put(CNI_NODES, json!({"metadata": {"name": NODE}}));
    let instance = lab.instance.clone();
    lab.aws.with(|sim, now| sim.attach_trunk(now, &instance)).unwrap();
    let branch = BranchInterface {
        eni: "eni-0d8e".to_owned(),
        mac: "02:21:4c:00:00:01".to_owned(),
        vlan: 3,
        ipv4: Some(([10, 0, 7, 9].into(), "10.0.0.0/19".to_owned())),
        ipv6: None,
    };
    lab.objects.put_branch_pod("shop", "branch", "u1");
    lab.objects.annotate_branch("shop", "branch", &branch);
    lab.start().await;
    lab.until("the trunk is known", async |lab| {
        let why = lab.add("branch", false).await.unwrap_err();
        why.contains("no link of the trunk interface").then_some(())
    })
    .await;
    let why = lab.del("branch").await.unwrap_err();
    assert!(why.contains("pod UID mismatch: got , expected "), "{why}");
    lab.objects.remove(&testing::pods("shop"), "branch");
    assert_eq!(lab.del("branch").await, Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_node_does_not_grow_until_it_is_uncordoned() {
    let mut lab = Lab::new("secondary", &[("RESERVOIR_ADD_WAIT_SECONDS", "0")]).await;
    lab.objects.change(NODES, NODE, &taint(true));
    lab.start().await;
    let why = lab.add("a", false).await.unwrap_err();
    assert_eq!(lab.calls("AssignPrivateIpAddresses") + lab.calls("CreateNetworkInterface"), 0, "{why}");
    lab.objects.change(NODES, NODE, &taint(false));
    lab.until("a pod gets an address", async |lab| lab.add("a", false).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_node_grows_if_that_is_asked_for() {
    let mut lab = Lab::new("secondary", &[("AWS_MANAGE_ENIS_NON_SCHEDULABLE", "true")]).await;
    lab.objects.change(NODES, NODE, &taint(true));
    lab.start().await;
    lab.add("a", false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_s_annotation_shows_its_address() {
    let mut lab = Lab::new("secondary", &[("ANNOTATE_POD_IP", "true")]).await;
    lab.objects.put(&testing::pods("shop"), json!({"metadata": {"name": "a"}}));
    lab.start().await;
    let ip = lab.add("a", false).await.unwrap().remove(0);
    let shown =
        |lab: &Lab| lab.objects.get(&testing::pods("shop"), "a").unwrap()["metadata"]["annotations"][POD_IPS].clone();
    assert_eq!(shown(&lab), json!(ip));
    assert_eq!(lab.del("a").await, Ok(1));
    assert_eq!(shown(&lab), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_told_on_the_daemon_s_pod() {
    let mut lab = Lab::new("secondary", &[]).await;
    lab.aws.with(|sim, _| sim.inject("every call of AssignPrivateIpAddresses: UnauthorizedOperation".parse().unwrap()));
    // Without its first addresses it is not ready.
    lab.spawn();
    let event =
        lab.until("the event", async |lab| lab.objects.all(&testing::events("kube-system")).into_iter().next()).await;
    assert_eq!(
        (&event["reason"], &event["action"], &event["regarding"]["name"]),
        (&json!("MissingIAMPermissions"), &json!("ec2:AssignPrivateIpAddresses"), &json!("aws-node-x"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_server_pods_are_served_and_the_node_counts_once_it_is_back() {
    let mut lab = Lab::new("secondary", &[]).await;
    let address = lab.stop_api_server();
    lab.start().await;
    lab.add("a", false).await.unwrap();
    lab.objects.change(NODES, NODE, &json!({"status": {"capacity": {"pods": "17"}}}));
    lab.start_api_server(address).await;
    lab.until("the Node is known", async |lab| lab.log().contains("\"max_pods\":17").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_needs_the_api_server_ends_when_that_refuses_and_waits_when_it_is_silent() {
    // Spec 02 §11.8.
    let mut lab = Lab::new("secondary", &[("ANNOTATE_POD_IP", "true")]).await;
    lab.objects.fail(Failure::Status { matching: "/version".to_owned(), code: 503, times: 1 });
    lab.spawn();
    assert_eq!(lab.end().await, Some(1));
    assert!(lab.log().contains("the API server is needed by this configuration"), "{}", lab.log());
    lab.objects.fail(Failure::Silence { matching: "/version".to_owned() });
    lab.spawn();
    lab.until("it waits", async |lab| lab.log().contains("waiting for the API server").then_some(())).await;
    lab.objects.heal();
    lab.until("it serves", async |lab| lab.log().contains("\"msg\":\"serving\"").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_modes_use_what_is_there_and_imds_only_asks_ec2_nothing() {
    // Spec 03 §13, W-23.
    for (name, silent) in [("DISABLE_NETWORK_RESOURCE_PROVISIONING", false), ("ENABLE_IMDS_ONLY_MODE", true)] {
        let mut lab = Lab::new("secondary", &[(name, "true"), ("RESERVOIR_ADD_WAIT_SECONDS", "1")]).await;
        let have = lab.aws.with(|sim, now| {
            let eni = sim.attached(&lab.instance).next().unwrap().id.clone();
            let op = reservoir_sim::model::ops::Op::AssignPrivateIpAddresses { eni, addresses: 2, prefixes: 0 };
            sim.operate(now, &op).unwrap();
            sim.attached(&lab.instance).next().unwrap().secondary.clone()
        });
        lab.start().await;
        let mut got = Vec::new();
        for pod in ["a", "b"] {
            got.extend(lab.add(pod, false).await.unwrap());
        }
        got.sort();
        let mut have: Vec<_> = have.iter().map(ToString::to_string).collect();
        have.sort();
        assert_eq!(got, have, "{name}");
        let why = lab.add("c", false).await.unwrap_err();
        assert!(why.contains(name), "{why}");
        lab.aws.with(|sim, _| {
            let calls = sim.journal().node(&lab.instance).cloned().unwrap_or_default();
            assert_eq!(calls.mutating, 0, "{name}");
            assert!(!silent || calls.calls == 0, "{name}: {} calls", calls.calls);
        });
    }
}
