//! Where IMDS or describe does not follow the truth at all, until told to (spec 03 §16.3: "stuck for ever", "describe-all
//! inconsistent with IMDS in either direction").

use std::collections::BTreeMap;

use serde::Deserialize;

use super::aws::Eni;
use super::imds::MetadataInterface;
use super::refusal::Refusal;
use super::schedule::show;
use super::sim::Sim;

/// What does not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skew {
    /// IMDS goes on to show the interface as it does now, also once it is detached or deleted.
    ImdsStuck,
    /// IMDS does not show it.
    ImdsHidden,
    /// `DescribeNetworkInterfaces` goes on to show it as it does now, also once it is deleted.
    DescribeStuck,
    /// `DescribeNetworkInterfaces` does not know it.
    DescribeHidden,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Skews {
    /// Interface → its MAC and instance, as far as IMDS is concerned.
    metadata: BTreeMap<String, (String, String)>,
    described: BTreeMap<String, Option<Eni>>,
}

impl Skews {
    pub fn described(&self) -> &BTreeMap<String, Option<Eni>> {
        &self.described
    }

    pub fn holds_metadata(&self, eni: &str) -> bool {
        self.metadata.contains_key(eni)
    }

    pub fn stick_metadata(&mut self, eni: &Eni) {
        if let Some(attachment) = &eni.attachment {
            self.metadata.insert(eni.id.clone(), (eni.mac.clone(), attachment.instance.clone()));
        }
    }
}

impl Sim {
    /// From now on one source does not follow the truth about one interface.
    ///
    /// # Errors
    /// No such interface, or for IMDS: not attached.
    pub fn skew(&mut self, eni: &str, skew: Skew) -> Result<(), Refusal> {
        let known = self.aws.enis.get(eni).ok_or_else(|| Refusal::no_interface(eni))?;
        match skew {
            Skew::ImdsStuck | Skew::ImdsHidden => {
                let attachment = known.attachment.as_ref();
                let message = || Refusal::invalid(format!("Network interface '{eni}' is not attached"));
                let instance = attachment.ok_or_else(message)?.instance.clone();
                if skew == Skew::ImdsHidden {
                    show(self.metadata.get_mut(&instance), known.mac.clone(), None);
                }
                self.skews.stick_metadata(known);
            }
            Skew::DescribeStuck => {
                let shown = match self.skews.described.get(eni) {
                    Some(shown) => shown.clone(),
                    None if self.delays.describe_lag.is_zero() => Some(known.clone()),
                    None => self.described.get(eni).cloned(),
                };
                self.skews.described.insert(eni.to_owned(), shown);
            }
            Skew::DescribeHidden => {
                self.skews.described.insert(eni.to_owned(), None);
            }
        }
        Ok(())
    }

    /// Both sources show the interface as it is, and follow it again.
    pub fn unskew(&mut self, eni: &str) {
        self.skews.described.remove(eni);
        if let Some((mac, instance)) = self.skews.metadata.remove(eni) {
            let truth = self.aws.enis.get(eni).and_then(|e| MetadataInterface::of(e, &self.aws));
            show(self.metadata.get_mut(&instance), mac, truth);
        }
    }
}
