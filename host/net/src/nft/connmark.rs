//! The connmark rules as a table of nftables (spec 04 §11.3).
//!
//! Rules are recognised by their expressions, so that a second run finds nothing to do; whatever else is in the table
//! goes. The table is changed in one transaction: new connections are marked at every moment.

use std::net::Ipv4Addr;

use reservoir_core::ip::Ipv4Net;
use rustix::io::Errno;

use super::expr::{
    Access, CMP_EQ, CT_MARK, Expr, FIB_ADDRTYPE, FIB_DADDR, META_IIFNAME, META_MARK, NETWORK_HEADER, Verdict,
};
use super::table::{Base, Chain, Edit, Nftables, Rule, Table};
use crate::error::Error;

/// Name of the table, of family `ip`.
pub const TABLE: &str = "aws-cni";
/// The chain that new connections come through.
pub const BASE_CHAIN: &str = "nat-prerouting";
/// The chain that decides what is marked.
pub const MARK_CHAIN: &str = "snat-mark";

/// After kube-proxy's destination NAT at -100.
const PRIORITY: i32 = -90;
const HOOK_PREROUTING: u32 = 0;
const POLICY_ACCEPT: u32 = 1;
const REGISTER: u32 = 1;
const RTN_LOCAL: u32 = 2;
/// Where the destination stands in an IPv4 header.
const DESTINATION_OFFSET: u32 = 16;
const WORD: u32 = 4;
/// How often it is tried when others change the host's rules at the same time.
const ATTEMPTS: u32 = 10;

/// What the rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connmark {
    /// Mark and mask.
    pub mark: u32,
    /// Of the host ends of pods' interfaces, not empty.
    pub veth_prefix: String,
    /// What is not marked: VPC CIDRs and excluded ones, not empty.
    pub exempt: Vec<Ipv4Net>,
}

/// What a rule of ours is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Destinations that are the node itself are left alone, among them the virtual addresses of IPVS.
    Local,
    /// Packets of pods go to [`MARK_CHAIN`].
    Jump,
    /// The packet gets the mark of its connection.
    Restore,
    /// The connection gets the mark.
    SetMark,
    /// A destination that is not marked.
    Exempt(Ipv4Net),
}

impl Connmark {
    /// The expressions of a rule.
    #[must_use]
    pub fn rule(&self, kind: Kind) -> Vec<Expr> {
        let verdict = Expr::Verdict;
        let load_mark = Expr::Ct { key: CT_MARK, access: Access::Load(REGISTER) };
        match kind {
            Kind::Local => vec![
                Expr::Fib { register: REGISTER, flags: FIB_DADDR, result: FIB_ADDRTYPE },
                equals(&RTN_LOCAL.to_ne_bytes()),
                verdict(Verdict::Return),
            ],
            // As many bytes as the prefix has, without the NUL at a name's end: a comparison of the beginning.
            Kind::Jump => vec![
                Expr::Meta { key: META_IIFNAME, access: Access::Load(REGISTER) },
                equals(self.veth_prefix.as_bytes()),
                Expr::Counter,
                verdict(Verdict::Jump(MARK_CHAIN.to_owned())),
            ],
            Kind::Restore => vec![
                Expr::Counter,
                load_mark,
                bitwise(&self.mark.to_ne_bytes(), &[0; 4]),
                Expr::Meta { key: META_MARK, access: Access::Store(REGISTER) },
            ],
            Kind::SetMark => vec![
                Expr::Counter,
                load_mark,
                bitwise(&(!self.mark).to_ne_bytes(), &self.mark.to_ne_bytes()),
                Expr::Ct { key: CT_MARK, access: Access::Store(REGISTER) },
            ],
            Kind::Exempt(cidr) => vec![
                Expr::Counter,
                Expr::Payload { register: REGISTER, base: NETWORK_HEADER, offset: DESTINATION_OFFSET, length: WORD },
                bitwise(&netmask(cidr).to_be_bytes(), &[0; 4]),
                equals(&cidr.network().octets()),
                verdict(Verdict::Return),
            ],
        }
    }

    /// Whether a rule does what `kind` is for; further expressions do not matter.
    #[must_use]
    pub fn recognises(&self, kind: Kind, exprs: &[Expr]) -> bool {
        self.rule(kind).iter().all(|wanted| exprs.iter().any(|found| same(wanted, found)))
    }

    /// The edits from what is there to what should be; none if all is right.
    ///
    /// # Errors
    /// [`Error::Invalid`] if everything would be marked, or no mark or prefix is given.
    pub fn plan(&self, table: Option<&Table>) -> Result<Vec<Edit>, Error> {
        if self.exempt.is_empty() {
            return Err(Error::Invalid("exemptCIDRs cannot be empty".to_owned()));
        }
        if self.veth_prefix.is_empty() || self.mark == 0 {
            return Err(Error::Invalid(format!(
                "connmark rules need a veth prefix and a mark, but have {:?} and {}",
                self.veth_prefix, self.mark
            )));
        }
        let mut edits = Vec::new();
        if table.is_none() {
            edits.push(Edit::AddTable);
        }
        let (base, marking) = (table.and_then(|t| t.chain(BASE_CHAIN)), table.and_then(|t| t.chain(MARK_CHAIN)));
        // A chain that is hooked in somewhere is not one to jump to, and goes only after the jump.
        let marking_stays = marking.is_some_and(|c| c.base.is_none());
        let base_stays = base.is_some_and(is_up_to_date) && (marking_stays || marking.is_none());
        for (chain, stays) in [(base, base_stays), (marking, marking_stays)] {
            if let Some(Chain { name: chain, .. }) = chain.filter(|_| !stays) {
                edits.push(Edit::Flush { chain: chain.clone() });
                edits.push(Edit::DeleteChain { chain: chain.clone() });
            }
        }
        if !base_stays {
            edits.push(Edit::AddChain { chain: BASE_CHAIN.to_owned(), base: Some(wanted_base()) });
        }
        if !marking_stays {
            edits.push(Edit::AddChain { chain: MARK_CHAIN.to_owned(), base: None });
        }
        edits.extend(self.plan_base(base.filter(|_| base_stays).map_or(&[], |c| c.rules.as_slice())));
        edits.extend(self.plan_marking(marking.filter(|_| marking_stays).map_or(&[], |c| c.rules.as_slice())));
        Ok(edits)
    }

    /// The base chain: one rule of each kind, in this order.
    #[must_use]
    pub fn plan_base(&self, rules: &[Rule]) -> Vec<Edit> {
        let chain = || BASE_CHAIN.to_owned();
        let kinds = [Kind::Local, Kind::Jump, Kind::Restore];
        let found = kinds.map(|kind| rules.iter().position(|r| self.recognises(kind, &r.exprs)));
        if let [Some(local), Some(jump), Some(restore)] = found {
            let handles = [local, jump, restore].map(|at| rules[at].handle);
            if local < jump && jump < restore && handles.is_sorted() {
                let stale = rules.iter().filter(|r| !handles.contains(&r.handle));
                return stale.map(|r| Edit::DeleteRule { chain: chain(), handle: r.handle }).collect();
            }
        }
        let flush = (!rules.is_empty()).then(|| Edit::Flush { chain: chain() });
        let write = kinds.map(|kind| Edit::Append { chain: chain(), exprs: self.rule(kind) });
        flush.into_iter().chain(write).collect()
    }

    /// The chain that marks: exempt destinations in any order, then the mark.
    #[must_use]
    pub fn plan_marking(&self, rules: &[Rule]) -> Vec<Edit> {
        let chain = || MARK_CHAIN.to_owned();
        let mut edits = Vec::new();
        let mut kept: Vec<Ipv4Net> = Vec::new();
        let set_mark = rules.iter().rposition(|r| self.recognises(Kind::SetMark, &r.exprs));
        for (at, rule) in rules.iter().enumerate() {
            // What comes after the mark has no effect.
            let is_before = set_mark.is_none_or(|last| at < last);
            let exempt = extract_cidr(&rule.exprs).filter(|c| self.exempt.contains(c) && !kept.contains(c));
            match exempt {
                Some(cidr) if is_before => kept.push(cidr),
                _ if set_mark == Some(at) => {}
                _ => edits.push(Edit::DeleteRule { chain: chain(), handle: rule.handle }),
            }
        }
        for &cidr in &self.exempt {
            if !kept.contains(&cidr) {
                kept.push(cidr);
                edits.push(Edit::Insert { chain: chain(), exprs: self.rule(Kind::Exempt(cidr)) });
            }
        }
        if set_mark.is_none() {
            edits.push(Edit::Append { chain: chain(), exprs: self.rule(Kind::SetMark) });
        }
        edits
    }

    /// Adds what is newly exempt to a table that is there, and changes nothing else: the first half of a change after
    /// which less is marked. Returns how many changes that took.
    ///
    /// # Errors
    /// As [`Connmark::set_up`].
    pub fn exempt_more(&self) -> Result<usize, Error> {
        change("changing nftables table ip aws-cni", |table| {
            let has_chain = table.is_some_and(|t| t.chain(MARK_CHAIN).is_some_and(|c| c.base.is_none()));
            let edits = if has_chain { self.plan(table)? } else { Vec::new() };
            let is_exemption = |edit: &Edit| matches!(edit, Edit::Insert { chain, .. } if chain == MARK_CHAIN);
            Ok(edits.into_iter().filter(is_exemption).collect())
        })
    }

    /// Brings the table in line and returns how many changes that took.
    ///
    /// # Errors
    /// As [`Connmark::plan`]; otherwise the kernel's, after which nothing is changed.
    pub fn set_up(&self) -> Result<usize, Error> {
        change("setting up nftables table ip aws-cni", |table| self.plan(table))
    }
}

/// Removes the table, and returns how many changes that took. None, or a kernel without nftables, is fine.
///
/// # Errors
/// The kernel's.
pub fn clean_up() -> Result<usize, Error> {
    let removed = change("deleting nftables table ip aws-cni", |table| {
        Ok(table.map(|_| Edit::DeleteTable).into_iter().collect())
    });
    match removed {
        Err(e) if matches!(e.errno(), Some(Errno::NOENT | Errno::PROTONOSUPPORT | Errno::OPNOTSUPP | Errno::INVAL)) => {
            Ok(0)
        }
        other => other,
    }
}

fn change(what: &str, plan: impl Fn(Option<&Table>) -> Result<Vec<Edit>, Error>) -> Result<usize, Error> {
    let refused = |errno| Error::from_kernel(what.to_owned(), errno);
    let mut nftables = Nftables::open().map_err(refused)?;
    let mut attempt = 1;
    loop {
        let (table, generation) = nftables.read(TABLE).map_err(refused)?;
        let edits = plan(table.as_ref())?;
        if edits.is_empty() {
            return Ok(0);
        }
        match nftables.commit(TABLE, &edits, Some(generation)) {
            Ok(()) => return Ok(edits.len()),
            // Somebody changed the host's rules between our reading and writing.
            Err(errno) if attempt < ATTEMPTS && errno.raw_os_error() == ERESTART => attempt += 1,
            Err(errno) => return Err(refused(errno)),
        }
    }
}

/// The kernel's own, not to be seen by programs except here.
const ERESTART: i32 = 85;

/// Whether the base chain is hooked in where it should be.
#[must_use]
pub fn is_up_to_date(chain: &Chain) -> bool {
    chain.base.as_ref() == Some(&wanted_base())
}

fn wanted_base() -> Base {
    Base { kind: "nat".to_owned(), hook: HOOK_PREROUTING, priority: PRIORITY, policy: POLICY_ACCEPT }
}

/// The destination that a rule exempts, if it is such a rule.
#[must_use]
pub fn extract_cidr(exprs: &[Expr]) -> Option<Ipv4Net> {
    let has = |wanted: &Expr| exprs.contains(wanted);
    let payload = exprs
        .iter()
        .any(|e| matches!(e, Expr::Payload { base: NETWORK_HEADER, offset: DESTINATION_OFFSET, length: WORD, .. }));
    if !payload || !has(&Expr::Counter) || !has(&Expr::Verdict(Verdict::Return)) {
        return None;
    }
    let mask = exprs.iter().find_map(|e| match e {
        Expr::Bitwise { mask, xor, .. } if xor.iter().all(|b| *b == 0) => mask.as_slice().try_into().ok(),
        _ => None,
    })?;
    let network: [u8; 4] = exprs.iter().find_map(|e| match e {
        Expr::Cmp { op: CMP_EQ, data, .. } => data.as_slice().try_into().ok(),
        _ => None,
    })?;
    let mask = u32::from_be_bytes(mask);
    let length = mask.leading_ones();
    (length == mask.count_ones()).then(|| Ipv4Net::new(Ipv4Addr::from(network), u8::try_from(length).unwrap_or(32)))
}

/// Which register a value passes through does not matter.
fn same(wanted: &Expr, found: &Expr) -> bool {
    match (wanted, found) {
        (Expr::Fib { flags: a, result: b, .. }, Expr::Fib { flags: c, result: d, .. }) => (a, b) == (c, d),
        (Expr::Cmp { op: a, data: b, .. }, Expr::Cmp { op: c, data: d, .. }) => (a, b) == (c, d),
        (Expr::Meta { key: a, access: b }, Expr::Meta { key: c, access: d })
        | (Expr::Ct { key: a, access: b }, Expr::Ct { key: c, access: d }) => {
            a == c && std::mem::discriminant(b) == std::mem::discriminant(d)
        }
        (Expr::Bitwise { mask: a, xor: b, .. }, Expr::Bitwise { mask: c, xor: d, .. }) => (a, b) == (c, d),
        (wanted, found) => wanted == found,
    }
}

fn equals(data: &[u8]) -> Expr {
    Expr::Cmp { register: REGISTER, op: CMP_EQ, data: data.to_vec() }
}

fn bitwise(mask: &[u8; 4], xor: &[u8; 4]) -> Expr {
    Expr::Bitwise { source: REGISTER, register: REGISTER, length: WORD, mask: mask.to_vec(), xor: xor.to_vec() }
}

fn netmask(cidr: Ipv4Net) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(cidr.length())).unwrap_or(0)
}

#[cfg(test)]
mod tests;
