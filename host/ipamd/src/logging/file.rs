//! A log file that is rotated by size. Old files are not compressed; those that the reference left are pruned with ours.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::time;

/// When a file is rotated and what is kept (spec 02 §14).
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub bytes: u64,
    pub files: usize,
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 100 << 20, files: 5, age: Duration::from_secs(30 * 86_400) }
    }
}

/// Appends; rotates before a write that would exceed the limit.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    limits: Limits,
    file: File,
    size: u64,
}

impl RotatingFile {
    /// New directories are 0755, new files 0600: requests are logged in full.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::with_limits(path, Limits::default())
    }

    pub fn with_limits(path: &Path, limits: Limits) -> io::Result<Self> {
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        let file = append(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), limits, file, size })
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.path, self.old_name(SystemTime::now()))?;
        self.file = append(&self.path)?;
        self.size = 0;
        self.prune(SystemTime::now())
    }

    /// `<stem>-<time>.<extension>` beside the file.
    fn old_name(&self, at: SystemTime) -> PathBuf {
        let mut name = format!("{}{}", self.prefix(), time::file_stamp(at));
        if let Some(extension) = self.path.extension() {
            name.push('.');
            name.push_str(&extension.to_string_lossy());
        }
        self.path.with_file_name(name)
    }

    fn prefix(&self) -> String {
        format!("{}-", self.path.file_stem().unwrap_or_default().to_string_lossy())
    }

    /// Removes old files beyond the number kept and those too old. Their names sort by time.
    fn prune(&self, now: SystemTime) -> io::Result<()> {
        let dir = self.path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let prefix = self.prefix();
        let mut old: Vec<_> = fs::read_dir(dir)?
            .filter_map(Result::ok)
            .filter(|entry| {
                let name = entry.file_name();
                let stamp = name.to_str().and_then(|n| n.strip_prefix(&prefix));
                stamp.is_some_and(is_stamped)
            })
            .collect();
        old.sort_by_key(fs::DirEntry::file_name);
        let surplus = old.len().saturating_sub(self.limits.files);
        for (i, entry) in old.iter().enumerate() {
            let modified = entry.metadata().and_then(|m| m.modified()).unwrap_or(now);
            if i < surplus || now.duration_since(modified).unwrap_or_default() > self.limits.age {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let more = bytes.len() as u64;
        // If rotation fails the line still goes to the file there is; the error of that write, if any, counts.
        if self.size > 0
            && self.size + more > self.limits.bytes
            && let Err(error) = self.rotate()
        {
            let _ = writeln!(io::stderr(), "log: cannot rotate {}: {error}", self.path.display());
            self.size = 0;
        }
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Whether what follows the stem begins as [`time::file_stamp`] does, so that files of others are left alone.
fn is_stamped(rest: &str) -> bool {
    const SHAPE: &[u8] = b"dddd-dd-ddTdd-dd-dd.ddd";
    let bytes = rest.as_bytes();
    bytes.len() >= SHAPE.len()
        && SHAPE.iter().zip(bytes).all(|(shape, b)| if *shape == b'd' { b.is_ascii_digit() } else { shape == b })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn makes_the_directory_and_a_private_file_and_appends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/x.log");
        for _ in 0..2 {
            RotatingFile::open(&path).unwrap().write_all(b"line\n").unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "line\nline\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn rotates_by_size_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipamd.log");
        let old = "ipamd-2020-01-01T00-00-00.000.log.gz";
        fs::write(dir.path().join(old), "").unwrap();
        fs::write(dir.path().join("ipamd-notes.log"), "").unwrap();
        let limits = Limits { bytes: 10, files: 2, age: Duration::from_secs(3600) };
        let mut file = RotatingFile::with_limits(&path, limits).unwrap();
        for i in 0..4 {
            file.write_all(format!("line {i}\n").as_bytes()).unwrap();
            // Names carry milliseconds.
            std::thread::sleep(Duration::from_millis(3));
        }
        let names = names(dir.path());
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(!names.contains(&old.to_owned()) && names.contains(&"ipamd-notes.log".to_owned()), "{names:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 3\n");
        assert_eq!(fs::read_to_string(dir.path().join(&names[1])).unwrap(), "line 2\n");
    }

    #[test]
    fn goes_on_where_it_cannot_rotate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let limits = Limits { bytes: 4, ..Limits::default() };
        let mut file = RotatingFile::with_limits(&path, limits).unwrap();
        file.write_all(b"one\n").unwrap();
        fs::remove_file(&path).unwrap();
        file.write_all(b"two\n").unwrap();
    }
}
