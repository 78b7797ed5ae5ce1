//! Time around the account: when an answer is due, what follows when, what is throttled and what goes wrong.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use reservoir_core::ip::Ipv4Net;

use super::audit::Violation;
use super::aws::{AttachmentStatus, Aws, Effect, Eni, InterfaceType};
use super::config::{Config, ConfigError, InstanceConfig};
use super::delays::{Delays, Random};
use super::fault::{Fault, FaultEffect, Faults};
use super::imds::{Identity, Metadata, MetadataInterface};
use super::journal::Journal;
use super::links::{LinkChange, LinkEvent};
use super::ops::{Op, Reply};
use super::refusal::Refusal;
use super::subnet6::Ipv6Pool;
use super::throttle::Throttle;

/// The simulated AWS.
#[derive(Debug, Clone)]
pub struct Sim {
    pub(super) aws: Aws,
    delays: Delays,
    random: Random,
    throttle: Throttle,
    faults: Faults,
    flaky: f64,
    grace: Duration,
    journal: Journal,
    now: Duration,
    sequence: u64,
    queue: BinaryHeap<Reverse<Due>>,
    pub(super) metadata: BTreeMap<String, Metadata>,
    /// When an interface's latest known change reaches IMDS, so that an older state never follows a newer one.
    metadata_at: BTreeMap<String, Duration>,
    /// What describe shows while it lags; empty if it does not.
    described: BTreeMap<String, Eni>,
    described_at: BTreeMap<String, Duration>,
    links: VecDeque<LinkEvent>,
}

/// How a call ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// When the answer arrives, or the caller gives up waiting.
    pub due: Duration,
    pub result: Result<Reply, Refusal>,
    /// There is no answer; `result` is what it would have been, if the call arrived.
    pub silent: bool,
}

#[derive(Debug, Clone)]
struct Due {
    at: Duration,
    sequence: u64,
    event: Event,
}

#[derive(Debug, Clone)]
enum Event {
    Attached { eni: String, attachment: String },
    LinkUp { eni: String, attachment: String },
    Detached { eni: String, attachment: String },
    Metadata { instance: String, mac: String, view: Option<Box<MetadataInterface>> },
    Described { eni: String, view: Option<Box<Eni>> },
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl Sim {
    /// Builds the account; all its instances run, their primary interfaces are attached and in IMDS.
    ///
    /// # Errors
    /// What in the configuration makes no sense.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let aws = Aws::new(config)?;
        let mut faults = Faults::default();
        config.faults.iter().cloned().for_each(|f| faults.add(f));
        let mut sim = Self {
            aws,
            delays: config.delays.resolve().map_err(ConfigError::Delays)?,
            random: Random::new(config.seed ^ 0x5eed_de1a),
            throttle: Throttle::new(config.throttle.clone()),
            faults,
            flaky: config.flaky,
            grace: Duration::try_from_secs_f64(config.audit_grace_seconds).unwrap_or(Duration::MAX),
            journal: Journal::new(config.log_limit),
            now: Duration::ZERO,
            sequence: 0,
            queue: BinaryHeap::new(),
            metadata: BTreeMap::new(),
            metadata_at: BTreeMap::new(),
            described: BTreeMap::new(),
            described_at: BTreeMap::new(),
            links: VecDeque::new(),
        };
        sim.settle_launch();
        Ok(sim)
    }

    /// Starts another instance.
    ///
    /// # Errors
    /// As for an instance of the configuration.
    pub fn launch(&mut self, now: Duration, instance: &InstanceConfig) -> Result<(), ConfigError> {
        self.advance(now);
        self.aws.launch(instance, self.now)?;
        self.settle_launch();
        Ok(())
    }

    /// A machine is up when its interface is: no delay between.
    fn settle_launch(&mut self) {
        for effect in std::mem::take(&mut self.aws.effects) {
            let Effect::Attaching(id) = effect else { continue };
            let Some(eni) = self.aws.enis.get(&id) else { continue };
            let (mac, view) = (eni.mac.clone(), MetadataInterface::of(eni, &self.aws));
            let Some(attachment) = eni.attachment.clone() else { continue };
            if self.delays.describe_lag > 0.0 {
                self.described.insert(id.clone(), eni.clone());
            }
            if let Some(view) = view {
                self.metadata.entry(attachment.instance.clone()).or_default().interfaces.insert(mac, view);
            }
            self.happen(Event::Attached { eni: id.clone(), attachment: attachment.id.clone() }, self.now);
            self.happen(Event::LinkUp { eni: id, attachment: attachment.id }, self.now);
        }
    }

    /// Ends an instance, interfaces without delete-on-termination are left behind.
    ///
    /// # Errors
    /// No such instance.
    pub fn terminate(&mut self, now: Duration, instance: &str) -> Result<(), Refusal> {
        self.advance(now);
        let enis: Vec<Eni> = self.attached(instance).cloned().collect();
        self.aws.terminate(instance, self.now)?;
        for eni in enis {
            self.link_down(&eni);
        }
        self.metadata.remove(instance);
        self.settle(self.now);
        Ok(())
    }

    /// One EC2 call.
    pub fn execute(&mut self, now: Duration, instance: &str, op: Op) -> Verdict {
        self.advance(now);
        let now = self.now;
        let api = op.api();
        let mut delay = self.random.delay(self.delay_of(&op), self.delays.jitter);
        let mut silent = false;
        let mut refusal = None;
        match self.faults.next(api, instance) {
            Some(FaultEffect::Error { code, message }) => {
                refusal = Some(FaultEffect::refusal(&code, message.as_deref()));
            }
            Some(FaultEffect::Delay(seconds)) => delay += self.random.delay(seconds, 0.0),
            Some(FaultEffect::NoAnswer) => silent = true,
            Some(FaultEffect::Lost) => {
                silent = true;
                refusal = Some(Refusal::new("RequestTimeout", "the request was lost"));
            }
            None => {}
        }
        if refusal.is_none() && !self.throttle.admit(api, op.is_paged(), now) {
            refusal = Some(FaultEffect::refusal("RequestLimitExceeded", None));
        }
        if refusal.is_none() && self.flaky > 0.0 && self.random.unit() < self.flaky {
            let code = if self.random.below(2) == 0 { "InternalError" } else { "Unavailable" };
            refusal = Some(Refusal::new(code, "An internal error has occurred"));
        }
        let result = match refusal {
            Some(refusal) => Err(refusal),
            None => match &op {
                Op::DescribeNetworkInterfaces(query) if self.delays.describe_lag > 0.0 => {
                    let described = &self.described;
                    self.aws.describe_interfaces(query, |eni| described.get(&eni.id), now)
                }
                _ => self.apply(&op, now),
            },
        };
        let due = if silent {
            now.saturating_add(self.random.delay(self.delays.no_answer, 0.0))
        } else {
            now.saturating_add(delay)
        };
        self.settle(now.saturating_add(delay));
        let outcome = match &result {
            _ if silent => "no answer",
            Ok(_) => "ok",
            Err(refusal) => &refusal.code,
        };
        self.journal.note(now, due, instance, op, outcome);
        Verdict { due, result, silent }
    }

    fn apply(&mut self, op: &Op, now: Duration) -> Result<Reply, Refusal> {
        self.aws.watch_unmanaged(op);
        let reply = self.aws.apply(op, now)?;
        self.aws.watch_created(op, &reply);
        Ok(reply)
    }

    /// When an IMDS request made now is answered, or what befalls it. `api` names it for faults and counters.
    pub(crate) fn metadata_call(
        &mut self,
        now: Duration,
        instance: &str,
        api: &'static str,
    ) -> (Duration, Result<(), FaultEffect>) {
        self.advance(now);
        let mut delay = self.random.delay(self.delays.imds, self.delays.jitter);
        let result = match self.faults.next(api, instance) {
            None => Ok(()),
            Some(FaultEffect::Delay(seconds)) => {
                delay += self.random.delay(seconds, 0.0);
                Ok(())
            }
            Some(effect) => {
                if matches!(effect, FaultEffect::NoAnswer | FaultEffect::Lost) {
                    delay = self.random.delay(self.delays.no_answer, 0.0);
                }
                Err(effect)
            }
        };
        self.journal.count(api, if result.is_ok() { "ok" } else { "fault" });
        (self.now.saturating_add(delay), result)
    }

    /// Lets everything due by `now` happen. Time never runs backwards: an earlier `now` changes nothing.
    pub fn advance(&mut self, now: Duration) {
        while self.queue.peek().is_some_and(|Reverse(due)| due.at <= now) {
            if let Some(Reverse(Due { at, event, .. })) = self.queue.pop() {
                self.now = self.now.max(at);
                self.happen(event, at);
            }
        }
        self.now = self.now.max(now);
    }

    /// When something happens next by itself.
    #[must_use]
    pub fn next_event(&self) -> Option<Duration> {
        self.queue.peek().map(|Reverse(due)| due.at)
    }

    /// What happened to the instances' network devices up to `now` and was not asked for before.
    pub fn links(&mut self, now: Duration) -> Vec<LinkEvent> {
        self.advance(now);
        self.links.drain(..).collect()
    }

    /// Everything that should not be.
    #[must_use]
    pub fn audit(&self) -> Vec<Violation> {
        self.aws.audit(self.now, self.grace)
    }

    pub fn inject(&mut self, fault: Fault) {
        self.faults.add(fault);
    }

    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }

    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.faults.list()
    }

    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The account's id.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.aws.account
    }

    /// Interfaces, the truth.
    pub fn enis(&self) -> impl Iterator<Item = &Eni> {
        self.aws.enis.values()
    }

    /// Instance ids, the terminated included.
    pub fn instances(&self) -> impl Iterator<Item = &str> {
        self.aws.instances.keys().map(String::as_str)
    }

    /// Subnets with their block and free addresses, in EC2's order.
    pub fn subnets(&self) -> impl Iterator<Item = (&str, Ipv4Net, u32)> {
        self.aws.subnets.iter().map(|s| (s.id.as_str(), s.pool.cidr(), s.pool.free()))
    }

    /// Interfaces of one instance, those attaching and detaching included.
    pub fn attached(&self, instance: &str) -> impl Iterator<Item = &Eni> {
        let ids = self.aws.instances.get(instance).into_iter().flat_map(|i| &i.enis);
        ids.filter_map(|id| self.aws.enis.get(id))
    }

    /// Who the instance is; None: no such instance, or terminated.
    #[must_use]
    pub fn identity(&self, instance: &str) -> Option<Identity> {
        Identity::of(&self.aws, instance)
    }

    /// What the instance's IMDS shows of its interfaces.
    #[must_use]
    pub fn metadata(&self, instance: &str) -> Option<&Metadata> {
        self.metadata.get(instance)
    }

    fn delay_of(&self, op: &Op) -> f64 {
        let d = &self.delays;
        match op {
            Op::CreateNetworkInterface(_) => d.create,
            Op::AttachNetworkInterface { .. } => d.attach,
            Op::ModifyNetworkInterfaceAttribute { .. } => d.modify,
            Op::DetachNetworkInterface { .. } => d.detach,
            Op::DeleteNetworkInterface { .. } => d.delete,
            Op::AssignPrivateIpAddresses { .. } | Op::AssignIpv6Addresses { .. } => d.assign,
            Op::UnassignPrivateIpAddresses { .. } | Op::UnassignIpv6Addresses { .. } => d.unassign,
            Op::CreateTags { .. } => d.tags,
            _ => d.describe,
        }
    }

    /// Schedules what an operation that is answered at `answered` sets going.
    pub(super) fn settle(&mut self, answered: Duration) {
        for effect in std::mem::take(&mut self.aws.effects) {
            match effect {
                Effect::Created(id) => {
                    let visible = answered.saturating_add(self.spread(self.delays.create_visible));
                    if self.delays.create_visible > 0.0
                        && let Some(eni) = self.aws.enis.get_mut(&id)
                    {
                        eni.visible_from = visible;
                    }
                    self.describe_later(&id, answered);
                }
                Effect::Attaching(id) => {
                    self.describe_later(&id, answered);
                    self.schedule_attach(&id, answered);
                }
                Effect::Detaching(id) => {
                    self.describe_later(&id, answered);
                    let at = answered.saturating_add(self.spread(self.delays.detached));
                    if let Some(attachment) = self.attachment_of(&id) {
                        self.schedule(at, Event::Detached { eni: id, attachment });
                    }
                }
                Effect::Addresses(id) => {
                    self.describe_later(&id, answered);
                    self.metadata_later(&id, answered, self.delays.imds_assign);
                    self.link_addresses(&id);
                }
                Effect::Groups(id) => {
                    self.describe_later(&id, answered);
                    self.metadata_later(&id, answered, self.delays.imds_groups);
                }
                Effect::Touched(id) | Effect::Deleted(id) => self.describe_later(&id, answered),
            }
        }
    }

    fn schedule_attach(&mut self, id: &str, answered: Duration) {
        let Some(attachment) = self.attachment_of(id) else { return };
        let attached = answered.saturating_add(self.spread(self.delays.attached));
        let link = attached.saturating_add(self.spread(self.delays.link));
        let (eni, attachment) = (id.to_owned(), attachment);
        self.schedule(attached, Event::Attached { eni: eni.clone(), attachment: attachment.clone() });
        self.schedule(link, Event::LinkUp { eni, attachment });
        if self.delays.imds_addresses > 0.0 {
            let bare = self.aws.enis.get(id).and_then(|e| MetadataInterface::of(e, &self.aws)).map(|mut view| {
                view.facts.secondary.clear();
                view.facts.prefixes.clear();
                view.facts.ipv6_prefixes.clear();
                view
            });
            let shown = self.metadata_view_later(id, answered, self.delays.imds_attach, bare);
            self.metadata_later(id, shown, self.delays.imds_addresses);
        } else {
            self.metadata_later(id, answered, self.delays.imds_attach);
        }
    }

    fn metadata_later(&mut self, id: &str, from: Duration, lag: f64) {
        let view = self.aws.enis.get(id).and_then(|e| MetadataInterface::of(e, &self.aws));
        self.metadata_view_later(id, from, lag, view);
    }

    fn metadata_view_later(&mut self, id: &str, from: Duration, lag: f64, view: Option<MetadataInterface>) -> Duration {
        let at = from.saturating_add(self.spread(lag));
        let Some(eni) = self.aws.enis.get(id) else { return at };
        let Some(attachment) = &eni.attachment else { return at };
        let (instance, mac) = (attachment.instance.clone(), eni.mac.clone());
        let latest = self.metadata_at.entry(id.to_owned()).or_default();
        *latest = at.max(*latest);
        let at = *latest;
        self.schedule(at, Event::Metadata { instance, mac, view: view.map(Box::new) });
        at
    }

    fn describe_later(&mut self, id: &str, from: Duration) {
        if self.delays.describe_lag <= 0.0 {
            return;
        }
        let view = self.aws.enis.get(id).cloned().map(Box::new);
        let at = from.saturating_add(self.spread(self.delays.describe_lag));
        let latest = self.described_at.entry(id.to_owned()).or_default();
        *latest = at.max(*latest);
        let at = *latest;
        self.schedule(at, Event::Described { eni: id.to_owned(), view });
    }

    fn spread(&mut self, seconds: f64) -> Duration {
        self.random.delay(seconds, self.delays.jitter)
    }

    fn attachment_of(&self, id: &str) -> Option<String> {
        Some(self.aws.enis.get(id)?.attachment.as_ref()?.id.clone())
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        if at <= self.now {
            self.happen(event, self.now);
            return;
        }
        self.sequence += 1;
        self.queue.push(Reverse(Due { at, sequence: self.sequence, event }));
    }

    fn happen(&mut self, event: Event, at: Duration) {
        match event {
            Event::Attached { eni, attachment } => {
                let Some(eni) = self.aws.enis.get_mut(&eni) else { return };
                let own = eni.attachment.as_mut().filter(|a| a.id == attachment);
                if let Some(own) = own.filter(|a| a.status == AttachmentStatus::Attaching) {
                    own.status = AttachmentStatus::Attached;
                    eni.since = at;
                    let id = eni.id.clone();
                    self.describe_later(&id, at);
                }
            }
            Event::LinkUp { eni, attachment } => {
                // An EFA-only interface is no network device of the kernel's.
                let eni = self.aws.enis.get_mut(&eni).filter(|e| e.interface_type != InterfaceType::EfaOnly);
                let Some(eni) = eni else { return };
                let own = eni.attachment.as_mut().filter(|a| a.id == attachment);
                let Some(own) = own.filter(|a| a.status != AttachmentStatus::Detaching) else { return };
                own.link = true;
                let eni = eni.clone();
                self.link(&eni, LinkChange::Up(eni.addresses()));
            }
            Event::Detached { eni: id, attachment } => {
                let Some(eni) = self.aws.enis.get(&id) else { return };
                if eni.attachment.as_ref().is_none_or(|a| a.id != attachment) {
                    return;
                }
                let eni = eni.clone();
                self.link_down(&eni);
                self.metadata_view_later(&id, at, self.delays.imds_detach, None);
                self.metadata_at.remove(&id);
                self.aws.detached(&id, at);
                self.describe_later(&id, at);
            }
            Event::Metadata { instance, mac, view } => {
                // A terminated instance has no metadata service.
                if let Some(metadata) = self.metadata.get_mut(&instance) {
                    match view {
                        Some(view) => metadata.interfaces.insert(mac, *view),
                        None => metadata.interfaces.remove(&mac),
                    };
                }
            }
            Event::Described { eni, view } => {
                match view {
                    Some(view) => self.described.insert(eni, *view),
                    None => self.described.remove(&eni),
                };
            }
        }
    }

    fn link_addresses(&mut self, id: &str) {
        if let Some(eni) = self.aws.enis.get(id)
            && eni.attachment.as_ref().is_some_and(|a| a.link)
        {
            let eni = eni.clone();
            self.link(&eni, LinkChange::Addresses(eni.addresses()));
        }
    }

    fn link_down(&mut self, eni: &Eni) {
        if eni.attachment.as_ref().is_some_and(|a| a.link) {
            self.link(eni, LinkChange::Down);
        }
    }

    fn link(&mut self, eni: &Eni, change: LinkChange) {
        let Some(attachment) = &eni.attachment else { return };
        let Some(subnet) = self.aws.subnets.iter().find(|s| s.id == eni.subnet) else { return };
        self.links.push_back(LinkEvent {
            at: self.now,
            instance: attachment.instance.clone(),
            eni: eni.id.clone(),
            mac: eni.mac.clone(),
            device_index: attachment.device_index,
            card: attachment.card,
            subnet: subnet.pool.cidr(),
            subnet_ipv6: subnet.ipv6.as_ref().map(Ipv6Pool::cidr),
            change,
        });
    }
}
