//! What the router, the hosts and each interface need, as plain commands: no I/O here.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv4Addr;

use reservoir_core::ip::Ipv4Net;

use super::namespace::Step;
use crate::LinkEvent;
use crate::model::links::Addresses;

/// EC2's.
const MTU: u32 = 9001;
/// The addresses the internet gateway maps to (RFC 5737): the Nth interface, wrapping.
const PUBLIC: [u8; 3] = [203, 0, 113];

/// The namespaces by name and the addresses of the world.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub node: String,
    pub router: String,
    pub host: String,
    pub internet: String,
    pub host_address: Ipv4Addr,
    pub internet_address: Ipv4Addr,
    pub vpc_cidrs: Vec<Ipv4Net>,
    pub gateways: Vec<Ipv4Addr>,
}

/// One plugged interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub router_name: String,
    pub node_name: String,
    pub mac: String,
    pub subnet: Ipv4Net,
    /// Device 0 on card 0: has a default route, and a public address at the internet gateway.
    pub is_primary: bool,
    pub primary: Option<Ipv4Addr>,
    pub blocks: BTreeSet<Ipv4Net>,
}

impl Link {
    pub fn new(event: &LinkEvent, addresses: &Addresses) -> Self {
        let short = &event.eni[event.eni.len().saturating_sub(12)..];
        Self {
            router_name: format!("v-{short}"),
            node_name: match event.card {
                0 => format!("eth{}", event.device_index),
                card => format!("eth{card}x{}", event.device_index),
            },
            mac: event.mac.clone(),
            subnet: event.subnet,
            is_primary: event.device_index == 0 && event.card == 0,
            primary: addresses.primary,
            blocks: addresses.blocks().collect(),
        }
    }
}

impl Site {
    /// The router with its filter, and the two hosts.
    pub fn build(&self) -> Vec<Step> {
        let values = |pairs: &[(&str, &'static str)]| pairs.iter().map(|&(k, v)| (k.to_owned(), v)).collect();
        let sysctl = Step::Sysctl {
            namespace: self.router.clone(),
            values: values(&[
                ("ipv4/ip_forward", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv4/conf/all/proxy_arp", "1"),
                ("ipv4/conf/default/proxy_arp", "1"),
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/default/send_redirects", "0"),
            ]),
        };
        let mut router = String::from("link set lo up\n");
        let host_gateway = Ipv4Net::new(self.host_address, 24).gateway();
        for gateway in self.gateways.iter().chain([&host_gateway]) {
            line(&mut router, format_args!("address replace {gateway}/32 dev lo"));
        }
        let internet_gateway = Ipv4Net::new(self.internet_address, 24).gateway();
        for (port, namespace) in [("host0", &self.host), ("igw0", &self.internet)] {
            line(
                &mut router,
                format_args!("link add {port} mtu {MTU} type veth peer name eth0 netns {namespace} mtu {MTU}"),
            );
            line(&mut router, format_args!("link set {port} up"));
        }
        line(&mut router, format_args!("address add {internet_gateway}/24 dev igw0"));
        line(&mut router, format_args!("route add {}/32 dev host0", self.host_address));
        line(&mut router, format_args!("route add default via {} dev igw0", self.internet_address));
        for cidr in &self.vpc_cidrs {
            line(&mut router, format_args!("route add blackhole {cidr}"));
        }
        let end = |namespace: &str, address: Ipv4Addr, gateway: Ipv4Addr| Step::Ip {
            namespace: namespace.to_owned(),
            lines: format!(
                "link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {gateway}\n"
            ),
        };
        vec![
            sysctl,
            Step::Nft { namespace: self.router.clone(), ruleset: RULESET.to_owned() },
            Step::Ip { namespace: self.router.clone(), lines: router },
            self.prompt_proxy("host0"),
            end(&self.host, self.host_address, host_gateway),
            end(&self.internet, self.internet_address, internet_gateway),
            Step::Ip { namespace: self.node.clone(), lines: "link set lo up\n".to_owned() },
        ]
    }

    /// Plugs an interface in. A primary one is configured as DHCP would, others are left to the node.
    pub fn plug(&self, link: &Link) -> Vec<Step> {
        let Link { router_name, node_name, mac, subnet, .. } = link;
        let mut router = String::new();
        line(
            &mut router,
            format_args!(
                "link add {router_name} mtu {MTU} type veth peer name {node_name} netns {} address {mac} mtu {MTU}",
                self.node
            ),
        );
        line(&mut router, format_args!("link set {router_name} up"));
        if let Some(primary) = link.primary {
            line(&mut router, format_args!("neighbour replace {primary} lladdr {mac} dev {router_name} nud permanent"));
        }
        let mut steps = Vec::new();
        steps.extend(self.filter(None, Some(link)));
        steps.push(Step::Ip { namespace: self.router.clone(), lines: router + &routes(None, link) });
        steps.push(self.prompt_proxy(router_name));
        if let (true, Some(primary)) = (link.is_primary, link.primary) {
            let (length, gateway) = (subnet.length(), subnet.gateway());
            let lines = format!(
                "address add {primary}/{length} broadcast + dev {node_name}\nlink set {node_name} up\n\
                 route add default via {gateway} dev {node_name}\n"
            );
            steps.push(Step::Ip { namespace: self.node.clone(), lines });
        }
        steps
    }

    /// Without it a proxied ARP answer takes up to 0.8 s.
    fn prompt_proxy(&self, port: &str) -> Step {
        let key = format!("ipv4/neigh/{port}/proxy_delay");
        Step::Sysctl { namespace: self.router.clone(), values: vec![(key, "0")] }
    }

    /// Takes an interface out; its routes go with it.
    pub fn unplug(&self, link: &Link) -> Vec<Step> {
        let lines = format!("link delete {}\n", link.router_name);
        let mut steps = vec![Step::Ip { namespace: self.router.clone(), lines }];
        steps.extend(self.filter(Some(link), None));
        steps
    }

    /// Follows an assign or unassign.
    pub fn readdress(&self, old: &Link, new: &Link) -> Vec<Step> {
        let mut steps: Vec<Step> = self.filter(Some(old), Some(new)).into_iter().collect();
        let lines = routes(Some(old), new);
        if !lines.is_empty() {
            steps.push(Step::Ip { namespace: self.router.clone(), lines });
        }
        steps
    }

    /// Which sources may come in where, and who has a public address.
    fn filter(&self, old: Option<&Link>, new: Option<&Link>) -> Option<Step> {
        let elements = |link: Option<&Link>| -> BTreeSet<(&'static str, String)> {
            let Some(link) = link else { return BTreeSet::new() };
            let addresses = link.blocks.iter().flat_map(|b| (0..b.size()).filter_map(|n| b.nth(n)));
            let mut all: BTreeSet<_> =
                addresses.map(|a| ("owned", format!("\"{}\" . {a}", link.router_name))).collect();
            if let (true, Some(primary)) = (link.is_primary, link.primary) {
                let [a, b, c] = PUBLIC;
                let public = Ipv4Addr::new(a, b, c, primary.octets()[3].clamp(1, 254));
                all.insert(("mapped", primary.to_string()));
                all.insert(("public", format!("{primary} : {public}")));
                all.insert(("private", format!("{public} : {primary}")));
            }
            all
        };
        let (old, new) = (elements(old), elements(new));
        let mut ruleset = String::new();
        for (verb, set, element) in (old.difference(&new).map(|(s, e)| ("delete", s, e)))
            .chain(new.difference(&old).map(|(s, e)| ("add", s, e)))
        {
            line(&mut ruleset, format_args!("{verb} element ip vpc {set} {{ {element} }}"));
        }
        (!ruleset.is_empty()).then(|| Step::Nft { namespace: self.router.clone(), ruleset })
    }
}

/// All an interface's addresses are behind its MAC, whether or not the node answers ARP for them.
fn routes(old: Option<&Link>, new: &Link) -> String {
    let none = BTreeSet::new();
    let before = old.map_or(&none, |l| &l.blocks);
    let dev = &new.router_name;
    let mut lines = String::new();
    for gone in before.difference(&new.blocks) {
        line(&mut lines, format_args!("route delete {gone} dev {dev}"));
    }
    for block in new.blocks.difference(before) {
        match new.primary {
            Some(primary) => line(&mut lines, format_args!("route replace {block} via {primary} dev {dev} onlink")),
            None => line(&mut lines, format_args!("route replace {block} dev {dev}")),
        }
    }
    lines
}

fn line(text: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{args}");
}

/// The counters can be read: `nft list counters table ip vpc`.
const RULESET: &str = r#"
table ip vpc {
    counter foreign_source {}
    counter no_public_address {}
    set owned { type ifname . ipv4_addr; }
    set mapped { type ipv4_addr; }
    map public { type ipv4_addr : ipv4_addr; }
    map private { type ipv4_addr : ipv4_addr; }
    chain source_check {
        type filter hook prerouting priority raw; policy accept;
        iifname "v-*" iifname . ip saddr != @owned counter name foreign_source drop
    }
    chain gateway {
        type filter hook forward priority filter; policy accept;
        oifname "igw0" ip saddr != @mapped counter name no_public_address drop
        iifname "igw0" ct state new ct status & dnat != dnat drop
    }
    chain inbound {
        type nat hook prerouting priority dstnat; policy accept;
        iifname "igw0" dnat to ip daddr map @private
    }
    chain outbound {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "igw0" snat to ip saddr map @public
    }
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        Site {
            node: "node".to_owned(),
            router: "vpc".to_owned(),
            host: "vpc-host".to_owned(),
            internet: "vpc-inet".to_owned(),
            host_address: Ipv4Addr::new(10, 0, 200, 10),
            internet_address: Ipv4Addr::new(198, 51, 100, 10),
            vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
            gateways: vec![Ipv4Addr::new(10, 0, 32, 1)],
        }
    }

    fn link(index: u32, secondary: &[Ipv4Addr]) -> Link {
        let primary = Ipv4Addr::new(10, 0, 32, 20);
        Link {
            router_name: "v-0123456789ab".to_owned(),
            node_name: format!("eth{index}"),
            mac: "06:00:00:00:00:01".to_owned(),
            subnet: "10.0.32.0/20".parse().unwrap(),
            is_primary: index == 0,
            primary: Some(primary),
            blocks: secondary.iter().chain([&primary]).map(|&a| Ipv4Net::host(a)).collect(),
        }
    }

    #[test]
    fn only_the_primary_interface_is_configured_and_has_a_public_address() {
        let text = |index| format!("{:?}", site().plug(&link(index, &[])));
        assert!(text(0).contains("route add default via 10.0.32.1 dev eth0"));
        assert!(text(0).contains("10.0.32.20 : 203.0.113.20"));
        assert!(!text(1).contains("route add default"));
        assert!(!text(1).contains("203.0.113"));
    }

    #[test]
    fn an_assign_touches_only_what_is_new_and_an_unplug_takes_all_back() {
        let (a, b) = (Ipv4Addr::new(10, 0, 32, 31), Ipv4Addr::new(10, 0, 32, 32));
        let steps = site().readdress(&link(1, &[a]), &link(1, &[b]));
        let [Step::Nft { ruleset, .. }, Step::Ip { lines, .. }] = steps.as_slice() else { panic!("{steps:?}") };
        assert_eq!(
            ruleset,
            "delete element ip vpc owned { \"v-0123456789ab\" . 10.0.32.31 }\n\
             add element ip vpc owned { \"v-0123456789ab\" . 10.0.32.32 }\n"
        );
        assert_eq!(
            lines,
            "route delete 10.0.32.31/32 dev v-0123456789ab\n\
             route replace 10.0.32.32/32 via 10.0.32.20 dev v-0123456789ab onlink\n"
        );
        assert_eq!(site().readdress(&link(1, &[a]), &link(1, &[a])), []);
        let gone = format!("{:?}", site().unplug(&link(0, &[a])));
        assert_eq!(gone.matches("delete element").count(), 2 + 3);
    }
}
