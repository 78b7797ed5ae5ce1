//! Whether the node may be called ready (spec 01 §2.5). The reference's daemon does not start where the first growth fails,
//! and is started again and again; this one serves from the first moment and is not called ready.

use super::Manager;
use crate::policy::Family;
use crate::store::Time;

impl Manager {
    /// Whether pods may be sent here. Once it is so it stays so: what happens later is told to the pods that it meets.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn readiness(&self) -> Result<(), String> {
        if self.ready { Ok(()) } else { self.lacking().map_or(Ok(()), Err) }
    }

    pub(super) fn notice_readiness(&mut self) {
        self.ready = self.ready || self.lacking().is_none();
    }

    fn lacking(&self) -> Option<String> {
        // What is there already, or was when the last run ended, suffices in every mode.
        let enis = self.cards.iter().flat_map(|c| c.store.enis().map(move |(e, _)| (c, &e.id)));
        let mut blocks = enis.flat_map(|(c, id)| c.store.cidrs(id, Time::ZERO));
        if blocks.any(|block| block.serving || block.assigned > 0) {
            return None;
        }
        let last = self.growth.last.as_ref();
        let why = last.map_or_else(String::new, |error| format!(": {error}"));
        if self.settings.family == Family::Ipv6 {
            return Some(format!("no interface has an IPv6 prefix yet{why}"));
        }
        if !self.settings.provisioning {
            return None;
        }
        if self.settings.custom_networking {
            return Some(format!("no interface was made where the ENIConfig says yet{why}"));
        }
        if self.cordoned() {
            return None;
        }
        // No interface, or no address in the subnet: the pods are told, and the node is no worse for others.
        if last.is_some_and(|error| error.api == "AssignPrivateIpAddresses") {
            return Some(format!("the first addresses could not be had{why}"));
        }
        (!self.decided || self.growing() > 0 || (self.settings.ec2 && !self.listed))
            .then(|| "the first addresses are on their way".to_owned())
    }
}
