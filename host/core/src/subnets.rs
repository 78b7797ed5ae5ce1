//! Which subnets new interfaces may be made in, and which attached interfaces are out of use: the rules on tags (spec 01
//! §6.2, §6.4). They are a safety boundary, so they are the host's and not a policy's.

use std::fmt;

use crate::policy::{Pairs, Standing};

/// Tag that takes a subnet into pod use (any value but `0`) or out of it (`0`).
pub const ROLE_TAG: &str = "kubernetes.io/role/cni";
/// Tags with this prefix name the clusters that a subnet is for.
pub const CLUSTER_TAG_PREFIX: &str = "cni.networking.k8s.aws/cluster/";

/// What the role tag of a subnet says (spec 01 §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// No tag, or one without a value.
    Unsaid,
    /// `0`
    Out,
    /// Anything else.
    In,
}

fn role(tags: &Pairs) -> Role {
    match tags.iter().find(|(key, _)| key == ROLE_TAG).map(|(_, value)| value.as_str()) {
        None | Some("") => Role::Unsaid,
        Some("0") => Role::Out,
        Some(_) => Role::In,
    }
}

/// Whether a subnet with these tags is for the cluster: it is if `cluster` is empty, if no cluster tag is on it, or if
/// this cluster's is, whatever its value and whatever others are.
#[must_use]
pub fn cluster_match(tags: &Pairs, cluster: &str) -> bool {
    let mut named = tags.iter().filter_map(|(key, _)| key.strip_prefix(CLUSTER_TAG_PREFIX)).peekable();
    cluster.is_empty() || named.peek().is_none() || named.any(|name| name == cluster)
}

/// Whether a new interface may be made in a subnet of the node's VPC and zone. `primary`: the node's own interface is in
/// it. With subnet `discovery` off only that one is eligible.
#[must_use]
pub fn standing(tags: &Pairs, primary: bool, cluster: &str, discovery: bool) -> Standing {
    let ours = cluster_match(tags, cluster);
    match role(tags) {
        Role::Out => Standing::Forbidden,
        Role::In if discovery && ours => Standing::Eligible,
        // Exclusion of the primary subnet holds without discovery too (spec 01 §6.3).
        Role::In if !ours => Standing::Forbidden,
        Role::In | Role::Unsaid if primary => Standing::Eligible,
        Role::Unsaid if !ours => Standing::Forbidden,
        Role::In | Role::Unsaid => Standing::Possible,
    }
}

/// Whether attached interfaces in a subnet with these tags are out of pod use (spec 01 §6.4). `None`: the subnet is not
/// in the list of the VPC and zone, such as one shared from elsewhere.
#[must_use]
pub fn excluded(tags: Option<&Pairs>, cluster: &str) -> bool {
    tags.is_some_and(|tags| match role(tags) {
        Role::Unsaid => false,
        Role::Out => true,
        Role::In => !cluster_match(tags, cluster),
    })
}

/// What of a subnet keeps new interfaces out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blame {
    /// Its role tag says no.
    TaggedOut,
    /// It is not the node's own, and has no role tag.
    NotTagged,
    /// Its cluster tags name others than this.
    OthersOnly(String),
    /// It is not the node's own, and no other is looked for.
    NoDiscovery,
    /// The node's pods have IPv6 addresses.
    NoIpv6Block,
}

impl Blame {
    /// Whether a role tag of 1 would make it eligible.
    #[must_use]
    pub fn is_role(&self) -> bool {
        matches!(self, Self::TaggedOut | Self::NotTagged)
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TaggedOut => write!(f, "{ROLE_TAG}=0"),
            Self::NotTagged => write!(f, "no tag {ROLE_TAG}"),
            Self::OthersOnly(cluster) => write!(f, "{CLUSTER_TAG_PREFIX}… names others than {cluster}"),
            Self::NoDiscovery => f.write_str("ENABLE_SUBNET_DISCOVERY is false"),
            Self::NoIpv6Block => f.write_str("it has no IPv6 block"),
        }
    }
}

/// The tag or setting that keeps new interfaces out of a subnet. None where nothing does.
#[must_use]
pub fn blame(tags: &Pairs, primary: bool, cluster: &str, discovery: bool) -> Option<Blame> {
    if standing(tags, primary, cluster, discovery) == Standing::Eligible {
        return None;
    }
    Some(match role(tags) {
        Role::Out => Blame::TaggedOut,
        Role::In | Role::Unsaid if !cluster_match(tags, cluster) => Blame::OthersOnly(cluster.to_owned()),
        Role::In | Role::Unsaid if !discovery => Blame::NoDiscovery,
        Role::In | Role::Unsaid => Blame::NotTagged,
    })
}

/// Why there is no subnet for a new interface: in the words of the reference (spec 01 §6.3), then what is to blame of each
/// subnet, as far as EC2 told of it, and what would help. `primary_excluded`: the node's own is tagged out; `listed`: EC2 told the subnets.
#[must_use]
pub fn none_eligible(discovery: bool, listed: bool, primary_excluded: bool, blamed: &[(&str, Blame)]) -> String {
    let words = match (discovery, listed, primary_excluded) {
        (false, _, true) => {
            "primary subnet is tagged with kubernetes.io/role/cni=0 and subnet discovery is disabled - no valid subnets \
             available for ENI creation"
        }
        (true, false, true) => {
            "primary subnet is tagged with kubernetes.io/role/cni=0 - no valid subnets available for ENI creation"
        }
        _ => {
            "no valid subnets available for ENI creation - all subnets are either not tagged or tagged with \
             kubernetes.io/role/cni=0"
        }
    };
    let each: Vec<String> = blamed.iter().map(|(subnet, why)| format!("{subnet}: {why}")).collect();
    let why = if each.is_empty() { words.to_owned() } else { format!("{words} ({})", each.join("; ")) };
    // Without discovery another subnet's tag helps nobody; nor does it where another tag is to blame.
    if discovery && (blamed.is_empty() || blamed.iter().any(|(_, blame)| blame.is_role())) {
        return format!("{why}; give a subnet of this zone the tag {ROLE_TAG}=1");
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Pairs {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn standing_by_role_and_cluster() {
        use Standing::{Eligible, Forbidden, Possible};
        const OURS: (&str, &str) = ("cni.networking.k8s.aws/cluster/a", "shared");
        const THEIRS: (&str, &str) = ("cni.networking.k8s.aws/cluster/b", "shared");
        // tags, standing as the primary subnet, as another one
        type Case = (&'static [(&'static str, &'static str)], Standing, Standing);
        let cases: &[Case] = &[
            (&[], Eligible, Possible),
            (&[(ROLE_TAG, "")], Eligible, Possible),
            (&[(ROLE_TAG, "0")], Forbidden, Forbidden),
            (&[(ROLE_TAG, "0"), OURS], Forbidden, Forbidden),
            (&[(ROLE_TAG, "1")], Eligible, Eligible),
            (&[(ROLE_TAG, "true"), OURS], Eligible, Eligible),
            (&[(ROLE_TAG, "1"), OURS, THEIRS], Eligible, Eligible),
            (&[(ROLE_TAG, "1"), THEIRS], Forbidden, Forbidden),
            (&[OURS], Eligible, Possible),
            (&[THEIRS], Eligible, Forbidden),
            (&[OURS, THEIRS], Eligible, Possible),
        ];
        for (pairs, as_primary, as_other) in cases {
            let tags = tags(pairs);
            assert_eq!(standing(&tags, true, "a", true), *as_primary, "primary {pairs:?}");
            assert_eq!(standing(&tags, false, "a", true), *as_other, "other {pairs:?}");
            assert_eq!(standing(&tags, true, "a", false), *as_primary, "primary without discovery {pairs:?}");
            assert_ne!(standing(&tags, false, "a", false), Eligible, "other without discovery {pairs:?}");
        }
        assert_eq!(standing(&tags(&[(ROLE_TAG, "1"), THEIRS]), false, "", true), Eligible, "no cluster name");
    }

    #[test]
    fn the_tag_that_keeps_interfaces_out_is_named() {
        const IN: (&str, &str) = (ROLE_TAG, "1");
        const THEIRS: (&str, &str) = ("cni.networking.k8s.aws/cluster/b", "shared");
        let blame = |pairs, primary, discovery| blame(&tags(pairs), primary, "a", discovery);
        let why = |pairs, primary, discovery| blame(pairs, primary, discovery).map(|b| b.to_string());
        assert_eq!(why(&[IN], false, true), None);
        assert_eq!(why(&[(ROLE_TAG, "0")], true, true).unwrap(), "kubernetes.io/role/cni=0");
        assert_eq!(why(&[], false, true).unwrap(), "no tag kubernetes.io/role/cni");
        for pairs in [&[IN][..], &[]] {
            assert_eq!(why(pairs, false, false).unwrap(), "ENABLE_SUBNET_DISCOVERY is false");
        }
        assert_eq!(blame(&[THEIRS], false, true), blame(&[IN, THEIRS], true, true), "a role tag would not help");
        let others = blame(&[IN, THEIRS], true, true).unwrap();
        assert_eq!(others.to_string(), "cni.networking.k8s.aws/cluster/… names others than a");
        let said = none_eligible(true, true, true, &[("subnet-1", others)]);
        assert!(said.ends_with("cni=0 (subnet-1: cni.networking.k8s.aws/cluster/… names others than a)"), "{said}");
        let said = none_eligible(true, true, true, &[("subnet-1", Blame::TaggedOut)]);
        assert!(said.ends_with("; give a subnet of this zone the tag kubernetes.io/role/cni=1"), "{said}");
    }

    #[test]
    fn excluded_by_role_and_cluster() {
        const THEIRS: (&str, &str) = ("cni.networking.k8s.aws/cluster/b", "x");
        assert!(!excluded(None, "a"));
        assert!(!excluded(Some(&tags(&[THEIRS])), "a"), "the role tag decides whether cluster tags are looked at");
        assert!(excluded(Some(&tags(&[(ROLE_TAG, "0")])), "a"));
        assert!(excluded(Some(&tags(&[(ROLE_TAG, "1"), THEIRS])), "a"));
        assert!(!excluded(Some(&tags(&[(ROLE_TAG, "1"), THEIRS])), ""));
    }
}
