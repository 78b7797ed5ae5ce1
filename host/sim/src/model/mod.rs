//! The model: state, rules and time, nothing else.
//!
//! [`aws`] holds the account's state, [`ops`] the vocabulary of calls, `operations` and [`describe`] their rules, [`sim`] time, delays,
//! throttling and faults around them.

mod assignment;
pub mod audit;
pub mod aws;
pub mod config;
pub mod delays;
pub mod describe;
pub mod fault;
pub mod imds;
pub mod journal;
pub mod links;
mod operations;
pub mod operator;
pub mod ops;
pub mod preset;
pub mod refusal;
mod request;
pub mod sim;
pub mod subnet;
pub mod subnet6;
pub mod throttle;
