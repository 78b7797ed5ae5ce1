//! The second step: what the instance type makes of the configuration (spec 01 §1.4, §1.5).

use reservoir_core::limits::{Hypervisor, InstanceLimits};
use reservoir_core::policy::Unit;

use super::{Config, Report};

/// What really holds on this instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effective {
    /// Per network card: min(`MAX_ENI`, instance limit).
    pub max_enis: u32,
    /// Addresses or prefixes that one ENI holds beside its own address.
    pub slots_per_eni: u32,
    pub unit: Unit,
}

/// Whether /28 prefixes can be assigned to interfaces of this type (spec 03 §11.4).
#[must_use]
pub fn has_prefixes(limits: &InstanceLimits) -> bool {
    limits.hypervisor == Hypervisor::Nitro || limits.bare_metal
}

impl Config {
    /// Holds the configuration against the limits of the instance type. Fatal: limits of zero; IPv6 where the type has no
    /// prefixes.
    #[must_use]
    pub fn validate(&self, limits: &InstanceLimits) -> (Effective, Report) {
        let mut report = Report::default();
        let (effective, rules) = self.on_instance(limits);
        for problem in rules {
            match problem {
                Mismatch::NoLimits => report.fatal(
                    "instance type",
                    None,
                    "EC2 allows it no ENI or no IPv4 address; pods cannot be given addresses on it",
                ),
                Mismatch::NoPrefixes if self.modes.ipv6 => report.fatal(
                    "ENABLE_PREFIX_DELEGATION",
                    Some("true"),
                    "this instance type has no prefixes (neither Nitro nor bare metal), which ENABLE_IPv6 needs",
                ),
                Mismatch::NoPrefixes => report.warn(
                    "ENABLE_PREFIX_DELEGATION",
                    Some("true"),
                    "this instance type has no prefixes (neither Nitro nor bare metal); single addresses are used",
                ),
                Mismatch::MaxEni(max) => report.warn(
                    "MAX_ENI",
                    Some(&max.to_string()),
                    format!("above the limit of this instance type; {} is used", limits.enis),
                ),
            }
        }
        (effective, report)
    }

    fn on_instance(&self, limits: &InstanceLimits) -> (Effective, Vec<Mismatch>) {
        let mut mismatches = Vec::new();
        if limits.enis == 0 || limits.ipv4_per_eni == 0 {
            mismatches.push(Mismatch::NoLimits);
        }
        if self.modes.prefix_delegation && !has_prefixes(limits) {
            mismatches.push(Mismatch::NoPrefixes);
        }
        if let Some(max) = self.pool.max_eni.filter(|max| *max > limits.enis) {
            mismatches.push(Mismatch::MaxEni(max));
        }
        let effective = Effective {
            max_enis: self.pool.max_eni.map_or(limits.enis, |max| max.min(limits.enis)),
            slots_per_eni: limits.slots_per_eni(),
            unit: if self.modes.prefix_delegation && has_prefixes(limits) { Unit::Prefix } else { Unit::Ip },
        };
        (effective, mismatches)
    }
}

enum Mismatch {
    NoLimits,
    NoPrefixes,
    MaxEni(u32),
}
