//! GC: removes what pods left on the host that are no more (the reference does nothing).
//!
//! The runtime names the attachments that are alive, by container and interface. Neither is written on a rule, so it is
//! the other way round here: what goes has no living interface of its own, whoever made it. That is nobody's attachment,
//! on the list or not. Addresses are ipamd's to take back: it knows its pods and asks the kernel itself.

use cni_plugin::error::Error;
use cni_plugin::json::{objects, text};
use cni_plugin::log::Log;
use serde_json::{Map, Value};

use crate::Deps;

/// The attachments that are alive.
const VALID: &str = "cni.dev/valid-attachments";

/// Removes rules and vlans of pods whose interfaces are gone.
///
/// # Errors
/// Code 999: the list is malformed, and then nothing was touched; or what could not be removed.
pub fn run(conf: &Map<String, Value>, log: &Log, deps: Deps<'_>) -> Result<(), Error> {
    let failed = |cause: String| Error::Plugin(format!("gc cmd: {cause}"));
    let valid = objects(conf, VALID).map_err(failed)?;
    for attachment in &valid {
        for key in ["containerID", "ifname"] {
            text(attachment, key)
                .map_err(failed)?
                .ok_or_else(|| failed(format!("{VALID} has an entry without {key}")))?;
        }
    }
    let removed = deps.net.remove_stale().map_err(|error| {
        log.error(format_args!("GC: {error}"));
        failed(error.to_string())
    })?;
    log.info(format_args!("GC with {} valid attachments removed {}", valid.len(), removed.len()));
    for line in removed {
        log.info(format_args!("GC: {line}"));
    }
    Ok(())
}
