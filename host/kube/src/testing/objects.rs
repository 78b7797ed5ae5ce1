//! The objects, and how they change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{Cluster, KubeConfig};

/// What an API server holds. Clones are one.
#[derive(Debug, Clone)]
pub struct Objects(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// The newest revision.
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// By collection (the path of its list) and name.
    objects: BTreeMap<(String, String), Value>,
    changes: Vec<Change>,
    /// Changes before this one are forgotten.
    oldest: u64,
    failures: Vec<Failure>,
    seen: Vec<Seen>,
    uids: u64,
}

/// One change, as a watch tells it.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub revision: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub kind: &'static str,
    pub collection: String,
    pub object: Value,
}

/// One request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    pub user_agent: String,
    pub authorization: String,
    pub body: String,
}

/// What happens to the next requests of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// This answer, so many times, where `METHOD path` contains the text.
    Status { matching: String, code: u16, times: u32 },
    /// No answer as long as it stands.
    Silence { matching: String },
    /// The answer breaks off, so many times.
    Cut { matching: String, times: u32 },
}

/// A request that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }
}

impl Default for Objects {
    fn default() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), revision: watch::channel(1).0 }))
    }
}

impl Objects {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The real client upon these objects, without a socket. Within a tokio runtime.
    #[must_use]
    pub fn cluster(&self, config: &KubeConfig) -> Cluster {
        let objects = self.clone();
        let service = tower::service_fn(move |request| {
            let objects = objects.clone();
            async move { objects.answer(request).await }
        });
        Cluster::of(kube::Client::new(service, "default"), config)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    #[must_use]
    pub fn revision(&self) -> u64 {
        *self.0.revision.borrow()
    }

    // ---- what tests do to it ---------------------------------------------------------------------------------------

    /// Puts an object there, new or in place of the old one.
    ///
    /// # Panics
    /// It has no `metadata.name`.
    pub fn put(&self, collection: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().expect("an object with metadata.name").to_owned();
        self.write(&mut self.lock(), collection, &name, object);
    }

    /// A Node with so many pods, no labels and no taints.
    pub fn put_node(&self, name: &str, max_pods: u32) {
        self.put(
            super::NODES,
            json!({"metadata": {"name": name}, "status": {"capacity": {"pods": max_pods.to_string()}}}),
        );
    }

    /// Changes what is there by a merge patch; nothing else looks at it.
    ///
    /// # Panics
    /// There is no such object.
    pub fn change(&self, collection: &str, name: &str, patch: &Value) {
        self.merge(collection, name, patch).unwrap_or_else(|r| panic!("{collection}/{name}: {}", r.message));
    }

    /// Takes an object away, if it is there.
    pub fn remove(&self, collection: &str, name: &str) {
        // Not there is what was wanted.
        let _ = self.delete(collection, name);
    }

    /// What is there.
    #[must_use]
    pub fn get(&self, collection: &str, name: &str) -> Option<Value> {
        self.lock().objects.get(&(collection.to_owned(), name.to_owned())).cloned()
    }

    /// All of one collection.
    #[must_use]
    pub fn all(&self, collection: &str) -> Vec<Value> {
        self.list(collection, "").0
    }

    /// Forgets how it came to what is: watches that ask for older changes are told 410.
    pub fn forget_changes(&self) {
        let mut state = self.lock();
        state.changes.clear();
        state.oldest = self.next();
        state.oldest += 1;
        let oldest = state.oldest;
        drop(state);
        self.0.revision.send_replace(oldest);
    }

    /// From now on.
    pub fn fail(&self, failure: Failure) {
        self.lock().failures.push(failure);
    }

    /// All failures end.
    pub fn heal(&self) {
        self.lock().failures.clear();
        // Whoever is kept in silence looks again.
        self.0.revision.send_modify(|_| {});
    }

    /// What was asked so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// How often a request was made whose `METHOD path` contains the text.
    #[must_use]
    pub fn count(&self, matching: &str) -> usize {
        self.lock().seen.iter().filter(|s| s.is(matching)).count()
    }

    // ---- what requests do to it ------------------------------------------------------------------------------------

    pub(super) fn note(&self, seen: Seen) {
        self.lock().seen.push(seen);
    }

    /// The failure that this request meets, which is then used up by one.
    pub(super) fn failure(&self, seen: &Seen) -> Option<Failure> {
        let mut state = self.lock();
        let at = state.failures.iter().position(|f| {
            let (Failure::Status { matching, .. } | Failure::Silence { matching } | Failure::Cut { matching, .. }) = f;
            seen.is(matching)
        })?;
        let failure = state.failures[at].clone();
        if let Failure::Status { times, .. } | Failure::Cut { times, .. } = &mut state.failures[at] {
            *times = times.saturating_sub(1);
            if *times == 0 {
                state.failures.remove(at);
            }
        }
        Some(failure)
    }

    pub(super) fn read(&self, collection: &str, name: &str) -> Result<Value, Refusal> {
        self.get(collection, name).ok_or_else(|| not_found(collection, name))
    }

    /// The objects of a collection that a field selector picks, and the revision that this is.
    pub(super) fn list(&self, collection: &str, fields: &str) -> (Vec<Value>, u64) {
        let state = self.lock();
        let of = state.objects.iter().filter(|((c, _), _)| within(collection, c)).map(|(_, object)| object);
        (of.filter(|o| selected(o, fields)).cloned().collect(), self.revision())
    }

    /// What has changed in a collection since a revision.
    pub(super) fn since(&self, collection: &str, fields: &str, revision: u64) -> Result<Vec<Change>, Refusal> {
        let state = self.lock();
        if revision < state.oldest {
            let message = format!("too old resource version: {revision} ({})", state.oldest);
            return Err(Refusal::new(410, "Expired", message));
        }
        let newer = state.changes.iter().filter(|c| c.revision > revision && within(collection, &c.collection));
        Ok(newer.filter(|c| selected(&c.object, fields)).cloned().collect())
    }

    pub(super) fn create(&self, collection: &str, object: Value) -> Result<Value, Refusal> {
        let mut state = self.lock();
        let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) else {
            return Err(Refusal::new(422, "Invalid", "metadata.name is required"));
        };
        if state.objects.contains_key(&(collection.to_owned(), name.clone())) {
            return Err(Refusal::new(409, "AlreadyExists", format!("{name:?} already exists")));
        }
        Ok(self.write(&mut state, collection, &name, object))
    }

    pub(super) fn merge(&self, collection: &str, name: &str, patch: &Value) -> Result<Value, Refusal> {
        let mut state = self.lock();
        let id = (collection.to_owned(), name.to_owned());
        let Some(old) = state.objects.get(&id) else { return Err(not_found(collection, name)) };
        let wanted = &patch["metadata"]["resourceVersion"];
        if !wanted.is_null() && *wanted != old["metadata"]["resourceVersion"] {
            let message = format!("the object has been modified; it is {}", old["metadata"]["resourceVersion"]);
            return Err(Refusal::new(409, "Conflict", message));
        }
        let mut new = old.clone();
        merge(&mut new, patch);
        if new == *old {
            return Ok(new);
        }
        Ok(self.write(&mut state, collection, name, new))
    }

    pub(super) fn delete(&self, collection: &str, name: &str) -> Result<Value, Refusal> {
        let mut state = self.lock();
        let Some(mut object) = state.objects.remove(&(collection.to_owned(), name.to_owned())) else {
            return Err(not_found(collection, name));
        };
        self.record(&mut state, collection, "DELETED", &mut object);
        Ok(object)
    }

    fn write(&self, state: &mut State, collection: &str, name: &str, mut object: Value) -> Value {
        let id = (collection.to_owned(), name.to_owned());
        let old = state.objects.get(&id);
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        let uid = old.map(|o| o["metadata"]["uid"].clone()).unwrap_or_else(|| {
            state.uids += 1;
            Value::from(format!("00000000-0000-4000-8000-{:012}", state.uids))
        });
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = uid;
        }
        if let Some((_, rest)) = collection.split_once("/namespaces/")
            && let Some((namespace, _)) = rest.split_once('/')
        {
            object["metadata"]["namespace"] = namespace.into();
        }
        self.record(state, collection, kind, &mut object);
        state.objects.insert(id, object.clone());
        object
    }

    fn record(&self, state: &mut State, collection: &str, kind: &'static str, object: &mut Value) {
        let revision = self.next();
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let change = Change { revision, kind, collection: collection.to_owned(), object: object.clone() };
        state.changes.push(change);
        self.0.revision.send_replace(revision);
    }

    fn next(&self) -> u64 {
        self.revision() + 1
    }
}

impl Seen {
    fn is(&self, matching: &str) -> bool {
        format!("{} {}?{}", self.method, self.path, self.query).contains(matching)
    }
}

fn not_found(collection: &str, name: &str) -> Refusal {
    let kind = collection.rsplit('/').next().unwrap_or_default();
    Refusal::new(404, "NotFound", format!("{kind} {name:?} not found"))
}

/// Whether objects of `collection` belong to the list at `asked`, which may be that of all namespaces.
fn within(asked: &str, collection: &str) -> bool {
    let all = || {
        let (before, rest) = collection.split_once("/namespaces/")?;
        Some(asked == format!("{before}/{}", rest.split_once('/')?.1))
    };
    asked == collection || all() == Some(true)
}

/// Whether a field selector such as `metadata.name=a,spec.nodeName=b` picks an object.
fn selected(object: &Value, fields: &str) -> bool {
    fields.split(',').filter(|f| !f.is_empty()).all(|field| {
        let (path, wanted) = field.split_once('=').unwrap_or((field, ""));
        let found = path.split('.').fold(object, |o, key| &o[key]);
        found.as_str().unwrap_or_default() == wanted.trim_start_matches('=')
    })
}

/// A merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Some(target) = target.as_object_mut() {
                target.remove(key);
            }
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}
