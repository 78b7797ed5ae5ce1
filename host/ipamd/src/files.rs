//! Files that must be whole whenever the process ends: the checkpoint and the journal.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use reservoir_core::manager::Journal;

/// Replaces `path` by `content`: temporary file beside it (mode 0600), fsync, rename, fsync of the directory (spec 02
/// §6.3, W12). On an error the old content stands and the temporary file is gone.
///
/// # Errors
/// Those of the file system.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path, "w");
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_data()?;
        drop(file);
        fs::rename(&temporary, path)?;
        File::open(directory(path))?.sync_data()
    };
    write().inspect_err(|_| {
        // Best effort: a left-over is removed at the next start too.
        let _ = fs::remove_file(&temporary);
    })
}

/// Removes temporary files that a crash left beside `path`.
pub fn remove_stale(path: &Path) {
    let Some(name) = path.file_name() else { return };
    let mut prefix = name.to_owned();
    prefix.push(".tmp");
    let Ok(entries) = fs::read_dir(directory(path)) else { return };
    for entry in entries.flatten() {
        if starts_with(&entry.file_name(), &prefix)
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(file = %entry.path().display(), "a stale temporary file stays: {error}");
        }
    }
}

/// Moves a damaged file out of the way, under a name that says when.
///
/// # Errors
/// Those of the file system.
pub fn set_aside(path: &Path, unix_seconds: u64) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".corrupt-{unix_seconds}"));
    let aside = PathBuf::from(name);
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// The journal lies beside the checkpoint.
#[must_use]
pub fn journal_path(checkpoint: &Path) -> PathBuf {
    let stem = checkpoint.file_stem().unwrap_or(OsStr::new("ipam"));
    let mut name = stem.to_owned();
    name.push("-reservoir-journal.json");
    checkpoint.with_file_name(name)
}

/// What the journal says; nothing if there is none. A damaged one costs no address: interfaces then wait for EC2's
/// word, so it is only worth a warning.
#[must_use]
pub fn read_journal(path: &Path) -> Journal {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), "the journal is damaged and is begun anew: {error}");
            Journal::default()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Journal::default(),
        Err(error) => {
            tracing::warn!(file = %path.display(), "the journal cannot be read and is begun anew: {error}");
            Journal::default()
        }
    }
}

/// Writes the journal; a failure is logged: EC2's word at the next start makes up for it.
pub fn write_journal(path: &Path, journal: &Journal) {
    let written = serde_json::to_vec(journal).map_err(io::Error::other).and_then(|text| replace(path, &text));
    if let Err(error) = written {
        tracing::error!(file = %path.display(), "the journal cannot be written: {error}");
    }
}

fn temporary(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or(OsStr::new("ipam.json")).to_owned();
    name.push(format!(".tmp{suffix}{}", std::process::id()));
    path.with_file_name(name)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn starts_with(name: &OsString, prefix: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipam.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(dir.path().join("ipam.json.tmp123"), b"x").unwrap();
        remove_stale(&path);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["ipam.json"]);
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("no/such/ipam.json");
        assert!(replace(&path, b"one").is_err());
        let target = dir.path().join("ipam.json");
        fs::create_dir(&target).unwrap();
        assert!(replace(&target, b"one").is_err(), "a directory is in the way");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_journal_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = journal_path(&dir.path().join("ipam.json"));
        assert_eq!(path.file_name().unwrap(), "ipam-reservoir-journal.json");
        assert_eq!(read_journal(&path), Journal::default());
        let journal = Journal { managed: vec!["eni-1".to_owned()], ..Journal::default() };
        write_journal(&path, &journal);
        assert_eq!(read_journal(&path), journal);
        fs::write(&path, "{").unwrap();
        assert_eq!(read_journal(&path), Journal::default());
    }
}
