//! `conformance DIR...`: runs the vectors in each directory, prints what passed, failed and does not apply, and exits
//! with 1 if anything failed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use conformance::{Counts, render, run_directories};

/// Run conformance vectors against this tree.
#[derive(Debug, Parser)]
struct Arguments {
    /// Directories; every *.json file in them is run, whatever its name.
    #[arg(required = true)]
    directories: Vec<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let reports = run_directories(&Arguments::parse().directories)?;
    print!("{}", render(&reports));
    let failed = Counts::of(reports.iter().flat_map(|report| &report.cases)).failed;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
