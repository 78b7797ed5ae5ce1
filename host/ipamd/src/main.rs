//! The node daemon. Takes everything from the environment (docs/configuration.md).

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use reservoir_cloud::imds::Imds;
use reservoir_ipamd::aws::Sdk;
use reservoir_ipamd::config::{Config, Environment, Report};
use reservoir_ipamd::conflist::{self, NodeAddresses};
use reservoir_ipamd::metrics::Metrics;
use reservoir_ipamd::{aws, daemon, kubernetes, logging};
use reservoir_kube::KubeConfig;

/// Gives the pods of this node their VPC addresses. All settings come from the environment: docs/configuration.md has
/// each of them. Without a command the daemon runs until SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "ipamd", version = reservoir_rpc::VERSION)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints the CNI network list for this node: the template with the environment's settings in it.
    Conflist {
        /// Such as deploy/10-aws.conflist.
        template: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let environment = Environment::of_process();
    let (config, mut report) = Config::read(&environment);
    let sdk = aws::config(&environment, &mut report);
    aws::check(&config, &sdk, &mut report);
    let kube = kubernetes::config(&environment, &config, &std::env::args().next().unwrap_or_default());
    kubernetes::check(&config, &kube, &mut report);
    match arguments.command {
        Some(Command::Conflist { template }) => print_conflist(&template, &config, &report, &sdk),
        None => run(config, report, sdk, kube),
    }
}

fn run(config: Config, report: Report, sdk: Sdk, kube: KubeConfig) -> ExitCode {
    if let Err(error) = logging::init(&config.logging) {
        eprintln!("logging: {error}");
    }
    tracing::info!("Starting L-IPAMD {}  ...", reservoir_rpc::VERSION);
    report.log();
    if report.is_fatal() {
        logging::fatal(&"the environment is not usable; each problem is logged above");
        return ExitCode::FAILURE;
    }
    // Two workers: one for pods while the other talks to EC2. More would only cost memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            logging::fatal(&format!("no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(daemon::run(config, sdk, kube, Metrics::new(reservoir_rpc::VERSION))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::fatal(&format!("Initialization failure: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The list goes to stdout, what is wrong to stderr.
fn print_conflist(template: &Path, config: &Config, report: &Report, sdk: &Sdk) -> ExitCode {
    let warnings = tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(tracing::Level::WARN);
    let colours = io::stderr().is_terminal();
    warnings.without_time().with_target(false).with_ansi(colours).init();
    for problem in report.problems() {
        eprintln!("ipamd: {problem}");
    }
    if report.is_fatal() {
        return ExitCode::FAILURE;
    }
    match conflist_of(template, config, sdk) {
        Ok(list) => {
            println!("{}", list.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ipamd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn conflist_of(template: &Path, config: &Config, sdk: &Sdk) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(template).with_context(|| format!("template {}", template.display()))?;
    let imds = Imds::new(&sdk.imds)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let node = runtime.block_on(NodeAddresses::read(&imds, config));
    conflist::render(&text, config, &node).with_context(|| format!("template {}", template.display()))
}
