//! What is counted of the pool, under the reference's names (spec 01 §3.9, spec 02 §9.2, §9.3), and what is under way.

use std::fmt;
use std::time::Duration;

use super::Manager;
use super::jobs::Job;

/// One thing that happened and is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Counter {
    /// An ADD found nothing free.
    NoAddress,
    /// An action of a plan that the host dropped.
    PlanActionDropped,
    /// A new interface could not be made or attached.
    AllocEniFailed,
    /// More addresses or prefixes could not be had.
    AllocAddressesFailed,
    /// A new interface did not show in time.
    WaitEniFailed,
    /// A new interface showed and could not be programmed.
    SetUpEniFailed,
    /// EC2 said that an interface is full, and its addresses could not be read.
    GetEniAddressesFailed,
    /// The same of its prefixes.
    GetEniPrefixesFailed,
    /// An address that EC2 gave could not be taken into the store.
    AddAddressFailed,
    AddPrefixFailed,
    AddIpv6PrefixFailed,
    /// What was to be given back is a pod's, or has gone meanwhile.
    ReleaseFailed,
    /// An interface that was to go is attached still.
    FreeEniFailed,
    /// Rules of an interface that is gone stay.
    DeleteRulesFailed,
    /// A clean-up failed; with EC2's error code.
    CleanUpFailed(CleanUp, String),
    /// What is attached could not be listed, by IMDS or by EC2.
    ListingFailed,
    /// An attached interface could not be tagged or taken in.
    ReconcileEniAddFailed,
    /// It was tried as often as it is tried in a row: the node goes on without it.
    AdoptionGivenUp,
    /// An interface that is not listed any more stays: pods have its addresses.
    ReconcileEniDelFailed,
    /// A listed address could not be taken into the store: it is another interface's there.
    ReconcileAddressAddFailed,
    ReconcilePrefixAddFailed,
    /// An address or prefix that is not listed any more stays: pods have it.
    ReconcileAddressDelFailed,
    /// The wish for a trunk could not be put into the CNINode.
    TrunkWishFailed,
    /// Another thing that a node begins with could not be done.
    NodeInitFailed,
    /// A new interface can be used, or cannot, so long after EC2 had attached it.
    EniAwaited {
        took: Duration,
        usable: bool,
    },
}

/// What was to be cleaned up (spec 03 §7.1, §7.6, §7.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CleanUp {
    /// An interface that was made and cannot be used.
    NewEni,
    /// An interface that is not needed any more, detached.
    Eni,
    /// Its attachment could not be found out.
    Attachment,
    /// An interface that was made and never attached.
    LeftOver,
}

impl Counter {
    /// One of each, for tests of what they lead to.
    #[must_use]
    pub fn each() -> Vec<Self> {
        let code = || "InternalError".to_owned();
        vec![
            Self::NoAddress,
            Self::PlanActionDropped,
            Self::AllocEniFailed,
            Self::AllocAddressesFailed,
            Self::WaitEniFailed,
            Self::SetUpEniFailed,
            Self::GetEniAddressesFailed,
            Self::GetEniPrefixesFailed,
            Self::AddAddressFailed,
            Self::AddPrefixFailed,
            Self::AddIpv6PrefixFailed,
            Self::ReleaseFailed,
            Self::FreeEniFailed,
            Self::DeleteRulesFailed,
            Self::CleanUpFailed(CleanUp::NewEni, code()),
            Self::CleanUpFailed(CleanUp::Eni, code()),
            Self::CleanUpFailed(CleanUp::Attachment, code()),
            Self::CleanUpFailed(CleanUp::LeftOver, code()),
            Self::ListingFailed,
            Self::ReconcileEniAddFailed,
            Self::AdoptionGivenUp,
            Self::ReconcileEniDelFailed,
            Self::ReconcileAddressAddFailed,
            Self::ReconcilePrefixAddFailed,
            Self::ReconcileAddressDelFailed,
            Self::TrunkWishFailed,
            Self::NodeInitFailed,
            Self::EniAwaited { took: Duration::from_secs(1), usable: true },
        ]
    }
}

/// Why an interface cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    /// The kernel does not show it.
    Unseen(String),
    /// It could not be programmed.
    Failed(String),
}

impl From<String> for NotReady {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unseen(why) | Self::Failed(why)) = self;
        f.write_str(why)
    }
}

/// What the pool is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    pub increasing: bool,
    pub decreasing: bool,
    pub reconciling: bool,
}

impl Manager {
    /// What is under way at this moment.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let mut activity = Activity::default();
        for job in self.jobs.values() {
            match job {
                Job::Assign(_) | Job::Create(_) | Job::Prefix(_) => activity.increasing = true,
                Job::Release(_) | Job::Remove(_) => activity.decreasing = true,
                Job::Verify(_) | Job::Look | Job::Adopt(_) => activity.reconciling = true,
                Job::Subnets | Job::Groups(_) | Job::Abandoned(_) | Job::Minor { .. } => {}
            }
        }
        activity
    }
}
