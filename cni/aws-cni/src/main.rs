//! Connects [`aws_cni::run`] to the process. Everything else is in the library.

use std::process::ExitCode;

use aws_cni::grpc::Grpc;
use aws_cni::pod_net::KernelNet;
use aws_cni::{Deps, NAME, run};

fn main() -> ExitCode {
    cni_plugin::main(NAME, |env, stdin| run(env, stdin, Deps { peers: &Grpc::default(), net: &KernelNet }))
}
