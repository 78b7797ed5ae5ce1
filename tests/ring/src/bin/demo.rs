//! `make demo`: the main job on the simulated AWS, every claim checked. Exit status: 0 all shown, 1 something was not,
//! 2 it cannot run here, 130 interrupted.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ring::demo::main(&arguments)
}
