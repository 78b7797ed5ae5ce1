//! Runs policies: WebAssembly components that decide how many addresses a node keeps, how it gets there and where new
//! interfaces go. The only crate that sees wasmtime.
//!
//! | module | what |
//! |---|---|
//! | [`Policies`] | what the daemon holds: the built-in component, perhaps a custom one, and who answers |
//! | [`dir`], [`mod@watch`] | the policy directory, read and watched |
//! | [`Runtime`], [`Component`], [`Session`] | one component, loaded and called |
//! | [`Shadow`] | a second policy beside the one in force, without effect |
//! | [`Line`], [`Recorded`] | decisions as JSON lines, to be replayed |
//! | [`Limits`] | what a component may use and say |
//!
//! A component gets a fresh instance per decision, no way to the outside but log lines, and bounded memory, time and
//! instructions. Whatever it does, the caller gets a value: an answer, or a [`Failure`] with its reason.

mod active;
mod again;
mod answer;
mod bundle;
mod cache;
mod call;
mod code;
mod convert;
mod digest;
pub mod dir;
mod guest;
mod limits;
mod load;
mod policies;
mod record;
mod report;
mod runtime;
pub mod sample;
mod shadow;
mod status;
mod turn;
mod wasi;
pub mod watch;

pub use again::Pauses;
pub use bundle::{BUILT_IN_PREFIX, Bundle};
pub use call::{Answer, By, Called, Facts, Failure, Session};
pub use digest::{BadDigest, Digest};
pub use dir::{ReadError, read_dir};
pub use guest::LogLine;
pub use limits::Limits;
pub use load::{Component, LoadError};
pub use policies::{Decision, Loaded, Options, Policies, PolicyError, Ranking};
pub use record::{Asked, BadRecord, Line, Recorded, RecordedCall, RecordedResult};
pub use runtime::{Runtime, RuntimeError};
pub use shadow::{Shadow, Shadowed};
pub use status::{ComponentStatus, Counts, LoadFailed, Status};
pub use watch::{ReloadError, Watch, WatchError, load_dir, watch};
