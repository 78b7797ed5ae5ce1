//! ADD and DEL as the plugin sees them, upon a pool that nothing drives.

mod branch;

use reservoir_core::policy::Family;
use reservoir_kube::POD_IPS;
use reservoir_kube::testing::{self, Failure};
use rpc::IpAllocationMetadata;
use serde_json::json;

use super::*;
use crate::testing::{NoCloud, TestPool};

async fn facts(family: Family) -> Facts {
    Facts {
        external_snat: false,
        excluded_from_snat: vec!["192.168.0.0/16".parse().unwrap()],
        vpc: Arc::new(Vpc::read(&NoCloud, "02:00", family).await.unwrap()),
        ipv6: family == Family::Ipv6,
        network_policy_mode: "standard".to_owned(),
        multi_nic: false,
        pod_eni: false,
        add_wait: Duration::ZERO,
        annotate: false,
        node_ip: "10.0.0.10".to_owned(),
        instance_id: "i-1".to_owned(),
        region: "us-west-2".to_owned(),
    }
}

async fn service(pool: &TestPool, change: impl FnOnce(&mut Facts)) -> Service {
    let mut facts = facts(Family::Ipv4).await;
    change(&mut facts);
    Service::new(pool.pool.clone(), facts)
}

fn add(sandbox: &str, every_card: bool) -> Request<rpc::AddNetworkRequest> {
    Request::new(rpc::AddNetworkRequest {
        k8s_pod_name: "web-0".to_owned(),
        k8s_pod_namespace: "shop".to_owned(),
        if_name: "eth0".to_owned(),
        network_name: "aws-cni".to_owned(),
        container_id: sandbox.to_owned(),
        client_version: rpc::VERSION.to_owned(),
        requires_multi_nic_attachment: every_card,
        ..rpc::AddNetworkRequest::default()
    })
}

fn del(sandbox: &str) -> Request<rpc::DelNetworkRequest> {
    Request::new(rpc::DelNetworkRequest {
        k8s_pod_name: "web-0".to_owned(),
        k8s_pod_namespace: "shop".to_owned(),
        if_name: "eth0".to_owned(),
        network_name: "aws-cni".to_owned(),
        container_id: sandbox.to_owned(),
        client_version: rpc::VERSION.to_owned(),
        ..rpc::DelNetworkRequest::default()
    })
}

fn given(ip: &str, device: i32, table: i32) -> IpAllocationMetadata {
    IpAllocationMetadata {
        ipv4_addr: ip.to_owned(),
        ipv6_addr: String::new(),
        device_number: device,
        route_table_id: table,
    }
}

fn put_pod(pool: &TestPool, limit: &str) {
    let limits = if limit.is_empty() { json!({}) } else { json!({limit: "1"}) };
    let containers = json!([{"name": "c", "resources": {"limits": limits}}]);
    pool.objects
        .put(&testing::pods("shop"), json!({"metadata": {"name": "web-0"}, "spec": {"containers": containers}}));
}

fn annotation(pool: &TestPool) -> serde_json::Value {
    pool.objects.get(&testing::pods("shop"), "web-0").unwrap()["metadata"]["annotations"][POD_IPS].clone()
}

#[tokio::test]
async fn a_pod_gets_one_address_of_the_lowest_card_and_the_context_of_its_family() {
    // Spec 02 §3.3, §3.4.
    let pool = TestPool::new(&[0, 1]);
    let service = service(&pool, |f| f.multi_nic = true).await;
    let reply = service.add_network(add("a", false)).await.unwrap().into_inner();
    assert!(reply.success);
    assert_eq!(reply.ip_allocation_metadata, [given("10.0.0.11", 0, 254)]);
    assert_eq!(reply.vpc_v4_cidrs, ["10.0.0.0/16", "192.168.0.0/16"]);
    assert_eq!((reply.vpc_v6_cidrs.len(), reply.use_external_snat), (0, false));
    assert_eq!(reply.network_policy_mode, "standard");
    assert_eq!(service.add_network(add("a", false)).await.unwrap().into_inner(), reply, "asked again");
    service.add_network(add("b", false)).await.unwrap();
    let third = service.add_network(add("c", false)).await.unwrap().into_inner();
    assert_eq!(third.ip_allocation_metadata, [given("10.0.1.11", 1, 10101)], "the next card when the first is empty");
    let released = service.del_network(del("c")).await.unwrap().into_inner();
    assert_eq!(released.ip_allocation_metadata, third.ip_allocation_metadata);
}

#[tokio::test]
async fn a_pod_for_several_cards_gets_one_address_of_each_or_none() {
    // Spec 02 §3.3, W3, W7.
    let pool = TestPool::new(&[0, 2]);
    let refused = service(&pool, |_| {}).await.add_network(add("a", true)).await.unwrap();
    assert!(!refused.get_ref().success);
    assert!(rpc::reason::read(refused.metadata()).unwrap().contains("ENABLE_MULTI_NIC"));

    let service = service(&pool, |f| f.multi_nic = true).await;
    let reply = service.add_network(add("a", true)).await.unwrap().into_inner();
    assert_eq!(reply.ip_allocation_metadata, [given("10.0.0.11", 0, 254), given("10.0.2.11", 1, 10201)]);
    service.add_network(add("b", false)).await.unwrap();
    // Card 0 is empty now: nothing of card 2 is kept for a pod that cannot have both.
    let none = service.add_network(add("c", true)).await.unwrap().into_inner();
    assert_eq!((none.success, none.ip_allocation_metadata.len()), (false, 0));
    let released = service.del_network(del("a")).await.unwrap().into_inner();
    assert_eq!(released.ip_allocation_metadata, reply.ip_allocation_metadata);
    let again = service.del_network(del("a")).await.unwrap_err();
    assert!(again.message().contains("datastore: unknown pod"), "{again}");
}

#[tokio::test]
async fn the_annotation_follows_the_pod_s_address() {
    // Spec 02 §3.1 step 7, §4.1 step 5, §11.4.
    let pool = TestPool::new(&[0]);
    let service = service(&pool, |f| f.annotate = true).await;
    put_pod(&pool, "");
    assert!(service.add_network(add("a", false)).await.unwrap().into_inner().success);
    assert_eq!(annotation(&pool), "10.0.0.11");
    assert!(service.del_network(del("a")).await.unwrap().into_inner().success);
    assert_eq!(annotation(&pool), "");

    pool.objects.fail(Failure::Status { matching: "PATCH".to_owned(), code: 403, times: 1 });
    let failed = service.add_network(add("b", false)).await.unwrap();
    let why = rpc::reason::read(failed.metadata()).unwrap();
    let reply = failed.into_inner();
    assert_eq!((reply.success, reply.ip_allocation_metadata), (false, vec![given("10.0.0.12", 0, 254)]));
    assert!(why.contains("annotation"), "{why}");
    pool.objects.change(&testing::pods("shop"), "web-0", &json!({"metadata": {"annotations": {POD_IPS: "10.9.9.9"}}}));
    let error = service.del_network(del("b")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unknown);
    assert!(error.message().contains("released IP 10.0.0.12 does not match existing annotation"), "{error}");
    let gone = service.del_network(del("b")).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound, "the address was given back all the same");
}

#[tokio::test]
async fn the_policy_agent_is_told_the_node_of_its_family() {
    // Spec 02 §2.7, §3.4.
    let v4 = facts(Family::Ipv4).await;
    assert_eq!(v4.context().0, ["10.0.0.0/16", "192.168.0.0/16"]);
    let external = Facts { external_snat: true, ..v4 };
    assert_eq!(external.context(), (vec!["10.0.0.0/16".to_owned()], vec![], true));
    let v6 = Facts { external_snat: true, node_ip: "2001:db8::10".to_owned(), ..facts(Family::Ipv6).await };
    assert_eq!(v6.context(), (vec![], vec!["2001:db8::/56".to_owned()], false));
    let pool = TestPool::new(&[0]);
    let service = Service::new(pool.pool.clone(), v6);
    let config = service.get_network_policy_configs(Request::new(())).await.unwrap().into_inner();
    assert_eq!((config.node_ipv4.as_str(), config.node_ipv6.as_str()), ("", "2001:db8::10"));
}
