//! The pool as the daemon shows it: redrawn in place on a terminal, a line per change elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::story::Story;
use crate::Node;
use crate::shell::get;

const EVERY: Duration = Duration::from_millis(200);

/// One look at the pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    /// By device index.
    pub enis: BTreeMap<u64, Eni>,
    pub addresses: u64,
    pub assigned: u64,
    pub cooling: u64,
    pub waiting: u64,
    /// EC2 calls under way.
    pub calls: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Eni {
    pub id: String,
    pub addresses: BTreeSet<String>,
    /// Pod by address.
    pub pods: BTreeMap<String, String>,
}

impl Pool {
    /// `/v1/enis` and `/metrics` of the daemon.
    pub fn look(node: &Node) -> Result<Self> {
        let mut pool = Self::of_enis(&node.enis()?);
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

    fn of_enis(card: &Value) -> Self {
        let mut pool = Self {
            addresses: card["TotalIPs"].as_u64().unwrap_or_default(),
            assigned: card["AssignedIPs"].as_u64().unwrap_or_default(),
            ..Self::default()
        };
        for eni in card["ENIs"].as_object().into_iter().flat_map(|enis| enis.values()) {
            let mut of = Eni { id: eni["ID"].as_str().unwrap_or_default().to_owned(), ..Eni::default() };
            for cidr in eni["AvailableIPv4Cidrs"].as_object().into_iter().flat_map(|cidrs| cidrs.values()) {
                of.addresses.extend(cidr["Cidr"]["IP"].as_str().map(str::to_owned));
                for (ip, record) in cidr["IPAddresses"].as_object().into_iter().flatten() {
                    if record["IPAMKey"]["networkName"].as_str().is_some_and(|n| !n.is_empty()) {
                        let pod = record["IPAMMetadata"]["k8sPodName"].as_str().unwrap_or("?");
                        of.pods.insert(ip.clone(), pod.to_owned());
                    }
                }
            }
            pool.enis.insert(eni["DeviceNumber"].as_u64().unwrap_or_default(), of);
        }
        pool
    }

    /// Address by pod.
    pub fn pods(&self) -> BTreeMap<&str, &str> {
        self.enis.values().flat_map(|e| e.pods.iter()).map(|(ip, pod)| (pod.as_str(), ip.as_str())).collect()
    }

    /// Every address, held or free.
    pub fn all(&self) -> BTreeSet<String> {
        self.enis.values().flat_map(|e| e.addresses.iter().cloned()).collect()
    }

    /// Device index of the interface whose address a pod holds.
    pub fn device_of(&self, ip: &str) -> Option<u64> {
        self.enis.iter().find_map(|(device, eni)| eni.pods.contains_key(ip).then_some(*device))
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ENIs {}  addresses {:2}  assigned {:2}  cooling {:2}  waiting {:2}  EC2 calls {}",
            self.enis.len(),
            self.addresses,
            self.assigned,
            self.cooling,
            self.waiting,
            self.calls
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
            println!("   {:5.1} s  {pool}", self.started.elapsed().as_secs_f64());
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
        lines.extend(pool.enis.iter().map(|(device, eni)| {
            let (used, free) = (eni.pods.len(), eni.addresses.len().saturating_sub(eni.pods.len()));
            let bar = "█".repeat(used) + &"░".repeat(free);
            format!("  eth{device} {}  {used:2} of {:2}  {bar}", eni.id, eni.addresses.len())
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
    use super::*;

    #[test]
    fn what_introspection_shows_is_read() {
        let record = |network: &str, pod: &str| serde_json::json!({"IPAMKey": {"networkName": network}, "IPAMMetadata": {"k8sPodName": pod}});
        let card = serde_json::json!({"TotalIPs": 2, "AssignedIPs": 1, "ENIs": {"eni-1": {"ID": "eni-1", "DeviceNumber": 1,
        "AvailableIPv4Cidrs": {
            "10.0.0.5/32": {"Cidr": {"IP": "10.0.0.5"}, "IPAddresses": {"10.0.0.5": record("aws-cni", "pod-1")}},
            "10.0.0.6/32": {"Cidr": {"IP": "10.0.0.6"}, "IPAddresses": {"10.0.0.6": record("", "")}},
        }}}});
        let pool = Pool::of_enis(&card);
        assert_eq!((pool.addresses, pool.assigned, pool.enis[&1].addresses.len()), (2, 1, 2));
        assert_eq!(pool.pods(), BTreeMap::from([("pod-1", "10.0.0.5")]));
        assert_eq!(pool.device_of("10.0.0.5"), Some(1));
    }
}
