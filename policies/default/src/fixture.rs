//! Small nodes for tests, built from the words of the contract.

use reservoir_policy_sdk::{
    Card, Cidr, Eni, EniTraits, Families, Gate, Gates, Limits, Node, Standing, Subnet, Targets, Unit,
};

use crate::settings::Settings;
use crate::stats::Pool;

#[derive(Clone)]
pub(crate) struct Fixture {
    unit: Unit,
    slots: u32,
    max_pods: u32,
    max_enis: u32,
    cards: u32,
    targets: Targets,
    enis: Vec<EniFixture>,
    settings: Vec<(String, String)>,
}

/// A node and the settings to decide with.
pub(crate) struct Given {
    pub node: Node,
    pub settings: Settings,
}

/// CIDRs of one kind: `count` of `size`, the first `assigned` IPs held by pods, the next `cooling` cooling.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    unit: Unit,
    count: u32,
    assigned: u32,
    cooling: u32,
    idle: Option<u32>,
    asked_for: bool,
}

pub(crate) fn ips(count: u32, assigned: u32, cooling: u32) -> Held {
    Held { unit: Unit::Ip, count, assigned, cooling, idle: None, asked_for: false }
}

impl Held {
    /// Given up by a pod so many seconds ago.
    pub fn idle(self, seconds: u32) -> Self {
        Self { idle: Some(seconds), ..self }
    }

    /// A plan asked for them, so that they serve whatever the node's unit.
    pub fn asked_for(self) -> Self {
        Self { asked_for: true, ..self }
    }
}

pub(crate) fn prefix(assigned: u32, cooling: u32) -> Held {
    Held { unit: Unit::Prefix, count: 1, assigned, cooling, idle: None, asked_for: false }
}

/// An eligible subnet with 100 free IPs.
pub(crate) fn subnet(id: &str) -> Subnet {
    Subnet {
        id: id.to_owned(),
        cidr: String::new(),
        ipv6: false,
        primary: id == "subnet-p",
        standing: Standing::Eligible,
        free_ips: Some(100),
        seen_seconds: 0,
        ips_refused_seconds: 0,
        prefixes_refused_seconds: 0,
        tags: vec![],
    }
}

#[derive(Clone)]
pub(crate) struct EniFixture {
    id: String,
    subnet: String,
    card: u32,
    traits: EniTraits,
    age: u32,
    held: Vec<Held>,
}

pub(crate) fn eni(id: &str) -> EniFixture {
    EniFixture {
        id: id.to_owned(),
        subnet: "subnet-p".to_owned(),
        card: 0,
        traits: EniTraits::empty(),
        age: 3600,
        held: vec![],
    }
}

impl EniFixture {
    pub fn primary(self) -> Self {
        self.set(EniTraits::PRIMARY)
    }
    pub fn trunk(self) -> Self {
        self.set(EniTraits::TRUNK | EniTraits::CLOSED)
    }
    pub fn efa(self) -> Self {
        self.set(EniTraits::EFA)
    }
    pub fn excluded(self) -> Self {
        self.set(EniTraits::EXCLUDED | EniTraits::CLOSED)
    }
    pub fn closed(self) -> Self {
        self.set(EniTraits::CLOSED)
    }
    pub fn card(mut self, card: u32) -> Self {
        self.card = card;
        self
    }
    pub fn subnet(mut self, id: &str) -> Self {
        self.subnet = id.to_owned();
        self
    }
    pub fn age(mut self, seconds: u32) -> Self {
        self.age = seconds;
        self
    }
    pub fn with(mut self, held: Held) -> Self {
        self.held.push(held);
        self
    }
    fn set(mut self, traits: EniTraits) -> Self {
        self.traits |= traits;
        self
    }
}

impl Fixture {
    pub fn ips(slots: u32) -> Self {
        let targets = Targets { warm_enis: 1, warm_ips: 0, warm_prefixes: 0, minimum_ips: 0 };
        Self { unit: Unit::Ip, slots, max_pods: 500, max_enis: 4, cards: 1, targets, enis: vec![], settings: vec![] }
    }
    pub fn prefixes(slots: u32) -> Self {
        let mut fixture = Self { unit: Unit::Prefix, ..Self::ips(slots) };
        fixture.targets.warm_prefixes = 1;
        fixture
    }
    pub fn eni(mut self, eni: EniFixture) -> Self {
        self.enis.push(eni);
        self
    }
    pub fn cards(mut self, cards: u32) -> Self {
        self.cards = cards;
        self
    }
    pub fn max_pods(mut self, pods: u32) -> Self {
        self.max_pods = pods;
        self
    }
    pub fn max_enis(mut self, enis: u32) -> Self {
        self.max_enis = enis;
        self
    }
    pub fn warm_enis(mut self, enis: u32) -> Self {
        self.targets.warm_enis = enis;
        self
    }
    pub fn warm_ips(mut self, ips: u32) -> Self {
        self.targets.warm_ips = ips;
        self
    }
    pub fn warm_prefixes(mut self, prefixes: u32) -> Self {
        self.targets.warm_prefixes = prefixes;
        self
    }
    pub fn minimum_ips(mut self, ips: u32) -> Self {
        self.targets.minimum_ips = ips;
        self
    }
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn node(&self) -> Given {
        let mut next_id = 0;
        let enis = (0u32..)
            .zip(&self.enis)
            .map(|(device_index, eni)| Eni {
                id: eni.id.clone(),
                card: eni.card,
                device_index,
                subnet: eni.subnet.clone(),
                traits: eni.traits,
                age_seconds: eni.age,
                cidrs: eni.held.iter().flat_map(|held| self.cidrs(eni, *held, &mut next_id)).collect(),
            })
            .collect();
        let node = Node {
            now: 1_700_000_000,
            name: "node".to_owned(),
            instance_type: "m5.large".to_owned(),
            availability_zone: "eu-west-1a".to_owned(),
            labels: vec![],
            families: Families::IPV4,
            unit: self.unit,
            limits: Limits { slots_per_eni: self.slots, ips_per_prefix: 16, max_pods: self.max_pods },
            cards: (0..self.cards)
                .map(|index| Card {
                    index,
                    max_enis: self.max_enis,
                    enis_in_flight: 0,
                    ips_in_flight: 0,
                    waiting: 0,
                    configured: self.targets,
                })
                .collect(),
            enis,
            subnets: vec![],
            gates: Gates { grow: Gate::Open, release: Gate::Open, remove: Gate::Open, ec2_calls_left: 100 },
            draining: false,
            booted_seconds: 3600,
            history: vec![],
            extra: vec![],
        };
        Given { node, settings: Settings::parse(&self.settings).unwrap() }
    }

    fn cidrs(&self, eni: &EniFixture, held: Held, next_id: &mut u32) -> Vec<Cidr> {
        let size = if held.unit == Unit::Ip { 1 } else { 16 };
        let mut assigned = held.assigned;
        let mut cooling = held.cooling;
        let take = |left: &mut u32, most: u32| {
            let taken = most.min(*left);
            *left -= taken;
            taken
        };
        (0..held.count)
            .map(|_| {
                let assigned = take(&mut assigned, size);
                let cooling = take(&mut cooling, size - assigned);
                *next_id += 1;
                Cidr {
                    id: *next_id - 1,
                    unit: held.unit,
                    size,
                    serving: (held.unit == self.unit || held.asked_for) && !eni.traits.contains(EniTraits::EXCLUDED),
                    assigned,
                    cooling,
                    cooled_in_seconds: if cooling > 0 { 10 } else { 0 },
                    age_seconds: eni.age,
                    idle_seconds: if assigned > 0 { Some(0) } else { held.idle },
                }
            })
            .collect()
    }
}

impl Given {
    pub fn pool(&self, card: usize) -> Pool<'_> {
        let card = &self.node.cards[card];
        Pool::new(&self.node, card, card.configured, self.settings)
    }
}
