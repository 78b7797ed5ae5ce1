//! What the daemon keeps in iptables and nftables.
//!
//! The programs wait for each other's lock, so everything here may take seconds (but not for ever:
//! [`reservoir_net::iptables::Bound`]). Nothing that pods need at once waits for it.

use std::net::Ipv4Addr;
use std::sync::Mutex;

use reservoir_core::ip::Ipv4Net;
use reservoir_net::Error;
use reservoir_net::iptables::{self, Iptables, Once, Randomize, SnatConfig, SnatFacts};
use reservoir_net::repair::{self, Repair};
use reservoir_net::rule::Family;

use super::lock;
use crate::config::{Config, Datapath, RandomizeSnat};
use crate::metrics::{Backend, HostRepair, Metrics, Outcome};

/// The rules of this node.
#[derive(Debug)]
pub(super) struct Firewall {
    datapath: Datapath,
    ipv6: bool,
    blocks: [Block; 2],
    metrics: Metrics,
    /// Name and address of the primary interface, once the host is set up.
    primary: Mutex<Option<(String, Ipv4Addr)>>,
    /// Locked while the programs run.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    iptables: Option<Iptables>,
    /// The VPC's blocks that the rules were made of.
    applied: Option<Vec<Ipv4Net>>,
    /// Chains of old versions have been looked for (spec 04 §10.5).
    stale_chains: Once,
    /// By block that is not wanted: the rule of an earlier run has been looked for.
    unblocked: [Once; 2],
}

impl Firewall {
    pub(super) fn new(config: &Config, metrics: Metrics) -> Self {
        Self {
            datapath: config.datapath.clone(),
            ipv6: config.modes.ipv6,
            blocks: blocks(config),
            metrics,
            primary: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// All of it, at the daemon's start. `vpc` is empty in IPv6 mode.
    pub(super) fn set_up(&self, primary: String, address: Ipv4Addr, vpc: &[Ipv4Net]) -> Result<(), Error> {
        *lock(&self.primary) = Some((primary, address));
        let mut state = lock(&self.state);
        self.block_node_local(&mut state)?;
        if !self.ipv6 {
            return self.apply(&mut state, vpc);
        }
        // Pods' own addresses go out; what there is of IPv4 is egress-cni's.
        remove_stale_chains(&mut state.stale_chains, || Iptables::detect("ip6tables")?.remove_stale_chains());
        Ok(())
    }

    /// The VPC's blocks have changed.
    pub(super) fn set_vpc_blocks(&self, vpc: &[Ipv4Net]) -> Result<(), Error> {
        self.apply(&mut lock(&self.state), vpc)
    }

    /// Takes note of what the primary interface is called now. True if the rules have another name, and are to be brought
    /// in line.
    pub(super) fn primary_is(&self, now: &str) -> bool {
        let mut primary = lock(&self.primary);
        let Some((name, _)) = primary.as_mut().filter(|(name, _)| name != now) else { return false };
        now.clone_into(name);
        true
    }

    /// Puts right what others changed. Nothing before [`Firewall::set_up`].
    pub(super) fn repair(&self) -> repair::Outcome {
        let mut outcome = repair::Outcome::default();
        if lock(&self.primary).is_none() {
            return outcome;
        }
        let mut refused = |what: &str, error| {
            outcome.failed.push((Repair { kind: repair::Kind::Firewall, what: what.to_owned() }, error));
        };
        let mut state = lock(&self.state);
        match self.block_node_local(&mut state) {
            Ok(changes) => {
                self.repaired(changes);
                if changes > 0 {
                    tracing::warn!(changes, "the rule that keeps node-local addresses to themselves was put right");
                }
            }
            Err(error) => refused("the rule that keeps node-local addresses to themselves", error),
        }
        if let Some(blocks) = state.applied.clone()
            && let Err(error) = self.apply(&mut state, &blocks)
        {
            refused("rules of iptables and nftables", error);
        }
        outcome
    }

    fn repaired(&self, changes: usize) {
        if changes > 0 {
            self.metrics.host_repaired(HostRepair::Firewall, Outcome::Success, changes as u64);
        }
    }

    /// See [`blocks`]; the number of changes. Where a block is not wanted there need be no program to remove it with, and
    /// once it is gone nobody makes it again.
    fn block_node_local(&self, state: &mut State) -> Result<usize, Error> {
        let mut all = 0;
        for (Block { program, addresses, wanted }, unblocked) in self.blocks.into_iter().zip(&mut state.unblocked) {
            let mut bring_in_line = || -> Result<(), Error> {
                let changes = Iptables::detect(program)?.block_node_local(addresses, wanted)?;
                if changes > 0 {
                    tracing::info!(program, wanted, "the rule that keeps node-local addresses to themselves");
                }
                all += changes;
                Ok(())
            };
            if wanted {
                bring_in_line()?;
            } else if let Err(error) = unblocked.run(bring_in_line) {
                tracing::debug!(program, "whether node-local addresses are blocked is not known: {error}");
            }
        }
        Ok(all)
    }

    fn apply(&self, state: &mut State, vpc: &[Ipv4Net]) -> Result<(), Error> {
        let Some((primary_interface, primary_ip)) = lock(&self.primary).clone() else {
            return Err(Error::Invalid("the host is not set up yet".to_owned()));
        };
        let d = &self.datapath;
        let config = SnatConfig {
            external_snat: d.external_snat,
            node_port: d.node_port_support,
            exclude: d.exclude_snat_cidrs.clone(),
            randomize: match d.randomize_snat {
                RandomizeSnat::None => Randomize::None,
                RandomizeSnat::HashRandom => Randomize::HashRandom,
                RandomizeSnat::Prng => Randomize::Prng,
            },
            mark: d.connmark,
            veth_prefix: d.veth_prefix.clone(),
        };
        let facts = SnatFacts { primary_interface, primary_ip, vpc_cidrs: vpc.to_vec() };
        let programs = match &mut state.iptables {
            Some(programs) => programs,
            slot => {
                let found = Iptables::detect("iptables")?;
                self.metrics.connmark_backend(match found.backend() {
                    iptables::Backend::Iptables => Backend::Iptables,
                    iptables::Backend::Nftables => Backend::Nftables,
                });
                slot.insert(found)
            }
        };
        let result = programs.apply(&config, &facts);
        self.metrics.connmark_reconciled(if result.is_ok() { Outcome::Success } else { Outcome::Error });
        let changes = result?;
        if changes > 0 {
            // Nothing was new but what somebody had done to them.
            if state.applied.as_deref() == Some(vpc) {
                tracing::warn!(changes, "SNAT and connmark rules were not as they must be, and were put right");
                self.repaired(changes);
            } else {
                tracing::info!(changes, "SNAT and connmark rules were brought in line");
            }
        }
        state.applied = Some(vpc.to_vec());
        remove_stale_chains(&mut state.stale_chains, || programs.remove_stale_chains());
        Ok(())
    }
}

/// Removes, once, the numbered chains of old versions. They are in nobody's way: a failure is logged only.
fn remove_stale_chains(once: &mut Once, remove: impl FnOnce() -> Result<Vec<String>, Error>) {
    let removed = once.run(|| {
        let gone = remove()?;
        if !gone.is_empty() {
            tracing::info!(chains = ?gone, "stale chains removed");
        }
        Ok::<_, Error>(())
    });
    if let Err(error) = removed {
        tracing::warn!("stale iptables chains stay: {error}");
    }
}

/// A block of addresses by which pods reach the other family, and which nobody else may reach (spec 04 §8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    program: &'static str,
    addresses: Family,
    wanted: bool,
}

/// Both blocks: where pods do not have such addresses the rule of an earlier run is removed (DW-15).
fn blocks(config: &Config) -> [Block; 2] {
    let modes = &config.modes;
    [
        Block { program: "iptables", addresses: Family::V4, wanted: modes.ipv6 && config.plugins.v4_egress },
        Block { program: "ip6tables", addresses: Family::V6, wanted: !modes.ipv6 && modes.v6_egress },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[test]
    fn node_local_addresses_are_blocked_where_pods_have_them_and_nowhere_else() {
        // Spec 04 §8.3, DW-15.
        for (pairs, wanted) in [
            (&[][..], [false, false]),
            (&[("ENABLE_V6_EGRESS", "true")], [false, true]),
            (&[("ENABLE_IPv6", "true")], [true, false]),
            (&[("ENABLE_IPv6", "true"), ("ENABLE_V6_EGRESS", "true")], [true, false]),
            (&[("ENABLE_IPv6", "true"), ("ENABLE_V4_EGRESS", "false")], [false, false]),
            (&[("ENABLE_V4_EGRESS", "true")], [false, false]),
        ] {
            let environment: Environment = pairs.iter().copied().collect();
            let blocks = blocks(&Config::read(&environment).0);
            assert_eq!(blocks.map(|b| b.wanted), wanted, "{pairs:?}");
            assert_eq!(blocks.map(|b| (b.program, b.addresses)), [("iptables", Family::V4), ("ip6tables", Family::V6)]);
        }
    }
}
