//! Log lines: one JSON object each, in the reference's keys (spec 02 §14, spec 04 §2.9). Never to stdout.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// A file of this size is put aside before the next line.
const ROTATE_BYTES: u64 = 100 * 1024 * 1024;
/// Files put aside are kept as long as there are at most this many of them …
const KEEP_FILES: usize = 5;
/// … and not longer than this.
const KEEP_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    /// As a threshold: no line of ours is that important.
    Fatal,
}

impl Level {
    /// Reads `pluginLogLevel`; an unknown word is debug.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "info" => Self::Info,
            "warn" => Self::Warn,
            "error" => Self::Error,
            "fatal" => Self::Fatal,
            _ => Self::Debug,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }
}

/// Where lines go. The file is opened with the first line.
#[derive(Debug)]
pub struct Log {
    plugin: &'static str,
    level: Level,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Stderr,
    File { path: PathBuf, open: RefCell<Option<File>> },
}

#[derive(Serialize)]
struct Line<'a> {
    level: &'static str,
    ts: &'a str,
    caller: &'a str,
    msg: &'a str,
}

impl Log {
    /// Lines of `plugin`. `file` is a path, or empty or `stderr` for stderr. `stdout` would damage the result: it counts
    /// as stderr.
    #[must_use]
    pub fn new(plugin: &'static str, file: &str, level: Level) -> Self {
        let target = match file {
            "" | "stderr" | "stdout" => Target::Stderr,
            path => Target::File { path: PathBuf::from(path), open: RefCell::new(None) },
        };
        Self { plugin, level, target }
    }

    /// For who wants to know everything.
    #[track_caller]
    pub fn debug(&self, msg: impl Display) {
        self.write(Level::Debug, &msg, Location::caller());
    }

    /// What was done.
    #[track_caller]
    pub fn info(&self, msg: impl Display) {
        self.write(Level::Info, &msg, Location::caller());
    }

    /// What is odd, but was dealt with.
    #[track_caller]
    pub fn warn(&self, msg: impl Display) {
        self.write(Level::Warn, &msg, Location::caller());
    }

    /// What failed.
    #[track_caller]
    pub fn error(&self, msg: impl Display) {
        self.write(Level::Error, &msg, Location::caller());
    }

    fn write(&self, level: Level, msg: &dyn Display, caller: &Location<'_>) {
        if level < self.level {
            return;
        }
        let file = Path::new(caller.file()).file_name().unwrap_or_default().to_string_lossy();
        let line = Line {
            level: level.as_str(),
            ts: &timestamp(SystemTime::now()),
            caller: &format!("{}/{file}:{}", self.plugin, caller.line()),
            msg: &msg.to_string(),
        };
        let Ok(mut text) = serde_json::to_string(&line) else { return };
        text.push('\n');
        // A log that cannot be written must not cost a pod its network.
        let written = match &self.target {
            Target::Stderr => io::stderr().write_all(text.as_bytes()),
            Target::File { path, open } => append(path, open, text.as_bytes()),
        };
        if let Err(error) = written {
            let _ = write!(io::stderr(), "{}: cannot write to the log: {error}\n{text}", self.plugin);
        }
    }
}

/// Many plugins write to the same file at once: a line is one write at the end.
fn append(path: &Path, open: &RefCell<Option<File>>, line: &[u8]) -> io::Result<()> {
    let mut open = open.borrow_mut();
    let file = match open.take() {
        Some(file) => file,
        None => open_file(path, ROTATE_BYTES)?,
    };
    let written = (&file).write_all(line);
    *open = Some(file);
    written
}

fn open_file(path: &Path, limit: u64) -> io::Result<File> {
    let create = || OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let file = match create() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(Path::new("/"));
            fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
            create()?
        }
        other => other?,
    };
    if file.metadata()?.len() < limit {
        return Ok(file);
    }
    rotate(path, &file)?;
    create()
}

/// Puts a full file aside, unless another process is at it or has done so.
fn rotate(path: &Path, file: &File) -> io::Result<()> {
    if file.try_lock().is_err() {
        return Ok(());
    }
    let (ours, now) = (file.metadata()?, fs::metadata(path)?);
    if (ours.dev(), ours.ino()) == (now.dev(), now.ino()) {
        let aside = timestamp(SystemTime::now()).replace(':', "-");
        fs::rename(path, aside_name(path, aside.trim_end_matches('Z')))?;
        remove_old(path)?;
    }
    Ok(())
}

/// `plugin-2026-09-02T08-00-00.000.log` for `plugin.log`.
fn aside_name(path: &Path, time: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{time}{extension}"))
}

fn remove_old(path: &Path) -> io::Result<()> {
    let stem = format!("{}-", path.file_stem().unwrap_or_default().to_string_lossy());
    let mut aside: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new("/")))? {
        let entry = entry?.path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rest = name.strip_prefix(&stem);
        if rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            aside.push(entry);
        }
    }
    // The time in the name sorts them, newest last.
    aside.sort();
    let surplus = aside.len().saturating_sub(KEEP_FILES);
    for (position, old) in aside.iter().enumerate() {
        let age = fs::metadata(old).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if position < surplus || age.is_some_and(|age| age > KEEP_FOR) {
            fs::remove_file(old)?;
        }
    }
    Ok(())
}

/// `2026-09-02T08:00:00.123Z`
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{:03}Z", second % 60, since.subsec_millis())
}

/// The Gregorian date `days` after 1970-01-01. Counted in eras of 400 years from 0000-03-01, so that a leap day is the
/// last day of its year.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        let at = |seconds, millis| timestamp(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400, 7), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_788_336_000, 123), "2026-09-02T08:00:00.123Z");
        assert_eq!(at(4_107_542_399, 999), "2100-02-28T23:59:59.999Z");
    }

    #[test]
    fn one_object_per_line_from_the_level_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/dir/plugin.log");
        let log = Log::new("a-plugin", path.to_str().unwrap(), Level::parse("INFO"));
        log.debug("hidden");
        log.info("two\nlines");
        log.error("\"quoted\"");
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!((&lines[0]["level"], &lines[0]["msg"]), (&"info".into(), &"two\nlines".into()));
        assert!(lines[1]["caller"].as_str().unwrap().starts_with("a-plugin/log.rs:"), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn full_files_are_put_aside_and_few_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin.log");
        fs::write(dir.path().join("plugin-notes.txt"), "not ours").unwrap();
        for round in 0..8 {
            fs::write(&path, format!("{round}")).unwrap();
            let file = open_file(&path, 1).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 0, "a new file is written to");
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), KEEP_FILES + 2, "{names:?}");
        let newest = dir.path().join(&names[KEEP_FILES - 1]);
        assert_eq!(fs::read_to_string(newest).unwrap(), "7", "{names:?}");
    }

    #[test]
    fn a_directory_that_cannot_be_made_does_not_stop_anything() {
        Log::new("a-plugin", "/proc/nowhere/plugin.log", Level::Debug).info("shown on stderr");
    }
}
