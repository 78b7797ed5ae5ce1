//! What a component may use and say.

use std::time::Duration;

/// What one component may use. The defaults suit a daemon on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest component that is compiled, in bytes. An interpreter in a component (Python) takes 18 MiB.
    pub component_bytes: usize,
    /// Linear memory of one instance, all its memories together, in bytes.
    pub memory_bytes: usize,
    /// Instructions (wasmtime's fuel) of one function call. The first call on an instance also pays for its start.
    pub fuel: u64,
    /// Time of one function call. Checked every [`Limits::TICK`], so it may be overrun by that much. Fuel ends a busy
    /// loop first on a machine with time to spare: it is the same on every machine, time is not.
    pub deadline: Duration,
    /// Decisions that may run at one time; others wait for their turn.
    pub concurrent: u32,
}

impl Limits {
    /// How often a running call's deadline is looked at.
    pub const TICK: Duration = Duration::from_millis(50);
    /// Log lines kept of one function call.
    pub const LOG_LINES: usize = 16;
    /// Bytes kept of a log line.
    pub const LOG_LINE_BYTES: usize = 256;
    /// Bytes kept of a note's reason and of an error's text.
    pub const REASON_BYTES: usize = 256;
    /// A longer memo is dropped.
    pub const MEMO_BYTES: usize = 4096;
    /// Ways to grow, or interfaces to remove, or subnets to try, in one answer.
    pub const ANSWER_ITEMS: usize = 256;
    /// CIDRs to release, or to drain, in one answer.
    pub const ANSWER_CIDRS: usize = 8192;
    /// Bytes that a component may hand the host in one call of either direction.
    pub(crate) const TRANSFER_BYTES: usize = 4 << 20;
    /// Elements of all tables of one instance together.
    pub(crate) const TABLE_ELEMENTS: usize = 100_000;
    /// Core instances of one component. A component linked from shared libraries has a few dozen.
    pub(crate) const CORE_INSTANCES: u32 = 64;
    /// Memories, and tables, of one component.
    pub(crate) const MEMORIES: u32 = 2;
    pub(crate) const TABLES: u32 = 8;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            component_bytes: 32 << 20,
            memory_bytes: 64 << 20,
            fuel: 200_000_000,
            deadline: Duration::from_millis(250),
            concurrent: 4,
        }
    }
}
