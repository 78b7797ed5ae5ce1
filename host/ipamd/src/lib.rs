//! See docs/design.md.

pub mod config;
pub mod http;
pub mod logging;
pub mod metrics;
