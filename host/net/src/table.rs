//! Route tables (spec 04 §7).

use std::net::IpAddr;

use crate::rule::Rule;

/// The kernel's `main` table: everything reached through the primary interface.
pub const MAIN: u32 = 254;
/// The kernel's `local` table.
pub const LOCAL: u32 = 255;
/// In a rule delete: whatever table the rule has.
pub const UNSPECIFIED: u32 = 0;

const CARD_BASE: u32 = 10_000;
const CARD_STEP: u32 = 100;

/// The table of the interface at device index `device` of network card `card` (spec 04 §7.2).
#[must_use]
pub fn of_interface(card: u32, device: u32) -> u32 {
    match (card, device) {
        (0, 0) => MAIN,
        (0, d) => d.saturating_add(1),
        (c, d) => CARD_BASE.saturating_add(d).saturating_add(c.saturating_mul(CARD_STEP)),
    }
}

const BRANCH_BASE: u32 = 100;
/// The largest id of a vlan.
const MAX_VLAN: u16 = 4094;

/// The table of the branch interface with this vlan (spec 04 §7.1); none for what is no vlan, or for one whose table
/// would be the kernel's own (DW-13).
#[must_use]
pub fn of_branch(vlan: u16) -> Option<u32> {
    let table = BRANCH_BASE + u32::from(vlan);
    ((1..=MAX_VLAN).contains(&vlan) && !(253..=LOCAL).contains(&table)).then_some(table)
}

/// The vlan whose branch interface has this table: the reverse of [`of_branch`].
#[must_use]
pub fn vlan_of_branch(table: u32) -> Option<u16> {
    let vlan = u16::try_from(table.checked_sub(BRANCH_BASE)?).ok()?;
    of_branch(vlan).map(|_| vlan)
}

/// The table older versions used, recognised on hosts they set up (spec 04 §7.2).
#[must_use]
pub fn of_interface_before_1_19(card: u32, device: u32, max_interfaces_per_card: u32) -> u32 {
    device.saturating_add(1).saturating_add(card.saturating_mul(max_interfaces_per_card))
}

/// Where an interface's routes go, and whether the rule that leads there exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableChoice {
    pub table: u32,
    pub rule_configured: bool,
}

/// Chooses the table of an interface: one that an older version or the image set up is kept (spec 04 §7.3).
///
/// `rules` are the rules of the host, of the family of `primary`; `max_interfaces` is the instance's maximum.
#[must_use]
pub fn choose(card: u32, device: u32, primary: IpAddr, max_interfaces: u32, rules: &[Rule]) -> TableChoice {
    let formula = of_interface(card, device);
    if card == 0 {
        return TableChoice { table: formula, rule_configured: false };
    }
    let tables: Vec<u32> =
        rules.iter().filter(|r| r.from.is_some_and(|f| f.address() == primary)).map(|r| r.table).collect();
    let old = of_interface_before_1_19(card, device, max_interfaces);
    let table = match tables.as_slice() {
        [] => formula,
        [only] => *only,
        several if several.contains(&old) => old,
        _ => formula,
    };
    TableChoice { table, rule_configured: !tables.is_empty() }
}

/// The table a pod's traffic leaves by, from the number in a reply or in saved state: 0 and 1 meant "primary interface"
/// once (spec 04 §4.3).
#[must_use]
pub fn of_pod(route_table: u32) -> u32 {
    if route_table <= 1 { MAIN } else { route_table }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas() {
        assert_eq!(of_interface(0, 0), MAIN);
        assert_eq!(of_interface(0, 3), 4);
        assert_eq!(of_interface(1, 0), 10_100);
        assert_eq!(of_interface_before_1_19(1, 1, 8), 10);
        assert_eq!([1, 7, 152, 156, 4094].map(of_branch), [101, 107, 252, 256, 4194].map(Some));
        assert_eq!([0, 153, 154, 155, 4095].map(of_branch), [None; 5]);
        for vlan in 0..=4096 {
            assert_eq!(of_branch(vlan).and_then(vlan_of_branch), of_branch(vlan).map(|_| vlan), "{vlan}");
        }
        assert_eq!([0, 2, 100, 254, 10_101, u32::MAX].map(vlan_of_branch), [None; 6]);
        assert_eq!(of_pod(0), MAIN);
        assert_eq!(of_pod(1), MAIN);
        assert_eq!(of_pod(2), 2);
    }
}
