//! CHECK: is the pod still wired as ADD said? (The reference does not look.)

use std::path::PathBuf;

use cni_plugin::error::Error;
use reservoir_net::branch::{BranchPod, EnforcingMode};
use reservoir_net::names;
use reservoir_net::pod::{PodInterface, PodSetup};

use crate::prev_result::PrevResult;
use crate::{Deps, Invocation};

/// Compares the kernel's state with the result of ADD. Without one there is nothing to compare with.
///
/// # Errors
/// Code 999 with every difference, or the reason why the result cannot be compared.
pub fn run(invocation: &Invocation<'_>, deps: Deps<'_>) -> Result<(), Error> {
    let Invocation { env, conf, args, log } = *invocation;
    let failed = |cause: String| Error::Plugin(format!("check cmd: {cause}"));
    let Some(result) = &conf.prev_result else {
        log.info(format_args!("No prevResult to check {} against", env.container_id));
        return Ok(());
    };
    if let Some(vlan) = result.branch_vlan(args).map_err(failed)? {
        let pod = branch_pod(invocation, result, vlan).map_err(failed)?;
        return deps.net.check_branch(&pod).map_err(|error| {
            log.error(format_args!("CHECK of {}: {error}", env.container_id));
            failed(error.to_string())
        });
    }
    let saved = result.addresses(args, &env.ifname).map_err(failed)?;
    if saved.is_empty() {
        return Err(failed(format!("prevResult has no address of {}", env.ifname)));
    }
    // DEL takes what it can get; CHECK misses what there should be.
    for name in result.pod_interfaces(&env.ifname) {
        if !saved.iter().any(|saved| saved.interface == name) {
            return Err(failed(format!("prevResult does not have one address of {name}")));
        }
    }
    let interfaces = saved.into_iter().map(|saved| PodInterface {
        name: saved.interface,
        host_veth: saved.host_veth,
        address: saved.address,
        table: saved.table,
    });
    let setup = PodSetup { netns: PathBuf::from(&env.netns), mtu: conf.mtu, interfaces: interfaces.collect() };
    deps.net.check(&setup).map_err(|error| {
        log.error(format_args!("CHECK of {}: {error}", env.container_id));
        failed(error.to_string())
    })
}

/// The pod as ADD left it. Its mode is that of its host end's name: the configuration's may be another by now.
fn branch_pod(invocation: &Invocation<'_>, result: &PrevResult, vlan: u16) -> Result<BranchPod, String> {
    let Invocation { env, conf, args, .. } = *invocation;
    let saved = result.branch(vlan, &env.ifname)?;
    let gateway = saved.gateway.ok_or_else(|| format!("prevResult has no gateway of {}", saved.address))?;
    let strict = names::host_veth(names::STRICT_BRANCH_PREFIX, &args.namespace, &args.name, 0);
    let mode = match conf.veth_prefix.as_str() {
        // The name does not tell.
        names::STRICT_BRANCH_PREFIX => conf.enforcing_mode,
        _ if saved.host_veth == strict => EnforcingMode::Strict,
        _ => EnforcingMode::Standard,
    };
    Ok(BranchPod {
        netns: PathBuf::from(&env.netns),
        name: env.ifname.clone(),
        host_veth: saved.host_veth,
        address: saved.address,
        vlan,
        gateway,
        mode,
    })
}
