#![no_main]

#[path = "../egress.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::egress(data));
