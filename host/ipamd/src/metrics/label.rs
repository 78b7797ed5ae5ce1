//! Label values as closed sets (spec 02 §9.2, §9.3; W25).

use reservoir_net::repair;

/// One of a closed set of label values.
pub trait Label: Copy + 'static {
    const ALL: &'static [Self];

    fn text(self) -> &'static str;

    /// Position in [`Label::ALL`].
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// `reason` of DelNetwork; clients send any text.
    DelReason { PodDeleted = "PodDeleted", SetupNsFailed = "SetupNSFailed", Other = "other" }
}

impl DelReason {
    /// Of what the client sent.
    #[must_use]
    pub fn of(text: &str) -> Self {
        match text {
            "PodDeleted" => Self::PodDeleted,
            "SetupNSFailed" => Self::SetupNsFailed,
            _ => Self::Other,
        }
    }
}

label! {
    /// Where the daemon failed.
    IpamdError {
        WaitEniAttachedMaxRetryExceeded = "waitENIAttachedMaxRetryExceeded",
        DecreaseIpPoolFreeEniFailed = "decreaseIPPoolFreeENIFailed",
        FreeEniDeleteRulesFailed = "freeENIDeleteRulesFailed",
        DecreaseIpPool = "decreaseIPPool",
        IncreaseIpPoolAllocEni = "increaseIPPoolAllocENI",
        IncreaseIpPoolAllocIpAddressesFailed = "increaseIPPoolAllocIPAddressesFailed",
        IncreaseIpPoolWaitEniAttachedFailed = "increaseIPPoolwaitENIAttachedFailed",
        IncreaseIpPoolSetupEniFailed = "increaseIPPoolsetupENIFailed",
        IncreaseIpPoolGetEniAddressesFailed = "increaseIPPoolGetENIaddressesFailed",
        IncreaseIpPoolGetEniPrefixedFailed = "increaseIPPoolGetENIprefixedFailed",
        AddEniSecondaryIpsToDataStoreFailed = "addENIsecondaryIPsToDataStoreFailed",
        AddEniV4PrefixesToDataStoreFailed = "addENIv4prefixesToDataStoreFailed",
        AddEniV6PrefixesToDataStoreFailed = "addENIv6prefixesToDataStoreFailed",
        ReconcileFailedGetEnis = "reconcileFailedGetENIs",
        EniReconcileAdd = "eniReconcileAdd",
        EniReconcileDel = "eniReconcileDel",
        IpReconcileAdd = "ipReconcileAdd",
        IpReconcileDel = "ipReconcileDel",
        PrefixReconcileAdd = "prefixReconcileAdd",
    }
}

label! {
    /// Where node initialisation or security groups for pods failed.
    PodEniError { NodeInit = "nodeInit", TryEnableSecurityGroupsForPods = "tryEnableSecurityGroupsForPods" }
}

label! {
    /// What takes long.
    Action {
        NodeInit = "nodeInit",
        IncreasePool = "increaseDatastorePool",
        DecreasePool = "decreaseDatastorePool",
        Reconcile = "nodeIPPoolReconcile",
    }
}

label! {
    /// What reconciliation did to one item.
    Reconciled {
        EniAdded = "eniReconcileAdd",
        EniDeleted = "eniReconcileDel",
        IpDeleted = "eniIPPoolReconcileDel",
        /// An address or prefix was confirmed, new or not.
        IpConfirmed = "eniDataStorePoolReconcileAdd",
    }
}

label! {
    /// Which clean-up after a failure failed itself.
    UtilsError {
        AllocEniDelete = "AllocENIDeleteErr",
        EniCleanupUponModifyNetwork = "ENICleanupUponModifyNetworkErr",
        FreeEniDelete = "FreeENIDeleteErr",
        GetEniAttachmentId = "getENIAttachmentIDFailed",
        CleanUpLeakedEniDelete = "cleanUpLeakedENIDeleteErr",
    }
}

label! {
    /// Why the start failed.
    StartFailure { None = "", ApiServer = "api_server_connectivity", NodeInit = "node_initialization" }
}

label! {
    Backend { Nftables = "nftables", Iptables = "iptables" }
}

label! {
    /// How something ended that either works or does not.
    Outcome { Success = "success", Error = "error" }
}

impl<T, E> From<&Result<T, E>> for Outcome {
    fn from(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Success } else { Self::Error }
    }
}

label! {
    /// What of the host's network was put right.
    HostRepair {
        Rule = "rule",
        Route = "route",
        Link = "link",
        Address = "address",
        Setting = "setting",
        Firewall = "firewall",
    }
}

impl From<repair::Kind> for HostRepair {
    fn from(kind: repair::Kind) -> Self {
        match kind {
            repair::Kind::Rule => Self::Rule,
            repair::Kind::Route => Self::Route,
            repair::Kind::Link => Self::Link,
            repair::Kind::Address => Self::Address,
            repair::Kind::Setting => Self::Setting,
            repair::Kind::Firewall => Self::Firewall,
        }
    }
}

label! {
    /// Why the host's network was looked at.
    CheckCause { News = "news", Overrun = "overrun", Timer = "timer" }
}

label! {
    /// How a waiting ADD ended.
    Waited { Served = "served", TimedOut = "timeout", GaveUp = "no_address", CallerLeft = "caller_left" }
}
