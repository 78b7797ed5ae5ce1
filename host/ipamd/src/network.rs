//! The host's network as the daemon uses it, behind one small trait: the kernel, or nothing at all (benchmarks).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::time::Duration;

use reservoir_core::ip::Ipv4Net;
use reservoir_core::store::EniSpec;
use reservoir_net::iptables::{Iptables, Randomize, SnatConfig, SnatFacts};
use reservoir_net::rule::Family;
use reservoir_net::{eni, host, links, pods};

use crate::config::{Datapath, RandomizeSnat};
use crate::metrics::{Metrics, Outcome};

/// How long an attached interface may take to show in the kernel.
const APPEARANCE: Duration = Duration::from_secs(60);

/// What the host must do. Calls block: never from an async task.
pub trait HostNetwork: Send + Sync {
    /// The node at the daemon's start (spec 04 §8.2): primary interface, rules, SNAT.
    fn set_up_host(&self, primary_mac: &str, primary_ip: Ipv4Addr, vpc: &[Ipv4Net]) -> Result<(), String>;
    /// Waits for an attached interface and programs it (spec 04 §9).
    fn set_up_eni(&self, eni: &EniSpec, subnet: Ipv4Net) -> Result<(), String>;
    /// Removes what an interface that is gone has left.
    fn tear_down_eni(&self, eni: &EniSpec) -> Result<(), String>;
    /// Names of all links.
    fn links(&self) -> Result<Vec<String>, String>;
    /// Pods that the host shows: address and host veth.
    fn pods(&self) -> Result<Vec<(Ipv4Addr, Option<String>)>, String>;
    /// Removes the rules of pods that are gone (spec 02 §7.2).
    fn prune(&self, addresses: &[IpAddr]);
    /// Normalises the rules of living pods (spec 02 §7.3).
    fn refresh(&self, addresses: &[Ipv4Addr]) -> Result<(), String>;
}

/// The kernel of this machine.
#[derive(Debug)]
pub struct KernelNetwork {
    datapath: Datapath,
    metrics: Metrics,
    iptables: Mutex<Option<Iptables>>,
}

impl KernelNetwork {
    #[must_use]
    pub fn new(datapath: Datapath, metrics: Metrics) -> Self {
        Self { datapath, metrics, iptables: Mutex::new(None) }
    }

    fn apply_iptables(&self, primary_interface: String, primary_ip: Ipv4Addr, vpc: &[Ipv4Net]) -> Result<(), String> {
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
        let mut slot = self.iptables.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let iptables = match &mut *slot {
            Some(iptables) => iptables,
            None => slot.insert(Iptables::detect("iptables").map_err(|e| e.to_string())?),
        };
        let result = iptables.apply(&config, &facts);
        self.metrics.connmark_reconciled(if result.is_ok() { Outcome::Success } else { Outcome::Error });
        let changes = result.map_err(|e| e.to_string())?;
        tracing::info!(changes, "SNAT and connmark rules are in place");
        match iptables.remove_stale_chains() {
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
            disable_tcp_early_demux: false,
            family: Family::V4,
            v6_egress: false,
            strict_branches: false,
        };
        let link = host::set_up(&config, mac(primary_mac)?).map_err(|e| e.to_string())?;
        self.apply_iptables(link.name, primary_ip, vpc)?;
        if let Err(error) = host::set_external_services(&d.external_service_cidrs) {
            tracing::warn!("rules of AWS_EXTERNAL_SERVICE_CIDRS: {error}");
        }
        Ok(())
    }

    fn set_up_eni(&self, eni: &EniSpec, subnet: Ipv4Net) -> Result<(), String> {
        let Some(IpAddr::V4(primary_ip)) = eni.address else {
            return Err("it has no IPv4 address of its own".to_owned());
        };
        let setup = eni::EniSetup {
            mac: mac(&eni.mac)?,
            primary_ip: primary_ip.into(),
            subnet: subnet.into(),
            mtu: self.datapath.eni_mtu,
            table: eni.table,
            rule_configured: false,
            trunk: eni.trunk,
        };
        eni::set_up(&setup, APPEARANCE).map(drop).map_err(|e| e.to_string())
    }

    fn tear_down_eni(&self, eni: &EniSpec) -> Result<(), String> {
        match eni.address {
            Some(IpAddr::V4(address)) => eni::tear_down(address).map_err(|e| e.to_string()),
            _ => Ok(()),
        }
    }

    fn links(&self) -> Result<Vec<String>, String> {
        Ok(links::list().map_err(|e| e.to_string())?.into_iter().map(|l| l.name).collect())
    }

    fn pods(&self) -> Result<Vec<(Ipv4Addr, Option<String>)>, String> {
        let shown = pods::shown(Family::V4).map_err(|e| e.to_string())?;
        Ok(shown.into_iter().filter_map(|p| Some((as_ipv4(p.address)?, p.host_veth))).collect())
    }

    fn prune(&self, addresses: &[IpAddr]) {
        for address in addresses {
            let IpAddr::V4(address) = address else { continue };
            if let Err(error) = pods::prune(*address) {
                tracing::warn!(%address, "rules of a pod that is gone stay: {error}");
            }
        }
    }

    fn refresh(&self, addresses: &[Ipv4Addr]) -> Result<(), String> {
        pods::refresh_from_rules(addresses).map_err(|e| e.to_string())
    }
}

fn as_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

fn mac(text: &str) -> Result<reservoir_net::MacAddr, String> {
    text.parse().map_err(|e| format!("{text:?}: {e}"))
}

/// No network at all (`RESERVOIR_HOST_NETWORK=none`): every interface is ready at once and no link exists.
#[derive(Debug)]
pub struct NoNetwork;

impl HostNetwork for NoNetwork {
    fn set_up_host(&self, _: &str, _: Ipv4Addr, _: &[Ipv4Net]) -> Result<(), String> {
        Ok(())
    }
    fn set_up_eni(&self, _: &EniSpec, _: Ipv4Net) -> Result<(), String> {
        Ok(())
    }
    fn tear_down_eni(&self, _: &EniSpec) -> Result<(), String> {
        Ok(())
    }
    fn links(&self) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }
    fn pods(&self) -> Result<Vec<(Ipv4Addr, Option<String>)>, String> {
        Ok(Vec::new())
    }
    fn prune(&self, _: &[IpAddr]) {}
    fn refresh(&self, _: &[Ipv4Addr]) -> Result<(), String> {
        Ok(())
    }
}
