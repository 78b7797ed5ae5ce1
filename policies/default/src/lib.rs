//! The built-in policy: the documented rule (spec 01 §1.7–§1.8, §3.3–§3.6, §4, §5, §6.3), as plain functions on plain
//! data. This file only exports them.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | what an operator can set |
//! | [`stats`] | one card's pool and its numbers |
//! | [`sizing`] | the targets, and how far the pool is from them |
//! | [`planning`] | growth, and the plan as a whole |
//! | [`release`], [`removal`] | what to give back, which interface to remove |
//! | [`subnets`] | where a new interface goes |

pub mod order;
pub mod planning;
pub mod release;
pub mod removal;
pub mod settings;
pub mod sizing;
pub mod stats;
pub mod subnets;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod modes;

use reservoir_policy_sdk::{
    Context, CreateEni, Node, Plan, Planning, Sizes, Sizing, SubnetId, Subnets, Targets, export,
};
use settings::Settings;

/// The built-in policy.
#[derive(Debug)]
pub struct BuiltIn;

impl Sizing for BuiltIn {
    fn decide(node: Node, context: Context) -> Result<Sizes, String> {
        Settings::parse(&context.settings)?;
        Ok(sizing::decide(&node))
    }
}

impl Planning for BuiltIn {
    fn decide(node: Node, context: Context, targets: Vec<Targets>) -> Result<Plan, String> {
        planning::decide(&node, &targets, Settings::parse(&context.settings)?)
    }
}

impl Subnets for BuiltIn {
    fn rank(node: Node, context: Context, request: CreateEni) -> Result<Vec<SubnetId>, String> {
        Ok(subnets::rank(&node, &request, Settings::parse(&context.settings)?))
    }
}

export!(BuiltIn: sizing, planning, subnets);
