//! The account of a node: what the simulated AWS holds, was asked and does.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Node;
use crate::shell::run;

impl Node {
    /// What the simulated AWS finds wrong: addresses twice, interfaces left behind (spec 03 §16.7).
    ///
    /// # Errors
    /// It does not answer.
    pub fn audit(&self) -> Result<Value> {
        Ok(serde_json::from_str(&run("curl", &["-s", "-f", "--max-time", "10", &format!("{}/sim/audit", self.ec2)])?)?)
    }

    /// What the simulated AWS holds.
    ///
    /// # Errors
    /// It does not answer.
    pub fn sim_state(&self) -> Result<Value> {
        Ok(serde_json::from_str(&run("curl", &["-s", "-f", "--max-time", "10", &format!("{}/sim/state", self.ec2)])?)?)
    }

    /// What was asked of the simulated AWS.
    ///
    /// # Errors
    /// It does not answer.
    pub fn sim_log(&self) -> Result<Value> {
        Ok(serde_json::from_str(&run("curl", &["-s", "-f", "--max-time", "10", &format!("{}/sim/log", self.ec2)])?)?)
    }

    /// `POST /sim/<what>` of the simulated AWS.
    ///
    /// # Errors
    /// It does not answer, or does not understand.
    pub fn sim_post(&self, what: &str, body: &Value) -> Result<()> {
        let url = format!("{}/sim/{what}", self.ec2);
        run("curl", &["-s", "-f", "--max-time", "10", "-d", &body.to_string(), &url]).map(drop)
    }

    /// What somebody else in the account does: `POST /sim/do`; what it comes to.
    ///
    /// # Errors
    /// It does not answer, or EC2 would not let them.
    pub fn sim_do(&self, deed: &Value) -> Result<Value> {
        let url = format!("{}/sim/do", self.ec2);
        let answer = run("curl", &["-s", "--max-time", "10", "-d", &deed.to_string(), &url])?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| format!("{deed}: {answer}"))?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{deed}: {error}");
        }
        Ok(answer)
    }

    /// Something goes wrong from now on, in the words of host/sim; empty: no longer.
    ///
    /// # Errors
    /// The simulated AWS does not answer, or does not understand.
    pub fn sim_fault(&self, line: &str) -> Result<()> {
        let url = format!("{}/sim/faults", self.ec2);
        let how = if line.is_empty() { vec!["-X", "DELETE"] } else { vec!["-d", line] };
        let arguments = [vec!["-s", "-f", "--max-time", "10"], how, vec![&url]].concat();
        run("curl", &arguments).map(drop)
    }
}
