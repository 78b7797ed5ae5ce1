//! The simulated AWS as a server. Prints one line of JSON with its addresses when it is ready.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use reservoir_core::ip::Ipv4Net;
use reservoir_sim::http::{Server, Simulation};
use reservoir_sim::model::config::{DelaysConfig, Vpc as VpcConfig};
use reservoir_sim::model::fault::Fault;
use reservoir_sim::model::throttle::ThrottleConfig;
use reservoir_sim::vpc::{Vpc, VpcOptions, bind_in};
use reservoir_sim::{Config, Sim};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A simulated AWS: EC2's Query API, IMDSv2 and, on request, real interfaces in network namespaces.
#[derive(Debug, Parser)]
struct Args {
    /// The account as JSON; without it one VPC, one subnet, one instance.
    #[arg(long, conflicts_with = "preset")]
    config: Option<PathBuf>,
    /// A ready account: a VPC for one way to run a cluster.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(Config::PRESETS.iter().copied()))]
    preset: Option<String>,
    /// Where EC2 and the admin API (/sim/…) listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    ec2_listen: SocketAddr,
    /// Where the first instance's metadata service listens; others: `imds_listen` in the configuration.
    #[arg(long, default_value = "127.0.0.1:0")]
    imds_listen: SocketAddr,
    /// Type of the first instance.
    #[arg(long)]
    instance_type: Option<String>,
    /// Block of the first subnet.
    #[arg(long)]
    subnet_cidr: Option<Ipv4Net>,
    /// Blocks of the VPC.
    #[arg(long, value_delimiter = ',')]
    vpc_cidr: Vec<Ipv4Net>,
    /// Delays profile: instant, realistic or eventual.
    #[arg(long)]
    delays: Option<String>,
    /// Throttle as EC2 does by default.
    #[arg(long)]
    throttle: bool,
    /// A scripted fault, such as "at call 7 of AssignPrivateIpAddresses: RequestLimitExceeded"; may be repeated.
    #[arg(long)]
    fault: Vec<Fault>,
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    vpc: VpcOptions,
}

impl Args {
    fn config(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            None => self.preset.as_deref().and_then(Config::preset).unwrap_or_default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("--config {}", path.display()))?;
                Config::from_json(&text).with_context(|| format!("--config {}", path.display()))?
            }
        };
        if let (Some(kind), Some(first)) = (&self.instance_type, config.instances.first_mut()) {
            first.instance_type.clone_from(kind);
        }
        if let (Some(cidr), Some(first)) = (self.subnet_cidr, config.subnets.first_mut()) {
            first.cidr = cidr;
        }
        if !self.vpc_cidr.is_empty() {
            config.vpc = VpcConfig { cidrs: self.vpc_cidr.clone(), ..config.vpc };
        }
        if let Some(profile) = &self.delays {
            config.delays = DelaysConfig::Profile(profile.clone());
        }
        if self.throttle {
            config.throttle = ThrottleConfig::Published;
        }
        config.faults.extend(self.fault.iter().cloned());
        config.seed = self.seed.unwrap_or(config.seed);
        Ok(config)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    let config = args.config()?;
    let sim = Sim::new(&config)?;
    let first = config.instances.first().map(|i| i.id.clone());
    // Before anything is made, so that whatever ends us finds us ready to clean up.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let vpc = match (&args.vpc.node_netns, &first) {
        (Some(_), Some(instance)) => Some(Vpc::open(&args.vpc, instance, &config).await?),
        (Some(_), None) => anyhow::bail!("--node-netns: the configuration has no instance to put there"),
        (None, _) => None,
    };
    let simulation = Simulation::new(sim, vpc);
    let running = Arc::clone(&simulation);
    let served = async {
        listen(&args, &config, &simulation).await?;
        tokio::select! {
            never = running.run() => match never {},
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        anyhow::Ok(())
    }
    .await;
    simulation.close().await;
    served
}

/// Opens all listeners, brings the network up and says where everything is.
async fn listen(args: &Args, config: &Config, simulation: &Arc<Simulation>) -> anyhow::Result<()> {
    let server = Server::new(Arc::clone(simulation));
    let ec2 = TcpListener::bind(args.ec2_listen).await.with_context(|| format!("--ec2-listen {}", args.ec2_listen))?;
    let ec2_at = ec2.local_addr()?;
    tokio::spawn(server.clone().serve_ec2(ec2));
    let mut metadata = serde_json::Map::new();
    for (n, instance) in config.instances.iter().enumerate() {
        let own = if n == 0 { Some(args.imds_listen) } else { None };
        let Some(address) = instance.imds_listen.or(own) else { continue };
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("{}: IMDS at {address}", instance.id))?;
        let at = listener.local_addr()?;
        metadata.insert(instance.id.clone(), json!(at));
        tokio::spawn(server.clone().serve_metadata(listener, instance.id.clone()));
        if let (0, Some(netns)) = (n, &args.vpc.node_netns) {
            // The node reaches both at the same addresses, on its own loopback.
            let inside = bind_in(netns, ec2_at).await?;
            tokio::spawn(server.clone().serve_ec2(inside));
            let inside = bind_in(netns, at).await?;
            tokio::spawn(server.clone().serve_metadata(inside, instance.id.clone()));
        }
    }
    simulation.plumb().await;
    println!("{}", json!({"ec2": ec2_at, "imds": metadata}));
    Ok(())
}
