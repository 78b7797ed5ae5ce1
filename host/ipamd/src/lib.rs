//! See docs/design.md.

pub mod config;
pub mod logging;
pub mod metrics;
