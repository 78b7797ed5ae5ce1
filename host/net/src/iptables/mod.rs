//! SNAT and mangle rules (spec 04 §10), through the `iptables` programs of whichever kind; connmark rules in the same
//! way or as a table of nftables (§11), depending on the kind.
//!
//! What should be there ([`desired`]) is compared with `iptables-save` ([`ruleset`]); the difference ([`diff`]) goes in
//! by one `iptables-restore --noflush` per table, which the kernel takes as a whole or not at all. A run that finds
//! everything right writes nothing, so there is no moment without SNAT. Rules of others are never touched.

mod child;
pub(crate) mod command;
pub mod desired;
pub mod diff;
mod once;
pub mod refresh;
pub mod ruleset;

use std::net::Ipv4Addr;

use reservoir_core::ip::Ipv4Net;

use crate::error::Error;
use crate::nft::connmark::{self, Connmark};
use crate::rule::Family;
use command::Programs;
use desired::DesiredChain;
use ruleset::Table;

pub use command::{Backend, Bound, Mode, Version};
pub use once::Once;

/// How often a table is read and written when others change it meanwhile.
const ATTEMPTS: u32 = 3;
const TABLES: [&str; 2] = ["nat", "mangle"];

/// `AWS_VPC_K8S_CNI_RANDOMIZESNAT`: how source ports are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Randomize {
    /// `--random-fully`; `--random` where iptables is older than 1.6.2.
    #[default]
    Prng,
    /// `--random`.
    HashRandom,
    None,
}

/// What the environment says about the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnatConfig {
    /// `AWS_VPC_K8S_CNI_EXTERNALSNAT`: somebody else translates addresses.
    pub external_snat: bool,
    /// `AWS_VPC_CNI_NODE_PORT_SUPPORT`.
    pub node_port: bool,
    /// `AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS`.
    pub exclude: Vec<Ipv4Net>,
    pub randomize: Randomize,
    /// `AWS_VPC_K8S_CNI_CONNMARK`; mark and mask.
    pub mark: u32,
    /// `AWS_VPC_K8S_CNI_VETHPREFIX`, not empty.
    pub veth_prefix: String,
}

/// What the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnatFacts {
    /// Name of the primary interface.
    pub primary_interface: String,
    pub primary_ip: Ipv4Addr,
    pub vpc_cidrs: Vec<Ipv4Net>,
}

/// The node's iptables.
#[derive(Debug)]
pub struct Iptables {
    programs: Programs,
    version: Version,
    backend: Backend,
    /// The other form of the connmark rules, left by another program or version, has been looked for.
    other_form: Once,
}

impl Iptables {
    /// Finds out what `program` is: `iptables`, or one of `iptables-legacy` and `iptables-nft`.
    ///
    /// # Errors
    /// [`Error::Command`] if it cannot be run.
    pub fn detect(program: &str) -> Result<Self, Error> {
        let programs = Programs::new(program);
        let version = programs.version()?;
        Ok(Self { programs, version, backend: version.backend(), other_form: Once::default() })
    }

    /// Uses this form of the connmark rules instead of the one that fits the program.
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// Gives the programs so much time instead.
    #[must_use]
    pub fn within(self, bound: Bound) -> Self {
        Self { programs: self.programs.within(bound), ..self }
    }

    /// The form of the connmark rules (spec 04 §11.1).
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Brings the rules in line and returns how many changes that took: 0 when all was right. For the VPC's CIDRs of
    /// another hour it is called again (spec 04 §12.1, [`refresh`]).
    ///
    /// # Errors
    /// [`Error::Invalid`] for what cannot be right, before anything is written; [`Error::Command`] for what iptables
    /// says, [`Error::Held`] where it has no turn, the kernel's for nftables. A table is changed as a whole or not at all;
    /// trying again is safe.
    pub fn apply(&mut self, config: &SnatConfig, facts: &SnatFacts) -> Result<usize, Error> {
        let desired = desired::rules(config, facts, self.version.has_random_fully())?;
        let (marking, others): (Vec<_>, Vec<_>) = desired.into_iter().partition(DesiredChain::is_connmark);
        let programs = &self.programs;
        // What is marked leaves by the primary interface, and must be translated there. A packet may be between the two
        // hooks while the rules change, so marking ends in a step before translation does, and begins with it or after.
        match self.backend {
            Backend::Iptables if config.external_snat => {
                self.remove_other_form();
                Ok(write(&self.programs, &marking, "nat")? + write_all(&self.programs, &others)?)
            }
            Backend::Iptables => {
                let changes = write_all(programs, &[others, marking].concat())?;
                self.remove_other_form();
                Ok(changes)
            }
            Backend::Nftables if config.external_snat => {
                let changes = connmark::clean_up()?;
                self.remove_other_form();
                Ok(changes + write_all(&self.programs, &others)?)
            }
            Backend::Nftables => {
                let exempt = desired::exempt_cidrs(config, facts);
                let connmark = Connmark { mark: config.mark, veth_prefix: config.veth_prefix.clone(), exempt };
                let changes = connmark.exempt_more()? + write_all(programs, &others)? + connmark.set_up()?;
                // Not before the new form is there, so that connections are marked at every moment.
                self.remove_other_form();
                Ok(changes)
            }
        }
    }

    /// Removes, once, connmark rules of the form that is not ours.
    fn remove_other_form(&mut self) {
        let programs = &self.programs;
        let (removed, what) = match self.backend {
            Backend::Iptables => {
                (self.other_form.run(|| connmark::clean_up().map(drop)), "the nftables table ip aws-cni")
            }
            Backend::Nftables => {
                let absent = desired::connmark_absent();
                (self.other_form.run(|| write(programs, &absent, "nat").map(drop)), "connmark rules of iptables")
            }
        };
        if let Err(error) = removed {
            tracing::warn!(%error, "cannot remove {what}; trying again next time");
        }
    }

    /// Chains and rules of all tables that there are, one line each, without counters.
    ///
    /// # Errors
    /// [`Error::Command`].
    pub fn listing(&self) -> Result<Vec<String>, Error> {
        Ok(ruleset::listing(&self.programs.save_present()?))
    }

    /// Makes sure that the addresses which pods use for egress in the other family are reached from nowhere else, or
    /// takes that rule away (spec 04 §8.3). `family` is that of these addresses, and of this program: `iptables` where
    /// pods are IPv6, `ip6tables` where they are IPv4 and `ENABLE_V6_EGRESS` is set. Returns the number of changes.
    ///
    /// # Errors
    /// As [`Iptables::apply`].
    pub fn block_node_local(&self, family: Family, wanted: bool) -> Result<usize, Error> {
        let chain = [desired::node_local_block(family, wanted)];
        write_with(&self.programs, "filter", Programs::save_present, |actual| diff::diff(&chain, actual))
    }

    /// Removes the numbered chains that old versions made, and returns their names (spec 04 §10.5).
    ///
    /// # Errors
    /// As [`Iptables::apply`]; [`Error::Invalid`] for a chain whose name ends in no number.
    pub fn remove_stale_chains(&self) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        let mut odd = None;
        let plan = |actual: &Table| match diff::stale_chains(actual) {
            Ok(stale) => {
                let edits = diff::delete_chains(&stale);
                removed = stale;
                edits
            }
            Err(error) => {
                odd = Some(error);
                Vec::new()
            }
        };
        write_with(&self.programs, "nat", Programs::save_present, plan)?;
        odd.map_or(Ok(removed), Err)
    }
}

fn write_all(programs: &Programs, desired: &[DesiredChain]) -> Result<usize, Error> {
    TABLES.iter().map(|table| write(programs, desired, table)).sum()
}

fn write(programs: &Programs, desired: &[DesiredChain], table: &str) -> Result<usize, Error> {
    write_with(programs, table, |programs| programs.save(table), |actual| diff::diff(desired, actual))
}

/// Reads a table, writes what is to change, and does so again if others change it meanwhile. New destinations that are
/// not marked go in by a step of their own, before all the rest.
fn write_with(
    programs: &Programs,
    table: &str,
    save: impl Fn(&Programs) -> Result<String, Error>,
    mut plan: impl FnMut(&Table) -> Vec<diff::Edit>,
) -> Result<usize, Error> {
    let mut attempt = 1;
    let mut done = 0;
    loop {
        let actual = ruleset::parse_table(table, &save(programs)?);
        let edits = plan(&actual);
        if edits.is_empty() {
            return Ok(done);
        }
        let first = first_step(&edits);
        let is_last = first.is_empty() || first.len() == edits.len();
        let step = if is_last { &edits } else { &first };
        match programs.restore(&diff::script(table, step)) {
            Ok(()) => {
                done += step.len();
                if is_last {
                    return Ok(done);
                }
            }
            Err(error) if attempt == ATTEMPTS || matches!(error, Error::Held { .. }) => {
                return Err(error.within(format!("changing table {table}")));
            }
            // Somebody changed the table between our reading and writing.
            Err(error) => {
                tracing::debug!(%error, table, attempt, "iptables-restore failed, reading again");
                attempt += 1;
            }
        }
    }
}

/// New exemptions from marking, if the chain is there.
fn first_step(edits: &[diff::Edit]) -> Vec<diff::Edit> {
    let is_of = |edit: &diff::Edit| matches!(edit, diff::Edit::Insert(chain, _) if chain == desired::CONNMARK_CHAIN);
    let is_new = |edit: &diff::Edit| matches!(edit, diff::Edit::NewChain(chain) if chain == desired::CONNMARK_CHAIN);
    if edits.iter().any(is_new) { Vec::new() } else { edits.iter().filter(|e| is_of(e)).cloned().collect() }
}
