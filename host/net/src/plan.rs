//! Changes as values, and how a list of them is carried out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
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
    /// On this host.
    Host,
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
    /// Gives an interface another name. Kernels before 6.2 do that only while it is down: it then loses its routes.
    LinkRename {
        device: String,
        name: String,
    },
    AddressAdd {
        device: String,
        address: IpPrefix,
        scope: Scope,
        /// Of the subnet.
        broadcast: Option<Ipv4Addr>,
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

    /// The kernel could not at this moment, and says nothing about the next. What the step takes for success is none.
    fn is_transient(&self, errno: Errno) -> bool {
        let busy = [Errno::BUSY, Errno::AGAIN, Errno::NOBUFS, Errno::INTR].contains(&errno);
        busy && !matches!(self.tolerate, Tolerate::Errors(errors) if errors.contains(&errno))
    }

    /// May share a message to the kernel with its neighbours.
    fn batchable(&self) -> bool {
        self.attempts == 1
            && !matches!(
                self.op,
                Op::LinkAddVeth(_)
                    | Op::LinkAddVlan(_)
                    | Op::LinkRename { .. }
                    | Op::Sysctl { .. }
                    | Op::WaitDad { .. }
            )
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

/// The waits before further attempts of a step that the kernel was too busy for.
const TRANSIENT_WAITS: [Duration; 3] =
    [Duration::from_millis(2), Duration::from_millis(20), Duration::from_millis(100)];

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
    apply_telling(steps, executor, on_failure, |_| {})
}

/// As [`apply`]; `changed` hears of each step that changed something. A refusal that is as good as success has not.
///
/// # Errors
/// As `apply`.
pub fn apply_telling(
    steps: &[Step],
    executor: &mut impl Executor,
    on_failure: OnFailure,
    mut changed: impl FnMut(&Step),
) -> Result<(), Error> {
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
        // A step that came late may be what others of its message needed.
        let mut late = false;
        for (index, step) in batch.iter().enumerate() {
            let mut outcome = outcomes.get(index).copied().unwrap_or(Err(Errno::IO));
            if late && outcome.is_err() {
                outcome = once(step, executor);
            }
            let busy = outcome.is_err_and(|errno| step.is_transient(errno));
            let outcome = tried(step, outcome, executor);
            late |= busy && outcome.is_ok();
            let last = if outcome.is_ok() {
                changed(step);
                repeated(step, executor)
            } else {
                outcome
            };
            if let Err(errno) = last
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

/// Further attempts of a step that failed.
fn tried(step: &Step, outcome: Result<(), Errno>, executor: &mut impl Executor) -> Result<(), Errno> {
    let mut outcome = not_transient(step, outcome, executor);
    for failed in 1..step.attempts {
        match outcome {
            Err(errno) if !step.tolerates(errno) => {
                executor.sleep(retry_wait(failed, MacAddr::random().map_or(0, |m| m.0[5])));
                outcome = once(step, executor);
            }
            _ => break,
        }
    }
    outcome
}

/// Further rounds of a step that repeats.
fn repeated(step: &Step, executor: &mut impl Executor) -> Result<(), Errno> {
    let mut outcome = Ok(());
    while step.repeat && outcome.is_ok() {
        let again = once(step, executor);
        outcome = not_transient(step, again, executor);
    }
    outcome
}

/// Tries again, after short waits, what the kernel was only too busy for.
fn not_transient(step: &Step, mut outcome: Result<(), Errno>, executor: &mut impl Executor) -> Result<(), Errno> {
    for wait in TRANSIENT_WAITS {
        match outcome {
            Err(errno) if step.is_transient(errno) => {
                executor.sleep(wait);
                outcome = once(step, executor);
            }
            _ => break,
        }
    }
    outcome
}

fn once(step: &Step, executor: &mut impl Executor) -> Result<(), Errno> {
    executor.execute(std::slice::from_ref(step)).pop().unwrap_or(Err(Errno::IO))
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
            Self::Host => "host",
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
            Self::LinkRename { device, name } => write!(f, "link set {device} name {name}"),
            Self::AddressAdd { device, address, .. } => write!(f, "address add {address} dev {device}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers from a list, then with success; remembers what was asked.
    #[derive(Default)]
    struct Scripted {
        answers: Vec<Result<(), Errno>>,
        asked: Vec<String>,
        waits: usize,
    }

    impl Executor for Scripted {
        fn execute(&mut self, steps: &[Step]) -> Vec<Result<(), Errno>> {
            self.asked.extend(steps.iter().map(|step| step.op.to_string()));
            steps.iter().map(|_| if self.answers.is_empty() { Ok(()) } else { self.answers.remove(0) }).collect()
        }

        fn sleep(&mut self, _: Duration) {
            self.waits += 1;
        }
    }

    fn up(device: &str) -> Step {
        Step::host(Op::LinkUp { device: device.to_owned() })
    }

    fn run(steps: &[Step], answers: &[Result<(), Errno>]) -> (Result<(), String>, Vec<String>, usize) {
        let mut executor = Scripted { answers: answers.to_vec(), ..Scripted::default() };
        let outcome = apply(steps, &mut executor, OnFailure::Stop).map_err(|error| error.to_string());
        (outcome, executor.asked, executor.waits)
    }

    #[test]
    fn what_the_kernel_was_too_busy_for_is_tried_again() {
        for errno in [Errno::BUSY, Errno::AGAIN, Errno::NOBUFS, Errno::INTR] {
            let (outcome, asked, waits) = run(&[up("a")], &[Err(errno), Err(errno)]);
            assert_eq!((outcome, asked.len(), waits), (Ok(()), 3, 2), "{errno}");
            let (outcome, asked, _) = run(&[up("a")], &[Err(errno); 4]);
            assert!(outcome.is_err() && asked.len() == 4, "{errno}: not for ever");
        }
        let (outcome, asked, waits) = run(&[up("a")], &[Err(Errno::NOSPC)]);
        assert!(outcome.is_err() && asked.len() == 1 && waits == 0, "any other word is the last");
    }

    #[test]
    fn what_needed_a_late_step_is_done_after_it() {
        let steps = [up("a"), up("b"), up("c")];
        let (outcome, asked, _) = run(&steps, &[Err(Errno::BUSY), Err(Errno::NETDOWN), Ok(())]);
        assert_eq!(outcome, Ok(()));
        let devices: Vec<&str> = asked.iter().filter_map(|text| text.split(' ').nth(2)).collect();
        assert_eq!(devices, ["a", "b", "c", "a", "b"]);
    }

    #[test]
    fn only_what_changed_something_is_told() {
        let told = |step: Step, answers: &[Result<(), Errno>]| {
            let mut executor = Scripted { answers: answers.to_vec(), ..Scripted::default() };
            let mut changed = 0;
            let outcome = apply_telling(&[step], &mut executor, OnFailure::Stop, |_| changed += 1);
            (outcome.is_ok(), changed)
        };
        assert_eq!(told(up("a"), &[Ok(())]), (true, 1));
        assert_eq!(told(up("a"), &[Err(Errno::NODEV)]), (false, 0));
        assert_eq!(told(up("a").tolerate(&[Errno::NODEV]), &[Err(Errno::NODEV)]), (true, 0));
        assert_eq!(told(up("a").tolerate_anything(), &[Err(Errno::NODEV)]), (true, 0));
        let all = || up("a").until_absent();
        assert_eq!(told(all(), &[Err(Errno::NOENT)]), (true, 0));
        assert_eq!(told(all(), &[Ok(()), Ok(()), Err(Errno::NOENT)]), (true, 1), "however often");
        assert_eq!(told(all(), &[Ok(()), Err(Errno::PERM)]), (false, 1));
    }

    #[test]
    fn busy_that_counts_as_success_is_success() {
        let tolerant = up("a").tolerate(&[Errno::BUSY]);
        assert_eq!(run(std::slice::from_ref(&tolerant), &[Err(Errno::BUSY)]).1.len(), 1);
        // "Whatever happens" does not mean that nothing need happen.
        assert_eq!(run(&[up("a").tolerate_anything()], &[Err(Errno::BUSY)]).1.len(), 2);
    }
}
