//! The heart of Reservoir, without I/O, async or a clock.
//!
//! | module | what |
//! |---|---|
//! | [`policy`] | the words of the policy contract as plain data |
//! | [`cloud`] | what is asked of EC2 and IMDS, and what they answer |
//! | [`kube`] | the Node, ENIConfig and CNINode, as far as the pool depends on them |
//! | [`ip`], [`limits`] | IPv4 blocks, instance-type limits |

pub mod checkpoint;
pub mod cloud;
pub mod ip;
pub mod kube;
pub mod limits;
pub mod manager;
pub mod policy;
pub mod store;
pub mod subnets;
pub mod time;
pub mod validate;
