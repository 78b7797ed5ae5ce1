//! Routes and rules of living pods on the host (spec 04 §4.3).
//!
//! A plugin may be at work on a pod at any moment, so:
//!
//! * A pod without a veth gets nothing: it has not been wired yet, or is being taken down.
//! * A pod that was never seen whole is left to its plugin until that must have ended ([`Pod::settled`]).
//! * Who writes looks at the veth again. A plugin that undoes its work takes the veth first and then the rules: if the
//!   veth is still there after our write, the rules go after it; if not, we take them away ourselves.
//! * What was written for a pod that has lost its address since is taken away again ([`Memory`]). A DEL whose answer never
//!   reached its plugin is such a case.
//!
//! The caller makes sure that no plugin is told of a change of the store between the moment it was asked for the pods and
//! the end of [`check`]: then a DEL takes away what was written here, not the other way round.

mod first;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use rustix::io::Errno;

use super::{Outcome, carry_out};
use crate::error::Error;
use crate::kernel::Kernel;
use crate::mac::MacAddr;
use crate::names;
use crate::netlink::reply::{LinkInfo, RouteInfo};
use crate::plan::{OnFailure, Op, Route, Side, Step, apply};
use crate::pods::plan_prune;
use crate::prefix::IpPrefix;
use crate::rule::{Family, PRIORITY_FROM_POD, PRIORITY_TO_POD, Rule};
use crate::table;

pub use first::FirstNames;

/// An address that a pod has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub address: IpAddr,
    /// The table its traffic leaves by.
    pub table: u32,
    /// The end of its host veth's name ([`names::suffix`]); the prefix may be of another day. None if it is not known:
    /// then only the veth counts that it was seen with.
    pub suffix: Option<String>,
    /// When it was given the address, on any scale: tells it from the next one that has it.
    pub since: i64,
    /// That was long ago: its plugin has come to an end.
    pub settled: bool,
}

/// What the host shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub links: Vec<LinkInfo>,
    pub rules: Vec<Rule>,
    /// Of the main table.
    pub routes: Vec<RouteInfo>,
    pub first_names: FirstNames,
}

impl Found {
    fn take(kernel: &mut Kernel, family: Family, first_names: &FirstNames) -> Result<Self, Error> {
        Ok(Self {
            first_names: first_names.clone(),
            links: kernel.links(Side::Host)?,
            rules: kernel.rules(Side::Host, family)?,
            routes: kernel.routes(Side::Host, family, table::MAIN, None)?,
        })
    }
}

/// What is known of pods from earlier comparisons.
#[derive(Debug, Default)]
pub struct Memory {
    /// Pods that were seen whole, and the veth they had.
    whole: BTreeMap<IpAddr, Veth>,
    /// Addresses for which something was put back.
    put_back: BTreeSet<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Veth {
    since: i64,
    index: u32,
    name: String,
    mac: Option<MacAddr>,
}

impl Memory {
    fn of(&self, pod: &Pod) -> Option<&Veth> {
        self.whole.get(&pod.address).filter(|veth| veth.since == pod.since)
    }

    /// Remembers who is whole, and forgets who is gone.
    pub fn learn(&mut self, pods: &[Pod], found: &Found) {
        let shown = Shown::of(found);
        let mut whole = BTreeMap::new();
        for pod in pods {
            let lacks_nothing = |veth: &&LinkInfo| shown.missing(pod, veth).is_empty();
            let now = shown.veth(pod, None).filter(lacks_nothing).map(|veth| Veth {
                since: pod.since,
                index: veth.index,
                name: veth.name.clone(),
                mac: veth.mac,
            });
            // The name it was seen with first is the right one, unless it came by another that is the pod's.
            if let Some(veth) = self.of(pod).cloned().or(now) {
                let name = shown.first_name(pod, veth.index).map_or(veth.name, str::to_owned);
                whole.insert(pod.address, Veth { name, ..veth });
            }
        }
        self.whole = whole;
    }
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// By pod: its address, the index of its veth, and the steps.
    pub repairs: Vec<(IpAddr, u32, Vec<Step>)>,
    /// Of addresses that no pod has any more.
    pub leftovers: Vec<(IpAddr, Vec<Step>)>,
    /// A pod is not whole, but its plugin may still be at work: look again later.
    pub waits: bool,
}

impl Plan {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.repairs.is_empty() && self.leftovers.is_empty()
    }
}

/// Compares.
#[must_use]
pub fn plan(pods: &[Pod], memory: &Memory, found: &Found) -> Plan {
    let shown = Shown::of(found);
    let mut plan = Plan::default();
    for pod in pods {
        let seen = memory.of(pod);
        let renamed = seen.and_then(|seen| Some((seen.index, vec![shown.renamed(seen)?])));
        let veth = || shown.veth(pod, seen).map(|veth| (veth.index, shown.missing(pod, veth)));
        let Some((index, steps)) = renamed.or_else(veth) else { continue };
        if steps.is_empty() {
            continue;
        }
        if seen.is_some() || pod.settled {
            plan.repairs.push((pod.address, index, steps));
        } else {
            plan.waits = true;
        }
    }
    let held: HashSet<IpAddr> = pods.iter().map(|p| p.address).collect();
    for address in memory.put_back.iter().filter(|a| !held.contains(a)) {
        plan.leftovers.push((*address, leftovers(*address, found)));
    }
    plan
}

/// What the host shows, by what is looked for.
struct Shown<'a> {
    links: &'a [LinkInfo],
    first_names: &'a FirstNames,
    /// By the end of the name it has, or came by. None where several interfaces share a suffix: another network may name
    /// its interfaces the same way.
    by_suffix: HashMap<&'a str, Option<&'a LinkInfo>>,
    to: HashSet<IpPrefix>,
    from: HashSet<IpPrefix>,
    routes: HashSet<(IpPrefix, u32)>,
}

impl<'a> Shown<'a> {
    fn of(found: &'a Found) -> Self {
        let named =
            |link: &'a LinkInfo| [Some(link.name.as_str()), found.first_names.of(link.index)].map(|n| (n, link));
        let suffix = |(name, link): (Option<&'a str>, _)| {
            let at = name?.len().checked_sub(names::SUFFIX_LENGTH)?;
            Some((name?.get(at..)?, link))
        };
        let mut by_suffix: HashMap<&str, Option<&LinkInfo>> = HashMap::new();
        for (end, link) in found.links.iter().flat_map(named).filter_map(suffix) {
            let first = by_suffix.entry(end).or_insert(Some(link));
            *first = first.filter(|other| other.index == link.index);
        }
        let ours = || found.rules.iter().filter(|r| !r.foreign && r.iif.is_none() && r.fwmark.is_none());
        let to = ours().filter(|r| r.priority == PRIORITY_TO_POD && r.from.is_none() && r.table == table::MAIN);
        // Whatever its table: an older version may have numbered tables otherwise.
        let from = ours().filter(|r| r.priority == PRIORITY_FROM_POD && r.to.is_none());
        let routes = found.routes.iter().filter(|r| r.on_link);
        Self {
            links: &found.links,
            first_names: &found.first_names,
            by_suffix,
            to: to.filter_map(|r| r.to).collect(),
            from: from.filter_map(|r| r.from).collect(),
            routes: routes.filter_map(|r| Some((r.destination, r.device_index?))).collect(),
        }
    }

    /// The veth that it was seen with, and no other; without such, the one of its name.
    fn veth(&self, pod: &Pod, seen: Option<&Veth>) -> Option<&'a LinkInfo> {
        match seen {
            Some(seen) => self.links.iter().find(|l| l.index == seen.index && l.mac == seen.mac),
            None => self.by_suffix.get(pod.suffix.as_deref()?).copied().flatten(),
        }
    }

    /// The name that the interface came by, if it is one of this pod.
    fn first_name(&self, pod: &Pod, index: u32) -> Option<&'a str> {
        self.first_names.of(index).filter(|name| pod.suffix.as_ref().is_some_and(|suffix| name.ends_with(suffix)))
    }

    /// What a pod with this veth lacks.
    fn missing(&self, pod: &Pod, veth: &LinkInfo) -> Vec<Step> {
        let own = IpPrefix::host(pod.address);
        let mut steps = Vec::new();
        if !veth.up {
            steps.push(Step::host(Op::LinkUp { device: veth.name.clone() }));
        }
        if !self.routes.contains(&(own, veth.index)) {
            steps.push(Step::host(Op::RouteReplace(Route::on_link(own, &veth.name, table::MAIN))));
        }
        let add = |rule| Step::host(Op::RuleAdd(rule)).tolerate(&[Errno::EXIST]);
        if !self.to.contains(&own) {
            steps.push(add(Rule::to_pod(own)));
        }
        let leaves_by = table::of_pod(pod.table);
        if leaves_by != table::MAIN && !self.from.contains(&own) {
            steps.push(add(Rule::from_pod(own, leaves_by)));
        }
        steps
    }

    /// The veth that a pod had, under another name.
    fn renamed(&self, seen: &Veth) -> Option<Step> {
        let link = self.links.iter().find(|l| l.index == seen.index && l.mac == seen.mac)?;
        let rename = || Step::host(Op::LinkRename { device: link.name.clone(), name: seen.name.clone() });
        (link.name != seen.name).then(rename)
    }
}

/// Takes away what is there of an address that no pod has.
fn leftovers(address: IpAddr, found: &Found) -> Vec<Step> {
    let own = IpPrefix::host(address);
    let is_ours = |r: &&Rule| {
        let by = match r.priority {
            PRIORITY_TO_POD => r.to,
            PRIORITY_FROM_POD => r.from,
            _ => None,
        };
        by == Some(own) && !r.foreign
    };
    let delete = |rule: &Rule| Step::host(Op::RuleDel(rule.clone())).tolerate(&[Errno::NOENT]);
    let mut steps: Vec<Step> = found.rules.iter().filter(is_ours).map(delete).collect();
    if found.routes.iter().any(|r| r.destination == own && r.on_link) {
        let route = Route { device: None, ..Route::on_link(own, "", table::MAIN) };
        steps.push(Step::host(Op::RouteDel(route)).tolerate(&[Errno::SRCH]));
    }
    steps
}

/// What a comparison came to.
#[derive(Debug, Default)]
pub struct Checked {
    pub outcome: Outcome,
    /// Steps that are to be done, where nothing was to be written yet.
    pub missing: usize,
    /// See [`Plan::waits`].
    pub waits: bool,
}

/// Compares what the pods must have with what the host shows. With `write` the difference is put right; without, it is
/// counted. `first_names` are those of the interfaces as far as they are known.
///
/// # Errors
/// The kernel's, when it does not show; once something was written that is told in the outcome.
pub fn check(
    family: Family,
    pods: &[Pod],
    memory: &mut Memory,
    first_names: &FirstNames,
    write: bool,
) -> Result<Checked, Error> {
    let mut kernel = Kernel::host()?;
    let mut found = Found::take(&mut kernel, family, first_names)?;
    memory.learn(pods, &found);
    let mut plan = plan(pods, memory, &found);
    let mut checked = Checked { waits: plan.waits, ..Checked::default() };
    if !write {
        let steps = plan.repairs.iter().map(|(_, _, s)| s).chain(plan.leftovers.iter().map(|(_, s)| s));
        checked.missing = steps.map(|s| s.len().max(1)).sum();
        return Ok(checked);
    }
    carry_out_plan(&plan, memory, &mut kernel, &mut checked.outcome);
    // Once more if a veth has its name back: by its name the rest can be compared.
    let renames = |(_, _, steps): &(_, _, Vec<Step>)| steps.iter().any(|s| matches!(s.op, Op::LinkRename { .. }));
    if plan.repairs.iter().any(renames) {
        found = match Found::take(&mut kernel, family, first_names) {
            Ok(found) => found,
            Err(error) => {
                checked.outcome.unseen.push(error);
                return Ok(checked);
            }
        };
        memory.learn(pods, &found);
        plan = self::plan(pods, memory, &found);
        checked.waits = plan.waits;
        carry_out_plan(&plan, memory, &mut kernel, &mut checked.outcome);
    }
    Ok(checked)
}

fn carry_out_plan(plan: &Plan, memory: &mut Memory, kernel: &mut Kernel, all: &mut Outcome) {
    for (address, steps) in &plan.leftovers {
        let outcome = carry_out(steps, kernel, OnFailure::Continue);
        if outcome.failed.is_empty() {
            memory.put_back.remove(address);
        }
        all.join(outcome);
    }
    if plan.repairs.is_empty() {
        return;
    }
    let mut each = Vec::new();
    for (address, index, steps) in &plan.repairs {
        memory.put_back.insert(*address);
        each.push((*address, *index, carry_out(steps, kernel, OnFailure::Continue)));
    }
    let links: Option<HashSet<u32>> = match kernel.links(Side::Host) {
        Ok(links) => Some(links.into_iter().map(|l| l.index).collect()),
        Err(error) => {
            // What was written stays; it is remembered, and goes once the pod has.
            all.unseen.push(error);
            None
        }
    };
    for (address, index, outcome) in each {
        if links.as_ref().is_none_or(|links| links.contains(&index)) {
            all.join(outcome);
        } else if apply(&plan_prune(address), kernel, OnFailure::Continue).is_ok() {
            // The pod went away meanwhile, and its plugin may have been faster than we.
            memory.put_back.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests;
