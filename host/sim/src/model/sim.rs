//! Time around the account: when an answer is due, what is throttled, what goes wrong. What follows when is in
//! [`super::schedule`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use reservoir_core::ip::Ipv4Net;

use super::aws::{Aws, Eni};
use super::config::{Config, ConfigError, DelaysConfig, InstanceConfig};
use super::delays::{Delays, Random};
use super::describe::Seen;
use super::fault::{Fault, FaultEffect, Faults};
use super::groups::SecurityGroup;
use super::iam::Iam;
use super::imds::{Identity, ImdsMode, Metadata};
use super::journal::Journal;
use super::links::LinkEvent;
use super::ops::{Op, Reply};
use super::refusal::Refusal;
use super::schedule::Due;
use super::skew::Skews;
use super::throttle::{Throttle, ThrottleConfig};

/// The simulated AWS.
#[derive(Debug, Clone)]
pub struct Sim {
    pub(super) aws: Aws,
    pub(super) delays: Delays,
    pub(super) random: Random,
    throttle: Throttle,
    iam: Iam,
    faults: Faults,
    flaky: f64,
    pub(super) grace: Duration,
    pub(super) journal: Journal,
    pub(super) now: Duration,
    pub(super) sequence: u64,
    pub(super) queue: BinaryHeap<Reverse<Due>>,
    pub(super) metadata: BTreeMap<String, Metadata>,
    /// When an interface's latest known change reaches IMDS, so that an older state never follows a newer one.
    pub(super) metadata_at: BTreeMap<String, Duration>,
    /// What describe shows while it lags; empty if it does not.
    pub(super) described: BTreeMap<String, Eni>,
    pub(super) described_at: BTreeMap<String, Duration>,
    pub(super) skews: Skews,
    pub(super) links: VecDeque<LinkEvent>,
}

/// How a call ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// When the answer arrives, or the caller gives up waiting.
    pub due: Duration,
    pub result: Result<Reply, Refusal>,
    /// There is no answer; `result` is what it would have been, if the call arrived.
    pub silent: bool,
    /// The answer ends in the middle; a caller can do as little with it as with none.
    pub cut: bool,
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
            iam: config.iam.clone(),
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
            skews: Skews::default(),
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
            self.metadata_at.remove(&eni.id);
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
        let (mut silent, mut cut, mut wait) = (false, false, None);
        let (mut refusal, mut instead) = (None, None);
        match self.faults.next(&[api], instance, &mut self.random) {
            Some(FaultEffect::Error { code, message }) => {
                refusal = Some(FaultEffect::refusal(&code, message.as_deref()));
            }
            Some(FaultEffect::After { code, message }) => {
                instead = Some(FaultEffect::refusal(&code, message.as_deref()));
            }
            Some(FaultEffect::Delay(seconds)) => delay += self.random.delay(seconds, 0.0),
            Some(FaultEffect::Cut) => cut = true,
            Some(FaultEffect::NoAnswer) => {
                silent = true;
                wait = Some(self.random.delay(self.delays.no_answer, 0.0));
            }
            Some(FaultEffect::Lost) => {
                silent = true;
                wait = Some(self.random.delay(self.delays.no_answer, 0.0));
                refusal = Some(Refusal::new("RequestTimeout", "the request was lost"));
            }
            Some(FaultEffect::Reset) => {
                silent = true;
                refusal = Some(Refusal::new("RequestTimeout", "the connection was reset"));
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
        let refusal = refusal.or_else(|| self.iam.refuse(&op, &self.aws));
        let result = match refusal {
            Some(refusal) => Err(refusal),
            None => self.apply(instance, &op, now),
        };
        self.settle(now.saturating_add(delay));
        let result = match (result, instead) {
            (Ok(_), Some(refusal)) => Err(refusal),
            (result, _) => result,
        };
        let due = now.saturating_add(wait.unwrap_or(delay));
        let outcome = match &result {
            _ if silent => "no answer",
            _ if cut => "cut",
            Ok(_) => "ok",
            Err(refusal) => &refusal.code,
        };
        self.aws.watch_mode(instance, &op);
        self.journal.note(now, due, instance, op, outcome);
        Verdict { due, result, silent, cut }
    }

    fn apply(&mut self, instance: &str, op: &Op, now: Duration) -> Result<Reply, Refusal> {
        if let Op::DescribeNetworkInterfaces(query) = op {
            return self.aws.describe_interfaces(query, &self.seen(), now);
        }
        self.aws.watch_unmanaged(instance, op);
        let reply = self.aws.apply(op, now)?;
        self.aws.watch_created(instance, op, &reply);
        Ok(reply)
    }

    fn seen(&self) -> Seen<'_> {
        Seen {
            lagging: (!self.delays.describe_lag.is_zero()).then_some(&self.described),
            skewed: self.skews.described(),
        }
    }

    /// When an IMDS request made now is answered, or what befalls it. `names` name it for faults, the first for
    /// counters.
    pub(crate) fn metadata_call(
        &mut self,
        now: Duration,
        instance: &str,
        api: &'static str,
        names: &[&str],
    ) -> (Duration, Result<(), FaultEffect>) {
        self.advance(now);
        let mut delay = self.random.delay(self.delays.imds, self.delays.jitter);
        let result = match self.faults.next(names, instance, &mut self.random) {
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

    fn delay_of(&self, op: &Op) -> super::delays::Span {
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

    pub fn inject(&mut self, fault: Fault) {
        self.faults.add(fault);
    }

    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }

    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.faults.list()
    }

    /// Another share of EC2 calls, 0 to 1, fails with HTTP 500 or 503.
    pub fn set_flaky(&mut self, share: f64) {
        self.flaky = share.clamp(0.0, 1.0);
    }

    /// Throttles otherwise from now on; all buckets are full.
    pub fn set_throttle(&mut self, config: ThrottleConfig) {
        self.throttle = Throttle::new(config);
    }

    /// Another policy of the nodes' role.
    pub fn set_iam(&mut self, iam: Iam) {
        self.iam = iam;
    }

    /// Other delays for what is asked from now on; what is under way keeps its time.
    ///
    /// # Errors
    /// An unknown profile or delay.
    pub fn set_delays(&mut self, config: &DelaysConfig) -> Result<(), String> {
        let delays = config.resolve()?;
        if self.delays.describe_lag.is_zero() && !delays.describe_lag.is_zero() {
            self.described = self.aws.enis.clone();
        }
        self.delays = delays;
        Ok(())
    }

    /// How the instance's metadata service answers.
    ///
    /// # Errors
    /// No such instance.
    pub fn set_imds_mode(&mut self, instance: &str, mode: ImdsMode) -> Result<(), Refusal> {
        let machine = self.aws.instances.get_mut(instance).ok_or_else(|| Refusal::no_instance(instance))?;
        machine.imds = mode;
        Ok(())
    }

    #[must_use]
    pub fn imds_mode(&self, instance: &str) -> ImdsMode {
        self.aws.instances.get(instance).map_or(ImdsMode::default(), |i| i.imds)
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

    /// One interface, the truth.
    #[must_use]
    pub fn eni(&self, id: &str) -> Option<&Eni> {
        self.aws.enis.get(id)
    }

    /// Instance ids, the terminated included.
    pub fn instances(&self) -> impl Iterator<Item = &str> {
        self.aws.instances.keys().map(String::as_str)
    }

    /// Subnets with their block and free addresses, in EC2's order.
    pub fn subnets(&self) -> impl Iterator<Item = (&str, Ipv4Net, u32)> {
        self.aws.subnets.iter().map(|s| (s.id.as_str(), s.pool.cidr(), s.pool.free()))
    }

    /// The security groups with their rules; the first is the VPC's default group.
    #[must_use]
    pub fn security_groups(&self) -> &[SecurityGroup] {
        &self.aws.groups
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
}
