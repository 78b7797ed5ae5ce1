//! SNAT, mangle and connmark rules (spec 04 §10, §11.2), through the `iptables` programs of whichever kind.
//!
//! What should be there ([`desired`]) is compared with `iptables-save` ([`ruleset`]); the difference ([`diff`]) goes in
//! by one `iptables-restore --noflush` per table, which the kernel takes as a whole or not at all. A run that finds
//! everything right writes nothing, so there is no moment without SNAT. Rules of others are never touched.

mod command;
pub mod desired;
pub mod diff;
mod nft;
pub mod ruleset;

use std::net::Ipv4Addr;

use reservoir_core::ip::Ipv4Net;

use crate::error::Error;
use command::Programs;
use ruleset::Table;

pub use command::{Mode, Version};
pub use nft::Once;

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
    /// The nftables form of the connmark rules, left by another program, has been looked for.
    nft: Once,
}

impl Iptables {
    /// Finds out what `program` is: `iptables`, or one of `iptables-legacy` and `iptables-nft`.
    ///
    /// # Errors
    /// [`Error::Command`] if it cannot be run.
    pub fn detect(program: &str) -> Result<Self, Error> {
        let programs = Programs::new(program);
        let version = programs.version()?;
        Ok(Self { programs, version, nft: Once::default() })
    }

    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Brings the rules in line and returns how many changes that took: 0 when all was right.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what cannot be right, [`Error::Command`] for what iptables says. A table is changed as a
    /// whole or not at all; trying again is safe.
    pub fn apply(&mut self, config: &SnatConfig, facts: &SnatFacts) -> Result<usize, Error> {
        let desired = desired::rules(config, facts, self.version.has_random_fully())?;
        let mut changes = 0;
        for table in TABLES {
            changes += self.write(table, |actual| diff::diff(&desired, actual))?;
        }
        if let Err(errno) = self.nft.run(nft::delete_connmark_table) {
            tracing::warn!(%errno, "cannot remove the nftables table ip aws-cni; trying again next time");
        }
        Ok(changes)
    }

    /// Removes the numbered chains that old versions made, and returns their names (spec 04 §10.5).
    ///
    /// # Errors
    /// As [`Iptables::apply`]; [`Error::Invalid`] for a chain whose name ends in no number.
    pub fn remove_stale_chains(&self) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        let mut odd = None;
        self.write("nat", |actual| match diff::stale_chains(actual) {
            Ok(stale) => {
                let edits = diff::delete_chains(&stale);
                removed = stale;
                edits
            }
            Err(error) => {
                odd = Some(error);
                Vec::new()
            }
        })?;
        odd.map_or(Ok(removed), Err)
    }

    fn write(&self, table: &str, mut plan: impl FnMut(&Table) -> Vec<diff::Edit>) -> Result<usize, Error> {
        let mut attempt = 1;
        loop {
            let actual = ruleset::parse_table(table, &self.programs.save(table)?);
            let edits = plan(&actual);
            if edits.is_empty() {
                return Ok(0);
            }
            match self.programs.restore(&diff::script(table, &edits)) {
                Ok(()) => return Ok(edits.len()),
                Err(error) if attempt == ATTEMPTS => return Err(error.within(format!("changing table {table}"))),
                // Somebody changed the table between our reading and writing.
                Err(error) => tracing::debug!(%error, table, attempt, "iptables-restore failed, reading again"),
            }
            attempt += 1;
        }
    }
}
