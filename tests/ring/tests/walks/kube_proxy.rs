//! Services as kube-proxy's iptables mode makes them: the same chains, the same order, in one `iptables-restore`.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use ring::shell::in_netns;

/// Where a service's packets that come from outside may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// To any endpoint; the node puts its address in place of the client's.
    Cluster,
    /// To the node's own endpoints, with the client's address.
    Local,
}

/// A service with one port, by TCP and UDP.
#[derive(Debug, Clone)]
pub struct Service {
    pub name: &'static str,
    pub cluster_ip: IpAddr,
    pub port: u16,
    pub node_port: Option<u16>,
    pub policy: Policy,
    pub endpoints: Vec<SocketAddr>,
}

/// Puts kube-proxy's rules in, with these programs, as it does at its start: chains are flushed and written anew, its
/// jumps go to the top.
pub fn apply(netns: &str, iptables: &str, restore: &str, services: &[Service]) {
    let text = tables(services);
    let mut child = Command::new("ip")
        .args(["netns", "exec", netns, restore, "--noflush", "--wait"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{restore}:\n{text}");
    for (table, chain, comment, target) in [
        ("nat", "PREROUTING", "kubernetes service portals", "KUBE-SERVICES"),
        ("nat", "OUTPUT", "kubernetes service portals", "KUBE-SERVICES"),
        ("nat", "POSTROUTING", "kubernetes postrouting rules", "KUBE-POSTROUTING"),
        ("filter", "FORWARD", "kubernetes forwarding rules", "KUBE-FORWARD"),
        ("filter", "INPUT", "kubernetes health check service ports", "KUBE-NODEPORTS"),
    ] {
        let rule = [chain, "-m", "comment", "--comment", comment, "-j", target];
        let there = [&["-t", table, "-C"][..], &rule].concat();
        if in_netns(netns, iptables, &there).is_err() {
            in_netns(netns, iptables, &[&["-t", table, "-I"][..], &rule].concat()).unwrap();
        }
    }
}

fn tables(services: &[Service]) -> String {
    let mut chains = String::from(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n",
    );
    let mut rules = String::from(
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n",
    );
    for service in services {
        for protocol in ["tcp", "udp"] {
            service.write(protocol, &mut chains, &mut rules);
        }
    }
    format!(
        "{chains}{rules}-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the \
         last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n\
         *filter\n:KUBE-FORWARD - [0:0]\n:KUBE-NODEPORTS - [0:0]\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack \
         --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n"
    )
}

impl Service {
    /// Chains and rules of one protocol. Writing to a string cannot fail.
    fn write(&self, protocol: &str, chains: &mut String, rules: &mut String) {
        let key = format!("{}{}", self.name, protocol).to_uppercase();
        let what = format!("-m comment --comment \"default/{}:{protocol}\"", self.name);
        let (service, external, local) = (chain("SVC", &key), chain("EXT", &key), chain("SVL", &key));
        let (cluster_ip, port) = (self.cluster_ip, self.port);
        let _ = writeln!(chains, ":{service} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {cluster_ip} -p {protocol} {what} -m {protocol} --dport {port} -j {service}"
        );
        if let Some(node_port) = self.node_port {
            let _ = writeln!(chains, ":{external} - [0:0]");
            let _ = writeln!(
                rules,
                "-A KUBE-NODEPORTS -p {protocol} {what} -m {protocol} --dport {node_port} -j {external}"
            );
            match self.policy {
                Policy::Cluster => {
                    let _ = writeln!(rules, "-A {external} {what} -j KUBE-MARK-MASQ\n-A {external} -j {service}");
                }
                Policy::Local => {
                    let _ = writeln!(chains, ":{local} - [0:0]");
                    let from_node = format!("-A {external} {what} -m addrtype --src-type LOCAL");
                    let _ = writeln!(rules, "{from_node} -j KUBE-MARK-MASQ\n{from_node} -j {service}");
                    let _ = writeln!(rules, "-A {external} -j {local}");
                    self.balance(&local, &key, &what, rules);
                }
            }
        }
        self.balance(&service, &key, &what, rules);
        for (n, endpoint) in self.endpoints.iter().enumerate() {
            let chain = chain("SEP", &format!("{key}{n}"));
            let _ = writeln!(chains, ":{chain} - [0:0]");
            let _ = writeln!(rules, "-A {chain} -s {} {what} -j KUBE-MARK-MASQ", endpoint.ip());
            let _ =
                writeln!(rules, "-A {chain} -p {protocol} {what} -m {protocol} -j DNAT --to-destination {endpoint}");
        }
    }

    /// One endpoint or another, by chance.
    fn balance(&self, from: &str, key: &str, what: &str, rules: &mut String) {
        let all = self.endpoints.len();
        for (n, left) in (0..all).zip((1..=u32::try_from(all).unwrap()).rev()) {
            let chance = match left {
                1 => String::new(),
                left => format!(" -m statistic --mode random --probability {:.10}", 1.0 / f64::from(left)),
            };
            let _ = writeln!(rules, "-A {from} {what}{chance} -j {}", chain("SEP", &format!("{key}{n}")));
        }
    }
}

/// `KUBE-SVC-` and sixteen characters.
fn chain(kind: &str, key: &str) -> String {
    format!("KUBE-{kind}-{key:X>16}")
}
