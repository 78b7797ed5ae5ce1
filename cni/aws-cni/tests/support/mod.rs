//! What the test programs share.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

pub use reservoir_net::testing::Namespace;
