//! From compiled code to a component: the one place of this crate that is not safe by itself.

use wasmtime::{Engine, component::Component};

/// Takes code back that this program compiled and wrote.
///
/// wasmtime checks that the code is of its version and of these settings, and trusts the rest: it is run as it is. So the
/// caller must know that the bytes are what [`Component::serialize`] gave. [`crate::cache`] knows it by where it found
/// them (a directory and a file of our own user that nobody else can write) and by their SHA-256.
#[allow(unsafe_code, reason = "wasmtime offers no other way to load compiled code; see above for what makes it sound")]
pub(crate) fn load(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: see above; the only caller is `cache::Cache::get`.
    unsafe { Component::deserialize(engine, code) }
}
