//! The host's network as the daemon uses it, behind one small trait: the kernel, or nothing at all (benchmarks).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::manager::NotReady;
use reservoir_core::store::EniSpec;
use reservoir_net::iptables::{self, Iptables, Randomize, SnatConfig, SnatFacts};
use reservoir_net::news::{self, News, Watcher};
use reservoir_net::repair::pods::{Checked, FirstNames, Memory, Pod};
use reservoir_net::repair::{self, Ours, Repair};
use reservoir_net::rule::Family;
use reservoir_net::table::TableChoice;
use reservoir_net::{MacAddr, eni, host, links, pods, sysctl};

use crate::config::{Config, Datapath, EnforcingMode, Modes, RandomizeSnat};
use crate::metrics::{Backend, HostRepair, Metrics, Outcome};

/// How long an attached interface may take to show in the kernel.
const APPEARANCE: Duration = Duration::from_secs(60);

/// What the host must do. Calls block: never from an async task.
pub trait HostNetwork: Send + Sync {
    /// The node at the daemon's start (spec 04 §8.2): primary interface, rules, SNAT. `vpc` is empty in IPv6 mode.
    fn set_up_host(&self, primary_mac: &str, primary_ip: Ipv4Addr, vpc: &[Ipv4Net]) -> Result<(), String>;
    /// The VPC's blocks have changed (spec 04 §12.1). After [`HostNetwork::set_up_host`].
    fn set_vpc_blocks(&self, vpc: &[Ipv4Net]) -> Result<(), String>;
    /// Waits for an attached interface and programs it (spec 04 §9). `subnet` is of the pods' family. Returns the table of
    /// its routes, which the host's rules may have chosen (§7.3).
    fn set_up_eni(&self, eni: &EniSpec, subnet: IpNet) -> Result<u32, NotReady>;
    /// The table that the host's rules choose for an interface's routes, where its pods may be served before it is set up.
    fn table(&self, eni: &EniSpec) -> Result<u32, String>;
    /// Removes the rule of an interface that is another's from now on.
    fn leave_eni(&self, eni: &EniSpec) -> Result<(), String>;
    /// Removes what an interface that is gone has left.
    fn tear_down_eni(&self, eni: &EniSpec) -> Result<(), String>;
    /// Index of the link with this MAC address, if there is one.
    fn link_index(&self, mac: &str) -> Result<Option<u32>, String>;
    /// Names of all links.
    fn links(&self) -> Result<Vec<String>, String>;
    /// Pods of the node's family that the host shows: address and host veth.
    fn pods(&self) -> Result<Vec<(IpAddr, Option<String>)>, String>;
    /// Removes the rules of pods that are gone (spec 02 §7.2).
    fn prune(&self, addresses: &[IpAddr]);
    /// Normalises the rules of living pods (spec 02 §7.3).
    fn refresh(&self, addresses: &[Ipv4Addr]) -> Result<(), String>;

    /// Starts to watch what others change; none where there is nothing to watch. Needs a tokio runtime.
    fn watch(&self) -> Result<Option<Watcher>, String> {
        Ok(None)
    }
    /// Every news is told, in their order.
    fn hear(&self, _news: &News) {}
    /// What there is to lose, to tell which news matter.
    fn ours(&self) -> Ours {
        Ours::default()
    }
    /// Puts right what others changed of the node and its secondary interfaces; with `everything` also what gives no
    /// news, which is iptables and nftables. Nothing before [`HostNetwork::set_up_host`].
    fn repair(&self, _everything: bool) -> Result<repair::Outcome, String> {
        Ok(repair::Outcome::default())
    }
    /// Compares what these pods must have with what the host shows, and puts it right if it may write.
    fn check_pods(&self, _pods: &[Pod], _write: bool) -> Result<Checked, String> {
        Ok(Checked::default())
    }
}

/// The kernel of this machine.
#[derive(Debug)]
pub struct KernelNetwork {
    datapath: Datapath,
    modes: Modes,
    blocks: [Block; 2],
    metrics: Metrics,
    /// Interfaces that the instance type can have.
    max_interfaces: u32,
    /// The node as it was set up.
    host: Mutex<Option<(host::HostConfig, MacAddr)>>,
    /// Secondary interfaces as they were set up. Locked while they are looked at, so that one whose rules are removed does
    /// not get them back.
    enis: Mutex<Vec<eni::EniSetup>>,
    pods: Mutex<Memory>,
    first_names: Mutex<FirstNames>,
    snat: Mutex<Snat>,
}

#[derive(Debug, Default)]
struct Snat {
    iptables: Option<Iptables>,
    /// Name and address of the primary interface, once the host is set up.
    primary: Option<(String, Ipv4Addr)>,
    /// The VPC's blocks that the rules were made of.
    applied: Option<Vec<Ipv4Net>>,
}

impl KernelNetwork {
    #[must_use]
    pub fn new(config: &Config, max_interfaces: u32, metrics: Metrics) -> Self {
        Self {
            datapath: config.datapath.clone(),
            modes: config.modes.clone(),
            blocks: blocks(config),
            metrics,
            max_interfaces,
            host: Mutex::default(),
            enis: Mutex::default(),
            pods: Mutex::default(),
            first_names: Mutex::default(),
            snat: Mutex::default(),
        }
    }

    /// Nothing of this interface is put back from now on, nor by a look that is under way.
    fn forget(&self, eni: &EniSpec) -> MutexGuard<'_, Vec<eni::EniSetup>> {
        let mut enis = lock(&self.enis);
        if let Ok(mac) = mac(&eni.mac) {
            enis.retain(|known| known.mac != mac);
        }
        enis
    }

    fn choose_table(&self, eni: &EniSpec) -> Result<TableChoice, String> {
        let usual = TableChoice { table: eni.table, rule_configured: false };
        // Of card 0 none is chosen; one without an address has no rule.
        let (1.., Some(address)) = (eni.card, eni.address) else { return Ok(usual) };
        eni::choose_table(eni.card, eni.device_index, address, self.max_interfaces).map_err(|e| e.to_string())
    }

    /// See [`blocks`]. Where a block is not wanted there need be no program to remove it with.
    fn block_node_local(&self) -> Result<(), String> {
        for Block { program, addresses, wanted } in self.blocks {
            let result = Iptables::detect(program).and_then(|tables| tables.block_node_local(addresses, wanted));
            match result {
                Ok(0) => {}
                Ok(_) => tracing::info!(program, wanted, "the rule that keeps node-local addresses to themselves"),
                Err(error) if wanted => return Err(error.to_string()),
                Err(error) => {
                    tracing::debug!(program, "whether node-local addresses are blocked is not known: {error}");
                }
            }
        }
        Ok(())
    }

    /// The family of the node's pods.
    /// By which names the host's interfaces came, as far as it can be told now.
    fn list_names(&self) -> Result<(), String> {
        let links = links::list().map_err(|e| e.to_string())?;
        lock(&self.first_names).list(&links);
        Ok(())
    }

    fn family(&self) -> Family {
        if self.modes.ipv6 { Family::V6 } else { Family::V4 }
    }

    fn apply_iptables(&self, snat: &mut Snat, vpc: &[Ipv4Net]) -> Result<(), String> {
        let Some((primary_interface, primary_ip)) = snat.primary.clone() else {
            return Err("the host is not set up yet".to_owned());
        };
        let d = &self.datapath;
        let config = SnatConfig {
            external_snat: d.external_snat,
            node_port: d.node_port_support,
            exclude: d.exclude_snat_cidrs.clone(),
            randomize: match d.randomize_snat {
                RandomizeSnat::None => Randomize::None,
                RandomizeSnat::HashRandom => Randomize::HashRandom,
                RandomizeSnat::Prng => Randomize::Prng,
            },
            mark: d.connmark,
            veth_prefix: d.veth_prefix.clone(),
        };
        let facts = SnatFacts { primary_interface, primary_ip, vpc_cidrs: vpc.to_vec() };
        let programs = match &mut snat.iptables {
            Some(programs) => programs,
            slot => {
                let found = Iptables::detect("iptables").map_err(|e| e.to_string())?;
                self.metrics.connmark_backend(match found.backend() {
                    iptables::Backend::Iptables => Backend::Iptables,
                    iptables::Backend::Nftables => Backend::Nftables,
                });
                slot.insert(found)
            }
        };
        let result = programs.apply(&config, &facts);
        self.metrics.connmark_reconciled(if result.is_ok() { Outcome::Success } else { Outcome::Error });
        let changes = result.map_err(|e| e.to_string())?;
        if changes > 0 {
            tracing::info!(changes, "SNAT and connmark rules were brought in line");
            // Nothing was new but what somebody had done to them.
            if snat.applied.as_deref() == Some(vpc) {
                self.metrics.host_repaired(HostRepair::Firewall, Outcome::Success, changes as u64);
            }
        }
        snat.applied = Some(vpc.to_vec());
        match programs.remove_stale_chains() {
            Ok(gone) if !gone.is_empty() => tracing::info!(chains = ?gone, "stale chains removed"),
            Ok(_) => {}
            Err(error) => tracing::warn!("stale iptables chains stay: {error}"),
        }
        Ok(())
    }
}

impl HostNetwork for KernelNetwork {
    fn set_up_host(&self, primary_mac: &str, primary_ip: Ipv4Addr, vpc: &[Ipv4Net]) -> Result<(), String> {
        let d = &self.datapath;
        let config = host::HostConfig {
            mtu: d.eni_mtu,
            node_port: d.node_port_support,
            external_snat: d.external_snat,
            mark: d.connmark,
            // The init container's to choose: what it chose stays.
            disable_tcp_early_demux: sysctl::get("net/ipv4/tcp_early_demux").is_ok_and(|value| value == "0"),
            family: self.family(),
            v6_egress: self.modes.v6_egress,
            strict_branches: self.modes.pod_eni && d.pod_security_group_mode == EnforcingMode::Strict,
        };
        let primary_mac = mac(primary_mac)?;
        let link = host::set_up(&config, primary_mac).map_err(|e| e.to_string())?;
        *lock(&self.host) = Some((config, primary_mac));
        self.block_node_local()?;
        if self.modes.ipv6 {
            // Pods' own addresses go out; what there is of IPv4 is egress-cni's.
            return Ok(());
        }
        let mut snat = lock(&self.snat);
        snat.primary = Some((link.name, primary_ip));
        self.apply_iptables(&mut snat, vpc)?;
        if let Err(error) = host::set_external_services(&d.external_service_cidrs) {
            tracing::warn!("rules of AWS_EXTERNAL_SERVICE_CIDRS: {error}");
        }
        Ok(())
    }

    fn set_vpc_blocks(&self, vpc: &[Ipv4Net]) -> Result<(), String> {
        self.apply_iptables(&mut lock(&self.snat), vpc)
    }

    fn set_up_eni(&self, eni: &EniSpec, subnet: IpNet) -> Result<u32, NotReady> {
        let (mac, mtu) = (mac(&eni.mac)?, self.datapath.eni_mtu);
        let Some(primary_ip) = eni.address else {
            if eni.trunk {
                // Its branch interfaces have addresses of their own.
                return eni::bring_up(mac, mtu, APPEARANCE).map(|_| eni.table).map_err(|e| not_ready(&e));
            }
            return Err("it has no address of its own".to_owned().into());
        };
        let TableChoice { table, rule_configured } = self.choose_table(eni)?;
        let setup = eni::EniSetup { mac, primary_ip, subnet, mtu, table, rule_configured, trunk: eni.trunk };
        eni::set_up(&setup, APPEARANCE).map_err(|e| not_ready(&e))?;
        let mut enis = lock(&self.enis);
        enis.retain(|known| known.mac != mac);
        enis.push(setup);
        Ok(table)
    }

    fn table(&self, eni: &EniSpec) -> Result<u32, String> {
        self.choose_table(eni).map(|choice| choice.table)
    }

    fn leave_eni(&self, eni: &EniSpec) -> Result<(), String> {
        let _looked_at_later = self.forget(eni);
        eni.address.map_or(Ok(()), |address| eni::leave(address, eni.table).map_err(|e| e.to_string()))
    }

    fn tear_down_eni(&self, eni: &EniSpec) -> Result<(), String> {
        let _looked_at_later = self.forget(eni);
        eni.address.map_or(Ok(()), |address| eni::tear_down(address).map_err(|e| e.to_string()))
    }

    fn link_index(&self, address: &str) -> Result<Option<u32>, String> {
        let address = mac(address)?;
        Ok(links::find(&links::list().map_err(|e| e.to_string())?, address).ok().map(|link| link.index))
    }

    fn links(&self) -> Result<Vec<String>, String> {
        Ok(links::list().map_err(|e| e.to_string())?.into_iter().map(|l| l.name).collect())
    }

    fn pods(&self) -> Result<Vec<(IpAddr, Option<String>)>, String> {
        let shown = pods::shown(self.family()).map_err(|e| e.to_string())?;
        Ok(shown.into_iter().map(|p| (p.address, p.host_veth)).collect())
    }

    fn prune(&self, addresses: &[IpAddr]) {
        for address in addresses {
            if let Err(error) = pods::prune(*address) {
                tracing::warn!(%address, "rules of a pod that is gone stay: {error}");
            }
        }
    }

    fn refresh(&self, addresses: &[Ipv4Addr]) -> Result<(), String> {
        pods::refresh_from_rules(addresses).map_err(|e| e.to_string())
    }

    fn watch(&self) -> Result<Option<Watcher>, String> {
        let families: &[Family] = if self.modes.ipv6 { &[Family::V6] } else { &[Family::V4] };
        let watcher = news::watch(families).map_err(|e| e.to_string())?;
        self.list_names()?;
        Ok(Some(watcher))
    }

    fn hear(&self, news: &News) {
        if *news != News::Overrun {
            lock(&self.first_names).hear(news);
        } else if let Err(error) = self.list_names() {
            tracing::warn!("the host's interfaces cannot be listed: {error}");
        }
    }

    fn ours(&self) -> Ours {
        Ours { tables: lock(&self.enis).iter().map(|eni| eni.table).collect() }
    }

    fn repair(&self, everything: bool) -> Result<repair::Outcome, String> {
        let Some((config, primary_mac)) = lock(&self.host).clone() else { return Ok(repair::Outcome::default()) };
        let external = (!self.modes.ipv6).then_some(self.datapath.external_service_cidrs.as_slice());
        let (primary, mut outcome) = repair::host(&config, primary_mac, external).map_err(|e| e.to_string())?;
        outcome.join(repair::interfaces(lock(&self.enis).iter()).map_err(|e| e.to_string())?);
        let refused = |message| {
            let repair = Repair { kind: repair::Kind::Firewall, what: "rules of iptables and nftables".to_owned() };
            (repair, reservoir_net::Error::Command { program: "iptables".to_owned(), message })
        };
        if everything && let Err(message) = self.block_node_local() {
            outcome.failed.push(refused(message));
        }
        let mut snat = lock(&self.snat);
        let blocks = snat.applied.clone();
        if let (Some((name, _)), Some(blocks)) = (&mut snat.primary, blocks) {
            // The rules name the interface.
            let before = std::mem::replace(name, primary.name.clone());
            if (everything || before != primary.name)
                && let Err(message) = self.apply_iptables(&mut snat, &blocks)
            {
                outcome.failed.push(refused(message));
                if let Some((name, _)) = &mut snat.primary {
                    *name = before;
                }
            }
        }
        Ok(outcome)
    }

    fn check_pods(&self, pods: &[Pod], write: bool) -> Result<Checked, String> {
        let first_names = lock(&self.first_names).clone();
        repair::pods::check(self.family(), pods, &mut lock(&self.pods), &first_names, write).map_err(|e| e.to_string())
    }
}

/// A block of addresses by which pods reach the other family, and which nobody else may reach (spec 04 §8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    program: &'static str,
    addresses: Family,
    wanted: bool,
}

/// Both blocks: where pods do not have such addresses the rule of an earlier run is removed (DW-15).
fn blocks(config: &Config) -> [Block; 2] {
    let modes = &config.modes;
    [
        Block { program: "iptables", addresses: Family::V4, wanted: modes.ipv6 && config.plugins.v4_egress },
        Block { program: "ip6tables", addresses: Family::V6, wanted: !modes.ipv6 && modes.v6_egress },
    ]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_ready(error: &reservoir_net::Error) -> NotReady {
    match error.root() {
        reservoir_net::Error::LinkNotFound { .. } => NotReady::Unseen(error.to_string()),
        _ => NotReady::Failed(error.to_string()),
    }
}

fn mac(text: &str) -> Result<MacAddr, String> {
    text.parse().map_err(|e| format!("{text:?}: {e}"))
}

/// No network at all (`RESERVOIR_HOST_NETWORK=none`): every interface is ready at once and no link exists.
#[derive(Debug)]
pub struct NoNetwork;

impl HostNetwork for NoNetwork {
    fn set_up_host(&self, _: &str, _: Ipv4Addr, _: &[Ipv4Net]) -> Result<(), String> {
        Ok(())
    }
    fn set_vpc_blocks(&self, _: &[Ipv4Net]) -> Result<(), String> {
        Ok(())
    }
    fn set_up_eni(&self, eni: &EniSpec, _: IpNet) -> Result<u32, NotReady> {
        Ok(eni.table)
    }
    fn table(&self, eni: &EniSpec) -> Result<u32, String> {
        Ok(eni.table)
    }
    fn leave_eni(&self, _: &EniSpec) -> Result<(), String> {
        Ok(())
    }
    fn link_index(&self, _: &str) -> Result<Option<u32>, String> {
        Ok(None)
    }
    fn tear_down_eni(&self, _: &EniSpec) -> Result<(), String> {
        Ok(())
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[test]
    fn node_local_addresses_are_blocked_where_pods_have_them_and_nowhere_else() {
        // Spec 04 §8.3, DW-15.
        for (pairs, wanted) in [
            (&[][..], [false, false]),
            (&[("ENABLE_V6_EGRESS", "true")], [false, true]),
            (&[("ENABLE_IPv6", "true")], [true, false]),
            (&[("ENABLE_IPv6", "true"), ("ENABLE_V6_EGRESS", "true")], [true, false]),
            (&[("ENABLE_IPv6", "true"), ("ENABLE_V4_EGRESS", "false")], [false, false]),
            (&[("ENABLE_V4_EGRESS", "true")], [false, false]),
        ] {
            let environment: Environment = pairs.iter().copied().collect();
            let blocks = blocks(&Config::read(&environment).0);
            assert_eq!(blocks.map(|b| b.wanted), wanted, "{pairs:?}");
            assert_eq!(blocks.map(|b| (b.program, b.addresses)), [("iptables", Family::V4), ("ip6tables", Family::V6)]);
        }
    }
}
