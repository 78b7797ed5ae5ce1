//! What of an interface counts on a node of one family or the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Manager;
use super::types::blocks;
use crate::cloud::{AttachedInterface, Interface, SubnetFacts};
use crate::ip::IpNet;
use crate::policy::Family;
use crate::store::{EniSpec, table_of};

impl Manager {
    /// Whether pods get IPv6 addresses.
    pub(super) fn is_ipv6(&self) -> bool {
        self.settings.family == Family::Ipv6
    }

    /// The interface's own address (spec 01 §2.4 step 1).
    pub(super) fn own_address(&self, primary: Option<Ipv4Addr>, ipv6: &[Ipv6Addr]) -> Option<IpAddr> {
        if self.is_ipv6() { ipv6.first().copied().map(IpAddr::V6) } else { primary.map(IpAddr::V4) }
    }

    /// The blocks for pods of an interface that EC2 tells of.
    pub(super) fn blocks_told(&self, told: &Interface) -> Vec<IpNet> {
        if self.is_ipv6() {
            // A trunk's are none of the pool's (spec 01 §9.1).
            let usable = if told.interface_type == "trunk" { &[][..] } else { &told.ipv6_prefixes };
            return self.one_prefix(&told.eni, usable);
        }
        blocks(&told.secondary, &told.prefixes)
    }

    /// The blocks for pods of an interface that IMDS shows.
    pub(super) fn blocks_shown(&self, shown: &AttachedInterface) -> Vec<IpNet> {
        if self.is_ipv6() {
            let trunk = self.cards.eni(&shown.eni).is_some_and(|e| e.trunk);
            return self.one_prefix(&shown.eni, if trunk { &[] } else { &shown.ipv6_prefixes });
        }
        blocks(&shown.secondary, &shown.prefixes)
    }

    /// Of several prefixes one is used (spec 01 §9.1): the one in use, whatever the order they are listed in, else the first.
    pub(super) fn one_prefix(&self, eni: &str, listed: &[IpNet]) -> Vec<IpNet> {
        let in_use = self.cards.of_eni(eni).and_then(|c| c.store.blocks(eni).find(|net| listed.contains(net)));
        in_use.or_else(|| listed.first().copied()).into_iter().collect()
    }

    /// Remembers the blocks of subnets that IMDS tells: of those too that EC2 does not list.
    pub(super) fn note_blocks(&mut self, shown: &[AttachedInterface]) {
        for interface in shown {
            let net = if self.is_ipv6() { interface.subnet_ipv6_cidr } else { interface.subnet_cidr.map(IpNet::from) };
            if let Some(net) = net {
                self.subnet_cidrs.insert(interface.subnet.clone(), net);
            }
        }
    }

    /// The block of the family, of a subnet.
    pub(super) fn subnet_net(&self, subnet: &SubnetFacts) -> Option<IpNet> {
        if self.is_ipv6() { subnet.ipv6_cidr } else { subnet.cidr.map(IpNet::from) }
    }

    /// Remembers in which tables the routes of interfaces are, where the host's rules chose others than
    /// [`table_of`] (spec 04 §7.3). What is known before [`Manager::boot`] holds for the first pod already.
    pub fn note_table(&mut self, eni: String, table: u32) {
        if let Some(store) = self.cards.store_of(&eni) {
            store.update_eni(&eni, |spec| spec.table = table);
        }
        self.tables.insert(eni, table);
    }

    pub(super) fn table(&self, eni: &str, card: u32, device_index: u32) -> u32 {
        self.tables.get(eni).copied().unwrap_or_else(|| table_of(card, device_index))
    }

    /// The store's record of an interface that IMDS shows, which knows of no types.
    #[must_use]
    pub fn spec_shown(&self, shown: &AttachedInterface) -> EniSpec {
        EniSpec {
            id: shown.eni.clone(),
            mac: shown.mac.clone(),
            card: shown.card,
            device_index: shown.device_index,
            subnet: shown.subnet.clone(),
            table: self.table(&shown.eni, shown.card, shown.device_index),
            address: self.own_address(shown.primary, &shown.ipv6),
            primary: shown.eni == self.settings.instance.primary_eni,
            trunk: false,
            efa: false,
            excluded: false,
        }
    }

    /// The store's record of an interface that EC2 has described, at its place on a card.
    pub(super) fn spec_of(&self, made: &Interface, card: u32, device_index: u32) -> EniSpec {
        EniSpec {
            id: made.eni.clone(),
            mac: made.mac.clone(),
            card,
            device_index,
            subnet: made.subnet.clone(),
            table: self.table(&made.eni, card, device_index),
            address: self.own_address(made.primary, &made.ipv6),
            primary: made.eni == self.settings.instance.primary_eni,
            trunk: made.interface_type == "trunk",
            efa: made.interface_type == "efa",
            excluded: false,
        }
    }
}
