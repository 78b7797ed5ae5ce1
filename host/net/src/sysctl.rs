//! Kernel settings under `/proc/sys`, of the network namespace the calling thread is in.

use std::fs;

use rustix::io::Errno;

use crate::writes;

/// Sets a key such as `net/ipv4/conf/eth0/rp_filter`, unless it has the value already.
///
/// # Errors
/// The kernel's; `ENOENT` where the kernel has no such key.
pub fn set(key: &str, value: &str) -> Result<(), Errno> {
    if get(key)? == value {
        return Ok(());
    }
    writes::count(|w| w.settings += 1);
    fs::write(path(key), value).map_err(|error| errno(&error))
}

/// Reads a key, without the newline at its end.
///
/// # Errors
/// The kernel's; `ENOENT` where the kernel has no such key.
pub fn get(key: &str) -> Result<String, Errno> {
    let mut text = fs::read_to_string(path(key)).map_err(|error| errno(&error))?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

fn path(key: &str) -> String {
    format!("/proc/sys/{key}")
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
