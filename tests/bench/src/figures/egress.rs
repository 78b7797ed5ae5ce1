//! ADD and DEL of egress-cni for pods of an IPv6 cluster, beside the programs that it has to run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ring::node::STANDARD_PLUGINS;
use serde_json::{Value, json};

use crate::pods::{self, Namespaces, inside, plugin_binary};
use crate::samples::Samples;
use crate::table::{Row, Table};

const PODS: usize = 40;
/// Where Debian has iptables, and where some have it.
const SYSTEM: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// One run of a program as a container runtime makes it.
struct Runner {
    conf: Value,
    container: String,
    netns: String,
}

impl Runner {
    fn new(netns: &str, addresses: &Path) -> Self {
        let conf = json!({
            "cniVersion": "0.4.0", "name": "aws-cni", "type": "egress-cni", "enabled": "true", "mtu": "9001",
            "randomizeSNAT": "prng", "nodeIP": "10.0.96.10",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "169.254.172.0/22"}]],
                "routes": [{"dst": "0.0.0.0/0"}], "dataDir": addresses},
            "pluginLogFile": addresses.join("egress.log"), "pluginLogLevel": "DEBUG",
            "prevResult": {"cniVersion": "0.4.0",
                "interfaces": [{"name": "eni36e5b0ee702"}, {"name": "eth0", "mac": "254", "sandbox": "/n"}],
                "ips": [{"version": "6", "interface": 1, "address": "2600:1f14:abc:d00::2/128"}], "dns": {}},
        });
        Self { conf, container: format!("{netns:0>64}"), netns: pods::path(netns) }
    }

    fn run(&self, program: &Path, command: &str) -> Result<Duration> {
        let environment = [
            ("PATH", SYSTEM.to_owned()),
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", self.container.clone()),
            ("CNI_NETNS", self.netns.clone()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", STANDARD_PLUGINS.to_owned()),
        ];
        let run = pods::run(program, &environment, self.conf.to_string().as_bytes())?;
        if !run.succeeded {
            bail!("{command} of {}: {}", program.display(), run.printed);
        }
        Ok(run.took)
    }
}

/// Reads the rules once and writes as many as a pod has once: what changing them costs at least.
fn iptables(rules: &str) -> Result<Duration> {
    let path = [("PATH", SYSTEM.to_owned())];
    let save = pods::run(Path::new("/bin/sh"), &path, b"exec iptables-save -t nat")?;
    let restore = format!("exec iptables-restore --noflush --wait <<'END'\n{rules}END\n");
    let restore = pods::run(Path::new("/bin/sh"), &path, restore.as_bytes())?;
    if !save.succeeded || !restore.succeeded {
        bail!("iptables cannot be used: {}{}", save.printed, restore.printed);
    }
    Ok(save.took + restore.took)
}

pub fn all(table: &mut Table) -> Result<()> {
    let program = plugin_binary()?.with_file_name("egress-cni");
    let host_local = PathBuf::from(STANDARD_PLUGINS).join("host-local");
    for needed in [&program, &host_local] {
        if !needed.is_file() {
            bail!("{} is missing", needed.display());
        }
    }
    let dir = tempfile::Builder::new().prefix("reservoir-bench-").tempdir_in("/dev/shm")?;
    let node = Namespaces::make(1)?;
    let here = Namespaces::make(PODS)?;
    let (mut ours, mut floors) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    inside(&node.names()[0], || {
        // A pod that stays, so that there are rules to be read.
        let (first, others) = here.names().split_first().context("there are pods")?;
        Runner::new(first, dir.path()).run(&program, "ADD")?;
        for (number, netns) in others.iter().enumerate() {
            let runner = Runner::new(netns, dir.path());
            ours[0].push(runner.run(&program, "ADD")?);
            ours[1].push(runner.run(&program, "DEL")?);
            let chain = format!("FLOOR-{number}");
            let added = runner.run(&host_local, "ADD")?;
            floors[0].push(added + iptables(&rules(&chain, "A"))?);
            let deleted = runner.run(&host_local, "DEL")?;
            floors[1].push(deleted + iptables(&rules(&chain, "D"))?);
        }
        Ok(())
    })?;
    for (what, ours, floor) in [("ADD", &ours[0], &floors[0]), ("DEL", &ours[1], &floors[1])] {
        let figure = format!("egress: plugin {what} wall p50");
        let row = Row::new("egress", figure, "ms", Samples::new(ours.clone()).p50());
        table.push(row.floor("host-local and iptables alone", Samples::new(floor.clone()).p50()));
    }
    Ok(())
}

/// A chain with a pod's three rules, to be made (`A`) or removed (`D`).
fn rules(chain: &str, verb: &str) -> String {
    let (head, tail) = match verb {
        "A" => (format!(":{chain} - [0:0]\n"), String::new()),
        _ => (String::new(), format!("-X {chain}\n")),
    };
    format!(
        "*nat\n{head}-{verb} POSTROUTING -s 169.254.175.254/32 -j {chain}\n\
         -{verb} {chain} -d 224.0.0.0/4 -j ACCEPT\n\
         -{verb} {chain} -j SNAT --to-source 10.0.96.10 --random-fully\n{tail}COMMIT\n"
    )
}
