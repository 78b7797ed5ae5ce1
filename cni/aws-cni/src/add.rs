//! ADD (spec 04 §2.4).

use std::net::IpAddr;
use std::path::PathBuf;

use cni_plugin::error::Error;
use reservoir_net::branch::{BranchPod, BranchSetup};
use reservoir_net::names;
use reservoir_net::pod::{PodInterface, PodSetup};
use reservoir_rpc::{
    AddNetworkReply, AddNetworkRequest, DelNetworkRequest, EnforceNpRequest, IpAllocationMetadata, REASON_SETUP_FAILED,
    VERSION,
};

use crate::result::{AddResult, Saved, Wired};
use crate::{Deps, Invocation};

/// Gives a pod its addresses and wires it. When wiring fails the addresses go back.
///
/// # Errors
/// Code 999 in the words of spec 04 §2.6.
pub fn run(invocation: &Invocation<'_>, deps: Deps<'_>) -> Result<AddResult, Error> {
    let Invocation { env, conf, args, log } = *invocation;
    log.info(format_args!(
        "Received CNI add request: ContainerID({}) Netns({}) IfName({}) Args({})",
        env.container_id, env.netns, env.ifname, env.args
    ));
    let answer = deps.peers.add_network(&conf.ipamd_socket, add_request(invocation)).map_err(|error| {
        log.error(format_args!("AddNetwork for sandbox {} failed: {error}", env.container_id));
        Error::Plugin(format!("add cmd: Error received from AddNetwork gRPC call: {error}"))
    })?;
    let reply = answer.reply;
    log.debug(format_args!("AddNetwork for sandbox {}: {reply:?}", env.container_id));
    if !reply.success {
        let msg = "add cmd: failed to assign an IP address to container".to_owned();
        log.error(format_args!("{msg}: {}", answer.reason.as_deref().unwrap_or("ipamd gives no reason")));
        return Err(match answer.reason {
            Some(details) => Error::Explained { msg, details },
            None => Error::Plugin(msg),
        });
    }

    let wired =
        if reply.pod_vlan_id == 0 { wire(invocation, deps, &reply) } else { wire_branch(invocation, deps, &reply) };
    let (interfaces, saved) = wired.map_err(|cause| {
        log.error(format_args!("Failed to set up the network of sandbox {}: {cause}", env.container_id));
        give_back(invocation, deps);
        Error::Plugin(format!("add command: failed to setup network: {cause}"))
    })?;

    enforce_policy(invocation, deps, &reply.network_policy_mode, interfaces.len())?;
    Ok(AddResult::new(args, &env.netns, interfaces, saved))
}

/// What ipamd is asked.
#[must_use]
pub fn add_request(invocation: &Invocation<'_>) -> AddNetworkRequest {
    let Invocation { env, conf, args, .. } = *invocation;
    AddNetworkRequest {
        k8s_pod_name: args.name.clone(),
        k8s_pod_namespace: args.namespace.clone(),
        k8s_pod_infra_container_id: args.infra_container_id.clone(),
        netns: env.netns.clone(),
        if_name: env.ifname.clone(),
        network_name: conf.name.clone(),
        container_id: env.container_id.clone(),
        client_version: VERSION.to_owned(),
        requires_multi_nic_attachment: conf.multi_nic,
    }
}

/// How a pod's addresses are given back, for the runtime or for ourselves. With the UID in either case: without it
/// ipamd cannot tell a pod from its successor of the same name (spec 02 W6).
#[must_use]
pub fn del_request(invocation: &Invocation<'_>, reason: &str) -> DelNetworkRequest {
    let Invocation { env, conf, args, .. } = *invocation;
    DelNetworkRequest {
        k8s_pod_name: args.name.clone(),
        k8s_pod_namespace: args.namespace.clone(),
        k8s_pod_infra_container_id: args.infra_container_id.clone(),
        reason: reason.to_owned(),
        if_name: env.ifname.clone(),
        network_name: conf.name.clone(),
        container_id: env.container_id.clone(),
        client_version: VERSION.to_owned(),
        k8s_pod_uid: args.uid.clone(),
    }
}

/// An ordinary pod.
fn wire(invocation: &Invocation<'_>, deps: Deps<'_>, reply: &AddNetworkReply) -> Result<(Vec<Wired>, Saved), String> {
    let Invocation { env, conf, .. } = *invocation;
    let interfaces = interfaces(invocation, reply)?;
    let setup = PodSetup {
        netns: PathBuf::from(&env.netns),
        mtu: conf.mtu,
        interfaces: interfaces.iter().map(pod_interface).collect::<Result<_, _>>()?,
    };
    deps.net.set_up(&setup).map_err(|error| error.to_string())?;
    let device = reply.ip_allocation_metadata.first().map_or(0, |first| first.device_number);
    Ok((interfaces, Saved::Device(device)))
}

/// A pod with a branch interface: it has one address.
fn wire_branch(
    invocation: &Invocation<'_>,
    deps: Deps<'_>,
    reply: &AddNetworkReply,
) -> Result<(Vec<Wired>, Saved), String> {
    let Invocation { env, conf, args, .. } = *invocation;
    let entry = reply.ip_allocation_metadata.first().ok_or(NO_ADDRESS)?;
    let prefix = conf.enforcing_mode.veth_prefix(&conf.veth_prefix);
    let gateway = &reply.pod_eni_subnet_gw;
    let pod = BranchPod {
        netns: PathBuf::from(&env.netns),
        name: env.ifname.clone(),
        host_veth: names::host_veth(prefix, &args.namespace, &args.name, 0),
        address: address_of(entry)?,
        vlan: vlan_of(reply.pod_vlan_id)?,
        gateway: gateway.parse().map_err(|_| format!("gateway {gateway:?} of ipamd's reply is no address"))?,
        mode: conf.enforcing_mode,
    };
    // The reference takes no notice and gives the device the trunk's address (DW-11).
    let mac =
        reply.pod_eni_mac.parse().map_err(|_| format!("{:?} of ipamd's reply is no MAC address", reply.pod_eni_mac))?;
    let trunk = u32::try_from(reply.parent_if_index).ok().filter(|&index| index > 0);
    let trunk = trunk.ok_or_else(|| format!("{} of ipamd's reply is no interface index", reply.parent_if_index))?;
    let wired = Wired {
        host_veth: pod.host_veth.clone(),
        name: pod.name.clone(),
        address: pod.address,
        table: entry.route_table_id,
        gateway: Some(pod.gateway),
    };
    let saved = Saved::Vlan(pod.vlan);
    let setup = BranchSetup { pod, mtu: conf.mtu, mac, trunk };
    deps.net.set_up_branch(&setup).map_err(|error| error.to_string())?;
    Ok((vec![wired], saved))
}

/// The vlan of a branch interface in a reply.
pub(crate) fn vlan_of(number: i32) -> Result<u16, String> {
    u16::try_from(number).map_err(|_| format!("{number} of ipamd's reply is no vlan"))
}

const NO_ADDRESS: &str = "ipamd's reply has no address";

/// What the reply means for this pod.
fn interfaces(invocation: &Invocation<'_>, reply: &AddNetworkReply) -> Result<Vec<Wired>, String> {
    let Invocation { env, conf, args, .. } = *invocation;
    if reply.ip_allocation_metadata.is_empty() {
        return Err(NO_ADDRESS.to_owned());
    }
    let wired = |(index, entry): (usize, &IpAllocationMetadata)| {
        Ok(Wired {
            host_veth: names::host_veth(&conf.veth_prefix, &args.namespace, &args.name, index),
            name: names::container_interface(&env.ifname, index),
            address: address_of(entry)?,
            table: entry.route_table_id,
            gateway: None,
        })
    };
    reply.ip_allocation_metadata.iter().enumerate().map(wired).collect()
}

/// The address of an entry; IPv4 if it has both.
pub(crate) fn address_of(entry: &IpAllocationMetadata) -> Result<IpAddr, String> {
    let text = if entry.ipv4_addr.is_empty() { &entry.ipv6_addr } else { &entry.ipv4_addr };
    if text.is_empty() {
        return Err("an entry of ipamd's reply has no address".to_owned());
    }
    text.parse().map_err(|_| format!("{text:?} in ipamd's reply is no address"))
}

fn pod_interface(wired: &Wired) -> Result<PodInterface, String> {
    let table = u32::try_from(wired.table)
        .map_err(|_| format!("route table {} of {} is negative", wired.table, wired.address))?;
    Ok(PodInterface { name: wired.name.clone(), host_veth: wired.host_veth.clone(), address: wired.address, table })
}

/// Without it the addresses would be held until the runtime's DEL, which may never come.
fn give_back(invocation: &Invocation<'_>, deps: Deps<'_>) {
    let Invocation { env, conf, log, .. } = *invocation;
    match deps.peers.del_network(&conf.ipamd_socket, del_request(invocation, REASON_SETUP_FAILED)) {
        Ok(reply) if reply.success => log.info(format_args!("Gave back the addresses of {}", env.container_id)),
        Ok(_) => log.error(format_args!("ipamd did not take back the addresses of {}", env.container_id)),
        Err(error) => log.error(format_args!("Giving back the addresses of {} failed: {error}", env.container_id)),
    }
}

/// Whether a mode of the reply concerns the network policy agent. `none` does not: an agent that is on refuses it
/// (spec 02 W41).
pub(crate) fn has_policy(mode: &str) -> bool {
    !mode.is_empty() && !mode.eq_ignore_ascii_case("none")
}

fn enforce_policy(invocation: &Invocation<'_>, deps: Deps<'_>, mode: &str, count: usize) -> Result<(), Error> {
    let Invocation { args, log, .. } = *invocation;
    if !has_policy(mode) {
        return Ok(());
    }
    let request = EnforceNpRequest {
        k8s_pod_name: args.name.clone(),
        k8s_pod_namespace: args.namespace.clone(),
        network_policy_mode: mode.to_owned(),
        interface_count: i32::try_from(count).unwrap_or(i32::MAX),
    };
    let cause = match deps.peers.enforce_policy(request) {
        Ok(true) => return Ok(()),
        Ok(false) => "the network policy agent refuses".to_owned(),
        Err(error) => error.to_string(),
    };
    log.error(format_args!("Failed to set up network policy for {}/{}: {cause}", args.namespace, args.name));
    Err(Error::Plugin("add cmd: failed to setup network policy".to_owned()))
}
