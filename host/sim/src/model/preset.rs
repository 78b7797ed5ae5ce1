//! Accounts to begin with: what a VPC looks like for each way to run a cluster.

use super::config::{Config, InstanceConfig, SubnetConfig};

/// The subnet of the nodes in every preset.
pub const NODES: &str = "subnet-0a7c5e3b1d9f82464";
/// A second one: pods of custom networking and discovery.
pub const PODS: &str = "subnet-0e8d6c4b2a0f97531";
/// A third one, smaller.
pub const MORE: &str = "subnet-0b1c2d3e4f5a60718";

impl Config {
    /// The presets' names.
    pub const PRESETS: &'static [&'static str] =
        &["secondary", "prefix", "custom", "ipv6", "multinic", "multinic-ipv6", "discovery"];

    /// An account by name; None: no such preset.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let mut config = Self::default();
        let net = |text: &str| text.parse().ok();
        match name {
            "secondary" | "prefix" => {}
            // Pods from a second block of the VPC, by ENIConfig.
            "custom" => {
                config.vpc.cidrs.extend(net("100.64.0.0/16"));
                config.subnets.extend(net("100.64.0.0/19").map(|cidr| SubnetConfig::new(PODS, cidr)));
            }
            "ipv6" => dual_stack(&mut config)?,
            // Two cards of eight interfaces.
            "multinic" => two_cards(&mut config),
            "multinic-ipv6" => {
                two_cards(&mut config);
                dual_stack(&mut config)?;
            }
            // One subnet of the nodes, two for pods, one of another zone.
            "discovery" => {
                config.vpc.cidrs.extend(net("100.64.0.0/16"));
                for (id, cidr, zone) in [
                    (PODS, "100.64.0.0/19", "us-west-2a"),
                    (MORE, "100.64.32.0/24", "us-west-2a"),
                    ("subnet-0c9d8e7f6a5b40312", "100.64.64.0/19", "us-west-2b"),
                ] {
                    let subnet = SubnetConfig::new(id, cidr.parse().ok()?).tag("kubernetes.io/role/cni", "1");
                    config.subnets.push(SubnetConfig { availability_zone: zone.to_owned(), ..subnet });
                }
            }
            _ => return None,
        }
        Some(config)
    }
}

fn two_cards(config: &mut Config) {
    let first = config.instances.first().map(|i| i.id.clone()).unwrap_or_default();
    config.instances = vec![InstanceConfig::new(&first, "c6in.32xlarge", NODES)];
}

fn dual_stack(config: &mut Config) -> Option<()> {
    config.vpc.ipv6_cidrs.push("2600:1f14:abc:d00::/56".parse().ok()?);
    config.subnets.first_mut()?.ipv6_cidr = "2600:1f14:abc:d00::/64".parse().ok();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sim;

    #[test]
    fn every_preset_is_an_account() {
        for name in Config::PRESETS {
            let config = Config::preset(name).unwrap_or_else(|| panic!("{name}"));
            let sim = Sim::new(&config).unwrap_or_else(|e| panic!("{name}: {e}"));
            let facts = sim.identity(&config.instances[0].id).unwrap().facts;
            assert_eq!(facts.local_ipv6.is_some(), name.contains("ipv6"), "{name}");
            assert_eq!(facts.subnet, NODES);
        }
        assert!(Config::preset("dreams").is_none());
    }
}
