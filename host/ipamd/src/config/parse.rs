//! The parse classes of spec 05 §16.1 as functions of one value. An `Err` says what would have been right; who calls
//! decides what is used instead.

use std::collections::BTreeMap;

use reservoir_core::ip::Ipv4Net;

/// What was expected, in words that complete "is not …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {0}")]
pub struct Expected(pub String);

fn expected<T>(what: impl Into<String>) -> Result<T, Expected> {
    Err(Expected(what.into()))
}

/// The twelve tokens; nothing is trimmed.
pub fn boolean(text: &str) -> Result<bool, Expected> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => expected("a boolean (1 t T TRUE true True or 0 f F FALSE false False)"),
    }
}

/// One optional sign, then decimal digits, within 64 bits.
pub fn decimal(text: &str) -> Result<i64, Expected> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && let Ok(n) = text.parse()
    {
        return Ok(n);
    }
    expected("a decimal integer")
}

/// A decimal integer of at least `minimum`; what exceeds 32 bits is cut to them, as no count here can reach them.
pub fn decimal_from(text: &str, minimum: u32) -> Result<u32, Expected> {
    match decimal(text) {
        Ok(n) if n >= i64::from(minimum) => Ok(u32::try_from(n).unwrap_or(u32::MAX)),
        _ => expected(format!("a decimal integer of at least {minimum}")),
    }
}

/// An integer literal with its base in front: `0x`, `0o` or `0`, `0b`, else decimal; `_` between digits (and after the
/// base). From 1 to 2^32 − 1.
pub fn auto_base(text: &str) -> Result<u32, Expected> {
    let body = text.strip_prefix('+').unwrap_or(text);
    let lower = body.to_ascii_lowercase();
    let (radix, digits, based) = if let Some(d) = lower.strip_prefix("0x") {
        (16, d, true)
    } else if let Some(d) = lower.strip_prefix("0o") {
        (8, d, true)
    } else if let Some(d) = lower.strip_prefix("0b") {
        (2, d, true)
    } else if let Some(d) = lower.strip_prefix('0').filter(|d| !d.is_empty()) {
        (8, d, true)
    } else {
        (10, lower.as_str(), false)
    };
    let misplaced = (digits.starts_with('_') && !based) || digits.ends_with('_') || digits.contains("__");
    if !misplaced && digits.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()) {
        let plain: String = digits.chars().filter(|c| *c != '_').collect();
        if let Ok(n @ 1..) = u32::from_str_radix(&plain, radix) {
            return Ok(n);
        }
    }
    expected("an integer from 1 to 4294967295 (decimal, 0x, 0o or 0b)")
}

/// `yes`/`true`, `no`/`false` in any case; None leaves what was.
#[must_use]
pub fn yes_no(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" => Some(true),
        "no" | "false" => Some(false),
        _ => None,
    }
}

/// The accepted blocks in order, and the refused items with the reason.
#[must_use]
pub fn cidr_list(text: &str) -> (Vec<Ipv4Net>, Vec<(String, Expected)>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    if text.is_empty() {
        return (good, bad);
    }
    for item in text.split(',').map(str::trim) {
        let what = match item.parse() {
            Ok(net) => {
                good.push(net);
                continue;
            }
            Err(_) if item.contains(':') => "an IPv4 block (IPv6 is not supported here)",
            Err(_) => "an IPv4 block such as 10.0.0.0/16",
        };
        bad.push((item.to_owned(), Expected(what.to_owned())));
    }
    (good, bad)
}

/// A JSON object whose values are all strings; of a repeated key the last counts.
pub fn string_map(text: &str) -> Result<BTreeMap<String, String>, Expected> {
    serde_json::from_str(text).or_else(|e| expected(format!("a JSON object of strings ({e})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underscores_stand_only_between_digits() {
        assert_eq!(auto_base("0x_80"), Ok(128));
        assert_eq!(auto_base("0_17"), Ok(15));
        for bad in ["_1", "1_", "1__0", "0x", "0b2", "08", "+", "+-1", "0x+1", ""] {
            assert!(auto_base(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_sign_alone_is_no_number() {
        for bad in ["+", "-", "+-1", "--1", "1 ", "١"] {
            assert!(decimal(bad).is_err(), "{bad}");
        }
        assert_eq!(decimal("-9223372036854775808"), Ok(i64::MIN));
    }

    #[test]
    fn json_keeps_the_last_of_a_repeated_key_and_refuses_null() {
        assert_eq!(string_map(r#"{"a":"1","a":"2"}"#).unwrap()["a"], "2");
        assert!(string_map("null").is_err());
        assert!(string_map("[]").is_err());
    }
}
