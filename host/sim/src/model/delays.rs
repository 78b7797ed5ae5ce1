//! How long things take, and the seeded randomness that spreads them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Seconds: exactly so many, or anything between two bounds. In JSON a number or `[least, most]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "SpanForm", into = "SpanForm")]
pub struct Span {
    pub least: f64,
    pub most: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum SpanForm {
    Exactly(f64),
    Between([f64; 2]),
}

impl From<SpanForm> for Span {
    fn from(form: SpanForm) -> Self {
        match form {
            SpanForm::Exactly(seconds) => seconds.into(),
            SpanForm::Between([least, most]) => Self { least, most },
        }
    }
}

impl From<Span> for SpanForm {
    fn from(span: Span) -> Self {
        if span.least == span.most { Self::Exactly(span.least) } else { Self::Between([span.least, span.most]) }
    }
}

impl From<f64> for Span {
    fn from(seconds: f64) -> Self {
        Self { least: seconds, most: seconds }
    }
}

impl From<[f64; 2]> for Span {
    fn from([least, most]: [f64; 2]) -> Self {
        Self { least, most }
    }
}

impl Span {
    /// Never takes any time.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.most <= 0.0
    }

    fn is_sound(self) -> bool {
        self.least.is_finite() && self.most.is_finite() && 0.0 <= self.least && self.least <= self.most
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.least == self.most { write!(f, "{}", self.least) } else { write!(f, "[{}, {}]", self.least, self.most) }
    }
}

/// Delays in seconds. A call's answer is due after its own delay; its effect on EC2's truth is immediate, everything
/// that follows (attachment state, kernel link, IMDS) counts from the answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delays {
    /// Every `Describe…` call.
    pub describe: Span,
    pub create: Span,
    pub attach: Span,
    pub modify: Span,
    /// The answer to `DetachNetworkInterface`; how long detaching takes is `detached`.
    pub detach: Span,
    pub delete: Span,
    pub assign: Span,
    pub unassign: Span,
    pub tags: Span,
    /// One IMDS request.
    pub imds: Span,
    /// Create answered → visible to describe and attach; before, `NotFound`.
    pub create_visible: Span,
    /// Attach answered → attachment `attached`, and the kernel link is there.
    pub attached: Span,
    /// `attached` → kernel link present.
    pub link: Span,
    /// Detach answered → attachment gone, status `available`, link gone.
    pub detached: Span,
    /// Attach answered → in IMDS.
    pub imds_attach: Span,
    /// In IMDS → its secondary addresses and prefixes in IMDS.
    pub imds_addresses: Span,
    /// Assign or unassign answered → IMDS.
    pub imds_assign: Span,
    /// A changed list of addresses in IMDS → whole; before, some of what is new is missing and some of what went is there.
    pub imds_partial: Span,
    /// Share of the changes that take `imds_slow` longer to reach IMDS.
    pub imds_slow_share: f64,
    pub imds_slow: Span,
    /// Share of the detached interfaces that stay in IMDS for ever.
    pub imds_stuck_share: f64,
    /// Detached → gone from IMDS.
    pub imds_detach: Span,
    /// Security groups changed → IMDS.
    pub imds_groups: Span,
    /// Any change → `DescribeNetworkInterfaces`.
    pub describe_lag: Span,
    /// What a client waits for an answer that never comes.
    pub no_answer: Span,
    /// Each delay is stretched by a random factor in `[1, 1 + jitter)`.
    pub jitter: f64,
}

impl Delays {
    /// Nothing takes time.
    #[must_use]
    pub fn instant() -> Self {
        Self { no_answer: 10.0.into(), ..Self::none() }
    }

    fn none() -> Self {
        let zero = Span::default();
        Self {
            describe: zero,
            create: zero,
            attach: zero,
            modify: zero,
            detach: zero,
            delete: zero,
            assign: zero,
            unassign: zero,
            tags: zero,
            imds: zero,
            create_visible: zero,
            attached: zero,
            link: zero,
            detached: zero,
            imds_attach: zero,
            imds_addresses: zero,
            imds_assign: zero,
            imds_partial: zero,
            imds_slow_share: 0.0,
            imds_slow: zero,
            imds_stuck_share: 0.0,
            imds_detach: zero,
            imds_groups: zero,
            describe_lag: zero,
            no_answer: zero,
            jitter: 0.0,
        }
    }

    /// Assign 0.3 s, create 0.5 s, attach 1.0 s, visible in IMDS 2 s later, detach 3 s; the link comes with the attach.
    #[must_use]
    pub fn realistic() -> Self {
        Self {
            describe: 0.1.into(),
            create: 0.5.into(),
            attach: 1.0.into(),
            modify: 0.2.into(),
            detach: 0.3.into(),
            delete: 0.3.into(),
            assign: 0.3.into(),
            unassign: 0.3.into(),
            tags: 0.2.into(),
            imds: 0.001.into(),
            detached: 3.0.into(),
            imds_attach: 2.0.into(),
            imds_assign: 2.0.into(),
            imds_detach: 2.0.into(),
            imds_groups: 2.0.into(),
            jitter: 0.1,
            ..Self::instant()
        }
    }

    /// Everything that EC2 and IMDS have ever been seen to take (spec 03 §16.3): a new interface unknown for up to 5 s,
    /// IMDS up to half a minute behind and sometimes two minutes, lists in part, links late.
    #[must_use]
    pub fn eventual() -> Self {
        Self {
            create_visible: [0.0, 5.0].into(),
            attached: [1.0, 10.0].into(),
            link: [0.0, 10.0].into(),
            detached: [1.0, 30.0].into(),
            imds_attach: [0.2, 3.0].into(),
            imds_addresses: [0.3, 5.0].into(),
            imds_assign: [0.0, 30.0].into(),
            imds_partial: [0.0, 5.0].into(),
            imds_slow_share: 0.02,
            imds_slow: [30.0, 90.0].into(),
            imds_detach: [0.0, 60.0].into(),
            imds_groups: [0.0, 30.0].into(),
            describe_lag: [0.0, 2.0].into(),
            ..Self::realistic()
        }
    }

    /// A profile by name: `instant`, `realistic` or `eventual`.
    #[must_use]
    pub fn profile(name: &str) -> Option<Self> {
        match name {
            "instant" => Some(Self::instant()),
            "realistic" => Some(Self::realistic()),
            "eventual" => Some(Self::eventual()),
            _ => None,
        }
    }

    /// `self` with some fields replaced.
    ///
    /// # Errors
    /// Names the first key that is no delay, or a value that is negative or not finite.
    pub fn with(self, overrides: &BTreeMap<String, Span>) -> Result<Self, String> {
        let Ok(serde_json::Value::Object(mut fields)) = serde_json::to_value(self) else {
            return Err("delays do not serialise".to_owned());
        };
        for (key, value) in overrides {
            if !value.is_sound() || (key.ends_with("_share") && value.most > 1.0) {
                return Err(format!(
                    "delay {key} = {value}: give seconds, zero or more, or [least, most]; a share is from 0 to 1"
                ));
            }
            let Some(field) = fields.get_mut(key) else {
                return Err(format!("delay {key:?} does not exist; there are {}", Self::names()));
            };
            *field = serde_json::to_value(value).map_err(|e| e.to_string())?;
        }
        serde_json::from_value(fields.into()).map_err(|e| format!("delays: {e}"))
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

    /// A time within the span, stretched by the jitter. No draw where there is nothing to choose.
    pub fn delay(&mut self, span: impl Into<Span>, jitter: f64) -> Duration {
        let Span { least, most } = span.into();
        if most <= 0.0 {
            return Duration::ZERO;
        }
        let seconds = if most > least { least + (most - least) * self.unit() } else { least };
        let factor = if jitter > 0.0 { 1.0 + jitter * self.unit() } else { 1.0 };
        Duration::try_from_secs_f64(seconds * factor).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_replace_single_fields_and_refuse_unknown_ones() {
        let d = Delays::realistic().with(&BTreeMap::from([("attach".to_owned(), 4.0.into())])).unwrap();
        assert_eq!((d.attach, d.create), (4.0.into(), 0.5.into()));
        let unknown = Delays::instant().with(&BTreeMap::from([("atach".to_owned(), 1.0.into())])).unwrap_err();
        assert!(unknown.contains("atach") && unknown.contains("attach"), "{unknown}");
        for (key, wrong) in
            [("attach", [-1.0, -1.0]), ("attach", [2.0, 1.0]), ("imds_stuck_share", [2.0, 2.0]), ("jitter", [1.0, 2.0])]
        {
            assert!(
                Delays::instant().with(&BTreeMap::from([(key.to_owned(), wrong.into())])).is_err(),
                "{key} {wrong:?}"
            );
        }
        let between: Span = serde_json::from_str("[1, 3]").unwrap();
        assert_eq!((between, serde_json::to_string(&between).unwrap().as_str()), ([1.0, 3.0].into(), "[1.0,3.0]"));
        let mut random = Random::new(1);
        assert!((0..100).all(|_| (1.0..3.0).contains(&random.delay(between, 0.0).as_secs_f64())));
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
