//! The daemon's life: start, end, rest, size.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::client::{Client, block_on};
use crate::lab::{Lab, Spec};
use crate::pods::{Namespaces, Plugin, inside, quiet};
use crate::samples::Samples;
use crate::table::{Goal, Row, Table};
use crate::usage;

const DEFAULT: Spec =
    Spec { instance_type: "c5.4xlarge", delays: "realistic", namespaces: true, env: &[], max_pods: false, preset: "" };

pub fn kill(table: &mut Table) -> Result<()> {
    const PODS: usize = 60;
    const ROUNDS: usize = 5;
    let mut lab = Lab::new(&DEFAULT)?;
    let plugin = Plugin::of(&lab)?;
    lab.start()?;
    lab.settle(29)?;
    let pods = Namespaces::make(PODS + ROUNDS)?;
    let netns = lab.node()?.netns();
    inside(&netns, || {
        for pod in &pods.names()[..PODS] {
            let run = plugin.run("ADD", pod, None)?;
            if !run.succeeded {
                bail!("ADD of {pod}: {}", run.printed);
            }
        }
        Ok(())
    })?;
    lab.settle(PODS as u64 + ROUNDS as u64)?;
    let mut times = Vec::new();
    for pod in &pods.names()[PODS..] {
        let begun = Instant::now();
        lab.kill()?;
        lab.spawn()?;
        inside(&netns, || {
            while !plugin.run("ADD", pod, None)?.succeeded {
                if begun.elapsed() > Duration::from_secs(20) {
                    bail!("no ADD succeeds after kill -9");
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            times.push(begun.elapsed());
            Ok(())
        })?;
        lab.settle(PODS as u64)?;
    }
    drop(pods);
    quiet(&netns)?;
    let samples = Samples::new(times);
    table.push(
        Row::new("kill", "kill -9 with 60 pods to the next ADD, slowest of 5", "s", samples.max().map(|ms| ms / 1e3))
            .reference("2.3 or 7.2")
            .goal(Goal::AtMost(0.5)),
    );
    Ok(())
}

pub fn start(table: &mut Table) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..3 {
        let mut lab = Lab::new(&DEFAULT)?;
        times.push(lab.start()?);
    }
    table.push(
        Row::new(
            "start",
            "start to health SERVING, a new node, slowest of 3",
            "s",
            Samples::new(times).max().map(|ms| ms / 1e3),
        )
        .reference("1.25")
        .goal(Goal::AtMost(1.25)),
    );
    Ok(())
}

pub fn memory(table: &mut Table) -> Result<()> {
    const PODS: usize = 730;
    let spec = Spec { instance_type: "m5.24xlarge", delays: "instant", max_pods: true, ..DEFAULT };
    let mut lab = Lab::new(&spec)?;
    lab.start()?;
    lab.settle(49)?;
    let idle = usage::resident(lab.pid()?)?;
    block_on(async {
        let mut client = Client::connect(&lab.socket()).await?;
        for pod in 0..PODS {
            client.add(&format!("pod-{pod}")).await?;
        }
        Ok(())
    })?;
    lab.settle(PODS as u64)?;
    let full = usage::resident(lab.pid()?)?;
    table.push(Row::new("memory", "daemon resident, idle", "MiB", Some(idle)).reference("62").goal(Goal::AtMost(34.0)));
    table.push(
        Row::new("memory", "daemon resident, 730 pods", "MiB", Some(full)).reference("71").goal(Goal::AtMost(42.0)),
    );
    Ok(())
}

pub fn settled(table: &mut Table) -> Result<()> {
    let spec = Spec { delays: "instant", ..DEFAULT };
    let mut lab = Lab::new(&spec)?;
    lab.start()?;
    lab.settle(29)?;
    // Past what a start leaves to do in its first seconds.
    std::thread::sleep(Duration::from_secs(10));
    let pid = lab.pid()?;
    let (cpu, calls) = (usage::cpu(pid)?, lab.calls()?);
    std::thread::sleep(Duration::from_secs(60));
    let (cpu, after) = (usage::cpu(pid)? - cpu, lab.calls()?);
    // The clock of a daemon that has ended stands still, too.
    block_on(async { Client::connect(&lab.socket()).await?.health().await })?;
    table.push(
        Row::new("settled", "settled node, one minute: daemon CPU", "ms", Some(cpu.as_secs_f64() * 1e3))
            .reference("13")
            .goal(Goal::AtMost(6.0)),
    );
    table.push(
        Row::new("settled", "settled node, one minute: IMDS reads", "", Some((after.1 - calls.1) as f64))
            .reference("15")
            .goal(Goal::AtMost(2.0)),
    );
    table.push(Row::new("settled", "settled node, one minute: EC2 calls", "", Some((after.0 - calls.0) as f64)));
    Ok(())
}
