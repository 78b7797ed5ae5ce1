//! Where all metrics of the process end, those of other crates too: counters and gauges in the Prometheus exporter,
//! distributions in ours. No family grows without bound (W25).

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::distribution::Distribution;
use super::family::{self, Family, Kind};
use super::text;

/// Series per family. Labels come from closed sets and from AWS error codes; what exceeds this is a mistake.
const MOST_SERIES: usize = 256;

static METADATA: Metadata<'static> = Metadata::new("reservoir", metrics::Level::INFO, None);

/// Family, labels → series.
type Distributions = BTreeMap<&'static str, BTreeMap<Vec<(String, String)>, Arc<Distribution>>>;

#[derive(Debug)]
pub struct Recorder {
    prometheus: PrometheusRecorder,
    handle: PrometheusHandle,
    distributions: Mutex<Distributions>,
    series: Mutex<BTreeMap<String, HashSet<Key>>>,
    dropped: Counter,
}

impl Recorder {
    pub fn new() -> Self {
        use metrics::Recorder as _;
        let prometheus = PrometheusBuilder::new().build_recorder();
        for family in family::ALL {
            let (name, help) = (KeyName::from(family.name), SharedString::from(family.help));
            match family.kind {
                Kind::Counter => prometheus.describe_counter(name, None, help),
                Kind::Gauge => prometheus.describe_gauge(name, None, help),
                Kind::Summary | Kind::Histogram(_) => {}
            }
        }
        let dropped = prometheus.register_counter(&Key::from_name(family::SERIES_DROPPED.name), &METADATA);
        let handle = prometheus.handle();
        Self { prometheus, handle, distributions: Mutex::default(), series: Mutex::default(), dropped }
    }

    /// The series of `family` with these label values, in the family's order.
    pub fn counter(&self, family: &Family, values: &[&str]) -> Counter {
        metrics::Recorder::register_counter(self, &key(family, values), &METADATA)
    }

    pub fn gauge(&self, family: &Family, values: &[&str]) -> Gauge {
        metrics::Recorder::register_gauge(self, &key(family, values), &METADATA)
    }

    pub fn histogram(&self, family: &Family, values: &[&str]) -> Histogram {
        metrics::Recorder::register_histogram(self, &key(family, values), &METADATA)
    }

    /// All series in the text format.
    pub fn render(&self) -> String {
        let mut out = self.handle.render();
        let distributions = self.distributions.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, series) in &*distributions {
            let Some(family) = family::find(name) else { continue };
            text::header(&mut out, family);
            for (labels, distribution) in series {
                let labels: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                distribution.write(&mut out, family, &labels);
            }
        }
        out
    }

    /// Whether the series exists or there is room for it.
    fn admit(&self, key: &Key) -> bool {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = series.entry(key.name().to_owned()).or_default();
        let admitted = keys.contains(key) || keys.len() < MOST_SERIES && keys.insert(key.clone());
        if !admitted {
            self.dropped.increment(1);
        }
        admitted
    }
}

fn key(family: &Family, values: &[&str]) -> Key {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let labels: Vec<_> =
        family.labels.iter().zip(values).map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(family.name, labels)
}

impl metrics::Recorder for Recorder {
    /// Help of our families comes from the table; others bring their own.
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.prometheus.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.prometheus.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        if self.admit(key) { self.prometheus.register_counter(key, metadata) } else { Counter::noop() }
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        if self.admit(key) { self.prometheus.register_gauge(key, metadata) } else { Gauge::noop() }
    }

    /// A distribution that is not in the table of families is not recorded.
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let Some((family, fresh)) = family::find(key.name()).and_then(|f| Some((f, Distribution::new(f.kind)?))) else {
            return Histogram::noop();
        };
        if !self.admit(key) {
            return Histogram::noop();
        }
        let labels = key.labels().map(|l| (l.key().to_owned(), l.value().to_owned())).collect();
        let mut distributions = self.distributions.lock().unwrap_or_else(PoisonError::into_inner);
        let series = distributions.entry(family.name).or_default().entry(labels).or_insert_with(|| Arc::new(fresh));
        Histogram::from_arc(Arc::clone(series))
    }
}
