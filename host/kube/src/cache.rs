//! A watched copy of some objects (spec 02 §11.3): what is read again and again costs the API server one list and one
//! watch, and stays readable while the server is away.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::{KubeError, READ_LIMIT};

/// Begins to watch when it is made, and ends with it.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    what: &'static str,
    state: watch::Receiver<State<V>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone)]
struct State<V> {
    /// By name.
    objects: BTreeMap<String, V>,
    /// All of them were listed at least once.
    complete: bool,
    /// Why the last list or watch failed; none once one has worked.
    problem: Option<KubeError>,
}

impl<V: Clone + PartialEq + Send + Sync + Debug + 'static> Cache<V> {
    /// `what` names the kind in errors; `value` is what is kept of an object.
    pub(crate) fn watch<K>(
        what: &'static str,
        api: Api<K>,
        config: watcher::Config,
        value: impl Fn(K) -> V + Send + 'static,
    ) -> Self
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let state = State { objects: BTreeMap::new(), complete: false, problem: None };
        let (sender, receiver) = watch::channel(state);
        let task = tokio::spawn(async move {
            let mut events = watcher::watcher(api, config).default_backoff().boxed();
            let mut listing = BTreeMap::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => apply(&sender, &mut listing, event, &value),
                    Err(error) => failed(&sender, what, error),
                }
            }
        });
        Self { what, state: receiver, task }
    }

    /// One object. Waits for the first list, [`READ_LIMIT`] at most; says at once why there is none.
    pub(crate) async fn get(&self, name: &str) -> Result<V, KubeError> {
        let what = || format!("{} {name:?}", self.what);
        let mut state = self.state.clone();
        let settled = state.wait_for(|s| s.complete || s.problem.is_some());
        let state = match tokio::time::timeout(READ_LIMIT, settled).await {
            Ok(Ok(state)) => state,
            Ok(Err(_)) => {
                return Err(KubeError::Unreachable { what: what(), message: "the watch has ended".to_owned() });
            }
            Err(_) => return Err(KubeError::TimedOut { what: what(), seconds: READ_LIMIT.as_secs() }),
        };
        match (state.objects.get(name), &state.problem) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(problem)) if !state.complete => Err(problem.clone()),
            (None, _) => Err(KubeError::NotFound { what: what() }),
        }
    }

    /// Ends when there is such an object and it is not `known`.
    pub(crate) async fn other_than(&self, name: &str, known: Option<&V>) -> V {
        let mut state = self.state.clone();
        let changed = state.wait_for(|s| s.objects.get(name).is_some_and(|v| Some(v) != known)).await;
        let value = changed.ok().and_then(|s| s.objects.get(name).cloned());
        match value {
            Some(value) => value,
            // The watch has ended, with the process.
            None => std::future::pending().await,
        }
    }
}

impl<V> Drop for Cache<V> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn apply<K: Resource<DynamicType = ()>, V: PartialEq>(
    state: &watch::Sender<State<V>>,
    listing: &mut BTreeMap<String, V>,
    event: Event<K>,
    value: &impl Fn(K) -> V,
) {
    let put = |objects: &mut BTreeMap<String, V>, object: K| {
        let (name, value) = (object.name_any(), value(object));
        let same = objects.get(&name).is_some_and(|v| *v == value);
        objects.insert(name, value);
        !same
    };
    match event {
        Event::Init => listing.clear(),
        Event::InitApply(object) => {
            put(listing, object);
        }
        Event::InitDone => {
            let objects = std::mem::take(listing);
            state.send_modify(|s| *s = State { objects, complete: true, problem: None });
        }
        Event::Apply(object) => {
            state.send_if_modified(|s| {
                s.problem = None;
                put(&mut s.objects, object)
            });
        }
        Event::Delete(object) => {
            state.send_if_modified(|s| {
                s.problem = None;
                s.objects.remove(&object.name_any()).is_some()
            });
        }
    }
}

fn failed<V>(state: &watch::Sender<State<V>>, what: &str, error: watcher::Error) {
    let Some(problem) = KubeError::of_watch(what, error) else {
        tracing::debug!("the watch of {what} fell behind and begins anew");
        return;
    };
    state.send_modify(|s| {
        if s.problem.is_none() {
            tracing::warn!("{problem}; what was read before holds, the watch is tried again");
        }
        s.problem = Some(problem);
    });
}
