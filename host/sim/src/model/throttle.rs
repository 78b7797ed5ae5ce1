//! Token buckets per account, region and API action (spec 03 §16.4), shared by all nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::ConfigError;

/// How many calls of one action at once, and how many more per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    pub capacity: f64,
    /// Tokens per second; fractions allowed.
    pub refill: f64,
}

/// Which calls are throttled.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThrottleConfig {
    #[default]
    Off,
    /// EC2's published defaults.
    Published,
    /// The published defaults with some actions replaced.
    Custom(BTreeMap<String, Bucket>),
}

impl ThrottleConfig {
    /// # Errors
    /// A bucket that holds no token, or less than nothing.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self::Custom(buckets) = self else { return Ok(()) };
        for (action, &Bucket { capacity, refill }) in buckets {
            if !(capacity >= 1.0 && refill >= 0.0 && capacity.is_finite() && refill.is_finite()) {
                let (capacity, refill) = (capacity.to_string(), refill.to_string());
                return Err(ConfigError::Throttle { action: action.clone(), capacity, refill });
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Throttle {
    config: ThrottleConfig,
    /// Tokens left and when they were counted.
    levels: BTreeMap<&'static str, (f64, Duration)>,
}

impl Throttle {
    pub fn new(config: ThrottleConfig) -> Self {
        Self { config, levels: BTreeMap::new() }
    }

    /// Takes a token; false: the call is refused. `paged` is a describe call with filters and `MaxResults`.
    pub fn admit(&mut self, action: &'static str, paged: bool, now: Duration) -> bool {
        let bucket = match &self.config {
            ThrottleConfig::Off => return true,
            ThrottleConfig::Published => published(action, paged),
            ThrottleConfig::Custom(own) => own.get(action).copied().unwrap_or_else(|| published(action, paged)),
        };
        let key = match (action, paged) {
            ("DescribeNetworkInterfaces", true) => "DescribeNetworkInterfaces paged",
            ("DescribeInstances", true) => "DescribeInstances paged",
            _ => action,
        };
        let (tokens, at) = self.levels.entry(key).or_insert((bucket.capacity, now));
        let passed = now.saturating_sub(*at).as_secs_f64();
        *tokens = (*tokens + passed * bucket.refill).min(bucket.capacity);
        *at = now.max(*at);
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

fn published(action: &str, paged: bool) -> Bucket {
    let (capacity, refill) = match action {
        "CreateNetworkInterface"
        | "DeleteNetworkInterface"
        | "ModifyNetworkInterfaceAttribute"
        | "AssignPrivateIpAddresses"
        | "UnassignPrivateIpAddresses"
        | "AssignIpv6Addresses" => (100.0, 5.0),
        "CreateTags" => (100.0, 10.0),
        "DescribeNetworkInterfaces" | "DescribeInstances" if !paged => (50.0, 10.0),
        action if action.starts_with("Describe") => (100.0, 20.0),
        _ => (50.0, 5.0),
    };
    Bucket { capacity, refill }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_then_the_refill_rate() {
        let mut t = Throttle::new(ThrottleConfig::Published);
        let admitted = |t: &mut Throttle, at: u64| {
            (0..200).take_while(|_| t.admit("AttachNetworkInterface", false, Duration::from_secs(at))).count()
        };
        assert_eq!(admitted(&mut t, 0), 50);
        assert_eq!(admitted(&mut t, 1), 5);
        assert_eq!(admitted(&mut t, 1000), 50);
    }

    #[test]
    fn fractional_rates_and_separate_actions() {
        let slow = BTreeMap::from([("CreateTags".to_owned(), Bucket { capacity: 1.0, refill: 0.5 })]);
        let mut t = Throttle::new(ThrottleConfig::Custom(slow));
        assert!(t.admit("CreateTags", false, Duration::ZERO));
        assert!(!t.admit("CreateTags", false, Duration::from_secs(1)));
        assert!(t.admit("CreateTags", false, Duration::from_secs(2)));
        assert!(t.admit("DescribeSubnets", false, Duration::from_secs(1)));
    }
}
