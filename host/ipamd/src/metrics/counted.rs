//! What the pool manager counts, under the reference's names (spec 01 §3.9, spec 02 §9.2, §9.3).

use reservoir_core::cloud::ATTACHED_LATENCY;
use reservoir_core::manager::{Activity, CleanUp, Counter};

use super::{Action, IpamdError, Label as _, Metrics, PodEniError, UtilsError, family};

impl Metrics {
    /// Counts one thing that happened to the pool.
    pub fn count(&self, counter: &Counter) {
        self.error(match counter {
            Counter::NoAddress => return self.no_available_address(),
            // Counted by invariant (`reservoir_policy_refused_actions_total`).
            Counter::PlanActionDropped => return,
            Counter::TrunkWishFailed => return self.pod_eni_error(PodEniError::TryEnableSecurityGroupsForPods),
            Counter::NodeInitFailed => return self.pod_eni_error(PodEniError::NodeInit),
            Counter::CleanUpFailed(what, code) => {
                let place = match what {
                    CleanUp::NewEni => UtilsError::AllocEniDelete,
                    CleanUp::Eni => UtilsError::FreeEniDelete,
                    CleanUp::Attachment => UtilsError::GetEniAttachmentId,
                    CleanUp::LeftOver => UtilsError::CleanUpLeakedEniDelete,
                };
                return self.utils_error(place, code);
            }
            Counter::EniAwaited { took, usable } => {
                let values = if *usable { [ATTACHED_LATENCY, "false", "200"] } else { [ATTACHED_LATENCY, "true", ""] };
                // Whole milliseconds, as of every call.
                return self
                    .0
                    .recorder
                    .histogram(&family::API_LATENCY, &values)
                    .record((took.as_secs_f64() * 1000.0).floor());
            }
            Counter::AllocEniFailed => IpamdError::IncreaseIpPoolAllocEni,
            Counter::AllocAddressesFailed => IpamdError::IncreaseIpPoolAllocIpAddressesFailed,
            Counter::WaitEniFailed => IpamdError::IncreaseIpPoolWaitEniAttachedFailed,
            Counter::SetUpEniFailed => IpamdError::IncreaseIpPoolSetupEniFailed,
            Counter::GetEniAddressesFailed => IpamdError::IncreaseIpPoolGetEniAddressesFailed,
            Counter::GetEniPrefixesFailed => IpamdError::IncreaseIpPoolGetEniPrefixedFailed,
            Counter::AddAddressFailed => IpamdError::AddEniSecondaryIpsToDataStoreFailed,
            Counter::AddPrefixFailed => IpamdError::AddEniV4PrefixesToDataStoreFailed,
            Counter::AddIpv6PrefixFailed => IpamdError::AddEniV6PrefixesToDataStoreFailed,
            Counter::ReleaseFailed => IpamdError::DecreaseIpPool,
            Counter::FreeEniFailed => IpamdError::DecreaseIpPoolFreeEniFailed,
            Counter::DeleteRulesFailed => IpamdError::FreeEniDeleteRulesFailed,
            Counter::ListingFailed => IpamdError::ReconcileFailedGetEnis,
            Counter::ReconcileEniAddFailed => IpamdError::EniReconcileAdd,
            Counter::AdoptionGivenUp => IpamdError::WaitEniAttachedMaxRetryExceeded,
            Counter::ReconcileEniDelFailed => IpamdError::EniReconcileDel,
            Counter::ReconcileAddressAddFailed => IpamdError::IpReconcileAdd,
            Counter::ReconcilePrefixAddFailed => IpamdError::PrefixReconcileAdd,
            Counter::ReconcileAddressDelFailed => IpamdError::IpReconcileDel,
        });
    }

    /// Shows what the pool is at, as of a scrape.
    pub(super) fn show(&self, activity: Activity) {
        for (action, on) in [
            (Action::IncreasePool, activity.increasing),
            (Action::DecreasePool, activity.decreasing),
            (Action::Reconcile, activity.reconciling),
        ] {
            self.0.recorder.gauge(&family::ACTIONS, &[action.text()]).set(f64::from(u8::from(on)));
        }
    }
}

#[cfg(test)]
mod tests {
    use reservoir_core::manager::Command;
    use tokio::sync::mpsc::unbounded_channel;

    use crate::testing::{TestPool, spec};

    #[tokio::test(flavor = "multi_thread")]
    async fn rules_that_stay_behind_an_interface_are_counted() {
        let test = TestPool::new(&[0]);
        let (sender, commands) = unbounded_channel();
        let driver = tokio::spawn(test.pool.clone().run(commands));
        let count = || {
            let page = test.pool.metrics().render();
            let series = "awscni_ipamd_error_count{fn=\"freeENIDeleteRulesFailed\"} ";
            page.lines().find_map(|line| line.strip_prefix(series)?.parse().ok()).unwrap_or(0)
        };
        let gone = |eni| Command::TearDownEni { eni };
        let left = |eni| Command::LeaveEni { eni };
        for (command, failures) in [(gone(spec("eni-1")), 1), (left(spec("eni-2")), 2)] {
            test.network.fail("netlink is busy");
            sender.send(command).unwrap();
            while count() < failures {
                tokio::task::yield_now().await;
            }
        }
        // What works is not counted.
        sender.send(gone(spec("eni-3"))).unwrap();
        while !test.network.taken().contains(&"gone eni-3".to_owned()) {
            tokio::task::yield_now().await;
        }
        assert_eq!(count(), 2);
        driver.abort();
    }
}
