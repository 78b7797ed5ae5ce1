//! See docs/design.md.

pub mod config;
