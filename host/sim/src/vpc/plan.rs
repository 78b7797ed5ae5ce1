//! What the router, the hosts and each interface need, as plain commands: no I/O here.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use reservoir_core::ip::{IpNet, Ipv4Net};

use super::namespace::Step;
use crate::LinkEvent;
use crate::model::links::Addresses;

/// EC2's.
const MTU: u32 = 9001;
/// The addresses the internet gateway maps to (RFC 5737): the Nth interface, wrapping.
const PUBLIC: [u8; 3] = [203, 0, 113];

/// The VPC's router for IPv6, whatever the subnet (spec 04 §9).
const ROUTER: &str = "fe80:ec2::1";
/// How the router calls whoever is behind an interface: an address that nobody needs to answer for.
const NEIGHBOUR: &str = "fe80::ec2:1";

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
    /// None: the VPC has IPv4 only.
    pub ipv6: Option<SiteIpv6>,
}

/// The world's IPv6 side.
#[derive(Debug, Clone)]
pub(super) struct SiteIpv6 {
    pub host: Ipv6Addr,
    pub internet: Ipv6Addr,
    pub vpc_cidrs: Vec<IpNet>,
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
    /// Its security groups.
    pub groups: Vec<String>,
    pub blocks: BTreeSet<Ipv4Net>,
    /// Its own IPv6 address, with the subnet's prefix length.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    pub ipv6_blocks: BTreeSet<IpNet>,
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
            groups: event.groups.clone(),
            blocks: addresses.blocks().collect(),
            ipv6: addresses.ipv6.first().map(|&a| (a, event.subnet_ipv6.map_or(128, IpNet::length))),
            ipv6_blocks: addresses.ipv6_blocks().collect(),
        }
    }
}

impl Site {
    /// Of the host in the VPC.
    pub fn host_addresses(&self) -> Vec<IpNet> {
        let ipv6 = self.ipv6.as_ref().map(|s| IpNet::new(s.host.into(), 128));
        ipv6.into_iter().chain([Ipv4Net::host(self.host_address).into()]).collect()
    }

    /// The router with its filter, and the two hosts.
    pub fn build(&self) -> Vec<Step> {
        let mut values = vec![
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/proxy_arp", "1"),
            ("ipv4/conf/default/proxy_arp", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ];
        if self.ipv6.is_some() {
            values.extend([
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
            ]);
        }
        let values = values.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let sysctl = Step::Sysctl { namespace: self.router.clone(), values };
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
        let mut steps = vec![
            sysctl,
            Step::Nft { namespace: self.router.clone(), ruleset: RULESET.to_owned() },
            Step::Ip { namespace: self.router.clone(), lines: router },
            self.prompt_proxy("host0"),
            end(&self.host, self.host_address, host_gateway),
            end(&self.internet, self.internet_address, internet_gateway),
            Step::Ip { namespace: self.node.clone(), lines: "link set lo up\n".to_owned() },
        ];
        if let Some(ipv6) = &self.ipv6 {
            steps.extend(self.build_ipv6(ipv6));
        }
        steps
    }

    /// The same for IPv6. Nothing is translated there: who has an address has it in the internet too.
    fn build_ipv6(&self, ipv6: &SiteIpv6) -> Vec<Step> {
        let SiteIpv6 { host, internet, .. } = ipv6;
        let mut router = String::new();
        for (port, address) in [("host0", host), ("igw0", internet)] {
            line(&mut router, format_args!("address add {ROUTER}/64 dev {port} nodad"));
            line(&mut router, format_args!("route add {address}/128 dev {port}"));
        }
        line(&mut router, format_args!("route add ::/0 via {internet} dev igw0 onlink"));
        for cidr in &ipv6.vpc_cidrs {
            line(&mut router, format_args!("route add blackhole {cidr}"));
        }
        let end = |namespace: &str, address: &Ipv6Addr| Step::Ip {
            namespace: namespace.to_owned(),
            lines: format!("address add {address}/128 dev eth0 nodad\nroute add ::/0 via {ROUTER} dev eth0\n"),
        };
        vec![
            Step::Nft { namespace: self.router.clone(), ruleset: RULESET_IPV6.to_owned() },
            Step::Ip { namespace: self.router.clone(), lines: router },
            end(&self.host, host),
            end(&self.internet, internet),
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
        // A subnet may be younger than the router.
        line(&mut router, format_args!("address replace {}/32 dev lo", subnet.gateway()));
        if self.ipv6.is_some() {
            line(&mut router, format_args!("address add {ROUTER}/64 dev {router_name} nodad"));
            let entry = format_args!("neighbour replace {NEIGHBOUR} lladdr {mac} dev {router_name} nud permanent");
            router.push_str(&format!("{entry}\n"));
        }
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
        if let (true, Some((own, length))) = (link.is_primary, link.ipv6) {
            let lines = format!(
                "address add {own}/{length} dev {node_name} nodad\nroute add ::/0 via {ROUTER} dev {node_name} metric 512\n"
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
        let elements = |link: Option<&Link>| -> BTreeSet<(&'static str, &'static str, String)> {
            let Some(link) = link else { return BTreeSet::new() };
            let addresses = link.blocks.iter().flat_map(|b| (0..b.size()).filter_map(|n| b.nth(n)));
            let mut all: BTreeSet<_> =
                addresses.map(|a| ("ip", "owned", format!("\"{}\" . {a}", link.router_name))).collect();
            let families = [Some("ip"), self.ipv6.is_some().then_some("ip6")];
            let wired = |family| (family, "wired", format!("\"{}\" . {}", link.router_name, link.mac));
            all.extend(families.into_iter().flatten().map(wired));
            if let (true, Some(primary)) = (link.is_primary, link.primary) {
                let [a, b, c] = PUBLIC;
                let public = Ipv4Addr::new(a, b, c, primary.octets()[3].clamp(1, 254));
                all.insert(("ip", "mapped", primary.to_string()));
                all.insert(("ip", "public", format!("{primary} : {public}")));
                all.insert(("ip", "private", format!("{public} : {primary}")));
            }
            all
        };
        let (old, new) = (elements(old), elements(new));
        let mut ruleset = String::new();
        for (verb, (family, set, element)) in
            (old.difference(&new).map(|e| ("delete", e))).chain(new.difference(&old).map(|e| ("add", e)))
        {
            line(&mut ruleset, format_args!("{verb} element {family} vpc {set} {{ {element} }}"));
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
    let none_ipv6 = BTreeSet::new();
    let before_ipv6 = old.map_or(&none_ipv6, |l| &l.ipv6_blocks);
    for gone in before_ipv6.difference(&new.ipv6_blocks) {
        line(&mut lines, format_args!("route delete {gone} dev {dev}"));
    }
    for block in new.ipv6_blocks.difference(before_ipv6) {
        line(&mut lines, format_args!("route replace {block} via {NEIGHBOUR} dev {dev}"));
    }
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
    counter foreign_mac {}
    counter no_public_address {}
    set wired { type ifname . ether_addr; }
    set owned { type ifname . ipv4_addr; }
    set mapped { type ipv4_addr; }
    map public { type ipv4_addr : ipv4_addr; }
    map private { type ipv4_addr : ipv4_addr; }
    chain source_check {
        type filter hook prerouting priority raw; policy accept;
        iifname "v-*" iifname . ether saddr != @wired counter name foreign_mac drop
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

/// A source belongs to the interface that the way back leads through; what is of the link alone stays on it.
const RULESET_IPV6: &str = r#"
table ip6 vpc {
    counter foreign_source {}
    counter foreign_mac {}
    set wired { type ifname . ether_addr; }
    chain source_check {
        type filter hook prerouting priority raw; policy accept;
        iifname "v-*" iifname . ether saddr != @wired counter name foreign_mac drop
        iifname "v-*" ip6 saddr != { ::, fe80::/10 } fib saddr . iif oif missing counter name foreign_source drop
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
            ipv6: None,
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
            groups: vec!["sg-a".to_owned()],
            blocks: secondary.iter().chain([&primary]).map(|&a| Ipv4Net::host(a)).collect(),
            ipv6: None,
            ipv6_blocks: BTreeSet::new(),
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
        assert_eq!(gone.matches("delete element").count(), 2 + 1 + 3);
    }

    #[test]
    fn an_ipv6_prefix_is_behind_its_interface_and_the_router_is_everywhere() {
        let ipv6 = SiteIpv6 {
            host: "2600:1f14:abc:dff::10".parse().unwrap(),
            internet: "2001:db8::10".parse().unwrap(),
            vpc_cidrs: vec!["2600:1f14:abc:d00::/56".parse().unwrap()],
        };
        let site = Site { ipv6: Some(ipv6), ..site() };
        let own: Ipv6Addr = "2600:1f14:abc:d00::20".parse().unwrap();
        let plain = link(0, &[]);
        let blocks = ["2600:1f14:abc:d00::20/128", "2600:1f14:abc:d00:7a20::/80"].map(|b| b.parse().unwrap());
        let dual = Link { ipv6: Some((own, 64)), ipv6_blocks: blocks.into_iter().collect(), ..plain.clone() };
        let text = format!("{:?}", site.plug(&dual));
        assert!(text.contains("address add fe80:ec2::1/64 dev v-0123456789ab nodad"), "{text}");
        assert!(
            text.contains("route replace 2600:1f14:abc:d00:7a20::/80 via fe80::ec2:1 dev v-0123456789ab"),
            "{text}"
        );
        assert!(text.contains("address add 2600:1f14:abc:d00::20/64 dev eth0 nodad"), "{text}");
        let gone = format!("{:?}", site.readdress(&dual, &plain));
        assert!(gone.contains("route delete 2600:1f14:abc:d00:7a20::/80"), "{gone}");
        assert!(format!("{:?}", site.build()).contains("table ip6 vpc"));
        assert!(text.contains("add element ip6 vpc wired {"), "{text}");
    }
}
