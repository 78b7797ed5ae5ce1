//! What is fuzzed: the whole plugin with any configuration on stdin, and the reading of results. Used by the fuzzers,
//! and by a test of `aws-cni` that runs the seeds and a bounded number of changed ones.
#![allow(dead_code, reason = "each fuzzer uses one")]

#[path = "protocol.rs"]
mod protocol;

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::Path;

use aws_cni::args::PodArgs;
use aws_cni::inputs::Environment;
use aws_cni::netconf::{Header, NetConf};
use aws_cni::peers::{AddAnswer, Peers, RpcError};
use aws_cni::pod_net::PodNet;
use aws_cni::prev_result::PrevResult;
use aws_cni::{Deps, Reply, run};
use cni_plugin::version::CniVersion;
use reservoir_net::Error;
use reservoir_net::branch::{BranchPod, BranchSetup};
use reservoir_net::pod::{PodAddress, PodSetup};
use reservoir_rpc::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, DeleteNpRequest, EnforceNpRequest,
    IpAllocationMetadata, UNKNOWN_POD,
};
use serde_json::{Map, Value};
use tonic::Code;

use protocol::{COMMANDS, judge, quiet};

/// Byte 0: the command; byte 1: who ipamd is; the rest: stdin.
///
/// # Panics
/// When the plugin answers with anything but the protocol, or its DEL does not remove what its ADD made.
pub fn stdin(data: &[u8]) {
    let [command, ipamd, stdin @ ..] = data else { return };
    if let Ok(header) = Header::parse(stdin)
        && let Ok(version) = header.version()
    {
        let _ = NetConf::load(header, version);
    }
    let conf = quiet(stdin);
    let command = COMMANDS[usize::from(*command) % COMMANDS.len()];
    let world = World::new(*ipamd);
    let reply = world.run(command, &conf);
    judge(command, &reply);
    if command == "ADD" && reply.exit == 0 {
        del_after_add(&world, &conf, &reply);
    }
}

/// Any object as a result, in a configuration of any version.
///
/// # Panics
/// As [`stdin`].
pub fn prev_result(data: &[u8]) {
    let Ok(Value::Object(result)) = serde_json::from_slice(data) else { return };
    for version in CniVersion::ALL {
        let Ok(parsed) = PrevResult::parse(&result, version) else { continue };
        for args in [PodArgs::default(), pod_args()] {
            let vlan = parsed.branch_vlan(&args);
            let _ = parsed.branch(vlan.ok().flatten().unwrap_or(7), "eth0");
            if let Ok(saved) = parsed.addresses(&args, "eth0") {
                assert!(saved.len() <= parsed.interfaces.len(), "{saved:?}");
                assert!(saved.iter().all(|s| parsed.interfaces.iter().any(|i| i.name == s.interface)), "{saved:?}");
            }
        }
        for (command, ipamd) in [("DEL", 0), ("DEL", 5), ("DEL", 6), ("CHECK", 0)] {
            let mut conf = Map::new();
            conf.insert("cniVersion".to_owned(), version.as_str().into());
            conf.insert("name".to_owned(), "n".into());
            conf.insert("prevResult".to_owned(), Value::Object(result.clone()));
            let reply = World::new(ipamd).run(command, &quiet(Value::Object(conf).to_string().as_bytes()));
            judge(command, &reply);
        }
    }
}

/// With ipamd gone, DEL removes by the result of ADD exactly what ADD made.
fn del_after_add(world: &World, conf: &[u8], reply: &Reply) {
    let result: Value = serde_json::from_str(&reply.stdout).expect("a result");
    let Ok(Value::Object(mut conf)) = serde_json::from_slice(conf) else { panic!("ADD without a configuration") };
    // The old form has no interfaces: nothing can be known from it.
    if result["interfaces"].is_null() {
        return;
    }
    conf.retain(|key, _| !key.eq_ignore_ascii_case("prevResult"));
    conf.insert("prevResult".to_owned(), result);
    let gone = World::new(6);
    let deleted = gone.run("DEL", Value::Object(conf).to_string().as_bytes());
    assert_eq!((deleted.exit, deleted.stdout.as_str()), (0, ""), "{deleted:?}");
    assert_eq!(*world.made.borrow(), *gone.removed.borrow());
}

fn pod_args() -> PodArgs {
    PodArgs { name: "web-1".to_owned(), namespace: "default".to_owned(), ..PodArgs::default() }
}

/// An ipamd of many kinds, and a kernel in which all goes well.
struct World {
    ipamd: u8,
    made: RefCell<Vec<IpAddr>>,
    removed: RefCell<Vec<IpAddr>>,
}

impl World {
    fn new(ipamd: u8) -> Self {
        Self { ipamd: ipamd % 8, made: RefCell::default(), removed: RefCell::default() }
    }

    fn run(&self, command: &str, conf: &[u8]) -> Reply {
        let env = Environment {
            command: command.to_owned(),
            container_id: "c1".to_owned(),
            netns: "/nonexistent/netns".to_owned(),
            ifname: "eth0".to_owned(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID=u1".to_owned(),
            path: "/opt/cni/bin".to_owned(),
            netns_override: false,
        };
        run(&env, &mut &*conf, Deps { peers: self, net: self })
    }

    fn entries(&self) -> Vec<IpAllocationMetadata> {
        let entry = |v4: &str, v6: &str, table| IpAllocationMetadata {
            ipv4_addr: v4.to_owned(),
            ipv6_addr: v6.to_owned(),
            device_number: 1,
            route_table_id: table,
        };
        match self.ipamd {
            0 | 3 => vec![entry("10.0.0.4", "", 2)],
            1 => vec![entry("", "2600::4", 254)],
            2 => vec![entry("10.0.0.4", "", 254), entry("10.1.0.4", "", 10_101), entry("", "2600::5", 10_201)],
            4 => vec![entry("not an address", "", -1)],
            _ => Vec::new(),
        }
    }

    fn vlan(&self) -> i32 {
        if self.ipamd == 3 { 7 } else { 0 }
    }
}

impl Peers for World {
    fn add_network(&self, _: &Path, _: AddNetworkRequest) -> Result<AddAnswer, RpcError> {
        if self.ipamd > 5 {
            return Err(RpcError::unavailable("nobody"));
        }
        let reply = AddNetworkReply {
            success: true,
            ip_allocation_metadata: self.entries(),
            pod_vlan_id: self.vlan(),
            pod_eni_mac: "02:aa:bb:cc:dd:ee".to_owned(),
            pod_eni_subnet_gw: "10.0.0.1".to_owned(),
            parent_if_index: 4,
            ..AddNetworkReply::default()
        };
        Ok(AddAnswer { reply, reason: None })
    }

    fn del_network(&self, _: &Path, _: DelNetworkRequest) -> Result<DelNetworkReply, RpcError> {
        match self.ipamd {
            5 => Err(RpcError { code: Code::NotFound, message: UNKNOWN_POD.to_owned() }),
            6.. => Err(RpcError::unavailable("nobody")),
            _ => Ok(DelNetworkReply {
                success: true,
                ip_allocation_metadata: self.entries(),
                pod_vlan_id: self.vlan(),
                ..DelNetworkReply::default()
            }),
        }
    }

    fn serving(&self, _: &Path) -> Result<bool, RpcError> {
        if self.ipamd > 5 { Err(RpcError::unavailable("nobody")) } else { Ok(self.ipamd > 0) }
    }

    fn enforce_policy(&self, _: EnforceNpRequest) -> Result<bool, RpcError> {
        Ok(true)
    }

    fn delete_policy(&self, _: DeleteNpRequest) -> Result<bool, RpcError> {
        Ok(true)
    }
}

impl PodNet for World {
    fn set_up(&self, setup: &PodSetup) -> Result<(), Error> {
        self.made.borrow_mut().extend(setup.interfaces.iter().map(|i| i.address));
        Ok(())
    }

    fn check(&self, _: &PodSetup) -> Result<(), Error> {
        Ok(())
    }

    fn tear_down(&self, addresses: &[PodAddress]) -> Result<(), Error> {
        self.removed.borrow_mut().extend(addresses.iter().map(|a| a.address));
        Ok(())
    }

    fn set_up_branch(&self, setup: &BranchSetup) -> Result<(), Error> {
        self.made.borrow_mut().push(setup.pod.address);
        Ok(())
    }

    fn check_branch(&self, _: &BranchPod) -> Result<(), Error> {
        Ok(())
    }

    fn tear_down_branch(&self, _: u16, address: Option<IpAddr>) -> Result<(), Error> {
        self.removed.borrow_mut().extend(address);
        Ok(())
    }

    fn route_device(&self, _: IpAddr) -> Result<Option<String>, Error> {
        Ok(None)
    }
}
