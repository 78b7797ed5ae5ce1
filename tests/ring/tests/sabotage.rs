//! Pods come and go while somebody removes rules and routes, takes interfaces down and renames them, and deletes rules of
//! iptables and nftables, at random. In the end every living pod talks, and after the last DEL nothing is left.
//!
//! ```text
//! SABOTAGE_PODS=2000 SABOTAGE_AT_ONCE=200 cargo test --locked --workspace --test sabotage -- --nocapture
//! ```
//! is the whole of it; without the numbers a part of it runs.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use reservoir_kube::testing::Objects;
use ring::cluster;
use ring::cni::Attachment;
use ring::random::Random;
use ring::shell::{get, in_netns, run};
use ring::{Node, Options, Pod, traffic};
use serde_json::json;
use support::storm::lose_news;

const PROGRAMS: &[&str] = &["ip", "curl", "iptables", "nft"];
const VPC_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 200, 10));
/// Three interfaces with five prefixes of 16 addresses each have 240.
const MAX_PODS: u32 = 240;
const WORKERS: usize = 6;
const INTERNET: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));
/// A kind of harm.
const FIREWALL: &str = "firewall";
/// An address rests for a second: they are used over and over.
const COOLDOWN: &str = "1";
/// A pod that was harmed while its plugin was at work is left alone for 15 s.
const REPAIRED_WITHIN: Duration = Duration::from_secs(60);

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text:?}: {e}")))
}

/// Where a pod may be: a network namespace, used by one pod after the other.
#[derive(Debug)]
struct Place {
    attachment: Attachment,
    pod: Option<Pod>,
}

/// What the workers share.
struct Churn<'a> {
    node: &'a Node,
    started: AtomicUsize,
    pods: usize,
    over: AtomicBool,
    /// Living pods, for the saboteur: host veth and address.
    living: Mutex<BTreeMap<String, String>>,
}

impl Churn<'_> {
    fn living(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds and deletes until all pods have been; the places keep those that live.
    fn work(&self, places: &mut [Place], mut random: Random) -> Result<()> {
        while !self.over.load(Ordering::Relaxed) {
            let at = random.below(places.len());
            let place = &mut places[at];
            if place.pod.is_some() {
                // More come than go, until all places are taken.
                if random.percent(60) {
                    self.remove(place)?;
                }
                continue;
            }
            let number = self.started.fetch_add(1, Ordering::Relaxed);
            if number >= self.pods {
                return Ok(());
            }
            let name = format!("s{number}");
            place.attachment.container = format!("c-{name}");
            place.attachment.pod = name;
            let pod = self.node.attach(place.attachment.clone()).with_context(|| format!("ADD of pod {number}"))?;
            self.living().insert(veth(&pod), pod.ip.clone());
            place.pod = Some(pod);
        }
        Ok(())
    }

    fn remove(&self, place: &mut Place) -> Result<()> {
        let Some(pod) = place.pod.take() else { return Ok(()) };
        self.living().remove(&veth(&pod));
        self.node.cni().del(&pod.attachment, &pod.result).with_context(|| format!("DEL of {}", pod.name))?;
        // What a runtime does to the whole namespace.
        run("ip", &["-n", &pod.netns, "link", "del", "eth0"])?;
        Ok(())
    }

    /// Harms the node until the work is over, and often enough; how often, by kind. What cannot be done (any more) is not
    /// counted.
    fn sabotage(&self, mut random: Random) -> BTreeMap<&'static str, usize> {
        let mut done: BTreeMap<&'static str, usize> = BTreeMap::new();
        // Where the work goes quickly there is little time for harm beside it: the rest is done to those that stay.
        let (enough, mut tries) = (self.pods / 4, 20 * self.pods);
        let ns = self.node.netns();
        let ip = |arguments: &str| {
            let words: Vec<&str> = arguments.split_whitespace().collect();
            in_netns(&ns, "ip", &words)
        };
        while !self.over.load(Ordering::Relaxed) || (done.values().sum::<usize>() <= enough && tries > 0) {
            tries = tries.saturating_sub(1);
            let (kind, harm) = match random.below(106) {
                0..50 => ("rule", one_of(&ip("rule").unwrap_or_default(), &mut random, rule)),
                50..85 => ("route", one_of(&ip("route").unwrap_or_default(), &mut random, route)),
                85..88 => ("table", Some(format!("route flush table {}", 2 + random.below(2)))),
                88..91 => ("address", Some(format!("-4 addr flush dev eth{}", 1 + random.below(2)))),
                91..94 => ("interface", Some(format!("link set eth{} down", 1 + random.below(2)))),
                94..96 => ("veth down", self.a_veth(&mut random).map(|veth| format!("link set {veth} down"))),
                96..98 => (
                    "veth name",
                    self.a_veth(&mut random).map(|veth| format!("link set {veth} name was{}", &veth[3..])),
                ),
                _ => (FIREWALL, None),
            };
            let harmed = match harm {
                Some(harm) => ip(&harm).is_ok(),
                None => kind == FIREWALL && harm_firewall(&ns, &mut random),
            };
            if harmed {
                *done.entry(kind).or_default() += 1;
            }
            thread::sleep(random.up_to(Duration::from_millis(40)));
        }
        done
    }

    fn a_veth(&self, random: &mut Random) -> Option<String> {
        let living = self.living();
        living.keys().nth(random.below(living.len())).cloned()
    }
}

/// One of the lines that mean something to `harm`.
fn one_of(text: &str, random: &mut Random, harm: fn(&str) -> Option<String>) -> Option<String> {
    let harms: Vec<String> = text.lines().filter_map(harm).collect();
    harms.get(random.below(harms.len())).cloned()
}

/// Of a line of `ip rule`: what removes the rule, if it is one of ours.
fn rule(line: &str) -> Option<String> {
    let (priority, rest) = line.split_once(':')?;
    ["512", "1024", "1536", "32765"]
        .contains(&priority)
        .then(|| format!("rule del priority {priority} {}", rest.trim()))
}

/// Of a line of `ip route`: what removes the route, if it is one to a pod.
fn route(line: &str) -> Option<String> {
    line.contains(" dev eni").then(|| format!("route del {}", line.trim()))
}

/// Our rules of iptables, sorted, each as `iptables -t` wants it; and our table of nftables.
fn firewall(netns: &str) -> Result<Vec<String>> {
    let (mut all, mut table) = (Vec::new(), String::new());
    for line in in_netns(netns, "iptables-save", &[])?.lines() {
        match line.strip_prefix('*') {
            Some(name) => name.clone_into(&mut table),
            None if line.starts_with("-A") && line.contains("AWS") => all.push(format!("{table} {line}")),
            None => {}
        }
    }
    all.sort();
    // Where connmark is done by iptables there is no such table.
    let table = in_netns(netns, "nft", &["-s", "list", "table", "ip", "aws-cni"]).unwrap_or_default();
    all.extend(table.lines().map(str::to_owned));
    Ok(all)
}

/// Deletes one of our rules, or empties one of our chains.
fn harm_firewall(netns: &str, random: &mut Random) -> bool {
    let shell = |command: &str| in_netns(netns, "sh", &["-c", command]).is_ok();
    if random.percent(20) {
        return shell("iptables -w 20 -t nat -F AWS-SNAT-CHAIN-0");
    }
    if random.percent(20) && shell("nft flush chain ip aws-cni snat-mark") {
        return true;
    }
    // It is quoted as the shell wants it.
    let rule = |line: &str| Some(line.replacen(" -A ", " -D ", 1)).filter(|changed| changed != line);
    let rules = firewall(netns).unwrap_or_default().join("\n");
    one_of(&rules, random, rule).is_some_and(|rule| shell(&format!("iptables -w 20 -t {rule}")))
}

/// The pod's host veth by its result.
fn veth(pod: &Pod) -> String {
    pod.result["interfaces"][0]["name"].as_str().unwrap_or_default().to_owned()
}

/// What the living pods lack: read from `ip` alone.
fn lacking(node: &Node, pods: &[&Pod]) -> Result<Vec<String>> {
    let ns = node.netns();
    let show = |arguments: &[&str]| in_netns(&ns, "ip", arguments);
    let rules: BTreeSet<String> =
        show(&["rule"])?.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let routes = show(&["route"])?;
    let links = show(&["-o", "link"])?;
    let mut lacking = Vec::new();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            lacking.push(what);
        }
    };
    expect(rules.contains("1024: from all fwmark 0x80/0x80 lookup main"), "rule 1024".to_owned());
    for pod in pods {
        let (ip, veth) = (&pod.ip, veth(pod));
        expect(rules.contains(&format!("512: from all to {ip} lookup main")), format!("rule to {ip}"));
        // The table is in the result (spec 04 §2.5).
        let table = pod.result["interfaces"][1]["mac"].as_str().unwrap_or_default();
        let from = format!("1536: from {ip} lookup {table}");
        expect(table == "254" || rules.contains(&from), format!("rule from {ip} lookup {table}"));
        expect(routes.lines().any(|l| l.trim() == format!("{ip} dev {veth} scope link")), format!("route to {ip}"));
        let up = links.lines().any(|l| l.contains(&format!(" {veth}@")) && l.contains(",UP"));
        expect(up, format!("interface {veth}"));
    }
    for (table, link) in [("2", "eth1"), ("3", "eth2")] {
        if links.lines().any(|l| l.contains(&format!(" {link}@")) || l.contains(&format!(" {link}:"))) {
            let routes = show(&["route", "show", "table", table]).unwrap_or_default();
            let is_whole = routes.contains("default via ") && routes.contains("scope link");
            expect(is_whole, format!("routes of {link}"));
            expect(
                rules.iter().any(|r| r.starts_with("32765:") && r.ends_with(&format!("lookup {table}"))),
                format!("rule of {link}"),
            );
            expect(show(&["-4", "-o", "addr", "show", "dev", link])?.contains("inet "), format!("address of {link}"));
        }
    }
    Ok(lacking)
}

/// Every pod reaches the VPC and the internet, and is reached from the node.
fn all_talk(node: &Node, pods: &[&Pod]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let one = || {
        while let Some(pod) = pods.get(next.fetch_add(1, Ordering::Relaxed)) {
            let ip: IpAddr = pod.ip.parse()?;
            traffic::udp(&node.netns(), None, &pod.netns, ip).with_context(|| format!("node -> {}", pod.name))?;
            let seen = traffic::udp(&pod.netns, None, &format!("{}-host", node.vpc_netns()), VPC_HOST);
            let seen = seen.with_context(|| format!("{} -> VPC", pod.name))?;
            ensure!(seen == ip, "{} came to the VPC as {seen}, not {ip}", pod.name);
            // Only the node's address gets there.
            let internet = format!("{}-inet", node.vpc_netns());
            traffic::udp(&pod.netns, None, &internet, INTERNET).with_context(|| format!("{} -> internet", pod.name))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..WORKERS).map(|_| scope.spawn(one)).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
    })
}

#[test]
fn pods_come_and_go_under_a_saboteur() {
    if !ring::skip::can_run("pods_come_and_go_under_a_saboteur", PROGRAMS) {
        return;
    }
    let (pods, at_once) = (setting("SABOTAGE_PODS", 400), setting("SABOTAGE_AT_ONCE", 100));
    let env = [
        ("ENABLE_PREFIX_DELEGATION", "true"),
        ("WARM_PREFIX_TARGET", "2"),
        ("IP_COOLDOWN_PERIOD", COOLDOWN),
        ("RESERVOIR_ADD_WAIT_SECONDS", "30"),
    ];
    let options = Options {
        instance_type: "t3.medium".to_owned(),
        env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        sim: vec!["--preset".to_owned(), "prefix".to_owned()],
        ..Options::of_tree()
    };
    let mut node = Node::new(options).unwrap();
    let objects = Objects::new();
    cluster::put_node(&objects, "us-west-2a", MAX_PODS);
    node.start_cluster(&objects).unwrap();
    node.start_daemon().unwrap();
    let sound = firewall(&node.netns()).unwrap();
    assert!(sound.iter().any(|rule| rule.contains("-j SNAT")), "{sound:#?}");
    let mut places: Vec<Place> =
        (0..at_once).map(|n| Place { attachment: node.make_pod(&format!("p{n}")).unwrap(), pod: None }).collect();
    let mut random = Random::announced("pods_come_and_go_under_a_saboteur");
    let begun = Instant::now();
    let (started, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let churn = Churn { node: &node, started, pods, over, living: Mutex::default() };
    let share = at_once.div_ceil(WORKERS);
    let harms = thread::scope(|scope| {
        let (saboteurs, churn) = (Random::new(random.number()), &churn);
        let saboteur = scope.spawn(move || churn.sabotage(saboteurs));
        let workers: Vec<_> = places
            .chunks_mut(share)
            .map(|places| {
                let random = Random::new(random.number());
                scope.spawn(move || {
                    let worked = churn.work(places, random);
                    if worked.is_err() {
                        churn.over.store(true, Ordering::Relaxed);
                    }
                    worked
                })
            })
            .collect();
        let worked: Vec<_> = workers.into_iter().map(|w| w.join().unwrap()).collect();
        churn.over.store(true, Ordering::Relaxed);
        let harms = saboteur.join().unwrap();
        for one in worked {
            one.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log_tail(40)));
        }
        harms
    });
    let living: Vec<&Pod> = places.iter().filter_map(|p| p.pod.as_ref()).collect();
    eprintln!(
        "{pods} pods with up to {at_once} at once in {:.0?}, {} live; harms: {harms:?}",
        begun.elapsed(),
        living.len()
    );
    assert!(living.len() > at_once / 4, "hardly anybody lives: {}", living.len());
    assert!(harms.values().sum::<usize>() > pods / 4, "hardly any harm was done: {harms:?}");

    // Of harm to iptables and nftables there are no news: a timer would find it.
    lose_news(&node);
    node.wait_for("everything is put back", REPAIRED_WITHIN, |node| {
        let lacking = lacking(node, &living)?;
        ensure!(lacking.is_empty(), "{} things: {:?}", lacking.len(), &lacking[..lacking.len().min(10)]);
        let rules = firewall(&node.netns())?;
        ensure!(rules == sound, "rules {rules:#?} instead of {sound:#?}");
        Ok(true)
    })
    .unwrap();
    all_talk(&node, &living).unwrap();
    let text = get(&node.netns(), "http://127.0.0.1:61678/metrics").unwrap();
    let repairs: Vec<&str> = text.lines().filter(|l| l.starts_with("reservoir_host_")).collect();
    eprintln!("{}", repairs.join("\n"));
    let rules =
        repairs.iter().find_map(|l| l.strip_prefix(r#"reservoir_host_repairs_total{kind="rule",result="success"} "#));
    assert!(rules.is_some_and(|n| n.parse::<u64>().is_ok_and(|n| n > 0)), "repairs are counted: {repairs:?}");
    let firewall = node.metric(r#"reservoir_host_repairs_total{kind="firewall",result="success"}"#).unwrap();
    assert_eq!(firewall > 0.0, harms.contains_key(FIREWALL), "repairs are counted: {repairs:?}");

    for place in &mut places {
        churn.remove(place).unwrap();
    }
    node.wait_for("no trace of a pod", REPAIRED_WITHIN, |node| {
        let traces = node.pod_traces()?;
        ensure!(traces.is_empty(), "{} traces: {:#?}", traces.len(), &traces[..traces.len().min(10)]);
        Ok(true)
    })
    .unwrap();
    // Nothing comes back behind the plugins' backs either.
    thread::sleep(Duration::from_secs(1));
    assert_eq!(node.pod_traces().unwrap(), Vec::<String>::new());
    // An interface that goes may be half gone at one look.
    node.wait_for("what stays is whole", REPAIRED_WITHIN, |node| {
        let lacking = lacking(node, &[])?;
        ensure!(lacking.is_empty(), "{lacking:?}");
        Ok(true)
    })
    .unwrap();
    assert_eq!(node.pool().unwrap().1, 0, "an address is held by nobody");
    assert_eq!(node.audit().unwrap(), json!([]));
}
