//! The gRPC contract between the CNI plugin, the node daemon and the network policy agent
//! (spec 02 §2). The messages and services are generated from `proto/rpc.proto` and checked in, so
//! that a build needs no protobuf compiler; `tests/generated.rs` proves that they are current.
//!
//! ```text
//! aws-cni ── CNIBackend ──▶ ipamd ◀── ConfigServerBackend ── network policy agent
//!    └────────────────────── NPBackend ────────────────────────────▲
//! ```

#[cfg(feature = "client")]
pub mod health;
pub mod reason;
#[cfg(feature = "client")]
pub mod uds;

/// Messages, clients and servers of package `rpc`.
#[allow(
    missing_debug_implementations,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code, compared with its generator by tests/generated.rs"
)]
mod generated {
    include!("generated/rpc.rs");
}

pub use generated::*;

/// The file descriptor set of `proto/rpc.proto` with its imports, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/rpc_descriptor.bin");

/// Where the node daemon listens (spec 02 §1.2).
pub const IPAMD_SOCKET: &str = "/var/run/aws-node/ipamd.sock";

/// Where the network policy agent listens (spec 02 §1.2).
pub const NPA_SOCKET: &str = "/var/run/aws-node/npa.sock";

/// Version of the plugin and of the daemon. One constant for both: the daemon refuses a plugin that
/// sends another `ClientVersion` (spec 02 §2.3).
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Text that a failing DelNetwork carries when no store knows the pod. Old plugins search for it,
/// whatever the status code is (spec 02 §2.4).
pub const UNKNOWN_POD: &str = "datastore: unknown pod";

/// `Reason` of a DelNetwork that the container runtime asked for.
pub const REASON_POD_DELETED: &str = "PodDeleted";

/// `Reason` of a DelNetwork by which the plugin takes back its own failed ADD.
pub const REASON_SETUP_FAILED: &str = "SetupNSFailed";

/// Names under which the daemon answers `grpc.health.v1.Health` (spec 02 §2.5).
pub const HEALTH_SERVICES: [&str; 2] = ["", "grpc.health.v1.aws-node"];

/// The message of the version gate's FAILED_PRECONDITION (spec 02 §2.3).
///
/// ```
/// assert_eq!(reservoir_rpc::wrong_version("1", "2"), r#"wrong client version "1" (!= "2")"#);
/// ```
pub fn wrong_version(client: &str, server: &str) -> String {
    format!("wrong client version {client:?} (!= {server:?})")
}
