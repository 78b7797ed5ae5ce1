//! News of the host's network from the kernel: links, addresses, routes and rules that come, change or go.
//!
//! Changes of iptables and nftables are not among them. The first give no news; the second tell every change of
//! everybody's rules, and the next thing to do would be to read all of them: a timer does that as well.

use std::collections::VecDeque;
use std::fmt;

use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, TokioSocket, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use crate::error::Error;
use crate::netlink::Messages;
use crate::netlink::message::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_DELRULE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTM_NEWRULE,
};
use crate::netlink::reply::{self, AddressInfo, LinkInfo, RouteInfo};
use crate::rule::{Family, Rule};

const GROUP_LINK: u32 = 1;
/// Addresses, routes and rules.
const GROUPS_V4: [u32; 3] = [5, 7, 8];
const GROUPS_V6: [u32; 3] = [9, 11, 19];

/// The kernel never sends more at once.
const RECEIVE_BYTES: usize = 64 * 1024;
/// What may be under way to a reader who is busy: some thousand changes.
const BACKLOG_BYTES: usize = 4 * 1024 * 1024;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    Link {
        link: LinkInfo,
        gone: bool,
    },
    Address {
        address: AddressInfo,
        gone: bool,
    },
    Route {
        route: RouteInfo,
        gone: bool,
    },
    Rule {
        rule: Rule,
        gone: bool,
    },
    /// The reader was too slow and news were lost: anything may have changed.
    Overrun,
}

/// A stream of [`News`] of the namespace it was made in.
pub struct Watcher {
    socket: TokioSocket,
    pending: VecDeque<News>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("pending", &self.pending).finish_non_exhaustive()
    }
}

/// Starts watching links, and what there is of these families; look at the host afterwards, and nothing is missed. Needs
/// a tokio runtime.
///
/// # Errors
/// The kernel's.
pub fn watch(families: &[Family]) -> Result<Watcher, Error> {
    watch_with_backlog(families, BACKLOG_BYTES)
}

/// The same, with so many bytes of news that the kernel keeps for a reader who is busy.
///
/// # Errors
/// As [`watch`].
pub fn watch_with_backlog(families: &[Family], backlog: usize) -> Result<Watcher, Error> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(|e| news_error(&e))?;
    subscribe(socket.socket_mut(), families, backlog).map_err(|e| news_error(&e))?;
    Ok(Watcher { socket, pending: VecDeque::new() })
}

fn subscribe(socket: &mut Socket, families: &[Family], backlog: usize) -> std::io::Result<()> {
    // Beyond the system's limit where we may; the kernel says no to who may not.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&*socket, backlog).is_err() {
        socket.set_rx_buf_sz(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    }
    socket.bind_auto()?;
    socket.add_membership(GROUP_LINK)?;
    for family in families {
        let groups = match family {
            Family::V4 => GROUPS_V4,
            Family::V6 => GROUPS_V6,
        };
        groups.into_iter().try_for_each(|group| socket.add_membership(group))?;
    }
    Ok(())
}

impl Watcher {
    /// The next change. May be dropped and called again without losing one.
    ///
    /// # Errors
    /// The kernel's, after which the watcher is of no more use.
    pub async fn next(&mut self) -> Result<News, Error> {
        loop {
            if let Some(news) = self.pending.pop_front() {
                return Ok(news);
            }
            let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
            match self.socket.recv(&mut buffer).await {
                Ok(()) => self.pending.extend(read(&buffer)),
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => return Ok(News::Overrun),
                Err(error) if is_retry(&error) => {}
                Err(error) => return Err(news_error(&error)),
            }
        }
    }
}

/// The changes in a received buffer; what is not understood is skipped.
fn read(buffer: &[u8]) -> impl Iterator<Item = News> + '_ {
    Messages(buffer).filter_map(|message| {
        let (kind, payload) = (message.kind, message.payload);
        match kind {
            RTM_NEWLINK | RTM_DELLINK => {
                reply::link(payload).map(|link| News::Link { link, gone: kind == RTM_DELLINK })
            }
            RTM_NEWADDR | RTM_DELADDR => {
                reply::address(payload).map(|address| News::Address { address, gone: kind == RTM_DELADDR })
            }
            RTM_NEWROUTE | RTM_DELROUTE => {
                reply::route(payload).map(|route| News::Route { route, gone: kind == RTM_DELROUTE })
            }
            RTM_NEWRULE | RTM_DELRULE => {
                reply::rule(payload).map(|rule| News::Rule { rule, gone: kind == RTM_DELRULE })
            }
            _ => None,
        }
    })
}

fn is_retry(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock)
}

fn news_error(error: &std::io::Error) -> Error {
    Error::from_kernel("news of the host's network".to_owned(), Errno::from_io_error(error).unwrap_or(Errno::IO))
}
