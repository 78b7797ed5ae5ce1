//! The VPC's address blocks while the daemon runs (spec 04 §12.1): they decide which destinations are source-NATed, and
//! plugins are told of them.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Result, anyhow};
use reservoir_cloud::Cloud;
use reservoir_core::cloud::{Answer, Request};
use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::policy::Family;
use reservoir_net::iptables::refresh::{Reason, Refresh};

use crate::clock::Clock;
use crate::network::HostNetwork;

/// Between reads. The reference reads every 30 s; a block is added to a VPC by hand and rarely, and a settled node is to
/// make no more than two IMDS reads a minute in all, so it is every minute here.
const PERIOD: Duration = Duration::from_secs(60);

/// The blocks of the pods' family, as they are applied.
#[derive(Debug)]
pub struct Vpc {
    mac: String,
    family: Family,
    blocks: Mutex<Arc<Vec<IpNet>>>,
    /// What the rules were made of, and when.
    rules: Mutex<Refresh>,
}

impl Vpc {
    /// Reads them for the first time. `mac` is the primary interface's.
    ///
    /// # Errors
    /// IMDS does not tell.
    pub async fn read(cloud: &dyn Cloud, mac: &str, family: Family) -> Result<Self> {
        let blocks = Mutex::new(Arc::new(ask(cloud, mac, family).await?));
        Ok(Self { mac: mac.to_owned(), family, blocks, rules: Mutex::default() })
    }

    /// The host was set up with them at `now`, a time of any monotonic clock.
    pub fn applied(&self, now: Duration) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).applied(&self.ipv4(), now);
    }

    #[must_use]
    pub fn blocks(&self) -> Arc<Vec<IpNet>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those of IPv4.
    #[must_use]
    pub fn ipv4(&self) -> Vec<Ipv4Net> {
        self.blocks().iter().filter_map(|b| b.as_ipv4()).collect()
    }

    /// Reads again, and has the rules made of what was read where it has changed, or where it is time to look whether
    /// they are still there. What was before stays where the read or the change fails, and is tried again (DW-24).
    ///
    /// # Errors
    /// The read or the change.
    pub async fn refresh(&self, now: Duration, cloud: &dyn Cloud, network: &Arc<dyn HostNetwork>) -> Result<()> {
        let found = ask(cloud, &self.mac, self.family).await?;
        // IPv6 traffic is not source-NATed: the rules know no block of it.
        if self.family == Family::Ipv4 {
            let vpc: Vec<Ipv4Net> = found.iter().filter_map(|b| b.as_ipv4()).collect();
            let due = self.rules.lock().unwrap_or_else(PoisonError::into_inner).due(&vpc, now);
            let Some(reason) = due else { return Ok(()) };
            if reason == Reason::Changed {
                let blocks: Vec<_> = vpc.iter().map(ToString::to_string).collect();
                tracing::info!(?blocks, "the VPC's address blocks have changed");
            }
            let (network, list) = (network.clone(), vpc.clone());
            tokio::task::spawn_blocking(move || network.set_vpc_blocks(&list)).await?.map_err(|e| anyhow!("{e}"))?;
            self.rules.lock().unwrap_or_else(PoisonError::into_inner).applied(&vpc, now);
        }
        *self.blocks.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        Ok(())
    }

    /// Refreshes as long as somebody wants them.
    pub async fn keep(vpc: Weak<Self>, clock: Clock, cloud: Arc<dyn Cloud>, network: Arc<dyn HostNetwork>) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let Some(vpc) = vpc.upgrade() else { return };
            if let Err(error) = vpc.refresh(clock.now().mono, &*cloud, &network).await {
                tracing::warn!("the VPC's address blocks stay as they were: {error:#}");
            }
        }
    }
}

async fn ask(cloud: &dyn Cloud, mac: &str, family: Family) -> Result<Vec<IpNet>> {
    match cloud.call(Request::VpcCidrs { mac: mac.to_owned(), family }).await? {
        Answer::VpcCidrs(blocks) => Ok(blocks),
        _ => Err(anyhow!("IMDS: the VPC's address blocks were answered with something else")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use reservoir_cloud::BoxFuture;
    use reservoir_core::cloud::{CloudError, ErrorKind};

    use super::*;
    use crate::testing::Recorded;

    /// Answers with one list after another; none is a failure.
    struct Imds(Mutex<VecDeque<Option<&'static str>>>);

    impl Cloud for Imds {
        fn call(&self, request: Request) -> BoxFuture<'_, Result<Answer, CloudError>> {
            let next = self.0.lock().unwrap().pop_front().unwrap();
            let nets = |list: &str| list.split(' ').map(|n| n.parse().unwrap()).collect();
            let answer = next.map(|list| Answer::VpcCidrs(nets(list))).ok_or(CloudError {
                api: request.api(),
                kind: ErrorKind::Unknown,
                code: String::new(),
                message: "away".to_owned(),
            });
            Box::pin(async move { answer })
        }
    }

    #[tokio::test]
    async fn a_new_block_is_applied_once_and_a_failure_is_tried_again() {
        let imds = Imds(Mutex::new(
            [
                Some("10.0.0.0/16"),
                Some("10.0.0.0/16"),
                None,
                Some("10.0.0.0/16 10.1.0.0/16"),
                Some("10.1.0.0/16 10.0.0.0/16"),
                Some("10.0.0.0/16 10.1.0.0/16"),
                Some("10.1.0.0/16 10.0.0.0/16"),
            ]
            .into(),
        ));
        let recorded = Arc::new(Recorded::default());
        let network: Arc<dyn HostNetwork> = recorded.clone();
        let at = Duration::from_secs;
        let vpc = Vpc::read(&imds, "02:00", Family::Ipv4).await.unwrap();
        vpc.applied(at(0));
        vpc.refresh(at(60), &imds, &network).await.unwrap();
        vpc.refresh(at(120), &imds, &network).await.unwrap_err();
        assert_eq!((vpc.blocks().len(), recorded.taken()), (1, vec![]));
        recorded.fail("iptables is away");
        vpc.refresh(at(180), &imds, &network).await.unwrap_err();
        assert_eq!((vpc.blocks().len(), recorded.taken()), (1, vec![]));
        vpc.refresh(at(240), &imds, &network).await.unwrap();
        assert_eq!((vpc.ipv4().len(), recorded.taken()), (2, vec!["vpc 10.1.0.0/16 10.0.0.0/16".to_owned()]));
        vpc.refresh(at(300), &imds, &network).await.unwrap();
        assert_eq!(recorded.taken(), Vec::<String>::new(), "the same is not written again");
        vpc.refresh(at(600), &imds, &network).await.unwrap();
        assert_eq!(recorded.taken(), ["vpc 10.1.0.0/16 10.0.0.0/16"], "but looked at now and then");
    }
}
