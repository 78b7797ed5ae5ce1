//! Label values as closed sets (spec 02 §9.2, §9.3; W25).

use reservoir_net::repair;

/// One of a closed set of label values.
pub trait Label: Copy + 'static {
    const ALL: &'static [Self];

    fn text(self) -> &'static str;

    /// Position in [`Label::ALL`].
    fn index(self) -> usize;

    /// When it moves, for `docs/metrics.md`; begins with [`NEVER`] where it never does. Empty where the value says it.
    fn about(self) -> &'static str;
}

/// How the reason begins for a value that is the reference's and cannot happen here.
pub const NEVER: &str = "Never here";

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal $(: $about:literal)?),* $(,)? }) => {
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

            fn about(self) -> &'static str {
                match self { $(Self::$variant => concat!("" $(, $about)?)),* }
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
        WaitEniAttachedMaxRetryExceeded = "waitENIAttachedMaxRetryExceeded": "an attached interface could not be taken in six times in a row: the node goes on without it until the next look",
        DecreaseIpPoolFreeEniFailed = "decreaseIPPoolFreeENIFailed": "an interface that was to go could not be detached and is attached still",
        FreeEniDeleteRulesFailed = "freeENIDeleteRulesFailed": "rules of an interface that is gone, or another's now, could not be removed from the host",
        DecreaseIpPool = "decreaseIPPool": "an address or prefix that was to be given back had gone to a pod meanwhile, or was gone",
        IncreaseIpPoolAllocEni = "increaseIPPoolAllocENI": "a new interface could not be made or attached: EC2 refuses, or no subnet may have it",
        IncreaseIpPoolAllocIpAddressesFailed = "increaseIPPoolAllocIPAddressesFailed": "EC2 gave no more addresses or prefixes, IPv6 ones too; a subnet without any is counted here as well",
        IncreaseIpPoolWaitEniAttachedFailed = "increaseIPPoolwaitENIAttachedFailed": "a new interface is attached and did not show, to the kernel within a minute or to IMDS",
        IncreaseIpPoolSetupEniFailed = "increaseIPPoolsetupENIFailed": "a new interface showed and could not be programmed",
        IncreaseIpPoolGetEniAddressesFailed = "increaseIPPoolGetENIaddressesFailed": "EC2 says that an interface is full and could not tell its addresses",
        IncreaseIpPoolGetEniPrefixedFailed = "increaseIPPoolGetENIprefixedFailed": "the same of its prefixes",
        AddEniSecondaryIpsToDataStoreFailed = "addENIsecondaryIPsToDataStoreFailed": "an address that EC2 gave could not be used: its interface is gone, or another one has it",
        AddEniV4PrefixesToDataStoreFailed = "addENIv4prefixesToDataStoreFailed": "the same of an IPv4 prefix",
        AddEniV6PrefixesToDataStoreFailed = "addENIv6prefixesToDataStoreFailed": "the same of an IPv6 prefix",
        ReconcileFailedGetEnis = "reconcileFailedGetENIs": "what is attached could not be listed, by IMDS or by EC2, or the list lacked the node's own interface",
        EniReconcileAdd = "eniReconcileAdd": "an attached interface could not be tagged or taken in",
        EniReconcileDel = "eniReconcileDel": "an interface that is not listed any more stays for now: pods have its addresses",
        IpReconcileAdd = "ipReconcileAdd": "an address that EC2 lists on an interface is still another one's in the pool",
        IpReconcileDel = "ipReconcileDel": "an address or prefix that is not listed any more stays for now: a pod has it",
        PrefixReconcileAdd = "prefixReconcileAdd": "a prefix that EC2 lists on an interface is still another one's in the pool",
    }
}

label! {
    /// Where node initialisation or security groups for pods failed.
    PodEniError { NodeInit = "nodeInit": "the daemon could not start, the Node could not be read at the start, or CustomNetworking could not be written into the CNINode", TryEnableSecurityGroupsForPods = "tryEnableSecurityGroupsForPods": "the wish for a trunk could not be written into the CNINode" }
}

label! {
    /// What takes long.
    Action {
        NodeInit = "nodeInit": "the daemon is starting",
        IncreasePool = "increaseDatastorePool": "addresses or interfaces are being asked for",
        DecreasePool = "decreaseDatastorePool": "addresses or interfaces are being given back",
        Reconcile = "nodeIPPoolReconcile": "what is attached is being listed or taken in",
    }
}

label! {
    /// What reconciliation did to one item.
    Reconciled {
        EniAdded = "eniReconcileAdd": "an interface that others attached, or a failure left, was found",
        EniDeleted = "eniReconcileDel": "an interface that is not listed any more left the pool",
        IpDeleted = "eniIPPoolReconcileDel": "an address or prefix that is not listed any more left the pool",
        IpConfirmed = "eniDataStorePoolReconcileAdd": "an address or prefix was confirmed, new or not",
    }
}

label! {
    /// Which clean-up after a failure failed itself.
    UtilsError {
        AllocEniDelete = "AllocENIDeleteErr": "an interface that was made and could not be used could not be removed again",
        EniCleanupUponModifyNetwork = "ENICleanupUponModifyNetworkErr": "Never here: an interface whose delete-on-termination could not be set is used, and set right later, not removed",
        FreeEniDelete = "FreeENIDeleteErr": "a detached interface could not be deleted",
        GetEniAttachmentId = "getENIAttachmentIDFailed": "EC2 could not tell the attachment of an interface that was to go",
        CleanUpLeakedEniDelete = "cleanUpLeakedENIDeleteErr": "an interface that was made and never attached could not be deleted",
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
