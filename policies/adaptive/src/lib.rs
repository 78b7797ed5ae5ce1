//! The adaptive policy: keeps what the node's own past says it will need, and gives back what has cost more than it is
//! worth. How it decides, in words and figures: docs/adaptive.md.
//!
//! | module | what |
//! |---|---|
//! | [`memory`] | what it has seen: pods per moment and per minute, by the time of day |
//! | [`pool`] | one card's pool in numbers |
//! | [`sizing`] | how many addresses to hold, and how many interfaces |
//! | [`planning`] | what to ask for where, what to give back |

pub mod memory;
pub mod planning;
pub mod pool;
pub mod sizing;

use reservoir_policy_sdk::{Context, Node, Plan, Planning, Sizes, Sizing, Targets, export};

/// The adaptive policy. The built-in one says where new interfaces go.
#[derive(Debug)]
pub struct Adaptive;

impl Sizing for Adaptive {
    fn decide(node: Node, context: Context) -> Result<Sizes, String> {
        no_settings(&context)?;
        Ok(sizing::decide(&node, &context.memo))
    }
}

impl Planning for Adaptive {
    fn decide(node: Node, context: Context, targets: Vec<Targets>) -> Result<Plan, String> {
        no_settings(&context)?;
        planning::decide(&node, &targets)
    }
}

fn no_settings(context: &Context) -> Result<(), String> {
    match context.settings.first() {
        None => Ok(()),
        Some((key, _)) => Err(["setting \"", key, "\": the adaptive policy has none; remove it"].concat()),
    }
}

export!(Adaptive: sizing, planning);
