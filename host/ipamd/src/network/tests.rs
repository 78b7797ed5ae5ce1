//! In network namespaces of the test's own.

use reservoir_net::testing::{Namespace, skip};

use super::*;
use crate::config::Environment;

const PRIMARY: &str = "02:00:00:00:00:01";
const TRUNK: &str = "02:00:00:00:00:03";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 96, 10);

fn network(pairs: &[(&str, &str)]) -> KernelNetwork {
    let environment: Environment = pairs.iter().copied().chain([("AWS_VPC_ENI_MTU", "1500")]).collect();
    KernelNetwork::new(&Config::read(&environment).0, 4, Metrics::new("test"))
}

#[test]
fn without_variables_the_host_is_as_documented() {
    let environment: Environment = [("ENABLE_IPv4", "true")].into_iter().collect();
    let network = KernelNetwork::new(&Config::read(&environment).0, 4, Metrics::new("test"));
    assert_eq!(network.host_config(), host::HostConfig::DOCUMENTED);
}

fn node(test: &str) -> Option<Namespace> {
    let node = Namespace::new(test)?;
    node.attach("eth0", PRIMARY);
    node.ip("link set eth0 up");
    Some(node)
}

#[test]
fn chains_of_old_versions_go_at_the_start_in_either_family() {
    // Spec 04 §10.5.
    let ipv4 = (network(&[]), "iptables", vec!["10.0.0.0/16".parse().unwrap()]);
    let ipv6 = (network(&[("ENABLE_IPv6", "true"), ("ENABLE_IPv4", "false")]), "ip6tables", Vec::<Ipv4Net>::new());
    for (network, program, vpc) in [ipv4, ipv6] {
        let test = "chains_of_old_versions_go_at_the_start";
        let Some(node) = node(test) else { return };
        let works = node.run(|| std::process::Command::new(program).args(["-t", "nat", "-S"]).output());
        if !works.is_ok_and(|output| output.status.success()) {
            skip::<()>(test, &format!("{program} does not work here"));
            continue;
        }
        let old = ["AWS-SNAT-CHAIN-1", "AWS-SNAT-CHAIN-2", "AWS-CONNMARK-CHAIN-1"];
        for chain in old {
            node.command(program, &format!("-t nat -N {chain}"));
        }
        node.command(program, "-t nat -A AWS-SNAT-CHAIN-1 -j AWS-SNAT-CHAIN-2");
        node.command(program, "-t nat -N KUBE-MARK-2");
        node.run(|| network.set_up_host(PRIMARY, ADDRESS, &vpc)).unwrap();
        let chains = node.command(program, "-t nat -S");
        assert!(!old.iter().any(|chain| chains.contains(chain)), "{program}: {chains}");
        assert!(chains.contains("-N KUBE-MARK-2"), "{program}: {chains}");
        // Only then.
        node.command(program, "-t nat -N AWS-SNAT-CHAIN-1");
        let outcome = node.run(|| network.repair_firewall());
        assert!(outcome.is_empty(), "{outcome:?}");
        assert!(node.command(program, "-t nat -S").contains("AWS-SNAT-CHAIN-1"), "{program}");
    }
}

#[test]
fn a_trunk_without_an_address_is_looked_after() {
    let Some(node) = node("a_trunk_without_an_address_is_looked_after") else { return };
    node.attach("eth2", TRUNK);
    let trunk = EniSpec {
        id: "eni-trunk".to_owned(),
        mac: TRUNK.to_owned(),
        card: 0,
        device_index: 2,
        subnet: "subnet-1".to_owned(),
        table: 3,
        address: None,
        primary: false,
        trunk: true,
        efa: false,
        excluded: false,
    };
    let network = network(&[("ENABLE_IPv6", "true"), ("ENABLE_IPv4", "false"), ("ENABLE_POD_ENI", "true")]);
    let done = || {
        let outcome = node.run(|| network.repair()).outcome;
        assert!(outcome.failed.is_empty() && outcome.unseen.is_empty(), "{outcome:?}");
        outcome.done.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    node.run(|| network.set_up_host(PRIMARY, ADDRESS, &[])).unwrap();
    node.run(|| network.set_up_eni(&trunk, "2600::/64".parse().unwrap())).unwrap();
    assert_eq!(done(), Vec::<String>::new());
    node.ip("link set eth2 down");
    assert_eq!(done(), ["link set eth2 up"]);
    assert_eq!(network.ours(), Ours::default(), "it has no routes");
    node.run(|| network.leave_eni(&trunk)).unwrap();
    node.ip("link set eth2 down");
    assert_eq!(done(), Vec::<String>::new(), "it is another's now");
}

#[test]
fn one_thing_that_cannot_be_looked_at_keeps_nothing_else_from_it() {
    let Some(node) = node("one_thing_that_cannot_be_looked_at") else { return };
    node.attach("eth1", "02:00:00:00:00:02");
    let network = network(&[]);
    node.run(|| network.set_up_host(PRIMARY, ADDRESS, &["10.0.0.0/16".parse().unwrap()])).unwrap();
    network.remember(Secondary::Bare { mac: "02:00:00:00:00:02".parse().unwrap(), mtu: 1400 });
    // The primary interface has gone.
    node.ip("link del eth0");
    let outcome = node.run(|| network.repair()).outcome;
    assert!(outcome.unseen.len() == 1 && outcome.unseen[0].to_string().contains(PRIMARY), "{outcome:?}");
    let done: Vec<_> = outcome.done.iter().map(ToString::to_string).collect();
    assert_eq!(done, ["link set eth1 mtu 1400", "link set eth1 up"]);
}
