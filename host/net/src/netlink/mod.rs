//! A synchronous route-netlink socket.
//!
//! The kernel handles a request while it is being sent and queues the answers at once, so several requests travel in
//! one message and usually cost one send and one receive.

pub mod message;
pub mod reply;

use std::io;
use std::thread;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN,
};
use netlink_sys::{Socket as RawSocket, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::writes;
use message::Request;

const HEADER_BYTES: usize = 16;
/// The kernel never answers with more than 32 KiB at once.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Answers are there when the request has been sent; this only keeps a caller from hanging for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a dump that changed under the reader is read (spec 04 §1).
const DUMP_ATTEMPTS: u32 = 5;

/// A socket in the namespace of the thread that opened it, wherever it is used.
#[derive(Debug)]
pub struct Socket {
    raw: RawSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One object from the kernel: the message type and what follows the netlink header.
pub type Object = (u16, Vec<u8>);

impl Socket {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let raw = RawSocket::new(NETLINK_ROUTE)?;
        // Since Linux 4.20: dumps honour filters. Older kernels send everything, and readers filter again.
        let _older_kernel = raw.set_netlink_get_strict_chk(true);
        set_socket_timeout(&raw, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self { raw, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// Sends all requests together and waits for all outcomes, in order. The kernel goes on after a failure.
    ///
    /// An outcome holds the objects the kernel sent back: one for a `GET`, none for a change.
    ///
    /// # Errors
    /// The socket's own, when nothing is known about the outcomes.
    pub fn batch(&mut self, requests: &[Request]) -> Result<Vec<Result<Vec<Object>, Errno>>, Errno> {
        let Some(last) = requests.len().checked_sub(1) else { return Ok(Vec::new()) };
        let first_sequence = self.sequence.wrapping_add(1);
        let mut out = Vec::with_capacity(requests.iter().map(|r| HEADER_BYTES + r.body.len() + 4).sum());
        for (index, request) in requests.iter().enumerate() {
            // Failures are reported in any case: the acknowledgement of the last request completes the batch.
            let ack = if index == last { NLM_F_ACK } else { 0 };
            self.put(&mut out, request, ack);
        }
        let changes = requests.iter().filter(|r| r.is_write()).count();
        writes::count(|w| w.netlink += changes as u64);
        self.send(&out)?;

        let mut outcomes: Vec<Result<Vec<Object>, Errno>> = requests.iter().map(|_| Ok(Vec::new())).collect();
        loop {
            let mut done = false;
            self.receive()?;
            for message in Messages(&self.buffer) {
                let index = message.sequence.wrapping_sub(first_sequence) as usize;
                let Some(outcome) = outcomes.get_mut(index) else { continue };
                match message.kind {
                    NLMSG_ERROR => {
                        if let Some(errno) = message.errno() {
                            *outcome = Err(errno);
                        }
                        done |= index == last;
                    }
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => return Err(Errno::OVERFLOW),
                    kind => {
                        if let Ok(objects) = outcome {
                            objects.push((kind, message.payload.to_vec()));
                        }
                    }
                }
            }
            if done {
                return Ok(outcomes);
            }
        }
    }

    /// Sends one request and waits for its outcome.
    ///
    /// # Errors
    /// The kernel's.
    pub fn call(&mut self, request: Request) -> Result<Vec<Object>, Errno> {
        self.batch(&[request])?.pop().unwrap_or(Err(Errno::IO))
    }

    /// Reads a whole table; again when it changed meanwhile.
    ///
    /// # Errors
    /// The kernel's; `EINTR` when the table changed during every attempt.
    pub fn dump(&mut self, request: &Request) -> Result<Vec<Object>, Errno> {
        retry_dump(|| self.dump_once(request), thread::sleep)
    }

    fn dump_once(&mut self, request: &Request) -> Result<Vec<Object>, Errno> {
        let mut out = Vec::with_capacity(HEADER_BYTES + request.body.len());
        let sequence = self.put(&mut out, request, NLM_F_DUMP);
        self.send(&out)?;
        let mut objects = Vec::new();
        let mut interrupted = false;
        loop {
            self.receive()?;
            for message in Messages(&self.buffer).filter(|m| m.sequence == sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return match message.errno() {
                            Some(errno) => Err(errno),
                            None if interrupted => Err(Errno::INTR),
                            None => Ok(objects),
                        };
                    }
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => return Err(Errno::OVERFLOW),
                    kind => objects.push((kind, message.payload.to_vec())),
                }
            }
        }
    }

    fn put(&mut self, out: &mut Vec<u8>, request: &Request, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER_BYTES + request.body.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&request.kind.to_ne_bytes());
        out.extend_from_slice(&(request.flags | NLM_F_REQUEST | flags).to_ne_bytes());
        out.extend_from_slice(&self.sequence.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&request.body);
        out.resize(out.len().next_multiple_of(4), 0);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match self.raw.send(bytes, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(errno(&error)),
            }
        }
    }

    fn receive(&mut self) -> Result<(), Errno> {
        loop {
            self.buffer.clear();
            match self.raw.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(errno(&error)),
            }
        }
    }
}

/// Repeats a dump that was interrupted: at once, then every 100 ms, five attempts in all (spec 04 §1).
///
/// # Errors
/// That of the last attempt; any error but an interrupted dump (`EINTR`) ends it at once.
pub fn retry_dump<T>(
    mut attempt: impl FnMut() -> Result<T, Errno>,
    mut sleep: impl FnMut(Duration),
) -> Result<T, Errno> {
    let mut failed = 0;
    loop {
        match attempt() {
            Err(Errno::INTR) if failed + 1 < DUMP_ATTEMPTS => {
                failed += 1;
                if failed > 1 {
                    sleep(Duration::from_millis(100));
                }
            }
            outcome => return outcome,
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// One message in a received buffer.
pub(crate) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// Of an error, acknowledgement or end of a dump: the error in it.
    pub(crate) fn errno(&self) -> Option<Errno> {
        let code = i32::from_ne_bytes(*self.payload.first_chunk()?);
        match code {
            0 => None,
            -4095..0 => Some(Errno::from_raw_os_error(-code)),
            // Not the kernel's way of telling an error.
            _ => Some(Errno::BADMSG),
        }
    }
}

/// The messages of a received buffer; ends at the first that is not whole.
pub(crate) struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.0;
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let message = Message {
            kind: u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?),
            flags: u16::from_ne_bytes(*bytes.get(6..)?.first_chunk()?),
            sequence: u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?),
            payload: bytes.get(HEADER_BYTES..length)?,
        };
        self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interrupted_dumps_are_read_again() {
        let run = |mut results: Vec<Result<(), Errno>>| {
            results.reverse();
            let mut attempts = 0;
            let mut waits = Vec::new();
            let outcome = retry_dump(
                || {
                    attempts += 1;
                    results.pop().unwrap_or(Ok(()))
                },
                |wait| waits.push(wait.as_millis()),
            );
            (outcome, attempts, waits)
        };
        assert_eq!(run(vec![Ok(())]), (Ok(()), 1, vec![]));
        assert_eq!(run(vec![Err(Errno::PERM)]), (Err(Errno::PERM), 1, vec![]));
        assert_eq!(run(vec![Err(Errno::INTR); 3]), (Ok(()), 4, vec![100, 100]));
        assert_eq!(run(vec![Err(Errno::INTR); 9]), (Err(Errno::INTR), 5, vec![100, 100, 100]));
    }

    #[test]
    fn truncated_messages_end_the_iteration() {
        let mut bytes = vec![20, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff];
        if cfg!(target_endian = "little") {
            let message = Messages(&bytes).next().unwrap();
            assert_eq!((message.kind, message.sequence, message.errno()), (NLMSG_ERROR, 7, Some(Errno::NOENT)));
        }
        bytes.pop();
        assert!(Messages(&bytes).next().is_none());
        assert!(Messages(&[0; 16]).next().is_none());
    }
}
