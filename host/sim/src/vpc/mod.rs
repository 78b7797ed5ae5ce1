//! The third face: ENIs as veth pairs between a node's network namespace and a VPC router's.
//!
//! ```text
//!  node namespace          VPC namespace (router)                    <vpc>-host   10.0.200.10
//!   eth0 ───────────────── v-… ─┐                       ┌─ host0 ──── eth0
//!   eth1 ───────────────── v-… ─┤ routes, source check ─┤
//!                               ┘                       └─ igw0 ───── eth0
//!                                                                    <vpc>-inet   198.51.100.10
//! ```
//!
//! As in EC2 the router drops packets whose source, address or MAC, is not the sending interface's, answers ARP for each
//! subnet's gateway and for every other interface's addresses, and lets nothing out to the internet but an instance's
//! primary address, which it maps to a public one. IPv6 is not mapped: in each subnet the router is `fe80:ec2::1`, and who
//! has an address has it in the internet too.
//!
//! Security groups are enforced between interfaces, and between them and the rest of the world; the host in the VPC is a
//! member of the default group and has none in its own way. What stays inside the node never comes here.

mod firewall;
mod namespace;
mod plan;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::Args;
use reservoir_core::ip::{IpNet, Ipv4Net};

use self::namespace::{Namespace, Step, run};
pub use self::namespace::{NetworkError, bind_in};
use self::plan::{Link, Site, SiteIpv6};
use crate::model::groups::SecurityGroup;
use crate::{Config, LinkChange, LinkEvent};

/// Where the real interfaces go.
#[derive(Debug, Clone, Args)]
pub struct VpcOptions {
    /// Network namespace of the first instance: its interfaces appear there. Needs root.
    #[arg(long)]
    pub node_netns: Option<String>,
    /// Network namespace of the VPC's router; `<name>-host` and `<name>-inet` are a host in the VPC and the internet.
    #[arg(long, default_value = "aws-vpc")]
    pub vpc_netns: String,
    /// Create the node's and the router's namespace, and remove them at the end.
    #[arg(long)]
    pub create_netns: bool,
    /// The host in the VPC: an address of the VPC outside all subnets.
    #[arg(long, default_value = "10.0.200.10")]
    pub vpc_host: Ipv4Addr,
    /// The host in the internet.
    #[arg(long, default_value = "198.51.100.10")]
    pub internet_host: Ipv4Addr,
    /// IPv6 address of the host in the VPC; without it ::10 of the last /64 of the VPC's first IPv6 block, if it has one.
    #[arg(long)]
    pub vpc_host_ipv6: Option<Ipv6Addr>,
    /// IPv6 address of the host in the internet.
    #[arg(long, default_value = "2001:db8:ffff::10")]
    pub internet_host_ipv6: Ipv6Addr,
}

impl VpcOptions {
    /// The IPv6 side, where the VPC has one.
    fn ipv6(&self, config: &Config) -> Result<Option<SiteIpv6>, NetworkError> {
        let Some(first) = config.vpc.ipv6_cidrs.first() else { return Ok(None) };
        let host = self.vpc_host_ipv6.unwrap_or_else(|| last_host(*first));
        let in_vpc = config.vpc.ipv6_cidrs.iter().any(|c| c.contains(host.into()));
        if !in_vpc || config.subnets.iter().filter_map(|s| s.ipv6_cidr).any(|c| c.contains(host.into())) {
            return Err(NetworkError::VpcHost(host.into()));
        }
        let vpc_cidrs = config.vpc.ipv6_cidrs.clone();
        Ok(Some(SiteIpv6 { host, internet: self.internet_host_ipv6, vpc_cidrs }))
    }
}

/// ::10 of the last /64.
fn last_host(block: IpNet) -> Ipv6Addr {
    let network = match block.network() {
        IpAddr::V6(a) => u128::from(a),
        IpAddr::V4(_) => 0,
    };
    let subnets = (1u128 << 64u8.saturating_sub(block.length())) - 1;
    Ipv6Addr::from(network | subnets << 64 | 0x10)
}

/// The namespaces and what is plugged where.
#[derive(Debug)]
pub struct Vpc {
    instance: String,
    site: Site,
    links: BTreeMap<String, Link>,
    /// The rules of the security groups as the router has them.
    enforced: String,
    /// Those made here, to be removed at the end.
    made: Vec<Namespace>,
}

impl Vpc {
    /// Makes the router, the host in the VPC and the internet; interfaces come with [`Self::apply`].
    ///
    /// # Errors
    /// No root, a namespace missing or already there, or a host address that cannot be one. What was made is removed.
    pub async fn open(options: &VpcOptions, instance: &str, config: &Config) -> Result<Self, NetworkError> {
        let host = Ipv4Net::host(options.vpc_host);
        let in_vpc = config.vpc.cidrs.iter().any(|c| c.contains(options.vpc_host));
        if !in_vpc || config.subnets.iter().any(|s| s.cidr.contains(options.vpc_host)) {
            return Err(NetworkError::VpcHost(host.network().into()));
        }
        let router = options.vpc_netns.clone();
        let site = Site {
            node: options.node_netns.clone().unwrap_or_default(),
            host: format!("{router}-host"),
            internet: format!("{router}-inet"),
            router,
            host_address: options.vpc_host,
            internet_address: options.internet_host,
            vpc_cidrs: config.vpc.cidrs.clone(),
            gateways: config.subnets.iter().map(|s| s.cidr.gateway()).collect(),
            ipv6: options.ipv6(config)?,
        };
        let mut vpc = Self {
            instance: instance.to_owned(),
            site,
            links: BTreeMap::new(),
            enforced: String::new(),
            made: Vec::new(),
        };
        match vpc.build(options.create_netns).await {
            Ok(()) => Ok(vpc),
            Err(error) => {
                vpc.close().await;
                Err(error)
            }
        }
    }

    async fn build(&mut self, create: bool) -> Result<(), NetworkError> {
        for name in [&self.site.node, &self.site.router] {
            if create {
                self.made.push(Namespace::create(name).await?);
            } else {
                Namespace::check(name)?;
            }
        }
        for name in [&self.site.host, &self.site.internet] {
            self.made.push(Namespace::create(name).await?);
        }
        for step in self.site.build() {
            run(&step).await?;
        }
        // Interfaces that come are shut until their groups are known.
        self.enforce(&[]).await
    }

    /// Has the router let through what the security groups allow, and nothing else.
    ///
    /// # Errors
    /// The command that failed, and what it said.
    pub async fn enforce(&mut self, groups: &[SecurityGroup]) -> Result<(), NetworkError> {
        let ruleset = firewall::ruleset(groups, self.links.values(), &self.site.host_addresses());
        if ruleset != self.enforced {
            run(&Step::Nft { namespace: self.site.router.clone(), ruleset: ruleset.clone() }).await?;
            self.enforced = ruleset;
        }
        Ok(())
    }

    /// Follows one change of the model. Changes of other instances concern no namespace here.
    ///
    /// # Errors
    /// The command that failed, and what it said.
    pub async fn apply(&mut self, event: &LinkEvent) -> Result<(), NetworkError> {
        if event.instance != self.instance {
            return Ok(());
        }
        let old = self.links.remove(&event.eni);
        let steps = match &event.change {
            LinkChange::Down => {
                let Some(link) = old else { return Ok(()) };
                self.site.unplug(&link)
            }
            LinkChange::Up(addresses) => {
                let link = Link::new(event, addresses);
                let steps = self.site.plug(&link);
                self.links.insert(event.eni.clone(), link);
                steps
            }
            LinkChange::Changed(addresses) => {
                let Some(old) = old else { return Ok(()) };
                let link = Link::new(event, addresses);
                let steps = self.site.readdress(&old, &link);
                self.links.insert(event.eni.clone(), link);
                steps
            }
        };
        for step in steps {
            run(&step).await?;
        }
        Ok(())
    }

    /// Unplugs everything and removes the namespaces made here.
    pub async fn close(mut self) {
        for link in std::mem::take(&mut self.links).into_values() {
            for step in self.site.unplug(&link) {
                if let Err(error) = run(&step).await {
                    tracing::warn!(%error, "unplugging {}", link.router_name);
                }
            }
        }
        for namespace in self.made.into_iter().rev() {
            namespace.remove().await;
        }
    }
}
