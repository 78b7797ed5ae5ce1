//! The modes as data: the account, the daemon's environment, what must be seen.

/// One way to run a node.
#[derive(Debug)]
pub struct Mode {
    /// As `MODE=` names it.
    pub name: &'static str,
    /// For the title.
    pub what: &'static str,
    /// Few enough addresses on an interface that the pods need more than one.
    pub instance_type: &'static str,
    /// The account of the simulated AWS.
    pub preset: &'static str,
    /// Of the daemon, besides the cooldown.
    pub env: &'static [(&'static str, &'static str)],
    /// Pods' addresses come from where an ENIConfig says, or from a subnet that was found.
    pub place: Place,
    pub net: &'static Net,
    /// Pods of the first step.
    pub pods: usize,
    /// Of those, with an address on every card.
    pub on_every_card: usize,
    pub start: Start,
    /// Free addresses of card 0 once the pods are there.
    pub warm: u64,
    /// Device indexes on card 0: the first interface that has pods, and the next, if there is one.
    pub devices: (u64, Option<u64>),
    /// What the custom policy is told, first and at the end; none where nothing is decided.
    pub holds: Option<(Hold, Hold)>,
    /// Interfaces that are left at the end.
    pub left: usize,
}

/// Where the secondary interfaces are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the node's subnet.
    Same,
    /// Where the ENIConfig of the node's zone says.
    EniConfig,
    /// In the subnet with the most free addresses of those with the tag.
    Found,
}

/// The pool before the first pod.
#[derive(Debug)]
pub struct Start {
    pub enis: usize,
    /// On card 0, at least.
    pub addresses: u64,
    pub because: &'static str,
}

/// What a policy is told to hold, and what a card then has.
#[derive(Debug)]
pub struct Hold {
    pub setting: u64,
    pub addresses: u64,
}

const fn hold(setting: u64, addresses: u64) -> Hold {
    Hold { setting, addresses }
}

/// The addresses of the world.
#[derive(Debug)]
pub struct Net {
    /// Of `ip` and `nft`.
    pub option: &'static str,
    pub table: &'static str,
    pub any: &'static str,
    pub vpc_host: &'static str,
    pub internet: &'static str,
    /// In the VPC, in nobody's hands.
    pub foreign: &'static str,
    /// Whether pods go to the internet under the node's address.
    pub snat: bool,
}

pub const IPV4: Net = Net {
    option: "-4",
    table: "ip",
    any: "0.0.0.0",
    vpc_host: "10.0.200.10",
    internet: "198.51.100.10",
    foreign: "10.0.250.99",
    snat: true,
};

pub const IPV6: Net = Net {
    option: "-6",
    table: "ip6",
    any: "::",
    vpc_host: "2600:1f14:abc:dff::10",
    internet: "2001:db8:ffff::10",
    foreign: "2600:1f14:abc:d00:ffff::99",
    snat: false,
};

/// The modes, the default first.
pub const MODES: [Mode; 6] = [
    Mode {
        name: "secondary",
        what: "IPv4, secondary IP addresses",
        instance_type: "c5.4xlarge",
        preset: "secondary",
        env: &[],
        place: Place::Same,
        net: &IPV4,
        pods: 30,
        on_every_card: 0,
        start: Start {
            enis: 1,
            addresses: 29,
            because: "WARM_ENI_TARGET=1: one interface's worth of addresses is warm",
        },
        warm: 29,
        devices: (0, Some(1)),
        holds: Some((hold(48, 48), hold(20, 20))),
        left: 1,
    },
    Mode {
        name: "prefix",
        what: "IPv4, prefixes of 16 addresses",
        // Three prefixes on an interface.
        instance_type: "t3.small",
        preset: "prefix",
        env: &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")],
        place: Place::Same,
        net: &IPV4,
        pods: 52,
        on_every_card: 0,
        start: Start { enis: 1, addresses: 16, because: "WARM_PREFIX_TARGET=1: one prefix is warm" },
        warm: 16,
        devices: (0, Some(1)),
        holds: Some((hold(96, 96), hold(20, 32))),
        left: 1,
    },
    Mode {
        name: "custom",
        what: "IPv4, pods from a subnet of their own by ENIConfig",
        instance_type: "c5.4xlarge",
        preset: "custom",
        env: &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"), ("ENI_CONFIG_LABEL_DEF", "topology.kubernetes.io/zone")],
        place: Place::EniConfig,
        net: &IPV4,
        pods: 30,
        on_every_card: 0,
        start: Start {
            enis: 2,
            addresses: 29,
            because: "no pod gets an address of the primary interface: one interface's worth is warm on the next",
        },
        warm: 29,
        devices: (1, Some(2)),
        holds: Some((hold(48, 48), hold(20, 20))),
        left: 2,
    },
    Mode {
        name: "ipv6",
        what: "IPv6",
        instance_type: "c5.4xlarge",
        preset: "ipv6",
        env: &[
            ("ENABLE_IPv4", "false"),
            ("ENABLE_IPv6", "true"),
            ("ENABLE_PREFIX_DELEGATION", "true"),
            ("WARM_PREFIX_TARGET", "1"),
        ],
        place: Place::Same,
        net: &IPV6,
        pods: 30,
        on_every_card: 0,
        start: Start { enis: 1, addresses: 1 << 48, because: "one /80 is there, for as many pods as will ever come" },
        warm: 1,
        devices: (0, None),
        holds: None,
        left: 1,
    },
    Mode {
        name: "multinic",
        what: "IPv4, two network cards",
        instance_type: "c6in.32xlarge",
        preset: "multinic",
        env: &[("ENABLE_MULTI_NIC", "true")],
        place: Place::Same,
        net: &IPV4,
        pods: 52,
        on_every_card: 4,
        start: Start {
            enis: 2,
            addresses: 49,
            because: "one interface's worth of addresses is warm, and the second card has its first interface",
        },
        warm: 49,
        devices: (0, Some(1)),
        holds: Some((hold(64, 64), hold(20, 20))),
        left: 2,
    },
    Mode {
        name: "discovery",
        what: "IPv4, further subnets found by their tag",
        instance_type: "c5.4xlarge",
        preset: "discovery",
        env: &[],
        place: Place::Found,
        net: &IPV4,
        pods: 30,
        on_every_card: 0,
        start: Start {
            enis: 1,
            addresses: 29,
            because: "WARM_ENI_TARGET=1: one interface's worth of addresses is warm",
        },
        warm: 29,
        devices: (0, Some(1)),
        holds: Some((hold(48, 48), hold(20, 20))),
        left: 1,
    },
];

/// The mode that is asked for.
///
/// # Errors
/// The arguments are not understood, or there is no such mode.
pub fn asked(arguments: &[String]) -> Result<&'static Mode, String> {
    let names = MODES.map(|m| m.name).join("|");
    let name = match arguments {
        [] => return Ok(&MODES[0]),
        [flag, mode] if flag == "--mode" => mode,
        other => return Err(format!("{:?} is not understood; usage: demo [--mode {names}]", other.join(" "))),
    };
    let mode = MODES.iter().find(|m| m.name == name);
    mode.ok_or_else(|| format!("MODE={name} does not exist; there is MODE={names}, the first is the default"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(words: &[&str]) -> Result<&'static str, String> {
        asked(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()).map(|m| m.name)
    }

    #[test]
    fn modes_go_by_their_names_and_nothing_else_does() {
        assert_eq!(ask(&[]), Ok("secondary"));
        for mode in MODES {
            assert_eq!(ask(&["--mode", mode.name]), Ok(mode.name));
        }
        let refused = ask(&["--mode", "ipv5"]).unwrap_err();
        assert!(refused.contains("MODE=ipv5") && refused.contains("custom|ipv6|multinic"), "{refused}");
        assert!(ask(&["mode"]).unwrap_err().contains("usage"));
    }

    #[test]
    fn the_pods_need_a_second_interface_where_one_is_shown() {
        for mode in MODES.iter().filter(|m| m.devices.1.is_some()) {
            let slots = reservoir_core::limits::InstanceLimits::of(mode.instance_type).unwrap().slots_per_eni();
            let each = if mode.name == "prefix" { 16 * slots } else { slots };
            assert!(mode.pods > each as usize, "{}: {} pods on interfaces of {each}", mode.name, mode.pods);
        }
    }
}
