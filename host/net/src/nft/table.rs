//! A table as the kernel has it, and changes of it, taken as a whole or not at all.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
};
use netlink_sys::{Socket as RawSocket, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::attr::{self, Writer};
use super::expr::Expr;
use crate::netlink::{Message, Messages};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const BATCH_GENERATION: u16 = 1;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const NEW_GENERATION: u16 = 15;
const GET_GENERATION: u16 = 16;
const FAMILY_IPV4: u8 = 2;
/// Length of `nlmsghdr`, and of `nfgenmsg` behind it.
const HEADER_BYTES: usize = 16;
const GENERIC_BYTES: usize = 4;
const RECEIVE_BYTES: usize = 64 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often something is read again that changed while it was being read.
const ATTEMPTS: u32 = 10;

/// A table of the `ip` family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    pub chains: Vec<Chain>,
}

/// A chain and its rules, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    /// Where packets come into it; none for one that is jumped to.
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

/// How a chain is hooked into the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `nat`, `filter`, `route`.
    pub kind: String,
    /// 0 is prerouting.
    pub hook: u32,
    pub priority: i32,
    /// 1 is accept.
    pub policy: u32,
}

/// A rule and the kernel's number for it: later ones have higher numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub handle: u64,
    pub exprs: Vec<Expr>,
}

/// One change of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    AddTable,
    /// With all that is in it.
    DeleteTable,
    AddChain {
        chain: String,
        base: Option<Base>,
    },
    Flush {
        chain: String,
    },
    DeleteChain {
        chain: String,
    },
    DeleteRule {
        chain: String,
        handle: u64,
    },
    /// At the head of the chain.
    Insert {
        chain: String,
        exprs: Vec<Expr>,
    },
    Append {
        chain: String,
        exprs: Vec<Expr>,
    },
}

impl Table {
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|c| c.name == name)
    }

    fn rules_of(&mut self, name: &str) -> Option<&mut Vec<Rule>> {
        self.chains.iter_mut().find(|c| c.name == name).map(|c| &mut c.rules)
    }
}

/// What a table is after edits; `None` is no table. New rules get the next higher numbers.
pub fn apply(table: &mut Option<Table>, edits: &[Edit]) {
    let mut next = table.iter().flat_map(|t| &t.chains).flat_map(|c| &c.rules).map(|r| r.handle).max().unwrap_or(0) + 1;
    for edit in edits {
        if *edit == Edit::DeleteTable {
            *table = None;
            continue;
        }
        let content = table.get_or_insert_default();
        match edit {
            Edit::AddTable | Edit::DeleteTable => {}
            Edit::AddChain { chain, base } => {
                content.chains.push(Chain { name: chain.clone(), base: base.clone(), rules: Vec::new() });
            }
            Edit::Flush { chain } => content.rules_of(chain).into_iter().for_each(Vec::clear),
            Edit::DeleteChain { chain } => content.chains.retain(|c| c.name != *chain),
            Edit::DeleteRule { chain, handle } => {
                content.rules_of(chain).into_iter().for_each(|rules| rules.retain(|r| r.handle != *handle));
            }
            Edit::Insert { chain, exprs } | Edit::Append { chain, exprs } => {
                let Some(rules) = content.rules_of(chain) else { continue };
                let at = if matches!(edit, Edit::Insert { .. }) { 0 } else { rules.len() };
                rules.insert(at, Rule { handle: next, exprs: exprs.clone() });
                next += 1;
            }
        }
    }
}

/// The kernel's nftables, of the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Nftables {
    raw: RawSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Counts the changes of the kernel's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u32);

impl Nftables {
    /// # Errors
    /// The kernel's; `EPROTONOSUPPORT` where it has no netfilter at all.
    pub fn open() -> Result<Self, Errno> {
        let raw = RawSocket::new(NETLINK_NETFILTER).map_err(|e| errno(&e))?;
        set_socket_timeout(&raw, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self { raw, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// The table `ip <name>`, and the generation it belongs to.
    ///
    /// # Errors
    /// The kernel's; `EINTR` if the rules of the host never stood still.
    pub fn read(&mut self, name: &str) -> Result<(Option<Table>, Generation), Errno> {
        for _ in 0..ATTEMPTS {
            let before = self.generation()?;
            let table = match self.read_once(name) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            if self.generation()? == before {
                return Ok((table, before));
            }
        }
        Err(Errno::INTR)
    }

    fn read_once(&mut self, name: &str) -> Result<Option<Table>, Errno> {
        let is_ours = |attributes: &[u8]| attr::find(attributes, 1).map(attr::text).as_deref() == Some(name);
        let tables = self.dump(GET_TABLE, &Writer::default())?;
        if !tables.iter().any(|t| is_ours(t)) {
            return Ok(None);
        }
        let mut table = Table::default();
        for chain in self.dump(GET_CHAIN, &Writer::default())?.iter().filter(|c| is_ours(c)) {
            table.chains.push(Chain {
                name: attr::find(chain, 3).map(attr::text).unwrap_or_default(),
                base: base(chain),
                rules: Vec::new(),
            });
        }
        let mut filter = Writer::default();
        filter.text(1, name);
        for rule in self.dump(GET_RULE, &filter)?.iter().filter(|r| is_ours(r)) {
            let chain = attr::find(rule, 2).map(attr::text).unwrap_or_default();
            let Some(chain) = table.chains.iter_mut().find(|c| c.name == chain) else { return Err(Errno::INTR) };
            let list = attr::find(rule, 4).unwrap_or_default();
            let exprs = attr::each(list).map(|(_, element)| Expr::read(element)).collect();
            let handle = attr::find(rule, 3).and_then(attr::handle).unwrap_or_default();
            chain.rules.push(Rule { handle, exprs });
        }
        Ok(Some(table))
    }

    /// Carries edits of table `ip <name>` out, all together, if nothing has changed since `generation`.
    ///
    /// # Errors
    /// The kernel's, after which nothing is changed; `ERESTART` if somebody was faster.
    pub fn commit(&mut self, name: &str, edits: &[Edit], generation: Option<Generation>) -> Result<(), Errno> {
        let mut out = Vec::new();
        let first = self.sequence.wrapping_add(1);
        let mut begin = Writer::default();
        if let Some(Generation(number)) = generation {
            begin.number(BATCH_GENERATION, number);
        }
        self.put(&mut out, BATCH_BEGIN, 0, 0, SUBSYSTEM, &begin);
        for (index, edit) in edits.iter().enumerate() {
            let (kind, flags, attributes) = message(name, edit);
            let ack = if index + 1 == edits.len() { NLM_F_ACK } else { 0 };
            self.put(&mut out, SUBSYSTEM << 8 | kind, flags | ack, FAMILY_IPV4, 0, &attributes);
        }
        let last = self.sequence;
        self.put(&mut out, BATCH_END, 0, 0, SUBSYSTEM, &Writer::default());
        crate::writes::count(|w| w.firewall += 1);
        self.raw.send(&out, 0).map_err(|e| errno(&e))?;
        let mut failure = None;
        loop {
            self.receive()?;
            for answer in Messages(&self.buffer).filter(|m| m.kind == NLMSG_ERROR) {
                if answer.sequence.wrapping_sub(first) > last.wrapping_sub(first) {
                    continue;
                }
                failure = failure.or(answer.errno());
                // Each failure is told, then the outcome of the last; or that of the whole under the first number.
                if answer.sequence == last || answer.sequence == first {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    fn generation(&mut self) -> Result<Generation, Errno> {
        let mut out = Vec::new();
        let sequence = self.put(&mut out, SUBSYSTEM << 8 | GET_GENERATION, 0, 0, 0, &Writer::default());
        self.raw.send(&out, 0).map_err(|e| errno(&e))?;
        loop {
            self.receive()?;
            for answer in Messages(&self.buffer).filter(|m| m.sequence == sequence) {
                if answer.kind == NLMSG_ERROR
                    && let Some(errno) = answer.errno()
                {
                    return Err(errno);
                }
                if answer.kind == SUBSYSTEM << 8 | NEW_GENERATION {
                    let number = answer.payload.get(GENERIC_BYTES..).and_then(|a| attr::find(a, 1));
                    return number.and_then(attr::number).map(Generation).ok_or(Errno::BADMSG);
                }
            }
        }
    }

    /// The attributes of every object.
    fn dump(&mut self, kind: u16, filter: &Writer) -> Result<Vec<Vec<u8>>, Errno> {
        let mut out = Vec::new();
        let sequence = self.put(&mut out, SUBSYSTEM << 8 | kind, NLM_F_DUMP, FAMILY_IPV4, 0, filter);
        self.raw.send(&out, 0).map_err(|e| errno(&e))?;
        let mut objects = Vec::new();
        let mut interrupted = false;
        loop {
            self.receive()?;
            for Message { kind, flags, payload, sequence: number } in Messages(&self.buffer) {
                if number != sequence {
                    continue;
                }
                interrupted |= flags & NLM_F_DUMP_INTR != 0;
                if kind == NLMSG_DONE || kind == NLMSG_ERROR {
                    let answer = Message { kind, flags, payload, sequence: number };
                    return match answer.errno() {
                        Some(errno) => Err(errno),
                        None if interrupted => Err(Errno::INTR),
                        None => Ok(objects),
                    };
                }
                objects.push(payload.get(GENERIC_BYTES..).unwrap_or_default().to_vec());
            }
        }
    }

    fn put(&mut self, out: &mut Vec<u8>, kind: u16, flags: u16, family: u8, resource: u16, body: &Writer) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER_BYTES + GENERIC_BYTES + body.0.len();
        out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        out.extend(self.sequence.to_ne_bytes());
        out.extend(0u32.to_ne_bytes());
        out.extend([family, 0]);
        out.extend(resource.to_be_bytes());
        out.extend(&body.0);
        self.sequence
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

fn base(chain: &[u8]) -> Option<Base> {
    let hook = attr::find(chain, 4)?;
    let number = |attributes, kind| attr::find(attributes, kind).and_then(attr::number);
    Some(Base {
        kind: attr::find(chain, 7).map(attr::text).unwrap_or_default(),
        hook: number(hook, 1)?,
        priority: number(hook, 2)?.cast_signed(),
        policy: number(chain, 5).unwrap_or(1),
    })
}

fn message(table: &str, edit: &Edit) -> (u16, u16, Writer) {
    let mut out = Writer::default();
    out.text(1, table);
    let (kind, flags) = match edit {
        Edit::AddTable => (NEW_TABLE, NLM_F_CREATE),
        Edit::DeleteTable => (DELETE_TABLE, 0),
        Edit::AddChain { chain, base } => {
            out.text(3, chain);
            if let Some(Base { kind, hook, priority, policy }) = base {
                out.nest(4, |nested| {
                    nested.number(1, *hook);
                    nested.number(2, priority.cast_unsigned());
                });
                out.number(5, *policy);
                out.text(7, kind);
            }
            (NEW_CHAIN, NLM_F_CREATE)
        }
        Edit::Flush { chain } => {
            out.text(2, chain);
            (DELETE_RULE, 0)
        }
        Edit::DeleteChain { chain } => {
            out.text(3, chain);
            (DELETE_CHAIN, 0)
        }
        Edit::DeleteRule { chain, handle } => {
            out.text(2, chain);
            out.handle(3, *handle);
            (DELETE_RULE, 0)
        }
        Edit::Insert { chain, exprs } | Edit::Append { chain, exprs } => {
            out.text(2, chain);
            out.nest(4, |list| exprs.iter().for_each(|expr| expr.write(list)));
            let append = if matches!(edit, Edit::Append { .. }) { NLM_F_APPEND } else { 0 };
            (NEW_RULE, NLM_F_CREATE | append)
        }
    };
    (kind, flags, out)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
