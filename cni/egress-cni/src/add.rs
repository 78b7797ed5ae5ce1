//! ADD (spec 04 §14.2).

use std::net::IpAddr;
use std::path::PathBuf;

use cni_plugin::error::Error;
use reservoir_net::egress::firewall::{self, SnatRules};
use reservoir_net::egress::{EgressLink, EgressSetup};
use reservoir_net::rule::Family;

use crate::ipam::Allocation;
use crate::netconf::{NetConf, is_global_unicast};
use crate::{Deps, Invocation, del, result};

/// Gives a pod its egress, and returns the result to print. When anything fails, all of it is taken back.
///
/// # Errors
/// Code 999 in the words of spec 04 §14.
pub fn run(invocation: &Invocation<'_>, deps: Deps<'_>) -> Result<String, Error> {
    let Invocation { env, conf, log, .. } = *invocation;
    let prev_result =
        conf.prev_result.as_ref().ok_or_else(|| Error::Plugin("must be called as a chained plugin".to_owned()))?;
    let mtu = conf.mtu().map_err(|cause| Error::Plugin(format!("failed to parse config: {cause}")))?;
    let printed = |link: Option<&EgressLink>| {
        result::to_json(prev_result, conf.version, link.map(|link| (link, env.netns.as_str())))
            .map_err(|cause| Error::Plugin(format!("failed to parse config: could not parse prevResult: {cause}")))
    };
    if !conf.enabled {
        return printed(None);
    }
    log.info(format_args!(
        "Received CNI add request: ContainerID({}) Netns({}) IfName({}) Args({})",
        env.container_id, env.netns, env.ifname, env.args
    ));
    // A DEL of the same pod that is not done yet would take away what is made here.
    let _turn = deps.net.turn(env.netns.as_ref()).map_err(|error| Error::Plugin(error.to_string()))?;
    let done = (|| {
        let allocation = allocate(invocation, deps).map_err(|cause| ipam_failed(&cause))?;
        log.debug(format_args!("{} gave {} {allocation:?}", conf.ipam_type, env.container_id));
        let setup = setup(invocation, mtu, allocation)?;
        let node = node_address(conf, &setup)?;
        let link = deps.net.set_up(&setup).map_err(|error| Error::Plugin(error.to_string()))?;
        let rules = SnatRules {
            network: conf.name.clone(),
            container: env.container_id.clone(),
            pod: setup.address.address(),
            node,
            randomize: conf.randomize,
        };
        let done = deps
            .net
            .add_rules(&rules)
            .map_err(|error| Error::Plugin(format!("failed to add SNAT rules: {error}")))
            .and_then(|()| printed(Some(&link)));
        if done.is_err() {
            take_back(invocation, deps, &link);
        }
        done
    })();
    if done.is_err()
        && let Err(cause) = deps.ipam.del(invocation)
    {
        log.error(format_args!("Giving back the address of {} failed: {cause}", env.container_id));
    }
    done
}

/// The pod's address. An ADD that was killed has left one behind, and host-local gives no container a second one: with
/// that, and whatever else was left, taken away, it is asked once more.
fn allocate(invocation: &Invocation<'_>, deps: Deps<'_>) -> Result<Allocation, String> {
    let refused = match deps.ipam.add(invocation) {
        Ok(allocation) => return Ok(allocation),
        Err(cause) => cause,
    };
    let Invocation { env, conf, log, .. } = *invocation;
    log.info(format_args!(
        "{} refused {}: {refused}; taking away what may be left of it and asking again",
        conf.ipam_type, env.container_id
    ));
    del::remove(invocation, deps).map_err(|_| refused)?;
    deps.ipam.add(invocation)
}

/// What operators know of a failing IPAM plugin.
pub(crate) fn ipam_failed(cause: &str) -> Error {
    Error::Plugin(format!("running IPAM plugin failed: {cause}"))
}

/// The wiring, from what the IPAM plugin gave.
fn setup(invocation: &Invocation<'_>, mtu: u32, allocation: Allocation) -> Result<EgressSetup, Error> {
    let env = invocation.env;
    let Allocation { ips, routes } = allocation;
    let (address, gateway) = match ips.as_slice() {
        [] => return Err(Error::Plugin("IPAM plugin returned zero IPs".to_owned())),
        [one] => *one,
        many => {
            let text = format!("IPAM plugin is expected to return 1 IP address, but returned {} IPs, ", many.len());
            return Err(Error::Plugin(text));
        }
    };
    Ok(EgressSetup {
        netns: PathBuf::from(&env.netns),
        ifname: env.ifname.clone(),
        mtu,
        address,
        // Where there is none, the wiring of its family needs none but the routes'.
        gateway: gateway.unwrap_or_else(|| first_of(address)),
        routes,
    })
}

/// The address that ranges use as a gateway: the first (spec 04 §14.1).
fn first_of(address: reservoir_net::IpPrefix) -> IpAddr {
    match address.network().address() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network) | 1).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) | 1).into()),
    }
}

/// What pods' packets leave as.
fn node_address(conf: &NetConf, setup: &EgressSetup) -> Result<IpAddr, Error> {
    let node = match conf.node_ip {
        Some(node @ IpAddr::V4(_)) => node,
        Some(node @ IpAddr::V6(v6)) if is_global_unicast(v6) => node,
        _ => {
            let text =
                "global unicast IPv6 not found in host primary interface which is mandatory to support IPv6 egress";
            return Err(Error::Plugin(text.to_owned()));
        }
    };
    if Family::of(node) != setup.address.family() {
        let text = format!("IPAM plugin returned {}, which is of another family than nodeIP {node}", setup.address);
        return Err(Error::Plugin(text));
    }
    Ok(node)
}

/// The pair and the rules of an ADD that failed behind them.
fn take_back(invocation: &Invocation<'_>, deps: Deps<'_>, link: &EgressLink) {
    let Invocation { env, conf, log, .. } = *invocation;
    let family = conf.family();
    let chain = firewall::chain(family, &conf.name, &env.container_id);
    for outcome in [deps.net.remove_rules(family, &chain), deps.net.undo(link)] {
        if let Err(error) = outcome {
            log.error(format_args!("Taking back the egress of {} failed: {error}", env.container_id));
        }
    }
}
