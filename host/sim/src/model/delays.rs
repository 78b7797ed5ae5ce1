//! How long things take, and the seeded randomness that spreads them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Delays in seconds. A call's answer is due after its own delay; its effect on EC2's truth is immediate, everything
/// that follows (attachment state, kernel link, IMDS) counts from the answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delays {
    /// Every `Describe…` call.
    pub describe: f64,
    pub create: f64,
    pub attach: f64,
    pub modify: f64,
    /// The answer to `DetachNetworkInterface`; how long detaching takes is `detached`.
    pub detach: f64,
    pub delete: f64,
    pub assign: f64,
    pub unassign: f64,
    pub tags: f64,
    /// One IMDS request.
    pub imds: f64,
    /// Create answered → visible to describe and attach; before, `NotFound`.
    pub create_visible: f64,
    /// Attach answered → attachment `attached`, and the kernel link is there.
    pub attached: f64,
    /// `attached` → kernel link present.
    pub link: f64,
    /// Detach answered → attachment gone, status `available`, link gone.
    pub detached: f64,
    /// Attach answered → in IMDS.
    pub imds_attach: f64,
    /// In IMDS → its secondary addresses and prefixes in IMDS.
    pub imds_addresses: f64,
    /// Assign or unassign answered → IMDS.
    pub imds_assign: f64,
    /// Detached → gone from IMDS.
    pub imds_detach: f64,
    /// Security groups changed → IMDS.
    pub imds_groups: f64,
    /// Any change → `DescribeNetworkInterfaces`.
    pub describe_lag: f64,
    /// What a client waits for an answer that never comes.
    pub no_answer: f64,
    /// Each delay is stretched by a random factor in `[1, 1 + jitter)`.
    pub jitter: f64,
}

impl Delays {
    /// Nothing takes time.
    #[must_use]
    pub fn instant() -> Self {
        Self {
            describe: 0.0,
            create: 0.0,
            attach: 0.0,
            modify: 0.0,
            detach: 0.0,
            delete: 0.0,
            assign: 0.0,
            unassign: 0.0,
            tags: 0.0,
            imds: 0.0,
            create_visible: 0.0,
            attached: 0.0,
            link: 0.0,
            detached: 0.0,
            imds_attach: 0.0,
            imds_addresses: 0.0,
            imds_assign: 0.0,
            imds_detach: 0.0,
            imds_groups: 0.0,
            describe_lag: 0.0,
            no_answer: 10.0,
            jitter: 0.0,
        }
    }

    /// Assign 0.3 s, create 0.5 s, attach 1.0 s, visible in IMDS 2 s later, detach 3 s; the link comes with the attach.
    #[must_use]
    pub fn realistic() -> Self {
        Self {
            describe: 0.1,
            create: 0.5,
            attach: 1.0,
            modify: 0.2,
            detach: 0.3,
            delete: 0.3,
            assign: 0.3,
            unassign: 0.3,
            tags: 0.2,
            imds: 0.001,
            detached: 3.0,
            imds_attach: 2.0,
            imds_assign: 2.0,
            imds_detach: 2.0,
            imds_groups: 2.0,
            jitter: 0.1,
            ..Self::instant()
        }
    }

    /// A profile by name: `instant` or `realistic`.
    #[must_use]
    pub fn profile(name: &str) -> Option<Self> {
        match name {
            "instant" => Some(Self::instant()),
            "realistic" => Some(Self::realistic()),
            _ => None,
        }
    }

    /// `self` with some fields replaced.
    ///
    /// # Errors
    /// Names the first key that is no delay, or a value that is negative or not finite.
    pub fn with(self, overrides: &BTreeMap<String, f64>) -> Result<Self, String> {
        let Ok(serde_json::Value::Object(mut fields)) = serde_json::to_value(self) else {
            return Err("delays do not serialise".to_owned());
        };
        for (key, value) in overrides {
            if !(value.is_finite() && *value >= 0.0) {
                return Err(format!("delay {key} = {value}: give seconds, zero or more"));
            }
            let Some(field) = fields.get_mut(key) else {
                return Err(format!("delay {key:?} does not exist; there are {}", Self::names()));
            };
            *field = serde_json::Value::from(*value);
        }
        serde_json::from_value(fields.into()).map_err(|e| e.to_string())
    }

    fn names() -> String {
        match serde_json::to_value(Self::instant()) {
            Ok(serde_json::Value::Object(fields)) => fields.keys().cloned().collect::<Vec<_>>().join(", "),
            _ => String::new(),
        }
    }
}

impl Default for Delays {
    fn default() -> Self {
        Self::instant()
    }
}

/// SplitMix64: small, seeded, good enough to spread delays and to pick addresses.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Another sequence, independent of this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.bits())
    }

    /// Uniform in `[0, n)`; 0 for n = 0.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u32
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `seconds`, stretched by the jitter.
    pub fn delay(&mut self, seconds: f64, jitter: f64) -> Duration {
        if seconds <= 0.0 {
            return Duration::ZERO;
        }
        let factor = if jitter > 0.0 { 1.0 + jitter * self.unit() } else { 1.0 };
        Duration::try_from_secs_f64(seconds * factor).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_replace_single_fields_and_refuse_unknown_ones() {
        let d = Delays::realistic().with(&BTreeMap::from([("attach".to_owned(), 4.0)])).unwrap();
        assert_eq!((d.attach, d.create), (4.0, 0.5));
        let unknown = Delays::instant().with(&BTreeMap::from([("atach".to_owned(), 1.0)])).unwrap_err();
        assert!(unknown.contains("atach") && unknown.contains("attach"), "{unknown}");
        assert!(Delays::instant().with(&BTreeMap::from([("attach".to_owned(), -1.0)])).is_err());
    }

    #[test]
    fn jitter_only_stretches_and_follows_the_seed() {
        let draw = |seed| {
            let mut r = Random::new(seed);
            (0..100).map(|_| r.delay(2.0, 0.5)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|d| (2.0..3.0).contains(&d.as_secs_f64())));
    }

    #[test]
    fn below_stays_below() {
        let mut r = Random::new(1);
        assert!((0..1000).all(|_| r.below(3) < 3));
        assert_eq!(r.below(0), 0);
    }
}
