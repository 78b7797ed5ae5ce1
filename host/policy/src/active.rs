//! What is loaded right now, and how it fares. Replaced as a whole, so that a decision sees one component with its
//! settings and memos and never a mixture.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use reservoir_core::policy::{Context, CreateEni, Function, Pairs, Plan, Targets};
use reservoir_core::validate::cut_targets;

use crate::{
    bundle::Settings,
    call::{Answer, By, Called, Facts, Failure, Session},
    load::Component,
};

/// The components in force with what belongs to them.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) built_in: Arc<Component>,
    pub(crate) custom: Option<Arc<Component>>,
    pub(crate) settings: Settings,
    pub(crate) since: SystemTime,
    state: Mutex<State>,
}

/// What decisions change.
#[derive(Debug, Default)]
struct State {
    /// Settings with the last memo: the same value is given to the component and kept in the record.
    contexts: BTreeMap<(By, Function), Arc<Context>>,
    in_a_row: BTreeMap<Function, u32>,
    taken_over: Option<SystemTime>,
}

/// How the custom component fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Health {
    /// Failures in a row, of the function that has most.
    pub(crate) in_a_row: u32,
    pub(crate) taken_over: Option<SystemTime>,
}

/// A function failed; the call says how.
#[derive(Debug)]
pub(crate) struct Failed;

impl Active {
    pub(crate) fn new(built_in: Arc<Component>, custom: Option<Arc<Component>>, settings: Settings) -> Active {
        Active { built_in, custom, settings, since: SystemTime::now(), state: Mutex::default() }
    }

    /// Nothing under this lock can panic half-way.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn health(&self) -> Health {
        let state = self.state();
        Health { in_a_row: state.in_a_row.values().copied().max().unwrap_or(0), taken_over: state.taken_over }
    }

    /// Counts how the custom component's calls went. True when it has now failed `most` times in a row with one
    /// function: the built-in one answers from here on.
    pub(crate) fn count(&self, calls: &[Called], most: u32) -> bool {
        let mut state = self.state();
        let mut worst = 0;
        for call in calls.iter().filter(|c| c.by == By::Custom) {
            let in_a_row = state.in_a_row.entry(call.function).or_default();
            *in_a_row = if call.result.is_ok() { 0 } else { in_a_row.saturating_add(1) };
            worst = worst.max(*in_a_row);
        }
        if worst < most.max(1) || state.taken_over.is_some() {
            return false;
        }
        state.taken_over = Some(SystemTime::now());
        true
    }

    /// Who answers for `function`, if `custom` may.
    pub(crate) fn owner(&self, function: Function, custom: bool) -> By {
        match &self.custom {
            Some(component) if custom && component.owns(function) => By::Custom,
            _ => By::BuiltIn,
        }
    }

    fn component(&self, by: By) -> &Component {
        match (&self.custom, by) {
            (Some(component), By::Custom) => component,
            _ => &self.built_in,
        }
    }

    fn settings(&self, by: By) -> &Pairs {
        match by {
            By::Custom => &self.settings.custom,
            By::BuiltIn => &self.settings.built_in,
        }
    }

    fn context(&self, by: By, function: Function) -> Arc<Context> {
        let mut state = self.state();
        let fresh = || Arc::new(Context { settings: self.settings(by).clone(), memo: Vec::new() });
        state.contexts.entry((by, function)).or_insert_with(fresh).clone()
    }

    fn keep_memo(&self, by: By, function: Function, memo: &[u8]) {
        let mut state = self.state();
        if state.contexts.get(&(by, function)).is_none_or(|context| context.memo != memo) {
            let context = Context { settings: self.settings(by).clone(), memo: memo.to_vec() };
            state.contexts.insert((by, function), Arc::new(context));
        }
    }

    /// Sizing, then planning with its targets, each by its owner; both in one instance where that is the same.
    pub(crate) fn decide(
        &self,
        facts: &Facts<'_>,
        custom: bool,
        calls: &mut Vec<Called>,
    ) -> Result<(Vec<Targets>, Plan), Failed> {
        let (sizer, planner) = (self.owner(Function::Sizing, custom), self.owner(Function::Planning, custom));
        let mut session = Session::new(self.component(sizer), facts, sizer);
        let call = session.sizing_in(&self.context(sizer, Function::Sizing));
        let sizes = match &call.result {
            Ok(Answer::Sizing(sizes)) => Some(sizes.clone()),
            _ => None,
        };
        calls.push(call);
        let sizes = sizes.ok_or(Failed)?;
        self.keep_memo(sizer, Function::Sizing, &sizes.note.memo);
        let targets = cut_targets(facts.node, &sizes.targets);

        if planner != sizer {
            // The old session goes first: a thread holds one turn at most, or two could wait for each other.
            drop(session);
            session = Session::new(self.component(planner), facts, planner);
        }
        let call = session.planning_in(&self.context(planner, Function::Planning), &targets);
        let plan = match &call.result {
            Ok(Answer::Planning(plan)) => Some(plan.clone()),
            _ => None,
        };
        calls.push(call);
        let plan = plan.ok_or(Failed)?;
        self.keep_memo(planner, Function::Planning, &plan.note.memo);
        Ok((targets, plan))
    }

    /// Where a new interface goes, by the owner of subnets.
    pub(crate) fn rank(
        &self,
        facts: &Facts<'_>,
        custom: bool,
        request: &CreateEni,
        calls: &mut Vec<Called>,
    ) -> Result<Vec<String>, Failed> {
        let by = self.owner(Function::Subnets, custom);
        let mut session = Session::new(self.component(by), facts, by);
        let call = session.subnets_in(&self.context(by, Function::Subnets), request);
        let ids = match &call.result {
            Ok(Answer::Subnets(ids)) => Ok(ids.clone()),
            _ => Err(Failed),
        };
        calls.push(call);
        ids
    }
}

/// The failure among `calls`, with whose it is.
pub(crate) fn failure(calls: &[Called]) -> Option<(&Called, &Failure)> {
    calls.iter().find_map(|call| call.result.as_ref().err().map(|failure| (call, failure)))
}
