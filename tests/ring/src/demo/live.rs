//! The pool as the daemon shows it: redrawn in place on a terminal, a line per change elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use reservoir_core::ip::IpNet;
use serde_json::Value;

use super::story::Story;
use crate::Node;
use crate::shell::get;

const EVERY: Duration = Duration::from_millis(200);

/// One look at the pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    pub cards: BTreeMap<u64, Card>,
    /// By card and device index.
    pub enis: BTreeMap<(u64, u64), Eni>,
    pub cooling: u64,
    pub waiting: u64,
    /// EC2 calls under way.
    pub calls: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    pub addresses: u64,
    pub assigned: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Eni {
    pub id: String,
    /// Single addresses and prefixes.
    pub blocks: BTreeSet<String>,
    /// Pod by address.
    pub pods: BTreeMap<String, String>,
}

impl Eni {
    /// How many addresses it has; none if nobody would count them.
    fn size(&self) -> Option<u64> {
        let nets = self.blocks.iter().filter_map(|b| b.parse::<IpNet>().ok());
        nets.map(|net| net.is_ipv4().then(|| net.size())).sum()
    }
}

impl Pool {
    /// `/v1/enis` and `/metrics` of the daemon.
    pub fn look(node: &Node) -> Result<Self> {
        let mut pool = Self::of_cards(&node.cards()?);
        let text = get(&node.netns(), "http://127.0.0.1:61678/metrics")?;
        let gauge = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
            let value: f64 = line.with_context(|| format!("no metric {name}"))?.trim().parse()?;
            Ok(value as u64)
        };
        pool.cooling = gauge("reservoir_cooling_ip_addresses")?;
        pool.waiting = gauge("reservoir_waiting_pods")?;
        pool.calls = gauge("reservoir_ec2_calls_in_flight")?;
        Ok(pool)
    }

    fn of_cards(cards: &Value) -> Self {
        let mut pool = Self::default();
        for (number, card) in cards.as_object().into_iter().flatten() {
            let number: u64 = number.parse().unwrap_or_default();
            let count = |name: &str| card[name].as_u64().unwrap_or_default();
            pool.cards.insert(number, Card { addresses: count("TotalIPs"), assigned: count("AssignedIPs") });
            for eni in card["ENIs"].as_object().into_iter().flat_map(|enis| enis.values()) {
                let mut of = Eni { id: eni["ID"].as_str().unwrap_or_default().to_owned(), ..Eni::default() };
                let families = ["AvailableIPv4Cidrs", "IPv6Cidrs"].map(|family| eni[family].as_object());
                for (block, cidr) in families.into_iter().flatten().flatten() {
                    of.blocks.insert(block.clone());
                    for (ip, record) in cidr["IPAddresses"].as_object().into_iter().flatten() {
                        if record["IPAMKey"]["networkName"].as_str().is_some_and(|n| !n.is_empty()) {
                            let pod = record["IPAMMetadata"]["k8sPodName"].as_str().unwrap_or("?");
                            of.pods.insert(ip.clone(), pod.to_owned());
                        }
                    }
                }
                pool.enis.insert((number, eni["DeviceNumber"].as_u64().unwrap_or_default()), of);
            }
        }
        pool
    }

    /// Addresses that pods have.
    pub fn assigned(&self) -> u64 {
        self.cards.values().map(|c| c.assigned).sum()
    }

    /// All addresses, of card 0.
    pub fn first_card(&self) -> Card {
        self.cards.get(&0).cloned().unwrap_or_default()
    }

    /// Whether each card has so many.
    pub fn each_has(&self, addresses: u64) -> bool {
        !self.cards.is_empty() && self.cards.values().all(|c| c.addresses == addresses)
    }

    /// Addresses by pod.
    pub fn pods(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut pods: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (ip, pod) in self.enis.values().flat_map(|e| e.pods.iter()) {
            pods.entry(pod).or_default().insert(ip);
        }
        pods
    }

    /// Every block, held or free.
    pub fn all(&self) -> BTreeSet<String> {
        self.enis.values().flat_map(|e| e.blocks.iter().cloned()).collect()
    }

    /// Card and device index of the interface whose address a pod holds.
    pub fn device_of(&self, ip: &str) -> Option<(u64, u64)> {
        self.enis.iter().find_map(|(device, eni)| eni.pods.contains_key(ip).then_some(*device))
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Option<u64> = self.enis.values().map(Eni::size).sum();
        let addresses = match sizes {
            Some(n) => format!("addresses {n:2}"),
            None => format!("prefixes {}", self.all().len()),
        };
        let assigned = self.assigned();
        let (enis, cooling, waiting, calls) = (self.enis.len(), self.cooling, self.waiting, self.calls);
        write!(
            f,
            "ENIs {enis}  {addresses}  assigned {assigned:2}  cooling {cooling:2}  waiting {waiting:2}  EC2 calls {calls}"
        )
    }
}

/// The table on the screen.
#[derive(Debug)]
pub struct Live {
    terminal: bool,
    started: Instant,
    /// Lines of the last drawing.
    drawn: usize,
    last: Option<Pool>,
}

impl Live {
    pub fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), started: Instant::now(), drawn: 0, last: None }
    }

    /// Shows the pool while `work` is done.
    pub fn during<T: Send>(&mut self, node: &Node, work: impl FnOnce() -> T + Send) -> T {
        self.begin();
        let result = std::thread::scope(|scope| {
            let worker = scope.spawn(work);
            while !worker.is_finished() {
                self.show(node, "");
                std::thread::sleep(EVERY);
            }
            match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        self.show(node, "");
        result
    }

    /// Shows the pool until it is as wanted; `note` is said below the table.
    ///
    /// # Errors
    /// It does not come within `limit`, or Ctrl-C does.
    pub fn until(
        &mut self,
        node: &Node,
        story: &Story,
        limit: Duration,
        note: impl Fn() -> String,
        wanted: impl Fn(&Pool) -> bool,
    ) -> Result<Pool> {
        self.begin();
        loop {
            story.go_on()?;
            if let Some(pool) = self.show(node, &note())
                && wanted(&pool)
            {
                return Ok(pool);
            }
            if self.started.elapsed() > limit {
                bail!("after {} s the pool is still: {}", limit.as_secs(), self.last.clone().unwrap_or_default());
            }
            std::thread::sleep(EVERY);
        }
    }

    fn begin(&mut self) {
        *self = Self::new();
    }

    fn show(&mut self, node: &Node, note: &str) -> Option<Pool> {
        // A daemon that is down is a gap in the table.
        let pool = Pool::look(node).ok()?;
        let changed = self.last.as_ref() != Some(&pool);
        if self.terminal {
            self.redraw(&pool, note);
        } else if changed {
            let _ = writeln!(std::io::stdout(), "   {:5.1} s  {pool}", self.started.elapsed().as_secs_f64());
        }
        self.last = Some(pool.clone());
        Some(pool)
    }

    fn redraw(&mut self, pool: &Pool, note: &str) {
        let mut text = String::new();
        if self.drawn > 0 {
            text += &format!("\x1b[{}A\x1b[J", self.drawn);
        }
        let mut lines = vec![format!("{:5.1} s  {pool}", self.started.elapsed().as_secs_f64())];
        lines.extend(pool.enis.iter().map(|((card, device), eni)| {
            let (used, size) = (eni.pods.len(), eni.size());
            let of = size.map_or("2⁴⁸".to_owned(), |n| format!("{n:2}"));
            let free = size.and_then(|n| usize::try_from(n).ok()).unwrap_or(used).saturating_sub(used);
            let bar = "█".repeat(used) + &"░".repeat(free);
            let card = if *card == 0 { String::new() } else { format!("card {card} ") };
            format!("  {card}eth{device} {}  {used:2} of {of}  {bar}", eni.id)
        }));
        if !note.is_empty() {
            lines.push(format!("  {note}"));
        }
        for line in &lines {
            text += &format!("   {line}\n");
        }
        self.drawn = lines.len();
        print!("{text}");
        // A terminal that is gone takes the whole demo with it.
        let _ = std::io::stdout().flush();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_introspection_shows_is_read() {
        let record = |network: &str, pod: &str| json!({"IPAMKey": {"networkName": network}, "IPAMMetadata": {"k8sPodName": pod}});
        let cards = json!({
        "0": {"TotalIPs": 17, "AssignedIPs": 1, "ENIs": {"eni-1": {"ID": "eni-1", "DeviceNumber": 1, "AvailableIPv4Cidrs": {
            "10.0.0.5/32": {"IPAddresses": {"10.0.0.5": record("aws-cni", "pod-1")}},
            "10.0.0.16/28": {"IPAddresses": {"10.0.0.17": record("", "")}},
        }}}},
        "1": {"TotalIPs": 1, "AssignedIPs": 1, "ENIs": {"eni-2": {"ID": "eni-2", "DeviceNumber": 1, "IPv6Cidrs": {
            "fd00::/80": {"IPAddresses": {"fd00::5": record("aws-cni", "pod-1")}},
        }}}}});
        let pool = Pool::of_cards(&cards);
        assert_eq!((pool.first_card().addresses, pool.assigned()), (17, 2));
        assert_eq!((pool.enis[&(0, 1)].size(), pool.enis[&(1, 1)].size()), (Some(17), None));
        assert_eq!(pool.pods(), BTreeMap::from([("pod-1", BTreeSet::from(["10.0.0.5", "fd00::5"]))]));
        assert_eq!((pool.device_of("10.0.0.5"), pool.device_of("fd00::5")), (Some((0, 1)), Some((1, 1))));
        assert!(!pool.each_has(17));
    }
}
