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
