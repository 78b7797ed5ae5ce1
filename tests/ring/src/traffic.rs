//! TCP and UDP between network namespaces, by threads that enter them. Each says which source the other side saw.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long an answer may take. The first packet needs an ARP exchange or two.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long silence must last to be one: an answer would have come a hundred times. After three seconds the kernel
/// gives up an ARP exchange, and calls unreachable what was silent.
const SILENCE: Duration = Duration::from_secs(2);
/// More than one packet, so that a wrong MTU shows.
const BYTES: usize = 64 << 10;

/// Runs `work` on a thread inside a named network namespace.
///
/// # Errors
/// There is no such namespace, or `work` fails.
pub fn inside<T: Send + 'static>(netns: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    start(netns, work).join().map_err(|_| anyhow!("a thread in a namespace panicked"))?
}

/// The same without waiting for it.
pub fn start<T: Send + 'static>(
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

/// Who talks to whom, in which namespaces.
#[derive(Debug, Clone)]
pub struct Talk {
    from: String,
    source: Option<IpAddr>,
    to: String,
    listen: SocketAddr,
    target: Option<SocketAddr>,
    patience: Duration,
}

/// The client's address as it is, and as the server saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub client: SocketAddr,
    pub peer: SocketAddr,
}

impl Talk {
    /// A client in `from` calls `address`, which is served in `to`.
    #[must_use]
    pub fn new(from: &str, to: &str, address: IpAddr) -> Self {
        let listen = SocketAddr::new(address, 0);
        Self { from: from.to_owned(), source: None, to: to.to_owned(), listen, target: None, patience: PATIENCE }
    }

    /// The client binds this address, also one that is not its own.
    #[must_use]
    pub fn with_source(self, source: IpAddr) -> Self {
        Self { source: Some(source), ..self }
    }

    /// The client calls `target`, which is to lead to this port of the server.
    #[must_use]
    pub fn through(self, target: SocketAddr, port: u16) -> Self {
        Self { listen: SocketAddr::new(self.listen.ip(), port), target: Some(target), ..self }
    }

    /// An answer may take no longer than this: where none is to come, all of it is waited for.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// 64 KiB there and back.
    ///
    /// # Errors
    /// No connection, no answer, a wrong answer.
    pub fn tcp(&self) -> Result<Seen> {
        let (listen, source, patience) = (self.listen, self.source, self.patience);
        let server = move |ready: mpsc::Sender<SocketAddr>| serve_tcp(listen, patience, &ready);
        self.meet("tcp", server, move |target| call_tcp(source, target, patience))
    }

    /// One datagram there and one back.
    ///
    /// # Errors
    /// Nothing arrives, there or back.
    pub fn udp(&self) -> Result<Seen> {
        let (listen, source, patience) = (self.listen, self.source, self.patience);
        let server = move |ready: mpsc::Sender<SocketAddr>| serve_udp(listen, patience, &ready);
        self.meet("udp", server, move |target| call_udp(source, target, patience))
    }

    /// Both, which must be seen with the same address; that.
    ///
    /// # Errors
    /// As [`Talk::tcp`] and [`Talk::udp`].
    pub fn both(&self) -> Result<IpAddr> {
        let (by_tcp, by_udp) = (self.tcp()?.peer.ip(), self.udp()?.peer.ip());
        if by_tcp != by_udp {
            bail!("{self:?}: TCP came from {by_tcp}, UDP from {by_udp}");
        }
        Ok(by_tcp)
    }

    fn meet(
        &self,
        protocol: &str,
        server: impl FnOnce(mpsc::Sender<SocketAddr>) -> Result<SocketAddr> + Send + 'static,
        client: impl FnOnce(SocketAddr) -> Result<SocketAddr> + Send + 'static,
    ) -> Result<Seen> {
        let what = || {
            let through = self.target.map(|t| format!(" through {t}")).unwrap_or_default();
            format!("{protocol} {} -> {} {}{through}", self.from, self.to, self.listen.ip())
        };
        let (ready, listens) = mpsc::channel();
        let server = start(&self.to, move || server(ready));
        let called = listens.recv().ok().map(|at: SocketAddr| {
            let target = self.target.unwrap_or(at);
            inside(&self.from, move || client(target))
        });
        let seen = server.join().map_err(|_| anyhow!("the server panicked"))?;
        // What the server says is worth more where nothing arrived: a client of UDP hears nothing either way.
        match (seen, called) {
            (Ok(peer), Some(client)) => Ok(Seen { client: client.with_context(what)?, peer }),
            (Err(server), Some(Err(client))) => Err(server.context(format!("the client: {client:#}")).context(what())),
            (Err(server), _) => Err(server.context(what())),
            (Ok(_), None) => Err(anyhow!("the server was not ready").context(what())),
        }
    }
}

/// Whoever starts a program, on any thread, has copies of all sockets until that runs: the socket of the conversation before
/// may have the port for a moment after it was closed.
fn listening<T>(listen: SocketAddr, patience: Duration, bind: impl Fn() -> std::io::Result<T>) -> Result<T> {
    let until = Instant::now() + patience;
    loop {
        match bind() {
            Err(e) if e.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            bound => return bound.with_context(|| format!("listening on {listen}")),
        }
    }
}

fn serve_tcp(listen: SocketAddr, patience: Duration, ready: &mpsc::Sender<SocketAddr>) -> Result<SocketAddr> {
    let listener = listening(listen, patience, || TcpListener::bind(listen))?;
    ready.send(listener.local_addr()?)?;
    listener.set_nonblocking(true)?;
    let until = Instant::now() + patience;
    let (mut stream, peer) = loop {
        match listener.accept() {
            Ok(accepted) => break accepted,
            Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(_) => bail!("nobody connected to {listen}"),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut content = vec![0; BYTES];
    stream.read_exact(&mut content).context("what the server read")?;
    stream.write_all(&content)?;
    Ok(peer)
}

fn call_tcp(source: Option<IpAddr>, target: SocketAddr, patience: Duration) -> Result<SocketAddr> {
    let mut stream = dial(source, target, patience).with_context(|| format!("to {target}"))?;
    stream.set_read_timeout(Some(patience))?;
    let content: Vec<u8> = (0..BYTES).map(|n| (n % 251) as u8).collect();
    stream.write_all(&content)?;
    let mut back = vec![0; BYTES];
    stream.read_exact(&mut back).context("what the client read")?;
    if back != content {
        bail!("other bytes came back");
    }
    Ok(stream.local_addr()?)
}

/// A connection from an address of one's choice.
fn dial(source: Option<IpAddr>, target: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect_timeout(&target, patience) };
    let family = if source.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None)?;
    // It bounds connect as well.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    bind(&socket, &SocketAddr::new(source, 0))?;
    connect(&socket, &target)?;
    Ok(TcpStream::from(socket))
}

fn serve_udp(listen: SocketAddr, patience: Duration, ready: &mpsc::Sender<SocketAddr>) -> Result<SocketAddr> {
    let socket = listening(listen, patience, || UdpSocket::bind(listen))?;
    ready.send(socket.local_addr()?)?;
    socket.set_read_timeout(Some(patience))?;
    let mut content = [0; 64];
    let (n, peer) = socket.recv_from(&mut content).context("no datagram arrived")?;
    socket.send_to(&content[..n], peer)?;
    Ok(peer)
}

fn call_udp(source: Option<IpAddr>, target: SocketAddr, patience: Duration) -> Result<SocketAddr> {
    let socket = UdpSocket::bind((source.unwrap_or_else(|| any(target)), 0)).context("the client's socket")?;
    socket.set_read_timeout(Some(patience))?;
    // Answers of others are none: a datagram must come back from where it was sent to.
    socket.connect(target)?;
    socket.send(b"to and fro")?;
    let mut back = [0; 64];
    let n = socket.recv(&mut back).context("no datagram came back")?;
    if &back[..n] != b"to and fro" {
        bail!("another datagram came back");
    }
    Ok(socket.local_addr()?)
}

fn any(target: SocketAddr) -> IpAddr {
    match target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// 64 KiB there and back by TCP; the source that the server saw.
///
/// # Errors
/// No connection, no answer, a wrong answer.
pub fn tcp(from: &str, to: &str, address: IpAddr) -> Result<IpAddr> {
    Ok(Talk::new(from, to, address).tcp()?.peer.ip())
}

/// One datagram there and one back by UDP; the source that the server saw. `source` binds the client, also to an
/// address that is not its own.
///
/// # Errors
/// Nothing arrives, there or back.
pub fn udp(from: &str, source: Option<IpAddr>, to: &str, address: IpAddr) -> Result<IpAddr> {
    let talk = Talk::new(from, to, address);
    let talk = source.into_iter().fold(talk, Talk::with_source);
    Ok(talk.udp()?.peer.ip())
}

/// Both, which must see the same source.
///
/// # Errors
/// As [`tcp`] and [`udp`].
pub fn both(from: &str, to: &str, address: IpAddr) -> Result<IpAddr> {
    Talk::new(from, to, address).both()
}

/// What comes back from where nobody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nobody {
    /// Somebody is there and says no: a reset, or ICMP "port unreachable".
    Refuses,
    /// Nothing: the packets were lost.
    IsSilent,
    /// A router, or the own kernel, knows no way.
    Unreachable,
}

/// Calls `target`, where nobody listens, by TCP and by UDP at one time; both must have the same answer.
///
/// # Errors
/// Somebody does listen, TCP and UDP differ, or there is no such namespace.
pub fn nobody(from: &str, target: SocketAddr) -> Result<Nobody> {
    let by_udp = start(from, move || {
        let socket = UdpSocket::bind((any(target), 0))?;
        socket.set_read_timeout(Some(SILENCE))?;
        let answer = socket.connect(target).and_then(|()| socket.send(b"anybody?")).and_then(|_| socket.recv(&mut [0]));
        match answer {
            Ok(_) => bail!("udp to {target}: somebody answers"),
            Err(error) => verdict(&error).with_context(|| format!("udp to {target}")),
        }
    });
    let by_tcp = inside(from, move || match dial(None, target, SILENCE) {
        Ok(_) => bail!("tcp to {target}: somebody listens"),
        Err(error) => verdict(&error).with_context(|| format!("tcp to {target}")),
    });
    let by_udp = by_udp.join().map_err(|_| anyhow!("a thread in a namespace panicked"))??;
    let by_tcp = by_tcp?;
    if by_tcp != by_udp {
        bail!("{target}: TCP {by_tcp:?}, UDP {by_udp:?}");
    }
    Ok(by_tcp)
}

fn verdict(error: &std::io::Error) -> Result<Nobody> {
    match error.kind() {
        ErrorKind::ConnectionRefused => Ok(Nobody::Refuses),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Nobody::IsSilent),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Ok(Nobody::Unreachable),
        _ => bail!("{error}"),
    }
}
