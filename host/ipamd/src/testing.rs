//! What this crate's tests put in the place of the kernel, of AWS and of the rest of the daemon.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reservoir_cloud::{BoxFuture, Cloud};
use reservoir_core::cloud::{
    Answer, AttachedInterface, CloudError, Device, ErrorKind, Instance, Interface, InterfaceAttachment, Request,
};
use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::kube::EniConfigKeys;
use reservoir_core::limits::InstanceLimits;
use reservoir_core::manager::{Command, Event, Journal, Manager, NotReady, Settings};
use reservoir_core::policy::{Family, Targets, Unit};
use reservoir_core::store::EniSpec;
use reservoir_kube::KubeConfig;
use reservoir_kube::testing::Objects;
use reservoir_net::Error;
use reservoir_net::repair::pods::{Checked, Pod};
use reservoir_net::repair::{Kind, Outcome, Repair};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::network::{HostNetwork, Repaired};
use crate::policy::{Policy, Sources};
use crate::pool::{Edges, Pool};

/// Writes down what it was to change; everything works but what was asked to fail.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    done: Mutex<Vec<String>>,
    failure: Mutex<Option<String>>,
    /// MAC addresses and indexes.
    links: Mutex<Vec<(String, u32)>>,
    harm: Mutex<Option<String>>,
    /// Who sets an interface up waits for it.
    gate: Mutex<Arc<Mutex<()>>>,
    look_gate: Mutex<Arc<Mutex<()>>>,
    /// Held: another program has the lock of iptables.
    iptables: Mutex<()>,
}

impl Recorded {
    /// No interface is set up while this is locked. Whoever waits for it holds it a third time.
    pub(crate) fn block_set_up(&self, gate: Arc<Mutex<()>>) {
        *self.gate.lock().unwrap() = gate;
    }

    /// No pods are looked at while this is locked. Whoever waits for it holds it a third time.
    pub(crate) fn block_look(&self, gate: Arc<Mutex<()>>) {
        *self.look_gate.lock().unwrap() = gate;
    }

    /// What was done since the last look.
    pub(crate) fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.done.lock().unwrap())
    }

    /// The kernel shows a link with this MAC address.
    pub(crate) fn show_link(&self, mac: &str, index: u32) {
        self.links.lock().unwrap().push((mac.to_owned(), index));
    }

    /// The next change fails.
    pub(crate) fn fail(&self, why: &str) {
        *self.failure.lock().unwrap() = Some(why.to_owned());
    }

    /// Somebody removes a rule of a pod.
    pub(crate) fn harm(&self, what: &str) {
        *self.harm.lock().unwrap() = Some(what.to_owned());
    }

    /// Another program takes the lock of iptables, tells so, and has it as long as the first of the answers lives.
    pub(crate) fn lock_iptables(self: &Arc<Self>) -> (Sender<()>, Receiver<()>) {
        let (release, released) = channel();
        let (took, taken) = channel();
        let network = self.clone();
        std::thread::spawn(move || {
            let _held = network.iptables.lock().unwrap();
            took.send(()).unwrap();
            let _ended = released.recv();
        });
        (release, taken)
    }

    fn note(&self, what: String) -> Result<(), String> {
        if let Some(why) = self.failure.lock().unwrap().take() {
            return Err(why);
        }
        self.done.lock().unwrap().push(what);
        Ok(())
    }
}

fn list(nets: &[Ipv4Net]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

impl HostNetwork for Recorded {
    fn set_up_host(&self, mac: &str, ip: Ipv4Addr, vpc: &[Ipv4Net]) -> Result<(), String> {
        self.note(format!("host {mac} {ip} {}", list(vpc)))
    }
    fn set_vpc_blocks(&self, vpc: &[Ipv4Net]) -> Result<(), String> {
        self.note(format!("vpc {}", list(vpc)))
    }
    fn set_up_eni(&self, eni: &EniSpec, subnet: IpNet) -> Result<u32, NotReady> {
        let gate = self.gate.lock().unwrap().clone();
        drop(gate.lock().unwrap());
        self.note(format!("eni {} {subnet}", eni.id))?;
        Ok(eni.table)
    }
    fn table(&self, eni: &EniSpec) -> Result<u32, String> {
        Ok(eni.table)
    }
    fn leave_eni(&self, eni: &EniSpec) -> Result<(), String> {
        self.note(format!("left {}", eni.id))
    }
    fn link_index(&self, mac: &str) -> Result<Option<u32>, String> {
        Ok(self.links.lock().unwrap().iter().find(|(m, _)| m == mac).map(|(_, index)| *index))
    }
    fn tear_down_eni(&self, eni: &EniSpec) -> Result<(), String> {
        self.note(format!("gone {}", eni.id))
    }
    fn links(&self) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }
    fn pods(&self) -> Result<Vec<(IpAddr, Option<String>)>, String> {
        Ok(Vec::new())
    }
    fn prune(&self, _: &[IpAddr]) {}
    fn refresh(&self, _: &[Ipv4Addr]) -> Result<(), String> {
        Ok(())
    }
    fn repair(&self) -> Repaired {
        let mut repaired = Repaired::default();
        if let Err(why) = self.note("repair".to_owned()) {
            repaired.outcome.unseen.push(Error::Invalid(why));
        }
        repaired
    }
    fn repair_firewall(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let _turn = self.iptables.lock().unwrap();
        if let Err(message) = self.note("iptables".to_owned()) {
            let repair = Repair { kind: Kind::Firewall, what: "iptables".to_owned() };
            outcome.failed.push((repair, Error::Held { program: "iptables-restore".to_owned(), message }));
        }
        outcome
    }
    fn check_pods(&self, pods: &[Pod], write: bool) -> Result<Checked, String> {
        let mut checked = Checked::default();
        if !write {
            let gate = self.look_gate.lock().unwrap().clone();
            drop(gate.lock().unwrap());
            self.note(format!("pods {}", pods.len()))?;
            checked.missing = usize::from(self.harm.lock().unwrap().is_some());
        } else if let Some(what) = self.harm.lock().unwrap().take() {
            self.note(format!("pods {} written: {what}", pods.len()))?;
            checked.outcome.done.push(Repair { kind: Kind::Rule, what });
        }
        Ok(checked)
    }
}

/// An AWS that tells the VPC's block and refuses all else.
#[derive(Debug)]
pub(crate) struct NoCloud;

impl Cloud for NoCloud {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Answer, CloudError>> {
        let api = request.api();
        let answer = match request {
            Request::VpcCidrs { family: Family::Ipv4, .. } => {
                Ok(Answer::VpcCidrs(vec!["10.0.0.0/16".parse().unwrap()]))
            }
            Request::VpcCidrs { .. } => Ok(Answer::VpcCidrs(vec!["2001:db8::/56".parse().unwrap()])),
            _ => Err(CloudError { api, kind: ErrorKind::Refused, code: "No".to_owned(), message: "no".to_owned() }),
        };
        Box::pin(async move { answer })
    }
}

/// The pool of a node with these network cards, each with one interface and two addresses for pods: 10.0.<card>.11 and
/// .12. Its checkpoints are written and time passes; its commands are not carried out, so it neither grows nor shrinks.
pub(crate) struct TestPool {
    pub(crate) pool: Arc<Pool>,
    pub(crate) objects: Objects,
    pub(crate) network: Arc<Recorded>,
    files: tempfile::TempDir,
}

impl TestPool {
    pub(crate) fn new(cards: &[u32]) -> Self {
        Self::make(settings(cards), false)
    }

    /// With one card, and these settings.
    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings(&[0]);
        change(&mut settings);
        Self::make(settings, false)
    }

    /// With the trunk interface [`TRUNK`] on card 0, whose link does not show.
    pub(crate) fn with_trunk() -> Self {
        Self::make(settings(&[0]), true)
    }

    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.files.path().join("ipam.json")
    }

    fn make(settings: Settings, trunk: bool) -> Self {
        let objects = Objects::new();
        let kube = KubeConfig { node_name: "n1".to_owned(), ..KubeConfig::default() };
        let files = tempfile::tempdir().unwrap();
        let (metrics, clock) = (Metrics::new("test"), Clock::start());
        let attached: Vec<_> = settings.cards.iter().map(|card| attached(*card)).collect();
        let mut manager = Manager::new(settings);
        let journal = Journal { managed: attached.iter().map(|i| i.eni.clone()).collect(), ..Journal::default() };
        manager.boot(clock.now(), &attached, journal);
        if trunk {
            tell_of_trunk(&mut manager, clock);
        }
        let network = Arc::new(Recorded::default());
        let edges = Edges {
            cloud: Arc::new(NoCloud),
            network: network.clone(),
            kubernetes: Arc::new(objects.cluster(&kube)),
            policy: Policy::new(Sources::default(), metrics.clone()),
            metrics,
            clock,
            checkpoint: files.path().join("ipam.json"),
        };
        let (pool, _commands) = Pool::new(manager, edges);
        let (writing, passing) = (pool.clone(), Arc::downgrade(&pool));
        std::thread::spawn(move || writing.write_checkpoints());
        // Time passes: who waits in vain is told.
        std::thread::spawn(move || {
            while let Some(pool) = passing.upgrade() {
                pool.tell(Event::PolicyChanged);
                drop(pool);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { pool, objects, network, files }
    }
}

impl Drop for TestPool {
    fn drop(&mut self) {
        self.pool.stop();
    }
}

/// A secondary interface of card 0.
pub(crate) fn spec(id: &str) -> EniSpec {
    EniSpec {
        id: id.to_owned(),
        mac: "02:00:00:00:00:09".to_owned(),
        card: 0,
        device_index: 1,
        subnet: "subnet-1".to_owned(),
        table: 2,
        address: Some(Ipv4Addr::new(10, 0, 0, 19).into()),
        primary: false,
        trunk: false,
        efa: false,
        excluded: false,
    }
}

/// MAC address of the trunk.
pub(crate) const TRUNK: &str = "02:00:00:00:00:03";

/// EC2 lists the primary interface and a trunk, which can be programmed, until nothing more is asked of it.
fn tell_of_trunk(manager: &mut Manager, clock: Clock) {
    loop {
        let commands = manager.take_commands();
        let answers = commands.into_iter().filter_map(|command| match command {
            Command::Cloud { job, request } => Some(Event::Cloud { job, result: listing(&request) }),
            Command::SetUpEni { job, .. } => Some(Event::EniReady { job, result: Ok(()) }),
            _ => None,
        });
        let answers: Vec<Event> = answers.collect();
        if answers.is_empty() {
            break;
        }
        answers.into_iter().for_each(|event| manager.handle(clock.now(), event));
    }
    assert!(manager.trunk().is_some(), "EC2 is not asked what is attached");
}

fn listing(request: &Request) -> Result<Answer, CloudError> {
    let enis = [("eni-0", "02:00:00:00:00:00", 0, "interface"), ("eni-trunk", TRUNK, 2, "trunk")];
    match request {
        Request::DescribeInstance { .. } => Ok(Answer::Devices(
            enis.iter()
                .map(|(eni, _, device_index, _)| Device {
                    eni: (*eni).to_owned(),
                    device_index: *device_index,
                    card: 0,
                })
                .collect(),
        )),
        Request::DescribeNetworkInterfaces { .. } => Ok(Answer::Interfaces(
            enis.iter()
                .map(|(eni, mac, device_index, interface_type)| Interface {
                    eni: (*eni).to_owned(),
                    mac: (*mac).to_owned(),
                    subnet: "subnet-1".to_owned(),
                    interface_type: (*interface_type).to_owned(),
                    description: String::new(),
                    status: "in-use".to_owned(),
                    tags: vec![],
                    security_groups: vec![],
                    primary: Some(Ipv4Addr::new(10, 0, 0, 10 + u8::try_from(*device_index).unwrap())),
                    // The pods' addresses of the primary interface, as IMDS shows them.
                    secondary: if *device_index == 0 { attached(0).secondary } else { vec![] },
                    prefixes: vec![],
                    ipv6: vec![],
                    ipv6_prefixes: vec![],
                    attachment: Some(InterfaceAttachment {
                        id: format!("attach-{eni}"),
                        device_index: *device_index,
                        card: 0,
                        delete_on_termination: true,
                        status: "attached".to_owned(),
                    }),
                    connection_tracking: None,
                })
                .collect(),
        )),
        Request::DescribeDetachedInterfaces { .. } => Ok(Answer::Interfaces(vec![])),
        other => Err(CloudError {
            api: other.api(),
            kind: ErrorKind::Refused,
            code: "No".to_owned(),
            message: "no".to_owned(),
        }),
    }
}

pub(crate) fn attached(card: u32) -> AttachedInterface {
    let last = |n: u8| Ipv4Addr::new(10, 0, u8::try_from(card).unwrap(), n);
    AttachedInterface {
        eni: format!("eni-{card}"),
        mac: format!("02:00:00:00:00:0{card}"),
        device_index: u32::from(card > 0),
        card,
        subnet: "subnet-1".to_owned(),
        subnet_cidr: Some("10.0.0.0/16".parse().unwrap()),
        primary: Some(last(10)),
        secondary: vec![last(11), last(12)],
        prefixes: vec![],
        subnet_ipv6_cidr: None,
        ipv6: vec![],
        ipv6_prefixes: vec![],
    }
}

pub(crate) fn settings(cards: &[u32]) -> Settings {
    let limits = InstanceLimits::of("c5.4xlarge").unwrap();
    Settings {
        instance: Instance {
            region: "us-west-2".to_owned(),
            availability_zone: "us-west-2a".to_owned(),
            local_ipv4: Ipv4Addr::new(10, 0, 0, 10),
            local_ipv6: None,
            instance_id: "i-1".to_owned(),
            instance_type: "c5.4xlarge".to_owned(),
            mac: "02:00:00:00:00:00".to_owned(),
            primary_eni: "eni-0".to_owned(),
            subnet: "subnet-1".to_owned(),
            vpc: "vpc-1".to_owned(),
        },
        cards: cards.to_vec(),
        max_enis: limits.enis,
        max_pods: 110,
        limits,
        family: Family::Ipv4,
        unit: Unit::Ip,
        custom_networking: false,
        eni_config_keys: EniConfigKeys::default(),
        pod_eni: false,
        trunk_compatible: true,
        manage_non_schedulable: false,
        targets: Targets { warm_enis: 1, warm_ips: 0, warm_prefixes: 0, minimum_ips: 0 },
        cooldown: Duration::from_secs(30),
        node_name: "n1".to_owned(),
        cluster_name: String::new(),
        additional_tags: Vec::new(),
        manage_untagged: true,
        subnet_discovery: true,
        provisioning: true,
        ec2: true,
        clean_up: true,
        add_wait: Duration::ZERO,
        seed: 1,
        booted: Duration::from_secs(3600),
    }
}
