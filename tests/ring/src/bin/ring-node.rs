//! A simulated node for other programs and for trying things by hand.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use ring::{Node, Options};
use serde_json::json;

/// Runs a simulated AWS, a node and its daemon. Prints one line of JSON once the daemon serves (the network namespaces,
/// the daemon's socket, the policy directory), and takes everything down at the end of its standard input (Ctrl-D), at
/// Ctrl-C and at SIGTERM. Needs root.
#[derive(Debug, Parser)]
#[command(name = "ring-node")]
struct Arguments {
    /// EC2 instance type: it sets the limits of interfaces and addresses.
    #[arg(default_value = "t3.small")]
    instance_type: String,
    /// A variable of the daemon, NAME=VALUE; may be repeated. docs/configuration.md has them all.
    #[arg(long = "env", value_parser = pair)]
    env: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("not of the form NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !rustix::process::geteuid().is_root() {
        eprintln!("ring-node: it makes network namespaces and needs root");
        return ExitCode::from(2);
    }
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ring-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Arguments) -> Result<()> {
    let interrupt = ring::interrupt::watch().context("signals cannot be watched")?;
    let mut options = Options { instance_type: arguments.instance_type, ..Options::of_tree() };
    options.env.extend(arguments.env);
    let mut node = Node::new(options)?;
    node.start_daemon()?;
    let line = json!({"netns": node.netns(), "vpc_netns": node.vpc_netns(), "socket": node.socket(),
        "policy_dir": node.dir().join("policy")});
    println!("{line}");
    std::io::stdout().flush()?;

    let (ended, end) = channel();
    std::thread::spawn(move || {
        // An input that cannot be read has ended as well.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ended.send(())
    });
    while !interrupt.came() && end.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {}
    Ok(())
}
