//! The built-in component, as the daemon runs it: in the sandbox, from its committed bytes.

use std::sync::OnceLock;

use reservoir_core::policy::{Context, CreateEni, Node, Plan};
use reservoir_policy::{Answer, By, Called, Component, Facts, Limits, Runtime, Session};

/// It was loaded once for all cases, with the runtime that it lives in.
struct Loaded {
    component: Component,
    _runtime: Runtime,
}

const BUILT_IN: &[u8] = include_bytes!("../../../../policies/default/policy.wasm");

fn component() -> Result<&'static Component, String> {
    static LOADED: OnceLock<Result<Loaded, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        let runtime = Runtime::new(&Limits::default()).map_err(|e| format!("policy runtime: {e}"))?;
        let component = runtime.load(BUILT_IN, None).map_err(|e| format!("policies/default/policy.wasm: {e}"))?;
        Ok(Loaded { component, _runtime: runtime })
    });
    loaded.as_ref().map(|loaded| &loaded.component).map_err(Clone::clone)
}

/// The targets that it sizes and the plan that it makes for them, as in one decision of the daemon.
pub(crate) fn plan(node: &Node, context: &Context) -> Result<Plan, String> {
    let facts = Facts::of(node);
    let mut session = Session::new(component()?, &facts, By::BuiltIn);
    let sizes = match answer(session.sizing(context))? {
        Answer::Sizing(sizes) => sizes,
        other => return Err(format!("sizing answered {other:?}")),
    };
    match answer(session.planning(context, &sizes.targets))? {
        Answer::Planning(plan) => Ok(plan),
        other => Err(format!("planning answered {other:?}")),
    }
}

/// The subnets that it would try.
pub(crate) fn rank(node: &Node, context: &Context, request: &CreateEni) -> Result<Vec<String>, String> {
    let facts = Facts::of(node);
    match answer(Session::new(component()?, &facts, By::BuiltIn).subnets(context, request))? {
        Answer::Subnets(subnets) => Ok(subnets),
        other => Err(format!("subnets answered {other:?}")),
    }
}

fn answer(called: Called) -> Result<Answer, String> {
    called.result.map_err(|failure| format!("{:?}: {failure}", called.function))
}
