//! What can go wrong, as decisions a caller can take.

use std::path::PathBuf;

use rustix::io::Errno;

/// Errors of this crate. The texts of pod wiring are those operators know from the reference (spec 04 §4.2, §5).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace is gone: for DEL the work is done, for ADD it cannot be.
    #[error("failed to Statfs {path:?}: {}", text(*errno))]
    NoSuchNamespace { path: PathBuf, errno: Errno },
    /// The path is there, but no namespace.
    #[error("unknown FS magic on {path:?}: {magic:x}")]
    NotANamespace { path: PathBuf, magic: i64 },
    /// No interface with that name or MAC (yet).
    #[error("failed to find the link which uses {key}")]
    LinkNotFound { key: String },
    /// Duplicate address detection did not come to its end, or found a duplicate.
    #[error("link {device} still has tentative addresses after {seconds}s")]
    Tentative { device: String, seconds: u64 },
    /// What was to be made exists already.
    #[error("{} ({op})", text(Errno::EXIST))]
    Exists { op: String },
    /// The kernel refused one operation.
    #[error("{} ({op})", text(*errno))]
    Kernel { op: String, errno: Errno },
    /// Bad input: nothing was touched.
    #[error("{0}")]
    Invalid(String),
    /// The host is not in the state asked for; one line per difference.
    #[error("{}", .0.join("; "))]
    Differs(Vec<String>),
    /// Several things failed; everything that could be done was.
    #[error("{}", list(.0))]
    Several(Vec<Error>),
    /// Where it happened, and the error itself.
    #[error("{context}: {error}")]
    Within { context: String, error: Box<Error> },
    /// A program such as `iptables-restore` failed or cannot be run.
    #[error("{program}: {message}")]
    Command { program: String, message: String },
    /// Such a program had no turn: another one holds the lock of iptables, or it hung and was killed. Trying again at once
    /// is of no use.
    #[error("{program}: {message}")]
    Held { program: String, message: String },
}

impl Error {
    /// The error of an operation the kernel answered with `errno`.
    #[must_use]
    pub fn from_kernel(op: String, errno: Errno) -> Self {
        if errno == Errno::EXIST { Self::Exists { op } } else { Self::Kernel { op, errno } }
    }

    /// Adds what was being done; an empty context adds nothing.
    #[must_use]
    pub fn within(self, context: impl Into<String>) -> Self {
        let context = context.into();
        if context.is_empty() { self } else { Self::Within { context, error: Box::new(self) } }
    }

    /// The error itself, without what was being done.
    #[must_use]
    pub fn root(&self) -> &Self {
        match self {
            Self::Within { error, .. } => error.root(),
            other => other,
        }
    }

    /// The kernel's error number, if it was one operation that failed.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self.root() {
            Self::NoSuchNamespace { errno, .. } | Self::Kernel { errno, .. } => Some(*errno),
            Self::Exists { .. } => Some(Errno::EXIST),
            _ => None,
        }
    }

    /// One error out of many: none, the only one, or all of them.
    pub(crate) fn collect(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }
}

fn list(errors: &[Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The kernel's message, in lower case as the reference prints it.
fn text(errno: Errno) -> String {
    let full = std::io::Error::from(errno).to_string();
    full.split(" (os error").next().unwrap_or(&full).to_lowercase()
}
