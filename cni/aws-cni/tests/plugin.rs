//! The plugin as a function: what it answers and what it asks, for good and bad input.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::Path;

use aws_cni::inputs::Environment;
use aws_cni::peers::{AddAnswer, Peers, RpcError};
use aws_cni::pod_net::PodNet;
use aws_cni::{Deps, Reply, run};
use reservoir_net::Error;
use reservoir_net::branch::{BranchPod, BranchSetup};
use reservoir_net::pod::{PodAddress, PodSetup};
use reservoir_rpc::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, DeleteNpRequest, EnforceNpRequest,
    IpAllocationMetadata,
};
use serde_json::{Value, json};
use tonic::Code;

/// ipamd, agent and kernel: what they answer, and what they were asked.
#[derive(Default)]
struct World {
    add: Option<Result<AddAnswer, RpcError>>,
    del: Option<Result<DelNetworkReply, RpcError>>,
    serving: Option<Result<bool, RpcError>>,
    agent: Option<RpcError>,
    set_up: Option<String>,
    check: Option<Vec<String>>,
    /// Over which interface the pod's address is reached.
    route: Option<String>,
    netns_gone: bool,
    own_namespace: bool,
    calls: RefCell<Vec<String>>,
}

impl World {
    fn note(&self, call: String) {
        self.calls.borrow_mut().push(call);
    }

    fn run(&self, command: &str, stdin: &str) -> Reply {
        let env = Environment {
            command: command.to_owned(),
            container_id: "c1".to_owned(),
            netns: "/run/netns/n".to_owned(),
            ifname: "eth0".to_owned(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID=u1".to_owned(),
            path: "/opt/cni/bin".to_owned(),
            netns_override: false,
        };
        run(&env, &mut stdin.as_bytes(), Deps { peers: self, net: self })
    }

    fn fails(&self, command: &str, stdin: &Value) -> (u64, String, Value) {
        let reply = self.run(command, &stdin.to_string());
        assert_eq!(reply.exit, 1, "{reply:?}");
        let value: Value = serde_json::from_str(&reply.stdout).unwrap();
        (value["code"].as_u64().unwrap(), value["msg"].as_str().unwrap().to_owned(), value["details"].clone())
    }

    fn succeeds(&self, command: &str, stdin: &Value) -> String {
        let reply = self.run(command, &stdin.to_string());
        assert_eq!(reply.exit, 0, "{reply:?}");
        reply.stdout
    }

    fn calls(&self) -> Vec<String> {
        self.calls.borrow().clone()
    }
}

impl Peers for World {
    fn add_network(&self, socket: &Path, _: AddNetworkRequest) -> Result<AddAnswer, RpcError> {
        self.note(format!("add {}", socket.display()));
        self.add.clone().unwrap_or_else(|| Ok(AddAnswer { reply: granted(), reason: None }))
    }

    fn del_network(&self, _: &Path, request: DelNetworkRequest) -> Result<DelNetworkReply, RpcError> {
        self.note(format!("del {} {}", request.reason, request.k8s_pod_uid));
        self.del.clone().unwrap_or(Ok(DelNetworkReply { success: true, ..DelNetworkReply::default() }))
    }

    fn serving(&self, _: &Path) -> Result<bool, RpcError> {
        self.serving.clone().unwrap_or(Ok(true))
    }

    fn enforce_policy(&self, request: EnforceNpRequest) -> Result<bool, RpcError> {
        self.note(format!("enforce {}", request.network_policy_mode));
        self.agent.clone().map_or(Ok(true), Err)
    }

    fn delete_policy(&self, _: DeleteNpRequest) -> Result<bool, RpcError> {
        self.note("delete policy".to_owned());
        self.agent.clone().map_or(Ok(true), Err)
    }
}

impl PodNet for World {
    fn set_up(&self, setup: &PodSetup) -> Result<(), Error> {
        let veths: Vec<&str> = setup.interfaces.iter().map(|i| i.host_veth.as_str()).collect();
        self.note(format!("set up {} mtu {}", veths.join(" "), setup.mtu));
        self.set_up.clone().map_or(Ok(()), |text| Err(Error::Invalid(text)))
    }

    fn check(&self, setup: &PodSetup) -> Result<(), Error> {
        let all = setup.interfaces.iter().map(|i| format!("{} table {}", i.address, i.table));
        self.note(format!("check {}", all.collect::<Vec<_>>().join(", ")));
        self.check.clone().map_or(Ok(()), |differences| Err(Error::Differs(differences)))
    }

    fn tear_down(&self, addresses: &[PodAddress]) -> Result<(), Error> {
        let all = addresses.iter().map(|a| format!("{} table {}", a.address, a.table));
        self.note(format!("tear down {}", all.collect::<Vec<_>>().join(", ")));
        Ok(())
    }

    fn set_up_branch(&self, setup: &BranchSetup) -> Result<(), Error> {
        let BranchSetup { pod, mac, trunk, mtu } = setup;
        self.note(format!(
            "set up branch {} {} vlan {} via {} mac {mac} on #{trunk} mtu {mtu} {:?}",
            pod.host_veth, pod.address, pod.vlan, pod.gateway, pod.mode
        ));
        self.set_up.clone().map_or(Ok(()), |text| Err(Error::Invalid(text)))
    }

    fn check_branch(&self, pod: &BranchPod) -> Result<(), Error> {
        self.note(format!("check branch {} {} via {} {:?}", pod.host_veth, pod.address, pod.gateway, pod.mode));
        self.check.clone().map_or(Ok(()), |differences| Err(Error::Differs(differences)))
    }

    fn tear_down_branch(&self, vlan: u16, address: Option<IpAddr>) -> Result<(), Error> {
        self.note(format!("tear down branch {vlan} {}", address.map(|a| a.to_string()).unwrap_or_default()));
        Ok(())
    }

    fn route_device(&self, _: IpAddr) -> Result<Option<String>, Error> {
        Ok(self.route.clone())
    }

    fn is_own_namespace(&self, _: &Path) -> bool {
        self.own_namespace
    }

    fn namespace_exists(&self, _: &Path) -> bool {
        !self.netns_gone
    }
}

fn granted() -> AddNetworkReply {
    let entry = IpAllocationMetadata {
        ipv4_addr: "10.0.0.4".to_owned(),
        device_number: 1,
        route_table_id: 2,
        ..Default::default()
    };
    AddNetworkReply { success: true, ip_allocation_metadata: vec![entry], ..AddNetworkReply::default() }
}

fn conf() -> Value {
    json!({"cniVersion": "1.1.0", "name": "aws-cni", "type": "aws-cni", "pluginLogLevel": "fatal"})
}

/// As kept from the ADD of [`granted`].
fn conf_after_add() -> Value {
    let mut conf = conf();
    conf["prevResult"] = serde_json::from_str(&World::default().succeeds("ADD", &self::conf())).unwrap();
    conf
}

fn unknown_pod() -> RpcError {
    RpcError { code: Code::NotFound, message: "1 error occurred:\n\t* datastore: unknown pod\n\n".to_owned() }
}

#[test]
fn bad_stdin_has_the_protocols_codes() {
    let world = World::default();
    let code = |stdin: &str| -> (u64, String) {
        let value: Value = serde_json::from_str(&world.run("ADD", stdin).stdout).unwrap();
        (value["code"].as_u64().unwrap(), value["msg"].as_str().unwrap().to_owned())
    };
    assert!(matches!(code("{invalid"), (6, msg) if msg.starts_with("error unmarshall network config: ")));
    assert_eq!(code("").0, 6);
    assert_eq!(code("[]").0, 6);
    assert_eq!(code("{}"), (7, "missing network name".to_owned()));
    assert_eq!(code(r#"{"name":"a/b"}"#), (7, "invalid characters found in network name".to_owned()));
    assert_eq!(code(r#"{"name":"a","cniVersion":"2.0.0"}"#), (1, "incompatible CNI versions".to_owned()));
    assert_eq!(world.calls(), [""; 0], "nobody was asked");
}

#[test]
fn young_commands_need_a_young_version() {
    let world = World::default();
    let old = |version| json!({"cniVersion": version, "name": "n"});
    let (code, msg, _) = world.fails("CHECK", &old("0.3.1"));
    assert_eq!((code, msg.as_str()), (1, "config version does not allow CHECK"));
    assert_eq!(world.fails("STATUS", &old("1.0.0")).1, "config version does not allow STATUS");
    assert_eq!(world.fails("GC", &old("0.4.0")).1, "config version does not allow GC");
    assert_eq!(world.succeeds("CHECK", &old("0.4.0")), "");
    assert_eq!(world.succeeds("GC", &conf()), "");
}

#[test]
fn without_a_command_it_says_what_it_is() {
    let reply = World::default().run("", "not read");
    assert_eq!((reply.exit, reply.stdout.as_str()), (0, ""));
    assert!(reply.stderr.starts_with("AWS CNI ") && reply.stderr.ends_with("1.0.0, 1.1.0\n\n"), "{}", reply.stderr);
}

#[test]
fn status_tells_whether_ipamd_serves() {
    assert_eq!(World::default().succeeds("STATUS", &conf()), "");
    for serving in [Ok(false), Err(RpcError::unavailable("nobody"))] {
        let (code, _, details) = World { serving: Some(serving), ..World::default() }.fails("STATUS", &conf());
        assert_eq!(code, 50);
        assert!(details.as_str().is_some_and(|details| !details.is_empty()));
    }
}

#[test]
fn add_asks_where_the_configuration_says() {
    let mut conf = conf();
    conf["ipamdSocket"] = json!("/run/other/ipamd.sock");
    conf["mtu"] = json!("1500");
    let world = World::default();
    world.succeeds("ADD", &conf);
    assert_eq!(world.calls(), ["add /run/other/ipamd.sock", "set up eni0761ccbeace mtu 1500"]);
}

#[test]
fn add_again_is_the_same_add() {
    let world = World::default();
    assert_eq!(world.succeeds("ADD", &conf()), world.succeeds("ADD", &conf()));
}

#[test]
fn add_says_why_there_is_no_address() {
    let answer = AddAnswer { reply: AddNetworkReply::default(), reason: Some("subnet-1 is full".to_owned()) };
    let (code, msg, details) = World { add: Some(Ok(answer)), ..World::default() }.fails("ADD", &conf());
    assert_eq!((code, msg.as_str()), (999, "add cmd: failed to assign an IP address to container"));
    assert_eq!(details, "subnet-1 is full");
}

#[test]
fn add_passes_on_what_ipamd_refuses() {
    let refused =
        RpcError { code: Code::FailedPrecondition, message: "wrong client version \"1\" (!= \"2\")".to_owned() };
    let world = World { add: Some(Err(refused)), ..World::default() };
    assert_eq!(
        world.fails("ADD", &conf()).1,
        "add cmd: Error received from AddNetwork gRPC call: rpc error: code = FailedPrecondition desc = \
         wrong client version \"1\" (!= \"2\")"
    );
    assert_eq!(world.calls().len(), 1, "there is nothing to give back");
}

#[test]
fn add_that_cannot_wire_gives_the_address_back_with_the_uid() {
    let text = "failed to Statfs \"/run/netns/n\": no such file or directory";
    let world = World { set_up: Some(text.to_owned()), ..World::default() };
    assert_eq!(world.fails("ADD", &conf()).1, format!("add command: failed to setup network: {text}"));
    assert_eq!(world.calls().last().unwrap(), "del SetupNSFailed u1");
}

#[test]
fn add_refuses_replies_it_cannot_use() {
    let with = |reply| World { add: Some(Ok(AddAnswer { reply, reason: None })), ..World::default() };
    let entry = |entry| AddNetworkReply { ip_allocation_metadata: vec![entry], ..granted() };
    let none = AddNetworkReply { ip_allocation_metadata: Vec::new(), ..granted() };
    let garbage = IpAllocationMetadata { ipv4_addr: "10.0.0".to_owned(), ..Default::default() };
    let negative = IpAllocationMetadata { ipv4_addr: "10.0.0.4".to_owned(), route_table_id: -1, ..Default::default() };
    for (reply, cause) in [
        (none, "ipamd's reply has no address"),
        (entry(IpAllocationMetadata::default()), "an entry of ipamd's reply has no address"),
        (entry(garbage), "\"10.0.0\" in ipamd's reply is no address"),
        (entry(negative), "route table -1 of 10.0.0.4 is negative"),
    ] {
        let world = with(reply);
        assert_eq!(world.fails("ADD", &conf()).1, format!("add command: failed to setup network: {cause}"));
        assert_eq!(world.calls().last().unwrap(), "del SetupNSFailed u1");
    }
}

/// What ipamd says of a pod with a branch interface (spec 04 §6.1).
fn branch() -> AddNetworkReply {
    let entry =
        IpAllocationMetadata { device_number: -1, route_table_id: 0, ..granted().ip_allocation_metadata[0].clone() };
    AddNetworkReply {
        ip_allocation_metadata: vec![entry],
        pod_vlan_id: 7,
        pod_eni_mac: "02:aa:bb:cc:dd:ee".to_owned(),
        pod_eni_subnet_gw: "10.0.0.1".to_owned(),
        parent_if_index: 4,
        ..granted()
    }
}

fn answering(reply: AddNetworkReply) -> World {
    World { add: Some(Ok(AddAnswer { reply, reason: None })), ..World::default() }
}

#[test]
fn a_branch_pod_is_wired_checked_and_torn_down_without_ipamd() {
    for (mode, veth, word) in [("strict", "vlan0761ccbeace", "Strict"), ("standard", "eni0761ccbeace", "Standard")] {
        let mut conf = conf();
        conf["podSGEnforcingMode"] = mode.into();
        let world = answering(branch());
        let result: Value = serde_json::from_str(&world.succeeds("ADD", &conf)).unwrap();
        let set_up =
            format!("set up branch {veth} 10.0.0.4 vlan 7 via 10.0.0.1 mac 02:aa:bb:cc:dd:ee on #4 mtu 9001 {word}");
        assert_eq!(world.calls().last(), Some(&set_up));
        let expected = json!([
            {"name": veth}, {"name": "eth0", "mac": "0", "sandbox": "/run/netns/n"},
            {"name": "dummy0761ccbeace", "mac": "7"}]);
        assert_eq!(result["interfaces"], expected);
        assert_eq!(result["ips"][0]["gateway"], "10.0.0.1");

        // The node's mode is another by now: the pod keeps the one it was born with.
        let mut later = conf.clone();
        later["podSGEnforcingMode"] = if mode == "strict" { "standard" } else { "strict" }.into();
        later["prevResult"] = result;
        let world = World::default();
        world.succeeds("CHECK", &later);
        world.succeeds("DEL", &later);
        let check = format!("check branch {veth} 10.0.0.4 via 10.0.0.1 {word}");
        assert_eq!(world.calls(), [check.as_str(), "tear down branch 7 10.0.0.4"]);
    }
}

#[test]
fn what_cannot_be_in_a_branch_reply_is_named_and_given_back() {
    for (reply, cause) in [
        (AddNetworkReply { pod_eni_mac: "x".to_owned(), ..branch() }, "\"x\" of ipamd's reply is no MAC address"),
        (
            AddNetworkReply { pod_eni_subnet_gw: String::new(), ..branch() },
            "gateway \"\" of ipamd's reply is no address",
        ),
        (AddNetworkReply { parent_if_index: 0, ..branch() }, "0 of ipamd's reply is no interface index"),
        (AddNetworkReply { pod_vlan_id: 70_000, ..branch() }, "70000 of ipamd's reply is no vlan"),
        (AddNetworkReply { ip_allocation_metadata: Vec::new(), ..branch() }, "ipamd's reply has no address"),
    ] {
        let world = answering(reply);
        assert_eq!(world.fails("ADD", &conf()).1, format!("add command: failed to setup network: {cause}"));
        assert_eq!(world.calls().last().unwrap(), "del SetupNSFailed u1");
    }
}

#[test]
fn del_of_a_branch_pod_by_ipamds_answer() {
    let answer = |entries: Vec<IpAllocationMetadata>| World {
        del: Some(Ok(DelNetworkReply {
            success: true,
            pod_vlan_id: 9,
            ip_allocation_metadata: entries,
            ..DelNetworkReply::default()
        })),
        ..World::default()
    };
    let world = answer(granted().ip_allocation_metadata);
    world.succeeds("DEL", &conf());
    assert_eq!(world.calls().last().unwrap(), "tear down branch 9 10.0.0.4");
    // An older ipamd does not say which address it was, in IPv6 mode (DW-10).
    let world = answer(Vec::new());
    world.succeeds("DEL", &conf());
    assert_eq!(world.calls().last().unwrap(), "tear down branch 9 ");
}

#[test]
fn add_into_the_plugins_own_namespace_touches_nothing() {
    let world = World { own_namespace: true, ..World::default() };
    let (code, msg, _) = world.fails("ADD", &conf());
    assert_eq!((code, msg.as_str()), (8, "plugin's netns and netns from CNI_NETNS should not be the same"));
    assert!(world.calls().is_empty());
}

#[test]
fn the_policy_agent_is_asked_unless_the_mode_is_none() {
    for (mode, asked) in [("", false), ("none", false), ("None", false), ("strict", true), ("STANDARD", true)] {
        let reply = AddNetworkReply { network_policy_mode: mode.to_owned(), ..granted() };
        let world = World { add: Some(Ok(AddAnswer { reply, reason: None })), ..World::default() };
        world.succeeds("ADD", &conf());
        assert_eq!(world.calls().contains(&format!("enforce {mode}")), asked, "{mode:?}");
    }
}

#[test]
fn del_of_an_unknown_pod_succeeds_and_cleans_up_what_was_left() {
    let world = World { del: Some(Err(unknown_pod())), ..World::default() };
    assert_eq!(world.succeeds("DEL", &conf()), "", "without a saved result there is nothing to do");
    assert_eq!(world.calls(), ["del PodDeleted u1"]);

    // With ENABLE_POD_ENI the cluster is asked too: of a pod that is gone there ipamd knows nothing (spec 02 §4.2).
    let nothing = DelNetworkReply { success: true, ..DelNetworkReply::default() };
    for answer in [Err(unknown_pod()), Ok(nothing)] {
        let world = World { del: Some(answer), ..World::default() };
        world.succeeds("DEL", &conf_after_add());
        assert_eq!(world.calls(), ["del PodDeleted u1", "tear down 10.0.0.4 table 2"]);
    }
}

#[test]
fn del_by_a_saved_result_leaves_an_address_of_another_pod_alone() {
    let route =
        |device: &str| World { del: Some(Err(unknown_pod())), route: Some(device.to_owned()), ..World::default() };
    let another = route("eniffffffffff");
    another.succeeds("DEL", &conf_after_add());
    assert_eq!(another.calls(), ["del PodDeleted u1"]);

    let own = route("eni0761ccbeace");
    own.succeeds("DEL", &conf_after_add());
    assert_eq!(own.calls().last().unwrap(), "tear down 10.0.0.4 table 2");

    let successor = World { netns_gone: true, ..route("eni0761ccbeace") };
    successor.succeeds("DEL", &conf_after_add());
    assert_eq!(successor.calls(), ["del PodDeleted u1"], "of a pod with the same name");
}

#[test]
fn del_with_ipamd_down_tears_down_by_the_saved_result() {
    let world = World { del: Some(Err(RpcError::unavailable("nobody"))), ..World::default() };
    assert_eq!(world.succeeds("DEL", &conf_after_add()), "");
    assert_eq!(world.calls(), ["del PodDeleted u1", "tear down 10.0.0.4 table 2"]);
}

#[test]
fn del_does_not_fail_for_the_policy_agent() {
    let entry = granted().ip_allocation_metadata;
    let reply = DelNetworkReply {
        success: true,
        ip_allocation_metadata: entry,
        network_policy_mode: "strict".to_owned(),
        ..Default::default()
    };
    let world = World { del: Some(Ok(reply)), agent: Some(RpcError::unavailable("nobody")), ..World::default() };
    world.succeeds("DEL", &conf());
    assert_eq!(world.calls(), ["del PodDeleted u1", "tear down 10.0.0.4 table 2", "delete policy"]);
}

#[test]
fn check_compares_with_the_saved_result() {
    let world = World::default();
    assert_eq!(world.succeeds("CHECK", &conf_after_add()), "");
    assert_eq!(world.calls(), ["check 10.0.0.4 table 2"]);

    let differs = World { check: Some(vec!["interface eth0 is down".to_owned(), "x".to_owned()]), ..World::default() };
    assert_eq!(differs.fails("CHECK", &conf_after_add()).1, "check cmd: interface eth0 is down; x");

    let mut foreign = conf();
    foreign["prevResult"] = json!({"interfaces": [{"name": "eth0"}]});
    assert!(world.fails("CHECK", &foreign).1.contains("no dummy interface"));
}

/// A pod with an interface on each of two network cards, of an IPv6 cluster.
fn granted_twice() -> AddNetworkReply {
    let entry = |address: &str, device_number, route_table_id| IpAllocationMetadata {
        ipv6_addr: address.to_owned(),
        device_number,
        route_table_id,
        ..Default::default()
    };
    let ip_allocation_metadata =
        vec![entry("2600:1f14:abc:d00:5c1e::4", 0, 254), entry("2600:1f14:abc:d00:7a20::2", 1, 10_101)];
    AddNetworkReply { success: true, ip_allocation_metadata, ..AddNetworkReply::default() }
}

#[test]
fn a_pod_with_several_interfaces_comes_and_goes_as_a_whole() {
    let world = || {
        let answer = AddAnswer { reply: granted_twice(), reason: None };
        World { add: Some(Ok(answer)), ..World::default() }
    };
    let adding = world();
    let result: Value = serde_json::from_str(&adding.succeeds("ADD", &conf())).unwrap();
    assert_eq!(
        result,
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "eni0761ccbeace"},
                {"name": "eth0", "mac": "254", "sandbox": "/run/netns/n"},
                {"name": "eni2e5938ed6f6"},
                {"name": "mNicIf1", "mac": "10101", "sandbox": "/run/netns/n"},
                {"name": "dummy0761ccbeace", "mac": "0", "sandbox": "0"},
            ],
            "ips": [
                {"interface": 1, "address": "2600:1f14:abc:d00:5c1e::4/128"},
                {"interface": 3, "address": "2600:1f14:abc:d00:7a20::2/128"},
            ],
        })
    );
    assert_eq!(adding.calls()[1], "set up eni0761ccbeace eni2e5938ed6f6 mtu 9001");

    let mut after = conf();
    after["prevResult"] = result;
    let both = "2600:1f14:abc:d00:5c1e::4 table 254, 2600:1f14:abc:d00:7a20::2 table 10101";
    let checking = world();
    checking.succeeds("CHECK", &after);
    assert_eq!(checking.calls(), [format!("check {both}")]);

    let reply = DelNetworkReply {
        success: true,
        ip_allocation_metadata: granted_twice().ip_allocation_metadata,
        ..Default::default()
    };
    for answer in [Ok(reply), Err(RpcError::unavailable("nobody")), Err(unknown_pod())] {
        let deleting = World { del: Some(answer), ..World::default() };
        deleting.succeeds("DEL", &after);
        assert_eq!(deleting.calls().last().unwrap(), &format!("tear down {both}"));
    }
}

#[test]
fn configuration_errors_name_the_command_and_the_value() {
    let world = World::default();
    let mut conf = conf();
    conf["mtu"] = json!(9001);
    let expected = "cmd: error loading config from args: \"mtu\" must be a string, but is 9001";
    assert_eq!(world.fails("ADD", &conf), (999, format!("add {expected}"), Value::Null));
    assert_eq!(world.fails("DEL", &conf).1, format!("del {expected}"));
}
