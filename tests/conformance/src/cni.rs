//! `datapath.json`, categories `cni_protocol`, `cni_add`, `cni_del`: the plugin as a function, with an ipamd, a network
//! policy agent and a kernel that answer as the case says and remember what they were asked.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::Path;

use aws_cni::inputs::Environment;
use aws_cni::peers::{AddAnswer, Peers, RpcError};
use aws_cni::pod_net::PodNet;
use aws_cni::{Deps, Reply, run as run_plugin};
use reservoir_net::Error;
use reservoir_net::branch::{BranchPod, BranchSetup};
use reservoir_net::pod::{PodAddress, PodSetup};
use reservoir_rpc::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, DeleteNpRequest, EnforceNpRequest,
    IpAllocationMetadata, VERSION,
};
use serde_json::{Value, json};

use crate::{CaseResult, Outcome};

/// Runs a case of the three categories; `None` for one of another.
pub(crate) fn run_case(case: &Value) -> Option<CaseResult> {
    let text = |key: &str| case[key].as_str().unwrap_or_default();
    let outcome = match text("category") {
        "cni_protocol" => protocol(case),
        "cni_add" => add(case),
        "cni_del" => del(case),
        _ => return None,
    };
    Some(CaseResult::new(text("category"), text("name"), outcome))
}

/// Everything around the plugin.
#[derive(Default)]
struct World {
    /// What ipamd answers to AddNetwork and DelNetwork.
    add: AddNetworkReply,
    del: Option<Result<DelNetworkReply, RpcError>>,
    /// What goes wrong in the kernel; empty for nothing.
    driver_error: String,
    agent_fails: bool,
    seen: RefCell<Seen>,
}

#[derive(Default)]
struct Seen {
    add: Option<AddNetworkRequest>,
    del: Option<DelNetworkRequest>,
    set_up: Option<PodSetup>,
    torn_down: Option<Vec<PodAddress>>,
    branch: Option<BranchSetup>,
    branch_torn_down: Option<(u16, Option<IpAddr>)>,
    enforced: Option<EnforceNpRequest>,
    agent_asked: bool,
}

impl Peers for World {
    fn add_network(&self, _: &Path, request: AddNetworkRequest) -> Result<AddAnswer, RpcError> {
        self.seen.borrow_mut().add = Some(request);
        Ok(AddAnswer { reply: self.add.clone(), reason: None })
    }

    fn del_network(&self, _: &Path, request: DelNetworkRequest) -> Result<DelNetworkReply, RpcError> {
        self.seen.borrow_mut().del = Some(request);
        self.del.clone().unwrap_or(Ok(DelNetworkReply { success: true, ..DelNetworkReply::default() }))
    }

    fn serving(&self, _: &Path) -> Result<bool, RpcError> {
        Ok(true)
    }

    fn enforce_policy(&self, request: EnforceNpRequest) -> Result<bool, RpcError> {
        let mut seen = self.seen.borrow_mut();
        seen.enforced = Some(request);
        seen.agent_asked = true;
        self.agent_answer()
    }

    fn delete_policy(&self, _: DeleteNpRequest) -> Result<bool, RpcError> {
        self.seen.borrow_mut().agent_asked = true;
        self.agent_answer()
    }
}

impl PodNet for World {
    fn set_up(&self, setup: &PodSetup) -> Result<(), Error> {
        self.seen.borrow_mut().set_up = Some(setup.clone());
        self.driver_answer()
    }

    fn check(&self, _: &PodSetup) -> Result<(), Error> {
        self.driver_answer()
    }

    fn tear_down(&self, addresses: &[PodAddress]) -> Result<(), Error> {
        self.seen.borrow_mut().torn_down = Some(addresses.to_vec());
        self.driver_answer()
    }

    fn set_up_branch(&self, setup: &BranchSetup) -> Result<(), Error> {
        self.seen.borrow_mut().branch = Some(setup.clone());
        self.driver_answer()
    }

    fn check_branch(&self, _: &BranchPod) -> Result<(), Error> {
        self.driver_answer()
    }

    fn tear_down_branch(&self, vlan: u16, address: Option<IpAddr>) -> Result<(), Error> {
        self.seen.borrow_mut().branch_torn_down = Some((vlan, address));
        self.driver_answer()
    }

    /// The address is no other pod's.
    fn route_device(&self, _: IpAddr) -> Result<Option<String>, Error> {
        Ok(None)
    }

    /// The other paths of the cases are other namespaces, whatever they happen to be on this machine.
    fn is_own_namespace(&self, netns: &Path) -> bool {
        netns == Path::new("/proc/self/ns/net")
    }
}

impl World {
    fn agent_answer(&self) -> Result<bool, RpcError> {
        if self.agent_fails { Err(RpcError::unavailable("error")) } else { Ok(true) }
    }

    fn driver_answer(&self) -> Result<(), Error> {
        if self.driver_error.is_empty() { Ok(()) } else { Err(Error::Invalid(self.driver_error.clone())) }
    }

    fn run(&self, env: &Environment, stdin: &Value) -> Reply {
        let text = match stdin {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        run_plugin(env, &mut text.as_bytes(), Deps { peers: self, net: self })
    }
}

fn protocol(case: &Value) -> Outcome {
    let variables = &case["inputs"]["env"];
    let env = Environment::read(|name| variables[name].as_str().map(Into::into));
    let reply = World::default().run(&env, &case["inputs"]["stdin"]);
    all([output(&case["expected"], &reply)])
}

/// ADD or DEL of the pod in the case.
fn environment(command: &str, inputs: &Value) -> Environment {
    let text = |key: &str| inputs[key].as_str().unwrap_or_default().to_owned();
    let args = match inputs["cni_args"].as_str() {
        Some(args) => args.to_owned(),
        None => format!(
            "K8S_POD_NAMESPACE={};K8S_POD_NAME={}",
            inputs["pod"]["namespace"].as_str().unwrap_or_default(),
            inputs["pod"]["name"].as_str().unwrap_or_default()
        ),
    };
    Environment {
        command: command.to_owned(),
        container_id: text("container_id"),
        netns: text("cni_netns"),
        ifname: text("cni_ifname"),
        args,
        path: "/opt/cni/bin".to_owned(),
        netns_override: false,
    }
}

fn add(case: &Value) -> Outcome {
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let world = World {
        add: add_reply(&inputs["add_reply"]),
        driver_error: driver_error(inputs),
        agent_fails: inputs["npa"] == "error",
        ..World::default()
    };
    let reply = world.run(&environment("ADD", inputs), &inputs["netconf"]);
    let seen = world.seen.into_inner();
    let mut checks = vec![output(expected, &reply)];
    if expected["driver_call"] == "regular" {
        let addresses: Vec<String> =
            seen.set_up.iter().flat_map(|s| &s.interfaces).map(|i| i.address.to_string()).collect();
        let wanted: Vec<String> = world.add.ip_allocation_metadata.iter().map(address_text).collect();
        checks.push(same("addresses wired", json!(wanted), json!(addresses)));
    }
    if expected["driver_call"] == "branch" {
        let got = seen.branch.map(|s| {
            json!({"PodVlanId": s.pod.vlan, "PodENIMAC": s.mac.to_string(), "PodENISubnetGW": s.pod.gateway,
                "ParentIfIndex": s.trunk})
        });
        checks.push(part("add_reply", &json!(got), &inputs["add_reply"]));
        checks.push(same("branch wired", json!(true), json!(got.is_some())));
    }
    if let Some(call) = expected.get("npa_call") {
        let got = seen.enforced.as_ref().map_or(Value::Null, |request| {
            json!({
                "K8S_POD_NAME": request.k8s_pod_name,
                "K8S_POD_NAMESPACE": request.k8s_pod_namespace,
                "NETWORK_POLICY_MODE": request.network_policy_mode,
                "InterfaceCount": request.interface_count,
            })
        });
        checks.push(same("npa_call", call.clone(), got));
    }
    match expected.get("del_rpc_sent") {
        Some(Value::Bool(sent)) => checks.push(same("del_rpc_sent", json!(sent), json!(seen.del.is_some()))),
        Some(request) => checks.push(part("del_rpc_sent", request, &del_request(seen.del.as_ref()))),
        None => {}
    }
    if let Some(request) = expected.get("request") {
        checks.push(part("request", request, &add_request(seen.add.as_ref())));
        let version = seen.add.map(|request| request.client_version);
        checks.push(same("ClientVersion", json!(VERSION), json!(version)));
    }
    all(checks)
}

fn del(case: &Value) -> Outcome {
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let ipamd = &inputs["ipamd"];
    let answer = if let Some(code) = ipamd["rpc_error"].as_str() {
        let code = if code == "Unavailable" { tonic::Code::Unavailable } else { tonic::Code::Unknown };
        Some(Err(RpcError { code, message: ipamd["desc"].as_str().unwrap_or_default().to_owned() }))
    } else {
        ipamd["reply"].is_object().then(|| Ok(del_reply(&ipamd["reply"])))
    };
    let world = World {
        del: answer,
        driver_error: driver_error(inputs),
        agent_fails: inputs["npa"] == "error",
        ..World::default()
    };
    let reply = world.run(&environment("DEL", inputs), &inputs["netconf"]);
    let seen = world.seen.into_inner();
    let mut checks = vec![output(expected, &reply)];
    if let Some(called) = expected.get("ipamd_called") {
        checks.push(same("ipamd_called", called.clone(), json!(seen.del.is_some())));
    }
    if let Some(called) = expected.get("npa_called") {
        checks.push(same("npa_called", called.clone(), json!(seen.agent_asked)));
    }
    if let Some(teardown) = expected.get("branch_teardown") {
        let got = seen.branch_torn_down.map(|(vlan, address)| {
            let length = if address.is_some_and(|a| a.is_ipv4()) { 32 } else { 128 };
            let address = address.map(|a| format!("{a}/{length}"));
            json!({"address": address, "vlan_id": vlan})
        });
        checks.push(same("branch_teardown", teardown.clone(), json!(got)));
    }
    if let Some(teardown) = expected.get("teardown") {
        let got = seen.torn_down.map(|addresses| {
            let entry = |a: &PodAddress| json!({"address": format!("{}/32", a.address), "route_table": a.table});
            addresses.iter().map(entry).collect::<Vec<_>>()
        });
        // The better answer, in words in the file: what an earlier DEL left is removed by the saved result.
        let wanted = if case["requirement"] == "reference_quirk" && teardown.is_null() {
            saved_teardown(&inputs["netconf"]["prevResult"])
        } else {
            teardown.clone()
        };
        checks.push(same("teardown", wanted, json!(got)));
    }
    all(checks)
}

/// The addresses of a previous result of one interface, without our parser: its table is the device number's.
fn saved_teardown(result: &Value) -> Value {
    let interfaces = result["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let dummy = interfaces.iter().find(|entry| entry["name"].as_str().is_some_and(|name| name.starts_with("dummy")));
    let device = dummy.and_then(|dummy| dummy["sandbox"].as_str()?.parse::<u32>().ok());
    let table = match device {
        Some(0) => 254,
        Some(device) => device + 1,
        None => return Value::Null,
    };
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    ips.iter().map(|ip| json!({"address": ip["address"], "route_table": table})).collect()
}

fn driver_error(inputs: &Value) -> String {
    inputs["driver"].as_str().filter(|text| *text != "ok").unwrap_or_default().to_owned()
}

fn number(value: &Value) -> i32 {
    value.as_i64().and_then(|number| number.try_into().ok()).unwrap_or_default()
}

fn entries(reply: &Value) -> Vec<IpAllocationMetadata> {
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let entries = reply["IPAllocationMetadata"].as_array().map(Vec::as_slice).unwrap_or_default();
    let entry = |entry: &Value| IpAllocationMetadata {
        ipv4_addr: text(entry, "IPv4Addr"),
        ipv6_addr: text(entry, "IPv6Addr"),
        device_number: number(&entry["DeviceNumber"]),
        route_table_id: number(&entry["RouteTableId"]),
    };
    entries.iter().map(entry).collect()
}

fn address_text(entry: &IpAllocationMetadata) -> String {
    if entry.ipv4_addr.is_empty() { entry.ipv6_addr.clone() } else { entry.ipv4_addr.clone() }
}

fn add_reply(reply: &Value) -> AddNetworkReply {
    let text = |key: &str| reply[key].as_str().unwrap_or_default().to_owned();
    AddNetworkReply {
        success: reply["Success"] == true,
        ip_allocation_metadata: entries(reply),
        network_policy_mode: text("NetworkPolicyMode"),
        pod_vlan_id: number(&reply["PodVlanId"]),
        pod_eni_mac: text("PodENIMAC"),
        pod_eni_subnet_gw: text("PodENISubnetGW"),
        parent_if_index: number(&reply["ParentIfIndex"]),
        ..AddNetworkReply::default()
    }
}

fn del_reply(reply: &Value) -> DelNetworkReply {
    DelNetworkReply {
        success: reply["Success"] == true,
        ip_allocation_metadata: entries(reply),
        pod_vlan_id: number(&reply["PodVlanId"]),
        network_policy_mode: reply["NetworkPolicyMode"].as_str().unwrap_or_default().to_owned(),
    }
}

fn add_request(request: Option<&AddNetworkRequest>) -> Value {
    let Some(request) = request else { return Value::Null };
    json!({
        "K8S_POD_NAME": request.k8s_pod_name,
        "K8S_POD_NAMESPACE": request.k8s_pod_namespace,
        "K8S_POD_INFRA_CONTAINER_ID": request.k8s_pod_infra_container_id,
        "Netns": request.netns,
        "IfName": request.if_name,
        "NetworkName": request.network_name,
        "ContainerID": request.container_id,
        "RequiresMultiNICAttachment": request.requires_multi_nic_attachment,
    })
}

fn del_request(request: Option<&DelNetworkRequest>) -> Value {
    let Some(request) = request else { return Value::Null };
    json!({
        "K8S_POD_NAME": request.k8s_pod_name,
        "K8S_POD_NAMESPACE": request.k8s_pod_namespace,
        "K8S_POD_INFRA_CONTAINER_ID": request.k8s_pod_infra_container_id,
        "K8S_POD_UID": request.k8s_pod_uid,
        "Reason": request.reason,
        "IfName": request.if_name,
        "NetworkName": request.network_name,
        "ContainerID": request.container_id,
    })
}

/// What is expected, and what came.
type Difference = Option<(String, String)>;

fn same(what: &str, expected: Value, got: Value) -> Difference {
    (expected != got).then(|| (format!("{what} {expected}"), got.to_string()))
}

/// Every key of `expected` has its value in `got`.
fn part(what: &str, expected: &Value, got: &Value) -> Difference {
    let keys = expected.as_object()?;
    keys.iter().find_map(|(key, value)| same(&format!("{what}.{key}"), value.clone(), got[key].clone()))
}

/// Exit code and stdout; a case may fix both or only parts of the error.
fn output(expected: &Value, reply: &Reply) -> Difference {
    let parsed = || serde_json::from_str(&reply.stdout).unwrap_or_else(|_| json!(reply.stdout));
    let stdout = match expected.get("stdout") {
        Some(Value::String(text)) => same("stdout", json!(text), json!(reply.stdout)),
        Some(value) => same("stdout", value.clone(), parsed()),
        None => None,
    };
    let exit = expected.get("exit").and_then(|exit| same("exit", exit.clone(), json!(reply.exit)));
    let code = expected.get("stdout_code").and_then(|code| same("code", code.clone(), parsed()["code"].clone()));
    let prefix = expected["stdout_msg_prefix"].as_str().and_then(|prefix| {
        let msg = parsed()["msg"].clone();
        let holds = msg.as_str().is_some_and(|msg| msg.starts_with(prefix));
        (!holds).then(|| (format!("a msg that starts with {prefix:?}"), msg.to_string()))
    });
    stdout.or(exit).or(code).or(prefix)
}

fn all(checks: impl IntoIterator<Item = Difference>) -> Outcome {
    match checks.into_iter().flatten().next() {
        None => Outcome::Passed,
        Some((expected, got)) => Outcome::Failed { expected, got },
    }
}
