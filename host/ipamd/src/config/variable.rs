//! What is known about a variable beside its value.

/// One environment variable.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    pub name: &'static str,
    pub group: &'static str,
    /// E entrypoint, I init container, D daemon, M metrics helper, P plugin.
    pub readers: &'static str,
    pub ty: &'static str,
    /// What holds when it is unset.
    pub default: &'static str,
    pub class: Class,
    pub here: Here,
    pub effect: &'static str,
}

/// Parse classes of spec 05 §16.1; [`Class::Strict`] is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    BoolStrict,
    BoolLenientEmpty,
    IntValidated,
    IntNonNegSoft,
    IntPositiveSoft,
    StrSetWins,
    StrNonEmpty,
    EnumSoft,
    EnumHard,
    CidrList,
    JsonMap,
    LogLevel,
    YesNo,
    IntAutoBase,
    IntMin10,
    Unused,
    /// Unset or empty: the default. Anything that is not of the type: the daemon does not start.
    Strict,
}

impl Class {
    /// All of them, in the order of spec 05 §16.1.
    pub const ALL: [Self; 17] = [
        Self::BoolStrict,
        Self::BoolLenientEmpty,
        Self::IntValidated,
        Self::IntNonNegSoft,
        Self::IntPositiveSoft,
        Self::StrSetWins,
        Self::StrNonEmpty,
        Self::EnumSoft,
        Self::EnumHard,
        Self::CidrList,
        Self::JsonMap,
        Self::LogLevel,
        Self::YesNo,
        Self::IntAutoBase,
        Self::IntMin10,
        Self::Unused,
        Self::Strict,
    ];

    /// The name in spec 05 §16.1.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BoolStrict => "bool-strict",
            Self::BoolLenientEmpty => "bool-lenient-empty",
            Self::IntValidated => "int-validated",
            Self::IntNonNegSoft => "int-nonneg-soft",
            Self::IntPositiveSoft => "int-positive-soft",
            Self::StrSetWins => "str-set-wins",
            Self::StrNonEmpty => "str-nonempty",
            Self::EnumSoft => "enum-soft",
            Self::EnumHard => "enum-hard",
            Self::CidrList => "cidr-list",
            Self::JsonMap => "json-map",
            Self::LogLevel => "loglevel",
            Self::YesNo => "yesno",
            Self::IntAutoBase => "int-autobase",
            Self::IntMin10 => "int-min10",
            Self::Unused => "unused",
            Self::Strict => "strict",
        }
    }

    /// What is accepted, and what becomes of the rest.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::BoolStrict | Self::BoolLenientEmpty => {
                "exactly one of `1 t T TRUE true True 0 f F FALSE false False`; empty = unset; anything else: the default, with a warning"
            }
            Self::IntValidated => {
                "decimal integer within the range; anything else, the empty string too: the daemon does not start"
            }
            Self::IntNonNegSoft => "decimal integer ≥ 0; empty = unset; anything else: the default, with a warning",
            Self::IntPositiveSoft => "decimal integer ≥ 1; empty = unset; anything else: as if unset, with a warning",
            Self::StrSetWins | Self::StrNonEmpty => "any text; empty = unset, unless the effect says otherwise",
            Self::EnumSoft => {
                "one of the values, case-sensitive; empty = unset; anything else: the default, with a warning"
            }
            Self::EnumHard => "one of the values; see the effect for what happens otherwise",
            Self::CidrList => {
                "IPv4 blocks, comma-separated, blanks around them allowed; other items are dropped with a warning; host bits are cleared"
            }
            Self::JsonMap => "a JSON object of strings; empty = none; anything else: none, with a warning",
            Self::LogLevel => "in any case; empty = unset; anything else: debug, with a warning",
            Self::YesNo => "`yes`/`true`, `no`/`false` in any case; anything else leaves the default",
            Self::IntAutoBase => {
                "integer, decimal or with `0x`, `0o`, `0`, `0b`, `_` between digits; empty = unset; anything else or out of range: the default, with a warning"
            }
            Self::IntMin10 => "decimal integer ≥ 10; empty = unset; anything else: the default, with a warning",
            Self::Unused => "not read",
            Self::Strict => "empty = unset; anything that is not of the type: the daemon does not start",
        }
    }
}

/// Whether a variable works in this release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    Now,
    /// Not yet; what happens meanwhile.
    Later(&'static str),
    /// Deliberately not; why.
    Never(&'static str),
}
