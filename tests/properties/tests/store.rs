//! The store against a model that any reader can check: lists, and every address looked at each time.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use properties::property;
use proptest::collection::vec;
use proptest::prelude::*;
use reservoir_core::checkpoint;
use reservoir_core::ip::IpNet;
use reservoir_core::policy::Unit;
use reservoir_core::store::{Change, EniSpec, Error, Key, PodMeta, Store, table_of};

const COOLDOWN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
enum Step {
    AddEni(u8),
    /// A block may be offered to the wrong interface.
    AddCidr(u8, u8, bool),
    TakeCidr(u8, u8),
    TakeEni(u8),
    Exclude(u8, bool),
    Drain(u8),
    Add(u8),
    Del(u8),
    Wait(u64),
    /// The checkpoint is on the disk.
    Written,
    /// It could not be written: all since the last time is undone, newest first.
    Undo,
    /// A new daemon reads the file.
    Restart,
    /// The same, and some blocks are not there at first.
    RestartBehind,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0u8..4).prop_map(Step::AddEni),
        6 => (0u8..4, 0u8..6, any::<bool>()).prop_map(|(e, n, w)| Step::AddCidr(e, n, w)),
        2 => (0u8..4, 0u8..6).prop_map(|(e, n)| Step::TakeCidr(e, n)),
        1 => (0u8..4).prop_map(Step::TakeEni),
        1 => (0u8..4, any::<bool>()).prop_map(|(e, x)| Step::Exclude(e, x)),
        1 => (0u8..6).prop_map(Step::Drain),
        10 => (0u8..24).prop_map(Step::Add),
        8 => (0u8..24).prop_map(Step::Del),
        4 => prop_oneof![Just(30u64), 0u64..40].prop_map(Step::Wait),
        2 => Just(Step::Written),
        1 => Just(Step::Undo),
        1 => Just(Step::Restart),
        1 => Just(Step::RestartBehind),
    ]
}

fn id(eni: u8) -> String {
    format!("eni-{eni}")
}

/// Blocks of an interface: single addresses, then prefixes.
fn net(eni: u8, number: u8) -> IpNet {
    let (last, length) = if number < 4 { (number + 1, 32) } else { (16 * (number - 3), 28) };
    IpNet::new(IpAddr::V4(Ipv4Addr::new(10, 0, eni, last)), length)
}

fn key(pod: u8) -> Key {
    Key::new("aws-cni", format!("c{pod}"), "eth0")
}

fn meta(pod: u8) -> PodMeta {
    PodMeta { namespace: "ns".to_owned(), name: format!("p{pod}"), interfaces: 1 }
}

fn spec(eni: u8) -> EniSpec {
    EniSpec {
        id: id(eni),
        mac: String::new(),
        card: 0,
        device_index: u32::from(eni),
        subnet: String::new(),
        table: table_of(0, u32::from(eni)),
        address: None,
        primary: eni == 0,
        trunk: false,
        efa: false,
        excluded: false,
    }
}

/// What there is, as lists.
#[derive(Debug, Clone)]
struct Model {
    unit: Unit,
    now: Duration,
    /// By device: excluded.
    enis: BTreeMap<u8, bool>,
    /// By network: interface, asked for, draining.
    cidrs: BTreeMap<IpNet, (u8, bool, bool)>,
    holds: BTreeMap<Key, IpAddr>,
    /// When each address was given up. It cools where its block is, or turns up.
    released: BTreeMap<IpAddr, Duration>,
}

impl Model {
    fn addresses(net: IpNet) -> impl Iterator<Item = IpAddr> {
        std::iter::successors(Some(net.network()), move |ip| net.next(*ip))
    }

    fn assigned(&self, net: IpNet) -> usize {
        self.holds.values().filter(|ip| net.contains(**ip)).count()
    }

    fn assigned_on(&self, eni: u8) -> usize {
        self.cidrs.iter().filter(|(_, (e, ..))| *e == eni).map(|(net, _)| self.assigned(*net)).sum()
    }

    fn cools(&self, ip: IpAddr) -> bool {
        self.released.get(&ip).is_some_and(|at| self.now <= *at + COOLDOWN)
    }

    fn cooling(&self, net: IpNet) -> usize {
        Self::addresses(net).filter(|ip| self.cools(*ip)).count()
    }

    fn serves(&self, net: IpNet) -> bool {
        let (eni, wanted, _) = self.cidrs[&net];
        !self.enis[&eni] && (wanted || net.is_host() == (self.unit == Unit::Ip))
    }

    /// Spec 01 §12.4: not draining, fullest interface, fullest block, lowest device, lowest address.
    fn choice(&self) -> Option<IpAddr> {
        let free = |ip: &IpAddr| !self.cools(*ip) && !self.holds.values().any(|held| held == ip);
        let ranked = self.cidrs.iter().filter(|(net, _)| self.serves(**net)).filter_map(|(net, (eni, _, draining))| {
            let ip = Self::addresses(*net).find(free)?;
            let fullest = (self.assigned_on(*eni), self.assigned(*net));
            Some(((*draining, std::cmp::Reverse(fullest), *eni, *net), ip))
        });
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, ip)| ip)
    }

    fn forget(&mut self, net: IpNet) {
        self.cidrs.remove(&net);
        self.released.retain(|ip, _| !net.contains(*ip));
    }

    fn take_cidr(&mut self, eni: u8, net: IpNet) -> Result<(), Error> {
        if !self.enis.contains_key(&eni) {
            return Err(Error::UnknownEni);
        }
        if self.cidrs.get(&net).is_none_or(|c| c.0 != eni) {
            return Err(Error::UnknownCidr);
        }
        if self.assigned(net) > 0 {
            return Err(Error::InUse);
        }
        if self.cooling(net) > 0 {
            return Err(Error::Cooling);
        }
        self.forget(net);
        Ok(())
    }

    fn take_eni(&mut self, eni: u8) -> Result<(), Error> {
        if !self.enis.contains_key(&eni) {
            return Err(Error::UnknownEni);
        }
        let nets: Vec<IpNet> = self.cidrs.iter().filter(|(_, c)| c.0 == eni).map(|(net, _)| *net).collect();
        if self.assigned_on(eni) > 0 {
            return Err(Error::InUse);
        }
        if nets.iter().any(|net| self.cooling(*net) > 0) {
            return Err(Error::Cooling);
        }
        nets.into_iter().for_each(|net| self.forget(net));
        self.enis.remove(&eni);
        Ok(())
    }
}

struct Both {
    store: Store,
    model: Model,
    changes: Vec<Change>,
}

impl Both {
    fn new(unit: Unit) -> Self {
        let model = Model {
            unit,
            now: Duration::ZERO,
            enis: BTreeMap::new(),
            cidrs: BTreeMap::new(),
            holds: BTreeMap::new(),
            released: BTreeMap::new(),
        };
        Self { store: Store::new(0, unit, false, COOLDOWN), model, changes: Vec::new() }
    }

    fn take(&mut self, step: &Step) -> Result<(), String> {
        let now = self.model.now;
        match *step {
            Step::AddEni(eni) => {
                let expected = if self.model.enis.contains_key(&eni) { Err(Error::DuplicateEni) } else { Ok(()) };
                same("add_eni", self.store.add_eni(spec(eni), now), expected)?;
                self.model.enis.entry(eni).or_insert(false);
            }
            Step::AddCidr(eni, number, wanted) => {
                // Of the interface beside it, now and then.
                let net = net(if number == 3 { eni ^ 1 } else { eni }, number);
                let expected = match (self.model.enis.contains_key(&eni), self.model.cidrs.get_mut(&net)) {
                    (false, _) => Err(Error::UnknownEni),
                    (true, Some(known)) => {
                        known.1 |= wanted;
                        Err(Error::DuplicateCidr)
                    }
                    (true, None) => {
                        self.model.cidrs.insert(net, (eni, wanted, false));
                        Ok(())
                    }
                };
                same("add_cidr", self.store.add_cidr(&id(eni), net, wanted, now), expected)?;
            }
            Step::TakeCidr(eni, number) => {
                let net = net(eni, number);
                same("take_cidr", self.store.take_cidr(&id(eni), net, now), self.model.take_cidr(eni, net))?;
            }
            Step::TakeEni(eni) => {
                same("take_eni", self.store.take_eni(&id(eni), now).map(drop), self.model.take_eni(eni))?;
            }
            Step::Exclude(eni, excluded) => {
                self.store.update_eni(&id(eni), |spec| spec.excluded = excluded);
                self.model.enis.entry(eni).and_modify(|x| *x = excluded);
            }
            Step::Drain(number) => {
                let draining = |net: IpNet| (0..4).any(|eni| net == self::net(eni, number));
                self.store.drain(|_, net| draining(net));
                self.model.cidrs.iter_mut().for_each(|(net, cidr)| cidr.2 = draining(*net));
            }
            Step::Add(pod) => {
                let held = self.model.holds.get(&key(pod)).copied();
                let expected = held.or_else(|| self.model.choice()).ok_or(Error::NoAddress);
                let assigned = self.store.assign(&key(pod), &meta(pod), now, i64::from(pod));
                same("assign", assigned.as_ref().map(|a| a.ip).map_err(|e| *e), expected)?;
                let Ok(assigned) = assigned else { return Ok(()) };
                same("change", assigned.change.is_none(), held.is_some())?;
                self.model.holds.insert(key(pod), assigned.ip);
                if held.is_none() {
                    self.model.released.remove(&assigned.ip);
                }
                self.changes.extend(assigned.change);
            }
            Step::Del(pod) => {
                let expected = self.model.holds.remove(&key(pod)).ok_or(Error::UnknownPod);
                let released = self.store.release(&key(pod), now);
                same("release", released.as_ref().map(|r| r.ip).map_err(|e| *e), expected)?;
                if let Ok(released) = released {
                    self.model.released.insert(released.ip, now);
                    self.changes.push(released.change);
                }
            }
            Step::Wait(seconds) => self.model.now += Duration::from_secs(seconds),
            Step::Written => self.changes.clear(),
            Step::Undo => {
                for change in std::mem::take(&mut self.changes).into_iter().rev() {
                    match &change {
                        Change::Assigned { key, ip, .. } => {
                            self.model.holds.remove(key);
                            self.model.released.remove(ip);
                        }
                        Change::Lost { .. } => return Err("no step loses an address".to_owned()),
                        Change::Released { ip, assignment, .. } => {
                            self.model.holds.insert(assignment.key.clone(), *ip);
                            self.model.released.remove(ip);
                        }
                    }
                    self.store.undo(change);
                }
            }
            Step::Restart | Step::RestartBehind => self.restart(matches!(step, Step::RestartBehind))?,
        }
        self.agree()
    }

    fn restart(&mut self, behind: bool) -> Result<(), String> {
        let allocations = checkpoint::parse(&self.store.checkpoint()).map_err(|e| e.to_string())?;
        let sorted = checkpoint::sort(allocations, false, |_, _| true);
        same("dropped entries", sorted.dropped.len(), 0)?;
        let now = self.model.now;
        self.store = Store::new(0, self.model.unit, false, COOLDOWN);
        for (eni, excluded) in &self.model.enis {
            let spec = EniSpec { excluded: *excluded, ..spec(*eni) };
            self.store.add_eni(spec, now).map_err(|e| e.to_string())?;
        }
        if behind {
            // Every second block appears later, by another step; its pods keep their addresses.
            let mut kept = 0;
            self.model.cidrs.retain(|_, _| {
                kept += 1;
                kept % 2 == 0
            });
        }
        for (net, (eni, wanted, draining)) in &mut self.model.cidrs {
            *draining = false;
            self.store.add_cidr(&id(*eni), *net, *wanted, now).map_err(|e| e.to_string())?;
        }
        self.store.restore(sorted.kept);
        self.model.released.clear();
        self.changes.clear();
        Ok(())
    }

    /// Everything that the store tells is what the model says.
    fn agree(&self) -> Result<(), String> {
        let (store, model) = (&self.store, &self.model);
        let mut held: Vec<(Key, IpAddr)> = store.assignments().map(|(ip, a)| (a.key.clone(), ip)).collect();
        held.sort();
        same("assignments", held, model.holds.iter().map(|(k, ip)| (k.clone(), *ip)).collect())?;
        for (key, ip) in &model.holds {
            same("lookup", store.lookup(key).map(|a| a.ip), Some(*ip))?;
        }
        let stats = store.stats(model.now);
        let sum = |each: &dyn Fn(IpNet) -> usize| model.cidrs.keys().map(|net| each(*net)).sum::<usize>() as u64;
        let total = sum(&|net| Model::addresses(net).count());
        same("total", stats.total, total)?;
        same("assigned", stats.assigned, sum(&|net| model.assigned(net)))?;
        same("cooling", stats.cooling, sum(&|net| model.cooling(net)))?;
        same("prefixes", stats.prefixes, model.cidrs.keys().filter(|net| !net.is_host()).count())?;
        same("enis", stats.enis, model.enis.len())?;
        same("orphans", store.orphans().len() as u64, model.holds.len() as u64 - stats.assigned)?;
        same("has_free", store.has_free(model.now), model.choice().is_some())?;
        let cools = model.cidrs.iter().filter(|(_, c)| !model.enis[&c.0]).flat_map(|(net, _)| Model::addresses(*net));
        let next = cools.filter(|ip| model.cools(*ip)).map(|ip| model.released[&ip] + COOLDOWN).min();
        same("next_cooled", store.next_cooled(model.now), next)?;
        for eni in model.enis.keys() {
            let of = model.cidrs.iter().filter(|(_, c)| c.0 == *eni).map(|(net, _)| *net).collect::<Vec<_>>();
            same("blocks", store.blocks(&id(*eni)).collect(), of)?;
        }
        Ok(())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, store: T, model: T) -> Result<(), String> {
    if store == model { Ok(()) } else { Err(format!("{what}: the store says {store:?}, the model {model:?}")) }
}

#[test]
fn the_store_is_as_the_model() {
    let unit = prop_oneof![Just(Unit::Ip), Just(Unit::Prefix)];
    property(600, &(unit, vec(step(), 0..120)), |(unit, steps)| {
        let mut both = Both::new(unit);
        for (i, step) in steps.iter().enumerate() {
            both.take(step).map_err(|e| format!("step {i}, {step:?}: {e}"))?;
        }
        Ok(())
    });
}
