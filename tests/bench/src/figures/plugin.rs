//! The plugin as a process, in real namespaces.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use reservoir_net::kernel::Kernel;
use reservoir_net::plan::Side;
use reservoir_net::rule::Family;

use crate::lab::{Lab, Spec};
use crate::pods::{Namespaces, Plugin, Run, Wiring, inside, nothing, plugin_binary, quiet, run};
use crate::samples::Samples;
use crate::table::{Goal, Row, Table};
use crate::usage;

/// Fits the 8 × 29 addresses of a c5.4xlarge, all of which the pool holds before the clock starts.
const PODS: usize = 224;
const FULL: Spec = Spec {
    instance_type: "c5.4xlarge",
    delays: "instant",
    namespaces: true,
    env: &[("WARM_ENI_TARGET", "8")],
    max_pods: true,
    preset: "",
};

pub fn version(table: &mut Table) -> Result<()> {
    const RUNS: usize = 400;
    let dir = tempfile::tempdir()?;
    let (plugin, nothing) = (plugin_binary()?, nothing(dir.path()));
    let environment = [("CNI_COMMAND", "VERSION".to_owned())];
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    // By turns, so that both meet the same machine.
    for _ in 0..RUNS {
        let version = run(&plugin, &environment, b"{\"cniVersion\":\"1.0.0\"}")?;
        if !version.succeeded {
            bail!("VERSION failed: {}", version.printed);
        }
        ours.push(version.took);
        if let Ok(nothing) = &nothing {
            floor.push(run(nothing, &environment, b"{}")?.took);
        }
    }
    table.push(
        Row::new("version", "plugin VERSION wall p50", "ms", Samples::new(ours).p50())
            .floor("static no-op", Samples::new(floor).p50())
            .reference("5.4")
            .goal(Goal::AtMost(1.2)),
    );
    let mib = |path: &std::path::Path| std::fs::metadata(path).ok().map(|m| m.len() as f64 / f64::from(1 << 20));
    table.push(
        Row::new("version", "plugin size", "MiB", mib(&plugin))
            .floor("static no-op", nothing.ok().and_then(|n| mib(&n)))
            .reference("14.3")
            .goal(Goal::AtMost(4.0)),
    );
    Ok(())
}

/// ADDs of a pod that must succeed.
fn add(plugin: &Plugin, netns: &str) -> Result<Run> {
    let run = plugin.run("ADD", netns, None)?;
    if !run.succeeded {
        bail!("ADD of {netns}: {}", run.printed);
    }
    Ok(run)
}

pub fn sequential(table: &mut Table) -> Result<()> {
    let mut lab = Lab::new(&FULL)?;
    let plugin = Plugin::of(&lab)?;
    lab.start()?;
    lab.settle(PODS as u64)?;
    let dir = tempfile::tempdir()?;
    let nothing = nothing(dir.path())?;
    let pods = Namespaces::make(PODS)?;

    let (mut adds, mut dels) = (Vec::new(), Vec::new());
    let mut cpu = [Duration::ZERO; 3];
    inside(&lab.node()?.netns(), || {
        let before = usage::children()?;
        let mut results = Vec::new();
        for netns in pods.names() {
            let run = add(&plugin, netns)?;
            adds.push(run.took);
            results.push(run.printed);
        }
        let between = usage::children()?;
        cpu[0] = between - before;
        for (netns, result) in pods.names().iter().zip(&results) {
            let run = plugin.run("DEL", netns, Some(result))?;
            if !run.succeeded {
                bail!("DEL of {netns}: {}", run.printed);
            }
            dels.push(run.took);
        }
        cpu[1] = usage::children()? - between;
        Ok(())
    })?;
    drop(pods);
    quiet(&lab.node()?.netns())?;
    let before = usage::children()?;
    for _ in 0..PODS {
        run(&nothing, &[], b"{}")?;
    }
    cpu[2] = usage::children()? - before;
    drop(lab);

    let (floor_adds, floor_dels) = wired(1)?;
    let (adds, dels) = (Samples::new(adds), Samples::new(dels));
    let each = |total: Duration| Some(total.as_secs_f64() * 1e3 / PODS as f64);
    table.push(
        Row::new("pods", "plugin ADD wall p50", "ms", adds.p50())
            .floor("netlink alone", floor_adds.p50())
            .reference("16.5")
            .goal(Goal::AboveFloor(3.0)),
    );
    table.push(
        Row::new("pods", "plugin ADD wall p99", "ms", adds.p99())
            .floor("netlink alone", floor_adds.p99())
            .reference("28.5")
            .goal(Goal::AtMost(8.0)),
    );
    table.push(
        Row::new("pods", "plugin ADD CPU of the plugin", "ms", each(cpu[0]))
            .floor("static no-op", each(cpu[2]))
            .reference("14")
            .goal(Goal::AtMost(4.0)),
    );
    table.push(
        Row::new("pods", "plugin DEL wall p50", "ms", dels.p50())
            .floor("netlink alone", floor_dels.p50())
            .reference("9.2")
            .goal(Goal::AboveFloor(2.0)),
    );
    table.push(
        Row::new("pods", "plugin DEL wall p99", "ms", dels.p99())
            .floor("netlink alone", floor_dels.p99())
            .reference("15.6")
            .goal(Goal::AboveFloor(2.0)),
    );
    table
        .push(Row::new("pods", "plugin DEL CPU of the plugin", "ms", each(cpu[1])).floor("static no-op", each(cpu[2])));
    Ok(())
}

/// The floor: the netlink requests of all pods, from `threads` threads, in a namespace of their own.
fn wired(threads: usize) -> Result<(Samples, Samples)> {
    let node = Namespaces::make(1)?;
    let pods = Namespaces::make(PODS)?;
    let (adds, dels) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    inside(&node.names()[0], || {
        let mut wirings: Vec<Wiring> =
            pods.names().iter().zip(0..).map(|(netns, number)| Wiring::new(netns, number)).collect::<Result<_>>()?;
        let share = PODS.div_ceil(threads);
        for (times, what) in [(&adds, Wiring::add as fn(&mut Wiring) -> Result<Duration>), (&dels, Wiring::del)] {
            thread::scope(|scope| {
                let shares: Vec<_> = wirings
                    .chunks_mut(share)
                    .map(|share| scope.spawn(|| share.iter_mut().map(what).collect::<Result<Vec<_>>>()))
                    .collect();
                for share in shares {
                    let took = share.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
                    times.lock().map_err(|_| anyhow::anyhow!("a thread panicked"))?.extend(took);
                }
                anyhow::Ok(())
            })?;
        }
        // A floor that leaves things behind is none.
        let left = Kernel::host()?.rules(Side::Host, Family::V4)?.len();
        if left > 3 {
            bail!("the floor's DEL leaves rules: {left} instead of the kernel's own 3");
        }
        Ok(())
    })?;
    let samples = |times: Mutex<Vec<Duration>>| Samples::new(times.into_inner().unwrap_or_default());
    Ok((samples(adds), samples(dels)))
}

pub fn parallel(table: &mut Table) -> Result<()> {
    const AT_ONCE: usize = 8;
    let mut lab = Lab::new(&FULL)?;
    let plugin = Plugin::of(&lab)?;
    lab.start()?;
    lab.settle(PODS as u64)?;
    let pods = Namespaces::make(PODS)?;
    let mut times = Vec::new();
    let mut wall = Duration::ZERO;
    inside(&lab.node()?.netns(), || {
        let next = AtomicUsize::new(0);
        let begun = Instant::now();
        times = thread::scope(|scope| {
            let work = || {
                let mut times = Vec::new();
                while let Some(netns) = pods.names().get(next.fetch_add(1, Ordering::Relaxed)) {
                    times.push(add(&plugin, netns)?.took);
                }
                anyhow::Ok(times)
            };
            let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            let mut all = Vec::new();
            for thread in threads {
                all.extend(thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??);
            }
            anyhow::Ok(all)
        })?;
        wall = begun.elapsed();
        Ok(())
    })?;
    drop(pods);
    quiet(&lab.node()?.netns())?;
    drop(lab);
    let (floor, _) = wired(AT_ONCE)?;
    let samples = Samples::new(times);
    table.push(
        Row::new("parallel", "8 plugin ADDs at once, wall p50", "ms", samples.p50())
            .floor("netlink alone, 8 threads", floor.p50())
            .reference("59")
            .goal(Goal::AtMost(25.0)),
    );
    table.push(
        Row::new("parallel", "8 plugin ADDs at once, wall p99", "ms", samples.p99())
            .floor("netlink alone, 8 threads", floor.p99())
            .reference("305")
            .goal(Goal::AtMost(60.0)),
    );
    table.push(
        Row::new("parallel", "plugin ADDs per second, 8 at once", "1/s", Some(PODS as f64 / wall.as_secs_f64()))
            .reference("106")
            .goal(Goal::AtLeast(250.0)),
    );
    Ok(())
}

/// 100 pods at once from the default warm pool. A pod whose ADD fails is tried again after a second, as a kubelet does
/// sooner or later; its time runs on.
pub fn burst(table: &mut Table) -> Result<()> {
    const BURST: usize = 100;
    let spec = Spec { delays: "realistic", env: &[], max_pods: false, ..FULL };
    let mut lab = Lab::new(&spec)?;
    let plugin = Plugin::of(&lab)?;
    lab.start()?;
    lab.settle(29)?;
    let pods = Namespaces::make(BURST)?;
    let before = lab.calls()?;
    let failed = AtomicUsize::new(0);
    let mut times = Vec::new();
    inside(&lab.node()?.netns(), || {
        let begun = Instant::now();
        times = thread::scope(|scope| {
            let one = |netns: &str| {
                while !plugin.run("ADD", netns, None)?.succeeded {
                    failed.fetch_add(1, Ordering::Relaxed);
                    if begun.elapsed() > Duration::from_secs(60) {
                        bail!("{netns} got no address within a minute");
                    }
                    thread::sleep(Duration::from_secs(1));
                }
                Ok(begun.elapsed())
            };
            let threads: Vec<_> = pods.names().iter().map(|netns| scope.spawn(move || one(netns))).collect();
            let mut all = Vec::new();
            for thread in threads {
                all.push(thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??);
            }
            anyhow::Ok(all)
        })?;
        Ok(())
    })?;
    let during = lab.calls()?.0 - before.0;
    // What the pods made necessary goes on a little after the last has its address.
    lab.settle(BURST as u64)?;
    let settled = lab.calls()?.0 - before.0;
    let samples = Samples::new(times);
    table.push(
        Row::new("burst", "100 pods at once, time to address p50", "s", samples.p50().map(|ms| ms / 1e3))
            .floor("create and attach, as simulated", Some(1.5))
            .reference("6.2")
            .goal(Goal::AtMost(3.0)),
    );
    table.push(
        Row::new("burst", "100 pods at once, time to address p99", "s", samples.p99().map(|ms| ms / 1e3))
            .floor("create and attach, as simulated", Some(1.5))
            .reference("28.5")
            .goal(Goal::AtMost(6.0)),
    );
    table.push(
        Row::new("burst", "100 pods at once, failed ADDs", "", Some(failed.into_inner() as f64))
            .reference("677")
            .goal(Goal::AtMost(0.0)),
    );
    table.push(Row::new("burst", "100 pods at once, EC2 calls until the last address", "", Some(during as f64)));
    table.push(Row::new("burst", "100 pods at once, EC2 calls until settled", "", Some(settled as f64)));
    Ok(())
}
