//! The host's interfaces, and news of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, TokioSocket, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::error::Error;
use crate::kernel::Kernel;
use crate::mac::MacAddr;
use crate::netlink::Messages;
use crate::netlink::message::{RTM_DELLINK, RTM_NEWLINK};
use crate::netlink::reply::{self, LinkInfo};
use crate::plan::Side;

const RTNLGRP_LINK: u32 = 1;
const RECEIVE_BYTES: usize = 64 * 1024;

/// How long an interface may take to appear: five looks, 3 s apart, in the reference (spec 04 §1).
pub const APPEARANCE: Duration = Duration::from_secs(12);

/// All interfaces of the calling thread's namespace.
///
/// # Errors
/// The kernel's.
pub fn list() -> Result<Vec<LinkInfo>, Error> {
    Kernel::host()?.links(Side::Host)
}

/// The interface with this MAC address.
///
/// # Errors
/// [`Error::LinkNotFound`].
pub fn find(links: &[LinkInfo], mac: MacAddr) -> Result<LinkInfo, Error> {
    links.iter().find(|l| l.mac == Some(mac)).cloned().ok_or_else(|| not_found(mac))
}

fn not_found(mac: MacAddr) -> Error {
    Error::LinkNotFound { key: format!("MAC address {mac}") }
}

/// Waits until an interface with this MAC address exists: it is told by the kernel, not asked again and again.
///
/// # Errors
/// [`Error::LinkNotFound`] after `patience`; otherwise the kernel's.
pub fn wait_for_mac(mac: MacAddr, patience: Duration) -> Result<LinkInfo, Error> {
    let deadline = Instant::now() + patience;
    // Subscribed before the list is read, so that nothing falls in between.
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(|e| news_error(&e))?;
    subscribe(&mut socket).map_err(|e| news_error(&e))?;
    let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
    let mut kernel = Kernel::host()?;
    loop {
        if let Ok(link) = find(&kernel.links(Side::Host)?, mac) {
            return Ok(link);
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(not_found(mac));
            }
            let timed = set_socket_timeout(&socket, Timeout::Recv, Some(left.max(Duration::from_millis(1))));
            timed.map_err(|errno| Error::from_kernel("link monitor".to_owned(), errno))?;
            buffer.clear();
            match socket.recv(&mut buffer, 0) {
                Ok(_) if events(&buffer).any(|e| matches!(e, LinkEvent::Present(l) if l.mac == Some(mac))) => break,
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => break,
                Err(error) if is_retry(&error) => {}
                Err(error) => return Err(news_error(&error)),
            }
        }
    }
}

/// What happened to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// It appeared or changed.
    Present(LinkInfo),
    /// It is gone.
    Removed(LinkInfo),
    /// Events were lost: list the interfaces again.
    Overrun,
}

/// A stream of [`LinkEvent`]s of the namespace it was made in.
pub struct LinkWatcher {
    socket: TokioSocket,
    pending: VecDeque<LinkEvent>,
}

impl std::fmt::Debug for LinkWatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkWatcher").field("pending", &self.pending).finish_non_exhaustive()
    }
}

/// Starts watching; list the interfaces afterwards, and nothing is missed. Needs a tokio runtime.
///
/// # Errors
/// The kernel's.
pub fn watch() -> Result<LinkWatcher, Error> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(|e| news_error(&e))?;
    subscribe(socket.socket_mut()).map_err(|e| news_error(&e))?;
    Ok(LinkWatcher { socket, pending: VecDeque::new() })
}

impl LinkWatcher {
    /// The next event. May be dropped and called again without losing one.
    ///
    /// # Errors
    /// The kernel's, after which the watcher is of no more use.
    pub async fn next(&mut self) -> Result<LinkEvent, Error> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
            match self.socket.recv(&mut buffer).await {
                Ok(()) => self.pending.extend(events(&buffer)),
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    return Ok(LinkEvent::Overrun);
                }
                Err(error) if is_retry(&error) => {}
                Err(error) => return Err(news_error(&error)),
            }
        }
    }
}

fn subscribe(socket: &mut Socket) -> std::io::Result<()> {
    socket.bind_auto()?;
    socket.add_membership(RTNLGRP_LINK)
}

fn events(buffer: &[u8]) -> impl Iterator<Item = LinkEvent> + '_ {
    Messages(buffer).filter_map(|message| {
        let link = reply::link(message.payload)?;
        match message.kind {
            RTM_NEWLINK => Some(LinkEvent::Present(link)),
            RTM_DELLINK => Some(LinkEvent::Removed(link)),
            _ => None,
        }
    })
}

fn is_retry(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock)
}

fn news_error(error: &std::io::Error) -> Error {
    Error::from_kernel("link monitor".to_owned(), Errno::from_io_error(error).unwrap_or(Errno::IO))
}
