//! The node daemon. Takes everything from the environment (docs/configuration.md) and no arguments.

use std::process::ExitCode;

use reservoir_ipamd::config::{Config, Environment};
use reservoir_ipamd::metrics::Metrics;
use reservoir_ipamd::{aws, daemon, kubernetes, logging};

fn main() -> ExitCode {
    let environment = Environment::of_process();
    let (config, mut report) = Config::read(&environment);
    let sdk = aws::config(&environment, &mut report);
    let program = std::env::args().next().unwrap_or_default();
    let kube = kubernetes::config(&environment, &config, &program);
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
