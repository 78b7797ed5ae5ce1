//! One card's pool in numbers.

use reservoir_policy_sdk::{Card, Cidr, Eni, EniTraits, Node, Subnet, Unit};

use crate::sizing::div_ceil;

/// One card's pool as one decision sees it. Wide enough that nothing overflows.
#[derive(Debug)]
pub struct Pool<'a> {
    pub card: &'a Card,
    /// Its interfaces, the primary first, then by device index.
    pub enis: Vec<&'a Eni>,
    /// Slots of one interface.
    pub slots: i64,
    /// IPs of one unit.
    pub unit_ips: i64,
    /// IPs that serve pods.
    pub total: i64,
    pub assigned: i64,
    pub cooling: i64,
}

impl<'a> Pool<'a> {
    #[must_use]
    pub fn new(node: &'a Node, card: &'a Card) -> Self {
        let mut enis: Vec<&Eni> = node.enis_of(card.index).filter(|e| e.has(EniTraits::PRIMARY)).collect();
        enis.extend(node.enis_of(card.index).filter(|e| !e.has(EniTraits::PRIMARY)));
        let unit_ips = match node.unit {
            Unit::Ip => 1,
            Unit::Prefix => i64::from(node.limits.ips_per_prefix).max(1),
        };
        let mut pool =
            Self { card, enis, slots: node.limits.slots_per_eni.into(), unit_ips, total: 0, assigned: 0, cooling: 0 };
        for cidr in pool.enis.iter().flat_map(|e| &e.cidrs).filter(|c| c.serving) {
            pool.total += i64::from(cidr.size);
            pool.assigned += i64::from(cidr.assigned);
            pool.cooling += i64::from(cidr.cooling);
        }
        pool
    }

    /// IPs on their way: they count as if they had come.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        self.card.ips_in_flight.into()
    }

    /// IPs taken or spoken for: held by pods, waited for, or cooling.
    #[must_use]
    pub fn needed(&self) -> i64 {
        self.assigned + i64::from(self.card.waiting) + self.cooling
    }

    /// IPs that pods could be given at once, when all that is on its way has come. Negative: so many pods go without.
    #[must_use]
    pub fn ready(&self) -> i64 {
        self.total + self.in_flight() - self.needed()
    }

    /// Of those, what does not take seconds to come: an interface that is being made brings [`Pool::with_interface`].
    #[must_use]
    pub fn soon(&self) -> i64 {
        let slow = i64::from(self.card.enis_in_flight).saturating_mul(self.with_interface() * self.unit_ips);
        self.ready() - slow.min(self.in_flight())
    }

    /// Units that a new interface comes with, for as many IPs as half its slots would be; the rest is filled when it is
    /// needed. In prefixes that is one or two: a small subnet has no more in one piece.
    #[must_use]
    pub fn with_interface(&self) -> i64 {
        div_ceil(self.slots / 2, self.unit_ips).max(1)
    }

    /// Interfaces, those being made or removed among them.
    #[must_use]
    pub fn interfaces(&self) -> i64 {
        i64::try_from(self.enis.len()).unwrap_or(i64::MAX).saturating_add(self.card.enis_in_flight.into())
    }

    /// Whether one more interface fits on the card.
    #[must_use]
    pub fn room(&self) -> bool {
        self.interfaces() < i64::from(self.card.max_enis)
    }

    /// Slots of `eni` that can be filled.
    #[must_use]
    pub fn free_slots(&self, eni: &Eni) -> i64 {
        if eni.traits.intersects(EniTraits::CLOSED | EniTraits::TRUNK | EniTraits::EXCLUDED) {
            return 0;
        }
        (self.slots - i64::from(eni.slots_used())).max(0)
    }

    /// IPs that the attached interfaces could hold beside those that they hold.
    #[must_use]
    pub fn free_slot_ips(&self) -> i64 {
        self.enis.iter().map(|e| self.free_slots(e)).sum::<i64>().saturating_mul(self.unit_ips)
    }
}

/// Whether EC2 has just had nothing of the node's unit in the subnet.
#[must_use]
pub fn refused(node: &Node, subnet: &Subnet) -> bool {
    match node.unit {
        Unit::Ip => subnet.ips_refused_seconds > 0,
        Unit::Prefix => subnet.prefixes_refused_seconds > 0,
    }
}

/// May be given back: it serves, in the node's unit, and no IP of it is held or cooling.
#[must_use]
pub fn spare(node: &Node, cidr: &Cidr) -> bool {
    cidr.serving && cidr.unit == node.unit && cidr.idle()
}

/// Seconds for which no pod has held an IP of it.
#[must_use]
pub fn idle_seconds(cidr: &Cidr) -> u32 {
    cidr.idle_seconds.unwrap_or(cidr.age_seconds)
}
