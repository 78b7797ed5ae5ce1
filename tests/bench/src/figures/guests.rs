//! An ADD beside a component that misbehaves: two daemons at once, one with the guest and one without, asked in turn, so
//! that whatever else the machine does meets both. Both hold the same number of addresses.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::policy::component;
use crate::client::{Client, block_on};
use crate::lab::{Lab, Spec};
use crate::samples::Samples;
use crate::table::{Goal, Row, Table};

const ROUNDS: usize = 1500;
/// Guests of tests/guests, and the export of each.
const GUESTS: &[&str] = &["loop", "memory", "recursion", "huge-error"];
/// Addresses that the guests hold while they behave, and the built-in policy in their place.
const HELD: u64 = 5;

pub fn beside(table: &mut Table) -> Result<()> {
    let spec = Spec {
        instance_type: "c5.4xlarge",
        delays: "instant",
        namespaces: false,
        env: &[("MINIMUM_IP_TARGET", "5"), ("IP_COOLDOWN_PERIOD", "0")],
        max_pods: true,
        preset: "",
    };
    for guest in GUESTS {
        let (mut quiet, mut troubled) = (Lab::new(&spec)?, Lab::new(&spec)?);
        let dir = troubled.policy_dir();
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("policy.wasm"), provoked_by_adds(guest)?)?;
        for lab in [&mut quiet, &mut troubled] {
            lab.start()?;
        }
        quiet.settle(HELD)?;
        troubled.settle(HELD)?;
        let (with, without) = block_on(async {
            let mut clients = [Client::connect(&troubled.socket()).await?, Client::connect(&quiet.socket()).await?];
            let mut samples = [Vec::new(), Vec::new()];
            for round in 0..ROUNDS {
                let pod = format!("pod-{round}");
                for (client, samples) in clients.iter_mut().zip(&mut samples) {
                    let begun = Instant::now();
                    client.add(&pod).await?;
                    samples.push(begun.elapsed());
                    client.del(&pod).await?;
                }
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
            let [with, without] = samples.map(Samples::new);
            Ok((with, without))
        })?;
        let failures = troubled.policy_failures()?;
        if failures == 0 {
            bail!("{guest} did not misbehave: {}", troubled.policy_status()?);
        }
        let ratio = with.p50().zip(without.p50()).map(|(with, without)| with / without);
        let figure = format!("AddNetwork p50 beside the guest {guest} ({failures} failed decisions), of that without");
        table
            .push(Row::new("guests", figure, "", ratio).floor("without it, ms", without.p50()).goal(Goal::AtMost(1.1)));
    }
    Ok(())
}

/// The guest, provoked by pods instead of an extra fact: misbehaving whenever one was added in the running minute.
fn provoked_by_adds(name: &str) -> Result<Vec<u8>> {
    const BY_FACT: &str = "(i32.load offset=128 (local.get $arguments))";
    // node.history is at 116 (pointer) and 120 (length); a minute begins with its adds.
    const BY_ADDS: &str = "(if (result i32) (i32.eqz (i32.load offset=120 (local.get $arguments)))
        (then (i32.const 0)) (else (i32.load (i32.load offset=116 (local.get $arguments)))))";
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests");
    let read = |file: &str| fs::read_to_string(guests.join(file)).with_context(|| file.to_owned());
    let (body, prelude) = (read(&format!("{name}.wat"))?, read("prelude.wat")?);
    if !prelude.contains(BY_FACT) {
        bail!("prelude.wat provokes in another way than is known here");
    }
    let world =
        body.lines().next().and_then(|l| l.strip_prefix(";; world: ")).context("a guest begins with its world")?;
    component(&format!("(module {body}\n{})", prelude.replace(BY_FACT, BY_ADDS)), world)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_is_made() {
        for guest in GUESTS {
            provoked_by_adds(guest).unwrap();
        }
    }
}
