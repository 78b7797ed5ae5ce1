//! kill -9 at random instants under load. After each: no address is held by two pods, no live pod lost its address, the
//! checkpoint parses and tells of every pod that was answered. At the end: no address is leaked for good.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reservoir_core::ip::Ipv4Net;
use ring::backend::{Backend, Outcome};
use ring::cni::Attachment;
use ring::random::Random;
use ring::{Node, Options, Pod, traffic};
use rustix::process::Signal;
use serde_json::{Value, json};

const WORKERS: usize = 12;
const MINUTE: Duration = Duration::from_secs(60);

/// What the callers know.
#[derive(Default)]
struct World {
    /// Pods whose ADD was answered and whose DEL has not begun, by container: the only ones that hold an address for
    /// certain.
    live: Mutex<BTreeMap<String, Vec<IpAddr>>>,
    violations: Mutex<Vec<String>>,
    /// One for each daemon.
    generation: AtomicU64,
    /// Pods that each worker should hold.
    target: AtomicUsize,
    ending: AtomicBool,
    pods: AtomicUsize,
    counts: Mutex<BTreeMap<&'static str, usize>>,
}

impl World {
    fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    fn violated(&self, what: String) {
        eprintln!("VIOLATION: {what}");
        self.violations.lock().unwrap().push(what);
    }

    fn answered(&self, container: &str, ips: Vec<IpAddr>) {
        let mut live = self.live.lock().unwrap();
        let taken = |held: &Vec<IpAddr>| held.iter().any(|ip| ips.contains(ip));
        if let Some((other, _)) = live.iter().find(|(c, held)| *c != container && taken(held)) {
            let other = other.clone();
            drop(live);
            return self.violated(format!("of {ips:?}, given to {container}, {other} has one"));
        }
        live.insert(container.to_owned(), ips);
    }

    /// Everything that was answered is in the files, one for each card. Only while no daemon runs.
    fn compare(&self, files: &[PathBuf]) {
        let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        for file in files {
            let text = match fs::read(file) {
                Ok(text) => text,
                Err(error) if self.live.lock().unwrap().is_empty() => {
                    return eprintln!("no checkpoint yet: {error}");
                }
                Err(error) => return self.violated(format!("no checkpoint {}: {error}", file.display())),
            };
            let Ok(checkpoint) = serde_json::from_slice::<Value>(&text) else {
                return self.violated(format!("the checkpoint does not parse: {}", String::from_utf8_lossy(&text)));
            };
            if checkpoint["version"] != "vpc-cni-ipam/1" {
                self.violated(format!("version {}", checkpoint["version"]));
            }
            for entry in checkpoint["allocations"].as_array().into_iter().flatten() {
                let (container, ip) = (entry["containerID"].as_str().unwrap(), entry["ipv4"].as_str().unwrap());
                if !addresses.insert(ip.to_owned()) {
                    self.violated(format!("{ip} is in the checkpoint twice"));
                }
                told.entry(container.to_owned()).or_default().insert(ip.to_owned());
            }
        }
        let live = self.live.lock().unwrap().clone();
        for (container, ips) in live {
            if told.get(&container) != Some(&ips.iter().map(ToString::to_string).collect()) {
                self.violated(format!("{container} was told {ips:?}, the checkpoint says {:?}", told.get(&container)));
            }
        }
    }
}

/// A runtime's share of the pods.
struct Worker {
    world: Arc<World>,
    backend: Backend,
    random: Random,
    live: Vec<(String, Vec<IpAddr>)>,
    checked: Arc<AtomicU64>,
}

impl Worker {
    async fn run(mut self) {
        while !self.world.ending.load(Ordering::SeqCst) {
            let generation = self.world.generation.load(Ordering::SeqCst);
            if self.checked.load(Ordering::SeqCst) != generation {
                if self.check_all().await {
                    self.checked.store(generation, Ordering::SeqCst);
                }
                continue;
            }
            let target = self.world.target.load(Ordering::SeqCst);
            if self.live.len() < target || (self.live.len() == target && self.random.percent(50)) {
                self.add().await;
            } else if !self.live.is_empty() {
                let at = self.random.below(self.live.len());
                let (container, _) = self.live.swap_remove(at);
                self.del(&container).await;
            }
            let pause = self.random.up_to(Duration::from_millis(20));
            tokio::time::sleep(pause).await;
        }
        for (container, _) in std::mem::take(&mut self.live) {
            self.del(&container).await;
        }
    }

    /// A repeated ADD of every living pod gives the address that it has.
    async fn check_all(&mut self) -> bool {
        for (container, ips) in self.live.clone() {
            match self.backend.add(&container, &container).await {
                Outcome::Done(again) if again == ips => self.world.count("ADDs repeated"),
                Outcome::Done(other) => {
                    self.world.violated(format!("{container} had {ips:?} and now has {other:?}"));
                }
                Outcome::Refused(why) => {
                    self.world.violated(format!("{container} had {ips:?} and is refused: {why}"));
                }
                Outcome::NoAnswer(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    return false;
                }
            }
        }
        true
    }

    async fn add(&mut self) {
        let container = format!("c{}", self.world.pods.fetch_add(1, Ordering::SeqCst));
        loop {
            match self.backend.add(&container, &container).await {
                Outcome::Done(ips) => {
                    self.world.count("ADDs");
                    self.world.answered(&container, ips.clone());
                    return self.live.push((container, ips));
                }
                Outcome::Refused(why) => {
                    self.world.count("ADDs refused");
                    if self.world.counts.lock().unwrap()["ADDs refused"] <= 5 {
                        eprintln!("refused: {why}");
                    }
                    return self.del(&container).await;
                }
                Outcome::NoAnswer(_) if self.random.percent(50) => {
                    self.world.count("ADDs without answer, retried");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Outcome::NoAnswer(_) => {
                    self.world.count("ADDs without answer, given up");
                    return self.del(&container).await;
                }
            }
        }
    }

    /// Until it is answered.
    async fn del(&self, container: &str) {
        // From here on the address may be anybody's.
        self.world.live.lock().unwrap().remove(container);
        while let Outcome::NoAnswer(_) | Outcome::Refused(_) = self.backend.del(container, container).await {
            self.world.count("DELs without answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.world.count("DELs");
    }
}

fn short_delays(dir: &Path) -> Vec<String> {
    let config = json!({
        "delays": {"profile": "realistic", "create": 0.1, "attach": 0.2, "assign": 0.06, "unassign": 0.06, "describe": 0.02,
                   "modify": 0.05, "tags": 0.05, "detached": 0.3, "imds_attach": 0.4, "imds_assign": 0.4},
        "audit_grace_seconds": 5.0,
    });
    let path = dir.join("sim.json");
    fs::write(&path, config.to_string()).unwrap();
    vec!["--config".to_owned(), path.display().to_string()]
}

/// A way to run the node that is killed.
struct Run {
    name: &'static str,
    kills: usize,
    instance_type: &'static str,
    env: &'static [(&'static str, &'static str)],
    /// One for each card.
    checkpoints: &'static [&'static str],
    /// Pods at one time that need another interface or prefix, or else make a load.
    many: usize,
}

#[test]
fn two_hundred_kills_under_load() {
    kills_under_load(&Run {
        name: "two_hundred_kills_under_load",
        kills: 200,
        instance_type: "c5.xlarge",
        env: &[],
        checkpoints: &["ipam.json"],
        many: 14,
    });
}

#[test]
fn forty_kills_with_prefixes() {
    kills_under_load(&Run {
        name: "forty_kills_with_prefixes",
        kills: 40,
        instance_type: "t3.small",
        env: &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")],
        checkpoints: &["ipam.json"],
        many: 16,
    });
}

/// Every pod has an address on either card.
#[test]
fn forty_kills_on_two_cards() {
    kills_under_load(&Run {
        name: "forty_kills_on_two_cards",
        kills: 40,
        instance_type: "c6in.32xlarge",
        env: &[("ENABLE_MULTI_NIC", "true")],
        checkpoints: &["ipam.json", "ipam-nic-1.json"],
        many: 14,
    });
}

fn kills_under_load(run: &Run) {
    if !ring::skip::can_run(run.name, &["ip", "curl", "nft"]) {
        return;
    }
    let begun = Instant::now();
    let mut random = Random::announced(run.name);
    let dir = tempfile::tempdir().unwrap();
    let env = [
        ("RESERVOIR_HOST_NETWORK", "none"),
        ("IP_COOLDOWN_PERIOD", "2"),
        ("RESERVOIR_ADD_WAIT_SECONDS", "3"),
        ("WARM_IP_TARGET", "3"),
        ("MINIMUM_IP_TARGET", "4"),
    ];
    let env = env.iter().chain(run.env).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let options = Options {
        instance_type: run.instance_type.to_owned(),
        delays: String::new(),
        sim: short_delays(dir.path()),
        env,
        ..Options::of_tree()
    };
    let mut node = Node::new(options).unwrap();
    let checkpoints: Vec<PathBuf> = run.checkpoints.iter().map(|name| node.dir().join(name)).collect();
    let world = Arc::new(World::default());
    world.target.store(2, Ordering::SeqCst);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut checked = Vec::new();
    let mut workers = Vec::new();
    let mut backend = Backend::new(&node.socket());
    backend.multi_nic = run.checkpoints.len() > 1;
    for _ in 0..WORKERS {
        let worker = Worker {
            world: world.clone(),
            backend: backend.clone(),
            random: Random::new(random.number()),
            live: Vec::new(),
            checked: Arc::default(),
        };
        checked.push(worker.checked.clone());
        workers.push(runtime.spawn(worker.run()));
    }
    let mut early = 0;
    for kill in 1..=run.kills {
        world.generation.fetch_add(1, Ordering::SeqCst);
        // From an almost empty node to one with three interfaces and back.
        world.target.store(random.below(4), Ordering::SeqCst);
        if random.percent(30) {
            early += 1;
            node.spawn_daemon().unwrap();
            std::thread::sleep(random.up_to(Duration::from_millis(500)));
        } else {
            node.start_daemon().unwrap();
            let generation = world.generation.load(Ordering::SeqCst);
            let until = Instant::now() + MINUTE;
            while checked.iter().any(|c| c.load(Ordering::SeqCst) != generation) {
                assert!(Instant::now() < until, "not all workers got on\n{}", node.log_tail(30));
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(random.up_to(Duration::from_millis(500)));
        }
        node.end_daemon(Signal::KILL).unwrap();
        world.compare(&checkpoints);
        let violations = world.violations.lock().unwrap().clone();
        assert!(violations.is_empty(), "after kill {kill}: {violations:#?}\n{}", node.log_tail(60));
    }
    let repeated = world.counts.lock().unwrap().get("ADDs repeated").copied().unwrap_or(0);
    assert!(repeated > run.kills / 4, "hardly a pod lived through a kill: {:?}", world.counts.lock().unwrap());
    // However slow the rounds were: the pods that they would have come to.
    world.generation.fetch_add(1, Ordering::SeqCst);
    world.target.store(4, Ordering::SeqCst);
    node.start_daemon().unwrap();
    node.wait_for("the load shows something", MINUTE, |_| {
        let live = world.live.lock().unwrap().len();
        anyhow::ensure!(live > run.many, "{live} pods at one time, not more than {}", run.many);
        Ok(true)
    })
    .unwrap();
    world.ending.store(true, Ordering::SeqCst);
    runtime.block_on(async {
        for worker in workers {
            worker.await.unwrap();
        }
    });
    eprintln!("{} kills, {early} of them at the start; {:?}", run.kills, world.counts.lock().unwrap());
    assert_eq!(world.violations.lock().unwrap().clone(), Vec::<String>::new());
    nothing_leaked(&node);
    if run.checkpoints.len() == 1 {
        runtime.block_on(all_can_be_had(&node));
    }
    eprintln!("{} took {:?}", run.name, begun.elapsed());
}

/// The store has let go of every pod, EC2 of everything that is not attached, and both agree.
fn nothing_leaked(node: &Node) {
    node.wait_for("no address is assigned", MINUTE, |n| Ok(n.pool()?.1 == 0)).unwrap();
    node.wait_for("the simulated AWS finds nothing wrong", MINUTE, |n| {
        let audit = n.audit()?;
        anyhow::ensure!(audit == json!([]), "{audit}");
        Ok(true)
    })
    .unwrap();
    node.wait_for("the pool holds just what EC2 has given", 2 * MINUTE, |n| {
        let (ours, theirs) = (held(n)?, given(n)?);
        anyhow::ensure!(ours == theirs, "the daemon has {ours:?}, EC2 {theirs:?}");
        Ok(true)
    })
    .unwrap();
}

/// Interface and block, as the daemon has them.
fn held(node: &Node) -> anyhow::Result<BTreeSet<(String, String)>> {
    let cards = node.cards()?;
    let enis = cards.as_object().into_iter().flatten().filter_map(|(_, card)| card["ENIs"].as_object()).flatten();
    let pairs = enis.flat_map(|(id, eni)| {
        let blocks = eni["AvailableIPv4Cidrs"].as_object().into_iter().flatten();
        blocks.map(|(block, _)| (id.clone(), block.clone())).collect::<Vec<_>>()
    });
    Ok(pairs.collect())
}

/// The same, as EC2 has them.
fn given(node: &Node) -> anyhow::Result<BTreeSet<(String, String)>> {
    let state = node.sim_state()?;
    let mut pairs = BTreeSet::new();
    for eni in state["enis"].as_array().into_iter().flatten() {
        let id = eni["id"].as_str().unwrap_or_default();
        anyhow::ensure!(!eni["attachment"].is_null(), "{id} is not attached");
        let list =
            |name: &str| eni[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
        pairs.extend(list("secondary").into_iter().map(|address| (id.to_owned(), format!("{address}/32"))));
        pairs.extend(list("prefixes").into_iter().map(|prefix| (id.to_owned(), prefix.to_owned())));
    }
    Ok(pairs)
}

/// Every address of the pool can be given to a pod.
async fn all_can_be_had(node: &Node) {
    let pool = || {
        let blocks = held(node).unwrap().into_iter().map(|(_, block)| block.parse::<Ipv4Net>().unwrap());
        blocks.flat_map(|net| (0..net.size()).filter_map(move |n| net.nth(n))).map(|ip| ip.to_string()).collect()
    };
    let backend = Backend::new(&node.socket());
    let mut had = BTreeSet::new();
    let mut pods = 0;
    // The pool is trimmed and grows meanwhile: what counts is what it holds when all of that has been given.
    let never = loop {
        let addresses: BTreeSet<String> = pool();
        let never: Vec<String> = addresses.difference(&had).cloned().collect();
        if never.is_empty() || pods >= 2 * addresses.len() {
            break never;
        }
        let (name, until) = (format!("all{pods}"), Instant::now() + MINUTE);
        let ips = loop {
            match backend.add(&name, &name).await {
                Outcome::Done(ips) => break ips,
                Outcome::Refused(why) | Outcome::NoAnswer(why) => {
                    let size = addresses.len();
                    assert!(Instant::now() < until, "pod {pods} gets none of the pool's {size} addresses: {why}");
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert!(had.insert(ips[0].to_string()), "{} twice", ips[0]);
        pods += 1;
    };
    assert!(never.is_empty(), "{never:?} of the pool's addresses were given to nobody");
    for n in 0..pods {
        let freed = backend.del(&format!("all{n}"), &format!("all{n}")).await;
        assert!(matches!(&freed, Outcome::Done(all) if all.len() == 1), "{freed:?}");
    }
}

/// Where left-overs are not searched for, as always in IPv6 mode: what was being made when the daemon was killed is deleted
/// by the next one, and the card gets its interface all the same.
#[test]
fn an_interface_that_was_being_made_for_ipv6_is_not_left_behind() {
    let name = "an_interface_that_was_being_made_for_ipv6_is_not_left_behind";
    if !ring::skip::can_run(name, &["ip", "curl", "nft"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "vpc": {"id": "vpc-0b6c1d2e3f4a59687", "cidrs": ["10.0.0.0/16"], "ipv6_cidrs": ["2600:1f14:abc:d00::/56"]},
        "subnets": [{"id": "subnet-0c3d5a7b9e1f24680", "cidr": "10.0.96.0/19", "ipv6_cidr": "2600:1f14:abc:d00::/64"}],
        "instances": [{"id": "i-0c3f1a9d27b6e4851", "type": "c6in.32xlarge", "subnet": "subnet-0c3d5a7b9e1f24680"}],
        // Made at once, and answered late.
        "delays": {"profile": "instant", "create": 3.0, "attach": 0.2},
        "audit_grace_seconds": 5.0,
    });
    let path = dir.path().join("sim.json");
    fs::write(&path, config.to_string()).unwrap();
    let env = [
        ("RESERVOIR_HOST_NETWORK", "none"),
        ("ENABLE_IPv4", "false"),
        ("ENABLE_IPv6", "true"),
        ("ENABLE_PREFIX_DELEGATION", "true"),
        ("WARM_PREFIX_TARGET", "1"),
        ("ENABLE_MULTI_NIC", "true"),
    ];
    let options = Options {
        instance_type: "c6in.32xlarge".to_owned(),
        delays: String::new(),
        sim: vec!["--config".to_owned(), path.display().to_string()],
        env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..Options::of_tree()
    };
    let mut node = Node::new(options).unwrap();
    let unattached = |n: &Node| {
        let state = n.sim_state()?;
        let enis = state["enis"].as_array().into_iter().flatten().filter(|eni| eni["attachment"].is_null());
        anyhow::Ok(enis.filter_map(|eni| Some(eni["id"].as_str()?.to_owned())).collect::<BTreeSet<String>>())
    };
    // The daemon must be killed before it hears the answer, however slow this machine is.
    let late = json!({"api": "CreateNetworkInterface", "times": 0, "effect": {"delay": 60.0}});
    node.sim_post("faults", &late).unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        node.spawn_daemon().unwrap();
        let mut made = None;
        node.wait_for("EC2 has made an interface", MINUTE, |n| {
            made = unattached(n)?.difference(&seen).next().cloned();
            Ok(made.is_some())
        })
        .unwrap();
        node.end_daemon(Signal::KILL).unwrap();
        let made = made.unwrap();
        assert!(unattached(&node).unwrap().contains(&made), "nobody heard the answer");
        seen.insert(made);
    }
    node.sim_fault("").unwrap();
    node.start_daemon().unwrap();
    // The first search of a daemon may be before EC2 shows what it has made.
    node.wait_for("the simulated AWS finds nothing wrong", 3 * MINUTE, |n| {
        let (audit, state) = (n.audit()?, n.sim_state()?);
        let enis = state["enis"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(audit == json!([]) && enis == 2 && unattached(n)?.is_empty(), "{enis} interfaces, {audit}");
        Ok(true)
    })
    .unwrap();
}

/// A pod as its runtime knows it.
struct Running {
    pod: Pod,
    address: IpAddr,
}

/// The same with the plugin, the kernel and pods that talk: twenty kills while pods come and go.
#[test]
fn twenty_kills_and_the_pods_keep_talking() {
    if !ring::skip::can_run("twenty_kills_and_the_pods_keep_talking", &["ip", "curl", "iptables", "nft"]) {
        return;
    }
    let mut random = Random::announced("twenty_kills_and_the_pods_keep_talking");
    let dir = tempfile::tempdir().unwrap();
    let env = [("IP_COOLDOWN_PERIOD", "2"), ("RESERVOIR_ADD_WAIT_SECONDS", "5")];
    let options = Options {
        instance_type: "t3.medium".to_owned(),
        delays: String::new(),
        sim: short_delays(dir.path()),
        env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..Options::of_tree()
    };
    let mut node = Node::new(options).unwrap();
    let home = node.netns();
    let mut running: Vec<Running> = Vec::new();
    let (mut number, mut failed) = (0, 0);
    // A daemon that ends before its first decision has nothing to give: the pool is filled once.
    node.start_daemon().unwrap();
    node.wait_for("the first addresses", Duration::from_secs(60), |n| Ok(n.pool()?.0 > 0)).unwrap();
    node.end_daemon(Signal::KILL).unwrap();
    for kill in 1..=20 {
        node.start_daemon().unwrap();
        for one in &running {
            let again = node.attach(one.pod.attachment.clone()).unwrap();
            assert_eq!(again.ip, one.pod.ip, "after kill {} {} lost its address", kill - 1, one.pod.name);
        }
        // Some go, some come, from 0 to 8 of the instance's 15, and in the middle of it the daemon ends.
        let mut going = Vec::new();
        for _ in 0..random.below(running.len() + 1) {
            going.push(running.swap_remove(random.below(running.len())));
        }
        let coming: Vec<_> = (running.len()..3 + random.below(6))
            .map(|_| {
                number += 1;
                node.make_pod(&format!("k{number}")).unwrap()
            })
            .collect();
        let added: Mutex<Vec<(Attachment, anyhow::Result<Pod>)>> = Mutex::default();
        std::thread::scope(|scope| {
            let node = &node;
            for one in &going {
                scope.spawn(move || node.cni().del(&one.pod.attachment, &one.pod.result).unwrap());
            }
            for pod in &coming {
                let added = &added;
                scope.spawn(move || {
                    let result = node.attach(pod.clone());
                    added.lock().unwrap().push((pod.clone(), result));
                });
            }
            if kill == 1 {
                // Where a plugin always needs longer than the others are given, this is the round with an answer.
                let until = Instant::now() + MINUTE;
                while !added.lock().unwrap().iter().any(|(_, result)| result.is_ok()) && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(2));
                }
            } else {
                std::thread::sleep(random.up_to(Duration::from_millis(250)));
            }
            node.signal_daemon(Signal::KILL).unwrap();
        });
        node.end_daemon(Signal::KILL).unwrap();
        for one in &going {
            node.drop_pod(&one.pod.netns).unwrap();
        }
        for (attachment, result) in added.into_inner().unwrap() {
            match result {
                Ok(pod) => {
                    let address = pod.ip.parse().unwrap();
                    running.push(Running { pod, address });
                }
                Err(_) => {
                    // A runtime takes the sandbox down, and makes another one later.
                    failed += 1;
                    node.cni().del(&attachment, &Value::Null).unwrap();
                    node.drop_pod(attachment.netns.rsplit('/').next().unwrap()).unwrap();
                }
            }
        }
        // No daemon is needed for this.
        let addresses: BTreeSet<IpAddr> = running.iter().map(|one| one.address).collect();
        assert_eq!(addresses.len(), running.len(), "two pods with one address after kill {kill}");
        for one in &running {
            let seen = traffic::tcp(&one.pod.netns, &home, node.address().unwrap()).unwrap();
            assert_eq!(seen, one.address, "{}", one.pod.name);
            traffic::tcp(&home, &one.pod.netns, one.address).unwrap();
        }
    }
    eprintln!("twenty_kills_and_the_pods_keep_talking: {number} pods, {failed} ADDs failed, {} left", running.len());
    assert!(number > failed, "some came through");
    node.start_daemon().unwrap();
    for one in &running {
        node.remove_pod(&one.pod).unwrap();
    }
    nothing_leaked(&node);
    node.wait_for("nothing of a pod is left in the kernel", MINUTE, |n| {
        let traces = n.pod_traces()?;
        anyhow::ensure!(traces.is_empty(), "{traces:#?}");
        Ok(true)
    })
    .unwrap();
}
