//! TCP and UDP between network namespaces, by threads that enter them. Each says which source the other side saw.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long an answer may take. The first packet needs an ARP exchange or two.
const PATIENCE: Duration = Duration::from_secs(3);
/// More than one packet, so that a wrong MTU shows.
const BYTES: usize = 64 << 10;

/// Runs `work` on a thread inside a named network namespace.
///
/// # Errors
/// There is no such namespace, or `work` fails.
pub fn inside<T: Send + 'static>(netns: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    start(netns, work).join().map_err(|_| anyhow!("a thread in a namespace panicked"))?
}

pub(crate) fn start<T: Send + 'static>(
    netns: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> thread::JoinHandle<Result<T>> {
    let netns = netns.to_owned();
    thread::spawn(move || {
        let file = File::open(format!("/var/run/netns/{netns}")).with_context(|| format!("namespace {netns}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    })
}

/// 64 KiB there and back by TCP; the source that the server saw.
///
/// # Errors
/// No connection, no answer, a wrong answer.
pub fn tcp(from: &str, to: &str, address: IpAddr) -> Result<IpAddr> {
    let (sender, port) = mpsc::channel();
    let server = start(to, move || {
        let listener = TcpListener::bind((address, 0)).with_context(|| format!("listening on {address}"))?;
        sender.send(listener.local_addr()?)?;
        listener.set_nonblocking(true)?;
        let until = Instant::now() + PATIENCE;
        let (mut stream, peer) = loop {
            match listener.accept() {
                Ok(accepted) => break accepted,
                Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(_) => bail!("nobody connected to {address}"),
            }
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut content = vec![0; BYTES];
        stream.read_exact(&mut content).context("what the server read")?;
        stream.write_all(&content)?;
        Ok(peer.ip())
    });
    let sent = port.recv().ok().map(|server: SocketAddr| {
        inside(from, move || {
            let mut stream = TcpStream::connect_timeout(&server, PATIENCE).with_context(|| format!("to {server}"))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let content: Vec<u8> = (0..BYTES).map(|n| (n % 251) as u8).collect();
            stream.write_all(&content)?;
            let mut back = vec![0; BYTES];
            stream.read_exact(&mut back).context("what the client read")?;
            if back != content {
                bail!("other bytes came back");
            }
            Ok(())
        })
    });
    let seen = server.join().map_err(|_| anyhow!("the server panicked"))?;
    if let Some(sent) = sent {
        sent.with_context(|| format!("tcp {from} -> {to} {address}"))?;
    }
    seen.with_context(|| format!("tcp {from} -> {to} {address}"))
}

/// One datagram there and one back by UDP; the source that the server saw. `source` binds the client, also to an
/// address that is not its own.
///
/// # Errors
/// Nothing arrives, there or back.
pub fn udp(from: &str, source: Option<IpAddr>, to: &str, address: IpAddr) -> Result<IpAddr> {
    let (sender, port) = mpsc::channel();
    let server = start(to, move || {
        let socket = UdpSocket::bind((address, 0)).with_context(|| format!("listening on {address}"))?;
        sender.send(socket.local_addr()?)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut content = [0; 64];
        let (n, peer) = socket.recv_from(&mut content).context("no datagram arrived")?;
        socket.send_to(&content[..n], peer)?;
        Ok(peer.ip())
    });
    let sent = port.recv().ok().map(|server: SocketAddr| {
        inside(from, move || {
            let any = match address {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let socket = UdpSocket::bind((source.unwrap_or(any), 0)).context("the client's socket")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(b"to and fro", server)?;
            let mut back = [0; 64];
            let (n, _) = socket.recv_from(&mut back).context("no datagram came back")?;
            if &back[..n] != b"to and fro" {
                bail!("another datagram came back");
            }
            Ok(())
        })
    });
    // What the server says is worth more: a client hears nothing either way.
    let seen = server.join().map_err(|_| anyhow!("the server panicked"))?;
    let seen = seen.with_context(|| format!("udp {from} -> {to} {address}"))?;
    if let Some(sent) = sent {
        sent.with_context(|| format!("udp {from} -> {to} {address}"))?;
    }
    Ok(seen)
}

/// Both, which must see the same source.
///
/// # Errors
/// As [`tcp`] and [`udp`].
pub fn both(from: &str, to: &str, address: IpAddr) -> Result<IpAddr> {
    let (by_tcp, by_udp) = (tcp(from, to, address)?, udp(from, None, to, address)?);
    if by_tcp != by_udp {
        bail!("{from} -> {to} {address}: TCP came from {by_tcp}, UDP from {by_udp}");
    }
    Ok(by_tcp)
}
