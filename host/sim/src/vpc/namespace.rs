//! Named network namespaces (`/var/run/netns`) and commands that run in them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;

/// Why the network could not follow the model.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("network namespace {0} exists already: remove it (ip netns delete {0}) or choose another name")]
    Exists(String),
    #[error("network namespace {0} does not exist: create it (ip netns add {0}) or pass --create-netns")]
    Missing(String),
    #[error("--vpc-host, --vpc-host-ipv6 {0}: choose an address inside the VPC and outside all its subnets")]
    VpcHost(IpAddr),
    #[error("cannot start {program:?}: {error}; it comes with the Debian packages iproute2 (ip) and nftables (nft)")]
    Start { program: &'static str, error: std::io::Error },
    #[error("{command} in network namespace {namespace} failed: {said}\n{input}")]
    Command { command: &'static str, namespace: String, said: String, input: String },
    #[error("network namespace {namespace}: cannot listen on {address}: {error}")]
    Listen { namespace: String, address: SocketAddr, error: std::io::Error },
}

/// What one command does in one namespace, as text that can be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Lines for `ip -batch`; they stop at the first that fails.
    Ip { namespace: String, lines: String },
    /// A ruleset for `nft -f`, one transaction.
    Nft { namespace: String, ruleset: String },
    /// Values for files below `/proc/sys/net`.
    Sysctl { namespace: String, values: Vec<(String, &'static str)> },
}

/// Runs one step.
pub(super) async fn run(step: &Step) -> Result<(), NetworkError> {
    match step {
        Step::Ip { namespace, lines } => feed("ip", namespace, &["-n", namespace, "-batch", "-"], lines).await,
        Step::Nft { namespace, ruleset } => {
            feed("nft", namespace, &["netns", "exec", namespace, "nft", "-f", "-"], ruleset).await
        }
        Step::Sysctl { namespace, values } => {
            let script: String =
                values.iter().map(|(key, value)| format!("echo {value} > /proc/sys/net/{key} || exit 1\n")).collect();
            feed("sh", namespace, &["netns", "exec", namespace, "sh"], &script).await
        }
    }
}

async fn feed(command: &'static str, namespace: &str, arguments: &[&str], input: &str) -> Result<(), NetworkError> {
    let start = |error| NetworkError::Start { program: "ip", error };
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends early closes the pipe; its own words tell more than the broken pipe.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(start)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NetworkError::Command { command, namespace: namespace.to_owned(), said, input: input.to_owned() })
}

/// A named namespace made here.
#[derive(Debug)]
pub(super) struct Namespace(String);

impl Namespace {
    pub async fn create(name: &str) -> Result<Self, NetworkError> {
        if path(name).exists() {
            return Err(NetworkError::Exists(name.to_owned()));
        }
        manage("add", name).await?;
        Ok(Self(name.to_owned()))
    }

    pub fn check(name: &str) -> Result<(), NetworkError> {
        if path(name).exists() { Ok(()) } else { Err(NetworkError::Missing(name.to_owned())) }
    }

    pub async fn remove(self) {
        if let Err(error) = manage("delete", &self.0).await {
            tracing::warn!(%error, "network namespace {} stays behind", self.0);
        }
    }
}

async fn manage(verb: &'static str, name: &str) -> Result<(), NetworkError> {
    let output = Command::new("ip").args(["netns", verb, name]).output().await;
    let output = output.map_err(|error| NetworkError::Start { program: "ip", error })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NetworkError::Command { command: "ip netns", namespace: name.to_owned(), said, input: verb.to_owned() })
}

fn path(name: &str) -> PathBuf {
    Path::new("/var/run/netns").join(name)
}

/// A listener inside a namespace. The socket stays there, the calling thread never goes.
///
/// # Errors
/// No such namespace, no right to enter it, or the address cannot be bound there.
pub async fn bind_in(namespace: &str, address: SocketAddr) -> Result<TcpListener, NetworkError> {
    let file = path(namespace);
    let bound = tokio::task::spawn_blocking(move || {
        // A thread of its own, so that no thread of a pool is left behind in the namespace.
        let bind = move || -> std::io::Result<std::net::TcpListener> {
            let namespace = std::fs::File::open(file)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        std::thread::spawn(bind).join().unwrap_or_else(|_| Err(std::io::Error::other("the thread ended early")))
    });
    let listener = bound.await.map_err(std::io::Error::other).flatten().and_then(TcpListener::from_std);
    listener.map_err(|error| NetworkError::Listen { namespace: namespace.to_owned(), address, error })
}
