//! Gauges that are derived from the pool at each scrape, so that they cannot drift from it (W20, W22) and cost nothing
//! between scrapes.

use reservoir_core::manager::Activity;

use super::family::{self as f, Family};
use super::text;

/// The pool in numbers, all managed cards together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// ENIs that may be used, those not managed already taken off.
    pub max_enis: u64,
    /// Addresses that these could hold.
    pub max_ips: u64,
    pub enis: u64,
    pub ips: u64,
    pub assigned: u64,
    pub cooling: u64,
    pub prefixes: u64,
    /// ADD calls that wait for an address.
    pub waiting: u64,
    pub ec2_in_flight: u64,
    pub activity: Activity,
    /// ENI id, addresses held by pods.
    pub per_eni: Vec<(String, u64)>,
    /// CIDR, addresses held by pods; only CIDRs of which some are held need be here.
    pub per_cidr: Vec<(String, u64)>,
}

impl PoolFigures {
    pub(super) fn write(&self, out: &mut String) {
        for (family, value) in [
            (f::ENI_MAX, self.max_enis),
            (f::IP_MAX, self.max_ips),
            (f::ENI_ALLOCATED, self.enis),
            (f::TOTAL_IPS, self.ips),
            (f::ASSIGNED_IPS, self.assigned),
            (f::COOLING_IPS, self.cooling),
            (f::TOTAL_PREFIXES, self.prefixes),
            (f::WAITING_PODS, self.waiting),
            (f::EC2_IN_FLIGHT, self.ec2_in_flight),
        ] {
            text::single(out, &family, value);
        }
        labelled(out, &f::ASSIGNED_PER_ENI, &self.per_eni);
        labelled(out, &f::ASSIGNED_PER_CIDR, &self.per_cidr);
    }
}

fn labelled(out: &mut String, family: &Family, values: &[(String, u64)]) {
    if values.is_empty() {
        return;
    }
    text::header(out, family);
    for (label, value) in values {
        text::sample(out, family, "", [(family.labels[0], label.as_str())], value);
    }
}
