//! Distributions of fixed size. The exporter's own keep every sample until the next scrape and a sketch of hundreds of
//! KiB per series; a node that nobody scrapes would grow.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::family::{Family, Kind};
use super::text;

/// One series.
#[derive(Debug)]
pub enum Distribution {
    Buckets(Buckets),
    Window(Mutex<Window>),
}

impl Distribution {
    /// As the family's kind asks; None for a family of single values.
    pub fn new(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Histogram(bounds) => Some(Self::Buckets(Buckets::new(bounds))),
            Kind::Summary => Some(Self::Window(Mutex::default())),
            Kind::Counter | Kind::Gauge => None,
        }
    }

    pub fn write(&self, out: &mut String, family: &Family, labels: &[(&str, &str)]) {
        let mut sample = |suffix: &str, extra: Option<(&str, &str)>, value: f64| {
            text::sample(out, family, suffix, labels.iter().copied().chain(extra), value);
        };
        match self {
            Self::Buckets(buckets) => {
                let mut sum = 0.0;
                for (bound, count) in buckets.bounds.iter().zip(&buckets.counts) {
                    sum += as_f64(count.load(Ordering::Relaxed));
                    sample("_bucket", Some(("le", &bound.to_string())), sum);
                }
                let all = as_f64(buckets.counts.iter().map(|c| c.load(Ordering::Relaxed)).sum());
                sample("_bucket", Some(("le", "+Inf")), all);
                sample("_sum", None, f64::from_bits(buckets.sum.load(Ordering::Relaxed)));
                sample("_count", None, all);
            }
            Self::Window(window) => {
                let (mut recent, sum, count) = {
                    let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
                    window.forget(Instant::now());
                    (window.samples.iter().map(|(_, v)| *v).collect::<Vec<_>>(), window.sum, window.count)
                };
                recent.sort_by(f64::total_cmp);
                for (q, label) in [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99")] {
                    sample("", Some(("quantile", label)), quantile(&recent, q));
                }
                sample("_sum", None, sum);
                sample("_count", None, as_f64(count));
            }
        }
    }
}

impl metrics::HistogramFn for Distribution {
    fn record(&self, value: f64) {
        match self {
            Self::Buckets(buckets) => buckets.record(value),
            Self::Window(window) => window.lock().unwrap_or_else(PoisonError::into_inner).record(value, Instant::now()),
        }
    }
}

/// Counts between ascending bounds; the last one counts what is above all of them.
#[derive(Debug)]
pub struct Buckets {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// Bits of an f64.
    sum: AtomicU64,
}

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    fn record(&self, value: f64) {
        let i = self.bounds.partition_point(|bound| *bound < value);
        self.counts[i].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure never gives up.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

/// The samples of the last ten minutes, at most 512 of them.
#[derive(Debug, Default)]
pub struct Window {
    samples: VecDeque<(Instant, f64)>,
    sum: f64,
    count: u64,
}

impl Window {
    const AGE: Duration = Duration::from_secs(600);
    const SAMPLES: usize = 512;

    fn record(&mut self, value: f64, now: Instant) {
        self.forget(now);
        if self.samples.len() == Self::SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, value));
        self.sum += value;
        self.count += 1;
    }

    fn forget(&mut self, now: Instant) {
        while self.samples.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > Self::AGE) {
            self.samples.pop_front();
        }
    }
}

/// The smallest sample that at least the part `q` of them does not exceed; NaN of none, as Prometheus clients have it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 < q < 1 and at most 512 samples: the rank is small and not negative"
)]
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * as_f64(sorted.len() as u64)).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&sorted, 0.5), quantile(&sorted, 0.9), quantile(&sorted, 0.99)), (50.0, 90.0, 99.0));
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_window_forgets_by_age_and_by_number_but_counts_all() {
        let (mut window, start) = (Window::default(), Instant::now());
        for i in 0..600u32 {
            window.record(f64::from(i), start);
        }
        assert_eq!((window.samples.len(), window.samples[0].1), (512, 88.0));
        window.record(1.0, start + Window::AGE + Duration::from_secs(1));
        assert_eq!((window.samples.len(), window.count, window.sum), (1, 601, 179_701.0));
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let buckets = Buckets::new(&[1.0, 2.0]);
        for v in [0.5, 1.0, 1.5, 2.0, 2.1] {
            buckets.record(v);
        }
        let counts: Vec<_> = buckets.counts.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        assert_eq!(counts, [2, 2, 1]);
        assert_eq!(f64::from_bits(buckets.sum.into_inner()), 7.1);
    }
}
