//! The host's network as the daemon uses it, behind one small trait: the kernel, or nothing at all (benchmarks).

mod firewall;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::manager::NotReady;
use reservoir_core::store::EniSpec;
use reservoir_net::news::{self, News, Watcher};
use reservoir_net::repair::pods::{Checked, FirstNames, Memory, Pod};
use reservoir_net::repair::{self, Ours, Secondary};
use reservoir_net::rule::Family;
use reservoir_net::table::TableChoice;
use reservoir_net::{MacAddr, eni, host, links, pods, sysctl};

use crate::config::{Config, Datapath, EnforcingMode, Modes};
use crate::metrics::Metrics;
use firewall::Firewall;

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
    /// Puts right what others changed of the node and its secondary interfaces, of what gives news. Nothing before
    /// [`HostNetwork::set_up_host`].
    fn repair(&self) -> Repaired {
        Repaired::default()
    }
    /// The same of what gives none: iptables and nftables. Takes as long as other programs keep the lock of iptables, but
    /// not for ever ([`reservoir_net::iptables::Bound`]); nothing else waits for it.
    fn repair_firewall(&self) -> repair::Outcome {
        repair::Outcome::default()
    }
    /// Compares what these pods must have with what the host shows, and puts it right if it may write.
    fn check_pods(&self, _pods: &[Pod], _write: bool) -> Result<Checked, String> {
        Ok(Checked::default())
    }
}

/// What a look at the node and its interfaces came to.
#[derive(Debug, Default)]
pub struct Repaired {
    pub outcome: repair::Outcome,
    /// The primary interface has another name than in the rules of iptables.
    pub renamed: bool,
}

/// The kernel of this machine.
#[derive(Debug)]
pub struct KernelNetwork {
    datapath: Datapath,
    modes: Modes,
    /// Interfaces that the instance type can have.
    max_interfaces: u32,
    /// The node as it was set up.
    host: Mutex<Option<(host::HostConfig, MacAddr)>>,
    /// Secondary interfaces as they were set up. Locked while they are looked at, so that one whose rules are removed does
    /// not get them back.
    enis: Mutex<Vec<Secondary>>,
    pods: Mutex<Memory>,
    first_names: Mutex<FirstNames>,
    firewall: Firewall,
}

impl KernelNetwork {
    #[must_use]
    pub fn new(config: &Config, max_interfaces: u32, metrics: Metrics) -> Self {
        Self {
            datapath: config.datapath.clone(),
            modes: config.modes.clone(),
            max_interfaces,
            host: Mutex::default(),
            enis: Mutex::default(),
            pods: Mutex::default(),
            first_names: Mutex::default(),
            firewall: Firewall::new(config, metrics),
        }
    }

    /// Nothing of this interface is put back from now on, nor by a look that is under way.
    fn forget(&self, eni: &EniSpec) -> MutexGuard<'_, Vec<Secondary>> {
        let mut enis = lock(&self.enis);
        if let Ok(mac) = mac(&eni.mac) {
            enis.retain(|known| known.mac() != mac);
        }
        enis
    }

    /// This interface is looked at from now on.
    fn remember(&self, secondary: Secondary) {
        let mut enis = lock(&self.enis);
        enis.retain(|known| known.mac() != secondary.mac());
        enis.push(secondary);
    }

    fn choose_table(&self, eni: &EniSpec) -> Result<TableChoice, String> {
        let usual = TableChoice { table: eni.table, rule_configured: false };
        // Of card 0 none is chosen; one without an address has no rule.
        let (1.., Some(address)) = (eni.card, eni.address) else { return Ok(usual) };
        eni::choose_table(eni.card, eni.device_index, address, self.max_interfaces).map_err(|e| e.to_string())
    }

    /// By which names the host's interfaces came, as far as it can be told now.
    fn list_names(&self) -> Result<(), String> {
        let links = links::list().map_err(|e| e.to_string())?;
        lock(&self.first_names).list(&links);
        Ok(())
    }

    /// What the variables say of the host.
    fn host_config(&self) -> host::HostConfig {
        let d = &self.datapath;
        host::HostConfig {
            mtu: d.eni_mtu,
            node_port: d.node_port_support,
            external_snat: d.external_snat,
            mark: d.connmark,
            disable_tcp_early_demux: false,
            family: self.family(),
            v6_egress: self.modes.v6_egress,
            strict_branches: self.modes.pod_eni && d.pod_security_group_mode == EnforcingMode::Strict,
        }
    }

    /// The family of the node's pods.
    fn family(&self) -> Family {
        if self.modes.ipv6 { Family::V6 } else { Family::V4 }
    }
}

impl HostNetwork for KernelNetwork {
    fn set_up_host(&self, primary_mac: &str, primary_ip: Ipv4Addr, vpc: &[Ipv4Net]) -> Result<(), String> {
        let config = host::HostConfig {
            // The init container's to choose: what it chose stays.
            disable_tcp_early_demux: sysctl::get("net/ipv4/tcp_early_demux").is_ok_and(|value| value == "0"),
            ..self.host_config()
        };
        let primary_mac = mac(primary_mac)?;
        let link = host::set_up(&config, primary_mac).map_err(|e| e.to_string())?;
        *lock(&self.host) = Some((config, primary_mac));
        self.firewall.set_up(link.name, primary_ip, vpc).map_err(|e| e.to_string())?;
        if self.modes.ipv6 {
            return Ok(());
        }
        if let Err(error) = host::set_external_services(&self.datapath.external_service_cidrs) {
            tracing::warn!("rules of AWS_EXTERNAL_SERVICE_CIDRS: {error}");
        }
        Ok(())
    }

    fn set_vpc_blocks(&self, vpc: &[Ipv4Net]) -> Result<(), String> {
        self.firewall.set_vpc_blocks(vpc).map_err(|e| e.to_string())
    }

    fn set_up_eni(&self, eni: &EniSpec, subnet: IpNet) -> Result<u32, NotReady> {
        let (mac, mtu) = (mac(&eni.mac)?, self.datapath.eni_mtu);
        let Some(primary_ip) = eni.address else {
            if eni.trunk {
                // Its branch interfaces have addresses of their own.
                eni::bring_up(mac, mtu, APPEARANCE).map_err(|e| not_ready(&e))?;
                self.remember(Secondary::Bare { mac, mtu });
                return Ok(eni.table);
            }
            return Err("it has no address of its own".to_owned().into());
        };
        let TableChoice { table, rule_configured } = self.choose_table(eni)?;
        let setup = eni::EniSetup { mac, primary_ip, subnet, mtu, table, rule_configured, trunk: eni.trunk };
        eni::set_up(&setup, APPEARANCE).map_err(|e| not_ready(&e))?;
        self.remember(setup.into());
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
        Ours { tables: lock(&self.enis).iter().filter_map(Secondary::table).collect() }
    }

    fn repair(&self) -> Repaired {
        let mut all = Repaired::default();
        let Some((config, primary_mac)) = lock(&self.host).clone() else { return all };
        let external = (!self.modes.ipv6).then_some(self.datapath.external_service_cidrs.as_slice());
        match repair::host(&config, primary_mac, external) {
            Ok((primary, outcome)) => {
                all.outcome.join(outcome);
                all.renamed = self.firewall.primary_is(&primary.name);
            }
            Err(error) => all.outcome.unseen.push(error),
        }
        match repair::interfaces(lock(&self.enis).iter()) {
            Ok(outcome) => all.outcome.join(outcome),
            Err(error) => all.outcome.unseen.push(error),
        }
        all
    }

    fn repair_firewall(&self) -> repair::Outcome {
        self.firewall.repair()
    }

    fn check_pods(&self, pods: &[Pod], write: bool) -> Result<Checked, String> {
        let first_names = lock(&self.first_names).clone();
        repair::pods::check(self.family(), pods, &mut lock(&self.pods), &first_names, write).map_err(|e| e.to_string())
    }
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
mod tests;
