//! ADD and DEL in each address mode, beside the netlink requests alone.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use reservoir_net::table;
use ring::cluster::with_eni_config;

use super::host::address;
use crate::lab::{Lab, Spec};
use crate::pods::{Namespaces, Plugin, Wiring, inside};
use crate::samples::Samples;
use crate::table::{Row, Table};

struct Mode {
    name: &'static str,
    spec: Spec,
    pods: u16,
    ipv6: bool,
    /// Of each pod's addresses: the table its traffic leaves by.
    tables: &'static [u32],
}

const PREFIXES: Spec = Spec {
    instance_type: "c5.4xlarge",
    delays: "instant",
    namespaces: true,
    env: &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "6")],
    max_pods: false,
    preset: "prefix",
};

const MODES: &[Mode] = &[
    Mode { name: "prefixes", spec: PREFIXES, pods: 80, ipv6: false, tables: &[table::MAIN] },
    // The pods' interfaces, and their addresses, are in another subnet than the node.
    Mode {
        name: "custom networking",
        spec: Spec {
            env: &[
                ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"),
                ("ENI_CONFIG_LABEL_DEF", "topology.kubernetes.io/zone"),
                ("WARM_IP_TARGET", "45"),
            ],
            preset: "custom",
            ..PREFIXES
        },
        pods: 40,
        ipv6: false,
        tables: &[2],
    },
    Mode {
        name: "two cards",
        spec: Spec {
            instance_type: "c6in.32xlarge",
            env: &[("ENABLE_MULTI_NIC", "true"), ("WARM_IP_TARGET", "45")],
            preset: "multinic",
            ..PREFIXES
        },
        pods: 40,
        ipv6: false,
        tables: &[table::MAIN, 10_101],
    },
    // Duplicate address detection takes a second or two of each.
    Mode {
        name: "IPv6",
        spec: Spec {
            env: &[
                ("ENABLE_IPv4", "false"),
                ("ENABLE_IPv6", "true"),
                ("ENABLE_PREFIX_DELEGATION", "true"),
                ("WARM_PREFIX_TARGET", "1"),
            ],
            preset: "ipv6",
            ..PREFIXES
        },
        pods: 12,
        ipv6: true,
        tables: &[table::MAIN],
    },
];

pub fn all(table: &mut Table) -> Result<()> {
    let mut measured = 0;
    for mode in MODES {
        match one(mode, table) {
            Ok(()) => measured += 1,
            Err(error) => table.push(Row::skipped("modes", mode.name, &format!("{error:#}"))),
        }
    }
    ensure!(measured > 0, "no mode could be measured");
    Ok(())
}

fn one(mode: &Mode, table: &mut Table) -> Result<()> {
    let mut lab = Lab::new(&mode.spec)?;
    let mut plugin = Plugin::of(&lab)?;
    if mode.tables.len() > 1 {
        plugin = plugin.on_every_card();
    }
    if mode.spec.preset == "custom" {
        lab.serve(&with_eni_config(110))?;
    }
    lab.start()?;
    lab.settle(u64::from(mode.pods))?;
    let pods = Namespaces::make(mode.pods.into())?;
    let (mut adds, mut dels) = (Vec::new(), Vec::new());
    inside(&lab.node()?.netns(), || {
        for netns in pods.names() {
            let added = plugin.run("ADD", netns, None)?;
            if !added.succeeded {
                bail!("ADD of {netns}: {}", added.printed);
            }
            adds.push(added.took);
            let deleted = plugin.run("DEL", netns, Some(&added.printed))?;
            if !deleted.succeeded {
                bail!("DEL of {netns}: {}", deleted.printed);
            }
            dels.push(deleted.took);
        }
        Ok(())
    })?;
    drop(pods);
    drop(lab);
    let (floor_adds, floor_dels) = floor(mode)?;
    for (what, ours, floor) in [("ADD", adds, floor_adds), ("DEL", dels, floor_dels)] {
        let figure = format!("{}: plugin {what} wall p50", mode.name);
        let row = Row::new("modes", figure, "ms", Samples::new(ours).p50());
        table.push(row.floor("netlink alone", Samples::new(floor).p50()));
    }
    Ok(())
}

/// The netlink requests of as many pods with as many addresses, in a namespace of their own.
fn floor(mode: &Mode) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let node = Namespaces::make(1)?;
    let pods = Namespaces::make(mode.pods.into())?;
    let (mut adds, mut dels) = (Vec::new(), Vec::new());
    inside(&node.names()[0], || {
        for (number, netns) in (0..).zip(pods.names()) {
            let addresses: Vec<_> =
                (0..).zip(mode.tables).map(|(card, table)| (address(mode.ipv6, card, number), *table)).collect();
            let mut wiring = Wiring::with(netns, &addresses)?;
            adds.push(wiring.add()?);
            dels.push(wiring.del()?);
        }
        Ok(())
    })?;
    Ok((adds, dels))
}
