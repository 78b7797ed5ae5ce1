//! The node daemon: configuration, servers, and the driver of the pool manager. See docs/design.md.

pub mod aws;
pub mod branch;
pub mod clock;
pub mod cloud;
pub mod config;
pub mod conflist;
pub mod daemon;
pub mod decisions;
pub mod files;
pub mod grpc;
pub mod http;
pub mod introspect;
mod journal;
pub mod kubernetes;
pub mod lock;
pub mod logging;
pub mod metrics;
pub mod network;
pub mod policy;
pub mod pool;
pub mod recovery;
#[cfg(test)]
mod testing;
pub mod vpc;
pub mod watch;
