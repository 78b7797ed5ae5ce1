//! A node whose kernel does not matter: the simulated AWS and the daemon, pods that are calls of its gRPC.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use reservoir_rpc::config_server_backend_client::ConfigServerBackendClient;
use reservoir_rpc::{NetworkPolicyAgentConfigReply, uds};
use ring::backend::{Backend, Outcome};
use ring::{Node, Options};
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

pub const PROGRAMS: &[&str] = &["ip", "curl", "nft"];
pub const SERVING: i32 = 1;
pub const NOT_SERVING: i32 = 2;
pub const MINUTE: Duration = Duration::from_secs(60);

/// Subnets and groups of the accounts of host/sim.
pub const NODES: &str = "subnet-0a7c5e3b1d9f82464";
pub const PODS: &str = "subnet-0e8d6c4b2a0f97531";
pub const MORE: &str = "subnet-0b1c2d3e4f5a60718";
pub const GROUPS: [&str; 2] = ["sg-0d4e1f6a7b8c9d0e1", "sg-0f2a3b4c5d6e7f809"];
pub const ROLE: &str = "kubernetes.io/role/cni";

pub struct Lab {
    pub node: Node,
    pub backend: Backend,
    runtime: tokio::runtime::Runtime,
}

/// A node with this account and type; the daemon is not started yet.
pub fn lab(preset: &str, instance_type: &str, env: &[(&str, &str)]) -> Lab {
    let fixed = [("RESERVOIR_HOST_NETWORK", "none"), ("IP_COOLDOWN_PERIOD", "1"), ("RESERVOIR_ADD_WAIT_SECONDS", "30")];
    let options = Options {
        instance_type: instance_type.to_owned(),
        env: fixed.iter().chain(env).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        sim: vec!["--preset".to_owned(), preset.to_owned()],
        ..Options::of_tree()
    };
    let node = Node::new(options).unwrap();
    let backend = Backend::new(&node.socket());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    Lab { node, backend, runtime }
}

impl Lab {
    pub fn start(&mut self) {
        self.node.start_daemon().unwrap();
    }

    /// The daemon ends and starts with other variables; an empty value takes one away.
    pub fn restart(&mut self, env: &[(&str, &str)]) {
        self.node.end_daemon(Signal::TERM).unwrap();
        for (key, value) in env {
            self.node.set_env(key, value);
        }
        self.start();
    }

    pub fn try_add(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        match self.runtime.block_on(self.backend.add(name, name)) {
            Outcome::Done(addresses) => Ok(addresses),
            Outcome::Refused(why) | Outcome::NoAnswer(why) => Err(why),
        }
    }

    /// A pod that must get its address.
    pub fn add(&self, name: &str) -> IpAddr {
        let added = self.try_add(name);
        added.unwrap_or_else(|why| panic!("{name} gets no address: {why}\n{}", self.node.log_tail(20)))[0]
    }

    /// Pods at one time; what each came to.
    pub fn add_all(&self, names: &[String]) -> Vec<Result<Vec<IpAddr>, String>> {
        let calls: Vec<_> = names
            .iter()
            .map(|name| {
                let (backend, name) = (self.backend.clone(), name.clone());
                self.runtime.spawn(async move { backend.add(&name, &name).await })
            })
            .collect();
        let ended = calls.into_iter().map(|call| match self.runtime.block_on(call).unwrap() {
            Outcome::Done(addresses) => Ok(addresses),
            Outcome::Refused(why) | Outcome::NoAnswer(why) => Err(why),
        });
        ended.collect()
    }

    pub fn del(&self, name: &str) {
        let freed = self.runtime.block_on(self.backend.del(name, name));
        assert!(matches!(&freed, Outcome::Done(all) if !all.is_empty()), "{name}: {freed:?}");
    }

    /// What the health service says, as `grpc-health-probe` asks it: [`SERVING`] or [`NOT_SERVING`].
    pub fn health(&self) -> i32 {
        self.runtime.block_on(async {
            let connection = uds::connect(&self.node.socket(), Duration::from_secs(2)).await.unwrap();
            let request = HealthCheckRequest { service: reservoir_rpc::HEALTH_SERVICES[0].to_owned() };
            HealthClient::new(connection).check(request).await.unwrap().into_inner().status
        })
    }

    /// What the daemon tells the network policy agent at its start (spec 02 §2.7).
    pub fn policy_config(&self) -> NetworkPolicyAgentConfigReply {
        self.runtime.block_on(async {
            let connection = uds::connect(&self.node.socket(), Duration::from_secs(2)).await.unwrap();
            ConfigServerBackendClient::new(connection).get_network_policy_configs(()).await.unwrap().into_inner()
        })
    }

    pub fn wait_for(&self, what: &str, so: impl FnMut(&Node) -> anyhow::Result<bool>) {
        self.node.wait_for(what, 2 * MINUTE, so).unwrap();
    }

    /// Waits until EC2 shows what is wanted, and the daemon has nothing under way.
    pub fn settles(&self, what: &str, mut so: impl FnMut(&Account) -> bool) {
        self.wait_for(what, |node| {
            let account = Account::of(node)?;
            anyhow::ensure!(so(&account), "{account:?}");
            Ok(node.metric("reservoir_ec2_calls_in_flight")? == 0.0)
        });
    }

    /// Nothing is wrong in the account.
    pub fn audit(&self) {
        assert_eq!(self.node.audit().unwrap(), json!([]));
    }
}

/// What EC2 shows of the node.
#[derive(Debug, PartialEq, Eq)]
pub struct Account {
    pub enis: Vec<Eni>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Eni {
    pub id: String,
    pub card: u64,
    pub device: u64,
    pub subnet: String,
    pub groups: Vec<String>,
    pub tags: Value,
    pub secondary: BTreeSet<String>,
    pub prefixes: BTreeSet<String>,
}

impl Account {
    pub fn of(node: &Node) -> anyhow::Result<Self> {
        let state = node.sim_state()?;
        let mut enis: Vec<Eni> = state["enis"].as_array().into_iter().flatten().map(Eni::of).collect();
        enis.sort_by_key(|e| (e.card, e.device));
        Ok(Self { enis })
    }

    pub fn addresses(&self) -> usize {
        self.enis.iter().map(|e| e.secondary.len()).sum()
    }

    pub fn prefixes(&self) -> usize {
        self.enis.iter().map(|e| e.prefixes.len()).sum()
    }

    /// Subnets of all but the primary interface.
    pub fn subnets(&self) -> Vec<&str> {
        self.enis.iter().filter(|e| (e.card, e.device) != (0, 0)).map(|e| e.subnet.as_str()).collect()
    }
}

impl Eni {
    fn of(eni: &Value) -> Self {
        let list = |name: &str| {
            let list = eni[name].as_array().into_iter().flatten();
            list.filter_map(|v| v.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        Self {
            id: eni["id"].as_str().unwrap_or_default().to_owned(),
            card: eni["attachment"]["card"].as_u64().unwrap_or(u64::MAX),
            device: eni["attachment"]["device_index"].as_u64().unwrap_or(u64::MAX),
            subnet: eni["subnet"].as_str().unwrap_or_default().to_owned(),
            groups: list("groups"),
            tags: eni["tags"].clone(),
            secondary: list("secondary").into_iter().collect(),
            prefixes: list("prefixes").into_iter().collect(),
        }
    }
}
