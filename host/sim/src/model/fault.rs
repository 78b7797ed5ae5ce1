//! Scripted faults: what goes wrong, at which call. In JSON as fields, or as a line of text ([`super::script`]).

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::delays::Random;
use super::refusal::Refusal;

/// One scripted fault. Calls count from 1, from when the fault was set, of the named action only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Form")]
pub struct Fault {
    /// EC2 action or IMDS read (`core::cloud::Request::api`); over HTTP `IMDS` for every read, or `IMDS:` and the last
    /// part of the path.
    pub api: String,
    /// Only calls of this instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// First call concerned.
    pub at: u64,
    /// How many calls from there; 0 is for ever.
    pub times: u64,
    /// Only this share of them, 0 to 1, by chance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    pub effect: FaultEffect,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultEffect {
    /// The call is refused and does nothing.
    Error { code: String, message: Option<String> },
    /// The answer comes so many seconds later.
    Delay(f64),
    /// The call has its effect, the caller never hears of it.
    NoAnswer,
    /// The request is lost: no effect, no answer.
    Lost,
    /// The call has its effect, the answer is this error.
    After { code: String, message: Option<String> },
    /// The connection is closed at once: no effect.
    Reset,
    /// The call has its effect, the connection is closed in the middle of the answer.
    Cut,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Fields(Fields),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    api: String,
    #[serde(default)]
    instance: Option<String>,
    #[serde(default = "one")]
    at: u64,
    #[serde(default = "one")]
    times: u64,
    #[serde(default)]
    share: Option<f64>,
    effect: FaultEffect,
}

impl TryFrom<Form> for Fault {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        match form {
            Form::Text(text) => Self::from_str(&text).map_err(|e| e.to_string()),
            Form::Fields(Fields { api, instance, at, times, share, effect }) => {
                if at == 0 {
                    return Err(format!("fault of {api}: calls count from 1"));
                }
                if let Some(share) = share.filter(|s| !(0.0..=1.0).contains(s)) {
                    return Err(format!("fault of {api}: share {share}: give a share of calls from 0 to 1"));
                }
                Ok(Self { api, instance, at, times, share, effect })
            }
        }
    }
}

impl Fault {
    /// At the first call of `api`, once, of whatever instance.
    #[must_use]
    pub fn new(api: &str, effect: FaultEffect) -> Self {
        Self { api: api.to_owned(), instance: None, at: 1, times: 1, share: None, effect }
    }

    /// First at this call.
    #[must_use]
    pub fn at(self, at: u64) -> Self {
        Self { at, ..self }
    }

    /// So many calls; 0 is for ever.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    /// Only calls of this instance.
    #[must_use]
    pub fn on(self, instance: &str) -> Self {
        Self { instance: Some(instance.to_owned()), ..self }
    }

    /// Only this share of the calls, by chance.
    #[must_use]
    pub fn share(self, share: f64) -> Self {
        Self { share: Some(share), ..self }
    }
}

impl FaultEffect {
    /// EC2's refusal with its usual words.
    #[must_use]
    pub fn error(code: &str) -> Self {
        Self::Error { code: code.to_owned(), message: None }
    }

    pub(crate) fn refusal(code: &str, message: Option<&str>) -> Refusal {
        let message = message.map_or_else(
            || match code {
                "RequestLimitExceeded" => "Request limit exceeded.".to_owned(),
                "UnauthorizedOperation" => "You are not authorized to perform this operation.".to_owned(),
                "InsufficientFreeAddressesInSubnet" => {
                    "The specified subnet does not have enough free addresses to satisfy the request.".to_owned()
                }
                "InsufficientCidrBlocks" => {
                    "The specified subnet does not have enough free cidr blocks to satisfy the request".to_owned()
                }
                _ => format!("{code} (scripted fault)"),
            },
            str::to_owned,
        );
        Refusal::new(code, message)
    }
}

fn one() -> u64 {
    1
}

/// The faults still in force, each with the calls it has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Vec<(Fault, u64)>);

impl Faults {
    pub fn add(&mut self, fault: Fault) {
        self.0.push((fault, 0));
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn list(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter().map(|(fault, _)| fault)
    }

    /// Counts one call, known by any of `names`, and gives what befalls it. The fault set first wins.
    pub fn next(&mut self, names: &[&str], instance: &str, random: &mut Random) -> Option<FaultEffect> {
        let mut hit = None;
        self.0.retain_mut(|(fault, seen)| {
            if !names.contains(&fault.api.as_str()) || fault.instance.as_deref().is_some_and(|i| i != instance) {
                return true;
            }
            *seen += 1;
            let last = if fault.times == 0 { u64::MAX } else { fault.at.saturating_add(fault.times - 1) };
            let meant = hit.is_none() && (fault.at..=last).contains(seen);
            if meant && fault.share.is_none_or(|share| random.unit() < share) {
                hit = Some(fault.effect.clone());
            }
            *seen < last
        });
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_the_named_calls_only() {
        let (mut faults, mut r) = (Faults::default(), Random::new(1));
        let fault = r#"{"api":"CreateTags","at":2,"times":2,"effect":{"delay":1.5}}"#;
        faults.add(serde_json::from_str(fault).unwrap());
        let hits: Vec<bool> = (0..5).map(|_| faults.next(&["CreateTags"], "i-1", &mut r).is_some()).collect();
        assert_eq!(hits, [false, true, true, false, false]);
        assert_eq!(faults.list().count(), 0, "spent faults go");
        faults.add(serde_json::from_str(r#"{"api":"X","instance":"i-2","times":0,"effect":"no_answer"}"#).unwrap());
        assert_eq!(faults.next(&["X"], "i-1", &mut r), None);
        assert_eq!(faults.next(&["Y", "X"], "i-2", &mut r), Some(FaultEffect::NoAnswer));
        assert_eq!(faults.next(&["X"], "i-2", &mut r), Some(FaultEffect::NoAnswer));
    }

    #[test]
    fn a_share_of_the_calls_by_chance() {
        let (mut faults, mut r) = (Faults::default(), Random::new(1));
        faults.add(Fault::new("X", FaultEffect::Reset).times(0).share(0.3));
        let hits = (0..1000).filter(|_| faults.next(&["X"], "i-1", &mut r).is_some()).count();
        assert!((250..350).contains(&hits), "{hits}");
    }

    #[test]
    fn nonsense_is_named() {
        for (json, words) in [
            (r#"{"api":"X","at":0,"effect":"lost"}"#, "count from 1"),
            (r#"{"api":"X","share":3,"effect":"lost"}"#, "from 0 to 1"),
            (r#""at call 7 of AssignPrivateIpAddresses""#, "at call 7 of"),
        ] {
            let error = serde_json::from_str::<Fault>(json).unwrap_err().to_string();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
