//! Connects [`egress_cni::run`] to the process. Everything else is in the library.

use std::process::ExitCode;

use egress_cni::ipam::Delegate;
use egress_cni::net::KernelNet;
use egress_cni::{Deps, NAME, run};

fn main() -> ExitCode {
    cni_plugin::main(NAME, |env, stdin| run(env, stdin, Deps { ipam: &Delegate, net: &KernelNet }))
}
