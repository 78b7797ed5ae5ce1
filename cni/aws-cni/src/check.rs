//! CHECK: is the pod still wired as ADD said? (The reference does not look.)

use std::path::PathBuf;

use reservoir_net::pod::{PodInterface, PodSetup};

use crate::error::Error;
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
        return Err(failed(format!("branch interface of vlan {vlan}, which this version does not wire")));
    }
    let saved = result.addresses(args, &env.ifname).map_err(failed)?;
    if saved.is_empty() {
        return Err(failed(format!("prevResult has no address of {}", env.ifname)));
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
