//! One decision of the built-in component, beside one call of a component that decides nothing.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use reservoir_core::policy::{Context, Node};
use reservoir_policy::{By, Component, Facts, Options, Policies, Session, sample};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::samples::Samples;
use crate::table::{Goal, Row, Table};

const RUNS: usize = 3000;

pub fn decision(table: &mut Table) -> Result<()> {
    let policies = Policies::new(Options::default())?;
    let empty = policies.runtime().load(&empty()?, None)?;
    for (enis, addresses, goal) in [(2, 29, 60.0), (15, 49, 160.0)] {
        let node = sample::node(enis, addresses);
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let begun = Instant::now();
            let decision = policies.decide(&node);
            ours.push(begun.elapsed());
            if let Some((_, failure)) = decision.failure() {
                bail!("the built-in component failed: {failure}");
            }
            let begun = Instant::now();
            nothing(&empty, &node)?;
            floor.push(begun.elapsed());
        }
        let us = |samples: Vec<_>| Samples::new(samples).p50().map(|ms| ms * 1e3);
        table.push(
            Row::new("policy", format!("one decision, {enis} ENIs x {addresses}, p50"), "µs", us(ours))
                .floor("empty component, one call", us(floor))
                .goal(Goal::AtMost(goal)),
        );
    }
    Ok(())
}

/// One call: the instance is made, the snapshot goes in, an empty plan comes out.
fn nothing(component: &Component, node: &Node) -> Result<()> {
    let facts = Facts::of(node);
    let context = Context { settings: Vec::new(), memo: Vec::new() };
    let called = Session::new(component, &facts, By::Custom).planning(&context, &[]);
    called.result.map(drop).context("the empty component failed")
}

/// A planner that plans nothing, made of the guests' common part.
fn empty() -> Result<Vec<u8>> {
    const DECIDE: &str =
        "(func (export \"reservoir:policy/planning@0.1.0#decide\") (param i32) (result i32) (call $calm))";
    let prelude = include_str!("../../../guests/prelude.wat");
    component(&format!("(module {prelude}\n{DECIDE})"), "planning-policy")
}

/// The component of a core module's text for a world of the contract.
pub(super) fn component(module: &str, world: &str) -> Result<Vec<u8>> {
    let mut module = wat::parse_str(module)?;
    let mut resolve = Resolve::default();
    let contract =
        concat!(include_str!("../../../../wit/policy.wit"), "\n", include_str!("../../../guests/worlds.wit"));
    let package = resolve.push_str("policy.wit", contract)?;
    let world = resolve.select_world(&[package], Some(world))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    ComponentEncoder::default().module(&module)?.validate(true).encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_component_answers() {
        let policies = Policies::new(Options::default()).unwrap();
        let component = policies.runtime().load(&empty().unwrap(), None).unwrap();
        nothing(&component, &sample::node(2, 29)).unwrap();
    }
}
