//! Network namespaces by path.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock, fstatfs};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::Error;

const NSFS_MAGIC: i64 = 0x6e73_6673;
const PROC_SUPER_MAGIC: i64 = 0x9fa0;
/// Enough for one function that makes a socket.
const STACK_BYTES: usize = 128 * 1024;
/// How long another process may work on a namespace. Wiring takes milliseconds, and with IPv6 at most 10 s for each
/// interface.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it is done.
const LOOK: Duration = Duration::from_millis(5);

/// A network namespace that is kept alive as long as this is.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace at `path` (`/var/run/netns/…`, `/proc/<pid>/ns/net`).
    ///
    /// # Errors
    /// [`Error::NoSuchNamespace`] if it cannot be opened, [`Error::NotANamespace`] if it is something else.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let missing = |errno| Error::NoSuchNamespace { path: path.to_owned(), errno };
        // Without waiting: the path may lead to a pipe that nobody writes to.
        let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
        let file = file.map_err(|e| missing(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        let magic = fstatfs(&file).map_err(missing)?.f_type;
        if magic != NSFS_MAGIC && magic != PROC_SUPER_MAGIC {
            return Err(Error::NotANamespace { path: path.to_owned(), magic });
        }
        Ok(Self { fd: file.into(), path: path.to_owned() })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// As [`Netns::open`]; in practice when `/proc` is not mounted.
    pub fn current() -> Result<Self, Error> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Another handle of the same namespace.
    ///
    /// # Errors
    /// The kernel's, when the process has no file descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, path: self.path.clone() })
    }

    /// Waits until no other process works on this namespace, and keeps others from it as long as the answer lives. The
    /// kernel ends it with the process, however that ends.
    ///
    /// # Errors
    /// `EBUSY` when somebody has kept it for [`PATIENCE`].
    pub fn lock(self) -> Result<Turn, Error> {
        self.lock_within(PATIENCE)
    }

    /// The same with another patience.
    ///
    /// # Errors
    /// As [`Netns::lock`].
    pub fn lock_within(self, patience: Duration) -> Result<Turn, Error> {
        self.take(FlockOperation::NonBlockingLockExclusive, patience)
    }

    /// Works on this namespace together with others who share it; who locks it waits for all of them, and they for him.
    ///
    /// # Errors
    /// As [`Netns::lock`].
    pub fn share(self) -> Result<Turn, Error> {
        self.take(FlockOperation::NonBlockingLockShared, PATIENCE)
    }

    fn take(self, how: FlockOperation, patience: Duration) -> Result<Turn, Error> {
        let deadline = Instant::now() + patience;
        loop {
            match flock(&self.fd, how) {
                Ok(()) => return Ok(Turn(self)),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOOK),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    let errno = if errno == Errno::WOULDBLOCK { Errno::BUSY } else { errno };
                    return Err(Error::from_kernel(
                        format!("locking network namespace {}", self.path.display()),
                        errno,
                    ));
                }
            }
        }
    }

    /// Runs `work` inside the namespace, on a thread of its own that ends with it: whatever happens, no other thread is
    /// ever left in the wrong namespace.
    ///
    /// # Errors
    /// The kernel's when the thread cannot be made or may not enter.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("netns".to_owned()).stack_size(STACK_BYTES);
            let handle = thread.spawn_scoped(scope, || {
                move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            })?;
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Netns {
    /// As [`Netns::run`], for work that can fail.
    ///
    /// # Errors
    /// [`Error::NotANamespace`] if the kernel does not take the file for one; otherwise as `run`, or the work's own.
    pub(crate) fn attempt<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T, Error> {
        self.run(work).and_then(|result| result).map_err(|error| match Errno::from_io_error(&error) {
            // A file of /proc that is no namespace.
            Some(Errno::INVAL) => Error::NotANamespace { path: self.path.clone(), magic: PROC_SUPER_MAGIC },
            errno => {
                let op = format!("entering network namespace {}", self.path.display());
                Error::from_kernel(op, errno.unwrap_or(Errno::IO))
            }
        })
    }
}

/// The right to change a namespace, from [`Netns::lock`] or [`Netns::share`].
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held for its lock, which ends with it")] Netns);

impl AsFd for Netns {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong_with_a_path() {
        let gone = Netns::open(Path::new("/nonexistent/netns")).unwrap_err();
        assert_eq!(gone.to_string(), "failed to Statfs \"/nonexistent/netns\": no such file or directory");
        let file = Netns::open(Path::new("/")).unwrap_err();
        assert!(matches!(file, Error::NotANamespace { .. }), "{file}");
    }
}
