//! Services: a client of a NodePort on the primary interface reaches a pod on a secondary one, pods reach services; with
//! both kinds of iptables, so with connmark rules of iptables and of nftables; and in every mode ([`rows`]).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ring::shell::in_netns;
use ring::traffic::{Nobody, Talk, nobody};
use ring::{Options, Pod};

use crate::flavours::Flavour;
use crate::kube_proxy::{self, Policy, Service};
use crate::world::{INTERNET, VPC_HOST, World, ip, is_public};

const CLUSTER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 20, 7, 10));
const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;

struct Cluster {
    world: World,
    flavour: Flavour,
    bin: tempfile::TempDir,
}

impl Cluster {
    fn new(flavour: Flavour) -> Self {
        let bin = tempfile::tempdir().unwrap();
        let (_, path) = flavour.path(bin.path());
        let mut world = World::new(Options {
            instance_type: "t3.small".to_owned(),
            env: vec![("PATH".to_owned(), path)],
            ..Options::of_tree()
        });
        world.fill(2);
        Self { world, flavour, bin }
    }

    fn serve(&self, services: &[Service]) {
        let (bin, _) = self.flavour.path(self.bin.path());
        let program = |name: &str| bin.join(name).display().to_string();
        kube_proxy::apply(&self.world.home(), &program("iptables"), &program("iptables-restore"), services);
    }

    /// The connmark rules are in the form that goes with this kind of iptables.
    fn check_backend(&self) {
        let home = self.world.home();
        let metrics = ring::shell::get(&home, "http://127.0.0.1:61678/metrics").unwrap();
        let backend = if self.flavour == Flavour::Legacy { "iptables" } else { "nftables" };
        let line = format!("awscni_connmark_backend{{backend=\"{backend}\"}} 1");
        assert!(metrics.contains(&line), "no {line}");
        let has_table = in_netns(&home, "nft", &["list", "table", "ip", "aws-cni"]).is_ok();
        assert_eq!(has_table, self.flavour == Flavour::Nft);
    }
}

fn service(policy: Policy, node_port: Option<u16>, endpoint: SocketAddr) -> Service {
    Service { name: "web", cluster_ip: CLUSTER_IP, port: PORT, node_port, policy, endpoints: vec![endpoint] }
}

fn at(pod: &Pod) -> SocketAddr {
    SocketAddr::new(ip(pod), TARGET_PORT)
}

/// Row 5. The reply must leave by eth0, as conntrack's mark says; by the pod's own interface it would be dropped.
fn node_ports(cluster: &Cluster) {
    let world = &cluster.world;
    let own = world.own();
    let IpAddr::V4(own_v4) = own else { panic!("IPv4") };
    let public = IpAddr::V4(Ipv4Addr::new(203, 0, 113, own_v4.octets()[3]));
    let mut node_port = 30080;
    for (pod, is_secondary) in [(world.primary().remove(0), false), (world.secondary().remove(0), true)] {
        for policy in [Policy::Local, Policy::Cluster] {
            node_port += 1;
            cluster.serve(&[service(policy, Some(node_port), at(&pod))]);
            let what = format!("{:?}, {policy:?}, {} (secondary: {is_secondary})", cluster.flavour, pod.name);
            for (client, address, target) in [(world.host(), VPC_HOST, own), (world.internet(), INTERNET, public)] {
                let target = SocketAddr::new(target, node_port);
                let seen = Talk::new(&client, &pod.netns, ip(&pod)).through(target, TARGET_PORT).both();
                let seen = seen.unwrap_or_else(|e| panic!("{what}: {e:#}"));
                let expected = if policy == Policy::Local { address } else { own };
                assert_eq!(seen, expected, "{what}");
            }
            // Two clients, each marked when it came in by eth0.
            for protocol in ["tcp", "udp"] {
                let flows = world.flows(protocol, node_port);
                assert_eq!(flows.len(), 2, "{what}: {flows:#?}");
                let back = format!("src={}", pod.ip);
                assert!(flows.iter().all(|f| f.contains("mark=128") && f.contains(&back)), "{what}: {flows:#?}");
            }
            // From the node itself, and from another pod.
            let target = SocketAddr::new(own, node_port);
            let through = |from: &str| {
                let talk = Talk::new(from, &pod.netns, ip(&pod)).through(target, TARGET_PORT);
                talk.both().unwrap_or_else(|e| panic!("{what}: {e:#}"))
            };
            through(&world.home());
            for other in world.representatives().iter().filter(|o| o.name != pod.name) {
                let seen = through(&other.netns);
                assert_eq!(seen, if policy == Policy::Local { ip(other) } else { own }, "{what} from {}", other.name);
            }
        }
    }
    // A port of no service.
    let closed = SocketAddr::new(own, node_port + 100);
    assert_eq!(nobody(&world.host(), closed).unwrap(), Nobody::Refuses);
}

/// pod → service → pod, other node, the pod itself.
fn cluster_ips(cluster: &Cluster) {
    let world = &cluster.world;
    let target = SocketAddr::new(CLUSTER_IP, PORT);
    let clients = world.representatives();
    for server in [world.primary().remove(0), world.secondary().remove(0)] {
        cluster.serve(&[service(Policy::Cluster, None, at(&server))]);
        for client in &clients {
            let talk = Talk::new(&client.netns, &server.netns, ip(&server)).through(target, TARGET_PORT);
            let seen = talk.both().unwrap_or_else(|e| panic!("{:?}: {e:#}", cluster.flavour));
            if client.name == server.name {
                assert_ne!(seen, ip(client), "a pod that reaches itself through a service has the node's address");
            } else {
                assert_eq!(seen, ip(client), "{} -> service -> {}", client.name, server.name);
            }
        }
        Talk::new(&world.home(), &server.netns, ip(&server)).through(target, TARGET_PORT).both().unwrap();
    }
    cluster.serve(&[service(Policy::Cluster, None, SocketAddr::new(VPC_HOST, TARGET_PORT))]);
    for client in &clients {
        let talk = Talk::new(&client.netns, &world.host(), VPC_HOST).through(target, TARGET_PORT);
        assert_eq!(talk.both().unwrap(), ip(client), "{} -> service -> VPC", client.name);
    }
}

/// The same rows in any mode, to pods of each interface: NodePort from the VPC and from the node, the service's own
/// address from pods and the node. A pod's endpoint is its first address, the one that the kubelet knows. The daemon has
/// its usual settings.
pub fn rows(world: &World) {
    let (own, host) = (world.own(), world.host());
    let (program, cluster_ip) =
        if own.is_ipv4() { ("iptables", CLUSTER_IP) } else { ("ip6tables", "fd30:7:10::80".parse().unwrap()) };
    let pods = world.representatives();
    let mut node_port = 31000;
    for server in &pods {
        for policy in [Policy::Local, Policy::Cluster] {
            node_port += 1;
            let services = [Service { cluster_ip, ..service(policy, Some(node_port), at(server)) }];
            kube_proxy::apply(&world.home(), program, &format!("{program}-restore"), &services);
            let what = format!("{policy:?}, {}", server.name);
            let talk = |from: &str, target: SocketAddr| {
                let talk = Talk::new(from, &server.netns, ip(server)).through(target, TARGET_PORT);
                talk.both().unwrap_or_else(|e| panic!("{what}: {target}: {e:#}"))
            };
            let at_node = SocketAddr::new(own, node_port);
            let expected = if policy == Policy::Local { world.vpc_host } else { own };
            assert_eq!(talk(&host, at_node), expected, "{what}: VPC -> NodePort");
            // IPv6 pods are all on the primary interface, so nothing needs a mark.
            for protocol in ["tcp", "udp"].iter().filter(|_| own.is_ipv4()) {
                let flows = world.flows(protocol, node_port);
                let back = format!("src={}", server.ip);
                let is_marked = |f: &String| f.contains("mark=128") && f.contains(&back);
                assert!(flows.len() == 1 && flows.iter().all(is_marked), "{what}: {flows:#?}");
            }
            talk(&world.home(), at_node);
            let at_service = SocketAddr::new(cluster_ip, PORT);
            talk(&world.home(), at_service);
            for client in &pods {
                let seen = talk(&client.netns, at_service);
                assert_eq!(seen == ip(client), client.name != server.name, "{what}: {} as {seen}", client.name);
            }
        }
    }
    assert_eq!(nobody(&host, SocketAddr::new(own, node_port + 100)).unwrap(), Nobody::Refuses);
}

/// A service whose endpoint is outside the VPC: its connections are not marked, as they were translated before. From a
/// pod on a secondary interface they get out by AWS_EXTERNAL_SERVICE_CIDRS alone (spec 04 §12.3).
fn external_services(cluster: &mut Cluster) {
    let target = SocketAddr::new(CLUSTER_IP, PORT);
    cluster.serve(&[service(Policy::Cluster, None, SocketAddr::new(INTERNET, TARGET_PORT))]);
    let (primary, secondary) = (cluster.world.primary().remove(0), cluster.world.secondary().remove(0));
    assert_eq!(nobody(&primary.netns, target).unwrap(), Nobody::Refuses);
    assert_eq!(nobody(&secondary.netns, target).unwrap(), Nobody::IsSilent, "by the wrong interface");
    let world = &mut cluster.world;
    world.restart(&[("AWS_EXTERNAL_SERVICE_CIDRS", "198.51.100.0/24")]);
    let rules = in_netns(&world.home(), "ip", &["rule"]).unwrap();
    assert!(rules.contains("1535:\tfrom all to 198.51.100.0/24 lookup main"), "{rules}");
    for pod in [&primary, &secondary] {
        let through = Talk::new(&pod.netns, &world.internet(), INTERNET).through(target, TARGET_PORT);
        assert!(is_public(through.both().unwrap()), "{} -> service -> internet", pod.name);
        assert!(is_public(Talk::new(&pod.netns, &world.internet(), INTERNET).both().unwrap()));
    }
    world.restart(&[("AWS_EXTERNAL_SERVICE_CIDRS", "")]);
    assert!(!in_netns(&world.home(), "ip", &["rule"]).unwrap().contains("1535:"));
    assert_eq!(nobody(&secondary.netns, target).unwrap(), Nobody::IsSilent);
}

/// Without node-port support nothing marks what comes in by eth0, and a pod's reply is lost by its own interface: what
/// the tests above show comes of the mark.
fn without_support(cluster: &mut Cluster) {
    let pod = cluster.world.secondary().remove(0);
    cluster.serve(&[service(Policy::Local, Some(30200), at(&pod))]);
    let target = SocketAddr::new(cluster.world.own(), 30200);
    let settings = [("AWS_VPC_CNI_NODE_PORT_SUPPORT", "false"), ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true")];
    cluster.world.restart(&settings);
    let host = cluster.world.host();
    assert_eq!(nobody(&host, target).unwrap(), Nobody::IsSilent);
    cluster.world.restart(&settings.map(|(key, _)| (key, "")));
    let seen = Talk::new(&host, &pod.netns, ip(&pod)).through(target, TARGET_PORT).both().unwrap();
    assert_eq!(seen, VPC_HOST);
}

#[test]
fn services_with_either_kind_of_iptables() {
    let test = "services_with_either_kind_of_iptables";
    if !crate::can_run(test) {
        return;
    }
    for flavour in Flavour::all(test) {
        let mut cluster = Cluster::new(flavour);
        cluster.check_backend();
        node_ports(&cluster);
        cluster_ips(&cluster);
        external_services(&mut cluster);
        without_support(&mut cluster);
        cluster.world.close();
    }
}

/// The same rows where pods have IPv6 addresses: all on the primary interface, so nothing needs a mark.
#[test]
fn services_with_ipv6() {
    let test = "services_with_ipv6";
    if !crate::can_run(test) {
        return;
    }
    let mut world = crate::ipv6::with_hosts(World::new(Options {
        instance_type: "t3.small".to_owned(),
        env: crate::world::owned(crate::ipv6::ENV),
        sim: vec!["--preset".to_owned(), "ipv6".to_owned()],
        ..Options::of_tree()
    }));
    world.add("p0");
    world.add("p1");
    rows(&world);
    world.close();
}
