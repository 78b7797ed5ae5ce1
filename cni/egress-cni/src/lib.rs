//! `egress-cni`: a way out in the address family that the cluster does not have (spec 04 §14). Second plugin of the
//! list, behind `aws-cni`, never alone.
//!
//! ```text
//! container runtime ──environment, stdin──▶ run ──▶ host-local (a child): an address that means something on this node
//!                   ◀──stdout, exit code──   │
//!                                            └──▶ kernel, iptables (reservoir-net)
//! ```
//!
//! | command | does |
//! |---|---|
//! | ADD | [`add`]: an address, a second veth pair, SNAT; takes all of it back when any fails |
//! | DEL | [`del`]: removes SNAT and the pair, gives the address back; also once the feature is switched off |
//! | CHECK, STATUS, GC | succeed |
//! | VERSION | the protocol versions |
//!
//! The plugin as a function is [`run`]: whom it talks to is passed in. The protocol is [`cni_plugin`]'s.

pub mod add;
pub mod del;
pub mod ipam;
pub mod net;
pub mod netconf;
pub mod result;

use std::io::Read;
use std::path::Path;

use cni_plugin::error::Error;
use cni_plugin::inputs::Environment;
use cni_plugin::log::Log;
use cni_plugin::{Call, Plugin, Reply};

use ipam::Ipam;
use net::EgressNet;
use netconf::NetConf;

/// The plugin's name: in the log, and of its binary.
pub const NAME: &str = "egress-cni";

/// Whom the plugin talks to.
#[derive(Clone, Copy)]
pub struct Deps<'a> {
    /// Who gives the pod's address.
    pub ipam: &'a dyn Ipam,
    /// The kernel, and iptables.
    pub net: &'a dyn EgressNet,
}

impl std::fmt::Debug for Deps<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}

/// One ADD or DEL: what the runtime asked for.
#[derive(Clone, Copy, Debug)]
pub struct Invocation<'a> {
    /// Parameters from the environment.
    pub env: &'a Environment,
    /// The network configuration.
    pub conf: &'a NetConf,
    /// The same as it came, for the IPAM plugin.
    pub stdin: &'a [u8],
    /// Where log lines go.
    pub log: &'a Log,
}

/// Runs the plugin. `stdin` is only read when the command needs a network configuration.
pub fn run(env: &Environment, stdin: &mut dyn Read, deps: Deps<'_>) -> Reply {
    cni_plugin::run(&deps, env, stdin)
}

impl Plugin for Deps<'_> {
    fn about(&self) -> String {
        format!("egress CNI plugin {}", env!("CARGO_PKG_VERSION"))
    }

    fn add(&self, call: Call<'_>) -> Result<String, Error> {
        let (env, stdin) = (call.env, call.stdin);
        let (conf, log) = load(call)?;
        add::run(&Invocation { env, conf: &conf, stdin, log: &log }, *self).map_err(|error| {
            log.error(format_args!("ADD of {} failed: {error}", env.container_id));
            error
        })
    }

    fn del(&self, call: Call<'_>) -> Result<(), Error> {
        let (env, stdin) = (call.env, call.stdin);
        let (conf, log) = load(call)?;
        del::run(&Invocation { env, conf: &conf, stdin, log: &log }, *self).map_err(|error| {
            log.error(format_args!("DEL of {} failed: {error}", env.container_id));
            error
        })
    }

    fn is_own_namespace(&self, netns: &Path) -> bool {
        self.net.is_own_namespace(netns)
    }
}

fn load(call: Call<'_>) -> Result<(NetConf, Log), Error> {
    let conf = NetConf::load(call.header, call.version)
        .map_err(|cause| Error::Plugin(format!("failed to parse config: {cause}")))?;
    let log = Log::new(NAME, &conf.log_file, conf.log_level);
    Ok((conf, log))
}
