//! Small types that values of variables have.

use std::fmt;
use std::path::PathBuf;

use super::parse::Expected;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    Unix(PathBuf),
    /// `host` empty = all addresses, IPv6 and IPv4.
    Tcp {
        host: String,
        port: u16,
    },
}

impl Listen {
    /// `unix:<path>` or `host:port`; `[v6]:port` for an IPv6 address.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        let wrong = || Err(Expected("an address (host:port, :port, [ipv6]:port or unix:/path)".into()));
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { wrong() };
        }
        let Some((host, port)) = text.rsplit_once(':') else { return wrong() };
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bracketed {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return wrong(),
            None if host.contains(':') || host.contains(char::is_whitespace) => return wrong(),
            None => host,
        };
        match port.parse() {
            Ok(port) if port_is_plain(text) => Ok(Self::Tcp { host: host.to_owned(), port }),
            _ => wrong(),
        }
    }
}

/// `u16::from_str` takes a sign; a port has none.
fn port_is_plain(text: &str) -> bool {
    text.rsplit(':').next().is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// How the SNAT rule chooses ports (spec 04 §10.3); the numbers are those of `/v1/networkutils-env-settings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RandomizeSnat {
    None = 0,
    HashRandom = 1,
    Prng = 2,
}

impl RandomizeSnat {
    pub fn parse(text: &str) -> Result<Self, Expected> {
        match text {
            "none" => Ok(Self::None),
            "hashrandom" => Ok(Self::HashRandom),
            "prng" => Ok(Self::Prng),
            _ => Err(Expected("prng, hashrandom or none (lower case)".into())),
        }
    }
}

impl fmt::Display for RandomizeSnat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::HashRandom => "hashrandom",
            Self::Prng => "prng",
        })
    }
}

/// `POD_SECURITY_GROUP_ENFORCING_MODE`; the daemon takes what it does not know for strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EnforcingMode {
    Strict,
    Standard,
}

impl fmt::Display for EnforcingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Standard => "standard",
        })
    }
}

/// Whether the kernel's network is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostNetwork {
    Kernel,
    /// Benchmarks and simulation: no netlink, no iptables.
    None,
}

impl HostNetwork {
    pub fn parse(text: &str) -> Result<Self, Expected> {
        match text {
            "kernel" => Ok(Self::Kernel),
            "none" => Ok(Self::None),
            _ => Err(Expected("kernel or none".into())),
        }
    }
}

/// Lines below this level are not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

impl LogLevel {
    pub fn parse(text: &str) -> Result<Self, Expected> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            "fatal" => Ok(Self::Fatal),
            _ => Err(Expected("debug, info, warn, error or fatal".into())),
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Fatal => "fatal",
        })
    }
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTo {
    Stdout,
    Stderr,
    File(PathBuf),
}

impl LogTo {
    /// `stdout` and `stderr` in any case, else a file.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            _ => Self::File(text.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_text() {
        for text in ["127.0.0.1:61679", ":61678", "[::]:61678", "localhost:1", "unix:/var/run/x.sock"] {
            assert_eq!(Listen::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "127.0.0.1", "::1:80", "[::1", "[x]:1", "h:+1", "h:", "h:65536", "unix:", "unix:x", "a b:1"] {
            assert!(Listen::parse(bad).is_err(), "{bad}");
        }
    }
}
