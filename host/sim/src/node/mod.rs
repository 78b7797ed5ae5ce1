//! Nodes under virtual time: the daemon's own pool manager on the simulated AWS, with pods that come and go.
//!
//! ```text
//! pods (workload) ──▶ daemon: core's Manager ──▶ Sim (EC2, IMDS, links)
//!                          │   ▲                      │
//!                          ▼   └────── answers ◀──────┘
//!                        Policy
//! ```
//!
//! Everything happens on one event queue; nothing sleeps and nothing is read from a clock, so the same configuration,
//! pods and policies give the same run, to the microsecond. A [`World`] holds as many nodes as one account does.
//!
//! | file | what |
//! |---|---|
//! | `world.rs` | the queue: starts, answers, deadlines, kills |
//! | `world/pods.rs` | a node's pods on it |
//! | `world/work.rs` | what a daemon wants done, and how long that takes |
//! | `config.rs` | one node |
//! | `daemon.rs` | one daemon; the only file that speaks the manager's language |
//! | `policy.rs` | who decides, as a trait |
//! | `score.rs` | what a run cost and how long pods waited |
//! | [`workload`] | pods from a seed |

mod config;
mod daemon;
mod policy;
mod score;
pub mod workload;
mod world;

pub use config::{NodeConfig, Switches};
pub use policy::{Decision, Keep, Policy};
pub use score::{Percentiles, Score};
pub use workload::Pod;
pub use world::{NodeId, Traced, World, WorldError};
