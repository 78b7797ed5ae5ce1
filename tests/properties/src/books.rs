//! The calls that EC2 got, held to what the host promises of them whatever a policy says (spec 01 §12.2).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use reservoir_core::ip::IpNet;
use reservoir_sim::Sim;
use reservoir_sim::model::journal::Record;
use reservoir_sim::model::ops::Op;

/// Between two runs of giving back (I11).
const TRIM_GAP: f64 = 30.0;
/// For so long an interface is kept (I2).
const LEAST_AGE: f64 = 60.0;

/// Which addresses pods have had, as seen from outside.
#[derive(Debug, Default)]
pub struct Seen {
    /// By instance and address: the pod that had it last, and when it was last seen with it.
    last: BTreeMap<(String, IpAddr), (String, Duration)>,
    /// By instance and pod.
    has: BTreeMap<(String, String), String>,
}

impl Seen {
    /// Pods of an instance and their addresses, now.
    ///
    /// # Errors
    /// A pod whose address has changed, or one that got an address which still cools (with `cooldown`).
    pub fn look<'a>(
        &mut self,
        now: Duration,
        instance: &str,
        pods: impl Iterator<Item = (&'a str, &'a str)>,
        cooldown: Option<Duration>,
    ) -> Result<(), String> {
        for (pod, addresses) in pods {
            let key = (instance.to_owned(), pod.to_owned());
            let before = self.has.entry(key).or_insert_with(|| addresses.to_owned());
            if before != addresses {
                return Err(format!("{now:?}: {pod} of {instance} had {before} and has {addresses}"));
            }
            for address in addresses.split(' ').filter_map(|a| a.parse::<IpAddr>().ok()) {
                let place = self.last.entry((instance.to_owned(), address)).or_insert_with(|| (pod.to_owned(), now));
                if place.0 != pod && cooldown.is_some_and(|cooldown| place.1 + cooldown >= now) {
                    return Err(format!("I4: {now:?}: {pod} has {address}, which {} had at {:?}", place.0, place.1));
                }
                *place = (pod.to_owned(), now);
            }
        }
        Ok(())
    }

    /// When a pod of the instance was last seen with an address of the block, before `at`.
    fn last_in(&self, instance: &str, block: IpNet, at: Duration) -> Option<Duration> {
        let held = self.last.iter().filter(|((i, ip), _)| i == instance && block.contains(*ip));
        held.map(|(_, (_, seen))| *seen).filter(|seen| *seen <= at).max()
    }
}

/// Calls since `from`: none gives back an address that a pod has or that cools (I3, I4).
///
/// # Errors
/// The first that does.
pub fn none_gives_back_what_cools(sim: &Sim, seen: &Seen, from: u64, cooldown: Duration) -> Result<u64, String> {
    let mut last = from;
    for record in sim.journal().records().skip_while(|r| r.number <= from) {
        last = record.number;
        let Op::UnassignPrivateIpAddresses { addresses, prefixes, .. } = &record.op else { continue };
        let at = Duration::from_secs_f64(record.at_seconds);
        let singles = addresses.iter().map(|a| IpNet::new(IpAddr::V4(*a), 32));
        for block in singles.chain(prefixes.iter().map(|p| IpNet::from(*p))) {
            if let Some(used) = seen.last_in(&record.instance, block, at).filter(|used| *used + cooldown > at) {
                return Err(format!("I4: {at:?}: {block} is given back, a pod had it at {used:?}"));
            }
        }
    }
    Ok(last)
}

/// What holds where nothing goes wrong by itself: EC2 never has to refuse for a limit (I5, I6), an interface stays for a
/// minute (I2), giving back happens in runs (I11), and no call is one that can have no effect.
///
/// # Errors
/// The first call that breaks one.
pub fn fair_calls_are_right(sim: &Sim) -> Result<(), String> {
    let mut attached: HashMap<&str, f64> = HashMap::new();
    let mut trims: HashMap<&str, f64> = HashMap::new();
    for record in sim.journal().records() {
        let Record { at_seconds: at, instance, op, outcome, .. } = record;
        let limit = ["PrivateIpAddressLimitExceeded", "AttachmentLimitExceeded", "NetworkInterfaceLimitExceeded"];
        if limit.contains(&outcome.as_str()) {
            return Err(format!("I5, I6: {at} s: {} of {instance}: {outcome}", op.api()));
        }
        match op {
            Op::AttachNetworkInterface { eni, .. } => {
                attached.insert(eni, *at);
            }
            Op::DeleteNetworkInterface { eni } => {
                if let Some(since) = attached.get(eni.as_str()).filter(|since| at - **since < LEAST_AGE) {
                    return Err(format!("I2: {at} s: {eni} is deleted, attached at {since} s"));
                }
            }
            Op::UnassignPrivateIpAddresses { .. } => {
                if let Some(before) = trims.insert(instance, *at)
                    && before < *at
                    && at - before < TRIM_GAP
                {
                    return Err(format!("I11: {instance} gives back at {before} s and {at} s"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
