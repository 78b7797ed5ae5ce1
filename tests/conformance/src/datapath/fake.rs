//! A kernel that remembers what it was asked and refuses what a case says.

use std::time::Duration;

use reservoir_net::Errno;
use reservoir_net::plan::{Executor, Op, Step};
use serde_json::Value;

use super::ops;

/// What the vectors call `some error`.
const SOME_ERROR: Errno = Errno::NXIO;

#[derive(Debug, Default)]
pub(super) struct Fake {
    /// Everything asked for, in order, but a deletion of a link that is not there.
    pub asked: Vec<Step>,
    pub waits: Vec<Duration>,
    /// Interfaces that exist before.
    pub links: Vec<String>,
    /// Rules that can be deleted; others are not there.
    pub rules_left: Vec<Result<(), Errno>>,
    /// Duplicate address detection never comes to its end.
    tentative: bool,
    fail: Option<Fail>,
}

#[derive(Debug)]
struct Fail {
    /// Name of an operation, or `rule_del:512`.
    step: String,
    sysctl: String,
    errno: Errno,
    only_first: bool,
    happened: bool,
}

impl Fake {
    /// Refuses what `inputs.fail` says.
    pub(super) fn new(inputs: &Value) -> Self {
        let text = |key: &str| inputs["fail"][key].as_str().unwrap_or_default().to_owned();
        let errno = match text("error").as_str() {
            "ENOENT" => Errno::NOENT,
            "EEXIST" => Errno::EXIST,
            "ESRCH" => Errno::SRCH,
            _ => SOME_ERROR,
        };
        let fail = inputs["fail"].is_object().then(|| Fail {
            step: text("step"),
            sysctl: text("sysctl"),
            errno,
            only_first: inputs["fail"]["only_first"] == true,
            happened: false,
        });
        let tentative = inputs["addresses"] == "always tentative";
        let links = inputs["existing_links"].as_array().into_iter().flatten();
        Self {
            fail,
            tentative,
            links: links.filter_map(|l| l.as_str().map(str::to_owned)).collect(),
            ..Self::default()
        }
    }

    fn refusal(&mut self, op: &Op) -> Option<Errno> {
        let fail = self.fail.as_mut()?;
        let named = match op {
            Op::Sysctl { key, .. } => match fail.sysctl.strip_suffix('*') {
                Some(start) => key.starts_with(start),
                None => *key == fail.sysctl,
            },
            Op::RuleAdd(rule) | Op::RuleDel(rule) => {
                fail.step == ops::name(op) || fail.step == format!("{}:{}", ops::name(op), rule.priority)
            }
            Op::LinkUp { device } => fail.step == ops::name(op) || fail.step == format!("{}:{device}", ops::name(op)),
            _ => fail.step == ops::name(op),
        };
        let refuse = named && !(fail.only_first && fail.happened);
        fail.happened |= refuse;
        refuse.then_some(fail.errno)
    }

    fn one(&mut self, step: &Step) -> Result<(), Errno> {
        if let Op::LinkDel { device } = &step.op
            && !self.links.contains(device)
        {
            return Err(Errno::NODEV);
        }
        self.asked.push(step.clone());
        if let Some(errno) = self.refusal(&step.op) {
            return Err(errno);
        }
        match &step.op {
            Op::LinkDel { device } => self.links.retain(|l| l != device),
            Op::WaitDad { .. } if self.tentative => return Err(Errno::TIMEDOUT),
            // Repeated until there is none: there is none, unless a case says how many.
            Op::RuleDel(_) if step.repeat => {
                return if self.rules_left.is_empty() { Err(Errno::NOENT) } else { self.rules_left.remove(0) };
            }
            _ => {}
        }
        Ok(())
    }
}

impl Executor for Fake {
    fn execute(&mut self, steps: &[Step]) -> Vec<Result<(), Errno>> {
        steps.iter().map(|step| self.one(step)).collect()
    }

    fn sleep(&mut self, duration: Duration) {
        self.waits.push(duration);
    }
}
