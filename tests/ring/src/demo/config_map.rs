//! A ConfigMap volume as the kubelet makes it: the files are links through `..data`, which is replaced in one rename.
//!
//! ```text
//! policy.wasm -> ..data/policy.wasm        ..data -> ..v2
//! day         -> ..data/day                ..v2/policy.wasm, ..v2/day
//! ```

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Puts the files there and takes away those of the version before: component and settings change in one moment.
pub fn put(dir: &Path, version: u32, files: &[(&str, &[u8])]) -> Result<()> {
    let name = format!("..v{version}");
    let content = dir.join(&name);
    fs::create_dir(&content).with_context(|| content.display().to_string())?;
    for (file, bytes) in files {
        fs::write(content.join(file), bytes).with_context(|| content.join(file).display().to_string())?;
    }
    let (data, temporary) = (dir.join("..data"), dir.join("..data_tmp"));
    symlink(&name, &temporary)?;
    let before = fs::read_link(&data).ok();
    fs::rename(&temporary, &data)?;
    for (file, _) in files {
        let link = dir.join(file);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(file), link)?;
        }
    }
    for entry in fs::read_dir(dir)?.flatten() {
        let file = entry.file_name();
        let stays = file.as_encoded_bytes().starts_with(b".") || files.iter().any(|(f, _)| file == *f);
        if !stays {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(before) = before {
        fs::remove_dir_all(dir.join(before))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_replaces_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), 1, &[("policy.wasm", b"one"), ("day", b"1")]).unwrap();
        put(dir.path(), 2, &[("policy.wasm", b"two")]).unwrap();
        assert_eq!(fs::read(dir.path().join("policy.wasm")).unwrap(), b"two");
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
    }
}
