//! One node's daemon and its machine, as the environment would set them up.

use std::time::Duration;

use reservoir_core::kube::EniConfig;
use reservoir_core::limits::InstanceLimits;
use reservoir_core::policy::{Family, Targets, Unit};

use super::daemon::limits_of;
use super::workload::Shape;
use super::world::WorldError;

/// Variables of the environment that are on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switches {
    /// ENABLE_POD_ENI.
    pub pod_eni: bool,
    /// MANAGE_UNTAGGED_ENI.
    pub manage_untagged: bool,
    /// ENABLE_SUBNET_DISCOVERY.
    pub subnet_discovery: bool,
    /// False: DISABLE_NETWORK_RESOURCE_PROVISIONING.
    pub provisioning: bool,
    /// False: DISABLE_LEAKED_ENI_CLEANUP; without effect in IPv6 mode, where it is never done.
    pub clean_up: bool,
}

impl Default for Switches {
    /// As documented.
    fn default() -> Self {
        Self { pod_eni: false, manage_untagged: true, subnet_discovery: true, provisioning: true, clean_up: true }
    }
}

/// One node of the account.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// An instance of the simulation's configuration.
    pub instance: String,
    pub limits: InstanceLimits,
    pub max_pods: u32,
    pub family: Family,
    pub unit: Unit,
    /// The managed network cards.
    pub cards: Vec<u32>,
    /// Pods want an address of every card instead of one.
    pub every_card: bool,
    /// The documented targets, as the environment would set them.
    pub targets: Targets,
    /// IP_COOLDOWN_PERIOD.
    pub cooldown: Duration,
    /// RESERVOIR_ADD_WAIT_SECONDS.
    pub add_wait: Duration,
    /// Between a refused ADD and the kubelet's next try.
    pub retry: Duration,
    /// The world's zero, since the Unix epoch.
    pub epoch: Duration,
    /// Custom networking with this ENIConfig.
    pub eni_config: Option<EniConfig>,
    pub switches: Switches,
    /// For the daemon's jitter and tokens.
    pub seed: u64,
}

impl NodeConfig {
    /// The documented defaults for `instance` of `instance_type`: WARM_ENI_TARGET=1, single addresses, as many pods as
    /// the type's addresses allow, 110 at most. The world begins on a Monday at midnight, UTC.
    ///
    /// # Errors
    /// The table of limits does not know the type.
    pub fn new(instance: &str, instance_type: &str) -> Result<Self, WorldError> {
        let limits = limits_of(instance_type).ok_or_else(|| WorldError::Type(instance_type.to_owned()))?;
        let max_pods = (limits.enis.saturating_mul(limits.slots_per_eni()) + 2).min(110);
        Ok(Self {
            instance: instance.to_owned(),
            limits,
            max_pods,
            family: Family::Ipv4,
            unit: Unit::Ip,
            cards: vec![0],
            every_card: false,
            targets: Targets { warm_enis: 1, warm_ips: 0, warm_prefixes: 1, minimum_ips: 0 },
            cooldown: Duration::from_secs(30),
            add_wait: Duration::from_secs(30),
            retry: Duration::from_secs(10),
            epoch: Duration::from_secs(1_767_571_200),
            eni_config: None,
            switches: Switches::default(),
            seed: 1,
        })
    }

    /// For whom pods are made: nine tenths of the addresses that the node can hold, so that what differs is the policy and
    /// not the limit of the instance type.
    #[must_use]
    pub fn shape(&self, length: Duration) -> Shape {
        let slots = self.limits.slots_per_eni();
        let addresses = match self.unit {
            Unit::Ip => self.limits.enis.saturating_mul(slots),
            Unit::Prefix => self.limits.enis.saturating_mul(slots).saturating_mul(16),
        };
        Shape { length, capacity: (addresses.saturating_mul(9) / 10).min(self.max_pods.saturating_sub(2)), slots }
    }
}
