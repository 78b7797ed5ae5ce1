//! Faults as lines of text:
//!
//! ```text
//! at call 7 of AssignPrivateIpAddresses: RequestLimitExceeded
//! at calls 2 to 4 of CreateNetworkInterface on i-0c3f1a9d27b6e4851: InsufficientFreeAddressesInSubnet "subnet full"
//! from call 3 of AttachNetworkInterface: delay 12.5 s
//! 5% of calls of DescribeNetworkInterfaces: InternalError
//! every call of CreateTags: UnauthorizedOperation
//! at call 1 of CreateNetworkInterface: no answer          (it has its effect; also: lost, reset, cut)
//! at call 1 of DetachNetworkInterface: InternalError after the effect
//! ```

use std::fmt;
use std::str::FromStr;

use super::fault::{Fault, FaultEffect};

/// A line that is no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line:?} is no fault: {what}; write it as in \"at call 7 of AssignPrivateIpAddresses: RequestLimitExceeded\"")]
pub struct ScriptError {
    line: String,
    what: String,
}

/// Several faults, one on each line; empty lines and those that begin with `#` say nothing.
///
/// # Errors
/// The first line that is no fault.
pub fn parse(text: &str) -> Result<Vec<Fault>, ScriptError> {
    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(Fault::from_str).collect()
}

impl FromStr for Fault {
    type Err = ScriptError;

    fn from_str(line: &str) -> Result<Self, ScriptError> {
        read(line).map_err(|what| ScriptError { line: line.to_owned(), what })
    }
}

fn read(line: &str) -> Result<Fault, String> {
    // An api may hold a colon (IMDS:ipv6s), a space never; the effect follows a colon and a space.
    let (calls, effect) = line.split_once(": ").ok_or("there is no \": \" before what goes wrong")?;
    let words: Vec<&str> = calls.split_whitespace().collect();
    let (at, times, share, rest) = match words.as_slice() {
        ["at", "call", n, "of", rest @ ..] => (number(n)?, 1, None, rest),
        ["at", "calls", first, "to", last, "of", rest @ ..] => {
            let (first, last) = (number(first)?, number(last)?);
            let times = last.checked_sub(first).ok_or_else(|| format!("{last} comes before {first}"))? + 1;
            (first, times, None, rest)
        }
        ["from", "call", n, "of", rest @ ..] => (number(n)?, 0, None, rest),
        ["every", "call", "of", rest @ ..] => (1, 0, None, rest),
        [percent, "of", "calls", "of", rest @ ..] => {
            let share = percent.strip_suffix('%').and_then(|p| p.parse::<f64>().ok()).map(|p| p / 100.0);
            let share = share.filter(|s| (0.0..=1.0).contains(s));
            (1, 0, Some(share.ok_or_else(|| format!("{percent:?} is no percentage"))?), rest)
        }
        _ => return Err("which calls?".to_owned()),
    };
    let (api, instance) = match rest {
        [api] => (*api, None),
        [api, "on", instance] => (*api, Some((*instance).to_owned())),
        _ => return Err(format!("{:?} is not one action", rest.join(" "))),
    };
    Ok(Fault { api: api.to_owned(), instance, at, times, share, effect: read_effect(effect.trim())? })
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| format!("{text:?} is no call's number, they count from 1"))
}

fn read_effect(text: &str) -> Result<FaultEffect, String> {
    if let Some(delay) = text.strip_prefix("delay ") {
        let seconds = delay.strip_suffix('s').map(str::trim).and_then(|d| d.parse().ok());
        let seconds = seconds.filter(|s: &f64| s.is_finite() && *s >= 0.0);
        return seconds.map(FaultEffect::Delay).ok_or_else(|| format!("{delay:?} is no delay such as 2.5 s"));
    }
    match text {
        "no answer" => return Ok(FaultEffect::NoAnswer),
        "lost" => return Ok(FaultEffect::Lost),
        "reset" => return Ok(FaultEffect::Reset),
        "cut" => return Ok(FaultEffect::Cut),
        _ => {}
    }
    let (text, after) = match text.strip_suffix("after the effect") {
        Some(rest) => (rest.trim(), true),
        None => (text, false),
    };
    let (code, message) = match text.split_once(' ') {
        None => (text, None),
        Some((code, rest)) => {
            let quoted = rest.trim().strip_prefix('"').and_then(|r| r.strip_suffix('"'));
            (code, Some(quoted.ok_or_else(|| format!("{rest:?} is no message in quotes"))?.to_owned()))
        }
    };
    if code.is_empty() || !code.chars().all(|c| c.is_ascii_alphanumeric() || c == '.') {
        return Err(format!("{code:?} is no error code"));
    }
    let code = code.to_owned();
    Ok(if after { FaultEffect::After { code, message } } else { FaultEffect::Error { code, message } })
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.at, self.times, self.share) {
            (1, 0, Some(share)) => write!(f, "{}% of calls of {}", share * 100.0, self.api)?,
            (1, 0, None) => write!(f, "every call of {}", self.api)?,
            (at, 0, _) => write!(f, "from call {at} of {}", self.api)?,
            (at, 1, _) => write!(f, "at call {at} of {}", self.api)?,
            (at, times, _) => write!(f, "at calls {at} to {} of {}", at.saturating_add(times - 1), self.api)?,
        }
        if let Some(instance) = &self.instance {
            write!(f, " on {instance}")?;
        }
        write!(f, ": {}", self.effect)
    }
}

impl fmt::Display for FaultEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |m: &Option<String>| m.as_ref().map(|m| format!(" \"{m}\"")).unwrap_or_default();
        match self {
            Self::Error { code, message } => write!(f, "{code}{}", quoted(message)),
            Self::After { code, message } => write!(f, "{code}{} after the effect", quoted(message)),
            Self::Delay(seconds) => write!(f, "delay {seconds} s"),
            Self::NoAnswer => f.write_str("no answer"),
            Self::Lost => f.write_str("lost"),
            Self::Reset => f.write_str("reset"),
            Self::Cut => f.write_str("cut"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_fault_and_back() {
        for line in [
            "at call 7 of AssignPrivateIpAddresses: RequestLimitExceeded",
            "at calls 2 to 4 of CreateNetworkInterface on i-0c: InvalidSubnetID.NotFound \"no: such\"",
            "from call 3 of AttachNetworkInterface: delay 12.5 s",
            "5% of calls of DescribeNetworkInterfaces: InternalError",
            "every call of CreateTags: no answer",
            "at call 1 of IMDS:ipv6s: cut",
            "at call 1 of DetachNetworkInterface: InternalError after the effect",
            "at call 1 of DetachNetworkInterface: InternalError \"why\" after the effect",
        ] {
            assert_eq!(line.parse::<Fault>().map(|f| f.to_string()).as_deref(), Ok(line));
        }
        let fault: Fault = "at calls 2 to 4 of X on i-1: lost".parse().unwrap();
        assert_eq!(fault, Fault::new("X", FaultEffect::Lost).at(2).times(3).on("i-1"));
        assert_eq!(parse("# nothing\n\n every call of X: reset \n").unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, words) in [
            ("at call 7 of X", "before what goes wrong"),
            ("at call 0 of X: lost", "count from 1"),
            ("at calls 5 to 3 of X: lost", "3 comes before 5"),
            ("sometimes: lost", "which calls"),
            ("500% of calls of X: lost", "percentage"),
            ("every call of X Y: lost", "not one action"),
            ("every call of X: delay long", "no delay"),
            ("every call of X: Code unquoted", "in quotes"),
            ("every call of X: <>", "no error code"),
        ] {
            let error = line.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(line), "{line}: {error}");
        }
    }
}
