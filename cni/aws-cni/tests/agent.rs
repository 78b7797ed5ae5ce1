//! The network policy agent (spec 02 §2.6): a fake one on a real socket, by turns willing, refusing, silent and absent.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_cni::grpc::Grpc;
use aws_cni::inputs::Environment;
use aws_cni::peers::{AddAnswer, Peers, RpcError};
use aws_cni::pod_net::PodNet;
use aws_cni::{Deps, Reply, run};
use reservoir_net::Error;
use reservoir_net::branch::{BranchPod, BranchSetup};
use reservoir_net::pod::{PodAddress, PodSetup};
use reservoir_rpc::np_backend_server::{NpBackend, NpBackendServer};
use reservoir_rpc::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, DeleteNpReply, DeleteNpRequest,
    EnforceNpReply, EnforceNpRequest, IpAllocationMetadata,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// What kind of agent it is.
#[derive(Clone, Copy, PartialEq)]
enum Agent {
    /// Policy enforcement is on: knows two modes, in any letter case.
    Enforcing,
    /// It answers that it could not.
    Refusing,
    /// It never answers.
    Silent,
}

struct Backend {
    agent: Agent,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Backend {
    async fn answer(&self, call: String) -> bool {
        self.calls.lock().unwrap().push(call);
        if self.agent == Agent::Silent {
            std::future::pending::<()>().await;
        }
        self.agent != Agent::Refusing
    }
}

#[tonic::async_trait]
impl NpBackend for Backend {
    async fn enforce_np_to_pod(&self, request: Request<EnforceNpRequest>) -> Result<Response<EnforceNpReply>, Status> {
        let request = request.into_inner();
        let EnforceNpRequest { k8s_pod_name: pod, k8s_pod_namespace: namespace, network_policy_mode: mode, .. } =
            &request;
        let success = self.answer(format!("enforce {namespace}/{pod} {mode} {}", request.interface_count)).await;
        if !["standard", "strict"].contains(&mode.to_lowercase().as_str()) {
            return Err(Status::unknown("invalid network policy mode"));
        }
        Ok(Response::new(EnforceNpReply { success }))
    }

    async fn delete_pod_np(&self, request: Request<DeleteNpRequest>) -> Result<Response<DeleteNpReply>, Status> {
        let request = request.into_inner();
        let call = format!("delete {}/{}", request.k8s_pod_namespace, request.k8s_pod_name);
        Ok(Response::new(DeleteNpReply { success: self.answer(call).await }))
    }
}

/// An ipamd that says which mode it is, a kernel in which all goes well, and the real way to the agent.
struct World {
    mode: &'static str,
    agent: Grpc,
}

impl Peers for World {
    fn add_network(&self, _: &Path, _: AddNetworkRequest) -> Result<AddAnswer, RpcError> {
        let network_policy_mode = self.mode.to_owned();
        let reply = AddNetworkReply {
            success: true,
            ip_allocation_metadata: vec![entry()],
            network_policy_mode,
            ..AddNetworkReply::default()
        };
        Ok(AddAnswer { reply, reason: None })
    }

    fn del_network(&self, _: &Path, _: DelNetworkRequest) -> Result<DelNetworkReply, RpcError> {
        let network_policy_mode = self.mode.to_owned();
        let ip_allocation_metadata = vec![entry()];
        Ok(DelNetworkReply { success: true, ip_allocation_metadata, network_policy_mode, ..DelNetworkReply::default() })
    }

    fn serving(&self, _: &Path) -> Result<bool, RpcError> {
        Ok(true)
    }

    fn enforce_policy(&self, request: EnforceNpRequest) -> Result<bool, RpcError> {
        self.agent.enforce_policy(request)
    }

    fn delete_policy(&self, request: DeleteNpRequest) -> Result<bool, RpcError> {
        self.agent.delete_policy(request)
    }
}

impl PodNet for World {
    fn set_up(&self, _: &PodSetup) -> Result<(), Error> {
        Ok(())
    }

    fn check(&self, _: &PodSetup) -> Result<(), Error> {
        Ok(())
    }

    fn tear_down(&self, _: &[PodAddress]) -> Result<(), Error> {
        Ok(())
    }

    fn set_up_branch(&self, _: &BranchSetup) -> Result<(), Error> {
        Ok(())
    }

    fn check_branch(&self, _: &BranchPod) -> Result<(), Error> {
        Ok(())
    }

    fn tear_down_branch(&self, _: u16, _: Option<IpAddr>) -> Result<(), Error> {
        Ok(())
    }

    fn route_device(&self, _: IpAddr) -> Result<Option<String>, Error> {
        Ok(None)
    }
}

fn entry() -> IpAllocationMetadata {
    IpAllocationMetadata {
        ipv4_addr: "10.0.0.4".to_owned(),
        device_number: 1,
        route_table_id: 2,
        ..IpAllocationMetadata::default()
    }
}

/// One run of the plugin beside an agent, and what the agent was asked; without one its socket is not there.
fn plugin(agent: Option<Agent>, mode: &'static str, command: &str) -> (Reply, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let socket: PathBuf = directory.path().join("npa.sock");
    let calls = Arc::new(Mutex::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    if let Some(agent) = agent {
        let backend = Backend { agent, calls: Arc::clone(&calls) };
        let listener = runtime.block_on(async { UnixListener::bind(&socket) }).unwrap();
        let server = tonic::transport::Server::builder().add_service(NpBackendServer::new(backend));
        runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    }
    // A silent agent is waited for this long; one that answers does so at once.
    let deadline = if agent == Some(Agent::Silent) { Duration::from_millis(200) } else { Duration::from_secs(20) };
    let world = World { mode, agent: Grpc::with_agent(&socket, deadline) };
    let env = Environment {
        command: command.to_owned(),
        container_id: "c1".to_owned(),
        netns: "/run/netns/n".to_owned(),
        ifname: "eth0".to_owned(),
        args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID=u1".to_owned(),
        path: "/opt/cni/bin".to_owned(),
        netns_override: false,
    };
    let conf = r#"{"cniVersion": "1.0.0", "name": "aws-cni", "type": "aws-cni", "pluginLogLevel": "fatal"}"#;
    let reply = run(&env, &mut conf.as_bytes(), Deps { peers: &world, net: &world });
    runtime.shutdown_background();
    let calls = calls.lock().unwrap().clone();
    (reply, calls)
}

#[test]
fn a_willing_agent_is_told_of_every_pod_in_the_modes_it_knows() {
    for mode in ["strict", "standard", "Strict"] {
        let (reply, calls) = plugin(Some(Agent::Enforcing), mode, "ADD");
        assert_eq!((reply.exit, calls), (0, vec![format!("enforce default/web-1 {mode} 1")]), "{reply:?}");
        let (reply, calls) = plugin(Some(Agent::Enforcing), mode, "DEL");
        assert_eq!((reply.exit, calls), (0, vec!["delete default/web-1".to_owned()]), "{reply:?}");
    }
}

#[test]
fn without_a_policy_no_agent_is_needed() {
    for mode in ["", "none"] {
        for agent in [None, Some(Agent::Enforcing)] {
            for command in ["ADD", "DEL"] {
                let (reply, calls) = plugin(agent, mode, command);
                assert_eq!((reply.exit, calls.len()), (0, 0), "{mode:?} {command}: {reply:?}");
            }
        }
    }
}

#[test]
fn an_agent_that_is_absent_refuses_or_is_silent_fails_add_and_never_del() {
    for (agent, mode) in [
        (None, "strict"),
        (Some(Agent::Refusing), "strict"),
        (Some(Agent::Silent), "standard"),
        (Some(Agent::Enforcing), "a mode of tomorrow"),
    ] {
        let (reply, _) = plugin(agent, mode, "ADD");
        assert!(reply.exit == 1, "{mode}: {reply:?}");
        assert!(reply.stdout.contains("\"msg\": \"add cmd: failed to setup network policy\""), "{reply:?}");
        let (reply, _) = plugin(agent, mode, "DEL");
        assert_eq!((reply.exit, reply.stdout.as_str()), (0, ""), "the pod is gone either way (DW-7)");
    }
}
