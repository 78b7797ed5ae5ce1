//! `policy-test`: what a policy's author runs on a laptop or in CI. It uses the daemon's own runtime, limits and checks,
//! so what works here works on a node.

mod check;
mod explain;
mod input;
mod scenarios;
mod table;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about = "Try a Reservoir policy without a node")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load a component, call it on two made-up nodes, show what it exports, imports and costs; fails if it does not load
    /// or answer
    Check {
        /// The component, such as policy.wasm
        file: PathBuf,
        #[command(flatten)]
        settings: SettingsArg,
        /// Print JSON for machines
        #[arg(long)]
        json: bool,
    },
    /// Show all numbers of one snapshot of a node, what is decided on it, and what of that the host would do
    Explain {
        /// A node as JSON (docs/policy-contract.md); - reads standard input
        snapshot: PathBuf,
        /// The component that decides; without it the built-in one
        #[arg(long, value_name = "FILE.wasm")]
        policy: Option<PathBuf>,
        #[command(flatten)]
        settings: SettingsArg,
        /// Print JSON for machines
        #[arg(long)]
        json: bool,
    },
    /// Score policies: a day of each workload on a simulated node under virtual time, beside the documented settings
    Scenarios(scenarios::Args),
}

#[derive(Debug, Default, clap::Args)]
struct SettingsArg {
    /// One setting, as a file of the policy directory would be; `builtin.K=V` is the built-in component's. May be given
    /// more than once
    #[arg(long, value_name = "K=V", value_parser = input::setting)]
    settings: Vec<(String, String)>,
}

fn main() -> ExitCode {
    let out = &mut io::stdout().lock();
    let result = match Args::parse().command {
        Command::Check { file, settings, json } => check::run(out, &file, settings.settings, json),
        Command::Explain { snapshot, policy, settings, json } => {
            explain::run(out, &snapshot, policy.as_deref(), settings.settings, json)
        }
        Command::Scenarios(args) => scenarios::run(out, &args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read has seen enough: `| head`.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Nobody may be there to read it: `2>&1 | head`.
            let _ = writeln!(io::stderr(), "policy-test: {error:#}");
            ExitCode::FAILURE
        }
    }
}
