//! Measures the figures that this project promises and prints them in one table, each beside its floor or a peer from
//! the same run. It judges but never fails: it is no test.
//!
//! | module | what |
//! |---|---|
//! | [`table`] | rows, goals, and how they are printed |
//! | [`figures`] | what is measured, one function per group of rows |
//! | [`lab`] | the simulated AWS with a daemon, with a node's network namespace or on loopback alone |
//! | [`pods`] | pods' namespaces, the plugin as a process, the same wiring in this process |
//! | [`client`] | the daemon's gRPC calls |
//! | [`usage`] | CPU time and memory of processes |
//! | [`samples`] | percentiles |

mod client;
mod figures;
mod lab;
mod pods;
mod samples;
mod table;
mod usage;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::figures::FIGURES;
use crate::table::{Row, Table};

/// Measures and prints one table. Needs a release build of ipamd and aws-sim beside it, and the plugin; most figures
/// need root.
#[derive(Debug, Parser)]
struct Arguments {
    /// Groups of figures; all without any.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(FIGURES.iter().map(|f| f.name)))]
    names: Vec<String>,
    /// Print the rows as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let begun = Instant::now();
    let load = load();
    let mut table = Table::default();
    for figure in FIGURES {
        if !arguments.names.is_empty() && !arguments.names.iter().any(|n| n == figure.name) {
            continue;
        }
        eprintln!("{:>5.1} s  {}: {}", begun.elapsed().as_secs_f64(), figure.name, figure.about);
        if let Err(error) = (figure.measure)(&mut table) {
            table.push(Row::skipped(figure.name, figure.about, &format!("{error:#}")));
        }
    }
    if arguments.json {
        println!("{}", table.json());
    } else {
        print!("{table}");
        println!("{}", machine(&load));
    }
    ExitCode::SUCCESS
}

/// The load average of the last minute, as the kernel writes it.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// What the figures were taken on. Other work on the machine makes every time longer.
fn machine(load_before: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, Linux {}, load average before the run {load_before}", kernel.trim())
}
