//! Removal of the nftables form of the connmark rules, which another program may have left (spec 04 §11.2).

use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::netlink::Messages;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const AF_INET: u8 = 2;
const TABLE_NAME: &[u8] = b"aws-cni\0";
const SEQUENCE: u32 = 2;

/// A clean-up that is done once: after the first success it is not tried again.
#[derive(Debug, Default)]
pub struct Once {
    done: bool,
}

impl Once {
    /// Runs `clean_up` unless it has succeeded before.
    ///
    /// # Errors
    /// Its error, after which it will be tried again.
    pub fn run<E>(&mut self, clean_up: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if !self.done {
            clean_up()?;
            self.done = true;
        }
        Ok(())
    }
}

/// Deletes table `ip aws-cni`. None, or a kernel without nftables, is fine.
pub(super) fn delete_connmark_table() -> Result<(), Errno> {
    let error = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let socket = match Socket::new(NETLINK_NETFILTER) {
        Err(e) if e.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error()) => return Ok(()),
        other => other.map_err(error)?,
    };
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(2)))?;
    socket.send(&request(), 0).map_err(error)?;
    let mut buffer = Vec::with_capacity(8192);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0).map_err(error)?;
        // The acknowledgement of the deletion, or a refusal of the whole batch under another sequence number.
        let answer = Messages(&buffer).find(|m| m.sequence == SEQUENCE || m.errno().is_some());
        match answer.map(|m| m.errno()) {
            None => {}
            // No such table, or a kernel without nftables.
            Some(None | Some(Errno::NOENT | Errno::OPNOTSUPP | Errno::INVAL)) => return Ok(()),
            Some(Some(errno)) => return Err(errno),
        }
    }
}

fn request() -> Vec<u8> {
    let subsystem = SUBSYSTEM.to_be_bytes();
    let mut name = Vec::from((TABLE_NAME.len() as u16 + 4).to_ne_bytes());
    name.extend(1u16.to_ne_bytes());
    name.extend(TABLE_NAME);
    let mut out = Vec::new();
    message(&mut out, BATCH_BEGIN, 0, 1, &[0, 0, subsystem[0], subsystem[1]]);
    message(&mut out, DELETE_TABLE, NLM_F_ACK, SEQUENCE, &[&[AF_INET, 0, 0, 0], name.as_slice()].concat());
    message(&mut out, BATCH_END, 0, SEQUENCE + 1, &[0, 0, subsystem[0], subsystem[1]]);
    out
}

fn message(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
    out.extend((16 + body.len() as u32).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(4), 0);
}
