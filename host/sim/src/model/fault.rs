//! Scripted faults: what goes wrong, at which call.

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// One scripted fault. Calls count from 1, from when the fault was set, of the named action only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// EC2 action or IMDS read (`core::cloud::Request::api`).
    pub api: String,
    /// Only calls of this instance.
    #[serde(default)]
    pub instance: Option<String>,
    /// First call concerned.
    #[serde(default = "one")]
    pub at: u64,
    /// How many calls from there; 0 is for ever.
    #[serde(default = "one")]
    pub times: u64,
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
}

impl FaultEffect {
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

    /// Counts one call and gives what befalls it. The fault set first wins.
    pub fn next(&mut self, api: &str, instance: &str) -> Option<FaultEffect> {
        let mut hit = None;
        self.0.retain_mut(|(fault, seen)| {
            if fault.api != api || fault.instance.as_deref().is_some_and(|i| i != instance) {
                return true;
            }
            *seen += 1;
            let last = if fault.times == 0 { u64::MAX } else { fault.at.saturating_add(fault.times - 1) };
            if hit.is_none() && (fault.at..=last).contains(seen) {
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
        let mut faults = Faults::default();
        let fault = r#"{"api":"CreateTags","at":2,"times":2,"effect":{"delay":1.5}}"#;
        faults.add(serde_json::from_str(fault).unwrap());
        let hits: Vec<bool> = (0..5).map(|_| faults.next("CreateTags", "i-1").is_some()).collect();
        assert_eq!(hits, [false, true, true, false, false]);
        assert_eq!(faults.list().count(), 0, "spent faults go");
        faults.add(serde_json::from_str(r#"{"api":"X","instance":"i-2","times":0,"effect":"no_answer"}"#).unwrap());
        assert_eq!(faults.next("X", "i-1"), None);
        assert_eq!(faults.next("X", "i-2"), Some(FaultEffect::NoAnswer));
        assert_eq!(faults.next("X", "i-2"), Some(FaultEffect::NoAnswer));
    }
}
