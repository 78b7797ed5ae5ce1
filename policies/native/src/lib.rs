//! Policies of this repository as native code: the functions that the components export, between the host's types and
//! without WebAssembly around them. A day of a node takes a tenth of the time, and the answers are the same: a test of
//! `policy-test` compares them.

mod convert;

pub use convert::{node_of, unit_of};

use reservoir_core::policy as host;
use reservoir_core::validate::cut_targets;
use reservoir_policy_adaptive::Adaptive;
use reservoir_policy_default::BuiltIn;
use reservoir_policy_sdk::{Context, CreateEni, Node, Plan, Planning, Sizes, Sizing, Subnets, Targets};
use reservoir_sim::node::{Decision, Policy};

use convert::{plan_back, targets_back, targets_of};

/// One of them, with its settings and what it remembers.
#[derive(Debug, Clone)]
pub struct Native {
    size: fn(Node, Context) -> Result<Sizes, String>,
    plan: fn(Node, Context, Vec<Targets>) -> Result<Plan, String>,
    /// Of sizing and planning.
    settings: host::Pairs,
    /// Of the built-in policy, which ranks the subnets for all of them.
    ranking: host::Pairs,
    sizing: Vec<u8>,
    planning: Vec<u8>,
}

impl Native {
    /// The built-in policy.
    #[must_use]
    pub fn built_in(settings: &[(&str, &str)]) -> Self {
        let settings: host::Pairs = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self { ranking: settings.clone(), ..Self::of::<BuiltIn>(settings) }
    }

    /// The adaptive policy, with the built-in one for subnets.
    #[must_use]
    pub fn adaptive() -> Self {
        Self::of::<Adaptive>(Vec::new())
    }

    fn of<P: Sizing + Planning>(settings: host::Pairs) -> Self {
        Self {
            size: <P as Sizing>::decide,
            plan: <P as Planning>::decide,
            settings,
            ranking: Vec::new(),
            sizing: Vec::new(),
            planning: Vec::new(),
        }
    }

    /// Its answer. Targets are cut between sizing and planning, as the host does.
    ///
    /// # Errors
    /// Its own.
    pub fn answer(&mut self, node: &host::Node) -> Result<Decision, String> {
        let context = |memo: &Vec<u8>| Context { settings: self.settings.clone(), memo: memo.clone() };
        let facts = node_of(node);
        let sizes = (self.size)(facts.clone(), context(&self.sizing))?;
        let said: Vec<host::Targets> = sizes.targets.iter().map(targets_back).collect();
        let targets = cut_targets(node, &said);
        let plan = (self.plan)(facts, context(&self.planning), targets.iter().map(targets_of).collect())?;
        self.sizing = sizes.note.memo;
        self.planning.clone_from(&plan.note.memo);
        let wakes = [sizes.note.wake_after_seconds, plan.note.wake_after_seconds];
        Ok(Decision {
            reason: format!("{}; {}", sizes.note.reason, plan.note.reason),
            wake_after_seconds: wakes.into_iter().flatten().min(),
            refresh_subnets: sizes.note.refresh_subnets || plan.note.refresh_subnets,
            plan: Some(plan_back(plan)),
            targets,
        })
    }
}

impl Policy for Native {
    fn decide(&mut self, node: &host::Node) -> Decision {
        self.answer(node).unwrap_or_else(|reason| Decision { reason, ..Decision::default() })
    }

    fn rank(&mut self, node: &host::Node, request: &host::CreateEni) -> Result<Vec<String>, String> {
        let context = Context { settings: self.ranking.clone(), memo: Vec::new() };
        let request = CreateEni { card: request.card, unit: unit_of(request.unit), count: request.count };
        BuiltIn::rank(node_of(node), context, request)
    }
}
