//! `aws-cni`: gives a pod its VPC address (spec 04 §2).
//!
//! ```text
//! container runtime ──environment, stdin──▶ run ──AddNetwork / DelNetwork──▶ ipamd
//!                   ◀──stdout, exit code──   │
//!                                            ├──▶ kernel (reservoir-net)
//!                                            └──▶ network policy agent, if there is one
//! ```
//!
//! [`run`] is the whole plugin as a function: what it reads and whom it talks to is passed in. The protocol itself is
//! [`cni_plugin`]'s.
//!
//! | command | does |
//! |---|---|
//! | ADD | [`add`]: asks ipamd for addresses, wires the pod; takes the addresses back when that fails |
//! | DEL | [`del`]: gives the addresses back and removes the pod's rules, also when ipamd cannot answer |
//! | CHECK | [`check`]: compares the kernel's state with the result of ADD |
//! | STATUS | succeeds if ipamd serves |
//! | GC | [`gc`]: removes rules and vlans of pods whose interfaces are gone; ipamd takes back addresses itself |
//! | VERSION | the protocol versions |

pub mod add;
pub mod args;
pub mod check;
pub mod del;
pub mod gc;
pub mod grpc;
pub mod netconf;
pub mod peers;
pub mod pod_net;
pub mod prev_result;
pub mod result;

use std::io::Read;
use std::path::Path;

use cni_plugin::error::Error;
use cni_plugin::inputs::Environment;
use cni_plugin::log::Log;
use cni_plugin::{Call, Plugin};
use netconf::NetConf;
use peers::Peers;
use pod_net::PodNet;

pub use cni_plugin::{Reply, inputs, log};

/// The plugin's name: in the log, and of its binary.
pub const NAME: &str = "aws-cni";

/// Whom the plugin talks to.
#[derive(Clone, Copy)]
pub struct Deps<'a> {
    /// ipamd and the network policy agent.
    pub peers: &'a dyn Peers,
    /// The kernel.
    pub net: &'a dyn PodNet,
}

impl std::fmt::Debug for Deps<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}

/// One ADD, DEL or CHECK: what the runtime asked for.
#[derive(Clone, Copy, Debug)]
pub struct Invocation<'a> {
    /// Parameters from the environment.
    pub env: &'a Environment,
    /// The network configuration.
    pub conf: &'a NetConf,
    /// The pod, from `CNI_ARGS`.
    pub args: &'a args::PodArgs,
    /// Where log lines go.
    pub log: &'a Log,
}

/// Runs the plugin. `stdin` is only read when the command needs a network configuration.
pub fn run(env: &Environment, stdin: &mut dyn Read, deps: Deps<'_>) -> Reply {
    cni_plugin::run(&deps, env, stdin)
}

impl Plugin for Deps<'_> {
    fn about(&self) -> String {
        format!("AWS CNI {}", reservoir_rpc::VERSION)
    }

    fn add(&self, call: Call<'_>) -> Result<String, Error> {
        let (env, version) = (call.env, call.version);
        let invocation = Loaded::new(call, "add cmd", "add cmd: failed to load k8s config from arg")?;
        let result = add::run(&invocation.borrow(env), *self)?;
        Ok(result.to_json(version))
    }

    fn del(&self, call: Call<'_>) -> Result<(), Error> {
        let env = call.env;
        let invocation = Loaded::new(call, "del cmd", "del cmd: failed to load k8s config from args")?;
        del::run(&invocation.borrow(env), *self)
    }

    fn check(&self, call: Call<'_>) -> Result<(), Error> {
        let env = call.env;
        let invocation = Loaded::new(call, "check cmd", "check cmd: failed to load k8s config from args")?;
        check::run(&invocation.borrow(env), *self)
    }

    fn status(&self, call: Call<'_>) -> Result<(), Error> {
        let conf = load("status cmd", call)?;
        let not_serving = |details| Error::NotAvailable { msg: "ipamd does not answer", details };
        match self.peers.serving(&conf.ipamd_socket) {
            Ok(true) => Ok(()),
            Ok(false) => Err(not_serving("ipamd is up but does not serve (yet or any more)".to_owned())),
            Err(error) => Err(not_serving(error.to_string())),
        }
    }

    fn gc(&self, call: Call<'_>) -> Result<(), Error> {
        let object = call.header.object.clone();
        let conf = load("gc cmd", call)?;
        gc::run(&object, &Log::new(NAME, &conf.log_file, conf.log_level), *self)
    }

    fn is_own_namespace(&self, netns: &Path) -> bool {
        self.net.is_own_namespace(netns)
    }
}

fn load(command: &str, call: Call<'_>) -> Result<NetConf, Error> {
    NetConf::load(call.header, call.version)
        .map_err(|cause| Error::Plugin(format!("{command}: error loading config from args: {cause}")))
}

/// What an [`Invocation`] borrows.
struct Loaded {
    conf: NetConf,
    args: args::PodArgs,
    log: Log,
}

impl Loaded {
    fn new(call: Call<'_>, command: &str, args_error: &str) -> Result<Self, Error> {
        let env = call.env;
        let conf = load(command, call)?;
        let log = Log::new(NAME, &conf.log_file, conf.log_level);
        let args = args::PodArgs::parse(&env.args).map_err(|cause| Error::Plugin(format!("{args_error}: {cause}")))?;
        Ok(Self { conf, args, log })
    }

    fn borrow<'a>(&'a self, env: &'a Environment) -> Invocation<'a> {
        Invocation { env, conf: &self.conf, args: &self.args, log: &self.log }
    }
}
