//! Packets along every row of the packet walks (spec 04 §16), in every mode: TCP and UDP both ways, who the other side
//! sees, what conntrack remembers, how large a packet may be, and that what is not there answers as it should. The
//! simulated VPC drops what EC2 would drop, so a packet that left by a wrong interface does not arrive.
//!
//! | module | what |
//! |---|---|
//! | [`world`] | a node, its pods by interface, the hosts around it, and the rows that every mode shares |
//! | [`kube_proxy`] | services as kube-proxy's iptables mode makes them |
//! | [`flavours`] | the two kinds of iptables |

#[path = "../support/mod.rs"]
mod support;

mod atomic;
mod custom;
mod flavours;
mod foreign;
mod ipv6;
mod kube_proxy;
mod mtu;
mod multi_nic;
mod prefix;
mod repaired;
mod secondary;
mod security_groups;
mod services;
mod snapshots;
mod world;

const PROGRAMS: &[&str] = &["ip", "curl", "iptables", "ip6tables", "nft", "conntrack", "ping"];

/// Whether the test can run; says so loudly if not.
fn can_run(test: &str) -> bool {
    ring::skip::can_run(test, PROGRAMS)
}
