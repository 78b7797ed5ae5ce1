//! See docs/design.md.

pub mod config;
pub mod metrics;
