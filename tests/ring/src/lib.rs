//! A node without AWS and without a cluster: the simulated AWS with real interfaces, the daemon in the node's network
//! namespace, pods as namespaces wired by the plugin through a CNI network configuration list.
//!
//! | module | what |
//! |---|---|
//! | [`node`] | starts and ends it all; the daemon can be killed and started again |
//! | [`cni`] | runs a configuration list as a container runtime does |
//! | [`shell`] | `ip`, `curl` and the like, in a namespace |
//! | [`skip`] | says loudly what cannot run here |

pub mod cni;
pub mod node;
pub mod shell;
pub mod skip;

pub use cni::Cni;
pub use node::{Node, Options};
