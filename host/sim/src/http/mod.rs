//! The second face: EC2's Query protocol, IMDSv2 and an admin API over HTTP/1.1, in real time.

mod admin;
mod ec2;
mod form;
mod imds;
mod page;
mod render;
mod server;
mod xml;

pub use server::{Server, Simulation};
