//! A node without AWS and without a cluster: the simulated AWS with real interfaces, the daemon in the node's network
//! namespace, pods as namespaces wired by the plugin through a CNI network configuration list.
//!
//! | module | what |
//! |---|---|
//! | [`demo`] | `make demo` |
//! | [`node`] | starts and ends it all; the daemon can be killed and started again |
//! | [`cluster`] | an API server in the node's namespace |
//! | [`cni`] | runs a configuration list as a container runtime does |
//! | [`backend`] | the daemon's gRPC without a plugin |
//! | [`traffic`] | TCP and UDP between namespaces |
//! | [`interrupt`] | Ctrl-C: what was made is taken down |
//! | [`random`] | seeded, so that a failure can be had again |
//! | [`shell`] | `ip`, `curl` and the like, in a namespace |
//! | [`skip`] | says loudly what cannot run here |

pub mod backend;
pub mod cluster;
pub mod cni;
pub mod demo;
pub mod interrupt;
pub mod node;
pub mod random;
pub mod shell;
pub mod skip;
pub mod traffic;

pub use cni::Cni;
pub use node::{Node, Options, Pod};
