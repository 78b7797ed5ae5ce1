//! One daemon for each checkpoint: two that share one would give out the same addresses and undo each other's writes.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The checkpoint is ours until this is dropped. The kernel ends it with the process, however that ends; the file stays.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "what holds the lock is that it is open")] File);

/// Why the checkpoint is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "another daemon ({holder}) works with the checkpoint {}: end that one, or give this one a checkpoint of its own \
         (AWS_VPC_K8S_CNI_BACKING_STORE); {} is the lock",
        checkpoint.display(), lock.display()
    )]
    Held { holder: String, checkpoint: PathBuf, lock: PathBuf },
    #[error("{}: {error}", lock.display())]
    Io { lock: PathBuf, error: io::Error },
}

/// The lock of a checkpoint lies beside it.
#[must_use]
pub fn path(checkpoint: &Path) -> PathBuf {
    let mut name = checkpoint.file_stem().unwrap_or(OsStr::new("ipam")).to_owned();
    name.push("-reservoir.lock");
    checkpoint.with_file_name(name)
}

/// Takes the checkpoint for this process.
///
/// # Errors
/// Another process has it, or the file cannot be opened.
pub fn take(checkpoint: &Path) -> Result<Lock, LockError> {
    let lock = path(checkpoint);
    let failed = |error| LockError::Io { lock: lock.clone(), error };
    // Not truncated: it names the process that has it.
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&lock);
    let mut file = options.map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let holder = match file.read_to_string(&mut holder) {
                Ok(_) if !holder.trim().is_empty() => format!("process {}", holder.trim()),
                _ => "which has not said who it is".to_owned(),
            };
            return Err(LockError::Held { holder, checkpoint: checkpoint.to_owned(), lock });
        }
        Err(error) => return Err(failed(error.into())),
    }
    // For the words of the next one alone: a full disk does not make two daemons possible.
    if let Err(error) = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
        tracing::warn!("{} does not tell who holds it: {error}", lock.display());
    }
    Ok(Lock(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_hears_of_the_first_and_has_it_after_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = dir.path().join("ipam.json");
        let first = take(&checkpoint).unwrap();
        let error = take(&checkpoint).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.contains("ipam.json") && error.contains("AWS_VPC_K8S_CNI_BACKING_STORE"), "{error}");
        assert!(take(&dir.path().join("other.json")).is_ok(), "each checkpoint has its own");
        drop(first);
        take(&checkpoint).unwrap();
    }

    #[test]
    fn what_an_earlier_one_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = dir.path().join("ipam.json");
        std::fs::write(path(&checkpoint), "4194304000\n").unwrap();
        let _ours = take(&checkpoint).unwrap();
        assert_eq!(std::fs::read_to_string(path(&checkpoint)).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = take(&dir.path().join("no/ipam.json")).unwrap_err();
        assert!(
            matches!(error, LockError::Io { .. }) && error.to_string().contains("no/ipam-reservoir.lock"),
            "{error}"
        );
    }
}
