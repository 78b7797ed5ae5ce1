//! Changes as values, and how a list of them is carried out.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use rustix::io::Errno;

use crate::error::Error;
use crate::mac::MacAddr;
use crate::prefix::IpPrefix;
use crate::rule::Rule;

/// In whose network namespace an operation happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Host,
    /// The pod's.
    Container,
}

/// A veth pair: made inside the pod, its peer born on the host. Making both in one place and moving one would
/// serialise all pod creations in the kernel (spec 04 §4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethPair {
    pub name: String,
    pub peer: String,
    /// Of the peer; udev leaves an address alone that was set at creation.
    pub peer_mac: MacAddr,
    pub mtu: u32,
}

/// A vlan device on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VlanDevice {
    pub name: String,
    /// The vlan: 1 to 4094.
    pub id: u16,
    pub mac: MacAddr,
    /// Index of the interface that carries it.
    pub parent: u32,
}

/// How far a destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Behind a gateway.
    Universe,
    /// On the link.
    Link,
    /// In a deletion: however far it is (spec 04 §19).
    Nowhere,
}

/// A unicast route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub destination: IpPrefix,
    pub table: u32,
    pub scope: Scope,
    pub device: Option<String>,
    pub gateway: Option<IpAddr>,
    /// Preferred source.
    pub source: Option<IpAddr>,
}

impl Route {
    /// `<destination> dev <device> scope link`.
    #[must_use]
    pub fn on_link(destination: IpPrefix, device: &str, table: u32) -> Self {
        Self { destination, table, scope: Scope::Link, device: Some(device.to_owned()), gateway: None, source: None }
    }

    /// `default via <gateway> dev <device>`.
    #[must_use]
    pub fn default_via(gateway: IpAddr, device: &str, table: u32) -> Self {
        let any: IpAddr = if gateway.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        Self {
            destination: IpPrefix::new(any, 0),
            table,
            scope: Scope::Universe,
            device: Some(device.to_owned()),
            gateway: Some(gateway),
            source: None,
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    LinkAddVeth(VethPair),
    LinkAddVlan(VlanDevice),
    LinkDel {
        device: String,
    },
    LinkUp {
        device: String,
    },
    LinkMtu {
        device: String,
        mtu: u32,
    },
    AddressAdd {
        device: String,
        address: IpPrefix,
    },
    AddressDel {
        device: String,
        address: IpPrefix,
    },
    RouteAdd(Route),
    RouteReplace(Route),
    RouteDel(Route),
    RuleAdd(Rule),
    RuleDel(Rule),
    /// A permanent neighbour entry.
    NeighbourAdd {
        device: String,
        address: IpAddr,
        mac: MacAddr,
    },
    Sysctl {
        key: String,
        value: &'static str,
    },
    /// Waits until no address of the device is tentative (duplicate address detection).
    WaitDad {
        device: String,
        timeout: Duration,
    },
}

/// Which refusals of the kernel are as good as success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerate {
    Nothing,
    Errors(&'static [Errno]),
    Anything,
}

/// One change, where it happens, and what its failure means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub op: Op,
    pub side: Side,
    pub tolerate: Tolerate,
    /// Do it again until the kernel refuses (deleting all of several equal rules).
    pub repeat: bool,
    /// How often it is tried in all.
    pub attempts: u32,
    /// What the error says was being done.
    pub context: String,
}

impl Step {
    #[must_use]
    pub fn host(op: Op) -> Self {
        Self { op, side: Side::Host, tolerate: Tolerate::Nothing, repeat: false, attempts: 1, context: String::new() }
    }

    #[must_use]
    pub fn container(op: Op) -> Self {
        Self { side: Side::Container, ..Self::host(op) }
    }

    #[must_use]
    pub fn tolerate(self, errors: &'static [Errno]) -> Self {
        Self { tolerate: Tolerate::Errors(errors), ..self }
    }

    #[must_use]
    pub fn tolerate_anything(self) -> Self {
        Self { tolerate: Tolerate::Anything, ..self }
    }

    #[must_use]
    pub fn until_absent(self) -> Self {
        Self { repeat: true, ..self.tolerate(&[Errno::NOENT]) }
    }

    #[must_use]
    pub fn attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        Self { context: context.into(), ..self }
    }

    fn tolerates(&self, errno: Errno) -> bool {
        match self.tolerate {
            Tolerate::Nothing => false,
            Tolerate::Errors(errors) => errors.contains(&errno),
            Tolerate::Anything => true,
        }
    }

    /// May share a message to the kernel with its neighbours.
    fn batchable(&self) -> bool {
        self.attempts == 1
            && !matches!(self.op, Op::LinkAddVeth(_) | Op::LinkAddVlan(_) | Op::Sysctl { .. } | Op::WaitDad { .. })
    }

    fn error(&self, errno: Errno) -> Error {
        let error = match &self.op {
            Op::WaitDad { device, timeout } if errno == Errno::TIMEDOUT => {
                Error::Tentative { device: device.clone(), seconds: timeout.as_secs() }
            }
            Op::WaitDad { .. } => Error::from_kernel(self.op.to_string(), errno).within("could not list addresses"),
            _ => Error::from_kernel(self.op.to_string(), errno),
        };
        error.within(self.context.clone())
    }
}

/// Carries steps out.
pub trait Executor {
    /// Does all of `steps`, also those after a failure, and tells the outcome of each. All are on one side.
    fn execute(&mut self, steps: &[Step]) -> Vec<Result<(), Errno>>;

    /// Waits before another attempt.
    fn sleep(&mut self, duration: Duration);
}

/// What a failure means for the rest of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Later steps need the earlier ones. Steps sent to the kernel in the same message still happen.
    Stop,
    /// Each step is good in itself; all failures are reported at the end.
    Continue,
}

/// Carries out a plan.
///
/// # Errors
/// The first failure, or with [`OnFailure::Continue`] all of them.
pub fn apply(steps: &[Step], executor: &mut impl Executor, on_failure: OnFailure) -> Result<(), Error> {
    let mut failures = Vec::new();
    let mut rest = steps;
    while let Some(first) = rest.first() {
        let together = if first.batchable() {
            rest.iter().take_while(|s| s.batchable() && s.side == first.side).count()
        } else {
            1
        };
        let (batch, later) = rest.split_at(together);
        rest = later;
        let outcomes = executor.execute(batch);
        for (index, step) in batch.iter().enumerate() {
            let outcome = outcomes.get(index).copied().unwrap_or(Err(Errno::IO));
            if let Err(errno) = finish(step, outcome, executor)
                && !step.tolerates(errno)
            {
                failures.push(step.error(errno));
                if on_failure == OnFailure::Stop {
                    return Error::collect(failures);
                }
            }
        }
    }
    Error::collect(failures)
}

/// Further attempts of a step that failed, further rounds of one that repeats.
fn finish(step: &Step, mut outcome: Result<(), Errno>, executor: &mut impl Executor) -> Result<(), Errno> {
    let once =
        |executor: &mut _| Executor::execute(executor, std::slice::from_ref(step)).pop().unwrap_or(Err(Errno::IO));
    for failed in 1..step.attempts {
        match outcome {
            Err(errno) if !step.tolerates(errno) => {
                executor.sleep(retry_wait(failed, MacAddr::random().map_or(0, |m| m.0[5])));
                outcome = once(executor);
            }
            _ => break,
        }
    }
    while step.repeat && outcome.is_ok() {
        outcome = once(executor);
    }
    outcome
}

/// The wait after the `failed`th attempt: 0.5, 1, 2, 4, 5, 5 … s, and up to 15 % on top (spec 04 §1).
#[must_use]
pub fn retry_wait(failed: u32, jitter: u8) -> Duration {
    let base = Duration::from_millis(500).saturating_mul(1 << failed.saturating_sub(1).min(8));
    let base = base.min(Duration::from_secs(5));
    base + base.mul_f64(0.15 * f64::from(jitter) / 255.0)
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Universe => "universe",
            Self::Link => "link",
            Self::Nowhere => "nowhere",
        })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(device) = &self.device {
            write!(f, " dev {device}")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        write!(f, " scope {} table {}", self.scope, self.table)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkAddVeth(v) => write!(f, "veth add {} peer {} mac {} mtu {}", v.name, v.peer, v.peer_mac, v.mtu),
            Self::LinkAddVlan(v) => write!(f, "vlan add {} id {} mac {} parent #{}", v.name, v.id, v.mac, v.parent),
            Self::LinkDel { device } => write!(f, "link delete {device}"),
            Self::LinkUp { device } => write!(f, "link set {device} up"),
            Self::LinkMtu { device, mtu } => write!(f, "link set {device} mtu {mtu}"),
            Self::AddressAdd { device, address } => write!(f, "address add {address} dev {device}"),
            Self::AddressDel { device, address } => write!(f, "address delete {address} dev {device}"),
            Self::RouteAdd(route) => write!(f, "route add {route}"),
            Self::RouteReplace(route) => write!(f, "route replace {route}"),
            Self::RouteDel(route) => write!(f, "route delete {route}"),
            Self::RuleAdd(rule) => write!(f, "rule add {rule}"),
            Self::RuleDel(rule) => write!(f, "rule delete {rule}"),
            Self::NeighbourAdd { device, address, mac } => write!(f, "neighbour add {address} at {mac} dev {device}"),
            Self::Sysctl { key, value } => write!(f, "sysctl {key}={value}"),
            Self::WaitDad { device, .. } => write!(f, "address wait dev {device}"),
        }
    }
}
