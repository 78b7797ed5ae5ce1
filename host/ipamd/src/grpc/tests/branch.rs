//! Pods with branch interfaces (spec 02 §3.2, §4.2). The replies that these tests record are what the plugin's own tests
//! wire pods by, on a kernel with vlans: `tests/vlan/replies`, written anew with `UPDATE_REPLIES=1`.

use reservoir_kube::testing::{BranchInterface, POD_ENI as LIMIT};

use super::*;
use crate::testing::TRUNK;

/// The index of the trunk's link, here and in the plugin's tests.
const INDEX: u32 = 42;

/// What the resource controller makes: the pod of spec 04 §17.5, of both families.
fn annotation_of_both() -> serde_json::Value {
    let branch = BranchInterface {
        eni: "eni-0d8e".to_owned(),
        mac: "02:00:00:00:00:77".to_owned(),
        vlan: 7,
        ipv4: Some(([10, 0, 120, 77].into(), "10.0.96.0/19".to_owned())),
        ipv6: Some(("2600:1f14:abc:d00::77".parse().unwrap(), "2600:1f14:abc:d00::/64".to_owned())),
    };
    branch.annotation()
}

fn annotate(pool: &TestPool, value: &str) {
    pool.objects.change(&testing::pods("shop"), "web-0", &json!({"metadata": {"annotations": {LIMIT: value}}}));
}

fn uid(pool: &TestPool) -> String {
    pool.objects.get(&testing::pods("shop"), "web-0").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn del_of(uid: &str) -> Request<rpc::DelNetworkRequest> {
    let mut request = del("s").into_inner();
    request.k8s_pod_uid = uid.to_owned();
    Request::new(request)
}

/// A pod with its branch interface, on a node whose trunk shows.
async fn ready(change: impl FnOnce(&mut Facts)) -> (TestPool, Service) {
    let pool = TestPool::with_trunk();
    pool.network.show_link(TRUNK, INDEX);
    put_pod(&pool, LIMIT);
    annotate(&pool, &annotation_of_both().to_string());
    let service = service(&pool, |f| {
        f.pod_eni = true;
        f.network_policy_mode = String::new();
        change(f);
    })
    .await;
    (pool, service)
}

async fn why(service: &Service) -> String {
    let response = service.add_network(add("s", false)).await.unwrap();
    let why = rpc::reason::read(response.metadata()).unwrap();
    let reply = response.into_inner();
    assert_eq!(reply, rpc::AddNetworkReply::default(), "a soft failure tells nothing but the reason");
    why
}

/// The reply as the plugin's tests read it.
fn recorded(name: &str, found: &serde_json::Value) {
    let path = format!("{}/../../tests/vlan/replies/{name}.json", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_REPLIES").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(found).unwrap() + "\n").unwrap();
    }
    let told: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_default()).unwrap_or_default();
    assert_eq!(
        told, *found,
        "{path} is not what the daemon replies; run UPDATE_REPLIES=1 cargo test -p reservoir-ipamd"
    );
}

fn entries(list: &[IpAllocationMetadata]) -> Vec<serde_json::Value> {
    let one = |e: &IpAllocationMetadata| {
        json!({"IPv4Addr": e.ipv4_addr, "IPv6Addr": e.ipv6_addr, "DeviceNumber": e.device_number,
            "RouteTableId": e.route_table_id})
    };
    list.iter().map(one).collect()
}

#[tokio::test]
async fn the_reply_is_what_the_annotation_tells_and_the_pool_has_no_part_in_it() {
    for (family, is_ipv6) in [("v4", false), ("v6", true)] {
        let (pool, service) = ready(|f| f.ipv6 = is_ipv6).await;
        let reply = service.add_network(add("s", true)).await.unwrap().into_inner();
        let (address, gateway) =
            if is_ipv6 { ("2600:1f14:abc:d00::77", "fe80:ec2::1") } else { ("10.0.120.77", "10.0.96.1") };
        assert!(reply.success, "several network cards are not refused: it has no other (spec 02 §3.2)");
        assert_eq!((reply.pod_vlan_id, reply.pod_eni_mac.as_str()), (7, "02:00:00:00:00:77"));
        assert_eq!((reply.pod_eni_subnet_gw.as_str(), reply.parent_if_index), (gateway, 42));
        let entry = &reply.ip_allocation_metadata[0];
        assert_eq!(format!("{}{}", entry.ipv4_addr, entry.ipv6_addr), address);
        assert_eq!((entry.device_number, entry.route_table_id), (-1, 0));
        recorded(
            &format!("add-{family}"),
            &json!({"Success": reply.success, "IPAllocationMetadata": entries(&reply.ip_allocation_metadata),
                "PodVlanId": reply.pod_vlan_id, "PodENIMAC": reply.pod_eni_mac,
                "PodENISubnetGW": reply.pod_eni_subnet_gw, "ParentIfIndex": reply.parent_if_index}),
        );
        assert_eq!(service.add_network(add("s", false)).await.unwrap().into_inner(), reply, "asked again");
        assert_eq!(pool.pool.look(|m, _| m.cards().assignments().count()), 0);

        let gone = service.del_network(del_of(&uid(&pool))).await.unwrap().into_inner();
        assert!(gone.success);
        let entry = &gone.ip_allocation_metadata[0];
        assert_eq!(format!("{}{}", entry.ipv4_addr, entry.ipv6_addr), address, "of the node's family (W5, DW-10)");
        recorded(
            &format!("del-{family}"),
            &json!({"Success": gone.success, "IPAllocationMetadata": entries(&gone.ip_allocation_metadata),
                "PodVlanId": gone.pod_vlan_id}),
        );
        assert_eq!(service.del_network(del_of(&uid(&pool))).await.unwrap().into_inner(), gone, "again and again");
    }
}

#[tokio::test]
async fn it_never_gets_an_ordinary_address_and_hears_what_is_missing() {
    // Without a branch interface the pod's traffic would pass by its security groups.
    let bare = TestPool::new(&[0]);
    let of_bare = service(&bare, |f| f.pod_eni = true).await;
    let text = why(&of_bare).await;
    assert!(text.contains("pod shop/web-0: there is none"), "{text}");
    put_pod(&bare, LIMIT);
    let text = why(&of_bare).await;
    assert!(text.contains("no trunk interface"), "{text}");
    assert_eq!(bare.pool.look(|m, _| m.cards().assignments().count()), 0);

    let pool = TestPool::with_trunk();
    let service = service(&pool, |f| f.pod_eni = true).await;
    put_pod(&pool, LIMIT);
    let text = why(&service).await;
    assert!(text.contains("no link of the trunk interface eni-trunk (02:00:00:00:00:03)"), "{text}");
    pool.network.show_link(TRUNK, INDEX);
    let text = why(&service).await;
    assert!(text.contains("has no annotation vpc.amazonaws.com/pod-eni"), "{text}");
    annotate(&pool, "[]");
    assert_eq!(why(&service).await, "parsed PodENIData is empty");
    annotate(&pool, &json!([{"vlanID": 7}]).to_string());
    let text = why(&service).await;
    assert!(text.contains("ifAddress"), "{text}");
    pool.objects.fail(Failure::Status { matching: "/pods/web-0".to_owned(), code: 500, times: 1 });
    let text = why(&service).await;
    assert!(text.contains("is not known") && text.contains("500"), "{text}");
    annotate(&pool, &annotation_of_both().to_string());
    assert!(service.add_network(add("s", false)).await.unwrap().into_inner().success);
}

#[tokio::test]
async fn where_no_trunk_can_come_nobody_waits_for_one() {
    for (pool, remedy) in [
        (TestPool::with(|s| s.trunk_compatible = false), "an instance of type c5.4xlarge can have no trunk interface"),
        (TestPool::with(|s| s.ec2 = false), "ENABLE_IMDS_ONLY_MODE is set; unset it, or"),
    ] {
        let service = service(&pool, |f| {
            f.pod_eni = true;
            f.add_wait = Duration::from_secs(600);
        })
        .await;
        put_pod(&pool, LIMIT);
        let text = tokio::time::timeout(Duration::from_secs(60), why(&service)).await.expect(remedy);
        assert!(text.contains(remedy), "{text}");
        // Others of the node are not concerned.
        put_pod(&pool, "");
        assert!(service.add_network(add("s", false)).await.unwrap().into_inner().success);
    }
}

#[tokio::test]
async fn what_is_attached_is_read_again_when_the_trunk_s_link_does_not_show() {
    // Spec 02 §3.2.
    let pool = TestPool::with_trunk();
    put_pod(&pool, LIMIT);
    annotate(&pool, &annotation_of_both().to_string());
    let service = service(&pool, |f| f.pod_eni = true).await;
    let questions = || pool.pool.look(|manager, _| manager.jobs_under_way());
    let before = questions();
    assert!(why(&service).await.contains("no link of the trunk interface"));
    assert_eq!(questions(), before + 1);
}

#[tokio::test]
async fn other_pods_of_the_node_are_ordinary_and_without_the_feature_all_are() {
    let (pool, with) = ready(|_| {}).await;
    // The key may go on; another container is not looked at (spec 02 §3.2).
    let containers = json!([{"name": "a"}, {"name": "b", "resources": {"limits": {LIMIT: "1"}}}]);
    pool.objects
        .put(&testing::pods("shop"), json!({"metadata": {"name": "web-0"}, "spec": {"containers": containers}}));
    let ordinary = with.add_network(add("a", false)).await.unwrap().into_inner();
    assert_eq!((ordinary.success, ordinary.pod_vlan_id), (true, 0));
    assert!(with.del_network(del("a")).await.unwrap().into_inner().success);
    put_pod(&pool, "vpc.amazonaws.com/pod-eni-more");
    annotate(&pool, &annotation_of_both().to_string());
    assert_eq!(with.add_network(add("b", false)).await.unwrap().into_inner().pod_vlan_id, 7);

    let without = Service::new(pool.pool.clone(), Facts { pod_eni: false, ..facts(Family::Ipv4).await });
    put_pod(&pool, LIMIT);
    let plain = without.add_network(add("c", false)).await.unwrap().into_inner();
    assert_eq!((plain.success, plain.pod_vlan_id), (true, 0));
    let unknown = without.del_network(del("d")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "nobody is asked about it");
}

#[tokio::test]
async fn what_the_controller_is_still_to_make_is_waited_for() {
    let (pool, service) = ready(|f| f.add_wait = Duration::from_secs(30)).await;
    put_pod(&pool, LIMIT);
    let adding = tokio::spawn({
        let service = service.clone();
        async move { service.add_network(add("s", false)).await.unwrap().into_inner() }
    });
    while pool.objects.count("GET /api/v1/namespaces/shop/pods/web-0") < 2 {
        tokio::task::yield_now().await;
    }
    assert!(!adding.is_finished());
    annotate(&pool, &annotation_of_both().to_string());
    assert_eq!(adding.await.unwrap().pod_vlan_id, 7);
    // What is wrong does not become right by waiting.
    annotate(&pool, "[]");
    let before = pool.objects.count("GET");
    assert_eq!(why(&service).await, "parsed PodENIData is empty");
    assert_eq!(pool.objects.count("GET"), before + 1);
    // A daemon that ends lets nobody wait.
    put_pod(&pool, LIMIT);
    pool.pool.terminate();
    assert!(why(&service).await.contains("has no annotation"));
}

#[tokio::test]
async fn a_del_in_every_state_of_the_pod() {
    // Spec 02 §4.2.
    let (pool, service) = ready(|_| {}).await;
    let mine = uid(&pool);
    let error = async |uid: &str| {
        let status = service.del_network(del_of(uid)).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let (code, text) = error("another").await;
    assert_eq!(code, Code::Unknown);
    assert!(text.contains(&format!("pod UID mismatch: got another, expected {mine}")), "{text}");
    annotate(&pool, "[]");
    let (code, text) = error(&mine).await;
    assert!(code == Code::Unknown && text.contains("parsed PodENIData is empty"), "{text}");
    annotate(&pool, "{");
    let (code, text) = error(&mine).await;
    assert!(code == Code::Unknown && text.contains("JSON"), "{text}");
    put_pod(&pool, LIMIT);
    let (code, text) = error(&uid(&pool)).await;
    assert!(code == Code::NotFound && text.contains("datastore: unknown pod"), "{text}");
    pool.objects.fail(Failure::Status { matching: "/pods/web-0".to_owned(), code: 500, times: 1 });
    let (code, text) = error(&mine).await;
    assert!(code == Code::Unknown && text.contains("500"), "{text}");
    pool.objects.remove(&testing::pods("shop"), "web-0");
    let gone = service.del_network(del_of(&mine)).await.unwrap().into_inner();
    assert_eq!((gone.success, gone.pod_vlan_id, gone.ip_allocation_metadata.len()), (true, 0, 0), "W4");
    let mut nameless = del_of(&mine).into_inner();
    nameless.k8s_pod_name = String::new();
    let unknown = service.del_network(Request::new(nameless)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "nobody can be asked about it");
}

#[tokio::test]
async fn stores_are_searched_before_the_cluster_is_asked() {
    // W43: an ordinary pod that is gone from the API gives its address back.
    let (pool, service) = ready(|_| {}).await;
    put_pod(&pool, "");
    assert!(service.add_network(add("s", false)).await.unwrap().into_inner().success);
    pool.objects.remove(&testing::pods("shop"), "web-0");
    let before = pool.objects.count("GET");
    let released = service.del_network(del_of("u")).await.unwrap().into_inner();
    assert_eq!(released.ip_allocation_metadata, [given("10.0.0.11", 0, 254)]);
    assert_eq!(pool.objects.count("GET"), before);
}

#[tokio::test]
async fn its_annotation_shows_its_address_and_is_emptied() {
    let (pool, service) = ready(|f| f.annotate = true).await;
    assert!(service.add_network(add("s", false)).await.unwrap().into_inner().success);
    assert_eq!(annotation(&pool), "10.0.120.77");
    assert_eq!(service.del_network(del_of(&uid(&pool))).await.unwrap().into_inner().pod_vlan_id, 7);
    assert_eq!(annotation(&pool), "");
    pool.objects.fail(Failure::Status { matching: "PATCH".to_owned(), code: 403, times: 1 });
    let failed = service.add_network(add("s", false)).await.unwrap().into_inner();
    assert_eq!((failed.success, failed.pod_vlan_id), (false, 7), "spec 02 §3.1 step 7");
}
