//! What the network policy agent asks the daemon at its own start, over the daemon's socket, in each mode (spec 02 §2.7).

use reservoir_rpc::NetworkPolicyAgentConfigReply;
use ring::Node;

use crate::can_run;
use crate::support::lab::{Lab, lab};

const PREFIXES: &[(&str, &str)] = &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")];
const IPV6: &[(&str, &str)] = &[("ENABLE_IPv4", "false"), ("ENABLE_IPv6", "true"), PREFIXES[0], PREFIXES[1]];
const MODE: &str = "NETWORK_POLICY_ENFORCING_MODE";

/// What the account says of the node, which the agent is to hear.
fn expected(node: &Node, mode: &str, multi_nic: bool, ipv6: bool) -> NetworkPolicyAgentConfigReply {
    let state = node.sim_state().unwrap();
    let instance = state["instances"][0].as_str().unwrap().to_owned();
    let address = node.address().unwrap().to_string();
    let (node_ipv4, node_ipv6) = if ipv6 { (String::new(), address) } else { (address, String::new()) };
    NetworkPolicyAgentConfigReply {
        network_policy_mode: mode.to_owned(),
        multi_nic_enabled: multi_nic,
        node_ipv4,
        node_ipv6,
        instance_id: instance,
        region: "us-west-2".to_owned(),
    }
}

fn tells(lab: &Lab, mode: &str, multi_nic: bool, ipv6: bool) {
    assert_eq!(lab.policy_config(), expected(&lab.node, mode, multi_nic, ipv6), "{mode:?}");
}

#[test]
fn the_policy_agent_hears_how_the_node_is_set_up() {
    if !can_run("the_policy_agent_hears_how_the_node_is_set_up") {
        return;
    }
    let mut plain = lab("secondary", "c5.large", &[]);
    plain.start();
    tells(&plain, "", false, false);
    // As it was written, whatever the case.
    for mode in ["standard", "strict", "none", "Strict"] {
        plain.restart(&[(MODE, mode)]);
        tells(&plain, mode, false, false);
    }
    for (preset, instance_type, env, multi_nic, ipv6) in [
        ("prefix", "c5.large", PREFIXES, false, false),
        ("ipv6", "c5.large", IPV6, false, true),
        ("multinic", "c6in.32xlarge", &[("ENABLE_MULTI_NIC", "true")][..], true, false),
        ("multinic-ipv6", "c6in.32xlarge", &[IPV6, &[("ENABLE_MULTI_NIC", "true")]].concat()[..], true, true),
    ] {
        let mut lab = lab(preset, instance_type, &[env, &[(MODE, "standard")]].concat());
        lab.start();
        tells(&lab, "standard", multi_nic, ipv6);
    }
}
