//! Field numbers and types on the wire (spec 02 §2.2): the contract with peers of other versions.

use prost::Message;
use reservoir_rpc::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, EnforceNpRequest, FILE_DESCRIPTOR_SET,
    IpAllocationMetadata, NetworkPolicyAgentConfigReply,
};

/// `number length text` for a string field below 16.
fn text(number: u8, text: &str) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2, u8::try_from(text.len()).unwrap()];
    bytes.extend(text.as_bytes());
    bytes
}

#[test]
fn requests_of_the_plugin() {
    let add = AddNetworkRequest {
        k8s_pod_name: "p".into(),
        k8s_pod_namespace: "ns".into(),
        k8s_pod_infra_container_id: "i".into(),
        netns: "n".into(),
        if_name: "eth0".into(),
        network_name: "aws-cni".into(),
        container_id: "c".into(),
        client_version: "v".into(),
        requires_multi_nic_attachment: true,
    };
    let strings = ["p", "ns", "i", "n", "eth0", "aws-cni", "c", "v"];
    let mut wire: Vec<u8> = strings.iter().zip(1..).flat_map(|(value, number)| text(number, value)).collect();
    wire.extend([9 << 3, 1]);
    assert_eq!(add.encode_to_vec(), wire);

    let del = DelNetworkRequest {
        k8s_pod_name: "p".into(),
        k8s_pod_namespace: "ns".into(),
        k8s_pod_infra_container_id: "i".into(),
        reason: "r".into(),
        if_name: "eth0".into(),
        network_name: "aws-cni".into(),
        container_id: "c".into(),
        client_version: "v".into(),
        k8s_pod_uid: "u".into(),
    };
    let strings = [(1, "p"), (2, "ns"), (3, "i"), (5, "r"), (6, "eth0"), (7, "aws-cni"), (8, "c"), (9, "v"), (10, "u")];
    let wire: Vec<u8> = strings.iter().flat_map(|(number, value)| text(*number, value)).collect();
    assert_eq!(del.encode_to_vec(), wire);

    let enforce = EnforceNpRequest {
        k8s_pod_name: "p".into(),
        k8s_pod_namespace: "ns".into(),
        network_policy_mode: "strict".into(),
        interface_count: 2,
    };
    assert_eq!(enforce.encode_to_vec(), [text(1, "p"), text(2, "ns"), text(3, "strict"), vec![4 << 3, 2]].concat());
}

#[test]
fn replies_of_the_daemon() {
    let entry = [text(1, "10.0.0.4"), vec![3 << 3, 1, 4 << 3, 2]].concat();
    let nested = [vec![2 << 3 | 2, u8::try_from(entry.len()).unwrap()], entry].concat();
    let metadata = IpAllocationMetadata {
        ipv4_addr: "10.0.0.4".into(),
        ipv6_addr: String::new(),
        device_number: 1,
        route_table_id: 2,
    };

    let add = AddNetworkReply {
        success: true,
        ip_allocation_metadata: vec![metadata.clone()],
        use_external_snat: true,
        vpc_v4_cidrs: vec!["a".into()],
        pod_vlan_id: 7,
        pod_eni_mac: "m".into(),
        pod_eni_subnet_gw: "g".into(),
        parent_if_index: 3,
        vpc_v6_cidrs: vec!["b".into()],
        network_policy_mode: "none".into(),
    };
    let wire = [
        vec![1 << 3, 1],
        nested.clone(),
        vec![5 << 3, 1],
        text(6, "a"),
        vec![7 << 3, 7],
        text(8, "m"),
        text(9, "g"),
        vec![10 << 3, 3],
        text(12, "b"),
        text(13, "none"),
    ]
    .concat();
    assert_eq!(add.encode_to_vec(), wire);
    assert_eq!(AddNetworkReply::decode(wire.as_slice()).unwrap(), add);

    let del = DelNetworkReply {
        success: true,
        ip_allocation_metadata: vec![metadata],
        pod_vlan_id: 7,
        network_policy_mode: "none".into(),
    };
    assert_eq!(del.encode_to_vec(), [vec![1 << 3, 1], nested, vec![4 << 3, 7], text(6, "none")].concat());

    let config = NetworkPolicyAgentConfigReply {
        network_policy_mode: "strict".into(),
        multi_nic_enabled: true,
        node_ipv4: "4".into(),
        node_ipv6: "6".into(),
        instance_id: "i".into(),
        region: "r".into(),
    };
    let wire = [text(1, "strict"), vec![2 << 3, 1], text(3, "4"), text(4, "6"), text(5, "i"), text(6, "r")].concat();
    assert_eq!(config.encode_to_vec(), wire);
}

#[test]
fn descriptor_set_has_services_and_true_names() {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let file = set.file.iter().find(|file| file.package() == "rpc").expect("package rpc");
    let services: Vec<_> = file.service.iter().map(|service| service.name()).collect();
    assert_eq!(services, ["CNIBackend", "ConfigServerBackend", "NPBackend"]);
    let reply = file.message_type.iter().find(|message| message.name() == "AddNetworkReply").unwrap();
    let names: Vec<_> = reply.field.iter().map(|field| field.name()).collect();
    assert!(names.contains(&"VPCv4CIDRs") && names.contains(&"PodENIMAC"), "{names:?}");
    assert!(set.file.iter().any(|file| file.name() == "google/protobuf/empty.proto"), "imports are included");
}
