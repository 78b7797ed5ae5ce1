//! `aws-cni`: gives a pod its VPC address (spec 04 §2).
//!
//! ```text
//! container runtime ──environment, stdin──▶ run ──AddNetwork / DelNetwork──▶ ipamd
//!                   ◀──stdout, exit code──   │
//!                                            ├──▶ kernel (reservoir-net)
//!                                            └──▶ network policy agent, if there is one
//! ```
//!
//! [`run`] is the whole plugin as a function: what it reads and whom it talks to is passed in. Stdout carries protocol
//! only; logs go where the network configuration says ([`log`]).
//!
//! | command | does |
//! |---|---|
//! | ADD | [`add`]: asks ipamd for addresses, wires the pod; takes the addresses back when that fails |
//! | DEL | [`del`]: gives the addresses back and removes the pod's rules, also when ipamd cannot answer |
//! | CHECK | [`check`]: compares the kernel's state with the result of ADD |
//! | STATUS | succeeds if ipamd serves |
//! | GC | nothing: ipamd knows the live pods itself, and a pod's host interfaces go with its namespace |
//! | VERSION | the protocol versions |

pub mod add;
pub mod args;
pub mod check;
pub mod del;
pub mod error;
pub mod grpc;
pub mod inputs;
mod json;
pub mod log;
pub mod netconf;
pub mod peers;
pub mod pod_net;
pub mod prev_result;
pub mod result;
pub mod version;

use std::io::Read;

use error::Error;
use inputs::{Command, Environment};
use log::Log;
use netconf::{Header, NetConf};
use peers::Peers;
use pod_net::PodNet;
use version::CniVersion;

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

/// What the process leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// A result or an error; nothing else.
    pub stdout: String,
    /// For a person who started the plugin by hand.
    pub stderr: String,
    /// The exit code.
    pub exit: u8,
}

/// Runs the plugin. `stdin` is only read when the command needs a network configuration.
pub fn run(env: &Environment, stdin: &mut dyn Read, deps: Deps<'_>) -> Reply {
    if env.command.is_empty() {
        let versions = CniVersion::ALL.map(CniVersion::as_str).join(", ");
        let stderr = format!("AWS CNI {}\nCNI protocol versions supported: {versions}\n\n", reservoir_rpc::VERSION);
        return Reply { stderr, ..Reply::default() };
    }
    match dispatch(env, stdin, deps) {
        Ok(stdout) => Reply { stdout, ..Reply::default() },
        Err(error) => Reply { stdout: error.to_json(), stderr: String::new(), exit: 1 },
    }
}

fn dispatch(env: &Environment, stdin: &mut dyn Read, deps: Deps<'_>) -> Result<String, Error> {
    let command = Command::parse(&env.command);
    env.validate(command)?;
    if command == Command::Version {
        return Ok(format!("{}\n", version::report()));
    }
    let mut text = Vec::new();
    stdin.read_to_end(&mut text).map_err(Error::Stdin)?;
    let header = Header::parse(&text)?;
    match command {
        Command::Add => {
            let version = header.version()?;
            // The other way round from DEL: a pod wired into the host's own namespace cannot be taken back.
            refuse_own_namespace(env, deps)?;
            let invocation =
                Loaded::new(header, version, env, "add cmd", "add cmd: failed to load k8s config from arg")?;
            let result = add::run(&invocation.borrow(env), deps)?;
            Ok(result.to_json(version))
        }
        Command::Del => {
            let version = header.version()?;
            let invocation =
                Loaded::new(header, version, env, "del cmd", "del cmd: failed to load k8s config from args")?;
            del::run(&invocation.borrow(env), deps)?;
            refuse_own_namespace(env, deps)?;
            Ok(String::new())
        }
        Command::Check => {
            let version = header.version_from(CniVersion::V0_4_0, command)?;
            let invocation =
                Loaded::new(header, version, env, "check cmd", "check cmd: failed to load k8s config from args")?;
            check::run(&invocation.borrow(env), deps)?;
            Ok(String::new())
        }
        Command::Status => {
            let version = header.version_from(CniVersion::V1_1_0, command)?;
            let conf = NetConf::load(header, version)
                .map_err(|cause| Error::Plugin(format!("status cmd: error loading config from args: {cause}")))?;
            status(&conf, deps)?;
            Ok(String::new())
        }
        Command::Gc => header.version_from(CniVersion::V1_1_0, command).map(|_| String::new()),
        // VERSION has been answered above.
        Command::Unknown | Command::Version => Err(Error::UnknownCommand(env.command.clone())),
    }
}

fn status(conf: &NetConf, deps: Deps<'_>) -> Result<(), Error> {
    match deps.peers.serving(&conf.ipamd_socket) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::NotServing("ipamd is up but does not serve (yet or any more)".to_owned())),
        Err(error) => Err(Error::NotServing(error.to_string())),
    }
}

fn refuse_own_namespace(env: &Environment, deps: Deps<'_>) -> Result<(), Error> {
    if !env.netns.is_empty() && !env.netns_override && deps.net.is_own_namespace(env.netns.as_ref()) {
        return Err(Error::SameNamespace);
    }
    Ok(())
}

/// What an [`Invocation`] borrows.
struct Loaded {
    conf: NetConf,
    args: args::PodArgs,
    log: Log,
}

impl Loaded {
    fn new(
        header: Header,
        version: CniVersion,
        env: &Environment,
        command: &str,
        args_error: &str,
    ) -> Result<Self, Error> {
        let conf = NetConf::load(header, version)
            .map_err(|cause| Error::Plugin(format!("{command}: error loading config from args: {cause}")))?;
        let log = Log::new(&conf.log_file, conf.log_level);
        let args = args::PodArgs::parse(&env.args).map_err(|cause| Error::Plugin(format!("{args_error}: {cause}")))?;
        Ok(Self { conf, args, log })
    }

    fn borrow<'a>(&'a self, env: &'a Environment) -> Invocation<'a> {
        Invocation { env, conf: &self.conf, args: &self.args, log: &self.log }
    }
}
