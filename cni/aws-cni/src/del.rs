//! DEL (spec 04 §2.7, §2.8): always leads towards "gone", whoever is down.
//!
//! ipamd is asked first, since its store knows better than a saved result which rules are the pod's. When it cannot say
//! (down, or it gave the address back in an earlier DEL that did not come to its end, DW-6), the saved result is used,
//! but only for an address that no other pod has been given since. Without such a result the kernel tells, as long as the
//! pod's namespace is there: an ADD that was killed has left none.

use cni_plugin::error::Error;
use reservoir_net::names;
use reservoir_net::pod::PodAddress;
use reservoir_rpc::{DelNetworkReply, DeleteNpRequest, REASON_POD_DELETED, UNKNOWN_POD};
use tonic::Code;

use crate::add::{address_of, del_request, has_policy, vlan_of};
use crate::prev_result::SavedAddress;
use crate::{Deps, Invocation};

/// More network cards than any instance has.
const MAX_CARDS: usize = 64;

/// Gives a pod's addresses back and removes its rules and routes. The veth pair goes with the pod's namespace.
///
/// # Errors
/// Code 999 in the words of spec 04 §2.6, when trying again can help.
pub fn run(invocation: &Invocation<'_>, deps: Deps<'_>) -> Result<(), Error> {
    let Invocation { env, conf, log, .. } = *invocation;
    log.info(format_args!(
        "Received CNI del request: ContainerID({}) Netns({}) IfName({}) Args({})",
        env.container_id, env.netns, env.ifname, env.args
    ));
    if branch(invocation, deps)? {
        return Ok(());
    }
    // An ADD of the same pod that is not done yet would put back what is removed here. Before ipamd gives the address
    // away, so that nobody has it by the time that its rules are removed.
    let _turn = deps.net.turn(env.netns.as_ref());
    let answer = deps.peers.del_network(&conf.ipamd_socket, del_request(invocation, REASON_POD_DELETED));
    match answer {
        Ok(reply) if reply.success => released(invocation, deps, &reply),
        Ok(reply) => {
            log.error(format_args!("ipamd refuses to delete {}: {reply:?}", env.container_id));
            Err(Error::Plugin("del cmd: failed to process delete request".to_owned()))
        }
        Err(error) if error.code == Code::NotFound || error.message.contains(UNKNOWN_POD) => {
            log.info(format_args!("ipamd does not know {}: already deleted, or never added", env.container_id));
            from_saved(invocation, deps).map_err(|cause| tear_down_failed(&cause))
        }
        Err(error) => {
            // Failing would only block the runtime: ipamd finds out later that the pod is gone.
            log.error(format_args!("DelNetwork for sandbox {} failed: {error}", env.container_id));
            if let Err(cause) = from_saved(invocation, deps) {
                log.error(format_args!("Failed to tear down {} by its saved result: {cause}", env.container_id));
            }
            Ok(())
        }
    }
}

fn tear_down_failed(cause: &str) -> Error {
    Error::Plugin(format!("del cmd: failed on tear down pod network: {cause}"))
}

/// A pod with a branch interface, which ipamd need not be asked about: true if nothing is left to do.
fn branch(invocation: &Invocation<'_>, deps: Deps<'_>) -> Result<bool, Error> {
    let Invocation { env, conf, args, log } = *invocation;
    let failed = |cause| Error::Plugin(format!("del cmd: failed to delete with prevResult: {cause}"));
    let Some(result) = &conf.prev_result else { return Ok(false) };
    let Some(vlan) = result.branch_vlan(args).map_err(failed)? else { return Ok(false) };
    if env.netns.is_empty() {
        // The runtime deletes a sandbox twice; by the second time the vlan may be another pod's.
        log.info(format_args!("Nothing to do for vlan {vlan} of {} without a namespace", env.container_id));
        return Ok(true);
    }
    let saved = result.branch(vlan, &env.ifname).map_err(failed)?;
    deps.net.tear_down_branch(vlan, Some(saved.address)).map_err(|error| failed(error.to_string()))?;
    Ok(true)
}

/// ipamd has given the addresses back.
fn released(invocation: &Invocation<'_>, deps: Deps<'_>, reply: &DelNetworkReply) -> Result<(), Error> {
    let Invocation { env, args, log, .. } = *invocation;
    if reply.pod_vlan_id == 0 && reply.ip_allocation_metadata.is_empty() {
        // It knows nothing of the pod, nor does the cluster (spec 02 §4.2).
        from_saved(invocation, deps).map_err(|cause| tear_down_failed(&cause))?;
    } else if reply.pod_vlan_id == 0 {
        tear_down(invocation, deps, reply)?;
    } else if env.netns.is_empty() {
        // The runtime deletes a sandbox twice; by the second time the vlan may be another pod's.
        return Ok(());
    } else {
        tear_down_branch(deps, reply)?;
    }
    if has_policy(&reply.network_policy_mode) {
        let request = DeleteNpRequest { k8s_pod_name: args.name.clone(), k8s_pod_namespace: args.namespace.clone() };
        // The pod is gone either way (DW-7).
        match deps.peers.delete_policy(request) {
            Ok(true) => {}
            Ok(false) => log.error("The network policy agent could not forget the pod"),
            Err(error) => log.error(format_args!("The network policy agent does not answer: {error}")),
        }
    }
    Ok(())
}

/// An ordinary pod's rules and routes.
fn tear_down(invocation: &Invocation<'_>, deps: Deps<'_>, reply: &DelNetworkReply) -> Result<(), Error> {
    let Invocation { env, log, .. } = *invocation;
    let mut addresses = Vec::new();
    for entry in &reply.ip_allocation_metadata {
        match (address_of(entry), u32::try_from(entry.route_table_id)) {
            (Ok(address), Ok(table)) => addresses.push(PodAddress { address, table }),
            (Err(cause), _) => log.warn(format_args!("Skipped for {}: {cause}", env.container_id)),
            (_, Err(_)) => {
                log.warn(format_args!("Skipped for {}: negative route table in {entry:?}", env.container_id));
            }
        }
    }
    if addresses.is_empty() {
        log.warn(format_args!("No address of {} in ipamd's reply", env.container_id));
        return from_kernel(invocation, deps).map_err(|cause| tear_down_failed(&cause));
    }
    deps.net.tear_down(&addresses).map_err(|error| tear_down_failed(&error.to_string()))
}

/// A branch pod, which came with no saved result. An older ipamd does not tell an IPv6 address (DW-10); what the vlan
/// tells is removed in any case.
fn tear_down_branch(deps: Deps<'_>, reply: &DelNetworkReply) -> Result<(), Error> {
    let vlan = vlan_of(reply.pod_vlan_id).map_err(|cause| tear_down_failed(&cause))?;
    let address = reply.ip_allocation_metadata.first().and_then(|entry| address_of(entry).ok());
    deps.net.tear_down_branch(vlan, address).map_err(|error| tear_down_failed(&error.to_string()))
}

/// Tears down by what ADD returned; if that does not tell enough, by what the kernel shows.
fn from_saved(invocation: &Invocation<'_>, deps: Deps<'_>) -> Result<(), String> {
    let Invocation { env, conf, args, log } = *invocation;
    let Some(result) = &conf.prev_result else {
        log.info(format_args!("There is no saved result of {}", env.container_id));
        return from_kernel(invocation, deps);
    };
    let saved = match result.addresses(args, &env.ifname) {
        Ok(saved) => saved,
        Err(why) => {
            log.info(format_args!("The saved result of {} is of no use: {why}", env.container_id));
            return from_kernel(invocation, deps);
        }
    };
    if saved.is_empty() {
        // Another version's, or what a plugin behind us made of it.
        log.info(format_args!("The saved result of {} has no address of {}", env.container_id, env.ifname));
        return from_kernel(invocation, deps);
    }
    let mut ours = Vec::new();
    for address in saved {
        if still_ours(invocation, deps, &address)? {
            ours.push(PodAddress { address: address.address, table: address.table });
        } else {
            log.info(format_args!("{} belongs to another pod by now: left alone", address.address));
        }
    }
    if ours.is_empty() {
        return Ok(());
    }
    deps.net.tear_down(&ours).map_err(|error| error.to_string())
}

/// Tears down what the pod's interfaces lead to. Their names follow from the pod's.
fn from_kernel(invocation: &Invocation<'_>, deps: Deps<'_>) -> Result<(), String> {
    let Invocation { env, conf, args, log } = *invocation;
    if env.netns.is_empty() {
        return Ok(());
    }
    let mut pairs: Vec<(String, String)> = (0..MAX_CARDS)
        .map(|index| {
            let host_veth = names::host_veth(&conf.veth_prefix, &args.namespace, &args.name, index);
            (names::container_interface(&env.ifname, index), host_veth)
        })
        .collect();
    pairs.push((env.ifname.clone(), names::host_veth(names::STRICT_BRANCH_PREFIX, &args.namespace, &args.name, 0)));
    let found = deps.net.behind(env.netns.as_ref(), &pairs).map_err(|error| error.to_string())?;
    let mut failures = Vec::new();
    for pod in found {
        log.info(format_args!("The kernel shows {} of {}", pod.address, env.container_id));
        let torn_down = match pod.vlan {
            Some(vlan) => deps.net.tear_down_branch(vlan, Some(pod.address)),
            None => deps.net.tear_down(&[PodAddress { address: pod.address, table: pod.table }]),
        };
        failures.extend(torn_down.err().map(|error| error.to_string()));
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

/// Whether an address's rules can only be this pod's. A route over another interface is another pod's; one over an
/// interface of this name may be a successor's, if this pod's own namespace is no more and its interface had the time to
/// go with it.
fn still_ours(invocation: &Invocation<'_>, deps: Deps<'_>, saved: &SavedAddress) -> Result<bool, String> {
    let netns = &invocation.env.netns;
    let device = || deps.net.route_device(saved.address).map_err(|error| error.to_string());
    match device()? {
        None => Ok(true),
        Some(device) if device != saved.host_veth => Ok(false),
        Some(_) if !netns.is_empty() && deps.net.namespace_exists(netns.as_ref()) => Ok(true),
        Some(own) => {
            deps.net.wait_until_gone(&own);
            Ok(device()?.is_none())
        }
    }
}
