//! One daemon, as a process, between a simulated AWS and an API server in memory, all on loopback. The host's network is
//! left alone.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reservoir_kube::testing::{Objects, Server as ApiServer};
use reservoir_rpc as rpc;
use reservoir_sim::http::{Server, Simulation};
use reservoir_sim::{Config, Sim};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Long enough for the slowest machine; nothing is measured.
const PATIENCE: Duration = Duration::from_secs(60);
pub const NODE: &str = "node-1";

pub struct Lab {
    pub aws: Arc<Simulation>,
    pub instance: String,
    pub objects: Objects,
    api: Option<ApiServer>,
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
    daemon: Option<Child>,
    _serving: JoinSet<()>,
}

impl Lab {
    /// An account by a preset's name, and an API server that knows the node. The daemon does not run yet.
    pub async fn new(preset: &str, env: &[(&str, &str)]) -> Self {
        let config = Config::preset(preset).unwrap();
        let aws = Simulation::new(Sim::new(&config).unwrap(), None);
        let instance = config.instances[0].id.clone();
        let mut serving = JoinSet::new();
        let (ec2, imds) = (listen().await, listen().await);
        let url = |l: &TcpListener| format!("http://{}", l.local_addr().unwrap());
        let (ec2_url, imds_url) = (url(&ec2), url(&imds));
        let server = Server::new(Arc::clone(&aws));
        serving.spawn(server.clone().serve_ec2(ec2));
        serving.spawn(server.serve_metadata(imds, instance.clone()));
        let running = Arc::clone(&aws);
        serving.spawn(async move { match running.run().await {} });

        let objects = Objects::new();
        objects.put_node(NODE, 110);
        let api = ApiServer::start(objects.clone()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        api.write_kubeconfig(&dir.path().join("kubeconfig")).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let mut all: Vec<(String, String)> = [
            ("AWS_ENDPOINT_URL_EC2", ec2_url),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds_url),
            ("AWS_ACCESS_KEY_ID", "simulated".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "simulated".to_owned()),
            ("AWS_VPC_K8S_CNI_LOG_FILE", path("ipamd.log")),
            ("AWS_VPC_K8S_CNI_BACKING_STORE", path("ipam.json")),
            ("RESERVOIR_IPAMD_SOCKET", path("ipamd.sock")),
            ("RESERVOIR_POLICY_DIR", path("policy")),
            ("RESERVOIR_HOST_NETWORK", "none".to_owned()),
            ("INTROSPECTION_BIND_ADDRESS", format!("unix:{}", path("introspection.sock"))),
            ("RESERVOIR_METRICS_ADDRESS", format!("unix:{}", path("metrics.sock"))),
            ("KUBECONFIG", path("kubeconfig")),
            ("MY_NODE_NAME", NODE.to_owned()),
            ("MY_POD_NAME", "aws-node-x".to_owned()),
            ("ENABLE_IPv4", "true".to_owned()),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into();
        all.extend(env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        Self { aws, instance, objects, api: Some(api), dir, env: all, daemon: None, _serving: serving }
    }

    /// Starts the daemon and waits until its health is SERVING.
    pub async fn start(&mut self) {
        self.spawn();
        self.until("the daemon serves", async |lab| {
            let connection = rpc::uds::connect(&lab.socket(), Duration::from_secs(1)).await.ok()?;
            rpc::health::check(connection, "").await.ok()?.then_some(())
        })
        .await;
    }

    /// Starts the daemon and does not wait.
    pub fn spawn(&mut self) {
        let daemon = Command::new(env!("CARGO_BIN_EXE_ipamd"))
            .env_clear()
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.dir.path().join("ipamd.err")).unwrap())
            .spawn();
        self.daemon = Some(daemon.unwrap());
    }

    /// Waits until the daemon ends by itself; its exit code.
    pub async fn end(&mut self) -> Option<i32> {
        let mut daemon = self.daemon.take().unwrap();
        tokio::task::spawn_blocking(move || daemon.wait().unwrap().code()).await.unwrap()
    }

    /// Takes the API server away; what it holds stays.
    pub fn stop_api_server(&mut self) -> std::net::SocketAddr {
        self.api.take().unwrap().address()
    }

    /// Brings it back where it was.
    pub async fn start_api_server(&mut self, address: std::net::SocketAddr) {
        self.api = Some(ApiServer::start_at(address, self.objects.clone()).await.unwrap());
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("ipamd.sock")
    }

    /// A file or directory of the daemon's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Changes a variable for the daemons that are started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// What the daemon answers on `introspection` or `metrics`; empty where it does not listen.
    pub async fn get(&self, server: &str, path: &str) -> String {
        let get = async {
            let mut stream = tokio::net::UnixStream::connect(self.path(&format!("{server}.sock"))).await?;
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
        };
        get.await.unwrap_or_default()
    }

    /// `/v1/policy`; null while the built-in policy is being compiled.
    pub async fn policy(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("introspection", "/v1/policy").await).unwrap_or_default()
    }

    /// Interfaces of card 0 in the pool, by id.
    pub async fn enis(&self) -> serde_json::Map<String, serde_json::Value> {
        let cards: serde_json::Value =
            serde_json::from_str(&self.get("introspection", "/v1/enis").await).unwrap_or_default();
        cards["0"]["ENIs"].as_object().cloned().unwrap_or_default()
    }

    /// Ends the daemon, if it runs.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // It may have ended by itself.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("ipamd.log")).unwrap_or_default()
    }

    async fn client(&self) -> rpc::cni_backend_client::CniBackendClient<rpc::uds::Connection> {
        let connection = rpc::uds::connect(&self.socket(), Duration::from_secs(5)).await.unwrap();
        rpc::cni_backend_client::CniBackendClient::new(connection)
    }

    /// The addresses, or why there are none.
    pub async fn add(&self, pod: &str, every_card: bool) -> Result<Vec<String>, String> {
        let request = rpc::AddNetworkRequest {
            k8s_pod_name: pod.to_owned(),
            k8s_pod_namespace: "shop".to_owned(),
            if_name: "eth0".to_owned(),
            network_name: "aws-cni".to_owned(),
            container_id: format!("sandbox-of-{pod}"),
            client_version: rpc::VERSION.to_owned(),
            requires_multi_nic_attachment: every_card,
            ..rpc::AddNetworkRequest::default()
        };
        let response = self.client().await.add_network(request).await.map_err(|s| s.to_string())?;
        if !response.get_ref().success {
            return Err(rpc::reason::read(response.metadata()).unwrap_or_default());
        }
        let given = response.into_inner().ip_allocation_metadata;
        Ok(given.into_iter().map(|m| if m.ipv4_addr.is_empty() { m.ipv6_addr } else { m.ipv4_addr }).collect())
    }

    pub async fn del(&self, pod: &str) -> Result<usize, String> {
        let request = rpc::DelNetworkRequest {
            k8s_pod_name: pod.to_owned(),
            k8s_pod_namespace: "shop".to_owned(),
            if_name: "eth0".to_owned(),
            network_name: "aws-cni".to_owned(),
            container_id: format!("sandbox-of-{pod}"),
            client_version: rpc::VERSION.to_owned(),
            ..rpc::DelNetworkRequest::default()
        };
        let reply = self.client().await.del_network(request).await.map_err(|s| s.message().to_owned())?;
        Ok(reply.into_inner().ip_allocation_metadata.len())
    }

    /// Asks again and again until there is an answer.
    pub async fn until<T>(&self, what: &str, look: impl AsyncFn(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(self).await {
                return found;
            }
            let errors = std::fs::read_to_string(self.dir.path().join("ipamd.err")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "{what}: it does not come to that\n{errors}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How often an EC2 action was called.
    pub fn calls(&self, api: &str) -> u64 {
        self.aws.with(|sim, _| sim.journal().calls(api))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}
