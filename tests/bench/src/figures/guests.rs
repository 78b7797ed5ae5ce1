//! An ADD beside a component that misbehaves: two daemons at once, one with the guest and one without, asked in turn, so
//! that whatever else the machine does meets both. Both hold the same number of addresses.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::policy::component;
use crate::client::{Client, block_on};
use crate::lab::{Lab, Spec};
use crate::samples::Samples;
use crate::table::{Goal, Row, Table};

/// ADDs beside each guest, and as many without it.
const ROUNDS: usize = 600;
/// Guests with a row of their own, one per resource that a component can use up: time, memory, stack, the host's copies.
const SHOWN: &[&str] = &["loop", "memory", "recursion", "huge-error"];
/// Addresses that the guests hold while they behave, and the built-in policy in their place.
const HELD: u64 = 5;

const SPEC: Spec = Spec {
    instance_type: "c5.4xlarge",
    delays: "instant",
    namespaces: false,
    env: &[("MINIMUM_IP_TARGET", "5"), ("IP_COOLDOWN_PERIOD", "0")],
    max_pods: true,
    preset: "",
};

/// ADDs of a daemon beside a guest, and of one without, of the same moments.
struct Beside {
    guest: String,
    /// Decisions that failed meanwhile.
    failures: u64,
    with: Option<f64>,
    without: Option<f64>,
}

impl Beside {
    fn ratio(&self) -> Option<f64> {
        Some(self.with? / self.without?)
    }
}

pub fn beside(table: &mut Table) -> Result<()> {
    let mut quiet = Lab::new(&SPEC)?;
    quiet.start()?;
    quiet.settle(HELD)?;
    let mut all = Vec::new();
    for guest in names()? {
        all.push(measure(&quiet, &guest).with_context(|| guest)?);
    }
    for guest in SHOWN {
        let one = all.iter().find(|b| b.guest == *guest).with_context(|| format!("there is no guest {guest}"))?;
        if one.failures == 0 {
            bail!("{guest} did not misbehave");
        }
        let figure =
            format!("AddNetwork p50 beside the guest {guest} ({} failed decisions), of that without", one.failures);
        push(table, figure, one);
    }
    let worst = all.iter().max_by(|a, b| a.ratio().unwrap_or(f64::MAX).total_cmp(&b.ratio().unwrap_or(f64::MAX)));
    let worst = worst.context("there is no guest")?;
    let failing = all.iter().filter(|b| b.failures > 0).count();
    let figure = format!(
        "AddNetwork p50 beside the worst of {} guests ({failing} of them fail), {}, of that without",
        all.len(),
        worst.guest
    );
    push(table, figure, worst);
    Ok(())
}

fn push(table: &mut Table, figure: String, one: &Beside) {
    table
        .push(Row::new("guests", figure, "", one.ratio()).floor("without it, ms", one.without).goal(Goal::AtMost(1.1)));
}

fn measure(quiet: &Lab, guest: &str) -> Result<Beside> {
    let mut troubled = Lab::new(&SPEC)?;
    let dir = troubled.policy_dir();
    fs::create_dir_all(&dir)?;
    troubled.start()?;
    // Some guests plan nothing: the built-in policy fills the pool before.
    troubled.settle(HELD)?;
    fs::write(dir.join(".made"), provoked_by_adds(guest)?)?;
    fs::rename(dir.join(".made"), dir.join("policy.wasm"))?;
    tried(&troubled)?;
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
        Ok((with.p50(), without.p50()))
    })?;
    Ok(Beside { guest: guest.to_owned(), failures: troubled.policy_failures()?, with, without })
}

/// Waits until the daemon has tried the component, whatever came of it.
fn tried(lab: &Lab) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        let status = lab.policy_status()?;
        if !status["custom"].is_null() || !status["last_load_error"].is_null() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("the component is not tried")
}

fn guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests")
}

/// The guests of tests/guests.
fn names() -> Result<Vec<String>> {
    let files = fs::read_dir(guests()).context("tests/guests")?.collect::<Result<Vec<_>, _>>()?;
    let names = files.iter().filter_map(|f| f.file_name().to_str()?.strip_suffix(".wat").map(str::to_owned));
    let mut names: Vec<String> = names.filter(|name| name != "prelude").collect();
    names.sort();
    Ok(names)
}

/// The guest, provoked by pods instead of an extra fact: misbehaving whenever one was added in the running minute.
fn provoked_by_adds(name: &str) -> Result<Vec<u8>> {
    const BY_FACT: &str = "(i32.load offset=128 (local.get $arguments))";
    // node.history is at 116 (pointer) and 120 (length); a minute begins with its adds.
    const BY_ADDS: &str = "(if (result i32) (i32.eqz (i32.load offset=120 (local.get $arguments)))
        (then (i32.const 0)) (else (i32.load (i32.load offset=116 (local.get $arguments)))))";
    let read = |file: &str| fs::read_to_string(guests().join(file)).with_context(|| file.to_owned());
    let body = read(&format!("{name}.wat"))?;
    let world =
        body.lines().next().and_then(|l| l.strip_prefix(";; world: ")).context("a guest begins with its world")?;
    // Such a guest has all that it needs, and misbehaves unprovoked.
    if let Some(world) = world.strip_suffix(", alone") {
        return component(&format!("(module {body})"), world);
    }
    let prelude = read("prelude.wat")?;
    if !prelude.contains(BY_FACT) {
        bail!("prelude.wat provokes in another way than is known here");
    }
    component(&format!("(module {body}\n{})", prelude.replace(BY_FACT, BY_ADDS)), world)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_is_made() {
        let names = names().unwrap();
        assert!(SHOWN.iter().all(|shown| names.iter().any(|name| name == shown)));
        for guest in names {
            provoked_by_adds(&guest).unwrap();
        }
    }
}
