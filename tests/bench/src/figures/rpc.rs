//! The daemon's gRPC calls, without plugin and kernel.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::client::{Client, block_on};
use crate::lab::{Lab, Spec};
use crate::samples::Samples;
use crate::table::{Goal, Row, Table};
use crate::usage;

const HELD: usize = 150;
const CLIENTS: usize = 16;
const RUN: Duration = Duration::from_secs(5);

pub fn calls(table: &mut Table) -> Result<()> {
    // Without cooldown the same addresses go round; the pool has nothing to ask EC2 for meanwhile.
    let spec = Spec {
        instance_type: "c5.4xlarge",
        delays: "instant",
        namespaces: false,
        env: &[("WARM_ENI_TARGET", "8"), ("IP_COOLDOWN_PERIOD", "0")],
        max_pods: true,
        preset: "",
    };
    let mut lab = Lab::new(&spec)?;
    lab.start()?;
    lab.settle(8 * 28)?;
    let pid = lab.pid()?;
    let socket = lab.socket();

    let one = block_on(async {
        let mut client = Client::connect(&socket).await?;
        for pod in 0..HELD {
            client.add(&format!("held-{pod}")).await?;
        }
        let (mut adds, mut dels, mut empty) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..3000 {
            let pod = format!("pod-{round}");
            let begun = Instant::now();
            client.health().await?;
            empty.push(begun.elapsed());
            let begun = Instant::now();
            client.add(&pod).await?;
            adds.push(begun.elapsed());
            let begun = Instant::now();
            client.del(&pod).await?;
            dels.push(begun.elapsed());
        }
        Ok([adds, dels, empty].map(Samples::new))
    })?;
    let [adds, dels, empty] = one;
    table.push(
        Row::new("grpc", "gRPC AddNetwork, 1 client, p50", "ms", adds.p50())
            .floor("health check, same client", empty.p50())
            .reference("0.8")
            .goal(Goal::AtMost(0.3)),
    );
    table.push(
        Row::new("grpc", "gRPC AddNetwork, 1 client, p99", "ms", adds.p99())
            .floor("health check, same client", empty.p99()),
    );
    table.push(
        Row::new("grpc", "gRPC DelNetwork, 1 client, p50", "ms", dels.p50())
            .floor("health check, same client", empty.p50()),
    );

    let (peer, _) = many(&socket, pid, |client, _| async move {
        client.health().await?;
        Ok((client, 1))
    })?;
    let (rate, cpu) = many(&socket, pid, |mut client, pod| async move {
        client.add(&pod).await?;
        client.del(&pod).await?;
        Ok((client, 2))
    })?;
    table.push(
        Row::new("grpc", "AddNetwork and DelNetwork per second, 16 clients, 150 pods held", "1/s", Some(rate))
            .floor("health checks", Some(peer))
            .reference("2,700")
            .goal(Goal::AtLeast(10_000.0)),
    );
    table.push(Row::new("grpc", "daemon CPU per call", "ms", Some(cpu)).reference("0.36").goal(Goal::AtMost(0.12)));
    Ok(())
}

/// Sixteen clients, each one call after another on a connection of its own: calls per second, and the daemon's CPU time
/// per call in milliseconds.
fn many<F>(
    socket: &std::path::Path,
    pid: u32,
    round: impl Fn(Client, String) -> F + Clone + Send + 'static,
) -> Result<(f64, f64)>
where
    F: Future<Output = Result<(Client, usize)>> + Send,
{
    block_on(async {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Client::connect(socket).await?);
        }
        let cpu = usage::cpu(pid)?;
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for (number, mut client) in clients.into_iter().enumerate() {
            let round = round.clone();
            tasks.spawn(async move {
                let mut calls = 0;
                let mut pod = 0;
                while begun.elapsed() < RUN {
                    let done;
                    (client, done) = round(client, format!("many-{number}-{pod}")).await?;
                    calls += done;
                    pod += 1;
                }
                anyhow::Ok(calls)
            });
        }
        let mut calls = 0;
        while let Some(done) = tasks.join_next().await {
            calls += done??;
        }
        let took = begun.elapsed();
        let cpu = usage::cpu(pid)? - cpu;
        Ok((calls as f64 / took.as_secs_f64(), cpu.as_secs_f64() * 1e3 / calls as f64))
    })
}
