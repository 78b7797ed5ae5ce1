//! Connects [`aws_cni::run`] to the process. Everything else is in the library.

use std::io::{self, Write};
use std::process::ExitCode;

use aws_cni::error::Error;
use aws_cni::grpc::Grpc;
use aws_cni::inputs::Environment;
use aws_cni::pod_net::KernelNet;
use aws_cni::{Deps, run};

fn main() -> ExitCode {
    // The runtime expects an error object even from a defect of ours. The hook runs before the process aborts.
    std::panic::set_hook(Box::new(|panic| {
        let _ = io::stdout().write_all(Error::Plugin(format!("aws-cni: internal error: {panic}")).to_json().as_bytes());
        std::process::exit(1);
    }));
    let env = Environment::read(|name| std::env::var_os(name));
    let deps = Deps { peers: &Grpc::default(), net: &KernelNet };
    let reply = run(&env, &mut io::stdin().lock(), deps);
    let printed = io::stderr()
        .write_all(reply.stderr.as_bytes())
        .and_then(|()| io::stdout().write_all(reply.stdout.as_bytes()))
        .and_then(|()| io::stdout().flush());
    if printed.is_ok() { ExitCode::from(reply.exit) } else { ExitCode::FAILURE }
}
