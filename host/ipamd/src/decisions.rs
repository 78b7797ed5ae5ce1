//! The last decisions, in a bounded ring: what was known, what was answered, what was refused and why, what became of
//! it. Served by introspection as JSON lines.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reservoir_core::manager::Record;
use reservoir_core::policy::Node;
use reservoir_core::validate::Dropped;
use reservoir_policy::Decision;
use serde::Serialize;

/// Decisions that are kept. A large node's snapshot takes some 60 KiB.
const KEPT: usize = 32;
/// Lines that a decision keeps of what came after it.
const EVENTS: usize = 16;

/// The ring.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<VecDeque<Entry>>);

#[derive(Debug)]
struct Entry {
    node: Arc<Node>,
    decision: Decision,
    started: Vec<String>,
    dropped: Vec<Dropped>,
    events: Vec<String>,
}

impl Decisions {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy has answered.
    pub fn made(&self, node: Arc<Node>, decision: Decision) {
        let mut ring = self.lock();
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Entry { node, decision, started: Vec::new(), dropped: Vec::new(), events: Vec::new() });
    }

    /// The host has dealt with the answer.
    pub fn done(&self, record: Record) {
        let mut ring = self.lock();
        if let Some(entry) = ring.iter_mut().rev().find(|e| Arc::ptr_eq(&e.node, &record.node)) {
            entry.started = record.started;
            entry.dropped = record.dropped;
        }
    }

    /// Something happened that followed from a decision, most likely the last.
    pub fn event(&self, text: &str) {
        if let Some(entry) = self.lock().back_mut()
            && entry.events.len() < EVENTS
        {
            entry.events.push(text.to_owned());
        }
    }

    /// One JSON object a line, oldest first.
    #[must_use]
    pub fn json_lines(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            node: &'a Node,
            decision: &'a Decision,
            started: &'a [String],
            refused: Vec<Refused<'a>>,
            outcome: &'a [String],
        }
        #[derive(Serialize)]
        struct Refused<'a> {
            action: &'a str,
            reason: &'a str,
        }
        let mut out = String::new();
        for entry in self.lock().iter() {
            let refused = entry.dropped.iter().map(|d| Refused { action: &d.action, reason: &d.reason }).collect();
            let line = Line {
                node: &entry.node,
                decision: &entry.decision,
                started: &entry.started,
                refused,
                outcome: &entry.events,
            };
            // Plain data without maps of other keys than strings: this does not fail.
            if let Ok(text) = serde_json::to_string(&line) {
                out.push_str(&text);
                out.push('\n');
            }
        }
        out
    }
}
