//! What most policies need: counts, lookups, small constructors.

use crate::{Cidr, Context, Eni, EniTraits, Node, Note, Targets};

impl Node {
    /// The value of a node label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        value_of(&self.labels, key)
    }

    /// The interfaces of one card.
    pub fn enis_of(&self, card: u32) -> impl Iterator<Item = &Eni> {
        self.enis.iter().filter(move |eni| eni.card == card)
    }

    /// Hour of the day, 0 to 23, UTC.
    #[must_use]
    pub fn hour(&self) -> u64 {
        self.now / 3600 % 24
    }

    /// A number below `range` that is the same for this node each time and spread over the nodes of a fleet (FNV-1a of
    /// the name): for doing at different times what not all should do at once. 0 for a range of 0.
    #[must_use]
    pub fn jitter(&self, range: u64) -> u64 {
        let hash = self
            .name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        hash.checked_rem(range).unwrap_or(0)
    }
}

impl Context {
    /// The value of a setting.
    #[must_use]
    pub fn setting(&self, key: &str) -> Option<&str> {
        value_of(&self.settings, key)
    }
}

impl Eni {
    /// Whether `t` is set.
    #[must_use]
    pub fn has(&self, t: EniTraits) -> bool {
        self.traits.contains(t)
    }

    /// Slots of it that are in use: one per CIDR of either unit.
    #[must_use]
    pub fn slots_used(&self) -> u32 {
        u32::try_from(self.cidrs.len()).unwrap_or(u32::MAX)
    }
}

impl Cidr {
    /// No IP of it is held by a pod or cooling: it may be given back.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.assigned == 0 && self.cooling == 0
    }
}

impl Targets {
    /// "Hold so many, no fewer and no more": for a policy that works out its own total.
    #[must_use]
    pub fn hold(ips: u32) -> Self {
        Self { warm_enis: 0, warm_ips: 0, warm_prefixes: 0, minimum_ips: ips }
    }
}

impl Note {
    /// A note that says why and nothing else.
    #[must_use]
    pub fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), wake_after_seconds: None, refresh_subnets: false, memo: Vec::new() }
    }
}

fn value_of<'a>(pairs: &'a [(String, String)], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}
