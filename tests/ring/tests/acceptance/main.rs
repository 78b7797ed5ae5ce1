//! The reference's integration suites as tests (spec 05 §18), against the simulated AWS. Where the kernel is not the
//! point there are no real interfaces, and pods are calls of the daemon's gRPC.

#[path = "../support/mod.rs"]
mod support;

mod custom_networking;
mod endpoints;
mod leak;
mod permissions;
mod policy_agent;
mod subnet_discovery;
mod tags;
mod trunking;
mod warm_targets;

/// Whether the test can run; says so loudly if not.
fn can_run(test: &str) -> bool {
    ring::skip::can_run(test, support::lab::PROGRAMS)
}
