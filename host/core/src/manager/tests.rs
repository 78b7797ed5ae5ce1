//! The manager under virtual time, against a small cloud that obeys a few of EC2's rules and fails on request. The
//! policy is a few lines here: hold what waits and `warm` more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::cloud::{
    Answer, AttachedInterface, CloudError, CreateInterface, Device, ErrorKind, Instance, Interface,
    InterfaceAttachment, Request, SubnetFacts,
};
use crate::ip::{IpNet, Ipv4Net};
use crate::kube::{EniConfig, EniConfigKeys, Feature, NodeFacts};
use crate::limits::InstanceLimits;
use crate::policy::{Assign, CreateEni, EniTrait, Family, Growth, Node, Plan, Targets, Unit};
use crate::store::{Assigned, Error as StoreError, Key, PodMeta};

mod cards;
mod ipv6;
mod kubernetes;
mod prefixes;
mod races;
mod readiness;
mod reconcile;

const SLOTS: u32 = 3;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Everything around the manager: a queue of events and the clock.
struct World {
    m: Manager,
    at: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    ec2: Ec2,
    warm: u32,
    release_all: bool,
    answers: BTreeMap<WaiterId, Result<String, Refusal>>,
    calls: Vec<String>,
    journal: Journal,
    logs: Vec<String>,
    policy_is_silent: bool,
    /// What the policy asks for where it is not the node's unit.
    other_unit: Option<Unit>,
    set_up_fails: bool,
    eni_config: Result<EniConfig, String>,
    announcing: Result<(), String>,
    announced: Vec<Feature>,
    tagged: BTreeSet<String>,
    decisions: u32,
    /// Blocks of the subnets of interfaces that were programmed.
    programmed: Vec<String>,
    torn_down: Vec<String>,
    reconciled: HashMap<Reconciled, u64>,
    /// Checkpoints that were to be written without anybody waiting.
    rewritten: usize,
}

/// EC2: one subnet, interfaces with addresses.
#[derive(Default)]
struct Ec2 {
    free: u32,
    next: u32,
    /// The card of those that are not on card 0.
    cards: BTreeMap<String, u32>,
    /// The subnets of those that are not in subnet-1.
    subnets: BTreeMap<String, String>,
    /// What interfaces were made with: subnet and groups.
    made: Vec<(String, Vec<String>)>,
    trunk: Option<String>,
    /// Types of those that are neither trunk nor ordinary.
    types: BTreeMap<String, &'static str>,
    /// /28s on interfaces, and how many the subnet still has.
    prefixes: BTreeMap<String, BTreeSet<Ipv4Net>>,
    free_prefixes: u32,
    /// The subnet's IPv6 block, if it has one; own address and prefixes of interfaces.
    subnet_ipv6: Option<IpNet>,
    ipv6: BTreeMap<String, (Ipv6Addr, Vec<IpNet>)>,
    /// Id to (attached device, secondary addresses).
    enis: BTreeMap<String, (Option<u32>, BTreeSet<Ipv4Addr>)>,
    faults: VecDeque<(&'static str, ErrorKind)>,
    /// Tags of a subnet-2, if there is one.
    second_subnet: Option<Vec<(String, String)>>,
    /// Tags of subnet-1.
    subnet_tags: Vec<(String, String)>,
    /// Security groups: the primary's by IMDS, and those of interfaces that do not have sg-1.
    primary_groups: Option<Vec<String>>,
    groups: BTreeMap<String, Vec<String>>,
    /// What was asked for under each client token.
    tokens: BTreeMap<String, CreateInterface>,
    /// When those were created that were not created long ago; None: nobody knows.
    created: BTreeMap<String, Option<String>>,
    /// What IMDS still shows although it is gone.
    stale: Vec<AttachedInterface>,
}

impl Ec2 {
    fn address(&mut self) -> Ipv4Addr {
        self.free -= 1;
        self.next += 1;
        Ipv4Addr::from(0x0a00_0000 + self.next)
    }

    fn prefix(&mut self) -> Ipv4Net {
        self.free_prefixes -= 1;
        self.next += 1;
        Ipv4Net::new(Ipv4Addr::from(0x0a01_0000 + self.next * 16), 28)
    }

    /// An interface's own address.
    fn primary(&self, id: &str) -> Option<Ipv4Addr> {
        (self.types.get(id) != Some(&"efa-only")).then_some(Ipv4Addr::new(10, 0, 9, 9))
    }

    fn slots_used(&self, id: &str) -> u32 {
        (self.enis[id].1.len() + self.prefixes.get(id).map_or(0, BTreeSet::len)) as u32
    }

    fn ipv6_prefix(&mut self, id: &str) -> IpNet {
        self.next += 1;
        let net = IpNet::new(Ipv6Addr::from((0x2001_0db8_0000_0001 << 64) | (u128::from(self.next) << 48)).into(), 80);
        self.ipv6.get_mut(id).unwrap().1.push(net);
        net
    }

    fn ipv6_of(&self, id: &str) -> (Vec<Ipv6Addr>, Vec<IpNet>) {
        self.ipv6.get(id).map(|(own, prefixes)| (vec![*own], prefixes.clone())).unwrap_or_default()
    }

    /// All blocks of an interface.
    fn blocks(&self, id: &str) -> Vec<IpNet> {
        let singles = self.enis[id].1.iter().map(|a| Ipv4Net::host(*a).into());
        singles.chain(self.prefixes.get(id).into_iter().flatten().map(|p| IpNet::from(*p))).collect()
    }

    fn subnet(&self, id: &str) -> String {
        self.subnets.get(id).map_or("subnet-1", String::as_str).to_owned()
    }

    fn card(&self, id: &str) -> u32 {
        self.cards.get(id).copied().unwrap_or(0)
    }

    fn interface(&self, id: &str) -> Interface {
        let (device, secondary) = &self.enis[id];
        Interface {
            eni: id.to_owned(),
            mac: String::new(),
            subnet: self.subnet(id),
            interface_type: match self.types.get(id) {
                _ if self.trunk.as_deref() == Some(id) => "trunk",
                other => other.copied().unwrap_or("interface"),
            }
            .to_owned(),
            description: "aws-K8S-i-1".to_owned(),
            status: if device.is_some() { "in-use" } else { "available" }.to_owned(),
            tags: self
                .created
                .get(id)
                .cloned()
                .unwrap_or_else(|| Some("1970-01-01T00:00:00Z".to_owned()))
                .map(|at| ("node.k8s.amazonaws.com/createdAt".to_owned(), at))
                .into_iter()
                .collect(),
            security_groups: self.groups.get(id).cloned().unwrap_or_else(|| vec!["sg-1".to_owned()]),
            primary: self.primary(id),
            secondary: secondary.iter().copied().collect(),
            prefixes: self.prefixes.get(id).into_iter().flatten().copied().collect(),
            ipv6: self.ipv6_of(id).0,
            ipv6_prefixes: self.ipv6_of(id).1,
            attachment: device.map(|device_index| InterfaceAttachment {
                id: format!("attach-{id}"),
                device_index,
                card: self.card(id),
                delete_on_termination: true,
                status: "attached".to_owned(),
            }),
            connection_tracking: None,
        }
    }

    fn call(&mut self, request: &Request) -> Result<Answer, CloudError> {
        let error =
            |kind| Err(CloudError { api: request.api(), kind, code: format!("{kind:?}"), message: String::new() });
        if let Request::CreateNetworkInterface(c) = request {
            let before = self.tokens.entry(c.client_token.clone()).or_insert_with(|| c.clone());
            assert_eq!(before, c, "IdempotentParameterMismatch");
        }
        if self.faults.front().is_some_and(|(api, _)| *api == request.api()) {
            let (_, kind) = self.faults.pop_front().unwrap();
            return error(kind);
        }
        match request {
            Request::PrimarySecurityGroups { .. } => {
                Ok(Answer::SecurityGroups(self.primary_groups.clone().unwrap_or_else(|| vec!["sg-1".to_owned()])))
            }
            Request::SetSecurityGroups { eni, groups } => {
                self.groups.insert(eni.clone(), groups.clone());
                Ok(Answer::Done)
            }
            Request::DescribeSubnets { .. } => {
                let subnet = |id: &str, cidr: &str, tags: &[(String, String)]| SubnetFacts {
                    id: id.to_owned(),
                    cidr: Some(cidr.parse().unwrap()),
                    ipv6_cidr: self.subnet_ipv6,
                    free_ips: self.free,
                    tags: tags.to_vec(),
                };
                let mut list = vec![subnet("subnet-1", "10.0.0.0/20", &self.subnet_tags)];
                list.extend(self.second_subnet.as_ref().map(|tags| subnet("subnet-2", "100.64.0.0/24", tags)));
                Ok(Answer::Subnets(list))
            }
            Request::AssignPrivateIpAddresses { eni, .. } if eni == "eni-bad" => error(ErrorKind::Refused),
            Request::AssignPrivateIpAddresses { eni, unit, count } => {
                if self.slots_used(eni) + count > SLOTS {
                    return error(ErrorKind::AddressLimit);
                }
                if *unit == Unit::Prefix {
                    if self.free_prefixes < *count {
                        return error(ErrorKind::NoFreePrefix);
                    }
                    let prefixes: Vec<Ipv4Net> = (0..*count).map(|_| self.prefix()).collect();
                    self.prefixes.entry(eni.clone()).or_default().extend(&prefixes);
                    return Ok(Answer::Assigned { addresses: vec![], prefixes });
                }
                if self.free < *count {
                    return error(ErrorKind::NoFreeAddress);
                }
                let addresses: Vec<Ipv4Addr> = (0..*count).map(|_| self.address()).collect();
                self.enis.get_mut(eni).unwrap().1.extend(&addresses);
                Ok(Answer::Assigned { addresses, prefixes: vec![] })
            }
            Request::CreateNetworkInterface(c) => {
                assert!(!c.security_groups.is_empty() && c.tags.is_sorted(), "{c:?}");
                let (singles, prefixes) = if c.unit == Unit::Ip { (c.count, 0) } else { (0, c.count) };
                if self.free < singles + 1 {
                    return error(ErrorKind::NoFreeAddress);
                }
                if self.free_prefixes < prefixes {
                    return error(ErrorKind::NoFreePrefix);
                }
                self.free -= 1;
                self.next += 1;
                self.made.push((c.subnet.clone(), c.security_groups.clone()));
                let addresses = (0..singles).map(|_| self.address()).collect();
                let id = format!("eni-{}", self.next);
                let created = c.tags.iter().find(|(k, _)| k == "node.k8s.amazonaws.com/createdAt");
                self.created.insert(id.clone(), created.map(|(_, at)| at.clone()));
                if c.subnet != "subnet-1" {
                    self.subnets.insert(id.clone(), c.subnet.clone());
                }
                let prefixes = (0..prefixes).map(|_| self.prefix()).collect();
                self.prefixes.insert(id.clone(), prefixes);
                if c.ipv6_addresses > 0 {
                    assert!(self.subnet_ipv6.is_some(), "the subnet has no IPv6");
                    self.ipv6.insert(id.clone(), (Ipv6Addr::from(u128::from(self.next)), vec![]));
                }
                self.enis.insert(id.clone(), (None, addresses));
                Ok(Answer::Interfaces(vec![self.interface(&id)]))
            }
            Request::AttachNetworkInterface { eni, device_index, card, .. } => {
                if self.enis.iter().any(|(id, (d, _))| *d == Some(*device_index) && self.card(id) == *card) {
                    return error(ErrorKind::InUse);
                }
                self.enis.get_mut(eni).unwrap().0 = Some(*device_index);
                self.cards.insert(eni.clone(), *card);
                Ok(Answer::Attachment { id: format!("attach-{eni}") })
            }
            Request::DetachNetworkInterface { attachment } => {
                let eni = attachment.strip_prefix("attach-").unwrap();
                match self.enis.get_mut(eni) {
                    Some((device, _)) => *device = None,
                    None => return error(ErrorKind::NotFound),
                }
                Ok(Answer::Done)
            }
            Request::DeleteNetworkInterface { eni } => match self.enis.remove(eni) {
                Some((None, secondary)) => {
                    self.free += secondary.len() as u32 + 1;
                    Ok(Answer::Done)
                }
                Some(attached) => {
                    self.enis.insert(eni.clone(), attached);
                    error(ErrorKind::InUse)
                }
                None => error(ErrorKind::NotFound),
            },
            Request::UnassignPrivateIpAddresses { eni, addresses, prefixes } => {
                for prefix in prefixes {
                    assert!(self.prefixes.get_mut(eni).unwrap().remove(prefix), "{prefix} is not on {eni}");
                    self.free_prefixes += 1;
                }
                let held = &mut self.enis.get_mut(eni).unwrap().1;
                for address in addresses {
                    assert!(held.remove(address), "{address} is not on {eni}");
                    self.free += 1;
                }
                Ok(Answer::Done)
            }
            Request::DescribeInstance { .. } => Ok(Answer::Devices(
                self.enis
                    .iter()
                    .filter_map(|(id, (d, _))| {
                        Some(Device { eni: id.clone(), device_index: (*d)?, card: self.card(id) })
                    })
                    .collect(),
            )),
            Request::DescribeNetworkInterfaces { ids } => {
                if ids.iter().any(|id| !self.enis.contains_key(id)) {
                    return error(ErrorKind::NotFound);
                }
                Ok(Answer::Interfaces(ids.iter().map(|id| self.interface(id)).collect()))
            }
            Request::DescribeDetachedInterfaces { .. } => {
                let loose = self.enis.iter().filter(|(_, (d, _))| d.is_none());
                Ok(Answer::Interfaces(loose.map(|(id, _)| self.interface(id)).collect()))
            }
            Request::AssignIpv6Prefix { eni } => Ok(Answer::Ipv6Prefixes(vec![self.ipv6_prefix(eni)])),
            Request::AttachedInterfaces => Ok(Answer::Attached(self.attached())),
            Request::CreateTags { .. } | Request::SetDeleteOnTermination { .. } => Ok(Answer::Done),
            other => panic!("{other:?}"),
        }
    }

    fn attached(&self) -> Vec<AttachedInterface> {
        let attached = self.enis.iter().filter_map(|(id, (device, secondary))| {
            Some(AttachedInterface {
                eni: id.clone(),
                mac: String::new(),
                device_index: (*device)?,
                card: self.card(id),
                subnet: self.subnet(id),
                subnet_cidr: Some(
                    if self.subnets.contains_key(id) { "100.64.0.0/24" } else { "10.0.0.0/20" }.parse().unwrap(),
                ),
                primary: self.primary(id),
                secondary: secondary.iter().copied().collect(),
                prefixes: self.prefixes.get(id).into_iter().flatten().copied().collect(),
                subnet_ipv6_cidr: self.subnet_ipv6,
                ipv6: self.ipv6_of(id).0,
                ipv6_prefixes: self.ipv6_of(id).1,
            })
        });
        let real = attached.filter(|i: &AttachedInterface| !self.stale.iter().any(|s| s.eni == i.eni));
        real.chain(self.stale.iter().cloned()).collect()
    }
}

fn shown(list: &[Assigned]) -> String {
    list.iter().map(|a| a.ip.to_string()).collect::<Vec<_>>().join(" ")
}

fn settings() -> Settings {
    let text = |s: &str| s.to_owned();
    Settings {
        instance: Instance {
            region: text("r"),
            availability_zone: text("ra"),
            local_ipv4: Ipv4Addr::new(10, 0, 9, 9),
            local_ipv6: None,
            instance_id: text("i-1"),
            instance_type: text("t"),
            mac: text("02:00:00:00:00:00"),
            primary_eni: text("eni-0"),
            subnet: text("subnet-1"),
            vpc: text("vpc-1"),
        },
        limits: InstanceLimits {
            enis: 3,
            ipv4_per_eni: SLOTS + 1,
            default_card: 0,
            hypervisor: crate::limits::Hypervisor::Nitro,
            bare_metal: false,
            cards: vec![],
        },
        cards: vec![0],
        max_enis: 3,
        max_pods: 110,
        family: Family::Ipv4,
        unit: Unit::Ip,
        custom_networking: false,
        eni_config_keys: EniConfigKeys::default(),
        pod_eni: false,
        trunk_compatible: true,
        manage_non_schedulable: false,
        targets: Targets::default(),
        cooldown: Duration::from_secs(30),
        node_name: String::new(),
        cluster_name: String::new(),
        additional_tags: vec![],
        manage_untagged: true,
        subnet_discovery: true,
        provisioning: true,
        ec2: true,
        clean_up: true,
        add_wait: Duration::from_secs(8),
        seed: 1,
        booted: Duration::ZERO,
    }
}

impl World {
    /// A fresh node: the primary interface alone, `free` addresses in the subnet.
    fn new(free: u32, warm: u32) -> Self {
        let mut ec2 = Ec2 { free, ..Ec2::default() };
        ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
        Self::on(ec2, warm, Journal::default())
    }

    fn on(ec2: Ec2, warm: u32, journal: Journal) -> Self {
        Self::with(settings(), ec2, warm, journal)
    }

    fn with(settings: Settings, ec2: Ec2, warm: u32, journal: Journal) -> Self {
        let mut m = Manager::new(settings);
        m.boot(Now { mono: Duration::ZERO, unix: Duration::from_secs(960_000_000) }, &ec2.attached(), journal);
        let mut world = Self {
            m,
            at: Duration::ZERO,
            queue: BTreeMap::new(),
            sequence: 0,
            ec2,
            warm,
            release_all: false,
            answers: BTreeMap::new(),
            calls: vec![],
            journal: Journal::default(),
            logs: vec![],
            policy_is_silent: false,
            other_unit: None,
            set_up_fails: false,
            eni_config: Err("eniconfig: eniconfig is not available".to_owned()),
            announcing: Ok(()),
            announced: vec![],
            tagged: BTreeSet::new(),
            decisions: 0,
            programmed: vec![],
            torn_down: vec![],
            reconciled: HashMap::new(),
            rewritten: 0,
        };
        world.commands();
        world
    }

    fn now(&self) -> Now {
        Now { mono: self.at, unix: Duration::from_secs(960_000_000) + self.at }
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.at + ms(delay), self.sequence), event);
    }

    fn commands(&mut self) {
        for command in self.m.take_commands() {
            match command {
                Command::Decide { node } => {
                    self.decisions += 1;
                    let plan = (!self.policy_is_silent).then(|| self.policy(&node));
                    let decided = Decided {
                        node,
                        plan,
                        targets: vec![],
                        reason: "test".to_owned(),
                        wake_after: None,
                        refresh_subnets: false,
                    };
                    self.later(1, Event::Decided(Box::new(decided)));
                }
                Command::Rank { job, node, .. } => {
                    let subnets = Ok(node.subnets.iter().map(|s| s.id.clone()).collect());
                    self.later(1, Event::Ranked { job, subnets });
                }
                Command::Cloud { job, request } => {
                    self.calls.push(request.api().to_owned());
                    if let Request::CreateTags { resource, .. } = &request {
                        self.tagged.insert(resource.clone());
                    }
                    let delay = match request {
                        Request::CreateNetworkInterface(_) => 500,
                        Request::AttachNetworkInterface { .. } => 1000,
                        Request::AssignPrivateIpAddresses { .. } => 300,
                        Request::UnassignPrivateIpAddresses { .. } => 2000,
                        _ => 10,
                    };
                    let result = self.ec2.call(&request);
                    self.later(delay, Event::Cloud { job, result });
                }
                Command::SetUpEni { job, subnet_cidr, .. } => {
                    self.programmed.push(subnet_cidr.to_string());
                    let result = if self.set_up_fails { Err("no link".to_owned()) } else { Ok(()) };
                    self.later(50, Event::EniReady { job, result });
                }
                Command::Resolve { waiter, outcome } => {
                    self.answers.insert(waiter, outcome.map(|list| shown(&list)));
                }
                Command::EniConfig { job } => {
                    let result = self.eni_config.clone();
                    self.later(5, Event::EniConfig { job, result });
                }
                Command::Announce(feature) => {
                    self.announced.push(feature.clone());
                    self.later(5, Event::Announced { feature, result: self.announcing.clone() });
                }
                Command::Journal(journal) => self.journal = journal,
                Command::Log { text, .. } => self.logs.push(text),
                Command::Reconciled { what, items } => *self.reconciled.entry(what).or_default() += items,
                Command::Changed(changes) => self.rewritten += changes.len(),
                Command::TearDownEni { eni } => self.torn_down.push(eni.id),
                Command::Record(_) | Command::Count(_) => {}
            }
        }
    }

    /// Grows each card by what is missing, on what is there before on something new; releases all that is free if told so.
    fn policy(&self, node: &Node) -> Plan {
        let mut plan = Plan::default();
        let unit = self.other_unit.unwrap_or(node.unit);
        let size = if unit == Unit::Prefix { 16 } else { 1 };
        for card in &node.cards {
            let warm = if card.index == 0 { self.warm } else { card.configured.warm_ips };
            let enis = || node.enis.iter().filter(|e| e.card == card.index);
            let free: u32 = enis()
                .flat_map(|e| &e.cidrs)
                .filter(|c| c.serving || c.unit == node.unit)
                .map(|c| c.size - c.assigned - c.cooling)
                .sum();
            let wanted = card.waiting + warm;
            let missing = wanted.saturating_sub(free + card.ips_in_flight).div_ceil(size);
            if missing > 0 {
                for eni in enis().filter(|e| !e.traits.has(EniTrait::Closed)) {
                    let count = missing.min(SLOTS - eni.cidrs.len() as u32);
                    if count > 0 {
                        plan.grow.push(Growth::Assign(Assign { eni: eni.id.clone(), unit, count }));
                    }
                }
                let (card, count) = (card.index, missing.min(SLOTS));
                plan.grow.push(Growth::CreateEni(CreateEni { card, unit, count }));
            } else if self.release_all {
                plan.release.extend(enis().flat_map(|e| &e.cidrs).filter(|c| c.assigned == 0).map(|c| c.id));
                plan.remove.extend(enis().filter(|e| !e.traits.has(EniTrait::Primary)).map(|e| e.id.clone()));
            }
        }
        plan
    }

    /// Lets time pass until nothing more happens before `until`.
    fn run(&mut self, seconds: u64) {
        self.run_ms(seconds * 1000);
    }

    fn run_ms(&mut self, millis: u64) {
        let end = self.at + ms(millis);
        loop {
            let event = self.queue.keys().next().map(|(at, _)| *at);
            let next = self.m.next_deadline(self.now()).max(self.at).min(event.unwrap_or(end));
            if next >= end {
                self.at = end;
                return;
            }
            self.at = next;
            if event == Some(next) {
                let (_, event) = self.queue.pop_first().unwrap();
                self.m.handle(self.now(), event);
            } else {
                self.m.tick(self.now());
            }
            self.commands();
        }
    }

    fn add(&mut self, pod: &str) -> Result<String, WaiterId> {
        self.add_wanting(pod, Wanted::One)
    }

    fn add_wanting(&mut self, pod: &str, wanted: Wanted) -> Result<String, WaiterId> {
        let now = self.now();
        let added = self.m.add(now, &Key::new("n", pod, "eth0"), &PodMeta::default(), wanted);
        self.commands();
        match added {
            Add::Assigned(list) => Ok(shown(&list)),
            Add::Waiting(id) => Err(id),
            Add::Refused(refusal) => panic!("{refusal}"),
        }
    }

    fn del(&mut self, pod: &str) {
        let now = self.now();
        self.m.del(now, &Key::new("n", pod, "eth0")).unwrap();
        self.commands();
    }

    /// What the pod holds.
    fn lookup(&self, pod: &str) -> Option<String> {
        let held = self.m.lookup(&Key::new("n", pod, "eth0"));
        (!held.is_empty()).then(|| shown(&held))
    }

    fn count(&self, api: &str) -> usize {
        self.calls.iter().filter(|c| *c == api).count()
    }

    /// What must hold whenever nothing is under way.
    fn check(&self) {
        let attached = self.ec2.enis.iter().filter(|(_, (d, _))| d.is_some());
        let held: BTreeSet<String> =
            attached.flat_map(|(id, _)| self.ec2.blocks(id)).map(|net| net.to_string()).collect();
        let ours: BTreeSet<String> = self
            .m
            .cards()
            .enis()
            .flat_map(|(e, _)| self.m.cards().cidrs(&e.id, self.at).map(|c| c.net.to_string()))
            .collect();
        assert_eq!(ours, held, "the store and EC2 agree");
        assert!(self.ec2.enis.values().all(|(d, _)| d.is_some()), "nothing is left behind");
        let pods: Vec<_> = self.m.cards().assignments().map(|(ip, _)| ip).collect();
        assert_eq!(pods.iter().collect::<BTreeSet<_>>().len(), pods.len(), "no address twice");
    }
}

#[test]
fn a_fresh_node_fills_up_to_what_the_policy_wants() {
    let mut w = World::new(100, 2);
    w.run(5);
    assert_eq!(w.m.cards().stats(w.at).total, 2);
    assert_eq!(w.count("AssignPrivateIpAddresses"), 1);
    w.check();
    let calls = w.calls.len();
    w.run(500);
    assert!(w.calls[calls..].iter().all(|c| c == "GetSecurityGroupIDs"), "a settled node calls EC2 no more");
    assert!(w.calls.len() - calls <= 9, "one read of IMDS a minute: {:?}", &w.calls[calls..]);
}

#[test]
fn waiting_pods_are_served_in_order_and_interfaces_come_at_the_same_time() {
    let mut w = World::new(100, 0);
    w.run(1);
    let ids: Vec<WaiterId> = (0..8).map(|i| w.add(&i.to_string()).unwrap_err()).collect();
    w.run(4);
    let got: Vec<String> = ids.iter().map(|id| w.answers[id].clone().unwrap()).collect();
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), 8);
    assert_eq!(w.count("CreateNetworkInterface"), 2);
    // 3 on the primary, then two interfaces made side by side: 0.5 s + 1 s + set-up, not twice that.
    assert_eq!(w.m.waiting(), 0);
    w.check();
}

#[test]
fn the_limit_of_the_node_is_named_at_once() {
    let mut w = World::new(100, 0);
    w.run(1);
    let ids: Vec<WaiterId> = (0..10).map(|i| w.add(&i.to_string()).unwrap_err()).collect();
    w.run(5);
    let refused: Vec<_> = ids.iter().filter_map(|id| w.answers[id].clone().err()).collect();
    assert_eq!(refused, [Refusal::EniLimit { enis: 3, ips: 9 }]);
    let start = w.at;
    let id = w.add("one more").unwrap_err();
    w.run(1);
    assert!(w.answers[&id].is_err() && w.at - start <= Duration::from_secs(1), "it does not wait for nothing");
    w.check();
}

#[test]
fn a_full_subnet_gives_what_it_has_and_is_named() {
    let mut w = World::new(5, 0);
    w.run(1);
    let ids: Vec<WaiterId> = (0..8).map(|i| w.add(&i.to_string()).unwrap_err()).collect();
    w.run(7);
    let (served, refused): (Vec<_>, Vec<_>) = ids.iter().map(|id| w.answers[id].clone()).partition(Result::is_ok);
    // 3 on the primary; an interface takes one for itself and brings the last.
    assert_eq!((served.len(), refused.len()), (4, 4), "{:?} {:?}", w.calls, w.logs);
    assert_eq!(refused[0], Err(Refusal::SubnetFull { subnets: vec!["subnet-1".to_owned()] }));
    w.check();
    let before = w.calls.len();
    w.run(100);
    assert!(w.calls.len() - before <= 2, "an empty subnet is not asked again and again: {:?}", &w.calls[before..]);
}

#[test]
fn a_cooling_address_is_waited_for_if_it_cools_in_time() {
    let mut w = World::new(3, 0);
    w.ec2.free = 1;
    w.run(1);
    let first = w.add("1").unwrap_err();
    w.run(2);
    assert!(w.answers[&first].is_ok());
    w.ec2.free = 0;
    w.del("1");
    w.run(25);
    let second = w.add("2").unwrap_err();
    w.run(6);
    assert_eq!(w.answers[&second], w.answers[&first], "30 s after the DEL");
    w.del("2");
    let third = w.add("3").unwrap_err();
    w.run(1);
    assert!(matches!(w.answers[&third], Err(Refusal::SubnetFull { .. } | Refusal::Cooling { .. })));
}

#[test]
fn throttling_backs_off_and_pods_hear_of_it() {
    let mut w = World::new(100, 0);
    w.run(1);
    w.ec2.faults = vec![("AssignPrivateIpAddresses", ErrorKind::Throttled); 2].into();
    let id = w.add("1").unwrap_err();
    w.run(5);
    assert_eq!(w.count("AssignPrivateIpAddresses"), 1, "no ladder on throttling (spec 01 §15)");
    w.run(4);
    assert_eq!(w.answers[&id], Err(Refusal::Throttled));
    assert_eq!(w.count("AssignPrivateIpAddresses"), 2);
    w.run(60);
    let id = w.add("2").unwrap_err();
    w.run(2);
    assert!(w.answers[&id].is_ok());
}

#[test]
fn a_failed_attach_or_set_up_leaves_nothing_behind() {
    let mut w = World::new(100, 4);
    w.ec2.faults = [("AttachNetworkInterface", ErrorKind::InterfaceLimit)].into();
    w.run(60);
    assert_eq!(w.m.cards().stats(w.at).total, 4, "tried again after the back-off");
    w.check();
    let mut w = World::new(100, 4);
    w.set_up_fails = true;
    w.run(3);
    w.set_up_fails = false;
    w.run(60);
    assert_eq!(w.m.cards().stats(w.at).total, 4);
    w.check();
    w.run(190);
    assert!(w.journal.removing.is_empty());
}

#[test]
fn a_device_index_that_someone_took_is_passed_over() {
    let mut w = World::new(100, 3);
    w.run(2);
    w.ec2.enis.insert("eni-foreign".to_owned(), (Some(1), BTreeSet::new()));
    w.warm = 5;
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.run(10);
    assert!(w.ec2.enis.values().any(|(d, _)| *d == Some(2)));
    assert_eq!(w.m.cards().stats(w.at).total, 5);
}

#[test]
fn what_is_released_and_removed_is_gone_everywhere() {
    let mut w = World::new(100, 6);
    w.run(5);
    assert_eq!(w.m.cards().enis().count(), 2);
    w.warm = 0;
    w.release_all = true;
    w.run(500);
    assert_eq!(w.m.cards().stats(w.at).total, 0);
    assert_eq!(w.m.cards().enis().count(), 1, "the primary stays");
    assert_eq!(w.ec2.enis.len(), 1);
    assert!(w.journal.returning.is_empty() && w.journal.removing.is_empty());
    w.check();
}

#[test]
fn a_del_ends_its_own_wait_and_a_caller_may_leave() {
    let mut w = World::new(100, 0);
    w.policy_is_silent = false;
    w.run(1);
    let first = w.add("1").unwrap_err();
    let second = w.add("2").unwrap_err();
    let now = w.now();
    assert_eq!(w.m.del(now, &Key::new("n", "1", "eth0")), Err(StoreError::UnknownPod));
    w.commands();
    assert_eq!(w.answers[&first], Err(Refusal::Deleted));
    w.m.cancel(second);
    w.run(3);
    assert!(!w.answers.contains_key(&second));
    assert_eq!(w.m.cards().assignments().count(), 0);
}

#[test]
fn nobody_waits_on_a_policy_that_says_nothing() {
    let mut w = World::new(100, 0);
    w.policy_is_silent = true;
    w.run(1);
    let id = w.add("1").unwrap_err();
    w.run(1);
    assert_eq!(w.answers[&id], Err(Refusal::Policy("test".to_owned())));
}

#[test]
fn a_restart_gives_out_nothing_that_imds_alone_still_shows() {
    let mut w = World::new(100, 6);
    w.run(5);
    let before = w.ec2.attached();
    (w.warm, w.release_all) = (0, true);
    while w.ec2.enis.len() > 1 || !w.ec2.enis["eni-0"].1.is_empty() {
        w.run(1);
        assert!(w.at < Duration::from_secs(200), "{:?}", w.calls);
    }
    w.run(1);
    w.m = Manager::new(settings());
    let now = w.now();
    w.m.boot(now, &before, w.journal.clone());
    let enis: Vec<_> = w.m.cards().enis().map(|(e, _)| e.id.clone()).collect();
    assert_eq!(enis, ["eni-0"], "{:?}", w.journal);
    assert_eq!(w.m.cards().stats(w.at).total, 0, "{:?}", w.journal);
}

#[test]
fn a_restart_serves_what_the_journal_knows_and_cleans_up_the_rest() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    let ip = |n: u8| Ipv4Addr::new(10, 0, 1, n);
    ec2.enis.insert("eni-0".to_owned(), (Some(0), [ip(1), ip(2)].into()));
    ec2.enis.insert("eni-a".to_owned(), (Some(1), [ip(3)].into()));
    ec2.enis.insert("eni-b".to_owned(), (Some(2), [ip(4)].into()));
    ec2.enis.insert("eni-lost".to_owned(), (None, BTreeSet::new()));
    let journal = Journal {
        managed: vec!["eni-a".to_owned()],
        returning: vec![("eni-0".to_owned(), "10.0.1.2/32".to_owned())],
        removing: vec![],
    };
    let mut w = World::on(ec2, 0, journal);
    // Before EC2 has said anything: the primary less what was being given back, and the known interface.
    let got: BTreeSet<String> = (0..3).filter_map(|i| w.add(&i.to_string()).ok()).collect();
    assert_eq!(got, ["10.0.1.1".to_owned(), "10.0.1.3".to_owned()].into());
    w.run(10);
    assert!(!w.ec2.enis.contains_key("eni-lost"), "made and never attached");
    let ours = w.m.cards().stats(w.at).total;
    assert_eq!(ours, 3, "confirmed by EC2, and what was being given back is given back: {:?}", w.logs);
    w.check();
}

#[test]
fn an_unmanaged_interface_is_left_alone() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-other".to_owned(), (Some(1), [Ipv4Addr::new(10, 0, 1, 3)].into()));
    let mut s = settings();
    s.manage_untagged = false;
    let mut w = World::on(ec2, 0, Journal::default());
    w.m = Manager::new(s);
    let now = w.now();
    let attached = w.ec2.attached();
    w.m.boot(now, &attached, Journal::default());
    w.queue.clear();
    w.commands();
    let _ = w.add("1");
    w.run(5);
    assert_eq!(w.m.cards().get(0).unwrap().unmanaged(), 1);
    assert!(w.m.cards().eni("eni-other").is_none());
    assert!(w.answers.values().all(|a| a.as_ref().is_ok_and(|ip| ip != "10.0.1.3")));
}

#[test]
fn a_verification_keeps_what_pods_hold() {
    let mut w = World::new(100, 2);
    w.run(5);
    let ip: Ipv4Addr = w.add("1").unwrap().parse().unwrap();
    w.run(20);
    for (_, secondary) in w.ec2.enis.values_mut() {
        secondary.clear();
    }
    let now = w.now();
    w.m.look(now);
    w.commands();
    w.run(5);
    assert_eq!(w.m.cards().assignments().map(|(ip, _)| ip).collect::<Vec<_>>(), [std::net::IpAddr::V4(ip)]);
    assert!(w.logs.iter().any(|l| l.contains("a pod has it")), "{:?}", w.logs);
    let _ = Arc::new(());
}

#[test]
fn a_pod_waits_for_slots_that_are_being_given_back() {
    let mut w = World::new(100, 3);
    w.m.settings.max_enis = 1;
    w.run(5);
    w.warm = 0;
    w.release_all = true;
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.run(1);
    assert_eq!((w.count("UnassignPrivateIpAddresses"), w.m.cards().stats(w.at).total), (1, 0));
    let id = w.add("1").unwrap_err();
    w.run(4);
    assert!(w.answers[&id].is_ok(), "{:?}", w.answers[&id]);
}

#[test]
fn left_overs_stay_where_the_clean_up_is_off() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-lost".to_owned(), (None, BTreeSet::new()));
    let mut w = World::on(ec2, 0, Journal::default());
    w.m.settings.clean_up = false;
    w.run(10);
    assert_eq!(w.count("DeleteNetworkInterface"), 0);
    w.m.settings.clean_up = true;
    w.run(3 * 3600);
    assert!(!w.ec2.enis.contains_key("eni-lost"), "it is found by the next search");
}

#[test]
fn terminating_ends_waits_and_growth() {
    let mut w = World::new(100, 0);
    w.run(1);
    let id = w.add("1").unwrap_err();
    let now = w.now();
    w.m.handle(now, Event::Terminating);
    w.commands();
    assert!(matches!(w.answers[&id], Err(Refusal::Off(_))));
    w.warm = 9;
    let before = w.count("CreateNetworkInterface");
    w.run(30);
    assert_eq!(w.count("CreateNetworkInterface"), before);
}

#[test]
fn an_address_on_its_way_back_is_nobodys() {
    let mut w = World::new(100, 6);
    w.run(5);
    // Both calls are throttled and made again seconds later, while pods ask for as many.
    w.ec2.faults = [("UnassignPrivateIpAddresses", ErrorKind::Throttled); 2].into();
    (w.warm, w.release_all) = (0, true);
    let now = w.now();
    w.m.handle(now, Event::PolicyChanged);
    w.commands();
    w.run(1);
    assert_eq!((w.m.cards().stats(w.at).total, w.journal.returning.len()), (0, 6), "{:?}", w.calls);
    w.release_all = false;
    // The interfaces look empty to the store and are full for EC2: what it lists then is not free.
    w.ec2.faults = [("AssignPrivateIpAddresses", ErrorKind::AddressLimit)].into();
    let pods: Vec<WaiterId> = (0..3).map(|n| w.add(&n.to_string()).unwrap_err()).collect();
    let now = w.now();
    w.m.verify(now);
    w.commands();
    w.run(60);
    let held: BTreeSet<String> = w.ec2.enis.values().flat_map(|(_, s)| s).map(ToString::to_string).collect();
    for pod in pods {
        assert!(held.contains(w.answers[&pod].as_ref().unwrap()), "{:?} {held:?}", w.answers);
    }
    assert_eq!(w.count("UnassignPrivateIpAddresses"), 4);
    w.check();
}

#[test]
fn a_full_interface_shows_what_it_holds_or_is_left_in_peace() {
    let mut w = World::new(100, 0);
    w.run(1);
    let extra: BTreeSet<Ipv4Addr> = (1..=3).map(|n| Ipv4Addr::new(10, 0, 7, n)).collect();
    w.ec2.enis.get_mut("eni-0").unwrap().1 = extra;
    let pod = w.add("1").unwrap_err();
    w.run(5);
    assert_eq!(w.answers[&pod], Ok("10.0.7.1".to_owned()));
    // A limit that EC2 does not explain is not run against all the time.
    let mut w = World::new(100, 1);
    w.ec2.faults = [("AssignPrivateIpAddresses", ErrorKind::AddressLimit); 100].into();
    w.run(20);
    assert!(w.count("AssignPrivateIpAddresses") <= 4, "{:?}", w.calls);
}

#[test]
fn a_spent_budget_of_calls_is_a_gate_and_not_the_policys_word() {
    let mut w = World::new(100, 0);
    w.run(10);
    let spend = |w: &mut World| {
        // The wall clock is about to be set back: the count starts anew with the minute all the same.
        let before = Now { mono: w.at, unix: Duration::from_secs(1_000_003_600) + w.at };
        w.m.minute(before).ec2_calls = CALLS_PER_MINUTE;
    };
    spend(&mut w);
    let early = w.add("1").unwrap_err();
    w.run(1);
    assert!(matches!(w.answers[&early], Err(Refusal::Cloud(_))), "{:?}", w.answers);
    w.run(44);
    spend(&mut w);
    let late = w.add("2").unwrap_err();
    w.run(2);
    assert!(!w.answers.contains_key(&late), "the minute ends before its wait: {:?}", w.answers);
    w.run(7);
    assert!(w.answers[&late].is_ok(), "{:?}", w.answers);
}

#[test]
fn nothing_young_goes_on_the_word_of_one_listing() {
    let mut w = World::new(100, 6);
    w.run(5);
    let verify = |w: &mut World| {
        let now = w.now();
        w.m.verify(now);
        w.commands();
        w.run(2);
    };
    let second = w.ec2.enis.keys().next_back().unwrap().clone();
    let (free, behind) = (w.ec2.free, w.ec2.enis.remove(&second).unwrap());
    w.ec2.free = 0;
    verify(&mut w);
    assert!(w.m.cards().eni(&second).is_some(), "{:?}", w.logs);
    w.run(70);
    let primary = w.ec2.enis.remove("eni-0").unwrap();
    verify(&mut w);
    assert_eq!(w.m.cards().enis().count(), 2, "a listing without the node's own interface: {:?}", w.logs);
    w.ec2.enis.insert("eni-0".to_owned(), primary);
    w.ec2.enis.insert(second.clone(), behind.clone());
    w.ec2.free = free;
    w.run(30);
    w.check();
    w.ec2.enis.remove(&second);
    w.ec2.free = 0;
    verify(&mut w);
    assert!(w.m.cards().eni(&second).is_none(), "old, and not there: {:?}", w.logs);
}

#[test]
fn an_interface_that_could_not_be_programmed_gets_another_try() {
    let mut ec2 = Ec2 { free: 50, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    ec2.enis.insert("eni-a".to_owned(), (Some(1), [Ipv4Addr::new(10, 0, 1, 3)].into()));
    let journal = Journal { managed: vec!["eni-a".to_owned()], ..Journal::default() };
    let mut w = World::on(ec2, 0, journal);
    w.set_up_fails = true;
    // The commands of the start are carried out already: the answer to its set-up is this one.
    w.queue.retain(|_, event| !matches!(event, Event::EniReady { .. }));
    let job = *w.m.jobs.iter().find(|(_, j)| matches!(j, jobs::Job::Adopt(_))).unwrap().0;
    w.later(50, Event::EniReady { job, result: Err("no link".to_owned()) });
    w.run(5);
    assert!(w.m.cards().eni("eni-a").unwrap().excluded);
    w.set_up_fails = false;
    w.run(620);
    assert!(!w.m.cards().eni("eni-a").unwrap().excluded, "{:?}", w.logs);
    w.check();
}

#[test]
fn an_attach_whose_answer_is_lost_leaves_nothing_behind() {
    let mut w = World::new(100, 4);
    w.ec2.faults = [("AttachNetworkInterface", ErrorKind::Unknown), ("DescribeInstances", ErrorKind::Refused)].into();
    w.run(1);
    while w.count("AttachNetworkInterface") == 0 {
        w.run(1);
    }
    let made = w.ec2.enis.iter().find(|(_, (device, _))| device.is_none()).unwrap().0.clone();
    w.ec2.enis.get_mut(&made).unwrap().0 = Some(1);
    w.run(60);
    assert_eq!(w.count("DetachNetworkInterface"), 1, "{:?}", w.calls);
    assert!(!w.ec2.enis.contains_key(&made));
    w.check();
}

#[test]
fn an_interface_whose_making_was_never_answered_is_found_later() {
    let mut w = World::new(100, 0);
    w.run(1);
    w.ec2.enis.insert("eni-lost".to_owned(), (None, BTreeSet::new()));
    w.ec2.faults.clear();
    w.run(5000);
    assert!(w.ec2.enis.contains_key("eni-0") && !w.ec2.enis.contains_key("eni-lost"), "{:?}", w.calls);
}
