//! TCP and unix listeners behind one type.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::config::Listen;

/// A connection of either kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub async fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Unix(path) => bind_unix(path).await.map(Self::Unix),
            Listen::Tcp { host, port } if host.is_empty() => bind_all(*port).await.map(Self::Tcp),
            Listen::Tcp { host, port } => TcpListener::bind((host.as_str(), *port)).await.map(Self::Tcp),
        }
    }

    /// The next connection and where it comes from.
    pub async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Box::new(stream), peer.to_string()))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), "unix".to_owned()))
            }
        }
    }

    #[cfg(test)]
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(listener) => listener.local_addr().unwrap().port(),
            Self::Unix(_) => panic!("a unix socket has no port"),
        }
    }
}

/// All addresses, IPv6 and IPv4; IPv4 alone on a host without IPv6.
async fn bind_all(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        bound => bound,
    }
}

/// Replaces a socket that nobody serves. It comes into being under another name and gets mode 0660 before it is moved
/// into place, so that nobody can reach it earlier.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket"));
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket"));
        }
        _ => {}
    }
    let fresh = PathBuf::from(format!("{}~", path.display()));
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o660))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}
