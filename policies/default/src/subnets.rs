//! Where a new interface goes (spec 01 §6.3).

use std::cmp::Reverse;

use reservoir_policy_sdk::{CreateEni, Families, Node, Standing, Subnet, SubnetId, Unit};

use crate::settings::{Defects, Settings};

/// The eligible subnets by free IPs, most first, ties in EC2's order; one whose free IPs are not known comes last. Those
/// that the host will not ask yet, because EC2 had nothing, come after all others; the reference tries them in turn.
#[must_use]
pub fn rank(node: &Node, request: &CreateEni, settings: Settings) -> Vec<SubnetId> {
    // One of which EC2 has told and which has no IPv6 block cannot serve a node of IPv6 pods.
    let wanting = |s: &Subnet| node.families.contains(Families::IPV6) && s.free_ips.is_some() && !s.ipv6;
    let fits =
        |s: &&Subnet| s.standing == Standing::Eligible && (settings.defects == Defects::Reference || !wanting(s));
    let mut eligible: Vec<&Subnet> = node.subnets.iter().filter(fits).collect();
    crate::order::sort_by_key(&mut eligible, |subnet| {
        let refused = match request.unit {
            Unit::Ip => subnet.ips_refused_seconds,
            Unit::Prefix => subnet.prefixes_refused_seconds,
        };
        (refused > 0 && settings.defects == Defects::Fixed, Reverse(subnet.free_ips))
    });
    eligible.into_iter().map(|subnet| subnet.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    fn subnet(id: &str, standing: Standing, free_ips: Option<u32>) -> Subnet {
        Subnet {
            id: id.to_owned(),
            cidr: String::new(),
            ipv6: false,
            primary: false,
            standing,
            free_ips,
            seen_seconds: 0,
            ips_refused_seconds: 0,
            prefixes_refused_seconds: 0,
            tags: vec![],
        }
    }

    const REQUEST: CreateEni = CreateEni { card: 0, unit: Unit::Ip, count: 9 };

    #[test]
    fn eligible_ones_by_free_ips() {
        let mut given = Fixture::ips(9).node();
        given.node.subnets = vec![
            subnet("unknown", Standing::Eligible, None),
            subnet("ten", Standing::Eligible, Some(10)),
            subnet("possible", Standing::Possible, Some(999)),
            subnet("forbidden", Standing::Forbidden, Some(999)),
            subnet("empty", Standing::Eligible, Some(0)),
            subnet("ten-too", Standing::Eligible, Some(10)),
            subnet("fifty", Standing::Eligible, Some(50)),
        ];
        assert_eq!(rank(&given.node, &REQUEST, given.settings), ["fifty", "ten", "ten-too", "empty", "unknown"]);
    }

    #[test]
    fn one_that_just_refused_comes_last() {
        let mut given = Fixture::ips(9).node();
        given.node.subnets =
            vec![subnet("big", Standing::Eligible, Some(99)), subnet("small", Standing::Eligible, Some(9))];
        given.node.subnets[0].ips_refused_seconds = 30;
        assert_eq!(rank(&given.node, &REQUEST, given.settings), ["small", "big"]);
        let prefix = CreateEni { unit: Unit::Prefix, ..REQUEST };
        assert_eq!(rank(&given.node, &prefix, given.settings), ["big", "small"]);
        given.settings.defects = Defects::Reference;
        assert_eq!(rank(&given.node, &REQUEST, given.settings), ["big", "small"]);
    }
}
