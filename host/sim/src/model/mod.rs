//! The model: state, rules and time, nothing else.
//!
//! [`aws`] holds the account's state, [`ops`] the vocabulary of calls, `operations`, `assignment` and [`describe`] their
//! rules, [`sim`] and `schedule` time, delays, throttling and faults around them, [`operator`] what others do, [`audit`] what must hold.

mod assignment;
pub mod audit;
pub mod aws;
pub mod config;
pub mod delays;
pub mod describe;
pub mod fault;
pub mod groups;
pub mod iam;
pub mod imds;
pub mod journal;
pub mod links;
mod operations;
pub mod operator;
pub mod ops;
pub mod preset;
pub mod refusal;
mod request;
mod schedule;
pub mod script;
pub mod sim;
pub mod skew;
pub mod subnet;
pub mod subnet6;
pub mod throttle;
