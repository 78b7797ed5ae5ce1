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
//! As in EC2 the router drops packets whose source the sending interface does not own, answers ARP for each subnet's
//! gateway and for every other interface's addresses, and lets nothing out to the internet but an instance's primary
//! address, which it maps to a public one.

mod namespace;
mod plan;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use clap::Args;
use reservoir_core::ip::Ipv4Net;

use self::namespace::{Namespace, run};
pub use self::namespace::{NetworkError, bind_in};
use self::plan::{Link, Site};
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
}

/// The namespaces and what is plugged where.
#[derive(Debug)]
pub struct Vpc {
    instance: String,
    site: Site,
    links: BTreeMap<String, Link>,
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
            return Err(NetworkError::VpcHost(host.network()));
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
        };
        let mut vpc = Self { instance: instance.to_owned(), site, links: BTreeMap::new(), made: Vec::new() };
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
            LinkChange::Addresses(addresses) => {
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
