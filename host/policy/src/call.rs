//! One call of one function, and how it ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reservoir_core::policy::{Context, CreateEni, Function, Node, Plan, Sizes, Targets};
use serde::{Deserialize, Serialize, Serializer};
use wasmtime::{Store, Trap, component::Instance};

use crate::{
    answer,
    convert::{self, wit},
    digest::Digest,
    guest::{Guest, LogLine, one_line},
    limits::Limits,
    load::Component,
    turn::Turn,
};

/// Whose component was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    BuiltIn,
    Custom,
}

impl By {
    /// For a metric's label or a log line.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            By::BuiltIn => "built_in",
            By::Custom => "custom",
        }
    }
}

/// What a function answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Sizing(Sizes),
    Planning(Plan),
    Subnets(Vec<String>),
}

/// How a call went wrong. Either way it is "no action".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// In the component's own words.
    #[error("it answered with an error: {0}")]
    Error(String),
    #[error("it trapped: {0}")]
    Trap(String),
    #[error("it was stopped after {0} ms: make it faster, or look whether it loops")]
    Timeout(u128),
    #[error("it used up its {0} units of fuel (instructions): make it faster, or look whether it loops")]
    OutOfFuel(u64),
    #[error("it asked for more than its {0} bytes of memory or its table elements")]
    OutOfMemory(usize),
    /// An answer that no rule of the contract allows.
    #[error("its answer makes no sense: {0}")]
    Nonsense(String),
}

impl Failure {
    /// For a metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Failure::Error(_) => "error",
            Failure::Trap(_) => "trap",
            Failure::Timeout(_) => "timeout",
            Failure::OutOfFuel(_) => "out_of_fuel",
            Failure::OutOfMemory(_) => "out_of_memory",
            Failure::Nonsense(_) => "nonsense",
        }
    }
}

impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = s.serialize_struct("Failure", 2)?;
        out.serialize_field("kind", self.label())?;
        out.serialize_field("text", &self.to_string())?;
        out.end()
    }
}

/// One call, for the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Called {
    pub function: Function,
    pub by: By,
    /// Of the component.
    pub digest: Digest,
    /// What it was given beside the node.
    #[serde(serialize_with = "inner")]
    pub context: Arc<Context>,
    /// Planning was given these too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<Targets>>,
    /// Subnets was given this too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<CreateEni>,
    /// Instructions executed, those of the instance's start with the first call.
    pub fuel: u64,
    /// As a number of microseconds in JSON.
    #[serde(rename = "time_us", serialize_with = "as_micros")]
    pub time: Duration,
    pub log: Vec<LogLine>,
    /// Log lines beyond [`Limits::LOG_LINES`].
    pub log_dropped: u32,
    #[serde(serialize_with = "as_answer")]
    pub result: Result<Answer, Failure>,
}

/// What is in it: serde shares nothing.
pub(crate) fn inner<T: Serialize, S: Serializer>(shared: &Arc<T>, s: S) -> Result<S::Ok, S::Error> {
    shared.as_ref().serialize(s)
}

fn as_micros<S: Serializer>(time: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

fn as_answer<S: Serializer>(result: &Result<Answer, Failure>, s: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Form<'a> {
        Ok(&'a Answer),
        Failed(&'a Failure),
    }
    match result {
        Ok(answer) => Form::Ok(answer).serialize(s),
        Err(failure) => Form::Failed(failure).serialize(s),
    }
}

/// A snapshot in the form in which components take it.
#[derive(Debug)]
pub struct Facts<'n> {
    pub(crate) node: &'n Node,
    pub(crate) wit: wit::Node,
}

impl<'n> Facts<'n> {
    #[must_use]
    pub fn of(node: &'n Node) -> Facts<'n> {
        Facts { node, wit: convert::node(node) }
    }
}

/// One decision with one component: its functions run in one fresh instance, made at the first call. After a failure
/// the instance is gone and the next call gets another.
pub struct Session<'a> {
    component: &'a Component,
    facts: &'a Facts<'a>,
    by: By,
    live: Option<Live>,
}

/// An instance in its store, and the turn that it runs in: fields in the order in which they go.
struct Live {
    instance: Option<Instance>,
    store: Store<Guest>,
    _turn: Turn,
}

/// What a call was given beside the node, for the record.
struct Given {
    context: Arc<Context>,
    targets: Option<Vec<Targets>>,
    request: Option<CreateEni>,
}

/// What came back from a component.
type Reply = Result<Answer, Failure>;

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("component", self.component).field("by", &self.by).finish_non_exhaustive()
    }
}

impl<'a> Session<'a> {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(component: &'a Component, facts: &'a Facts<'a>, by: By) -> Session<'a> {
        Session { component, facts, by, live: None }
    }

    /// The node that it decides for.
    #[must_use]
    pub fn node(&self) -> &'a Node {
        self.facts.node
    }

    /// Asks how much to keep. The targets are as the component said; see [`reservoir_core::validate::cut_targets`].
    pub fn sizing(&mut self, context: &Context) -> Called {
        self.sizing_in(&Arc::new(context.clone()))
    }

    pub(crate) fn sizing_in(&mut self, context: &Arc<Context>) -> Called {
        let given = convert::context(context);
        let record = Given { context: context.clone(), targets: None, request: None };
        self.call(Function::Sizing, record, |component, facts, store, instance| {
            let Some(indices) = &component.sizing else { return not_owned() };
            let guest = indices.load(&mut *store, instance)?;
            let sizes = guest.call_decide(&mut *store, &facts.wit, &given)?;
            Ok(answer::of(sizes, |s| answer::sizes(convert::sizes_back(s), facts.node).map(Answer::Sizing)))
        })
    }

    /// Asks how to get to `targets`.
    pub fn planning(&mut self, context: &Context, targets: &[Targets]) -> Called {
        self.planning_in(&Arc::new(context.clone()), targets)
    }

    pub(crate) fn planning_in(&mut self, context: &Arc<Context>, targets: &[Targets]) -> Called {
        let given = convert::context(context);
        let record = Given { context: context.clone(), targets: Some(targets.to_vec()), request: None };
        let targets: Vec<_> = targets.iter().map(convert::targets).collect();
        self.call(Function::Planning, record, |component, facts, store, instance| {
            let Some(indices) = &component.planning else { return not_owned() };
            let guest = indices.load(&mut *store, instance)?;
            let plan = guest.call_decide(&mut *store, &facts.wit, &given, &targets)?;
            Ok(answer::of(plan, |p| answer::plan(convert::plan_back(p), facts.node).map(Answer::Planning)))
        })
    }

    /// Asks where to make an interface.
    pub fn subnets(&mut self, context: &Context, request: &CreateEni) -> Called {
        self.subnets_in(&Arc::new(context.clone()), request)
    }

    pub(crate) fn subnets_in(&mut self, context: &Arc<Context>, request: &CreateEni) -> Called {
        let given = convert::context(context);
        let record = Given { context: context.clone(), targets: None, request: Some(request.clone()) };
        self.call(Function::Subnets, record, |component, facts, store, instance| {
            let Some(indices) = &component.subnets else { return not_owned() };
            let guest = indices.load(&mut *store, instance)?;
            let ids = guest.call_rank(&mut *store, &facts.wit, &given, convert::create_eni(request))?;
            Ok(answer::of(ids, |ids| answer::subnets(ids, facts.node).map(Answer::Subnets)))
        })
    }

    fn call(
        &mut self,
        function: Function,
        given: Given,
        body: impl FnOnce(&Component, &Facts<'_>, &mut Store<Guest>, &Instance) -> wasmtime::Result<Reply>,
    ) -> Called {
        let (component, facts) = (self.component, self.facts);
        let limits = component.runtime.limits();
        // Before the clock starts: to wait for one's turn is not the component's time.
        let mut live = self.live.take().unwrap_or_else(|| Live::new(component, facts.node));
        let start = Instant::now();
        let result = match live.run(component, |store, instance| body(component, facts, store, instance)) {
            Ok(reply) => reply,
            Err(error) => Err(failure(&error, live.store.data(), limits, start.elapsed())),
        };
        let time = start.elapsed();
        let fuel = limits.fuel.saturating_sub(live.store.get_fuel().unwrap_or(0));
        let (log, log_dropped) = live.store.data_mut().take_log();
        if result.is_ok() {
            self.live = Some(live);
        }
        let Given { context, targets, request } = given;
        let (by, digest) = (self.by, component.digest());
        Called { function, by, digest, context, targets, request, fuel, time, log, log_dropped, result }
    }
}

impl Live {
    fn new(component: &Component, node: &Node) -> Live {
        let turn = component.runtime.turns().take();
        let limits = component.runtime.limits();
        let mut store = Store::new(component.runtime.engine(), Guest::new(node, limits.memory_bytes));
        store.limiter(|guest| &mut guest.usage);
        store.set_hostcall_fuel(Limits::TRANSFER_BYTES);
        Live { instance: None, store, _turn: turn }
    }

    fn run(
        &mut self,
        component: &Component,
        body: impl FnOnce(&mut Store<Guest>, &Instance) -> wasmtime::Result<Reply>,
    ) -> wasmtime::Result<Reply> {
        let limits = component.runtime.limits();
        self.store.set_fuel(limits.fuel)?;
        // One tick more: the first may be about to happen.
        let ticks = limits.deadline.as_millis().div_ceil(Limits::TICK.as_millis()) + 1;
        self.store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX));
        let instance = match self.instance {
            Some(instance) => instance,
            None => *self.instance.insert(component.pre.instantiate(&mut self.store)?),
        };
        body(&mut self.store, &instance)
    }
}

/// A call to what the component does not own: the caller's mistake, shown like the component's.
fn not_owned() -> wasmtime::Result<Reply> {
    wasmtime::bail!("the component does not export this function")
}

/// Which way a call ended that did not come back with an answer.
fn failure(error: &wasmtime::Error, guest: &Guest, limits: &Limits, time: Duration) -> Failure {
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Failure::OutOfFuel(limits.fuel),
        Some(Trap::Interrupt) => Failure::Timeout(time.as_millis()),
        _ if guest.usage.denied => Failure::OutOfMemory(limits.memory_bytes),
        Some(trap) => Failure::Trap(trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
        None => {
            let text = format!("{error:#}");
            // wasmtime has no error kind of its own for this.
            if text.contains("allocated for hostcalls") {
                Failure::Nonsense(format!("it is larger than {} bytes", Limits::TRANSFER_BYTES))
            } else {
                Failure::Trap(one_line(&text, Limits::REASON_BYTES))
            }
        }
    }
}
