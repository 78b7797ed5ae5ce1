//! What several test files share.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod guests;
pub mod lab;
pub mod storm;
