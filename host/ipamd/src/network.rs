//! The host's network as the daemon uses it, behind one small trait: the kernel, or nothing at all (benchmarks).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::store::EniSpec;
use reservoir_net::iptables::{self, Iptables, Randomize, SnatConfig, SnatFacts};
use reservoir_net::rule::Family;
use reservoir_net::{eni, host, links, pods};

use crate::config::{Config, Datapath, EnforcingMode, Modes, RandomizeSnat};
use crate::metrics::{Backend, Metrics, Outcome};

/// How long an attached interface may take to show in the kernel.
const APPEARANCE: Duration = Duration::from_secs(60);

/// What the host must do. Calls block: never from an async task.
pub trait HostNetwork: Send + Sync {
    /// The node at the daemon's start (spec 04 §8.2): primary interface, rules, SNAT. `vpc` is empty in IPv6 mode.
    fn set_up_host(&self, primary_mac: &str, primary_ip: Ipv4Addr, vpc: &[Ipv4Net]) -> Result<(), String>;
    /// The VPC's blocks have changed (spec 04 §12.1). After [`HostNetwork::set_up_host`].
    fn set_vpc_blocks(&self, vpc: &[Ipv4Net]) -> Result<(), String>;
    /// Waits for an attached interface and programs it (spec 04 §9). `subnet` is of the pods' family.
    fn set_up_eni(&self, eni: &EniSpec, subnet: IpNet) -> Result<(), String>;
    /// Removes what an interface that is gone has left.
    fn tear_down_eni(&self, eni: &EniSpec) -> Result<(), String>;
    /// Names of all links.
    fn links(&self) -> Result<Vec<String>, String>;
    /// Pods of the node's family that the host shows: address and host veth.
    fn pods(&self) -> Result<Vec<(IpAddr, Option<String>)>, String>;
    /// Removes the rules of pods that are gone (spec 02 §7.2).
    fn prune(&self, addresses: &[IpAddr]);
    /// Normalises the rules of living pods (spec 02 §7.3).
    fn refresh(&self, addresses: &[Ipv4Addr]) -> Result<(), String>;
}

/// The kernel of this machine.
#[derive(Debug)]
pub struct KernelNetwork {
    datapath: Datapath,
    modes: Modes,
    metrics: Metrics,
    snat: Mutex<Snat>,
}

#[derive(Debug, Default)]
struct Snat {
    iptables: Option<Iptables>,
    /// Name and address of the primary interface, once the host is set up.
    primary: Option<(String, Ipv4Addr)>,
}

impl KernelNetwork {
    #[must_use]
    pub fn new(config: &Config, metrics: Metrics) -> Self {
        Self { datapath: config.datapath.clone(), modes: config.modes.clone(), metrics, snat: Mutex::default() }
    }

    /// The family of the node's pods.
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
        }
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
            disable_tcp_early_demux: false,
            family: self.family(),
            v6_egress: self.modes.v6_egress,
            strict_branches: self.modes.pod_eni && d.pod_security_group_mode == EnforcingMode::Strict,
        };
        let link = host::set_up(&config, mac(primary_mac)?).map_err(|e| e.to_string())?;
        if self.modes.ipv6 {
            // Pods' own addresses go out; what there is of IPv4 is egress-cni's.
            return Ok(());
        }
        let mut snat = self.snat.lock().unwrap_or_else(PoisonError::into_inner);
        snat.primary = Some((link.name, primary_ip));
        self.apply_iptables(&mut snat, vpc)?;
        if let Err(error) = host::set_external_services(&d.external_service_cidrs) {
            tracing::warn!("rules of AWS_EXTERNAL_SERVICE_CIDRS: {error}");
        }
        Ok(())
    }

    fn set_vpc_blocks(&self, vpc: &[Ipv4Net]) -> Result<(), String> {
        self.apply_iptables(&mut self.snat.lock().unwrap_or_else(PoisonError::into_inner), vpc)
    }

    fn set_up_eni(&self, eni: &EniSpec, subnet: IpNet) -> Result<(), String> {
        let Some(primary_ip) = eni.address else {
            return Err("it has no address of its own".to_owned());
        };
        let setup = eni::EniSetup {
            mac: mac(&eni.mac)?,
            primary_ip,
            subnet,
            mtu: self.datapath.eni_mtu,
            table: eni.table,
            rule_configured: false,
            trunk: eni.trunk,
        };
        eni::set_up(&setup, APPEARANCE).map(drop).map_err(|e| e.to_string())
    }

    fn tear_down_eni(&self, eni: &EniSpec) -> Result<(), String> {
        eni.address.map_or(Ok(()), |address| eni::tear_down(address).map_err(|e| e.to_string()))
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
    fn set_vpc_blocks(&self, _: &[Ipv4Net]) -> Result<(), String> {
        Ok(())
    }
    fn set_up_eni(&self, _: &EniSpec, _: IpNet) -> Result<(), String> {
        Ok(())
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
