//! The security groups as rules of the router. What begins is looked at twice: as it leaves one interface and as it
//! arrives at another. What answers is let through: the router's connection tracking knows it.

use std::fmt::Write;

use reservoir_core::ip::IpNet;

use super::plan::Link;
use crate::model::groups::{Direction, GroupRule, Peer, Protocol, SecurityGroup};

/// The table as a whole, in place of what it had. `host`: addresses of the host in the VPC, which is a member of the first
/// group. How many packets were dropped: `nft list counters table inet groups`.
pub(super) fn ruleset<'a>(
    groups: &[SecurityGroup],
    links: impl Iterator<Item = &'a Link> + Clone,
    host: &[IpNet],
) -> String {
    let mut text = String::from("table inet groups {}\nflush table inet groups\ntable inet groups {\n");
    text.push_str("counter egress_dropped {}\ncounter ingress_dropped {}\n");
    let members = |id: &str| links.clone().filter(move |l| l.groups.iter().any(|g| g == id)).collect::<Vec<_>>();
    let addresses = |id: &str| {
        let own = members(id).into_iter().flat_map(|l| {
            let ipv4 = l.blocks.iter().map(|b| IpNet::from(*b));
            ipv4.chain(l.ipv6_blocks.iter().copied()).collect::<Vec<_>>()
        });
        let host = host.iter().copied().filter(|_| groups.first().is_some_and(|g| g.id == id));
        own.chain(host).collect::<Vec<IpNet>>()
    };
    for (direction, name, hook) in [(Direction::Egress, "egress", 10), (Direction::Ingress, "ingress", 11)] {
        let interface = if direction == Direction::Egress { "iifname" } else { "oifname" };
        let mut jumps = String::new();
        for (n, group) in groups.iter().enumerate() {
            let _ = writeln!(text, "chain {name}_{n} {{");
            let rules = if direction == Direction::Egress { &group.egress } else { &group.ingress };
            for rule in rules {
                let peers = match &rule.peer {
                    Peer::Net(net) => vec![*net],
                    Peer::Group(id) => addresses(id),
                };
                text.push_str(&lines(direction, rule, &peers));
            }
            text.push_str("}\n");
            let names: Vec<String> = members(&group.id).iter().map(|l| format!("\"{}\"", l.router_name)).collect();
            if !names.is_empty() {
                let _ = writeln!(jumps, "{interface} {{ {} }} jump {name}_{n}", names.join(", "));
            }
        }
        let _ = writeln!(
            text,
            "chain {name} {{\ntype filter hook forward priority {hook}; policy accept;\n{interface} != \"v-*\" accept\n\
             ct state established,related accept\n{jumps}counter name {name}_dropped drop\n}}"
        );
    }
    text.push_str("}\n");
    text
}

/// One line for each family that the rule has peers of.
fn lines(direction: Direction, rule: &GroupRule, peers: &[IpNet]) -> String {
    let what = match (rule.protocol, rule.ports) {
        (Protocol::All, _) => String::new(),
        (Protocol::Icmp, _) => "meta l4proto { icmp, icmpv6 } ".to_owned(),
        (Protocol::Tcp, None) => "meta l4proto tcp ".to_owned(),
        (Protocol::Udp, None) => "meta l4proto udp ".to_owned(),
        // A range of one is none to nft.
        (Protocol::Tcp, Some((first, last))) if first == last => format!("tcp dport {first} "),
        (Protocol::Udp, Some((first, last))) if first == last => format!("udp dport {first} "),
        (Protocol::Tcp, Some((first, last))) => format!("tcp dport {first}-{last} "),
        (Protocol::Udp, Some((first, last))) => format!("udp dport {first}-{last} "),
    };
    let side = if direction == Direction::Egress { "daddr" } else { "saddr" };
    let mut lines = String::new();
    for (family, is_ipv4) in [("ip", true), ("ip6", false)] {
        let peers: Vec<String> = peers.iter().filter(|p| p.is_ipv4() == is_ipv4).map(IpNet::to_string).collect();
        match peers.as_slice() {
            [] => {}
            [one] => {
                let _ = writeln!(lines, "{what}{family} {side} {one} accept");
            }
            many => {
                let _ = writeln!(lines, "{what}{family} {side} {{ {} }} accept", many.join(", "));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn link(name: &str, group: &str, block: &str) -> Link {
        Link {
            router_name: name.to_owned(),
            node_name: "eth0".to_owned(),
            mac: "06:00:00:00:00:01".to_owned(),
            subnet: "10.0.32.0/20".parse().unwrap(),
            is_primary: false,
            primary: None,
            groups: vec![group.to_owned()],
            blocks: BTreeSet::from([block.parse().unwrap()]),
            ipv6: None,
            ipv6_blocks: BTreeSet::new(),
        }
    }

    #[test]
    fn a_group_is_its_interfaces_and_their_addresses() {
        let mut pods = SecurityGroup::new("sg-pods").open_to("sg-nodes");
        let web = r#"{"protocol":"tcp","ports":[80,90],"peer":"192.168.0.0/16"}"#;
        pods.ingress.push(serde_json::from_str(web).unwrap());
        let groups = [SecurityGroup::default_of_vpc("sg-nodes"), pods];
        let links = [link("v-a", "sg-nodes", "10.0.32.4/32"), link("v-b", "sg-pods", "10.0.33.16/28")];
        let text = ruleset(&groups, links.iter(), &["10.0.200.10/32".parse().unwrap()]);
        let nodes = "ip saddr { 10.0.32.4/32, 10.0.200.10/32 } accept";
        let chain = |name: &str, lines: &str| format!("chain {name} {{\n{lines}}}\n");
        assert!(text.contains(&chain("ingress_0", &format!("{nodes}\n"))), "{text}");
        let web = "tcp dport 80-90 ip saddr 192.168.0.0/16 accept";
        assert!(text.contains(&chain("ingress_1", &format!("{nodes}\n{web}\n"))), "{text}");
        let all = "ip daddr 0.0.0.0/0 accept\nip6 daddr ::/0 accept\n";
        assert!(text.contains(&chain("egress_0", all)), "{text}");
        assert!(text.contains("oifname { \"v-b\" } jump ingress_1\ncounter name ingress_dropped drop"), "{text}");
    }

    #[test]
    fn without_a_group_nothing_passes() {
        let text = ruleset(&[], [link("v-a", "sg-a", "10.0.32.4/32")].iter(), &[]);
        assert!(!text.contains("jump"), "{text}");
        assert!(text.contains("counter name egress_dropped drop"), "{text}");
    }
}
