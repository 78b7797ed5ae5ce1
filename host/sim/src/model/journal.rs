//! Which calls came, from whom, with what result.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::ops::Op;

/// One EC2 call.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// Counts from 1.
    pub number: u64,
    pub at_seconds: f64,
    pub due_seconds: f64,
    pub instance: String,
    #[serde(flatten)]
    pub op: Op,
    /// `ok`, EC2's error code, or `no answer`.
    pub outcome: String,
}

/// How often a call came and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub calls: u64,
    /// By error code.
    pub errors: BTreeMap<String, u64>,
}

/// EC2 calls of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NodeCount {
    pub calls: u64,
    /// Of them, those that change something.
    pub mutating: u64,
    pub by_action: BTreeMap<&'static str, u64>,
    /// By hours since the start.
    pub hours: BTreeMap<u32, u32>,
}

/// The log and the counters.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    limit: usize,
    number: u64,
    records: VecDeque<Record>,
    counts: BTreeMap<&'static str, Count>,
    instances: BTreeMap<String, NodeCount>,
}

impl Journal {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(crate) fn note(&mut self, at: Duration, due: Duration, instance: &str, op: Op, outcome: &str) {
        self.number += 1;
        self.count(op.api(), outcome);
        if !self.instances.contains_key(instance) {
            self.instances.insert(instance.to_owned(), NodeCount::default());
        }
        if let Some(node) = self.instances.get_mut(instance) {
            node.calls += 1;
            node.mutating += u64::from(op.is_mutating());
            *node.by_action.entry(op.api()).or_default() += 1;
            *node.hours.entry(u32::try_from(at.as_secs() / 3600).unwrap_or(u32::MAX)).or_default() += 1;
        }
        if self.limit == 0 {
            return;
        }
        if self.records.len() == self.limit {
            self.records.pop_front();
        }
        self.records.push_back(Record {
            number: self.number,
            at_seconds: at.as_secs_f64(),
            due_seconds: due.as_secs_f64(),
            instance: instance.to_owned(),
            op,
            outcome: outcome.to_owned(),
        });
    }

    /// Counts a call that is not logged: IMDS reads.
    pub(crate) fn count(&mut self, api: &'static str, outcome: &str) {
        let count = self.counts.entry(api).or_default();
        count.calls += 1;
        if outcome != "ok" {
            *count.errors.entry(outcome.to_owned()).or_default() += 1;
        }
    }

    /// The EC2 calls, oldest first.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// Calls by name, EC2's and IMDS's.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<&'static str, Count> {
        &self.counts
    }

    /// Calls of one name.
    #[must_use]
    pub fn calls(&self, api: &str) -> u64 {
        self.counts.get(api).map_or(0, |c| c.calls)
    }

    /// The EC2 calls of one instance, oldest first.
    pub fn records_of<'a>(&'a self, instance: &'a str) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |r| r.instance == instance)
    }

    /// EC2 calls by instance.
    #[must_use]
    pub fn by_instance(&self) -> &BTreeMap<String, NodeCount> {
        &self.instances
    }

    /// EC2 calls of one instance; None: it made none.
    #[must_use]
    pub fn node(&self, instance: &str) -> Option<&NodeCount> {
        self.instances.get(instance)
    }
}
