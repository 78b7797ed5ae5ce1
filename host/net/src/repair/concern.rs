//! Which news are about something that must stay as it is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::eni::is_global_unicast;
use crate::news::News;
use crate::rule::{
    PRIORITY_EXTERNAL_SERVICE, PRIORITY_FROM_INTERFACE, PRIORITY_FROM_POD, PRIORITY_FWMARK, PRIORITY_LOCAL,
    PRIORITY_LOCAL_STRICT, PRIORITY_TO_POD,
};
use crate::table;

/// What there is to lose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ours {
    /// Route tables of secondary interfaces.
    pub tables: BTreeSet<u32>,
}

/// Whether the host is to be looked at because of `news`; `is_held` tells whether a pod has an address now.
///
/// A pod that comes or goes gives news as well: what the plugin takes away it takes from an address that no pod has any
/// more, so most of that is passed by. What is passed on wrongly costs a look, never a write.
#[must_use]
pub fn concerns(news: &News, ours: &Ours, is_held: impl Fn(IpAddr) -> bool) -> bool {
    match news {
        News::Overrun | News::Link { .. } => true,
        // Pods' veths have link-local ones only.
        News::Address { address, .. } => is_global_unicast(address.address.address()),
        News::Rule { rule, gone } => match rule.priority {
            _ if rule.foreign => false,
            // The kernel's own, which strict branch interfaces have moved.
            PRIORITY_LOCAL | PRIORITY_LOCAL_STRICT => true,
            PRIORITY_TO_POD => *gone && rule.to.is_some_and(|to| is_held(to.address())),
            PRIORITY_FROM_POD => *gone && rule.from.is_some_and(|from| is_held(from.address())),
            PRIORITY_FWMARK | PRIORITY_EXTERNAL_SERVICE | PRIORITY_FROM_INTERFACE => *gone,
            _ => false,
        },
        News::Route { route, gone } => {
            let to = route.destination;
            match route.table {
                // A route to a pod may also be replaced by one that leads elsewhere; those of the kernel to the subnets
                // of secondary interfaces must not come back.
                table::MAIN if to.is_host() => is_held(to.address()),
                table::MAIN => !gone && route.gateway.is_none(),
                table => ours.tables.contains(&table),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::reply::{AddressInfo, RouteInfo};
    use crate::prefix::IpPrefix;
    use crate::rule::{Family, Rule};

    const HELD: [u8; 4] = [10, 0, 97, 31];

    fn route(destination: &str, table: u32, gateway: Option<IpAddr>) -> RouteInfo {
        let destination = destination.parse().unwrap();
        let (on_link, device_index) = (gateway.is_none(), Some(3));
        RouteInfo { destination, table, on_link, device_index, gateway, source: None }
    }

    #[test]
    fn only_what_is_ours_leads_to_a_look() {
        let ours = Ours { tables: [2].into() };
        let (held, free) = (IpPrefix::host(HELD), IpPrefix::host([10, 0, 97, 32]));
        let router = Some([10, 0, 96, 1].into());
        let rule = |rule: Rule, gone| News::Rule { rule, gone };
        let routed = |route: RouteInfo, gone| News::Route { route, gone };
        let address =
            |text: &str| AddressInfo { index: 3, address: text.parse().unwrap(), secondary: false, tentative: false };
        let cases = [
            (News::Overrun, true),
            (rule(Rule::to_pod(held), true), true),
            (rule(Rule::to_pod(free), true), false),
            (rule(Rule::to_pod(held), false), false),
            (rule(Rule::from_pod(held, 2), true), true),
            (rule(Rule::from_pod(free, 2), true), false),
            (rule(Rule::marked(0x80), true), true),
            (rule(Rule::marked(0x80), false), false),
            (rule(Rule { foreign: true, ..Rule::marked(0x80) }, true), false),
            (rule(Rule::from(PRIORITY_FROM_INTERFACE, held, 2), true), true),
            (rule(Rule::local(Family::V4, 0), false), true),
            (rule(Rule::of_branch(Family::V4, "vlan1", 101), true), false),
            (rule(Rule::to(31_000, held, table::MAIN), true), false),
            (routed(route("10.0.97.31/32", table::MAIN, None), true), true),
            (routed(route("10.0.97.31/32", table::MAIN, None), false), true),
            (routed(route("10.0.97.32/32", table::MAIN, None), true), false),
            (routed(route("10.0.96.0/19", table::MAIN, None), false), true),
            (routed(route("10.0.96.0/19", table::MAIN, None), true), false),
            (routed(route("0.0.0.0/0", table::MAIN, router), true), false),
            (routed(route("0.0.0.0/0", 2, router), true), true),
            (routed(route("0.0.0.0/0", 9, router), true), false),
            (routed(route("10.0.97.31/32", table::LOCAL, None), true), false),
            (News::Address { address: address("10.0.100.20/19"), gone: true }, true),
            (News::Address { address: address("fe80::1/64"), gone: false }, false),
        ];
        for (news, expected) in cases {
            assert_eq!(concerns(&news, &ours, |ip| ip == IpAddr::from(HELD)), expected, "{news:?}");
        }
    }
}
