//! What introspection and metrics show: what is loaded, and how it fares.

use std::{
    collections::BTreeMap,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use reservoir_core::policy::{Function, Pairs};
use serde::Serialize;

use crate::{active::Active, call::Called, digest::Digest, load::Component};

/// For introspection (`/v1/policy`). Times are seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    pub built_in: ComponentStatus,
    /// None while the built-in component decides everything.
    pub custom: Option<ComponentStatus>,
    /// When this component with these settings was put in force.
    pub loaded_at: u64,
    /// Failures in a row, of the custom component's function that has most.
    pub failures_in_a_row: u32,
    /// At so many the built-in component takes over.
    pub failures_allowed: u32,
    /// When the built-in component took over. None: it has not.
    pub taken_over_at: Option<u64>,
    /// The last load, if it failed: what is in force is from before it.
    pub last_load_error: Option<LoadFailed>,
    /// Where what lies in the directory is not in force: when it is tried again by itself. None: it is in force, or only
    /// other files can help.
    pub next_try_at: Option<u64>,
    pub counts: Counts,
}

/// One component in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentStatus {
    pub digest: Digest,
    /// Size of its file.
    pub bytes: usize,
    /// Functions it owns.
    pub exports: Vec<Function>,
    /// Names of its settings. Not their values: introspection is no place for what may be confidential.
    pub settings: Vec<String>,
}

/// Why a load failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadFailed {
    pub at: u64,
    pub reason: String,
}

/// Since the daemon started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Decisions and rankings asked for.
    pub asked: u64,
    /// Calls that failed, by whose component, function and reason: `custom/sizing/timeout`.
    pub failed: BTreeMap<String, u64>,
    /// Answers that the built-in component gave because the custom one failed.
    pub fell_back: u64,
    pub took_over: u64,
    /// Bundles put in force.
    pub loads: u64,
    pub loads_failed: u64,
}

/// What came of questions, loads and tries so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    pub counts: Counts,
    pub last_failed: Option<LoadFailed>,
    pub next_try: Option<Instant>,
}

pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl LoadFailed {
    pub(crate) fn now(why: &dyn std::error::Error) -> LoadFailed {
        LoadFailed { at: unix(SystemTime::now()), reason: why.to_string() }
    }
}

impl Counts {
    pub(crate) fn add(&mut self, calls: &[Called], fell_back: bool, took_over: bool) {
        self.asked += 1;
        self.fell_back += u64::from(fell_back);
        self.took_over += u64::from(took_over);
        for call in calls {
            if let Err(failure) = &call.result {
                let key = format!("{}/{}/{}", call.by.label(), crate::policies::name(call.function), failure.label());
                *self.failed.entry(key).or_default() += 1;
            }
        }
    }
}

impl Status {
    pub(crate) fn of(active: &Active, allowed: u32, records: Records) -> Status {
        let Records { counts, last_failed, next_try } = records;
        let health = active.health();
        let component = |c: &Component, settings: &Pairs| ComponentStatus {
            digest: c.digest(),
            bytes: c.bytes(),
            exports: c.exports().to_vec(),
            settings: settings.iter().map(|(key, _)| key.clone()).collect(),
        };
        Status {
            built_in: component(&active.built_in, &active.settings.built_in),
            custom: active.custom.as_ref().map(|c| component(c, &active.settings.custom)),
            loaded_at: unix(active.since),
            failures_in_a_row: health.in_a_row,
            failures_allowed: allowed,
            taken_over_at: health.taken_over.map(unix),
            last_load_error: last_failed,
            next_try_at: next_try.map(|at| unix(SystemTime::now() + at.saturating_duration_since(Instant::now()))),
            counts,
        }
    }
}
