//! The policy directory: `policy.wasm` is the component, `policy.wasm.sha256` its pin, every other regular file is one
//! setting.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::{
    bundle::Bundle,
    digest::{BadDigest, Digest},
    limits::Limits,
};

/// The component's name in the directory.
pub const COMPONENT: &str = "policy.wasm";
/// What `sha256sum policy.wasm > policy.wasm.sha256` writes. Where it is there, the component must have this digest.
pub const PIN: &str = "policy.wasm.sha256";

/// Settings in one directory.
const SETTINGS: usize = 256;
/// Bytes of one setting.
const SETTING_BYTES: u64 = 64 << 10;
/// Bytes of all settings together, as a ConfigMap can hold.
const SETTINGS_BYTES: u64 = 1 << 20;
/// How often a directory that changes while it is read is read again.
const ATTEMPTS: u32 = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);

/// Why a directory could not be read. Each names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: this is not a directory; RESERVOIR_POLICY_DIR names the directory that holds {COMPONENT}", .0.display())]
    NotADirectory(PathBuf),
    #[error("{}: {bytes} bytes are too many, at most {most} are read", path.display())]
    TooLarge { path: PathBuf, bytes: u64, most: u64 },
    #[error("{}: a setting must be UTF-8 text, but byte {at} is not; write it as text or move the file away", path.display())]
    NotText { path: PathBuf, at: usize },
    #[error("{:?} in {}: a setting's name must be UTF-8 text; rename the file", name, dir.display())]
    BadName { dir: PathBuf, name: std::ffi::OsString },
    #[error("{}: {found} settings are too many, at most {SETTINGS} are read", dir.display())]
    TooMany { dir: PathBuf, found: usize },
    #[error("{}: its settings have {bytes} bytes together, at most {SETTINGS_BYTES} are read", dir.display())]
    TooMuch { dir: PathBuf, bytes: u64 },
    #[error("{}: {source}", path.display())]
    BadPin {
        path: PathBuf,
        #[source]
        source: BadDigest,
    },
    #[error("{}: {PIN} is there, but {COMPONENT} is not: copy the component too, or remove both", .0.display())]
    PinAlone(PathBuf),
    #[error("{}: it kept changing while it was read; it will be read again when it comes to rest", .0.display())]
    Changing(PathBuf),
}

/// What tells whether a file was replaced or written: device, inode, size, time of change in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

/// Reads the directory. One that does not exist is an empty bundle: the built-in component without settings.
///
/// Names that begin with `.` are skipped, as are directories and links that lead nowhere (a ConfigMap volume has both).
/// One trailing line break of a setting is cut. The files are read as of one moment: where one changes meanwhile, all
/// are read again.
pub fn read_dir(dir: &Path, limits: &Limits) -> Result<Bundle, ReadError> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            thread::sleep(BETWEEN_ATTEMPTS);
        }
        let before = list(dir)?;
        match read(dir, &before, limits) {
            // Gone since it was listed: the directory is being changed.
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Ok(bundle) if list(dir)? == before => return Ok(bundle),
            Err(error) if list(dir)? == before => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Err(ReadError::Changing(dir.to_owned()))
}

/// Regular files by name.
fn list(dir: &Path) -> Result<BTreeMap<String, Stamp>, ReadError> {
    use std::os::unix::fs::MetadataExt;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ReadError::Io { path, source }
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Err(ReadError::NotADirectory(dir.to_owned())),
        Err(e) => return Err(failed(dir)(e)),
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(failed(dir))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Through the link, if it is one.
        let meta = match fs::metadata(entry.path()) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed(&entry.path())(e)),
        };
        if meta.is_file() {
            let name =
                entry.file_name().into_string().map_err(|name| ReadError::BadName { dir: dir.to_owned(), name })?;
            files.insert(name, (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()));
        }
    }
    Ok(files)
}

fn read(dir: &Path, files: &BTreeMap<String, Stamp>, limits: &Limits) -> Result<Bundle, ReadError> {
    if files.contains_key(PIN) && !files.contains_key(COMPONENT) {
        return Err(ReadError::PinAlone(dir.to_owned()));
    }
    let is_setting = |name: &str| name != COMPONENT && name != PIN;
    let settings = files.keys().filter(|name| is_setting(name)).count();
    if settings > SETTINGS {
        return Err(ReadError::TooMany { dir: dir.to_owned(), found: settings });
    }
    let sizes = files.iter().filter(|(name, _)| is_setting(name)).map(|(_, &(_, _, bytes, _, _))| bytes);
    let bytes = sizes.fold(0, u64::saturating_add);
    if bytes > SETTINGS_BYTES {
        return Err(ReadError::TooMuch { dir: dir.to_owned(), bytes });
    }
    let mut bundle = Bundle::default();
    for (name, &(_, _, bytes, _, _)) in files {
        let path = dir.join(name);
        let is_component = name == COMPONENT;
        let most = if is_component { limits.component_bytes as u64 } else { SETTING_BYTES };
        if bytes > most {
            return Err(ReadError::TooLarge { path, bytes, most });
        }
        let content = fs::read(&path).map_err(|source| ReadError::Io { path: path.clone(), source })?;
        if is_component {
            bundle.component = Some(content);
            continue;
        }
        let mut text = String::from_utf8(content)
            .map_err(|e| ReadError::NotText { path: path.clone(), at: e.utf8_error().valid_up_to() })?;
        if name == PIN {
            // `sha256sum` adds the file's name.
            let word = text.split_whitespace().next().unwrap_or_default();
            bundle.pin = Some(word.parse::<Digest>().map_err(|source| ReadError::BadPin { path, source })?);
            continue;
        }
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        bundle.settings.insert(name.clone(), text);
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn settings(bundle: &Bundle) -> Vec<(&str, &str)> {
        bundle.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
    }

    fn read(dir: &Path) -> Result<Bundle, ReadError> {
        read_dir(dir, &Limits::default())
    }

    #[test]
    fn plain_files() {
        let tmp = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &[u8]| fs::write(tmp.path().join(name), content).unwrap();
        put("policy.wasm", b"\0asm");
        put("target", b"12\n");
        put("text", b"a\n\n");
        put("builtin.defects", b"reference");
        put(".hidden", b"\xff");
        fs::create_dir(tmp.path().join("sub")).unwrap();
        symlink("nowhere", tmp.path().join("dangling")).unwrap();
        let bundle = read(tmp.path()).unwrap();
        assert_eq!(bundle.component.as_deref(), Some(&b"\0asm"[..]));
        assert_eq!(settings(&bundle), [("builtin.defects", "reference"), ("target", "12"), ("text", "a\n")]);
    }

    #[test]
    fn a_config_map_volume() {
        let tmp = tempfile::tempdir().unwrap();
        let version = tmp.path().join("..2026_01_01");
        fs::create_dir(&version).unwrap();
        fs::write(version.join("target"), "7").unwrap();
        symlink("..2026_01_01", tmp.path().join("..data")).unwrap();
        symlink("..data/target", tmp.path().join("target")).unwrap();
        assert_eq!(settings(&read(tmp.path()).unwrap()), [("target", "7")]);
    }

    #[test]
    fn no_directory_is_no_policy() {
        let tmp = tempfile::tempdir().unwrap();
        assert_eq!(read(&tmp.path().join("absent")).unwrap(), Bundle::default());
    }

    #[test]
    fn a_pin_is_what_sha256sum_writes() {
        let tmp = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &str| fs::write(tmp.path().join(name), content).unwrap();
        let digest = Digest::of(b"x");
        put(PIN, &format!("{digest}  policy.wasm\n"));
        let error = read(tmp.path()).unwrap_err().to_string();
        assert!(error.contains("policy.wasm.sha256 is there, but policy.wasm is not"), "{error}");
        put(COMPONENT, "x");
        let bundle = read(tmp.path()).unwrap();
        assert_eq!((bundle.pin, bundle.settings.len()), (Some(digest), 0));
        put(PIN, "12345\n");
        let error = read(tmp.path()).unwrap_err().to_string();
        assert!(error.contains("policy.wasm.sha256: \"12345\" is not a SHA-256"), "{error}");
        put(PIN, "");
        assert!(matches!(read(tmp.path()), Err(ReadError::BadPin { .. })));
    }

    #[test]
    fn settings_are_bounded_together() {
        let tmp = tempfile::tempdir().unwrap();
        for i in 0..17 {
            fs::write(tmp.path().join(format!("s{i}")), vec![b'x'; 65_536]).unwrap();
        }
        let error = read(tmp.path()).unwrap_err().to_string();
        assert!(error.contains("1114112 bytes together, at most 1048576"), "{error}");
    }

    #[test]
    fn errors_name_the_file_and_the_remedy() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("target");
        fs::write(&file, b"1\xff2").unwrap();
        let error = read(tmp.path()).unwrap_err().to_string();
        assert!(error.contains("target: a setting must be UTF-8 text, but byte 1 is not"), "{error}");
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("not a directory"), "{error}");
        fs::write(&file, vec![b'x'; 65_537]).unwrap();
        let error = read(tmp.path()).unwrap_err().to_string();
        assert!(error.contains("65537 bytes are too many, at most 65536"), "{error}");
        fs::remove_file(&file).unwrap();
        for i in 0..300 {
            fs::write(tmp.path().join(format!("s{i}")), "").unwrap();
        }
        let error = read(tmp.path()).unwrap_err().to_string();
        assert!(error.contains("300 settings are too many"), "{error}");
    }
}
