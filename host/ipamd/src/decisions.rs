//! The last decisions and rankings, in a bounded ring: what was known, what was asked and answered, what was refused and
//! why, what became of it, what a shadow policy would have done. Values are kept; text is made when somebody asks for it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reservoir_core::manager::Record;
use reservoir_core::policy::Node;
use reservoir_core::validate::Dropped;
use reservoir_policy::{Asked, Line, Shadowed};

/// Answers that are kept. A large node's snapshot takes some 60 KiB.
const KEPT: usize = 32;
/// Lines that an answer keeps of what came after it.
const EVENTS: usize = 16;

/// The ring.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<VecDeque<Entry>>);

#[derive(Debug, Clone)]
struct Entry {
    node: Arc<Node>,
    asked: Asked,
    started: Vec<String>,
    dropped: Vec<Dropped>,
    events: Vec<String>,
    shadow: Option<Arc<Shadowed>>,
}

impl Decisions {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy has answered.
    pub fn made(&self, node: Arc<Node>, asked: Asked) {
        let entry = Entry { node, asked, started: Vec::new(), dropped: Vec::new(), events: Vec::new(), shadow: None };
        let mut ring = self.lock();
        // What goes is freed without the lock.
        let _gone = if ring.len() == KEPT { ring.pop_front() } else { None };
        ring.push_back(entry);
        drop(ring);
    }

    /// The host has dealt with the answer.
    pub fn done(&self, record: Record) {
        let mut ring = self.lock();
        if let Some(entry) = find(&mut ring, &record.node) {
            entry.started = record.started;
            entry.dropped = record.dropped;
        }
    }

    /// The shadow policy has answered the same. It may be late: then nobody remembers what it is about.
    pub fn shadowed(&self, node: &Arc<Node>, shadow: Shadowed) {
        let shadow = Arc::new(shadow);
        let mut ring = self.lock();
        if let Some(entry) = find(&mut ring, node) {
            entry.shadow = Some(shadow);
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

    /// One JSON object a line, oldest first (docs/policy-contract.md, "Recordings").
    #[must_use]
    pub fn json_lines(&self) -> String {
        // Rendering takes milliseconds, and those who decide wait for this lock.
        let entries: Vec<Entry> = self.lock().iter().cloned().collect();
        let mut out = String::new();
        for entry in &entries {
            let line = Line {
                node: &entry.node,
                asked: &entry.asked,
                started: &entry.started,
                refused: &entry.dropped,
                outcome: &entry.events,
                shadow: entry.shadow.as_deref(),
            };
            out.push_str(&line.json());
            out.push('\n');
        }
        out
    }
}

/// Every question has a snapshot of its own.
fn find<'a>(ring: &'a mut VecDeque<Entry>, node: &Arc<Node>) -> Option<&'a mut Entry> {
    ring.iter_mut().rev().find(|entry| Arc::ptr_eq(&entry.node, node))
}

#[cfg(test)]
mod tests {
    use reservoir_core::policy::{Context, CreateEni, Unit};
    use reservoir_policy::{Bundle, By, Facts, Options, Policies, Recorded, Runtime, Session, sample};

    use super::*;

    /// What the daemon does with one answer of the built-in policy.
    fn decide(ring: &Decisions, policies: &Policies, node: &Arc<Node>) {
        let decision = Arc::new(policies.decide(node));
        ring.made(node.clone(), Asked::Decision(decision.clone()));
        let dropped = vec![Dropped { action: "assign 3 ip on eni-1".into(), reason: "I5: no free slot".into() }];
        ring.done(Record { node: node.clone(), started: vec!["assign 3 ip".to_owned()], dropped });
    }

    #[test]
    fn a_recorded_line_can_be_asked_again_and_answers_the_same() {
        let policies = Policies::new(Options::default()).unwrap();
        let settings = [("count-cooling".to_owned(), "false".to_owned())].into();
        policies.load(&Bundle { settings, ..Bundle::default() }, None).unwrap();
        let ring = Decisions::default();
        let node = Arc::new(sample::node(3, 14));
        decide(&ring, &policies, &node);
        decide(&ring, &policies, &Arc::new(sample::node(1, 4)));
        let request = CreateEni { card: 0, unit: Unit::Ip, count: 14 };
        ring.made(node.clone(), Asked::Ranking(Arc::new(policies.rank(&node, &request))));
        ring.event("RunInstances: no");

        let text = ring.json_lines();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies/default/policy.wasm")).unwrap();
        let component = Runtime::new(&Options::default().limits).unwrap().load(&bytes, None).unwrap();
        let mut asked = Vec::new();
        for line in &lines {
            let recorded = Recorded::read(line).unwrap();
            let facts = Facts::of(&recorded.node);
            let mut session = Session::new(&component, &facts, By::BuiltIn);
            for call in recorded.calls() {
                assert_eq!((call.digest, call.by), (component.digest(), By::BuiltIn));
                let settings = vec![("count-cooling".to_owned(), "false".to_owned())];
                assert_eq!(call.context, Context { settings, memo: vec![] });
                let again = call.ask(&mut session);
                assert!(call.agrees(&again.result), "{line}");
                assert_eq!(again.fuel, call.fuel, "{line}");
                asked.push(call.function);
            }
        }
        use reservoir_core::policy::Function::{Planning, Sizing, Subnets};
        assert_eq!(asked, [Sizing, Planning, Sizing, Planning, Subnets]);

        let json: Vec<serde_json::Value> = lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(serde_json::from_value::<Node>(json[0]["node"].clone()).unwrap(), *node);
        assert_eq!(lines[0].matches(&node.enis[0].id).count(), 1, "the node stands once");
        assert_eq!(json[0]["started"][0], "assign 3 ip");
        assert_eq!(json[1]["refused"][0]["reason"], "I5: no free slot");
        assert_eq!(json[2]["ranking"]["calls"][0]["request"]["count"], 14);
        assert_eq!(json[2]["outcome"][0], "RunInstances: no");
        assert!(lines[0].starts_with("{\"node\":{\"now\":1800000000,\"name\":"), "no spaces: {}", &lines[0][..80]);
    }

    #[test]
    fn the_ring_is_bounded_and_a_late_shadow_is_forgotten() {
        let policies = Policies::new(Options::default()).unwrap();
        let ring = Decisions::default();
        let nodes: Vec<_> = (0..40).map(|_| Arc::new(sample::node(1, 2))).collect();
        let made = |node: &Arc<Node>| Asked::Decision(Arc::new(policies.decide(node)));
        for node in &nodes {
            ring.made(node.clone(), made(node));
        }
        for node in [&nodes[0], &nodes[39]] {
            ring.shadowed(node, Shadowed { differs: vec!["grow"], asked: made(node) });
        }
        for _ in 0..100 {
            ring.event("x");
        }
        let text = ring.json_lines();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), KEPT);
        assert_eq!(lines.iter().filter(|l| !l["shadow"].is_null()).count(), 1);
        assert_eq!(lines[31]["shadow"]["differs"], serde_json::json!(["grow"]));
        assert_eq!(lines[31]["shadow"]["decision"]["by"], "built_in");
        assert_eq!(lines[31]["outcome"].as_array().unwrap().len(), EVENTS);
    }
}
