//! What one network card holds and which pod has which address (spec 02 §5). Synchronous data: the daemon keeps it
//! behind one short lock and writes the checkpoint elsewhere. Every counter is derived, none is kept beside the data
//! (spec 02 W9, spec 01 W7).

mod types;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use types::{
    Assigned, Assignment, Change, CidrView, EniSpec, Error, Key, MAIN_TABLE, Orphan, PodMeta, Record, Released, Stats,
    Time, table_of,
};

use crate::checkpoint::{self, Allocation};
use crate::ip::IpNet;
use crate::policy::Unit;

/// The network name and interface name of entries that releases before 1.7 recovered from the container runtime
/// (spec 02 §5.5).
const MIGRATED: (&str, &str) = ("_migrated-from-cri", "unknown");

/// The store of one card.
#[derive(Debug)]
pub struct Store {
    card: u32,
    unit: Unit,
    ipv6: bool,
    cooldown: Duration,
    /// By device index.
    enis: Vec<Eni>,
    by_key: HashMap<Key, IpAddr>,
    orphans: Vec<Orphan>,
    /// Addresses that orphans gave up while their CIDRs were not here: they cool wherever they turn up.
    given_up: Vec<GivenUp>,
}

#[derive(Debug)]
struct Eni {
    spec: EniSpec,
    since: Time,
    /// By network.
    cidrs: Vec<Cidr>,
    assigned: u32,
}

#[derive(Debug)]
struct Cidr {
    net: IpNet,
    since: Time,
    /// Asked for by a plan in the other unit than the node's: serves pods all the same (spec 01 §15).
    wanted: bool,
    draining: bool,
    /// EC2 does not list it although a pod has it: nobody else gets an address of it.
    doubted: bool,
    last_used: Option<Time>,
    /// Addresses that were ever handed out, by address.
    addresses: Vec<Address>,
    assigned: u32,
}

#[derive(Debug)]
struct Address {
    ip: IpAddr,
    assignment: Option<Arc<Assignment>>,
    /// When the pod that had it last was given it, Unix nanoseconds.
    given: Option<i64>,
    released: Option<Time>,
}

#[derive(Debug)]
struct GivenUp {
    ip: IpAddr,
    /// As of [`Address`].
    given: i64,
    released: Time,
}

impl Store {
    /// An empty store of a card. `unit` is what the node is configured to ask for; `cooldown` is how long a released
    /// address rests (inclusive), none for a negative IP_COOLDOWN_PERIOD.
    #[must_use]
    pub fn new(card: u32, unit: Unit, ipv6: bool, cooldown: Duration) -> Self {
        let (enis, by_key, orphans, given_up) = (Vec::new(), HashMap::new(), Vec::new(), Vec::new());
        Self { card, unit, ipv6, cooldown, enis, by_key, orphans, given_up }
    }

    /// Takes an interface in, without any CIDR.
    ///
    /// # Errors
    /// [`Error::DuplicateEni`].
    pub fn add_eni(&mut self, spec: EniSpec, now: Time) -> Result<(), Error> {
        if self.eni_index(&spec.id).is_some() {
            return Err(Error::DuplicateEni);
        }
        let at = self.enis.partition_point(|e| e.spec.device_index <= spec.device_index);
        self.enis.insert(at, Eni { spec, since: now, cidrs: Vec::new(), assigned: 0 });
        Ok(())
    }

    /// Adds a CIDR. An orphan whose address lies in it is taken back, and one that was given up just now cools. `wanted`: a
    /// plan asked for it, so that it serves pods whatever its unit; that is noted of one that is here already too.
    ///
    /// # Errors
    /// [`Error::UnknownEni`], [`Error::DuplicateCidr`].
    pub fn add_cidr(&mut self, eni: &str, net: IpNet, wanted: bool, now: Time) -> Result<(), Error> {
        let at = self.eni_index(eni).ok_or(Error::UnknownEni)?;
        for other in &mut self.enis {
            if let Ok(index) = other.cidr_index(net) {
                other.cidrs[index].wanted |= wanted;
                return Err(Error::DuplicateCidr);
            }
        }
        let eni = &mut self.enis[at];
        let position = eni.cidr_index(net).unwrap_or_else(|position| position);
        let cidr = Cidr {
            net,
            since: now,
            wanted,
            draining: false,
            doubted: false,
            last_used: None,
            addresses: Vec::new(),
            assigned: 0,
        };
        eni.cidrs.insert(position, cidr);
        let (back, still) = std::mem::take(&mut self.orphans).into_iter().partition(|o| net.contains(o.address));
        self.orphans = still;
        for orphan in back {
            let eni = &mut self.enis[at];
            eni.cidrs[position].occupy(orphan.address, orphan.assignment);
            eni.assigned += 1;
        }
        let (back, still) = std::mem::take(&mut self.given_up).into_iter().partition(|g| net.contains(g.ip));
        self.given_up = still;
        for given_up in back {
            self.enis[at].cidrs[position].cool(&given_up);
        }
        Ok(())
    }

    /// Gives the pod of `key` an address: the one it has, or a new one (spec 02 §5.3, spec 01 §12.4: fullest interface
    /// first, then fullest prefix, then lowest address; draining CIDRs last).
    ///
    /// # Errors
    /// [`Error::NoAddress`].
    pub fn assign(&mut self, key: &Key, pod: &PodMeta, now: Time, timestamp: i64) -> Result<Assigned, Error> {
        if let Some(held) = self.lookup(key) {
            return Ok(held);
        }
        let (at, cidr, ip) = self.choose(now).ok_or(Error::NoAddress)?;
        let entry = checkpoint::entry(key, ip, timestamp, pod);
        let assignment = Arc::new(Assignment { key: key.clone(), pod: pod.clone(), timestamp, entry });
        let eni = &mut self.enis[at];
        eni.cidrs[cidr].occupy(ip, assignment);
        eni.assigned += 1;
        self.by_key.insert(key.clone(), ip);
        let spec = &self.enis[at].spec;
        Ok(Assigned {
            ip,
            card: self.card,
            device_index: spec.device_index,
            table: spec.table,
            eni: spec.id.clone(),
            change: Some(Change::Assigned { card: self.card, key: key.clone(), ip }),
        })
    }

    /// Whether the address lies in a CIDR of this card.
    #[must_use]
    pub fn covers(&self, ip: IpAddr) -> bool {
        self.locate(ip).is_some()
    }

    /// Whether the address lies in a CIDR that is left over from the other unit.
    #[must_use]
    pub fn is_left_over(&self, ip: IpAddr) -> bool {
        self.locate(ip).is_some_and(|(at, cidr)| self.left_over(&self.enis[at].cidrs[cidr]))
    }

    fn left_over(&self, cidr: &Cidr) -> bool {
        !self.ipv6 && !cidr.wanted && cidr.unit() != self.unit
    }

    /// The address that `key` holds, if any.
    #[must_use]
    pub fn lookup(&self, key: &Key) -> Option<Assigned> {
        let ip = *self.by_key.get(key)?;
        let (device_index, table, eni) = self.place(ip);
        Some(Assigned { ip, card: self.card, device_index, table, eni, change: None })
    }

    fn place(&self, ip: IpAddr) -> (u32, u32, String) {
        // An orphan's interface is not known; its rules, if any, are in no table of ours.
        self.locate(ip).map_or_else(
            || (0, MAIN_TABLE, String::new()),
            |(at, _)| {
                let spec = &self.enis[at].spec;
                (spec.device_index, spec.table, spec.id.clone())
            },
        )
    }

    /// Whether an address could be given out now.
    #[must_use]
    pub fn has_free(&self, now: Time) -> bool {
        self.choose(now).is_some()
    }

    fn choose(&self, now: Time) -> Option<(usize, usize, IpAddr)> {
        // Draining last, then fullest interface, then fullest CIDR; the first of equals has the lowest address.
        let mut best: Option<(bool, u32, u32)> = None;
        let mut found = None;
        for (at, eni) in self.enis.iter().enumerate() {
            if eni.spec.excluded {
                continue;
            }
            for (index, cidr) in eni.cidrs.iter().enumerate() {
                if !self.serves(eni, cidr) || cidr.doubted {
                    continue;
                }
                let rank = (!cidr.draining, eni.assigned, cidr.assigned);
                if best.is_some_and(|other| other >= rank) {
                    continue;
                }
                if let Some(ip) = cidr.free(now, self.cooldown) {
                    best = Some(rank);
                    found = Some((at, index, ip));
                }
            }
        }
        found
    }

    fn serves(&self, eni: &Eni, cidr: &Cidr) -> bool {
        !eni.spec.excluded && cidr.net.is_ipv4() != self.ipv6 && !self.left_over(cidr)
    }

    /// Takes the address of `key` back; it cools from now on.
    ///
    /// # Errors
    /// [`Error::UnknownPod`].
    pub fn release(&mut self, key: &Key, now: Time) -> Result<Released, Error> {
        let migrated = Key::new(MIGRATED.0, key.container.clone(), MIGRATED.1);
        let (key, ip) = [key, &migrated]
            .into_iter()
            .find_map(|k| Some((k.clone(), *self.by_key.get(k)?)))
            .ok_or(Error::UnknownPod)?;
        let (device_index, table, eni) = self.place(ip);
        self.by_key.remove(&key);
        let assignment = if let Some((at, cidr)) = self.locate(ip) {
            let eni = &mut self.enis[at];
            eni.assigned -= 1;
            eni.cidrs[cidr].vacate(ip, Some(now))
        } else {
            let at = self.orphans.iter().position(|o| o.address == ip).ok_or(Error::UnknownPod)?;
            let assignment = self.orphans.swap_remove(at).assignment;
            self.given_up.retain(|g| now <= g.released + self.cooldown);
            self.given_up.push(GivenUp { ip, given: assignment.timestamp, released: now });
            Some(assignment)
        };
        let assignment = assignment.ok_or(Error::UnknownPod)?;
        Ok(Released {
            ip,
            card: self.card,
            device_index,
            table,
            eni,
            interfaces: assignment.pod.interfaces.max(1),
            change: Change::Released { card: self.card, ip, assignment },
        })
    }

    /// Takes back a change of this card whose checkpoint could not be written. Changes are undone newest first.
    pub fn undo(&mut self, change: Change) {
        match change {
            Change::Assigned { key, ip, .. } => {
                self.by_key.remove(&key);
                if let Some((at, cidr)) = self.locate(ip) {
                    let eni = &mut self.enis[at];
                    if eni.cidrs[cidr].vacate(ip, None).is_some() {
                        eni.assigned -= 1;
                    }
                }
            }
            Change::Released { ip, assignment, .. } => {
                self.by_key.insert(assignment.key.clone(), ip);
                if let Some((at, cidr)) = self.locate(ip) {
                    let eni = &mut self.enis[at];
                    eni.cidrs[cidr].occupy(ip, assignment);
                    eni.assigned += 1;
                } else {
                    self.given_up.retain(|g| g.ip != ip);
                    self.orphans.push(Orphan { address: ip, assignment });
                }
            }
            Change::Lost { .. } => {}
        }
    }

    /// Takes a CIDR out, to be given back to EC2.
    ///
    /// # Errors
    /// [`Error::UnknownEni`], [`Error::UnknownCidr`], [`Error::InUse`], [`Error::Cooling`].
    pub fn take_cidr(&mut self, eni: &str, net: IpNet, now: Time) -> Result<(), Error> {
        let at = self.eni_index(eni).ok_or(Error::UnknownEni)?;
        let eni = &mut self.enis[at];
        let index = eni.cidr_index(net).map_err(|_| Error::UnknownCidr)?;
        let cidr = &eni.cidrs[index];
        if cidr.assigned > 0 {
            return Err(Error::InUse);
        }
        if cidr.cooling(now, self.cooldown) > 0 {
            return Err(Error::Cooling);
        }
        eni.cidrs.remove(index);
        Ok(())
    }

    /// Takes an interface out, with its CIDRs, to be removed.
    ///
    /// # Errors
    /// [`Error::UnknownEni`], [`Error::InUse`], [`Error::Cooling`].
    pub fn take_eni(&mut self, eni: &str, now: Time) -> Result<EniSpec, Error> {
        let at = self.eni_index(eni).ok_or(Error::UnknownEni)?;
        if self.enis[at].assigned > 0 {
            return Err(Error::InUse);
        }
        if self.enis[at].cidrs.iter().any(|c| c.cooling(now, self.cooldown) > 0) {
            return Err(Error::Cooling);
        }
        Ok(self.enis.remove(at).spec)
    }

    /// Takes a CIDR out that does not exist any more, whoever holds its addresses: none of them cools. How many pods lost
    /// theirs.
    ///
    /// # Errors
    /// [`Error::UnknownEni`], [`Error::UnknownCidr`].
    pub fn force_cidr(&mut self, eni: &str, net: IpNet) -> Result<u32, Error> {
        let at = self.eni_index(eni).ok_or(Error::UnknownEni)?;
        let eni = &mut self.enis[at];
        let index = eni.cidr_index(net).map_err(|_| Error::UnknownCidr)?;
        let cidr = eni.cidrs.remove(index);
        eni.assigned -= cidr.assigned;
        self.forget_pods(std::slice::from_ref(&cidr));
        Ok(cidr.assigned)
    }

    /// Takes an interface out that does not exist any more, whoever holds its addresses. How many pods lost theirs.
    ///
    /// # Errors
    /// [`Error::UnknownEni`].
    pub fn force_eni(&mut self, eni: &str) -> Result<(EniSpec, u32), Error> {
        let at = self.eni_index(eni).ok_or(Error::UnknownEni)?;
        let eni = self.enis.remove(at);
        self.forget_pods(&eni.cidrs);
        Ok((eni.spec, eni.assigned))
    }

    fn forget_pods(&mut self, cidrs: &[Cidr]) {
        for assignment in cidrs.iter().flat_map(|c| &c.addresses).filter_map(|a| a.assignment.as_ref()) {
            self.by_key.remove(&assignment.key);
        }
    }

    /// Takes over what a checkpoint told (spec 02 §6.5, §6.7): an address that lies in no CIDR stays with its pod as an
    /// orphan, is written again, and is taken back when its CIDR appears.
    pub fn restore(&mut self, kept: Vec<(Allocation, IpAddr)>) {
        for (allocation, ip) in kept {
            let Allocation { key, timestamp, pod, .. } = allocation;
            let entry = checkpoint::entry(&key, ip, timestamp, &pod);
            let assignment = Arc::new(Assignment { key: key.clone(), pod, timestamp, entry });
            self.by_key.insert(key, ip);
            if let Some((at, cidr)) = self.locate(ip) {
                let eni = &mut self.enis[at];
                eni.cidrs[cidr].occupy(ip, assignment);
                eni.assigned += 1;
            } else {
                self.orphans.push(Orphan { address: ip, assignment });
            }
        }
    }

    /// Pods whose address lies in no CIDR of the store.
    #[must_use]
    pub fn orphans(&self) -> &[Orphan] {
        &self.orphans
    }

    /// The checkpoint of all that is assigned.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        checkpoint::render(self.assignments().map(|(_, a)| a.entry.as_str()))
    }

    /// Every pod's address, in the order of interfaces and CIDRs, orphans last.
    pub fn assignments(&self) -> impl Iterator<Item = (IpAddr, &Arc<Assignment>)> {
        self.enis
            .iter()
            .flat_map(|e| &e.cidrs)
            .flat_map(|c| &c.addresses)
            .filter_map(|a| Some((a.ip, a.assignment.as_ref()?)))
            .chain(self.orphans.iter().map(|o| (o.address, &o.assignment)))
    }

    /// The interfaces, by device index.
    pub fn enis(&self) -> impl Iterator<Item = (&EniSpec, Time)> {
        self.enis.iter().map(|e| (&e.spec, e.since))
    }

    /// One interface.
    #[must_use]
    pub fn eni(&self, id: &str) -> Option<&EniSpec> {
        self.eni_index(id).map(|at| &self.enis[at].spec)
    }

    /// Changes what is known of an interface, if it is here.
    pub fn update_eni(&mut self, id: &str, change: impl FnOnce(&mut EniSpec)) {
        if let Some(at) = self.eni_index(id) {
            change(&mut self.enis[at].spec);
        }
    }

    /// Slots of an interface that are taken.
    #[must_use]
    pub fn slots_used(&self, eni: &str) -> Option<usize> {
        self.eni_index(eni).map(|at| self.enis[at].cidrs.len())
    }

    /// The networks of one interface's CIDRs, in order.
    pub fn blocks(&self, eni: &str) -> impl Iterator<Item = IpNet> {
        self.eni_index(eni).into_iter().flat_map(|at| self.enis[at].cidrs.iter().map(|c| c.net))
    }

    /// The CIDRs of one interface, by network.
    pub fn cidrs(&self, eni: &str, now: Time) -> impl Iterator<Item = CidrView<'_>> {
        let at = self.eni_index(eni);
        at.into_iter().flat_map(move |at| {
            let eni = &self.enis[at];
            eni.cidrs.iter().map(move |c| CidrView {
                net: c.net,
                unit: c.unit(),
                since: c.since,
                serving: self.serves(eni, c),
                left_over: self.left_over(c),
                assigned: c.assigned,
                cooling: c.cooling(now, self.cooldown),
                cooled_at: c.cooled_at(now, self.cooldown),
                last_used: c.last_used,
                records: c.addresses.iter().map(Address::record).collect(),
            })
        })
    }

    /// Whether EC2's listing leaves a CIDR out although a pod has it. Until it is listed again nobody else gets of it.
    pub fn doubt(&mut self, eni: &str, net: IpNet, doubted: bool) {
        if let Some(at) = self.eni_index(eni)
            && let Ok(index) = self.enis[at].cidr_index(net)
        {
            self.enis[at].cidrs[index].doubted = doubted;
        }
    }

    /// Sets which CIDRs are to run empty; the others are not (`plan.drain`).
    pub fn drain(&mut self, draining: impl Fn(&str, IpNet) -> bool) {
        for eni in &mut self.enis {
            for cidr in &mut eni.cidrs {
                cidr.draining = draining(&eni.spec.id, cidr.net);
            }
        }
    }

    /// The numbers of all interfaces, excluded ones too.
    #[must_use]
    pub fn stats(&self, now: Time) -> Stats {
        let mut stats = Stats { enis: self.enis.len(), ..Stats::default() };
        for eni in &self.enis {
            for cidr in &eni.cidrs {
                // An IPv6 block may hold more than the sum can tell.
                stats.total = stats.total.saturating_add(cidr.net.size());
                stats.assigned += u64::from(cidr.assigned);
                stats.prefixes += usize::from(cidr.net.is_ipv4() && cidr.unit() == Unit::Prefix);
                stats.cooling += u64::from(cidr.cooling(now, self.cooldown));
            }
        }
        stats
    }

    /// When the next address has cooled, if any is cooling.
    #[must_use]
    pub fn next_cooled(&self, now: Time) -> Option<Time> {
        let cidrs = self.enis.iter().filter(|e| !e.spec.excluded).flat_map(|e| &e.cidrs);
        cidrs.filter_map(|c| c.cooled_at(now, self.cooldown)).min()
    }

    fn eni_index(&self, id: &str) -> Option<usize> {
        self.enis.iter().position(|e| e.spec.id == id)
    }

    fn locate(&self, ip: IpAddr) -> Option<(usize, usize)> {
        self.enis.iter().enumerate().find_map(|(at, eni)| {
            let after = eni.cidrs.partition_point(|c| c.net.network() <= ip);
            let index = after.checked_sub(1)?;
            eni.cidrs[index].net.contains(ip).then_some((at, index))
        })
    }
}

impl Eni {
    fn cidr_index(&self, net: IpNet) -> Result<usize, usize> {
        self.cidrs.binary_search_by(|c| c.net.cmp(&net))
    }
}

impl Cidr {
    fn unit(&self) -> Unit {
        if self.net.is_host() { Unit::Ip } else { Unit::Prefix }
    }

    fn record(&mut self, ip: IpAddr) -> &mut Address {
        let at = match self.addresses.binary_search_by(|a| a.ip.cmp(&ip)) {
            Ok(at) => at,
            Err(at) => {
                self.addresses.insert(at, Address { ip, assignment: None, given: None, released: None });
                at
            }
        };
        &mut self.addresses[at]
    }

    fn occupy(&mut self, ip: IpAddr, assignment: Arc<Assignment>) {
        let record = self.record(ip);
        record.assignment = Some(assignment);
        record.released = None;
        self.assigned += 1;
    }

    /// Ends an assignment; with `cooling_from` none the address was never used.
    fn vacate(&mut self, ip: IpAddr, cooling_from: Option<Time>) -> Option<Arc<Assignment>> {
        let at = self.addresses.binary_search_by(|a| a.ip.cmp(&ip)).ok()?;
        let taken = self.addresses[at].assignment.take()?;
        self.assigned -= 1;
        if cooling_from.is_some() {
            self.addresses[at].given = Some(taken.timestamp);
            self.addresses[at].released = cooling_from;
            self.last_used = cooling_from;
        } else {
            self.addresses.remove(at);
        }
        Some(taken)
    }

    /// A pod gave the address up before the CIDR was here.
    fn cool(&mut self, given_up: &GivenUp) {
        let record = self.record(given_up.ip);
        record.given = Some(given_up.given);
        record.released = Some(given_up.released);
        self.last_used = self.last_used.max(Some(given_up.released));
    }

    fn cooling(&self, now: Time, cooldown: Duration) -> u32 {
        let cooling = self.addresses.iter().filter(|a| a.cooling(now, cooldown)).count();
        u32::try_from(cooling).unwrap_or(u32::MAX)
    }

    fn cooled_at(&self, now: Time, cooldown: Duration) -> Option<Time> {
        let cooling = self.addresses.iter().filter(|a| a.cooling(now, cooldown));
        cooling.filter_map(|a| Some(a.released? + cooldown)).min()
    }

    /// The lowest address that a pod may be given now.
    fn free(&self, now: Time, cooldown: Duration) -> Option<IpAddr> {
        if u64::from(self.assigned) >= self.net.size() {
            return None;
        }
        let mut next = Some(self.net.network());
        for record in &self.addresses {
            let ip = next?;
            if ip < record.ip {
                return Some(ip);
            }
            if record.assignment.is_none() && !record.cooling(now, cooldown) {
                return Some(record.ip);
            }
            next = self.net.next(record.ip);
        }
        next
    }
}

impl Address {
    fn record(&self) -> Record<'_> {
        let assignment = self.assignment.as_deref();
        let given = assignment.map(|a| a.timestamp).or(self.given);
        Record { ip: self.ip, assignment, given, released: self.released }
    }

    /// Inclusive: an address released at t is free strictly after t + cooldown (spec 02 §5.4).
    fn cooling(&self, now: Time, cooldown: Duration) -> bool {
        self.assignment.is_none() && self.released.is_some_and(|t| now <= t + cooldown)
    }
}

#[cfg(test)]
mod tests;
