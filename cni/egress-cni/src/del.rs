//! DEL (spec 04 §14.6): always leads towards "gone".
//!
//! The pod's rules are found by their chain, which is a function of network and container, so neither the pod's address
//! nor its namespace is needed (DW-26). They and the pair go before the address does: whoever gets it next finds nothing
//! of ours in the way.

use std::path::Path;

use cni_plugin::error::Error;
use reservoir_net::egress::{firewall, interface};

use crate::add::ipam_failed;
use crate::{Deps, Invocation, result};

/// Removes a pod's egress.
///
/// # Errors
/// Code 999 when the address cannot be given back; everything else is only logged.
pub fn run(invocation: &Invocation<'_>, deps: Deps<'_>) -> Result<(), Error> {
    let Invocation { env, conf, log, .. } = *invocation;
    if !conf.enabled && !may_be_left(invocation, deps) {
        return Ok(());
    }
    log.info(format_args!(
        "Received CNI del request: ContainerID({}) Netns({}) IfName({}) Args({})",
        env.container_id, env.netns, env.ifname, env.args
    ));
    // An ADD of the same pod that is not done yet would put back what is removed here.
    let _turn = deps.net.turn(Path::new(&env.netns)).unwrap_or_else(|error| {
        log.error(format_args!("Not waiting any longer for who works on {}: {error}", env.container_id));
        None
    });
    match remove(invocation, deps) {
        Ok(()) => Ok(()),
        Err(cause) if conf.enabled => Err(ipam_failed(&cause)),
        Err(cause) => {
            // The feature is off: nobody waits for the address.
            log.error(format_args!("Giving back the address of {} failed: {cause}", env.container_id));
            Ok(())
        }
    }
}

/// Rules, pair and address of a container, as far as they are there.
///
/// # Errors
/// Why the address cannot be given back; everything else is only logged.
pub(crate) fn remove(invocation: &Invocation<'_>, deps: Deps<'_>) -> Result<(), String> {
    let Invocation { env, conf, log, .. } = *invocation;
    let family = conf.family();
    let chain = firewall::chain(family, &conf.name, &env.container_id);
    if let Err(error) = deps.net.remove_rules(family, &chain) {
        log.error(format_args!("Removing chain {chain} of {} failed: {error}", env.container_id));
    }
    if !env.netns.is_empty()
        && let Err(error) = deps.net.tear_down(Path::new(&env.netns), family)
    {
        log.error(format_args!("Removing {} of {} failed: {error}", interface(family), env.container_id));
    }
    deps.ipam.del(invocation)
}

/// Whether the pod may have got an egress before the feature was switched off. The IPAM plugin's directory is made with
/// the first address and gone after a reboot, as are rules and interfaces: a node that never had the feature pays
/// nothing.
fn may_be_left(invocation: &Invocation<'_>, deps: Deps<'_>) -> bool {
    let conf = invocation.conf;
    let named = conf.prev_result.as_ref().is_some_and(|prev| result::names(prev, interface(conf.family())));
    named || deps.net.has_directory(&conf.ipam_data)
}
