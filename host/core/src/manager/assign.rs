//! More addresses or prefixes on an attached interface: all, then one (spec 01 §3.5), then the subnet rests.

use super::jobs::Job;
use super::pace::Way;
use super::types::blocks;
use super::{Counter, JobId, Level, Manager, Now};
use crate::cloud::{Answer, CloudError, ErrorKind, Request};
use crate::ip::IpNet;
use crate::policy::{Assign as Growing, Unit};
use crate::store::Error as StoreError;

#[derive(Debug)]
pub(super) struct Assign {
    pub card: u32,
    pub eni: String,
    pub subnet: String,
    pub unit: Unit,
    pub count: u32,
    /// The try with 1 after the try with all (spec 01 §3.5).
    last_try: bool,
    /// EC2 has refused once: the try with 1 is under way.
    refused: bool,
    /// The first job that had not begun when its call was made.
    before: JobId,
    /// EC2 said that the interface is fuller than we knew: its real addresses are being read.
    resync: bool,
}

impl Assign {
    /// Whether its answer tells what the subnet has; `lapsed`: EC2 had nothing there last.
    pub fn probes(&self, subnet: &str, unit: Unit, lapsed: bool) -> bool {
        self.subnet == subnet && self.unit == unit && (self.refused || lapsed)
    }
}

impl Manager {
    /// Asks for more on an attached interface.
    pub(super) fn start_assign(&mut self, now: Now, a: &Growing) -> Result<(), String> {
        let eni = self.cards.eni(&a.eni).ok_or("I12: it is gone")?;
        if self.is_closed(eni) {
            // Known as a trunk, or excluded, since the plan was made.
            return Err("I5: a closed interface".to_owned());
        }
        if let Some(until) = self.refused.eni_until(&a.eni, now.mono) {
            let seconds = until.saturating_sub(now.mono).as_secs() + 1;
            return Err(format!("I7: EC2 refused {} more, asked again in {seconds} s", a.eni));
        }
        let (card, subnet) = (eni.card, eni.subnet.clone());
        let last_try = |job: &Job| matches!(job, Job::Assign(other) if other.eni == a.eni && other.refused);
        if self.jobs.values().any(last_try) || self.is_probed(now, &subnet, a.unit) {
            // The same call once more would be refused once more.
            return Err(format!("I7: EC2 has refused in {subnet}, it is being asked for less"));
        }
        // What was under way when the plan was made may have come since (I5).
        let taken = self.cards.slots_used(&a.eni).and_then(|used| u32::try_from(used).ok()).unwrap_or(u32::MAX);
        let taken = taken.saturating_add(self.slots_under_way().get(&a.eni).copied().unwrap_or(0));
        let free = self.settings.limits.slots_per_eni().saturating_sub(taken);
        if free == 0 {
            return Err("I5: no free slot any more".to_owned());
        }
        let count = self.within_free(now, &subnet, a.unit, a.count.min(free), 0);
        let request = Request::AssignPrivateIpAddresses { eni: a.eni.clone(), unit: a.unit, count };
        let eni = a.eni.clone();
        let job = Assign {
            card,
            eni,
            subnet,
            unit: a.unit,
            count,
            last_try: count == 1,
            refused: false,
            before: self.next_job,
            resync: false,
        };
        let id = self.start(Job::Assign(job));
        self.call(now, id, request);
        Ok(())
    }

    pub(super) fn assigned(&mut self, now: Now, id: JobId, mut job: Assign, result: Result<Answer, CloudError>) {
        match result {
            Ok(Answer::Assigned { addresses, prefixes }) => {
                self.growth.succeed(job.card, Way::Assign);
                self.refused.granted(&job.subnet, job.unit);
                self.took_from(&job.subnet, addresses.len(), prefixes.len());
                let got = blocks(&addresses, &prefixes);
                self.put_blocks(now, &job.eni, job.unit, &got, Told::ByCall(job.before));
                if job.refused {
                    // The subnet runs dry: what it still has is worth knowing before the next request.
                    self.subnets_wanted = true;
                }
            }
            Ok(Answer::Interfaces(list)) if job.resync => match list.first() {
                Some(i) => {
                    let before = self.cards.slots_used(&job.eni);
                    let listed = self.blocks_told(i).into_iter();
                    let listed: Vec<IpNet> = listed.filter(|net| !self.is_returning(&job.eni, *net)).collect();
                    self.add_blocks(now, &job.eni, job.unit, &listed);
                    if self.cards.slots_used(&job.eni) == before {
                        // The limit stands and we know all there is: the next try would end here again.
                        let message = format!("{} takes no more addresses", job.eni);
                        let (kind, code) = (ErrorKind::AddressLimit, "PrivateIpAddressLimitExceeded".to_owned());
                        let error = CloudError { api: "AssignPrivateIpAddresses", kind, code, message };
                        self.verify(now);
                        self.eni_refused(now, &job.eni, error);
                    }
                }
                None => self.count(unread(job.unit)),
            },
            Ok(other) => self.unexpected("AssignPrivateIpAddresses", &other),
            Err(error) if job.resync => {
                self.count(unread(job.unit));
                self.growth_failed(now, job.card, Way::Assign, error);
            }
            Err(error) => match error.kind {
                ErrorKind::AddressLimit => {
                    job.resync = true;
                    let ids = vec![job.eni.clone()];
                    self.jobs.insert(id, Job::Assign(job));
                    return self.call(now, id, Request::DescribeNetworkInterfaces { ids });
                }
                // The ladder serves exhaustion; a call that EC2 throttles or does not answer is not made twice.
                ErrorKind::NoFreeAddress | ErrorKind::NoFreePrefix | ErrorKind::Refused
                    if !job.last_try && !self.terminating =>
                {
                    job.last_try = true;
                    job.refused = true;
                    job.before = self.next_job;
                    job.count = 1;
                    let request = Request::AssignPrivateIpAddresses { eni: job.eni.clone(), unit: job.unit, count: 1 };
                    self.jobs.insert(id, Job::Assign(job));
                    return self.call(now, id, request);
                }
                kind => {
                    self.count(Counter::AllocAddressesFailed);
                    if kind.is_exhausted() {
                        self.refused.refuse(&job.subnet, job.unit, now.mono);
                    }
                    if kind == ErrorKind::Unknown {
                        // It may have been done.
                        self.verify(now);
                    }
                    if kind == ErrorKind::Refused {
                        return self.eni_refused(now, &job.eni, error);
                    }
                    self.growth_failed(now, job.card, Way::Assign, error);
                }
            },
        }
        self.ask(now.mono);
    }

    /// One interface takes no more, for a reason of its own: the next way to grow is open.
    fn eni_refused(&mut self, now: Now, eni: &str, error: CloudError) {
        self.log(Level::Warn, format!("{eni} takes no more addresses: {error}"));
        self.refused.refuse_eni(eni, now.mono);
        self.growth.note(error);
        self.ask(now.mono);
    }

    /// Puts listed blocks of an interface into the store and gives them to those who wait. Known ones are passed over.
    pub(super) fn add_blocks(&mut self, now: Now, eni: &str, unit: Unit, nets: &[IpNet]) {
        self.put_blocks(now, eni, unit, nets, Told::OfNew);
    }

    /// The same of an interface that the store knows.
    pub(super) fn add_listed(&mut self, now: Now, eni: &str, nets: &[IpNet]) {
        self.put_blocks(now, eni, self.settings.unit, nets, Told::OfKnown);
    }

    fn put_blocks(&mut self, now: Now, eni: &str, unit: Unit, nets: &[IpNet], told: Told) {
        let given = match told {
            Told::ByCall(before) => Some(before),
            Told::OfNew | Told::OfKnown => None,
        };
        for net in nets {
            let text = net.to_string();
            let release = self.jobs.iter_mut().find_map(|(id, job)| match job {
                Job::Release(release) if release.holds(eni, &text) => Some((*id, release)),
                _ => None,
            });
            match release {
                // What was given after that call was made, was given because the call had had its effect.
                Some((id, release)) if given.is_some_and(|before| id < before) && release.is_first_try() => {
                    release.done_with(*net);
                }
                // Listed still, or given anew after an answer that was lost: the call under way takes it.
                Some(_) => continue,
                None => {}
            }
            self.got_again(eni, *net);
            let early = given.is_none() && self.coming(eni, *net).is_some();
            let asked_as = if early { unit_of(*net) } else { unit };
            let wanted = asked_as != self.settings.unit;
            let store = self.cards.store_of(eni);
            match store.map_or(Err(StoreError::UnknownEni), |s| s.add_cidr(eni, *net, wanted, now.mono)) {
                Ok(()) if early => {
                    if let Some(assign) = self.coming(eni, *net) {
                        assign.count -= 1;
                    }
                }
                Ok(()) => {}
                // Known already, unless another interface has it in the store.
                Err(StoreError::DuplicateCidr) if self.cards.holds(eni, *net) => {}
                Err(error) => {
                    self.count(not_added(*net, told));
                    self.log(Level::Warn, format!("{net} of {eni} cannot be used: {error}"));
                }
            }
        }
        self.sweep_soon(now);
        self.serve_waiters(now);
    }

    /// An assignment under way that can have brought the block.
    fn coming(&mut self, eni: &str, net: IpNet) -> Option<&mut Assign> {
        self.jobs.values_mut().find_map(|job| match job {
            Job::Assign(a) if a.eni == eni && a.unit == unit_of(net) && a.count > 0 => Some(a),
            _ => None,
        })
    }
}

/// Who told of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// A call that was made before that job had begun.
    ByCall(JobId),
    /// Whoever told of the interface, which is new to the store or was said to be full. EC2 lists what a call under way has
    /// assigned before it answers that call: that counts once, as here, and as asked for.
    OfNew,
    /// EC2 or IMDS, of an interface that is known. As above.
    OfKnown,
}

/// An interface is full, and what it has could not be read.
fn unread(unit: Unit) -> Counter {
    match unit {
        Unit::Ip => Counter::GetEniAddressesFailed,
        Unit::Prefix => Counter::GetEniPrefixesFailed,
    }
}

fn not_added(net: IpNet, told: Told) -> Counter {
    match (unit_of(net), told) {
        (Unit::Ip, Told::OfKnown) => Counter::ReconcileAddressAddFailed,
        (Unit::Prefix, Told::OfKnown) => Counter::ReconcilePrefixAddFailed,
        (Unit::Ip, _) => Counter::AddAddressFailed,
        (Unit::Prefix, _) if net.is_ipv4() => Counter::AddPrefixFailed,
        (Unit::Prefix, _) => Counter::AddIpv6PrefixFailed,
    }
}

fn unit_of(net: IpNet) -> Unit {
    if net.is_host() { Unit::Ip } else { Unit::Prefix }
}
