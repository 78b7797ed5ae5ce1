//! Compiled code on disk, by content: a restart need not compile again.
//!
//! Compiled code is run as it is, so an entry is trusted only if nobody but our own user can have written it: the
//! directory and the file are ours, and no one else may write to them. It must also be whole, and of this very
//! component, compiler and machine. What is not is left unused, removed and made anew; a log line says why.
//!
//! ```text
//! entry: magic (24) · key (32) · SHA-256 of the code (32) · code
//! key:   SHA-256 of magic, the engine's compatibility hash, the component's digest; also the file's name
//! ```

use std::{
    fs::File,
    hash::{Hash, Hasher},
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, renameat, unlinkat},
    process::geteuid,
};
use sha2::{Digest as _, Sha256};
use tracing::{debug, warn};
use wasmtime::{Engine, component::Component};

use crate::{code, digest::Digest};

const MAGIC: &[u8; 24] = b"reservoir policy code 1\n";
const HEADER: usize = MAGIC.len() + 32 + 32;
/// Bytes of all entries together: the directory may be in memory.
const MOST_BYTES: u64 = 64 << 20;
/// Entries: those in use, and a few that may come back.
const MOST_ENTRIES: usize = 8;
const SUFFIX: &str = ".code";

/// The directory. It is made when the first entry is written.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    dir: PathBuf,
}

/// Why an entry, or the directory, is not used.
#[derive(Debug, thiserror::Error)]
enum Distrust {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is not a {0}")]
    Kind(&'static str),
    #[error("it belongs to user {owner}, not to user {us}, who runs this program")]
    Owner { owner: u32, us: u32 },
    #[error("others than its owner may write to it (mode {mode:o}): chmod go-w")]
    Writable { mode: u32 },
    #[error("it has {0} bytes, which is too many or too few")]
    Size(u64),
    #[error("it is of another component, compiler or machine")]
    Foreign,
    #[error("it is damaged: its SHA-256 is not the one it names")]
    Damaged,
    #[error("the runtime does not take it: {0}")]
    Refused(String),
}

impl From<rustix::io::Errno> for Distrust {
    fn from(errno: rustix::io::Errno) -> Distrust {
        Distrust::Io(errno.into())
    }
}

impl Distrust {
    fn is_absent(&self) -> bool {
        matches!(self, Distrust::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl Cache {
    pub(crate) fn new(dir: &Path) -> Cache {
        Cache { dir: dir.to_owned() }
    }

    /// The compiled component, if there is a good entry for it.
    pub(crate) fn get(&self, engine: &Engine, component: Digest) -> Option<Component> {
        let key = key(engine, component);
        let dir = match self.open() {
            Ok(dir) => dir,
            Err(error) if error.is_absent() => return None,
            // Told when the entry cannot be written either.
            Err(_) => return None,
        };
        let name = name(&key);
        match read(&dir, &name, &key)
            .and_then(|code| code::load(engine, &code).map_err(|error| Distrust::Refused(format!("{error:#}"))))
        {
            Ok(component) => Some(component),
            Err(error) if error.is_absent() => None,
            Err(error) => {
                let file = self.dir.join(&name);
                warn!(file = %file.display(), "compiled code is not used, it is made anew: {error}");
                // What cannot be removed is replaced by the new entry.
                let _ = unlinkat(&dir, &name, AtFlags::empty());
                None
            }
        }
    }

    /// Keeps a compiled component. What goes wrong costs the next start some time and nothing else.
    pub(crate) fn put(&self, engine: &Engine, component: Digest, compiled: &Component) {
        let code = match compiled.serialize() {
            Ok(code) => code,
            Err(error) => return debug!("compiled code is not kept: {error:#}"),
        };
        if (HEADER + code.len()) as u64 > MOST_BYTES {
            return debug!(bytes = code.len(), most = MOST_BYTES, "compiled code is not kept: it is too large");
        }
        if let Err(error) = self.write(&key(engine, component), &code) {
            let dir = self.dir.display();
            warn!(%dir, "compiled code is not kept, the next start compiles again: {error}");
        }
    }

    fn write(&self, key: &[u8; 32], code: &[u8]) -> Result<(), Distrust> {
        match mkdirat(CWD, &self.dir, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let dir = self.open()?;
        let temporary = format!(".{}.tmp", std::process::id());
        // Of a run with our number that was killed.
        let _ = unlinkat(&dir, &temporary, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = (|| {
            let mut file = File::from(openat(&dir, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(MAGIC)?;
            file.write_all(key)?;
            file.write_all(&Sha256::digest(code))?;
            // Not synced: an entry that a power cut tore is found out by its digest.
            file.write_all(code)?;
            Ok(renameat(&dir, &temporary, &dir, name(key))?)
        })();
        if written.is_err() {
            let _ = unlinkat(&dir, &temporary, AtFlags::empty());
        }
        self.prune(&dir);
        written
    }

    /// The directory, which must be ours. What is opened below it is what was checked, whatever becomes of the path.
    fn open(&self) -> Result<OwnedFd, Distrust> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(CWD, &self.dir, flags, Mode::empty()).map_err(|errno| match errno {
            rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => Distrust::Kind("directory"),
            other => other.into(),
        })?;
        let file = File::from(dir);
        ours(&file)?;
        Ok(file.into())
    }

    /// Oldest first, until the rest is within bounds; what killed runs left behind goes too.
    fn prune(&self, dir: &OwnedFd) {
        let Ok(list) = std::fs::read_dir(&self.dir) else { return };
        let mut entries: Vec<(SystemTime, u64, std::ffi::OsString)> = Vec::new();
        for entry in list.flatten() {
            let (name, Ok(meta)) = (entry.file_name(), entry.metadata()) else { continue };
            let text = name.to_string_lossy();
            if text.ends_with(SUFFIX) {
                entries.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), name));
            } else if text.starts_with('.') && text.ends_with(".tmp") {
                let _ = unlinkat(dir, &name, AtFlags::empty());
            }
        }
        entries.sort();
        let mut bytes: u64 = entries.iter().map(|e| e.1).sum();
        let mut left = entries.len();
        for (_, size, name) in entries {
            if left <= MOST_ENTRIES && bytes <= MOST_BYTES {
                break;
            }
            let _ = unlinkat(dir, &name, AtFlags::empty());
            left -= 1;
            bytes -= size;
        }
    }
}

fn key(engine: &Engine, component: Digest) -> [u8; 32] {
    /// Gives a `Hash` to SHA-256, which is the same in every run.
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut sha = Sha(Sha256::new_with_prefix(MAGIC));
    engine.precompile_compatibility_hash().hash(&mut sha);
    sha.0.update(component.as_bytes());
    sha.0.finalize().into()
}

fn name(key: &[u8; 32]) -> String {
    format!("{}{SUFFIX}", Digest::from(*key))
}

/// Nobody but the user that runs this program can have changed what is in it.
fn ours(file: &File) -> Result<std::fs::Metadata, Distrust> {
    let (meta, us) = (file.metadata()?, geteuid().as_raw());
    if meta.uid() != us {
        return Err(Distrust::Owner { owner: meta.uid(), us });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Distrust::Writable { mode });
    }
    Ok(meta)
}

fn read(dir: &OwnedFd, name: &str, key: &[u8; 32]) -> Result<Vec<u8>, Distrust> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(dir, name, flags, Mode::empty()).map_err(|errno| match errno {
        rustix::io::Errno::LOOP => Distrust::Kind("regular file"),
        other => other.into(),
    })?;
    let file = File::from(fd);
    let meta = ours(&file)?;
    if !meta.is_file() {
        return Err(Distrust::Kind("regular file"));
    }
    if meta.len() > MOST_BYTES || meta.len() <= HEADER as u64 {
        return Err(Distrust::Size(meta.len()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    (&file).take(MOST_BYTES).read_to_end(&mut bytes)?;
    let (Some(header), Some(code)) = (bytes.get(..HEADER), bytes.get(HEADER..)) else {
        return Err(Distrust::Size(bytes.len() as u64));
    };
    let (head, sha) = header.split_at(HEADER - 32);
    if head != [&MAGIC[..], &key[..]].concat() {
        return Err(Distrust::Foreign);
    }
    if sha != &Sha256::digest(code)[..] {
        return Err(Distrust::Damaged);
    }
    let code = code.to_vec();
    // The last to be pruned is the last used. If that does not work, it is the last written.
    let _ = file.set_modified(SystemTime::now());
    Ok(code)
}

#[cfg(test)]
mod tests;
