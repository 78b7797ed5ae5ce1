//! What every CNI plugin has to do before and after its own work (CNI specification; spec 04 §2.1).
//!
//! ```text
//! container runtime ──environment, stdin──▶ run ──Call──▶ Plugin::{add, del, check, status, gc}
//!                   ◀──stdout, exit code──      ◀──result or Error──
//! ```
//!
//! [`run`] is the protocol as a function; [`main`] connects it to the process. Stdout carries protocol only; logs go
//! where the network configuration says ([`log`]).
//!
//! | module | what |
//! |---|---|
//! | [`inputs`] | commands, environment variables, and which command needs which |
//! | [`netconf`] | the part of the network configuration that every plugin has |
//! | [`prev_result`] | the result of the plugins before this one, or of ADD |
//! | [`version`] | versions of the protocol and their forms of results |
//! | [`error`] | errors and their codes |
//! | [`json`] | JSON as deployed configurations are read and results printed |

pub mod error;
pub mod inputs;
pub mod json;
pub mod log;
pub mod netconf;
pub mod prev_result;
pub mod version;

use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use error::Error;
use inputs::{Command, Environment};
use netconf::Header;
use version::CniVersion;

/// The largest network configuration that is read. A pod's annotations, the largest part of real ones, are at most
/// 256 KiB; the rest is for what no runtime sends.
pub const MAX_STDIN_BYTES: u64 = 8 * 1024 * 1024;

/// A plugin's own work. What the protocol demands of the inputs has been checked by then.
pub trait Plugin {
    /// Name and version, for a person who starts the plugin by hand.
    fn about(&self) -> String;

    /// Returns the result as it is to be printed.
    ///
    /// # Errors
    /// Whatever keeps the container from its network; nothing is left behind.
    fn add(&self, call: Call<'_>) -> Result<String, Error>;

    /// Removes whatever is left of an ADD; that nothing is left is a success.
    ///
    /// # Errors
    /// When trying again can help.
    fn del(&self, call: Call<'_>) -> Result<(), Error>;

    /// Compares what is there with what ADD made.
    ///
    /// # Errors
    /// What differs.
    fn check(&self, _call: Call<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Whether an ADD could succeed.
    ///
    /// # Errors
    /// Why not.
    fn status(&self, _call: Call<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Removes what is left of containers that no longer exist.
    ///
    /// # Errors
    /// What could not be removed.
    fn gc(&self, _call: Call<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Whether `netns` is the namespace of this process. A path that cannot be looked at is not.
    fn is_own_namespace(&self, netns: &Path) -> bool {
        is_own_namespace(netns)
    }
}

/// One command with a network configuration.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// Parameters from the environment.
    pub env: &'a Environment,
    /// The network configuration.
    pub header: Header,
    /// Its version, and that of the result.
    pub version: CniVersion,
    /// The network configuration as it came, for a plugin that passes it on.
    pub stdin: &'a [u8],
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

/// Runs a plugin. `stdin` is only read when the command needs a network configuration.
pub fn run(plugin: &dyn Plugin, env: &Environment, stdin: &mut dyn Read) -> Reply {
    if env.command.is_empty() {
        let versions = CniVersion::ALL.map(CniVersion::as_str).join(", ");
        let stderr = format!("{}\nCNI protocol versions supported: {versions}\n\n", plugin.about());
        return Reply { stderr, ..Reply::default() };
    }
    match dispatch(plugin, env, stdin) {
        Ok(stdout) => Reply { stdout, ..Reply::default() },
        Err(error) => Reply { stdout: error.to_json(), stderr: String::new(), exit: 1 },
    }
}

fn dispatch(plugin: &dyn Plugin, env: &Environment, stdin: &mut dyn Read) -> Result<String, Error> {
    let command = Command::parse(&env.command);
    env.validate(command)?;
    if command == Command::Version {
        return Ok(format!("{}\n", version::report()));
    }
    let mut text = Vec::new();
    stdin.take(MAX_STDIN_BYTES + 1).read_to_end(&mut text).map_err(Error::Stdin)?;
    if text.len() as u64 > MAX_STDIN_BYTES {
        let error = format!("the network configuration is larger than {MAX_STDIN_BYTES} bytes");
        return Err(Error::Stdin(io::Error::new(io::ErrorKind::FileTooLarge, error)));
    }
    let header = Header::parse(&text)?;
    let since = |header: &Header, since| header.version_from(since, command);
    let nothing = |()| String::new();
    match command {
        Command::Add => {
            let version = header.version()?;
            // The other way round from DEL: a pod wired into the host's own namespace cannot be taken back.
            refuse_own_namespace(plugin, env)?;
            plugin.add(Call { env, header, version, stdin: &text })
        }
        Command::Del => {
            let version = header.version()?;
            plugin.del(Call { env, header, version, stdin: &text })?;
            refuse_own_namespace(plugin, env).map(nothing)
        }
        Command::Check => {
            let version = since(&header, CniVersion::V0_4_0)?;
            plugin.check(Call { env, header, version, stdin: &text }).map(nothing)
        }
        Command::Status => {
            let version = since(&header, CniVersion::V1_1_0)?;
            plugin.status(Call { env, header, version, stdin: &text }).map(nothing)
        }
        Command::Gc => {
            let version = since(&header, CniVersion::V1_1_0)?;
            plugin.gc(Call { env, header, version, stdin: &text }).map(nothing)
        }
        // VERSION has been answered above.
        Command::Unknown | Command::Version => Err(Error::UnknownCommand(env.command.clone())),
    }
}

fn refuse_own_namespace(plugin: &dyn Plugin, env: &Environment) -> Result<(), Error> {
    if !env.netns.is_empty() && !env.netns_override && plugin.is_own_namespace(env.netns.as_ref()) {
        return Err(Error::SameNamespace);
    }
    Ok(())
}

/// Whether `netns` is the namespace of the calling thread. A path that cannot be looked at is not.
#[must_use]
pub fn is_own_namespace(netns: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    match (id(netns), id(Path::new("/proc/thread-self/ns/net"))) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    }
}

/// Connects a plugin, called `name`, to the process. Everything else is in [`run`].
pub fn main(name: &'static str, run: impl FnOnce(&Environment, &mut dyn Read) -> Reply) -> ExitCode {
    // The runtime expects an error object even from a defect of ours. The hook runs before the process aborts.
    std::panic::set_hook(Box::new(move |panic| {
        let _ = io::stdout().write_all(Error::Plugin(format!("{name}: internal error: {panic}")).to_json().as_bytes());
        std::process::exit(1);
    }));
    let env = Environment::read(|name| std::env::var_os(name));
    let reply = run(&env, &mut io::stdin().lock());
    let printed = io::stderr()
        .write_all(reply.stderr.as_bytes())
        .and_then(|()| io::stdout().write_all(reply.stdout.as_bytes()))
        .and_then(|()| io::stdout().flush());
    if printed.is_ok() { ExitCode::from(reply.exit) } else { ExitCode::FAILURE }
}
