//! Percentiles of durations.

use std::time::Duration;

/// Durations in order.
#[derive(Debug, Clone)]
pub struct Samples(Vec<Duration>);

impl Samples {
    #[must_use]
    pub fn new(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    /// The smallest that is not below `percent` of all (nearest rank), in milliseconds; none without samples.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<f64> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).map(|d| d.as_secs_f64() * 1e3)
    }

    #[must_use]
    pub fn p50(&self) -> Option<f64> {
        self.percentile(50)
    }

    #[must_use]
    pub fn p99(&self) -> Option<f64> {
        self.percentile(99)
    }

    #[must_use]
    pub fn max(&self) -> Option<f64> {
        self.percentile(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        let samples = Samples::new((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(samples.p50(), Some(100.0));
        assert_eq!(samples.p99(), Some(198.0));
        assert_eq!(samples.max(), Some(200.0));
        assert_eq!(Samples::new(Vec::new()).p99(), None);
        assert_eq!(Samples::new(vec![Duration::from_millis(7)]).p50(), Some(7.0));
    }
}
