//! What is measured. The references' figures were taken once, on a machine with two cores and a node like a c5.4xlarge.

mod egress;
mod guests;
mod host;
mod lifecycle;
mod modes;
mod plugin;
mod policy;
mod pool;
mod rpc;

use anyhow::Result;

use crate::table::Table;

/// A group of rows that are measured together.
pub struct Figure {
    pub name: &'static str,
    pub about: &'static str,
    /// Adds its rows. An error is a prerequisite that is missing, or a measurement that went wrong.
    pub measure: fn(&mut Table) -> Result<()>,
}

/// All of them, in the order in which they are measured.
pub const FIGURES: &[Figure] = &[
    Figure { name: "version", about: "plugin VERSION, and the plugin's size", measure: plugin::version },
    Figure { name: "pods", about: "plugin ADD and DEL, one after another", measure: plugin::sequential },
    Figure { name: "parallel", about: "8 plugin ADDs at once", measure: plugin::parallel },
    Figure { name: "modes", about: "plugin ADD and DEL in each address mode", measure: modes::all },
    Figure { name: "egress", about: "ADD and DEL of egress-cni", measure: egress::all },
    Figure { name: "host", about: "host set-up that changes nothing; rules of 250 pods", measure: host::network },
    Figure { name: "grpc", about: "AddNetwork and DelNetwork over open connections", measure: rpc::calls },
    Figure { name: "guests", about: "ADDs beside components that misbehave", measure: guests::beside },
    Figure { name: "burst", about: "100 pods at once", measure: plugin::burst },
    Figure { name: "kill", about: "kill -9 with 60 pods to the next ADD", measure: lifecycle::kill },
    Figure { name: "start", about: "start to health SERVING", measure: lifecycle::start },
    Figure { name: "memory", about: "resident memory of the daemon", measure: lifecycle::memory },
    Figure { name: "settled", about: "a settled node for one minute", measure: lifecycle::settled },
    Figure { name: "rounds", about: "snapshot to checked plan, by mode and node size", measure: pool::rounds },
    Figure { name: "days", about: "days of a node under virtual time", measure: pool::days },
    Figure { name: "calls", about: "EC2 calls of pods that come and go", measure: pool::calls },
    Figure { name: "policy", about: "one decision", measure: policy::decision },
];
