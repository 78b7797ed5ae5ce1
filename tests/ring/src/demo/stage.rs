//! What the steps share.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::live::{Live, Pool};
use super::modes::{Mode, Place};
use super::story::Story;
use crate::cni::Attachment;
use crate::node::{Pod, end_namespace};
use crate::shell::in_netns;
use crate::{Node, Options, cluster};

/// Started while the policy is swapped.
pub const MORE_PODS: usize = 8;
/// ADDs and DELs at one time.
const AT_ONCE: usize = 6;

/// The running node and what was seen of it.
#[derive(Debug)]
pub struct Stage {
    pub mode: &'static Mode,
    pub node: Node,
    pub options: Options,
    pub pods: Vec<Pod>,
    pub live: Live,
    /// Rules, routes, links and iptables of the node before its first pod.
    pub bare: BTreeSet<String>,
    /// When this daemon started: it knows no interface for longer.
    pub daemon_since: Instant,
    pub seen: Seen,
    policy_version: u32,
}

/// For the last line, and for the look at what stays.
#[derive(Debug, Default)]
pub struct Seen {
    pub pods: usize,
    pub most_enis: usize,
    /// The policy was told another setting while it ran.
    pub told: bool,
    /// All names made by this run end or begin with it.
    pub tag: String,
    pub processes: Vec<u32>,
}

impl Seen {
    pub fn summary(&self) -> String {
        let (pods, enis) = (self.pods, self.most_enis);
        let interfaces = if enis == 1 { "interface" } else { "interfaces" };
        // In IPv6 a policy has nothing to decide.
        let told = if self.told { " and told its setting later" } else { "" };
        format!(
            "{pods} pods got VPC addresses on {enis} {interfaces}, packets went every way they should and none that they should not, \
             a custom policy was swapped in while pods started{told}, kill -9 cost no pod its address, nothing was left"
        )
    }
}

impl Stage {
    /// Starts the simulated AWS and makes the node's namespace.
    pub fn open(mode: &'static Mode, options: Options, story: &mut Story) -> Result<Self> {
        story.step("The simulated AWS and a bare node")?;
        story.command(format!(
            "aws-sim --preset {} --instance-type {} --subnet-cidr {} --delays {} --create-netns --node-netns … --vpc-netns …",
            mode.preset, options.instance_type, options.subnet, options.delays
        ));
        let mut node = Node::new(options.clone())?;
        if mode.place == Place::EniConfig {
            story.command(
                "kubectl apply    # the Node with its zone, and the zone's ENIConfig: subnet and security group",
            );
            node.start_cluster(&cluster::with_eni_config(110))?;
        }
        let seen = Seen { tag: node.netns().trim_start_matches("rn").to_owned(), ..Seen::default() };
        let now = Instant::now();
        Ok(Self {
            mode,
            node,
            options,
            pods: Vec::new(),
            live: Live::new(),
            bare: BTreeSet::new(),
            daemon_since: now,
            seen,
            policy_version: 0,
        })
    }

    /// Takes everything down.
    pub fn close(mut self) -> Seen {
        self.seen.processes.extend(self.node.daemon_pid());
        self.seen
    }

    /// The end of the daemon's log, for who has to find out why.
    pub fn show_logs(&self) {
        let _ = writeln!(std::io::stdout(), "   the daemon's log ends with:\n{}", self.node.log_tail(15));
    }

    pub fn start_daemon(&mut self) -> Result<Duration> {
        self.daemon_since = Instant::now();
        let took = self.node.start_daemon()?;
        self.seen.processes.extend(self.node.daemon_pid());
        Ok(took)
    }

    /// Namespaces of pods that are to be attached, numbered on. The first of all ask for every card, as the mode says.
    pub fn make_pods(&mut self, count: usize) -> Result<Vec<Attachment>> {
        let first = self.seen.pods + 1;
        self.seen.pods += count;
        let pods = (first..first + count).map(|n| {
            let mut pod = self.node.make_pod(&format!("pod-{n:02}"))?;
            if n <= self.mode.on_every_card {
                pod.annotations.insert("k8s.amazonaws.com/nicConfig".to_owned(), "multi-nic-attachment".to_owned());
            }
            Ok(pod)
        });
        pods.collect()
    }

    /// Every address of every pod, with the pod's name.
    pub fn addresses(&self) -> Vec<(&str, &str)> {
        self.pods.iter().flat_map(|p| p.ips.iter().map(|ip| (p.name.as_str(), ip.as_str()))).collect()
    }

    /// Attaches pods, some at one time, under the live table. Failures come back beside the pods' names.
    pub fn attach(&mut self, waiting: Vec<Attachment>) -> Vec<(String, anyhow::Error)> {
        let node = &self.node;
        let results = self.live.during(node, || at_once(waiting, |a| (a.pod.clone(), node.attach(a))));
        self.keep(results)
    }

    /// Takes in what was attached.
    pub fn keep(&mut self, results: Vec<(String, Result<Pod>)>) -> Vec<(String, anyhow::Error)> {
        let mut failed = Vec::new();
        for (name, result) in results {
            match result {
                Ok(pod) => self.pods.push(pod),
                Err(error) => failed.push((name, error)),
            }
        }
        failed
    }

    /// Detaches all pods, some at one time, under the live table, and removes their namespaces.
    pub fn remove_all(&mut self) -> Result<()> {
        let pods = std::mem::take(&mut self.pods);
        let node = &self.node;
        let results = self.live.during(node, || {
            at_once(pods.clone(), |p| node.cni().del(&p.attachment, &p.result).with_context(|| p.name.clone()))
        });
        results.into_iter().collect::<Result<Vec<()>>>()?;
        for pod in &pods {
            end_namespace(&pod.netns)?;
        }
        Ok(())
    }

    pub fn pool(&mut self) -> Result<Pool> {
        let pool = Pool::look(&self.node)?;
        self.seen.most_enis = self.seen.most_enis.max(pool.enis.len());
        Ok(pool)
    }

    /// A pod whose address is on the interface of card 0 with this device index; the `nth` of them.
    pub fn pod_on(&mut self, device: u64, nth: usize) -> Result<Pod> {
        let pool = self.pool()?;
        let mut on = self.pods.iter().filter(|p| pool.device_of(&p.ip) == Some((0, device)));
        on.nth(nth).cloned().ok_or_else(|| anyhow!("eth{device} has fewer than {} pods: {pool}", nth + 1))
    }

    /// Two pods, on two interfaces if the mode has more than one.
    pub fn two_pods(&mut self) -> Result<(Pod, Pod)> {
        let (first, second) = self.mode.devices;
        let (other, nth) = second.map_or((first, 1), |second| (second, 0));
        Ok((self.pod_on(first, 0)?, self.pod_on(other, nth)?))
    }

    /// Puts the next version of the policy into the mounted ConfigMap.
    pub fn put_policy(&mut self, files: &[(&str, &[u8])]) -> Result<()> {
        self.policy_version += 1;
        super::config_map::put(&self.node.dir().join("policy"), self.policy_version, files)
    }

    /// Rules, routes, links and iptables of the node: what a pod or an interface could leave behind. Secondary interfaces
    /// themselves and their tables are left out: which of them stay is the policy's business.
    pub fn kernel_state(&self) -> Result<BTreeSet<String>> {
        let (ns, family) = (self.node.netns(), self.mode.net.option);
        let mut state = BTreeSet::new();
        let mut add = |what: &str, text: String| {
            let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
            let lines = lines.filter(|l| !l.split_whitespace().any(is_secondary));
            // `:CHAIN policy [packets:bytes]`
            let plain = lines.map(|l| if l.starts_with(':') { l.split(" [").next().unwrap_or(l) } else { l });
            state.extend(plain.map(|l| format!("{what}: {l}")));
        };
        add("rule", in_netns(&ns, "ip", &[family, "rule"])?);
        let routes = in_netns(&ns, "ip", &[family, "route", "show", "table", "all"])?;
        // Of link-local addresses the kernel makes them when it is sure that nobody else has the address: a second later.
        let own = |l: &&str| l.contains("fe80:") && l.contains("table local");
        add("route", routes.lines().filter(|l| !own(l)).collect::<Vec<_>>().join("\n"));
        let links = in_netns(&ns, "ip", &["-o", "link"])?;
        add("link", links.lines().filter_map(|l| l.split_whitespace().nth(1)).collect::<Vec<_>>().join("\n"));
        let save = if family == "-6" { "ip6tables-save" } else { "iptables-save" };
        add("iptables", in_netns(&ns, save, &[])?);
        Ok(state)
    }
}

/// Whether a word names an interface other than the primary one.
fn is_secondary(word: &str) -> bool {
    let name = word.trim_end_matches(':').split('@').next().unwrap_or_default();
    name.strip_prefix("eth").is_some_and(|number| number != "0" && number.starts_with(|c: char| c.is_ascii_digit()))
}

/// Does `work` for all items, a few at a time; results in the items' order.
pub fn at_once<I: Send + Sync, T: Send>(items: Vec<I>, work: impl Fn(I) -> T + Sync) -> Vec<T> {
    let queue = std::sync::Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
        let worker = || std::iter::from_fn(|| next().map(|(n, item)| (n, work(item)))).collect::<Vec<_>>();
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        let join = |w: std::thread::ScopedJoinHandle<'_, Vec<(usize, T)>>| match w.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().flat_map(join).collect()
    });
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn secondary_interfaces_go_by_their_names() {
        for (word, is) in
            [("eth0", false), ("eth0@if5:", false), ("eth1", true), ("eth1x2@if7:", true), ("ethernet", false)]
        {
            assert_eq!(super::is_secondary(word), is, "{word}");
        }
    }

    #[test]
    fn all_is_done_once_and_in_order() {
        assert_eq!(super::at_once((0..50).collect(), |n| n * 2), (0..100).step_by(2).collect::<Vec<_>>());
    }
}
