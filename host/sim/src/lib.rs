//! A simulated AWS: one deterministic model of EC2 and IMDS (spec 03 §16) with three faces.
//!
//! 1. In process, under virtual time: [`Sim::call`].
//! 2. The EC2 Query protocol and IMDSv2 over HTTP, for an unmodified AWS SDK: [`http`].
//! 3. Real interfaces: attaching an ENI makes a veth appear in a node's network namespace: [`vpc`].
//!
//! The model does no I/O, has no clock and no threads: a request and the time go in, the answer and the time it is due
//! come out. Same configuration, same seed, same calls: same answers.

pub mod http;
pub mod model;
pub mod node;
pub mod vpc;

pub use model::audit::Violation;
pub use model::config::{Config, ConfigError};
pub use model::links::{LinkChange, LinkEvent};
pub use model::sim::{Sim, Verdict};
