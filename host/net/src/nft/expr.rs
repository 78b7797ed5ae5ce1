//! Expressions of nftables rules, and their form on the wire (`linux/netfilter/nf_tables.h`).

use super::attr::{self, Writer};

/// `fib` flag: look the destination address up.
pub const FIB_DADDR: u32 = 2;
/// `fib` result: the type of the address.
pub const FIB_ADDRTYPE: u32 = 3;
/// `meta` key: the packet's mark.
pub const META_MARK: u32 = 3;
/// `meta` key: the name of the interface it came in by.
pub const META_IIFNAME: u32 = 6;
/// `ct` key: the connection's mark.
pub const CT_MARK: u32 = 3;
/// `payload` base: the network header.
pub const NETWORK_HEADER: u32 = 1;
/// `cmp` operation: equal.
pub const CMP_EQ: u32 = 0;

const VERDICT_RETURN: i32 = -5;
const VERDICT_GOTO: i32 = -4;
const VERDICT_JUMP: i32 = -3;
const VERDICT_DROP: i32 = 0;
const VERDICT_ACCEPT: i32 = 1;
/// The register that a verdict is put into.
const VERDICT_REGISTER: u32 = 0;
const BITWISE_BOOL: u32 = 0;

/// One expression. Numbers are the kernel's; data is in the byte order of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    Fib {
        register: u32,
        flags: u32,
        result: u32,
    },
    Cmp {
        register: u32,
        op: u32,
        data: Vec<u8>,
    },
    Counter,
    Meta {
        key: u32,
        access: Access,
    },
    Ct {
        key: u32,
        access: Access,
    },
    /// `(source & mask) ^ xor`.
    Bitwise {
        source: u32,
        register: u32,
        length: u32,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Payload {
        register: u32,
        base: u32,
        offset: u32,
        length: u32,
    },
    Verdict(Verdict),
    /// One that we never make.
    Other(String),
}

/// From where to where a value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Into a register.
    Load(u32),
    /// Out of a register.
    Store(u32),
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    Other(i32),
}

impl Expr {
    /// Writes it as an element of a rule's list.
    pub(super) fn write(&self, out: &mut Writer) {
        let name = match self {
            Self::Fib { .. } => "fib",
            Self::Cmp { .. } => "cmp",
            Self::Counter => "counter",
            Self::Meta { .. } => "meta",
            Self::Ct { .. } => "ct",
            Self::Bitwise { .. } => "bitwise",
            Self::Payload { .. } => "payload",
            Self::Verdict(_) => "immediate",
            Self::Other(name) => name,
        };
        out.nest(1, |element| {
            element.text(1, name);
            element.nest(2, |data| self.write_data(data));
        });
    }

    fn write_data(&self, out: &mut Writer) {
        match self {
            Self::Fib { register, flags, result } => {
                out.number(1, *register);
                out.number(2, *result);
                out.number(3, *flags);
            }
            Self::Cmp { register, op, data } => {
                out.number(1, *register);
                out.number(2, *op);
                out.nest(3, |value| value.bytes(1, data));
            }
            Self::Counter | Self::Other(_) => {}
            Self::Meta { key, access } => {
                match access {
                    Access::Load(register) => out.number(1, *register),
                    Access::Store(register) => out.number(3, *register),
                }
                out.number(2, *key);
            }
            Self::Ct { key, access } => {
                match access {
                    Access::Load(register) => out.number(1, *register),
                    Access::Store(register) => out.number(4, *register),
                }
                out.number(2, *key);
            }
            Self::Bitwise { source, register, length, mask, xor } => {
                out.number(1, *source);
                out.number(2, *register);
                out.number(3, *length);
                out.nest(4, |value| value.bytes(1, mask));
                out.nest(5, |value| value.bytes(1, xor));
            }
            Self::Payload { register, base, offset, length } => {
                out.number(1, *register);
                out.number(2, *base);
                out.number(3, *offset);
                out.number(4, *length);
            }
            Self::Verdict(verdict) => {
                out.number(1, VERDICT_REGISTER);
                out.nest(2, |value| {
                    value.nest(2, |inner| {
                        let (code, chain) = verdict.parts();
                        inner.number(1, code.cast_unsigned());
                        if let Some(chain) = chain {
                            inner.text(2, chain);
                        }
                    });
                });
            }
        }
    }

    /// Reads an element of a rule's list; what we do not know is [`Expr::Other`].
    pub(super) fn read(element: &[u8]) -> Self {
        let name = attr::find(element, 1).map(attr::text).unwrap_or_default();
        let data = attr::find(element, 2).unwrap_or_default();
        Self::read_data(&name, data).unwrap_or(Self::Other(name))
    }

    fn read_data(name: &str, data: &[u8]) -> Option<Self> {
        let number = |kind| attr::find(data, kind).and_then(attr::number);
        let value = |kind| attr::find(data, kind).and_then(|nested| attr::find(nested, 1)).map(<[u8]>::to_vec);
        let access = |load, store| match (number(load), number(store)) {
            (Some(register), None) => Some(Access::Load(register)),
            (None, Some(register)) => Some(Access::Store(register)),
            _ => None,
        };
        Some(match name {
            "fib" => Self::Fib { register: number(1)?, result: number(2)?, flags: number(3)? },
            "cmp" => Self::Cmp { register: number(1)?, op: number(2)?, data: value(3)? },
            "counter" => Self::Counter,
            "meta" => Self::Meta { key: number(2)?, access: access(1, 3)? },
            "ct" => Self::Ct { key: number(2)?, access: access(1, 4)? },
            "bitwise" if number(6).is_none_or(|op| op == BITWISE_BOOL) => Self::Bitwise {
                source: number(1)?,
                register: number(2)?,
                length: number(3)?,
                mask: value(4)?,
                xor: value(5)?,
            },
            "payload" => {
                Self::Payload { register: number(1)?, base: number(2)?, offset: number(3)?, length: number(4)? }
            }
            "immediate" if number(1)? == VERDICT_REGISTER => {
                let verdict = attr::find(data, 2).and_then(|nested| attr::find(nested, 2))?;
                let code = attr::find(verdict, 1).and_then(attr::number)?.cast_signed();
                Self::Verdict(Verdict::of(code, attr::find(verdict, 2).map(attr::text)))
            }
            _ => return None,
        })
    }
}

impl Verdict {
    fn parts(&self) -> (i32, Option<&str>) {
        match self {
            Self::Accept => (VERDICT_ACCEPT, None),
            Self::Drop => (VERDICT_DROP, None),
            Self::Return => (VERDICT_RETURN, None),
            Self::Jump(chain) => (VERDICT_JUMP, Some(chain)),
            Self::Goto(chain) => (VERDICT_GOTO, Some(chain)),
            Self::Other(code) => (*code, None),
        }
    }

    fn of(code: i32, chain: Option<String>) -> Self {
        match (code, chain) {
            (VERDICT_ACCEPT, _) => Self::Accept,
            (VERDICT_DROP, _) => Self::Drop,
            (VERDICT_RETURN, _) => Self::Return,
            (VERDICT_JUMP, Some(chain)) => Self::Jump(chain),
            (VERDICT_GOTO, Some(chain)) => Self::Goto(chain),
            (code, _) => Self::Other(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expression_survives_the_wire() {
        let all = [
            Expr::Fib { register: 1, flags: FIB_DADDR, result: FIB_ADDRTYPE },
            Expr::Cmp { register: 1, op: CMP_EQ, data: b"eni".to_vec() },
            Expr::Counter,
            Expr::Meta { key: META_IIFNAME, access: Access::Load(1) },
            Expr::Meta { key: META_MARK, access: Access::Store(1) },
            Expr::Ct { key: CT_MARK, access: Access::Load(1) },
            Expr::Ct { key: CT_MARK, access: Access::Store(1) },
            Expr::Bitwise { source: 1, register: 1, length: 4, mask: vec![1, 2, 3, 4], xor: vec![0; 4] },
            Expr::Payload { register: 1, base: NETWORK_HEADER, offset: 16, length: 4 },
            Expr::Verdict(Verdict::Return),
            Expr::Verdict(Verdict::Jump("snat-mark".to_owned())),
            Expr::Verdict(Verdict::Accept),
            Expr::Verdict(Verdict::Drop),
            Expr::Verdict(Verdict::Goto("elsewhere".to_owned())),
        ];
        for expr in all {
            let mut out = Writer::default();
            expr.write(&mut out);
            let (kind, element) = attr::each(&out.0).next().unwrap();
            assert_eq!((kind, Expr::read(element)), (1, expr));
        }
    }

    #[test]
    fn what_is_damaged_or_unknown_is_other() {
        for (name, data) in [("cmp", &[][..]), ("quota", &[1, 2, 3]), ("immediate", &[8, 0, 1, 0, 0, 0, 0, 1])] {
            let mut out = Writer::default();
            out.text(1, name);
            out.bytes(2, data);
            assert_eq!(Expr::read(&out.0), Expr::Other(name.to_owned()));
        }
        for length in 0..24 {
            let _ = Expr::read(&vec![0xff; length]);
        }
    }
}
